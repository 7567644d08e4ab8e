//! Reading files: those of the server, and those of an archive past the page cache.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::buffer::Buffer;
use crate::codec::{Codec, Decoder};
use crate::digest::{CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use crate::error::{Action, Error};
use crate::sys::{self, Dir, Entry};

/// A file of the server that is to be archived.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    entry: Entry,
}

impl Source {
    /// Opens a WAL file of the server.
    ///
    /// # Errors
    /// The file could not be opened, or is not a regular file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |e| Error::io(Action::ReadSource, path, e);
        let file = sys::open_source(path).map_err(fail)?;
        let entry = sys::entry(&file).map_err(fail)?;
        if !entry.is_file() {
            return Err(fail(io::Error::other(format!("it is {}", entry.type_name()))));
        }
        Ok(Self { file, path: path.to_owned(), entry })
    }

    /// Returns the file's length when it was opened, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entry.len
    }

    /// Tells whether the file had no bytes when it was opened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entry.len == 0
    }

    /// Tells whether an entry of the archive is this very file: a hard link, not a copy.
    #[must_use]
    pub fn is(&self, entry: &Entry) -> bool {
        (self.entry.device, self.entry.inode) == (entry.device, entry.inode)
    }

    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From here on reads past the page cache a file that is mostly not in it, so that a backlog
    /// does not push the database out. One that is cached, as a segment just written, is read from
    /// there and stays. Buffers must then be aligned, as a [`Buffer`] is.
    pub fn spare_page_cache(&self) {
        let mostly = self.len() / 2;
        if sys::cached_bytes(&self.file, self.len()).is_some_and(|cached| cached < mostly) {
            let _ = sys::set_direct(&self.file, true);
        }
    }

    /// Reads at an offset until `buf` is full or the file ends.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        match sys::read_full_at(&self.file, buf, offset) {
            // The file system took the flag for direct I/O and refuses the read: go without.
            Err(e)
                if e.raw_os_error() == Some(libc::EINVAL) && sys::set_direct(&self.file, false) =>
            {
                sys::read_full_at(&self.file, buf, offset)
            }
            result => result,
        }
        .map_err(|e| Error::io(Action::ReadSource, &self.path, e))
    }

    /// Makes the error for a file that had another length when it was read than when it was opened.
    #[must_use]
    pub fn changed(&self, read: u64) -> Error {
        Error::SourceChanged { path: self.path.clone(), expected: self.entry.len, read }
    }

    /// Makes sure that the name which the file was opened by still leads to it. What was read until
    /// then is the WAL of that name: the server reuses a segment by giving it another name first,
    /// and writes into it after that (`InstallXLogFileSegment` in `access/transam/xlog.c`). One
    /// look after the last read therefore covers them all. No later file can pass for it, as an
    /// inode that is held open is not given out again.
    ///
    /// # Errors
    /// The name leads elsewhere or nowhere, or could not be looked up.
    pub fn check_not_moved(&self) -> Result<(), Error> {
        let there = sys::source_entry(&self.path)
            .map_err(|e| Error::io(Action::ReadSource, &self.path, e))?;
        match there {
            Some(entry) if self.is(&entry) => Ok(()),
            _ => Err(Error::SourceMoved { path: self.path.clone() }),
        }
    }
}

/// A reader whose bytes come from storage and not from the page cache, as far as the file system
/// allows: its clean pages are dropped, and it is read by direct I/O where there is such. Dirty pages
/// are written out before a direct read, so what is read is what a later reader gets after a power
/// cut.
pub struct PastCache {
    file: File,
    /// Made by the first read, which can tell that there is no memory for it.
    buffer: Option<Buffer>,
    /// What of the buffer is filled, and what of that was given out.
    filled: usize,
    taken: usize,
    offset: u64,
}

impl PastCache {
    /// Reads an open file from its start.
    #[must_use]
    pub fn new(file: File) -> Self {
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
            // The file system took the flag and refuses the read: go without.
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
        let bytes = self.buffer.as_ref().map(Buffer::bytes).unwrap_or_default();
        let ready = bytes.get(self.taken..self.filled).unwrap_or_default();
        let n = ready.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), ready.get(..n)) {
            to.copy_from_slice(from);
        }
        self.taken += n;
        Ok(n)
    }
}

