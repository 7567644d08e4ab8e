//! Why a file was not given back.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use thiserror::Error as ThisError;

use crate::error::{
    Action, Activity, Error, ErrorKind, Standby, of_data_directory, on_file_system,
};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::access::Asker;
use crate::store::{identity, location};
use crate::sys::Space;
use crate::wal::Lsn;
use crate::wal::name::FileName;
use crate::words;

mod several;

pub use self::several::{Begun, Rest, Trouble};
use self::several::{begun, left_out, quoted, unsettled, worst};

/// Why a file was not given back. [`RestoreError::kind`] leads to the one table of what users are told,
/// [`ErrorKind::advice`].
#[derive(Debug, ThisError)]
pub enum RestoreError {
    /// The archive could not be read, or is another cluster's.
    #[error("{0}")]
    Archive(#[from] Error),
    /// The archive has no identity file.
    #[error("the archive has no identity file")]
    Unmarked {
        /// The archive directory.
        path: PathBuf,
    },
    /// The archive has neither an identity file nor any WAL, as under an unmounted mount point.
    #[error("the archive holds neither WAL nor an identity file")]
    Nothing {
        /// The archive directory.
        path: PathBuf,
    },
    /// The target is in an archive, where nothing is ever replaced (guarantee G3).
    #[error("the restored file would be written into an archive")]
    IntoArchive {
        /// The target's directory.
        path: PathBuf,
    },
    /// The target does not name a file.
    #[error("there is no file name in the path of the restored file")]
    BadTarget {
        /// The target.
        path: PathBuf,
    },
    /// The archive has the file, but it is not what it must be.
    #[error("the archived file is damaged or the wrong one")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The file is missing, but something that must come after it is there.
    #[error("the file is missing from the archive, and later WAL is there")]
    Hole {
        /// The archive directories.
        paths: Vec<PathBuf>,
        /// What shows that it is a hole.
        evidence: String,
    },
    /// A history file is missing, but something shows that its timeline was used.
    #[error("the history file is missing from the archive, and its timeline was used")]
    HistoryHole {
        /// The archive directories.
        paths: Vec<PathBuf>,
        /// The timeline.
        timeline: u32,
        /// What shows that it was used.
        evidence: String,
        /// The file's lines, if a later history file tells them, as `printf` takes them.
        contents: Option<String>,
    },
    /// The WAL is of no format that is known here, and nothing says that it was let in so.
    #[error("the archived file is not in a known format of WAL")]
    UnknownWal {
        /// The file.
        path: PathBuf,
        /// What is not known.
        reason: String,
    },
    /// Every archive was begun later than the file.
    #[error("the archive was begun later, and does not have the file")]
    BegunLater {
        /// Each of them.
        archives: Vec<Begun>,
    },
    /// The segment's WAL ends early, and there may be more in an archive that cannot be asked.
    #[error("the archived file may lack its end")]
    EndUnknown {
        /// The file.
        path: PathBuf,
        /// Where its WAL ends.
        end: Lsn,
    },
    /// No archive gives the file, and something is wrong with at least one of several.
    #[error("{}", unsettled(.troubles))]
    Unsettled {
        /// The file's name.
        name: FileName,
        /// What is wrong, in the order of the archives.
        troubles: Vec<Trouble>,
        /// What the others say.
        rest: Rest,
    },
    /// The archive does not have the file, and this version does not know names of its kind.
    #[error("the file is not in the archive, and its name is not of a known kind")]
    UnknownKind {
        /// The archive directories.
        paths: Vec<PathBuf>,
    },
    /// The file could not be written where the server wants it.
    #[error("could not write the restored file")]
    Deliver {
        /// The file or directory.
        path: PathBuf,
        /// The file system's size and free space, where that explains the failure.
        space: Option<Space>,
        /// The system's error.
        source: io::Error,
    },
}

/// What to do about a bucket without an identity.
const UNMARKED_BUCKET: &str = "Are the bucket, the path and \"endpoint\" in the URL those of the archive? If a lifecycle rule has taken the identity object, exclude it from the rule, and run \"walsafe init\". For an archive that another tool made, run \"walsafe init\" once, or use --allow-unmarked.";

impl RestoreError {
    /// Returns the class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Archive(error) => error.kind(),
            Self::Unmarked { .. } => ErrorKind::Unmarked,
            Self::Nothing { .. } => ErrorKind::NothingThere,
            Self::IntoArchive { .. } => ErrorKind::IntoArchive,
            Self::BadTarget { .. } => ErrorKind::BadTarget,
            Self::Damaged { problem, .. } => match problem.kind {
                FindingKind::Unreadable => ErrorKind::IoError,
                FindingKind::WrongCluster => ErrorKind::OtherCluster,
                _ => ErrorKind::Damaged,
            },
            Self::Hole { .. } => ErrorKind::Hole,
            Self::HistoryHole { .. } => ErrorKind::HistoryHole,
            Self::BegunLater { .. } => ErrorKind::BegunLater,
            Self::EndUnknown { .. } => ErrorKind::Damaged,
            Self::Unsettled { troubles, .. } => {
                worst(troubles).map_or(ErrorKind::Internal, |trouble| trouble.error.kind())
            }
            Self::UnknownWal { .. } => ErrorKind::UnknownWal,
            Self::UnknownKind { .. } => ErrorKind::UnknownName,
            Self::Deliver { source, .. } => of_data_directory(source),
        }
    }

    /// Returns paths, the system's error and numbers, in full sentences.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Archive(error) => error.detail(),
            Self::Unmarked { path } => {
                format!("\"{}\" does not hold \"{}\".", path.display(), identity::FILE_NAME)
            }
            Self::Nothing { path } => format!("\"{}\" was searched.", path.display()),
            Self::UnknownKind { paths } => {
                format!("{} {} searched.", quoted(paths), words::either(paths.len(), "was", "were"))
            }
            Self::IntoArchive { path } => {
                format!("\"{}\" is an archive, and nothing in one is replaced.", path.display())
            }
            Self::BadTarget { path } => {
                format!("\"{}\" does not name a file.", path.display())
            }
            Self::Damaged { path, problem } => {
                format!("\"{}\": {} ({}).", path.display(), problem.reason, problem.kind)
            }
            Self::Hole { paths, evidence } | Self::HistoryHole { paths, evidence, .. } => {
                format!("In {}, {evidence}.", quoted(paths))
            }
            Self::BegunLater { archives } => begun(archives),
            Self::EndUnknown { path, end } => {
                format!("The WAL in \"{}\" ends at {end}, before the segment does.", path.display())
            }
            Self::Unsettled { name, troubles, rest } => {
                let mut sentences: Vec<String> = troubles.iter().map(Trouble::sentence).collect();
                match rest {
                    Rest::Ends(reason) => sentences.push(format!("\"{name}\" {reason}.")),
                    Rest::Hole(evidence) => {
                        sentences.push(format!("In the other archives, {evidence}."));
                    }
                    Rest::Begun(archives) => sentences.push(begun(archives)),
                    Rest::Unknown => {}
                }
                sentences.join(" ")
            }
            Self::UnknownWal { path, reason } => format!("\"{}\": {reason}.", path.display()),
            Self::Deliver { path, space, source } => on_file_system(path, *space, source),
        }
    }

    /// Adds what the permissions say, if it is a matter of permission in the archive.
    #[must_use]
    pub fn explained(self) -> Self {
        match self {
            Self::Archive(error) => Self::Archive(Asker::restore().explained(error)),
            Self::Unsettled { name, troubles, rest } => {
                let troubles = troubles.into_iter().map(Trouble::explained).collect();
                Self::Unsettled { name, troubles, rest }
            }
            other => other,
        }
    }

    /// Returns what to do, in full sentences.
    #[must_use]
    pub fn hint(&self) -> Cow<'static, str> {
        let hint = self.kind().hint(Activity::Restoring);
        match self {
            Self::Archive(error) => error.hint(Activity::Restoring),
            Self::Unmarked { path } if location::is_url(path) => UNMARKED_BUCKET.into(),
            Self::Nothing { path } if location::is_url(path) => {
                "Are the bucket, the path and \"endpoint\" in the URL those of the archive?".into()
            }
            Self::Unsettled { troubles, rest, .. } => {
                let hint = worst(troubles).map_or(hint.into(), |trouble| trouble.error.hint());
                match left_out(troubles, rest) {
                    Some(away) => format!(
                        "{hint} To accept that the WAL ends where the others end, leave {away} out of --from."
                    )
                    .into(),
                    None => hint,
                }
            }
            Self::HistoryHole { timeline, contents: Some(contents), .. } => format!(
                "{hint} If no server has the file, this makes it: printf '{contents}' > {timeline:08X}.history"
            )
            .into(),
            _ => hint.into(),
        }
    }

    /// Returns whether it is the archive as a whole that is in trouble, and not the one file.
    pub(super) fn is_of_archive(&self) -> bool {
        match self {
            Self::Unmarked { .. } | Self::Nothing { .. } => true,
            Self::Archive(Error::Io { action, .. }) => matches!(
                action,
                Action::OpenDestination | Action::LookUpDestination | Action::ListDestination
            ),
            Self::Archive(error) => !matches!(
                error.kind(),
                ErrorKind::NotAFile | ErrorKind::Vanished | ErrorKind::ColdObject
            ),
            _ => false,
        }
    }

    /// Returns whether it is a copy of the file that is of no use.
    pub(super) fn is_of_copy(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::UnknownWal { .. } | Self::EndUnknown { .. })
    }

    /// Returns whether no archive is to blame, so that another one would not help.
    pub(super) fn is_of_target(&self) -> bool {
        matches!(self, Self::IntoArchive { .. } | Self::BadTarget { .. } | Self::Deliver { .. })
    }

    /// Returns what the error does to a standby; any other recovery stops.
    #[must_use]
    pub fn standby(&self) -> Standby {
        self.kind().advice().standby
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(errno: i32) -> RestoreError {
        let source = io::Error::from_raw_os_error(errno);
        RestoreError::Deliver { path: "pg_wal/RECOVERYXLOG".into(), space: None, source }
    }

    /// For all three the hint was "its storage, its free space and its permissions".
    #[test]
    fn a_file_that_cannot_be_written_is_reported_by_its_cause() {
        for (errno, kind) in [
            (libc::ENOSPC, ErrorKind::DataDirectoryFull),
            (libc::EACCES, ErrorKind::DataDirectoryForbidden),
            (libc::EIO, ErrorKind::DataDirectory),
        ] {
            assert_eq!(deliver(errno).kind(), kind, "{errno}");
            assert_eq!(deliver(errno).hint(), kind.hint(Activity::Restoring));
        }
    }

    #[test]
    fn only_a_wrong_restore_command_stops_a_standby_too() {
        let path = || PathBuf::from("/mnt/archive");
        assert_eq!(RestoreError::IntoArchive { path: path() }.standby(), Standby::Stops);
        assert_eq!(RestoreError::BadTarget { path: path() }.standby(), Standby::Stops);
        assert_eq!(RestoreError::Unmarked { path: path() }.standby(), Standby::Retries);
        assert_eq!(deliver(libc::EIO).standby(), Standby::Retries);
    }
}
