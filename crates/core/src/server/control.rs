//! Reading `global/pg_control`: whose data directory it is.
//!
//! Source of the format: PostgreSQL's `catalog/pg_control.h`, `ControlFileData`. The system
//! identifier and the layout's version are its first two fields in every release. The checksum is
//! its last field, so its offset is the structure's length. That length and the place of the segment
//! size come from the headers of 15 to 18, and were tried on clusters of each.

use std::io::Read;
use std::path::Path;

use thiserror::Error as ThisError;

use crate::error::{Action, Error};
use crate::sys;
use crate::wal::{Lsn, SegmentSize};
use crate::words;

/// Where the control file lies in a data directory.
pub const PATH: &str = "global/pg_control";

/// The file has 8 kB; everything that matters is in its first sector.
const READ: usize = 512;

/// Offset of `xlog_seg_size`, the same in every layout known here.
const SEGMENT_SIZE_AT: usize = 228;

/// Offset of `checkPointCopy.ThisTimeLineID`, the same in every layout known here.
pub(super) const CHECKPOINT_TIMELINE_AT: usize = 48;

/// Offset of `minRecoveryPointTLI`, the same in every layout known here.
pub(super) const RECOVERY_TIMELINE_AT: usize = 144;
/// Offset of `minRecoveryPoint`, the same in every layout known here.
pub(super) const MINIMUM_AT: usize = 136;

/// The server rewrites the file in place, and a reader may see half of a write: so a wrong checksum is
/// looked at again, this often.
const TRIES: u32 = 5;

/// What is known of a cluster from its control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFile {
    /// The number that `initdb` gave the cluster.
    pub system_identifier: u64,
    /// `pg_control_version`: the layout.
    pub version: u32,
    /// The size of a WAL segment; `None` for a layout that this version does not know.
    pub segment_size: Option<SegmentSize>,
    /// The newest timeline that the server has written or replayed, as far as it noted that: the one of its
    /// last checkpoint, or the one that it reached in recovery. A promotion notes the new timeline before the
    /// server is in production. `None` for a layout that this version does not know.
    pub timeline: Option<u32>,
    /// `minRecoveryPoint`: a recovery is consistent from there on. `None` if it is not set, as in a backup of a
    /// primary, or for a layout that this version does not know.
    pub minimum: Option<Lsn>,
}

/// Why the contents of a control file are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ThisError)]
pub enum ControlError {
    /// There are fewer bytes than any layout has.
    #[error("the file has only {}", words::count(*.0, "byte"))]
    TooShort(usize),
    /// The checksum does not agree.
    #[error("its checksum is wrong")]
    Checksum,
    /// The layout's version makes sense in the other byte order only.
    #[error("it comes from a machine of another byte order")]
    ByteOrder,
    /// No cluster has segments of this size.
    #[error("its WAL segment size {0} is not one that a cluster can have")]
    SegmentSize(u32),
}

impl ControlFile {
    /// Reads the contents of a control file.
    ///
    /// # Errors
    /// The checksum does not agree, or the contents cannot be those of a control file.
    pub fn parse(contents: &[u8]) -> Result<Self, ControlError> {
        let short = ControlError::TooShort(contents.len());
        let system_identifier = u64::from_ne_bytes(*chunk(contents, 0).ok_or(short)?);
        let version = u32::from_ne_bytes(*chunk(contents, 8).ok_or(short)?);
        // The server recognises the byte order in the same way: versions are below 65536.
        if version.is_multiple_of(65536) && !version.swap_bytes().is_multiple_of(65536) {
            return Err(ControlError::ByteOrder);
        }
        let checksum_at: Vec<usize> = match version {
            1300 | 1700 => vec![288],
            1800 => vec![292],
            // A later layout: the checksum is at the end of the structure, wherever that is.
            _ => (128..READ - 4).step_by(4).collect(),
        };
        let known = checksum_at.len() == 1;
        let mut agrees = false;
        for at in checksum_at {
            let stored = u32::from_ne_bytes(*chunk(contents, at).ok_or(short)?);
            agrees |= crc32c::crc32c(contents.get(..at).ok_or(short)?) == stored;
        }
        if !agrees {
            return Err(ControlError::Checksum);
        }
        if !known {
            let (segment_size, timeline, minimum) = (None, None, None);
            return Ok(Self { system_identifier, version, segment_size, timeline, minimum });
        }
        let number = |at| chunk(contents, at).copied().map(u32::from_ne_bytes).ok_or(short);
        let bytes = number(SEGMENT_SIZE_AT)?;
        let segment_size =
            SegmentSize::new(bytes.into()).map_err(|_| ControlError::SegmentSize(bytes))?;
        let timeline = number(CHECKPOINT_TIMELINE_AT)?.max(number(RECOVERY_TIMELINE_AT)?);
        let minimum = Lsn(u64::from_ne_bytes(*chunk(contents, MINIMUM_AT).ok_or(short)?));
        Ok(Self {
            system_identifier,
            version,
            segment_size: Some(segment_size),
            timeline: Some(timeline).filter(|timeline| *timeline > 0),
            minimum: Some(minimum).filter(|lsn| !lsn.is_invalid()),
        })
    }

