//! What a recovery would make of the records of one segment.

use crate::prove::verify::Until;
use crate::wal::kinds::{Kind, WANTED};
use crate::wal::name::SegmentName;
use crate::wal::{
    LongPageHeader, Lsn, Record, RecordHeader, SegmentChecker, SegmentReport, SegmentSize,
    SegmentSpec, Visit, WalVersion, join,
};

/// More of them than a server writes into a segment; what goes beyond is not kept.
const MOST_EVENTS: usize = 64;

/// What is looked for in the records.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// Where the recovery begins to replay.
    pub(crate) from: Lsn,
    /// Where the backup's checkpoint record is.
    pub(crate) checkpoint: Option<Lsn>,
    /// Where the recovery is to end.
    pub(crate) until: Option<Until>,
}

/// A commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where its record begins.
    pub lsn: Lsn,
    /// When it was.
    pub time: crate::wal::timestamp::Timestamp,
    /// Its transaction, if its number is known.
    pub xid: Option<u32>,
}

/// Where a recovery ends because its target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The record that decided.
    pub lsn: Lsn,
    /// The record itself is replayed too.
    pub after: bool,
}

/// A record that decides how a recovery goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// No recovery goes past it.
    Minimal(Lsn),
    /// The backup is complete behind it.
    BackupEnd(Lsn),
    /// A timeline begins.
    Timeline { lsn: Lsn, timeline: u32, previous: u32 },
}

/// What the records of a stretch of WAL have shown, up to where the target is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// A record begins where the recovery begins.
    pub(super) begins: bool,
    /// There is a record at the checkpoint's address, and whether it is a checkpoint.
    pub(super) checkpoint: Option<bool>,
    pub(crate) first_commit: Option<Commit>,
    pub(crate) last_commit: Option<Commit>,
    pub(super) events: Vec<Event>,
    pub(super) stop: Option<Stop>,
    /// The last event is one that no recovery goes past.
    pub(super) ended: bool,
    /// A prepared transaction ended here whose number lies too far behind in its record.
    pub(super) unknown_xid: Option<Lsn>,
}

impl Notes {
    /// Adds a record.
    pub(super) fn take(&mut self, ask: &Ask, record: &Record, kind: Option<&Kind>) {
        if ask.checkpoint == Some(record.lsn) {
            self.checkpoint = Some(matches!(kind, Some(Kind::Checkpoint { .. })));
        }
        if record.lsn < ask.from || self.stop.is_some() || self.ended {
            return;
        }
        self.begins |= record.lsn == ask.from;
        let stops_before = |until: &Until| kind.is_some_and(|kind| until.stops_before(kind));
        if ask.until.as_ref().is_some_and(stops_before) {
            self.stop = Some(Stop { lsn: record.lsn, after: false });
            return;
        }
        match kind {
            Some(Kind::TransactionEnd { xid, time, commit: true }) => {
                let commit = Commit { lsn: record.lsn, time: *time, xid: *xid };
                self.first_commit.get_or_insert(commit);
                self.last_commit = Some(commit);
            }
            Some(Kind::ParameterChange { minimal: true }) => {
                self.add(Event::Minimal(record.lsn));
                self.ended = true;
                return;
            }
            Some(Kind::BackupEnd { start }) if *start == ask.from => {
                self.add(Event::BackupEnd(record.end));
            }
            Some(
                Kind::Checkpoint { timeline, previous, shutdown: true, .. }
                | Kind::EndOfRecovery { timeline, previous },
            ) if timeline != previous => {
                let (lsn, timeline, previous) = (record.lsn, *timeline, *previous);
                self.add(Event::Timeline { lsn, timeline, previous });
            }
            _ => {}
        }
        if let Some(Kind::TransactionEnd { xid: None, .. }) = kind {
            self.unknown_xid.get_or_insert(record.lsn);
        }
        if ask.until.as_ref().is_some_and(|until| until.stops_after(record.lsn, kind)) {
            self.stop = Some(Stop { lsn: record.lsn, after: true });
        }
    }

    fn add(&mut self, event: Event) {
        if self.events.len() < MOST_EVENTS {
            self.events.push(event);
        }
    }
}

/// The bytes of a record that goes on in another segment, header included, or the first of them.
pub(super) type Part = Vec<u8>;

/// Appends bytes as long as they are wanted.
pub(super) fn append(part: &mut Part, bytes: &[u8]) {
    let room = WANTED.saturating_sub(part.len());
    part.extend(bytes.iter().take(room));
}