/// Reads until `buf` is full or the stream ends.
///
/// # Errors
/// What the stream reports.
pub fn read_full(stream: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// A file that stands in an archive under a final name.
#[derive(Debug)]
pub struct Archived {
    /// The open file.
    pub file: File,
    /// Its name in the archive.
    pub stored_name: String,
    /// Its encoding.
    pub codec: Codec,
    /// What `fstat` said of it.
    pub entry: Entry,
}

impl Archived {
    /// Opens a file of an archive; `None` when nothing has the name.
    ///
    /// # Errors
    /// Something else than a regular file has the name (a symbolic link is never followed), or it
    /// could not be opened.
    pub fn open(dir: &Dir, stored_name: String, codec: Codec) -> Result<Option<Self>, Error> {
        let path = dir.path().join(&stored_name);
        let fail = |e| Error::io(Action::ReadArchived, &path, e);
        let Some(entry) = dir.entry(&stored_name).map_err(fail)? else {
            return Ok(None);
        };
        if !entry.is_file() {
            return Err(Error::NotAFile { found: entry.type_name(), path });
        }
        let file = match dir.open_file(&stored_name) {
            // It was removed in between: by pg_archivecleanup, say.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            opened => opened.map_err(fail)?,
        };
        let entry = sys::entry(&file).map_err(fail)?;
        if !entry.is_file() {
            return Err(Error::NotAFile { found: entry.type_name(), path });
        }
        Ok(Some(Self { file, stored_name, codec, entry }))
    }

    /// Tells whether the file carries a digest from the time when it was archived.
    ///
    /// # Errors
    /// Its attributes could not be read.
    pub fn carries_digest(&self) -> io::Result<bool> {
        let carries = |name| sys::attribute(&self.file, name).map(|digest| digest.is_some());
        Ok(carries(STORED_ATTRIBUTE)? || carries(CONTENT_ATTRIBUTE)?)
    }

    /// Decodes the file from storage, past the page cache.
    ///
    /// # Errors
    /// The decoder could not be set up.
    pub fn decode(&self) -> io::Result<Decoder<PastCache>> {
        Decoder::new(self.codec, PastCache::new(self.file.try_clone()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::buffer::CHUNK;

    fn read_all(source: &Source) -> Vec<u8> {
        source.spare_page_cache();
        let (mut buffer, mut content) = (Buffer::new().unwrap(), Vec::new());
        loop {
            let n = source.read_at(buffer.bytes_mut(), content.len() as u64).unwrap();
            content.extend(buffer.filled(n));
            if n < CHUNK {
                return content;
            }
        }
    }

    /// It was an I/O error, so that pg_archivecleanup could fail a verification.
    #[cfg(feature = "fault-injection")]
    #[test]
    fn a_file_that_is_removed_between_its_look_up_and_its_opening_is_gone() {
        use crate::fault::{Effect, Fault, Op, Plan};

        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), "x").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let effect = Effect::Fail(libc::ENOENT);
        let plan = Plan::new(vec![Fault { op: Op::Open, skip: 0, times: 1, effect }]);
        assert!(Archived::open(&dir, "a".to_owned(), Codec::None).unwrap().is_none());
        assert_eq!(plan.hits(), 1);
        assert!(Archived::open(&dir, "a".to_owned(), Codec::None).unwrap().is_some());
    }

    #[test]
    fn a_file_that_is_not_cached_stays_out_of_the_page_cache_and_a_cached_one_in_it() {
        let content: Vec<u8> = (0..3 * CHUNK + 777).map(|i| (i / 3) as u8).collect();
        let temp = tempfile::NamedTempFile::new_in(".").unwrap();
        std::fs::write(temp.path(), &content).unwrap();
        let cached = || sys::cached_bytes(temp.as_file(), content.len() as u64).unwrap();
        assert!(read_all(&Source::open(temp.path()).unwrap()) == content);
        assert!(cached() >= content.len() as u64);

        temp.as_file().sync_all().unwrap();
        sys::drop_cached(temp.as_file(), 0, 0);
        assert_eq!(cached(), 0);
        assert!(read_all(&Source::open(temp.path()).unwrap()) == content);
        assert!(cached() < CHUNK as u64, "{} bytes are cached", cached());
    }
}
