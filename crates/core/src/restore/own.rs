//! History files that a server has itself, or can have from nobody.
//!
//! Near the end of a promotion, after it has removed `standby.signal`, the server asks for the history of the
//! timeline that it leaves (`writeTimeLineHistory` in `access/transam/timeline.c`). If that call fails, the
//! server ends in the middle of the promotion. If it finds nothing, the server takes the file in `pg_wal`.

use std::path::Path;

use super::delivery;
use crate::server::lineage;
use crate::wal::name::{FileKind, FileName};

/// What is said of a file that cannot be, with its name as the subject.
pub const CANNOT_EXIST: &str = "does not exist: the first timeline has no history";

/// Returns whether there can be no file of this name: the first timeline has no ancestors.
#[must_use]
pub fn cannot_exist(name: &FileName) -> bool {
    name.kind() == FileKind::History { timeline: 1 }
}

/// Returns whether a history file lies beside the target, in `pg_wal`, and names ancestors: the server then
/// needs none from an archive.
#[must_use]
pub fn has_history(name: &FileName, target: &Path) -> bool {
    let FileKind::History { timeline } = name.kind() else { return false };
    lineage::read_history(delivery::parent(target), timeline).is_ok_and(|found| found.is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_whole_history_file_beside_the_target_counts() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("RECOVERYHISTORY");
        let name = FileName::new("00000002.history").unwrap();
        assert!(!has_history(&name, &target));
        std::fs::write(temp.path().join("00000002.history"), "").unwrap();
        assert!(!has_history(&name, &target));
        std::fs::write(temp.path().join("00000002.history"), "1\t0/3000060\tno reason\n").unwrap();
        assert!(has_history(&name, &target));
        assert!(!has_history(&FileName::new("00000003.history").unwrap(), &target));
        let segment = FileName::new("000000010000000000000003").unwrap();
        std::fs::write(temp.path().join(segment.as_str()), "1\t0/3000060\tx\n").unwrap();
        assert!(!has_history(&segment, &target));
    }

    #[test]
    fn the_first_timeline_alone_has_no_history() {
        for (name, expected) in [("00000001.history", true), ("00000002.history", false)] {
            assert_eq!(cannot_exist(&FileName::new(name).unwrap()), expected);
        }
    }
}
