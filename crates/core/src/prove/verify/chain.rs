//! What a recovery needs from its start to the newest WAL, timeline by timeline.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::continuity::{Leg, Timelines, legs};
use super::{Read, Start};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::directory::reading::Archived;
use crate::store::listing::{self, Listed};
use crate::sys::Dir;
use crate::wal::history::Ancestor;
use crate::wal::name::{FileKind, SegmentName};
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
    /// The end of the last record that is there without a gap.
    pub end: Option<Lsn>,
    /// The address that a backup needs to be consistent, if it is known.
    pub stop: Option<Lsn>,
    /// Segments on the way.
    pub segments: usize,
    pub(super) size: SegmentSize,
    legs: Vec<Leg>,
    /// Where the last timeline's first segment on the way begins.
    last_from: Lsn,
}

impl Chain {
    /// Finds the way, by the history files.
    pub(super) fn find(start: &Start, files: &[Listed], histories: &[Read], dir: &Dir) -> Self {
        let size = listing::segment_size(dir, files).unwrap_or(SegmentSize::DEFAULT);
        let mut known: BTreeMap<u32, &[Ancestor]> = BTreeMap::new();
        for read in histories {
            if let (FileKind::History { timeline }, Some(ancestors)) =
                (read.listed.name.kind(), &read.history)
            {
                known.insert(timeline, ancestors);
            }
        }
        let descends = |timeline: u32| match start.timeline {
            None => true,
            Some(own) if own == timeline => true,
            Some(own) => known.get(&timeline).is_some_and(|ancestors| {
                ancestors.iter().any(|a| a.timeline == own && a.switch > start.lsn)
            }),
        };
        let there = files.iter().filter_map(|file| file.name.segment()).map(|s| s.timeline);
        let end_timeline = there
            .chain(known.keys().copied())
            .filter(|timeline| descends(*timeline))
            .max()
            .or(start.timeline)
            .unwrap_or(1);
        let ancestors = known.get(&end_timeline).copied().unwrap_or_default();
        let passed = ancestors.iter().filter(|a| a.switch > start.lsn);
        let start_timeline = passed.clone().next().map_or(end_timeline, |a| a.timeline);
        let first = start.lsn.segment_start(size);
        let legs: Vec<Leg> = legs(ancestors, size)
            .into_iter()
            .zip(ancestors)
            .filter(|(_, ancestor)| ancestor.switch > start.lsn)
            .map(|(leg, _)| Leg { from: leg.from.max(first), ..leg })
            .collect();
        let last_from = legs.last().map_or(first, |leg| leg.to.max(first));
        let stop = start.stop.or_else(|| stop_of(start, start_timeline, files, dir, size));
        Self {
            start: start.lsn,
            start_timeline,
            end_timeline,
            end: None,
            stop,
            segments: 0,
            size,
            legs,
            last_from,
        }
    }

    /// Tells whether a file lies on the way.
    pub(super) fn needs(&self, file: &Listed) -> bool {
        let Some(segment) = file.name.segment() else { return false };
        let Some(start) = segment.start(self.size) else { return false };
        let leg = |leg: &Leg| {
            leg.timeline == segment.timeline && (leg.from..leg.to.max(leg.from)).contains(&start)
        };
        let last = segment.timeline == self.end_timeline && start >= self.last_from;
        last || matches!(file.name.kind(), FileKind::Segment(_)) && self.legs.iter().any(leg)
    }

    /// Tells what is missing on the way, and where it ends.
    pub(super) fn complete(&mut self, timelines: &Timelines, read: &[Read]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut gap = |timeline, from, to| {
            for stretch in timelines.uncovered(timeline, from, to) {
                findings.push(timelines.missing(timeline, stretch).finding());
            }
        };
        for leg in &self.legs {
            gap(leg.timeline, leg.from, leg.to.max(leg.from));
        }
        let last = timelines.end(self.end_timeline).filter(|end| *end > self.last_from);
        match last {
            Some(end) => gap(self.end_timeline, self.last_from, end),
            // A timeline that was just begun has nothing yet; then its parent's end is the end.
            None if !self.legs.iter().any(|leg| leg.from < leg.to) => {
                gap(self.end_timeline, self.last_from, self.last_from.advanced(1));
            }
            None => {}
        }
        self.segments = read.iter().filter(|file| file.segment.is_some()).count();
        self.end = self.reached(timelines, read, last);
        if let (Some(stop), Some(end)) = (self.stop, self.end)
            && end < stop
        {
            let reason =
                format!("the backup is consistent at {stop} only, and the WAL here ends at {end}");
            let file = SegmentName::holding(self.end_timeline, stop, self.size).to_string();
            findings.push(Finding { file, problem: Problem::new(FindingKind::Gap, reason) });
        }
        findings
    }

    /// Finds the end of the last record without a gap before it.
    fn reached(&self, timelines: &Timelines, read: &[Read], last: Option<Lsn>) -> Option<Lsn> {
        let mut at = self.start.segment_start(self.size);
        for leg in &self.legs {
            let first = timelines.uncovered(leg.timeline, leg.from, leg.to.max(leg.from));
            if let Some((hole, _)) = first.first() {
                return Some(*hole);
            }
            at = at.max(leg.to);
        }
        let Some(end) = last else { return Some(at) };
        let holes = timelines.uncovered(self.end_timeline, self.last_from, end);
        if let Some((hole, _)) = holes.first() {
            return Some(*hole);
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
        if timelines.partial_start(self.end_timeline) == Some(end) {
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
    files: &[Listed],
    dir: &Dir,
    size: SegmentSize,
) -> Option<Lsn> {
    const MAX_LEN: u64 = 64 << 10;
    let segment = SegmentName::holding(timeline, start.lsn, size);
    let name = format!("{segment}.{:08X}.backup", start.lsn.segment_offset(size));
    let file = files.iter().find(|file| file.name.as_str() == name)?;
    let archived = Archived::open(dir, file.stored_name.clone(), file.codec).ok()??;
    let mut text = Vec::new();
    archived.decode().ok()?.take(MAX_LEN).read_to_end(&mut text).ok()?;
    Start::from_label(&String::from_utf8_lossy(&text)).ok()?.stop
}
