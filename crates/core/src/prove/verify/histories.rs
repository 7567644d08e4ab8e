//! What history files show: which timeline a recovery heads for, and what must exist because they name it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::coverage::Coverage;
use crate::encoding::codec::Codec;
use crate::prove::examine::{self, Expectation};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::{StoredName, Visit};
use crate::sys::read_full;
use crate::wal::name::{FileName, SegmentName};
use crate::wal::segment::HEADER_LEN;
use crate::wal::timeline::{Stretch, Stretches, Timelines};
use crate::wal::{
    LongPageHeader, Lsn, Record, RecordHeader, SegmentChecker, SegmentSize, SegmentSpec,
};
use crate::words;

/// A history file whose timeline has no segment is no finding until it is so old: the first segment may be on
/// its way.
const ORPHAN_AFTER: Duration = Duration::from_secs(3600);

/// What an archive holds, by the names and the history files.
pub(super) struct Shelf<'a> {
    pub(super) visit: &'a dyn Visit,
    pub(super) timelines: &'a Timelines,
    /// Where there are segments. A recovery never asks for a partial one.
    pub(super) coverage: &'a Coverage,
}

/// How a segment begins.
struct Beginning {
    /// Of its first page.
    page_timeline: u32,
    /// What its first record names as the record before, if it begins with one.
    prev: Option<Lsn>,
}

/// Where a default recovery goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// The timeline of the backup that it begins with.
    pub from: u32,
    /// The timeline for which it heads.
    pub timeline: u32,
    /// Which timeline that one left, and where.
    pub left: Option<(u32, Lsn)>,
    /// When its history file was archived, by its modification time.
    pub since: Option<SystemTime>,
    /// The end of the parent's WAL, if that goes on behind the branch: it is not part of the way.
    pub aside: Option<Lsn>,
}

