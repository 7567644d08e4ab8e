//! Signs of life of a copy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts the steps that a copy has made, for a watcher in another thread: if the count stands still, the
/// copy hangs.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    steps: AtomicU64,
    /// When the last step was made, in microseconds since the beginning.
    last: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begun: Instant::now(), steps: AtomicU64::new(0), last: AtomicU64::new(0) }
    }
}

impl Progress {
    /// Counts one step.
    pub fn tick(&self) {
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Returns when the last step was made; at first, when the copy began.
    #[must_use]
    pub fn last_step(&self) -> Instant {
        self.begun + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }
}
