//! What a recovery needs and does, from its start to its end, as the server does it.
//!
//! [`prove`] finds the way by names and history files ([`plan`]), reads the segments on it in parallel
//! ([`pipeline`]), and goes through their records in order ([`notes`], [`walk`]) up to the recovery's target;
//! [`verdict`] says what that comes to. Memory is bounded: of a segment only what [`notes`] keeps outlives its
//! reading.

use super::histories::{Heading, Shelf};
use super::{Checked, Progress, Start, TargetTimeline, Until, VerifyError};
use crate::prove::backups;
use crate::prove::examine::Expectation;
use crate::prove::finding::{Finding, FindingKind};
use crate::store::StoredName;
use crate::wal::Lsn;
use crate::wal::name::SegmentName;

pub(crate) mod notes;
mod pipeline;
mod plan;
mod verdict;
mod walk;

use notes::Ask;
pub use notes::{Commit, Stop};
use plan::{Plan, Step};
use walk::Walk;

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
    let files: Vec<StoredName> = plan
        .steps
        .iter()
        .flat_map(|step| match step {
            Step::Read(segment) => shelf.stored(&segment.to_string()),
            Step::Hole(..) => Vec::new(),
        })
        .collect();
    let files: Vec<&StoredName> = files.iter().collect();
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

/// Returns whether the names show that something is missing on the way.
pub(super) fn shows_gap(start: &Start, goal: TargetTimeline, shelf: &Shelf<'_>) -> bool {
    let plan = Plan::find(&completed(start, shelf), goal, shelf);
    plan.steps.iter().any(|step| matches!(step, Step::Hole(..)))
        || plan.findings.iter().any(|finding| finding.problem.kind == FindingKind::Gap)
}

/// Adds to a start what the backup's own history file says, which the server archives after the backup.
fn completed(start: &Start, shelf: &Shelf<'_>) -> Start {
    // The backup of a standby has none. One for its address is that of a backup of the primary, which began with
    // the checkpoint that the standby had restarted from.
    if start.checkpoint.is_some() && !start.end_record {
        return *start;
    }
    let read =
        |file: &StoredName| Start::from_label(&backups::text_of(shelf.visit, file).ok()??).ok();
    // Without a timeline in the label, that of any.
    let timelines: Vec<u32> = start.timeline.map_or_else(|| shelf.written().collect(), |t| vec![t]);
    let history = timelines.into_iter().find_map(|timeline| {
        let segment = SegmentName::holding(timeline, start.lsn, shelf.size());
        let offset = start.lsn.segment_offset(shelf.size());
        shelf.stored(&format!("{segment}.{offset:08X}.backup")).iter().find_map(read)
    });
    match history {
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
