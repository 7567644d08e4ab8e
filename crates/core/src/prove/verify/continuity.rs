//! What is missing: within each timeline, over the switches between them, and history files.

use std::collections::BTreeMap;
use std::path::Path;

use super::histories::{Shelf, is_unwritten};
use super::reading::{Read, read_all, take_histories, timelines_of};
use super::{Progress, VerifyError};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store;
use crate::store::StoredName;
use crate::store::Visit;
use crate::store::directory::Directory;
use crate::store::listing::{self, Listing};
use crate::wal::name::FileKind;
use crate::wal::timeline::{Leg, Run, Stretch, Stretches, Timelines};
use crate::wal::{Lsn, SegmentSize};

/// Returns the most frequent value; of two, the smaller one.
pub(super) fn most<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_insert(0_u64) += 1;
    }
    counts
        .into_iter()
        .min_by_key(|(value, count)| (std::cmp::Reverse(*count), *value))
        .map(|(v, _)| v)
}

/// Returns a finding for each stretch of segments, and each history file, that is missing from an archive,
/// according to the names, the history files and one segment's header. See [`super::verify`] for `watch`.
///
/// # Errors
/// The directory could not be read, or the run was cancelled.
pub fn gaps(
    path: &Path,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<Vec<Finding>, VerifyError> {
    let (store, steps) = (Directory::at(path), store::Progress::default());
    let visit = store.open(&steps)?;
    let mut listing = Listing::read(&visit)?;
    if listing.files.is_empty() && !listing.marked {
        return Err(VerifyError::Nothing { path: path.to_owned() });
    }
    let size = listing::segment_size(&visit, &listing.files).unwrap_or(SegmentSize::DEFAULT);
    let histories = take_histories(&mut listing.files);
    let timelines = timelines_of(&read_all(&visit, histories, None, 1, watch)?);
    let of = |files: &[StoredName]| {
        let mut coverage = Coverage::new(size, timelines.clone());
        files.iter().for_each(|file| coverage.add(file.name.kind(), size));
        coverage.gaps(&Shelf::new(&visit, &timelines, size, files.iter()))
    };
    let gaps = of(&listing.files);
    if gaps.is_empty() {
        return Ok(gaps);
    }
    // What was removed while the names were read is not a gap: they are read in no order.
    listing.files.retain(|file| visit.holds(&file.into()));
    Ok(of(&listing.files))
}

/// The segments of every timeline, and how the timelines descend.
#[derive(Debug)]
pub(super) struct Coverage {
    pub(super) size: SegmentSize,
    timelines: Timelines,
    /// Where there are whole segments.
    whole: BTreeMap<u32, Stretches>,
    /// Start of the last partial segment.
    partial: BTreeMap<u32, Lsn>,
}

impl Coverage {
    fn new(size: SegmentSize, timelines: Timelines) -> Self {
        Self { size, timelines, whole: BTreeMap::new(), partial: BTreeMap::new() }
    }

    /// Sorts what was read. A damaged file is there all the same: it has a finding of its own. `size` is
    /// used if no segment's header was read.
    pub(super) fn of(read: &[Read], size: SegmentSize) -> Self {
        // The header of a segment with a problem, such as another cluster's, counts only if there is no
        // better one.
        let sound = |file: &Read| file.size.filter(|_| file.problem.is_none());
        let usual = most(read.iter().filter_map(sound))
            .or_else(|| most(read.iter().filter_map(|f| f.size)));
        let mut coverage = Self::new(usual.unwrap_or(size), timelines_of(read));
        for file in read {
            coverage.add(file.listed.name.kind(), sound(file).unwrap_or(coverage.size));
        }
        coverage
    }

    fn add(&mut self, kind: FileKind, size: SegmentSize) {
        match kind {
            FileKind::Segment(segment) => {
                if let Some(from) = segment.start(size).or_else(|| segment.start(self.size)) {
                    let to = from.advanced(size.bytes().into());
                    self.whole.entry(segment.timeline).or_default().insert(Stretch { from, to });
                }
            }
            FileKind::Partial(segment) => {
                if let Some(start) = segment.start(size) {
                    let last = self.partial.entry(segment.timeline).or_insert(start);
                    *last = start.max(*last);
                }
            }
            _ => {}
        }
    }

    /// Returns the start of the timeline's last partial segment.
    fn partial_start(&self, timeline: u32) -> Option<Lsn> {
        self.partial.get(&timeline).copied()
    }

    /// Returns where there are whole segments of a timeline.
    fn whole(&self, timeline: u32) -> &Stretches {
        const NONE: &Stretches = &Stretches::new();
        self.whole.get(&timeline).unwrap_or(NONE)
    }

    /// Returns the stretches of `within` that no whole segment of the timeline covers.
    fn uncovered(&self, timeline: u32, within: Stretch) -> Vec<Stretch> {
        self.whole(timeline).uncovered(within)
    }

    /// Makes the finding of segments that are missing.
    fn missing(&self, timeline: u32, stretch: Stretch) -> Finding {
        let Run { first, last, count } = stretch.segments(timeline, self.size);
        let reason = match count {
            1 => "the segment is missing".to_owned(),
            count => format!("{count} segments are missing, {first} to {last}"),
        };
        Finding { file: first.to_string(), problem: Problem::new(FindingKind::Gap, reason) }
    }

    /// Returns the findings of what is missing: within each timeline, over each switch, and history
    /// files. The shelf holds the same files.
    pub(super) fn gaps(&self, shelf: &Shelf<'_>) -> Vec<Finding> {
        // Two timelines may need the same stretch of a third.
        let mut missing: BTreeMap<u32, Stretches> = BTreeMap::new();
        let mut findings = shelf.findings();
        for (timeline, stretch) in shelf.missing_before_branches() {
            missing.entry(timeline).or_default().insert(stretch);
        }
        for (&timeline, whole) in &self.whole {
            let (Some(first), Some(end)) = (whole.first(), whole.end()) else { continue };
            let to = self.partial_start(timeline).map_or(end, |partial| partial.max(end));
            let within = Stretch { from: first, to };
            missing.entry(timeline).or_default().extend(whole.uncovered(within));
            if timeline > 1 && !self.timelines.has_history(timeline) {
                findings.push(missing_history(timeline));
            }
            let route = self.timelines.route(timeline, Lsn::default(), self.size);
            if first < route.from {
                findings.push(wrong_history(timeline, first, route.from));
                continue;
            }
            // What was cleaned up before the oldest segment is not missing.
            let oldest = |leg: &Leg| self.whole(leg.timeline).first_in(leg.stretch);
            let Some(reach) = route.legs.iter().filter_map(oldest).min() else { continue };
            let mut written = 0;
            for Leg { timeline: own, stretch } in route.legs {
                let needed = Stretch { from: reach.max(stretch.from), ..stretch };
                // Of one that was never written, the WAL of the timeline before goes on.
                if written == 0 || !is_unwritten(shelf, own, timeline) {
                    written = own;
                }
                missing.entry(written).or_default().extend(self.uncovered(written, needed));
            }
            missing.entry(timeline).or_default().insert(Stretch { from: route.from, to: first });
        }
        for (timeline, missing) in missing {
            findings.extend(missing.iter().map(|stretch| self.missing(timeline, stretch)));
        }
        findings
    }
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
