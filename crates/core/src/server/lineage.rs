//! A server's own history: which timeline it is on, and which history files are in its `pg_wal`.
//!
//! The control file says the timeline, in a standby `pg_wal` does. The server keeps its own history file and
//! those that it fetched on the way (`restoreTimeLineHistoryFiles`, `WalRcvFetchTimeLineHistoryFiles`);
//! nothing removes them. A history file may be there that is not the server's own, such as that of a timeline it was once told to follow.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::control::ControlFile;
use crate::error::{Action, Error};
use crate::sys::{self, Dir};
use crate::wal::name::{FileKind, FileName};
use crate::wal::timeline::Timelines;
use crate::wal::{Lsn, SegmentSize, history};

/// Makes a server a standby (`STANDBY_SIGNAL_FILE` in `access/xlog.h`); gone after its promotion.
const STANDBY: &str = "standby.signal";

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
        let timeline = match ControlFile::read(data_directory) {
            Ok(control) => control.timeline,
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
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
            let text = own.read(timeline).ok();
            own.timelines.add(timeline, text.and_then(|t| history::parse(timeline, &t).ok()));
        }
        // A standby notes the timeline that it follows at its next restartpoint only. Until then, the segments
        // that it receives or restores show it: it asks for those of the timeline that it follows alone.
        if let Some(noted) = own.timeline
            && data_directory.join(STANDBY).exists()
        {
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
        let path = self.path(timeline);
        let fail = |e| Error::io(Action::ReadSource, &path, e);
        let mut text = Vec::new();
        let file = sys::open_source(&path).map_err(fail)?;
        file.take(MAX_LEN).read_to_end(&mut text).map_err(fail)?;
        Ok(text)
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

    /// Returns where the server's own history leaves `timeline` inside of the segment that begins at `start`,
    /// and the timelines that go on from there, under whose names the segment may have been copied: more than
    /// one where several switches lie in it.
    #[must_use]
    pub fn left_in(&self, timeline: u32, start: Lsn, size: SegmentSize) -> Option<Left> {
        let own = self.timeline?;
        let switch = self.timelines.left(timeline, own)?;
        // A segment that would begin at the switch has nothing of the old timeline.
        if switch <= start || switch.segment_start(size) != start {
            return None;
        }
        let later = self.timelines.ancestors(own).iter().map(|ancestor| ancestor.timeline);
        let successors = later.chain([own]).filter(|later| *later > timeline).collect();
        Some(Left { switch, own, successors })
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

/// Returns the name of a timeline's history file.
#[must_use]
pub fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}
