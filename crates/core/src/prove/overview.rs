//! What an archive holds, timeline by timeline, by names, lengths and times.

use std::collections::BTreeMap;
use std::io;
use std::time::SystemTime;

use super::backups::{self, BaseBackup};
use super::times::{self, Times};
use crate::encoding::codec::Codec;
use crate::error::Error;
use crate::store::identity::Identity;
use crate::store::listing::{self, Listing, Walk};
use crate::store::{Facts, Progress, Store, StoredName, Visit};
use crate::wal::SegmentSize;
use crate::wal::name::FileKind;
use crate::wal::timeline::{Run, Stretch, Stretches};

/// One timeline of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Its number.
    pub timeline: u32,
    /// Its whole segments.
    pub runs: Vec<Run>,
    /// Files of whole segments; two encodings of one count as two.
    pub segments: u64,
    /// Partial segments.
    pub partials: u64,
    /// Tails: other versions of its last segment.
    pub tails: u64,
    /// The history file is there.
    pub history: bool,
    /// Backup history files.
    pub backups: u64,
    /// What they tell of base backups, in the order of their start. One that cannot be read is not among them.
    pub base_backups: Vec<BaseBackup>,
    /// Length of all its files, in bytes.
    pub bytes: u64,
    /// Space that they take, in bytes.
    pub allocated: u64,
    /// When the first and the last of its files were archived, by their modification time.
    pub times: Option<(SystemTime, SystemTime)>,
    /// The first and the last commit in its WAL, if they were asked for.
    pub commits: Times,
}

/// What an archive holds.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// Its identity, if it has one.
    pub identity: Option<Identity>,
    /// The size of a segment, if a header can be read.
    pub segment_size: Option<SegmentSize>,
    /// Its timelines, the oldest first.
    pub timelines: Vec<Timeline>,
    /// How many files are stored in each encoding.
    pub encodings: BTreeMap<Codec, u64>,
    /// Temporary files, and files whose names are not those of WAL files.
    pub others: u64,
    /// Entries that could not be looked up or read, and why.
    pub unreadable: Vec<(String, String)>,
}

impl Overview {
    /// Looks at every name in an archive, reads its backup history files, and counts its steps.
    ///
    /// # Errors
    /// The archive or its identity file could not be read.
    pub fn read(store: &dyn Store, steps: &Progress) -> Result<Self, Error> {
        let visit = store.visit(steps)?;
        Self::at(&*visit)
    }

    /// The same, and reads the segments at both ends of each timeline for the first and the last commit there.
    /// A segment that cannot be read is told of and passed over.
    ///
    /// # Errors
    /// The archive or its identity file could not be read.
    pub fn read_with_commits(store: &dyn Store, steps: &Progress) -> Result<Self, Error> {
        let visit = store.visit(steps)?;
        let mut overview = Self::at(&*visit)?;
        let mut files = Walk::all(&*visit).collect::<Result<Vec<_>, Error>>()?;
        files.sort();
        let size = overview.segment_size.unwrap_or(SegmentSize::DEFAULT);
        for timeline in &mut overview.timelines {
            let number = timeline.timeline;
            let found = times::of(&*visit, &files, number, size, &mut overview.unreadable);
            timeline.commits = found;
        }
        Ok(overview)
    }

    /// Returns whether there is neither WAL nor a history file: the archive has not begun, or it is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timelines.is_empty()
    }

    fn at(visit: &dyn Visit) -> Result<Self, Error> {
        let (mut tally, mut others, mut counted) = (Tally::begin(visit)?, 0, Ok(()));
        // A listing of object storage says all that there is to say: nobody asks for a million objects.
        let told = Listing::read_facts(
            visit,
            &mut |file, facts| {
                if counted.is_ok() {
                    counted = tally.add(&file, Ok(facts));
                }
            },
            &mut |_, _| others += 1,
        )?;
        counted?;
        if !told {
            Listing::read(visit, &mut |_, _| others += 1)?;
            tally.add_all(Walk::all(visit))?;
        }
        Ok(Self { others, ..tally.end() })
    }
}

