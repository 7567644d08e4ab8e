//! Several destinations: one that fails or hangs stops no other, and a conflict in one stops all.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/pools.rs"]
mod pools;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::*;
use pools::{PATIENCE, alone, threads_named_walsafe, wait_until, waits};
use walsafe_core::archive::pool::Answer;
use walsafe_core::archive::pools::{Answers, Pools, Step};
use walsafe_core::archive::{Job, Plan};
use walsafe_core::error::ErrorKind;
use walsafe_core::server::settings::CheckWal;
use walsafe_core::store::directory::Staging;
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan as Faults};

const WORKERS: usize = 2;

/// A cluster with two destinations. Faults can be told apart by the ways of staging: the first has named
/// temporary files, the second unnamed ones.
struct Two {
    world: World,
    pools: Pools,
    first: PathBuf,
    second: PathBuf,
    stall_timeout: Option<Duration>,
}

impl Two {
    fn new() -> Self {
        let world = World::new();
        let (first, second) = (world.archive.clone(), world.root.path().join("second"));
        fs::create_dir(&second).unwrap();
        let mut two = Self { world, pools: Pools::default(), first, second, stall_timeout: None };
        two.update(&[1, 2]);
        two
    }

    fn plan(&self, number: usize) -> Plan {
        let data = self.world.root.path().join("data");
        let (path, staging) = match number {
            1 => (&self.first, Staging::Named),
            _ => (&self.second, Staging::Unnamed),
        };
        // Small files will do.
        let check_wal = CheckWal::Off;
        Plan { staging, check_wal, ..plan(path, &data, OURS) }
    }

    /// Sets the list of destinations.
    fn update(&mut self, numbers: &[usize]) {
        let plans: Vec<_> = numbers.iter().map(|n| (self.plan(*n), WORKERS)).collect();
        self.pools.update(plans).unwrap();
    }

    /// Small files under the names of segments.
    fn jobs(&self, numbers: std::ops::RangeInclusive<u32>) -> Vec<Job> {
        let job = |n| self.world.wal(&segment_name(1, n), format!("WAL {n}").as_bytes());
        numbers.map(job).collect()
    }

    /// One call of the server. The archiver's main loop, but for the wait.
    fn call(&mut self, job: &Job) -> Answers {
        let start = Instant::now();
        let mut call = self.pools.call(job.clone(), self.stall_timeout);
        loop {
            match call.step() {
                Step::Done(answers) => return answers,
                Step::Wait(longest) => {
                    assert!(start.elapsed() < PATIENCE, "{} is not answered", job.name);
                    std::thread::sleep(longest.min(Duration::from_millis(1)));
                }
            }
        }
    }

    /// The server archives all of these.
    fn archive(&mut self, jobs: &[Job]) {
        for job in jobs {
            let answers = self.call(job);
            assert!(answers.are_all_good(), "{}: {answers:?}", job.name);
            let ready = self.world.pg_wal.join(format!("archive_status/{}.ready", job.name));
            let _ = fs::remove_file(ready);
        }
    }

    /// Puts a file in the place of a destination, so that it fails, and returns where the directory is now.
    fn break_it(path: &Path) -> PathBuf {
        let aside = path.with_extension("aside");
        fs::rename(path, &aside).unwrap();
        fs::write(path, "").unwrap();
        aside
    }

