//! What a thread of the pool does, and what the threads share.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::state::State;
use crate::archive::{Job, Plan, archive_file};
use crate::error::{Action, Error};
use crate::store::{Progress, Store};
use crate::sys;
use crate::sys::buffer::Buffer;

/// What the threads and their caller share.
pub(super) struct Shared {
    plan: Plan,
    store: Box<dyn Store>,
    state: Mutex<State>,
    /// There may be something to start, or the end has come.
    work: Condvar,
    /// Wakes the caller.
    wake: UnixStream,
    /// What dead processes left in the destination has been removed.
    tidied: Mutex<bool>,
}

impl Shared {
    pub(super) fn new(plan: Plan, wake: UnixStream) -> Self {
        let store = Box::new(plan.store());
        let state = Mutex::new(State::new());
        Self { plan, store, state, work: Condvar::new(), wake, tidied: Mutex::default() }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Locks the state. A thread that panicked while it held the lock left the state as it was:
    /// every change under the lock is a plain assignment.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake_workers(&self) {
        self.work.notify_all();
    }

    pub(super) fn work_until_retired(&self) {
        self.lock().starting -= 1;
        let mut buffer = None;
        while let Some((job, progress)) = self.next_job() {
            let archive = || {
                self.tidy(&progress);
                archive_file(&self.plan, &*self.store, &job, kept(&mut buffer, &job)?, &progress)
            };
            let result = catch_unwind(AssertUnwindSafe(archive))
                .unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(&*panic) }));
            self.lock().finish(job.name, result);
            // The file may have to be tried once more.
            self.wake_workers();
            // A full socket means that the caller has much to read already.
            let _ = (&self.wake).write(&[1]);
        }
        drop(buffer);
        sys::give_memory_back();
    }

    fn next_job(&self) -> Option<(Job, Arc<Progress>)> {
        let mut state = self.lock();
        loop {
            if state.is_retired() {
                state.threads -= 1;
                return None;
            }
            if let Some(started) = state.start_next() {
                return Some(started);
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Removes stray temporary files, before this pool makes any of its own. If that cannot be done,
    /// archiving fails for the same reason, and reports it.
    fn tidy(&self, progress: &Progress) {
        let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
        if !*tidied {
            let visit = self.plan.visit(&*self.store, progress);
            *tidied = visit.and_then(|visit| visit.tidy()).is_ok();
        }
    }
}

/// Returns the buffer that a thread copies through, made for its first file. If there is no memory for it,
/// that file fails, and the next one tries again.
fn kept<'b>(buffer: &'b mut Option<Buffer>, job: &Job) -> Result<&'b mut Buffer, Error> {
    let kept = match buffer.take() {
        Some(kept) => kept,
        None => Buffer::large().map_err(|e| Error::io(Action::ReserveMemory, &job.source, e))?,
    };
    Ok(buffer.insert(kept))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a thread panicked".to_owned())
}
