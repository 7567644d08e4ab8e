//! File permissions that a mount decides: CIFS, FUSE and others refuse or ignore a change.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

/// The bits that `file_mode` speaks of.
const BITS: u32 = 0o777;

/// Asks for a file's permission. A file system that does not let it be changed is no error: what the file has
/// is seen afterwards.
///
/// # Errors
/// What else `fchmod` reports.
pub fn ask(file: &File, mode: u32) -> io::Result<()> {
    match sys::set_mode(file, mode) {
        Err(e) if !refuses(&e) => Err(e),
        _ => Ok(()),
    }
}

fn refuses(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)
    )
}

/// Returns the permission of a file, if it is not the one that was asked for.
#[must_use]
pub fn other(given: u32, asked: u32) -> Option<u32> {
    let given = given & BITS;
    (given != asked & BITS).then_some(given)
}

/// Returns whether users other than the owner and the group have access.
#[must_use]
pub fn is_open(mode: u32) -> bool {
    mode & 0o007 != 0
}

/// The permission that files were asked to have and the one they have; nothing noted where they are the same.
#[derive(Debug, Default)]
pub(super) struct Modes(AtomicU64);

impl Modes {
    const NOTED: u64 = 1 << 63;

    /// Notes a permission that was not given; the last one counts.
    pub(super) fn note(&self, asked: u32, given: u32) {
        let both = u64::from(asked & BITS) << 16 | u64::from(given & BITS);
        self.0.store(Self::NOTED | both, Ordering::Relaxed);
    }

    /// Returns what was asked for and what was given.
    pub(super) fn noted(&self) -> Option<(u32, u32)> {
        let noted = self.0.load(Ordering::Relaxed);
        let part = |shift: u32| u32::try_from(noted >> shift & u64::from(BITS)).unwrap_or(0);
        (noted & Self::NOTED != 0).then(|| (part(16), part(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_permission_is_told_as_it_is() {
        let modes = Modes::default();
        assert_eq!(modes.noted(), None);
        modes.note(0o600, 0o666);
        assert_eq!(modes.noted(), Some((0o600, 0o666)));
        assert_eq!((other(0o100_600, 0o600), other(0o100_755, 0o600)), (None, Some(0o755)));
    }
}
