//! A file of the server that is to be archived.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Action, Error};
use crate::sys::{self, Entry};

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
            return Err(Error::SourceNotAFile { path: path.to_owned(), found: entry.type_name() });
        }
        Ok(Self { file, path: path.to_owned(), entry })
    }

    /// Returns the file's length when it was opened, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entry.len
    }

    /// Returns whether the file had no bytes when it was opened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entry.len == 0
    }

    /// Returns whether an entry of the archive is this very file: a hard link, not a copy.
    #[must_use]
    pub fn is(&self, entry: &Entry) -> bool {
        self.entry.is_same_file(entry)
    }

    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads past the page cache from here on, if most of the file is not in it, so that a backlog
    /// does not push the database out. A file that is cached, such as a segment just written, is read
    /// from the cache and stays there. Buffers must then be aligned, as a [`crate::sys::buffer::Buffer`] is.
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
            // The file system accepted the flag for direct I/O but refuses the read: do without it.
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

    /// Makes sure that the name by which the file was opened still leads to it. What was read until
    /// then is the WAL of that name: to reuse a segment, the server first gives it another name, and
    /// only then writes into it (`InstallXLogFileSegment` in `access/transam/xlog.c`). One look after
    /// the last read therefore covers all reads. A later file cannot pass for this one: an inode that is
    /// held open is not given out again.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sys::buffer::{Buffer, CHUNK};

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
