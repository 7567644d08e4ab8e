//! Records: the header each begins with and the checksum that covers it.
//!
//! Format: `XLogRecord` in PostgreSQL's `src/include/access/xlogrecord.h`, the same in 15 to 18. The
//! order in which the checksum runs is that of `ValidXLogRecord` in
//! `src/backend/access/transam/xlogreader.c`.

use super::bytes::{take, take_u32, take_u64};
use super::lsn::Lsn;

/// Records begin at multiples of this (`MAXALIGN` of every platform PostgreSQL 15 runs on).
const ALIGNMENT: usize = 8;

/// The most bytes a record can have: 1 GiB, more than which no server could read (`MaxAllocSize`; 16 and
/// later write no more than 1020 MiB, `XLogRecordMaxSize`).
const MAX_LENGTH: u32 = 1 << 30;

/// Rounds up to where the next record can begin.
pub(super) const fn align(position: usize) -> usize {
    position.next_multiple_of(ALIGNMENT)
}

/// `RM_XLOG_ID`, and of its records those that the walk itself must know (`pg_control.h`).
const RMGR_XLOG: u8 = 0;
const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const SWITCH: u8 = 0x40;
const END_OF_RECOVERY: u8 = 0x90;
const OVERWRITE_CONTRECORD: u8 = 0xD0;
/// The half of `xl_info` that belongs to the resource manager, `XLR_RMGR_INFO_MASK`.
const RMGR_INFO: u8 = 0xF0;

/// The header of a record, `XLogRecord`, as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// `xl_tot_len`: bytes of the record, with this header, without page headers in between.
    pub length: u32,
    /// `xl_xid`: the transaction, 0 if there is none.
    pub xid: u32,
    /// `xl_prev`: where the record before begins.
    pub prev: Lsn,
    /// `xl_info`.
    pub info: u8,
    /// `xl_rmid`: the resource manager.
    pub rmgr: u8,
    /// `xl_crc`: CRC-32C of the record.
    pub crc: u32,
}

impl RecordHeader {
    /// Bytes of a record header, `SizeOfXLogRecord`.
    pub const SIZE: usize = 24;

    /// Reads the header that `bytes` begin with, without judging it; `None` when there are fewer than
    /// [`Self::SIZE`].
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes.first_chunk()?)
    }

    #[inline]
    pub(super) fn parse(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let mut rest: &[u8] = bytes;
        let length = take_u32(&mut rest)?;
        let xid = take_u32(&mut rest)?;
        let prev = Lsn(take_u64(&mut rest)?);
        let [info, rmgr, _, _] = take::<4>(&mut rest)?;
        Some(Self { length, xid, prev, info, rmgr, crc: take_u32(&mut rest)? })
    }

    fn is_xlog(&self, info: u8) -> bool {
        self.rmgr == RMGR_XLOG && self.info & RMGR_INFO == info
    }

    /// Returns whether this is the record after which the rest of the segment is unused
    /// (`XLOG_SWITCH`).
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.is_xlog(SWITCH)
    }

    /// Returns whether a new timeline can begin with this record: an end-of-recovery record or a
    /// shutdown checkpoint (`PerformRecoveryXLogAction` in `xlog.c`).
    pub(super) fn can_begin_timeline(&self) -> bool {
        self.is_xlog(END_OF_RECOVERY) || self.is_xlog(CHECKPOINT_SHUTDOWN)
    }

    fn is_overwrite(&self) -> bool {
        self.is_xlog(OVERWRITE_CONTRECORD)
    }
}

/// Returns whether a record can have this many bytes.
pub(super) const fn plausible_length(length: u32) -> bool {
    length >= RecordHeader::SIZE as u32 && length <= MAX_LENGTH
}

/// A record that was read whole and whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins; in an earlier segment if it was continued.
    pub lsn: Lsn,
    /// The first byte after it, padding to the next multiple of eight included.
    pub end: Lsn,
    /// Its header.
    pub header: RecordHeader,
}

/// Learns of every record whose checksum is right, in order.
pub trait Visit {
    /// A record ended.
    fn record(&mut self, record: &Record);

    /// A record begins here with these bytes, its header first: all of it, or what its page has of it. Only if
    /// [`Visit::record`] follows is it a record.
    #[inline]
    fn begins(&mut self, _lsn: Lsn, _bytes: &[u8]) {}

    /// The record that began last goes on with these bytes.
    #[inline]
    fn goes_on(&mut self, _bytes: &[u8]) {}

    /// The segment begins with these bytes of a record that began in an earlier one, which is not known.
    #[inline]
    fn rest(&mut self, _bytes: &[u8]) {}
}

/// For callers that need no records.
impl Visit for () {
    #[inline]
    fn record(&mut self, _: &Record) {}
}

impl<F: FnMut(&Record)> Visit for F {
    #[inline]
    fn record(&mut self, record: &Record) {
        self(record);
    }
}

/// Returns the checksum of a record: over the data first, then over the header up to the checksum itself.
#[inline]
pub(super) fn checksum(header: &[u8; RecordHeader::SIZE], data_crc: u32) -> u32 {
    let covered = header.first_chunk::<20>().map_or(&[][..], |covered| covered);
    crc32c::crc32c_append(data_crc, covered)
}

