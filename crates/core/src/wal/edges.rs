//! Matches the ends and beginnings of segments that are checked in any order.

use std::collections::VecDeque;

use super::damage::Damage;
use super::edge::{Head, Tail, join};
use super::lsn::Lsn;
use super::record::Record;
use super::report::SegmentReport;

/// What came of two segments' edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// Where the two meet: the beginning of the second one.
    pub at: Lsn,
    /// What does not fit. It names the file that is damaged, which may be the first one.
    pub damage: Option<Damage>,
    /// The record that crosses, if it ended and its checksum is right.
    pub record: Option<Record>,
}

/// Keeps the edges of segments until their neighbours were checked too.
///
/// Bounded: beyond the capacity the oldest edge is dropped and stays unchecked, which
/// [`Edges::dropped`] counts.
#[derive(Debug)]
pub struct Edges {
    capacity: usize,
    /// Ends whose next segment was not checked yet.
    tails: VecDeque<Tail>,
    /// Beginnings whose segment before was not checked yet, with that segment's own end.
    heads: VecDeque<(Head, Option<Tail>)>,
    dropped: u64,
}

impl Edges {
    /// Keeps at most `capacity` ends and as many beginnings, some 300 bytes each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, tails: VecDeque::new(), heads: VecDeque::new(), dropped: 0 }
    }

    /// How many edges were given up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Hands out the end of the segment before the one at `start`, for a checker to carry on with.
    /// An edge that is taken must come back in a report, or it is lost.
    pub fn take(&mut self, timeline: u32, start: Lsn) -> Option<Tail> {
        let fits = |tail: &Tail| tail.timeline == timeline && tail.next == start;
        let position = self.tails.iter().position(fits)?;
        self.tails.remove(position)
    }

    /// Adds what a segment's check has left, and returns every edge that met its other side.
    pub fn add(&mut self, report: &SegmentReport) -> Vec<Met> {
        let mut met = Vec::new();
        let tail = report.tail.clone();
        let Some(head) = &report.head else {
            self.publish(tail, &mut met);
            return met;
        };
        let before = self.tails.iter().position(|tail| head.follows(tail));
        if let Some(before) = before.and_then(|position| self.tails.remove(position)) {
            let tail = meet(&before, head, tail, &mut met);
            self.publish(tail, &mut met);
            return met;
        }
        if tail.as_ref().is_some_and(Tail::is_resolved) {
            self.publish(tail.clone(), &mut met);
        }
        self.heads.push_back((head.clone(), tail));
        self.trim();
        met
    }

    /// Holds an end against the beginning that waits for it, and what that resolves against the
    /// next one; keeps it if none does.
    fn publish(&mut self, tail: Option<Tail>, met: &mut Vec<Met>) {
        let mut next = tail;
        while let Some(tail) = next.take().filter(Tail::is_resolved) {
            let waiting = self.heads.iter().position(|(head, _)| head.follows(&tail));
            let Some((head, after)) = waiting.and_then(|position| self.heads.remove(position))
            else {
                self.tails.push_back(tail);
                break;
            };
            // A resolved end was published when its segment was added.
            let unresolved = after.as_ref().is_some_and(|after| !after.is_resolved());
            let after = meet(&tail, &head, after, met);
            next = after.filter(|_| unresolved);
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.tails.len() > self.capacity {
            self.tails.pop_front();
            self.dropped += 1;
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
