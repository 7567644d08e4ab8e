//! Buffers that direct I/O accepts: aligned in memory, of a whole number of blocks.

use std::io;
use std::slice::ChunksExactMut;

use crate::sys::memory::{self, DIRECT_ALIGNMENT, HUGE_PAGE};
use crate::sys::slice::{part, part_mut};

/// Bytes that are handled at a time: they fit a processor's second-level cache, in which they are hashed and
/// checked, and less would cost more calls than it saves.
pub const CHUNK: usize = 512 << 10;

/// All the memory that a worker copies through, in chunks of which some are filled while others are written.
/// Where storage is slow to answer, one write takes up to seven of eight chunks, and twice the memory halves
/// the number of answers to wait for.
/// In huge pages, each chunk is one piece of memory for the disk, too: direct I/O need not collect its pages
/// one by one, nor split a write because the pages are scattered.
const LARGE: usize = 2 * HUGE_PAGE;

/// A piece of memory, aligned for direct I/O.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// Allocates a zeroed chunk, to read back or compare.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for it: an abort would take the server down.
    pub fn new() -> io::Result<Self> {
        Self::aligned(CHUNK, DIRECT_ALIGNMENT)
    }

    /// Allocates a zeroed buffer to copy with: one for many files.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn large() -> io::Result<Self> {
        let mut buffer = Self::aligned(LARGE, HUGE_PAGE)?;
        memory::prefer_huge_pages(buffer.bytes_mut());
        Ok(buffer)
    }

    fn aligned(len: usize, alignment: usize) -> io::Result<Self> {
        // Larger than needed, so that it contains an aligned piece wherever the allocator puts it.
        // What is not used is never touched, and takes up no memory.
        let memory = memory::zeroed(len + alignment)?;
        let start = memory.as_ptr().align_offset(alignment);
        Ok(Self { memory, start, len })
    }

    /// Returns the memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        part(&self.memory, self.start..self.start + self.len)
    }

    /// Returns the memory, to be filled.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        part_mut(&mut self.memory, self.start..self.start + self.len)
    }

    /// Returns the memory as two or more pieces of one length, to be filled: none longer than [`CHUNK`].
    pub fn pieces(&mut self) -> ChunksExactMut<'_, u8> {
        let len = self.piece_len();
        self.bytes_mut().chunks_exact_mut(len)
    }

    /// Returns the length of each of [`Buffer::pieces`].
    #[must_use]
    pub fn piece_len(&self) -> usize {
        CHUNK.min(self.len / 2)
    }

    /// Puts bytes at the start of the memory, which must have room for them, and returns them there.
    #[must_use]
    pub fn fill(&mut self, bytes: &[u8]) -> &[u8] {
        let (front, _) = self.bytes_mut().split_at_mut(bytes.len());
        front.copy_from_slice(bytes);
        front
    }

    /// Returns the first `len` bytes.
    #[must_use]
    pub fn filled(&self, len: usize) -> &[u8] {
        part(self.bytes(), ..len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn buffers_are_whole_and_aligned() {
        for (buffer, len, alignment) in
            [(Buffer::new(), CHUNK, DIRECT_ALIGNMENT), (Buffer::large(), LARGE, HUGE_PAGE)]
        {
            let mut buffer = buffer.unwrap();
            assert_eq!(buffer.bytes_mut().len(), len);
            assert_eq!(buffer.bytes().as_ptr() as usize % alignment, 0);
            assert_eq!(buffer.filled(3).len(), 3);
            assert!(buffer.bytes().iter().all(|byte| *byte == 0));
        }
    }

    /// Fails with `vec!`: the process was aborted, and with it the whole cluster.
    #[test]
    fn memory_that_is_not_available_is_an_error() {
        for len in [usize::MAX / 4, usize::MAX - 2 * HUGE_PAGE] {
            let error = Buffer::aligned(len, HUGE_PAGE).map(drop).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
        }
    }
}
