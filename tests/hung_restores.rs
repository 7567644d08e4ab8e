//! An archive that does not answer while files are to come from it: the program ends in time, whatever the
//! kernel does with its calls, and the server decides by a status that is right.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::hung_storage::SLACK;
use crate::support::document::Document;
use crate::support::recovery::{
    Origin, UnderInit, path, refuses, restore_command_with, rows, rows_after_recovery, walsafe,
    walsafe_in,
};
use harness::{FuseMount, Scratch, Stop, StopOnDrop, privileged, require, scratch, tool};

/// Both kinds of hang: callers that can be killed, and callers that the kernel holds.
const KINDS: [fn(&Path) -> FuseMount; 2] = [FuseMount::showing, FuseMount::showing_twice];

/// There was no end after two minutes.
#[test]
fn every_command_ends_with_the_status_of_trouble() {
    require!(privileged());
    require!(tool("bindfs"));
    let origin = Origin::new();
    origin.row(1);
    origin.lose();
    let name = origin.archive.names().into_iter().find(|name| name.len() == 24).expect("a segment");
    let data = origin.backup.data();
    for kind in KINDS {
        let storage = kind(origin.archive.path());
        let (server, standby) = (Scratch::new("server"), Scratch::new("standby"));
        let second = Scratch::new("second");
        scratch::write(&standby.join("standby.signal"), "");
        let _hang = storage.stall();
        let archive = path(storage.path());
        let ends = &|place: &Scratch, arguments: Vec<&str>, status: i32| {
            let began = Instant::now();
            let run = walsafe_in(place.path(), &arguments);
            let took = began.elapsed();
            assert_eq!(run.code, Some(status), "{arguments:?}: {run:?}");
            let said = format!("{}{}", run.out, run.err);
            assert!(said.contains("the archive does not respond"), "{said}");
            assert!(said.contains(archive), "{said}");
            assert!(took >= Duration::from_secs(1) && took < SLACK, "{arguments:?}: {took:?}");
        };
        let restore = ["restore", "--stall-timeout=1", "--from", archive, &name, "target"];
        thread::scope(|scope| {
            scope.spawn(|| ends(&server, restore.to_vec(), 126));
            scope.spawn(|| ends(&standby, restore.to_vec(), 1));
            scope.spawn(|| ends(&standby, [&restore[..], &["--on-error=stop"]].concat(), 126));
            for command in ["verify", "list", "check", "manifest"] {
                let server = &server;
                scope.spawn(move || ends(server, vec![command, "--stall-timeout=1", archive], 2));
            }
            let second = path(second.path());
            for [from, to] in [[archive, second], [second, archive]] {
                let server = &server;
                scope.spawn(move || ends(server, vec!["copy", "--stall-timeout=1", from, to], 2));
            }
            for command in ["init", "push"] {
                let (server, data) = (&server, path(&data));
                let line = vec![command, "--stall-timeout=1", "--pgdata", data, archive];
                scope.spawn(move || ends(server, line, 2));
            }
        });
        assert_eq!((server.names(), standby.names()), (vec![], vec!["standby.signal".to_owned()]));
    }
}

/// Process 1 of a container may be a server, which takes an orphan that a signal has ended for one of its own
/// processes that has crashed, and restarts.
#[test]
fn what_a_restore_leaves_behind_ends_well() {
    require!(privileged());
    require!(tool("bindfs"));
    require!(tool("perl"));
    let origin = Origin::new();
    origin.row(1);
    origin.lose();
    let name = origin.archive.names().into_iter().find(|name| name.len() == 24).expect("a segment");
    let storage = FuseMount::showing_twice(origin.archive.path());
    let hang = storage.stall();
    let place = Scratch::new("server");
    let mut ends = UnderInit::start(
        place.path(),
        &["restore", "--stall-timeout=1", "--from", path(storage.path()), &name, "target"],
    );
    // An exit status is the upper byte.
    assert_eq!(ends.next_end().as_deref(), Some("own 32256"));
    drop(hang);
    assert_eq!(ends.next_end().as_deref(), Some("orphan 0"));
    ends.end();
    assert_eq!(place.names(), Vec::<String>::new());
}

