//! One round of asking the archives for a file.
//!
//! Of several archives, one may hang while another has the file. Whoever watches a call then leaves the
//! thread that hangs to itself, and begins another round in another thread. The round that was left may come
//! round at any time, and must not put its file where that of a later one lies.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What is known of the archives when a round begins, and where it has got. The numbers are places in
/// [`Request::archives`](super::Request::archives).
#[derive(Debug, Default)]
pub struct Round {
    /// The archives that are asked last: they have failed lately.
    pub last: Vec<usize>,
    /// The archives that are not asked any more: nothing has moved there for so many seconds.
    pub hung: Vec<(usize, u64)>,
    at: AtomicUsize,
    is_at_archive: AtomicBool,
    is_settled: AtomicBool,
}

impl Round {
    /// Begins a round.
    #[must_use]
    pub fn new(last: Vec<usize>, hung: Vec<(usize, u64)>) -> Self {
        Self { last, hung, ..Self::default() }
    }

    /// Returns the archive that is being asked; the one before, while none is.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }

    /// Returns whether any archive has been asked yet. Before that, a file that was fetched ahead is looked for.
    #[must_use]
    pub fn is_at_archive(&self) -> bool {
        self.is_at_archive.load(Ordering::Relaxed)
    }

    pub(super) fn comes_to(&self, archive: usize) {
        self.at.store(archive, Ordering::Relaxed);
        self.is_at_archive.store(true, Ordering::Relaxed);
    }

    /// Gives the round up, from another thread. On return with `true`, it puts no file in place any more.
    /// With `false`, it is just doing so, or has done so.
    #[must_use]
    pub fn give_up(&self) -> bool {
        self.settle()
    }

    /// Settles that this round puts its file in place. Returns `false` if it was given up.
    pub(super) fn settle(&self) -> bool {
        !self.is_settled.swap(true, Ordering::Relaxed)
    }

    /// The file could not be put in place after all, and the round may try again.
    pub(super) fn reopen(&self) {
        self.is_settled.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_either_delivers_or_was_given_up() {
        let round = Round::default();
        assert!(round.give_up());
        assert!(!round.settle(), "it was given up");
        let round = Round::default();
        assert!(round.settle());
        assert!(!round.give_up(), "its file is being put in place");
    }
}
