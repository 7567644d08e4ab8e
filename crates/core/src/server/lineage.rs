//! A server's own history: which timeline it is on, and which history files are in its `pg_wal`. Whoever asks
//! what is the server's own, asks here.
//!
//! The control file says the timeline, in a standby `pg_wal` does. The server keeps its own history file and
//! those that it fetched on the way (`restoreTimeLineHistoryFiles`, `WalRcvFetchTimeLineHistoryFiles`); nothing
//! removes them. A history file may be there that is not the server's own, such as that of a timeline it was
//! once told to follow.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::control::ControlFile;
use super::position::Position;
use super::source::Source;
use crate::error::{Action, Error};
use crate::sys::{self, Dir};
use crate::wal::history::{self, Ancestor};
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::timeline::Timelines;
use crate::wal::{Lsn, SegmentSize};

/// No history file is longer than this.
const MAX_LEN: u64 = 1 << 20;

/// What a server's data directory says of its history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The timeline that the server is on; `None` where no control file says it.
    pub timeline: Option<u32>,
    /// The history files in its `pg_wal`.
    pub timelines: Timelines,
    /// Their timelines, rising.
    pub histories: Vec<u32>,
    pg_wal: PathBuf,
}

impl Lineage {
    /// Reads the control file and every history file of a data directory, also of a running server.
    ///
    /// # Errors
    /// The control file or the names in `pg_wal` could not be read. A history file that cannot be read is one
    /// that cannot be understood. A data directory without a control file, or without `pg_wal`, is not an
    /// error: nothing is known of its history.
    pub fn of(data_directory: &Path) -> Result<Self, Error> {
        let (timeline, recovers) = match ControlFile::with_contents(data_directory) {
            Ok((control, contents)) => {
                let position = Position::parse(&control, &contents, data_directory);
                (control.timeline, position.is_some_and(|position| position.in_recovery))
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                (None, false)
            }
            Err(e) => return Err(e),
        };
        let mut own = Self { timeline, pg_wal: data_directory.join("pg_wal"), ..Self::default() };
        let dir = match Dir::open(&own.pg_wal) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(own),
            Err(e) => return Err(Error::io(Action::ReadSource, &own.pg_wal, e)),
        };
        let mut with_segments = BTreeSet::new();
        dir.for_each_name(|name| match FileName::new(name).map(|name| name.kind()) {
            Ok(FileKind::History { timeline }) => own.histories.push(timeline),
            Ok(FileKind::Segment(segment)) => {
                with_segments.insert(segment.timeline);
            }
            _ => {}
        })
        .map_err(|e| Error::io(Action::ReadSource, dir.path(), e))?;
        own.histories.sort_unstable();
        for &timeline in &own.histories {
            // Only those up to the own timeline matter, and whoever needs one of them reads it once more.
            own.timelines.add(timeline, read_history(&own.pg_wal, timeline).ok().flatten());
        }
        // A server in recovery notes the timeline that it follows at its next restartpoint only. Until then,
        // the segments that it receives or restores show it: it asks for those of the timeline that it follows.
        if let Some(noted) = own.timeline.filter(|_| recovers) {
            let followed = |timeline: &&u32| own.timelines.is_ancestor(noted, **timeline);
            own.timeline = with_segments.iter().rev().find(followed).copied().or(Some(noted));
        }
        Ok(own)
    }

    /// Reads a history file in `pg_wal`.
    ///
    /// # Errors
    /// It could not be read.
    pub fn read(&self, timeline: u32) -> Result<Vec<u8>, Error> {
        read(&self.path(timeline))
    }

    /// Returns where a history file lies in `pg_wal`.
    #[must_use]
    pub fn path(&self, timeline: u32) -> PathBuf {
        self.pg_wal.join(history_name(timeline))
    }

    /// Returns whether the server has marked a history file as one that waits to be archived.
    #[must_use]
    pub fn waits(&self, timeline: u32) -> bool {
        let mark = format!("archive_status/{}.ready", history_name(timeline));
        self.pg_wal.join(mark).exists()
    }

    /// Returns whether a timeline is the server's own or one of its ancestors.
    #[must_use]
    pub fn includes(&self, timeline: u32) -> bool {
        self.timeline
            .is_some_and(|own| own == timeline || self.timelines.is_ancestor(timeline, own))
    }

    /// Returns where the server's own history leaves `timeline`, and the timelines that go on from there;
    /// `None` where it is not known to leave it.
    #[must_use]
    pub fn left(&self, timeline: u32) -> Option<Left> {
        let own = self.timeline?;
        let switch = self.timelines.left(timeline, own)?;
        let later = self.timelines.ancestors(own).iter().map(|ancestor| ancestor.timeline);
        let successors = later.chain([own]).filter(|later| *later > timeline).collect();
        Some(Left { switch, own, successors })
    }

    /// The same, if it leaves the timeline inside of the segment that begins at `start`, which may then have
    /// been copied under the names of its successors: of more than one where several switches lie in it.
    #[must_use]
    pub fn left_in(&self, timeline: u32, start: Lsn, size: SegmentSize) -> Option<Left> {
        // A segment that would begin at the switch has nothing of the old timeline.
        self.left(timeline)
            .filter(|left| left.switch > start && left.switch.segment_start(size) == start)
    }
}

