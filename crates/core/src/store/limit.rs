//! What a place does not grant, and files are archived without.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

/// Something good to have that a place refuses. No guarantee needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Files carry no digests, and not how they were checked.
    Attributes,
    /// Temporary files cannot be removed.
    Removal,
}

/// How each was refused, by the number of the error; 0 where it was not.
#[derive(Debug, Default)]
pub(super) struct Limits {
    attributes: AtomicI32,
    removal: AtomicI32,
}

impl Limits {
    /// Notes a refusal; the last one counts.
    pub(super) fn note(&self, limit: Limit, error: &io::Error) {
        self.of(limit).store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns what was refused.
    pub(super) fn noted(&self) -> Vec<(Limit, io::Error)> {
        let one = |limit| match self.of(limit).load(Ordering::Relaxed) {
            0 => None,
            errno => Some((limit, io::Error::from_raw_os_error(errno))),
        };
        [Limit::Attributes, Limit::Removal].into_iter().filter_map(one).collect()
    }

    fn of(&self, limit: Limit) -> &AtomicI32 {
        match limit {
            Limit::Attributes => &self.attributes,
            Limit::Removal => &self.removal,
        }
    }
}
