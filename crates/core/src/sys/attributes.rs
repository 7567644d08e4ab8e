//! Extended attributes.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::sys::call::{c_string, check};
use crate::sys::fault::{Op, announce};
use crate::sys::slice::part;

/// Sets an extended attribute, where the file system takes it. Returns how it was refused, if it was.
///
/// # Errors
/// What `fsetxattr` reports, except a refusal.
#[cfg(target_os = "linux")]
pub fn offer_attribute(file: &File, name: &str, value: &str) -> io::Result<Option<io::Error>> {
    let name = c_string(name)?;
    let set = || {
        // SAFETY: the name ends in a zero byte, value and length belong together, and the kernel
        // reads both only during the call; the descriptor is open because `file` owns it.
        check(unsafe {
            libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        })
    };
    match announce(Op::SetAttribute).and_then(|_| set()) {
        Ok(_) => Ok(None),
        Err(error) if is_refusal(&error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Returns whether an error says that a file takes no attribute, or not this one: what counts is the file.
/// ext4 says `ENOSPC` where an inode has no room for it, on an empty disk too. Where the disk is full, the
/// bytes of the file have their space by then, or its flush fails.
#[cfg(target_os = "linux")]
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EOPNOTSUPP
                | libc::ENOSYS
                | libc::E2BIG
                | libc::ERANGE
                | libc::EPERM
                | libc::EACCES
                | libc::EINVAL
                | libc::ENOSPC
        )
    )
}

/// Sets an extended attribute: not available on this system.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn offer_attribute(_: &File, _: &str, _: &str) -> io::Result<Option<io::Error>> {
    Ok(Some(io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
}

/// Reads an extended attribute of at most 256 bytes; `None` where there is none.
///
/// # Errors
/// What `fgetxattr` reports, except "no such attribute" and that reading one is refused: then the file is
/// as good as one without, and its records are checked.
#[cfg(target_os = "linux")]
pub fn attribute(file: &File, name: &str) -> io::Result<Option<String>> {
    let name = c_string(name)?;
    let mut value = [0_u8; 256];
    let mut get = || {
        // SAFETY: the name ends in a zero byte, the kernel writes at most the length given into
        // `value`, and the descriptor is open because `file` owns it.
        let len = unsafe {
            libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    };
    let len = match announce(Op::ReadAttribute).and_then(|_| get()) {
        Ok(len) => len,
        Err(error) => {
            return match error.raw_os_error() {
                Some(
                    libc::ENODATA
                    | libc::EOPNOTSUPP
                    | libc::ENOSYS
                    | libc::EPERM
                    | libc::EACCES
                    | libc::EINVAL,
                ) => Ok(None),
                _ => Err(error),
            };
        }
    };
    Ok(Some(String::from_utf8_lossy(part(&value, ..len)).into_owned()))
}

/// Reads an extended attribute: not available on this system.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn attribute(_: &File, _: &str) -> io::Result<Option<String>> {
    Ok(None)
}