/// An overview in the making.
struct Tally<'v> {
    visit: &'v dyn Visit,
    overview: Overview,
    size: SegmentSize,
    timelines: BTreeMap<u32, (Timeline, Stretches)>,
}

impl<'v> Tally<'v> {
    fn begin(visit: &'v dyn Visit) -> Result<Self, Error> {
        let overview = Overview {
            identity: Identity::at(visit)?,
            segment_size: listing::segment_size(visit)?,
            ..Overview::default()
        };
        let size = overview.segment_size.unwrap_or(SegmentSize::DEFAULT);
        Ok(Self { visit, overview, size, timelines: BTreeMap::new() })
    }

    /// Adds files, and asks for what is known of each.
    fn add_all(
        &mut self,
        mut files: impl Iterator<Item = Result<StoredName, Error>>,
    ) -> Result<(), Error> {
        files.try_for_each(|file| {
            let file = file?;
            match self.visit.facts(&file.to_string()).transpose() {
                // It was removed since the names were read.
                None => Ok(()),
                Some(facts) => self.add(&file, facts),
            }
        })
    }

    fn add(&mut self, file: &StoredName, facts: io::Result<Facts>) -> Result<(), Error> {
        let Self { visit, overview, size, timelines } = self;
        let (visit, size) = (*visit, *size);
        let Some(timeline) = file.name.timeline() else { return Ok(()) };
        let (known, whole) = timelines.entry(timeline).or_default();
        known.timeline = timeline;
        match file.name.kind() {
            FileKind::Segment(segment) => {
                known.segments += 1;
                let stretch = segment.start(size).map(|from| {
                    let to = from.advanced(size.bytes().into());
                    Stretch { from, to }
                });
                whole.extend(stretch).map_err(|_| listing::no_memory(visit))?;
            }
            FileKind::Partial(_) => known.partials += 1,
            FileKind::Tail(_) => known.tails += 1,
            FileKind::History { .. } => known.history = true,
            FileKind::BackupHistory(first) => {
                known.backups += 1;
                match backups::read(visit, file, first) {
                    Ok(backup) => known.base_backups.extend(backup),
                    Err(e) => overview.unreadable.push((file.to_string(), e)),
                }
            }
            FileKind::Other => {}
        }
        *overview.encodings.entry(file.codec).or_default() += 1;
        match facts {
            Ok(facts) => known.add_facts(&facts),
            Err(e) => overview.unreadable.push((file.to_string(), e.to_string())),
        }
        Ok(())
    }

    fn end(self) -> Overview {
        let Self { mut overview, size, timelines, .. } = self;
        for (mut timeline, whole) in timelines.into_values() {
            let run = |stretch: Stretch| stretch.segments(timeline.timeline, size);
            timeline.runs = whole.iter().map(run).collect();
            timeline.base_backups.sort_by(|a, b| a.file.cmp(&b.file));
            // One file may be there in two encodings.
            timeline.base_backups.dedup_by(|a, b| a.file == b.file);
            overview.timelines.push(timeline);
        }
        overview
    }
}

impl Timeline {
    fn add_facts(&mut self, facts: &Facts) {
        self.bytes += facts.len;
        self.allocated += facts.allocated;
        if let Some(at) = facts.modified {
            let (first, last) = self.times.unwrap_or((at, at));
            self.times = Some((first.min(at), last.max(at)));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::directory::Directory;

    /// It was an entry that could not be looked up, but it was counted all the same.
    #[test]
    fn a_file_that_went_since_the_names_were_read_is_not_listed() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["000000010000000000000001", "000000010000000000000002"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        let (store, steps) = (Directory::at(temp.path()), Progress::default());
        let visit = store.visit(&steps).unwrap();
        let mut files = Walk::all(&*visit);
        let first = files.next();
        std::fs::remove_file(temp.path().join("000000010000000000000001")).unwrap();
        let mut tally = Tally::begin(&*visit).unwrap();
        tally.add_all(first.into_iter().chain(files)).unwrap();
        let overview = tally.end();
        assert_eq!(overview.unreadable, []);
        assert_eq!(overview.timelines.iter().map(|t| t.segments).sum::<u64>(), 1);
    }
}
