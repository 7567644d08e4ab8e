//! Page headers: what every page of a WAL file begins with.
//!
//! Formats: `XLogPageHeaderData` and `XLogLongPageHeaderData` in PostgreSQL's
//! `src/include/access/xlog_internal.h`, the same in 15 to 18 but for the magic number and, since
//! 15, one more flag than before. All integers are in the byte order of the server's machine.

use super::bytes::{take, take_u16, take_u32, take_u64};
use super::lsn::{Lsn, SegmentSize};
use crate::words::count;

/// Which PostgreSQL version wrote a page, by its magic number (`XLOG_PAGE_MAGIC`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalVersion {
    /// A major version whose format this code was compared with: 15 to 18.
    Known(u8),
    /// The magic number of another version, older or newer.
    Unknown(u16),
}

impl WalVersion {
    /// Returns the version that a magic number stands for.
    #[must_use]
    pub const fn from_magic(magic: u16) -> Self {
        match magic {
            0xD110 => Self::Known(15),
            0xD113 => Self::Known(16),
            0xD116 => Self::Known(17),
            0xD118 => Self::Known(18),
            other => Self::Unknown(other),
        }
    }
}

/// The flag bits of a page header, `xlp_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageFlags(pub u16);

impl PageFlags {
    /// The page begins with the rest of a record from the page before.
    pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
    /// The header is the long one, as on the first page of every segment.
    pub const LONG_HEADER: u16 = 0x0002;
    /// Full-page images from here on are optional (no base backup is running).
    pub const BKP_REMOVABLE: u16 = 0x0004;
    /// The record that the page before breaks off was never completed: the server crashed, and
    /// what stands here replaces the missing rest (`CreateOverwriteContrecordRecord`).
    pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
    /// Every bit that 15 to 18 define.
    pub const ALL: u16 = 0x000F;

    /// Returns whether the page begins with the rest of a record from the page before.
    #[must_use]
    pub const fn is_contrecord(self) -> bool {
        self.0 & Self::FIRST_IS_CONTRECORD != 0
    }

    /// Returns whether the header is the long one.
    #[must_use]
    pub const fn is_long(self) -> bool {
        self.0 & Self::LONG_HEADER != 0
    }

    /// Returns whether full-page images are optional from here on.
    #[must_use]
    pub const fn is_bkp_removable(self) -> bool {
        self.0 & Self::BKP_REMOVABLE != 0
    }

    /// Returns whether the page replaces the missing rest of a record.
    #[must_use]
    pub const fn is_overwrite_contrecord(self) -> bool {
        self.0 & Self::FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// Returns the bits that 15 to 18 do not define.
    #[must_use]
    pub const fn undefined(self) -> u16 {
        self.0 & !Self::ALL
    }
}

/// The header of a WAL page, `XLogPageHeaderData`, as it is there: only its length is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_magic`: stands for the version, see [`WalVersion::from_magic`].
    pub magic: u16,
    /// `xlp_info`.
    pub info: PageFlags,
    /// `xlp_tli`: the timeline of the first record on the page.
    pub timeline: u32,
    /// `xlp_pageaddr`: where this page belongs.
    pub address: Lsn,
    /// `xlp_rem_len`: bytes still to come of the record from the page before, 0 if there is none.
    pub remaining: u32,
}

impl PageHeader {
    /// Bytes of a short header, `SizeOfXLogShortPHD`: 20 and 4 of padding.
    pub const SIZE: usize = 24;

    /// Reads the header that `page` begins with; `None` when there are fewer than
    /// [`Self::SIZE`] bytes.
    #[must_use]
    #[inline]
    pub fn parse(page: &[u8]) -> Option<Self> {
        let mut rest: &[u8] = page.first_chunk::<{ Self::SIZE }>()?;
        Some(Self {
            magic: take_u16(&mut rest)?,
            info: PageFlags(take_u16(&mut rest)?),
            timeline: take_u32(&mut rest)?,
            address: Lsn(take_u64(&mut rest)?),
            remaining: take_u32(&mut rest)?,
        })
    }

    /// Returns the version whose magic number the page carries.
    #[must_use]
    pub const fn version(&self) -> WalVersion {
        WalVersion::from_magic(self.magic)
    }

    /// Returns how many bytes this page's header takes, according to its own flag. The data begins behind
    /// it.
    #[must_use]
    pub const fn size(&self) -> usize {
        if self.info.is_long() { LongPageHeader::SIZE } else { Self::SIZE }
    }
}

/// The header of the first page of every segment, `XLogLongPageHeaderData`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongPageHeader {
    /// What every page has.
    pub page: PageHeader,
    /// `xlp_sysid`: the cluster's system identifier.
    pub system_identifier: u64,
    /// `xlp_seg_size`: bytes of a segment.
    pub segment_size: u32,
    /// `xlp_xlog_blcksz`: bytes of a WAL page.
    pub block_size: u32,
}

/// What a segment's first page header must say to belong under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The cluster's system identifier; `None` if it is not known.
    pub system_identifier: Option<u64>,
    /// The segment size in use.
    pub segment_size: SegmentSize,
    /// The timeline in the file's name.
    pub timeline: u32,
    /// The address that the file's name says.
    pub start: Lsn,
}

