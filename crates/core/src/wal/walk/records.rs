//! The records on a page: the rest of one from the page before, then those that begin on it.
//! (`XLogDecodeNextRecord`, `ValidXLogRecordHeader` and `ValidXLogRecord` in `xlogreader.c`.)

use super::super::bytes::{take, take_u32, take_u64};
use super::super::damage::DamageKind;
use super::super::edge::{Fate, Prev, padded_end};
use super::super::header::PageHeader;
use super::super::lsn::Lsn;
use super::super::record::{
    Open, Record, RecordHeader, Summer, Visit, align, overwritten, plausible_length,
};
use super::super::report::End;
use super::{Place, Walk};

impl Walk {
    /// Reads what the page begins with, if that is the rest of a record. If the next record begins on this
    /// page, returns where in `body`, which begins at `at`.
    pub(super) fn enter<V: Visit>(
        &mut self,
        header: &PageHeader,
        body: &[u8],
        at: Lsn,
        visitor: &mut V,
    ) -> Option<usize> {
        let remaining = header.info.is_contrecord().then_some(header.remaining);
        let replaces = remaining.is_none() && header.info.is_overwrite_contrecord();
        match (std::mem::replace(&mut self.place, Place::Boundary), remaining) {
            (Place::Inside(open), Some(found)) if found == open.left() => {
                return self.go_on(open, body, at, visitor);
            }
            (Place::Skipping(expected), Some(found)) if found == expected => {
                return self.skip(found, body, at, visitor);
            }
            (Place::Inside(open), None) if replaces => {
                self.replaced(body, Some(open.start));
            }
            (Place::Skipping(_), None) if replaces => {
                let named = self.replaced(body, None);
                self.stop_summing(Fate::Overwritten(named));
            }
            (Place::Inside(open), found) => {
                let expected = open.left();
                self.broken_off(open.start, found, expected);
            }
            (Place::Skipping(expected), found) => self.broken_off(self.address(), found, expected),
            (Place::Start | Place::Lost, Some(0)) => {
                self.found_at(self.address(), DamageKind::UnexpectedContinuation { found: 0 });
                self.prev = Prev::Unknown;
            }
            (Place::Start, Some(found)) => {
                if let Some(head) = &mut self.head {
                    head.fragment.announced = found;
                    self.summing = true;
                }
            }
            (Place::Start, None) if replaces => {
                self.summing = true;
                let named = self.replaced(body, None);
                self.stop_summing(Fate::Overwritten(named));
            }
            (Place::Boundary, Some(found)) => {
                self.found_at(self.address(), DamageKind::UnexpectedContinuation { found });
                self.prev = Prev::Unknown;
            }
            (Place::Boundary, None) if replaces => {
                self.found_at(self.address(), DamageKind::UnexpectedOverwrite);
            }
            (Place::Lost, _) => self.prev = Prev::Unknown,
            (Place::Start | Place::Boundary | Place::Over(_), _) => {}
        }
        remaining.map_or(Some(0), |remaining| self.skip(remaining, body, at, visitor))
    }

    /// The record ends with the page before, though it should not.
    fn broken_off(&mut self, lsn: Lsn, found: Option<u32>, expected: u32) {
        let kind = found.map_or(DamageKind::MissingContinuation, |found| {
            DamageKind::ContinuationLength { found, expected }
        });
        self.found_at(lsn, kind);
        self.prev = Prev::Unknown;
        self.stop_summing(Fate::Broken);
    }

    /// The page stands in for the rest of a record that a crash broke off: its first record must
    /// say so (`VerifyOverwriteContrecord` in `xlogrecovery.c`). Returns the record it names.
    fn replaced(&mut self, body: &[u8], expected: Option<Lsn>) -> Option<Lsn> {
        self.abandoned += 1;
        let named = overwritten(body);
        if named.is_none() || expected.is_some() && named != expected {
            self.found_at(self.address(), DamageKind::OverwriteRecord);
        }
        named
    }

