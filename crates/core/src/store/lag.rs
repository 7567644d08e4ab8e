//! What a server holds in `pg_wal` that an archive lacks, and whether it belongs there.
//!
//! `walsafe check` tells it, `walsafe push` and the archiver of a promoted server bring it. All three
//! decide here what is lacking, so that the check never names what the others would not bring.

use std::collections::BTreeSet;

use crate::encoding::codec::Codec;
use crate::error::{Action, Error, ErrorKind};
use crate::server::held::{Held, HeldSegment};
use crate::store::{Found, Progress, StoredName, Visit, listing};
use crate::sys::buffer::Buffer;
use crate::sys::read_full;
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::timeline::{Run, Stretch, Stretches};
use crate::wal::{End, Head, Lsn, SegmentChecker, SegmentReport, Tail, join};

/// What an archive has of a server's history.
///
/// Memory does not grow with the archive: only what lies at or behind the server's oldest segment is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archived {
    /// The oldest segment of the history.
    pub oldest: Option<Lsn>,
    /// The newest one before the server's oldest.
    before: Option<Lsn>,
    /// Where there are segments, from the server's oldest on.
    covered: Stretches,
    /// The newest whole segment under the name of one of the server's ancestors, also behind the switch.
    pub newest_of_ancestors: Option<Lsn>,
    /// Timelines whose history file is there.
    pub histories: BTreeSet<u32>,
    /// Backup history files that the server has too.
    pub backups: BTreeSet<FileName>,
}

impl Archived {
    /// Reads the names in an archive.
    ///
    /// # Errors
    /// They could not be read to their end.
    pub fn read(visit: &dyn Visit, held: &Held) -> Result<Self, Error> {
        let (mut archived, mut kept) = (Self::default(), true);
        let first = held.segments.keys().next().copied().unwrap_or(Lsn(u64::MAX));
        visit.list(&mut |stored| {
            let Ok(stored) = StoredName::parse(stored) else { return };
            match stored.name.kind() {
                FileKind::Segment(segment) => kept &= archived.add(held, first, segment),
                FileKind::History { timeline } if held.histories.contains(&timeline) => {
                    archived.histories.insert(timeline);
                }
                FileKind::BackupHistory(_) if held.backups.contains(&stored.name) => {
                    archived.backups.insert(stored.name);
                }
                _ => {}
            }
        })?;
        if kept { Ok(archived) } else { Err(listing::no_memory(visit)) }
    }

    /// Counts a segment. Returns `false` if there is no memory for it.
    fn add(&mut self, held: &Held, first: Lsn, segment: SegmentName) -> bool {
        let Some(start) = segment.start(held.cluster.segment_size) else { return true };
        if segment.timeline != held.timeline && held.is_own(segment.timeline) {
            self.newest_of_ancestors = self.newest_of_ancestors.max(Some(start));
        }
        if !held.route.needs(segment.timeline, start) {
            return true;
        }
        self.oldest = Some(self.oldest.map_or(start, |oldest| oldest.min(start)));
        if start < first {
            self.before = self.before.max(Some(start));
            return true;
        }
        self.covered.insert(Stretch { from: start, to: held.behind(start) }).is_ok()
    }

    /// Returns whether the archive has the segment of the history at this address, which is not far
    /// before the server's oldest.
    #[must_use]
    pub fn has(&self, start: Lsn) -> bool {
        self.before == Some(start)
            || self.covered.first_in(Stretch { from: start, to: start.advanced(1) }).is_some()
    }

