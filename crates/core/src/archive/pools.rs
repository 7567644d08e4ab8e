//! One pool for each destination: a file is archived once every destination has it.
//!
//! A destination that hangs or fails stops no other's copies. Each pool has threads of its own, which go on
//! through the whole backlog, whatever the archiver waits for. What a destination has is remembered while the
//! server asks again and again because of another one ([`Answer::Remembered`]).
//!
//! A call ends when every destination has answered, or has failed, or has hung for as long as is allowed. So
//! each that fails is named, and the wait is bounded by the slowest one alone: a destination that is known to
//! hang is not waited for again.
//!
//! Bounds: those of [`Pool`], for each destination.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::pool::{Answer, Group, Pool};
use super::{Job, Plan};
use crate::error::{Action, Error};
use crate::server::settings::Destination;
use crate::store::Requests;
use crate::wal::name::SegmentName;

/// The pools of the destinations in use, and those of earlier settings that are still busy.
#[derive(Default)]
pub struct Pools {
    group: Option<Group>,
    /// In the order of the destinations.
    pools: Vec<Pool>,
    /// Pools of earlier settings with a file still under way.
    retired: Vec<Pool>,
}

impl Pools {
    /// Takes over a list of destinations: for each the plan, and the number of workers. No destination may be
    /// in it twice.
    ///
    /// A pool whose plan and workers are as before stays, with all that it has and knows. A pool that is not in
    /// the list any more ends: it publishes nothing from now on, except by a call that has begun. Waits for
    /// none.
    ///
    /// # Errors
    /// The handle that wakes the caller could not be made. Nothing has changed then.
    pub fn update(&mut self, plans: impl IntoIterator<Item = (Plan, usize)>) -> Result<(), Error> {
        let mut plans = plans.into_iter().peekable();
        if self.group.is_none()
            && let Some((plan, _)) = plans.peek()
        {
            let fail = |e| Error::io(Action::MakePool, plan.destination.path(), e);
            self.group = Some(Group::new().map_err(fail)?);
        }
        let mut before = std::mem::take(&mut self.pools);
        for (plan, workers) in plans {
            let fits = |pool: &Pool| *pool.plan() == plan && pool.workers() == workers;
            match (before.iter().position(fits), &self.group) {
                (Some(at), _) => self.pools.push(before.remove(at)),
                (None, Some(group)) => self.pools.push(Pool::new(plan, workers, group)),
                (None, None) => {}
            }
        }
        before.iter().for_each(Pool::retire);
        self.retired.append(&mut before);
        self.forget_ended();
        Ok(())
    }

    /// Begins a call of the server: asks every destination for one file. The wait is up to the caller
    /// ([`Call::step`]). `stall_timeout` is how long a copy may stand still; `None` for ever.
    ///
    /// A call that is dropped half-way is given up: what is under way goes on, and counts when the server asks
    /// for the file again.
    pub fn call(&mut self, job: Job, stall_timeout: Option<Duration>) -> Call<'_> {
        let parts = self.pools.iter().map(|_| Part::Waiting).collect();
        Call { pools: self, job, stall_timeout, parts }
    }

    /// Returns for each destination the last segment that it has, with the waiting ones before it, although the
    /// server was not told so: another destination lacks it.
    pub fn ahead(&self) -> impl Iterator<Item = (&Destination, Option<SegmentName>)> {
        self.pools.iter().map(|pool| (&pool.plan().destination, pool.last_ahead()))
    }

    /// Returns for each destination that is spoken to by requests how many there were since its pool was made.
    pub fn requests(&self) -> impl Iterator<Item = (&Destination, Requests)> {
        self.pools.iter().filter_map(|pool| Some((&pool.plan().destination, pool.requests()?)))
    }

    fn forget_ended(&mut self) {
        self.retired.retain(|pool| pool.busy().is_some());
    }
}

/// What is to be done next in a call.
#[derive(Debug)]
pub enum Step {
    /// To wait until [`Call::wake_handle`] is readable, or for this long, and then to look again.
    Wait(Duration),
    /// Nothing: every destination has answered.
    Done(Answers),
}

/// What came of a call, in the order of the destinations.
#[derive(Debug)]
pub struct Answers(Vec<(Destination, Answer)>);

impl Answers {
    /// Returns whether every destination has the file. Only then the server may be told "archived". With no
    /// destination at all there is none that has it.
    #[must_use]
    pub fn are_all_good(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(_, answer)| answer.is_good())
    }

    /// Returns what each destination has answered.
    pub fn iter(&self) -> impl Iterator<Item = (&Destination, &Answer)> {
        self.0.iter().map(|(destination, answer)| (destination, answer))
    }

    /// Returns the destinations that have failed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&Destination, &Error)> {
        self.iter().filter_map(|(destination, answer)| match answer {
            Answer::Failed(error) => Some((destination, error)),
            _ => None,
        })
    }
}

impl IntoIterator for Answers {
    type Item = (Destination, Answer);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// One destination's part of a call.
enum Part {
    /// It was not asked yet.
    Waiting,
    Asked,
    Answered(Answer),
}

/// One call of the server for one file.
pub struct Call<'p> {
    pools: &'p mut Pools,
    job: Job,
    stall_timeout: Option<Duration>,
    parts: Vec<Part>,
}

