//! Sets of addresses: the stretches that segments cover, and those that they do not.

use std::collections::TryReserveError;

use crate::sys;
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
/// Invariant: its stretches are in order, are not empty, do not overlap and do not touch. So its memory grows
/// with the number of holes, not with that of segments: 16 bytes each. It is reserved before it is used,
/// because a set as large as an archive makes it must be able to fail without ending the process. Stretches
/// that come in order are added at its end, at no cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stretches {
    all: Vec<Stretch>,
}

impl Stretches {
    /// Returns the empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { all: Vec::new() }
    }

    /// Adds a stretch.
    ///
    /// # Errors
    /// There is no memory for it. The set stays as it was.
    pub fn insert(&mut self, stretch: Stretch) -> Result<(), TryReserveError> {
        if stretch.is_empty() {
            return Ok(());
        }
        if self.all.len() == self.all.capacity() {
            self.all.try_reserve(1)?;
            sys::headroom()?;
        }
        // Those that touch or overlap it become one with it.
        let first = self.all.partition_point(|there| there.to < stretch.from);
        let mut merged = stretch;
        let touched = self.all.iter().skip(first).take_while(|there| there.from <= stretch.to);
        let mut count = 0;
        for there in touched {
            (merged.from, merged.to) = (merged.from.min(there.from), merged.to.max(there.to));
            count += 1;
        }
        match self.all.get_mut(first).filter(|_| count > 0) {
            Some(there) => {
                *there = merged;
                self.all.drain(first + 1..first + count);
            }
            None => self.all.insert(first, merged),
        }
        Ok(())
    }

    /// Adds each stretch.
    ///
    /// # Errors
    /// There is no memory for it. The set holds some of them then.
    pub fn extend(
        &mut self,
        stretches: impl IntoIterator<Item = Stretch>,
    ) -> Result<(), TryReserveError> {
        stretches.into_iter().try_for_each(|stretch| self.insert(stretch))
    }

    /// Returns the stretches in order, each as long as possible.
    pub fn iter(&self) -> impl Iterator<Item = Stretch> {
        self.all.iter().copied()
    }

    /// Returns the first address.
    #[must_use]
    pub fn first(&self) -> Option<Lsn> {
        self.all.first().map(|stretch| stretch.from)
    }

    /// Returns the first address behind the last stretch.
    #[must_use]
    pub fn end(&self) -> Option<Lsn> {
        self.all.last().map(|stretch| stretch.to)
    }

    /// Returns the stretches that reach into `within` or begin behind it, in order.
    fn from(&self, within: Stretch) -> impl Iterator<Item = Stretch> {
        let before = self.all.partition_point(|stretch| stretch.to <= within.from);
        self.all.iter().skip(before).copied()
    }

    /// Returns the first address of the set that lies in `within`.
    #[must_use]
    pub fn first_in(&self, within: Stretch) -> Option<Lsn> {
        let first = self.from(within).next()?.from.max(within.from);
        within.contains(first).then_some(first)
    }

    /// Returns the parts of `within` that are in the set, in order.
    pub fn covered(&self, within: Stretch) -> impl Iterator<Item = Stretch> {
        self.from(within).take_while(move |stretch| stretch.from < within.to).map(move |stretch| {
            Stretch { from: stretch.from.max(within.from), to: stretch.to.min(within.to) }
        })
    }

    /// Returns the parts of `within` that are not in the set, in order.
    pub fn uncovered(&self, within: Stretch) -> impl Iterator<Item = Stretch> {
        let behind = Stretch { from: within.to, to: within.to };
        let mut at = within.from;
        self.covered(within).chain([behind]).filter_map(move |stretch| {
            let missing = Stretch { from: at, to: stretch.from };
            at = stretch.to;
            (!missing.is_empty()).then_some(missing)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn stretch(from: u64, to: u64) -> Stretch {
        Stretch { from: Lsn(from), to: Lsn(to) }
    }

    fn of(stretches: impl IntoIterator<Item = Stretch>) -> Stretches {
        let mut set = Stretches::new();
        set.extend(stretches).unwrap();
        set
    }

    fn set(stretches: &[(u64, u64)]) -> Stretches {
        of(stretches.iter().map(|(from, to)| stretch(*from, *to)))
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
        assert_eq!(set(&[(1, 2)]).uncovered(stretch(7, 7)).count(), 0);
        assert_eq!(set(&[(1, 2), (5, 9)]).uncovered(stretch(7, 3)).count(), 0);
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
                of(parts.iter().map(|(from, len)| stretch(*from, *from + *len)));
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
            let missing: Vec<Stretch> = set.uncovered(within).collect();
            prop_assert_eq!(numbers(&missing), lacks);
            prop_assert!(missing.windows(2).all(|pair| matches!(pair, [a, b] if a.to < b.from)));
            let has: Vec<u64> = (from..from + len).filter(|at| plain.contains(at)).collect();
            let there: Vec<Stretch> = set.covered(within).collect();
            prop_assert_eq!(numbers(&there), has);
            let first = plain.range(from..from + len).next().map(|at| Lsn(*at));
            prop_assert_eq!(set.first_in(within), first);
        }
    }
}
