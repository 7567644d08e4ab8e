//! Recoveries from two archives: with half of the files in each, with one away, and with one that hangs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::hung_storage::SLACK;
use crate::support::document::Document;
use crate::support::recovery::{
    Origin, UnderInit, path, refuses, restore_command_from, rows_after_recovery, segments,
    walsafe_in,
};
use harness::command::run;
use harness::{Cluster, FuseMount, Scratch, privileged, require, scratch, tool};

const IDENTITY: &str = "walsafe_archive.id";

/// A second archive of the same cluster, empty.
fn second(origin: &Origin) -> Scratch {
    let second = Scratch::new("second");
    scratch::write(&second.join(IDENTITY), scratch::read(&origin.stored(IDENTITY)));
    second
}

/// A second archive with all that the first has.
fn copy(origin: &Origin) -> Scratch {
    let second = Scratch::new("second");
    run(Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", path(origin.archive.path())))
        .arg(second.path()));
    second
}

fn recovery(origin: &Origin, archives: &[&Path], options: &str) -> Cluster {
    let command = restore_command_from(archives, options);
    origin.backup.restore_copy().recovery().set("restore_command", &command).create()
}

/// A chain of two commands was needed, and it took the end of the archive that could be read for the end of the
/// WAL unless it was written with care.
#[test]
fn a_recovery_takes_each_file_from_the_archive_that_has_it_and_needs_both_at_the_end() {
    let origin = Origin::lost();
    let second = second(&origin);
    let names = segments(&origin.archive);
    // Every other one, with the last.
    for name in names.iter().rev().step_by(2) {
        fs::rename(origin.stored(name), second.join(name)).expect("renamed");
    }
    let document = Document::new("walsafe.md")
        .with("walsafe restore", format!("{} restore", origin.primary.server().walsafe().display()))
        .with("/mnt/archive", origin.archive.path())
        .with("/mnt/second", second.path());
    let [(_, documented)] = &document.settings("restore-command-several")[..] else {
        panic!("one setting");
    };
    let recovered = origin.recovery().set("restore_command", documented).start();
    assert_eq!(rows_after_recovery(&recovered), "1,2,3");

    let away = second.path().with_extension("away");
    fs::rename(second.path(), &away).expect("renamed");
    let stopped = recovery(&origin, &[origin.archive.path(), second.path()], "");
    let mark = stopped.mark();
    refuses(&stopped, "the file may be in an archive that cannot be read");
    let log = stopped.log().since(mark);
    let reason = format!("Could not open the archive directory: \"{}\"", path(second.path()));
    assert!(log.contains(&reason), "{log}");
    fs::rename(&away, second.path()).expect("renamed");
    stopped.start();
    assert_eq!(rows_after_recovery(&stopped), "1,2,3");
}

/// One damaged copy stopped the recovery, with a sound one at hand.
#[test]
fn a_damaged_copy_is_passed_over_and_one_archive_alone_is_enough_if_the_other_is_left_out() {
    let origin = Origin::lost();
    let second = copy(&origin);
    let names = segments(&origin.archive);
    let damaged = origin.stored(&names[names.len() / 2]);
    let mut bytes = fs::read(&damaged).expect("readable");
    bytes[400_000] ^= 1;
    fs::write(&damaged, &bytes).expect("written");
    let recovered = recovery(&origin, &[origin.archive.path(), second.path()], "");
    let mark = recovered.mark();
    recovered.start();
    assert_eq!(rows_after_recovery(&recovered), "1,2,3");
    let log = recovered.log().since(mark);
    let line = format!("was restored from \"{}\" and not from ", path(second.path()));
    assert!(log.contains(&line) && log.contains("(digest-mismatch)"), "{log}");

    // Without the first, nobody knows whether it went on.
    let away = origin.archive.path().with_extension("away");
    fs::rename(origin.archive.path(), &away).expect("renamed");
    let stopped = recovery(&origin, &[origin.archive.path(), second.path()], "");
    let leave = format!("leave \"{}\" out of --from", path(origin.archive.path()));
    refuses(&stopped, &leave);
    stopped.set_conf("restore_command", &restore_command_from(&[second.path()], ""));
    stopped.start();
    assert_eq!(rows_after_recovery(&stopped), "1,2,3");
    fs::rename(&away, origin.archive.path()).expect("renamed");
}

/// A data directory for calls by hand.
fn place() -> (Scratch, PathBuf) {
    let place = Scratch::new("data");
    for dir in ["pg_wal", "pg_stat_tmp"] {
        scratch::make_dir(&place.join(dir));
    }
    let target = place.join("pg_wal/RECOVERYXLOG");
    (place, target)
}

