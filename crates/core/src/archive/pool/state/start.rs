//! What a thread is to do next: the rules of the order (guarantee G13).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::{Batch, File, Limit, Running, Stage, Turn, Work};
use super::{Phase, State};
use crate::archive::Job;
use crate::archive::pool::{AHEAD_PER_WORKER, READY_FILES};
use crate::store::Progress;
use crate::wal::name::FileName;

impl<P> State<P> {
    /// Starts the next thing that may be started.
    pub(in crate::archive::pool) fn start_next(&mut self, limit: &Limit) -> Option<Work<P>> {
        if matches!(self.phase, Phase::Held { .. }) {
            return None;
        }
        if !self.discarded.is_empty() {
            return Some(Work::Discard(std::mem::take(&mut self.discarded)));
        }
        if self.is_retired() {
            return None;
        }
        if let Some(job) = self.asked.take() {
            return Some(self.start(job, false));
        }
        self.keep_to(limit);
        if let Some(batch) = self.start_batch(limit) {
            return Some(Work::Publish(batch));
        }
        if let Some(job) = self.next_ahead() {
            return Some(self.start(job, true));
        }
        if self.make_way() {
            return Some(Work::Discard(std::mem::take(&mut self.discarded)));
        }
        self.start_look().map(Work::Look)
    }

    fn start(&mut self, job: Job, ahead: bool) -> Work<P> {
        let progress = Arc::new(Progress::default());
        self.run(&job.name, &progress, ahead);
        Work::Prepare(job, progress)
    }

    fn run(&mut self, name: &FileName, progress: &Arc<Progress>, ahead: bool) {
        let (generation, epoch) = (self.generation, self.epoch);
        let progress = Arc::clone(progress);
        self.set(
            name,
            Stage::Running(Running { progress, held_at: None, ahead, generation, epoch }),
        );
        self.last_event = Some(Instant::now());
    }

    pub(super) fn goes_ahead(&self) -> bool {
        matches!(self.phase, Phase::Ahead { .. })
    }

    /// Returns how many files may be made ready ahead now, with so many threads.
    pub(super) fn room(&self, threads: usize) -> usize {
        let open = |file: &&File<P>| !file.is_waiting();
        let open = self.order.values().filter(open).count();
        let each = if self.in_memory { 1 } else { AHEAD_PER_WORKER };
        let most = READY_FILES.min(threads * each);
        let most = if self.memory.is_full() { 0 } else { most };
        most.saturating_sub(open)
    }

    fn next_ahead(&self) -> Option<Job> {
        if !self.goes_ahead() || self.room(self.threads) == 0 {
            return None;
        }
        let next = self.order.values().find(|file| file.listed && file.is_waiting());
        next.map(|file| file.job.clone())
    }

    /// A file that has appeared late may come before those that are ready, which wait for it and take all the room.
    /// Then the last of them makes way. Returns whether one did.
    fn make_way(&mut self) -> bool {
        if !self.goes_ahead() || self.memory.is_full() || self.room(self.threads) > 0 {
            return false;
        }
        let first = self.order.iter().find(|(_, file)| file.listed && file.is_waiting());
        let Some((first, _)) = first else { return false };
        let first = first.clone();
        let wanted = self.wanted.as_ref();
        let mut behind = self.order.range_mut(&first..).rev().map(|(_, file)| file);
        let gives = |file: &&mut File<P>| file.is_ready() && wanted != Some(&file.job);
        let Some(last) = behind.find(gives) else { return false };
        if let Stage::Ready { file, .. } = std::mem::replace(&mut last.stage, Stage::Waiting) {
            self.discarded.push(file);
        }
        true
    }

    /// Returns how many threads have something to do that no thread has begun.
    pub(in crate::archive::pool) fn needed(&self) -> usize {
        let most = self.workers.max(1);
        let waits = |file: &&File<P>| file.listed && file.is_waiting();
        let waiting = self.order.values().filter(waits).count();
        let ahead = if self.goes_ahead() { waiting.min(self.room(most)) } else { 0 };
        let look = self.next_look().is_some_and(|left| left.is_zero());
        usize::from(self.asked.is_some()) + usize::from(look) + ahead
    }

    /// Returns whether another thread would help.
    pub(in crate::archive::pool) fn needs_thread(&self) -> bool {
        self.threads < self.workers.max(1) && self.idle + self.starting < self.needed()
    }

    /// Returns for how long a thread that has nothing to do may sleep if nobody wakes it.
    pub(in crate::archive::pool) fn longest_sleep(&self, limit: &Limit) -> Option<Duration> {
        // What other destinations do not allow ends without a word to this pool.
        let limited = match limit {
            Limit { nothing_yet: true, .. } => Some(Duration::from_millis(2)),
            Limit { before: Some(_), .. } => Some(Duration::from_secs(1)),
            _ => None,
        };
        let look = self.next_look().map(|left| left.max(Duration::from_millis(1)));
        look.into_iter().chain(limited).min()
    }

    /// Takes the files that may be published now. Nothing passes an earlier file that is not archived: a
    /// conflict there may mean that another server went on from here (guarantee G13). Only the file that the
    /// server waits for does: an earlier name may have become ready late.
    fn start_batch(&mut self, limit: &Limit) -> Option<Batch<P>> {
        if limit.nothing_yet {
            return None;
        }
        let wanted = self.wanted.as_ref().map(|job| Turn::of(&job.name));
        let wanted = wanted
            .filter(|turn| !limit.wanted_is_it && self.order.get(turn).is_some_and(File::is_ready));
        // What is ready and in no look is from a call that the server gave up: the next look decides.
        let may = |(turn, file): &(&Turn, &File<P>)| {
            file.is_ready() && (file.listed || wanted.as_ref() == Some(*turn)) && limit.allows(turn)
        };
        // Where files are held in memory, there is no flush that makes names durable together. What waits for its
        // turn is let go in time there, which a thread that publishes another file does not do.
        let most = if self.in_memory { 1 } else { usize::MAX };
        let run = self.order.iter().take_while(may).map(|(turn, _)| turn).take(most);
        let run: Vec<_> = if self.goes_ahead() { run.cloned().collect() } else { Vec::new() };
        let turns = match wanted {
            // What stands before it must not hold it back.
            Some(turn) if run.first() != Some(&turn) => vec![turn],
            _ => run,
        };
        if turns.is_empty() {
            return None;
        }
        let progress = Arc::new(Progress::default());
        let mut files = Vec::new();
        for turn in turns {
            let Some(file) = self.order.get_mut(&turn) else { continue };
            match std::mem::replace(&mut file.stage, Stage::Waiting) {
                Stage::Ready { file, ahead } => {
                    self.run(turn.name(), &progress, ahead);
                    files.push((turn.name().clone(), file));
                }
                other => file.stage = other,
            }
        }
        Some(Batch { files, progress, epoch: self.epoch })
    }
}
