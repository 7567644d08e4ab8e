//! Where a copy's bytes go: to the file in whole chunks, past the page cache where the file system allows
//! that, and without the blocks that hold only zeros.

use std::fs::File;
use std::io;

use crate::sys::slice::part;
use crate::sys::{self, DIRECT_ALIGNMENT};

/// Zero blocks are recognised at this size: the block of the common file systems.
const BLOCK: usize = DIRECT_ALIGNMENT;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes chunks one after the other into a new, empty file.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    direct: bool,
    offset: u64,
}

impl Sink {
    /// Writes to a new, empty file.
    pub(super) fn new(file: File) -> Self {
        let direct = sys::set_direct(&file, true);
        Self { file, direct, offset: 0 }
    }

    /// Returns the file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file back.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// Appends chunks. All must be aligned as a [`Buffer`](crate::sys::buffer::Buffer) is, and all but
    /// the last of whole blocks.
    ///
    /// # Errors
    /// What the write reports.
    pub(super) fn put_all(&mut self, chunks: &[&[u8]]) -> io::Result<()> {
        // Data with no hole in it, and where it begins.
        let (mut run, mut start) = (Vec::with_capacity(chunks.len()), self.offset);
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                let zeros = leading(rest, |block| block == &ZEROS);
                if zeros > 0 {
                    self.write_run(&run, start)?;
                    run.clear();
                    self.offset += zeros as u64;
                }
                if run.is_empty() {
                    start = self.offset;
                }
                let data = part(rest, zeros..);
                let (data, behind) = data.split_at(leading(data, |block| block != &ZEROS));
                if !data.is_empty() {
                    run.push(data);
                }
                self.offset += data.len() as u64;
                rest = behind;
            }
        }
        self.write_run(&run, start)
    }

    /// Writes data that lies in several pieces of memory, by one call where that is possible.
    fn write_run(&mut self, run: &[&[u8]], offset: u64) -> io::Result<()> {
        let is_whole = |data: &&[u8]| data.len().is_multiple_of(DIRECT_ALIGNMENT);
        if run.len() > 1 && run.iter().all(is_whole) {
            match sys::write_pieces_at(&self.file, run, offset) {
                Err(e) if self.must_leave_direct(&e) => self.leave_direct(),
                other => return other,
            }
        }
        let mut at = offset;
        for data in run {
            self.write_at(data, at)?;
            at += data.len() as u64;
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
        match sys::write_all_at(&self.file, data, offset) {
            Err(e) if self.must_leave_direct(&e) => {
                self.leave_direct();
                sys::write_all_at(&self.file, data, offset)
            }
            other => other,
        }
    }

    /// The file system took the flag and refuses the write, or wrote only a part: continue through the page
    /// cache.
    fn must_leave_direct(&self, error: &io::Error) -> bool {
        self.direct && error.raw_os_error() == Some(libc::EINVAL)
    }

    fn leave_direct(&mut self) {
        let _ = sys::set_direct(&self.file, false);
        self.direct = false;
    }

    /// Gives the file its length: what was not written at its end is a hole.
    ///
    /// # Errors
    /// What `ftruncate` reports.
    pub(super) fn finish(&self) -> io::Result<()> {
        sys::set_len(&self.file, self.offset)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;
    use crate::sys::buffer::{Buffer, CHUNK};

    /// Writes `content` as the archiver does, so many chunks at a time.
    fn write(file: &File, content: &[u8], at_a_time: usize) {
        let mut sink = Sink::new(file.try_clone().unwrap());
        let mut buffers: Vec<_> = (0..at_a_time).map(|_| Buffer::new().unwrap()).collect();
        let chunks: Vec<_> = content.chunks(CHUNK).collect();
        for chunks in chunks.chunks(at_a_time) {
            let filled = buffers.iter_mut().zip(chunks).map(|(buffer, chunk)| buffer.fill(chunk));
            sink.put_all(&filled.collect::<Vec<_>>()).unwrap();
        }
        sink.finish().unwrap();
    }

    #[test]
    fn zero_blocks_take_no_space_and_read_back() {
        let mut content = vec![0; 3 * CHUNK];
        content[..5000].fill(1);
        content[2 * CHUNK + 10] = 2;
        let temp = tempfile::NamedTempFile::new_in(".").unwrap();
        write(temp.as_file(), &content, 2);
        assert_eq!(sys::entry(temp.as_file()).unwrap().allocated, 3 * 4096);
        assert!(std::fs::read(temp.path()).unwrap() == content);
        assert!(temp.as_file().metadata().unwrap().blocks() * 512 <= 64 * 1024);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(dose::dose(10, 40)))]
        #[test]
        fn any_content_reads_back(at_a_time in 1_usize..5, runs in proptest::collection::vec((any::<bool>(), 1_usize..20_000), 0..200)) {
            let content: Vec<u8> =
                runs.iter().flat_map(|(data, len)| std::iter::repeat_n(u8::from(*data), *len)).collect();
            let temp = tempfile::NamedTempFile::new_in(".").unwrap();
            write(temp.as_file(), &content, at_a_time);
            prop_assert!(std::fs::read(temp.path()).unwrap() == content);
        }
    }
}
