//! Looks for waiting files: when a thread makes one, and what it changes.

use std::time::{Duration, Instant};

use super::file::{File, Limit, Look, Seen, Turn};
use super::{Phase, State};
use crate::archive::Job;
use crate::wal::name::FileName;

/// The shortest time between two looks while the server has not come to what the destination has: it may be
/// held up by another destination, and WAL goes on.
const PAUSE: Duration = Duration::from_secs(1);
/// A look takes at most one part in so many of a thread's time.
const SHARE: u32 = 20;

impl<P> State<P> {
    /// Has a thread look for waiting files, once none is left of those that are listed.
    pub(super) fn look_now(&mut self) {
        if let Phase::Ahead { look_at } = &mut self.phase {
            *look_at = Some(Instant::now());
        }
    }

    /// The server comes on by itself: it will ask for what no look has found.
    pub(super) fn look_later(&mut self) {
        let (now, held_up) = (Instant::now(), self.memory.len() > 0);
        if let Phase::Ahead { look_at } = &mut self.phase
            && look_at.is_some_and(|at| at > now)
        {
            *look_at = held_up.then(|| now + PAUSE);
        }
    }

    /// The destination has a file that the server was not told of. It will be at once, unless another destination
    /// holds it up: then nobody else has a look made.
    pub(super) fn look_if_held_up(&mut self) {
        if let Phase::Ahead { look_at: look_at @ None } = &mut self.phase {
            *look_at = Some(Instant::now() + PAUSE);
        }
    }

    /// Returns in how long a look is worth it; `None` if there is none to be made.
    pub(in crate::archive::pool) fn next_look(&self) -> Option<Duration> {
        let Phase::Ahead { look_at: Some(at) } = self.phase else { return None };
        let waits = |file: &File<P>| file.listed && file.is_waiting();
        let free = self.workers > 0 && !self.memory.is_looking() && !self.memory.is_full();
        let none_waits = || !self.order.values().any(waits);
        (free && self.pg_wal.is_some() && (none_waits() || self.is_stuck()))
            .then(|| at.saturating_duration_since(Instant::now()))
    }

    /// Returns whether the files that are ready have all the room, and wait for one that is in no look, from a call
    /// that the server gave up: the next look decides whether that still waits.
    fn is_stuck(&self) -> bool {
        let undecided =
            |file: &File<P>| !(file.listed || file.is_running() || self.is_wanted(&file.job.name));
        self.room(self.threads) == 0 && self.order.values().any(undecided)
    }

    pub(super) fn start_look(&mut self) -> Option<Look> {
        if !self.next_look()?.is_zero() {
            return None;
        }
        let pg_wal = self.pg_wal.clone()?;
        self.enter(Phase::Ahead { look_at: None });
        self.memory.begin_look();
        Some(Look { pg_wal, generation: self.generation })
    }

    /// A look has found this file to wait. Returns whether that is no news.
    pub(in crate::archive::pool) fn sees(&mut self, name: &FileName) -> bool {
        self.memory.sees(name)
    }

    /// Takes over what a look has found to wait, and nothing of an earlier look. It counts for nothing if a file
    /// has failed meanwhile: what it has passed over as known is not known any more.
    pub(in crate::archive::pool) fn finish_look(&mut self, look: &Look, seen: Seen, limit: &Limit) {
        let Seen { names, took } = seen;
        let counts = self.goes_ahead() && self.generation == look.generation;
        let names = names.filter(|_| counts);
        let wanted = self.wanted.as_ref().map(|job| &job.name);
        self.memory.end_look(names.is_some(), wanted);
        if !counts {
            // Whoever has changed that has seen to the next look.
            return;
        }
        let later = Instant::now() + PAUSE.max(took.saturating_mul(SHARE));
        let held_up = self.memory.len() > 0 || limit.before.is_some();
        let next = match names.map(|names| self.list(look, names, limit)) {
            None => Some(later),
            Some(0) => held_up.then_some(later),
            Some(_) => Some(Instant::now()),
        };
        if let Phase::Ahead { look_at: look_at @ None } = &mut self.phase {
            *look_at = next;
        }
    }

    /// Another destination's conflict stops what is listed behind it. Once it has ended, the next look tells
    /// what still waits there.
    pub(super) fn keep_to(&mut self, limit: &Limit) {
        let Some(before) = &limit.before else { return };
        if self.order.range(before..).any(|(_, file)| file.listed) {
            self.keep_before(before);
            self.look_now();
        }
    }

    /// Lists files, and returns how many of them wait for a thread.
    fn list(&mut self, look: &Look, names: Vec<FileName>, limit: &Limit) -> usize {
        self.order.values_mut().for_each(|file| file.listed = false);
        for name in names {
            let turn = Turn::of(&name);
            // The destination may have it by now.
            let known = self.memory.is_done_with(&name);
            // There is an answer from before trouble, and whoever waits for it decides: nothing passes it.
            if !known && self.answer.is_some() && self.is_wanted(&name) {
                break;
            }
            if known || self.is_barred(&turn) || !limit.allows(&turn) {
                continue;
            }
            let source = look.pg_wal.join(name.as_str());
            let file = || File::waiting(Job { name, source });
            self.order.entry(turn).or_insert_with(file).listed = true;
        }
        self.keep(|_, file| file.listed);
        let asked = self.asked.as_ref().map(|job| Turn::of(&job.name));
        let waits = |(turn, file): &(&Turn, &File<P>)| {
            file.listed && file.is_waiting() && asked.as_ref() != Some(*turn)
        };
        self.order.iter().filter(waits).count()
    }
}
