//! The data directory's memory of the archives that were initialised.
//!
//! `walsafe_archive.destinations` in the data directory: one `destination = PATH` line each. It is
//! what tells an empty mount point from an empty new archive: a directory that is listed here must
//! have its identity file. It survives restarts and goes along in base backups.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Action, Error};
use crate::sys::{self, Dir};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "walsafe_archive.destinations";
const TEMPORARY_NAME: &str = "walsafe_archive.destinations.tmp";
const KEY: &str = "destination = ";

/// The list of initialised destinations of one data directory. One process at a time changes it:
/// the archiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    data_directory: PathBuf,
}

impl Memory {
    /// Names the memory of a data directory; reads nothing yet.
    #[must_use]
    pub fn of(data_directory: impl Into<PathBuf>) -> Self {
        Self { data_directory: data_directory.into() }
    }

    /// Tells whether a path without symbolic links lies in the data directory.
    #[must_use]
    pub fn is_inside(&self, real_path: &Path) -> bool {
        self.data_directory.canonicalize().is_ok_and(|data| real_path.starts_with(data))
    }

    /// Tells whether `destination` was initialised from this data directory, or from the one that
    /// it is a copy of.
    ///
    /// # Errors
    /// The list could not be read. It is never taken for empty then.
    pub fn contains(&self, destination: &Path) -> Result<bool, Error> {
        Ok(self.read()?.iter().any(|known| known == destination))
    }

    /// Adds a destination, durably.
    ///
    /// On return the list names it also after a power cut. Dies the machine before, the old list
    /// or the new one is there.
    ///
    /// # Errors
    /// The list could not be read, written, flushed or put in place.
    pub fn add(&self, destination: &Path) -> Result<(), Error> {
        let fail = |e| self.failed(e);
        let mut known = self.read()?;
        if known.iter().any(|path| path == destination) {
            return Ok(());
        }
        known.push(destination.to_owned());
        let mut text =
            "# Directories that walsafe_archive has archived to. Do not edit.\n".to_owned();
        for path in &known {
            text.push_str(KEY);
            text.push_str(&path.to_string_lossy());
            text.push('\n');
        }
        let dir = Dir::open(&self.data_directory).map_err(fail)?;
        // A temporary file here is what a killed archiver left: there is only one archiver.
        let _ = dir.unlink(TEMPORARY_NAME);
        let file = dir.create_named(TEMPORARY_NAME).map_err(fail)?;
        sys::write_all_at(&file, text.as_bytes(), 0).map_err(fail)?;
        sys::flush(&file).map_err(fail)?;
        dir.replace(TEMPORARY_NAME, FILE_NAME).map_err(fail)?;
        dir.flush().map_err(fail)
    }

    fn read(&self) -> Result<Vec<PathBuf>, Error> {
        let dir = Dir::open(&self.data_directory).map_err(|e| self.failed(e))?;
        let mut text = String::new();
        match dir.open_file(FILE_NAME).and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            Err(e) => return Err(self.failed(e)),
        }
        Ok(text.lines().filter_map(|line| line.strip_prefix(KEY)).map(PathBuf::from).collect())
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::io(Action::Remember, self.data_directory.join(FILE_NAME), source)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn destinations_are_remembered_once_each() {
        let temp = tempfile::tempdir().unwrap();
        let memory = Memory::of(temp.path());
        assert!(!memory.contains(Path::new("/a")).unwrap());
        for path in ["/a", "/b c", "/a"] {
            memory.add(Path::new(path)).unwrap();
        }
        assert!(memory.contains(Path::new("/b c")).unwrap());
        assert!(!memory.contains(Path::new("/b")).unwrap());
        assert_eq!(memory.read().unwrap().len(), 2);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_and_not_an_empty_list() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join(FILE_NAME)).unwrap();
        assert!(Memory::of(temp.path()).contains(Path::new("/a")).is_err());
        assert!(Memory::of(temp.path().join("gone")).contains(Path::new("/a")).is_err());
    }
}
