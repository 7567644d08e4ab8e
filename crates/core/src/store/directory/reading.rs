//! Reading archived files past the page cache.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::encoding::codec::Codec;
use crate::error::{Action, Error};
use crate::server::source::Source;
use crate::store::{FinalName, Found, Progress};
use crate::sys::buffer::Buffer;
use crate::sys::slice::{part, part_mut};
use crate::sys::{self, Dir, Entry};

/// A reader whose bytes come from storage and not from the page cache, as far as the file system allows:
/// its clean pages are dropped, and it is read by direct I/O where the file system has it. Dirty pages are
/// written out before a direct read, so what is read is what a later reader gets after a power cut.
pub(super) struct PastCache {
    file: File,
    /// Made by the first read, which can report that there is no memory for it.
    buffer: Option<Buffer>,
    /// What of the buffer is filled, and what of that was given out.
    filled: usize,
    taken: usize,
    offset: u64,
}

impl PastCache {
    /// Reads an open file from its start.
    #[must_use]
    pub(super) fn new(file: File) -> Self {
        // A file system may take the flag for direct I/O and read through the page cache all the
        // same: ext4 with `data=journal`, and btrfs for what is compressed or lies in its trees.
        sys::drop_cached(&file, 0, 0);
        let _ = sys::set_direct(&file, true);
        Self { file, buffer: None, filled: 0, taken: 0, offset: 0 }
    }

    /// Fills the buffer with the next chunk; returns its length, 0 at the end.
    fn refill(&mut self) -> io::Result<usize> {
        let buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => Buffer::new()?,
        };
        let bytes = self.buffer.insert(buffer).bytes_mut();
        let got = match sys::read_full_at(&self.file, bytes, self.offset) {
            // The file system took the flag and refuses the read: do without direct I/O.
            Err(e)
                if e.raw_os_error() == Some(libc::EINVAL) && sys::set_direct(&self.file, false) =>
            {
                sys::drop_cached(&self.file, 0, 0);
                sys::read_full_at(&self.file, bytes, self.offset)?
            }
            other => other?,
        };
        (self.filled, self.taken) = (got, 0);
        self.offset += got as u64;
        Ok(got)
    }
}

impl Read for PastCache {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.filled && self.refill()? == 0 {
            return Ok(0);
        }
        let Some(buffer) = &self.buffer else { return Ok(0) };
        let ready = part(buffer.bytes(), self.taken..self.filled);
        let n = ready.len().min(buf.len());
        part_mut(buf, ..n).copy_from_slice(part(ready, ..n));
        self.taken += n;
        Ok(n)
    }
}

/// A reader with an offset of its own: descriptors of one open file share theirs. They share direct I/O
/// too, which [`PastCache`] may have left on.
struct ThroughCache {
    file: File,
    offset: u64,
}

impl Read for ThroughCache {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = match self.file.read_at(buf, self.offset) {
            Err(e)
                if e.raw_os_error() == Some(libc::EINVAL) && sys::set_direct(&self.file, false) =>
            {
                self.file.read_at(buf, self.offset)?
            }
            other => other?,
        };
        self.offset += got as u64;
        Ok(got)
    }
}

/// Counts each read as a step.
struct Counted<'v, R> {
    inner: R,
    steps: &'v Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf);
        self.steps.tick();
        got
    }
}

/// A file that stands in a directory under a final name.
#[derive(Debug)]
pub(super) struct Archived<'v> {
    steps: &'v Progress,
    file: File,
    /// For messages.
    path: PathBuf,
    codec: Codec,
    entry: Entry,
}

impl<'v> Archived<'v> {
    /// Opens a file; `None` when nothing has the name.
    ///
    /// # Errors Something other than a regular file has the name (a symbolic link is never followed), or it
    /// could not be opened.
    pub(super) fn open(
        dir: &Dir,
        name: &FinalName,
        steps: &'v Progress,
    ) -> Result<Option<Self>, Error> {
        let (name, codec) = (name.to_string(), name.codec());
        let path = dir.path().join(&name);
        let fail = |e| Error::io(Action::ReadArchived, &path, e);
        let Some(entry) = dir.entry(&name).map_err(fail)? else {
            return Ok(None);
        };
        if !entry.is_file() {
            return Err(Error::NotAFile { found: entry.type_name(), path });
        }
        let file = match dir.open_file(&name) {
            // It was removed in between: by pg_archivecleanup, for example.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            opened => opened.map_err(fail)?,
        };
        let entry = sys::entry(&file).map_err(fail)?;
        if !entry.is_file() {
            return Err(Error::NotAFile { found: entry.type_name(), path });
        }
        Ok(Some(Self { steps, file, path, codec, entry }))
    }
}

impl Found for Archived<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn codec(&self) -> Codec {
        self.codec
    }

    fn stored_len(&self) -> u64 {
        self.entry.len
    }

    fn stored_bytes(&self) -> u64 {
        self.entry.allocated
    }

    fn modified(&self) -> Option<SystemTime> {
        self.file.metadata().ok()?.modified().ok()
    }

    fn attribute(&self, name: &str) -> io::Result<Option<String>> {
        sys::attribute(&self.file, name)
    }

    fn is(&self, source: &Source) -> bool {
        source.is(&self.entry)
    }

    fn flush(&self) -> Result<(), Error> {
        sys::flush(&self.file).map_err(|e| Error::io(Action::FlushArchived, &self.path, e))?;
        self.steps.tick();
        Ok(())
    }

    fn read(&self, past_cache: bool) -> io::Result<Box<dyn Read + '_>> {
        let file = self.file.try_clone()?;
        let steps = self.steps;
        Ok(if past_cache {
            Box::new(Counted { inner: PastCache::new(file), steps })
        } else {
            Box::new(Counted { inner: ThroughCache { file, offset: 0 }, steps })
        })
    }
}

#[cfg(all(test, feature = "fault-injection"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// It was an I/O error, so that pg_archivecleanup could fail a verification.
    #[test]
    fn a_file_that_is_removed_between_its_look_up_and_its_opening_is_gone() {
        use crate::sys::fault::{Effect, Fault, Op, Plan};

        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), "x").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let (effect, steps) = (Effect::Fail(libc::ENOENT), Progress::default());
        let plan = Plan::new(vec![Fault { op: Op::Open, skip: 0, times: 1, effect }]);
        assert!(Archived::open(&dir, &FinalName::Probe("a".to_owned()), &steps).unwrap().is_none());
        assert_eq!(plan.hits(), 1);
        assert!(Archived::open(&dir, &FinalName::Probe("a".to_owned()), &steps).unwrap().is_some());
    }
}
