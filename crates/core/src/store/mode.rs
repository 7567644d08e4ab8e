//! File permissions that a mount decides: CIFS, FUSE and others refuse or ignore a change.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::server::settings::FileMode;
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

/// Returns the permission of a file, if there is one and archived files may have it.
#[must_use]
pub fn like(path: &Path) -> Option<FileMode> {
    let there = std::fs::symlink_metadata(path).ok()?;
    format!("{:04o}", there.permissions().mode() & 0o7777).parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_file_is_no_permission() {
        assert_eq!((other(0o100_600, 0o600), other(0o100_755, 0o600)), (None, Some(0o755)));
    }
}
