//! Which timeline a recovery heads for, and which files it asks for on the way, as the server does it.
//!
//! Sources: `validateRecoveryParameters`, `InitWalRecovery` and `XLogFileReadAnyTLI` in `xlogrecovery.c`,
//! `findNewestTimeLine` and `readTimeLineHistory` in `timeline.c`, `restoreTimeLineHistoryFiles` in
//! `StartupXLOG`; the same in 15 to 18. Which missing file stops the recovery is what `walsafe restore` says
//! of it.

use std::collections::BTreeMap;

use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::prove::verify::histories::{self, Shelf};
use crate::prove::verify::{Start, TargetTimeline};
use crate::wal::Lsn;
use crate::wal::name::SegmentName;
use crate::wal::timeline::Stretch;

/// Where a recovery goes.
#[derive(Debug)]
pub(super) struct Plan {
    /// The timeline of the backup.
    pub(super) start_timeline: u32,
    /// The timeline for which it heads.
    pub(super) target: u32,
    /// The segments that it asks for and gets, in order, and what is missing between them.
    pub(super) steps: Vec<Step>,
    /// What is wrong before any segment is read.
    pub(super) findings: Vec<Finding>,
    /// Where the WAL of the last segment ends, if it is read to its end.
    pub(super) end: Lsn,
    /// The archive holds nothing from the start on, and nothing shows that it ever did.
    pub(super) begins_past_all: bool,
}

/// A step on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// This segment is read.
    Read(SegmentName),
    /// It stops here: these segments of a timeline are missing.
    Hole(u32, Stretch),
}

impl Plan {
    /// Finds the way from a start, by names and history files.
    pub(super) fn find(start: &Start, goal: TargetTimeline, shelf: &Shelf<'_>) -> Self {
        let timelines = shelf.timelines;
        let start_timeline = start.timeline.unwrap_or_else(|| {
            let newest = timelines.newest(shelf.written(), None, start.lsn).unwrap_or(1);
            timelines.owner(start.lsn, newest).unwrap_or(newest)
        });
        let mut findings = Vec::new();
        // The control file of a standby's backup may be on a later timeline than its label.
        let current = start.stop_timeline.map_or(start_timeline, |stop| stop.max(start_timeline));
        let target = match goal {
            TargetTimeline::Current => current,
            TargetTimeline::Latest => latest(current, shelf),
            TargetTimeline::Number(number) => {
                let exists = number == 1 || timelines.has_history(number);
                if !exists {
                    let reason = format!(
                        "recovery target timeline {number} does not exist: its history file is not in the archive"
                    );
                    findings.push(finding(history_name(number), FindingKind::Gap, reason));
                }
                if exists { number } else { start_timeline }
            }
        };
        // The server asks for each number on the way, and for one more. It does without that of the timeline on
        // which it begins, which an archive that was begun after a promotion need not have.
        let asked_for = start_timeline.saturating_add(1)..=target;
        for number in shelf.mentioned().into_iter().filter(|number| asked_for.contains(number)) {
            if !timelines.has_history(number)
                && let Some(evidence) = shelf.needs_history(number, start_timeline)
            {
                let reason = format!("a recovery asks for it, and {evidence}");
                findings.push(finding(history_name(number), FindingKind::Gap, reason));
            }
        }
        let at = start.checkpoint.unwrap_or(start.lsn);
        let mut way = target;
        if timelines.owner(at, target) != Some(start_timeline) {
            let (problem, instead) = not_a_child(start_timeline, at, target, shelf);
            findings.push(Finding { file: history_name(target), problem });
            way = instead;
        }
        if let Some((problem, instead)) = not_its_minimum(start, (start_timeline, at), way, shelf) {
            findings.push(Finding { file: history_name(way), problem });
            way = instead;
        }
        let (mut steps, end) = steps(start.lsn, way, shelf);
        let begins_past_all = steps.is_empty();
        if begins_past_all {
            let to = end.advanced(shelf.size().bytes().into());
            let owner = timelines.owner(start.lsn, way).unwrap_or(way);
            steps.push(Step::Hole(owner, Stretch { from: end, to }));
        }
        Self { start_timeline, target: way, steps, findings, end, begins_past_all }
    }
}

