//! What the pool knows: which files wait, are under way and are done, in the server's order, and what may be
//! started.
//!
//! Every change is made under the lock of `Shared`, and is a plain assignment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(super) use self::file::{Batch, Work};
use self::file::{Done, File, Running, Stage, Turn};
use crate::archive::{Job, Receipt};
use crate::error::Error;
use crate::wal::name::FileName;

/// What may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What the server asks for, and the next files. `more`: a look for waiting files may bring others.
    Ahead { more: bool },
    /// Only what the server asks for: a file failed, or a call hung. Files ahead would fail in the same
    /// way, and cost the storage what it lacks.
    Asked,
    /// Nothing, until one of the files that stand still moves: there were so many.
    Held { still: usize },
    /// Nothing any more: threads end.
    Retired,
}

/// What is known, beside the threads themselves. `P` is a file that is ready to be published.
pub(super) struct State<P> {
    phase: Phase,
    /// The file that the server waits for.
    wanted: Option<Job>,
    /// The same, until a thread takes it.
    asked: Option<Job>,
    /// The files of the last look and those under way. Nothing in it is published before an earlier one,
    /// except for the file that the server waits for.
    order: BTreeMap<Turn, File<P>>,
    /// A file ahead that has failed. Nothing at or behind it is started before the server asks for that.
    barrier: Option<Turn>,
    /// Copies that will not be published. A thread drops them, without the lock: that may take its time,
    /// and hang.
    discarded: Vec<P>,
    /// Raised by every failure and every hang. Afterwards the path may lead to another disk, so no earlier
    /// success ahead counts.
    generation: u64,
    /// Raised when a hang was reported, and when the pool is retired. What was under way then counts for
    /// nothing, not even the file that was asked for.
    epoch: u64,
    /// When a file was last taken or finished.
    last_event: Option<Instant>,
    pub(super) threads: usize,
    /// Threads that have not looked for a file yet.
    pub(super) starting: usize,
    /// Threads that wait for a file.
    pub(super) idle: usize,
}