impl Call<'_> {
    /// Returns a handle that is readable when there may be something new for [`Call::step`]; `None` without
    /// destinations.
    #[must_use]
    pub fn wake_handle(&self) -> Option<BorrowedFd<'_>> {
        self.pools.group.as_ref().map(Group::wake_handle)
    }

    /// Returns the destinations that have not answered yet, and how long nothing has moved there.
    pub fn open(&self) -> impl Iterator<Item = (&Destination, Duration)> {
        let parts = self.pools.pools.iter().zip(&self.parts);
        parts.filter_map(|(pool, part)| {
            let still = match part {
                Part::Waiting => self.retired_at(pool).unwrap_or_default(),
                Part::Asked => pool.still_for(&self.job),
                Part::Answered(_) => return None,
            };
            Some((&pool.plan().destination, still))
        })
    }

    /// Takes what the destinations have answered, and asks those that may be asked now. Blocks nowhere.
    ///
    /// On [`Step::Done`] with [`Answers::are_all_good`], every destination holds the file as durably as its
    /// plan asks for, and nothing is remembered of the file any more: should the server ask for this name again,
    /// that is another file.
    pub fn step(&mut self) -> Step {
        if let Some(group) = &self.pools.group {
            group.clear_wake();
        }
        self.pools.forget_ended();
        let mut longest = Duration::MAX;
        // What one destination answers may be what another one waits for.
        let mut at = 0;
        while at < self.parts.len() {
            match self.look(at) {
                Ok(Some(answer)) => {
                    self.set(at, Part::Answered(answer));
                    (at, longest) = (0, Duration::MAX);
                }
                Ok(None) => at += 1,
                Err(left) => {
                    longest = longest.min(left);
                    at += 1;
                }
            }
        }
        if self.parts.iter().any(|part| !matches!(part, Part::Answered(_))) {
            return Step::Wait(longest);
        }
        let destinations = self.pools.pools.iter().map(|pool| pool.plan().destination.clone());
        let answers = std::mem::take(&mut self.parts).into_iter().map(|part| match part {
            Part::Answered(answer) => answer,
            Part::Waiting | Part::Asked => Answer::Withheld,
        });
        let answers = Answers(destinations.zip(answers).collect());
        if answers.are_all_good() {
            self.pools.pools.iter().for_each(|pool| pool.answered(&self.job));
        }
        Step::Done(answers)
    }

    /// Gives the call up, as dropping it does, and returns what was answered so far.
    #[must_use]
    pub fn give_up(self) -> Answers {
        let Self { pools, parts, .. } = self;
        let parts = pools.pools.iter().zip(parts);
        let answered = parts.filter_map(|(pool, part)| match part {
            Part::Answered(answer) => Some((pool.plan().destination.clone(), answer)),
            Part::Waiting | Part::Asked => None,
        });
        Answers(answered.collect())
    }

    fn set(&mut self, at: usize, part: Part) {
        if let Some(there) = self.parts.get_mut(at) {
            *there = part;
        }
    }

    /// Looks at one destination: a new answer, nothing to wait for, or how long to wait at most.
    fn look(&mut self, at: usize) -> Result<Option<Answer>, Duration> {
        let (Some(pool), Some(part)) = (self.pools.pools.get(at), self.parts.get(at)) else {
            return Ok(None);
        };
        match part {
            Part::Answered(_) => return Ok(None),
            Part::Waiting => {
                if let Some(still_for) = pool.held() {
                    return Ok(Some(stalled(pool, still_for)));
                }
                // Calls must not pile up behind one that hangs, and two threads must not work on one file.
                if let Some(still_for) = self.retired_at(pool) {
                    return match self.left(still_for) {
                        Some(left) => Err(left),
                        None => Ok(Some(stalled(pool, still_for))),
                    };
                }
                if pool.is_withheld(&self.job) {
                    return self.withheld();
                }
                pool.ask(&self.job);
            }
            Part::Asked => {}
        }
        let (answer, still_for) = (pool.take(&self.job), pool.still_for(&self.job));
        let withheld = pool.is_withheld(&self.job);
        if answer.is_some() {
            return Ok(answer);
        }
        if withheld {
            self.set(at, Part::Asked);
            return self.withheld();
        }
        match self.left(still_for) {
            Some(left) => {
                let held = pool.let_go();
                self.set(at, Part::Asked);
                Err(held.map_or(left, |held| left.min(held)))
            }
            None => {
                pool.hold(still_for);
                Ok(Some(stalled(pool, still_for)))
            }
        }
    }

    /// The file conflicts elsewhere: once that is certain for this call too, nobody waits any longer.
    fn withheld(&self) -> Result<Option<Answer>, Duration> {
        let mut parts = self.pools.pools.iter().zip(&self.parts);
        let open = parts
            .any(|(pool, part)| !matches!(part, Part::Answered(_)) && !pool.is_withheld(&self.job));
        if open { Err(Duration::MAX) } else { Ok(Some(Answer::Withheld)) }
    }

    /// Returns how long nothing has moved in a pool of earlier settings that is busy in the same destination.
    fn retired_at(&self, pool: &Pool) -> Option<Duration> {
        let same =
            |other: &&Pool| other.plan().destination.path() == pool.plan().destination.path();
        self.pools.retired.iter().filter(same).filter_map(Pool::busy).max()
    }

    /// Returns how much longer a copy may stand still; `None` if it may not.
    fn left(&self, still_for: Duration) -> Option<Duration> {
        let Some(limit) = self.stall_timeout else { return Some(Duration::MAX) };
        limit.checked_sub(still_for).filter(|left| !left.is_zero())
    }
}

fn stalled(pool: &Pool, still_for: Duration) -> Answer {
    let path = pool.plan().destination.path().to_owned();
    Answer::Failed(Error::Stalled { path, seconds: still_for.as_secs() })
}
