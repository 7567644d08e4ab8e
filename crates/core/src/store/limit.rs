//! What a place does not grant, and files are archived without.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use super::mode::Modes;

/// Something good to have that a place refuses. No guarantee needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Files carry no digests, and not how they were checked.
    Attributes,
    /// Temporary files cannot be removed.
    Removal,
    /// Files have another permission than the one asked for: the mount decides.
    Mode {
        /// The permission asked for.
        asked: u32,
        /// The permission that the last such file has.
        given: u32,
    },
    /// Every user can write into the place.
    OpenToAll {
        /// Only its owner can remove a file (the sticky bit).
        sticky: bool,
    },
}

/// How each was refused, by the number of the error; 0 where it was not.
#[derive(Debug, Default)]
pub(super) struct Limits {
    attributes: AtomicI32,
    removal: AtomicI32,
    modes: Modes,
}

impl Limits {
    /// Notes a refusal; the last one counts.
    pub(super) fn note(&self, limit: Limit, error: &io::Error) {
        if let Some(noted) = self.of(limit) {
            noted.store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Notes a permission that a file has, if it is not the one asked for.
    pub(super) fn note_mode(&self, asked: u32, given: u32) {
        self.modes.note(asked, given);
    }

    /// Returns what was refused.
    pub(super) fn noted(&self) -> Vec<(Limit, io::Error)> {
        let one = |limit| match self.of(limit)?.load(Ordering::Relaxed) {
            0 => None,
            errno => Some((limit, io::Error::from_raw_os_error(errno))),
        };
        let mode = self.modes.noted().map(|(asked, given)| {
            (Limit::Mode { asked, given }, io::Error::other("the mount decides"))
        });
        let refused = [Limit::Attributes, Limit::Removal].into_iter().filter_map(one);
        refused.chain(mode).collect()
    }

    fn of(&self, limit: Limit) -> Option<&AtomicI32> {
        match limit {
            Limit::Attributes => Some(&self.attributes),
            Limit::Removal => Some(&self.removal),
            Limit::Mode { .. } | Limit::OpenToAll { .. } => None,
        }
    }
}
