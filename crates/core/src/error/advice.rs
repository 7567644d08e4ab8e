//! The classes of errors, and what users are told about each: SQLSTATE and HINT.

/// The stable classes of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is explained by its advice")]
pub enum ErrorKind {
    OutOfSpace,
    QuotaExceeded,
    ReadOnly,
    PermissionDenied,
    StaleHandle,
    DestinationMissing,
    TooManyOpenFiles,
    OutOfMemory,
    NoThread,
    IoError,
    SourceUnreadable,
    DataDirectory,
    InvalidName,
    WrongSegment,
    OtherCluster,
    BadIdentity,
    IdentityLost,
    NotAdoptable,
    ConflictTruncated,
    ConflictPadding,
    ConflictTimelineTail,
    ConflictHistory,
    ConflictUnreadable,
    Conflict,
    NotAFile,
    Unsupported,
    StorageLied,
    SourceChanged,
    Stalled,
    Internal,
}

/// What a user is told about an error of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// The SQLSTATE of the server's report.
    pub sqlstate: &'static str,
    /// The HINT: what to do.
    pub hint: &'static str,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 30] = [
        Self::OutOfSpace,
        Self::QuotaExceeded,
        Self::ReadOnly,
        Self::PermissionDenied,
        Self::StaleHandle,
        Self::DestinationMissing,
        Self::TooManyOpenFiles,
        Self::OutOfMemory,
        Self::NoThread,
        Self::IoError,
        Self::SourceUnreadable,
        Self::DataDirectory,
        Self::InvalidName,
        Self::WrongSegment,
        Self::OtherCluster,
        Self::BadIdentity,
        Self::IdentityLost,
        Self::NotAdoptable,
        Self::ConflictTruncated,
        Self::ConflictPadding,
        Self::ConflictTimelineTail,
        Self::ConflictHistory,
        Self::ConflictUnreadable,
        Self::Conflict,
        Self::NotAFile,
        Self::Unsupported,
        Self::StorageLied,
        Self::SourceChanged,
        Self::Stalled,
        Self::Internal,
    ];

    /// The table: kind of error to SQLSTATE and HINT.
    #[must_use]
    pub const fn advice(self) -> Advice {
        let (sqlstate, hint) = match self {
            Self::OutOfSpace => (
                "53100",
                "Free space in the archive, or give it more. Archiving goes on by itself.",
            ),
            Self::QuotaExceeded => (
                "53100",
                "Raise the quota of the server's user in the archive, or free space there. Archiving goes on by itself.",
            ),
            Self::ReadOnly => (
                "25006",
                "The file system is mounted read-only, often after an error: look into the kernel's log, then mount it writable. Archiving goes on by itself.",
            ),
            Self::PermissionDenied => (
                "42501",
                "Give the user that runs the server permission to read, write and search the archive directory. Archiving goes on by itself.",
            ),
            Self::StaleHandle => (
                "58030",
                "The network file system lost the directory: check the export and mount it again. Archiving goes on by itself.",
            ),
            Self::DestinationMissing => (
                "58P01",
                "Create or mount the directory of \"walsafe_archive.destination\". Archiving goes on by itself once it is there.",
            ),
            Self::TooManyOpenFiles => (
                "53000",
                "Raise the limit of open files of the server's user or of the system. Archiving goes on by itself.",
            ),
            Self::OutOfMemory => (
                "53200",
                "Give the machine more memory, or lower \"walsafe_archive.workers\" or what else runs there. Archiving goes on by itself.",
            ),
            Self::NoThread => (
                "53000",
                "Raise the limits of processes and threads of the server's user, its service or its container. Archiving goes on by itself.",
            ),
            Self::IoError => (
                "58030",
                "Check the storage of the archive and the kernel's log. The file is copied anew at the next try.",
            ),
            Self::SourceUnreadable => (
                "58030",
                "Check the storage of \"pg_wal\" and the kernel's log. The file stays there until it is archived.",
            ),
            Self::DataDirectory => (
                "58030",
                "Check the data directory: its storage, its free space and its permissions.",
            ),
            Self::InvalidName => (
                "22023",
                "Only files of \"pg_wal\" are archived. Remove the foreign \".ready\" file from \"pg_wal/archive_status\".",
            ),
            Self::WrongSegment => (
                "XX001",
                "Check \"pg_wal\" for files that came from elsewhere. If this file was put there by mistake, move it away together with its \".ready\" file.",
            ),
            Self::OtherCluster => (
                "55000",
                "Set \"walsafe_archive.destination\" to a directory of this cluster's own. After pg_upgrade or a new initdb the cluster needs a new, empty archive directory and a new base backup.",
            ),
            Self::BadIdentity => (
                "XX001",
                "Look at the identity file. If the archive is this cluster's, move the file away and run \"walsafe init --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\".",
            ),
            Self::IdentityLost => (
                "55000",
                "Is the archive's file system mounted? If the archive was replaced or moved on purpose, run \"walsafe init --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\".",
            ),
            Self::NotAdoptable => (
                "55000",
                "Use an empty directory. If the archive is this cluster's all the same, run \"walsafe init --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\".",
            ),
            Self::ConflictTruncated => (
                "58P02",
                "An interrupted copy by another tool left a beginning of this file. Move it out of the archive; the file is then archived anew.",
            ),
            Self::ConflictPadding => (
                "58P02",
                "Both hold the same WAL and differ only after its last record. Compare them with pg_waldump; to keep this server's file, move the archived one out of the archive.",
            ),
            Self::ConflictTimelineTail => (
                "58P02",
                "A recovery that follows the switch needs neither tail. Keep the archived file, and on this server rename the file's \".ready\" in \"pg_wal/archive_status\" to \".done\".",
            ),
            Self::ConflictHistory => (
                "58P02",
                "Another server was promoted to the same timeline. Only one of the two may go on using this archive: give this server an archive directory of its own and take a new base backup, or rebuild it from the other.",
            ),
            Self::ConflictUnreadable => (
                "58P02",
                "The archived file is damaged. Move it out of the archive; the file is then archived anew. Run \"walsafe verify\" on the archive, and check its storage.",
            ),
            Self::Conflict => (
                "58P02",
                "Make sure that no other server writes into this directory. Compare the two files with pg_waldump, and move the wrong one away.",
            ),
            Self::NotAFile => ("42809", "Move it out of the archive; the file is then archived."),
            Self::Unsupported => (
                "0A000",
                "Use a file system with hard links (link) or with renameat2 and RENAME_NOREPLACE.",
            ),
            Self::StorageLied => (
                "XX001",
                "Check the storage of the archive. The file is copied anew at the next try.",
            ),
            Self::SourceChanged => (
                "XX001",
                "Something else than this server writes into \"pg_wal\". The file is copied anew at the next try.",
            ),
            Self::Stalled => (
                "58030",
                "Check the storage of the archive and the network to it. Nothing more is started there until the call that hangs returns; archiving then goes on by itself. A call that the kernel cannot interrupt holds up a shutdown of the server until it returns.",
            ),
            Self::Internal => {
                ("XX000", "Please report this with the server's log. The file is tried again.")
            }
        };
        Advice { sqlstate, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_sqlstate_of_five_characters_and_a_hint_in_full_sentences() {
        for kind in ErrorKind::ALL {
            let Advice { sqlstate, hint } = kind.advice();
            assert_eq!(sqlstate.len(), 5, "{kind:?}");
            assert!(hint.ends_with('.'), "{kind:?}");
            assert!(hint.starts_with(|c: char| c.is_uppercase()), "{kind:?}");
        }
    }
}
