//! Threads that archive: the file that the server asks for, and the next ones ahead of it.
//!
//! The caller, the archiver's main thread, never touches the destination: it hands a file over,
//! waits on [`Pool::wake_handle`], and looks. A pool serves one [`Plan`]; when a setting changes, the
//! caller retires the pool and makes another, so that no success from before the change counts.
//!
//! Bounds: at most `max(workers, 1)` threads, and at most [`AHEAD_PER_WORKER`] files a worker that
//! are done or under way and not asked for yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::archive::{Job, Outcome, Plan, Progress, archive_file};
use crate::error::{Action, Error};
use crate::store::admission;
use crate::store::directory::temporary;
use crate::sys;
use crate::sys::buffer::Buffer;
use crate::wal::name::{FileKind, FileName};

/// How many files a worker may be ahead of the server's calls.
pub const AHEAD_PER_WORKER: usize = 4;

/// Stack of a worker, in bytes: the buffers are on the heap.
const STACK: usize = 1 << 20;

/// What the pool knows of a file that was asked for.
#[derive(Debug)]
pub enum Status {
    /// It is archived, or it failed; the pool has forgotten it.
    Finished(Result<Outcome, Error>),
    /// It is under way or waits for a thread; nothing has moved for this long.
    Pending {
        /// Time since the last sign of progress.
        still_for: Duration,
    },
}

/// Threads that archive into one destination.
pub struct Pool {
    shared: Arc<Shared>,
    workers: usize,
    wake: UnixStream,
}

struct Shared {
    plan: Plan,
    state: Mutex<State>,
    work: Condvar,
    wake: UnixStream,
    /// What dead processes left in the destination was removed.
    cleaned: Mutex<bool>,
}

#[derive(Default)]
struct State {
    /// The file that the server asks for, until a thread takes it.
    asked: Option<Job>,
    /// Files to archive ahead, in the server's order.
    ahead: VecDeque<Job>,
    running: HashMap<FileName, Running>,
    done: HashMap<FileName, Done>,
    /// The last look for waiting files brought nothing new.
    nothing_new: bool,
    /// Nothing is started ahead: a file failed.
    failing: bool,
    /// Raised by every failure and every hang: what stands behind the path may be another disk after
    /// it, so that no success ahead from before counts.
    generation: u64,
    /// How many files stood still when the pool was held. Nothing at all is started until one of
    /// them moves; 0: not held.
    held: usize,
    /// Threads end.
    retired: bool,
    threads: usize,
    /// Threads that have not looked for a file yet.
    starting: usize,
    /// Threads that wait for a file.
    idle: usize,
    /// When a file was last taken or finished.
    last_event: Option<Instant>,
}

struct Running {
    progress: Arc<Progress>,
    /// The step count when the pool was held, of a file that stood still then.
    held_at: Option<u64>,
    ahead: bool,
    /// The generation in which it was started.
    generation: u64,
}

struct Done {
    result: Result<Outcome, Error>,
    ahead: bool,
    /// The generation in which it was started.
    generation: u64,
}

