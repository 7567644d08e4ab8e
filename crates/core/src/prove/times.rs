//! The first and the last commit of a timeline, found from its ends.

use std::io;

use super::examine::{self, Expectation};
use super::verify::Commit;
use super::verify::notes::{Ask, Notes, Watched, Watcher, crossing};
use crate::store::{StoredName, Visit};
use crate::sys::read_full;
use crate::wal::name::FileKind;
use crate::wal::{Lsn, SegmentSize};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// The first and the last commit of a timeline's own WAL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// The first.
    pub first: Option<Commit>,
    /// The last.
    pub last: Option<Commit>,
}

/// Reads the whole segments of a timeline from both ends until a commit is found. `files` is sorted by name.
///
/// The first segment of a timeline begins as a copy of its parent's; what was committed on the parent does not
/// count. Memory: two segments' edges.
pub(super) fn of(
    visit: &dyn Visit,
    files: &[StoredName],
    timeline: u32,
    size: SegmentSize,
    unreadable: &mut Vec<(String, String)>,
) -> Times {
    let from = began(visit, files, timeline).unwrap_or_default();
    let ask = Ask { from, checkpoint: None, until: None };
    let own = |file: &&StoredName| match file.name.kind() {
        FileKind::Segment(segment) => segment.timeline == timeline && segment.start(size).is_some(),
        _ => false,
    };
    let mut reader = Reader { visit, ask: &ask, unreadable };
    let first = reader.find(files.iter().filter(own), false, |notes| notes.first_commit);
    // If there is none from the beginning to the end, there is none the other way either.
    let last = first
        .and_then(|_| reader.find(files.iter().rev().filter(own), true, |notes| notes.last_commit));
    Times { first, last }
}

/// Returns where a timeline began, by its history file.
fn began(visit: &dyn Visit, files: &[StoredName], timeline: u32) -> Option<Lsn> {
    let is_own = |file: &&StoredName| file.name.kind() == FileKind::History { timeline };
    let file = files.iter().find(is_own)?;
    let found = visit.find(&file.into()).ok()??;
    let read = examine::examine(&*found, &file.name, &Expectation::default(), &mut |_| Ok(()));
    Some(read.ok()?.history?.last()?.switch)
}

struct Reader<'a> {
    visit: &'a dyn Visit,
    ask: &'a Ask,
    unreadable: &'a mut Vec<(String, String)>,
}

impl Reader<'_> {
    /// Reads files in the order given until one, or the record that crosses to its neighbour, has a commit.
    fn find<'f>(
        &mut self,
        files: impl Iterator<Item = &'f StoredName>,
        backwards: bool,
        commit: impl Fn(&Notes) -> Option<Commit>,
    ) -> Option<Commit> {
        let mut before: Option<Watched> = None;
        for file in files {
            let watched = match self.read(file) {
                Ok(Some(watched)) => watched,
                // It was removed since the names were read.
                Ok(None) => continue,
                Err(e) => {
                    self.unreadable.push((file.to_string(), e.to_string()));
                    before = None;
                    continue;
                }
            };
            // The record that crosses comes first in either direction.
            let crosses = before.as_ref().and_then(|other| {
                let (first, second) = if backwards { (&watched, other) } else { (other, &watched) };
                commit(&crossing(self.ask, first, second))
            });
            let found = crosses.or_else(|| commit(&watched.notes));
            if found.is_some() {
                return found;
            }
            before = Some(watched);
        }
        None
    }

    fn read(&self, file: &StoredName) -> io::Result<Option<Watched>> {
        let found = match self.visit.find(&file.into()) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(e) => return Err(io::Error::other(format!("{e}: {}", e.detail()))),
        };
        let mut watcher = Watcher::new(self.ask, file.name.segment());
        let (mut decoder, mut buffer) = (found.decode()?, vec![0; CHUNK]);
        loop {
            let got = read_full(&mut decoder, &mut buffer)?;
            watcher.feed(buffer.get(..got).unwrap_or_default());
            if got < CHUNK {
                return Ok(Some(watcher.finish()));
            }
        }
    }
}
