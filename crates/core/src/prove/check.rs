//! The checks of an archive that need no server: whether it is fit to archive to, and to recover from.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use self::directory::with_probe;
use self::following::Following;
use crate::error::{Activity, Error};
use crate::server::control::ControlFile;
use crate::server::known::KnownDestinations;
use crate::store::access::Asker;
use crate::store::identity::{self, Identity};
use crate::store::listing::{self, Listing, Stranger};
use crate::store::{Progress, Store, Visit, location};
use crate::words::{count, either};

mod bucket;
mod contents;
mod directory;
mod following;
mod mode;
mod ownership;
pub mod restoring;
mod unarchived;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but something should be better.
    Warning,
    /// Archiving, or a recovery, cannot work or cannot be relied on.
    Error,
}

impl Status {
    /// Returns the status's name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The check's stable name.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found, and if that is not as it should be, what to do.
    pub detail: String,
}

/// What is known beforehand, and what the checks may do.
#[derive(Debug, Clone, Default)]
pub struct Options<'a> {
    /// The cluster's data directory, for the checks that compare with it.
    pub data_directory: Option<&'a Path>,
    /// Less free space than this, in bytes, is a warning.
    pub min_free: u64,
    /// Write nothing: for an archive that is mounted read-only.
    pub read_only: bool,
    /// Remove the temporary files that nobody will ever ask for ([`forsaken`](crate::store::directory::temporary::forsaken)).
    pub remove_stray: bool,
    /// Counts the steps, for whoever watches over storage that hangs.
    pub steps: Option<&'a Progress>,
    /// Set when nobody waits for the result any more: a gap is looked at twice, 2 s apart.
    pub cancelled: Option<&'a AtomicBool>,
}

/// Runs every check. If the archive cannot be looked at, that is the only result.
#[must_use]
pub fn check(store: &dyn Store, options: &Options<'_>) -> Vec<Check> {
    let unwatched = Progress::default();
    let visit = match store.visit(options.steps.unwrap_or(&unwatched)) {
        Ok(visit) => visit,
        Err(error) => return vec![denied("directory", error, options)],
    };
    let visit = &*visit;
    match (visit.directory(), visit.trials()) {
        (Some(dir), _) => directory::checks(visit, dir, options),
        (None, Some(trials)) => bucket::checks(visit, &*trials, options),
        (None, None) => [vec![identity(visit, options)], names(visit, options)].concat(),
    }
}

/// Makes the only result for an archive that cannot be looked at.
#[must_use]
pub fn unusable(error: &Error) -> Check {
    failed(if is_remote(error) { bucket::NAME } else { "directory" }, error)
}

/// Returns whether an error is one of object storage, or of a URL.
fn is_remote(error: &Error) -> bool {
    match error {
        Error::Remote { .. } | Error::BadLocation { .. } => true,
        Error::StorageHangs { path, .. } => location::is_url(path),
        _ => false,
    }
}

fn made(name: &'static str, status: Status, detail: impl Into<String>) -> Check {
    Check { name, status, detail: detail.into() }
}

fn failed(name: &'static str, error: &Error) -> Check {
    let hint = error.hint(Activity::Checking);
    made(name, Status::Error, format!("{error}: {} {hint}", error.detail()))
}

/// As [`failed`]; where permission is missing, says who has it and what gives it to the server.
fn denied(name: &'static str, error: Error, options: &Options<'_>) -> Check {
    failed(name, &Asker::check(options.data_directory).explained(error))
}

