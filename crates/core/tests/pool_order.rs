//! The pool publishes in the server's order, in batches, and nothing of a batch counts before its flush.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/pools.rs"]
mod pools;
#[path = "common/proof.rs"]
mod proof;

use std::fs;
use std::time::Duration;

use common::*;
use pools::*;
use proof::*;
use walsafe_core::archive::Job;
use walsafe_core::archive::pool::AHEAD_PER_WORKER;
use walsafe_core::error::ErrorKind;
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan as Faults};

fn fault(op: Op, effect: Effect) -> Fault {
    Fault { op, skip: 0, times: 1, effect }
}

/// A pool whose first file hangs in the flush of its copy, while all others are ready behind it.
fn ready_behind_the_first(world: &World, jobs: &[Job], more: Vec<Fault>) -> (Ending, Faults) {
    let workers = jobs.len().div_ceil(AHEAD_PER_WORKER).max(2);
    let pool = pool(world, workers);
    waits(world, []);
    let before = world.segment(100, 100);
    archive(&pool, &before).unwrap();
    let faults = Faults::everywhere([vec![fault(Op::Flush, Effect::Hang)], more].concat());
    pool.ask(&jobs[0]);
    wait_until("the hang", || faults.hits() == 1);
    goes_on(&pool, world, &jobs[0], jobs);
    let flushes = || faults.calls().iter().filter(|op| **op == Op::Flush).count();
    wait_until("the others to be ready", || flushes() == jobs.len());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(done_in_order(world, jobs), 0, "published before the first");
    (pool, faults)
}

fn replace_archive(world: &World) -> std::path::PathBuf {
    let aside = world.root.path().join("aside");
    fs::rename(&world.archive, &aside).unwrap();
    fs::create_dir(&world.archive).unwrap();
    world.init();
    aside
}

#[test]
fn what_is_ready_is_published_as_one_batch_with_one_flush() {
    let _alone = alone();
    for count in [1, 2, 4, 8] {
        let world = World::new();
        let jobs = segments(&world, count);
        let (pool, faults) = ready_behind_the_first(&world, &jobs, Vec::new());
        let before = faults.calls().len();
        faults.thaw();
        for job in &jobs {
            pool.ask(job);
            assert!(!finish(&pool, job).unwrap().already_present());
        }
        let calls = &faults.calls()[before..];
        let steps: Vec<_> =
            calls.iter().filter(|op| matches!(op, Op::LinkUnnamed | Op::FlushDirectory)).collect();
        let mut batch = vec![&Op::LinkUnnamed; jobs.len()];
        batch.push(&Op::FlushDirectory);
        assert_eq!(steps, batch);
    }
}

/// One failed flush must not be taken for the success of a whole batch by the next one that succeeds: each
/// of its names is looked up on a new visit, and read back past the cache, before it counts.
#[test]
fn if_the_flush_of_a_batch_fails_each_of_its_names_is_proven_anew() {
    let _alone = alone();
    for count in [1, 2, 4, 8] {
        let world = World::new();
        let jobs = segments(&world, count);
        let failing = vec![fault(Op::FlushDirectory, Effect::Fail(libc::EIO))];
        let (pool, faults) = ready_behind_the_first(&world, &jobs, failing);
        faults.thaw();
        assert_eq!(finish(&pool, &jobs[0]).unwrap_err().kind(), ErrorKind::IoError);
        drop(faults);
        assert_eq!(done_in_order(&world, &jobs), jobs.len(), "they have their names");
        // The server's calls alone.
        waits(&world, []);
        for job in &jobs {
            let trace = Faults::everywhere(Vec::new());
            pool.ask(job);
            assert!(pool.take(job).is_none(), "{} counts by a flush that failed", job.name);
            assert!(finish(&pool, job).unwrap().already_present());
            pool.answered(job);
            assert_proven(&trace.calls(), job.name.as_str());
        }
    }
}

