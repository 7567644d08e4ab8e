//! Which WAL a server holds in `pg_wal`: the segments of its own history that are complete, and its history
//! files.
//!
//! A segment is complete if the server says so: it has a status file, `.ready` or `.done` (a primary makes
//! it when a segment is full, the walreceiver of a standby when it begins the next one, recovery for each
//! file from an archive); or it lies before what the control file calls flushed, as where nothing was ever
//! archived. So the segment that is being written is not among them, nor are recycled files, which
//! have the names of future segments and old contents.
//!
//! A segment is of the server's history if a recovery to the server's own timeline reads it under that name
//! ([`Route`]). The rest of an old timeline, from the segment with the switch on, is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::lineage::Lineage;
use super::position::{self, Position};
use super::source::Source;
use crate::error::{Action, Error};
use crate::sys::Dir;
use crate::sys::buffer::Buffer;
use crate::wal::history::Ancestor;
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::segment::{self, Cluster, HEADER_LEN};
use crate::wal::timeline::{Route, Timelines};
use crate::wal::{Lsn, SegmentChecker, SegmentReport, SegmentSpec};

/// A segment that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldSegment {
    /// Its name.
    pub name: SegmentName,
    /// Its address.
    pub start: Lsn,
    /// The server wants it archived (`.ready`).
    pub waiting: bool,
}

/// What a server holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Where it holds it.
    pub pg_wal: PathBuf,
    /// Which cluster it is.
    pub cluster: Cluster,
    /// The server's own timeline.
    pub timeline: u32,
    /// The timelines that it descends from, the oldest first.
    pub ancestors: Vec<Ancestor>,
    /// Which segments belong to its history.
    pub route: Route,
    /// Complete segments of its history, by address: there is one name for each.
    pub segments: BTreeMap<Lsn, HeldSegment>,
    /// The timelines up to its own whose history file it has.
    pub histories: BTreeSet<u32>,
    /// Backup history files that wait to be archived.
    pub backups: Vec<FileName>,
}

/// What lies in `pg_wal`, by the names.
#[derive(Debug, Default)]
struct Names {
    segments: BTreeSet<SegmentName>,
    histories: BTreeSet<u32>,
    backups: BTreeSet<FileName>,
    /// Names with a status file; `true` for those that wait.
    status: BTreeMap<FileName, bool>,
}

impl Held {
    /// Reads what the server of a data directory holds, whether it runs or not.
    ///
    /// # Errors
    /// The control file or `pg_wal` could not be read.
    pub fn read(data_directory: &Path) -> Result<Self, Error> {
        let Position { cluster, timeline, flushed, .. } = Position::read(data_directory)?;
        let pg_wal = data_directory.join("pg_wal");
        let names = Names::read(&pg_wal)?;
        let own = Lineage::of(data_directory)?;
        let timeline = own.timeline.unwrap_or(timeline);
        let ancestors = own.timelines.ancestors(timeline).to_vec();
        Ok(Self::of(pg_wal, cluster, (timeline, ancestors), &names, flushed))
    }

    /// Reads what `pg_wal` holds of the history of `timeline`, which has these ancestors: only what has a
    /// status file.
    ///
    /// # Errors
    /// `pg_wal` could not be read.
    pub fn on_the_way_to(
        timeline: u32,
        ancestors: Vec<Ancestor>,
        pg_wal: &Path,
        cluster: Cluster,
    ) -> Result<Self, Error> {
        let names = Names::read(pg_wal)?;
        let history = (timeline, ancestors);
        Ok(Self::of(pg_wal.to_owned(), cluster, history, &names, Lsn::INVALID))
    }

    fn of(
        pg_wal: PathBuf,
        cluster: Cluster,
        (timeline, ancestors): (u32, Vec<Ancestor>),
        names: &Names,
        flushed: Lsn,
    ) -> Self {
        let mut timelines = Timelines::default();
        timelines.add(timeline, Some(ancestors.clone()));
        let size = cluster.segment_size;
        let route = timelines.route(timeline, Lsn::default(), size);
        let mut segments = BTreeMap::new();
        for name in &names.segments {
            let Some(start) = name.start(size).filter(|start| route.needs(name.timeline, *start))
            else {
                continue;
            };
            let marked = FileName::new(&name.to_string()).ok();
            let marked = marked.and_then(|file| names.status.get(&file).copied());
            if marked.is_some() || start.advanced(size.bytes().into()) <= flushed {
                let waiting = marked.unwrap_or(false);
                segments.insert(start, HeldSegment { name: *name, start, waiting });
            }
        }
        let histories = names.histories.range(..=timeline).copied().collect();
        let waits = |file: &&FileName| names.status.get(*file) == Some(&true);
        let backups = names.backups.iter().filter(waits).cloned().collect();
        Self { pg_wal, cluster, timeline, ancestors, route, segments, histories, backups }
    }

    /// Returns the address behind a segment.
    #[must_use]
    pub fn behind(&self, start: Lsn) -> Lsn {
        start.advanced(self.cluster.segment_size.bytes().into())
    }

    /// Returns the segment of the server's history that comes before one, whether it is there or not; `None`
    /// for the first of all.
    #[must_use]
    pub fn before(&self, start: Lsn) -> Option<SegmentName> {
        let at = Lsn(start.0.checked_sub(self.cluster.segment_size.bytes().into())?);
        self.at(at)
    }

