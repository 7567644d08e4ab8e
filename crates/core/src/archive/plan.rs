//! What is to be archived, how, and what came of it.

use std::path::{Path, PathBuf};

use super::notice::Notice;
use crate::encoding::codec::Compression;
use crate::encoding::digest::Digest;
use crate::error::Error;
use crate::server::known::KnownDestinations;
use crate::server::settings::{CheckWal, Destination, FileMode, FsyncPolicy};
use crate::store::directory::temporary::Owner;
use crate::store::directory::{Directory, Staging};
use crate::store::identity::Identity;
use crate::store::location::{self, Access};
use crate::store::{Progress, Store, StoredName, Visit, admission};
use crate::sys::Space;
use crate::wal::SegmentReport;
use crate::wal::name::FileName;
use crate::wal::segment::Cluster;

/// Everything that decides how files are archived; the same for all files until a setting changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The archive.
    pub destination: Destination,
    /// What is flushed before success.
    pub fsync_policy: FsyncPolicy,
    /// Permission of archived files.
    pub file_mode: FileMode,
    /// Compression of archived files.
    pub compression: Compression,
    /// What is checked of a segment.
    pub check_wal: CheckWal,
    /// Read each new copy back from storage before it is published.
    pub verify: bool,
    /// The cluster whose files they are.
    pub cluster: Cluster,
    /// The data directory's list of initialised destinations.
    pub known: KnownDestinations,
    /// Who makes temporary files.
    pub owner: Owner,
    /// How files are kept out of sight.
    pub staging: Staging,
    /// What reaching object storage takes.
    pub access: Access,
}

impl Plan {
    /// Returns the store that files are archived to. It remembers what its file system cannot do, so one
    /// store is used for many files.
    #[must_use]
    pub fn store(&self) -> Box<dyn Store> {
        if self.destination.is_url() {
            return location::open_later(Path::new(self.destination.given()), &self.access);
        }
        let store = Directory::new(self.destination.path(), self.owner.clone(), self.staging);
        Box::new(match self.fsync_policy {
            FsyncPolicy::Full => store,
            FsyncPolicy::File | FsyncPolicy::None => store.without_directory_flush(),
        })
    }

    /// Goes to the archive, and makes sure that it is this cluster's.
    ///
    /// # Errors
    /// It cannot be reached, or is not this cluster's.
    pub(super) fn visit<'s>(
        &self,
        store: &'s dyn Store,
        progress: &'s Progress,
    ) -> Result<Box<dyn Visit + 's>, Error> {
        self.enter(store, progress).map(|(visit, _)| visit)
    }

    /// The same; returns what the archive says of itself, too.
    ///
    /// # Errors
    /// As [`Plan::visit`].
    pub(super) fn enter<'s>(
        &self,
        store: &'s dyn Store,
        progress: &'s Progress,
    ) -> Result<(Box<dyn Visit + 's>, Identity), Error> {
        let visit = store.visit(progress)?;
        let identity =
            admission::admit(&*visit, &self.cluster, &self.known, self.file_mode.bits())?;
        Ok((visit, identity))
    }

    /// Returns the name that a file gets in the archive.
    #[must_use]
    pub fn stored_name(&self, name: &FileName) -> StoredName {
        StoredName::new(name.clone(), self.compression.codec)
    }
}

/// One file to be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The file's name.
    pub name: FileName,
    /// Where the server has it.
    pub source: PathBuf,
}

/// What was done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was copied into the archive.
    Archived,
    /// The archive held the same contents already; they were flushed again.
    AlreadyPresent,
}

/// A file that is now in the archive, as durable as the policy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What was done.
    pub outcome: Outcome,
    /// Length of the WAL file, in bytes.
    pub wal_bytes: u64,
    /// What the file takes in the archive, in bytes: holes do not count.
    pub stored_bytes: u64,
    /// Digest of the WAL file's own bytes.
    pub content: Digest,
    /// Size and free space of the archive's file system afterwards, where it tells.
    pub space: Option<Space>,
    /// What the check of its records has shown, under [`CheckWal::Records`].
    pub records: Option<Box<SegmentReport>>,
    /// The first file from which on the archive has all, where that is known ([`Identity::begins_with`]).
    pub begins_with: Option<FileName>,
    /// What was noticed on the way, to be reported once.
    pub notices: Vec<Notice>,
}

impl Receipt {
    /// Returns whether the archive held the file already.
    #[must_use]
    pub fn already_present(&self) -> bool {
        self.outcome == Outcome::AlreadyPresent
    }
}
