//! What the tests of the pool share.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::indexing_slicing)]
#![allow(missing_docs, unreachable_pub, reason = "the names say it")]

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use walsafe_core::archive::pool::Pool;
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
pub struct Ending(Pool);

impl std::ops::Deref for Ending {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.0
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.retire();
        // In some tests, a thread that hangs is let go after its pool.
        let start = Instant::now();
        while self.0.threads() > 0 && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub fn pool(world: &World, workers: usize) -> Ending {
    Ending(Pool::new(world.plan.clone(), workers).unwrap())
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited for long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Looks until the file is finished.
pub fn finish(pool: &Pool, job: &Job) -> Result<Receipt, Error> {
    let mut result = None;
    wait_until(job.name.as_str(), || {
        result = pool.take(job);
        result.is_some()
    });
    result.unwrap()
}

pub fn archive(pool: &Pool, job: &Job) -> Result<Receipt, Error> {
    pool.ask(job);
    finish(pool, job)
}

/// The server asks for the next file, and what waits is looked for, as the archiver does it.
pub fn goes_on(pool: &Pool, waiting: &[Job]) {
    pool.ask(&waiting[0]);
    assert!(pool.wants_more(), "look-ahead goes on");
    pool.offer(waiting.iter().cloned());
}

pub fn segments(world: &World, count: u32) -> Vec<Job> {
    (1..=count).map(|n| world.segment(n, n.into())).collect()
}

/// How many of the files stand in the archive. They must be the first ones.
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

/// Takes what the handle holds, if anything.
pub fn is_readable(pool: &Pool) -> bool {
    let handle = pool.wake_handle().try_clone_to_owned().unwrap();
    matches!(UnixStream::from(handle).read(&mut [0; 64]), Ok(1..))
}
