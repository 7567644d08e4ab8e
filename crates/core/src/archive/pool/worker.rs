//! What a thread of the pool does, and what the threads share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::group::Member;
use super::state::{Batch, Limit, Look, Seen, State, Turn, Work};
use super::{BATCH, STACK};
use crate::archive::arrival::Arrival;
use crate::archive::attempt::{bring_parent, prepare};
use crate::archive::publish::{Prepared, Publishing};
use crate::archive::{Plan, Receipt, Seam};
use crate::error::{Action, Error};
use crate::server::ready;
use crate::store::access::Asker;
use crate::store::{Progress, Requests, Store};
use crate::sys;
use crate::sys::buffer::Buffer;
use crate::wal::name::{FileKind, FileName};

/// How long a thread has had nothing to do when it gives back what the store keeps open.
const REST: Duration = Duration::from_secs(5);

/// What the threads and their caller share.
pub(super) struct Shared {
    plan: Plan,
    store: Box<dyn Store>,
    seam: Seam,
    state: Mutex<State<Prepared>>,
    /// There may be something to start, or the end has come.
    work: Condvar,
    /// Wakes the caller, and knows what other destinations do not allow.
    pub(super) member: Member,
    /// What dead processes left in the destination has been removed.
    tidied: Mutex<bool>,
    /// What has been looked at in the destination.
    pub(super) arrival: Arrival,
}

