//! A file ahead that has failed: nothing at or behind it is started, until the server comes to it or some time
//! has passed.
//!
//! The server comes to it soon, unless another destination holds it up. Then the time counts: trouble that has
//! passed must not keep a sound destination from going on.

use std::time::{Duration, Instant};

use super::State;
use super::file::Turn;

/// How long a file ahead that has failed is left alone at first. Twice as long each time that something ahead
/// fails again, for what was archived before it is then looked up once more.
const PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// The first file ahead that has failed.
pub(super) struct Barrier {
    pub(super) turn: Turn,
    since: Instant,
    pause: Duration,
    /// It is tried once more, and so is what stands behind it.
    lifted: bool,
}

impl<P> State<P> {
    /// A file ahead has failed.
    pub(super) fn bar(&mut self, turn: Turn) {
        let since = Instant::now();
        self.barrier = Some(match self.barrier.take() {
            None => Barrier { turn, since, pause: PAUSE, lifted: false },
            Some(before) if before.lifted => {
                let pause = LONGEST_PAUSE.min(before.pause * 2);
                Barrier { turn, since, pause, lifted: false }
            }
            Some(before) => Barrier { turn: before.turn.min(turn), ..before },
        });
    }

    pub(super) fn is_barred(&self, turn: &Turn) -> bool {
        self.barrier.as_ref().is_some_and(|barrier| !barrier.lifted && *turn >= barrier.turn)
    }

    /// The server asks for some file: where the destination has all that stands before the one that has
    /// failed, and that is some time ago, a look finds it once more.
    pub(super) fn try_barrier_again(&mut self) {
        let quiet = self.goes_ahead() && self.order.values().all(|file| !file.listed);
        let Some(barrier) = self.barrier.as_mut().filter(|barrier| quiet && !barrier.lifted) else {
            return;
        };
        if barrier.since.elapsed() >= barrier.pause {
            barrier.lifted = true;
            self.look_now();
        }
    }
}

#[cfg(test)]
impl Barrier {
    /// Whatever has failed has been left alone for long enough.
    pub(super) fn be_patient(&mut self) {
        self.pause = Duration::ZERO;
    }
}
