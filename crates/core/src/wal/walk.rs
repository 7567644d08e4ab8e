//! The walk through a segment, page by page: one page at a time, in order, whole.
//!
//! Follows `XLogDecodeNextRecord` and `XLogReaderValidatePageHeader` in PostgreSQL's
//! `src/backend/access/transam/xlogreader.c`. The server stops at the first thing that does not follow from
//! what is before, and calls it the end of the WAL. The walk remembers it ([`Walk::broken`]) and continues
//! to look for evidence that WAL was written behind it ([`Walk::confirm`]), which makes it damage. See
//! `docs/wal-check.md`.

mod judge;
mod records;

use self::judge::Verdict;
use super::damage::{Damage, DamageKind};
use super::edge::{Fate, Fragment, Head, Prev, Tail, TailState};
use super::header::{BlockSize, HeaderError, LongPageHeader, PageHeader};
use super::lsn::Lsn;
use super::record::{Open, Summer, Visit};
use super::report::{End, SegmentReport, SegmentSpec};

/// Where the walk stands between two pages.
#[derive(Debug)]
enum Place {
    /// At the beginning of the segment, with nothing known of the one before.
    Start,
    /// Between two records.
    Boundary,
    /// In a record whose beginning is known.
    Inside(Open),
    /// In a record whose beginning is not known, with this many bytes to come.
    Skipping(u32),
    /// Behind something that does not follow; the next good page is a new beginning.
    Lost,
    /// Behind a switch record, or among pages of an unknown version.
    Over(End),
}

/// The state of the walk. Bounded: nothing in it grows with the records.
#[derive(Debug)]
pub(super) struct Walk {
    spec: SegmentSpec,
    block: u64,
    /// Of the page to be read next.
    offset: u64,
    magic: Option<u16>,
    /// The magic number is that of the first page alone, and not confirmed yet.
    magic_is_new: bool,
    /// An unknown magic number on the first page, until the second one decides.
    candidate: Option<u16>,
    system_identifier: Option<u64>,
    /// Of the last good page, 0 before the first.
    timeline: u32,
    /// The timeline rose on the page at this address, from this one.
    rose: Option<(Lsn, u32)>,
    /// Where the last record that can begin a timeline began.
    begins_timeline: Lsn,
    /// The end of the segment before, until the first page.
    carry: Option<Tail>,
    place: Place,
    prev: Prev,
    head: Option<Head>,
    /// The beginning is being summed up in `head`.
    summing: bool,
    /// What did not follow, as long as nothing good has been found behind it.
    pending: Option<Damage>,
    leftovers: bool,
    summer: Summer,
    records: u64,
    abandoned: u64,
    damage: Vec<Damage>,
    damage_count: u64,
}

impl Walk {
    pub(super) fn new(spec: SegmentSpec, block: BlockSize, carry: Option<Tail>) -> Self {
        let carry = carry.filter(|tail| tail.next == spec.start && tail.is_resolved());
        Self {
            block: u64::from(block.bytes()),
            offset: 0,
            magic: carry.as_ref().and_then(|tail| tail.magic),
            magic_is_new: false,
            candidate: None,
            system_identifier: spec
                .system_identifier
                .or_else(|| carry.as_ref().and_then(|tail| tail.system_identifier)),
            timeline: 0,
            rose: None,
            begins_timeline: Lsn::INVALID,
            carry,
            place: Place::Start,
            prev: Prev::Head,
            head: None,
            summing: false,
            pending: None,
            leftovers: false,
            summer: Summer::new(),
            records: 0,
            abandoned: 0,
            damage: Vec::new(),
            damage_count: 0,
            spec,
        }
    }

    fn address(&self) -> Lsn {
        self.spec.start.advanced(self.offset)
    }

