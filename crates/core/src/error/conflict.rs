//! How a file of the archive differs from the server's file of the same name.

use std::fmt;

use super::ErrorKind;
use crate::encoding::digest::Digest;
use crate::wal::name::SegmentName;
use crate::wal::{Lsn, Side};
use crate::words;

/// How the archived file differs from ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Length of the server's file, in bytes.
    pub ours_len: u64,
    /// Length of the archived file's content, in bytes, as far as it could be decoded.
    pub theirs_len: u64,
    /// Offset of the first byte that differs, or that only one of them has.
    pub first: u64,
    /// Digest of the server's file.
    pub ours: Digest,
    /// Digest of the archived file's content, as far as it could be decoded.
    pub theirs: Digest,
    /// What the difference is.
    pub nature: Nature,
}

/// What a difference is, as far as the files show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nature {
    /// The archived file is a beginning of ours: an interrupted copy.
    Truncated,
    /// The archived file cannot be decoded to its end.
    Unreadable {
        /// What the decoder says.
        reason: String,
    },
    /// Both hold the same WAL; what differs lies after the last record.
    Padding,
    /// A timeline history file: another server used the timeline.
    History {
        /// The timeline.
        timeline: u32,
    },
    /// Both agree up to the address where a newer timeline branched off.
    TimelineTail {
        /// That address.
        switch: Lsn,
        /// The newer timeline.
        successor: u32,
    },
    /// Both agree up to the address where, by the archive's history files, a newer timeline branched off.
    /// This server has not followed it.
    ForeignBranch {
        /// That address.
        switch: Lsn,
        /// The newer timeline.
        successor: u32,
    },
    /// The WAL of a segment differs from some record on, and the archive goes on with WAL of the server's
    /// own timeline that the server has not archived.
    Ahead {
        /// Address of the first record that differs, or that only one of them holds.
        first_record: Lsn,
        /// The archive's newest segment of the timeline.
        newest: SegmentName,
        /// The last segment that the server has archived, if it has noted one.
        last: Option<SegmentName>,
    },
    /// The WAL of a segment differs from some record on.
    Records {
        /// Address of the first record that differs, or that only one of them holds.
        first_record: Lsn,
        /// The WAL of this one ends there: the file is an earlier state of the other.
        ends: Option<Side>,
        /// The server has archived a file of this name before: this one.
        noted: Option<Side>,
    },
    /// Anything else.
    Other,
}

impl Difference {
    /// Returns the class of the conflict.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self.nature {
            Nature::Truncated => ErrorKind::ConflictTruncated,
            Nature::Unreadable { .. } => ErrorKind::ConflictUnreadable,
            Nature::Padding => ErrorKind::ConflictPadding,
            Nature::History { .. } => ErrorKind::ConflictHistory,
            Nature::TimelineTail { .. } => ErrorKind::ConflictTimelineTail,
            Nature::ForeignBranch { .. } => ErrorKind::ConflictBranch,
            Nature::Ahead { .. } => ErrorKind::ConflictAhead,
            Nature::Records { .. } | Nature::Other => ErrorKind::Conflict,
        }
    }
}

impl Difference {
    /// Returns what is wrong, in a few words.
    pub(super) fn headline(&self) -> &'static str {
        match self.nature {
            Nature::Ahead { .. } => "the archive is ahead of this server",
            _ => "the archive holds a different file of that name",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ours_len, theirs_len, first, ours, theirs, nature } = self;
        match nature {
            Nature::Truncated => {
                write!(f, "The archived file is a truncated beginning of the server's. ")?
            }
            Nature::Unreadable { reason } => {
                write!(f, "The archived file cannot be decompressed: {reason}. ")?
            }
            Nature::Padding => write!(f, "The two differ only after the last WAL record. ")?,
            Nature::History { timeline } => {
                write!(f, "Another server already used timeline {timeline}. ")?
            }
            Nature::TimelineTail { switch, successor } => write!(
                f,
                "The two agree up to {switch}, where timeline {successor} branched off, and differ only after it. "
            )?,
            Nature::ForeignBranch { switch, successor } => write!(
                f,
                "The two agree up to {switch}. There timeline {successor} branched off, which this server has not followed. "
            )?,
            Nature::Ahead { first_record, newest, last } => {
                write!(f, "The first WAL record that differs begins at {first_record}. ")?;
                write!(f, "The archive goes on to \"{newest}\" on this server's own timeline. ")?;
                if let Some(last) = last {
                    write!(f, "The last segment that this server has archived is \"{last}\". ")?;
                }
            }
            Nature::Records { first_record, ends, noted } => {
                match noted {
                    Some(Side::Ours) => write!(
                        f,
                        "The archived file is no longer the one that this server has archived. "
                    )?,
                    Some(Side::Theirs) => {
                        write!(f, "The server's file is no longer the one that it has archived. ")?
                    }
                    None => {}
                }
                write!(f, "The first WAL record that differs begins at {first_record}. ")?;
                match ends {
                    Some(Side::Ours) => write!(f, "The WAL of the server's file ends there. ")?,
                    Some(Side::Theirs) => write!(f, "The WAL of the archived file ends there. ")?,
                    None => {}
                }
            }
            Nature::Other => {}
        }
        write!(
            f,
            "The archived file holds {} (BLAKE3 {theirs}), the server's file {} (BLAKE3 {ours}); the first difference is at offset {first}.",
            words::count(*theirs_len, "byte"),
            words::count(*ours_len, "byte")
        )
    }
}
