//! Fetching ahead where a process that is left alone would be given to the postmaster, which takes one that ends
//! badly for a crash of its own: nobody is left alone there. And what becomes of a recovery whose helper is killed.

use std::thread;
use std::time::Duration;

use harness::object::{Fault, Kind, ObjectServer};
use harness::process::{self, is_alive, title};
use harness::sandbox::Adopts;
use harness::{Mark, Stop, privileged, require, wait_until};
use rustix::process::Signal;

use crate::support::ahead::{ALL, Far, PROMPT, Stopped, fetched_ahead, spool};
use crate::support::recovery::{rows, rows_after_recovery};

const CRASH: &str = "terminating any other active server processes";

impl Stopped {
    /// The calls of the server, as opposed to those that fetch ahead.
    fn calls(&self) -> Vec<i32> {
        let mut pids = self.far.processes();
        pids.retain(|pid| !title(*pid).contains("restore-ahead"));
        pids
    }

    /// Kills every process of `walsafe` while no call is under way.
    fn kill(&self) -> usize {
        wait_until(PROMPT, "the last call to end", || self.calls().is_empty().then_some(()));
        let pids = self.far.processes();
        for pid in &pids {
            process::signal(*pid, Signal::KILL);
        }
        wait_until(PROMPT, "them to end", || {
            (!pids.iter().any(|pid| is_alive(*pid))).then_some(())
        });
        pids.len()
    }

    /// The standby has all rows in the end, was never in trouble, and took files that were fetched ahead.
    fn gets_there(&self, mark: Mark) {
        let Self { far, standby, .. } = self;
        self.go_on();
        standby.wait_until("the rows", || (rows(standby) == "1,2,3,4,5,6").then_some(()));
        let log = standby.log().since(mark);
        assert!(!fetched_ahead(&log).is_empty(), "{log}");
        let mark = standby.mark();
        standby.promote();
        standby.sql("INSERT INTO rows VALUES (7)");
        assert_eq!(rows(standby), "1,2,3,4,5,6,7");
        far.assert_over(&spool(standby));
        for log in [log, standby.log().since(mark)] {
            assert!(!log.contains(CRASH) && !log.contains("was terminated by"), "{log}");
        }
    }
}

/// A recovery from its first file on, under a postmaster that is given orphans.
fn recovers_without_a_helper(adopts: Adopts) {
    let far = Far::lost();
    let cluster = far.early("pause").adopting(adopts).start();
    cluster.wait_for_log(Mark::default(), "pausing at the end of recovery");
    let own = spool(&cluster);
    assert_eq!(far.processes(), [0; 0], "processes that fetch ahead");
    assert!(cluster.stop(Stop::Fast) < PROMPT);
    cluster.set_conf("recovery_target_name", "");
    let mark = cluster.mark();
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), ALL);
    let log = cluster.log().text();
    assert!(!fetched_ahead(&log).is_empty() && !log.contains(CRASH), "{log}");
    assert!(!fetched_ahead(&cluster.log().since(mark)).is_empty(), "{log}");
    far.assert_over(&own);
}

/// In a container without an init of its own, where a helper that was killed for its memory restarted the server.
#[test]
fn process_1_is_left_no_orphan_and_survives_a_kill() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(privileged());
    let stopped = Stopped::new(|builder| builder.adopting(Adopts::Process1));
    let mark = stopped.standby.mark();
    assert_eq!(stopped.kill(), 0, "processes of walsafe between two calls");
    stopped.gets_there(mark);
    recovers_without_a_helper(Adopts::Process1);
}

/// A shutdown ends a call, and whoever works for it: as a crash, where that was an orphan by then. The shell that
/// the server starts a call with is one too, unless the call takes its place.
#[test]
fn process_1_is_stopped_in_the_middle_of_a_call() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(privileged());
    let far = Far::lost();
    let names = far.near.segments();
    let name = &names[names.len() / 2];
    let cluster = far.recovery("").adopting(Adopts::Process1).create();
    // With a watch over the work, and without.
    for options in ["--ahead 0", "--ahead 0 --stall-timeout 0"] {
        let slow = Fault::DripAnswer { bytes_a_second: 20_000 };
        let broken = far.proxy.break_each("GET", &format!("/wal/{name}"), slow);
        cluster.set_conf("restore_command", &format!("exec {}", far.command(options)));
        cluster.launch();
        broken.begun();
        thread::sleep(Duration::from_millis(300));
        let mark = cluster.mark();
        assert!(cluster.stop(Stop::Fast) < PROMPT);
        let log = cluster.log().since(mark);
        assert!(!log.contains(CRASH) && !log.contains("was terminated by"), "{options}: {log}");
        assert!(log.contains("database system is shut down"), "{options}: {log}");
        far.proxy.mend();
    }
    cluster.set_conf("restore_command", &far.command(""));
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), ALL);
}

#[test]
fn a_subreaper_is_left_no_orphan_and_survives_a_kill() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let stopped = Stopped::new(|builder| builder.adopting(Adopts::Subreaper));
    let mark = stopped.standby.mark();
    assert_eq!(stopped.kill(), 0, "processes of walsafe between two calls");
    stopped.gets_there(mark);
    recovers_without_a_helper(Adopts::Subreaper);
}

#[test]
fn a_helper_that_is_killed_is_replaced() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let stopped = Stopped::new(|builder| builder);
    let mark = stopped.standby.mark();
    assert!(stopped.kill() >= 1, "nobody fetched ahead");
    stopped.gets_there(mark);
}
