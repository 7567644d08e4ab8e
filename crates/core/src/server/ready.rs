//! Which files wait to be archived, by `pg_wal/archive_status`.
//!
//! Source: PostgreSQL's `postmaster/pgarch.c` (`pgarch_readyXlog`, `ready_file_comparator`). Every
//! `NAME.ready` stands for a waiting file, if the name has a length and characters that the server
//! accepts (`postmaster/pgarch.h`). History files come first, then the others by name.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::time::SystemTime;

use crate::error::{Action, Error};
use crate::sys::Dir;
use crate::wal::SegmentSize;
use crate::wal::name::{FileKind, FileName, SegmentName};

/// `MIN_XFN_CHARS` to `MAX_XFN_CHARS`.
const NAME_LEN: std::ops::RangeInclusive<usize> = 16..=40;
/// `VALID_XFN_CHARS`.
const CHARACTERS: &str = "0123456789ABCDEF.history.backup.partial";

/// Returns the file that waits according to an entry of `archive_status`; `None` for entries that the
/// server ignores, as it never asks for those.
fn waiting(entry: &str) -> Option<FileName> {
    let name = entry.strip_suffix(".ready")?;
    let known = NAME_LEN.contains(&name.len()) && name.chars().all(|c| CHARACTERS.contains(c));
    FileName::new(name).ok().filter(|_| known)
}

/// A waiting file, ordered as the server takes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    history: Reverse<bool>,
    name: FileName,
}

/// Returns the first `limit` waiting files in the server's order, without those that are `known`. Reads the
/// directory once, and holds no more than `limit` names. `known` is called once for each waiting file.
///
/// # Errors
/// The directory could not be read.
pub fn first_waiting(
    archive_status: &Path,
    limit: usize,
    mut known: impl FnMut(&FileName) -> bool,
) -> Result<Vec<FileName>, Error> {
    let fail = |e| Error::io(Action::ReadStatus, archive_status, e);
    let mut first: BinaryHeap<Waiting> = BinaryHeap::new();
    Dir::open(archive_status)
        .and_then(|dir| {
            dir.for_each_name(|entry| {
                let Some(name) = waiting(entry).filter(|name| !known(name)) else { return };
                let history = Reverse(matches!(name.kind(), FileKind::History { .. }));
                first.push(Waiting { history, name });
                if first.len() > limit {
                    first.pop();
                }
            })
        })
        .map_err(fail)?;
    Ok(first.into_sorted_vec().into_iter().map(|waiting| waiting.name).collect())
}

/// What waits to be archived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Number of files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since when the oldest of them has been waiting.
    pub oldest: Option<SystemTime>,
}

impl Backlog {
    fn add(&mut self, bytes: u64, since: SystemTime) {
        self.files += 1;
        self.bytes += bytes;
        self.oldest = Some(self.oldest.map_or(since, |oldest| oldest.min(since)));
    }
}

/// Counts the waiting files. Looks once at each `.ready` file; takes the segment size for segments, and
/// looks up only other files in `pg_wal`.
///
/// # Errors
/// The directory could not be read.
pub fn backlog(pg_wal: &Path, segment_size: SegmentSize) -> Result<Backlog, Error> {
    let backlogs = backlogs(pg_wal, segment_size, &[None])?;
    Ok(backlogs.into_iter().next().unwrap_or_default())
}

/// Counts, in the same look, what each of several destinations lacks of the waiting files. `has_up_to` is for each
/// the last segment that it has already, with the waiting files before it.
///
/// # Errors
/// The directory could not be read.
pub fn backlogs(
    pg_wal: &Path,
    segment_size: SegmentSize,
    has_up_to: &[Option<SegmentName>],
) -> Result<Vec<Backlog>, Error> {
    let archive_status = pg_wal.join("archive_status");
    let fail = |e| Error::io(Action::ReadStatus, &archive_status, e);
    let mut backlogs = vec![Backlog::default(); has_up_to.len()];
    let dir = Dir::open(&archive_status).map_err(fail)?;
    dir.for_each_name(|entry| {
        let Some(name) = waiting(entry) else { return };
        // It was archived in the meantime.
        let Ok(since) = archive_status.join(entry).metadata().and_then(|m| m.modified()) else {
            return;
        };
        let bytes = match name.segment() {
            Some(_) => segment_size.bytes().into(),
            None => pg_wal.join(name.as_str()).metadata().map_or(0, |m| m.len()),
        };
        for (backlog, last) in backlogs.iter_mut().zip(has_up_to) {
            if !last.is_some_and(|last| comes_before(&name, last)) {
                backlog.add(bytes, since);
            }
        }
    })
    .map_err(fail)?;
    Ok(backlogs)
}