    /// Passes over the rest of a record whose beginning is not known.
    fn skip<V: Visit>(
        &mut self,
        remaining: u32,
        body: &[u8],
        at: Lsn,
        visitor: &mut V,
    ) -> Option<usize> {
        let here = body.len().min(remaining as usize);
        let ends = here == remaining as usize;
        if self.summing
            && let (Some(head), Some(bytes)) = (&mut self.head, body.get(..here))
        {
            head.fragment.push(bytes);
            visitor.rest(bytes);
            if ends {
                head.fragment.fate = Fate::Complete;
                head.fragment.end = padded_end(at, here);
            }
        }
        self.summing &= !ends;
        if ends {
            return Some(align(here));
        }
        self.place = Place::Skipping(remaining.saturating_sub(here as u32));
        None
    }

    /// Continues a record whose beginning is known.
    fn go_on<V: Visit>(
        &mut self,
        mut open: Open,
        body: &[u8],
        at: Lsn,
        visitor: &mut V,
    ) -> Option<usize> {
        let split_header = open.header_left() != 0;
        let here = open.push(body);
        visitor.goes_on(body.get(..here).unwrap_or_default());
        let rest = body.get(align(here)..).unwrap_or(&[]);
        let header = open.header();
        if split_header
            && let Some(header) = header
            && let Err(kind) = self.check_prev(header.prev, open.start)
        {
            self.broken(open.start, kind, rest);
            return None;
        }
        if open.left() != 0 {
            self.place = Place::Inside(open);
            return None;
        }
        let header = header?;
        let computed = open.computed();
        if computed != header.crc {
            let kind = DamageKind::Checksum { found: header.crc, computed };
            return self.look_on(open.start, kind, body, at, align(here));
        }
        let end = padded_end(at, here);
        self.record(&Record { lsn: open.start, end, header }, visitor).then_some(align(here))
    }

    /// Reads the records that begin in `body`, which begins at `at`, from offset `from` on.
    pub(super) fn records<V: Visit>(
        &mut self,
        body: &[u8],
        at: Lsn,
        mut from: usize,
        visitor: &mut V,
    ) {
        while let Some(rest) = body.get(from..)
            && !rest.is_empty()
        {
            let lsn = at.advanced(from as u64);
            let kind = match self.next_record(rest, lsn) {
                Ok(Some((header, end))) => {
                    visitor.begins(lsn, rest.get(..end).unwrap_or_default());
                    let record = Record { lsn, end: padded_end(lsn, end), header };
                    if !self.record(&record, visitor) {
                        return;
                    }
                    from += align(end);
                    continue;
                }
                Ok(None) => {
                    visitor.begins(lsn, rest);
                    return;
                }
                Err(kind) => kind,
            };
            // A right checksum, and a link to less than a segment before: these are not old contents, which
            // name older addresses, but another history.
            if let DamageKind::PrevLink { found, .. } = kind
                && (1..u64::from(self.spec.segment_size.bytes()))
                    .contains(&lsn.distance_from(found))
                && whole_record(rest)
            {
                self.found_at(lsn, kind);
                self.prev = Prev::Known(found);
                continue;
            }
            match self.look_on(lsn, kind, body, at, from + 8) {
                Some(found) => from = found,
                None => return,
            }
        }
        self.place = Place::Boundary;
    }

    /// Checks the record that begins at the front of `rest`, all that is left of its page.
    /// `None`: it goes on on the next page, and the walk stands inside it.
    #[inline]
    fn next_record(
        &mut self,
        rest: &[u8],
        lsn: Lsn,
    ) -> Result<Option<(RecordHeader, usize)>, DamageKind> {
        let Some(bytes) = rest.first_chunk::<{ RecordHeader::SIZE }>() else {
            return self.split_header(rest, lsn).map(|()| None);
        };
        let Some(header) = RecordHeader::parse(bytes) else { return Ok(None) };
        if !plausible_length(header.length) {
            return Err(DamageKind::RecordLength { found: header.length });
        }
        self.check_prev(header.prev, lsn)?;
        let Some(data) = rest.get(RecordHeader::SIZE..header.length as usize) else {
            self.place = Place::Inside(Open::begin(lsn, header.length, rest));
            return Ok(None);
        };
        let computed = self.summer.checksum(bytes, data);
        if computed != header.crc {
            return Err(DamageKind::Checksum { found: header.crc, computed });
        }
        Ok(Some((header, header.length as usize)))
    }

