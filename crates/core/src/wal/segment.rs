//! The check that a file is the segment its name says, of this cluster (guarantee G6).

use thiserror::Error;

use crate::wal::name::SegmentName;
use crate::wal::{Expected, HeaderError, LongPageHeader, SegmentSize};
use crate::words::count;

/// What all segments of a cluster have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// The number that `initdb` gave the cluster; every segment's first page has it.
    pub system_identifier: u64,
    /// The size of a segment.
    pub segment_size: SegmentSize,
}

/// Why a file is not the segment that its name says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// The length is not the segment size.
    #[error("the file has {}, and a WAL segment of this cluster has {expected}", count(*.found, "byte"))]
    Length {
        /// Length of the file, in bytes.
        found: u64,
        /// The segment size, in bytes.
        expected: u64,
    },
    /// No segment of this size has such a number.
    #[error("the name's last eight digits are out of range for segments of {size} bytes")]
    Number {
        /// The segment size, in bytes.
        size: u32,
    },
    /// The first page header is not the one that the name calls for.
    #[error("{0}")]
    Header(#[from] HeaderError),
}

/// How many bytes at the start of a segment [`check`] looks at.
pub const HEADER_LEN: usize = LongPageHeader::SIZE;

/// Checks a segment's length and its first page header against its name and its cluster.
///
/// The name's timeline is an upper bound: the first segment of a timeline begins as a copy of the one it
/// branched off, including the old page headers. The magic number of an unknown, newer server version is
/// accepted.
///
/// # Errors
/// The first field that does not agree.
pub fn check(
    name: SegmentName,
    len: u64,
    first_bytes: &[u8],
    cluster: &Cluster,
) -> Result<(), SegmentError> {
    let size = cluster.segment_size;
    if len != u64::from(size.bytes()) {
        return Err(SegmentError::Length { found: len, expected: size.bytes().into() });
    }
    let start = name.start(size).ok_or(SegmentError::Number { size: size.bytes() })?;
    LongPageHeader::parse(first_bytes)?.check(&Expected {
        system_identifier: Some(cluster.system_identifier),
        segment_size: size,
        timeline: name.timeline,
        start,
    })?;
    Ok(())
}
