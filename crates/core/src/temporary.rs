//! Names of temporary files: `.walsafe.<name>.<host>.<pid>.<n>.tmp`.
//!
//! Only where the file system has no unnamed files does the archiver use them. The name says who
//! made the file, so that what a killed archiver left can be told from what a live one is writing.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Action, Error};
use crate::sys::{self, Dir};

const PREFIX: &str = ".walsafe.";
const SUFFIX: &str = ".tmp";

/// Who makes temporary files: this host and this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Host name, without dots.
    pub host: String,
    /// Process id.
    pub pid: u32,
}

impl Owner {
    /// Returns this host and this process.
    #[must_use]
    pub fn this_process() -> Self {
        Self { host: sys::host_name(), pid: std::process::id() }
    }

    /// Returns a name that this process has not used before.
    #[must_use]
    pub fn temporary_name(&self, name: &str) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("{PREFIX}{name}.{}.{}.{n}{SUFFIX}", self.host, self.pid)
    }

    /// Returns the maker of a temporary file, by its name; `None` for any other name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let (rest, n) = rest.rsplit_once('.')?;
        let (rest, pid) = rest.rsplit_once('.')?;
        let (name, host) = rest.rsplit_once('.')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if name.is_empty() || host.is_empty() || !digits(n) || !digits(pid) || n.is_empty() {
            return None;
        }
        Some(Self { host: host.to_owned(), pid: pid.parse().ok()? })
    }
}

/// Tells whether a name in an archive is one of a temporary file of ours, whoever made it.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    Owner::of(name).is_some()
}

/// Removes the temporary files that dead processes of this host left in a directory, and those
/// with our own host and process id: called before this process makes any, so they come from a
/// process that had the same number in another life (containers reuse them). Returns how many
/// went.
///
/// # Errors
/// The directory could not be listed, or a file could not be removed.
pub fn remove_stray(dir: &Dir, us: &Owner) -> Result<usize, Error> {
    let mut stray = Vec::new();
    dir.for_each_name(|name| {
        if let Some(owner) = Owner::of(name)
            && owner.host == us.host
            && (owner.pid == us.pid || !sys::process_runs(owner.pid))
        {
            stray.push(name.to_owned());
        }
    })
    .map_err(|e| Error::io(Action::ListDestination, dir.path(), e))?;
    for name in &stray {
        match dir.unlink(name) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(Action::RemoveTemporary, dir.path().join(name), e));
            }
            _ => {}
        }
    }
    Ok(stray.len())
}

/// Tells whether a name in an archive is one that this project gives to its own files, so that it
/// is neither WAL nor foreign.
#[must_use]
pub fn is_own_name(name: &str) -> bool {
    name == crate::identity::FILE_NAME || is_temporary(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Stdio;

    use super::*;

    fn us() -> Owner {
        Owner::this_process()
    }

    #[test]
    fn a_temporary_name_tells_its_maker_and_is_never_used_twice() {
        let first = us().temporary_name("000000010000000000000003.partial");
        assert_eq!(Owner::of(&first), Some(us()));
        assert_ne!(first, us().temporary_name("000000010000000000000003.partial"));
        assert!(first.len() <= 255);
    }

    #[test]
    fn only_names_of_the_whole_form_are_temporary() {
        for name in [
            ".walsafe.tmp",
            ".walsafe.a.h.1.tmp",
            ".walsafe.a.h.x.1.tmp",
            "a.h.1.1.tmp",
            ".walsafe.a.h.1.1.tmp.zst",
        ] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn a_process_that_has_ended_but_was_not_collected_is_dead() {
        // Its files were left for as long as init took to collect a killed archiver.
        let temp = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        // The end of its output comes before it is a zombie.
        std::io::copy(&mut child.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
        let zombie = Owner { pid: child.id(), ..us() };
        std::fs::write(temp.path().join(zombie.temporary_name("a")), "x").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let removed = (0..1000).find_map(|_| match remove_stray(&dir, &us()).unwrap() {
            0 => {
                std::thread::sleep(std::time::Duration::from_millis(2));
                None
            }
            n => Some(n),
        });
        assert_eq!(removed, Some(1));
        child.wait().unwrap();
    }

    #[test]
    fn files_of_dead_processes_of_this_host_go_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = Owner { pid: child.id(), ..us() };
        child.wait().unwrap();
        let live = Owner { pid: std::os::unix::process::parent_id(), ..us() };
        let elsewhere = Owner { host: "elsewhere".to_owned(), ..dead.clone() };
        let keep = [
            live.temporary_name("a"),
            elsewhere.temporary_name("a"),
            "000000010000000000000001".to_owned(),
            ".hidden".to_owned(),
        ];
        for name in keep.iter().chain(&[dead.temporary_name("a"), us().temporary_name("b")]) {
            std::fs::write(temp.path().join(name), "x").unwrap();
        }
        let dir = Dir::open(temp.path()).unwrap();
        assert_eq!(remove_stray(&dir, &us()).unwrap(), 2);
        let mut left: Vec<String> = Vec::new();
        dir.for_each_name(|name| left.push(name.to_owned())).unwrap();
        left.sort();
        let mut keep = keep.to_vec();
        keep.sort();
        assert_eq!(left, keep);
    }
}
