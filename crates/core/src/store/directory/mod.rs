//! An archive that is a directory: how a file gets into it, and how it is read past the page cache.
//!
//! [`Staging`] has the ways in which a file is kept out of sight and gets its final name. Which of them a
//! file system allows is found out below the seam, with the first file, and a [`Directory`] remembers
//! it. What was remembered never stops a file: where the way that worked is refused, the other one is tried.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use self::draft::DirectoryDraft;
pub(crate) use self::draft::lacks_unnamed_files;
use self::reading::Archived;
use self::temporary::Owner;
use crate::error::{Action, Error, refuses_flush};
use crate::server::known::KnownDestinations;
use crate::server::together;
use crate::store::limit::{Limit, Limits};
use crate::store::{Draft, Facts, FinalName, Found, Place, PlaceId, Progress, Store, Visit};
use crate::sys::{self, Dir, Space};

mod draft;
mod reading;
mod sink;
pub mod temporary;
#[cfg(test)]
mod tests;

/// How a file is kept out of sight until it is whole, and gets its final name. If the file system or the
/// system refuses one way, the next one is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Staging {
    /// A file without a name (`O_TMPFILE`), which is linked to its final name.
    Unnamed,
    /// A file under a temporary name, which is linked to its final name: the portable way.
    Named,
    /// A file under a temporary name, which is renamed without replacing: for file systems without hard
    /// links.
    Renamed,
}

impl Staging {
    /// Every way, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Unnamed, Self::Named, Self::Renamed];
}

/// A directory to archive to, by its path.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    ways: Arc<Ways>,
}

/// How files get into a directory.
#[derive(Debug)]
struct Ways {
    owner: Owner,
    /// The first way of [`Staging::ALL`] that has not been refused here.
    staging: AtomicU8,
    /// User and group of new files, if they are not to be this process's own.
    belonging_to: Option<(u32, u32)>,
    /// A file system that does not flush directories will do.
    without_directory_flush: bool,
    /// What files have had to do without.
    limits: Limits,
}

impl Directory {
    /// Names a directory, and the way of staging to begin with; looks at nothing yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, owner: Owner, staging: Staging) -> Self {
        let ways = Ways {
            owner,
            staging: AtomicU8::new(staging as u8),
            belonging_to: None,
            without_directory_flush: false,
            limits: Limits::default(),
        };
        Self { path: path.into(), ways: Arc::new(ways) }
    }

    /// Names a directory for this process, with every way of staging.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::new(path, Owner::this_process(), Staging::Unnamed)
    }

    /// Gives each new file to this user and group before anybody sees it.
    #[must_use]
    pub fn belonging_to(self, user: u32, group: u32) -> Self {
        self.with(|ways| ways.belonging_to = Some((user, group)))
    }

    /// Accepts that directories cannot be flushed at all here. A flush that is made and fails stays an error.
    /// Never for what has to survive a power cut by guarantee G1.
    #[must_use]
    pub fn without_directory_flush(self) -> Self {
        self.with(|ways| ways.without_directory_flush = true)
    }

    /// Sets what it is to do otherwise. Visits that were made before keep to what was.
    fn with(self, set: impl FnOnce(&mut Ways)) -> Self {
        let mut ways = Ways {
            owner: self.ways.owner.clone(),
            staging: AtomicU8::new(self.ways.staging.load(Ordering::Relaxed)),
            belonging_to: self.ways.belonging_to,
            without_directory_flush: self.ways.without_directory_flush,
            limits: Limits::default(),
        };
        set(&mut ways);
        Self { ways: Arc::new(ways), ..self }
    }

    /// Opens the directory.
    ///
    /// # Errors
    /// It is missing or cannot be opened.
    pub fn open<'s>(&self, progress: &'s Progress) -> Result<DirectoryVisit<'s>, Error> {
        let dir =
            Dir::open(&self.path).map_err(|e| Error::io(Action::OpenDestination, &self.path, e))?;
        progress.tick();
        let here = Here { ways: Arc::clone(&self.ways), dir: Arc::new(dir) };
        Ok(DirectoryVisit { here, progress })
    }
}

impl Store for Directory {
    fn visit<'s>(&'s self, progress: &'s Progress) -> Result<Box<dyn Visit + 's>, Error> {
        Ok(Box::new(self.open(progress)?))
    }
}

/// An open directory, and how files get into it.
#[derive(Debug, Clone)]
struct Here {
    ways: Arc<Ways>,
    dir: Arc<Dir>,
}

impl Here {
    fn owner(&self) -> &Owner {
        &self.ways.owner
    }

    fn path_of(&self, name: &FinalName) -> PathBuf {
        self.dir.path().join(name.to_string())
    }

