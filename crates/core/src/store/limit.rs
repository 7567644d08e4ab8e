//! What a place does not grant, and files are archived without.

use std::io;
use std::mem::discriminant;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something good to have that a place refuses. No guarantee needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// Files carry no digests, and not how they were checked.
    Attributes {
        /// How the last one was refused: the number of the system's error.
        refused: i32,
    },
    /// Temporary files cannot be removed.
    Removal {
        /// How the last one was refused: the number of the system's error.
        refused: i32,
    },
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

/// The limits that files have met.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<Vec<Limit>>);

impl Limits {
    /// Notes one; of each kind, the last one counts.
    pub(super) fn note(&self, limit: Limit) {
        let mut noted = self.lock();
        noted.retain(|known| discriminant(known) != discriminant(&limit));
        noted.push(limit);
        noted.sort_unstable();
    }

    /// Returns those that were noted.
    pub(super) fn noted(&self) -> Vec<Limit> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Limit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the number by which a limit tells of an error.
pub(super) fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_kind_the_last_limit_is_told_as_it_is() {
        let limits = Limits::default();
        assert_eq!(limits.noted(), []);
        let mode = |given| Limit::Mode { asked: 0o600, given };
        limits.note(mode(0o644));
        limits.note(Limit::Attributes { refused: libc::EPERM });
        limits.note(mode(0o666));
        assert_eq!(limits.noted(), [Limit::Attributes { refused: libc::EPERM }, mode(0o666)]);
    }
}