impl Done {
    /// Tells whether the result answers a call of the server. One of a file ahead does not if it is
    /// a failure, or older than one: the file is tried, or found and compared, once more.
    fn counts(&self, generation: u64) -> bool {
        !self.ahead || (self.result.is_ok() && self.generation == generation)
    }
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
        let shared = Shared {
            plan,
            state: Mutex::default(),
            work: Condvar::new(),
            wake: notify,
            cleaned: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), workers, wake })
    }

    /// Returns the plan that the pool serves.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Returns the number of workers that the pool was made with.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Returns a handle that is readable when a file was finished since the last
    /// [`Pool::clear_wake`].
    #[must_use]
    pub fn wake_handle(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the handle unreadable until the next file is finished. Called before a look at the
    /// status, so that none is missed.
    pub fn clear_wake(&self) {
        let mut scratch = [0; 64];
        while matches!((&self.wake).read(&mut scratch), Ok(n) if n == scratch.len()) {}
    }

    /// Asks for a file. A result that is there already is what [`Pool::status`] returns next; a
    /// failure from before it was asked for is forgotten, and so is a success from before a failure:
    /// the file is tried once more.
    pub fn ask(&self, job: &Job) {
        let mut state = self.shared.lock();
        let generation = state.generation;
        if state.done.get(&job.name).is_some_and(|done| !done.counts(generation)) {
            state.done.remove(&job.name);
        }
        // The server asks in its order: what comes before this file waits no longer.
        let asked = server_order(&job.name);
        state.ahead.retain(|waiting| server_order(&waiting.name) > asked);
        state.done.retain(|name, _| server_order(name) >= asked);
        if !state.done.contains_key(&job.name) && !state.running.contains_key(&job.name) {
            state.asked = Some(job.clone());
            // The server has found a file that no look has.
            state.nothing_new = false;
            state.last_event = Some(Instant::now());
            if let Err(e) = self.start_threads(&mut state, 1)
                && state.threads == 0
            {
                // Nobody is there who could take it.
                state.asked = None;
                let result = Err(Error::io(Action::StartThread, &job.source, e));
                state.done.insert(job.name.clone(), Done { result, ahead: false, generation });
            }
        }
        drop(state);
        self.shared.work.notify_all();
    }

    /// Tells how far a file is that was asked for.
    #[must_use]
    pub fn status(&self, job: &Job) -> Status {
        let mut state = self.shared.lock();
        if let Some(done) = state.done.remove(&job.name) {
            if !done.counts(state.generation) {
                drop(state);
                self.ask(job);
                return Status::Pending { still_for: Duration::ZERO };
            }
            state.failing = done.result.is_err();
            drop(state);
            self.shared.work.notify_all();
            return Status::Finished(done.result);
        }
        let now = Instant::now();
        let quiet = state.quiet_since(&job.name, now);
        Status::Pending { still_for: now.saturating_duration_since(quiet) }
    }

    /// Tells whether all the files that stood still when the pool was held do so now, and if so, for
    /// how long. Once one of them has moved or ended, the pool is released.
    #[must_use]
    pub fn still_held(&self) -> Option<Duration> {
        let mut state = self.shared.lock();
        let stuck = |running: &&Running| running.held_at == Some(running.progress.steps());
        let still =
            state.running.values().filter(stuck).map(|running| running.progress.last_step());
        let (count, since) = (still.clone().count(), still.min());
        match since {
            Some(since) if count == state.held => {
                Some(Instant::now().saturating_duration_since(since))
            }
            _ if state.held == 0 => None,
            _ => {
                state.held = 0;
                drop(state);
                self.shared.work.notify_all();
                None
            }
        }
    }

    /// Starts nothing more until a call that has not moved for `still_for` returns, so that threads
    /// do not pile up.
    pub fn hold(&self, still_for: Duration) {
        let mut state = self.shared.lock();
        let now = Instant::now();
        let mut held = 0;
        for running in state.running.values_mut() {
            let still = now.saturating_duration_since(running.progress.last_step()) >= still_for;
            running.held_at = still.then(|| running.progress.steps());
            held += usize::from(still);
        }
        state.held = held;
        state.asked = None;
        state.generation += 1;
    }

    /// Tells whether a look for waiting files is worth its while: the last batch is taken, there may
    /// be others, and nothing fails.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        let state = self.shared.lock();
        let idle = state.ahead.is_empty() && !state.nothing_new;
        self.workers > 0 && idle && !state.failing && state.held == 0
    }

    /// Offers files to archive ahead, in the server's order. A pool without workers takes none.
    pub fn offer(&self, jobs: impl IntoIterator<Item = Job>) {
        if self.workers == 0 {
            return;
        }
        let mut state = self.shared.lock();
        let waiting: HashSet<_> = state.ahead.iter().map(|job| job.name.clone()).collect();
        for job in jobs {
            let known = waiting.contains(&job.name)
                || state.done.contains_key(&job.name)
                || state.running.contains_key(&job.name)
                || state.asked.as_ref().is_some_and(|asked| asked.name == job.name);
            if !known {
                state.ahead.push_back(job);
            }
        }
        state.nothing_new = state.ahead.is_empty();
        let waiting = state.ahead.len() + usize::from(state.asked.is_some());
        // Files ahead wait for the threads there are; that there are none is told to who asks.
        let _ = self.start_threads(&mut state, waiting);
        drop(state);
        self.shared.work.notify_all();
    }

    /// Ends the threads as soon as their files are finished; waits for none.
    pub fn retire(&self) {
        let mut state = self.shared.lock();
        state.retired = true;
        state.asked = None;
        state.ahead.clear();
        drop(state);
        self.shared.work.notify_all();
    }

    /// Returns how long the longest of the files under way has not moved; `None` when no file is
    /// under way.
    #[must_use]
    pub fn busy(&self) -> Option<Duration> {
        let state = self.shared.lock();
        let since = state.running.values().map(|running| running.progress.last_step()).min()?;
        Some(Instant::now().saturating_duration_since(since))
    }

    /// Returns the number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.lock().threads
    }

    /// Sees to it that `waiting` files find a thread, as far as the bound allows.
    fn start_threads(&self, state: &mut State, waiting: usize) -> std::io::Result<()> {
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

impl State {
    /// Returns since when nothing has moved for a file: its own steps once a thread has it, until
    /// then anything that the pool does.
    fn quiet_since(&self, name: &FileName, now: Instant) -> Instant {
        if let Some(running) = self.running.get(name) {
            return running.progress.last_step();
        }
        let moved = self.running.values().map(|running| running.progress.last_step()).max();
        moved.max(self.last_event).unwrap_or(now)
    }

    /// Takes the next file that may be started.
    fn take(&mut self, workers: usize) -> Option<(Job, bool)> {
        if self.held > 0 {
            return None;
        }
        if let Some(job) = self.asked.take() {
            return Some((job, false));
        }
        let unclaimed = self.running.len() + self.done.len();
        if self.failing || unclaimed >= workers * AHEAD_PER_WORKER {
            return None;
        }
        // A history file that conflicts says that another server went on from here: no segment of
        // this one may come into the archive ahead of that answer.
        if self.running.keys().any(|name| matches!(name.kind(), FileKind::History { .. })) {
            return None;
        }
        self.ahead.pop_front().map(|job| (job, true))
    }
}

impl Shared {
    /// Locks the state. A thread that panicked while it held the lock left the state as it was:
    /// every change under the lock is a plain assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_until_retired(&self) {
        self.lock().starting -= 1;
        let mut buffer = None;
        while let Some((job, progress)) = self.next_job() {
            let archive = || {
                self.clean();
                archive_file(&self.plan, &job, kept(&mut buffer, &job)?, &progress)
            };
            let result = catch_unwind(AssertUnwindSafe(archive))
                .unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(&*panic) }));
            let mut state = self.lock();
            let running = state.running.remove(&job.name);
            let (ahead, generation) = running.map_or((true, 0), |r| (r.ahead, r.generation));
            if result.is_err() {
                // Files ahead would fail in the same way, and cost the storage what it lacks.
                state.failing = true;
                state.generation += 1;
            }
            state.done.insert(job.name, Done { result, ahead, generation });
            state.last_event = Some(Instant::now());
            drop(state);
            // A full socket means that the caller has much to read already.
            let _ = (&self.wake).write(&[1]);
        }
        drop(buffer);
        sys::give_memory_back();
    }

    /// Removes stray temporary files, before this pool makes any of its own. As long as that cannot be
    /// done, archiving fails for the same reason, and reports it.
    fn clean(&self) {
        let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        if !*cleaned {
            let plan = &self.plan;
            let path = plan.destination.path();
            let mode = plan.file_mode.bits();
            *cleaned = admission::open(path, &plan.cluster, &plan.memory, &plan.owner, mode)
                .and_then(|dir| temporary::remove_stray(&dir, &plan.owner))
                .is_ok();
        }
    }

    fn next_job(&self) -> Option<(Job, Arc<Progress>)> {
        let mut state = self.lock();
        loop {
            if state.retired {
                state.threads -= 1;
                return None;
            }
            let workers = state.threads;
            if let Some((job, ahead)) = state.take(workers) {
                let progress = Arc::new(Progress::default());
                let now = Instant::now();
                let (progress_seen, generation) = (Arc::clone(&progress), state.generation);
                let running = Running { progress: progress_seen, held_at: None, ahead, generation };
                state.running.insert(job.name.clone(), running);
                state.last_event = Some(now);
                return Some((job, progress));
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// Returns the buffer that a thread copies through, made for its first file. Where there is no memory
/// for it, that file has failed, and the next one tries again.
fn kept<'b>(buffer: &'b mut Option<Buffer>, job: &Job) -> Result<&'b mut Buffer, Error> {
    let kept = match buffer.take() {
        Some(kept) => kept,
        None => Buffer::large().map_err(|e| Error::io(Action::ReserveMemory, &job.source, e))?,
    };
    Ok(buffer.insert(kept))
}

/// Orders names as the server asks for them: history files first, then by name.
fn server_order(name: &FileName) -> (bool, &FileName) {
    (!matches!(name.kind(), FileKind::History { .. }), name)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a thread panicked".to_owned())
}
