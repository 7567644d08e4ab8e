//! Where a segment's WAL ends.

use crate::wal::{End, LongPageHeader, Lsn, RecordHeader, SegmentReport};

/// Returns where a segment's WAL ends, if that is before the segment does and no switch record
/// ended it: the last segment of a timeline, or one that lost its tail.
pub(super) fn early(report: &SegmentReport, behind_switch: Option<Lsn>) -> Option<Lsn> {
    match report.end {
        End::EndsAt { lsn, .. } if Some(lsn) != behind_switch => Some(lsn),
        _ => None,
    }
}

/// Returns the address behind a switch record that began in the segment before, if this one
/// begins with the last 8 or 16 of its 24 bytes. What follows it is unused.
pub(super) fn behind_crossing_switch(header: &LongPageHeader, page: &[u8]) -> Option<Lsn> {
    let rest = header.page.remaining as usize;
    if !header.page.info.is_contrecord() || !matches!(rest, 8 | 16) {
        return None;
    }
    // `xl_info` and `xl_rmid` are the first of the last eight bytes.
    let bytes = page.get(LongPageHeader::SIZE..)?.get(..rest)?;
    let [info, rmgr, ..] = *bytes.last_chunk::<8>()?;
    let (length, xid, prev, crc) = (RecordHeader::SIZE as u32, 0, Lsn::INVALID, 0);
    let end = header.page.address.advanced((LongPageHeader::SIZE + rest) as u64);
    RecordHeader { length, xid, prev, info, rmgr, crc }.is_switch().then_some(end)
}
