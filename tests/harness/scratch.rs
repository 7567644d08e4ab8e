//! Directories for the tests that the server's user can reach.
//!
//! Their names hold our process id, so that the next test program finds what a killed one left
//! behind: its servers, mounts and files.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::command::run_within;
use crate::object::seaweedfs;
use crate::process;
use crate::server::Account;

/// Not `/tmp`, which may be small or in memory, and not anybody's home.
const ROOT: &str = "/var/tmp";
const PREFIX: &str = "walsafe-test-";

/// A directory that belongs to the server's user and is removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty directory. `purpose` shows in its name.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        static SWEEP: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{purpose}", std::process::id());
        let path = Path::new(ROOT).join(name);
        make_dir(&path);
        Self { path }
    }

    /// Takes over a directory that is there, on a disk of the test's own.
    #[must_use]
    pub fn adopt(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a directory in it.
    #[must_use]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        make_dir(&path);
        path
    }

    /// The names in it, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        names(&self.path)
    }

    /// The contents of a file in it.
    #[must_use]
    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        read(&self.path.join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A server that commands of the documentation started, where a later one failed.
        process::kill_all_in(&self.path);
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// Makes a directory that belongs to the server's user, mode 0700.
pub fn make_dir(path: &Path) {
    fs::create_dir(path)
        .unwrap_or_else(|error| panic!("could not create {}: {error}", path.display()));
    give_away(path);
    chmod(path, 0o700);
}

/// Gives a file to the server's user, if we are another user.
pub fn give_away(path: &Path) {
    if let Some(account) = Account::of_server() {
        chown(path, Some(account.uid), Some(account.gid)).unwrap_or_else(|error| {
            panic!("could not change the owner of {}: {error}", path.display())
        });
    }
}

/// Sets a file's permissions.
pub fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("could not change the mode of {}: {error}", path.display()));
}

/// Writes a file that belongs to the server's user. A server that reads it at the same moment, as it
/// may still do after a reload, finds the old contents or the new, never half of them.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    fs::write(beside, contents)
        .unwrap_or_else(|error| panic!("could not write {}: {error}", beside.display()));
    give_away(beside);
    fs::rename(beside, path)
        .unwrap_or_else(|error| panic!("could not replace {}: {error}", path.display()));
}

/// The contents of a file that has to be there.
#[must_use]
#[track_caller]
pub fn read(path: &Path) -> Vec<u8> {
    match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => panic!("could not read {}: {error}", path.display()),
    }
}

/// The names in a directory, sorted; none where it does not exist.
#[must_use]
pub fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Removes what killed test programs left.
pub fn sweep() {
    for name in names(Path::new(ROOT)) {
        let owner =
            name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<i32>().ok());
        if owner.is_some_and(|pid| !process::is_alive(pid)) {
            let path = Path::new(ROOT).join(&name);
            eprintln!("removing {}, left by a test program that was killed", path.display());
            // What hangs there is let go first, otherwise nothing could be killed or looked at.
            for point in mounts_below(&path) {
                within_limit("fsfreeze", &["-u", &point]);
            }
            process::kill_all_about(&path);
            for point in mounts_below(&path) {
                within_limit("umount", &["-l", &point]);
            }
            drop(fs::remove_dir_all(&path));
        }
    }
    seaweedfs::sweep();
}

/// The mount points below a directory, the latest first.
fn mounts_below(dir: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|path| Path::new(path).starts_with(dir)).rev().map(str::to_owned).collect()
}

/// Runs a program whose outcome does not matter: a file system that is not frozen cannot be thawed.
fn within_limit(program: &str, arguments: &[&str]) {
    drop(run_within(Command::new(program).args(arguments), "", Duration::from_secs(5)));
}