impl Shelf<'_> {
    /// Returns the segment size.
    pub(super) fn size(&self) -> SegmentSize {
        self.coverage.size
    }

    /// Returns the timelines of which there is a whole segment.
    pub(super) fn written(&self) -> impl Iterator<Item = u32> {
        self.coverage.written()
    }

    fn is_written(&self, timeline: u32) -> bool {
        self.of(timeline).first().is_some()
    }

    /// Returns the timelines that have segments or are named by a history file.
    pub(super) fn mentioned(&self) -> BTreeSet<u32> {
        let ancestors = self.timelines.with_history().flat_map(|t| self.timelines.ancestors(t));
        self.written().chain(ancestors.map(|ancestor| ancestor.timeline)).collect()
    }

    /// Returns the timeline of the last partial segment that begins here.
    pub(super) fn partial_at(&self, at: Lsn) -> Option<u32> {
        self.coverage.partials().find(|(_, start)| *start == at).map(|(timeline, _)| timeline)
    }

    fn of(&self, timeline: u32) -> &Stretches {
        self.coverage.whole(timeline)
    }

    /// Returns whether the whole segment that begins here is there.
    pub(super) fn has(&self, timeline: u32, at: Lsn) -> bool {
        self.of(timeline).first_in(Stretch { from: at, to: at.advanced(1) }).is_some()
    }

    /// Returns where later WAL begins that shows that the segment here must exist, or where that which needs
    /// it begins: a later segment of the timeline, or one that branched off in a later segment.
    pub(super) fn goes_on_at(&self, timeline: u32, at: Lsn) -> Option<Lsn> {
        let later = self.of(timeline).first_in(Stretch { from: at, to: Lsn(u64::MAX) });
        let branches = self.timelines.descendants_of(timeline);
        let branch = branches.map(|branch| branch.switch.segment_start(self.size()));
        later.into_iter().chain(branch.filter(|switch| *switch > at).min()).min()
    }

    /// Returns what shows that the history file of a timeline must exist for a recovery from a backup on
    /// `start`: the server looks for it before it looks for later ones.
    pub(super) fn needs_history(&self, timeline: u32, start: u32) -> Option<String> {
        if timeline < 2 {
            return None;
        }
        if self.is_written(timeline) {
            return Some(format!("segments of timeline {timeline} are there"));
        }
        if timeline <= start {
            return None;
        }
        let later = self.timelines.descendants_of(timeline).next()?;
        Some(format!("the history of timeline {} names it", later.timeline))
    }

    /// Returns the encodings of a file that there are.
    pub(super) fn stored(&self, name: &str) -> Vec<StoredName> {
        let Ok(name) = FileName::new(name) else { return Vec::new() };
        let all = Codec::ALL.into_iter().map(|codec| StoredName::new(name.clone(), codec));
        all.filter(|stored| self.visit.holds(&stored.into())).collect()
    }

    fn name(&self, timeline: u32, at: Lsn) -> String {
        SegmentName::holding(timeline, at, self.size()).to_string()
    }

    /// Returns how a segment begins, if that can be read.
    fn beginning(&self, name: &str) -> Option<Beginning> {
        self.stored(name).iter().find_map(|file| {
            let found = self.visit.find(&file.into()).ok()??;
            let mut bytes = [0; HEADER_LEN + RecordHeader::SIZE];
            let got = read_full(&mut found.decode().ok()?, &mut bytes).ok()?;
            let page = LongPageHeader::parse(bytes.get(..got)?).ok()?.page;
            let first = RecordHeader::read(bytes.get(HEADER_LEN..got)?);
            let prev = first.filter(|_| !page.info.is_contrecord()).map(|record| record.prev);
            Some(Beginning { page_timeline: page.timeline, prev })
        })
    }

    /// Returns where the last record begins that ends in a segment.
    fn last_record(&self, name: &str) -> Option<Lsn> {
        self.stored(name).iter().find_map(|file| {
            let found = self.visit.find(&file.into()).ok()??;
            let spec = SegmentSpec {
                timeline: file.name.segment()?.timeline,
                start: file.name.segment()?.start(self.size())?,
                segment_size: self.size(),
                system_identifier: None,
            };
            let mut last = None;
            let mut checker =
                SegmentChecker::with_visitor(spec, None, |record: &Record| last = Some(record.lsn));
            let (mut decoder, mut buffer) = (found.decode().ok()?, vec![0; 256 << 10]);
            loop {
                let got = read_full(&mut decoder, &mut buffer).ok()?;
                if got == 0 {
                    break;
                }
                checker.feed(buffer.get(..got)?);
            }
            drop(checker);
            last
        })
    }

    /// Returns where a recovery from a backup on the timeline goes that sets no target timeline.
    pub(super) fn heading(&self, from: u32) -> Heading {
        let timeline = self.timelines.heads_for(from);
        self.towards(from, timeline)
    }

    /// Returns where a recovery to a timeline comes from.
    pub(super) fn towards(&self, from: u32, timeline: u32) -> Heading {
        let parent = self.timelines.parent(timeline).filter(|_| timeline != from);
        // Towards a timeline of which nothing was written, the parent's WAL is replayed to its end.
        let own = self.is_written(timeline);
        let end = parent.filter(|_| own).and_then(|parent| self.of(parent.timeline).end());
        let behind =
            |switch: Lsn| switch.segment_start(self.size()).advanced(self.size().bytes().into());
        Heading {
            from,
            timeline,
            left: parent.map(|parent| (parent.timeline, parent.switch)),
            since: self.modified(timeline),
            aside: parent.zip(end).filter(|(p, end)| *end > behind(p.switch)).map(|(_, end)| end),
        }
    }

    fn modified(&self, timeline: u32) -> Option<SystemTime> {
        let file = self.stored(&format!("{timeline:08X}.history")).into_iter().next()?;
        self.visit.facts(&file.to_string()).ok()??.modified
    }

    /// Returns the finding of a history file for which a default recovery heads although no WAL of its timeline
    /// is there; `None` if the timeline is not such a one, or has just begun.
    pub(super) fn orphan(&self, timeline: u32) -> Option<Finding> {
        let written = |timeline| {
            self.is_written(timeline)
                || self.coverage.partials().any(|(partial, _)| partial == timeline)
        };
        let descends = |branch: crate::wal::timeline::Branch| written(branch.timeline);
        if !self.timelines.has_history(timeline)
            || written(timeline)
            || self.timelines.descendants_of(timeline).any(descends)
        {
            return None;
        }
        let age = SystemTime::now().duration_since(self.modified(timeline)?).ok()?;
        if age < ORPHAN_AFTER {
            return None;
        }
        let left = self.timelines.parent(timeline).map_or_else(String::new, |parent| {
            format!(", which left timeline {} at {},", parent.timeline, parent.switch)
        });
        let reason = format!(
            "no segment of timeline {timeline}{left} has been archived for {}, and a default recovery heads for it",
            words::count(age.as_secs() / 60, "minute")
        );
        let problem = Problem::new(FindingKind::OrphanHistory, reason);
        Some(Finding { file: format!("{timeline:08X}.history"), problem })
    }

    /// Returns the findings that history files give by themselves: those that others name and that are missing,
    /// and those for which a default recovery heads in vain.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let lowest = self.written().next();
        for timeline in self.timelines.with_history() {
            findings.extend(self.orphan(timeline));
            for ancestor in self.timelines.ancestors(timeline) {
                let name = format!("{:08X}.history", ancestor.timeline);
                // Without segments of an older timeline there is nothing to recover that would ask for it.
                // That of a timeline with segments is missed with those.
                if ancestor.timeline > 1
                    && lowest.is_some_and(|lowest| lowest < ancestor.timeline)
                    && !self.is_written(ancestor.timeline)
                    && !self.timelines.has_history(ancestor.timeline)
                    && !findings.iter().any(|finding: &Finding| finding.file == name)
                {
                    let reason = format!(
                        "the history of timeline {timeline} names timeline {}, and a recovery from an older timeline ends its search for timelines where a history file is missing",
                        ancestor.timeline
                    );
                    findings.push(Finding {
                        file: name,
                        problem: Problem::new(FindingKind::Gap, reason),
                    });
                }
            }
        }
        findings
    }

    /// Returns the findings of segments whose WAL ends early although a timeline branched off at their end. Names
    /// do not tell that the first segment of that timeline goes on where they end.
    pub(super) fn short_before_branches(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        for timeline in self.timelines.with_history() {
            let Some(parent) = self.timelines.parent(timeline) else { continue };
            let before = Lsn(parent.switch.0.saturating_sub(1)).segment_start(self.size());
            if parent.switch != parent.switch.segment_start(self.size())
                || !self.has(parent.timeline, before)
            {
                continue;
            }
            let stored = self.stored(&self.name(parent.timeline, before)).into_iter().next();
            if let Some(file) = stored
                && let Some(end) = self.ends_early(&file)
                && !findings.iter().any(|finding| finding.file == file.to_string())
            {
                let reason = format!(
                    "its WAL ends at {end}, and timeline {timeline} left timeline {} at {}, behind it",
                    parent.timeline, parent.switch
                );
                let problem = Problem::new(FindingKind::Corrupt, reason);
                findings.push(Finding { file: file.to_string(), problem });
            }
        }
        findings
    }

    /// Returns where a sound segment's WAL ends, if that is early.
    fn ends_early(&self, file: &StoredName) -> Option<Lsn> {
        let found = self.visit.find(&file.into()).ok()??;
        let expected = Expectation::default();
        let found = examine::examine(&*found, &file.name, &expected, &mut |_| Ok(())).ok()?;
        found.ends_early.filter(|_| found.problem.is_none())
    }

    /// Calls `each` with the stretches that timelines without a segment need of their ancestors and that are
    /// missing: the history file shows that the WAL up to the branch was written.
    pub(super) fn missing_before_branches<E>(
        &self,
        each: &mut dyn FnMut(u32, Stretch) -> Result<(), E>,
    ) -> Result<(), E> {
        for timeline in self.timelines.with_history().filter(|t| !self.is_written(*t)) {
            let route = self.timelines.route(timeline, Lsn::default(), self.size());
            // What was cleaned up before the oldest segment is not missing.
            let oldest =
                route.legs.iter().filter_map(|leg| self.of(leg.timeline).first_in(leg.stretch));
            let Some(reach) = oldest.min() else { continue };
            for leg in route.legs {
                let needed = Stretch { from: reach.max(leg.stretch.from), ..leg.stretch };
                let mut holes = self.of(leg.timeline).uncovered(needed);
                holes.try_for_each(|hole| each(leg.timeline, hole))?;
            }
        }
        Ok(())
    }
}

