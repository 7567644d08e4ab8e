//! The one error type of the core.
//!
//! An [`Error`] names the action that failed and its path; the system's own error is its source.
//! [`Error::kind`] is stable and decides, in [`ErrorKind::advice`], the SQLSTATE and the HINT of the
//! server's report. docs/operations.md has the same table for administrators.

mod advice;

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error as ThisError;

pub use self::advice::{Advice, ErrorKind};
use crate::archive::compare::Difference;
use crate::sys::Space;
use crate::wal::name::NameError;
use crate::wal::segment::SegmentError;

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
    /// Making the handle by which a pool of threads wakes the archiver.
    MakePool,
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
            Self::MakePool => "make the handle that wakes the archiver",
        }
    }

    /// Tells whether the action is on the server's side, so that the destination is not to blame.
    fn on_server(self) -> bool {
        matches!(self, Self::ReadSource | Self::Remember | Self::ReadStatus | Self::ReadControl)
    }
}

/// Tells why a file was not archived, or not given back.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A system call failed.
    #[error("could not {}", action.text())]
    Io {
        /// What was being done.
        action: Action,
        /// The file or directory.
        path: PathBuf,
        /// The file system's size and free space, where that explains the failure.
        space: Option<Space>,
        /// The system's error.
        source: io::Error,
    },
    /// The server asked for a name that no WAL file has.
    #[error("file name \"{}\" is not accepted", name.escape_default())]
    Name {
        /// The name, as given.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// The file is not the segment that its name says, or not of this cluster.
    #[error("the file is not the WAL segment that its name says")]
    Segment {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SegmentError,
    },
    /// The identity file, or WAL in a directory that has none, is another cluster's.
    #[error("the archive directory belongs to another cluster")]
    OtherCluster {
        /// The file that says so.
        path: PathBuf,
        /// This cluster's system identifier.
        ours: u64,
        /// The identity file's.
        theirs: u64,
    },
    /// The identity file cannot be understood.
    #[error("the archive's identity file cannot be understood")]
    BadIdentity {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A destination that was in use has no identity file.
    #[error("the archive directory has lost its identity file")]
    IdentityLost {
        /// The archive directory.
        path: PathBuf,
    },
    /// The directory holds files, and nothing shows that they are this cluster's archive.
    #[error("the archive directory holds other files")]
    NotAdoptable {
        /// The archive directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The archive holds different contents under the name.
    #[error("the archive holds a different file of that name")]
    Conflict {
        /// The archived file.
        path: PathBuf,
        /// How the two differ.
        difference: Box<Difference>,
    },
    /// Something that is not a regular file stands under the name.
    #[error("the name is taken in the archive by {found}")]
    NotAFile {
        /// What stands there.
        path: PathBuf,
        /// Its type, with an article.
        found: &'static str,
    },
    /// The file system can neither link nor rename without replacing.
    #[error("the file system cannot publish a file without replacing another")]
    NoReplaceUnsupported {
        /// The archive directory.
        path: PathBuf,
        /// What the last attempt reported.
        source: io::Error,
    },
    /// What storage gives back is not what was written.
    #[error("the copy on storage differs from what was written")]
    ReadBackDiffers {
        /// The file.
        path: PathBuf,
        /// How the two differ.
        reason: String,
    },
    /// The WAL file changed its length while it was read.
    #[error("the WAL file changed while it was copied")]
    SourceChanged {
        /// The file.
        path: PathBuf,
        /// Its length at the start, in bytes.
        expected: u64,
        /// Bytes read.
        read: u64,
    },
    /// The WAL file's name leads to another file, or to none, than when it was opened.
    #[error("the WAL file was renamed or replaced while it was copied")]
    SourceMoved {
        /// The file.
        path: PathBuf,
    },
    /// The copy makes no progress.
    #[error("the archive directory does not respond")]
    Stalled {
        /// The archive directory.
        path: PathBuf,
        /// Seconds since the copy last made progress.
        seconds: u64,
    },
    /// No destination is set.
    #[error("no archive directory is set")]
    NotConfigured,
    /// A bug: a thread of the archiver panicked.
    #[error("internal error while the file was copied")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

impl Error {
    /// Makes the error of a failed system call.
    pub fn io(action: Action, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), space: None, source }
    }

    /// Returns the class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { action, source, .. } => io_kind(*action, source),
            Self::Name { .. } => ErrorKind::InvalidName,
            Self::Segment { .. } => ErrorKind::WrongSegment,
            Self::OtherCluster { .. } => ErrorKind::OtherCluster,
            Self::BadIdentity { .. } => ErrorKind::BadIdentity,
            Self::IdentityLost { .. } => ErrorKind::IdentityLost,
            Self::NotAdoptable { .. } => ErrorKind::NotAdoptable,
            Self::Conflict { difference, .. } => difference.kind(),
            Self::NotAFile { .. } => ErrorKind::NotAFile,
            Self::NoReplaceUnsupported { .. } => ErrorKind::Unsupported,
            Self::ReadBackDiffers { .. } => ErrorKind::StorageLied,
            Self::SourceChanged { .. } | Self::SourceMoved { .. } => ErrorKind::SourceChanged,
            Self::Stalled { .. } => ErrorKind::Stalled,
            Self::NotConfigured => ErrorKind::DestinationMissing,
            Self::Panicked { .. } => ErrorKind::Internal,
        }
    }

    /// Returns the DETAIL: paths, the system's error and numbers, in full sentences.
    #[must_use]
    pub fn detail(&self) -> String {
        Detail(self).to_string()
    }
}

