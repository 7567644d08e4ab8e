//! Where two segments meet: the parts of a record that crosses, and how they are put together.
//!
//! A record of up to 1 GB can cross many segments, so neither side keeps its bytes. The checksum runs over
//! a record's data first and its header last. If the beginning of a part is not known, only the first 16
//! bytes are kept (they may belong to the header) and the CRC of the rest, which `crc32c_combine` appends
//! once the beginning is there.

use super::damage::{Damage, DamageKind};
use super::lsn::Lsn;
use super::record::{Open, Record, align};

/// What the `xl_prev` of a first record has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prev {
    /// This.
    Known(Lsn),
    /// The last record of the segment before, or the one that ends in this one's beginning.
    Head,
    /// Not known: there was damage.
    Unknown,
}

/// How a segment ends, to be compared with the beginning of the next one.
///
/// Bounded memory: at most a record's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The timeline in the file's name.
    pub(super) timeline: u32,
    /// The address of the segment itself.
    pub(super) segment: Lsn,
    /// Where the next segment begins.
    pub(super) next: Lsn,
    /// Of the last page.
    pub(super) page_timeline: u32,
    pub(super) magic: Option<u16>,
    pub(super) system_identifier: Option<u64>,
    pub(super) prev: Prev,
    pub(super) state: TailState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TailState {
    /// The next record begins in the next segment.
    Boundary,
    /// A record continues.
    Open(Open),
    /// The whole segment is a part of a record that began earlier; the head has it.
    Through,
    /// A record continues whose beginning is lost to damage.
    Lost,
    /// The WAL ended here, for this reason. If it continues in the next segment all the same, that is
    /// damage.
    Ended(Damage),
}

impl Tail {
    /// Returns the address of the segment that this is to be compared with.
    #[must_use]
    pub fn next_segment(&self) -> Lsn {
        self.next
    }

    /// Returns the timeline in the name of the file that ends like this.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// Returns whether everything is known that the next segment is compared with. If not, this
    /// segment's own beginning has to be joined first.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        match &self.state {
            TailState::Through => false,
            TailState::Lost => true,
            // If its whole header is known, a record can be checked; its link is the head's.
            TailState::Open(open) => open.header_left() == 0 || self.prev != Prev::Head,
            // If it ended right behind a record from before, it may have ended by a switch.
            TailState::Boundary | TailState::Ended(_) => self.prev != Prev::Head,
        }
    }
}

/// How a segment begins, to be compared with the end of the one before.
///
/// Bounded memory: 16 bytes of the record that continues, and the CRC of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The timeline in the file's name.
    pub(super) timeline: u32,
    pub(super) start: Lsn,
    /// Of the first page.
    pub(super) page_timeline: u32,
    pub(super) magic: u16,
    pub(super) system_identifier: u64,
    pub(super) fragment: Fragment,
    /// The first record that begins here, and its `xl_prev`.
    pub(super) first: Option<(Lsn, Lsn)>,
}

/// The rest, or a middle part, of a record that began earlier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    /// Bytes that the first page says are still to come; 0 when the segment begins with a record.
    pub(super) announced: u32,
    prefix: [u8; Self::PREFIX],
    have: u32,
    /// Of the bytes after the prefix.
    rest_crc: u32,
    /// Where the record ends, padding included.
    pub(super) end: Lsn,
    pub(super) fate: Fate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// It had not ended when the segment did.
    #[default]
    Through,
    /// Read to its end.
    Complete,
    /// Broken off; the page here stands in for the rest, and names the record (if it can be read).
    Overwritten(Option<Lsn>),
    /// Damaged, or cut short by the end of the WAL: there is nothing to sum up.
    Broken,
}

impl Fragment {
    /// A record begins with at least 8 of its header's 24 bytes on its first page.
    const PREFIX: usize = 16;

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let missing = Self::PREFIX.saturating_sub(self.have as usize);
        let (prefix, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
        for (slot, byte) in self.prefix.iter_mut().skip(self.have as usize).zip(prefix) {
            *slot = *byte;
        }
        self.rest_crc = crc32c::crc32c_append(self.rest_crc, rest);
        self.have = self.have.saturating_add(bytes.len() as u32);
    }

