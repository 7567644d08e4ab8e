//! The server that runs in a data directory, as its `postmaster.pid` tells (`miscadmin.h`: the number of the
//! process, the data directory, when it was started, and more, each in a line).

use std::path::Path;

use crate::sys;

/// One start of a server. A later one in the same data directory is another, though it had the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postmaster {
    /// The process.
    pub pid: u32,
    /// When the server was started, as it has written it: in seconds since 1970.
    pub started: String,
    /// The same as the kernel counts it, where it tells: a process that gets the number later is another.
    process_started: Option<u64>,
}

impl Postmaster {
    /// Returns the server that runs in a data directory, `None` if there is none.
    #[must_use]
    pub fn of(data_directory: &Path) -> Option<Self> {
        let (pid, started) = noted(data_directory)?;
        let process_started = sys::process_started(pid);
        sys::process_runs(pid).then_some(Self { pid, started, process_started })
    }

    /// Returns whether it still runs.
    #[must_use]
    pub fn runs(&self, data_directory: &Path) -> bool {
        // A server that was killed leaves the file, and one that has ended does not.
        noted(data_directory).is_some_and(|noted| noted == (self.pid, self.started.clone()))
            && sys::process_runs(self.pid)
            && sys::process_started(self.pid) == self.process_started
    }
}

/// Returns whether a server that runs in a data directory recovers from an archive, or follows one: it takes the
/// signal file away at the end of that.
#[must_use]
pub fn recovers(data_directory: &Path) -> bool {
    data_directory.join("recovery.signal").exists() || is_standby(data_directory)
}

/// Returns whether it follows an archive or another server, and asks again for what is not there yet.
#[must_use]
pub fn is_standby(data_directory: &Path) -> bool {
    data_directory.join("standby.signal").exists()
}

/// Returns whether a server is stopping, as it says itself.
#[must_use]
pub fn is_stopping(data_directory: &Path) -> bool {
    line(data_directory, STATUS).is_some_and(|status| status == "stopping")
}

/// Returns the number that a server has written, be it gone since. A single-user server writes its own negated.
#[must_use]
pub fn number(data_directory: &Path) -> Option<i64> {
    line(data_directory, NUMBER)?.parse().ok()
}

/// Lines of the file (`LOCK_FILE_LINE_*` in `miscadmin.h`), from 0 on.
const NUMBER: usize = 0;
const START: usize = 2;
const STATUS: usize = 7;

fn line(data_directory: &Path, at: usize) -> Option<String> {
    line_of(&std::fs::read_to_string(data_directory.join("postmaster.pid")).ok()?, at)
}

fn line_of(text: &str, at: usize) -> Option<String> {
    text.lines().nth(at).map(|line| line.trim().to_owned())
}

/// Returns number and start, of one reading. A single-user server archives nothing.
fn noted(data_directory: &Path) -> Option<(u32, String)> {
    let text = std::fs::read_to_string(data_directory.join("postmaster.pid")).ok()?;
    let started = line_of(&text, START).filter(|started| !started.is_empty())?;
    Some((line_of(&text, NUMBER)?.parse().ok()?, started))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    /// A number alone says nothing: another process may have got it.
    #[test]
    fn a_server_is_told_by_its_start() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path();
        assert_eq!(Postmaster::of(data), None);
        let mut server = Command::new("sleep").arg("60").spawn().unwrap();
        let write = |pid: i64, started: u64| {
            let text = format!("{pid}\n/data\n{started}\n5432\n");
            std::fs::write(data.join("postmaster.pid"), text).unwrap();
        };
        write(server.id().into(), 1_700_000_000);
        let first = Postmaster::of(data).unwrap();
        assert!(first.runs(data));
        // The number lives, and is another server's.
        write(server.id().into(), 1_700_000_500);
        assert!(!first.runs(data));
        // The number lives, and is another process's.
        write(server.id().into(), 1_700_000_000);
        let other = Postmaster { process_started: Some(1), ..first.clone() };
        assert!(!other.runs(data));
        assert!(first.runs(data));
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(!first.runs(data));
        // One that is only for a single user, and what is being written.
        write(-i64::from(std::process::id()), 1_700_000_000);
        assert_eq!(Postmaster::of(data), None);
        std::fs::write(data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(Postmaster::of(data), None);
    }
}
