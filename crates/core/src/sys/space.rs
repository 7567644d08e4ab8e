//! The space of a file system.

#![allow(unsafe_code, reason = "a system call that the standard library does not offer")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use crate::sys::call::check;
use crate::sys::fault::{Op, announce};

/// Size and free space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size.
    pub total: u64,
    /// What an unprivileged process may still use.
    pub free: u64,
    /// How many more files an unprivileged process may create; `None` where that is not limited in number.
    pub free_inodes: Option<u64>,
}

impl Space {
    /// Returns whether another file lacks an inode, and not space.
    #[must_use]
    pub fn lacks_inodes(&self) -> bool {
        // Where inodes are made of free space, a full file system has none of either.
        self.free_inodes == Some(0) && self.free >= 1 << 20
    }
}

/// Returns what `fstatvfs` says; the caller holds the descriptor open.
pub(super) fn space_of(fd: RawFd) -> io::Result<Space> {
    announce(Op::FileSystem)?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `stat` is large enough for the result, and the caller holds the descriptor open.
    check(unsafe { libc::fstatvfs(fd, stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the kernel has filled in the whole structure.
    let stat = unsafe { stat.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    Ok(Space {
        total: stat.f_blocks as u64 * stat.f_frsize as u64,
        free: stat.f_bavail as u64 * stat.f_frsize as u64,
        free_inodes: (stat.f_files > 0).then_some(stat.f_favail as u64),
    })
}
