//! What the pool knows: which files wait, are under way and are done, and what may be started.
//!
//! Every change is made under the lock of `Shared`, and is a plain assignment.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::AHEAD_PER_WORKER;
use crate::archive::{Job, Receipt};
use crate::error::Error;
use crate::store::Progress;
use crate::wal::name::{FileKind, FileName};

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

/// What is known, beside the threads themselves.
pub(super) struct State {
    phase: Phase,
    /// The file that the server waits for.
    wanted: Option<Job>,
    /// The same, until a thread takes it.
    asked: Option<Job>,
    /// Files to archive ahead, in the server's order.
    ahead: VecDeque<Job>,
    running: HashMap<FileName, Running>,
    done: HashMap<FileName, Done>,
    /// Raised by every failure and every hang. Afterwards the path may lead to another disk, so no earlier
    /// success ahead counts.
    generation: u64,
    /// When a file was last taken or finished.
    last_event: Option<Instant>,
    pub(super) threads: usize,
    /// Threads that have not looked for a file yet.
    pub(super) starting: usize,
    /// Threads that wait for a file.
    pub(super) idle: usize,
}

struct Running {
    progress: Arc<Progress>,
    /// The step count at the moment when the pool was held, if the file stood still then.
    held_at: Option<u64>,
    ahead: bool,
    /// The generation in which it was started.
    generation: u64,
}

impl Running {
    fn still_since(&self) -> Instant {
        self.progress.last_step()
    }

    /// Returns whether it stood still when the pool was held, and has not moved since.
    fn is_stuck(&self) -> bool {
        self.held_at == Some(self.progress.steps())
    }
}

struct Done {
    result: Result<Receipt, Error>,
    ahead: bool,
    /// The generation in which it was started.
    generation: u64,
}

