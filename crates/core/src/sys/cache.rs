//! The page cache, which belongs to the database: what of a file is in it, and ways around it.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::os::fd::AsRawFd;

/// The smallest memory page there is.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

#[cfg(target_os = "linux")]
const O_DIRECT: libc::c_int = libc::O_DIRECT;
#[cfg(not(target_os = "linux"))]
const O_DIRECT: libc::c_int = 0;

/// Asks the kernel to drop a file's clean pages from the page cache. Dirty pages stay, so
/// this drops everything only after a flush. It is advice: a failure means nothing.
pub fn drop_cached(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) {
        // SAFETY: takes numbers only; the descriptor is open because `file` owns it.
        unsafe {
            libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED);
        }
    }
}

/// Has the kernel begin to write what was written to a file, without waiting for it, so that a later flush has
/// less to wait for. It is advice: what is not begun here, the flush writes, and a failure is the flush's to
/// report.
pub fn begin_write_out(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) {
        // SAFETY: takes numbers only; the descriptor is open because `file` owns it.
        unsafe {
            libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
        }
    }
}

/// Returns how many bytes of a file's first `len` are in the page cache; `None` where the system does
/// not say. Reads nothing.
#[cfg(target_os = "linux")]
#[must_use]
pub fn cached_bytes(file: &File, len: u64) -> Option<u64> {
    let len = usize::try_from(len).ok().filter(|len| *len > 0)?;
    // SAFETY: a new mapping, at an address that the kernel chooses, of a file that `file` holds open. Its
    // pages are never touched, so a file that shrinks does no harm.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return None;
    }
    let mut resident = vec![0_u8; len.div_ceil(PAGE)];
    // SAFETY: the mapping has this length, and the vector has a byte for each of its pages: no
    // system has smaller pages.
    let result = unsafe { libc::mincore(map, len, resident.as_mut_ptr().cast()) };
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { libc::munmap(map, len) };
    // SAFETY: takes a number and returns one.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let pages = resident.iter().filter(|page| **page & 1 != 0).count();
    (result == 0).then_some(pages as u64 * page)
}

/// Returns how many bytes of a file are in the page cache: not available on this system.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn cached_bytes(_: &File, _: u64) -> Option<u64> {
    None
}

/// Turns direct I/O of an open file on or off. Returns `false` where it is not available.
#[cfg(target_os = "linux")]
#[must_use]
pub fn set_direct(file: &File, on: bool) -> bool {
    // SAFETY: takes numbers only; the descriptor is open because `file` owns it.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags == -1 {
        return false;
    }
    let flags = if on { flags | O_DIRECT } else { flags & !O_DIRECT };
    // SAFETY: takes numbers only; the descriptor is open because `file` owns it.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) == 0 }
}

/// Turns direct I/O of an open file on or off: not available on this system.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn set_direct(_: &File, _: bool) -> bool {
    false
}
