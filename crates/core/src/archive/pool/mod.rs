//! Threads that archive: the file that the server asks for, and the next ones ahead of it.
//!
//! Files ahead are made ready side by side, and get their names in the server's order: none before every
//! earlier file of the last look into `archive_status` is archived (guarantee G13). So a server that left the
//! archive's history adds nothing behind the point where it left. Because nothing is published out of
//! order, a new pool needs to know nothing of what failed before.
//!
//! The caller, the archiver's main thread, never touches the destination: it hands a file over, waits on
//! [`Pool::wake_handle`], and takes the result. A pool serves one [`Plan`]; when a setting changes, the
//! caller retires the pool and makes another, so that no success from before the change counts.
//!
//! Bounds: at most `max(workers, 1)` threads, and for each one more that writes what it copies
//! ([`pipeline`](crate::sys::pipeline)); for each worker at most [`AHEAD_PER_WORKER`] files that are
//! done, ready or under way and not asked for yet; and at most [`READY_FILES`] that are ready or under way.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use self::state::State;
use self::worker::Shared;
use super::publish::Prepared;
use super::without;
use super::{Job, Plan, Receipt};
use crate::error::{Action, Error};
use crate::sys;

mod state;
mod worker;

/// How many files a worker may be ahead of the server's calls.
pub const AHEAD_PER_WORKER: usize = 4;

/// How many files may be ready or under way. Each keeps up to five descriptors open, of which a process has
/// 1024 in many places.
pub const READY_FILES: usize = 128;

/// Stack of a worker, in bytes: the buffers are on the heap.
const STACK: usize = 1 << 20;

/// Threads that archive into one destination.
pub struct Pool {
    shared: Arc<Shared>,
    workers: usize,
    wake: UnixStream,
}

impl Pool {
    /// Makes a pool without threads: they start with the first file.
    ///
    /// # Errors
    /// The handle that wakes the caller could not be made (out of descriptors).
    pub fn new(plan: Plan, workers: usize) -> std::io::Result<Self> {
        let (wake, notify) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        notify.set_nonblocking(true)?;
        Ok(Self { shared: Arc::new(Shared::new(plan, notify)), workers, wake })
    }

    /// Returns the plan that the pool serves.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        self.shared.plan()
    }

    /// Returns the number of workers that the pool was made with.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Returns a handle that is readable when a file has been finished since the last [`Pool::clear_wake`].
    #[must_use]
    pub fn wake_handle(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the handle unreadable until the next file is finished. Called before a look at a result, so
    /// that none is missed.
    pub fn clear_wake(&self) {
        let mut scratch = [0; 64];
        while matches!((&self.wake).read(&mut scratch), Ok(n) if n == scratch.len()) {}
    }

    /// Asks for a file. If a result is there already, [`Pool::take`] returns it next. A failure from before
    /// the file was asked for is forgotten, and so is a success from before a failure: the file is tried
    /// once more. A file that is asked for waits for no other file.
    ///
    /// Once a call that hung has moved, asking ends the hold ([`Pool::hold`]).
    pub fn ask(&self, job: &Job) {
        let mut state = self.shared.lock();
        state.release_if_moved();
        if state.ask(job)
            && let Err(e) = self.start_threads(&mut state, 1)
            && state.threads == 0
        {
            // There is no thread that could take it.
            state.refuse(job, Error::io(Action::StartThread, &job.source, e));
        }
        drop(state);
        self.shared.wake_workers();
    }

    /// Takes the result of the file that was asked for, once there is one; the pool then forgets it.
    #[must_use]
    pub fn take(&self, job: &Job) -> Option<Result<Receipt, Error>> {
        let mut result = self.shared.lock().take_result(&job.name)?;
        self.shared.wake_workers();
        if let Ok(receipt) = &mut result {
            without::once(self.plan().destination.path(), &mut receipt.notices);
            receipt
                .notices
                .extend(self.shared.arrival.take_notices(self.plan().destination.path()));
        }
        Some(result)
    }

    /// Returns how long nothing has moved for a file that was asked for.
    #[must_use]
    pub fn still_for(&self, job: &Job) -> Duration {
        self.shared.lock().still_for(&job.name)
    }

    /// Returns for how long all files that stood still when the pool was held have not moved; `None` if the
    /// pool is not held, or one of them has moved.
    #[must_use]
    pub fn held(&self) -> Option<Duration> {
        self.shared.lock().held()
    }

    /// Starts nothing more until a call that has not moved for `still_for` returns or moves, so that
    /// threads do not pile up. The file that was asked for is no longer waited for, and nothing that is under
    /// way or ready counts any more: the path may lead to another disk by the time it is done. Asked for
    /// again, each file is looked up on a new visit (guarantee G8).
    pub fn hold(&self, still_for: Duration) {
        self.shared.look_again();
        self.shared.lock().hold(still_for);
    }

    /// Returns whether it is worth looking for waiting files: the last batch has been taken, there may be
    /// others, and nothing fails.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.workers > 0 && self.shared.lock().wants_more()
    }

    /// Offers the files that wait, all of them up to the last one, according to a look into
    /// `archive_status`: they are archived ahead, in the server's order. What an earlier look has found and
    /// this one has not is forgotten. A pool without workers takes none.
    pub fn offer(&self, jobs: impl IntoIterator<Item = Job>) {
        if self.workers == 0 {
            return;
        }
        let mut state = self.shared.lock();
        let waiting = state.offer(jobs);
        // Files ahead wait for the threads that there are. If there are none, whoever asks for a file gets
        // that error.
        let _ = self.start_threads(&mut state, waiting);
        drop(state);
        self.shared.wake_workers();
    }

    /// Ends the threads as soon as the call that each is in returns; waits for none. Nothing is published any
    /// more, except by a call that has begun.
    pub fn retire(&self) {
        self.shared.lock().retire();
        self.shared.wake_workers();
    }

    /// Returns how long the longest of the files under way has not moved; `None` when no file is
    /// under way.
    #[must_use]
    pub fn busy(&self) -> Option<Duration> {
        self.shared.lock().busy()
    }

    /// Returns the number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.lock().threads
    }

    /// Makes sure that `waiting` files find a thread, as far as the bound allows.
    fn start_threads(&self, state: &mut State<Prepared>, waiting: usize) -> std::io::Result<()> {
        while state.idle + state.starting < waiting && state.threads < self.workers.max(1) {
            let shared = Arc::clone(&self.shared);
            sys::start_thread(STACK, move || shared.work_until_retired())?;
            state.threads += 1;
            state.starting += 1;
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.retire();
    }
}
