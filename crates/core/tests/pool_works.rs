//! The pool: the file that is asked for, and the next ones ahead of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/pools.rs"]
mod pools;

use std::fs;
use std::time::Duration;

use common::*;
use pools::*;
use walsafe_core::archive::Job;
use walsafe_core::archive::pool::{Answer, Group, Pool};
use walsafe_core::error::Error;

#[test]
fn files_are_archived_ahead_and_then_answered_at_once() {
    let _alone = alone();
    for workers in [1, 4] {
        let world = World::new();
        let jobs = segments(&world, 5);
        let pool = pool(&world, workers);
        goes_on(&pool, &world, &jobs[0], &jobs[1..]);
        assert!(!finish(&pool, &jobs[0]).unwrap().already_present());
        wait_until("files ahead", || done_in_order(&world, &jobs) == jobs.len());
        wait_until("no file under way", || pool.busy().is_none());
        for job in &jobs[1..] {
            pool.ask(job);
            let Some(Answer::Archived(outcome)) = pool.take(job) else {
                panic!("{} is not answered at once", job.name)
            };
            assert!(!outcome.already_present(), "each file was archived once");
        }
        assert!(pool.threads() <= workers);
    }
}

/// A destination that was sound stood still at four files a worker behind the one that the server asked for,
/// as long as another destination failed or hung.
#[test]
fn the_whole_backlog_is_archived_in_order_although_the_server_asks_for_one_file() {
    let _alone = alone();
    for workers in [1, 3] {
        let world = World::new();
        let jobs = segments(&world, 60);
        let pool = pool(&world, workers);
        waits(&world, &jobs);
        held_up(&pool, &jobs[0]).unwrap();
        wait_until("the backlog", || {
            let there: Vec<bool> = jobs.iter().map(|job| world.path(job).exists()).collect();
            let done = there.iter().filter(|there| **there).count();
            assert!(there[..done].iter().all(|there| *there), "out of order: {there:?}");
            done == jobs.len()
        });
        // WAL goes on, and the server is still at the same file.
        let more: Vec<Job> = (100..110).map(|n| world.segment(n, n.into())).collect();
        waits(&world, jobs.iter().chain(&more));
        wait_until("what came later", || done_in_order(&world, &more) == more.len());
        wait_until("no file under way", || pool.busy().is_none());
        for (n, job) in jobs.iter().chain(&more).enumerate() {
            pool.ask(job);
            let answer = pool.take(job);
            let expected = match n {
                0 => matches!(answer, Some(Answer::Remembered(_))),
                _ => matches!(answer, Some(Answer::Archived(_))),
            };
            assert!(expected, "{}: {answer:?}", job.name);
        }
    }
}

#[test]
fn without_workers_nothing_is_archived_ahead() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 3);
    let pool = pool(&world, 0);
    goes_on(&pool, &world, &jobs[0], &jobs[1..]);
    finish(&pool, &jobs[0]).unwrap();
    pool.ask(&jobs[0]);
    assert!(matches!(pool.take(&jobs[0]), Some(Answer::Remembered(_))));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(done_in_order(&world, &jobs), 1);
    assert_eq!(pool.threads(), 1);
}

/// The server is told "archived", and later has another file under the same name.
#[test]
fn what_the_server_was_told_is_not_remembered() {
    let _alone = alone();
    let world = World::new();
    let job = world.segment(1, 1);
    let pool = pool(&world, 2);
    held_up(&pool, &job).unwrap();
    assert!(!archive(&pool, &job).unwrap().already_present(), "it is remembered");
    assert!(archive(&pool, &job).unwrap().already_present(), "it is looked up");
    world.segment(1, 2);
    let error = archive(&pool, &job).unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
}

#[test]
fn the_handle_wakes_the_caller_for_every_file_and_is_quiet_between() {
    let _alone = alone();
    let world = World::new();
    let pool = pool(&world, 1);
    for job in segments(&world, 3) {
        pool.clear_wake();
        assert!(!pool.is_readable());
        pool.ask(&job);
        wait_until("a wake-up", || pool.is_readable());
        assert!(matches!(pool.take(&job), Some(Answer::Archived(_))));
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
        waits(&world, &jobs);
        archive(&pool, &jobs[0]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(done_in_order(&world, &jobs), 2, "nothing is started ahead while one fails");

        waits(&world, &jobs[1..]);
        if mended {
            fs::remove_file(world.path(&jobs[1])).unwrap();
            assert!(!archive(&pool, &jobs[1]).unwrap().already_present());
            wait_until("look-ahead to go on", || done_in_order(&world, &jobs) == jobs.len());
            continue;
        }
        for _ in 0..3 {
            pool.ask(&jobs[1]);
            let error = finish(&pool, &jobs[1]).unwrap_err();
            assert!(matches!(error, Error::Conflict { .. }), "{error}");
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
    waits(&world, &jobs);
    let first = pool(&world, 4);
    archive(&first, &jobs[0]).unwrap();
    wait_until("threads", || first.threads() > 1);
    first.retire();
    wait_until("the threads to end", || first.threads() == 0);
    wait_until("the threads to be gone", || threads_named_walsafe() == before);
    drop(first);
    {
        let group = Group::new().unwrap();
        let dropped = Pool::new(world.plan.clone(), 2, &group);
        archive(&dropped, &jobs[0]).unwrap();
    }
    wait_until("a dropped pool's threads to be gone", || threads_named_walsafe() == before);
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
        waits(&world, [&jobs[0], &jobs[2], &jobs[3]]);
        held_up(&pool, &jobs[0]).unwrap();
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
        waits(&world, []);
        for n in [1, 0, 2, 3] {
            let outcome = archive(&pool, &jobs[n]).unwrap();
            assert!(world.path(&jobs[n]).exists(), "{} is in no archive", jobs[n].name);
            assert_eq!(outcome.already_present(), !replaced && n != 1);
        }
    }
}