impl Done {
    /// Returns whether the result answers a call of the server. The result of a file ahead does not if it
    /// is a failure, or older than one: the file is tried, or found and compared, once more.
    fn counts(&self, generation: u64) -> bool {
        !self.ahead || (self.result.is_ok() && self.generation == generation)
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Ahead { more: true },
            wanted: None,
            asked: None,
            ahead: VecDeque::new(),
            running: HashMap::new(),
            done: HashMap::new(),
            generation: 0,
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

    /// The server waits for this file. Returns whether a thread is needed for it.
    pub(super) fn ask(&mut self, job: &Job) -> bool {
        // The server asks in its order: what comes before this file no longer waits.
        let asked = server_order(&job.name);
        self.ahead.retain(|waiting| server_order(&waiting.name) > asked);
        self.done.retain(|name, _| server_order(name) >= asked);
        self.wanted = Some(job.clone());
        self.discard_stale();
        let known = self.done.contains_key(&job.name) || self.running.contains_key(&job.name);
        if !known {
            // The server has found a file that no look of ours has found.
            if let Phase::Ahead { more } = &mut self.phase {
                *more = true;
            }
            self.start_wanted();
        }
        self.asked.is_some()
    }

    /// Throws away a result that does not answer the server's call. The file is tried once more.
    fn discard_stale(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let stale = |done: &Done| !done.counts(self.generation);
        if self.done.get(&wanted.name).is_some_and(stale) {
            self.done.remove(&wanted.name);
            self.start_wanted();
        }
    }

    fn start_wanted(&mut self) {
        self.asked = self.wanted.clone();
        self.last_event = Some(Instant::now());
    }

    /// A file that was asked for cannot be tried.
    pub(super) fn refuse(&mut self, job: &Job, error: Error) {
        self.asked = None;
        let done = Done { result: Err(error), ahead: false, generation: self.generation };
        self.done.insert(job.name.clone(), done);
    }

    /// Takes out the result of a file, if it counts.
    pub(super) fn take_result(&mut self, name: &FileName) -> Option<Result<Receipt, Error>> {
        if !self.done.get(name)?.counts(self.generation) {
            return None;
        }
        let result = self.done.remove(name)?.result;
        self.wanted = None;
        match (self.phase, &result) {
            (Phase::Held { .. }, _) => {}
            (_, Err(_)) => self.enter(Phase::Asked),
            (Phase::Asked, Ok(_)) => self.enter(Phase::Ahead { more: true }),
            (_, Ok(_)) => {}
        }
        Some(result)
    }

    /// Returns how long nothing has moved for a file. Once a thread has it, its own steps count; until
    /// then, anything that the pool does.
    pub(super) fn still_for(&self, name: &FileName) -> Duration {
        let now = Instant::now();
        let since = match self.running.get(name) {
            Some(running) => Some(running.still_since()),
            None => {
                let moved = self.running.values().map(Running::still_since).max();
                moved.max(self.last_event)
            }
        };
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Returns for how long everything that stood still when the pool was held has not moved.
    pub(super) fn held(&self) -> Option<Duration> {
        let Phase::Held { still } = self.phase else { return None };
        let stuck = self.running.values().filter(|running| running.is_stuck());
        let since = stuck.clone().map(Running::still_since).min()?;
        (stuck.count() == still).then(|| Instant::now().saturating_duration_since(since))
    }

    pub(super) fn release_if_moved(&mut self) {
        if matches!(self.phase, Phase::Held { .. }) && self.held().is_none() {
            self.enter(Phase::Asked);
        }
    }

    pub(super) fn hold(&mut self, still_for: Duration) {
        let now = Instant::now();
        let mut still = 0;
        for running in self.running.values_mut() {
            let stands = now.saturating_duration_since(running.still_since()) >= still_for;
            running.held_at = stands.then(|| running.progress.steps());
            still += usize::from(stands);
        }
        // Where nothing stands still any more, there is nothing to wait for.
        self.enter(if still > 0 { Phase::Held { still } } else { Phase::Asked });
        (self.asked, self.wanted) = (None, None);
        self.generation += 1;
    }

    pub(super) fn wants_more(&self) -> bool {
        self.ahead.is_empty() && self.phase == Phase::Ahead { more: true }
    }

    /// Takes over the files that are not known yet; returns how many wait for a thread.
    pub(super) fn offer(&mut self, jobs: impl IntoIterator<Item = Job>) -> usize {
        let waiting: HashSet<_> = self.ahead.iter().map(|job| job.name.clone()).collect();
        for job in jobs {
            let known = waiting.contains(&job.name)
                || self.done.contains_key(&job.name)
                || self.running.contains_key(&job.name)
                || self.asked.as_ref().is_some_and(|asked| asked.name == job.name);
            if !known {
                self.ahead.push_back(job);
            }
        }
        if let Phase::Ahead { more } = &mut self.phase {
            *more = !self.ahead.is_empty();
        }
        self.ahead.len() + usize::from(self.asked.is_some())
    }

    pub(super) fn retire(&mut self) {
        self.enter(Phase::Retired);
        self.asked = None;
        self.ahead.clear();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.phase == Phase::Retired
    }

    pub(super) fn busy(&self) -> Option<Duration> {
        let since = self.running.values().map(Running::still_since).min()?;
        Some(Instant::now().saturating_duration_since(since))
    }

    /// Starts the next file that may be started.
    pub(super) fn start_next(&mut self) -> Option<(Job, Arc<Progress>)> {
        let (job, ahead) = self.next()?;
        let progress = Arc::new(Progress::default());
        let running = Running {
            progress: Arc::clone(&progress),
            held_at: None,
            ahead,
            generation: self.generation,
        };
        self.running.insert(job.name.clone(), running);
        self.last_event = Some(Instant::now());
        Some((job, progress))
    }

    fn next(&mut self) -> Option<(Job, bool)> {
        let may_go_ahead = match self.phase {
            Phase::Held { .. } | Phase::Retired => return None,
            Phase::Asked => false,
            Phase::Ahead { .. } => true,
        };
        if let Some(job) = self.asked.take() {
            return Some((job, false));
        }
        let unclaimed = self.running.len() + self.done.len();
        if !may_go_ahead || unclaimed >= self.threads * AHEAD_PER_WORKER {
            return None;
        }
        // A history file that conflicts says that another server went on from here: no segment of
        // this one may come into the archive ahead of that answer.
        if self.running.keys().any(|name| matches!(name.kind(), FileKind::History { .. })) {
            return None;
        }
        self.ahead.pop_front().map(|job| (job, true))
    }

    /// Notes what came of a file that was started.
    pub(super) fn finish(&mut self, name: FileName, result: Result<Receipt, Error>) {
        let running = self.running.remove(&name);
        let (ahead, generation) = running.map_or((true, 0), |r| (r.ahead, r.generation));
        if result.is_err() {
            self.generation += 1;
            if matches!(self.phase, Phase::Ahead { .. }) {
                self.enter(Phase::Asked);
            }
        }
        self.done.insert(name, Done { result, ahead, generation });
        self.last_event = Some(Instant::now());
        self.discard_stale();
    }
}

/// Orders names as the server asks for them: history files first, then by name.
fn server_order(name: &FileName) -> (bool, &FileName) {
    (!matches!(name.kind(), FileKind::History { .. }), name)
}

#[cfg(test)]
mod tests;
