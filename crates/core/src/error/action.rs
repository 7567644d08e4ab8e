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
    /// Looking the destination directory up: its owner, its mode, its file system.
    LookUpDestination,
    /// Asking how much space the destination's file system has.
    ReadSpace,
    /// Listing a directory of the archive.
    ListDestination,
    /// Looking up, opening or reading a file of the archive.
    ReadArchived,
    /// Creating a temporary file.
    CreateTemporary,
    /// Compressing the copy.
    Encode,
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
    /// Giving the identity file to the user that runs the server.
    OwnIdentity,
    /// Writing a probe into the archive.
    WriteProbe,
    /// Setting an attribute of a probe.
    SealProbe,
    /// Flushing a probe.
    FlushProbe,
    /// Removing a probe.
    RemoveProbe,
    /// Looking the data directory up: its owner, its file system.
    LookUpData,
    /// Reading the list of initialised destinations in the data directory.
    ReadKnown,
    /// Writing the list of initialised destinations in the data directory.
    Remember,
    /// Reading `archive_status`.
    ReadStatus,
    /// Reading `global/pg_control`.
    ReadControl,
    /// Keeping the names that lie in an archive in memory.
    HoldNames,
    /// Allocating what a file is copied through.
    ReserveMemory,
    /// Starting a thread to copy with.
    StartThread,
    /// Starting a thread to read an archive with.
    StartReader,
    /// Sending an object to object storage.
    Upload,
    /// Listing the objects of an archive.
    ListObjects,
    /// Finding out whether object storage honours the condition of a PUT.
    TestCondition,
    /// Making the handle that wakes the archiver's main thread.
    MakePool,
}

impl Action {
    /// Names the action as it follows "could not" in a message.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ReadSource => "read the WAL file",
            Self::OpenDestination => "open the archive directory",
            Self::LookUpDestination => "look up the archive directory",
            Self::ReadSpace => "read the free space of the archive's file system",
            Self::ListDestination => "list the archive directory",
            Self::ReadArchived => "read a file in the archive",
            Self::CreateTemporary => "create a temporary file in the archive",
            Self::Encode => "compress the copy",
            Self::WriteCopy => "write the copy",
            Self::SealCopy => "set the attributes of the copy",
            Self::FlushCopy => "flush the copy to storage",
            Self::ReadBack => "read the copy back from storage",
            Self::Publish => "give the copy its name",
            Self::FlushArchived => "flush the archived file to storage",
            Self::FlushDirectory => "flush the archive directory to storage",
            Self::OwnIdentity => "give the identity file to the user that runs the server",
            Self::WriteProbe => "write a probe file in the archive",
            Self::SealProbe => "set an attribute of a probe file in the archive",
            Self::FlushProbe => "flush a probe file in the archive to storage",
            Self::RemoveProbe => "remove a probe file from the archive",
            Self::LookUpData => "look up the data directory",
            Self::ReadKnown => "read the list of archive directories in the data directory",
            Self::Remember => "record the archive in the data directory",
            Self::ReadStatus => "read \"pg_wal/archive_status\"",
            Self::ReadControl => "read \"global/pg_control\"",
            Self::HoldNames => "hold in memory what the archive holds",
            Self::ReserveMemory => "reserve memory for the copy",
            Self::StartThread => "start a thread for the copy",
            Self::StartReader => "start a thread to read the archive",
            Self::Upload => "upload the copy",
            Self::ListObjects => "list the objects of the archive",
            Self::TestCondition => "find out whether the object storage replaces objects",
            Self::MakePool => "make the handle that wakes the archiver",
        }
    }

    /// Returns whether the action is on the server's side, so that the destination is not to blame.
    fn on_server(self) -> bool {
        matches!(
            self,
            Self::ReadSource
                | Self::LookUpData
                | Self::ReadKnown
                | Self::Remember
                | Self::ReadStatus
                | Self::ReadControl
        )
    }

    /// Returns the class of an error of the system in this action.
    pub(super) fn kind_of(self, source: &io::Error) -> ErrorKind {
        match source.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => ErrorKind::TooManyOpenFiles,
            Some(libc::ENOMEM) => ErrorKind::OutOfMemory,
            _ if matches!(self, Self::StartThread | Self::StartReader) => ErrorKind::NoThread,
            _ if self == Self::MakePool => ErrorKind::NoSocket,
            // An encoder fails only if it lacks memory, and says so in its own words.
            None if self == Self::Encode => ErrorKind::OutOfMemory,
            // A file that is not there does not mean that its storage is in trouble.
            Some(libc::ENOENT) if self == Self::ReadSource => ErrorKind::SourceMissing,
            _ if self.on_server() => match of_data_directory(source) {
                ErrorKind::DataDirectory if self == Self::ReadSource => ErrorKind::SourceUnreadable,
                kind => kind,
            },
            _ if self == Self::FlushDirectory && refuses_flush(source) => {
                ErrorKind::NoDirectoryFlush
            }
            Some(libc::ENOSPC) => ErrorKind::OutOfSpace,
            Some(libc::EDQUOT) => ErrorKind::QuotaExceeded,
            Some(libc::EROFS) => ErrorKind::ReadOnly,
            Some(libc::EACCES | libc::EPERM) => ErrorKind::PermissionDenied,
            Some(libc::ESTALE) => ErrorKind::StaleHandle,
            // It was there when it was looked up: the directory still is.
            Some(libc::ENOENT) if self == Self::ReadArchived => ErrorKind::Vanished,
            // A directory that was removed while it was open reports ENOENT for every new name.
            Some(libc::ENOENT | libc::ENOTDIR) => ErrorKind::DestinationMissing,
            _ if self == Self::ReadArchived && source.kind() == io::ErrorKind::InvalidData => {
                ErrorKind::ConflictUnreadable
            }
            _ => ErrorKind::IoError,
        }
    }
}