/// Goes from one number to the next, as the server does. A history file that is missing although others show
/// that it must exist does not end the search: `walsafe restore` stops the recovery there.
fn latest(start: u32, shelf: &Shelf<'_>) -> u32 {
    let goes_on = |number: &u32| {
        shelf.timelines.has_history(*number) || shelf.needs_history(*number, start).is_some()
    };
    (start.saturating_add(1)..=u32::MAX).take_while(goes_on).last().unwrap_or(start)
}

/// What the server says of a timeline that the backup is not part of, and the one that it can go to.
fn not_a_child(own: u32, at: Lsn, target: u32, shelf: &Shelf<'_>) -> (Problem, u32) {
    let timelines = shelf.timelines;
    let is_child = |timeline: &u32| timelines.owner(at, *timeline) == Some(own);
    let instead = timelines.with_history().filter(is_child).max().unwrap_or(own).max(own);
    let left = match timelines.left(own, target) {
        Some(switch) => format!("left timeline {own} at {switch}, before it"),
        None => format!("has no part of timeline {own}"),
    };
    let reason = format!(
        "requested timeline {target} is not a child of this server's history: the backup's checkpoint is at {at} on timeline {own}, and timeline {target} {left}"
    );
    let advice = format!(
        "Set recovery_target_timeline = '{instead}' for a recovery from this backup. The rest of this report is about that timeline."
    );
    (Problem::new(FindingKind::Unrecoverable, reason).with_advice(advice), instead)
}

/// What the server says of a timeline that the point is not part of from which on the backup of a standby is
/// consistent, and the one that it can go to.
fn not_its_minimum(
    start: &Start,
    (own, at): (u32, Lsn),
    target: u32,
    shelf: &Shelf<'_>,
) -> Option<(Problem, u32)> {
    let (minimum, needed) = start.stop.zip(start.stop_timeline)?;
    let (timelines, last) = (shelf.timelines, Lsn(minimum.0.saturating_sub(1)));
    let has_it = |timeline: u32| {
        timelines.owner(at, timeline) == Some(own)
            && timelines.owner(last, timeline) == Some(needed)
    };
    if has_it(target) {
        return None;
    }
    let instead =
        timelines.with_history().filter(|t| has_it(*t)).max().unwrap_or(needed).max(needed);
    let reason = format!(
        "requested timeline {target} does not contain minimum recovery point {minimum} on timeline {needed}, from which on the backup is consistent"
    );
    let advice = format!(
        "Set recovery_target_timeline = '{instead}' for a recovery from this backup. The rest of this report is about that timeline."
    );
    Some((Problem::new(FindingKind::Unrecoverable, reason).with_advice(advice), instead))
}

/// Goes from segment to segment as the server asks for them: under the newest timeline of the history that had
/// begun by then, else under an older one, but never under an older one than the last. Without steps, the very
/// first one is missing, and nothing shows that it was ever there.
fn steps(from: Lsn, target: u32, shelf: &Shelf<'_>) -> (Vec<Step>, Lsn) {
    let size = shelf.size();
    // The newest first, each with the segment in which it began.
    let mut history = Vec::new();
    let mut begin = Lsn::INVALID;
    for ancestor in shelf.timelines.ancestors(target) {
        history.push((ancestor.timeline, begin));
        begin = ancestor.switch.segment_start(size);
    }
    history.push((target, begin));
    history.reverse();
    let (mut steps, mut at, mut lowest) = (Vec::new(), from.segment_start(size), 0);
    let mut unwritten = BTreeMap::new();
    let bytes = u64::from(size.bytes());
    loop {
        let mut step = None;
        for &(timeline, begin) in history.iter().take_while(|(timeline, _)| *timeline >= lowest) {
            if begin > at {
                continue;
            }
            if shelf.has(timeline, at) {
                step = Some(Step::Read(SegmentName::holding(timeline, at, size)));
                lowest = timeline;
                break;
            }
            let skip = *unwritten
                .entry(timeline)
                .or_insert_with(|| histories::is_unwritten(shelf, timeline, target));
            if !skip && let Some(to) = shelf.goes_on_at(timeline, at) {
                step = Some(Step::Hole(timeline, Stretch { from: at, to }));
                break;
            }
        }
        let next = match step {
            None => break,
            Some(Step::Read(_)) => at.advanced(bytes),
            Some(Step::Hole(_, hole)) => hole.to,
        };
        steps.extend(step);
        if next <= at {
            break;
        }
        at = next;
    }
    (steps, at)
}

pub(super) fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

pub(super) fn finding(file: String, kind: FindingKind, reason: String) -> Finding {
    Finding { file, problem: Problem::new(kind, reason) }
}