/// Where a server's own history leaves a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The address of the switch.
    pub switch: Lsn,
    /// The server's own timeline.
    pub own: u32,
    /// The timelines after it in the server's history, its own the last.
    pub successors: Vec<u32>,
}

impl Left {
    /// Returns the timeline that follows the one that was left.
    #[must_use]
    pub fn successor(&self) -> u32 {
        self.successors.first().copied().unwrap_or(self.own)
    }
}

/// Returns which segment a server has before one of its own, by the history file of that timeline in its
/// `pg_wal`; `None` for the first of all. The segment with a switch is read under the newer timeline's
/// name. A history that cannot be read is taken for a timeline without a switch.
#[must_use]
pub fn before(pg_wal: &Path, segment: SegmentName, size: SegmentSize) -> Option<SegmentName> {
    // No server writes the segment at address 0.
    let start = segment.start(size)?.0.checked_sub(size.bytes().into()).filter(|at| *at > 0)?;
    let (start, timeline) = (Lsn(start), segment.timeline);
    let mut timelines = Timelines::default();
    timelines.add(timeline, read_history(pg_wal, timeline).ok().flatten());
    let route = timelines.route(timeline, start, size);
    let leg = route.legs.iter().find(|leg| leg.stretch.contains(start));
    Some(SegmentName::holding(leg.map_or(timeline, |leg| leg.timeline), start, size))
}

/// Returns the timelines whose history files are in `pg_wal`, rising.
///
/// # Errors
/// The names could not be read.
pub fn histories(pg_wal: &Path) -> Result<Vec<u32>, Error> {
    let mut histories = Vec::new();
    let read = Dir::open(pg_wal).and_then(|dir| {
        dir.for_each_name(|name| {
            if let Ok(FileKind::History { timeline }) = FileName::new(name).map(|name| name.kind())
            {
                histories.push(timeline);
            }
        })
    });
    read.map_err(|e| Error::io(Action::ReadSource, pg_wal, e))?;
    histories.sort_unstable();
    Ok(histories)
}

/// Reads a history file in `pg_wal`; `None` if it cannot be understood, or names no ancestor.
///
/// # Errors
/// The file could not be read.
pub fn read_history(pg_wal: &Path, timeline: u32) -> Result<Option<Vec<Ancestor>>, Error> {
    let text = read(&pg_wal.join(history_name(timeline)))?;
    Ok(history::parse(timeline, &text).ok().filter(|ancestors| !ancestors.is_empty()))
}

/// Reads a history file.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let source = Source::open(path)?;
    let reserve = |e| Error::io(Action::ReserveMemory, path, e);
    let len = usize::try_from(source.len().min(MAX_LEN)).unwrap_or_default();
    let mut text = sys::zeroed(len).map_err(reserve)?;
    let read = source.read_at(&mut text, 0)?;
    text.truncate(read);
    Ok(text)
}

/// Returns the name of a timeline's history file.
#[must_use]
pub fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}
