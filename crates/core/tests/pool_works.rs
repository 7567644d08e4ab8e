//! The pool: the file that is asked for, the next ones ahead of it, and calls that hang.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::*;
use walsafe_core::archive::{Job, Outcome};
use walsafe_core::error::Error;
use walsafe_core::pool::{AHEAD_PER_WORKER, Pool, Status};

const PATIENCE: Duration = Duration::from_secs(20);

/// Tests that count this process's threads, or fault all of them, run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pool whose threads have ended when it is dropped, so that none writes into a world that is
/// being removed.
struct Ending(Pool);

impl std::ops::Deref for Ending {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.0
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.retire();
        // One that hangs is let go after its pool in some tests.
        let start = Instant::now();
        while self.0.threads() > 0 && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn pool(world: &World, workers: usize) -> Ending {
    Ending(Pool::new(world.plan.clone(), workers).unwrap())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited for long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Looks until the file is finished.
fn finish(pool: &Pool, job: &Job) -> Result<Outcome, Error> {
    let mut result = None;
    wait_until(job.name.as_str(), || match pool.status(job) {
        Status::Finished(finished) => {
            result = Some(finished);
            true
        }
        Status::Pending { .. } => false,
    });
    result.unwrap()
}

fn archive(pool: &Pool, job: &Job) -> Result<Outcome, Error> {
    pool.ask(job);
    finish(pool, job)
}

fn segments(world: &World, count: u32) -> Vec<Job> {
    (1..=count).map(|n| world.segment(n, n.into())).collect()
}

/// How many of the files stand in the archive. They must be the first ones.
fn done_in_order(world: &World, jobs: &[Job]) -> usize {
    let there: Vec<bool> = jobs.iter().map(|job| world.path(job).exists()).collect();
    there.iter().filter(|there| **there).count()
}

fn threads_named_walsafe() -> usize {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.trim() == "walsafe")
        .count()
}

/// Takes what the handle holds, if anything.
fn is_readable(pool: &Pool) -> bool {
    let handle = pool.wake_handle().try_clone_to_owned().unwrap();
    matches!(UnixStream::from(handle).read(&mut [0; 64]), Ok(1..))
}

#[test]
fn files_are_archived_ahead_and_then_answered_at_once() {
    let _alone = alone();
    for workers in [1, 4] {
        let world = World::new();
        let jobs = segments(&world, 5);
        let pool = pool(&world, workers);
        pool.ask(&jobs[0]);
        assert!(pool.wants_more());
        pool.offer(jobs.iter().cloned());
        assert!(!finish(&pool, &jobs[0]).unwrap().already_present);
        let ahead = (1 + workers * AHEAD_PER_WORKER).min(jobs.len());
        wait_until("files ahead", || done_in_order(&world, &jobs) >= ahead);
        wait_until("no file under way", || pool.busy().is_none());
        for job in &jobs[1..ahead] {
            pool.ask(job);
            let Status::Finished(Ok(outcome)) = pool.status(job) else {
                panic!("{} is not answered at once", job.name)
            };
            assert!(!outcome.already_present, "each file was archived once");
        }
        assert!(pool.threads() <= workers);
    }
}

/// Without it every call of the server at the end of a batch lists all that waits once more.
#[test]
fn a_look_that_brought_nothing_new_is_not_repeated_until_the_server_knows_more() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 4);
    let pool = pool(&world, 2);
    pool.ask(&jobs[0]);
    assert!(pool.wants_more());
    pool.offer(jobs[..3].iter().cloned());
    wait_until("files ahead", || done_in_order(&world, &jobs) == 3);
    assert!(finish(&pool, &jobs[0]).is_ok());
    assert!(pool.wants_more(), "the batch is taken, and there may be others");
    pool.offer(jobs[1..3].iter().cloned());
    for job in &jobs[1..3] {
        assert!(!pool.wants_more(), "the look before brought nothing new");
        assert!(archive(&pool, job).is_ok());
    }
    pool.ask(&jobs[3]);
    assert!(pool.wants_more(), "the server has found another file");
    assert!(finish(&pool, &jobs[3]).is_ok());
}

