//! Which files wait to be archived, by `pg_wal/archive_status`.
//!
//! Source: PostgreSQL's `postmaster/pgarch.c` (`pgarch_readyXlog`, `ready_file_comparator`): every
//! `NAME.ready` stands for a waiting file; history files go first, then by name.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use crate::error::{Action, Error};
use crate::name::{FileKind, FileName};
use crate::sys::Dir;

/// A waiting file, ordered as the server takes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    history: Reverse<bool>,
    name: FileName,
}

/// Returns the first `limit` waiting files in the server's order. Reads the directory once, and
/// holds no more than `limit` names.
///
/// # Errors
/// The directory could not be read.
pub fn first_waiting(archive_status: &Path, limit: usize) -> Result<Vec<FileName>, Error> {
    let fail = |e| Error::io(Action::ReadStatus, archive_status, e);
    let mut first: BinaryHeap<Waiting> = BinaryHeap::new();
    Dir::open(archive_status)
        .and_then(|dir| {
            dir.for_each_name(|entry| {
                let Some(Ok(name)) = entry.strip_suffix(".ready").map(FileName::new) else {
                    return;
                };
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
            "000000010000000000000003.ready",
        ] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        let names = |limit| -> Vec<String> {
            first_waiting(temp.path(), limit).unwrap().iter().map(ToString::to_string).collect()
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
    }
}