fn identity(visit: &dyn Visit, options: &Options<'_>) -> Check {
    let name = "identity";
    let control = match options.data_directory.map(ControlFile::read).transpose() {
        Ok(control) => control,
        Err(e) => return failed(name, &e),
    };
    let in_list = |data| KnownDestinations::of(data).contains(visit.known_as());
    let remembered = match options.data_directory.map(in_list).transpose() {
        Ok(remembered) => remembered.unwrap_or(false),
        // A list that cannot be read does not count as one that does not name the archive.
        Err(e) => return failed(name, &e),
    };
    match Identity::at(visit) {
        Err(e) => denied(name, e, options),
        Ok(Some(there)) => match control {
            Some(control) if control.system_identifier != there.system_identifier => {
                let error = Error::OtherCluster {
                    path: visit.location().join(identity::FILE_NAME),
                    ours: control.system_identifier,
                    theirs: there.system_identifier,
                };
                failed(name, &error)
            }
            _ => {
                let detail =
                    format!("cluster {}, since {}", there.system_identifier, there.created);
                made(name, Status::Ok, detail)
            }
        },
        Ok(None) if remembered => {
            failed(name, &Error::IdentityLost { file: visit.location().join(identity::FILE_NAME) })
        }
        // With the server's list, it is known that nothing was archived there before.
        Ok(None) if options.data_directory.is_some() && !options.read_only && is_empty(visit) => {
            made(name, Status::Ok, "empty, becomes this cluster's archive with the first file")
        }
        Ok(None) => {
            let file = identity::FILE_NAME;
            let question = match visit.directory() {
                Some(_) => "Is the archive mounted?",
                None => "Is the URL right, and does no lifecycle rule remove it?",
            };
            let detail = format!(
                "there is no \"{file}\". {question} The archiver writes it into a new archive; otherwise run \"walsafe init\"."
            );
            made(name, if options.read_only { Status::Error } else { Status::Warning }, detail)
        }
    }
}

/// Returns whether nothing lies there that a new archive could not begin beside.
fn is_empty(visit: &dyn Visit) -> bool {
    let mut strangers = false;
    let listing = Listing::read(visit, &mut |_, what| {
        strangers |= !matches!(what, Stranger::Temporary(Some(_)));
    });
    listing.is_ok_and(|listing| listing.is_empty()) && !strangers
}

/// Looks at what lies there, and at what a recovery follows.
fn names(visit: &dyn Visit, options: &Options<'_>) -> Vec<Check> {
    let (mut others, mut first) = (0_u64, None);
    let listing = Listing::read(visit, &mut |name, what| match what {
        Stranger::Temporary(_) => {}
        Stranger::Unknown if listing::archived(visit, name).is_some() => {}
        Stranger::Unknown => {
            others += 1;
            first.get_or_insert_with(|| name.escape_default().to_string());
        }
    });
    match listing {
        Err(e) => vec![failed("contents", &e)],
        Ok(listing) => {
            let strange = first.map(|first| {
                format!(
                    "; {} {} not WAL, such as \"{first}\". Find out who put {} there.",
                    count(others, "file"),
                    either(others, "that is", "that are"),
                    either(others, "it", "them")
                )
            });
            let contents = contents::contents(visit, options, &listing, strange);
            vec![contents, timelines(visit, options)]
        }
    }
}

/// Says which timeline a recovery with default settings follows. It is a warning if that leaves WAL behind:
/// a drill that archived here takes every later recovery along.
fn timelines(visit: &dyn Visit, options: &Options<'_>) -> Check {
    let name = "timelines";
    let unwatched = Progress::default();
    let following = match Following::of(visit, options.steps.unwrap_or(&unwatched)) {
        Ok(following) => following,
        Err(e) => return failed(name, &e),
    };
    let Some(newest) = following.timeline else {
        return made(name, Status::Ok, "there are none yet");
    };
    let own = options.data_directory.and_then(|data| ControlFile::read(data).ok()?.timeline);
    let server = match own {
        Some(own) if own != newest => format!(" This server is on timeline {own}."),
        _ => String::new(),
    };
    if following.left.is_empty() {
        let found = format!("a recovery with default settings follows timeline {newest}.{server}");
        return made(name, Status::Ok, found.trim_end_matches('.'));
    }
    let left: Vec<_> = following.left.iter().map(ToString::to_string).collect();
    let detail = format!(
        "{} is not part of timeline {newest}, which a recovery with default settings follows: a drill archived here, or a failover lost it.{server} Move the files of the drill out of the archive, or those of the lost WAL once nobody needs them.",
        left.join(" and ")
    );
    made(name, Status::Warning, detail)
}