#[test]
fn a_single_worker_goes_ahead_in_the_order_offered_and_no_further_than_its_bound() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 20);
    let pool = pool(&world, 1);
    archive(&pool, &jobs[0]).unwrap();
    pool.offer(jobs.iter().skip(1).cloned());
    for asked in 0..jobs.len() {
        let bound = (asked + 1 + AHEAD_PER_WORKER).min(jobs.len());
        let before = Instant::now();
        wait_until("the bound", || {
            let there: Vec<bool> = jobs.iter().map(|job| world.path(job).exists()).collect();
            let done = there.iter().filter(|there| **there).count();
            assert!(there[..done].iter().all(|there| *there), "out of order: {there:?}");
            assert!(done <= bound, "{done} of {bound}");
            done == bound
        });
        std::thread::sleep(Duration::from_millis(5).saturating_sub(before.elapsed()));
        assert_eq!(done_in_order(&world, &jobs), bound, "no further without a call");
        if let Some(next) = jobs.get(asked + 1) {
            pool.ask(next);
            assert!(matches!(pool.status(next), Status::Finished(Ok(_))));
        }
    }
}

#[test]
fn without_workers_nothing_is_archived_ahead() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 3);
    let pool = pool(&world, 0);
    assert!(!pool.wants_more());
    pool.ask(&jobs[0]);
    pool.offer(jobs.iter().cloned());
    finish(&pool, &jobs[0]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(done_in_order(&world, &jobs), 1);
    assert_eq!(pool.threads(), 1);
}

#[test]
fn the_handle_wakes_the_caller_for_every_file_and_is_quiet_between() {
    let _alone = alone();
    let world = World::new();
    let pool = pool(&world, 1);
    for job in segments(&world, 3) {
        pool.clear_wake();
        assert!(!is_readable(&pool));
        pool.ask(&job);
        wait_until("a wake-up", || is_readable(&pool));
        assert!(matches!(pool.status(&job), Status::Finished(Ok(_))));
    }
}

#[test]
fn a_failure_ahead_is_told_only_when_asked_for_and_after_a_fresh_try() {
    let _alone = alone();
    for mended in [true, false] {
        let world = World::new();
        let jobs = segments(&world, 6);
        // What stands under the second file's name is not the same.
        world.init();
        fs::write(world.path(&jobs[1]), "other").unwrap();
        let pool = pool(&world, 1);
        archive(&pool, &jobs[0]).unwrap();
        pool.offer(jobs[1..].iter().cloned());
        wait_until("the failure ahead", || pool.busy().is_none() && !pool.wants_more());
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(done_in_order(&world, &jobs), 2, "nothing is started ahead while one fails");

        if mended {
            fs::remove_file(world.path(&jobs[1])).unwrap();
            assert!(!archive(&pool, &jobs[1]).unwrap().already_present);
            wait_until("look-ahead to go on", || done_in_order(&world, &jobs) == jobs.len());
            continue;
        }
        for _ in 0..3 {
            pool.ask(&jobs[1]);
            let error = finish(&pool, &jobs[1]).unwrap_err();
            assert!(matches!(error, Error::Conflict { .. }), "{error}");
            assert!(!pool.wants_more());
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(done_in_order(&world, &jobs), 2, "nothing is started ahead meanwhile");
        }
        fs::remove_file(world.path(&jobs[1])).unwrap();
        archive(&pool, &jobs[1]).unwrap();
        wait_until("look-ahead to go on", || done_in_order(&world, &jobs) == jobs.len());
    }
}

#[test]
fn a_retired_pool_ends_its_threads() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 8);
    let before = threads_named_walsafe();
    let pool = pool(&world, 4);
    archive(&pool, &jobs[0]).unwrap();
    pool.offer(jobs[1..].iter().cloned());
    wait_until("threads", || pool.threads() > 1);
    pool.retire();
    wait_until("the threads to end", || pool.threads() == 0);
    wait_until("the threads to be gone", || threads_named_walsafe() == before);
    drop(pool);
    {
        let pool = Pool::new(world.plan.clone(), 2).unwrap();
        archive(&pool, &jobs[0]).unwrap();
    }
    wait_until("a dropped pool's threads to be gone", || threads_named_walsafe() == before);
}

