//! What the pool knows: which files wait, are under way and are done, in the server's order, and what may be
//! started.
//!
//! Every change is made under the lock of `Shared`, and is a plain assignment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::barrier::Barrier;
use self::file::{Answered, File, Running, Stage};
pub(super) use self::file::{Batch, Limit, Look, Seen, Turn, Work};
use self::memory::Memory;
use crate::archive::{Job, Receipt};
use crate::error::Error;
use crate::wal::name::{FileName, SegmentName};

/// What may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What the server asks for, and the next files. `look_at`: from when on a look for waiting files may
    /// bring others.
    Ahead { look_at: Option<Instant> },
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
    /// At most so many threads; with 0, one for what the server asks for, and nothing is archived ahead.
    workers: usize,
    /// Files that wait for their turn are held in memory.
    in_memory: bool,
    /// The file that the server waits for.
    wanted: Option<Job>,
    /// The same, until a thread takes it.
    asked: Option<Job>,
    /// The same, once there is an answer.
    answer: Option<Answered>,
    /// The files of the last look that the destination does not have yet, those under way, and the one that
    /// the server waits for. Nothing in it is published before an earlier one, except for that one.
    order: BTreeMap<Turn, File<P>>,
    /// What the destination has. No file is here and in `order`.
    memory: Memory,
    /// A file ahead that has failed.
    barrier: Option<Barrier>,
    /// Where the server has its WAL.
    pg_wal: Option<PathBuf>,
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
    pub(super) fn new(workers: usize, in_memory: bool) -> Self {
        Self {
            phase: Phase::Ahead { look_at: None },
            workers,
            in_memory,
            wanted: None,
            asked: None,
            answer: None,
            order: BTreeMap::new(),
            memory: Memory::default(),
            barrier: None,
            pg_wal: None,
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

    /// Returns the file that the server waits for.
    pub(super) fn wanted(&self) -> Option<&FileName> {
        self.wanted.as_ref().map(|job| &job.name)
    }

    fn is_listed(&self, name: &FileName) -> bool {
        self.order.get(&Turn::of(name)).is_some_and(|file| file.listed)
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.order.values().filter_map(File::running)
    }

    /// The server waits for this file.
    pub(super) fn ask(&mut self, job: &Job) {
        let turn = Turn::of(&job.name);
        self.memory.is_asked_for(&job.name);
        self.pg_wal = job.source.parent().map(Path::to_owned);
        let once_more = self.is_wanted(&job.name) || self.memory.was_told(&job.name);
        (self.wanted, self.asked, self.answer) = (Some(job.clone()), None, None);
        if self.barrier.as_ref().is_some_and(|barrier| barrier.turn <= turn) {
            self.stop_ahead();
        }
        self.try_barrier_again();
        if self.memory.has(&job.name) {
            self.answer = Some(Answered::Had);
        } else if self.order.get(&turn).is_none_or(File::is_waiting) {
            if !self.order.contains_key(&turn) {
                // The server has found a file that no look of ours has found.
                self.look_now();
            }
            self.start_wanted();
        }
        if once_more {
            self.look_now();
        }
    }

    /// Has a thread take the file that the server waits for.
    fn start_wanted(&mut self) {
        let Some(job) = self.wanted.clone() else { return };
        let waiting = || File::waiting(job.clone());
        self.order.entry(Turn::of(&job.name)).or_insert_with(waiting);
        self.asked = Some(job);
        self.last_event = Some(Instant::now());
    }

    /// A file that was asked for cannot be tried.
    pub(super) fn refuse(&mut self, job: &Job, error: Error) {
        if self.asked.take().is_some() {
            self.fail(&job.name, false, error);
        }
    }

    fn set(&mut self, name: &FileName, stage: Stage<P>) {
        if let Some(file) = self.order.get_mut(&Turn::of(name)) {
            file.stage = stage;
        }
    }

    /// Takes out the result of the file that the server waits for: the receipt, and whether an earlier call has
    /// had it already.
    pub(super) fn take_result(
        &mut self,
        name: &FileName,
    ) -> Option<Result<(Receipt, bool), Error>> {
        if !self.is_wanted(name) {
            return None;
        }
        let result = match self.answer.take()? {
            Answered::Now(Ok(receipt)) => {
                let _ = self.memory.tell(name);
                Ok((receipt, false))
            }
            Answered::Now(Err(error)) => Err(error),
            // What is forgotten takes its answer with it.
            Answered::Had => Ok(self.memory.tell(name)?),
        };
        self.wanted = None;
        match (self.phase, &result) {
            (Phase::Held { .. }, _) => {}
            (_, Err(_)) => self.stop_ahead(),
            (Phase::Asked, Ok(_)) => self.enter(Phase::Ahead { look_at: Some(Instant::now()) }),
            (_, Ok(_)) => {}
        }
        Some(result)
    }

    /// The server is told that this file is archived.
    pub(super) fn answered(&mut self, name: &FileName) {
        self.memory.answered(name);
        self.look_later();
    }

    /// Returns the files that wait for their turn, where they are held in memory: nowhere else is there anything to
    /// let go of, and there may be many more.
    pub(super) fn ready_in_memory(&mut self) -> impl Iterator<Item = &mut P> {
        let files = self.in_memory.then(|| self.order.values_mut());
        files.into_iter().flatten().filter_map(|file| match &mut file.stage {
            Stage::Ready { file, .. } => Some(file),
            _ => None,
        })
    }

    pub(super) fn last_ahead(&self) -> Option<SegmentName> {
        self.memory.last()
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
        self.give_up();
    }

    pub(super) fn retire(&mut self) {
        self.enter(Phase::Retired);
        self.give_up();
    }

    /// Nobody waits any more, and what is under way counts for nothing.
    fn give_up(&mut self) {
        (self.asked, self.wanted, self.answer) = (None, None, None);
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

    /// Keeps only these files; of the others, discards what is ready.
    fn keep(&mut self, keep: impl Fn(&Turn, &File<P>) -> bool) {
        let wanted = self.wanted.as_ref().map(|job| Turn::of(&job.name));
        let discarded = &mut self.discarded;
        self.order.retain(|turn, file| {
            let keep =
                keep(turn, file) || file.running().is_some() || Some(turn) == wanted.as_ref();
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

    /// Forgets what the destination has, and what was found to wait: what stands before a file that waits may
    /// no longer be there. Copies of files before a turn stay ready for the next look: before they count, the
    /// path must still lead to the place where they lie. Without a turn, none does.
    fn forget_behind(&mut self, from: Option<&Turn>) {
        self.generation += 1;
        self.memory.clear();
        self.order.values_mut().for_each(|file| file.listed = false);
        self.keep(|turn, file| file.is_ready() && from.is_some_and(|from| turn < from));
        if matches!(self.answer, Some(Answered::Had)) {
            self.answer = None;
        }
        let Some(wanted) = self.wanted.as_ref().map(|job| Turn::of(&job.name)) else { return };
        let idle = self.order.get(&wanted).is_none_or(File::is_waiting);
        if idle && self.answer.is_none() && self.asked.is_none() {
            self.start_wanted();
        }
    }

    /// Takes off the list what stands at or behind a turn.
    fn keep_before(&mut self, from: &Turn) {
        for (turn, file) in &mut self.order {
            file.listed &= turn < from;
        }
        self.keep(|_, file| file.listed);
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
            let wanted = self.is_wanted(&name);
            match result {
                Some(Err(error)) => self.fail(&name, ahead || late, error),
                Some(Ok(receipt)) if !late && (current || (wanted && !ahead)) => {
                    self.order.remove(&Turn::of(&name));
                    if self.barrier.as_ref().is_some_and(|barrier| barrier.turn == Turn::of(&name))
                    {
                        self.barrier = None;
                    }
                    if wanted {
                        self.answer = Some(Answered::Now(Ok(receipt.clone())));
                    }
                    if current {
                        self.memory.keep(&name, receipt);
                        if !self.memory.is_looking() {
                            self.look_if_held_up();
                        }
                    }
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

    /// Notes a failure. One from before the file was asked for, or of a file that nobody waits for any more, is
    /// forgotten: the file is tried once more when the server comes to it, or after a while. What stands before it
    /// goes on meanwhile, once a look has told what that is.
    fn fail(&mut self, name: &FileName, unasked: bool, error: Error) {
        let turn = Turn::of(name);
        if self.goes_ahead() && !self.is_wanted(name) {
            self.bar(turn.clone());
            if error.kind().is_of_the_file() {
                // What the destination has, it still has.
                self.keep_before(&turn);
            } else {
                self.forget_behind(Some(&turn));
                self.look_now();
            }
            self.begin_again(name);
            return;
        }
        if self.goes_ahead() {
            self.enter(Phase::Asked);
        }
        if self.is_wanted(name) && !unasked {
            self.order.remove(&turn);
            self.answer = Some(Answered::Now(Err(error)));
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

mod barrier;
mod file;
mod looks;
mod memory;
mod start;
#[cfg(test)]
mod tests;
