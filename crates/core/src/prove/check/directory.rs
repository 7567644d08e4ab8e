//! The checks of an archive that is a directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::ownership::ownership;
use super::{Check, Options, Status, denied, failed, identity, made, mode, names, unarchived};
use crate::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use crate::error::{Action, Activity, Error, ErrorKind};
use crate::server::known::KnownDestinations;
use crate::store::directory::lacks_unnamed_files;
use crate::store::directory::temporary::{self, Owner};
use crate::store::{FinalName, PROBE, Progress, Publication, Seal, Visit};
use crate::sys::{self, Dir};
use crate::words::count;

/// A flush that takes longer than this slows archiving down noticeably.
const SLOW_FLUSH: Duration = Duration::from_millis(500);
/// Less free space than this part of the file system is a warning.
const FREE_PART: u64 = 20;

/// Runs the checks of a directory. If nothing can be looked at in it, that is the only result.
pub(super) fn checks(visit: &dyn Visit, dir: &Dir, options: &Options<'_>) -> Vec<Check> {
    // Everything else would fail for the same cause: it can be listed, and nothing in it looked at.
    if let Err(e) = dir.entry(".") {
        let error = Error::io(Action::LookUpDestination, dir.path(), e);
        return vec![denied("directory", error, options)];
    }
    let mut checks =
        vec![directory(dir, options), ownership(dir, options), identity(visit, options)];
    // Of several warnings, monitoring programs show the first.
    checks.extend(options.data_directory.and_then(|data| unarchived::unarchived(visit, data)));
    checks.push(space(dir, options));
    if !options.read_only {
        remove_probes(dir);
        let append_only = dir.is_append_only();
        let name = "no-replace publish";
        let published =
            if append_only { Ok(only_appended(dir)) } else { publish(name, visit, dir) };
        match published {
            // Every other probe would fail for the same cause.
            Err(error) if may_not_create(&error) => checks.push(denied(name, error, options)),
            published => {
                checks.push(published.unwrap_or_else(|error| failed(name, &error)));
                checks.push(unnamed(dir));
                // What has a name could not be removed again there.
                if !append_only || dir.create_unnamed().is_ok() {
                    checks.extend([
                        attributes(dir),
                        mode::file_mode(dir),
                        flush(dir, visit.progress()),
                    ]);
                }
            }
        }
    }
    checks.extend(options.data_directory.map(|data| same_file_system(dir, data)));
    checks.extend(names(visit, options));
    checks.push(leftovers(dir, options));
    checks
}

/// Removes the probes of checks on this host that were killed: `walsafe verify` would find them
/// until the next archiver starts. It leaves temporary files of archivers to the archiver. The other
/// checks report what cannot be removed.
fn remove_probes(dir: &Dir) {
    let _ = temporary::remove_stray_of(dir, &Owner::this_process(), PROBE);
}

/// Returns whether no file may be created there.
fn may_not_create(error: &Error) -> bool {
    let creating = matches!(error, Error::Io { action: Action::CreateTemporary, .. });
    creating && error.kind() == ErrorKind::PermissionDenied
}

fn directory(dir: &Dir, options: &Options<'_>) -> Check {
    let name = "directory";
    let real = dir.real_path().unwrap_or_else(|| dir.path().to_owned());
    let inside =
        options.data_directory.is_some_and(|data| KnownDestinations::of(data).is_inside(&real));
    if inside {
        let detail = "it lies inside the data directory: whatever destroys one destroys the other. Move it to other storage.";
        return made(name, Status::Error, detail);
    }
    made(name, Status::Ok, format!("\"{}\" can be opened", real.display()))
}