fn io_kind(action: Action, source: &io::Error) -> ErrorKind {
    match source.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => ErrorKind::TooManyOpenFiles,
        Some(libc::ENOMEM) => ErrorKind::OutOfMemory,
        _ if matches!(action, Action::StartThread | Action::MakePool) => ErrorKind::NoThread,
        _ if action == Action::ReadSource => ErrorKind::SourceUnreadable,
        _ if action.on_server() => ErrorKind::DataDirectory,
        Some(libc::ENOSPC) => ErrorKind::OutOfSpace,
        Some(libc::EDQUOT) => ErrorKind::QuotaExceeded,
        Some(libc::EROFS) => ErrorKind::ReadOnly,
        Some(libc::EACCES | libc::EPERM) => ErrorKind::PermissionDenied,
        Some(libc::ESTALE) => ErrorKind::StaleHandle,
        // A directory that was removed while it was open reports ENOENT for every new name.
        Some(libc::ENOENT | libc::ENOTDIR) => ErrorKind::DestinationMissing,
        _ if action == Action::ReadArchived && source.kind() == io::ErrorKind::InvalidData => {
            ErrorKind::ConflictUnreadable
        }
        _ => ErrorKind::IoError,
    }
}

/// Writes an error's DETAIL.
struct Detail<'a>(&'a Error);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Error::Io { path, space, source, .. } => {
                write!(f, "\"{}\": {}.", path.display(), system_text(source))?;
                if let Some(Space { total, free }) = space {
                    write!(f, " {} MB of {} MB are free there.", free >> 20, total >> 20)?;
                }
                Ok(())
            }
            Error::Name { source, .. } => write!(f, "{}.", capital(&source.to_string())),
            Error::Segment { path, source } => write!(f, "\"{}\": {source}.", path.display()),
            Error::OtherCluster { path, ours, theirs } => write!(
                f,
                "\"{}\" carries the system identifier {theirs}, and this cluster's is {ours}.",
                path.display()
            ),
            Error::BadIdentity { path, reason } => write!(f, "\"{}\": {reason}.", path.display()),
            Error::IdentityLost { path } => write!(
                f,
                "\"{}\" was used by this cluster before, and \"{}\" is not there any more.",
                path.display(),
                crate::store::identity::FILE_NAME
            ),
            Error::NotAdoptable { path, reason } => write!(f, "\"{}\": {reason}.", path.display()),
            Error::Conflict { path, difference } => {
                write!(f, "\"{}\": {difference}", path.display())
            }
            Error::NotAFile { path, found } => write!(f, "\"{}\" is {found}.", path.display()),
            Error::NoReplaceUnsupported { path, source } => {
                write!(f, "\"{}\": {}.", path.display(), system_text(source))
            }
            Error::ReadBackDiffers { path, reason } => {
                write!(f, "\"{}\": {reason}.", path.display())
            }
            Error::SourceChanged { path, expected, read } => write!(
                f,
                "\"{}\" had {expected} bytes at the start, and {read} could be read.",
                path.display()
            ),
            Error::SourceMoved { path } => write!(
                f,
                "\"{}\" is not the file any more that was opened under this name.",
                path.display()
            ),
            Error::Stalled { path, seconds } => write!(
                f,
                "The copy into \"{}\" has made no progress for {seconds} seconds.",
                path.display()
            ),
            Error::NotConfigured => f.write_str("\"walsafe_archive.destination\" is empty."),
            Error::Panicked { message } => write!(f, "{}.", capital(message)),
        }
    }
}

/// The system's words for an error, with its number.
fn system_text(error: &io::Error) -> String {
    error.to_string().trim_end_matches('.').to_owned()
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_how_much_is_free() {
        let error = Error::Io {
            action: Action::WriteCopy,
            path: "/mnt/archive/x".into(),
            space: Some(Space { total: 100 << 20, free: 3 << 20 }),
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        assert_eq!(error.kind().advice().sqlstate, "53100");
        assert_eq!(
            error.detail(),
            "\"/mnt/archive/x\": No space left on device (os error 28). 3 MB of 100 MB are free there."
        );
    }

    #[test]
    fn what_fails_in_the_data_directory_is_not_blamed_on_the_archive() {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(Error::io(Action::Remember, "x", full()).kind(), ErrorKind::DataDirectory);
        assert_eq!(Error::io(Action::WriteCopy, "x", full()).kind(), ErrorKind::OutOfSpace);
    }
}
