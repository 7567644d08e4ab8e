//! Which segments are fetched next.

use std::collections::BTreeSet;

use crate::wal::name::SegmentName;
use crate::wal::{Lsn, SegmentSize};

/// Returns the segment behind another one on its timeline.
pub(super) fn next(segment: SegmentName, size: SegmentSize) -> Option<SegmentName> {
    let address = segment.start(size)?.0.checked_add(size.bytes().into())?;
    Some(SegmentName::holding(segment.timeline, Lsn(address), size))
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// Look which segments there are behind this one.
    List(SegmentName),
    /// Fetch this one.
    Fetch(SegmentName),
}

/// The segments behind the one that was delivered last, as many as may be fetched ahead.
#[derive(Debug)]
pub(super) struct Plan {
    size: SegmentSize,
    most: u32,
    /// How many may be under way at a time. All at once would share what storage and network give, and the first one,
    /// which the server wants next, would come as late as the last: so there is one more for each that has come.
    at_once: usize,
    /// How many may be fetched before it is known that they are there.
    unseen: usize,
    /// The one that was delivered last.
    asked: Option<SegmentName>,
    /// Those that are being fetched.
    under_way: BTreeSet<SegmentName>,
    /// Those that are here.
    done: BTreeSet<SegmentName>,
    /// What is not there, or failed. It is not tried again, nor what is behind it, before another one was delivered:
    /// neither absence nor failure is kept.
    vain: Option<SegmentName>,
    /// Which there are behind a segment, where one look tells that of as many as may be fetched.
    listed: Option<(SegmentName, BTreeSet<SegmentName>)>,
    is_listing: bool,
    /// One look tells of one name.
    has_no_list: bool,
}

impl Plan {
    pub(super) fn new(size: SegmentSize, most: u32, at_once: u32, unseen: usize) -> Self {
        Self {
            size,
            most,
            at_once: at_once as usize,
            unseen,
            asked: None,
            under_way: BTreeSet::new(),
            done: BTreeSet::new(),
            vain: None,
            listed: None,
            is_listing: false,
            has_no_list: false,
        }
    }