    /// Begins a record whose header has only 8 or 16 bytes on this page. Like the server, it checks the
    /// length at once, and the rest when it has it.
    fn split_header(&mut self, rest: &[u8], lsn: Lsn) -> Result<(), DamageKind> {
        let mut bytes = rest;
        let found = take_u32(&mut bytes).unwrap_or(0);
        if !plausible_length(found) {
            return Err(DamageKind::RecordLength { found });
        }
        self.place = Place::Inside(Open::begin(lsn, found, rest));
        Ok(())
    }

    #[inline]
    fn check_prev(&mut self, found: Lsn, lsn: Lsn) -> Result<(), DamageKind> {
        match self.prev {
            Prev::Known(expected) if expected == found => return Ok(()),
            Prev::Known(expected) => return Err(DamageKind::PrevLink { found, expected }),
            Prev::Head | Prev::Unknown if found >= lsn => {
                return Err(DamageKind::PrevLink { found, expected: Lsn::INVALID });
            }
            Prev::Unknown => {}
            Prev::Head => {
                if let Some(head) = &mut self.head {
                    head.first = Some((lsn, found));
                }
            }
        }
        Ok(())
    }

    /// Notes a sound record. Returns whether the walk continues behind it.
    #[inline]
    fn record<V: Visit>(&mut self, record: &Record, visitor: &mut V) -> bool {
        self.records += 1;
        self.prev = Prev::Known(record.lsn);
        visitor.record(record);
        if record.header.rmgr != 0 {
            return true;
        }
        if record.header.can_begin_timeline() {
            self.begins_timeline = record.lsn;
        }
        if record.header.is_switch() {
            self.place = Place::Over(End::SwitchAt(record.lsn));
            return false;
        }
        true
    }

    /// Looks behind a record that does not follow, from offset `from` of `body` on, for one that does. Such
    /// a record names the bad one as the record before it; or it names one in between, and has the right
    /// checksum. What an older use of the file left there cannot name an address in this page.
    fn look_on(
        &mut self,
        lsn: Lsn,
        kind: DamageKind,
        body: &[u8],
        at: Lsn,
        from: usize,
    ) -> Option<usize> {
        let mut position = from;
        while let Some(rest) = body.get(position..)
            && !rest.is_empty()
        {
            if let Some(prev) = follower(rest, lsn, at.advanced(position as u64)) {
                self.found_at(lsn, kind);
                if prev == lsn {
                    self.prev = Prev::Known(prev);
                    return Some(position);
                }
                // More than one is bad, and it is uncertain which ones follow: begin anew on the next page.
                self.stop_summing(Fate::Broken);
                self.rose = None;
                self.place = Place::Lost;
                return None;
            }
            position += 8;
        }
        self.broken(lsn, kind, body.get(from..).unwrap_or(&[]));
        None
    }
}

/// Returns the address that the record at the front of `rest`, at `lsn`, names as the record before
/// it; `None` if no record that follows the bad one at `bad` begins there.
fn follower(rest: &[u8], bad: Lsn, lsn: Lsn) -> Option<Lsn> {
    let mut bytes = rest;
    let length = take_u32(&mut bytes)?;
    take::<4>(&mut bytes)?;
    let prev = Lsn(take_u64(&mut bytes)?);
    if prev < bad || prev >= lsn || !prev.0.is_multiple_of(8) || !plausible_length(length) {
        return None;
    }
    if prev == bad {
        return Some(prev);
    }
    whole_record(rest).then_some(prev)
}

/// Returns whether a record is at the front of `rest`, whole and with the right checksum.
fn whole_record(rest: &[u8]) -> bool {
    let Some(bytes) = rest.first_chunk::<{ RecordHeader::SIZE }>() else { return false };
    RecordHeader::parse(bytes).is_some_and(|header| {
        rest.get(RecordHeader::SIZE..header.length as usize)
            .is_some_and(|data| Summer::new().checksum(bytes, data) == header.crc)
    })
}
