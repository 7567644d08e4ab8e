//! Whether a place holds WAL of a timeline past the address where another timeline branched off.

use super::{Found, Progress, StoredName, Visit};
use crate::encoding::codec::Codec;
use crate::error::{Action, Error};
use crate::sys::buffer::{Buffer, CHUNK};
use crate::sys::read_full;
use crate::wal::name::{FileName, SegmentName};
use crate::wal::{self, Lsn, Record, SegmentChecker, SegmentSize, SegmentSpec};

/// How many segments behind the switch are looked for one by one. Further on each look goes twice as far as
/// the one before, for archives from which the next ones were removed.
const NEAR: u64 = 4;
/// How many times the distance doubles: to 4 million segments.
const DOUBLINGS: u32 = 20;

/// Returns a segment with WAL of `timeline` past `switch`: a later one, or the one that holds the switch, if
/// it has a record there. Partial segments do not count.
///
/// Looks at a fixed number of names, however many files there are, and reads one segment at most. Later
/// segments are missed if none of those names is there.
///
/// # Errors
/// A name could not be looked up, or the segment not read. One that cannot be decoded shows nothing.
pub fn beyond(
    visit: &dyn Visit,
    timeline: u32,
    switch: Lsn,
    size: SegmentSize,
    progress: &Progress,
) -> Result<Option<SegmentName>, Error> {
    let near = 1..=NEAR;
    let far = (1..=DOUBLINGS).map(|doublings| NEAR << doublings);
    for distance in near.chain(far) {
        let at = switch.segment_start(size).advanced(distance * u64::from(size.bytes()));
        let segment = SegmentName::holding(timeline, at, size);
        if find(visit, segment)?.is_some() {
            return Ok(Some(segment));
        }
    }
    let segment = SegmentName::holding(timeline, switch, size);
    let Some(found) = find(visit, segment)? else { return Ok(None) };
    Ok(has_record_from(&*found, segment, switch, size, progress)?.then_some(segment))
}

/// Looks a whole segment up in every encoding.
fn find(visit: &dyn Visit, segment: SegmentName) -> Result<Option<Box<dyn Found + '_>>, Error> {
    let name = FileName::from(segment);
    for codec in Codec::ALL {
        match visit.find(&StoredName::new(name.clone(), codec).into()) {
            Ok(None) | Err(Error::NotAFile { .. }) => {}
            found => return found,
        }
    }
    Ok(None)
}

/// The last record that was seen.
struct Last(Lsn);

impl wal::Visit for Last {
    fn record(&mut self, record: &Record) {
        self.0 = record.lsn;
    }
}

/// Returns whether a record begins in the segment at `from` or later.
fn has_record_from(
    found: &dyn Found,
    segment: SegmentName,
    from: Lsn,
    segment_size: SegmentSize,
    progress: &Progress,
) -> Result<bool, Error> {
    let fail = |e| Error::io(Action::ReadArchived, found.path(), e);
    let Some(start) = segment.start(segment_size) else { return Ok(false) };
    let spec =
        SegmentSpec { timeline: segment.timeline, start, segment_size, system_identifier: None };
    let mut checker = SegmentChecker::with_visitor(spec, None, Last(Lsn::INVALID));
    let mut stream = found.decode().map_err(fail)?;
    let mut buffer =
        Buffer::new().map_err(|e| Error::io(Action::ReserveMemory, found.path(), e))?;
    loop {
        let len = match read_full(&mut stream, buffer.bytes_mut()) {
            Ok(len) => len,
            Err(e) if e.raw_os_error().is_none() => break,
            Err(e) => return Err(fail(e)),
        };
        checker.feed(buffer.filled(len));
        progress.tick();
        if len < CHUNK {
            break;
        }
    }
    Ok(checker.visitor_mut().0 >= from)
}