    fn mend_it(path: &Path) {
        fs::remove_file(path).unwrap();
        fs::rename(path.with_extension("aside"), path).unwrap();
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        self.update(&[]);
        let start = Instant::now();
        while threads_named_walsafe() > 0 && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn count(archive: &Path, jobs: &[Job]) -> usize {
    jobs.iter().filter(|job| archive.join(job.name.as_str()).exists()).count()
}

/// The destinations that failed, and with what.
fn failures(answers: &Answers) -> Vec<(PathBuf, ErrorKind)> {
    answers.failures().map(|(at, error)| (at.path().to_owned(), error.kind())).collect()
}

/// What a call costs beside looks for waiting files.
fn work(calls: &[Op]) -> usize {
    let works = |op: &&Op| {
        matches!(op, Op::Open | Op::Read | Op::Write | Op::Flush | Op::Stat | Op::FlushDirectory)
    };
    calls.iter().filter(works).count()
}

/// The sound destination stood still at four files a worker behind the one that the other one failed. And each
/// of the server's calls for that one read it from `pg_wal` and from the sound destination once more.
#[test]
fn a_sound_destination_archives_the_whole_backlog_while_another_fails_and_is_not_touched_again() {
    let _alone = alone();
    let mut two = Two::new();
    let jobs = two.jobs(1..=500);
    waits(&two.world, &jobs);
    let (first, second) = (two.first.clone(), two.second.clone());
    Two::break_it(&first);
    let answers = two.call(&jobs[0]);
    assert_eq!(failures(&answers).len(), 1, "{answers:?}");
    assert_eq!(failures(&answers)[0].0, first);
    assert!(!answers.are_all_good());
    // The archiver sleeps for a minute. Its threads do not.
    wait_until("the backlog", || count(&second, &jobs) == jobs.len());

    // What a call costs that fails in one destination alone, and what it costs with the other one beside.
    let mut cost = |numbers: &[usize]| {
        two.update(numbers);
        two.call(&jobs[0]);
        let faults = Faults::everywhere(Vec::new());
        for _ in 0..5 {
            let answers = two.call(&jobs[0]);
            assert!(!answers.are_all_good());
        }
        work(&faults.calls())
    };
    let both = cost(&[1, 2]);
    // Nobody touches the sound one any more: nobody notices that it is away.
    let aside = Two::break_it(&second);
    assert_eq!(cost(&[1, 2]), both);
    Two::mend_it(&first);
    two.archive(&jobs);
    assert_eq!(count(&first, &jobs), jobs.len());
    assert_eq!(count(&aside, &jobs), jobs.len());
    Two::mend_it(&second);
    let mut alone = Two::new();
    let job = alone.jobs(1..=1);
    waits(&alone.world, &job);
    Two::break_it(&alone.first.clone());
    alone.update(&[1]);
    alone.call(&job[0]);
    let faults = Faults::everywhere(Vec::new());
    for _ in 0..5 {
        alone.call(&job[0]);
    }
    assert_eq!(work(&faults.calls()), both, "the calls cost no more than with one destination");
}

/// What the sound destination had was remembered beyond a failure of its own: a disk that was replaced would have
/// lost it.
#[test]
fn what_a_destination_has_is_forgotten_when_it_fails_itself() {
    let _alone = alone();
    let mut two = Two::new();
    let jobs = two.jobs(1..=5);
    waits(&two.world, &jobs);
    let (first, second) = (two.first.clone(), two.second.clone());
    Two::break_it(&first);
    two.call(&jobs[0]);
    wait_until("the backlog", || count(&second, &jobs) == jobs.len());
    // A file that is not waiting for long: the server asks for it, and the second destination fails.
    let other = two.jobs(9..=9).remove(0);
    let faults = Faults::everywhere(vec![Fault {
        op: Op::CreateUnnamed,
        skip: 0,
        times: usize::MAX,
        effect: Effect::Fail(libc::EIO),
    }]);
    let answers = two.call(&other);
    assert_eq!(failures(&answers).len(), 2, "{answers:?}");
    drop(faults);
    fs::rename(&second, second.with_extension("broken")).unwrap();
    fs::create_dir(&second).unwrap();
    init(&two.plan(2)).unwrap();
    Two::mend_it(&first);
    two.archive(&jobs);
    assert_eq!((count(&first, &jobs), count(&second, &jobs)), (jobs.len(), jobs.len()));
}

/// A file that had vanished from `pg_wal` made a sound destination look up once more all that it had, each time
/// that it was tried.
#[test]
fn what_a_destination_has_is_not_forgotten_because_of_the_servers_own_file() {
    let _alone = alone();
    let mut two = Two::new();
    let jobs = two.jobs(1..=20);
    waits(&two.world, &jobs);
    let (first, second) = (two.first.clone(), two.second.clone());
    Two::break_it(&first);
    fs::remove_file(&jobs[10].source).unwrap();
    two.call(&jobs[0]);
    wait_until("the files before it", || count(&second, &jobs) == 10);
    std::thread::sleep(Duration::from_millis(50));
    let aside = Two::break_it(&second);
    Two::mend_it(&first);
    two.archive(&jobs[..10]);
    assert_eq!(count(&aside, &jobs), 10, "nothing passes it");
}

fn hang_first(times: usize) -> Faults {
    Faults::everywhere(vec![Fault { op: Op::CreateNamed, skip: 0, times, effect: Effect::Hang }])
}

/// While a call waited for a destination that hung, the sound one was given nothing to do; and when the one that
/// hung was taken out of the list, its thread held up the calls to the other one.
#[test]
fn a_destination_that_hangs_stops_no_other_and_may_be_removed() {
    let _alone = alone();
    let mut two = Two::new();
    let jobs = two.jobs(1..=100);
    two.archive(&jobs[..1]);
    waits(&two.world, &jobs[1..]);
    let (first, second) = (two.first.clone(), two.second.clone());
    let faults = hang_first(usize::MAX);
    // The main thread waits, and the others go on.
    {
        let mut call = two.pools.call(jobs[1].clone(), None);
        wait_until("the backlog", || {
            assert!(matches!(call.step(), Step::Wait(_)));
            count(&second, &jobs) == jobs.len()
        });
        let open: Vec<_> = call.open().map(|(at, _)| at.path().to_owned()).collect();
        assert_eq!(open, [first.clone()]);
    }
    two.stall_timeout = Some(Duration::from_millis(100));
    let answers = two.call(&jobs[1]);
    assert_eq!(failures(&answers), [(first.clone(), ErrorKind::Stalled)]);
    // It is known to hang.
    let start = Instant::now();
    two.stall_timeout = Some(PATIENCE);
    for _ in 0..3 {
        let answers = two.call(&jobs[1]);
        assert_eq!(failures(&answers), [(first.clone(), ErrorKind::Stalled)]);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let bound = 2 * WORKERS;
    assert!(two.pools.threads() <= bound, "{} threads", two.pools.threads());

    two.update(&[2]);
    let start = Instant::now();
    let aside = Two::break_it(&second);
    two.archive(&jobs[1..50]);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(count(&aside, &jobs), jobs.len(), "what the other one has is not forgotten");
    Two::mend_it(&second);

    // Taken in again, it begins nothing as long as the old call hangs there.
    let hits = faults.hits();
    two.stall_timeout = Some(Duration::from_millis(100));
    two.update(&[1, 2]);
    for _ in 0..2 {
        let answers = two.call(&jobs[50]);
        assert_eq!(failures(&answers), [(first.clone(), ErrorKind::Stalled)]);
    }
    assert_eq!(faults.hits(), hits, "started beside a call that hangs");
    faults.release();
    two.stall_timeout = Some(PATIENCE);
    two.archive(&jobs[50..]);
    assert_eq!(count(&first, &jobs[50..]), 50);
    assert_eq!(count(&first, &jobs[1..50]), 0);
}

/// A reload of other settings took the results of a destination that it left alone.
#[test]
fn a_destination_whose_plan_stays_keeps_what_it_knows() {
    let _alone = alone();
    let mut two = Two::new();
    let jobs = two.jobs(1..=20);
    waits(&two.world, &jobs);
    let (first, second) = (two.first.clone(), two.second.clone());
    Two::break_it(&first);
    two.call(&jobs[0]);
    wait_until("the backlog", || count(&second, &jobs) == jobs.len());
    two.update(&[2, 1]);
    let answers = two.call(&jobs[0]);
    let kinds: Vec<_> = answers.iter().map(|(at, answer)| (at.path(), answer.is_good())).collect();
    assert_eq!(kinds, [(second.as_path(), true), (first.as_path(), false)]);
    assert!(matches!(answers.into_iter().next(), Some((_, Answer::Remembered(_)))));
    // Its own plan changes: nothing from before counts.
    let mut changed = two.plan(2);
    changed.verify = true;
    two.pools.update([(changed, WORKERS)]).unwrap();
    let answers = two.call(&jobs[0]);
    let Some((_, Answer::Archived(receipt))) = answers.into_iter().next() else {
        panic!("it counts by what another plan has done")
    };
    assert!(receipt.already_present());
}

/// A server that has left the history of one destination added its WAL to another one, which held less.
#[test]
fn a_conflict_in_one_destination_stops_publishing_in_all() {
    let _alone = alone();
    let mut two = Two::new();
    let jobs = two.jobs(1..=20);
    let (first, second) = (two.first.clone(), two.second.clone());
    two.archive(&jobs[..1]);
    waits(&two.world, &jobs[1..]);
    fs::write(first.join(jobs[5].name.as_str()), "another server's").unwrap();
    // The second destination is behind.
    Two::break_it(&second);
    for _ in 0..3 {
        assert_eq!(failures(&two.call(&jobs[1])).len(), 1);
    }
    wait_until("the first one", || count(&first, &jobs) == 6);
    std::thread::sleep(Duration::from_millis(50));
    Two::mend_it(&second);
    two.archive(&jobs[1..5]);
    let quiet = |two: &Two, expected| {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(count(&two.second, &jobs), expected, "published at or behind the conflict");
        assert_eq!(count(&two.first, &jobs), 6);
    };
    quiet(&two, 5);
    for _ in 0..3 {
        let answers = two.call(&jobs[5]);
        assert_eq!(failures(&answers), [(first.clone(), ErrorKind::Conflict)]);
        assert!(matches!(answers.into_iter().nth(1), Some((_, Answer::Withheld))));
        quiet(&two, 5);
    }
    // What was found out is not a matter of the process that has found it: the file is moved away.
    fs::remove_file(first.join(jobs[5].name.as_str())).unwrap();
    two.archive(&jobs[5..6]);
    wait_until("both", || count(&first, &jobs) + count(&second, &jobs) == 2 * jobs.len());
    two.archive(&jobs[6..]);
}

/// Right after the start, a server whose next file conflicts in one destination added it and what follows to the
/// other one, which was faster.
#[test]
fn a_conflict_of_the_first_file_is_found_before_another_destination_publishes() {
    let _alone = alone();
    for order in [[1, 2], [2, 1]] {
        let mut two = Two::new();
        let jobs = two.jobs(1..=20);
        let (first, second) = (two.first.clone(), two.second.clone());
        init(&two.plan(1)).unwrap();
        init(&two.plan(2)).unwrap();
        waits(&two.world, &jobs);
        fs::write(first.join(jobs[0].name.as_str()), "another server's").unwrap();
        two.update(&order);
        for _ in 0..3 {
            let answers = two.call(&jobs[0]);
            assert_eq!(failures(&answers), [(first.clone(), ErrorKind::Conflict)]);
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(count(&second, &jobs), 0);
        }
    }
}

/// A destination with a conflict is taken out of the list: it stops nobody any more. So does a file that is
/// no longer waiting.
#[test]
fn a_conflict_ends_with_its_destination_and_with_its_file() {
    let _alone = alone();
    for removed in [true, false] {
        let mut two = Two::new();
        let jobs = two.jobs(1..=20);
        let (first, second) = (two.first.clone(), two.second.clone());
        two.archive(&jobs[..1]);
        waits(&two.world, &jobs[1..]);
        fs::write(first.join(jobs[5].name.as_str()), "another server's").unwrap();
        Two::break_it(&second);
        assert_eq!(failures(&two.call(&jobs[1])).len(), 1);
        wait_until("the first one", || count(&first, &jobs) == 6);
        std::thread::sleep(Duration::from_millis(50));
        Two::mend_it(&second);
        two.archive(&jobs[1..5]);
        if removed {
            two.update(&[2]);
            two.archive(&jobs[5..]);
            continue;
        }
        waits(&two.world, &jobs[6..]);
        two.archive(&jobs[6..7]);
        let rest = &jobs[7..];
        wait_until("the rest", || count(&first, rest) + count(&second, rest) == 2 * rest.len());
        assert_eq!(count(&second, &jobs[5..6]), 0);
        two.archive(rest);
    }
}

/// A copy that was cut short in one destination stopped the other: it says nothing of the server's history.
#[test]
fn a_file_that_was_cut_short_in_one_destination_stops_no_other() {
    let _alone = alone();
    let mut two = Two::new();
    let jobs = two.jobs(1..=10);
    let (first, second) = (two.first.clone(), two.second.clone());
    two.archive(&jobs[..1]);
    waits(&two.world, &jobs[1..]);
    fs::write(first.join(jobs[3].name.as_str()), "WA").unwrap();
    two.archive(&jobs[1..3]);
    let answers = two.call(&jobs[3]);
    assert_eq!(failures(&answers), [(first, ErrorKind::ConflictTruncated)]);
    wait_until("the second one", || count(&second, &jobs) == jobs.len());
}

/// With nothing to archive to, nothing is archived.
#[test]
fn without_destinations_no_call_succeeds() {
    let mut two = Two::new();
    let job = two.jobs(1..=1).remove(0);
    two.update(&[]);
    let answers = two.call(&job);
    assert!(!answers.are_all_good());
    assert_eq!(answers.failures().count(), 0);
}