/// The whole call was given up, with 126, and the archive that has the file was not asked.
#[test]
fn an_archive_that_hangs_does_not_keep_another_from_giving_the_file() {
    require!(privileged());
    require!(tool("bindfs"));
    let origin = Origin::lost();
    let second = copy(&origin);
    let names = segments(&origin.archive);
    for kind in [FuseMount::showing, FuseMount::showing_twice] {
        let storage = kind(origin.archive.path());
        let (data, target) = place();
        let hang = storage.stall();
        let (hung, sound) = (path(storage.path()), path(second.path()));
        let restore = |file: &str| {
            let began = Instant::now();
            let options = ["restore", "--stall-timeout=2", "--from", hung, "--from", sound];
            let run = walsafe_in(data.path(), &[&options[..], &[file, path(&target)]].concat());
            (run, began.elapsed())
        };
        let (run, took) = restore(&names[0]);
        assert_eq!(run.code, Some(0), "{run:?}");
        let line = format!(
            "was restored from \"{sound}\" and not from \"{hung}\": The archive does not respond"
        );
        assert!(run.err.contains(&line), "{run:?}");
        assert!(took >= Duration::from_secs(2) && took < SLACK, "{took:?}");
        assert!(fs::read(&target).expect("restored") == second.read(&names[0]));
        // It is asked last now.
        let (run, took) = restore(&names[1]);
        assert_eq!((run.code, &*run.err), (Some(0), ""), "{run:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        // Nobody knows where the WAL ends.
        let (run, took) = restore("00000007.history");
        assert_eq!(run.code, Some(126), "{run:?}");
        let said =
            format!("The archive does not respond: Nothing has moved at \"{hung}\" for 2 seconds.");
        assert!(run.err.contains(&said), "{run:?}");
        assert!(run.err.contains(&format!("leave \"{hung}\" out of --from")), "{run:?}");
        assert!(took < SLACK, "{took:?}");
        // It comes round, and is asked like any other.
        drop(hang);
        let (run, _) = restore("00000007.history");
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.err.contains("is in none of the archives"), "{run:?}");
        assert_eq!(scratch::names(&data.join("pg_wal")), ["RECOVERYXLOG"]);
    }
}

/// Process 1 of a container may be a server: an orphan that a signal has ended would restart it.
#[test]
fn what_a_restore_from_another_archive_leaves_behind_ends_well() {
    require!(privileged());
    require!(tool("bindfs"));
    require!(tool("perl"));
    let origin = Origin::lost();
    let second = copy(&origin);
    let name = &segments(&origin.archive)[0];
    let storage = FuseMount::showing_twice(origin.archive.path());
    let hang = storage.stall();
    let (data, target) = place();
    let mut ends = UnderInit::start(
        data.path(),
        &[
            "restore",
            "--stall-timeout=1",
            "--from",
            path(storage.path()),
            "--from",
            path(second.path()),
            name,
            path(&target),
        ],
    );
    assert_eq!(ends.next_end().as_deref(), Some("own 0"));
    let restored = fs::read(&target).expect("restored");
    drop(hang);
    assert_eq!(ends.next_end().as_deref(), Some("orphan 0"));
    ends.end();
    // What came round did not put its own in place.
    assert!(restored == second.read(name) && fs::read(&target).expect("restored") == restored);
}

/// Each file waited for the archive that hangs, or the recovery stopped at the first.
#[test]
fn a_recovery_goes_on_beside_an_archive_that_hangs_and_stops_where_only_that_one_can_tell() {
    require!(privileged());
    require!(tool("bindfs"));
    let origin = Origin::lost();
    let second = copy(&origin);
    // The server does not ask for further timelines, so that only the end of the WAL is in question.
    let storage = FuseMount::showing_twice(origin.archive.path());
    let command = restore_command_from(&[storage.path(), second.path()], "--stall-timeout=1");
    let cluster = origin
        .backup
        .restore_copy()
        .recovery()
        .set("restore_command", &command)
        .set("recovery_target_timeline", "current")
        .create();
    let hang = storage.stall();
    let mark = cluster.mark();
    refuses(&cluster, &format!("leave \"{}\" out of --from", path(storage.path())));
    let log = cluster.log().since(mark);
    for name in segments(&origin.archive).iter().rev().take(3) {
        assert!(log.contains(&format!("restored log file \"{name}\" from archive")), "{log}");
    }
    let line = format!("was restored from \"{}\" and not from ", path(second.path()));
    assert!(log.contains(&line), "{log}");
    drop(hang);
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
}
