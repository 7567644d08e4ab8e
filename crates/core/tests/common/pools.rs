//! What the tests of the pool share.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::indexing_slicing)]
#![allow(missing_docs, unreachable_pub, reason = "the names say it")]

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use walsafe_core::archive::pool::{Answer, Group, Pool};
use walsafe_core::archive::{Job, Receipt};
use walsafe_core::error::Error;

use crate::common::World;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Tests that count this process's threads, or fault all of them, run one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pool whose threads have ended when it is dropped, so that none writes into a world that is
/// being removed.
pub struct Ending {
    pool: Pool,
    group: Group,
}

impl std::ops::Deref for Ending {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.retire();
        // In some tests, a thread that hangs is let go after its pool.
        let start = Instant::now();
        while self.threads() > 0 && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Ending {
    /// Takes what the handle holds, if anything.
    pub fn is_readable(&self) -> bool {
        let handle = self.group.wake_handle().try_clone_to_owned().unwrap();
        matches!(UnixStream::from(handle).read(&mut [0; 64]), Ok(1..))
    }

    pub fn clear_wake(&self) {
        self.group.clear_wake();
    }
}

pub fn pool(world: &World, workers: usize) -> Ending {
    let group = Group::new().unwrap();
    Ending { pool: Pool::new(world.plan.clone(), workers, &group), group }
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited for long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Takes the answer, whether an earlier call has had it or not.
pub fn take(pool: &Pool, job: &Job) -> Option<Result<Receipt, Error>> {
    Some(match pool.take(job)? {
        Answer::Archived(receipt) | Answer::Remembered(receipt) => Ok(receipt),
        Answer::Failed(error) => Err(error),
        Answer::Withheld => panic!("a pool alone withholds nothing"),
    })
}

/// Looks until the file is finished.
pub fn finish(pool: &Pool, job: &Job) -> Result<Receipt, Error> {
    let mut result = None;
    wait_until(job.name.as_str(), || {
        result = take(pool, job);
        result.is_some()
    });
    result.unwrap()
}

/// A call of the server, which is told "archived" if that is the answer.
pub fn archive(pool: &Pool, job: &Job) -> Result<Receipt, Error> {
    let receipt = held_up(pool, job)?;
    pool.answered(job);
    Ok(receipt)
}

/// A call of the server which another destination fails: the server will ask for the file again.
pub fn held_up(pool: &Pool, job: &Job) -> Result<Receipt, Error> {
    pool.ask(job);
    finish(pool, job)
}

/// Marks these files as waiting, and no others.
pub fn waits<'j>(world: &World, jobs: impl IntoIterator<Item = &'j Job>) {
    let status = world.pg_wal.join("archive_status");
    fs::create_dir_all(&status).unwrap();
    let wanted: Vec<_> = jobs.into_iter().map(|job| format!("{}.ready", job.name)).collect();
    for name in &wanted {
        fs::write(status.join(name), "").unwrap();
    }
    for entry in fs::read_dir(&status).unwrap() {
        let entry = entry.unwrap();
        if !wanted.iter().any(|name| entry.file_name() == name.as_str()) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// Marks these files as waiting; and the server asks for one of them, once more if it has before: so the pool
/// looks for them.
pub fn goes_on<'j>(
    pool: &Pool,
    world: &World,
    asked: &'j Job,
    others: impl IntoIterator<Item = &'j Job>,
) {
    waits(world, others.into_iter().chain([asked]));
    pool.ask(asked);
}

pub fn segments(world: &World, count: u32) -> Vec<Job> {
    (1..=count).map(|n| world.segment(n, n.into())).collect()
}

/// How many of the files stand in the archive.
pub fn done_in_order(world: &World, jobs: &[Job]) -> usize {
    let there: Vec<bool> = jobs.iter().map(|job| world.path(job).exists()).collect();
    there.iter().filter(|there| **there).count()
}

pub fn threads_named_walsafe() -> usize {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.trim() == "walsafe")
        .count()
}