/// Files that the server never asks for again: an administrator renamed their `.ready` to `.done`.
///
/// Fails without the pool forgetting results that order before the file asked for: they filled the
/// look-ahead until the next restart.
#[test]
fn results_that_nobody_asks_for_do_not_stop_the_look_ahead() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 12);
    let pool = pool(&world, 1);
    archive(&pool, &jobs[0]).unwrap();
    pool.offer(jobs[1..=AHEAD_PER_WORKER].iter().cloned());
    wait_until("the look-ahead", || done_in_order(&world, &jobs) == 1 + AHEAD_PER_WORKER);
    // None of them is asked for.
    let next = 1 + AHEAD_PER_WORKER;
    pool.ask(&jobs[next]);
    assert!(pool.wants_more());
    pool.offer(jobs[next..].iter().cloned());
    finish(&pool, &jobs[next]).unwrap();
    wait_until("look-ahead to go on", || done_in_order(&world, &jobs) > next + 1);
}

#[test]
fn a_file_that_is_offered_twice_is_archived_once() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 3);
    let pool = pool(&world, 1);
    archive(&pool, &jobs[0]).unwrap();
    for _ in 0..3 {
        pool.offer(jobs[1..].iter().cloned());
    }
    for job in &jobs[1..] {
        assert!(!archive(&pool, job).unwrap().already_present);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(pool.wants_more(), "nothing is left of what was offered twice");
    pool.ask(&jobs[1]);
    assert!(matches!(pool.status(&jobs[1]), Status::Pending { .. }), "no stale answer");
    assert!(finish(&pool, &jobs[1]).unwrap().already_present);
}

/// Calls that hang, threads that panic.
#[cfg(feature = "fault-injection")]
mod faulted {
    use super::*;
    use walsafe_core::error::ErrorKind;
    use walsafe_core::fault::{Effect, Fault, Op, Plan as Faults};

    fn hang(op: Op, skip: usize, times: usize) -> Faults {
        Faults::everywhere(vec![Fault { op, skip, times, effect: Effect::Hang }])
    }

    /// Segments of a server whose history conflicts came into the archive beside the refusal.
    #[test]
    fn nothing_goes_ahead_of_a_history_file() {
        let _alone = alone();
        let world = World::new();
        let jobs = segments(&world, 9);
        let history =
            world.wal("00000002.history", b"1\t0/3000000\tno recovery target specified\n");
        let theirs = "1\t0/2000000\tno recovery target specified\n";
        let pool = pool(&world, 4);
        assert!(archive(&pool, &jobs[8]).is_ok());
        fs::write(world.path(&history), theirs).unwrap();

        // The history file is looked at for a while; the files behind it wait.
        let faults = hang(Op::Flush, 0, 1);
        pool.ask(&history);
        wait_until("the history file to be under way", || faults.hits() == 1);
        pool.offer(jobs[..8].iter().cloned());
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(done_in_order(&world, &jobs[..8]), 0);
        faults.release();
        let refused = finish(&pool, &history).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConflictHistory);
        assert_eq!(done_in_order(&world, &jobs[..8]), 0);