fn space(dir: &Dir, options: &Options<'_>) -> Check {
    let name = "free space";
    let space = match dir.space() {
        Ok(space) => space,
        Err(e) => return failed(name, &Error::io(Action::ReadSpace, dir.path(), e)),
    };
    let found = format!("{} MB of {} MB are free", space.free >> 20, space.total >> 20);
    if space.lacks_inodes() {
        let detail = format!(
            "{found}, but no inode for another file. {}",
            ErrorKind::OutOfInodes.hint(Activity::Checking)
        );
        return made(name, if options.read_only { Status::Warning } else { Status::Error }, detail);
    }
    if options.min_free > 0 && space.free < options.min_free {
        let wanted = options.min_free >> 20;
        made(name, Status::Warning, format!("{found}, less than the {wanted} MB asked for"))
    } else if options.min_free == 0 && !options.read_only && space.free < space.total / FREE_PART {
        made(name, Status::Warning, format!("{found}. Free space there, or give it more."))
    } else {
        made(name, Status::Ok, found)
    }
}

/// Publishes a probe as the archiver does, twice under one name: the second must not replace the first.
/// Both names are those of temporary files, so that the next check removes what a killed check leaves.
fn publish(name: &'static str, visit: &dyn Visit, dir: &Dir) -> Result<Check, Error> {
    let target = Owner::this_process().temporary_name(PROBE);
    let attempt = || -> Result<Publication, Error> {
        let seal = Seal { digests: None, checked: None, mode: 0o600, flush: false, verify: false };
        visit.stage(FinalName::Probe(target.to_string()))?.seal(&seal)?.publish(visit.progress())
    };
    let (first, second) = (attempt(), attempt());
    let _ = dir.unlink(&target);
    match (first, second) {
        (Err(e), _) | (Ok(_), Err(e)) => Err(e),
        (Ok(Publication::Published), Ok(Publication::NameTaken)) => {
            Ok(made(name, Status::Ok, "a file cannot replace another"))
        }
        (Ok(_), Ok(_)) => {
            let detail = "the file system let a second file take the name of the first. Use another file system.";
            Ok(made(name, Status::Error, detail))
        }
    }
}

fn unnamed(dir: &Dir) -> Check {
    let name = "unnamed temporary files";
    match dir.create_unnamed() {
        Ok(_) => made(name, Status::Ok, "the file system has them"),
        Err(e) if !lacks_unnamed_files(&e) => {
            failed(name, &of_probe(dir, Action::CreateTemporary, e))
        }
        Err(e) => {
            let detail = format!(
                "the file system has none ({e}): temporary names are used, and the archiver removes them after a crash"
            );
            made(name, Status::Ok, detail)
        }
    }
}

fn attributes(dir: &Dir) -> Check {
    let name = "extended attributes";
    // As large as those of an archived file: an inode may have room for less.
    let value = "0".repeat(64);
    let probe = |file: &File| {
        for attribute in [STORED_ATTRIBUTE, CONTENT_ATTRIBUTE, CHECKED_ATTRIBUTE] {
            let refused = sys::offer_attribute(file, attribute, &value)
                .map_err(|e| (Action::SealProbe, e))?;
            if refused.is_some() {
                return Ok(refused);
            }
        }
        Ok(None)
    };
    match with_probe(dir, probe) {
        Ok(None) => made(name, Status::Ok, "the file system has them"),
        Ok(Some(refused)) => {
            let detail = format!(
                "the file system has none for an archived file ({refused}): files carry no digest there, and restore and verify check records instead"
            );
            made(name, Status::Warning, detail)
        }
        Err(e) => failed(name, &e),
    }
}

/// Says what an append-only directory means for archiving. Nothing with a name is tried there: it would stay.
fn only_appended(dir: &Dir) -> Check {
    let name = "no-replace publish";
    let mut detail =
        "not tried: the directory is append-only (chattr +a), and the probe would stay there"
            .to_owned();
    if dir.create_unnamed().is_ok() {
        return made(name, Status::Ok, detail);
    }
    detail += ". The file system has no unnamed files, so each archived file leaves a temporary one. Put the archive on another file system, or run \"chattr -a\".";
    made(name, Status::Warning, detail)
}

/// Makes the error of a probe; where space or inodes may be short, says what there is.
fn of_probe(dir: &Dir, action: Action, source: io::Error) -> Error {
    let space = dir.space_for(&source);
    Error::Io { action, path: dir.path().to_owned(), space, access: None, source }
}