/// Why a first page header was refused. Each names the field and both values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// There are fewer bytes than a long page header has.
    #[error("the file has {}, too few for a WAL page header", count(*.found, "byte"))]
    TooShort {
        /// Bytes that there are.
        found: usize,
    },
    /// The file does not begin like WAL of any version.
    #[error("invalid magic number {found:04X} in the WAL page header (xlp_magic)")]
    Magic {
        /// `xlp_magic`.
        found: u16,
    },
    /// The magic number is valid in the other byte order.
    #[error("the WAL page header is in another byte order: magic number {found:04X} (xlp_magic)")]
    ByteOrder {
        /// `xlp_magic`, as read on this machine.
        found: u16,
    },
    /// Flags that the version does not define, or no long header where there must be one.
    #[error("invalid info bits {found:04X} in the WAL page header (xlp_info)")]
    Info {
        /// `xlp_info`.
        found: u16,
    },
    /// Another cluster's WAL.
    #[error("system identifier is {found} (xlp_sysid), expected {expected}")]
    SystemIdentifier {
        /// `xlp_sysid`.
        found: u64,
        /// The cluster's.
        expected: u64,
    },
    /// Another segment size.
    #[error("segment size is {found} (xlp_seg_size), expected {expected}")]
    SegmentSize {
        /// `xlp_seg_size`.
        found: u32,
        /// The one in use.
        expected: u32,
    },
    /// A block size that no build of PostgreSQL has.
    #[error(
        "WAL block size is {found} (xlp_xlog_blcksz), expected a power of two from 1024 to 65536"
    )]
    BlockSize {
        /// `xlp_xlog_blcksz`.
        found: u32,
    },
    /// The contents of another segment.
    #[error("page address is {found} (xlp_pageaddr), expected {expected}")]
    Address {
        /// `xlp_pageaddr`.
        found: Lsn,
        /// The address in the file's name.
        expected: Lsn,
    },
    /// A timeline that is not in the history of the name's timeline.
    #[error("timeline is {found} (xlp_tli), expected at most {expected}")]
    Timeline {
        /// `xlp_tli`.
        found: u32,
        /// The timeline in the file's name.
        expected: u32,
    },
}

impl LongPageHeader {
    /// Bytes of a long header, `SizeOfXLogLongPHD`.
    pub const SIZE: usize = 40;

    /// Reads the header that a segment begins with.
    ///
    /// Accepts the magic number of any version, newer ones included; [`PageHeader::version`] returns
    /// which.
    ///
    /// # Errors
    /// It does not begin like WAL, lacks the long header or, for a known version, carries undefined
    /// flags.
    pub fn parse(segment: &[u8]) -> Result<Self, HeaderError> {
        let header = Self::read(segment).ok_or(HeaderError::TooShort { found: segment.len() })?;
        let page = header.page;
        // 0xD0xx up to version 11, 0xD1xx since: anything near it may be a later version.
        if page.magic >> 12 != 0xD {
            let found = page.magic;
            return Err(match WalVersion::from_magic(found.swap_bytes()) {
                WalVersion::Known(_) => HeaderError::ByteOrder { found },
                WalVersion::Unknown(_) => HeaderError::Magic { found },
            });
        }
        let undefined = match page.version() {
            WalVersion::Known(_) => page.info.undefined(),
            WalVersion::Unknown(_) => 0,
        };
        if !page.info.is_long() || undefined != 0 {
            return Err(HeaderError::Info { found: page.info.0 });
        }
        Ok(header)
    }

    /// Reads the fields without judging any; `None` when there are fewer than [`Self::SIZE`] bytes.
    pub(super) fn read(segment: &[u8]) -> Option<Self> {
        let mut rest: &[u8] = segment.first_chunk::<{ Self::SIZE }>()?;
        let page = PageHeader::parse(rest)?;
        take::<{ PageHeader::SIZE }>(&mut rest)?;
        Some(Self {
            page,
            system_identifier: take_u64(&mut rest)?,
            segment_size: take_u32(&mut rest)?,
            block_size: take_u32(&mut rest)?,
        })
    }

    /// Checks that the segment belongs to this cluster and under this name.
    ///
    /// A timeline lower than the name's is valid: the first segment of a timeline is a copy of the old one
    /// up to the switch (`XLogFileCopy`), including the old headers.
    ///
    /// # Errors
    /// The first field that does not agree.
    pub fn check(&self, expected: &Expected) -> Result<(), HeaderError> {
        if let Some(expected) = expected.system_identifier
            && expected != self.system_identifier
        {
            return Err(HeaderError::SystemIdentifier { found: self.system_identifier, expected });
        }
        if self.segment_size != expected.segment_size.bytes() {
            return Err(HeaderError::SegmentSize {
                found: self.segment_size,
                expected: expected.segment_size.bytes(),
            });
        }
        BlockSize::new(self.block_size)?;
        if self.page.address != expected.start {
            return Err(HeaderError::Address {
                found: self.page.address,
                expected: expected.start,
            });
        }
        if self.page.timeline == 0 || self.page.timeline > expected.timeline {
            return Err(HeaderError::Timeline {
                found: self.page.timeline,
                expected: expected.timeline,
            });
        }
        Ok(())
    }
}

/// The size of a WAL page in bytes (`XLOG_BLCKSZ`): a power of two from 1 kB to 64 kB, the values
/// `configure --with-wal-blocksize` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u32);

impl BlockSize {
    /// What PostgreSQL is built with by default.
    pub const DEFAULT: Self = Self(8192);

    /// Accepts a valid block size.
    ///
    /// # Errors
    /// The number is not a power of two, or out of range.
    pub const fn new(bytes: u32) -> Result<Self, HeaderError> {
        if bytes.is_power_of_two() && bytes >= 1 << 10 && bytes <= 1 << 16 {
            Ok(Self(bytes))
        } else {
            Err(HeaderError::BlockSize { found: bytes })
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
