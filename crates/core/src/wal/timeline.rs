//! Which timeline branched off which, where, and what a recovery needs of each.
//!
//! The only place that works this out. It computes from what history files say and opens none: callers
//! parse them ([`super::history::parse`]) and add them. [`Stretches`] is the other half: for which
//! addresses there are segments, and which are missing.
//!
//! The server's own rule (`tliOfPointInHistory` in `access/transam/timeline.c`): an address belongs
//! to the first ancestor that was left after it. The segment with a switch is read under the newer
//! timeline's name, which has the beginning of it as a copy.

use std::collections::BTreeMap;

use super::history::Ancestor;
use super::lsn::{Lsn, SegmentSize};

mod stretches;

pub use stretches::{Run, Stretch, Stretches};

/// A timeline that branched off another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// The new timeline.
    pub timeline: u32,
    /// Where it branched off: WAL of the old timeline counts up to here.
    pub switch: Lsn,
}

/// The segments that a recovery reads under one ancestor's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// The ancestor.
    pub timeline: u32,
    /// Whole segments, up to the one with the switch; empty if both switches lie in one segment.
    pub stretch: Stretch,
}

/// The way of a recovery to a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The timeline it leads to.
    pub timeline: u32,
    /// Where the first segment begins that is read under that timeline's own name.
    pub from: Lsn,
    /// What is read of its ancestors, the oldest first.
    pub legs: Vec<Leg>,
}

impl Route {
    /// Returns the timeline on which the way begins.
    #[must_use]
    pub fn start_timeline(&self) -> u32 {
        self.legs.first().map_or(self.timeline, |leg| leg.timeline)
    }

    /// Returns whether a segment of an ancestor is on the way.
    #[must_use]
    pub fn needs_of_ancestor(&self, timeline: u32, start: Lsn) -> bool {
        self.legs.iter().any(|leg| leg.timeline == timeline && leg.stretch.contains(start))
    }

    /// Returns whether a segment of the last timeline is on the way, which has no end there.
    #[must_use]
    pub fn needs_of_last(&self, timeline: u32, start: Lsn) -> bool {
        timeline == self.timeline && start >= self.from
    }

    /// Returns whether a segment is on the way.
    #[must_use]
    pub fn needs(&self, timeline: u32, start: Lsn) -> bool {
        self.needs_of_ancestor(timeline, start) || self.needs_of_last(timeline, start)
    }

    /// Returns under which timeline's name a segment is read; `None` before the way begins.
    #[must_use]
    pub fn timeline_at(&self, start: Lsn) -> Option<u32> {
        let leg = self.legs.iter().find(|leg| leg.stretch.contains(start));
        let last = (start >= self.from).then_some(self.timeline);
        leg.map(|leg| leg.timeline).or(last)
    }
}

/// The timelines whose history files are known.
///
/// Invariant: ancestors are in the order of the history file, so their numbers rise. Their
/// switches should rise too; the server does not check that, and nothing here relies on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timelines {
    /// `None` for a history file that is there and cannot be understood.
    histories: BTreeMap<u32, Option<Vec<Ancestor>>>,
}

impl Timelines {
    /// Adds the history file of `timeline`; `None` stands for one that cannot be understood. Of two for one
    /// timeline, the one that can be understood counts; if both can, the later one.
    pub fn add(&mut self, timeline: u32, ancestors: Option<Vec<Ancestor>>) {
        let known = self.histories.entry(timeline).or_default();
        *known = ancestors.or(known.take());
    }

    /// Returns whether the timeline has a history file, readable or not.
    #[must_use]
    pub fn has_history(&self, timeline: u32) -> bool {
        self.histories.contains_key(&timeline)
    }

    /// Returns the timeline's ancestors, the oldest first; none where its history is not known.
    #[must_use]
    pub fn ancestors(&self, timeline: u32) -> &[Ancestor] {
        match self.histories.get(&timeline) {
            Some(Some(ancestors)) => ancestors,
            _ => &[],
        }
    }

    /// Returns which timeline this one branched off, and where.
    #[must_use]
    pub fn parent(&self, timeline: u32) -> Option<Ancestor> {
        self.ancestors(timeline).last().copied()
    }