/// A batch whose flush failed, on a disk that was replaced before the next try: every file is archived anew.
#[test]
fn after_a_failed_flush_of_a_batch_another_disk_gets_all_of_it() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 4);
    let failing = vec![fault(Op::FlushDirectory, Effect::Fail(libc::EIO))];
    let (pool, faults) = ready_behind_the_first(&world, &jobs, failing);
    faults.thaw();
    finish(&pool, &jobs[0]).unwrap_err();
    drop(faults);
    replace_archive(&world);
    waits(&world, []);
    for (n, job) in jobs.iter().enumerate() {
        assert!(!archive(&pool, job).unwrap().already_present());
        assert_eq!(done_in_order(&world, &jobs), n + 1);
    }
}

/// The copy was flushed and named, on a disk that is no longer there.
#[test]
fn the_path_must_still_lead_to_the_directory_after_its_last_flush() {
    let _alone = alone();
    for workers in [0, 2] {
        let world = World::new();
        let jobs = segments(&world, 2);
        let pool = pool(&world, workers);
        archive(&pool, &jobs[0]).unwrap();
        let faults = Faults::everywhere(vec![fault(Op::FlushDirectory, Effect::Hang)]);
        pool.ask(&jobs[1]);
        wait_until("the hang", || faults.hits() == 1);
        let aside = replace_archive_beside(&world, &faults);
        let refused = finish(&pool, &jobs[1]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Replaced, "{refused}");
        assert!(refused.detail().contains(world.archive.to_str().unwrap()), "{}", refused.detail());
        assert!(aside.join(jobs[1].name.as_str()).exists() && !world.path(&jobs[1]).exists());
        drop(faults);
        assert!(!archive(&pool, &jobs[1]).unwrap().already_present());
        assert!(world.path(&jobs[1]).exists());
    }
}

/// The same, while a call hangs: what the test itself does to the new directory must not hang too.
fn replace_archive_beside(world: &World, faults: &Faults) -> std::path::PathBuf {
    let aside = replace_archive(world);
    faults.thaw();
    aside
}

/// Copies that are ready when a hang is reported, or when a setting changes, lie where the path led then.
#[test]
fn what_was_ready_before_a_hang_or_a_reload_counts_for_nothing() {
    let _alone = alone();
    for (reported, reloaded) in [(true, false), (false, true), (true, true)] {
        for replaced in [false, true] {
            let world = World::new();
            let jobs = segments(&world, 5);
            let (old, faults) = ready_behind_the_first(&world, &jobs, Vec::new());
            if reported {
                old.hold(Duration::ZERO);
            }
            if reloaded {
                old.retire();
            }
            let aside = if replaced { replace_archive(&world) } else { world.archive.clone() };
            faults.release();
            wait_until("the thaw", || old.busy().is_none() && old.held().is_none());
            if reloaded {
                wait_until("the threads to end", || old.threads() == 0);
            }
            drop(faults);
            waits(&world, []);
            let new = if reloaded { pool(&world, 2) } else { old };
            for (n, job) in jobs.iter().enumerate() {
                assert_eq!(done_in_order(&world, &jobs), n, "published by what was ready before");
                new.ask(job);
                assert!(new.take(job).is_none(), "{} counts", job.name);
                assert!(!finish(&new, job).unwrap().already_present());
                assert!(world.path(job).exists(), "{} is in no archive", job.name);
                assert!(!replaced || !aside.join(job.name.as_str()).exists());
            }
            assert!(!world.names().iter().any(|name| name.starts_with('.')));
        }
    }
}

