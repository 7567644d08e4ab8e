//! The pool in trouble: calls that hang, threads that panic or cannot be started, no memory.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/pools.rs"]
mod pools;
mod wal_support;

use std::fs;
use std::time::Duration;

use common::*;
use pools::*;
use walsafe_core::archive::pool::{AHEAD_PER_WORKER, Pool};
use walsafe_core::archive::pools::{Pools, Step};
use walsafe_core::archive::{Job, Notice, Plan};
use walsafe_core::error::ErrorKind;
use walsafe_core::server::settings::CheckWal;
use walsafe_core::store::directory::Staging;
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan as Faults};

fn hang(op: Op, skip: usize, times: usize) -> Faults {
    Faults::everywhere(vec![Fault { op, skip, times, effect: Effect::Hang }])
}

/// When a server's history file conflicted, its segments came into the archive all the same.
#[test]
fn nothing_is_published_ahead_of_a_history_file() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 9);
    let history = world.wal("00000002.history", b"1\t0/3000000\tno recovery target specified\n");
    let theirs = "1\t0/2000000\tno recovery target specified\n";
    let pool = pool(&world, 4);
    assert!(archive(&pool, &jobs[8]).is_ok());
    fs::write(world.path(&history), theirs).unwrap();

    // The history file is looked at for a while; the files behind it wait.
    let faults = hang(Op::Flush, 0, 1);
    pool.ask(&history);
    wait_until("the history file to be under way", || faults.hits() == 1);
    goes_on(&pool, &world, &history, &jobs[..8]);
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
    if let Some(result) = take(pool, job) {
        panic!("finished: {result:?}");
    }
    pool.still_for(job)
}

