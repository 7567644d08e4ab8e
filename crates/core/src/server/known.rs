//! The list of known destinations: the archives that were initialised from a data directory.
//!
//! It is the file `walsafe_archive.destinations` in the data directory, with a line `destination = PATH` for
//! each. It distinguishes an empty mount point from an empty new archive: a directory in this list must
//! have its identity file. The list survives restarts, and base backups include it.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Action, Error};
use crate::server::permission;
use crate::sys::{self, Dir};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "walsafe_archive.destinations";
const TEMPORARY_NAME: &str = "walsafe_archive.destinations.tmp";
const KEY: &str = "destination = ";

/// Data directories, and the destinations that this process knows to be on disk in their lists. That a
/// line can be read proves nothing: the flush that followed it may have failed, or the process may have
/// died before the flush. Locked while a list is changed.
static DURABLE: Mutex<BTreeSet<(PathBuf, PathBuf)>> = Mutex::new(BTreeSet::new());

fn durable() -> MutexGuard<'static, BTreeSet<(PathBuf, PathBuf)>> {
    DURABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The list of the known destinations of one data directory. Only one process at a time changes it:
/// the archiver, from any of its threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDestinations {
    data_directory: PathBuf,
    /// Whether the list is written.
    kept: bool,
}

impl KnownDestinations {
    /// Names the list of a data directory. Reads nothing yet.
    #[must_use]
    pub fn of(data_directory: impl Into<PathBuf>) -> Self {
        Self { data_directory: data_directory.into(), kept: true }
    }

    /// The same, for a program beside the server: the list is read, and never written. It belongs to the
    /// archiver, and the data directory may be that of a lost server, on a disk that is read-only.
    #[must_use]
    pub fn only_read(data_directory: impl Into<PathBuf>) -> Self {
        Self { data_directory: data_directory.into(), kept: false }
    }

    /// Returns the data directory.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data_directory
    }

    /// Returns whether a path without symbolic links lies in the data directory, or in a `pg_wal` that
    /// is elsewhere (`initdb --waldir`).
    #[must_use]
    pub fn is_inside(&self, real_path: &Path) -> bool {
        [self.data_directory.clone(), self.pg_wal()]
            .into_iter()
            .any(|dir| dir.canonicalize().is_ok_and(|dir| real_path.starts_with(dir)))
    }

    /// Returns whether a directory is `pg_wal` itself, by whatever path (a bind mount, for example).
    ///
    /// # Errors
    /// One of the two could not be looked up.
    pub fn is_pg_wal(&self, dir: &Dir) -> Result<bool, Error> {
        let pg_wal = self.pg_wal();
        let ours = match pg_wal.metadata() {
            Ok(ours) => ours,
            // Nothing can be what is not there.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io(Action::LookUpData, &pg_wal, e)),
        };
        let there =
            dir.metadata().map_err(|e| Error::io(Action::LookUpDestination, dir.path(), e))?;
        Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    }

    pub(crate) fn pg_wal(&self) -> PathBuf {
        self.data_directory.join("pg_wal")
    }

    /// Returns whether `destination` was initialised from this data directory, or from the one that
    /// this is a copy of.
    ///
    /// # Errors
    /// The list could not be read. It is never treated as empty then.
    pub fn contains(&self, destination: &Path) -> Result<bool, Error> {
        Ok(self.read()?.iter().any(|known| known == destination))
    }

    /// Returns whether this process has made sure that the list names `destination` durably.
    #[must_use]
    pub fn is_durable(&self, destination: &Path) -> bool {
        durable().contains(&(self.data_directory.clone(), destination.to_owned()))
    }

    /// Adds a destination durably, or flushes a list that already names it.
    ///
    /// On return the list names it even after a power cut. If the machine dies before that, either the
    /// old list or the new one is there. A list that is only read stays as it is.
    ///
    /// # Errors
    /// The list could not be read, written, flushed or put in place.
    pub fn add(&self, destination: &Path) -> Result<(), Error> {
        if !self.kept {
            return Ok(());
        }
        let fail = |e| self.failed(Action::Remember, e);
        let mut durable = durable();
        let entry = (self.data_directory.clone(), destination.to_owned());
        let mut known = self.read()?;
        let dir = Dir::open(&self.data_directory).map_err(fail)?;
        if !known.iter().any(|path| path == destination) {
            durable.remove(&entry);
            known.push(destination.to_owned());
            // There is only one archiver: a temporary file here was left by one that was killed.
            let _ = dir.unlink(TEMPORARY_NAME);
            let file = dir.create_named(TEMPORARY_NAME).map_err(fail)?;
            sys::write_all_at(&file, text(&known).as_bytes(), 0).map_err(fail)?;
            permission::share(&file, &self.data_directory).map_err(fail)?;
            sys::flush(&file).map_err(fail)?;
            dir.replace(TEMPORARY_NAME, FILE_NAME).map_err(fail)?;
        }
        if !durable.contains(&entry) {
            dir.flush().map_err(fail)?;
            durable.insert(entry);
        }
        Ok(())
    }

    fn read(&self) -> Result<Vec<PathBuf>, Error> {
        let dir = Dir::open(&self.data_directory).map_err(|e| self.failed(Action::ReadKnown, e))?;
        let mut text = String::new();
        match dir.open_file(FILE_NAME).and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            Err(e) => return Err(self.failed(Action::ReadKnown, e)),
        }
        Ok(text.lines().filter_map(|line| line.strip_prefix(KEY)).map(PathBuf::from).collect())
    }

    fn failed(&self, action: Action, source: std::io::Error) -> Error {
        Error::io(action, self.data_directory.join(FILE_NAME), source)
    }
}