    /// Returns the timelines that branched off this one, by number.
    pub fn branches_of(&self, timeline: u32) -> impl Iterator<Item = Branch> {
        self.histories.keys().filter_map(move |branch| {
            let parent = self.parent(*branch).filter(|parent| parent.timeline == timeline)?;
            Some(Branch { timeline: *branch, switch: parent.switch })
        })
    }

    /// Returns where the way to `timeline` leaves `ancestor`; `None` if that is not one.
    #[must_use]
    pub fn left(&self, ancestor: u32, timeline: u32) -> Option<Lsn> {
        let of = |there: &&Ancestor| there.timeline == ancestor;
        self.ancestors(timeline).iter().find(of).map(|there| there.switch)
    }

    /// Returns whether `ancestor` is one of the ancestors of `timeline`.
    #[must_use]
    pub fn is_ancestor(&self, ancestor: u32, timeline: u32) -> bool {
        self.left(ancestor, timeline).is_some()
    }

    /// Returns whether the record at `at` on the timeline `own` is part of the history of
    /// `timeline`, so that a recovery can go from there to it.
    #[must_use]
    pub fn leads_to(&self, own: u32, at: Lsn, timeline: u32) -> bool {
        own == timeline || self.left(own, timeline).is_some_and(|switch| switch > at)
    }

    /// Returns the timeline that the address is part of in the history of `timeline`
    /// (`tliOfPointInHistory`); `None` if the history has a hole there.
    #[must_use]
    pub fn owner(&self, at: Lsn, timeline: u32) -> Option<u32> {
        let mut begin = Lsn::INVALID;
        let mut owner = None;
        for ancestor in self.ancestors(timeline) {
            if begin <= at && at < ancestor.switch {
                // Of two, the newer one, as the server goes through them from the newest on.
                owner = Some(ancestor.timeline);
            }
            begin = ancestor.switch;
        }
        if begin <= at { Some(timeline) } else { owner }
    }

    /// Returns the timeline for which a recovery from a backup on `start` heads by default
    /// (`findNewestTimeLine`): the server asks for one number after another until a history file is missing.
    #[must_use]
    pub fn heads_for(&self, start: u32) -> u32 {
        (start.saturating_add(1)..=u32::MAX)
            .take_while(|next| self.has_history(*next))
            .last()
            .unwrap_or(start)
    }

    /// Returns the timelines with a history file, by number.
    pub fn with_history(&self) -> impl Iterator<Item = u32> {
        self.histories.keys().copied()
    }

    /// Returns the timelines whose histories name this one as an ancestor, by number.
    pub fn descendants_of(&self, timeline: u32) -> impl Iterator<Item = Branch> {
        self.histories.keys().filter_map(move |branch| {
            Some(Branch { timeline: *branch, switch: self.left(timeline, *branch)? })
        })
    }

    /// Returns the newest timeline to which a recovery from `at` can go, of those whose history is
    /// known and of `others`, such as those with segments. With `own` unknown every timeline counts.
    #[must_use]
    pub fn newest(
        &self,
        others: impl IntoIterator<Item = u32>,
        own: Option<u32>,
        at: Lsn,
    ) -> Option<u32> {
        let known = self.histories.iter().filter(|(_, known)| known.is_some());
        let all = known.map(|(timeline, _)| *timeline).chain(others);
        all.filter(|timeline| own.is_none_or(|own| self.leads_to(own, at, *timeline))).max()
    }

    /// Returns the way of a recovery that begins with the record at `start` and goes to `timeline`.
    #[must_use]
    pub fn route(&self, timeline: u32, start: Lsn, size: SegmentSize) -> Route {
        let first = start.segment_start(size);
        let mut route = Route { timeline, from: first, legs: Vec::new() };
        let mut before = Lsn::default();
        for ancestor in self.ancestors(timeline) {
            let to = ancestor.switch.segment_start(size);
            if ancestor.switch > start {
                let from = first.max(before);
                let stretch = Stretch { from, to: to.max(from) };
                route.legs.push(Leg { timeline: ancestor.timeline, stretch });
                route.from = first.max(to);
            }
            before = to;
        }
        route
    }
}

#[cfg(test)]
mod tests;
