//! Files held against each other: what is missing, what does not join, what differs.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::{Progress, Read, VerifyError, read_all, take_histories};
use crate::error::{Action, Error};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::listing::{self, Listed, Listing};
use crate::sys::Dir;
use crate::wal::history::Ancestor;
use crate::wal::name::{FileKind, SegmentName};
use crate::wal::{Lsn, SegmentSize, Tail, join};

/// Returns the value that comes most often; the smaller one of two.
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

/// Segments that are missing one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The first one.
    pub first: SegmentName,
    /// The last one.
    pub last: SegmentName,
    /// How many there are.
    pub count: u64,
}

impl Missing {
    /// Makes the finding.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let reason = match self.count {
            1 => "the segment is missing".to_owned(),
            count => format!("{count} segments are missing, {} to {}", self.first, self.last),
        };
        Finding { file: self.first.to_string(), problem: Problem::new(FindingKind::Gap, reason) }
    }
}

/// Tells which segments are missing from an archive, by the names, the history files and one
/// segment's header. See [`super::verify`] for `watch`.
///
/// # Errors
/// The directory could not be read, or the run was cancelled.
pub fn gaps(
    path: &Path,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<Vec<Finding>, VerifyError> {
    let dir = Dir::open(path).map_err(|e| Error::io(Action::OpenDestination, path, e))?;
    let mut listing = Listing::read(&dir)?;
    if listing.files.is_empty() && !listing.marked {
        return Err(VerifyError::Nothing { path: path.to_owned() });
    }
    let size = listing::segment_size(&dir, &listing.files).unwrap_or(SegmentSize::DEFAULT);
    let histories = take_histories(&mut listing.files);
    let histories = read_all(&dir, histories, &super::Report::default(), 1, watch)?;
    let of = |files: &[Listed]| {
        let mut timelines = Timelines::new(size);
        files.iter().for_each(|file| timelines.add(file.name.kind(), size));
        histories.iter().for_each(|read| timelines.add_history(read));
        timelines.gaps()
    };
    let gaps = of(&listing.files);
    if gaps.is_empty() {
        return Ok(gaps);
    }
    // What is removed while the names are read, in no order, is no gap.
    listing.files.retain(|file| file.is_present(&dir));
    Ok(of(&listing.files))
}

/// The segments of every timeline, and how the timelines descend.
#[derive(Debug)]
pub(super) struct Timelines {
    pub(super) size: SegmentSize,
    /// Start and end of each whole segment.
    whole: BTreeMap<u32, BTreeMap<Lsn, Lsn>>,
    /// Start of the last partial segment.
    partial: BTreeMap<u32, Lsn>,
    /// `None` for one that is there and damaged.
    histories: BTreeMap<u32, Option<Vec<Ancestor>>>,
}

impl Timelines {
    fn new(size: SegmentSize) -> Self {
        let (whole, partial, histories) = Default::default();
        Self { size, whole, partial, histories }
    }

    /// Sorts what was read. A damaged file is there all the same: it has a finding of its own.
    /// `size` is for where none was read.
    pub(super) fn of(read: &[Read], size: SegmentSize) -> Self {
        // The header of one that has a problem, as of another cluster's, counts only where there is
        // none better.
        let sound = |file: &Read| file.size.filter(|_| file.problem.is_none());
        let usual = most(read.iter().filter_map(sound))
            .or_else(|| most(read.iter().filter_map(|f| f.size)));
        let mut timelines = Self::new(usual.unwrap_or(size));
        for file in read {
            timelines.add(file.listed.name.kind(), sound(file).unwrap_or(timelines.size));
            timelines.add_history(file);
        }
        timelines
    }

    fn add(&mut self, kind: FileKind, size: SegmentSize) {
        match kind {
            FileKind::Segment(segment) => {
                if let Some(start) = segment.start(size).or_else(|| segment.start(self.size)) {
                    let end = start.advanced(size.bytes().into());
                    self.whole.entry(segment.timeline).or_default().insert(start, end);
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

    fn add_history(&mut self, read: &Read) {
        if let FileKind::History { timeline } = read.listed.name.kind() {
            let known = self.histories.entry(timeline).or_default();
            *known = read.history.clone().or(known.take());
        }
    }

    pub(super) fn partial_start(&self, timeline: u32) -> Option<Lsn> {
        self.partial.get(&timeline).copied()
    }

    /// Returns the end of the last whole segment.
    pub(super) fn end(&self, timeline: u32) -> Option<Lsn> {
        self.whole.get(&timeline)?.values().max().copied()
    }

    fn first(&self, timeline: u32) -> Option<Lsn> {
        self.whole.get(&timeline)?.keys().next().copied()
    }

    /// Returns the stretches between two addresses that no whole segment of the timeline covers.
    pub(super) fn uncovered(&self, timeline: u32, from: Lsn, to: Lsn) -> Vec<(Lsn, Lsn)> {
        let (mut stretches, mut at) = (Vec::new(), from);
        for (start, end) in self.whole.get(&timeline).into_iter().flatten() {
            if *end <= at {
                continue;
            }
            if *start >= to {
                break;
            }
            if *start > at {
                stretches.push((at, *start));
            }
            at = *end;
        }
        if at < to {
            stretches.push((at, to));
        }
        stretches
    }

    pub(super) fn missing(&self, timeline: u32, (from, to): (Lsn, Lsn)) -> Missing {
        let bytes = u64::from(self.size.bytes());
        Missing {
            first: SegmentName::holding(timeline, from, self.size),
            last: SegmentName::holding(timeline, Lsn(to.0.saturating_sub(1)), self.size),
            count: to.distance_from(from).div_ceil(bytes).max(1),
        }
    }

    /// Tells what is missing: within each timeline, over each switch, and history files.
    pub(super) fn gaps(&self) -> Vec<Finding> {
        // Two timelines may need the same stretch of a third.
        let mut stretches: BTreeMap<u32, Vec<(Lsn, Lsn)>> = BTreeMap::new();
        let mut findings = Vec::new();
        for timeline in self.whole.keys().copied() {
            let (Some(first), Some(end)) = (self.first(timeline), self.end(timeline)) else {
                continue;
            };
            let end = self.partial_start(timeline).map_or(end, |partial| partial.max(end));
            stretches.entry(timeline).or_default().extend(self.uncovered(timeline, first, end));
            match self.histories.get(&timeline) {
                None if timeline > 1 => findings.push(missing_history(timeline)),
                Some(Some(ancestors)) => {
                    let legs = legs(ancestors, self.size);
                    let switch = legs.last().map_or(Lsn::default(), |leg| leg.to);
                    if first < switch {
                        findings.push(wrong_history(timeline, first, switch));
                        continue;
                    }
                    // What was cleaned up before the oldest segment is not missing.
                    let reach = legs.iter().filter_map(|leg| self.oldest_in(leg)).min();
                    for leg in &legs {
                        let from = reach.map_or(leg.to, |reach| reach.max(leg.from));
                        let needed = self.uncovered(leg.timeline, from, leg.to.max(from));
                        stretches.entry(leg.timeline).or_default().extend(needed);
                    }
                    if reach.is_some() && first > switch {
                        stretches.entry(timeline).or_default().push((switch, first));
                    }
                }
                _ => {}
            }
        }
        for (timeline, stretches) in stretches {
            let merged = merge(stretches);
            findings.extend(merged.into_iter().map(|s| self.missing(timeline, s).finding()));
        }
        findings
    }

    fn oldest_in(&self, leg: &Leg) -> Option<Lsn> {
        self.whole.get(&leg.timeline)?.range(leg.from..leg.to.max(leg.from)).next().map(|(s, _)| *s)
    }
}

/// The whole segments that a descendant needs of one of its ancestors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) timeline: u32,
    pub(super) from: Lsn,
    /// The start of the segment with the switch, which the next timeline has as a copy.
    pub(super) to: Lsn,
}

/// Turns a history into the segments that it calls for, oldest first.
pub(super) fn legs(ancestors: &[Ancestor], size: SegmentSize) -> Vec<Leg> {
    let mut from = Lsn::default();
    let mut legs = Vec::new();
    for ancestor in ancestors {
        let to = ancestor.switch.segment_start(size);
        legs.push(Leg { timeline: ancestor.timeline, from, to });
        from = to;
    }
    legs
}

fn merge(mut stretches: Vec<(Lsn, Lsn)>) -> Vec<(Lsn, Lsn)> {
    stretches.sort();
    let mut merged: Vec<(Lsn, Lsn)> = Vec::new();
    for (from, to) in stretches {
        match merged.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => merged.push((from, to)),
        }
    }
    merged
}

fn missing_history(timeline: u32) -> Finding {
    let reason = format!(
        "segments of timeline {timeline} are there, and without its history no recovery finds the way to them"
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

/// Holds the end of each segment against the beginning of the next, partial or not, over timeline
/// switches too.
pub(super) fn join_edges(read: &mut [Read]) {
    // By address, so that a record that runs through many segments is resolved on the way; within one
    // address the older timeline first.
    let mut order: Vec<(Lsn, u32, usize)> = Vec::new();
    for (index, file) in read.iter().enumerate() {
        // What is damaged or another cluster's has a finding, and says nothing of its neighbours.
        if let (Some(segment), Some(size)) = (file.segment, file.size)
            && let Some(start) = segment.start(size)
            && file.problem.is_none()
        {
            order.push((start, segment.timeline, index));
        }
    }
    order.sort_unstable();
    let mut tails: HashMap<(u32, Lsn), Tail> = HashMap::new();
    let mut damaged = Vec::new();
    for (start, timeline, index) in order {
        let Some(file) = read.get_mut(index) else { continue };
        let (head, mut tail) = (file.head.take(), file.tail.take());
        if let Some(head) = head {
            let older = file.first_timeline.unwrap_or(timeline);
            let before = tails.get(&(timeline, start)).or_else(|| tails.get(&(older, start)));
            if let Some(joined) = before.and_then(|before| join(before, &head, tail.as_ref())) {
                tail = joined.tail;
                damaged.extend(joined.damage.map(|damage| (damage, (timeline, start), index)));
            }
        }
        // WAL that goes on does so behind the whole form.
        if let Some(tail) = tail
            && matches!(file.listed.name.kind(), FileKind::Segment(_))
        {
            tails.insert((timeline, tail.next_segment()), tail);
        }
    }
    for (damage, second, index) in damaged {
        let first = |file: &&mut Read| {
            matches!(file.listed.name.kind(), FileKind::Segment(segment)
                if segment.timeline == damage.timeline
                    && file.size.and_then(|size| segment.start(size)) == Some(damage.segment))
        };
        let file = if (damage.timeline, damage.segment) == second {
            read.get_mut(index)
        } else {
            read.iter_mut().find(first)
        };
        if let Some(file) = file
            && file.problem.is_none()
        {
            let reason = format!("{damage}, where it meets its neighbour");
            file.problem = Some(Problem::new(FindingKind::Corrupt, reason));
        }
    }
}

/// Finds encodings of one name that hold different contents. The input is sorted by name.
pub(super) fn compare_encodings(read: &mut [Read]) {
    let mut first: HashMap<String, (String, crate::encoding::digest::Digest)> = HashMap::new();
    for file in read.iter_mut().filter(|file| file.problem.is_none()) {
        let Some(content) = file.content else { continue };
        let name = file.listed.name.to_string();
        match first.get(&name) {
            None => {
                first.insert(name, (file.listed.stored_name.clone(), content));
            }
            Some((_, same)) if *same == content => {}
            Some((other, _)) => {
                let reason = format!("its contents differ from those of {other}");
                file.problem = Some(Problem::new(FindingKind::Duplicate, reason));
            }
        }
    }
}
