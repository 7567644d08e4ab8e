//! Which segments are there, by their names.

use std::collections::TryReserveError;

use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::wal::name::FileKind;
use crate::wal::timeline::{Run, Stretch, Stretches};
use crate::wal::{Lsn, SegmentSize};

/// Takes a finding.
pub(super) type Each<'e> = &'e mut dyn FnMut(Finding) -> Result<(), Stop>;

/// Why findings are not looked for any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// One is enough.
    Found,
    /// There is no memory.
    NoMemory,
}

impl From<TryReserveError> for Stop {
    fn from(_: TryReserveError) -> Self {
        Self::NoMemory
    }
}

/// The segments of every timeline, by their names.
///
/// Invariant: what grows with the archive is reserved before it is used.
#[derive(Debug)]
pub(super) struct Coverage {
    pub(super) size: SegmentSize,
    /// Where there are whole segments.
    pub(super) whole: ByTimeline<Stretches>,
    /// Start of the last partial segment.
    partial: ByTimeline<Lsn>,
    /// Up to where the names say that there is, or was, WAL, if two looks agree on that.
    agreed: ByTimeline<Lsn>,
}

impl Coverage {
    /// Begins with none. `size` is used for segments whose header says nothing.
    pub(super) const fn new(size: SegmentSize) -> Self {
        Self {
            size,
            whole: ByTimeline::new(),
            partial: ByTimeline::new(),
            agreed: ByTimeline::new(),
        }
    }

    /// Adds a file by its name. A damaged file is there all the same: it has a finding of its own.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn add(
        &mut self,
        kind: FileKind,
        size: Option<SegmentSize>,
    ) -> Result<(), TryReserveError> {
        let size = size.unwrap_or(self.size);
        match kind {
            FileKind::Segment(segment) => {
                if let Some(from) = segment.start(size).or_else(|| segment.start(self.size)) {
                    let to = from.advanced(size.bytes().into());
                    self.whole.entry(segment.timeline)?.insert(Stretch { from, to })?;
                }
            }
            FileKind::Partial(segment) => {
                if let Some(start) = segment.start(size) {
                    let last = self.partial.entry(segment.timeline)?;
                    *last = start.max(*last);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns where there are whole segments of a timeline.
    pub(super) fn whole(&self, timeline: u32) -> &Stretches {
        const NONE: &Stretches = &Stretches::new();
        self.whole.get(timeline).unwrap_or(NONE)
    }

    /// Returns the timelines of which there is a whole segment, by number.
    pub(super) fn written(&self) -> impl Iterator<Item = u32> {
        self.whole.iter().map(|(timeline, _)| timeline)
    }

    /// Returns the timelines of which there is a partial segment, and where the last one begins.
    pub(super) fn partials(&self) -> impl Iterator<Item = (u32, Lsn)> {
        self.partial.iter().map(|(timeline, start)| (timeline, *start))
    }

    /// Returns the end of the last whole segment.
    pub(super) fn end(&self, timeline: u32) -> Option<Lsn> {
        self.whole(timeline).end()
    }

    /// Returns up to where the names say that there is, or was, WAL of a timeline.
    pub(super) fn reach(&self, timeline: u32) -> Option<Lsn> {
        let agreed = self.agreed.get(timeline).copied();
        agreed.or_else(|| self.end(timeline).max(self.partial.get(timeline).copied()))
    }

    /// Returns the stretches of `within` that no whole segment of the timeline covers.
    pub(super) fn uncovered(
        &self,
        timeline: u32,
        within: Stretch,
    ) -> impl Iterator<Item = Stretch> {
        self.whole(timeline).uncovered(within)
    }

    /// Makes the finding of segments that are missing.
    pub(super) fn missing(&self, timeline: u32, stretch: Stretch) -> Finding {
        let Run { first, last, count } = stretch.segments(timeline, self.size);
        let reason = match count {
            1 => "the segment is missing".to_owned(),
            many => format!("{many} segments are missing, {first} to {last}"),
        };
        Finding { file: first.to_string(), problem: Problem::new(FindingKind::Gap, reason) }
    }

    /// Returns what two looks at one archive, one after the other, agree on: what either has seen is there,
    /// and nothing counts that lies before what the second one has seen (it was removed since) or behind what
    /// the first one has (it has come since). A gap in this is one that both have seen.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn agreed(earlier: &Self, later: &Self) -> Result<Self, TryReserveError> {
        let mut agreed = Self::new(later.size);
        for (timeline, whole) in later.whole.iter() {
            let Some(from) = whole.first() else { continue };
            let Some(to) = earlier.reach(timeline).min(later.reach(timeline)) else { continue };
            let within = Stretch { from, to };
            let both = agreed.whole.entry(timeline)?;
            both.extend(whole.covered(within))?;
            both.extend(earlier.whole(timeline).covered(within))?;
            *agreed.agreed.entry(timeline)? = to;
            if let Some(partial) = later.partial.get(timeline) {
                *agreed.partial.entry(timeline)? = *partial;
            }
        }
        Ok(agreed)
    }

    /// Returns whether a segment that was there has been removed since.
    pub(super) fn lacks_some_of(&self, earlier: &Self) -> bool {
        earlier.whole.iter().any(|(timeline, whole)| {
            whole.iter().any(|stretch| self.uncovered(timeline, stretch).next().is_some())
        })
    }
}

/// A value for each of some timelines, by number.
#[derive(Debug)]
pub(super) struct ByTimeline<T>(Vec<(u32, T)>);

impl<T> ByTimeline<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn position(&self, timeline: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&timeline, |(timeline, _)| *timeline)
    }

    pub(super) fn get(&self, timeline: u32) -> Option<&T> {
        self.0.get(self.position(timeline).ok()?).map(|(_, value)| value)
    }

    /// Returns the timeline's value, a new one if it has none.
    #[allow(clippy::indexing_slicing, reason = "the entry was found or made there")]
    pub(super) fn entry(&mut self, timeline: u32) -> Result<&mut T, TryReserveError>
    where
        T: Default,
    {
        self.0.try_reserve(1)?;
        let position = self.position(timeline).unwrap_or_else(|position| {
            self.0.insert(position, (timeline, T::default()));
            position
        });
        let (_, value) = &mut self.0[position];
        Ok(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.0.iter().map(|(timeline, value)| (*timeline, value))
    }
}