    /// Returns the way of staging to try.
    fn staging(&self) -> Staging {
        let tried = self.ways.staging.load(Ordering::Relaxed);
        Staging::ALL.into_iter().find(|staging| *staging as u8 >= tried).unwrap_or(Staging::Renamed)
    }

    /// Remembers that the ways before this one are refused here.
    fn remember(&self, works: Staging) {
        self.ways.staging.fetch_max(works as u8, Ordering::Relaxed);
    }

    /// Remembers that files can be linked here after all.
    fn remember_links(&self) {
        let (from, to) = (Staging::Renamed as u8, Staging::Named as u8);
        let _ = self.ways.staging.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Place for Here {
    fn resume<'s>(&self, progress: &'s Progress) -> Box<dyn Visit + 's> {
        Box::new(DirectoryVisit { here: self.clone(), progress })
    }

    fn id(&self) -> Result<PlaceId, Error> {
        let entry = self.dir.own_entry();
        let entry = entry.map_err(|e| Error::io(Action::OpenDestination, self.dir.path(), e))?;
        Ok(PlaceId(entry.device, entry.inode))
    }
}

/// A directory that is being visited.
#[derive(Debug)]
pub struct DirectoryVisit<'s> {
    here: Here,
    progress: &'s Progress,
}

impl DirectoryVisit<'_> {
    /// Returns the open directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.here.dir
    }
}

impl Visit for DirectoryVisit<'_> {
    fn location(&self) -> &Path {
        self.dir().path()
    }

    fn progress(&self) -> &Progress {
        self.progress
    }

    fn keep(&self) -> Box<dyn Place> {
        Box::new(self.here.clone())
    }

    fn is_still_there(&self) -> Result<bool, Error> {
        let there = self.dir().is_at_its_path();
        self.progress.tick();
        there.map_err(|e| Error::io(Action::OpenDestination, self.dir().path(), e))
    }

    fn find(&self, name: &FinalName) -> Result<Option<Box<dyn Found + '_>>, Error> {
        let found = Archived::open(self.dir(), name, self.progress)?;
        self.progress.tick();
        Ok(found.map(|found| Box::new(found) as _))
    }

    fn holds(&self, name: &FinalName) -> bool {
        !matches!(self.dir().entry(&name.to_string()), Ok(None))
    }

    fn list(&self, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let mut each = |name: &str| {
            self.progress.tick();
            each(name);
        };
        self.dir()
            .for_each_name(&mut each)
            .map_err(|e| Error::io(Action::ListDestination, self.dir().path(), e))
    }

    fn facts(&self, name: &str) -> io::Result<Option<Facts>> {
        // By the path: it is for messages and figures, and nothing is decided by it.
        let there = std::fs::symlink_metadata(self.dir().path().join(name));
        self.progress.tick();
        match there {
            Ok(there) => Ok(Some(Facts {
                len: there.len(),
                allocated: sys::allocated(&there),
                modified: there.modified().ok(),
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn directory(&self) -> Option<&Dir> {
        Some(self.dir())
    }

    fn stage(&self, name: FinalName) -> Result<Box<dyn Draft + '_>, Error> {
        Ok(Box::new(DirectoryDraft::create(&self.here, self.progress, name)?))
    }

    fn settle(&self) -> Result<(), Error> {
        match self.dir().flush() {
            Err(e) if !(self.here.ways.without_directory_flush && refuses_flush(&e)) => {
                return Err(Error::io(Action::FlushDirectory, self.dir().path(), e));
            }
            _ => {}
        }
        self.progress.tick();
        Ok(())
    }

    /// Where files need no names, nothing that this module wrote can be left, and the names of an archive are
    /// not read: there may be a million. What an earlier run left, when the file system was another or could
    /// do less, is found by `walsafe verify`.
    fn tidy(&self) -> Result<(), Error> {
        if self.here.staging() == Staging::Unnamed && self.dir().create_unnamed().is_ok() {
            self.progress.tick();
            return Ok(());
        }
        let step = || self.progress.tick();
        temporary::remove_where(self.dir(), self.here.owner(), |_| true, step).map(drop)
    }

    fn limits(&self) -> Vec<Limit> {
        let mut limits = self.here.ways.limits.noted();
        let mode = self.dir().mode().unwrap_or(0);
        if mode & 0o002 != 0 {
            limits.push(Limit::OpenToAll { sticky: mode & 0o1000 != 0 });
        }
        limits
    }

    fn space(&self) -> Option<Space> {
        self.dir().space().ok()
    }

    fn is_within(&self, server: &KnownDestinations) -> Result<bool, Error> {
        Ok(server.is_pg_wal(self.dir())?
            || self.dir().real_path().is_some_and(|real| server.is_inside(&real)))
    }

    fn check_apart(&self, server: &KnownDestinations) -> Result<(), Error> {
        together::check_apart(server.data_directory(), self.dir())
    }
}