/// A hang in whatever the file's copy needs, and then the thaw. The late result counted, although the path
/// may lead to another disk by then: the file is looked up once more, on a new visit.
#[test]
fn a_hang_is_reported_by_its_time_nothing_more_is_started_and_the_late_result_does_not_count() {
    let _alone = alone();
    for workers in [0, 4] {
        for op in [Op::OpenDirectory, Op::Write, Op::Flush, Op::LinkUnnamed, Op::FlushDirectory] {
            let world = World::new();
            let jobs = segments(&world, 8);
            let pool = pool(&world, workers);
            waits(&world, &jobs[..1]);
            held_up(&pool, &jobs[0]).unwrap();
            wait_until("no look", || pool.threads() == workers.clamp(1, 2));
            std::thread::sleep(Duration::from_millis(20));
            let faults = hang(op, 0, usize::MAX);
            goes_on(&pool, &world, &jobs[1], &jobs[2..]);
            // One thread publishes, in the server's order. The others make files ready meanwhile. A look opens
            // a directory too, and finds nothing as long as that hangs.
            let publishes = matches!(op, Op::LinkUnnamed | Op::FlushDirectory);
            let busy = if op == Op::OpenDirectory { workers.clamp(1, 2) } else { workers.max(1) };
            wait_until("the hang", || faults.hits() >= if publishes { 1 } else { busy });
            wait_until("the threads", || pool.threads() == busy);
            if publishes && workers > 0 {
                wait_until("the others to be ready", || {
                    let calls = faults.calls();
                    calls.iter().filter(|op| **op == Op::Flush).count() == jobs.len() - 1
                });
            }
            let first = still_for(&pool, &jobs[1]);
            std::thread::sleep(Duration::from_millis(60));
            let then = still_for(&pool, &jobs[1]);
            assert!(then >= first + Duration::from_millis(50), "{op:?}: {first:?}, {then:?}");

            pool.hold(then);
            let threads = pool.threads();
            assert_eq!(threads, busy, "{op:?}");
            let hits = faults.hits();
            for _ in 0..20 {
                let stuck = pool.held();
                assert!(stuck.is_some_and(|stuck| stuck >= then), "{op:?}: {stuck:?}");
                // Even asked for again, and for another, nothing more starts.
                pool.ask(&jobs[1]);
                std::thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(faults.hits(), hits, "{op:?}: nothing more was started");
            assert_eq!(pool.threads(), threads, "{op:?}");
            assert_eq!(threads_named_walsafe(), threads, "{op:?}");

            faults.release();
            wait_until("the thaw", || pool.held().is_none());
            waits(&world, []);
            // If it has its name by now, it is found, and read back past the cache.
            for (n, job) in jobs.iter().enumerate().skip(1) {
                let outcome = archive(&pool, job).unwrap();
                let (there, batch) = (outcome.already_present(), op == Op::FlushDirectory);
                assert!(there == (n == 1 && publishes) || (batch && n > 1), "{op:?}: {n}");
            }
            assert!(pool.threads() <= workers.max(1), "{op:?}");
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
    pool.hold(Duration::ZERO);
    goes_on(&pool, &world, &jobs[2], &jobs[2..]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(pool.held().is_some());
    assert_eq!(done_in_order(&world, &jobs), 1, "nothing was started");
    faults.release();
    wait_until("the release", || pool.held().is_none());
    for job in &jobs[1..] {
        assert!(!archive(&pool, job).unwrap().already_present());
    }
}

#[test]
fn a_hang_ahead_does_not_hold_up_the_file_that_is_asked_for() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 4);
    let pool = pool(&world, 2);
    held_up(&pool, &jobs[0]).unwrap();
    let faults = hang(Op::Flush, 0, 1);
    goes_on(&pool, &world, &jobs[0], [&jobs[2]]);
    wait_until("the hang", || faults.hits() == 1);
    archive(&pool, &jobs[1]).unwrap();
    pool.ask(&jobs[2]);
    assert!(pool.take(&jobs[2]).is_none());
    assert_eq!(pool.threads(), 2);
    faults.release();
    assert!(!finish(&pool, &jobs[2]).unwrap().already_present());
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
        pool.hold(Duration::ZERO);
        assert!(pool.held().is_some());
        faults.release();
        wait_until("the release", || pool.held().is_none());
        assert!(!archive(&pool, &long).unwrap().already_present());
    }
}

/// A pool of other settings whose thread hangs is retired, and its late success counts for nobody.
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
    goes_on(&old, &world, &jobs[1], [&jobs[2]]);
    old.retire();
    assert!(old.busy().is_some());
    let new = pool(&world, 2);
    assert!(!archive(&new, &jobs[1]).unwrap().already_present());
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
    waits(&world, []);
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
    // If it failed ahead, it is tried once more before anything is reported.
    let faults =
        Faults::everywhere(vec![Fault { op: Op::Write, skip: 0, times: 1, effect: Effect::Panic }]);
    held_up(&pool, &jobs[0]).unwrap();
    goes_on(&pool, &world, &jobs[0], [&jobs[2]]);
    wait_until("the panic ahead", || faults.hits() == 1 && pool.busy().is_none());
    assert!(!archive(&pool, &jobs[2]).unwrap().already_present());
}

/// The stated bounds, with everything that can pile up piling up.
#[test]
fn threads_and_files_ahead_stay_within_their_bounds() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 60);
    let pool = pool(&world, 3);
    held_up(&pool, &jobs[0]).unwrap();
    let faults = hang(Op::FlushDirectory, 0, usize::MAX);
    goes_on(&pool, &world, &jobs[0], &jobs[1..]);
    // One thread publishes the first, and hangs. The others make ready what the bound allows.
    let bound = 3 * AHEAD_PER_WORKER;
    let ready = || faults.calls().iter().filter(|op| **op == Op::Flush).count();
    wait_until("a thread to hang", || faults.hits() == 1);
    wait_until("files to be ready", || ready() == bound);
    // What was ready when it began is in the same batch.
    let named = done_in_order(&world, &jobs);
    assert!((2..=bound).contains(&named), "{named}");
    pool.ask(&jobs[1]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((pool.threads(), faults.hits(), ready()), (3, 1, bound));
    assert_eq!(done_in_order(&world, &jobs), named, "nothing is published behind it");
    faults.release();
    wait_until("the backlog", || done_in_order(&world, &jobs) == jobs.len());
    assert_eq!(pool.threads(), 3);
}