/// Returns what a record is, of which these are the first bytes.
pub(super) fn kind_of(bytes: &[u8], header: &RecordHeader, version: Option<u8>) -> Option<Kind> {
    Kind::read(header, bytes.get(RecordHeader::SIZE..)?, version)
}

/// Reads the records of a segment that comes in chunks.
#[derive(Debug)]
pub(crate) struct Watcher<'a> {
    ask: &'a Ask,
    segment: Option<SegmentName>,
    checker: Option<SegmentChecker<Collector<'a>>>,
    begun: bool,
}

/// What is left when a segment has been read to its end.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) notes: Notes,
    /// The rest of a record that began in an earlier segment.
    pub(super) rest: Part,
    /// The beginning of the record that was read last: if the segment ends within one, that one's.
    pub(super) open: Part,
    pub(super) version: Option<u8>,
    /// How it begins and ends.
    report: Option<SegmentReport>,
}

impl<'a> Watcher<'a> {
    pub(crate) fn new(ask: &'a Ask, segment: Option<SegmentName>) -> Self {
        Self { ask, segment, checker: None, begun: false }
    }

    /// Takes the next chunk, of any length but the first, which must have the header.
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        if !self.begun {
            self.begun = true;
            self.checker = self.begin(chunk);
        }
        if let Some(checker) = &mut self.checker {
            checker.feed(chunk);
        }
    }

    fn begin(&self, chunk: &[u8]) -> Option<SegmentChecker<Collector<'a>>> {
        let header = LongPageHeader::parse(chunk).ok()?;
        let segment_size = SegmentSize::new(header.segment_size.into()).ok()?;
        let segment = self.segment?;
        let spec = SegmentSpec {
            timeline: segment.timeline,
            start: segment.start(segment_size)?,
            segment_size,
            system_identifier: None,
        };
        let WalVersion::Known(version) = header.page.version() else { return None };
        let watched = Watched { version: Some(version), ..Watched::default() };
        let collector = Collector { ask: self.ask, at: None, watched };
        Some(SegmentChecker::with_visitor(spec, None, collector))
    }

    pub(crate) fn finish(self) -> Watched {
        let watched = |mut checker: SegmentChecker<Collector<'a>>| {
            let watched = std::mem::take(&mut checker.visitor_mut().watched);
            Watched { report: Some(checker.finish()), ..watched }
        };
        self.checker.map(watched).unwrap_or_default()
    }
}

/// Returns what the record has to say that begins in the first segment and ends in the second, its neighbour.
pub(crate) fn crossing(ask: &Ask, before: &Watched, after: &Watched) -> Notes {
    let mut notes = Notes::default();
    if let (Some(first), Some(second)) = (&before.report, &after.report)
        && let (Some(tail), Some(head)) = (&first.tail, &second.head)
        && let Some(record) = join(tail, head, None).and_then(|joined| joined.record)
    {
        let mut bytes = before.open.clone();
        append(&mut bytes, &after.rest);
        let kind = kind_of(&bytes, &record.header, before.version);
        notes.take(ask, &record, kind.as_ref());
    }
    notes
}

#[derive(Debug)]
struct Collector<'a> {
    ask: &'a Ask,
    /// The record whose bytes are being kept.
    at: Option<Lsn>,
    watched: Watched,
}

impl Visit for Collector<'_> {
    fn begins(&mut self, lsn: Lsn, bytes: &[u8]) {
        // `xl_rmid`. A header that goes on on the next page does not show it yet.
        let wanted = bytes.get(17).is_none_or(|rmgr| Kind::is_of(*rmgr));
        self.at = wanted.then_some(lsn);
        self.watched.open.clear();
        if wanted {
            append(&mut self.watched.open, bytes);
        }
    }

    fn goes_on(&mut self, bytes: &[u8]) {
        if self.at.is_some() {
            append(&mut self.watched.open, bytes);
        }
    }

    fn rest(&mut self, bytes: &[u8]) {
        append(&mut self.watched.rest, bytes);
    }

    fn record(&mut self, record: &Record) {
        let Watched { notes, open, version, .. } = &mut self.watched;
        let kept = self.at == Some(record.lsn);
        let kind = kept.then(|| kind_of(open, &record.header, *version)).flatten();
        notes.take(self.ask, record, kind.as_ref());
    }
}
