//! A buffer that direct I/O accepts: aligned in memory, of a whole number of blocks.

use crate::sys::DIRECT_ALIGNMENT;

/// Bytes read or written at a time. Large enough that a disk and the hash run at full speed, small
/// enough that a worker stays within its 4 MB.
pub const CHUNK: usize = 1 << 20;

/// One chunk of memory, aligned for direct I/O.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Allocates a zeroed chunk.
    #[must_use]
    pub fn new() -> Self {
        // Larger than needed, so that an aligned chunk lies within wherever the allocator puts it.
        let memory = vec![0; CHUNK + DIRECT_ALIGNMENT];
        let start = memory.as_ptr().align_offset(DIRECT_ALIGNMENT);
        Self { memory, start }
    }

    /// Returns the chunk.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.start + CHUNK).unwrap_or_default()
    }

    /// Returns the chunk, to be filled.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + CHUNK).unwrap_or_default()
    }

    /// Returns the first `len` bytes.
    #[must_use]
    pub fn filled(&self, len: usize) -> &[u8] {
        self.bytes().get(..len).unwrap_or_else(|| self.bytes())
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunk_is_whole_and_aligned() {
        let mut buffer = Buffer::new();
        assert_eq!(buffer.bytes_mut().len(), CHUNK);
        assert_eq!(buffer.bytes().as_ptr() as usize % DIRECT_ALIGNMENT, 0);
        assert_eq!(buffer.filled(3).len(), 3);
    }
}
