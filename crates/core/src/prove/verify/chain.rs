//! What a recovery needs from its start to the newest WAL, timeline by timeline.

use std::io::Read as _;

use super::Start;
use super::continuity::Coverage;
use super::reading::{Read, timelines_of};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::listing;
use crate::store::{StoredName, Visit};
use crate::wal::name::{FileKind, SegmentName};
use crate::wal::timeline::{Route, Stretch};
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
    pub(super) size: SegmentSize,
    route: Route,
}

impl Chain {
    /// Finds the way, by the history files.
    pub(super) fn find(
        start: &Start,
        files: &[StoredName],
        histories: &[Read],
        visit: &dyn Visit,
    ) -> Self {
        let size = listing::segment_size(visit, files).unwrap_or(SegmentSize::DEFAULT);
        let timelines = timelines_of(histories);
        let there = files.iter().filter_map(|file| file.name.segment()).map(|s| s.timeline);
        let newest = timelines.newest(there, start.timeline, start.lsn);
        let end_timeline = newest.or(start.timeline).unwrap_or(1);
        let route = timelines.route(end_timeline, start.lsn, size);
        let start_timeline = route.start_timeline();
        let stop = start.stop.or_else(|| stop_of(start, start_timeline, files, visit, size));
        Self {
            start: start.lsn,
            start_timeline,
            end_timeline,
            end: None,
            stop,
            segments: 0,
            size,
            route,
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

    /// Finds where the way ends, and returns the findings of what is missing on it.
    pub(super) fn complete(&mut self, coverage: &Coverage, read: &[Read]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut gap = |timeline, within| {
            let missing = coverage.uncovered(timeline, within);
            findings.extend(missing.into_iter().map(|part| coverage.missing(timeline, part)));
        };
        for leg in &self.route.legs {
            gap(leg.timeline, leg.stretch);
        }
        let from = self.route.from;
        let last = coverage.end(self.end_timeline).filter(|end| *end > from);
        match last {
            Some(to) => gap(self.end_timeline, Stretch { from, to }),
            // A timeline that has just begun has no segment yet: then its parent's end is the end.
            None if self.route.legs.iter().all(|leg| leg.stretch.is_empty()) => {
                gap(self.end_timeline, Stretch { from, to: from.advanced(1) });
            }
            None => {}
        }
        self.segments = read.iter().filter(|file| file.segment.is_some()).count();
        self.end = self.reached(coverage, read, last);
        if let (Some(stop), Some(end)) = (self.stop, self.end)
            && end < stop
        {
            let reason =
                format!("the backup is consistent only at {stop}, and the WAL here ends at {end}");
            let file = SegmentName::holding(self.end_timeline, stop, self.size).to_string();
            findings.push(Finding { file, problem: Problem::new(FindingKind::Gap, reason) });
        }
        findings
    }

    /// Finds the end of the last record without a gap before it.
    fn reached(&self, coverage: &Coverage, read: &[Read], last: Option<Lsn>) -> Option<Lsn> {
        let mut at = self.start.segment_start(self.size);
        for leg in &self.route.legs {
            if let Some(hole) = coverage.uncovered(leg.timeline, leg.stretch).first() {
                return Some(hole.from);
            }
            at = at.max(leg.stretch.to);
        }
        let Some(end) = last else { return Some(at) };
        let own = Stretch { from: self.route.from, to: end };
        if let Some(hole) = coverage.uncovered(self.end_timeline, own).first() {
            return Some(hole.from);
        }
        let bytes = u64::from(self.size.bytes());
        let ends_at = |name: SegmentName, partial: bool| {
            let of_kind = |file: &&Read| match file.listed.name.kind() {
                FileKind::Segment(segment) => !partial && segment == name,
                FileKind::Partial(segment) => partial && segment == name,
                _ => false,
            };
            match read.iter().find(of_kind)?.end.as_ref()? {
                End::EndsAt { lsn, .. } => Some(*lsn),
                _ => None,
            }
        };
        if coverage.partial_start(self.end_timeline) == Some(end) {
            let name = SegmentName::holding(self.end_timeline, end, self.size);
            if let Some(lsn) = ends_at(name, true) {
                return Some(lsn);
            }
        }
        let newest = Lsn(end.0.saturating_sub(bytes));
        let name = SegmentName::holding(self.end_timeline, newest, self.size);
        Some(ends_at(name, false).unwrap_or(end))
    }
}

/// Reads the backup's end from its history file, which the server archives after the backup.
fn stop_of(
    start: &Start,
    timeline: u32,
    files: &[StoredName],
    visit: &dyn Visit,
    size: SegmentSize,
) -> Option<Lsn> {
    const MAX_LEN: u64 = 64 << 10;
    let segment = SegmentName::holding(timeline, start.lsn, size);
    let name = format!("{segment}.{:08X}.backup", start.lsn.segment_offset(size));
    let file = files.iter().find(|file| file.name.as_str() == name)?;
    let found = visit.find(&file.into()).ok()??;
    let mut text = Vec::new();
    found.decode().ok()?.take(MAX_LEN).read_to_end(&mut text).ok()?;
    Start::from_label(&String::from_utf8_lossy(&text)).ok()?.stop
}
