//! Where a file system does at a later call what others do at an earlier one.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

use crate::sys::call::check;
use crate::sys::fault::{Op, announce};

/// Waits for what was written to reach storage, where closing a file does that: NFS and FUSE send it then, and
/// tell only there that it was refused. Elsewhere nothing happens.
///
/// The file stays open: a `close` acts on its descriptor, and this one is a second one.
///
/// # Errors
/// What `close` reports. Nothing tells then which bytes are on storage.
pub fn close_second(file: &File) -> io::Result<()> {
    // Not made again after a signal: the descriptor is gone by then.
    announce(Op::Close)?;
    let second = file.as_fd().try_clone_to_owned()?.into_raw_fd();
    // SAFETY: the descriptor was made here, and nothing else has it.
    check(unsafe { libc::close(second) }).map(drop)
}

/// Returns whether the flush of a file without a name still holds once the file has one. ext4, XFS and tmpfs
/// are known for that; btrfs passes over the flush of a file without links (docs/design.md), and of others
/// nothing is known.
#[cfg(target_os = "linux")]
#[must_use]
pub fn keeps_flush_of_unnamed(file: &File) -> bool {
    const KNOWN: [libc::c_long; 3] =
        [libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC, libc::TMPFS_MAGIC];
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `stat` is large enough for the result, and the descriptor is open because `file` owns it.
    if check(unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) }).is_err() {
        return false;
    }
    // SAFETY: the call succeeded, so the kernel has filled in the whole structure.
    let stat = unsafe { stat.assume_init() };
    KNOWN.contains(&stat.f_type)
}

/// Returns whether the flush of a file without a name still holds once the file has one: no such files here.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn keeps_flush_of_unnamed(_: &File) -> bool {
    false
}
