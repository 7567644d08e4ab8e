//! The one error type of the core.
//!
//! An [`Error`] names the action that failed and its path; the system's own error is its source.
//! [`Error::kind`] is stable and decides, in [`ErrorKind::advice`], the SQLSTATE, the HINT for each
//! [`Activity`], and how `walsafe restore` ends. docs/operations.md has the same table for administrators.

mod access;
mod action;
mod advice;
mod conflict;
mod detail;
mod kind;
mod refusal;

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

pub use self::access::Access;
pub use self::action::Action;
pub(crate) use self::action::{of_data_directory, refuses_flush};
pub use self::advice::{Activity, Advice, Standby};
pub use self::conflict::{Difference, Nature};
use self::detail::Detail;
pub(crate) use self::detail::on_file_system;
pub use self::kind::ErrorKind;
pub use self::refusal::Refusal;
use crate::sys::Space;
use crate::wal::name::{FileName, NameError};
use crate::wal::segment::SegmentError;

/// Why a file was not archived, or an archive not read.
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
        /// What the permissions say, where they were looked at.
        access: Option<Box<Access>>,
        /// The system's error.
        source: io::Error,
    },
    /// Object storage did not do what it was asked for.
    #[error("could not {}", action.text())]
    Remote {
        /// What was being done.
        action: Action,
        /// The URL of the archive or of the object, without options.
        path: PathBuf,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// There is nowhere to archive to.
    #[error("no archive directory is set")]
    NotConfigured,
    /// The server took a value that cannot be used.
    #[error("a setting cannot be used")]
    BadSetting {
        /// Which, and why.
        reason: String,
    },
    /// What is given as the place of an archive cannot be one.
    #[error("the URL of the archive is not accepted")]
    BadLocation {
        /// Why. It repeats nothing of the URL, which may hold a secret.
        reason: String,
    },
    /// The server asked for a name that is not the name of a WAL file.
    #[error("file name \"{}\" is not accepted", name.escape_default())]
    Name {
        /// The name, as given.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// Something that is not a regular file stands in `pg_wal` under the name of a WAL file.
    #[error("the name is taken in \"pg_wal\" by {found}")]
    SourceNotAFile {
        /// What stands there.
        path: PathBuf,
        /// Its type, with an article.
        found: &'static str,
    },
    /// The control file is not what a server writes.
    #[error("the control file cannot be understood")]
    BadControlFile {
        /// The control file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is not the segment that its name says, or not this cluster's.
    #[error("the file is not the WAL segment that its name says")]
    Segment {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SegmentError,
    },
    /// The identity file, or WAL in a directory that has none, is another cluster's.
    #[error("the archive belongs to another cluster")]
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
    #[error("the archive has lost its identity file")]
    IdentityLost {
        /// The identity file that is missing.
        file: PathBuf,
    },
    /// The directory holds files, and nothing shows that they are this cluster's archive.
    #[error("the archive holds other files")]
    NotAdoptable {
        /// The archive directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The archive directory lies in the data directory or in `pg_wal`.
    #[error("the archive directory lies in the data directory")]
    InsideData {
        /// The archive directory.
        path: PathBuf,
    },
    /// The archive holds different contents under the name.
    #[error("{}", difference.headline())]
    Conflict {
        /// The archived file.
        path: PathBuf,
        /// How the two differ.
        difference: Box<Difference>,
    },
    /// The archived segment before this one is another history's.
    #[error("the segment does not continue the archived one before it")]
    NotContinued {
        /// The archived segment.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The archive holds a different history file of a timeline that is the server's own, or one of its
    /// ancestors.
    #[error("the archive holds a different \"{name}\"")]
    HistoryConflict {
        /// The history file.
        name: FileName,
        /// The archived file.
        path: PathBuf,
        /// How the two differ.
        difference: Box<Difference>,
    },
    /// A file was there when it was last looked for, and no longer is.
    #[error("the file has vanished from the archive")]
    Vanished {
        /// The file.
        path: PathBuf,
    },
    /// The path of the archive leads to another directory than the one that the file was archived into.
    #[error("the archive directory was replaced while the file was archived")]
    Replaced {
        /// The archive directory.
        path: PathBuf,
    },
    /// Something that is not a regular file stands in the archive under the name.
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
    /// The WAL file's name no longer leads to the file that was opened.
    #[error("the WAL file was renamed or replaced while it was copied")]
    SourceMoved {
        /// The file.
        path: PathBuf,
    },
    /// The copy makes no progress.
    #[error("the archive does not respond")]
    Stalled {
        /// The archive directory.
        path: PathBuf,
        /// Seconds since the copy last made progress.
        seconds: u64,
    },
    /// A process that reads or prepares an archive makes no progress.
    #[error("the archive does not respond")]
    StorageHangs {
        /// The archive directory.
        path: PathBuf,
        /// Seconds for which nothing has moved.
        seconds: u64,
        /// The number of the process that was given up, if the kernel does not let it be killed.
        left: Option<i32>,
    },
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
        Self::Io { action, path: path.into(), space: None, access: None, source }
    }

    /// Returns the class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { action: Action::CreateTemporary, space: Some(space), source, .. }
                if space.lacks_inodes() && source.raw_os_error() == Some(libc::ENOSPC) =>
            {
                ErrorKind::OutOfInodes
            }
            Self::Io { action, source, .. } => action.kind_of(source),
            Self::Remote { refusal, .. } => refusal.kind,
            Self::NotConfigured => ErrorKind::NotConfigured,
            Self::BadSetting { .. } | Self::BadLocation { .. } => ErrorKind::BadSetting,
            Self::Name { .. } => ErrorKind::InvalidName,
            Self::SourceNotAFile { .. } => ErrorKind::SourceNotAFile,
            Self::BadControlFile { .. } => ErrorKind::BadControlFile,
            Self::Segment { .. } => ErrorKind::WrongSegment,
            Self::OtherCluster { .. } => ErrorKind::OtherCluster,
            Self::BadIdentity { .. } => ErrorKind::BadIdentity,
            Self::IdentityLost { .. } => ErrorKind::IdentityLost,
            Self::NotAdoptable { .. } => ErrorKind::NotAdoptable,
            Self::InsideData { .. } => ErrorKind::InsideData,
            Self::Conflict { difference, .. } | Self::HistoryConflict { difference, .. } => {
                difference.kind()
            }
            Self::NotContinued { .. } => ErrorKind::NotContinued,
            Self::Vanished { .. } => ErrorKind::Vanished,
            Self::Replaced { .. } => ErrorKind::Replaced,
            Self::NotAFile { .. } => ErrorKind::NotAFile,
            Self::NoReplaceUnsupported { .. } => ErrorKind::Unsupported,
            Self::ReadBackDiffers { .. } => ErrorKind::StorageLied,
            Self::SourceChanged { .. } => ErrorKind::SourceChanged,
            Self::SourceMoved { .. } => ErrorKind::SourceMoved,
            Self::Stalled { .. } | Self::StorageHangs { .. } => ErrorKind::Stalled,
            Self::Panicked { .. } => ErrorKind::Internal,
        }
    }

    /// Returns the DETAIL: paths, the system's error and numbers, in full sentences.
    #[must_use]
    pub fn detail(&self) -> String {
        Detail(self).to_string()
    }

    /// Returns the HINT: what to do about the error, in full sentences.
    #[must_use]
    pub fn hint(&self, activity: Activity) -> Cow<'static, str> {
        match self {
            Self::Io { access: Some(access), .. } if activity == Activity::Archiving => {
                let resumes = "Archiving resumes by itself once the server's user may do it.";
                format!("{} {resumes}", access.advice).into()
            }
            Self::Io { access: Some(access), .. } => access.advice.clone().into(),
            Self::ReadBackDiffers { path, .. }
                if is_object(path) && activity == Activity::Archiving =>
            {
                advice::MOVE_OBJECT.into()
            }
            // Given on the command line.
            Self::BadLocation { .. } if activity == Activity::Checking => "Correct the URL.".into(),
            _ => self.kind().hint(activity).into(),
        }
    }

    /// Returns what the DETAIL says without the figures that differ from one try to the next although nothing
    /// else has changed: how much space is free, how long a call hangs, how far another server has come. By
    /// its kind, its text and this, an error is the same as an earlier one.
    #[must_use]
    pub fn gist(&self) -> String {
        detail::gist(self)
    }
}

