//! What a recovery needs and does, from its start to its end, as the server does it.
//!
//! [`prove`] finds the way by names and history files ([`plan`]), reads the segments on it in parallel
//! ([`pipeline`]), and goes through their records in order ([`notes`]) up to the recovery's target. Memory is
//! bounded: of a segment only what [`notes`] keeps outlives its reading.

use std::io::Read as _;

use super::histories::{Heading, Shelf};
use super::{Checked, Progress, Start, TargetTimeline, Until, VerifyError};
use crate::encoding::digest::Digest;
use crate::prove::examine::Expectation;
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::StoredName;
use crate::wal::name::{FileKind, SegmentName};
use crate::wal::timeline::{Run, Stretch};
use crate::wal::{End, Lsn, SegmentSize, Tail, join};

pub(crate) mod notes;
mod pipeline;
mod plan;

use notes::{Ask, Event, Notes, Part, append, kind_of};
pub use notes::{Commit, Stop};
use pipeline::{File, Then};
use plan::{Plan, Step, finding, history_name};

/// What a recovery from a start does with this archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The first record's address.
    pub start: Lsn,
    /// The timeline it is on.
    pub start_timeline: u32,
    /// The timeline for which the recovery heads.
    pub end_timeline: u32,
    /// How that one was chosen.
    pub goal: TargetTimeline,
    /// Which timeline that one left, where and since when.
    pub heading: Heading,
    /// The end of the last record that the recovery replays.
    pub end: Option<Lsn>,
    /// Where a backup becomes consistent, if the recovery gets there.
    pub consistent: Option<Lsn>,
    /// Segments on the way.
    pub segments: usize,
    /// The first commit that it replays.
    pub first_commit: Option<Commit>,
    /// The last commit that it replays.
    pub last_commit: Option<Commit>,
    /// Where it is to end, if that was given.
    pub until: Option<Until>,
    /// Where the target is reached.
    pub stop: Option<Stop>,
    /// What an administrator should know although nothing is wrong with it.
    pub notes: Vec<String>,
}

/// What is to be proved.
pub(super) struct Task<'a> {
    pub(super) start: Start,
    pub(super) goal: TargetTimeline,
    pub(super) until: Option<Until>,
    pub(super) threads: usize,
    pub(super) system_identifier: Option<u64>,
    pub(super) shelf: &'a Shelf<'a>,
}

/// Proves what a recovery needs, and returns what it does and the findings.
pub(super) fn prove(
    task: &Task<'_>,
    checked: &mut Checked,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<(Chain, Vec<Finding>), VerifyError> {
    let shelf = task.shelf;
    let start = completed(&task.start, shelf);
    let plan = Plan::find(&start, task.goal, shelf);
    let ask = Ask { from: start.lsn, checkpoint: start.checkpoint, until: task.until.clone() };
    let files: Vec<&StoredName> = plan
        .steps
        .iter()
        .flat_map(|step| match step {
            Step::Read(segment) => shelf.stored(&segment.to_string()),
            Step::Hole(..) => &[],
        })
        .copied()
        .collect();
    let expected = Expectation {
        system_identifier: task.system_identifier,
        thorough: true,
        past_cache: true,
        ..Expectation::default()
    };
    let mut walk = Walk::new(&plan, &ask, shelf, &start);
    pipeline::read(shelf.visit, &files, &expected, (&ask, task.threads), watch, &mut |file| {
        checked.add(&file.examined, true);
        walk.file(file)
    })?;
    walk.rest_of_steps();
    Ok(walk.finish(task, plan.findings.clone()))
}

/// Adds to a start what the backup's own history file says, which the server archives after the backup.
fn completed(start: &Start, shelf: &Shelf<'_>) -> Start {
    const MAX_LEN: u64 = 64 << 10;
    let at = start.lsn.segment_start(shelf.size);
    let of_start = |file: &&StoredName| match file.name.kind() {
        FileKind::BackupHistory(segment) => {
            let name = format!("{segment}.{:08X}.backup", start.lsn.segment_offset(shelf.size));
            segment.start(shelf.size) == Some(at)
                && start.timeline.is_none_or(|timeline| timeline == segment.timeline)
                && file.name.as_str() == name
        }
        _ => false,
    };
    let read = |file: &StoredName| {
        let found = shelf.visit.find(&file.into()).ok()??;
        let mut text = Vec::new();
        found.decode().ok()?.take(MAX_LEN).read_to_end(&mut text).ok()?;
        Start::from_label(&String::from_utf8_lossy(&text)).ok()
    };
    match shelf.files.iter().copied().find(of_start).and_then(read) {
        Some(history) => Start {
            timeline: start.timeline.or(history.timeline),
            checkpoint: start.checkpoint.or(history.checkpoint),
            stop: start.stop.or(history.stop),
            end_record: start.end_record || history.end_record,
            ..*start
        },
        None => *start,
    }
}

/// The recovery, as far as it has come.
struct Walk<'a> {
    plan: &'a Plan,
    ask: &'a Ask,
    shelf: &'a Shelf<'a>,
    start: &'a Start,
    /// The next step.
    at: usize,
    /// The file that was read last, for the encodings of one name.
    last: Option<(SegmentName, Option<Digest>, String)>,
    tail: Option<Tail>,
    open: Part,
    version: Option<u8>,
    system_identifier: Option<u64>,
    /// The recovery has ended: nothing behind this is replayed.
    over: bool,
    end: Option<Lsn>,
    /// The timeline whose records are replayed.
    replayed: u32,
    consistent: Option<Lsn>,
    total: Notes,
    findings: Vec<Finding>,
    segments: usize,
}