/// Fails without a look at the source's name before publishing: the thread read on in the segment
/// that the server had reused, and published that under the old name, with digests that fit.
#[test]
fn a_copy_that_comes_back_after_its_segment_was_reused_publishes_nothing() {
    let _alone = alone();
    for staging in STAGINGS {
        for ahead in [false, true] {
            let mut world = World::new();
            world.plan.staging = staging;
            let jobs = segments(&world, 3);
            let old = pool(&world, 1);
            waits(&world, [&jobs[0]]);
            held_up(&old, &jobs[0]).unwrap();
            wait_until("the look", || old.busy().is_none());
            std::thread::sleep(Duration::from_millis(20));
            // A look into the server's own directory comes first.
            let faults = hang(Op::OpenDirectory, usize::from(ahead), 1);
            if ahead {
                goes_on(&old, &world, &jobs[0], [&jobs[1]]);
            } else {
                old.ask(&jobs[1]);
            }
            wait_until("the hang", || faults.hits() == 1);
            if !ahead {
                old.retire();
            }
            // Another archive has the file; the server gives the segment its next name, and then
            // writes into it.
            let reused = world.pg_wal.join(segment_name(1, 9));
            fs::rename(&jobs[1].source, &reused).unwrap();
            let mut content = fs::OpenOptions::new().write(true).open(&reused).unwrap();
            std::io::Write::write_all(&mut content, &segment(1, 9, 9)).unwrap();
            faults.release();
            wait_until("the thread to be through", || old.busy().is_none());
            let there = world.path(&jobs[1]).exists();
            assert!(!there, "{staging:?}, ahead: {ahead}: published from a reused segment");
            assert!(!world.names().iter().any(|name| name.starts_with('.')));
        }
    }
}

/// As with a failure: a success ahead from before a hang is looked up once more.
#[test]
fn a_success_ahead_from_before_a_hang_is_looked_up_once_more() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 4);
    let pool = pool(&world, 2);
    waits(&world, [&jobs[0], &jobs[2], &jobs[3]]);
    held_up(&pool, &jobs[0]).unwrap();
    wait_until("files ahead", || done_in_order(&world, &jobs) == 3 && pool.busy().is_none());
    waits(&world, []);
    let faults = hang(Op::Flush, 0, 1);
    pool.ask(&jobs[1]);
    wait_until("the hang", || faults.hits() == 1);
    pool.hold(Duration::ZERO);
    faults.release();
    wait_until("the thaw", || pool.held().is_none());
    assert!(!archive(&pool, &jobs[1]).unwrap().already_present());
    fs::rename(&world.archive, world.root.path().join("broken")).unwrap();
    fs::create_dir(&world.archive).unwrap();
    world.init();
    for job in &jobs[2..] {
        archive(&pool, job).unwrap();
        assert!(world.path(job).exists(), "{} is in no archive", job.name);
    }
}

