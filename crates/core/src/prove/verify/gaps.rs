//! Gaps, by the names: what two looks at an archive agree on.

use std::time::{Duration, Instant};

use super::continuity;
use super::coverage::{Coverage, Each, Stop};
use super::reading::Reader;
use super::timelines::Histories;
use super::{Progress, VerifyError};
use crate::prove::finding::Findings;
use crate::store;
use crate::store::Store;
use crate::store::listing::{self, Listing, Walk};
use crate::wal::SegmentSize;

/// How long after the first look the second one begins at the earliest. What was missing before a later
/// segment, because that one was quicker, is there by then.
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// How often an archive is looked at while files are being removed from it.
const MOST_LOOKS: usize = 10;

/// Returns a finding for each stretch of segments, and each history file, that is missing from an archive,
/// according to the names, the history files and one segment's header. See [`super::verify`] for `watch`.
///
/// Names are read one by one while others come and go. So a gap counts only if two looks, begun at least
/// 2 s apart, both show it; an archive without a gap is looked at once.
///
/// # Errors
/// The archive could not be read, there is no memory for what it holds, or the run was cancelled.
pub fn gaps(
    store: &dyn Store,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<Findings, VerifyError> {
    let steps = store::Progress::default();
    let visit = store.visit(&steps)?;
    let visit = &*visit;
    let listing = Listing::read(visit, &mut |_, _| ())?;
    if listing.is_empty() {
        return Err(VerifyError::Nothing { path: visit.location().to_owned() });
    }
    let size = listing::segment_size(visit)?.unwrap_or(SegmentSize::DEFAULT);
    let mut histories = Histories::default();
    let mut looks = Looks {
        reader: &mut Reader::new(visit, None, 1, watch),
        size,
        shows: &|coverage, histories, each| {
            continuity::gaps(coverage, visit, &histories.timelines, each)
        },
    };
    let first = looks.look(&mut histories)?;
    let mut findings = Findings::default();
    looks.agree(first, &mut histories, &mut findings)?;
    findings.sort();
    Ok(findings)
}

/// Calls back with each gap that what has been seen shows.
type Shows<'l> = &'l dyn Fn(&Coverage, &Histories, Each<'_>) -> Result<(), Stop>;

/// How an archive is looked at, by the names.
pub(super) struct Looks<'l, 'r> {
    pub(super) reader: &'l mut Reader<'r>,
    /// The segment size.
    pub(super) size: SegmentSize,
    /// What a gap is.
    pub(super) shows: Shows<'l>,
}

impl Looks<'_, '_> {
    /// Looks at all names, and reads the history files that are new. Returns when it began, too.
    pub(super) fn look(
        &mut self,
        histories: &mut Histories,
    ) -> Result<(Coverage, Instant), VerifyError> {
        histories.read(self.reader, &mut |_| Ok(()))?;
        let visit = self.reader.visit;
        let (mut walk, mut coverage) = (Walk::files(visit), Coverage::new(self.size));
        while let Some(file) = walk.next().transpose()? {
            let added = coverage.add(file.name.kind(), None);
            added.map_err(|_| listing::no_memory(visit))?;
        }
        Ok((coverage, walk.begun()))
    }

    /// Adds the findings of the gaps that two looks agree on, and returns what is there according to them.
    pub(super) fn agree(
        &mut self,
        first: (Coverage, Instant),
        histories: &mut Histories,
        findings: &mut Findings,
    ) -> Result<Coverage, VerifyError> {
        let coverage = self.settle(first, histories)?;
        let each: Each<'_> = &mut |finding| Ok(findings.push(&finding)?);
        let told = (self.shows)(&coverage, histories, each);
        told.map_err(|_| listing::no_memory(self.reader.visit))?;
        Ok(coverage)
    }

    /// Looks again if the first look shows a gap, and returns what is there according to both.
    pub(super) fn settle(
        &mut self,
        (mut earlier, mut begun): (Coverage, Instant),
        histories: &mut Histories,
    ) -> Result<Coverage, VerifyError> {
        let visit = self.reader.visit;
        if !self.any(&earlier, histories)? {
            return Ok(earlier);
        }
        let mut looks = 1;
        loop {
            self.reader.wait_until(begun + BETWEEN_LOOKS)?;
            let later = self.look(histories)?;
            looks += 1;
            let agreed = Coverage::agreed(&earlier, &later.0);
            let agreed = agreed.map_err(|_| listing::no_memory(visit))?;
            // What is removed in no order leaves gaps for as long as that takes.
            let removing = looks < MOST_LOOKS && later.0.lacks_some_of(&earlier);
            if !removing || !self.any(&agreed, histories)? {
                return Ok(agreed);
            }
            (earlier, begun) = later;
        }
    }

    fn any(&self, coverage: &Coverage, histories: &Histories) -> Result<bool, VerifyError> {
        match (self.shows)(coverage, histories, &mut |_| Err(Stop::Found)) {
            Ok(()) => Ok(false),
            Err(Stop::Found) => Ok(true),
            Err(Stop::NoMemory) => Err(listing::no_memory(self.reader.visit).into()),
        }
    }
}
