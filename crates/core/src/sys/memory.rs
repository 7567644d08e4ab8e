//! Memory: as much as is there, or an error.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::alloc::{Layout, alloc_zeroed};
use std::collections::TryReserveError;
use std::io;

use crate::sys::fault::{Op, announce};

/// Alignment of buffers, offsets and lengths for direct I/O: suits every block device in use.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// Size and alignment of a huge page of memory on most machines. Where huge pages have another size, or there
/// are none, only speed is lost.
pub const HUGE_PAGE: usize = 2 << 20;

/// Allocates zeroed memory without touching it, so that it takes up none until it is used. The
/// standard library's own ways either touch the memory, or end the process when there is none.
///
/// # Errors
/// `ENOMEM` when there is not enough.
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
    // SAFETY: the global allocator has just returned this memory, for bytes and of this length; all of
    // it is initialised, and nothing else refers to it.
    let buffer = unsafe { Vec::from_raw_parts(memory, len, len) };
    if len >= LARGE {
        headroom().map_err(|_| no_memory())?;
    }
    Ok(buffer)
}

/// How much memory is left alone by whatever grows.
const HEADROOM: usize = 4 << 20;
/// Buffers of this length and more leave that much.
const LARGE: usize = 64 << 10;

/// Makes sure that what is small and allocated without a look, such as the text of a message, finds room too:
/// where there is none for that, the process ends. Whoever holds much calls this before it takes more.
///
/// # Errors
/// There is too little memory.
pub fn headroom() -> Result<(), TryReserveError> {
    Vec::<u8>::new().try_reserve_exact(HEADROOM)
}

/// Asks the kernel to use huge pages for some memory. It is advice: a failure means nothing.
pub fn prefer_huge_pages(memory: &mut [u8]) {
    #[cfg(target_os = "linux")]
    // SAFETY: the memory is the caller's alone during the call, and this advice does not change its
    // contents.
    unsafe {
        libc::madvise(memory.as_mut_ptr().cast(), memory.len(), libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// Gives freed memory back to the system. The allocator would keep a share for each thread that has
/// ended.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time and from any thread; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Puts a value where this process and copies that are made of it from now on (`fork`) see the same bytes. It
/// stays there until all of them have ended.
///
/// The value must not refer to memory of its own: that would not be shared. Atomic numbers are for what both
/// sides write.
///
/// # Errors
/// `ENOMEM` when there is not enough memory.
pub fn shared<T: Sync + 'static>(value: T) -> io::Result<&'static T> {
    announce(Op::Allocate)?;
    let (size, protection) = (size_of::<T>().max(1), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: no address is asked for, so nothing that is mapped is replaced.
    let memory = unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0)
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let place = memory.cast::<T>();
    if !place.is_aligned() {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    // SAFETY: the mapping is new, large enough and aligned, and nothing else refers to it.
    unsafe { place.write(value) };
    // SAFETY: the value was written above, and is never moved or unmapped. What is shared with other threads is
    // `Sync`.
    Ok(unsafe { &*place })
}
