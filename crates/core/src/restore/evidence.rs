//! What shows that a timeline continued after one of its segments.

use std::collections::BTreeMap;

use super::RestoreError;
use crate::error::{Action, Error};
use crate::prove::examine::{self, Expectation};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::StoredName;
use crate::store::Visit;
use crate::store::listing::{self, Walk};
use crate::wal::SegmentSize;
use crate::wal::history::Ancestor;
use crate::wal::name::{FileKind, SegmentName};
use crate::wal::timeline::Timelines;

/// Looks for WAL that was written after a segment: a later segment of its timeline, or one of a
/// timeline that branched off later. Returns what is there, in words.
pub(super) fn of_later_wal(
    visit: &dyn Visit,
    expected: &Expectation,
    segment: SegmentName,
) -> Result<Option<String>, RestoreError> {
    let later = |file: &StoredName| {
        let there = file.name.segment()?;
        (there.timeline == segment.timeline && there > segment).then_some(there)
    };
    for file in Walk::files(visit) {
        if let Some(later) = later(&file?) {
            return Ok(Some(format!("{later} is there")));
        }
    }
    of_later_branch(visit, expected, segment)
}

/// Looks for a timeline that branched off the segment's own timeline after the segment, and of which the
/// archive has segments. If there is one, the segment was written, and recovery along that timeline needs
/// it.
fn of_later_branch(
    visit: &dyn Visit,
    expected: &Expectation,
    segment: SegmentName,
) -> Result<Option<String>, RestoreError> {
    let mut first_of: BTreeMap<u32, StoredName> = BTreeMap::new();
    for file in Walk::files(visit) {
        let file = file?;
        if let FileKind::Segment(there) = file.name.kind() {
            first_of.entry(there.timeline).or_insert(file);
        }
    }
    let mut timelines = Timelines::default();
    for file in Walk::histories(visit) {
        let file = file?;
        let FileKind::History { timeline } = file.name.kind() else { continue };
        let Some(first) = first_of.get(&timeline).filter(|_| timeline > segment.timeline) else {
            continue;
        };
        let Some(ancestors) = read_history(visit, &file)? else { continue };
        timelines.add(timeline, Some(ancestors));
        let Some(switch) = timelines.left(segment.timeline, timeline) else { continue };
        // The switch's own segment is there as a copy under the new timeline's name.
        let size = size(visit, expected, first)?;
        if segment < SegmentName::holding(segment.timeline, switch, size) {
            return Ok(Some(format!(
                "timeline {timeline} branched off after it at {switch}, and {} is there",
                first.name
            )));
        }
    }
    Ok(None)
}

/// Reads a history file; `None` if it is gone by now.
fn read_history(
    visit: &dyn Visit,
    file: &StoredName,
) -> Result<Option<Vec<Ancestor>>, RestoreError> {
    let Some(found) = visit.find(&file.into())? else { return Ok(None) };
    let path = || found.path().to_owned();
    let read = examine::examine(&*found, &file.name, &Expectation::default(), &mut |_| Ok(()))
        .map_err(|e| Error::io(Action::ReadArchived, path(), e))?;
    let problem = match (read.problem, read.history) {
        (None, Some(ancestors)) => return Ok(Some(ancestors)),
        (Some(problem), _) => problem,
        (None, None) => Problem::new(FindingKind::Unreadable, "it was not read to its end"),
    };
    Err(RestoreError::Damaged { path: path(), problem })
}

/// Returns the cluster's segment size. Without the size, nobody knows whether a branch lies behind the
/// segment, and this must not count as the end of the WAL.
fn size(
    visit: &dyn Visit,
    expected: &Expectation,
    first: &StoredName,
) -> Result<SegmentSize, RestoreError> {
    let known = match expected.segment_size {
        Some(size) => Some(size),
        None => listing::segment_size(visit)?,
    };
    known.ok_or_else(|| {
        let reason = "neither its header nor that of another segment shows the segment size";
        let problem = Problem::new(FindingKind::Unreadable, reason);
        RestoreError::Damaged { path: visit.location().join(first.to_string()), problem }
    })
}
