//! The recovery itself: segment by segment, record by record, in order.

use super::notes::{Ask, Event, Notes, Part, append, kind_of};
use super::pipeline::{File, Then};
use super::plan::{Plan, Step, finding};
use crate::encoding::digest::Digest;
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::prove::verify::Start;
use crate::prove::verify::histories::Shelf;
use crate::wal::name::SegmentName;
use crate::wal::timeline::{Run, Stretch};
use crate::wal::{End, Head, Lsn, SegmentSize, Tail, join_on_way};

/// What to do about a start of which the archive has nothing.
const PAST_ALL: &str = "Is this the archive, and the label or the LSN that of a backup of its cluster? If the backup was taken just now, wait until its WAL is archived, or bring it with \"walsafe push --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\". Without that WAL the backup cannot be recovered.";

/// The recovery, as far as it has come.
pub(super) struct Walk<'a> {
    pub(super) plan: &'a Plan,
    ask: &'a Ask,
    pub(super) shelf: &'a Shelf<'a>,
    pub(super) start: &'a Start,
    /// The next step.
    at: usize,
    /// The file that was read last, for the encodings of one name.
    last: Option<(SegmentName, Option<Digest>, String)>,
    tail: Option<Tail>,
    open: Part,
    version: Option<u8>,
    system_identifier: Option<u64>,
    /// The recovery has ended: nothing behind this is replayed.
    pub(super) over: bool,
    pub(super) end: Option<Lsn>,
    /// The timeline whose records are replayed.
    replayed: u32,
    pub(super) consistent: Option<Lsn>,
    pub(super) total: Notes,
    pub(super) findings: Vec<Finding>,
    pub(super) segments: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        ask: &'a Ask,
        shelf: &'a Shelf<'a>,
        start: &'a Start,
    ) -> Self {
        Self {
            plan,
            ask,
            shelf,
            start,
            at: 0,
            last: None,
            tail: None,
            open: Part::new(),
            version: None,
            system_identifier: None,
            over: false,
            end: None,
            replayed: plan.start_timeline,
            consistent: None,
            total: Notes::default(),
            findings: Vec::new(),
            segments: 0,
        }
    }

    fn size(&self) -> SegmentSize {
        self.shelf.size()
    }

    pub(super) fn name(&self, timeline: u32, at: Lsn) -> String {
        SegmentName::holding(timeline, at, self.size()).to_string()
    }

    /// The recovery ends here, for a reason that is a finding.
    fn ends_at(&mut self, at: Option<Lsn>) {
        if !self.over {
            self.over = true;
            self.end = at.or(self.end);
        }
    }

    /// Passes the holes before the next segment.
    fn holes(&mut self) {
        while let Some(Step::Hole(timeline, hole)) = self.plan.steps.get(self.at).copied() {
            self.at += 1;
            self.hole(timeline, hole);
        }
    }

    fn hole(&mut self, timeline: u32, hole: Stretch) {
        let Run { first, last, count } = hole.segments(timeline, self.size());
        let reason = match count {
            1 => "the segment is missing".to_owned(),
            many => format!("{many} segments are missing, {first} to {last}"),
        };
        let mut found = finding(first.to_string(), FindingKind::Gap, reason);
        if self.plan.begins_past_all {
            found.problem = self.past_all(timeline);
        }
        self.findings.push(found);
        self.tail = None;
        self.ends_at(None);
    }

    /// Says that the archive ends before the recovery begins: nothing shows that anything is missing.
    fn past_all(&self, timeline: u32) -> Problem {
        let there = match self.shelf.coverage.reach(timeline) {
            Some(end) => format!("the archive's WAL of timeline {timeline} ends at {end}"),
            None => format!("the archive has no WAL of timeline {timeline}"),
        };
        let reason = format!("{there}, and the recovery begins at {}", self.start.lsn);
        Problem::new(FindingKind::Gap, reason).with_advice(PAST_ALL)
    }

    pub(super) fn rest_of_steps(&mut self) {
        if self.total.stop.is_none() {
            self.holes();
        }
    }

    /// Takes the next file.
    pub(super) fn file(&mut self, file: File<'_>) -> Then {
        let Some(segment) = file.listed.name.segment() else { return Then::GoOn };
        if let Some((last, content, stored)) = &self.last
            && *last == segment
        {
            // Another encoding of the same name.
            let found = file.examined.problem.or_else(|| {
                let differs = content.is_some()
                    && file.examined.content.is_some()
                    && *content != file.examined.content;
                let reason = format!("its contents differ from those of {stored}");
                differs.then(|| Problem::new(FindingKind::Duplicate, reason))
            });
            if let Some(problem) = found {
                self.findings.push(Finding { file: file.listed.to_string(), problem });
            }
            return Then::GoOn;
        }
        self.holes();
        self.at += 1;
        self.segments += 1;
        self.last = Some((segment, file.examined.content, file.listed.to_string()));
        self.segment(segment, file);
        if self.total.stop.is_some() { Then::Enough } else { Then::GoOn }
    }

    fn segment(&mut self, segment: SegmentName, file: File<'_>) {
        let Some(from) = segment.start(self.size()) else { return };
        let bytes = u64::from(self.size().bytes());
        if file.vanished {
            let to = from.advanced(bytes);
            return self.hole(segment.timeline, Stretch { from, to });
        }
        let mut examined = file.examined;
        let found = examined.header.map(|header| header.system_identifier);
        let expected = *self.system_identifier.get_or_insert(found.unwrap_or_default());
        if let Some(found) = found
            && found != expected
            && examined.problem.is_none()
        {
            let reason = format!(
                "its system identifier is {found}, that of the first segment is {expected}"
            );
            examined.problem = Some(Problem::new(FindingKind::WrongCluster, reason));
        }
        if let Some(problem) = examined.problem {
            self.findings.push(Finding { file: file.listed.to_string(), problem });
            self.tail = None;
            return self.ends_at(None);
        }
        let (mut head, mut tail, mut end) = (None, None, None);
        if let Some(report) = examined.records {
            (head, tail, end) = (report.head, report.tail, Some(report.end));
        }
        self.version = file.watched.version.or(self.version);
        self.meet(head.as_ref(), &mut tail, &file.watched.rest, from);
        let Some(end) = end else { return };
        if !self.over {
            self.merge(file.watched.notes);
        }
        match end {
            End::ContinuesInNext(Some(_)) => self.open = file.watched.open,
            End::ContinuesInNext(None) => append(&mut self.open, &file.watched.rest),
            _ => self.open.clear(),
        }
        self.tail = tail;
        if !self.over {
            self.end = match end {
                End::EndsAt { lsn, .. } => Some(lsn),
                End::ContinuesInNext(Some(lsn)) => Some(lsn),
                End::ContinuesInNext(None) => self.end,
                End::Full | End::SwitchAt(_) | End::UnknownVersion(_) => Some(from.advanced(bytes)),
            };
        }
    }

    /// Joins a segment with the one before: the record that crosses, and the link to it.
    fn meet(&mut self, head: Option<&Head>, tail: &mut Option<Tail>, rest: &Part, from: Lsn) {
        let Some((before, head)) = self.tail.take().zip(head) else { return };
        let Some(joined) = join_on_way(&before, head, tail.as_ref()) else { return };
        if let Some(damage) = joined.damage {
            let reason = format!("{damage}, where it meets its neighbour");
            let file = self.name(damage.timeline, damage.segment);
            self.findings.push(finding(file, FindingKind::Corrupt, reason));
            self.ends_at(Some(damage.lsn.min(from)));
        }
        *tail = joined.tail;
        if let Some(record) = joined.record
            && !self.over
        {
            append(&mut self.open, rest);
            let kind = kind_of(&self.open, &record.header, self.version);
            let mut notes = Notes::default();
            notes.take(self.ask, &record, kind.as_ref());
            self.merge(notes);
        }
    }

    /// Adds what a stretch of records has shown.
    fn merge(&mut self, notes: Notes) {
        for event in notes.events {
            if self.over {
                break;
            }
            self.event(event);
        }
        let total = &mut self.total;
        total.begins |= notes.begins;
        total.checkpoint = total.checkpoint.or(notes.checkpoint);
        total.unknown_xid = total.unknown_xid.or(notes.unknown_xid);
        // What is noted lies before the record that ended it.
        if self.over && !notes.ended {
            return;
        }
        total.first_commit = total.first_commit.or(notes.first_commit);
        total.last_commit = notes.last_commit.or(total.last_commit);
        total.stop = total.stop.or(notes.stop);
        self.over |= total.stop.is_some();
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::BackupEnd(end) => {
                if self.start.end_record {
                    self.consistent.get_or_insert(end);
                }
            }
            Event::Minimal(lsn) => {
                let reason = format!(
                    "WAL was generated with wal_level=minimal from {lsn} on: no recovery goes past that record"
                );
                let advice = "Take a new base backup now. An earlier one can be recovered up to that record only, with a recovery target before it.";
                let problem = Problem::new(FindingKind::Unrecoverable, reason).with_advice(advice);
                let file = self.name(self.replayed, lsn);
                self.findings.push(Finding { file, problem });
                self.ends_at(Some(lsn));
            }
            Event::Timeline { timeline, .. } if timeline == self.replayed => {}
            Event::Timeline { lsn, timeline, previous } => {
                let target = self.plan.target;
                let known =
                    timeline == target || self.shelf.timelines.is_ancestor(timeline, target);
                if previous == self.replayed && known {
                    self.replayed = timeline;
                    return;
                }
                let reason = format!(
                    "the record at {lsn} begins timeline {timeline} after {previous}, where timeline {} is replayed on the way to timeline {target}: the server stops there",
                    self.replayed
                );
                let file = self.name(self.replayed, lsn);
                self.findings.push(finding(file, FindingKind::Unrecoverable, reason));
                self.ends_at(Some(lsn));
            }
        }
    }
}
