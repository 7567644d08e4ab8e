//! What a thread is to do next: the rules of the order (guarantee G13).

use std::sync::Arc;
use std::time::Instant;

use super::file::{Batch, File, Running, Stage, Turn, Work};
use super::{Phase, State};
use crate::archive::Job;
use crate::archive::pool::{AHEAD_PER_WORKER, READY_FILES};
use crate::store::Progress;
use crate::wal::name::FileName;

impl<P> State<P> {
    /// Starts the next thing that may be started.
    pub(in crate::archive::pool) fn start_next(&mut self) -> Option<Work<P>> {
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
        if let Some(batch) = self.start_batch() {
            return Some(Work::Publish(batch));
        }
        let job = self.next_ahead()?;
        Some(self.start(job, true))
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

    fn next_ahead(&self) -> Option<Job> {
        let count = |which: fn(&File<P>) -> bool| self.order.values().filter(|f| which(f)).count();
        let unclaimed = count(|file| !file.is_waiting());
        let open = count(|file| file.running().is_some() || file.is_ready());
        let room = unclaimed < self.threads * AHEAD_PER_WORKER && open < READY_FILES;
        let next = self.order.values().find(|file| file.listed && file.is_waiting());
        next.filter(|_| room && self.goes_ahead()).map(|file| file.job.clone())
    }

    /// Takes the files that may be published now. Nothing passes an earlier file that is not archived: a
    /// conflict there may mean that another server went on from here (guarantee G13). Only the file that the
    /// server waits for does: an earlier name may have become ready late.
    fn start_batch(&mut self) -> Option<Batch<P>> {
        let wanted = self.wanted.as_ref().map(|job| Turn::of(&job.name));
        let wanted = wanted.filter(|turn| self.order.get(turn).is_some_and(File::is_ready));
        let unarchived = self.order.iter().skip_while(|(_, file)| file.is_archived());
        // What is ready and in no look is from a call that the server gave up: the next look decides.
        let may = |(turn, file): &(&Turn, &File<P>)| {
            file.is_ready() && (file.listed || wanted.as_ref() == Some(*turn))
        };
        let run = unarchived.take_while(may).map(|(turn, _)| turn);
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
                    self.run(&turn.1, &progress, ahead);
                    files.push((turn.1, file));
                }
                other => file.stage = other,
            }
        }
        Some(Batch { files, progress, epoch: self.epoch })
    }
}