    /// Returns the segment of the server's history at an address, whether it is there or not.
    #[must_use]
    pub fn at(&self, start: Lsn) -> Option<SegmentName> {
        let timeline = self.route.timeline_at(start)?;
        Some(SegmentName::holding(timeline, start, self.cluster.segment_size))
    }

    /// Returns whether a timeline is the server's own, or one that it descends from.
    #[must_use]
    pub fn is_own(&self, timeline: u32) -> bool {
        timeline == self.timeline || self.ancestors.iter().any(|there| there.timeline == timeline)
    }

    /// Checks a segment against its name and cluster, and reads every record in it. `step` is called for
    /// each piece. `Err` in the result says what is wrong with its header or length.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn check(
        &self,
        segment: HeldSegment,
        buffer: &mut Buffer,
        step: &mut dyn FnMut(),
    ) -> Result<Result<SegmentReport, String>, Error> {
        let source = Source::open(&self.pg_wal.join(segment.name.to_string()))?;
        let mut header = [0; HEADER_LEN];
        let len = source.read_at(&mut header, 0)?;
        let header = header.get(..len).unwrap_or(&header);
        if let Err(e) = segment::check(segment.name, source.len(), header, &self.cluster) {
            return Ok(Err(e.to_string()));
        }
        source.spare_page_cache();
        let mut checker = SegmentChecker::new(self.spec(segment.name, segment.start), None);
        let mut offset = 0;
        loop {
            let len = source.read_at(buffer.bytes_mut(), offset)?;
            checker.feed(buffer.filled(len));
            step();
            offset += len as u64;
            if len < buffer.bytes().len() {
                break;
            }
        }
        source.check_not_moved()?;
        Ok(Ok(checker.finish()))
    }

    /// Returns what a segment of this cluster is read as.
    #[must_use]
    pub fn spec(&self, name: SegmentName, start: Lsn) -> SegmentSpec {
        SegmentSpec {
            timeline: name.timeline,
            start,
            segment_size: self.cluster.segment_size,
            system_identifier: Some(self.cluster.system_identifier),
        }
    }
}

impl Held {
    /// Has the server keep a complete segment until it is archived: turns its `.done` into `.ready`, as an
    /// administrator would. A checkpoint removes what is marked as done. Returns whether it was marked so.
    #[must_use]
    pub fn keep(&self, segment: HeldSegment) -> bool {
        !segment.waiting && mark(&self.pg_wal, segment, "done", "ready")
    }

    /// Takes [`Held::keep`] back, once the segment is archived or where it need not be.
    pub fn release(&self, segment: HeldSegment) {
        release(&self.pg_wal, segment);
    }
}

/// The same as [`Held::release`], for a `pg_wal` by its path.
pub fn release(pg_wal: &Path, segment: HeldSegment) {
    mark(pg_wal, segment, "ready", "done");
}

/// One step: at any moment the segment has one of the two marks. Nothing depends on its durability. If
/// the server has removed the segment, it has removed both marks.
fn mark(pg_wal: &Path, segment: HeldSegment, from: &str, to: &str) -> bool {
    let name = |mark: &str| format!("{}.{mark}", segment.name);
    let status = Dir::open(&pg_wal.join("archive_status"));
    status.and_then(|dir| dir.replace(&name(from), &name(to))).is_ok()
}

/// Returns whether a server in recovery, or one that does not run, is the only one that can tell what is in
/// its `pg_wal`: the archiver of a primary that runs is at work on it.
///
/// # Errors
/// The control file could not be read.
pub fn nobody_archives(data_directory: &Path) -> Result<bool, Error> {
    let position = Position::read(data_directory)?;
    Ok(position.in_recovery || !position::seems_to_run(data_directory))
}

impl Names {
    fn read(pg_wal: &Path) -> Result<Self, Error> {
        let mut names = Self::default();
        // The status first: a segment that is completed after this look is not counted.
        let archive_status = pg_wal.join("archive_status");
        let status = &mut names.status;
        let read = for_each(&archive_status, Action::ReadStatus, |entry| {
            let marked = entry.strip_suffix(".ready").map(|name| (name, true));
            let marked = marked.or_else(|| Some((entry.strip_suffix(".done")?, false)));
            if let Some((name, waiting)) = marked
                && let Ok(name) = FileName::new(name)
            {
                // The server looks for ".done" first (`XLogArchiveCheckDone`), and either says "complete".
                let known = status.entry(name).or_insert(waiting);
                *known = *known && waiting;
            }
        });
        match read {
            // A server makes it when it starts.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            read => read?,
        }
        for_each(pg_wal, Action::LookUpData, |entry| {
            let Ok(name) = FileName::new(entry) else { return };
            match name.kind() {
                FileKind::Segment(segment) => drop(names.segments.insert(segment)),
                FileKind::History { timeline } => drop(names.histories.insert(timeline)),
                FileKind::BackupHistory(_) => drop(names.backups.insert(name)),
                _ => {}
            }
        })?;
        Ok(names)
    }
}

fn for_each(path: &Path, action: Action, each: impl FnMut(&str)) -> Result<(), Error> {
    Dir::open(path).and_then(|dir| dir.for_each_name(each)).map_err(|e| Error::io(action, path, e))
}
