//! What a process knows of a copy, from one run to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use crate::encoding::codec::Codec;
use crate::store::identity::Identity;
use crate::store::{StoredName, Visit};
use crate::wal::name::{FileKind, SegmentName};

/// How many ranges, and how many other names, are kept of each kind. What finds no room is looked at again in the
/// next run.
const MOST: usize = 1 << 16;

/// After so long, a file that was not fit to be copied is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// What is known of the destination: what it has, durably and with the source's contents; and which files of the
/// source are not fit to be copied. Bounded, however many files there are: whole segments that follow one another
/// are kept as ranges.
#[derive(Debug, Default)]
pub struct Known {
    /// The destination's identity, once it was seen.
    pub(super) identity: Option<Identity>,
    /// Encoding, timeline and first segment of each range, and its last segment.
    ranges: BTreeMap<(Codec, u32, u64), u64>,
    others: BTreeSet<StoredName>,
    left: BTreeMap<StoredName, (Stamp, Instant)>,
    /// Files that another program was still writing at the last look.
    unfinished: BTreeSet<StoredName>,
    /// How many files were copied that are damaged.
    damaged: u64,
    /// A run has looked at every file.
    complete: bool,
    /// The destination failed since: names may be gone.
    doubtful: bool,
}

/// What tells a file of the source from another one that has its name later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) len: u64,
    pub(super) modified: Option<SystemTime>,
}

/// Segments of one address each, in order; those of 4 GB of WAL follow one another.
fn number(segment: SegmentName) -> u64 {
    u64::from(segment.log) << 32 | u64::from(segment.segment)
}

impl Known {
    /// Forgets all: another archive has come to the destination's path.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The destination has failed. Before anything that is known of it counts again, its names are looked for.
    pub fn doubt(&mut self) {
        self.doubtful = true;
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Returns whether a run has looked at everything that the source had.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// A run has looked at every file of the source.
    pub(super) fn completed(&mut self, source: &dyn Visit) {
        self.complete = true;
        self.doubtful = false;
        self.left.retain(|file, _| source.holds(&file.into()));
        self.unfinished.retain(|file| source.holds(&file.into()));
    }

    /// Returns how many files of the source are left out, and how many are at the destination and damaged.
    #[must_use]
    pub fn findings(&self) -> u64 {
        self.left.len() as u64 + self.damaged
    }

    pub(super) fn count_damaged(&mut self) {
        self.damaged += 1;
    }

    /// Notes a file that another program is still writing.
    pub(super) fn wait_for(&mut self, file: &StoredName) {
        if self.unfinished.len() < MOST {
            self.unfinished.insert(file.clone());
        }
    }

    /// Returns whether a file is not to be copied as it is, or not yet.
    pub(super) fn is_left_out(&self, file: &StoredName) -> bool {
        self.left.contains_key(file) || self.unfinished.contains(file)
    }

    /// Returns whether the destination has a file.
    pub(super) fn has(&self, file: &StoredName) -> bool {
        let FileKind::Segment(segment) = file.name.kind() else {
            return self.others.contains(file);
        };
        let (codec, timeline, at) = (file.codec, segment.timeline, number(segment));
        let range = self.ranges.range((codec, timeline, 0)..=(codec, timeline, at)).next_back();
        range.is_some_and(|(_, last)| at <= *last)
    }

    /// Notes that the destination has a file.
    pub(super) fn add(&mut self, file: &StoredName) {
        self.left.remove(file);
        self.unfinished.remove(file);
        let FileKind::Segment(segment) = file.name.kind() else {
            if self.others.len() < MOST {
                self.others.insert(file.clone());
            }
            return;
        };
        if self.has(file) {
            return;
        }
        let (codec, timeline, at) = (file.codec, segment.timeline, number(segment));
        let behind = at.checked_add(1).map(|next| (codec, timeline, next));
        let joined = behind.and_then(|behind| self.ranges.get(&behind)).copied();
        let last = joined.unwrap_or(at);
        let has_room = self.ranges.len() < MOST || joined.is_some();
        let before = self.ranges.range_mut((codec, timeline, 0)..(codec, timeline, at)).next_back();
        match before.filter(|(_, end)| end.checked_add(1) == Some(at)) {
            Some((_, end)) => *end = last,
            None if has_room => drop(self.ranges.insert((codec, timeline, at), last)),
            None => return,
        }
        if let Some(behind) = behind.filter(|_| joined.is_some()) {
            self.ranges.remove(&behind);
        }
    }

    /// Notes a file that is not fit to be copied.
    pub(super) fn leave(&mut self, file: &StoredName, stamp: Stamp) {
        if self.left.len() < MOST {
            self.left.insert(file.clone(), (stamp, Instant::now()));
        }
    }

    /// Returns whether a file is still the one that is not fit to be copied. After a while it is looked at all the
    /// same: what could not be read then may be readable now.
    pub(super) fn is_left(&self, source: &dyn Visit, file: &StoredName) -> bool {
        let Some((stamp, at)) = self.left.get(file) else { return false };
        let there = source.glance(&file.into()).ok().flatten();
        let now = there.map(|found| Stamp::of(&*found)).unwrap_or_default();
        now == *stamp && at.elapsed() < LOOK_AGAIN
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn file(timeline: u32, number: u32) -> StoredName {
        let name = format!("{timeline:08X}{:08X}{:08X}", number / 256, number % 256);
        StoredName::parse(&name).unwrap()
    }

    #[test]
    fn segments_in_any_order_are_ranges() {
        for step in [1, 3, 7, 11] {
            let mut known = Known::default();
            // All numbers below 26, each once, in another order for each step.
            let numbers = (0..26).map(|n| n * step % 26);
            for (count, n) in numbers.enumerate() {
                known.add(&file(1, n));
                known.add(&file(1, n));
                let expected: BTreeSet<u32> = (0..=count as u32).map(|n| n * step % 26).collect();
                for n in 0..30 {
                    assert_eq!(
                        known.has(&file(1, n)),
                        expected.contains(&n),
                        "{step}, {count}: {n}"
                    );
                }
                assert!(!known.has(&file(2, n)));
            }
            assert_eq!(known.ranges.len(), 1, "{:?}", known.ranges);
        }
    }

    #[test]
    fn other_names_and_encodings_are_files_of_their_own() {
        let mut known = Known::default();
        for name in ["00000002.history", "000000010000000000000003.zst"] {
            let file = StoredName::parse(name).unwrap();
            known.add(&file);
            assert!(known.has(&file));
        }
        for name in ["00000003.history", "000000010000000000000003", "000000010000000000000003.gz"]
        {
            assert!(!known.has(&StoredName::parse(name).unwrap()), "{name}");
        }
        known.forget();
        assert!(!known.has(&StoredName::parse("00000002.history").unwrap()));
    }
}
