//! Fetching ahead while a server replays: what comes of it, and the process that does it, which leaves nothing
//! behind and is in nobody's way.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use harness::object::{Kind, ObjectServer};
use harness::process::{self, Numbered, open_files};
use harness::{Cluster, Mark, Stop, privileged, require, scratch};
use rustix::process::Signal;

use crate::support::ahead::{ALL, Far, PROMPT, Stopped, fetched_ahead, held, restored, spool};
use crate::support::recovery::{Origin, path, restore_command_with, rows, rows_after_recovery};

/// Waits until a recovery stands at its target, with something fetched behind that.
#[track_caller]
fn wait_paused(cluster: &Cluster, mark: Mark) {
    cluster.wait_for_log(mark, "pausing at the end of recovery");
    let spool = spool(cluster);
    cluster.wait_until("segments behind the target", || (held(&spool).len() > 2).then_some(()));
}

#[test]
fn a_recovery_takes_what_was_fetched_while_it_replayed() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost();
    let cluster = far.recovery("").start();
    assert_eq!(rows_after_recovery(&cluster), ALL);
    let log = cluster.log().text();
    let (names, ahead) = (restored(&log), fetched_ahead(&log));
    assert!(names.len() > 16 && 3 * ahead.len() > names.len(), "{ahead:?} of {names:?}");
    assert!(ahead.iter().all(|name| names.contains(name)), "{ahead:?} of {names:?}");
    far.assert_over(&spool(&cluster));
    let left = scratch::names(&cluster.pg_wal());
    assert!(!left.iter().any(|name| name.contains("walsafe")), "{left:?}");
    // Nothing is fetched for nothing.
    let mut requests = far.proxy.requests("GET", "/wal/0");
    let ends = |path: &str| names.iter().any(|name| path.ends_with(name));
    requests.retain(|request| request.target.split('?').next().is_some_and(ends));
    assert!(2 * requests.len() < 3 * names.len(), "{} for {names:?}", requests.len());
}

/// For directories it has to be asked for.
#[test]
fn a_compressed_directory_is_fetched_ahead_from_if_that_is_asked_for() {
    let origin = Origin::with(|builder| builder.set("walsafe_archive.compression", "zstd"));
    for n in 1..=4 {
        origin.row(n);
    }
    origin.lose();
    for (options, is_ahead) in [("--verbose", false), ("--verbose --ahead 4", true)] {
        let command = restore_command_with(origin.archive.path(), options);
        let cluster = origin.recovery().set("restore_command", &command).start();
        assert_eq!(rows_after_recovery(&cluster), "1,2,3,4");
        let log = cluster.log().text();
        assert_eq!(!fetched_ahead(&log).is_empty(), is_ahead, "{options}: {log}");
        cluster.wait_until("the spool to go", || (!spool(&cluster).exists()).then_some(()));
    }
}

/// The session of a process.
fn session(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    rest.split(' ').nth(3).and_then(|number| number.parse().ok()).expect("a number")
}

/// It is in nobody's way: a terminal's or the server's signals do not reach it, a file system can be unmounted, and
/// the server's log can be closed.
#[test]
fn the_process_that_fetches_holds_nothing_of_the_servers() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(privileged());
    let far = Far::lost();
    let cluster = far.early("pause").umask_000().start();
    wait_paused(&cluster, Mark::default());
    let helper = far.helper();
    assert_eq!(session(helper), helper);
    assert_eq!(fs::read_link(format!("/proc/{helper}/cwd")).unwrap().to_str(), Some("/"));
    for number in 0..3 {
        let file = fs::read_link(format!("/proc/{helper}/fd/{number}")).unwrap();
        assert_eq!(file.to_str(), Some("/dev/null"), "{number}");
    }
    let data = path(cluster.data());
    let own = spool(&cluster);
    for file in open_files(helper) {
        let is_servers = file.starts_with(data) && !file.starts_with(path(&own));
        assert!(!is_servers && file != path(cluster.log().path()), "{file}");
    }
    // As private as the data directory.
    let mode = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().expect("there").permissions().mode() & 0o7777
    };
    assert_eq!(mode(&own), 0o700);
    for name in scratch::names(&own) {
        assert_eq!(mode(&own.join(&name)) & 0o077, 0, "{name}");
    }
}

#[test]
fn it_ends_with_a_shutdown_with_the_postmaster_and_with_the_recovery() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(Numbered::is_possible());
    let far = Far::lost();
    let cluster = far.early("pause").start();
    let own = spool(&cluster);
    wait_paused(&cluster, Mark::default());
    far.helper();
    assert!(cluster.stop(Stop::Fast) < PROMPT);
    far.assert_over(&own);

    let mark = cluster.mark();
    cluster.start();
    wait_paused(&cluster, mark);
    far.helper();
    cluster.kill_postmaster();
    far.assert_over(&own);
    process::kill_all_in(cluster.data());

    // The postmaster's number is another process's before anybody has looked.
    let mark = cluster.mark();
    cluster.start();
    wait_paused(&cluster, mark);
    let (postmaster, helper) = (cluster.pid(), far.helper());
    process::signal(helper, Signal::STOP);
    cluster.kill_postmaster();
    let other = Numbered::take(postmaster);
    process::signal(helper, Signal::CONT);
    far.assert_over(&own);
    drop(other);
    process::kill_all_in(cluster.data());

    let mark = cluster.mark();
    cluster.start();
    wait_paused(&cluster, mark);
    far.helper();
    cluster.sql("SELECT pg_wal_replay_resume()");
    assert_eq!(rows_after_recovery(&cluster), "1,2");
    far.assert_over(&own);
}

/// What only `make test-all` does.
mod full {
    use super::*;

    /// Waits for the end of a process that nobody asks anything.
    fn wait_unasked(helper: i32) {
        let began = Instant::now();
        while process::is_alive(helper) {
            thread::sleep(Duration::from_millis(200));
            assert!(began.elapsed() < Duration::from_secs(75), "it does not end");
        }
        assert!(began.elapsed() > Duration::from_secs(50), "{:?}", began.elapsed());
    }

    /// To replay one segment may take minutes.
    #[test]
    fn what_was_fetched_for_a_slow_recovery_is_kept_for_it() {
        require!(ObjectServer::is_there(Kind::SeaweedFs));
        let far = Far::lost();
        let cluster = far.early("pause").start();
        wait_paused(&cluster, Mark::default());
        let own = spool(&cluster);
        wait_unasked(far.helper());
        assert_ne!(held(&own), [""; 0]);
        cluster.sql("SELECT pg_wal_replay_resume()");
        assert_eq!(rows_after_recovery(&cluster), "1,2");
        far.assert_over(&own);
    }

    /// A standby that has nothing to ask for needs nobody who waits for it.
    #[test]
    fn it_ends_when_nobody_has_asked_for_a_minute_and_comes_again() {
        require!(ObjectServer::is_there(Kind::SeaweedFs));
        let stopped = Stopped::new(|builder| builder);
        let Stopped { far, standby, .. } = &stopped;
        wait_unasked(far.helper());
        assert!(!spool(standby).exists());
        stopped.go_on();
        standby.wait_until("the rows", || (rows(standby) == "1,2,3,4,5,6").then_some(()));
        standby.promote();
        far.assert_over(&spool(standby));
    }
}