    /// Returns the segments that the server holds and the archive lacks, by address. What was marked as
    /// archived and is older than all that is there does not count: retention has removed it.
    pub fn lacks<'h>(&self, held: &'h Held) -> impl Iterator<Item = HeldSegment> + use<'_, 'h> {
        let all = held.segments.values().copied();
        let wanted = |segment: &HeldSegment| {
            segment.waiting || self.oldest.is_none_or(|oldest| segment.start > oldest)
        };
        all.filter(move |segment| wanted(segment) && !self.has(segment.start))
    }

    /// Notes that a segment is there now.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn note(&mut self, held: &Held, segment: HeldSegment) -> Result<(), Error> {
        let stretch = Stretch { from: segment.start, to: held.behind(segment.start) };
        self.covered.insert(stretch).map_err(|_| {
            let no_memory = std::io::Error::from_raw_os_error(libc::ENOMEM);
            Error::io(Action::HoldNames, &held.pg_wal, no_memory)
        })
    }

    /// Returns what is missing of the history between the segment that precedes the server's oldest and
    /// the end of what archive and server have, or `until`.
    #[must_use]
    pub fn missing(&self, held: &Held, until: Option<Lsn>) -> Vec<Run> {
        let first = held.segments.keys().next().copied();
        let from = match (self.before, self.oldest) {
            (Some(before), _) => Some(held.behind(before)),
            (None, Some(oldest)) => Some(oldest),
            (None, None) => first,
        };
        let last = held.segments.keys().next_back().map(|start| held.behind(*start));
        let to = until.or_else(|| last.max(self.covered.end()));
        let (Some(from), Some(to)) = (from, to) else { return Vec::new() };
        let missing = self.covered.uncovered(Stretch { from, to });
        missing.flat_map(|stretch| runs(held, stretch)).collect()
    }
}

/// Names a stretch of the server's history: a run for each timeline under whose name it is read.
#[must_use]
pub fn runs(held: &Held, stretch: Stretch) -> Vec<Run> {
    let (mut runs, Stretch { mut from, to }) = (Vec::new(), stretch);
    while from < to {
        let Some(timeline) = held.route.timeline_at(from) else { break };
        let leg = held.route.legs.iter().find(|leg| leg.stretch.contains(from));
        let end = leg.map_or(to, |leg| leg.stretch.to.min(to));
        runs.push(Stretch { from, to: end }.segments(timeline, held.cluster.segment_size));
        from = end;
    }
    runs
}

/// Names a run of segments.
#[must_use]
pub fn range(run: &Run) -> String {
    if run.first == run.last {
        run.first.to_string()
    } else {
        format!("{} to {}", run.first, run.last)
    }
}

/// Why a segment does not go into the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The server's file is not a whole, sound segment. What comes after it may be.
    Damaged(String),
    /// By its records it is not part of the history that the archive holds. Neither is what comes after.
    Foreign(String),
}

impl Refusal {
    /// Returns what was found.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Damaged(reason) | Self::Foreign(reason) => reason,
        }
    }
}

/// Judges segments in the order of their addresses: each by itself, and where it meets those before and
/// behind it.
pub struct Judge<'a> {
    held: &'a Held,
    visit: &'a dyn Visit,
    progress: &'a Progress,
    /// How the segment before ends.
    carry: Option<Tail>,
}

impl<'a> Judge<'a> {
    /// Begins.
    #[must_use]
    pub fn new(held: &'a Held, visit: &'a dyn Visit, progress: &'a Progress) -> Self {
        Self { held, visit, progress, carry: None }
    }