/// Moving is not hanging, however long it takes as a whole: the archive answers, but not at once.
#[test]
fn storage_that_is_slow_is_not_given_up() {
    require!(privileged());
    require!(tool("bindfs"));
    let origin = Origin::new();
    for n in 1..=10 {
        origin.row(n);
    }
    origin.lose();
    let storage = FuseMount::new();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", origin.archive.path().display()))
        .arg(storage.behind())
        .status();
    assert!(copied.expect("cp").success());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = StopOnDrop(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let hang = storage.stall();
                thread::sleep(Duration::from_millis(200));
                drop(hang);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let began = Instant::now();
        let run = walsafe(&["verify", "--jobs=1", "--stall-timeout=1", path(storage.path())]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(began.elapsed() > Duration::from_millis(1200), "it was never slow");
    });
}

/// It never came to an end, so that nobody was told.
#[test]
fn a_recovery_stops_and_goes_on_once_the_archive_answers() {
    require!(privileged());
    require!(tool("bindfs"));
    let origin = Origin::new();
    origin.row(1);
    origin.row(2);
    origin.lose();
    let storage = FuseMount::showing_twice(origin.archive.path());
    let command = restore_command_with(storage.path(), "--stall-timeout=1");
    let cluster = origin.recovery().set("restore_command", &command).create();
    let hang = storage.stall();
    refuses(&cluster, "the archive does not respond");
    drop(hang);
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2");
}

/// A standby could neither be started beside an archive that hangs nor be promoted.
#[test]
fn a_standby_starts_streams_and_is_promoted_beside_it() {
    require!(privileged());
    require!(tool("bindfs"));
    let origin = Origin::new();
    let storage = FuseMount::showing_twice(origin.archive.path());
    let program = origin.primary.server().walsafe();
    let document = Document::new("walsafe.md")
        .with("walsafe restore", format!("{} restore", program.display()))
        .with("/mnt/archive", storage.path())
        .with("--stall-timeout=10", "--stall-timeout=1");
    let [(_, command)] = &document.settings("stall-timeout")[..] else {
        panic!("one setting");
    };
    let standby = origin.primary.streaming_standby().set("restore_command", command).create();
    let _hang = storage.stall();
    standby.start();
    origin.primary.sql("INSERT INTO rows VALUES (1)");
    standby.wait_replayed(&origin.primary.current_lsn());
    assert_eq!(rows(&standby), "1");
    let began = Instant::now();
    standby.promote();
    // Four files are asked for.
    assert!(began.elapsed() < Duration::from_secs(4) + SLACK, "{:?}", began.elapsed());
    standby.sql("INSERT INTO rows VALUES (2)");
    assert_eq!(rows(&standby), "1,2");
}

/// The server asks for the history of the timeline that it leaves when `standby.signal` is gone. The answer
/// was that of a recovery: the server ended in the middle of its promotion.
#[test]
fn a_standby_is_promoted_while_its_archive_is_gone() {
    let origin = Origin::new();
    origin.row(1);
    let command = restore_command_with(Path::new("/nonexistent/archive"), "--stall-timeout=1");
    let first = origin.primary.streaming_standby().set("restore_command", &command).start();
    first.wait_replayed(&origin.primary.current_lsn());
    first.promote();
    first.sql("INSERT INTO rows VALUES (2)");
    // Its history file is in pg_wal.
    let second = first.streaming_standby().set("restore_command", &command).start();
    second.wait_replayed(&first.current_lsn());
    second.promote();
    assert_eq!(rows(&second), "1,2");
    let history = fs::read_to_string(second.pg_wal().join("00000003.history")).expect("a history");
    let parents: Vec<_> =
        history.lines().filter_map(|line| line.split_once('\t')).map(|(tli, _)| tli).collect();
    assert_eq!(parents, ["1", "2"], "{history}");
}

#[test]
fn a_server_can_be_stopped_while_a_restore_hangs() {
    require!(privileged());
    require!(tool("bindfs"));
    let origin = Origin::new();
    origin.row(1);
    origin.lose();
    for (kind, stop) in KINDS.into_iter().zip([Stop::Immediate, Stop::Fast]) {
        let storage = kind(origin.archive.path());
        let command = restore_command_with(storage.path(), "");
        let standby = origin.standby().set("restore_command", &command).create();
        let _hang = storage.stall();
        let mark = standby.mark();
        standby.launch();
        standby.wait_for_log(mark, "database system was interrupted");
        thread::sleep(Duration::from_secs(1));
        let took = standby.stop(stop);
        assert!(took < SLACK, "{stop:?}: {took:?}");
    }
}
