//! What a recovery needs from its start to the newest WAL, timeline by timeline.

use std::io::Read as _;

use super::Start;
use super::continuity::{Coverage, Each, Stop};
use super::reading::Read;
use crate::encoding::codec::Codec;
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::listing::Listing;
use crate::store::{StoredName, Visit};
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::timeline::{Route, Stretch, Timelines};
use crate::wal::{End, Lsn, SegmentSize};

/// The way from a start to the newest WAL of the newest timeline that descends from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The first record's address.
    pub start: Lsn,
    /// The timeline it is on.
    pub start_timeline: u32,
    /// The timeline on which the way ends.
    pub end_timeline: u32,
    /// The end of the last record without a gap before it.
    pub end: Option<Lsn>,
    /// The address that a backup needs to be consistent, if it is known.
    pub stop: Option<Lsn>,
    /// Segments on the way.
    pub segments: usize,
    size: SegmentSize,
    route: Route,
    /// The last whole segment of the last timeline that was read, where it begins and how its WAL ends.
    last_whole: Option<(Lsn, Option<End>)>,
    /// The same of the last partial one.
    last_partial: Option<(Lsn, Option<End>)>,
}

impl Chain {
    /// Finds the way, by the history files.
    pub(super) fn find(
        start: &Start,
        listing: &Listing,
        timelines: &Timelines,
        size: SegmentSize,
        visit: &dyn Visit,
    ) -> Self {
        let there = listing.timelines.iter().copied();
        let newest = timelines.newest(there, start.timeline, start.lsn);
        let end_timeline = newest.or(start.timeline).unwrap_or(1);
        let route = timelines.route(end_timeline, start.lsn, size);
        let start_timeline = route.start_timeline();
        let stop = start.stop.or_else(|| stop_of(start, start_timeline, visit, size));
        Self {
            start: start.lsn,
            start_timeline,
            end_timeline,
            end: None,
            stop,
            segments: 0,
            size,
            route,
            last_whole: None,
            last_partial: None,
        }
    }

    /// Returns whether a file is on the way.
    pub(super) fn needs(&self, file: &StoredName) -> bool {
        let Some(segment) = file.name.segment() else { return false };
        let Some(start) = segment.start(self.size) else { return false };
        let whole = matches!(file.name.kind(), FileKind::Segment(_));
        self.route.needs_of_last(segment.timeline, start)
            || whole && self.route.needs_of_ancestor(segment.timeline, start)
    }

    /// Takes a file on the way that has been read. They come by address.
    pub(super) fn add(&mut self, file: &Read) {
        let Some(segment) = file.segment else { return };
        self.segments += 1;
        let Some(start) = segment.start(self.size) else { return };
        if segment.timeline == self.end_timeline {
            let whole = matches!(file.listed.name.kind(), FileKind::Segment(_));
            let last = if whole { &mut self.last_whole } else { &mut self.last_partial };
            // Of two encodings, the one that can be read.
            if last.is_none_or(|(at, end)| at != start || end.is_none()) {
                *last = Some((start, file.end));
            }
        }
    }

    /// Calls `each` with the finding of each stretch that is missing on the way.
    pub(super) fn gaps(&self, coverage: &Coverage, each: Each<'_>) -> Result<(), Stop> {
        let mut gap = |timeline, within| {
            let mut missing = coverage.uncovered(timeline, within);
            missing.try_for_each(|part| each(coverage.missing(timeline, part)))
        };
        for leg in &self.route.legs {
            gap(leg.timeline, leg.stretch)?;
        }
        let from = self.route.from;
        match self.last(coverage) {
            Some(to) => gap(self.end_timeline, Stretch { from, to }),
            // A timeline that has just begun has no segment yet: then its parent's end is the end.
            None if self.route.legs.iter().all(|leg| leg.stretch.is_empty()) => {
                gap(self.end_timeline, Stretch { from, to: from.advanced(1) })
            }
            None => Ok(()),
        }
    }

    /// Finds where the way ends, and returns the finding of a backup that is not consistent there.
    pub(super) fn complete(&mut self, coverage: &Coverage) -> Option<Finding> {
        self.end = self.reached(coverage);
        let (Some(stop), Some(end)) = (self.stop, self.end) else { return None };
        let reason =
            format!("the backup is consistent only at {stop}, and the WAL here ends at {end}");
        let file = SegmentName::holding(self.end_timeline, stop, self.size).to_string();
        let problem = Problem::new(FindingKind::Gap, reason);
        (end < stop).then_some(Finding { file, problem })
    }

    /// Returns the end of the last whole segment of the last timeline, if it is on the way.
    fn last(&self, coverage: &Coverage) -> Option<Lsn> {
        coverage.end(self.end_timeline).filter(|end| *end > self.route.from)
    }

    /// Finds the end of the last record without a gap before it.
    fn reached(&self, coverage: &Coverage) -> Option<Lsn> {
        let hole =
            |timeline, within| coverage.uncovered(timeline, within).next().map(|hole| hole.from);
        let mut at = self.start.segment_start(self.size);
        for leg in &self.route.legs {
            if let Some(hole) = hole(leg.timeline, leg.stretch) {
                return Some(hole);
            }
            at = at.max(leg.stretch.to);
        }
        let Some(end) = self.last(coverage) else { return Some(at) };
        if let Some(hole) = hole(self.end_timeline, Stretch { from: self.route.from, to: end }) {
            return Some(hole);
        }
        let ends_at = |last: Option<(Lsn, Option<End>)>, start: Lsn| match last {
            Some((at, Some(End::EndsAt { lsn, .. }))) if at == start => Some(lsn),
            _ => None,
        };
        let newest = Lsn(end.0.saturating_sub(self.size.bytes().into()));
        let partial = ends_at(self.last_partial, end);
        Some(partial.or_else(|| ends_at(self.last_whole, newest)).unwrap_or(end))
    }
}

/// Reads the backup's end from its history file, which the server archives after the backup.
fn stop_of(start: &Start, timeline: u32, visit: &dyn Visit, size: SegmentSize) -> Option<Lsn> {
    const MAX_LEN: u64 = 64 << 10;
    let segment = SegmentName::holding(timeline, start.lsn, size);
    let name = format!("{segment}.{:08X}.backup", start.lsn.segment_offset(size));
    let name = FileName::new(&name).ok()?;
    let found = Codec::ALL.into_iter().find_map(|codec| {
        visit.find(&StoredName::new(name.clone(), codec).into()).ok().flatten()
    })?;
    let mut text = Vec::new();
    found.decode().ok()?.take(MAX_LEN).read_to_end(&mut text).ok()?;
    Start::from_label(&String::from_utf8_lossy(&text)).ok()?.stop
}
