//! A file that is given back while two threads work on it: one reads and decodes, the other checks and writes.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;
#[path = "common/pools.rs"]
mod pools;
#[path = "common/restores.rs"]
mod restores;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use common::*;
use pools::{alone, wait_until};
use restores::{origins, request};
use walsafe_core::archive::Job;
use walsafe_core::restore::{self, Outcome, RestoreError, Round};
use walsafe_core::store::Progress;
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan};

/// An archive with one segment, which has four chunks, and a data directory to restore into.
struct Place {
    world: World,
    job: Job,
    data: PathBuf,
}

impl Place {
    fn new(codec: &str) -> Self {
        let mut world = World::new();
        world.plan.compression = compression(codec);
        let job = world.segment(1, 1);
        world.run(&job).unwrap();
        let data = world.root.path().join("restored");
        fs::create_dir_all(data.join("pg_wal")).unwrap();
        Self { world, job, data }
    }

    fn restore(&self, steps: &Progress) -> Result<Outcome, RestoreError> {
        let (archives, round) =
            (origins(std::slice::from_ref(&self.world.archive)), Round::default());
        let target = self.data.join("pg_wal/RECOVERYXLOG");
        restore::restore(&request(&archives, &self.job.name, (&self.data, &target), steps, &round))
    }

    /// Restores, and makes sure that the file is what was archived.
    fn delivers(&self) {
        let outcome = self.restore(&Progress::default());
        assert!(matches!(outcome, Ok(Outcome::Delivered { .. })), "{outcome:?}");
        let content = fs::read(self.data.join("pg_wal/RECOVERYXLOG")).unwrap();
        assert!(content == fs::read(&self.job.source).unwrap());
        fs::remove_file(self.data.join("pg_wal/RECOVERYXLOG")).unwrap();
    }

    /// Every name in the server's `pg_wal`.
    fn names(&self) -> Vec<String> {
        names(&self.data.join("pg_wal"))
    }
}

fn at_write(skip: usize, effect: Effect) -> Vec<Fault> {
    vec![Fault { op: Op::Write, skip, times: 1, effect }]
}

/// Restoring alternated: while a chunk was written, nothing was read. A segment took the sum of both.
#[test]
fn reading_goes_on_while_a_write_is_under_way() {
    let _alone = alone();
    let place = Place::new("none");
    // One thread, which stops at the first write.
    let alternating = Progress::default();
    let fail = |op| Fault { op, skip: 0, times: 1, effect: Effect::Fail(libc::EAGAIN) };
    let faults = Plan::new(vec![fail(Op::StartThread), fail(Op::Write)]);
    place.restore(&alternating).unwrap_err();
    assert_eq!(faults.hits(), 2);
    drop(faults);
    let faults = Plan::everywhere(at_write(0, Effect::Hang));
    let steps = Progress::default();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| place.restore(&steps).is_ok());
        wait_until("the write", || faults.hits() == 1);
        let went_on = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            steps.steps() >= alternating.steps() + 2
        });
        let ended = run.is_finished();
        // Before the first assertion: otherwise a failure would wait for the hang.
        faults.release();
        assert!(went_on && !ended);
        assert!(run.join().unwrap());
    });
}

/// What is read and decoded by then must not be taken for the file.
#[test]
fn a_fault_in_any_write_delivers_nothing() {
    let _alone = alone();
    for codec in CODECS {
        let place = Place::new(codec);
        for skip in 0..4 {
            let faults = Plan::new(at_write(skip, Effect::Fail(libc::ENOSPC)));
            let error = place.restore(&Progress::default()).unwrap_err();
            assert!(matches!(error, RestoreError::Deliver { .. }), "{codec}, {skip}: {error:?}");
            assert_eq!(faults.hits(), 1);
            drop(faults);
            assert!(place.names().is_empty(), "{codec}, {skip}: {:?}", place.names());
        }
        place.delivers();
    }
}

/// A panic ends the call, and with it the program's, whichever thread it comes from.
#[test]
fn a_panic_of_the_second_thread_delivers_nothing() {
    let _alone = alone();
    for codec in CODECS {
        let place = Place::new(codec);
        let faults = Plan::new(at_write(1, Effect::Panic));
        let result = catch_unwind(AssertUnwindSafe(|| place.restore(&Progress::default()).is_ok()));
        assert!(result.is_err(), "{codec}");
        drop(faults);
        assert!(place.names().is_empty(), "{codec}: {:?}", place.names());
        place.delivers();
    }
}

#[test]
fn where_no_second_thread_can_be_started_one_does_it_all() {
    let _alone = alone();
    for codec in CODECS {
        let place = Place::new(codec);
        let effect = Effect::Fail(libc::EAGAIN);
        let faults = Plan::new(vec![Fault { op: Op::StartThread, skip: 0, times: 1, effect }]);
        place.delivers();
        assert_eq!(faults.hits(), 1, "{codec}");
    }
}

/// The thread costs more than it gains.
#[test]
fn a_short_file_is_restored_by_one_thread() {
    let _alone = alone();
    let place = Place::new("none");
    let job = place.world.wal("00000002.history", b"1\t0/3000060\tno reason\n");
    place.world.run(&job).unwrap();
    let place = Place { job, ..place };
    let faults = Plan::new(Vec::new());
    place.delivers();
    assert!(!faults.calls().contains(&Op::StartThread));
}