    /// Returns whether the walk has come to an end that no further page can change.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.place, Place::Over(_))
    }

    /// Reads the next page.
    pub(super) fn page<V: Visit>(&mut self, page: &[u8], visitor: &mut V) {
        if !self.is_over() {
            match PageHeader::parse(page).map(|header| self.judge(&header, page)) {
                Some(Verdict::Good(header)) => self.good_page(&header, page, visitor),
                Some(Verdict::Bad(kind)) => self.bad_page(kind, page),
                Some(Verdict::Foreign(magic)) => {
                    self.pending = None;
                    self.place = Place::Over(End::UnknownVersion(magic));
                }
                None => self.short_page(page),
            }
        }
        self.offset = self.offset.saturating_add(page.len() as u64);
    }

    /// Reports a page that is shorter than its header as damage. The checker hands over whole pages only.
    /// If such a page were passed over, a segment that was not read would be called sound.
    fn short_page(&mut self, page: &[u8]) {
        debug_assert!(false, "a page of {} bytes", page.len());
        self.found_at(self.address(), HeaderError::TooShort { found: page.len() }.into());
        self.bad_page(HeaderError::TooShort { found: page.len() }.into(), page);
    }

    fn bad_page(&mut self, kind: DamageKind, page: &[u8]) {
        let lsn = match &self.place {
            Place::Inside(open) => open.start,
            _ => self.address(),
        };
        self.broken(lsn, kind, page);
    }

    /// Remembers the first thing that does not follow; `rest` is what lies behind it on the page.
    fn broken(&mut self, lsn: Lsn, kind: DamageKind, rest: &[u8]) {
        if self.pending.is_none() {
            self.pending = Some(self.damage_at(lsn, kind));
            self.leftovers = false;
        }
        if !self.leftovers {
            self.leftovers = rest.iter().fold(0, |all, byte| all | byte) != 0;
        }
        self.stop_summing(Fate::Broken);
        self.rose = None;
        self.place = Place::Lost;
    }

    /// WAL was written behind what did not follow: it is damage, not the end.
    fn confirm(&mut self) {
        if let Some(damage) = self.pending.take() {
            self.found(damage);
        }
    }

    fn found(&mut self, damage: Damage) {
        if self.damage.len() < SegmentReport::DAMAGE_LISTED {
            self.damage.push(damage);
        }
        self.damage_count += 1;
    }

    fn found_at(&mut self, lsn: Lsn, kind: DamageKind) {
        let damage = self.damage_at(lsn, kind);
        self.found(damage);
    }

    fn damage_at(&self, lsn: Lsn, kind: DamageKind) -> Damage {
        let SegmentSpec { timeline, start: segment, .. } = self.spec;
        let offset = if lsn < segment { self.offset } else { lsn.distance_from(segment) };
        Damage { timeline, segment, lsn, offset, kind }
    }

    fn stop_summing(&mut self, fate: Fate) {
        if let Some(head) = &mut self.head
            && self.summing
        {
            head.fragment.fate = fate;
        }
        self.summing = false;
    }

    /// Reads a page whose header is right for its place.
    fn good_page<V: Visit>(&mut self, header: &PageHeader, page: &[u8], visitor: &mut V) {
        self.confirm();
        self.watch_timeline(header);
        let size = if self.offset == 0 { LongPageHeader::SIZE } else { PageHeader::SIZE };
        let Some(body) = page.get(size..) else { return self.short_page(page) };
        if self.offset == 0 {
            self.first_page(header, page);
        }
        if !header.info.is_contrecord() && header.remaining != 0 {
            let (found, expected) = (header.remaining, 0);
            self.found_at(self.address(), DamageKind::ContinuationLength { found, expected });
        }
        let at = self.address().advanced(size as u64);
        if let Some(skipped) = self.enter(header, body, at, visitor) {
            self.records(body, at, skipped, visitor);
        }
    }

    /// A timeline begins with a record that says so, on the last page of the old one or the first of the
    /// new. (The page that the switch falls on keeps its old header.)
    fn watch_timeline(&mut self, header: &PageHeader) {
        let at = self.address();
        if let Some((page, after)) = self.rose
            && at.distance_from(page) > self.block
        {
            self.rose = None;
            if self.begins_timeline.advanced(self.block) < page {
                let found = self.timeline;
                self.found_at(page, DamageKind::TimelineChange { found, after });
            }
        }
        let sound = (self.timeline..=self.spec.timeline).contains(&header.timeline);
        if sound && header.timeline != self.timeline && self.offset != 0 && self.timeline != 0 {
            self.rose = Some((at, self.timeline));
        }
        // Later pages are not compared with a page whose timeline was found wrong.
        if sound {
            self.timeline = header.timeline;
        }
    }

    /// Takes up what is known of the segment before, and begins to sum up what is not.
    fn first_page(&mut self, header: &PageHeader, page: &[u8]) {
        let Some(long) = LongPageHeader::read(page) else { return };
        let head = Head {
            timeline: self.spec.timeline,
            start: self.spec.start,
            page_timeline: header.timeline,
            magic: self.magic.unwrap_or(header.magic),
            system_identifier: long.system_identifier,
            fragment: Fragment::default(),
            first: None,
        };
        let Some(carry) = self.carry.take().filter(|carry| head.follows(carry)) else {
            self.head = Some(head);
            return;
        };
        if header.timeline < carry.page_timeline {
            let (found, after) = (header.timeline, carry.page_timeline);
            self.found_at(self.address(), DamageKind::TimelineSequence { found, after });
            self.timeline = after;
        }
        (self.place, self.prev) = match carry.state {
            TailState::Boundary => (Place::Boundary, carry.prev),
            TailState::Open(open) => (Place::Inside(open), carry.prev),
            TailState::Through | TailState::Lost => (Place::Lost, Prev::Unknown),
            TailState::Ended(damage) => {
                self.found(damage);
                (Place::Lost, Prev::Unknown)
            }
        };
    }

    /// Sums up, after `fed` bytes in total.
    pub(super) fn finish(mut self, fed: u64) -> SegmentReport {
        let (found, expected) = (fed, u64::from(self.spec.segment_size.bytes()));
        if found != expected {
            let lsn = self.spec.start.advanced(found.min(expected));
            self.found_at(lsn, DamageKind::Length { found, expected });
        }
        let fragment = self.head.as_ref().is_some_and(Head::has_fragment);
        let place = std::mem::replace(&mut self.place, Place::Lost);
        let (end, state) = match (place, self.pending.take()) {
            (Place::Over(End::UnknownVersion(magic)), _) => (End::UnknownVersion(magic), None),
            (Place::Over(end), _) => (end, Some(TailState::Boundary)),
            (_, Some(damage)) => (
                End::EndsAt { lsn: damage.lsn, leftovers: self.leftovers },
                Some(TailState::Ended(damage)),
            ),
            (Place::Inside(open), _) => {
                (End::ContinuesInNext(Some(open.start)), Some(TailState::Open(open)))
            }
            (Place::Skipping(_), _) if self.summing => {
                (End::ContinuesInNext(None), Some(TailState::Through))
            }
            (Place::Skipping(_) | Place::Lost, _) => {
                (End::ContinuesInNext(None), Some(TailState::Lost))
            }
            (Place::Start | Place::Boundary, _) if found < expected => {
                (End::EndsAt { lsn: self.address(), leftovers: false }, None)
            }
            (Place::Start | Place::Boundary, _) => (End::Full, Some(TailState::Boundary)),
        };
        let state = state.filter(|_| found == expected);
        let continues = matches!(end, End::ContinuesInNext(_));
        let tail = state.map(|state| Tail {
            timeline: self.spec.timeline,
            segment: self.spec.start,
            next: self.spec.start.advanced(expected),
            // Without a good page, the timeline of the name.
            page_timeline: if self.timeline == 0 { self.spec.timeline } else { self.timeline },
            magic: self.magic,
            system_identifier: self.system_identifier,
            // Without a beginning there is nothing to learn the last record from.
            prev: if self.head.is_none() && self.prev == Prev::Head {
                Prev::Unknown
            } else {
                self.prev
            },
            state,
        });
        SegmentReport {
            records: self.records,
            abandoned: self.abandoned,
            unchecked_edges: u32::from(fragment) + u32::from(continues),
            end,
            damage: self.damage,
            damage_count: self.damage_count,
            head: self.head.filter(|_| !matches!(end, End::UnknownVersion(_))),
            tail,
        }
    }
}