impl Shared {
    pub(super) fn new(plan: Plan, workers: usize, member: Member) -> Self {
        let store = plan.store();
        let state = Mutex::new(State::new(workers, store.holds_in_memory()));
        Self {
            plan,
            store,
            seam: Seam::default(),
            state,
            work: Condvar::new(),
            member,
            tidied: Mutex::default(),
            arrival: Arrival::default(),
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn requests(&self) -> Option<Requests> {
        self.store.requests()
    }

    /// Locks the state. A thread that panicked while it held the lock left the state as it was:
    /// every change under the lock is a plain assignment.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<Prepared>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake_workers(&self) {
        self.work.notify_all();
    }

    /// Makes sure that what can be begun finds a thread, as far as the bound allows.
    ///
    /// # Errors
    /// A thread could not be started. What waits then waits for the threads that there are.
    pub(super) fn start_threads(
        self: &Arc<Self>,
        state: &mut State<Prepared>,
    ) -> std::io::Result<()> {
        while state.needs_thread() {
            let shared = Arc::clone(self);
            sys::start_thread(STACK, move || shared.work_until_retired())?;
            state.threads += 1;
            state.starting += 1;
        }
        Ok(())
    }

    fn work_until_retired(self: &Arc<Self>) {
        self.lock().starting -= 1;
        let mut buffer = None;
        while let Some(work) = self.next_work() {
            let news = match work {
                Work::Discard(files) => {
                    drop(files);
                    false
                }
                Work::Prepare(job, progress) => {
                    let prepared = or_panic(|| {
                        self.member.kept().keep(&self.plan, &job);
                        self.tidy(&progress);
                        let buffer = kept(&mut buffer, &job.source)?;
                        let (plan, store) = (&self.plan, &*self.store);
                        self.arrival.prepare(plan, store, &job, buffer, &progress)?;
                        prepare(plan, store, &job, buffer, &progress)
                    })
                    .map_err(explained);
                    let failed = prepared.is_err();
                    if let Err(error) = &prepared {
                        self.note_failure(&job.name, error);
                    }
                    self.member.has_looked(&job.name);
                    let mut state = self.lock();
                    state.finish_prepare(&job.name, prepared);
                    failed || state.is_retired()
                }
                Work::Publish(batch) => {
                    let epoch = batch.epoch;
                    let results = self.publish(batch, &mut buffer);
                    let mut state = self.lock();
                    if state.may_publish(epoch) {
                        let good =
                            results.iter().filter(|(_, result)| matches!(result, Some(Ok(_))));
                        good.for_each(|(name, _)| self.member.is_settled(name));
                    }
                    state.finish_batch(results);
                    true
                }
                Work::Look(look) => {
                    let seen = self.look(&look);
                    let mut state = self.lock();
                    let limit = self.limit(&state);
                    state.finish_look(&look, seen, &limit);
                    // Files ahead wait for the threads that there are. If there are none, whoever asks for a
                    // file gets that error.
                    let _ = self.start_threads(&mut state);
                    false
                }
            };
            // There may be something to publish, or to try once more.
            self.wake_workers();
            if news {
                self.member.wake_caller();
            }
        }
        drop(buffer);
        sys::give_memory_back();
    }

    fn next_work(&self) -> Option<Work<Prepared>> {
        let mut rested = false;
        let mut state = self.lock();
        loop {
            let limit = self.limit(&state);
            if let Some(work) = state.start_next(&limit) {
                return Some(work);
            }
            if state.is_retired() {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let held = state.ready_in_memory().filter_map(Prepared::let_go).min();
            state = match state.longest_sleep(&limit).into_iter().chain(held).min() {
                Some(time) => {
                    let slept = self.work.wait_timeout(state, time);
                    slept.unwrap_or_else(PoisonError::into_inner).0
                }
                None if rested => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                None => {
                    let slept = self.work.wait_timeout(state, REST);
                    let (state, slept) = slept.unwrap_or_else(PoisonError::into_inner);
                    rested = slept.timed_out();
                    if rested {
                        // Not under the lock: it may take a moment.
                        drop(state);
                        self.store.rest();
                        self.lock()
                    } else {
                        state
                    }
                }
            };
            state.idle -= 1;
        }
    }

    /// Returns what other destinations do not allow now.
    fn limit(&self, state: &State<Prepared>) -> Limit {
        let wanted_is_it = state.wanted().is_some_and(|name| self.member.is_withheld(name));
        let nothing_yet = self.member.others_look();
        Limit { before: self.member.others_conflict(), wanted_is_it, nothing_yet }
    }

    /// Returns whether a file of a batch may still get its name: no other destination has found a conflict at
    /// or before it since, unless the server asks for just this file.
    fn is_allowed(&self, name: &FileName) -> bool {
        let state = self.lock();
        let Limit { before, wanted_is_it, .. } = self.limit(&state);
        let wanted = state.wanted() == Some(name);
        if wanted { !wanted_is_it } else { before.is_none_or(|before| Turn::of(name) < before) }
    }

    /// Looks for waiting files that this destination does not have yet. Touches the server's files alone.
    fn look(&self, look: &Look) -> Seen {
        let began = Instant::now();
        let status = look.pg_wal.join("archive_status");
        // What was given up conflicts with nobody.
        if let Some(name) = self.member.own_conflict()
            && matches!(status.join(format!("{name}.ready")).try_exists(), Ok(false))
        {
            self.member.is_settled(&name);
        }
        let known = |name: &FileName| {
            let known = self.lock().sees(name);
            // The server would not be asking for those without us.
            known || self.member.kept().has(name)
        };
        let names = or_panic(|| ready::first_waiting(&status, BATCH, known));
        Seen { names: names.ok(), took: began.elapsed() }
    }

    /// A file has failed.
    fn note_failure(&self, name: &FileName, error: &Error) {
        if error.kind().shows_another_history() && !self.lock().is_retired() {
            self.member.conflicts_at(name);
        }
        self.look_again();
    }

    /// Publishes a batch: one name after the other, until one is refused, then one flush for all. Returns a
    /// result for each file; `None` if it counts for nothing, without being the one to blame.
    ///
    /// Nothing of a batch counts if the flush fails. Each of its files falls under guarantee G8: it is tried
    /// once more when it is asked for, and then found, flushed, and read back on a new visit.
    fn publish(
        &self,
        batch: Batch<Prepared>,
        buffer: &mut Option<Buffer>,
    ) -> Vec<(FileName, Option<Result<Receipt, Error>>)> {
        let Batch { files, progress, epoch } = batch;
        let mut results: Vec<_> = files.iter().map(|(name, _)| (name.clone(), None)).collect();
        let files = files.into_iter().map(|(_, prepared)| prepared);
        match or_panic(|| self.publish_in_order(files, epoch, buffer, &progress)) {
            Ok((receipts, refused)) => {
                let came = receipts.into_iter().map(Ok).chain(refused.map(explained).map(Err));
                for ((_, result), outcome) in results.iter_mut().zip(came) {
                    *result = Some(outcome);
                }
            }
            Err(error) => {
                if let Some((_, first)) = results.first_mut() {
                    *first = Some(Err(explained(error)));
                }
            }
        }
        for (name, result) in &results {
            match result {
                Some(Ok(_)) => {}
                Some(Err(error)) => self.note_failure(name, error),
                None => self.look_again(),
            }
        }
        results
    }

    /// A file failed, or a call hung: the path may lead to another archive from here on.
    pub(super) fn look_again(&self) {
        self.arrival.look_again();
        self.seam.forget();
    }

    /// Returns the receipts of the files up to the first that is refused, and why that one is. Stops where
    /// another destination has found a conflict meanwhile; and, with nothing, when a hang was reported or the
    /// pool was retired.
    fn publish_in_order(
        &self,
        files: impl IntoIterator<Item = Prepared>,
        epoch: u64,
        buffer: &mut Option<Buffer>,
        progress: &Progress,
    ) -> Result<(Vec<Receipt>, Option<Error>), Error> {
        let mut files = files.into_iter().peekable();
        let Some(first) = files.peek() else { return Ok((Vec::new(), None)) };
        let (plan, store, seam) = (&self.plan, &*self.store, &self.seam);
        let publishing = Publishing::begin(plan, seam, first, progress);
        let (mut named, mut refused) = (Vec::new(), None);
        let may = || self.lock().may_publish(epoch);
        for prepared in files {
            if !may() {
                return Ok((Vec::new(), None));
            }
            if !self.is_allowed(&prepared.name) {
                break;
            }
            if let FileKind::History { timeline } = prepared.name.kind() {
                let job = prepared.job();
                let buffer = kept(buffer, &job.source)?;
                let notices = bring_parent(
                    plan,
                    store,
                    (seam, self.member.kept()),
                    &job,
                    buffer,
                    progress,
                    &may,
                );
                self.arrival.keep_notices(timeline, notices);
                // That may have taken long, or hung.
                if !may() {
                    return Ok((Vec::new(), None));
                }
            }
            match publishing.publish(prepared) {
                Ok(name) => named.push(name),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let receipts = if named.is_empty() { Vec::new() } else { publishing.settle(named)? };
        Ok((receipts, refused))
    }

    /// Removes stray temporary files, once. Those that this process is writing are none. If that cannot be done,
    /// archiving fails for the same reason, and reports it.
    fn tidy(&self, progress: &Progress) {
        // What another thread is at needs no waiting for: a long listing is progress of that thread alone.
        let mut tidied = match self.tidied.try_lock() {
            Ok(tidied) => tidied,
            Err(TryLockError::Poisoned(tidied)) => tidied.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if !*tidied {
            let visit = self.plan.visit(&*self.store, progress);
            *tidied = visit.and_then(|visit| visit.tidy()).is_ok();
        }
    }
}

/// Returns the buffer that a thread copies through, made for its first file. If there is no memory for it,
/// that file fails, and the next one tries again.
fn kept<'b>(buffer: &'b mut Option<Buffer>, source: &Path) -> Result<&'b mut Buffer, Error> {
    let kept = match buffer.take() {
        Some(kept) => kept,
        None => Buffer::large().map_err(|e| Error::io(Action::ReserveMemory, source, e))?,
    };
    Ok(buffer.insert(kept))
}

/// Adds to an error what the permissions say. Here and not where it is reported: that is the thread which must
/// not hang.
fn explained(error: Error) -> Error {
    Asker::archiver().explained(error)
}

/// Turns a panic into an error like any other.
fn or_panic<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(&*panic) }))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a thread panicked".to_owned())
}