    /// Returns the segments that may be fetched now, in the order in which the server will ask for them.
    fn window(&self) -> impl Iterator<Item = SegmentName> + '_ {
        let first = self.asked.and_then(|asked| next(asked, self.size));
        std::iter::successors(first, |segment| next(*segment, self.size)).take(self.most as usize)
    }

    pub(super) fn is_wanted(&self, segment: SegmentName) -> bool {
        self.window().any(|wanted| wanted == segment)
    }

    /// A segment was delivered.
    pub(super) fn delivered(&mut self, segment: SegmentName) {
        self.asked = Some(segment);
        self.vain = None;
        let wanted: BTreeSet<_> = self.window().collect();
        self.done.retain(|done| wanted.contains(done));
        // Behind the last one that was seen there may be others by now.
        self.listed = self.listed.take().filter(|(behind, names)| {
            behind.timeline == segment.timeline
                && *behind <= segment
                && names.last() >= wanted.last()
        });
    }

    /// Returns what is to be done next. `None` if there is nothing to do before something happens.
    fn next(&self) -> Option<Job> {
        let is_free = |segment: &SegmentName| {
            !self.under_way.contains(segment)
                && !self.done.contains(segment)
                && self.vain.is_none_or(|vain| *segment < vain)
        };
        if self.under_way.len() >= self.at_once {
            return None;
        }
        let wanted = self.window().find(is_free)?;
        match &self.listed {
            _ if self.has_no_list => Some(Job::Fetch(wanted)),
            _ if self.is_listing => {
                let is_next = self.window().take(self.unseen).any(|next| next == wanted);
                is_next.then_some(Job::Fetch(wanted))
            }
            None => self.asked.map(Job::List),
            // Otherwise it is a hole, or the end: the call that is asked for it looks for itself.
            Some((_, names)) => names.contains(&wanted).then_some(Job::Fetch(wanted)),
        }
    }

    /// The same, and takes it as begun.
    pub(super) fn take(&mut self) -> Option<Job> {
        let job = self.next()?;
        match job {
            Job::List(_) => self.is_listing = true,
            Job::Fetch(segment) => drop(self.under_way.insert(segment)),
        }
        Some(job)
    }

    /// These are behind the segment that was asked about; `None` if one look does not tell.
    pub(super) fn listed(&mut self, behind: SegmentName, names: Option<BTreeSet<SegmentName>>) {
        self.is_listing = false;
        self.has_no_list = names.is_none();
        // Others may have been delivered meanwhile; on another timeline it says nothing.
        let is_before =
            self.asked.is_some_and(|now| now.timeline == behind.timeline && behind <= now);
        self.listed = names.filter(|_| is_before).map(|names| (behind, names));
    }

    /// The look failed.
    pub(super) fn list_failed(&mut self) {
        self.is_listing = false;
        let first = self.window().next();
        self.vain = first;
    }

    /// A segment is here now, or will not be.
    pub(super) fn fetched(&mut self, segment: SegmentName, is_here: bool) {
        self.under_way.remove(&segment);
        if is_here {
            self.done.insert(segment);
            self.at_once = (self.at_once + 1).min(self.most as usize);
        } else if self.is_wanted(segment) {
            self.vain = Some(self.vain.map_or(segment, |vain| vain.min(segment)));
        }
    }

    /// Returns how many segments are being fetched.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Returns whether nothing is being done.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty() && !self.is_listing
    }

    /// Returns whether nothing is being done, and nothing is to be done next.
    pub(super) fn is_done(&self) -> bool {
        self.is_idle() && self.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn segment(number: u32) -> SegmentName {
        SegmentName { timeline: 1, log: 0, segment: number }
    }

    fn listed(numbers: impl IntoIterator<Item = u32>) -> Option<BTreeSet<SegmentName>> {
        Some(numbers.into_iter().map(segment).collect())
    }

    fn jobs(plan: &mut Plan) -> Vec<Job> {
        std::iter::from_fn(|| plan.take()).collect()
    }

    fn fetches(numbers: impl IntoIterator<Item = u32>) -> Vec<Job> {
        numbers.into_iter().map(|number| Job::Fetch(segment(number))).collect()
    }

    #[test]
    fn what_comes_behind_a_segment_is_fetched_in_order_and_no_more_than_may_be() {
        let mut plan = Plan::new(SIZE, 3, 3, 0);
        assert_eq!(jobs(&mut plan), [], "nothing was asked for");
        plan.delivered(segment(4));
        assert_eq!(jobs(&mut plan), [Job::List(segment(4))]);
        plan.listed(segment(4), listed(5..100));
        assert_eq!(jobs(&mut plan), fetches([5, 6, 7]));
        plan.fetched(segment(6), true);
        assert_eq!(jobs(&mut plan), []);
        plan.fetched(segment(5), true);
        plan.delivered(segment(5));
        assert_eq!(jobs(&mut plan), fetches([8]));
        assert!(plan.is_wanted(segment(8)) && !plan.is_wanted(segment(5)));
        // The server comes to another place: what is there is not wanted any more.
        plan.delivered(SegmentName { timeline: 2, ..segment(0xFF) });
        let there = SegmentName { timeline: 2, log: 1, segment: 0 };
        assert!(plan.is_wanted(there) && !plan.is_wanted(segment(8)));
        assert_eq!(jobs(&mut plan), [Job::List(SegmentName { timeline: 2, ..segment(0xFF) })]);
    }

    /// With all of them at once, the one that the server wanted first came as late as the last one.
    #[test]
    fn there_are_more_at_a_time_the_more_have_come() {
        let mut plan = Plan::new(SIZE, 4, 2, 0);
        plan.delivered(segment(4));
        assert_eq!(jobs(&mut plan), [Job::List(segment(4))]);
        plan.listed(segment(4), listed(5..100));
        assert_eq!(jobs(&mut plan), fetches([5, 6]));
        plan.fetched(segment(5), true);
        assert_eq!(jobs(&mut plan), fetches([7, 8]));
        plan.delivered(segment(6));
        plan.fetched(segment(6), true);
        assert_eq!(jobs(&mut plan), fetches([9, 10]));
        // What failed is no sign that more would do better.
        plan.fetched(segment(10), false);
        plan.delivered(segment(7));
        assert_eq!(jobs(&mut plan), fetches([10]));
    }

    /// A list takes as long as the head of a segment, and nearly always says that the next ones are there.
    #[test]
    fn the_next_ones_may_be_fetched_while_it_is_looked_what_there_is() {
        let mut plan = Plan::new(SIZE, 4, 4, 2);
        plan.delivered(segment(4));
        assert_eq!(plan.take(), Some(Job::List(segment(4))));
        assert_eq!(jobs(&mut plan), fetches([5, 6]));
        plan.fetched(segment(5), true);
        assert_eq!(jobs(&mut plan), []);
        plan.listed(segment(4), listed(5..100));
        assert_eq!(jobs(&mut plan), fetches([7, 8]));
        // At the end they are not there, and nor is what is behind them.
        let mut plan = Plan::new(SIZE, 4, 4, 2);
        plan.delivered(segment(4));
        assert_eq!(jobs(&mut plan).len(), 3);
        plan.fetched(segment(5), false);
        plan.fetched(segment(6), false);
        plan.listed(segment(4), listed([]));
        assert_eq!(jobs(&mut plan), []);
        assert!(plan.is_done());
    }

    /// A standby at the end of the archive asked for eight names that are not there, behind each segment.
    #[test]
    fn behind_the_end_one_look_is_made_for_each_segment() {
        let mut plan = Plan::new(SIZE, 3, 3, 0);
        plan.delivered(segment(4));
        assert_eq!(jobs(&mut plan), [Job::List(segment(4))]);
        plan.listed(segment(4), listed([5]));
        assert_eq!(jobs(&mut plan), fetches([5]));
        plan.fetched(segment(5), true);
        assert_eq!(jobs(&mut plan), []);
        plan.delivered(segment(5));
        assert_eq!(jobs(&mut plan), [Job::List(segment(5))]);
        plan.listed(segment(5), listed([]));
        assert_eq!(jobs(&mut plan), []);
        // It could not be looked: not again before another segment was delivered.
        plan.delivered(segment(6));
        assert_eq!(jobs(&mut plan), [Job::List(segment(6))]);
        plan.list_failed();
        assert_eq!(jobs(&mut plan), []);
        assert!(plan.is_done());
    }

    /// A standby that restarts after a crash of one of its processes asks for earlier segments once more: the list
    /// held what is behind them up to the last name, and not them.
    #[test]
    fn a_list_says_nothing_of_what_is_before_it() {
        let mut plan = Plan::new(SIZE, 3, 3, 0);
        plan.delivered(segment(100));
        assert_eq!(jobs(&mut plan), [Job::List(segment(100))]);
        plan.listed(segment(100), listed(101..200));
        assert_eq!(jobs(&mut plan), fetches([101, 102, 103]));
        (101..104).for_each(|number| plan.fetched(segment(number), true));
        plan.delivered(segment(50));
        assert_eq!(jobs(&mut plan), [Job::List(segment(50))]);
        // The server went on meanwhile.
        plan.delivered(segment(51));
        plan.listed(segment(50), listed(51..60));
        assert_eq!(jobs(&mut plan), fetches([52, 53, 54]));
        (52..55).for_each(|number| plan.fetched(segment(number), true));
        let other = SegmentName { timeline: 2, ..segment(54) };
        plan.delivered(other);
        assert_eq!(jobs(&mut plan), [Job::List(other)]);
        plan.delivered(segment(54));
        plan.listed(other, Some([SegmentName { timeline: 2, ..segment(55) }].into()));
        assert_eq!(jobs(&mut plan), [Job::List(segment(54))]);
    }

    #[test]
    fn neither_absence_nor_failure_is_kept() {
        let mut plan = Plan::new(SIZE, 3, 3, 0);
        plan.delivered(segment(4));
        assert_eq!(jobs(&mut plan), [Job::List(segment(4))]);
        // Where each name takes a look of its own.
        plan.listed(segment(4), None);
        assert_eq!(jobs(&mut plan), fetches([5, 6, 7]));
        plan.fetched(segment(6), false);
        plan.fetched(segment(7), true);
        assert!(!plan.is_done());
        plan.fetched(segment(5), true);
        assert!(plan.is_done());
        assert_eq!(jobs(&mut plan), []);
        plan.delivered(segment(5));
        assert_eq!(jobs(&mut plan), fetches([6, 8]));
    }

    #[test]
    fn a_segment_has_one_behind_it_up_to_the_last_address() {
        let last = SegmentName { timeline: 1, log: u32::MAX, segment: 0xFF };
        assert_eq!(next(last, SIZE), None);
        assert_eq!(
            next(segment(0xFF), SIZE),
            Some(SegmentName { timeline: 1, log: 1, segment: 0 })
        );
    }
}