/// Fails when any file that moves releases the pool: a call that hung was reported, one beside it
/// went on, and files were started towards the storage that hung.
#[test]
fn a_file_that_moves_beside_one_that_hangs_does_not_release_the_pool() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 2);
    let long = world.wal("00000001000000000000FFFF.bulk", &random(64 * SEGMENT, 1));
    let pool = pool(&world, 2);
    archive(&pool, &jobs[0]).unwrap();
    let faults = hang(Op::Flush, 0, 1);
    pool.ask(&jobs[1]);
    wait_until("the hang", || faults.hits() == 1);
    let hung = Duration::from_millis(200);
    std::thread::sleep(hung);
    let writes = || faults.calls().iter().filter(|op| **op == Op::Write).count();
    let before = writes();
    goes_on(&pool, &world, &jobs[1], [&long]);
    wait_until("the long file to be under way", || writes() > before);
    pool.hold(hung);
    let flushes = || faults.calls().iter().filter(|op| **op == Op::Flush).count();
    wait_until("the long file", || {
        assert!(pool.held().is_some(), "released while the first one hangs");
        flushes() == 2
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(pool.held().is_some(), "released while the first one hangs");
    assert!(!world.path(&long).exists(), "published while another one hangs");
    faults.release();
    wait_until("the release", || pool.held().is_none());
    assert!(!archive(&pool, &jobs[1]).unwrap().already_present());
}

/// Fails with `vec!`, which ends the process and so the whole cluster.
#[test]
fn without_memory_for_its_buffer_a_file_fails_and_the_thread_goes_on() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 2);
    let pool = pool(&world, 1);
    let effect = Effect::Fail(libc::ENOMEM);
    let faults =
        Faults::everywhere(vec![Fault { op: Op::Allocate, skip: 0, times: usize::MAX, effect }]);
    // The identity file is read back once; that needs memory too.
    for _ in 0..3 {
        let error = archive(&pool, &jobs[0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert_eq!(error.to_string(), "could not reserve memory for the copy");
        assert!(error.detail().contains("Cannot allocate memory"), "{}", error.detail());
    }
    drop(faults);
    for job in &jobs {
        archive(&pool, job).unwrap();
    }
    assert_eq!(pool.threads(), 1);
}

/// Fails when the file just waits: without `stall_timeout` for ever and silently, otherwise until the
/// storage is blamed.
#[test]
fn a_thread_that_cannot_be_started_is_reported_at_once_as_what_it_is() {
    let _alone = alone();
    let world = World::new();
    let jobs = segments(&world, 4);
    let pool = pool(&world, 2);
    let effect = Effect::Fail(libc::EAGAIN);
    let none = || {
        Faults::everywhere(vec![Fault { op: Op::StartThread, skip: 0, times: usize::MAX, effect }])
    };
    let faults = none();
    for _ in 0..3 {
        goes_on(&pool, &world, &jobs[0], &jobs[1..]);
        let Some(Err(error)) = take(&pool, &jobs[0]) else { panic!("not told") };
        assert_eq!(error.kind(), ErrorKind::NoThread);
        assert!(error.detail().contains("Resource temporarily unavailable"), "{}", error.detail());
    }
    assert_eq!(pool.threads(), 0);
    drop(faults);
    archive(&pool, &jobs[0]).unwrap();
    // One thread is there: nobody needs the others.
    wait_until("look-ahead", || done_in_order(&world, &jobs) == jobs.len());
    let _faults = none();
    for job in &jobs[1..] {
        archive(&pool, job).unwrap();
    }
}

/// A look that failed once was the last one: nobody warned of a drill that began while the storage had trouble.
#[test]
fn a_look_at_the_timeline_before_that_failed_is_made_again() {
    let _alone = alone();
    for skip in 0..60 {
        let mut world = World::new();
        world.plan.check_wal = CheckWal::Off;
        world.init();
        world.wal("00000002.history", b"1\t0/300028\treason\n");
        fs::write(world.archive.join(segment_name(1, 4)), "").unwrap();
        let jobs = [3, 4].map(|n| world.wal(&segment_name(2, n), &segment(1, n, 1)));
        let pool = pool(&world, 1);
        let effect = Effect::Fail(libc::EIO);
        let faults = Faults::everywhere(vec![Fault { op: Op::Open, skip, times: 1, effect }]);
        let first = archive(&pool, &jobs[0]);
        drop(faults);
        let Ok(first) = first else { continue };
        let failed = |notice: &Notice| notice.message.starts_with("could not find out whether");
        if !first.notices.iter().any(failed) {
            continue;
        }
        let second = archive(&pool, &jobs[1]).unwrap().notices;
        assert!(second.iter().any(|n| n.message.starts_with("WAL after")), "{second:?}");
        return;
    }
    panic!("no look failed");
}

/// A server that was promoted with segments 1 to 4 of timeline 1, of which the archive has the first: those,
/// and the new history file.
fn promoted() -> (World, Vec<Job>, Job) {
    let mut world = World::new();
    world.plan.cluster.system_identifier = wal_support::SYSID;
    world.init();
    let mut writer = wal_support::Writer::new(8192, SEGMENT as u64);
    while writer.bytes.len() < 5 * SEGMENT {
        writer.record(0, 0x20, &wal_support::data(4000));
    }
    fs::create_dir(world.pg_wal.join("archive_status")).unwrap();
    let mut held = Vec::new();
    for (n, content) in (1..=4).zip(writer.segments()) {
        let name = segment_name(1, n);
        fs::write(world.pg_wal.join(format!("archive_status/{name}.done")), "").unwrap();
        held.push(world.wal(&name, content));
    }
    world.run(&held[0]).unwrap();
    let history = world.wal("00000002.history", b"1\t0/500028\treason\n");
    (world, held, history)
}

/// The warning was part of the receipt, which a failed flush takes back; and once the history file had its
/// name, nobody looked again.
#[test]
fn what_is_missing_of_the_timeline_before_is_told_although_the_flush_failed() {
    let _alone = alone();
    let (world, held, history) = promoted();
    held[1..].iter().for_each(|job| fs::remove_file(&job.source).unwrap());
    let pool = pool(&world, 1);
    let effect = Effect::Fail(libc::EIO);
    let fault = Fault { op: Op::FlushDirectory, skip: 0, times: 1, effect };
    let faults = Faults::everywhere(vec![fault]);
    archive(&pool, &history).unwrap_err();
    assert!(world.path(&history).exists());
    drop(faults);
    let notices = archive(&pool, &history).unwrap().notices;
    let lacks = |notice: &Notice| notice.message.starts_with("the archive lacks WAL of timeline 1");
    assert_eq!(notices.iter().filter(|notice| lacks(notice)).count(), 1, "{notices:?}");
    assert_eq!(archive(&pool, &history).unwrap().notices, []);
}

/// After a hang in one of the last files of the timeline before, all others of it and the history file were
/// published by the call that had been given up, whatever the path led to by then.
#[test]
fn nothing_of_the_timeline_before_is_published_after_a_hang_in_it() {
    let _alone = alone();
    for retire in [false, true] {
        let (world, held, history) = promoted();
        let ended = pool(&world, 1);
        // The history file's copy, the first segment, which is there, and the next one's copy.
        let faults = hang(Op::Flush, 2, 1);
        ended.ask(&history);
        wait_until("the hang", || faults.hits() == 1);
        assert!(!world.path(&held[2]).exists());
        if retire {
            ended.retire();
        } else {
            ended.hold(Duration::ZERO);
        }
        faults.release();
        wait_until("the thaw", || ended.busy().is_none());
        for job in [&held[2], &held[3], &history] {
            assert!(!world.path(job).exists(), "{}", job.name);
        }
        assert!(world.pg_wal.join(format!("archive_status/{}.ready", held[3].name)).exists());
        drop(faults);
        let again = pool(&world, 1);
        archive(&again, &history).unwrap();
        assert!(held.iter().all(|job| world.path(job).exists()));
    }
}

/// What one destination had been brought of the timeline before was left to the next checkpoint, although
/// another destination was down and had not.
#[test]
fn what_one_destination_has_of_the_timeline_before_is_kept_for_another() {
    let _alone = alone();
    let (world, held, history) = promoted();
    let second = world.root.path().join("second");
    fs::create_dir(&second).unwrap();
    let plan =
        Plan { staging: Staging::Named, ..plan(&second, &world.root.path().join("data"), 0) };
    let plan = Plan { cluster: world.plan.cluster, ..plan };
    run(&plan, &held[0]).unwrap();
    let mut pools = Pools::default();
    pools.update([(world.plan.clone(), 1), (plan, 1)]).unwrap();
    let mut call = || {
        let mut call = pools.call(history.clone(), None);
        let mut answers = None;
        wait_until("the answers", || {
            if let Step::Done(done) = call.step() {
                answers = Some(done);
            }
            answers.is_some()
        });
        answers.unwrap().are_all_good()
    };
    // The second destination alone has temporary names.
    let effect = Effect::Fail(libc::EIO);
    let fault = Fault { op: Op::CreateNamed, skip: 0, times: usize::MAX, effect };
    let faults = Faults::everywhere(vec![fault]);
    let marked = |mark: &str| {
        let status = world.pg_wal.join("archive_status");
        let marked = |job: &&Job| status.join(format!("{}.{mark}", job.name)).exists();
        held.iter().filter(marked).count()
    };
    for _ in 0..2 {
        assert!(!call());
        assert_eq!(held.iter().filter(|job| world.path(job).exists()).count(), held.len());
        assert_eq!((marked("ready"), marked("done")), (held.len(), 0));
    }
    drop(faults);
    assert!(call());
    assert!(held.iter().all(|job| second.join(job.name.as_str()).exists()));
    assert_eq!((marked("ready"), marked("done")), (0, held.len()));
    pools.update([]).unwrap();
    wait_until("the threads to end", || threads_named_walsafe() == 0);
}