impl<P> State<P> {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Ahead { more: true },
            wanted: None,
            asked: None,
            order: BTreeMap::new(),
            barrier: None,
            discarded: Vec::new(),
            generation: 0,
            epoch: 0,
            last_event: None,
            threads: 0,
            starting: 0,
            idle: 0,
        }
    }

    /// Enters another phase. No phase follows the last one.
    fn enter(&mut self, phase: Phase) {
        if self.phase != Phase::Retired {
            self.phase = phase;
        }
    }

    /// From now on, only what the server asks for. No look counts until the next success, so none from before
    /// may count after it.
    fn stop_ahead(&mut self) {
        if self.goes_ahead() {
            self.enter(Phase::Asked);
            self.forget();
        }
    }

    fn is_wanted(&self, name: &FileName) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.name == *name)
    }

    fn is_listed(&self, name: &FileName) -> bool {
        self.order.get(&Turn::of(name)).is_some_and(|file| file.listed)
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.order.values().filter_map(File::running)
    }

    /// The server waits for this file. Returns whether a thread is needed for it.
    pub(super) fn ask(&mut self, job: &Job) -> bool {
        let turn = Turn::of(&job.name);
        // The server asks in its order: what is archived before this file, it has no more questions about.
        // What is not archived may have become ready late, and still stands before the next ones.
        self.order.retain(|before, file| *before >= turn || !file.is_archived());
        (self.wanted, self.asked) = (Some(job.clone()), None);
        if self.is_barred(&turn) {
            self.stop_ahead();
        }
        match self.order.get(&turn) {
            None => {
                let file = File { job: job.clone(), listed: false, stage: Stage::Waiting };
                self.order.insert(turn, file);
                // The server has found a file that no look of ours has found.
                if let Phase::Ahead { more } = &mut self.phase {
                    *more = true;
                }
                self.start_wanted();
            }
            Some(file) if file.is_waiting() => self.start_wanted(),
            Some(_) => {}
        }
        self.asked.is_some()
    }

    fn start_wanted(&mut self) {
        self.asked = self.wanted.clone();
        self.last_event = Some(Instant::now());
    }

    /// A file that was asked for cannot be tried.
    pub(super) fn refuse(&mut self, job: &Job, error: Error) {
        self.asked = None;
        self.fail(&job.name, false, error);
    }

    fn set(&mut self, name: &FileName, stage: Stage<P>) {
        if let Some(file) = self.order.get_mut(&Turn::of(name)) {
            file.stage = stage;
        }
    }

    /// Takes out the result of the file that the server waits for.
    pub(super) fn take_result(&mut self, name: &FileName) -> Option<Result<Receipt, Error>> {
        let turn = Turn::of(name);
        if !self.is_answered() || !self.is_wanted(name) {
            return None;
        }
        let Stage::Done(Done { result, .. }) = self.order.remove(&turn)?.stage else { return None };
        self.wanted = None;
        match (self.phase, &result) {
            (Phase::Held { .. }, _) => {}
            (_, Err(_)) => self.stop_ahead(),
            (Phase::Asked, Ok(_)) => self.enter(Phase::Ahead { more: true }),
            (_, Ok(_)) => {}
        }
        Some(result)
    }

    /// Returns whether there is a result for the file that the server waits for.
    pub(super) fn is_answered(&self) -> bool {
        let file = self.wanted.as_ref().and_then(|job| self.order.get(&Turn::of(&job.name)));
        file.is_some_and(|file| matches!(file.stage, Stage::Done(_)))
    }

    /// Returns how long nothing has moved for a file. Once a thread has it, its own steps count; until
    /// then, anything that the pool does.
    pub(super) fn still_for(&self, name: &FileName) -> Duration {
        let now = Instant::now();
        let since = match self.order.get(&Turn::of(name)).and_then(File::running) {
            Some(running) => Some(running.still_since()),
            None => self.running().map(Running::still_since).max().max(self.last_event),
        };
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Returns for how long everything that stood still when the pool was held has not moved.
    pub(super) fn held(&self) -> Option<Duration> {
        let Phase::Held { still } = self.phase else { return None };
        let stuck = || self.running().filter(|running| running.is_stuck());
        let since = stuck().map(Running::still_since).min()?;
        (stuck().count() == still).then(|| Instant::now().saturating_duration_since(since))
    }

    pub(super) fn release_if_moved(&mut self) {
        if matches!(self.phase, Phase::Held { .. }) && self.held().is_none() {
            self.enter(Phase::Asked);
        }
    }

    pub(super) fn hold(&mut self, still_for: Duration) {
        let now = Instant::now();
        let mut still = 0;
        for file in self.order.values_mut() {
            let Stage::Running(running) = &mut file.stage else { continue };
            let stands = now.saturating_duration_since(running.still_since()) >= still_for;
            running.held_at = stands.then(|| running.progress.steps());
            still += usize::from(stands);
        }
        // Where nothing stands still any more, there is nothing to wait for.
        self.enter(if still > 0 { Phase::Held { still } } else { Phase::Asked });
        (self.asked, self.wanted) = (None, None);
        self.epoch += 1;
        self.forget();
    }

    pub(super) fn wants_more(&self) -> bool {
        let waits = |file: &File<P>| file.listed && file.is_waiting();
        self.phase == Phase::Ahead { more: true } && !self.order.values().any(waits)
    }

    fn is_barred(&self, turn: &Turn) -> bool {
        self.barrier.as_ref().is_some_and(|barrier| turn >= barrier)
    }

    /// Takes over what a look has found to wait, and nothing of an earlier look. Returns how many files wait
    /// for a thread.
    pub(super) fn offer(&mut self, jobs: impl IntoIterator<Item = Job>) -> usize {
        if !self.goes_ahead() {
            // A file has failed while somebody looked. It may be out of the order by now, and nothing may pass
            // it: the next look counts, after the next success.
            return usize::from(self.asked.is_some());
        }
        self.order.values_mut().for_each(|file| file.listed = false);
        for job in jobs {
            let turn = Turn::of(&job.name);
            if self.is_barred(&turn) {
                continue;
            }
            let file = self.order.entry(turn).or_insert_with(|| File {
                job,
                listed: false,
                stage: Stage::Waiting,
            });
            file.listed = true;
        }
        self.keep(|file, wanted| file.listed || wanted || file.running().is_some());
        let waits = |file: &&File<P>| file.listed && file.is_waiting();
        let waiting = self.order.values().filter(waits).count();
        let asked = self.asked.as_ref().map(|job| Turn::of(&job.name));
        let asked = asked.and_then(|turn| self.order.get(&turn));
        let ahead = waiting - usize::from(asked.is_some_and(|file| file.listed));
        if let Phase::Ahead { more } = &mut self.phase {
            *more = ahead > 0;
        }
        ahead + usize::from(asked.is_some())
    }

    /// Keeps only these files; of the others, discards what is ready.
    fn keep(&mut self, keep: impl Fn(&File<P>, bool) -> bool) {
        let wanted = self.wanted.as_ref().map(|job| Turn::of(&job.name));
        let discarded = &mut self.discarded;
        self.order.retain(|turn, file| {
            let keep = keep(file, Some(turn) == wanted.as_ref());
            if !keep
                && let Stage::Ready { file, .. } =
                    std::mem::replace(&mut file.stage, Stage::Waiting)
            {
                discarded.push(file);
            }
            keep
        });
    }

    /// After trouble: forgets what is ahead. What failed may have been replaced, by a new disk at the same
    /// path, and what was archived ahead is then gone. Copies that wait take up space, and keep the archive
    /// open. The next look tells which files wait.
    fn forget(&mut self) {
        self.barrier = None;
        self.forget_behind(None);
    }

    /// Forgets the files at or behind a turn; without one, all. What was archived ahead before it is looked
    /// up once more. What was made ready before it stays so: before it counts, the path must still lead to
    /// the place where it lies.
    fn forget_behind(&mut self, from: Option<&Turn>) {
        self.generation += 1;
        for (turn, file) in &mut self.order {
            let stays = from.is_some_and(|from| turn < from);
            file.listed &= stays;
            if stays && matches!(file.stage, Stage::Done(Done { result: Ok(_), ahead: true })) {
                file.stage = Stage::Waiting;
            }
        }
        self.keep(|file, wanted| file.listed || wanted || file.running().is_some());
        let again = self.wanted.as_ref().map(|job| job.name.clone()).filter(|name| {
            let file = self.order.get(&Turn::of(name));
            file.is_some_and(|file| match file.stage {
                Stage::Done(Done { ahead, .. }) => ahead,
                Stage::Waiting => self.asked.is_none(),
                Stage::Running(_) | Stage::Ready { .. } => false,
            })
        });
        if let Some(name) = again {
            self.begin_again(&name);
        }
    }

    pub(super) fn retire(&mut self) {
        self.enter(Phase::Retired);
        (self.asked, self.wanted) = (None, None);
        self.epoch += 1;
        self.forget();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.phase == Phase::Retired
    }

    pub(super) fn busy(&self) -> Option<Duration> {
        let since = self.running().map(Running::still_since).min()?;
        Some(Instant::now().saturating_duration_since(since))
    }

    /// Returns whether files of a batch may still get their names.
    pub(super) fn may_publish(&self, epoch: u64) -> bool {
        self.epoch == epoch
    }

    /// Notes what came of making a file ready.
    pub(super) fn finish_prepare(&mut self, name: &FileName, result: Result<P, Error>) {
        let Some((ahead, _, late)) = self.end(name) else { return };
        match result {
            Err(error) => self.fail(name, ahead || late, error),
            // What a failure has taken off the list waits for the next look. The file that the server waits
            // for needs none.
            Ok(file) if !late && (self.is_wanted(name) || self.is_listed(name)) => {
                self.set(name, Stage::Ready { file, ahead });
            }
            Ok(file) => {
                self.discarded.push(file);
                self.begin_again(name);
            }
        }
    }

    /// Notes what came of a batch: `None` for a file that counts for nothing, without being the one to blame.
    pub(super) fn finish_batch(
        &mut self,
        results: impl IntoIterator<Item = (FileName, Option<Result<Receipt, Error>>)>,
    ) {
        for (name, result) in results {
            let Some((ahead, current, late)) = self.end(&name) else { continue };
            match result {
                Some(Err(error)) => self.fail(&name, ahead || late, error),
                Some(Ok(receipt)) if !late && (current || !ahead) => {
                    let ahead = !self.is_wanted(&name);
                    self.set(&name, Stage::Done(Done { result: Ok(receipt), ahead }));
                }
                // It is looked up once more, on a new visit.
                Some(Ok(_)) | None => self.begin_again(&name),
            }
        }
    }

    /// A thread is through with a file. Returns whether the file was begun ahead; whether nothing has failed
    /// since; and whether that was reported as a hang meanwhile, or the pool retired.
    fn end(&mut self, name: &FileName) -> Option<(bool, bool, bool)> {
        self.last_event = Some(Instant::now());
        let file = self.order.get_mut(&Turn::of(name))?;
        let Stage::Running(running) = std::mem::replace(&mut file.stage, Stage::Waiting) else {
            return None;
        };
        let current = running.generation == self.generation;
        Some((running.ahead, current, running.epoch != self.epoch))
    }

    /// Notes a failure. One from before the file was asked for is forgotten: the file is tried once more when
    /// the server comes to it. What stands before it goes on meanwhile.
    fn fail(&mut self, name: &FileName, unasked: bool, error: Error) {
        let turn = Turn::of(name);
        if unasked && self.goes_ahead() && !self.is_wanted(name) {
            self.enter(Phase::Ahead { more: false });
            if !self.is_barred(&turn) {
                self.barrier = Some(turn.clone());
            }
            self.forget_behind(Some(&turn));
            self.begin_again(name);
            return;
        }
        if self.goes_ahead() {
            self.enter(Phase::Asked);
        }
        if self.is_wanted(name) && !unasked {
            self.set(name, Stage::Done(Done { result: Err(error), ahead: false }));
        }
        self.forget();
        if unasked {
            self.begin_again(name);
        }
    }

    /// A file that counts for nothing yet waits again, if anybody waits for it.
    fn begin_again(&mut self, name: &FileName) {
        if self.is_wanted(name) {
            self.set(name, Stage::Waiting);
            self.start_wanted();
        } else if !self.is_listed(name) {
            self.order.remove(&Turn::of(name));
        }
    }
}

mod file;
mod start;
#[cfg(test)]
mod tests;
