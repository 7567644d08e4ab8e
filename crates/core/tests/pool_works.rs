//! The pool: the file that is asked for, and the next ones ahead of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/pools.rs"]
mod pools;

use std::fs;
use std::time::{Duration, Instant};

use common::*;
use pools::*;
use walsafe_core::archive::pool::{AHEAD_PER_WORKER, Pool};
use walsafe_core::error::Error;

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
        assert!(!finish(&pool, &jobs[0]).unwrap().already_present());
        let ahead = (1 + workers * AHEAD_PER_WORKER).min(jobs.len());
        wait_until("files ahead", || done_in_order(&world, &jobs) >= ahead);
        wait_until("no file under way", || pool.busy().is_none());
        for job in &jobs[1..ahead] {
            pool.ask(job);
            let Some(Ok(outcome)) = pool.take(job) else {
                panic!("{} is not answered at once", job.name)
            };
            assert!(!outcome.already_present(), "each file was archived once");
        }
        assert!(pool.threads() <= workers);
    }
}

/// If the pool did not remember such a look, every call of the server at the end of a batch would list all
/// waiting files once more.
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
            assert!(matches!(pool.take(next), Some(Ok(_))));
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
        assert!(matches!(pool.take(&job), Some(Ok(_))));
    }
}

#[test]
fn a_failure_ahead_is_reported_only_when_asked_for_and_after_a_fresh_try() {
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
            assert!(!archive(&pool, &jobs[1]).unwrap().already_present());
            goes_on(&pool, &jobs[2..]);
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
        goes_on(&pool, &jobs[2..]);
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
        assert!(!archive(&pool, job).unwrap().already_present());
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(pool.wants_more(), "nothing is left of what was offered twice");
    pool.ask(&jobs[1]);
    assert!(pool.take(&jobs[1]).is_none(), "no stale answer");
    assert!(finish(&pool, &jobs[1]).unwrap().already_present());
}

/// A disk that failed is replaced: what was archived ahead went down with it.
///
/// Fails without the generations: the file that had failed went to the new disk, those after it were
/// answered from memory, and were in no archive.
#[test]
fn a_success_ahead_from_before_a_failure_is_looked_up_once_more() {
    let _alone = alone();
    for replaced in [true, false] {
        let world = World::new();
        let jobs = segments(&world, 4);
        let pool = pool(&world, 2);
        archive(&pool, &jobs[0]).unwrap();
        pool.offer(jobs[2..].iter().cloned());
        wait_until("files ahead", || done_in_order(&world, &jobs) == 3 && pool.busy().is_none());
        // What stands under the second file's name is not the same.
        fs::write(world.path(&jobs[1]), "other").unwrap();
        archive(&pool, &jobs[1]).unwrap_err();
        if replaced {
            fs::rename(&world.archive, world.root.path().join("broken")).unwrap();
            fs::create_dir(&world.archive).unwrap();
            world.init();
        } else {
            fs::remove_file(world.path(&jobs[1])).unwrap();
        }
        for (n, job) in jobs.iter().enumerate().skip(1) {
            let outcome = archive(&pool, job).unwrap();
            assert!(world.path(job).exists(), "{} is in no archive", job.name);
            assert_eq!(outcome.already_present(), !replaced && n > 1);
        }
    }
}
