//! A FUSE file system. It has no unnamed temporary files, and its daemon can die, or hang in such a way
//! that the kernel still lets callers be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::mount::is_mount_point;
use crate::process;
use crate::scratch::Scratch;
use crate::wait::{TIMEOUT, poll, wait_until};

/// A directory seen through bindfs. Needs `require!(privileged())` and `require!(tool("bindfs"))`.
#[derive(Debug)]
pub struct FuseMount {
    daemon: Child,
    point: PathBuf,
    behind: PathBuf,
    below: Option<Box<FuseMount>>,
    _home: Scratch,
}

impl FuseMount {
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it mounts something")]
    pub fn new() -> Self {
        let home = Scratch::new("fuse");
        let behind = home.dir("behind");
        Self::mounted(home, behind, None, &[])
    }

    /// An empty one, with options of bindfs.
    #[must_use]
    #[track_caller]
    pub fn with(options: &[&str]) -> Self {
        let home = Scratch::new("fuse");
        let behind = home.dir("behind");
        Self::mounted(home, behind, None, options)
    }

    /// A directory that exists, seen through it.
    #[must_use]
    #[track_caller]
    pub fn showing(behind: &Path) -> Self {
        Self::mounted(Scratch::new("fuse"), behind.to_owned(), None, &[])
    }

    /// The same through a second one. While the first is stalled, the second daemon has taken the calls and
    /// hangs itself: the kernel does not let their callers be killed.
    #[must_use]
    #[track_caller]
    pub fn showing_twice(behind: &Path) -> Self {
        let below = Self::showing(behind);
        let path = below.path().to_owned();
        Self::mounted(Scratch::new("fuse"), path, Some(Box::new(below)), &[])
    }

    #[track_caller]
    fn mounted(home: Scratch, behind: PathBuf, below: Option<Box<Self>>, options: &[&str]) -> Self {
        let point = home.dir("fs");
        let daemon = Command::new("bindfs")
            .arg("-f")
            .args(options)
            .args([&behind, &point])
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("could not run bindfs: {error}"));
        wait_until(TIMEOUT, "bindfs to mount", || is_mount_point(&point).then_some(()));
        Self { daemon, point, behind, below, _home: home }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// The directory that it shows, which can be looked at while the daemon hangs.
    #[must_use]
    pub fn behind(&self) -> &Path {
        &self.behind
    }

    /// Lets every call to it hang until the guard is dropped.
    #[must_use = "it goes on at once without"]
    pub fn stall(&self) -> Stalled {
        let daemon = self.below.as_ref().map_or(self.pid(), |below| below.pid());
        process::signal(daemon, Signal::STOP);
        wait_until(TIMEOUT, "bindfs to stop", || {
            (process::state(daemon) == Some('T')).then_some(())
        });
        Stalled { daemon }
    }

    /// Kills the daemon: every call then fails with ENOTCONN.
    pub fn kill_daemon(&self) {
        process::signal(self.pid(), Signal::KILL);
        wait_until(TIMEOUT, "bindfs to end", || (!process::is_alive(self.pid())).then_some(()));
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.daemon.id()).expect("a process id")
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        process::signal(self.pid(), Signal::CONT);
        let umount = |flag| {
            Command::new("umount")
                .arg(flag)
                .arg(&self.point)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        if poll(Duration::from_secs(3), || umount("-v").then_some(())).is_none() {
            umount("-l");
        }
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// A FUSE file system whose calls hang. Goes on when dropped.
#[derive(Debug)]
pub struct Stalled {
    daemon: i32,
}

impl Drop for Stalled {
    fn drop(&mut self) {
        process::signal(self.daemon, Signal::CONT);
    }
}