/// Returns whether an error says that directories cannot be flushed here at all. Any other one says that this
/// flush failed.
pub(crate) fn refuses_flush(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EBADF))
}

/// Returns the class of an error of the system in the data directory, or where a restored file is
/// written.
pub(crate) fn of_data_directory(source: &io::Error) -> ErrorKind {
    match source.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => ErrorKind::TooManyOpenFiles,
        Some(libc::ENOMEM) => ErrorKind::OutOfMemory,
        Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::DataDirectoryFull,
        Some(libc::EACCES | libc::EPERM) => ErrorKind::DataDirectoryForbidden,
        _ => ErrorKind::DataDirectory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(action: Action, errno: i32) -> ErrorKind {
        action.kind_of(&io::Error::from_raw_os_error(errno))
    }

    /// All but the first was "check the data directory" or "check the storage of pg_wal", SQLSTATE 58030.
    #[test]
    fn what_fails_in_the_data_directory_is_reported_by_its_cause() {
        for (action, errno, expected, sqlstate) in [
            (Action::Remember, libc::EIO, ErrorKind::DataDirectory, "58030"),
            (Action::Remember, libc::ENOSPC, ErrorKind::DataDirectoryFull, "53100"),
            (Action::Remember, libc::EDQUOT, ErrorKind::DataDirectoryFull, "53100"),
            (Action::ReadKnown, libc::EACCES, ErrorKind::DataDirectoryForbidden, "42501"),
            (Action::ReadSource, libc::EACCES, ErrorKind::DataDirectoryForbidden, "42501"),
            (Action::ReadSource, libc::ENOENT, ErrorKind::SourceMissing, "58P01"),
            (Action::ReadSource, libc::EIO, ErrorKind::SourceUnreadable, "58030"),
            (Action::ReadControl, libc::ENOENT, ErrorKind::DataDirectory, "58030"),
        ] {
            assert_eq!(kind(action, errno), expected, "{action:?}, {errno}");
            assert_eq!(expected.sqlstate(), sqlstate, "{expected:?}");
        }
    }

    /// A file that was gone was "create or mount the directory".
    #[test]
    fn a_file_that_is_gone_is_not_a_missing_directory() {
        assert_eq!(kind(Action::ReadArchived, libc::ENOENT), ErrorKind::Vanished);
        for action in [Action::OpenDestination, Action::CreateTemporary, Action::Publish] {
            assert_eq!(kind(action, libc::ENOENT), ErrorKind::DestinationMissing, "{action:?}");
        }
    }

    /// It was "could not open the archive directory", and for any other error of the system than
    /// these two "check the storage of the archive".
    #[test]
    fn a_handle_that_cannot_be_made_is_not_blamed_on_the_archive() {
        for (errno, expected) in [
            (libc::EMFILE, ErrorKind::TooManyOpenFiles),
            (libc::ENOMEM, ErrorKind::OutOfMemory),
            (libc::EPERM, ErrorKind::NoSocket),
            (libc::ENOBUFS, ErrorKind::NoSocket),
        ] {
            assert_eq!(kind(Action::MakePool, errno), expected, "{errno}");
        }
        assert_eq!(Action::MakePool.text(), "make the handle that wakes the archiver");
        assert_eq!(ErrorKind::NoSocket.sqlstate(), "53000");
    }

    #[test]
    fn an_encoder_without_memory_is_not_blamed_on_the_archive() {
        let error = io::Error::other("Allocation error : not enough memory");
        assert_eq!(Action::Encode.kind_of(&error), ErrorKind::OutOfMemory);
    }
}