/// A copy that waits for its turn is of the file that the server had then under that name.
#[test]
fn a_copy_that_waits_is_not_published_once_its_source_was_reused() {
    let _alone = alone();
    for staging in STAGINGS {
        let mut world = World::new();
        world.plan.staging = staging;
        let jobs = segments(&world, 3);
        let (pool, faults) = ready_behind_the_first(&world, &jobs, Vec::new());
        // The second one was archived elsewhere, and its segment gets its next name and contents.
        let reused = world.pg_wal.join(segment_name(1, 9));
        fs::rename(&jobs[1].source, &reused).unwrap();
        let mut content = fs::OpenOptions::new().write(true).open(&reused).unwrap();
        std::io::Write::write_all(&mut content, &segment(1, 9, 9)).unwrap();
        faults.release();
        assert!(finish(&pool, &jobs[0]).is_ok());
        wait_until("the threads to be through", || pool.busy().is_none());
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(done_in_order(&world, &jobs), 1, "{staging:?}: the others stay out of sight");
        assert!(!world.path(&jobs[1]).exists(), "{staging:?}: published from a reused segment");
        assert!(!world.names().iter().any(|name| name.starts_with('.')), "{staging:?}");
    }
}

/// Files ahead were published behind one that conflicts, cannot be read or has vanished: a server that had
/// left the archive's history added to it behind the point where it left.
#[test]
fn nothing_ahead_passes_a_file_that_is_not_archived() {
    let _alone = alone();
    for workers in [1, 2, 4, 8] {
        for blocked_by in ["a conflict", "an unreadable file", "a file that has vanished"] {
            let world = World::new();
            let jobs = segments(&world, 6);
            let pool = pool(&world, workers);
            held_up(&pool, &jobs[0]).unwrap();
            match blocked_by {
                "a conflict" => fs::write(world.path(&jobs[1]), "other").unwrap(),
                "an unreadable file" => fs::write(&jobs[1].source, "short").unwrap(),
                _ => fs::remove_file(&jobs[1].source).unwrap(),
            }
            let there = world.names();
            for asked in [0, 1, 1] {
                goes_on(&pool, &world, &jobs[asked], &jobs[1..]);
                let result = finish(&pool, &jobs[asked]);
                assert_eq!(result.is_ok(), asked == 0);
                wait_until("the threads to be through", || pool.busy().is_none());
                std::thread::sleep(Duration::from_millis(30));
                assert_eq!(world.names(), there, "{workers} workers, {blocked_by}");
            }
        }
    }
}

/// Names that appear late, below the file that the server asks for: it is not held back by them, and
/// nothing else passes them.
#[test]
fn a_file_that_is_asked_for_waits_for_no_other() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 6);
    let late =
        world.wal("000000010000000000000001.00000028.backup", b"START WAL LOCATION: 0/100028");
    let pool = pool(&world, 3);
    held_up(&pool, &jobs[0]).unwrap();
    let faults = Faults::everywhere(vec![fault(Op::Flush, Effect::Hang)]);
    goes_on(&pool, &world, &jobs[0], [&late]);
    wait_until("the hang", || faults.hits() == 1);
    goes_on(&pool, &world, &jobs[1], jobs[1..].iter().chain([&late]));
    for job in &jobs[1..3] {
        pool.ask(job);
        assert!(!finish(&pool, job).unwrap().already_present());
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(done_in_order(&world, &jobs), 3, "nothing else passes it");
    faults.release();
    wait_until("all of them", || done_in_order(&world, &jobs) == jobs.len());
    assert!(world.path(&late).exists());
}

/// Open files are a thing that a server has little of.
#[test]
fn what_waits_for_its_turn_keeps_few_descriptors_open() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 8);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let (pool, faults) = ready_behind_the_first(&world, &jobs, Vec::new());
    let each = (open() - before) as f64 / jobs.len() as f64;
    assert!(each <= 4.0, "{each} descriptors for each file");
    faults.release();
    wait_until("all of them", || done_in_order(&world, &jobs) == jobs.len());
    for job in &jobs {
        archive(&pool, job).unwrap();
    }
    drop(pool);
    wait_until("the threads to be gone", || threads_named_walsafe() == 0);
    assert!(open() <= before, "descriptors are left open");
}
