//! Sets of addresses: the stretches that segments cover, and those that they do not.

use std::collections::BTreeMap;

use crate::wal::lsn::{Lsn, SegmentSize};
use crate::wal::name::SegmentName;

/// WAL from one address up to, and without, another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    /// The first address.
    pub from: Lsn,
    /// The first address behind it.
    pub to: Lsn,
}

impl Stretch {
    /// Returns whether no address lies in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }

    /// Returns whether the address lies in it.
    #[must_use]
    pub fn contains(&self, at: Lsn) -> bool {
        (self.from..self.to).contains(&at)
    }

    /// Returns the names of the segments that it touches. An empty stretch touches the segment that it lies
    /// in.
    #[must_use]
    pub fn segments(&self, timeline: u32, size: SegmentSize) -> Run {
        let last = Lsn(self.to.0.saturating_sub(1)).max(self.from);
        Run {
            first: SegmentName::holding(timeline, self.from, size),
            last: SegmentName::holding(timeline, last, size),
            count: self.to.distance_from(self.from).div_ceil(size.bytes().into()).max(1),
        }
    }
}

/// Segments that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first one.
    pub first: SegmentName,
    /// The last one.
    pub last: SegmentName,
    /// How many there are.
    pub count: u64,
}

/// A set of addresses.
///
/// Invariant: its stretches are not empty, do not overlap and do not touch. So its memory grows with the
/// number of holes, not with that of segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stretches {
    /// The end of each stretch, by its beginning.
    ends: BTreeMap<Lsn, Lsn>,
}

impl Stretches {
    /// Returns the empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ends: BTreeMap::new() }
    }

    /// Adds a stretch.
    pub fn insert(&mut self, stretch: Stretch) {
        if stretch.is_empty() {
            return;
        }
        let Stretch { mut from, mut to } = stretch;
        // From the last stretch that begins early enough to touch it, back to one that ends before it.
        while let Some((&start, &end)) = self.ends.range(..=to).next_back()
            && end >= from
        {
            self.ends.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.ends.insert(from, to);
    }

    /// Returns the stretches in order, each as long as possible.
    pub fn iter(&self) -> impl Iterator<Item = Stretch> {
        self.ends.iter().map(|(from, to)| Stretch { from: *from, to: *to })
    }

    /// Returns the first address.
    #[must_use]
    pub fn first(&self) -> Option<Lsn> {
        self.ends.first_key_value().map(|(from, _)| *from)
    }

    /// Returns the first address behind the last stretch.
    #[must_use]
    pub fn end(&self) -> Option<Lsn> {
        self.ends.last_key_value().map(|(_, to)| *to)
    }

    /// Returns the first address of the set that lies in `within`.
    #[must_use]
    pub fn first_in(&self, within: Stretch) -> Option<Lsn> {
        let mut before = self.ends.range(..=within.from);
        let first = match before.next_back() {
            Some((_, to)) if *to > within.from => within.from,
            _ => *self.ends.range(within.from..).next()?.0,
        };
        within.contains(first).then_some(first)
    }

    /// Returns the parts of `within` that are not in the set, in order.
    #[must_use]
    pub fn uncovered(&self, within: Stretch) -> Vec<Stretch> {
        let (mut missing, mut at) = (Vec::new(), within.from);
        for stretch in self.iter().filter(|stretch| stretch.to > within.from) {
            if stretch.from >= within.to {
                break;
            }
            if stretch.from > at {
                missing.push(Stretch { from: at, to: stretch.from });
            }
            at = stretch.to;
        }
        if at < within.to {
            missing.push(Stretch { from: at, to: within.to });
        }
        missing
    }
}

impl Extend<Stretch> for Stretches {
    fn extend<T: IntoIterator<Item = Stretch>>(&mut self, stretches: T) {
        stretches.into_iter().for_each(|stretch| self.insert(stretch));
    }
}

