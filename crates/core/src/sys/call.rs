//! How a system call is made: announced at the seam for faults, and again where a signal has
//! interrupted it.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::sys::fault::{Op, Verdict, announce};

/// How often a call is repeated after `EINTR`. Threads of the archiver block every signal, so
/// that one is rare already.
const INTERRUPTED_TRIES: usize = 16;

/// Makes a call until no signal interrupts it, at most [`INTERRUPTED_TRIES`] times more.
pub(super) fn again<T>(op: Op, mut call: impl FnMut(Verdict) -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match announce(op).and_then(&mut call) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                tries += 1;
                if tries > INTERRUPTED_TRIES {
                    // Not `EINTR`: loops around readers and writers would repeat the call for ever. It
                    // must be an error of the system all the same: others are the decoder's, of a
                    // damaged file.
                    return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                }
            }
            result => return result,
        }
    }
}

/// Returns what a call has returned, or the error that it left in `errno`.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Returns a text as the system takes it.
pub(super) fn c_string(text: impl Into<Vec<u8>>) -> io::Result<CString> {
    Ok(CString::new(text)?)
}

/// Opens a file or a directory, relative to one that is open.
pub(super) fn openat(
    dir: RawFd,
    op: Op,
    name: &CStr,
    flags: i32,
    mode: u32,
) -> io::Result<OwnedFd> {
    again(op, |_| {
        // SAFETY: the string ends in a zero byte and outlives the call, which only reads it.
        let fd = check(unsafe { libc::openat(dir, name.as_ptr(), flags, mode) })?;
        // SAFETY: the call has just returned this descriptor, and nothing else refers to it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}
