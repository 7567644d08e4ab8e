//! What is missing from an archive, for those who show it beside what is there.

use super::continuity;
use super::gaps::Looks;
use super::reading::Reader;
use super::timelines::Histories;
use super::{Progress, VerifyError};
use crate::prove::finding::{Finding, FindingKind};
use crate::store::Visit;
use crate::store::listing;
use crate::wal::SegmentSize;
use crate::wal::timeline::Run;

/// What is missing from an archive, by the names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// The segments, in the order of their timelines and addresses.
    pub runs: Vec<Run>,
    /// The names of the history files.
    pub histories: Vec<String>,
}

impl Missing {
    /// Looks at the names in an archive as [`super::gaps()`] does, with the same `watch`, and a second time,
    /// 2 s later, if something is missing. Memory grows with the number of holes only.
    ///
    /// # Errors
    /// The directory could not be read, there is no memory for what it holds, or the run was cancelled.
    pub fn read(
        visit: &dyn Visit,
        watch: &mut dyn FnMut(&Progress) -> bool,
    ) -> Result<Self, VerifyError> {
        let size = listing::segment_size(visit)?.unwrap_or(SegmentSize::DEFAULT);
        let mut histories = Histories::default();
        let mut looks = Looks {
            reader: &mut Reader::new(visit, None, 1, watch),
            size,
            shows: &|coverage, histories, each| {
                // What is wrong beside that is no reason to look again.
                continuity::gaps(coverage, visit, &histories.timelines, &mut |finding: Finding| {
                    if finding.problem.kind == FindingKind::Gap { each(finding) } else { Ok(()) }
                })
            },
        };
        let first = looks.look(&mut histories)?;
        let coverage = looks.settle(first, &mut histories)?;
        let mut missing = Self::default();
        let keep = &mut |finding: Finding| {
            if finding.problem.kind == FindingKind::Gap {
                missing.histories.try_reserve(1)?;
                missing.histories.push(finding.file);
            }
            Ok(())
        };
        let stretches = continuity::missing(&coverage, visit, &histories.timelines, keep)
            .map_err(|_| listing::no_memory(visit))?;
        for (timeline, stretches) in stretches.iter() {
            for stretch in stretches.iter() {
                missing.runs.try_reserve(1).map_err(|_| listing::no_memory(visit))?;
                missing.runs.push(stretch.segments(timeline, size));
            }
        }
        missing.histories.sort();
        missing.histories.dedup();
        Ok(missing)
    }

    /// Returns how many segments are missing.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Returns whether nothing is missing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.runs.is_empty() && self.histories.is_empty()
    }
}
