//! What it means that the archive does not have a file: the end of the WAL, or a hole.

use super::{Request, RestoreError, delivery, evidence};
use crate::encoding::codec::Codec;
use crate::prove::examine::{self, Expectation};
use crate::store::StoredName;
use crate::store::directory::Directory;
use crate::store::listing::Walk;
use crate::store::{Progress, Store, Visit};
use crate::wal::name::{FileKind, SegmentName};

/// What a missing file means.
pub(super) enum Verdict {
    /// The end: nothing shows that the archive ever had it. The text says why.
    End(String),
    /// A hole: something that must come after it is there. The text says what.
    Hole(String),
}

/// Decides what it means that the archive does not have the file.
pub(super) fn judge(
    request: &Request<'_>,
    visit: &dyn Visit,
    expected: &Expectation,
) -> Result<Verdict, RestoreError> {
    match request.name.kind() {
        FileKind::Segment(segment) => judge_segment(request, visit, expected, segment),
        FileKind::History { timeline } => judge_history(visit, timeline),
        // If these are missing, no WAL is missing: a backup history file is for people, and recovery asks
        // for whole segments only.
        FileKind::Partial(_) | FileKind::BackupHistory(_) | FileKind::Other => {
            Ok(Verdict::End("it is not in the archive".to_owned()))
        }
    }
}

fn judge_segment(
    request: &Request<'_>,
    visit: &dyn Visit,
    expected: &Expectation,
    segment: SegmentName,
) -> Result<Verdict, RestoreError> {
    // The name itself: it was published between the look-up and this list.
    let itself = |file: &StoredName| file.name.kind() == FileKind::Segment(segment);
    let listed = Walk::files(visit).find_map(|file| match file {
        Ok(file) => itself(&file).then_some(Ok(())),
        Err(e) => Some(Err(e)),
    });
    let evidence = if listed.transpose()?.is_some() {
        Some(format!("{segment} is listed but cannot be opened"))
    } else {
        evidence::of_later_wal(visit, expected, segment)?
            .map(|later| format!("{segment} is missing and {later}"))
    };
    let Some(evidence) = evidence else {
        let timeline = segment.timeline;
        return Ok(Verdict::End(format!(
            "it is not in the archive, and neither is any later segment of timeline {timeline}"
        )));
    };
    if lies_beside_target(request, expected) {
        return Ok(Verdict::End("it is not in the archive, but it is in pg_wal".to_owned()));
    }
    Ok(Verdict::Hole(evidence))
}

fn judge_history(visit: &dyn Visit, timeline: u32) -> Result<Verdict, RestoreError> {
    let mut first = None;
    for file in Walk::files(visit) {
        let file = file?;
        if file.name.segment().is_some_and(|there| there.timeline == timeline) {
            first = Some(file);
            break;
        }
    }
    Ok(match first {
        // The first timeline has no ancestors, so it has no history file.
        Some(first) if timeline != 1 => Verdict::Hole(format!(
            "the history of timeline {timeline} is missing and {} is there",
            first.name
        )),
        _ => Verdict::End(format!(
            "it is not in the archive, and neither is any segment of timeline {timeline}"
        )),
    })
}

/// Returns whether the segment lies beside the target, in `pg_wal`, where the server looks next. A recycled
/// file, with the name of a future segment and old contents, does not count. Neither does one that was only
/// half received and ends early: the server would take that for the end of the WAL.
fn lies_beside_target(request: &Request<'_>, expected: &Expectation) -> bool {
    let (store, steps) = (Directory::at(delivery::parent(request.target)), Progress::default());
    let Ok(pg_wal) = store.visit(&steps) else { return false };
    let name = StoredName::new(request.name.clone(), Codec::None);
    let Ok(Some(found)) = pg_wal.find(&name.into()) else { return false };
    examine::examine(&*found, request.name, expected, &mut |_| Ok(()))
        .is_ok_and(|found| found.problem.is_none() && found.ends_early.is_none())
}
