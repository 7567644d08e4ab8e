//! Extended attributes.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::sys::call::{c_string, check};
use crate::sys::fault::{Op, announce};
use crate::sys::slice::part;

/// Sets an extended attribute. Returns `false` where the file system has none.
///
/// # Errors
/// What `fsetxattr` reports, except "not supported" and "does not fit".
#[cfg(target_os = "linux")]
pub fn set_attribute(file: &File, name: &str, value: &str) -> io::Result<bool> {
    let name = c_string(name)?;
    announce(Op::SetAttribute)?;
    // SAFETY: the name ends in a zero byte, value and length belong together, and the kernel
    // reads both only during the call; the descriptor is open because `file` owns it.
    let result = check(unsafe {
        libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    });
    match result {
        Ok(_) => Ok(true),
        // Attributes that are too many or too large for this file system are like none at all: what
        // counts is the file. A full disk (`ENOSPC`) is reported, since ext4 says that for both.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::E2BIG | libc::ERANGE)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Sets an extended attribute: not available on this system.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn set_attribute(_: &File, _: &str, _: &str) -> io::Result<bool> {
    Ok(false)
}

/// Reads an extended attribute of at most 256 bytes; `None` where there is none.
///
/// # Errors
/// What `fgetxattr` reports, except "no such attribute" and "not supported".
#[cfg(target_os = "linux")]
pub fn attribute(file: &File, name: &str) -> io::Result<Option<String>> {
    let name = c_string(name)?;
    let mut value = [0_u8; 256];
    // SAFETY: the name ends in a zero byte, the kernel writes at most the length given into
    // `value`, and the descriptor is open because `file` owns it.
    let len = unsafe {
        libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let Ok(len) = usize::try_from(len) else {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(None),
            _ => Err(error),
        };
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
