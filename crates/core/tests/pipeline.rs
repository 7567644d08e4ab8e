//! A copy whose chunks are written by a second thread: its order, its trouble, its ends.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/pools.rs"]
mod pools;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use common::{SEGMENT, World, compression, random};
use pools::*;
use walsafe_core::archive::{Job, Receipt, Seam, archive_file};
use walsafe_core::error::{Error, ErrorKind};
use walsafe_core::store::Progress;
use walsafe_core::sys::buffer::{Buffer, CHUNK};
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan as Faults};

const CODECS_TRIED: [&str; 3] = ["none", "lz4", "zstd"];

fn fault(op: Op, skip: usize, effect: Effect) -> Fault {
    Fault { op, skip, times: 1, effect }
}

/// A world whose archive has been begun, and a file of many chunks that no encoding makes smaller.
fn long(codec: &str) -> (World, Job) {
    let mut world = World::new();
    world.plan.compression = compression(codec);
    world.init();
    let job = world.wal("long", &random(9 * SEGMENT / 2 + 3, 5));
    run(&world, &job).unwrap();
    fs::remove_file(world.path(&job)).unwrap();
    (world, job)
}

/// Archives as a worker does, with all its memory.
fn run(world: &World, job: &Job) -> Result<Receipt, Error> {
    let (plan, seam, progress) = (&world.plan, Seam::default(), Progress::default());
    archive_file(plan, &*plan.store(), &seam, job, &mut Buffer::large().unwrap(), &progress)
}

fn writers() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "walsafe-writer").count()
}

/// The copy alternated: while a chunk was written, nothing was read.
#[test]
fn reading_goes_on_while_a_write_is_under_way_and_stops_when_the_memory_is_full() {
    let _alone = alone();
    for codec in CODECS_TRIED {
        let (world, job) = long(codec);
        let faults = Faults::everywhere(vec![fault(Op::Write, 0, Effect::Hang)]);
        let progress = Progress::default();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let (plan, mut buffer) = (&world.plan, Buffer::large().unwrap());
                let seam = Seam::default();
                archive_file(plan, &*plan.store(), &seam, &job, &mut buffer, &progress).is_ok()
            });
            wait_until("the write", || faults.hits() == 1);
            let reads = || faults.calls().iter().filter(|op| **op == Op::Read).count();
            let went_on = (0..1000).any(|_| {
                std::thread::sleep(Duration::from_millis(2));
                reads() >= 3
            });
            // A hang shows, though two threads work.
            let mut before = None;
            let still = (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                let now = Some((progress.steps(), reads()));
                std::mem::replace(&mut before, now) == now
            });
            let full = (progress.steps(), reads());
            std::thread::sleep(Duration::from_millis(50));
            let then = (progress.steps(), reads());
            let (ended, writers) = (run.is_finished(), writers());
            // Before the first assertion: otherwise a failure would wait for the hang.
            faults.release();
            assert!(went_on && still, "{codec}");
            assert_eq!(then, full, "{codec}");
            assert!(!ended, "{codec}");
            assert_eq!(writers, 1, "{codec}");
            assert!(run.join().unwrap());
        });
        assert_eq!(writers(), 0);
    }
}

/// What is written after a flush is not covered by it.
#[test]
fn every_write_ends_before_the_length_is_set_and_the_copy_is_flushed() {
    let _alone = alone();
    for codec in CODECS_TRIED {
        let (world, job) = long(codec);
        let faults = Faults::new(Vec::new());
        run(&world, &job).unwrap();
        let calls = faults.calls();
        let last = calls.iter().rposition(|op| *op == Op::Write).unwrap();
        let first = |wanted| calls.iter().position(|op| *op == wanted).unwrap();
        assert!(calls.contains(&Op::StartThread), "{codec}: {calls:?}");
        assert!(calls[..last].iter().filter(|op| **op == Op::Write).count() >= 2);
        assert!(last < first(Op::Truncate), "{codec}: {calls:?}");
        assert!(first(Op::Truncate) < first(Op::Flush), "{codec}: {calls:?}");
    }
}

/// With several chunks under way, a fault in one must be the copy's, and nothing may be published.
#[test]
fn a_fault_in_any_write_fails_the_copy_while_others_wait() {
    let _alone = alone();
    for codec in CODECS_TRIED {
        for skip in 1..6 {
            let (world, job) = long(codec);
            let faults = Faults::everywhere(vec![
                fault(Op::Write, 0, Effect::Hang),
                // Counts the calls that the first has left over.
                fault(Op::Write, skip - 1, Effect::Fail(libc::EIO)),
            ]);
            std::thread::scope(|scope| {
                let run = scope.spawn(|| run(&world, &job));
                wait_until("the write", || faults.hits() == 1);
                // What is filled meanwhile waits.
                std::thread::sleep(Duration::from_millis(10));
                faults.thaw();
                let error = run.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::IoError, "{codec}, {skip}: {error}");
            });
            let calls = faults.calls();
            assert!(!calls.contains(&Op::LinkUnnamed), "{codec}, {skip}: {calls:?}");
            drop(faults);
            assert!(!world.path(&job).exists());
            assert_eq!(writers(), 0);
            assert!(!run(&world, &job).unwrap().already_present());
        }
    }
}