        fs::remove_file(world.path(&history)).unwrap();
        assert!(archive(&pool, &history).is_ok());
        wait_until("files ahead", || done_in_order(&world, &jobs) == jobs.len());
    }

    fn still_for(pool: &Pool, job: &Job) -> Duration {
        match pool.status(job) {
            Status::Pending { still_for } => still_for,
            Status::Finished(result) => panic!("finished: {result:?}"),
        }
    }

    /// A hang in whatever the file's copy needs, and then the thaw.
    #[test]
    fn a_hang_is_told_by_its_time_nothing_more_is_started_and_the_late_result_counts() {
        let _alone = alone();
        for workers in [0, 4] {
            for op in [Op::OpenDirectory, Op::Write, Op::Flush, Op::LinkUnnamed, Op::FlushDirectory]
            {
                let world = World::new();
                let jobs = segments(&world, 8);
                let pool = pool(&world, workers);
                archive(&pool, &jobs[0]).unwrap();
                let faults = hang(op, 0, usize::MAX);
                pool.ask(&jobs[1]);
                if workers > 0 {
                    pool.offer(jobs[2..].iter().cloned());
                }
                wait_until("the hang", || faults.hits() >= workers.max(1));
                let first = still_for(&pool, &jobs[1]);
                std::thread::sleep(Duration::from_millis(60));
                let then = still_for(&pool, &jobs[1]);
                assert!(then >= first + Duration::from_millis(50), "{op:?}: {first:?}, {then:?}");

                pool.hold();
                let threads = pool.threads();
                assert_eq!(threads, workers.max(1), "{op:?}");
                let hits = faults.hits();
                for _ in 0..20 {
                    let stuck = pool.still_held();
                    assert!(stuck.is_some_and(|stuck| stuck >= then), "{op:?}: {stuck:?}");
                    assert!(!pool.wants_more());
                    // Even asked for again, and for another, nothing more starts.
                    pool.ask(&jobs[1]);
                    std::thread::sleep(Duration::from_millis(2));
                }
                assert_eq!(faults.hits(), hits, "{op:?}: nothing more was started");
                assert_eq!(pool.threads(), threads, "{op:?}");
                assert_eq!(threads_named_walsafe(), threads, "{op:?}");

                faults.release();
                wait_until("the thaw", || pool.still_held().is_none());
                for job in &jobs[1..] {
                    let outcome = archive(&pool, job).unwrap();
                    assert!(!outcome.already_present, "{op:?}: no file was archived twice");
                }
                assert_eq!(pool.threads(), threads, "{op:?}");
                drop(faults);
            }
            wait_until("the threads to be gone", || threads_named_walsafe() == 0);
        }
    }

    /// Idle threads are there, and files for them; while one call hangs they are left alone.
    #[test]
    fn a_pool_that_is_held_starts_nothing_though_threads_are_idle() {
        let _alone = alone();
        let world = World::new();
        let jobs = segments(&world, 6);
        let pool = pool(&world, 3);
        archive(&pool, &jobs[0]).unwrap();
        let faults = hang(Op::Flush, 0, 1);
        pool.ask(&jobs[1]);
        wait_until("the hang", || faults.hits() == 1);
        pool.hold();
        pool.offer(jobs[2..].iter().cloned());
        pool.ask(&jobs[2]);
        std::thread::sleep(Duration::from_millis(100));
        assert!(pool.still_held().is_some());
        assert_eq!(done_in_order(&world, &jobs), 1, "nothing was started");
        faults.release();
        wait_until("the release", || pool.still_held().is_none());
        for job in &jobs[1..] {
            assert!(!archive(&pool, job).unwrap().already_present);
        }
    }

    #[test]
    fn a_hang_ahead_does_not_hold_up_the_file_that_is_asked_for() {
        let _alone = alone();
        let world = World::new();
        let jobs = segments(&world, 4);
        let pool = pool(&world, 2);
        archive(&pool, &jobs[0]).unwrap();
        let faults = hang(Op::Flush, 0, 1);
        pool.offer([jobs[2].clone()]);
        wait_until("the hang", || faults.hits() == 1);
        archive(&pool, &jobs[1]).unwrap();
        pool.ask(&jobs[2]);
        assert!(matches!(pool.status(&jobs[2]), Status::Pending { .. }));
        assert_eq!(pool.threads(), 2);
        faults.release();
        assert!(!finish(&pool, &jobs[2]).unwrap().already_present);
    }

    #[test]
    fn a_copy_that_moves_slowly_is_not_still() {
        let _alone = alone();
        let world = World::new();
        let long = world.wal("long", &random(6 * SEGMENT, 1));
        let pool = pool(&world, 1);
        archive(&pool, &world.segment(1, 1)).unwrap();
        for skip in 0..3 {
            let _ = fs::remove_file(world.path(&long));
            let faults = hang(Op::Write, skip, 1);
            pool.ask(&long);
            wait_until("the hang", || faults.hits() == 1);
            std::thread::sleep(Duration::from_millis(80));
            assert!(still_for(&pool, &long) >= Duration::from_millis(60));
            pool.hold();
            assert!(pool.still_held().is_some());
            faults.release();
            wait_until("the release", || pool.still_held().is_none());
            assert!(!finish(&pool, &long).unwrap().already_present);
        }
    }

    /// A pool of other settings whose thread hangs is retired, and its late success is nobody's.
    #[test]
    fn a_pool_that_is_retired_while_a_call_hangs_ends_after_it() {
        let _alone = alone();
        let world = World::new();
        let jobs = segments(&world, 3);
        let old = pool(&world, 2);
        archive(&old, &jobs[0]).unwrap();
        let faults = hang(Op::Flush, 0, 1);
        old.ask(&jobs[1]);
        wait_until("the hang", || faults.hits() == 1);
        old.offer([jobs[2].clone()]);
        old.retire();
        assert!(old.busy().is_some());
        let new = pool(&world, 2);
        assert!(!archive(&new, &jobs[1]).unwrap().already_present);
        faults.release();
        wait_until("the old threads to end", || old.threads() == 0 && old.busy().is_none());
        archive(&new, &jobs[2]).unwrap();
        drop((old, new));
        wait_until("all threads to be gone", || threads_named_walsafe() == 0);
    }

    #[test]
    fn a_panic_in_a_thread_is_an_error_of_that_file_and_the_next_try_succeeds() {
        let _alone = alone();
        let world = World::new();
        let jobs = segments(&world, 4);
        let pool = pool(&world, 1);
        archive(&pool, &jobs[0]).unwrap();
        for op in [Op::Open, Op::Read, Op::Write, Op::Flush, Op::LinkUnnamed, Op::FlushDirectory] {
            let _ = fs::remove_file(world.path(&jobs[1]));
            let faults =
                Faults::everywhere(vec![Fault { op, skip: 0, times: 1, effect: Effect::Panic }]);
            let error = archive(&pool, &jobs[1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal, "{op:?}");
            assert!(error.detail().contains("was planned to panic"), "{}", error.detail());
            drop(faults);
            archive(&pool, &jobs[1]).unwrap();
            assert_eq!(pool.threads(), 1, "the thread goes on");
        }
        assert!(!world.names().iter().any(|name| name.starts_with('.')));
        // Ahead, it is tried once more before anything is told.
        let faults = Faults::everywhere(vec![Fault {
            op: Op::Write,
            skip: 0,
            times: 1,
            effect: Effect::Panic,
        }]);
        pool.offer([jobs[2].clone()]);
        wait_until("the panic ahead", || faults.hits() == 1 && pool.busy().is_none());
        assert!(!archive(&pool, &jobs[2]).unwrap().already_present);
    }

    /// The stated bounds, with everything that can pile up piling up.
    #[test]
    fn threads_and_files_ahead_stay_within_their_bounds() {
        let _alone = alone();
        let world = World::new();
        let jobs = segments(&world, 60);
        let pool = pool(&world, 3);
        archive(&pool, &jobs[0]).unwrap();
        let faults = hang(Op::FlushDirectory, 0, usize::MAX);
        pool.offer(jobs[1..].iter().cloned());
        wait_until("all threads to hang", || faults.hits() == 3);
        pool.ask(&jobs[1]);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!((pool.threads(), faults.hits()), (3, 3));
        faults.release();
        let bound = 1 + 3 * AHEAD_PER_WORKER;
        wait_until("the bound", || done_in_order(&world, &jobs) == bound);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(done_in_order(&world, &jobs), bound);
        assert_eq!(pool.threads(), 3);
    }
}