    /// Reads the control file of a data directory, also of a running server.
    ///
    /// # Errors
    /// The file could not be read, or is not a sound control file.
    pub fn read(data_directory: &Path) -> Result<Self, Error> {
        Self::with_contents(data_directory).map(|(control, _)| control)
    }

    /// The same, and the bytes that were read, for what else is in them.
    ///
    /// # Errors
    /// The file could not be read, or is not a sound control file.
    pub(super) fn with_contents(data_directory: &Path) -> Result<(Self, Vec<u8>), Error> {
        let path = data_directory.join(PATH);
        let fail = |e| Error::io(Action::ReadControl, &path, e);
        let mut tries = 0;
        loop {
            let mut contents = Vec::with_capacity(READ);
            let file = sys::open_source(&path).map_err(fail)?;
            file.take(READ as u64).read_to_end(&mut contents).map_err(fail)?;
            tries += 1;
            match Self::parse(&contents) {
                Ok(control) => return Ok((control, contents)),
                Err(ControlError::Checksum) if tries < TRIES => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                Err(e) => return Err(Error::BadControlFile { path, reason: e.to_string() }),
            }
        }
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;

    fn control(version: u32, checksum_at: usize) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[..8].copy_from_slice(&7_123_456_789_012_345_678_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&version.to_ne_bytes());
        bytes[SEGMENT_SIZE_AT..SEGMENT_SIZE_AT + 4].copy_from_slice(&(16_u32 << 20).to_ne_bytes());
        bytes[CHECKPOINT_TIMELINE_AT..][..4].copy_from_slice(&2_u32.to_ne_bytes());
        bytes[RECOVERY_TIMELINE_AT..][..4].copy_from_slice(&3_u32.to_ne_bytes());
        bytes[MINIMUM_AT..MINIMUM_AT + 8].copy_from_slice(&0x300_0028_u64.to_ne_bytes());
        let crc = crc32c::crc32c(&bytes[..checksum_at]);
        bytes[checksum_at..checksum_at + 4].copy_from_slice(&crc.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_identifier_and_the_segment_size_are_read_from_each_known_layout() {
        for (version, checksum_at) in [(1300, 288), (1700, 288), (1800, 292)] {
            let control = ControlFile::parse(&control(version, checksum_at)).unwrap();
            assert_eq!(control.system_identifier, 7_123_456_789_012_345_678);
            assert_eq!(control.segment_size, Some(SegmentSize::DEFAULT));
            assert_eq!(control.timeline, Some(3));
            assert_eq!(control.minimum, Some(Lsn(0x300_0028)));
        }
    }

    #[test]
    fn a_later_layout_gives_the_identifier_and_no_segment_size() {
        let control = ControlFile::parse(&control(2100, 320)).unwrap();
        assert_eq!(control.system_identifier, 7_123_456_789_012_345_678);
        assert_eq!((control.segment_size, control.timeline), (None, None));
    }

    #[test]
    fn damage_is_refused() {
        for bit in 0..288 * 8 {
            let mut bytes = control(1300, 288);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&bytes).is_err(), "bit {bit}");
        }
        assert!(ControlFile::parse(&control(1300, 288)[..291]).is_err());
        assert!(ControlFile::parse(&[0; 8192]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(dose::dose(64, 256)))]
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = ControlFile::parse(&bytes);
        }
    }
}
