//! Files compared with their neighbours: records that cross, and encodings of one name.
//!
//! The files come by address, so what is kept of those before is bounded.

use std::collections::{BTreeMap, VecDeque};

use super::reading::Read;
use crate::encoding::digest::Digest;
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::StoredName;
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::{Damage, Edges, Lsn, SegmentSize};

/// How many ends of segments are kept at one address, and how many names: those of as many timelines.
const MOST_KEPT: usize = 4096;

/// Joins the end of each segment with the beginning of the next, partial or not, over timeline
/// switches too.
///
/// A record that runs through many segments is resolved on the way. At one address, the older timeline comes
/// first.
pub(super) struct Joints {
    /// For each segment size: a cluster's may have been changed.
    edges: BTreeMap<SegmentSize, Edges>,
    /// The sound files at the last two addresses, and whether one was found to be damaged.
    recent: VecDeque<Recent>,
}

struct Recent {
    listed: StoredName,
    segment: SegmentName,
    start: Lsn,
    whole: bool,
    blamed: bool,
}

impl Joints {
    pub(super) const fn new() -> Self {
        Self { edges: BTreeMap::new(), recent: VecDeque::new() }
    }

    /// Takes the next file, and returns what is wrong where it meets those before it.
    pub(super) fn add(&mut self, file: &mut Read) -> Vec<Finding> {
        // What is damaged or another cluster's has a finding, and says nothing of its neighbours.
        let (Some(segment), Some(size), None) = (file.segment, file.size, &file.problem) else {
            return Vec::new();
        };
        let Some(start) = segment.start(size) else { return Vec::new() };
        let before = Lsn(start.0.saturating_sub(size.bytes().into()));
        while self.recent.front().is_some_and(|recent| recent.start < before)
            || self.recent.len() >= MOST_KEPT
        {
            self.recent.pop_front();
        }
        // If the WAL continues, it does so behind the whole segment, not behind a partial one.
        let whole = matches!(file.listed.name.kind(), FileKind::Segment(_));
        let listed = file.listed.clone();
        self.recent.push_back(Recent { listed, segment, start, whole, blamed: false });
        let (head, tail) = (file.head.take(), file.tail.take().filter(|_| whole));
        let edges = self.edges.entry(size).or_insert_with(|| Edges::new(MOST_KEPT));
        edges.forget_before(start);
        let met = edges.add_edges(head, tail);
        met.into_iter().filter_map(|met| self.blame(&met.damage?, size)).collect()
    }

    /// Attributes damage to the file that it names: the last one, or the whole one before it.
    fn blame(&mut self, damage: &Damage, size: SegmentSize) -> Option<Finding> {
        let named = |recent: &Recent| {
            recent.segment.timeline == damage.timeline && recent.start == damage.segment
        };
        let last = self.recent.len().saturating_sub(1);
        let position = if self.recent.get(last).is_some_and(named) {
            Some(last)
        } else {
            self.recent.iter().position(|recent| recent.whole && named(recent))
        };
        let file = match position.and_then(|position| self.recent.get_mut(position)) {
            Some(recent) if recent.blamed => return None,
            Some(recent) => {
                recent.blamed = true;
                recent.listed.to_string()
            }
            // Too many files are at this address.
            None => SegmentName::holding(damage.timeline, damage.segment, size).to_string(),
        };
        let reason = format!("{damage}, where it meets its neighbour");
        Some(Finding { file, problem: Problem::new(FindingKind::Corrupt, reason) })
    }
}

/// Finds encodings of one name that hold different contents. They follow one another.
#[derive(Default)]
pub(super) struct Encodings {
    /// The first sound file of a name.
    first: Option<(FileName, StoredName, Digest)>,
}

impl Encodings {
    /// Takes the next file, and returns what is wrong with it.
    pub(super) fn add(&mut self, file: &Read) -> Option<Problem> {
        let content = file.content.filter(|_| file.problem.is_none())?;
        match &self.first {
            Some((name, other, first)) if *name == file.listed.name => {
                let reason = format!("its contents differ from those of {other}");
                (*first != content).then(|| Problem::new(FindingKind::Duplicate, reason))
            }
            _ => {
                self.first = Some((file.listed.name.clone(), file.listed.clone(), content));
                None
            }
        }
    }
}
