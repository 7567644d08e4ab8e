//! Matches the ends and beginnings of segments that are checked in any order.
//!
//! The one place that does so: the archiver, which checks segments as the server hands them over,
//! and `walsafe verify`, which goes through an archive by address.

use std::collections::VecDeque;

use super::damage::Damage;
use super::edge::{Head, Tail, join};
use super::lsn::Lsn;
use super::record::Record;
use super::report::SegmentReport;

/// The result of matching two segments' edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Where the two meet: the beginning of the second one.
    pub at: Lsn,
    /// What does not fit. It names the file that is damaged, which may be the first one.
    pub damage: Option<Damage>,
    /// The record that crosses, if it ended and its checksum is right.
    pub record: Option<Record>,
}

/// Keeps the edges of segments until their neighbours have been checked too.
///
/// Several segments may follow one end: that of its own timeline, those of timelines that branched off, and
/// their partial forms. So an end stays after it was met, and a beginning is dropped.
///
/// Bounded: beyond the capacity the oldest edge is dropped, an end that was met before one that was
/// not. One that was never met stays unchecked, which [`Edges::dropped`] counts.
#[derive(Debug)]
pub struct Edges {
    capacity: usize,
    /// All of them are resolved, and each segment has only one.
    tails: VecDeque<Kept>,
    heads: VecDeque<Waiting>,
    dropped: u64,
}

/// The end of a segment.
#[derive(Debug)]
struct Kept {
    tail: Tail,
    /// A segment behind it was checked.
    met: bool,
}

/// The beginning of a segment, when the segment before it has not been checked yet, and its own end.
#[derive(Debug)]
struct Waiting {
    head: Head,
    after: Option<Tail>,
}

impl Edges {
    /// Keeps at most `capacity` ends and as many beginnings, some 300 bytes each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, tails: VecDeque::new(), heads: VecDeque::new(), dropped: 0 }
    }

    /// Returns how many edges were dropped before they met their other side.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Hands out the end of the segment before the one at `start`, for a checker to continue with. An edge
    /// that is taken must come back in a report, otherwise it is lost.
    pub fn take(&mut self, timeline: u32, start: Lsn) -> Option<Tail> {
        let fits = |kept: &Kept| kept.tail.timeline == timeline && kept.tail.next == start;
        let position = self.tails.iter().position(fits)?;
        self.tails.remove(position).map(|kept| kept.tail)
    }

    /// Forgets what only segments before `start` could meet, without counting it as dropped. A caller that
    /// adds segments by address calls this before each, and needs no other bound.
    pub fn forget_before(&mut self, start: Lsn) {
        self.tails.retain(|kept| kept.tail.next >= start);
        self.heads.retain(|waiting| waiting.head.start >= start);
    }

    /// Adds the edges from a segment's check, and returns every edge that met its other side.
    pub fn add(&mut self, report: &SegmentReport) -> Vec<Met> {
        self.add_edges(report.head.clone(), report.tail.clone())
    }

    /// Adds a segment's beginning and end, as far as they are known, and returns every edge that
    /// met its other side.
    pub fn add_edges(&mut self, head: Option<Head>, tail: Option<Tail>) -> Vec<Met> {
        let (mut met, mut tail) = (Vec::new(), tail);
        if let Some(head) = head {
            match self.before(&head) {
                Some(before) => tail = meet(&before, &head, tail, &mut met),
                None => self.heads.push_back(Waiting { head, after: tail.clone() }),
            }
        }
        self.publish(tail, &mut met);
        self.trim();
        met
    }

    /// Returns the end of the segment before: preferably that of the same timeline, otherwise that of a
    /// timeline which it branched off.
    fn before(&mut self, head: &Head) -> Option<Tail> {
        let follows = |kept: &Kept| head.follows(&kept.tail);
        let own = |kept: &Kept| follows(kept) && kept.tail.timeline == head.timeline;
        let position =
            self.tails.iter().position(own).or_else(|| self.tails.iter().position(follows))?;
        let kept = self.tails.get_mut(position)?;
        kept.met = true;
        Some(kept.tail.clone())
    }

    /// Joins an end with every beginning that waits for it, and likewise the ends that this resolves. An
    /// end that is not resolved is kept with its own beginning only.
    fn publish(&mut self, tail: Option<Tail>, met: &mut Vec<Met>) {
        let mut resolved: Vec<Tail> = tail.into_iter().filter(Tail::is_resolved).collect();
        while let Some(tail) = resolved.pop() {
            let waiting = self.waiting_for(&tail);
            self.keep(&tail, !waiting.is_empty());
            for Waiting { head, after } in waiting {
                // An end that was resolved already was published when its segment was added.
                let unresolved = after.as_ref().is_some_and(|after| !after.is_resolved());
                let after = meet(&tail, &head, after, met);
                resolved.extend(after.filter(|after| unresolved && after.is_resolved()));
            }
        }
    }

    /// Takes out the beginnings that follow an end.
    fn waiting_for(&mut self, tail: &Tail) -> Vec<Waiting> {
        let mut waiting = Vec::new();
        let mut position = 0;
        while let Some(there) = self.heads.get(position) {
            if there.head.follows(tail) {
                waiting.extend(self.heads.remove(position));
            } else {
                position += 1;
            }
        }
        waiting
    }

    /// Keeps an end in place of what was known of the same segment, for example from another encoding of
    /// it.
    fn keep(&mut self, tail: &Tail, mut met: bool) {
        self.tails.retain(|kept| {
            let same = (kept.tail.timeline, kept.tail.next) == (tail.timeline, tail.next);
            met |= same && kept.met;
            !same
        });
        self.tails.push_back(Kept { tail: tail.clone(), met });
    }

    fn trim(&mut self) {
        while self.tails.len() > self.capacity {
            let position = self.tails.iter().position(|kept| kept.met).unwrap_or(0);
            self.dropped += u64::from(self.tails.remove(position).is_some_and(|kept| !kept.met));
        }
        while self.heads.len() > self.capacity {
            self.heads.pop_front();
            self.dropped += 1;
        }
    }
}

/// Joins two edges; returns the second segment's end with what is now known of it.
fn meet(before: &Tail, head: &Head, after: Option<Tail>, met: &mut Vec<Met>) -> Option<Tail> {
    let Some(joined) = join(before, head, after.as_ref()) else { return after };
    met.push(Met { at: head.segment(), damage: joined.damage, record: joined.record });
    joined.tail
}