impl FromIterator<Stretch> for Stretches {
    fn from_iter<T: IntoIterator<Item = Stretch>>(stretches: T) -> Self {
        let mut set = Self::new();
        set.extend(stretches);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn stretch(from: u64, to: u64) -> Stretch {
        Stretch { from: Lsn(from), to: Lsn(to) }
    }

    fn set(stretches: &[(u64, u64)]) -> Stretches {
        stretches.iter().map(|(from, to)| stretch(*from, *to)).collect()
    }

    fn all(set: &Stretches) -> Vec<Stretch> {
        set.iter().collect()
    }

    #[test]
    fn stretches_that_touch_or_overlap_become_one() {
        assert_eq!(all(&set(&[(3, 5), (1, 3)])), [stretch(1, 5)]);
        assert_eq!(all(&set(&[(1, 3), (7, 9), (2, 8)])), [stretch(1, 9)]);
        assert_eq!(all(&set(&[(1, 9), (3, 4)])), [stretch(1, 9)]);
        assert_eq!(all(&set(&[(1, 3), (4, 6)])), [stretch(1, 3), stretch(4, 6)]);
    }

    #[test]
    fn an_empty_stretch_adds_nothing_and_has_no_holes() {
        assert_eq!(set(&[(4, 4), (5, 3)]), Stretches::new());
        assert_eq!(set(&[(1, 2)]).uncovered(stretch(7, 7)), []);
        assert_eq!(set(&[(1, 2), (5, 9)]).uncovered(stretch(7, 3)), []);
    }

    #[test]
    fn a_stretch_is_named_by_the_segments_it_touches() {
        let size = SegmentSize::DEFAULT;
        let name = |segment| SegmentName { timeline: 3, log: 0, segment };
        let (two, four) = (Lsn(0x200_0000), Lsn(0x400_0000));
        let run = Stretch { from: two, to: four }.segments(3, size);
        assert_eq!(run, Run { first: name(2), last: name(3), count: 2 });
        let run = Stretch { from: two, to: two.advanced(1) }.segments(3, size);
        assert_eq!(run, Run { first: name(2), last: name(2), count: 1 });
    }

    #[test]
    fn the_last_segment_of_all_has_a_name_too() {
        let size = SegmentSize::DEFAULT;
        let last = SegmentName { timeline: 1, log: u32::MAX, segment: 255 };
        let from = Lsn(u64::MAX).segment_start(size);
        let to = from.advanced(size.bytes().into());
        let run = Stretch { from, to }.segments(1, size);
        assert_eq!(run, Run { first: last, last, count: 1 });
    }

    proptest! {
        /// The set against one of single numbers.
        #[test]
        fn it_holds_what_was_put_in_and_lacks_the_rest(
            parts in prop::collection::vec((0_u64..40, 0_u64..12), 0..12),
            from in 0_u64..60,
            len in 0_u64..60,
        ) {
            let plain: BTreeSet<u64> =
                parts.iter().flat_map(|(from, len)| *from..*from + *len).collect();
            let set: Stretches =
                parts.iter().map(|(from, len)| stretch(*from, *from + *len)).collect();
            let numbers = |stretches: &[Stretch]| -> Vec<u64> {
                stretches.iter().flat_map(|stretch| stretch.from.0..stretch.to.0).collect()
            };
            let there = all(&set);
            prop_assert_eq!(numbers(&there), plain.iter().copied().collect::<Vec<_>>());
            prop_assert!(there.windows(2).all(|pair| matches!(pair, [a, b] if a.to < b.from)));
            prop_assert_eq!(set.first(), plain.first().map(|at| Lsn(*at)));
            prop_assert_eq!(set.end(), plain.last().map(|at| Lsn(*at + 1)));
            let within = stretch(from, from + len);
            let lacks: Vec<u64> = (from..from + len).filter(|at| !plain.contains(at)).collect();
            prop_assert_eq!(numbers(&set.uncovered(within)), lacks);
            let first = plain.range(from..from + len).next().map(|at| Lsn(*at));
            prop_assert_eq!(set.first_in(within), first);
        }
    }
}
