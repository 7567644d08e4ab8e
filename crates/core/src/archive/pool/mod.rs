//! Threads that archive: the file that the server asks for, and the next ones ahead of it.
//!
//! Files ahead are made ready side by side, and get their names in the server's order: none before every
//! earlier file of the last look into `archive_status` is archived (guarantee G13). So a server that left the
//! archive's history adds nothing behind the point where it left. Because nothing is published out of
//! order, a new pool needs to know nothing of what failed before.
//!
//! The caller, the archiver's main thread, never touches the destination: it hands a file over, waits on
//! [`Group::wake_handle`], and takes the answer. A pool looks for waiting files by itself, in one of its
//! threads, and goes on through all of them whether the server asks or not: the archiver may wait for another
//! destination, or sleep after a failure there. What the pool has is remembered until its own destination
//! fails or hangs. A pool serves one [`Plan`]; when a setting changes, the caller retires the pool and makes
//! another, so that no success from before the change counts.
//!
//! Bounds: at most `max(workers, 1)` threads, and for each one more that writes what it copies
//! ([`pipeline`](crate::sys::pipeline)); for each worker at most [`AHEAD_PER_WORKER`] files, and in all
//! [`READY_FILES`], that are ready or under way; [`BATCH`] files of a look; and [`REMEMBERED`] files that the
//! destination has and the server was not told of.

use std::sync::Arc;
use std::time::Duration;

pub use self::group::Group;
use self::group::Member;
use self::worker::Shared;
use super::publish::Prepared;
use super::without;
use super::{Job, Plan, Receipt};
use crate::error::{Action, Error};
use crate::store::Requests;
use crate::wal::name::{FileKind, SegmentName};

mod group;
mod state;
mod worker;

/// How many files a worker may have ready or under way ahead of the server's calls; one where they are held in
/// memory ([`Store::holds_in_memory`](crate::store::Store::holds_in_memory)).
pub const AHEAD_PER_WORKER: usize = 4;

/// How many files may be ready or under way. Each keeps up to five descriptors open, of which a process has
/// 1024 in many places.
pub const READY_FILES: usize = 128;

/// How many files one look into `archive_status` lists at most.
pub const BATCH: usize = 1024;

/// How many files are remembered as archived that the server was not told of. Each takes some 200 bytes, and
/// some 300 more while records are checked. Where another destination has been down for so long, nothing more
/// is archived ahead: half a terabyte of WAL, with segments of 16 MB.
pub const REMEMBERED: usize = 1 << 15;

/// Stack of a worker, in bytes: the buffers are on the heap.
const STACK: usize = 1 << 20;

/// What a destination has answered to a call for one file.
#[derive(Debug)]
pub enum Answer {
    /// It has the file.
    Archived(Receipt),
    /// It has the file since an earlier call, which another destination failed. Nothing was read or written
    /// for it this time. The receipt is that of the earlier call, without what is reported only once.
    Remembered(Receipt),
    /// Nothing was tried, or what was tried goes on unseen: the file conflicts in another destination, which
    /// has answered that.
    Withheld,
    /// It does not have the file, or not certainly.
    Failed(Error),
}

impl Answer {
    /// Returns whether the destination has the file, as durably as its plan asks for.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Archived(_) | Self::Remembered(_))
    }
}

/// Threads that archive into one destination.
pub struct Pool {
    shared: Arc<Shared>,
    workers: usize,
}

impl Pool {
    /// Makes a pool without threads: they start with the first file.
    #[must_use]
    pub fn new(plan: Plan, workers: usize, group: &Group) -> Self {
        let shared = Arc::new(Shared::new(plan, workers, Member::of(group.bond())));
        Self { shared, workers }
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

    /// Asks for a file. If the destination is known to have it, [`Pool::take`] returns that next, and nothing
    /// is read or written. A failure from before the file was asked for is forgotten, and so is a success from
    /// before a failure: the file is tried once more. A file that is asked for waits for no other file.
    ///
    /// Once a call that hung has moved, asking ends the hold ([`Pool::hold`]).
    pub fn ask(&self, job: &Job) {
        let mut state = self.shared.lock();
        state.release_if_moved();
        if state.threads == 0 {
            self.shared.member.is_asked_first(&job.name);
        }
        state.ask(job);
        if let Err(e) = self.shared.start_threads(&mut state)
            && state.threads == 0
        {
            // There is no thread that could take it.
            state.refuse(job, Error::io(Action::StartThread, &job.source, e));
        }
        drop(state);
        self.shared.wake_workers();
    }

    /// Takes the answer for the file that was asked for, once there is one. A success is remembered, until
    /// the destination fails or hangs, or [`Pool::answered`].
    #[must_use]
    pub fn take(&self, job: &Job) -> Option<Answer> {
        let result = self.shared.lock().take_result(&job.name)?;
        self.shared.wake_workers();
        Some(match result {
            Ok((mut receipt, false)) => {
                let path = self.plan().destination.path();
                without::once(path, &mut receipt.notices);
                receipt.notices.extend(self.shared.arrival.take_notices(path));
                Answer::Archived(receipt)
            }
            Ok((receipt, true)) => Answer::Remembered(receipt),
            Err(error) => Answer::Failed(error),
        })
    }

    /// The server is told that this file is archived, by every destination of the group: if it comes again under
    /// this name, it is another file.
    pub fn answered(&self, job: &Job) {
        self.shared.lock().answered(&job.name);
        if let FileKind::History { .. } = job.name.kind()
            && let Some(pg_wal) = job.source.parent()
        {
            self.shared.member.kept().let_go(pg_wal);
        }
    }

    /// Returns whether the file conflicts in another destination of the group, and not in this one: then that
    /// one is asked first, and nobody else publishes the file meanwhile (guarantee G13).
    #[must_use]
    pub fn is_withheld(&self, job: &Job) -> bool {
        self.shared.member.is_withheld(&job.name)
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
    /// way, ready or remembered counts any more: the path may lead to another disk by the time it is done.
    /// Asked for again, each file is looked up on a new visit (guarantee G8).
    pub fn hold(&self, still_for: Duration) {
        self.shared.look_again();
        self.shared.lock().hold(still_for);
    }

    /// Ends the threads as soon as the call that each is in returns; waits for none. Nothing is published any
    /// more, except by a call that has begun.
    pub fn retire(&self) {
        self.shared.lock().retire();
        self.shared.member.leave();
        self.shared.wake_workers();
    }

    /// Lets go of what files that wait for their turn may hold no longer. Returns when there will be more of it, if
    /// ever. Idle threads do so by themselves; whoever waits for a file does it where no thread is idle.
    #[must_use]
    pub fn let_go(&self) -> Option<Duration> {
        self.shared.lock().ready_in_memory().filter_map(Prepared::let_go).min()
    }

    /// Returns how long the longest of the files under way has not moved; `None` when no file is
    /// under way.
    #[must_use]
    pub fn busy(&self) -> Option<Duration> {
        self.shared.lock().busy()
    }

    /// Returns the last segment that the destination has and the server was not told of. It has the waiting ones
    /// before it, too.
    #[must_use]
    pub fn last_ahead(&self) -> Option<SegmentName> {
        self.shared.lock().last_ahead()
    }

    /// Returns how many requests there were, where the destination is spoken to by requests.
    #[must_use]
    pub fn requests(&self) -> Option<Requests> {
        self.shared.requests()
    }

    /// Returns the number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.lock().threads
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.retire();
    }
}
