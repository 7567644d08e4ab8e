//! Where a copy's bytes go: to the file in whole chunks, past the page cache where that is to be
//! had, and without the blocks that hold only zeros.

use std::fs::File;
use std::io::{self, Write};

use crate::digest::{Digest, Hasher};
use crate::sys::{self, DIRECT_ALIGNMENT};

/// Zero blocks are recognised at this size: the block of the common file systems.
const BLOCK: usize = DIRECT_ALIGNMENT;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes chunks one after the other into a new, empty file.
#[derive(Debug)]
pub struct Sink<'f> {
    file: &'f File,
    direct: bool,
    offset: u64,
    written: u64,
}

impl<'f> Sink<'f> {
    /// Writes to a new, empty file.
    #[must_use]
    pub fn new(file: &'f File) -> Self {
        Self { file, direct: sys::set_direct(file, true), offset: 0, written: 0 }
    }

    /// Appends a chunk. All must be aligned as a [`Buffer`](crate::buffer::Buffer) is, and all but
    /// the last of whole blocks.
    ///
    /// # Errors
    /// What the write reports.
    pub fn put(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            let zeros = leading(rest, |block| block == &ZEROS);
            let data = rest.get(zeros..).unwrap_or_default();
            let data = data.get(..leading(data, |block| block != &ZEROS)).unwrap_or_default();
            self.write_at(data, self.offset + zeros as u64)?;
            at += zeros + data.len();
            self.offset += (zeros + data.len()) as u64;
        }
        Ok(())
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if self.direct && !data.len().is_multiple_of(DIRECT_ALIGNMENT) {
            // Only what is left over of the last block goes through the page cache.
            let whole = data.len() - data.len() % DIRECT_ALIGNMENT;
            let (blocks, rest) = data.split_at(whole);
            self.write_at(blocks, offset)?;
            self.leave_direct();
            return self.write_at(rest, offset + whole as u64);
        }
        match sys::write_all_at(self.file, data, offset) {
            // The file system took the flag and refuses the write, or made half of one: go on
            // through the page cache.
            Err(e) if self.direct && e.raw_os_error() == Some(libc::EINVAL) => {
                self.leave_direct();
                sys::write_all_at(self.file, data, offset)?;
            }
            other => other?,
        }
        self.written += data.len() as u64;
        Ok(())
    }

    fn leave_direct(&mut self) {
        let _ = sys::set_direct(self.file, false);
        self.direct = false;
    }

    /// Gives the file its length and returns how many bytes were written; the rest are holes.
    ///
    /// # Errors
    /// What `ftruncate` reports.
    pub fn finish(self) -> io::Result<u64> {
        sys::set_len(self.file, self.offset)?;
        Ok(self.written)
    }
}

/// Returns how many bytes at the start of `bytes` are blocks of which `is` holds. A short last
/// block counts as data, never as zeros.
fn leading(bytes: &[u8], is: impl Fn(&[u8; BLOCK]) -> bool) -> usize {
    let mut rest = bytes;
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK>() {
        if !is(block) {
            return bytes.len() - rest.len();
        }
        rest = after;
    }
    if is(&ZEROS) { bytes.len() - rest.len() } else { bytes.len() }
}

/// Gathers an encoder's output into chunks, and hashes it.
pub struct Gather<'f> {
    sink: Sink<'f>,
    buffer: &'f mut [u8],
    filled: usize,
    hasher: Hasher,
    len: u64,
}

impl<'f> Gather<'f> {
    /// Gathers for a new, empty file in a piece of a [`Buffer`](crate::buffer::Buffer).
    #[must_use]
    pub fn new(file: &'f File, buffer: &'f mut [u8]) -> Self {
        let hasher = Hasher::default();
        Self { sink: Sink::new(file), buffer, filled: 0, hasher, len: 0 }
    }

    fn put(&mut self) -> io::Result<()> {
        let chunk = self.buffer.get(..self.filled).unwrap_or_default();
        self.hasher.update(chunk);
        self.sink.put(chunk)?;
        self.len += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Writes what is left and returns the digest and number of the bytes gathered.
    ///
    /// # Errors
    /// What the last write reports.
    pub fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.put()?;
        self.sink.finish()?;
        Ok((self.hasher.digest(), self.len))
    }
}

impl Write for Gather<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let n = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..n), bytes.get(..n)) {
            to.copy_from_slice(from);
        }
        self.filled += n;
        if self.filled == self.buffer.len() {
            self.put()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;
    use crate::buffer::{Buffer, CHUNK};

    /// Writes `content` as the archiver does, and returns how many bytes were not left as holes.
    fn write(file: &File, content: &[u8]) -> u64 {
        let mut sink = Sink::new(file);
        let mut buffer = Buffer::new().unwrap();
        for chunk in content.chunks(CHUNK) {
            buffer.bytes_mut()[..chunk.len()].copy_from_slice(chunk);
            sink.put(buffer.filled(chunk.len())).unwrap();
        }
        sink.finish().unwrap()
    }

    #[test]
    fn zero_blocks_take_no_space_and_read_back() {
        let mut content = vec![0; 3 * CHUNK];
        content[..5000].fill(1);
        content[2 * CHUNK + 10] = 2;
        let temp = tempfile::NamedTempFile::new_in(".").unwrap();
        assert_eq!(write(temp.as_file(), &content), 3 * 4096);
        assert!(std::fs::read(temp.path()).unwrap() == content);
        assert!(temp.as_file().metadata().unwrap().blocks() * 512 <= 64 * 1024);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(dose::dose(10, 40)))]
        #[test]
        fn any_content_reads_back(runs in proptest::collection::vec((any::<bool>(), 1_usize..20_000), 0..200)) {
            let content: Vec<u8> =
                runs.iter().flat_map(|(data, len)| std::iter::repeat_n(u8::from(*data), *len)).collect();
            let temp = tempfile::NamedTempFile::new_in(".").unwrap();
            write(temp.as_file(), &content);
            prop_assert!(std::fs::read(temp.path()).unwrap() == content);
        }

        #[test]
        fn gathered_output_is_written_whole(pieces in proptest::collection::vec(0_usize..300_000, 0..20)) {
            let temp = tempfile::NamedTempFile::new_in(".").unwrap();
            let mut buffer = Buffer::new().unwrap();
            let mut gather = Gather::new(temp.as_file(), buffer.bytes_mut());
            let mut content = Vec::new();
            for (i, len) in pieces.iter().enumerate() {
                let piece = vec![i as u8; *len];
                gather.write_all(&piece).unwrap();
                content.extend(piece);
            }
            let (digest, len) = gather.finish().unwrap();
            prop_assert_eq!(len, content.len() as u64);
            prop_assert_eq!(digest, Digest::of(&content));
            prop_assert!(std::fs::read(temp.path()).unwrap() == content);
        }
    }
}
