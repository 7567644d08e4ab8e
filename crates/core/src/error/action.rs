//! What was being done when a system call failed, and what its failure means.

use std::io;

use super::ErrorKind;

/// What was being done when a system call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Opening or reading a file of the server.
    ReadSource,
    /// Opening the destination directory.
    OpenDestination,
    /// Listing a directory of the archive.
    ListDestination,
    /// Looking up, opening or reading a file of the archive.
    ReadArchived,
    /// Creating a temporary file.
    CreateTemporary,
    /// Writing the copy.
    WriteCopy,
    /// Setting attributes or the mode of the copy.
    SealCopy,
    /// Flushing the copy before it is published.
    FlushCopy,
    /// Reading the copy back from storage.
    ReadBack,
    /// Giving the copy its final name.
    Publish,
    /// Flushing a file that the archive already held.
    FlushArchived,
    /// Flushing the destination directory.
    FlushDirectory,
    /// Reading or writing the list of initialised destinations in the data directory.
    Remember,
    /// Reading `archive_status`.
    ReadStatus,
    /// Reading `global/pg_control`.
    ReadControl,
    /// Allocating what a file is copied through.
    ReserveMemory,
    /// Starting a thread to copy with.
    StartThread,
}

impl Action {
    /// Names the action as it follows "could not" in a message.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ReadSource => "read the WAL file",
            Self::OpenDestination => "open the archive directory",
            Self::ListDestination => "list the archive directory",
            Self::ReadArchived => "read a file in the archive",
            Self::CreateTemporary => "create a temporary file in the archive",
            Self::WriteCopy => "write the copy",
            Self::SealCopy => "set the attributes of the copy",
            Self::FlushCopy => "flush the copy to storage",
            Self::ReadBack => "read the copy back from storage",
            Self::Publish => "give the copy its name",
            Self::FlushArchived => "flush the archived file to storage",
            Self::FlushDirectory => "flush the archive directory to storage",
            Self::Remember => "record the archive directory in the data directory",
            Self::ReadStatus => "read \"pg_wal/archive_status\"",
            Self::ReadControl => "read \"global/pg_control\"",
            Self::ReserveMemory => "reserve memory for the copy",
            Self::StartThread => "start a thread for the copy",
        }
    }

    /// Tells whether the action is on the server's side, so that the destination is not to blame.
    fn on_server(self) -> bool {
        matches!(self, Self::ReadSource | Self::Remember | Self::ReadStatus | Self::ReadControl)
    }

    /// Returns the class of an error of the system in this action.
    pub(super) fn kind_of(self, source: &io::Error) -> ErrorKind {
        match source.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => ErrorKind::TooManyOpenFiles,
            Some(libc::ENOMEM) => ErrorKind::OutOfMemory,
            _ if self == Self::StartThread => ErrorKind::NoThread,
            _ if self == Self::ReadSource => ErrorKind::SourceUnreadable,
            _ if self.on_server() => ErrorKind::DataDirectory,
            Some(libc::ENOSPC) => ErrorKind::OutOfSpace,
            Some(libc::EDQUOT) => ErrorKind::QuotaExceeded,
            Some(libc::EROFS) => ErrorKind::ReadOnly,
            Some(libc::EACCES | libc::EPERM) => ErrorKind::PermissionDenied,
            Some(libc::ESTALE) => ErrorKind::StaleHandle,
            // A directory that was removed while it was open reports ENOENT for every new name.
            Some(libc::ENOENT | libc::ENOTDIR) => ErrorKind::DestinationMissing,
            _ if self == Self::ReadArchived && source.kind() == io::ErrorKind::InvalidData => {
                ErrorKind::ConflictUnreadable
            }
            _ => ErrorKind::IoError,
        }
    }
}