/// Runs a test on a new file, and removes it. The file has a name only where it must: what has one cannot be
/// removed everywhere. A failure is reported as that of the action that failed.
pub(super) fn with_probe<T>(
    dir: &Dir,
    test: impl FnOnce(&File) -> Result<T, (Action, io::Error)>,
) -> Result<T, Error> {
    let temporary = Owner::this_process().temporary_name(PROBE);
    let fail = |(action, e)| of_probe(dir, action, e);
    match dir.create_unnamed() {
        Ok(file) => return test(&file).map_err(fail),
        Err(e) if !lacks_unnamed_files(&e) => return Err(fail((Action::CreateTemporary, e))),
        Err(_) => {}
    }
    let file = dir.create_named(&temporary).map_err(|e| fail((Action::CreateTemporary, e)))?;
    let result = test(&file).map_err(fail);
    drop(file);
    let removed = dir.unlink(&temporary).map_err(|e| fail((Action::RemoveProbe, e)));
    result.and_then(|value| removed.map(|()| value))
}

fn flush(dir: &Dir, steps: &Progress) -> Check {
    let name = "flush latency";
    let probe = |file: &File| {
        sys::write_all_at(file, &[1; 8192], 0).map_err(|e| (Action::WriteProbe, e))?;
        let started = Instant::now();
        sys::flush(file).map_err(|e| (Action::FlushProbe, e))?;
        steps.tick();
        dir.flush().map_err(|e| (Action::FlushDirectory, e))?;
        steps.tick();
        Ok(started.elapsed())
    };
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        match with_probe(dir, probe) {
            Ok(took) => slowest = slowest.max(took),
            Err(e) => return failed(name, &e),
        }
    }
    let found = format!("{:.1} ms for a file and its directory", slowest.as_secs_f64() * 1000.0);
    if slowest > SLOW_FLUSH {
        made(name, Status::Warning, format!("{found}. Archiving cannot be faster than that."))
    } else {
        made(name, Status::Ok, found)
    }
}

fn same_file_system(dir: &Dir, data: &Path) -> Check {
    let name = "same file system";
    let of_data = std::fs::metadata(data).map(|metadata| metadata.dev());
    match (dir.metadata().map(|metadata| metadata.dev()), of_data) {
        (Ok(archive), Ok(data)) if archive == data => {
            let detail = "the archive is on the data directory's file system: one broken disk takes both. Move it to other storage.";
            made(name, Status::Warning, detail)
        }
        (Ok(_), Ok(_)) => made(name, Status::Ok, "the archive has a file system of its own"),
        (Err(e), _) => failed(name, &Error::io(Action::LookUpDestination, dir.path(), e)),
        (_, Err(e)) => failed(name, &Error::io(Action::LookUpData, data, e)),
    }
}

/// Looks for what hosts left that do not come back; removes it if that was asked for.
fn leftovers(dir: &Dir, options: &Options<'_>) -> Check {
    let name = "temporary files";
    let remove = options.remove_stray && !options.read_only;
    let found = match temporary::forsaken(dir, &Owner::this_process(), remove) {
        Ok(found) => found,
        Err(e) => return failed(name, &e),
    };
    let files = |number: u64| count(number, "file");
    if let Some(reason) = found.reason {
        let could_not = if remove { "removed or looked at" } else { "looked at" };
        let detail = format!("{} could not be {could_not}: {reason}", files(found.failed));
        return made(name, Status::Warning, detail);
    }
    match found.example {
        None => made(name, Status::Ok, "none was left behind"),
        Some(_) if remove => made(
            name,
            Status::Ok,
            format!("{} removed that had been left behind", files(found.count)),
        ),
        Some(example) => {
            let detail = format!(
                "{} left behind, such as \"{}\": nothing has been written there for more than a day, and no process of this host writes there. Run \"walsafe check --remove-stray {}\" if the hosts in the names are gone.",
                files(found.count),
                example.escape_default(),
                dir.path().display()
            );
            made(name, Status::Warning, detail)
        }
    }
}