/// Returns whether the way to `target` names a timeline of which nothing was written: a promotion was broken off
/// behind its history file, and the next recovery went on with the WAL of the timeline before.
///
/// The records decide, not the names: the first segment of the timeline that came next begins with a page of an
/// older one, although the timeline in question is said to have begun before it. If it begins with a segment of
/// its own, its first record names the last one of the older timeline.
pub(super) fn is_unwritten(shelf: &Shelf<'_>, timeline: u32, target: u32) -> bool {
    if shelf.is_written(timeline) {
        return false;
    }
    let ancestors = shelf.timelines.ancestors(target);
    let Some(at) = ancestors.iter().position(|ancestor| ancestor.timeline == timeline) else {
        return false;
    };
    let (Some(own), next) = (ancestors.get(at), ancestors.get(at + 1)) else { return false };
    let next = next.map_or(target, |next| next.timeline);
    let Some(beginning) = shelf.beginning(&shelf.name(next, own.switch)) else { return false };
    if beginning.page_timeline < timeline {
        return true;
    }
    let before = Lsn(own.switch.0.saturating_sub(1));
    let older = ancestors.get(..at).unwrap_or_default().iter().rev();
    let mut written =
        older.filter(|older| shelf.has(older.timeline, before.segment_start(shelf.size())));
    own.switch == own.switch.segment_start(shelf.size())
        && beginning.prev.is_some()
        && written.next().is_some_and(|older| {
            shelf.last_record(&shelf.name(older.timeline, before)) == beginning.prev
        })
}
