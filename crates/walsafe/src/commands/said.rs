//! What a standby was told lately. It asks every few seconds, and each call is a process of its own.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use walsafe_core::encoding::digest::Digest;
use walsafe_core::sys::Dir;

/// The same line is said at most once in so many seconds.
const EVERY: u64 = 60;

/// The server's directory for what may be lost: no base backup has it.
const DIRECTORY: &str = "pg_stat_tmp";
const FILE: &str = "walsafe_restore.said";

/// More lines than this, and longer files, are not kept.
const LINES: usize = 32;
const MAX_LEN: u64 = 1 << 16;

/// Returns whether a line is to be said now, and notes that it was. In doubt, it is: where nothing can be
/// noted, each line is said.
pub(super) fn is_new(line: &str, data_directory: &Path) -> bool {
    let Ok(dir) = Dir::open(&data_directory.join(DIRECTORY)) else { return true };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let digest = Digest::of(line.as_bytes()).to_string();
    // A time that is still to come is of a clock that was set back.
    let mut lately: Vec<(u64, String)> = read(&dir)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(time, digest)| Some((time.parse().ok()?, digest.to_owned())))
        .filter(|(time, _)| (now.saturating_sub(EVERY - 1)..=now).contains(time))
        .collect();
    if lately.iter().any(|(_, said)| *said == digest) {
        return false;
    }
    lately.push((now, digest));
    let first = lately.len().saturating_sub(LINES);
    let text: String =
        lately.iter().skip(first).map(|(time, digest)| format!("{time} {digest}\n")).collect();
    // A reader that comes in between says its line once more.
    let _ = write(&dir, &text);
    true
}

fn read(dir: &Dir) -> io::Result<String> {
    let mut text = String::new();
    dir.open_file(FILE)?.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(text)
}

/// Replaces what was noted. A call that is killed here leaves a file of its own number, which the next one
/// of that number removes.
fn write(dir: &Dir, text: &str) -> io::Result<()> {
    let temporary = format!("{FILE}.{}", std::process::id());
    let _ = dir.unlink(&temporary);
    dir.create_named(&temporary)?.write_all(text.as_bytes())?;
    dir.replace(&temporary, FILE)
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
        let file = data.path().join(DIRECTORY).join(FILE);
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
}
