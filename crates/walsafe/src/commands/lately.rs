//! What earlier calls have noted lately: a server asks every few seconds, and each call is a process of its own.
//!
//! A standby is told the same line once a minute. And of several archives, one that failed is asked last for a
//! minute, so that not every file waits for it.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use walsafe_core::encoding::digest::Digest;
use walsafe_core::sys::Dir;

/// What was noted counts for so many seconds.
const FOR: u64 = 60;

/// The server's directory for what may be lost: no base backup has it.
const DIRECTORY: &str = "pg_stat_tmp";
/// The lines that were said.
const SAID: &str = "walsafe_restore.said";
/// The archives that failed.
const FAILED: &str = "walsafe_restore.failed";

/// More than this, and longer files, are not kept.
const LINES: usize = 32;
const MAX_LEN: u64 = 1 << 16;

/// Returns whether a line is to be said now, and notes that it was. In doubt, it is: where nothing can be
/// noted, each line is said.
pub(super) fn is_new(line: &str, data_directory: &Path) -> bool {
    let Some(mut said) = Notes::read(data_directory, SAID) else { return true };
    let digest = Digest::of(line.as_bytes()).to_string();
    if said.has(&digest) {
        return false;
    }
    said.add(digest);
    // A reader that comes in between says its line once more.
    let _ = said.write();
    true
}

/// Returns which archives have failed within the last minute, by their places. Nothing but the order in which
/// they are asked depends on it.
pub(super) fn failed(archives: &[PathBuf], data_directory: &Path) -> Vec<usize> {
    let Some(failed) = Notes::read(data_directory, FAILED) else { return Vec::new() };
    let places = archives.iter().enumerate();
    places.filter(|(_, path)| failed.has(&digest_of(path))).map(|(place, _)| place).collect()
}

/// Notes that these archives have failed now. Where nothing can be noted, each call finds it out anew.
pub(super) fn note_failed<'p>(archives: impl Iterator<Item = &'p Path>, data_directory: &Path) {
    let mut archives = archives.peekable();
    if archives.peek().is_none() {
        return;
    }
    let Some(mut failed) = Notes::read(data_directory, FAILED) else { return };
    archives.for_each(|path| failed.add(digest_of(path)));
    let _ = failed.write();
}

fn digest_of(path: &Path) -> String {
    Digest::of(path.as_os_str().as_bytes()).to_string()
}

/// The notes of the last minute: when, and the digest of what.
struct Notes {
    dir: Dir,
    file: &'static str,
    now: u64,
    lately: Vec<(u64, String)>,
}

impl Notes {
    /// Reads them. `None` if there is no place for them.
    fn read(data_directory: &Path, file: &'static str) -> Option<Self> {
        let dir = Dir::open(&data_directory.join(DIRECTORY)).ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // A time that is still to come is of a clock that was set back.
        let lately = dir
            .read_text(file, MAX_LEN)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(time, digest)| Some((time.parse().ok()?, digest.to_owned())))
            .filter(|(time, _)| (now.saturating_sub(FOR - 1)..=now).contains(time))
            .collect();
        Some(Self { dir, file, now, lately })
    }

    fn has(&self, digest: &str) -> bool {
        self.lately.iter().any(|(_, noted)| noted == digest)
    }

    fn add(&mut self, digest: String) {
        self.lately.retain(|(_, noted)| *noted != digest);
        self.lately.push((self.now, digest));
    }

    /// Replaces what was noted, with mode 0600 and following no link. A call that is killed here leaves a file of
    /// its own number, which the next one of that number removes.
    fn write(&self) -> io::Result<()> {
        let Self { dir, file, lately, .. } = self;
        let first = lately.len().saturating_sub(LINES);
        let lines = lately.iter().skip(first);
        let text: String = lines.map(|(time, digest)| format!("{time} {digest}\n")).collect();
        dir.replace_text(&format!("{file}.{}", std::process::id()), file, &text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_line_is_new_once_a_minute_and_another_line_at_once() {
        let data = tempfile::tempdir().unwrap();
        // Without a place to note it, every line is new.
        assert!(is_new("a", data.path()) && is_new("a", data.path()));
        std::fs::create_dir(data.path().join(DIRECTORY)).unwrap();
        assert!(is_new("a", data.path()) && is_new("b", data.path()));
        assert!(!is_new("a", data.path()) && !is_new("b", data.path()));
        let file = data.path().join(DIRECTORY).join(SAID);
        let noted = std::fs::read_to_string(&file).unwrap();
        // A minute later, after the clock was set back, and of what nobody can read.
        for by in [-60, 3600] {
            let moved = |line: &str| {
                let (time, digest) = line.split_once(' ').unwrap();
                format!("{} {digest}\n", time.parse::<i64>().unwrap() + by)
            };
            std::fs::write(&file, noted.lines().map(moved).collect::<String>()).unwrap();
            assert!(is_new("a", data.path()) && !is_new("a", data.path()));
        }
        std::fs::write(&file, [0xff, 0x00, 0x0a]).unwrap();
        assert!(is_new("a", data.path()) && !is_new("a", data.path()));
    }

    #[test]
    fn an_archive_that_failed_is_remembered_for_a_minute_and_a_link_is_not_followed() {
        let data = tempfile::tempdir().unwrap();
        let archives = ["/mnt/a", "/mnt/b", "/mnt/c"].map(PathBuf::from);
        let note = |place: usize| {
            note_failed(archives.iter().skip(place).take(1).map(|p| &**p), data.path())
        };
        // There is no place to note it.
        note(1);
        assert_eq!(failed(&archives, data.path()), Vec::<usize>::new());
        let dir = data.path().join(DIRECTORY);
        std::fs::create_dir(&dir).unwrap();
        note(1);
        note(2);
        assert_eq!(failed(&archives, data.path()), [1, 2]);
        // A minute later, of the first.
        let noted = std::fs::read_to_string(dir.join(FAILED)).unwrap();
        let (time, rest) = noted.split_once(' ').unwrap();
        let earlier = time.parse::<u64>().unwrap() - FOR;
        std::fs::write(dir.join(FAILED), format!("{earlier} {rest}")).unwrap();
        assert_eq!(failed(&archives, data.path()), [2]);
        // It counts from the last time.
        note(1);
        assert_eq!(failed(&archives, data.path()), [1, 2]);

        std::fs::remove_file(dir.join(FAILED)).unwrap();
        std::fs::write(dir.join("elsewhere"), "keep").unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.join(FAILED)).unwrap();
        assert_eq!(failed(&archives, data.path()), Vec::<usize>::new());
        note(0);
        assert_eq!(failed(&archives, data.path()), [0]);
        assert!(dir.join(FAILED).symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read_to_string(dir.join("elsewhere")).unwrap(), "keep");
    }
}