/// Returns whether a path in a message is the URL of an object.
fn is_object(path: &Path) -> bool {
    path.components().next().is_some_and(|scheme| {
        ["s3:", "azure:", "gs:"].iter().any(|known| scheme.as_os_str() == *known)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object has its name before it can be read back: no other copy takes its place.
    #[test]
    fn what_helps_with_a_file_is_not_said_of_an_object() {
        let differs =
            |path: &str| Error::ReadBackDiffers { path: path.into(), reason: String::new() };
        for archive in ["s3://wal/main", "gs://wal/main", "azure://account/wal/main"] {
            let path = format!("{archive}/000000010000000000000001");
            let hint = differs(&path).hint(Activity::Archiving);
            assert!(hint.contains("Move this one object"), "{hint}");
        }
        let hint = differs("/mnt/a/000000010000000000000001").hint(Activity::Archiving);
        assert!(hint.contains("copied anew"), "{hint}");
    }

    #[test]
    fn a_full_disk_says_how_much_is_free() {
        let error = Error::Io {
            action: Action::WriteCopy,
            path: "/mnt/archive/x".into(),
            space: Some(Space { total: 100 << 20, free: 3 << 20, free_inodes: None }),
            access: None,
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        assert_eq!(error.kind().sqlstate(), "53100");
        assert_eq!(
            error.detail(),
            "\"/mnt/archive/x\": No space left on device (os error 28). 3 MB of 100 MB are free there."
        );
    }

    #[test]
    fn what_fails_in_the_data_directory_is_not_blamed_on_the_archive() {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(Error::io(Action::Remember, "x", full()).kind(), ErrorKind::DataDirectoryFull);
        assert_eq!(Error::io(Action::WriteCopy, "x", full()).kind(), ErrorKind::OutOfSpace);
    }

    /// It was "a thread panicked", to be reported as a mistake in the program.
    #[test]
    fn an_empty_destination_is_called_that() {
        let error =
            Error::BadSetting { reason: "the value of \"x\" cannot be used: No.".to_owned() };
        assert_eq!(error.detail(), "The value of \"x\" cannot be used: No.");
        assert_eq!(error.kind().sqlstate(), "22023");
        let error = Error::NotConfigured;
        assert_eq!(error.to_string(), "no archive directory is set");
        assert_eq!(error.detail(), "\"walsafe_archive.destination\" is empty.");
        assert_eq!(error.kind().sqlstate(), "55000");
        let hint = error.kind().hint(Activity::Archiving);
        assert!(hint.starts_with("Set \"walsafe_archive.destination\""), "{hint}");
    }

    /// It was ENOENT, made up, with "create or mount the directory".
    #[test]
    fn a_file_that_vanished_is_called_that() {
        let error = Error::Vanished { path: "/mnt/archive/x".into() };
        assert_eq!(error.to_string(), "the file has vanished from the archive");
        assert_eq!(error.detail(), "\"/mnt/archive/x\" was there a moment ago, and no longer is.");
        assert_eq!(error.kind(), ErrorKind::Vanished);
        assert_eq!(error.kind().sqlstate(), "58P01");
        for activity in [Activity::Archiving, Activity::Restoring, Activity::Checking] {
            let hint = error.kind().hint(activity);
            assert!(hint.starts_with("Something removes files from the archive"), "{hint}");
        }
    }

    /// The hint was that something else writes into `pg_wal`, which need not be true.
    #[test]
    fn a_file_that_the_server_recycled_while_its_copy_hung_is_not_a_foreign_write() {
        let error = Error::SourceMoved { path: "pg_wal/x".into() };
        assert_eq!(error.kind(), ErrorKind::SourceMoved);
        assert!(error.kind().hint(Activity::Archiving).contains("the server has recycled it"));
    }
}