fn text(destinations: &[PathBuf]) -> String {
    let mut text = "# Directories that walsafe_archive has archived to. Do not edit.\n".to_owned();
    for path in destinations {
        text.push_str(KEY);
        text.push_str(&path.to_string_lossy());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn destinations_are_remembered_once_each() {
        let temp = tempfile::tempdir().unwrap();
        let known = KnownDestinations::of(temp.path());
        assert!(!known.contains(Path::new("/a")).unwrap());
        for path in ["/a", "/b c", "/a"] {
            known.add(Path::new(path)).unwrap();
        }
        assert!(known.contains(Path::new("/b c")).unwrap());
        assert!(!known.contains(Path::new("/b")).unwrap());
        assert_eq!(known.read().unwrap().len(), 2);
    }

    /// The list had one mode everywhere, so a backup by a group that may read everything else stopped at
    /// it.
    #[test]
    fn the_list_can_be_read_by_whoever_can_read_the_data_directory() {
        for (directory, list) in [(0o700, 0o600), (0o750, 0o640)] {
            let temp = tempfile::tempdir().unwrap();
            std::fs::set_permissions(temp.path(), Permissions::from_mode(directory)).unwrap();
            KnownDestinations::of(temp.path()).add(Path::new("/a")).unwrap();
            let mode = temp.path().join(FILE_NAME).metadata().unwrap().mode();
            assert_eq!(mode & 0o777, list);
        }
    }

    #[test]
    fn a_list_that_is_only_read_is_not_written() {
        let temp = tempfile::tempdir().unwrap();
        KnownDestinations::of(temp.path()).add(Path::new("/a")).unwrap();
        let read = KnownDestinations::only_read(temp.path());
        read.add(Path::new("/b")).unwrap();
        assert!(read.contains(Path::new("/a")).unwrap());
        assert!(!read.contains(Path::new("/b")).unwrap());
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_and_not_an_empty_list() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join(FILE_NAME)).unwrap();
        assert!(KnownDestinations::of(temp.path()).contains(Path::new("/a")).is_err());
        assert!(KnownDestinations::of(temp.path().join("gone")).contains(Path::new("/a")).is_err());
    }
}