impl<'a> Walk<'a> {
    fn new(plan: &'a Plan, ask: &'a Ask, shelf: &'a Shelf<'a>, start: &'a Start) -> Self {
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
        self.shelf.size
    }

    fn name(&self, timeline: u32, at: Lsn) -> String {
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
            count => format!("{count} segments are missing, {first} to {last}"),
        };
        self.findings.push(finding(first.to_string(), FindingKind::Gap, reason));
        self.tail = None;
        self.ends_at(None);
    }

    fn rest_of_steps(&mut self) {
        if self.total.stop.is_none() {
            self.holes();
        }
    }

    /// Takes the next file.
    fn file(&mut self, file: File<'_>) -> Then {
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
            let reason =
                format!("system identifier is {found}, that of the first segment {expected}");
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
    fn meet(
        &mut self,
        head: Option<&crate::wal::Head>,
        tail: &mut Option<Tail>,
        rest: &Part,
        from: Lsn,
    ) {
        let Some((before, head)) = self.tail.take().zip(head) else { return };
        let Some(joined) = join(&before, head, tail.as_ref()) else { return };
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

    fn finish(mut self, task: &Task<'_>, mut findings: Vec<Finding>) -> (Chain, Vec<Finding>) {
        let blocked = self.over && self.total.stop.is_none();
        let mut notes = Vec::new();
        if self.consistent.is_none()
            && !self.start.end_record
            && let (Some(stop), Some(end)) = (self.start.stop, self.end)
            && stop <= end
        {
            self.consistent = Some(stop);
        }
        if let Some(stop) = self.total.stop {
            self.end = Some(stop.lsn).or(self.end);
        }
        if !blocked {
            self.judge_start();
            self.judge_end(task);
        }
        let way = self.plan.target;
        if task.goal == TargetTimeline::Latest {
            findings.extend(self.shelf.orphan(way));
            self.note_numbers(&mut notes);
        }
        if !self.over
            && let Some(timeline) = self.shelf.partial_at(self.plan.end)
        {
            let name = self.name(timeline, self.plan.end);
            notes.push(format!(
                "{name}.partial is there, but no recovery asks for a file of that name: its WAL is not reached"
            ));
        }
        if let (Some(Until::Xid(_)), None, Some(lsn)) =
            (&task.until, self.total.stop, self.total.unknown_xid)
        {
            notes.push(format!(
                "a prepared transaction ended at {lsn} whose number could not be read: it may be the target"
            ));
        }
        findings.append(&mut self.findings);
        let chain = Chain {
            start: self.start.lsn,
            start_timeline: self.plan.start_timeline,
            end_timeline: way,
            goal: task.goal,
            heading: self.shelf.towards(self.plan.start_timeline, way),
            end: self.end,
            consistent: self.consistent,
            segments: self.segments,
            first_commit: self.total.first_commit,
            last_commit: self.total.last_commit,
            until: task.until.clone(),
            stop: self.total.stop,
            notes,
        };
        (chain, findings)
    }

    /// Checks what the server looks for before it replays anything.
    fn judge_start(&mut self) {
        let own = self.plan.start_timeline;
        if let Some(at) = self.start.checkpoint
            && self.total.checkpoint != Some(true)
            // What lies behind the target was not read. Such a target is before the end of the backup too.
            && self.total.stop.is_none_or(|stop| stop.lsn > at)
        {
            let found = match self.total.checkpoint {
                Some(_) => "the record at the backup's CHECKPOINT LOCATION is not a checkpoint",
                None => "no record begins at the backup's CHECKPOINT LOCATION",
            };
            let reason = format!("could not locate required checkpoint record: {found}, {at}");
            let file = self.name(own, at);
            self.findings
                .push(finding(file, FindingKind::Unrecoverable, reason).with_advice(LABEL));
        }
        if self.start.checkpoint.is_some() && !self.total.begins {
            let at = self.start.lsn;
            let reason = format!(
                "could not find redo location referenced by checkpoint record: no record begins at the backup's START WAL LOCATION, {at}"
            );
            let file = self.name(own, at);
            self.findings
                .push(finding(file, FindingKind::Unrecoverable, reason).with_advice(LABEL));
        }
    }

    /// Checks what the server looks for when it has replayed the last record.
    fn judge_end(&mut self, task: &Task<'_>) {
        let end = self.end.unwrap_or(self.start.lsn);
        let at = end.max(self.start.stop.unwrap_or_default());
        let stop =
            self.start.stop.map_or_else(String::new, |stop| format!(", which ended at {stop}"));
        let needs = self.start.end_record || self.start.stop.is_some();
        let file = self.name(self.plan.target, at);
        if needs && self.consistent.is_none() {
            let (kind, reason) = if self.total.stop.is_some() {
                let reason = format!(
                    "requested recovery stop point is before consistent recovery point: the target is reached at {end}, before the end of the backup{stop}"
                );
                (FindingKind::Unrecoverable, reason)
            } else {
                let reason = format!(
                    "WAL ends before end of online backup: it ends at {end}, and the backup's end{stop} is not reached"
                );
                (FindingKind::Gap, reason)
            };
            let mut found = finding(file.clone(), kind, reason);
            if kind == FindingKind::Unrecoverable {
                found =
                    found.with_advice("Choose a later target, or recover from an earlier backup.");
            }
            self.findings.push(found);
        }
        if let (Some(until), None) = (&task.until, self.total.stop) {
            let last = self.total.last_commit.map_or_else(String::new, |commit| {
                format!("; the last commit is at {}, {}", commit.lsn, commit.time)
            });
            let reason = format!(
                "recovery ended before configured recovery target was reached: {until} is not reached, and the WAL ends at {end} on timeline {}{last}",
                self.plan.target
            );
            let advice = "Choose an earlier target, or another timeline (--target-timeline); or archive the WAL that is missing at the end, from the server's or a standby's pg_wal.";
            self.findings
                .push(finding(file, FindingKind::Unrecoverable, reason).with_advice(advice));
        }
    }

    /// Tells of later timelines that the search for the latest one does not find.
    fn note_numbers(&self, notes: &mut Vec<String>) {
        let timelines = self.shelf.timelines;
        let at = self.start.checkpoint.unwrap_or(self.start.lsn);
        let own = self.plan.start_timeline;
        let beyond = timelines.with_history().filter(|t| *t > self.plan.target);
        if let Some(newest) = beyond.filter(|t| timelines.owner(at, *t) == Some(own)).max()
            && let Some(missing) =
                (self.plan.target + 1..newest).find(|t| !timelines.has_history(*t))
        {
            notes.push(format!(
                "timeline {newest} is not found, because the search for the latest timeline ends where {} is missing: to recover it, set recovery_target_timeline = '{newest}'",
                history_name(missing)
            ));
        }
    }
}

/// What to do about a label that does not go with the archive.
const LABEL: &str = "The label does not go with this archive: was it changed, or is it another cluster's? Use the backup_label of the backup as it was taken.";
