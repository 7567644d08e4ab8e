//! `walsafe copy` between the archives of a running server: a second archive that follows, one that is filled in
//! behind a destination that was added later, and storage that hangs meanwhile.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::recovery::{Origin, Run, assert_clean, path, rows_after_recovery, walsafe};
use harness::server::as_server_user;
use harness::{
    FuseMount, Scratch, Server, TIMEOUT, archive, privileged, process, require, scratch, tool,
    wait_until,
};
use rustix::process::Signal;

/// `walsafe copy --follow`, as the server's user.
struct Following(Child);

impl Following {
    fn start(source: &Path, destination: &Path, options: &[&str]) -> Self {
        let mut command = Command::new(Server::under_test().walsafe());
        as_server_user(&mut command).args(["copy", "--follow", "--interval=1"]).args(options);
        command.args([source, destination]).current_dir("/");
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("walsafe"))
    }

    /// Asks it to end, and returns how it has ended and what it said.
    fn end(mut self) -> Run {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        process::signal(pid, Signal::TERM);
        wait_until(TIMEOUT, "the copy to end", || self.0.try_wait().expect("our child").map(drop));
        let text = |stream: Option<Box<dyn std::io::Read>>| {
            let mut text = String::new();
            stream.expect("piped").read_to_string(&mut text).expect("text");
            text
        };
        let out = text(self.0.stdout.take().map(|stream| Box::new(stream) as _));
        let err = text(self.0.stderr.take().map(|stream| Box::new(stream) as _));
        Run { code: self.0.wait().expect("our child").code(), out, err }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait_for_files(source: &Scratch, destination: &Path) {
    let all = source.names();
    wait_until(TIMEOUT, "the second archive to have all", || {
        (scratch::names(destination) == all).then_some(())
    });
}

/// The second archive alone is enough for a recovery, up to the last file that it was given.
#[test]
fn a_second_archive_that_follows_is_enough_for_a_recovery() {
    let origin = Origin::new();
    let second = Scratch::new("second");
    origin.row(1);
    let following = Following::start(origin.archive.path(), second.path(), &[]);
    origin.row(2);
    origin.row(3);
    origin.lose();
    wait_for_files(&origin.archive, second.path());
    let run = following.end();
    assert_eq!((run.code, &*run.err), (Some(0), ""), "{run:?}");
    assert!(run.out.starts_with("copied "), "{run:?}");
    assert_clean(second.path());
    let recovered = origin.recovery_from(second.path()).start();
    assert_eq!(rows_after_recovery(&recovered), "1,2,3");
}

/// Without it, the new destination has nothing for the base backups before it, and cannot get it while the server
/// archives there.
#[test]
fn a_destination_that_was_added_later_is_filled_in_while_the_server_archives_there() {
    let origin = Origin::new();
    let second = Scratch::new("second");
    origin.row(1);
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    origin.primary.alter_system("walsafe_archive.destination", path(second.path()));
    origin.row(2);
    origin.primary.wait_all_archived();
    let there = archive::names(second.path()).len();
    assert!(there > 0, "the server archives there");
    let identity = second.read("walsafe_archive.id");
    thread::scope(|scope| {
        let copy =
            scope.spawn(|| walsafe(&["copy", path(origin.archive.path()), path(second.path())]));
        origin.row(3);
        let run = copy.join().expect("no panic");
        assert_eq!((run.code, &*run.err), (Some(0), ""), "{run:?}");
        assert!(run.out.starts_with("copied "), "{run:?}");
    });
    origin.lose();
    assert_eq!(second.read("walsafe_archive.id"), identity, "it is never written again");
    assert_clean(second.path());
    let recovered = origin.recovery_from(second.path()).start();
    assert_eq!(rows_after_recovery(&recovered), "1,2,3");
}

/// A job that hangs with its storage is noticed by nobody, and cannot be stopped.
#[test]
fn storage_that_hangs_is_said_once_and_waited_for() {
    require!(privileged());
    require!(tool("bindfs"));
    let origin = Origin::new();
    origin.row(1);
    origin.primary.wait_all_archived();
    let behind = Scratch::new("behind");
    let follow = |storage: &FuseMount| {
        let options = ["--stall-timeout=1"];
        let following = Following::start(origin.archive.path(), storage.path(), &options);
        wait_for_files(&origin.archive, behind.path());
        following
    };
    let said = "the archive does not respond";

    let storage = FuseMount::showing(behind.path());
    let following = follow(&storage);
    let hang = storage.stall();
    origin.row(2);
    origin.primary.wait_all_archived();
    thread::sleep(Duration::from_secs(4));
    drop(hang);
    wait_for_files(&origin.archive, behind.path());
    let run = following.end();
    assert_eq!((run.code, run.err.matches(said).count()), (Some(0), 1), "{run:?}");
    assert!(run.err.contains("the archive responds again"), "{run:?}");

    // While it hangs, it can be ended; the kernel holds the process that is in the call.
    let storage = FuseMount::showing_twice(behind.path());
    let following = follow(&storage);
    let hang = storage.stall();
    thread::sleep(Duration::from_millis(2500));
    let (pid, began) = (i32::try_from(following.0.id()).expect("a process id"), Instant::now());
    process::signal(pid, Signal::TERM);
    wait_until(Duration::from_secs(20), "the copy to end", || {
        (process::state(pid) == Some('Z')).then_some(())
    });
    let took = began.elapsed();
    drop(hang);
    assert!(took < Duration::from_secs(12), "{took:?}");
    let run = following.end();
    assert_eq!((run.code, run.err.matches(said).count()), (Some(0), 1), "{run:?}");
    assert_clean(behind.path());
}
