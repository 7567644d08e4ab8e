//! What can be wrong with a segment.

use std::fmt;

use super::header::HeaderError;
use super::lsn::Lsn;
use crate::words::count;

/// One place where a segment's contents do not follow from what is before.
///
/// Shown in the server's style: what is wrong, at which LSN, at which offset of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The timeline in the name of the file.
    pub timeline: u32,
    /// The address that the file's name says. With the timeline, it says which file this is about.
    pub segment: Lsn,
    /// Where the record or page in question begins. A record may begin in an earlier segment.
    pub lsn: Lsn,
    /// Where in the file to look: the offset of `lsn`, or of the first page that disagrees when
    /// the record begins in an earlier segment.
    pub offset: u64,
    /// What is wrong.
    pub kind: DamageKind,
}

/// What is wrong. The texts follow those of `xlogreader.c` where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageKind {
    /// A page header, on its own.
    #[error(transparent)]
    Page(#[from] HeaderError),
    /// The timeline went backwards from one page to the next.
    #[error("out-of-sequence timeline ID {found} (after {after})")]
    TimelineSequence {
        /// `xlp_tli`.
        found: u32,
        /// The timeline of the page before.
        after: u32,
    },
    /// The timeline rose from one page to the next, and no record there begins a timeline.
    #[error("timeline ID {found} (after {after}) without a record that begins it")]
    TimelineChange {
        /// `xlp_tli`.
        found: u32,
        /// The timeline of the page before.
        after: u32,
    },
    /// A record continues, but the next page has no continuation.
    #[error("there is no contrecord flag")]
    MissingContinuation,
    /// A page continues a record although none was open.
    #[error("unexpected contrecord of {}", count(*.found, "byte"))]
    UnexpectedContinuation {
        /// `xlp_rem_len`.
        found: u32,
    },
    /// A page continues a record by a number of bytes other than the record still has.
    #[error("invalid contrecord length {found} (expected {expected})")]
    ContinuationLength {
        /// `xlp_rem_len`.
        found: u32,
        /// Bytes that the record still has; 0 where none is open.
        expected: u32,
    },
    /// A page claims to replace the rest of a record, but none was broken off.
    #[error("unexpected overwrite-contrecord flag")]
    UnexpectedOverwrite,
    /// A page replaces the rest of a record, but its first record is not the one that says so.
    #[error("missing or mismatching overwrite-contrecord record")]
    OverwriteRecord,
    /// A record of an impossible length; 0 is what unused space reads as.
    #[error("invalid record length {found}")]
    RecordLength {
        /// `xl_tot_len`.
        found: u32,
    },
    /// A record that does not name the record before it.
    #[error("record with incorrect prev-link {found} (expected {expected})")]
    PrevLink {
        /// `xl_prev`.
        found: Lsn,
        /// Where the record before begins; [`Lsn::INVALID`] if only known to be lower.
        expected: Lsn,
    },
    /// A record whose bytes do not give its checksum.
    #[error(
        "incorrect resource manager data checksum in record ({computed:08X}, expected {found:08X})"
    )]
    Checksum {
        /// `xl_crc`.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The file has more or fewer bytes than a segment.
    #[error("the segment has {}, expected {expected}", count(*.found, "byte"))]
    Length {
        /// Bytes that there are.
        found: u64,
        /// Bytes of a segment.
        expected: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {}, timeline {}, offset {}",
            self.kind, self.lsn, self.timeline, self.offset
        )
    }
}
