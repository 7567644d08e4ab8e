//! What one reading of the archives' names shows: enough to tell the end of the WAL from a hole.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::error::Error;
use crate::store::{StoredName, Visit};
use crate::wal::name::{FileKind, FileName, SegmentName};

/// What the names show: of the whole archive, or of what can matter to the asked file.
///
/// Bounded memory, however many files there are: of each timeline the newest file, and the
/// history files.
#[derive(Debug, Default)]
pub(super) struct Survey {
    timelines: BTreeMap<u32, Newest>,
    histories: BTreeMap<u32, StoredName>,
    /// What shows that the asked segment was written: of its timeline the nearest file that is later.
    pub(super) nearest: Option<StoredName>,
    /// The asked segment is there, whole. It was not when it was looked up.
    pub(super) appeared: bool,
    /// Anything that an archive holds is there.
    pub(super) any: bool,
    /// No name was left out.
    pub(super) is_whole: bool,
}

/// The last of a timeline's WAL, by its address.
#[derive(Debug)]
struct Newest {
    at: SegmentName,
    file: StoredName,
}

impl Survey {
    /// Reads every name of every place once. `asked` is the file that was asked for.
    ///
    /// # Errors
    /// The names could not be read to their end.
    pub(super) fn whole<'v>(
        visits: impl IntoIterator<Item = &'v dyn Visit>,
        asked: &FileName,
    ) -> Result<Self, Error> {
        Self::read(visits, asked, None)
    }

    /// Reads the names of the asked file's timeline from a little before the file on, and of every later timeline.
    /// Where that is no less work, it reads them all.
    ///
    /// # Errors
    /// The names could not be read to their end.
    pub(super) fn near<'v>(
        visits: impl IntoIterator<Item = &'v dyn Visit>,
        asked: &FileName,
    ) -> Result<Self, Error> {
        Self::read(visits, asked, first(asked))
    }

    fn read<'v>(
        visits: impl IntoIterator<Item = &'v dyn Visit>,
        asked: &FileName,
        from: Option<String>,
    ) -> Result<Self, Error> {
        let mut survey = Self { is_whole: true, ..Self::default() };
        let asked = match asked.kind() {
            FileKind::Segment(segment) => Some(segment),
            _ => None,
        };
        let mut nearest_at = None;
        let mut take = |stored: &str| {
            // Names of temporary files begin with a dot, and are no stored names.
            let Ok(stored) = StoredName::parse(stored) else { return };
            let there = match stored.name.kind() {
                FileKind::History { timeline } => {
                    survey.any = true;
                    survey.histories.entry(timeline).or_insert(stored);
                    return;
                }
                FileKind::Tail(_) | FileKind::Other => return,
                FileKind::Segment(there)
                | FileKind::Partial(there)
                | FileKind::BackupHistory(there) => there,
            };
            survey.any = true;
            if let Some(asked) = asked.filter(|asked| asked.timeline == there.timeline) {
                // A backup began in its segment, which was written then. The partial form of a segment is
                // where its timeline ends.
                let shows = there > asked
                    || there == asked && matches!(stored.name.kind(), FileKind::BackupHistory(_));
                survey.appeared |=
                    there == asked && matches!(stored.name.kind(), FileKind::Segment(_));
                if shows && nearest_at.is_none_or(|nearest| there < nearest) {
                    nearest_at = Some(there);
                    survey.nearest = Some(stored.clone());
                }
            }
            survey.add(there, stored);
        };
        let mut is_whole = true;
        for visit in visits {
            let mut take_on = |name: &str| {
                take(name);
                true
            };
            match &from {
                Some(name) if visit.list_from(name, &mut take_on)? => is_whole = false,
                _ => visit.list(&mut take)?,
            }
        }
        survey.is_whole = is_whole;
        Ok(survey)
    }

    fn add(&mut self, at: SegmentName, file: StoredName) {
        let whole = file.name.segment().is_some();
        match self.timelines.entry(at.timeline) {
            Entry::Vacant(entry) => drop(entry.insert(Newest { at, file })),
            Entry::Occupied(mut entry) => {
                let newest = entry.get().at;
                if at > newest || at == newest && whole {
                    entry.insert(Newest { at, file });
                }
            }
        }
    }

    /// Returns the newest file of a timeline's WAL; `None` if the archive has nothing of it.
    pub(super) fn newest_of(&self, timeline: u32) -> Option<(SegmentName, &StoredName)> {
        self.timelines.get(&timeline).map(|newest| (newest.at, &newest.file))
    }

    /// Returns a file of every timeline, from which the segment size can be read.
    pub(super) fn samples(&self) -> Vec<StoredName> {
        self.timelines.values().map(|newest| newest.file.clone()).collect()
    }

    /// Returns the history files of later timelines, the newest first.
    pub(super) fn histories_after(
        &self,
        timeline: u32,
    ) -> impl Iterator<Item = (u32, &StoredName)> {
        let later = timeline.saturating_add(1)..;
        let later = if timeline == u32::MAX { None } else { Some(self.histories.range(later)) };
        later.into_iter().flatten().rev().map(|(timeline, stored)| (*timeline, stored))
    }
}

/// Returns the first name to be read, in their order. Before the file there are those of the segments with
/// the same middle number and the one before: less than a page of a listing, in which the last file of an archive
/// that ends here is found.
fn first(asked: &FileName) -> Option<String> {
    match asked.kind() {
        FileKind::Segment(SegmentName { timeline, log, .. }) => {
            Some(format!("{timeline:08X}{:08X}0", log.saturating_sub(1)))
        }
        FileKind::History { timeline } => Some(format!("{timeline:08X}0")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_are_read_from_a_little_before_the_asked_one() {
        for (asked, expected) in [
            ("000000030000000200000007", "00000003000000010"),
            ("000000030000000000000007", "00000003000000000"),
            ("0000000A.history", "0000000A0"),
        ] {
            assert_eq!(first(&FileName::new(asked).unwrap()).unwrap(), expected);
        }
    }
}