    /// Judges one segment; `None` if nothing speaks against it. What cannot be decided, as behind a record
    /// that fills the whole segment before, does not.
    ///
    /// # Errors
    /// The server's file, or an archived one beside it, could not be read.
    pub fn judge(
        &mut self,
        archived: &Archived,
        segment: HeldSegment,
        buffer: &mut Buffer,
    ) -> Result<Option<Refusal>, Error> {
        let carry = self.carry.take();
        let mut step = || self.progress.tick();
        let report = match self.held.check(segment, buffer, &mut step) {
            Ok(Ok(report)) => report,
            Ok(Err(reason)) => return Ok(Some(Refusal::Damaged(reason))),
            Err(e) if e.kind() == ErrorKind::SourceMissing => {
                let reason = "it is no longer in \"pg_wal\"".to_owned();
                return Ok(Some(Refusal::Damaged(reason)));
            }
            Err(e) => return Err(e),
        };
        if let End::UnknownVersion(_) = report.end {
            let reason = "its records cannot be checked: a server wrote it whose version is not known here, or it is encrypted";
            return Ok(Some(Refusal::Damaged(reason.to_owned())));
        }
        if let Some(damage) = report.damage.first() {
            return Ok(Some(Refusal::Damaged(damage.to_string())));
        }
        let before = match carry.filter(|tail| tail.next_segment() == segment.start) {
            Some(tail) => Some((tail, "in \"pg_wal\"")),
            None => self.archived_before(archived, segment)?.map(|tail| (tail, "in the archive")),
        };
        let (mut tail, mut after_switch) = (report.tail.clone(), false);
        if let (Some((before, place)), Some(head)) = (&before, &report.head)
            && let Some(joined) = join(before, head, report.tail.as_ref())
        {
            if let Some(damage) = joined.damage {
                let name = self.held.before(segment.start);
                let name = name.map_or_else(String::new, |name| name.to_string());
                return Ok(Some(Refusal::Foreign(format!(
                    "it does not continue {name} {place}: {damage}"
                ))));
            }
            after_switch = joined.record.is_some_and(|record| record.header.is_switch());
            tail = joined.tail;
        }
        if let (End::EndsAt { lsn, .. }, false) = (report.end, after_switch) {
            let reason = format!("its WAL ends at {lsn}, before the segment does");
            return Ok(Some(Refusal::Damaged(reason)));
        }
        if let Some(tail) = &tail
            && let Some(refusal) = self.against_next(archived, tail)?
        {
            return Ok(Some(refusal));
        }
        self.carry = tail;
        Ok(None)
    }

    /// Reads how the archived segment before this one ends.
    fn archived_before(
        &self,
        archived: &Archived,
        segment: HeldSegment,
    ) -> Result<Option<Tail>, Error> {
        let Some(name) = self.held.before(segment.start) else { return Ok(None) };
        let start = name.start(self.held.cluster.segment_size);
        let Some(start) = start.filter(|start| archived.has(*start)) else { return Ok(None) };
        Ok(self.read_archived(name, start)?.and_then(|report| report.tail))
    }

    /// Compares the end of a segment with the archived one behind it.
    fn against_next(&self, archived: &Archived, tail: &Tail) -> Result<Option<Refusal>, Error> {
        let start = tail.next_segment();
        let Some(name) = self.held.at(start).filter(|_| archived.has(start)) else {
            return Ok(None);
        };
        let head: Option<Head> = self.read_archived(name, start)?.and_then(|report| report.head);
        let joined = head.and_then(|head| join(tail, &head, None));
        Ok(joined.and_then(|joined| joined.damage).map(|damage| {
            Refusal::Foreign(format!("{name} in the archive does not continue it: {damage}"))
        }))
    }

    /// Reads the records of an archived segment; `None` if it cannot be decoded or is gone: that shows
    /// nothing of its neighbours.
    fn read_archived(&self, name: SegmentName, start: Lsn) -> Result<Option<SegmentReport>, Error> {
        let Ok(file) = FileName::new(&name.to_string()) else { return Ok(None) };
        for codec in Codec::ALL {
            let stored = StoredName::new(file.clone(), codec);
            if let Some(found) = self.visit.find(&stored.into())? {
                return self.read_found(&*found, name, start);
            }
        }
        Ok(None)
    }

    fn read_found(
        &self,
        found: &dyn Found,
        name: SegmentName,
        start: Lsn,
    ) -> Result<Option<SegmentReport>, Error> {
        let fail = |e| Error::io(Action::ReadArchived, found.path(), e);
        let mut checker = SegmentChecker::new(self.held.spec(name, start), None);
        let mut stream = found.decode().map_err(fail)?;
        let mut buffer = Buffer::new().map_err(fail)?;
        loop {
            let len = match read_full(&mut stream, buffer.bytes_mut()) {
                Ok(len) => len,
                Err(e) if e.raw_os_error().is_some() => return Err(fail(e)),
                Err(_) => return Ok(None),
            };
            self.progress.tick();
            checker.feed(buffer.filled(len));
            if len < buffer.bytes().len() {
                break;
            }
        }
        let report = checker.finish();
        // What is damaged says nothing of its neighbours: `walsafe verify` finds it.
        Ok(report.is_sound().then_some(report))
    }
}