/// Up to this many bytes of data, a record is summed in a copy. Most are that short.
const SHORT: usize = 228;

/// Sums records that lie in one piece.
///
/// The sum of a short record costs mostly its odd bytes, which the library takes one by one, and two calls:
/// one for the data and one for the header. In a copy that has the header behind the data and ends at a
/// whole word, it is one call without odd bytes. Zeros in front change nothing when the sum starts from a
/// register of zeros, and starting from one of ones, as CRC-32C does, is the same as inverting the first
/// four bytes.
#[derive(Debug)]
#[repr(align(8))]
pub(super) struct Summer([u8; SHORT + 28]);

impl Summer {
    pub(super) const fn new() -> Self {
        Self([0; SHORT + 28])
    }

    /// Returns the checksum of a record.
    #[inline]
    pub(super) fn checksum(&mut self, header: &[u8; RecordHeader::SIZE], data: &[u8]) -> u32 {
        self.short(header, data).unwrap_or_else(|| checksum(header, crc32c::crc32c(data)))
    }

    #[inline]
    fn short(&mut self, header: &[u8; RecordHeader::SIZE], data: &[u8]) -> Option<u32> {
        let length = data.len() + 20;
        let odd = length.wrapping_neg() % 8;
        let (words, _) = self.0.split_at_mut_checked(odd + length)?;
        *words.first_chunk_mut()? = [0; 8];
        let (_, bytes) = words.split_at_mut_checked(odd)?;
        let (front, behind) = bytes.split_at_mut_checked(data.len())?;
        front.copy_from_slice(data);
        *behind.first_chunk_mut()? = *header.first_chunk::<20>()?;
        let first = bytes.first_chunk_mut::<4>()?;
        *first = first.map(|byte| !byte);
        Some(crc32c::crc32c_append(u32::MAX, words))
    }
}

/// Returns the LSN of the record that an overwrite record at the front of `bytes` stands in for
/// (`xl_overwrite_contrecord`, after a two-byte data header); `None` if no such record is there.
pub(super) fn overwritten(bytes: &[u8]) -> Option<Lsn> {
    let mut rest = bytes;
    let header = RecordHeader::parse(&take(&mut rest)?)?;
    take::<2>(&mut rest)?;
    header.is_overwrite().then(|| take_u64(&mut rest).map(Lsn)).flatten()
}

/// A record of which only the beginning is known so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) start: Lsn,
    pub(super) total: u32,
    header: [u8; RecordHeader::SIZE],
    /// Bytes read, header included.
    have: u32,
    /// Of the bytes after the header.
    data_crc: u32,
}

impl Open {
    /// Begins a record that is longer than `bytes`, all that its first page has of it.
    pub(super) fn begin(start: Lsn, total: u32, bytes: &[u8]) -> Self {
        let header = [0; RecordHeader::SIZE];
        let mut open = Self { start, total, header, have: 0, data_crc: 0 };
        open.push(bytes);
        open
    }

    /// Returns how many bytes are still to come.
    pub(super) fn left(&self) -> u32 {
        self.total.saturating_sub(self.have)
    }

    /// Returns the header, once all of it is there.
    pub(super) fn header(&self) -> Option<RecordHeader> {
        (self.have as usize >= RecordHeader::SIZE)
            .then(|| RecordHeader::parse(&self.header))
            .flatten()
    }

    /// Returns how many bytes of the header are missing.
    pub(super) fn header_left(&self) -> usize {
        RecordHeader::SIZE.saturating_sub(self.have as usize)
    }

    /// Takes what it needs from the front of `bytes`; returns how many that was.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let wanted = bytes.len().min(self.left() as usize);
        let (bytes, _) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
        let (head, data) = bytes.split_at_checked(self.header_left()).unwrap_or((bytes, &[]));
        for (slot, byte) in self.header.iter_mut().skip(self.have as usize).zip(head) {
            *slot = *byte;
        }
        self.data_crc = crc32c::crc32c_append(self.data_crc, data);
        self.have = self.have.saturating_add(bytes.len() as u32);
        bytes.len()
    }

    /// Takes `len` more bytes of which only the checksum is known. The header must be complete.
    pub(super) fn push_summed(&mut self, crc: u32, len: u32) {
        self.data_crc = crc32c::crc32c_combine(self.data_crc, crc, len as usize);
        self.have = self.have.saturating_add(len);
    }

    /// Returns the checksum of the bytes taken so far.
    pub(super) fn computed(&self) -> u32 {
        checksum(&self.header, self.data_crc)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_summed_alike_in_a_copy_and_in_place() {
        let bytes: Vec<u8> = (0..800_u32).map(|i| (i * i + 1) as u8).collect();
        let header = std::array::from_fn(|i| bytes[i]);
        let mut summer = Summer::new();
        for length in (0..300).chain([700, 0, 228, 229]) {
            for at in 0..8 {
                let data = &bytes[at..at + length];
                let plain = crc32c::crc32c(&[data, &header[..20]].concat());
                assert_eq!(summer.checksum(&header, data), plain, "{length} bytes");
                assert_eq!(checksum(&header, crc32c::crc32c(data)), plain, "{length} bytes");
            }
        }
    }
}
