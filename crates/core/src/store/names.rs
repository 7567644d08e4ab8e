//! Final names in an archive.

use std::fmt;

use crate::encoding::codec::Codec;
use crate::store::{identity, unchecked};
use crate::wal::name::{FileKind, FileName, NameError};

/// The name of a WAL file in an archive: its own name, and how it is compressed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoredName {
    /// The WAL file's own name.
    pub name: FileName,
    /// How it is compressed, which the extension says.
    pub codec: Codec,
}

impl StoredName {
    /// Returns the name that a file has in an archive.
    #[must_use]
    pub fn new(name: FileName, codec: Codec) -> Self {
        // The name of a file that is being received says it itself.
        let codec = name.received().map_or(codec, |(_, inner)| inner);
        Self { name, codec }
    }

    /// Returns every name under which an archive may hold a file.
    #[must_use]
    pub fn all(name: &FileName) -> Vec<Self> {
        if name.received().is_some() {
            return vec![Self::new(name.clone(), Codec::None)];
        }
        let mut all: Vec<_> = Codec::ALL.map(|codec| Self::new(name.clone(), codec)).into();
        if let FileKind::Partial(segment) = name.kind() {
            all.extend(
                Codec::RECEIVED.map(|codec| Self::new(FileName::receiving(segment, codec), codec)),
            );
        }
        all
    }

    /// Reads a name as it stands in an archive.
    ///
    /// # Errors
    /// No accepted file is stored under such a name.
    pub fn parse(stored: &str) -> Result<Self, NameError> {
        FileName::from_stored(stored).map(|(name, codec)| Self { name, codec })
    }
}

impl fmt::Display for StoredName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.stored(self.codec))
    }
}

/// Returns whether a name is that of an entry that the storage keeps by itself and nobody can remove, or
/// that comes back: such an entry says nothing of what a directory is used for, and is never a finding.
#[must_use]
pub(super) fn is_of_storage(name: &str) -> bool {
    /// `lost+found` and `.journal` of ext, `.autorelabel` of SELinux, snapshots of ZFS, GPFS, NetApp, FreeBSD
    /// and others, what GlusterFS, Synology, QNAP and Windows keep.
    const WHOLE: [&str; 18] = [
        "lost+found",
        ".journal",
        ".autorelabel",
        ".zfs",
        ".snapshot",
        ".snapshots",
        ".snap",
        "~snapshot",
        ".glusterfs",
        ".trashcan",
        "@eaDir",
        "#recycle",
        "#snapshot",
        "@Recycle",
        "@Recently-Snapshot",
        ".@__thumb",
        "System Volume Information",
        "$RECYCLE.BIN",
    ];
    /// Quota files of the kernel, files that were removed while they were open, and bins of desktops.
    const BEGIN: [&str; 4] = ["aquota.", ".nfs", ".fuse_hidden", ".Trash-"];
    WHOLE.contains(&name) || BEGIN.iter().any(|begin| name.starts_with(begin))
}

/// What the temporary files of a check are named after.
pub const PROBE: &str = "check";

/// Any name that a file of ours is published under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinalName {
    /// A WAL file's.
    File(StoredName),
    /// The identity file's.
    Identity,
    /// The name of the marker for WAL that was let in unchecked.
    Unchecked,
    /// The name of a check's probe.
    Probe(String),
}

impl From<StoredName> for FinalName {
    fn from(name: StoredName) -> Self {
        Self::File(name)
    }
}

impl From<&StoredName> for FinalName {
    fn from(name: &StoredName) -> Self {
        Self::File(name.clone())
    }
}

impl FinalName {
    /// What a temporary file on its way to this name is named after.
    #[must_use]
    pub fn stem(&self) -> String {
        match self {
            Self::Probe(_) => PROBE.to_owned(),
            name => name.to_string(),
        }
    }

    /// How the file is compressed.
    #[must_use]
    pub fn codec(&self) -> Codec {
        match self {
            Self::File(name) => name.codec,
            Self::Identity | Self::Unchecked | Self::Probe(_) => Codec::None,
        }
    }
}

impl fmt::Display for FinalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => name.fmt(f),
            Self::Identity => f.write_str(identity::FILE_NAME),
            Self::Unchecked => f.write_str(unchecked::FILE_NAME),
            Self::Probe(name) => f.write_str(name),
        }
    }
}