    /// Appends what is here to the record's beginning.
    fn append_to(&self, open: &mut Open) {
        let kept = Self::PREFIX.min(self.have as usize);
        let (prefix, _) = self.prefix.split_at_checked(kept).unwrap_or((&self.prefix, &[]));
        open.push(prefix);
        open.push_summed(self.rest_crc, self.have.saturating_sub(kept as u32));
    }
}

impl Head {
    /// Returns the address of the segment.
    #[must_use]
    pub fn segment(&self) -> Lsn {
        self.start
    }

    /// Returns the timeline in the name of the file that begins like this.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    /// Returns the timeline on the segment's first page: that of the WAL which the segment begins with. In a
    /// timeline's first segment it is an older one, if that segment begins as a copy.
    #[must_use]
    pub fn page_timeline(&self) -> u32 {
        self.page_timeline
    }

    /// Returns whether the segment begins with a part of a record that begins in an earlier one.
    #[must_use]
    pub fn has_fragment(&self) -> bool {
        self.fragment.announced != 0
    }

    /// Returns whether `tail` is the end of the segment before this one.
    ///
    /// The one before has the same timeline in its name, or that of the first page: the first segment of a
    /// timeline is a copy of the older one's up to the switch. So WAL that ended on an older timeline is
    /// not compared with that of a newer one, which continues without it.
    #[must_use]
    pub fn follows(&self, tail: &Tail) -> bool {
        let names = tail.timeline == self.timeline || tail.timeline == self.page_timeline;
        names && tail.next == self.start
    }
}

/// The result of comparing the edges of two segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What does not fit.
    pub damage: Option<Damage>,
    /// The record that crosses, if it ended and its checksum is right.
    pub record: Option<Record>,
    /// The second segment's end, with what the first one has shown about it filled in.
    pub tail: Option<Tail>,
}

/// Compares the end of one segment with the beginning of the next: the record that crosses them, and
/// the link of the first record to the one before it.
///
/// `after` is the end of the segment whose beginning `head` is. `None` when the two are not
/// neighbours or the first one's own beginning is not resolved yet
/// ([`Tail::is_resolved`]).
#[must_use]
pub fn join(before: &Tail, head: &Head, after: Option<&Tail>) -> Option<Joined> {
    if head.follows(before) { join_on_way(before, head, after) } else { None }
}

/// The same for two segments that a recovery reads one after the other, whatever timelines their names say: the
/// caller knows the way. Where a timeline begins with a segment of its own, nothing in that names the timeline
/// before.
#[must_use]
pub fn join_on_way(before: &Tail, head: &Head, after: Option<&Tail>) -> Option<Joined> {
    if before.next != head.start || !before.is_resolved() {
        return None;
    }
    let mut joined = Joined { damage: None, record: None, tail: after.cloned() };
    match meet(before, head) {
        Ok(met) => {
            joined.record = met.record;
            if let Some(tail) = &mut joined.tail {
                if tail.state == TailState::Through
                    && let Some(open) = met.open
                {
                    tail.state = TailState::Open(open);
                }
                if tail.prev == Prev::Head {
                    tail.prev = met.prev;
                }
                // The record that crossed was a switch: what follows it is unused, and should be.
                if met.record.is_some_and(|record| record.header.is_switch()) {
                    tail.state = TailState::Boundary;
                    tail.prev = met.prev;
                }
            }
        }
        Err((lsn, kind)) => {
            joined.damage = Some(match before.state {
                TailState::Ended(ref damage) => damage.clone(),
                _ => located(before, head, lsn, kind),
            });
            if let Some(tail) = &mut joined.tail {
                if tail.state == TailState::Through {
                    tail.state = TailState::Lost;
                }
                if tail.prev == Prev::Head {
                    tail.prev = Prev::Unknown;
                }
            }
        }
    }
    Some(joined)
}

/// Returns whether the WAL of one segment goes on, record by record, in the next one, whatever timelines their
/// names say; `None` if their edges do not tell.
///
/// Proof is a record that crosses with the right checksum, or a first record that names the last one before
/// it. A record that goes on over both is not enough.
#[must_use]
pub fn continues(before: &Tail, head: &Head) -> Option<bool> {
    if before.next != head.start || !before.is_resolved() {
        return None;
    }
    match meet(before, head) {
        Err(_) => Some(false),
        Ok(Met { record: Some(_), .. }) => Some(true),
        Ok(Met { prev: Prev::Known(_), .. }) if head.first.is_some() => Some(true),
        Ok(_) => None,
    }
}