/// Returns whether the server takes a file before the one behind this segment.
fn comes_before(name: &FileName, segment: SegmentName) -> bool {
    match name.kind() {
        FileKind::History { timeline } => timeline <= segment.timeline,
        _ => *name.as_str() <= *segment.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn history_files_come_first_then_names_in_order_and_no_more_than_asked_for() {
        let temp = tempfile::tempdir().unwrap();
        for name in [
            "000000010000000000000004.ready",
            "000000010000000000000002.ready",
            "000000010000000000000001.done",
            "00000002.history.ready",
            "000000010000000000000003.00000028.backup.ready",
            "bad name.ready",
            // What the server ignores: names that are too short, too long, or have other characters.
            "00000003.HISTORY.ready",
            "0000.history.ready",
            "000000010000000000000003.00000028.backups.ready",
            "00000001000000000000000g.ready",
            "000000010000000000000003.ready",
        ] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        let names = |limit| -> Vec<String> {
            let none = |_: &FileName| false;
            first_waiting(temp.path(), limit, none)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        let all = [
            "00000002.history",
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000004",
        ];
        assert_eq!(names(100), all);
        assert_eq!(names(2), all.get(..2).unwrap());
        let known = |name: &FileName| name.as_str() == all[0];
        let others = first_waiting(temp.path(), 2, known).unwrap();
        assert_eq!(others.iter().map(FileName::as_str).collect::<Vec<_>>(), all[1..3]);
    }

    #[test]
    fn the_backlog_counts_files_bytes_and_the_longest_wait() {
        let temp = tempfile::tempdir().unwrap();
        let status = temp.path().join("archive_status");
        std::fs::create_dir(&status).unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        assert_eq!(backlog(temp.path(), size).unwrap(), Backlog::default());
        std::fs::write(temp.path().join("00000002.history"), "12345").unwrap();
        for name in [
            "00000002.history.ready",
            "000000010000000000000002.ready",
            "x.done",
            "x.ready",
            "000000010000000000000002.new.ready",
        ] {
            std::fs::write(status.join(name), "").unwrap();
        }
        let oldest = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        let file = std::fs::File::open(status.join("000000010000000000000002.ready")).unwrap();
        file.set_modified(oldest).unwrap();
        let expected = Backlog { files: 2, bytes: (1 << 20) + 5, oldest: Some(oldest) };
        assert_eq!(backlog(temp.path(), size).unwrap(), expected);
    }

    /// A destination that had everything was shown with the backlog of another one.
    #[test]
    fn what_a_destination_has_already_is_not_its_backlog() {
        let temp = tempfile::tempdir().unwrap();
        let status = temp.path().join("archive_status");
        std::fs::create_dir(&status).unwrap();
        for name in [
            "00000001.history",
            "00000002.history",
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000004",
        ] {
            std::fs::write(status.join(format!("{name}.ready")), "").unwrap();
        }
        let up_to = |timeline, segment| Some(SegmentName { timeline, log: 0, segment });
        let size = SegmentSize::new(1 << 20).unwrap();
        let counted =
            backlogs(temp.path(), size, &[None, up_to(1, 3), up_to(1, 4), up_to(2, 1)]).unwrap();
        let files: Vec<_> = counted.iter().map(|backlog| backlog.files).collect();
        assert_eq!(files, [6, 3, 1, 0]);
    }
}
