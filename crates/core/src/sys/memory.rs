//! Memory: as much as is there, or an error.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::alloc::{Layout, alloc_zeroed};
use std::io;

use crate::sys::fault::{Op, announce};

/// Alignment of buffers, offsets and lengths for direct I/O: fits every block device in use.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// Size and alignment of a huge page of memory on most machines. Where it is another, or there are
/// none, nothing is lost but speed.
pub const HUGE_PAGE: usize = 2 << 20;

/// Allocates zeroed memory that is not touched yet, so that it takes none until it is used. The
/// standard library's own ways either touch it or end the process when there is none.
///
/// # Errors
/// `ENOMEM` when it is not to be had.
pub fn zeroed(len: usize) -> io::Result<Vec<u8>> {
    let no_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
    announce(Op::Allocate)?;
    if len == 0 {
        return Ok(Vec::new());
    }
    let layout = Layout::array::<u8>(len).map_err(|_| no_memory())?;
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(no_memory());
    }
    // SAFETY: the global allocator has just given this memory out, for bytes and of this length;
    // all of it is set, and nothing else knows it.
    Ok(unsafe { Vec::from_raw_parts(memory, len, len) })
}

/// Asks the kernel to lay memory into huge pages. Advice: a failure means nothing.
pub fn prefer_huge_pages(memory: &mut [u8]) {
    #[cfg(target_os = "linux")]
    // SAFETY: the memory is the caller's alone for the time of the call, and this advice changes
    // nothing of its contents.
    unsafe {
        libc::madvise(memory.as_mut_ptr().cast(), memory.len(), libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// Gives memory that was freed back to the system. The allocator would keep what threads that have
/// ended had, for each of them a share.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time, from any thread; it locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}
