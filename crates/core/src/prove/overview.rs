//! What an archive holds, timeline by timeline, by names, lengths and times.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::backups::{self, BaseBackup};
use super::times::{self, Times};
use crate::encoding::codec::Codec;
use crate::error::Error;
use crate::store::directory::Directory;
use crate::store::identity::Identity;
use crate::store::listing::{self, Listing, Walk};
use crate::store::{Progress, Store, StoredName, Visit};
use crate::sys;
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
    /// The directory or its identity file could not be read.
    pub fn read(path: &Path, steps: &Progress) -> Result<Self, Error> {
        let store = Directory::at(path);
        let visit = store.visit(steps)?;
        Self::at(&*visit, steps)
    }

    /// The same, and reads the segments at both ends of each timeline for the first and the last commit there.
    /// A segment that cannot be read is told of and passed over.
    ///
    /// # Errors
    /// The directory or its identity file could not be read.
    pub fn read_with_commits(path: &Path, steps: &Progress) -> Result<Self, Error> {
        let store = Directory::at(path);
        let visit = store.visit(steps)?;
        let mut overview = Self::at(&*visit, steps)?;
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

    fn at(visit: &dyn Visit, steps: &Progress) -> Result<Self, Error> {
        let mut others = 0;
        Listing::read(visit, &mut |_, _| others += 1)?;
        Ok(Self { others, ..Self::of(visit, Walk::all(visit), steps)? })
    }

    fn of(
        visit: &dyn Visit,
        files: impl Iterator<Item = Result<StoredName, Error>>,
        steps: &Progress,
    ) -> Result<Self, Error> {
        let mut overview = Self {
            identity: Identity::at(visit)?,
            segment_size: listing::segment_size(visit)?,
            ..Self::default()
        };
        let size = overview.segment_size.unwrap_or(SegmentSize::DEFAULT);
        let mut timelines: BTreeMap<u32, (Timeline, Stretches)> = BTreeMap::new();
        for file in files {
            let file = file?;
            let Some(timeline) = file.name.timeline() else { continue };
            let metadata = std::fs::symlink_metadata(visit.location().join(file.to_string()));
            steps.tick();
            if metadata.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                // It was removed since the names were read.
                continue;
            }
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
                    match backups::read(visit, &file, first) {
                        Ok(backup) => known.base_backups.extend(backup),
                        Err(e) => overview.unreadable.push((file.to_string(), e)),
                    }
                }
                FileKind::Other => {}
            }
            *overview.encodings.entry(file.codec).or_default() += 1;
            if let Err(e) = metadata.and_then(|metadata| known.add_metadata(&metadata)) {
                overview.unreadable.push((file.to_string(), e.to_string()));
            }
        }
        for (mut timeline, whole) in timelines.into_values() {
            let run = |stretch: Stretch| stretch.segments(timeline.timeline, size);
            timeline.runs = whole.iter().map(run).collect();
            timeline.base_backups.sort_by(|a, b| a.file.cmp(&b.file));
            // One file may be there in two encodings.
            timeline.base_backups.dedup_by(|a, b| a.file == b.file);
            overview.timelines.push(timeline);
        }
        Ok(overview)
    }
}

impl Timeline {
    fn add_metadata(&mut self, metadata: &Metadata) -> io::Result<()> {
        self.bytes += metadata.len();
        self.allocated += sys::allocated(metadata);
        let at = metadata.modified()?;
        let (first, last) = self.times.unwrap_or((at, at));
        self.times = Some((first.min(at), last.max(at)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
        let overview = Overview::of(&*visit, first.into_iter().chain(files), &steps).unwrap();
        assert_eq!(overview.unreadable, []);
        assert_eq!(overview.timelines.iter().map(|t| t.segments).sum::<u64>(), 1);
    }
}