#[test]
fn holes_and_odd_lengths_come_out_as_they_went_in() {
    const PIECE: usize = CHUNK;
    let _alone = alone();
    let world = World::new();
    for (n, len) in [0, 1, 4095, 4096, 4097, 1, PIECE].into_iter().enumerate() {
        for pieces in [2, 3, 7] {
            let mut content = random(pieces * PIECE + len, 9);
            let holes = (PIECE / 2, 2 * PIECE - 4096);
            content[holes.0..holes.1].fill(0);
            if n % 2 == 0 {
                let tail = content.len() - len.min(100);
                content[tail..].fill(0);
            }
            let job = world.wal("odd", &content);
            run(&world, &job).unwrap();
            let path = world.path(&job);
            assert!(fs::read(&path).unwrap() == content, "{pieces} pieces and {len}");
            let taken = path.metadata().unwrap().blocks() * 512;
            let data = (content.len() - (holes.1 - holes.0)) as u64;
            assert!(taken <= data + (16 << 10), "{taken} for {data}");
            fs::remove_file(path).unwrap();
        }
    }
}

/// Where no further thread may be started, archiving goes on.
#[test]
fn without_a_second_thread_the_copy_is_written_in_place() {
    let _alone = alone();
    for codec in CODECS_TRIED {
        let (world, job) = long(codec);
        let faults = Faults::new(vec![fault(Op::StartThread, 0, Effect::Fail(libc::EAGAIN))]);
        run(&world, &job).unwrap();
        assert_eq!(faults.hits(), 1);
        drop(faults);
        // Found, read back and compared.
        assert!(run(&world, &job).unwrap().already_present());
    }
}

#[test]
fn a_panic_of_the_second_thread_is_an_error_of_that_file_and_the_next_try_succeeds() {
    let _alone = alone();
    for codec in CODECS_TRIED {
        // Behind the last write, nothing is handed over any more that could tell of its end.
        let (world, job) = long(codec);
        let counted = Faults::new(Vec::new());
        run(&world, &job).unwrap();
        let last = counted.calls().iter().filter(|op| **op == Op::Write).count() - 1;
        drop(counted);
        for skip in [0, 2, last] {
            let (world, job) = long(codec);
            let pool = pool(&world, 1);
            let faults = Faults::everywhere(vec![fault(Op::Write, skip, Effect::Panic)]);
            let error = archive(&pool, &job).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal, "{codec}: {error}");
            drop(faults);
            assert!(!archive(&pool, &job).unwrap().already_present());
        }
    }
}

/// A signal of the server that such a thread took would run the server's handler in it.
#[test]
fn the_second_thread_receives_no_signal() {
    let _alone = alone();
    let (world, job) = long("none");
    let faults = Faults::everywhere(vec![fault(Op::Write, 0, Effect::Hang)]);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| run(&world, &job).is_ok());
        wait_until("the write", || faults.hits() == 1);
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let status = tasks.filter_map(|t| fs::read_to_string(t.ok()?.path().join("status")).ok());
        let writer = status.into_iter().find(|text| text.starts_with("Name:\twalsafe-writer\n"));
        faults.release();
        let writer = writer.unwrap();
        let blocked = writer.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        let blocked = u64::from_str_radix(blocked, 16).unwrap();
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGALRM] {
            assert!(blocked >> (signal - 1) & 1 == 1, "{signal} in {blocked:x}");
        }
        assert!(run.join().unwrap());
    });
}

/// Never more than two threads for each worker; nobody waits for those that the kernel holds.
#[test]
fn a_pool_whose_writers_hang_keeps_its_bounds_and_ends_after_them() {
    let _alone = alone();
    let (world, _) = long("none");
    let jobs: Vec<Job> =
        (2..8).map(|n| world.wal(&format!("{n:016}.bulk"), &random(4 * SEGMENT, n))).collect();
    let pool = pool(&world, 2);
    let faults = Faults::everywhere(vec![Fault {
        op: Op::Write,
        skip: 0,
        times: usize::MAX,
        effect: Effect::Hang,
    }]);
    goes_on(&pool, &world, &jobs[0], &jobs[1..]);
    wait_until("two hangs", || faults.hits() == 2);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((pool.threads(), writers()), (2, 2));
    assert!(pool.still_for(&jobs[0]) >= Duration::from_millis(30));
    pool.hold(Duration::from_millis(30));
    assert!(pool.held().is_some());
    // Returns at once.
    pool.retire();
    assert_eq!(writers(), 2);
    faults.release();
    wait_until("the threads to be gone", || pool.threads() == 0 && writers() == 0);
    assert!(jobs.iter().all(|job| !world.path(job).exists()));
}
