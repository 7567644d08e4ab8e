//! What is asked about a segment, and the answer.

use super::damage::Damage;
use super::edge::{Head, Tail};
use super::header::Expected;
use super::lsn::{Lsn, SegmentSize};

/// Which segment is to be read, according to its name and its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSpec {
    /// The timeline in the file's name.
    pub timeline: u32,
    /// The address that the file's name says.
    pub start: Lsn,
    /// The segment size of the cluster.
    pub segment_size: SegmentSize,
    /// The cluster's system identifier; `None` if it is not known.
    pub system_identifier: Option<u64>,
}

impl From<Expected> for SegmentSpec {
    fn from(expected: Expected) -> Self {
        Self {
            timeline: expected.timeline,
            start: expected.start,
            segment_size: expected.segment_size,
            system_identifier: expected.system_identifier,
        }
    }
}

/// How a segment's WAL ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last record ends with the segment.
    Full,
    /// A record continues in the next segment. `None`: it began in an earlier segment, which was not
    /// checked.
    ContinuesInNext(Option<Lsn>),
    /// The switch record at this address ends it; what follows is unused.
    SwitchAt(Lsn),
    /// The record that would begin (or has begun) here does not follow from what is before, and nothing
    /// later in the segment does. The WAL ends, as in a `.partial` or in the last segment that a standby
    /// received.
    EndsAt {
        /// The end of the WAL.
        lsn: Lsn,
        /// Bytes other than zero follow: old contents of a recycled file, a record cut short, or damage
        /// that nothing later in this segment shows (the next segment does).
        leftovers: bool,
    },
    /// The pages carry this magic number, of a version whose format is not known here: nothing
    /// was checked.
    UnknownVersion(u16),
}

/// What reading a segment to its end has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Records read whole, with the right checksum. One that ends in this segment counts here.
    pub records: u64,
    /// Records that a crash broke off and that the server itself declared void.
    pub abandoned: u64,
    /// Ends of this segment, 0 to 2, with a part of a record whose other part was not known.
    pub unchecked_edges: u32,
    /// How its WAL ends.
    pub end: End,
    /// The first places that do not follow, in order, at most [`Self::DAMAGE_LISTED`].
    pub damage: Vec<Damage>,
    /// How many such places there are.
    pub damage_count: u64,
    /// How it begins, if that could not be compared with the segment before.
    pub head: Option<Head>,
    /// What the next segment is to be compared with; `None` when nothing is known of its end.
    pub tail: Option<Tail>,
}

impl SegmentReport {
    /// How many places are listed; further ones are only counted.
    pub const DAMAGE_LISTED: usize = 16;

    /// Returns whether nothing is wrong. For [`End::UnknownVersion`] this says nothing.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage_count == 0
    }
}