/// Names the file in which `lsn` lies.
fn located(before: &Tail, head: &Head, lsn: Lsn, kind: DamageKind) -> Damage {
    let (timeline, segment) = if lsn < head.start {
        (before.timeline, before.segment)
    } else {
        (head.timeline, head.start)
    };
    Damage { timeline, segment, lsn, offset: lsn.distance_from(segment), kind }
}

struct Met {
    record: Option<Record>,
    open: Option<Open>,
    /// What the first record's `xl_prev` is to be.
    prev: Prev,
}

/// The checks of [`join`]: if anything is wrong, returns the record or page in question and what is wrong
/// with it.
fn meet(before: &Tail, head: &Head) -> Result<Met, (Lsn, DamageKind)> {
    let at_page = |kind| (head.start, kind);
    if head.page_timeline < before.page_timeline {
        let (found, after) = (head.page_timeline, before.page_timeline);
        return Err(at_page(DamageKind::TimelineSequence { found, after }));
    }
    if let Some(magic) = before.magic
        && magic != head.magic
    {
        let found = head.magic;
        return Err(at_page(super::HeaderError::Magic { found }.into()));
    }
    if let Some(expected) = before.system_identifier
        && expected != head.system_identifier
    {
        let found = head.system_identifier;
        return Err(at_page(super::HeaderError::SystemIdentifier { found, expected }.into()));
    }
    let fragment = &head.fragment;
    let mut met = Met { record: None, open: None, prev: before.prev };
    match &before.state {
        TailState::Ended(damage) => return Err((damage.lsn, damage.kind.clone())),
        TailState::Through | TailState::Lost => met.prev = Prev::Unknown,
        TailState::Boundary => {
            if fragment.announced != 0 {
                let found = fragment.announced;
                return Err(at_page(DamageKind::UnexpectedContinuation { found }));
            }
            if matches!(fragment.fate, Fate::Overwritten(_)) {
                return Err(at_page(DamageKind::UnexpectedOverwrite));
            }
        }
        TailState::Open(open) => met = cross(before, open, fragment)?,
    }
    if let (Some((lsn, found)), Prev::Known(expected)) = (head.first, met.prev)
        && found != expected
    {
        return Err((lsn, DamageKind::PrevLink { found, expected }));
    }
    Ok(met)
}

/// Puts the two parts of a record together.
fn cross(before: &Tail, open: &Open, rest: &Fragment) -> Result<Met, (Lsn, DamageKind)> {
    let at_record = |kind| (open.start, kind);
    if let Fate::Overwritten(named) = rest.fate {
        if named.is_some_and(|named| named != open.start) {
            return Err(at_record(DamageKind::OverwriteRecord));
        }
        return Ok(Met { record: None, open: None, prev: before.prev });
    }
    if rest.announced == 0 {
        return Err(at_record(DamageKind::MissingContinuation));
    }
    if rest.announced != open.left() {
        let (found, expected) = (rest.announced, open.left());
        return Err(at_record(DamageKind::ContinuationLength { found, expected }));
    }
    if rest.fate == Fate::Broken {
        return Ok(Met { record: None, open: None, prev: Prev::Unknown });
    }
    let mut whole = open.clone();
    let split_header = whole.header_left() != 0;
    rest.append_to(&mut whole);
    let header = whole.header();
    if split_header
        && let (Some(header), Prev::Known(expected)) = (header, before.prev)
        && header.prev != expected
    {
        return Err(at_record(DamageKind::PrevLink { found: header.prev, expected }));
    }
    let prev = Prev::Known(open.start);
    if rest.fate == Fate::Through {
        return Ok(Met { record: None, open: Some(whole), prev: before.prev });
    }
    let Some(header) = header else {
        return Err(at_record(DamageKind::RecordLength { found: open.total }));
    };
    if whole.computed() != header.crc {
        let (found, computed) = (header.crc, whole.computed());
        return Err(at_record(DamageKind::Checksum { found, computed }));
    }
    let record = Record { lsn: open.start, end: rest.end, header };
    Ok(Met { record: Some(record), open: None, prev })
}

/// The end, padding included, of something that takes `bytes` from `start`, a multiple of eight.
pub(super) const fn padded_end(start: Lsn, bytes: usize) -> Lsn {
    start.advanced(align(bytes) as u64)
}
