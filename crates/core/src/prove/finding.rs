//! What can be wrong with an archive, and what to do about it.

use std::fmt;

mod many;

pub use many::Findings;

/// The stable names of what can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// The contents are not what they must be.
    Corrupt,
    /// The contents do not give the digest that the file carries.
    DigestMismatch,
    /// The file ends early.
    Truncated,
    /// The file holds a segment other than its name says.
    WrongName,
    /// The file is another cluster's.
    WrongCluster,
    /// Segments, or a history file, are missing.
    Gap,
    /// Two files hold different contents for one name.
    Duplicate,
    /// A process that died left a temporary file.
    StrayTemporary,
    /// The file could not be read.
    Unreadable,
    /// The object lies in a storage class out of which it cannot be read at once.
    Cold,
    /// The file does not belong in an archive.
    Unknown,
    /// The history file of a timeline without segments, for which a recovery heads all the same.
    OrphanHistory,
    /// A recovery ends with an error although no file is wrong or missing.
    Unrecoverable,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Corrupt,
        Self::DigestMismatch,
        Self::Truncated,
        Self::WrongName,
        Self::WrongCluster,
        Self::Gap,
        Self::Duplicate,
        Self::StrayTemporary,
        Self::Unreadable,
        Self::Cold,
        Self::Unknown,
        Self::OrphanHistory,
        Self::Unrecoverable,
    ];

    /// Returns the kind's name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::DigestMismatch => "digest-mismatch",
            Self::Truncated => "truncated",
            Self::WrongName => "wrong-name",
            Self::WrongCluster => "wrong-cluster",
            Self::Gap => "gap",
            Self::Duplicate => "duplicate",
            Self::StrayTemporary => "stray-temporary",
            Self::Unreadable => "unreadable",
            Self::Cold => "cold",
            Self::Unknown => "unknown",
            Self::OrphanHistory => "orphan-history",
            Self::Unrecoverable => "unrecoverable",
        }
    }

    /// Returns what to do, in full sentences.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Corrupt | Self::DigestMismatch => {
                "Move the file out of the archive and put a good copy there, from a second archive or a standby's pg_wal. If there is none, take a new base backup now: earlier ones cannot be recovered past this file. Check the storage."
            }
            Self::Truncated => {
                "An interrupted copy, or damage. Move the file out of the archive; if the server still has the segment, it is archived again; otherwise take a new base backup now."
            }
            Self::WrongName => {
                "Somebody renamed or swapped files. Move the file out of the archive, and put the right one there from another copy; if there is none, take a new base backup now."
            }
            Self::WrongCluster => {
                "Another server writes, or wrote, into this archive. Move the file out, and give that server an archive of its own."
            }
            Self::Gap => {
                "A recovery stops there. Put the missing files back: \"walsafe push --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\" brings them from the pg_wal of the server or a standby; a second archive may have them too. Otherwise take a new base backup now: earlier ones cannot be recovered past the gap."
            }
            Self::Duplicate => {
                "Two servers may have archived under one name. Compare the two with pg_waldump, and move the wrong one out of the archive."
            }
            Self::StrayTemporary => {
                "Nothing is lost. The archiver of that host removes its own files (.walsafe.*) at its next start, if the file system still makes it use such names; otherwise, or if that host is gone, \"walsafe check --remove-stray\" removes it a day after it was last written to. Nothing removes what basic_archive left (archtemp.*): remove it yourself once no basic_archive writes there any more."
            }
            Self::Unreadable => {
                "Run this as the user that runs the server, check the file's type and permissions, the storage and the kernel's log, then verify again."
            }
            Self::Cold => {
                "A recovery stops there, because nothing can read the object. Bring it back first, which may take hours, and take the lifecycle rule away that moved it there."
            }
            Self::Unknown => {
                "An archive holds WAL and nothing else. Find out who put it there, and move it away."
            }
            Self::OrphanHistory => {
                "If a server on that timeline has not archived its WAL yet, see to that first. If it was a drill, or a promotion that was broken off, move the history file out of the archive and keep it. Until then, set recovery_target_timeline for each recovery."
            }
            Self::Unrecoverable => {
                "No file is wrong, but the server refuses this recovery. Choose another backup, another target or another timeline."
            }
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its class.
    pub kind: FindingKind,
    /// What was found, with numbers.
    pub reason: String,
    /// What to do about this one, if that is not what to do about its class.
    advice: Option<String>,
}

impl Problem {
    /// Makes a problem.
    pub fn new(kind: FindingKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), advice: None }
    }

    /// The same, with advice of its own, in full sentences.
    #[must_use]
    pub fn with_advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    /// Returns what to do, in full sentences.
    #[must_use]
    pub fn advice(&self) -> &str {
        self.advice.as_deref().unwrap_or(self.kind.advice())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.reason)
    }
}

/// Something that is wrong in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file in the archive, or the name that is missing there.
    pub file: String,
    /// What is wrong.
    pub problem: Problem,
}

impl Finding {
    /// The same, with advice of its own, in full sentences.
    #[must_use]
    pub fn with_advice(self, advice: impl Into<String>) -> Self {
        Self { problem: self.problem.with_advice(advice), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.problem)
    }
}
