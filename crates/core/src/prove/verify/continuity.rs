//! What is missing: within each timeline, over the switches between them, and history files.

use super::coverage::{ByTimeline, Coverage, Each, Stop};
use super::histories::{Shelf, is_unwritten};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::Visit;
use crate::wal::Lsn;
use crate::wal::timeline::{Leg, Stretch, Stretches, Timelines};

/// Calls `each` with the findings of what is missing: within each timeline, over each switch, and history
/// files.
///
/// # Errors
/// What `each` returned, or there is no memory for the stretches.
pub(super) fn gaps(
    coverage: &Coverage,
    visit: &dyn Visit,
    timelines: &Timelines,
    each: Each<'_>,
) -> Result<(), Stop> {
    for (timeline, missing) in missing(coverage, visit, timelines, each)?.iter() {
        missing.iter().try_for_each(|stretch| each(coverage.missing(timeline, stretch)))?;
    }
    Ok(())
}

/// Returns the stretches of segments that are missing, within each timeline and over each switch, and calls
/// `each` with the findings of history files.
///
/// # Errors
/// What `each` returned, or there is no memory for the stretches.
pub(super) fn missing(
    coverage: &Coverage,
    visit: &dyn Visit,
    timelines: &Timelines,
    each: Each<'_>,
) -> Result<ByTimeline<Stretches>, Stop> {
    let shelf = Shelf { visit, timelines, coverage };
    // Two timelines may need the same stretch of a third.
    let mut missing: ByTimeline<Stretches> = ByTimeline::new();
    shelf.findings().into_iter().try_for_each(&mut *each)?;
    shelf.missing_before_branches(&mut |timeline, stretch| {
        missing.entry(timeline)?.insert(stretch)
    })?;
    for (timeline, whole) in coverage.whole.iter() {
        let (Some(first), Some(end)) = (whole.first(), whole.end()) else { continue };
        let to = coverage.reach(timeline).map_or(end, |reach| reach.max(end));
        let within = Stretch { from: first, to };
        missing.entry(timeline)?.extend(whole.uncovered(within))?;
        if timeline > 1 && !timelines.has_history(timeline) {
            each(missing_history(timeline))?;
        }
        let route = timelines.route(timeline, Lsn::default(), coverage.size);
        if first < route.from {
            each(wrong_history(timeline, first, route.from))?;
            continue;
        }
        // What was cleaned up before the oldest segment is not missing.
        let oldest = |leg: &Leg| coverage.whole(leg.timeline).first_in(leg.stretch);
        let Some(reach) = route.legs.iter().filter_map(oldest).min() else { continue };
        let mut written = 0;
        for Leg { timeline: own, stretch } in route.legs {
            let needed = Stretch { from: reach.max(stretch.from), ..stretch };
            // Of one that was never written, the WAL of the timeline before goes on.
            if written == 0 || !is_unwritten(&shelf, own, timeline) {
                written = own;
            }
            missing.entry(written)?.extend(coverage.uncovered(written, needed))?;
        }
        missing.entry(timeline)?.insert(Stretch { from: route.from, to: first })?;
    }
    Ok(missing)
}

fn missing_history(timeline: u32) -> Finding {
    let reason = format!(
        "segments of timeline {timeline} are there, but without its history file no recovery finds them"
    );
    let problem = Problem::new(FindingKind::Gap, reason);
    Finding { file: format!("{timeline:08X}.history"), problem }
}

fn wrong_history(timeline: u32, first: Lsn, switch: Lsn) -> Finding {
    let reason = format!(
        "it says that timeline {timeline} began in the segment at {switch}, and a segment of it at {first} is there"
    );
    let problem = Problem::new(FindingKind::WrongName, reason);
    Finding { file: format!("{timeline:08X}.history"), problem }
}
