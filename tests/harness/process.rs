//! Processes that are not our children: found and looked at through /proc, and signalled.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::server::as_server_user;
use crate::wait::poll;

/// Sends a signal. A process that is gone already is no failure.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process runs. One that has ended and waits to be collected does not, but a killed one
/// does as long as the kernel holds one of its threads: it is still attached to its shared memory,
/// and another server cannot start.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| (state != 'Z' && state != 'X') || threads(pid) > 1)
}

/// The state letter in /proc/PID/stat: `R`, `S`, `D` (held by the kernel), `T`, `Z`.
#[must_use]
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The title that a server process shows, such as `postgres: archiver last was ...`.
#[must_use]
pub fn title(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ")
}

/// The children of a process.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Resident memory that belongs to the process alone (heap, stacks), in kB: without the shared
/// buffers, which count as they are touched.
#[must_use]
pub fn private_memory_kb(pid: i32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

/// What the process's descriptors refer to.
#[must_use]
pub fn open_files(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect()
}

/// How many TCP connections the process holds, also those that the other side has closed.
#[must_use]
pub fn connections(pid: i32) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    // The tenth column is the inode.
    let inodes: Vec<&str> =
        table.lines().filter_map(|line| line.split_whitespace().nth(9)).collect();
    let is_one = |file: &String| {
        let inode = file.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.contains(&inode))
    };
    open_files(pid).iter().filter(|file| is_one(file)).count()
}

/// The number of threads.
#[must_use]
pub fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// The number that the last process was given; the next one is given the next free one.
const LAST_NUMBER: &str = "/proc/sys/kernel/ns_last_pid";

/// A process that has the number of one that is gone. Killed when dropped.
#[derive(Debug)]
pub struct Numbered(Child);

impl Numbered {
    /// Whether this machine lets a number be chosen, for `require!`.
    ///
    /// # Errors
    /// It does not.
    pub fn is_possible() -> Result<(), String> {
        let last = fs::OpenOptions::new().write(true).open(LAST_NUMBER);
        last.map(drop).map_err(|error| format!("needs to write {LAST_NUMBER}: {error}"))
    }

    /// Gives the number, which must be free, to a process that sleeps for a minute. Needs root.
    #[must_use]
    #[track_caller]
    pub fn take(pid: i32) -> Self {
        for _ in 0..1000 {
            // Another process may be started in between.
            fs::write(LAST_NUMBER, (pid - 1).to_string()).expect("root");
            let mut sleep = Command::new("sleep");
            let child = as_server_user(sleep.arg("60").stdin(Stdio::null())).spawn();
            let given = Self(child.expect("sleep"));
            if i32::try_from(given.0.id()) == Ok(pid) {
                return given;
            }
        }
        panic!("the number {pid} was never given to a new process; it has {:?}", title(pid));
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Kills every process that works in this directory or below, as those of a cluster do in its data
/// directory, and waits until they are gone. Processes that the kernel holds stay.
pub fn kill_all_in(dir: &Path) {
    kill_all(dir, |pid| works_in(pid, dir));
}

/// Also kills those whose command line names the directory, such as a FUSE daemon.
pub fn kill_all_about(dir: &Path) {
    let name = dir.to_string_lossy();
    kill_all(dir, |pid| works_in(pid, dir) || title(pid).contains(&*name));
}

fn works_in(pid: i32, dir: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

fn kill_all(dir: &Path, chosen: impl Fn(i32) -> bool) {
    let gone = poll(Duration::from_secs(5), || {
        let pids = running(&chosen);
        for &pid in &pids {
            signal(pid, Signal::KILL);
        }
        pids.is_empty().then_some(())
    });
    if gone.is_none() {
        eprintln!("processes in {} cannot be killed", dir.display());
    }
}

/// The running processes that a test chooses.
#[must_use]
pub fn running(chosen: impl Fn(i32) -> bool) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| chosen(pid) && is_alive(pid))
        .collect()
}
