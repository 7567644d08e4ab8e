//! File systems of a test's own: on an image file, or in memory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::run;
use crate::scratch::{self, Scratch};
use crate::skip::find_tool;
use crate::wait::{poll, wait_until};

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fs {
    Ext4,
    Xfs,
    Btrfs,
}

impl Fs {
    /// Every kind that can be on an image.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The smallest size in MB that its mkfs accepts.
    #[must_use]
    pub const fn min_mb(self) -> u64 {
        match self {
            Self::Ext4 => 8,
            Self::Xfs => 300,
            Self::Btrfs => 128,
        }
    }

    pub(crate) fn mkfs(self, image: &Path) {
        let (program, arguments): (_, &[&str]) = match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-K", "-m", "reflink=1"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-K"]),
        };
        run(Command::new(program_path(program)).args(arguments).arg(image));
    }

    /// Mount options for a copy of an image that is mounted too.
    pub(crate) const fn clone_options(self) -> &'static str {
        match self {
            Self::Xfs => "loop,nouuid",
            Self::Ext4 | Self::Btrfs => "loop",
        }
    }
}

/// A mounted file system, its root owned by the server's user. Unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    source: Source,
    _home: Option<Scratch>,
}

#[derive(Debug)]
enum Source {
    Image {
        path: PathBuf,
        options: &'static str,
    },
    Tmpfs {
        megabytes: u64,
    },
    /// Its layers lie in a file system of their own: they may not lie in an overlay.
    Overlay {
        layers: Box<Mount>,
    },
}

impl Mount {
    /// Makes and mounts a file system of this many megabytes (at least [`Fs::min_mb`]) on an image.
    #[must_use]
    #[track_caller]
    pub fn new(fs: Fs, megabytes: u64) -> Self {
        let home = Scratch::new("mount");
        let image = home.join("image");
        make_image(fs, &image, megabytes);
        let point = home.dir("fs");
        Self::image(image, point, "loop", Some(home))
    }

    /// A file system in memory.
    #[must_use]
    #[track_caller]
    pub fn tmpfs(megabytes: u64) -> Self {
        let home = Scratch::new("mount");
        let mount =
            Self { point: home.dir("fs"), source: Source::Tmpfs { megabytes }, _home: Some(home) };
        mount.mount();
        mount
    }

    /// A container's file system: an overlay whose lower layer, the image, holds this directory.
    #[must_use]
    #[track_caller]
    pub fn overlay(dir: &str) -> Self {
        let layers = Box::new(Self::new(Fs::Ext4, 64));
        for layer in ["lower", "upper", "work"] {
            scratch::make_dir(&layers.join(layer));
        }
        scratch::make_dir(&layers.join("lower").join(dir));
        let home = Scratch::new("mount");
        let mount =
            Self { point: home.dir("fs"), source: Source::Overlay { layers }, _home: Some(home) };
        mount.mount();
        mount
    }

    /// Mounts an image; `home`, if given, is removed with it.
    #[track_caller]
    pub(crate) fn image(
        path: PathBuf,
        point: PathBuf,
        options: &'static str,
        home: Option<Scratch>,
    ) -> Self {
        let mount = Self { point, source: Source::Image { path, options }, _home: home };
        mount.mount();
        mount
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.point.join(name)
    }

    /// Makes a directory in it, for the server's user.
    #[must_use]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        scratch::make_dir(&path);
        path
    }

    /// Mounts it again, after [`Mount::unmount`]. What was in memory is lost.
    #[track_caller]
    pub fn mount(&self) {
        let mut command = Command::new("mount");
        match &self.source {
            Source::Image { path, options } => command.args(["-o", options]).arg(path),
            Source::Tmpfs { megabytes } => {
                command.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            }
            Source::Overlay { layers } => {
                let [lower, upper, work] = ["lower", "upper", "work"]
                    .map(|layer| layers.join(layer).display().to_string());
                let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
                command.args(["-t", "overlay", "-o", &options, "overlay"])
            }
        };
        command.arg(&self.point);
        // Two tests that take a loop device at one moment can get in each other's way.
        let mounted = poll(Duration::from_secs(2), || {
            command.output().ok().filter(|output| output.status.success())
        });
        if mounted.is_none() {
            run(&mut command);
        }
        scratch::give_away(&self.point);
        scratch::chmod(&self.point, 0o700);
    }

    /// Unmounts it, and leaves the empty mount point, as an administrator may do by mistake. Panics if
    /// something in it stays in use.
    #[track_caller]
    pub fn unmount(&self) {
        let mut command = Command::new("umount");
        command.arg(&self.point);
        let done = poll(Duration::from_secs(5), || {
            command.output().ok().filter(|output| output.status.success())
        });
        if done.is_none() {
            run(&mut command);
        }
    }

    /// Whether it is mounted.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        is_mount_point(&self.point)
    }

    /// Makes it read-only.
    #[track_caller]
    pub fn remount_read_only(&self) {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(&self.point));
    }

    /// Makes it writable again.
    #[track_caller]
    pub fn remount_read_write(&self) {
        run(Command::new("mount").args(["-o", "remount,rw"]).arg(&self.point));
    }

    /// Lets every write to it hang, in the kernel, until the guard is dropped. Declare the guard after the
    /// cluster, so that it goes first: a process that hangs here cannot be killed.
    #[must_use = "it is thawed at once without"]
    #[track_caller]
    pub fn freeze(&self) -> Frozen<'_> {
        let root = File::open(&self.point).expect("it is mounted");
        run(Command::new("fsfreeze").arg("-f").arg(&self.point));
        Frozen { root, _mount: self }
    }

    /// Unmounts it although it is in use or hangs, and mounts another, empty file system there.
    #[must_use]
    #[track_caller]
    pub fn replace(&self, fs: Fs, megabytes: u64) -> Self {
        run(Command::new("umount").arg("-l").arg(&self.point));
        let home = Scratch::new("mount");
        let image = home.join("image");
        make_image(fs, &image, megabytes);
        Self::image(image, self.point.clone(), "loop", Some(home))
    }

    /// Fills it up except for about this many bytes, with a file `ballast` that a test can remove.
    #[track_caller]
    pub fn fill_but(&self, free: u64) -> PathBuf {
        let ballast = self.join("ballast");
        let mut spare = free;
        let fill = || {
            let stat = rustix::fs::statvfs(&self.point).expect("it is mounted");
            let size = (stat.f_bavail * stat.f_frsize).saturating_sub(spare).max(1);
            let mut command = Command::new("fallocate");
            command.args(["-l", &size.to_string()]).arg(&ballast);
            let filled = command.output().is_ok_and(|output| output.status.success());
            if !filled {
                // Somebody else wrote in between, or the file system needs some for itself.
                drop(std::fs::remove_file(&ballast));
                spare += 64 << 10;
            }
            filled.then_some(())
        };
        wait_until(Duration::from_secs(5), "the file system to be filled", fill);
        ballast
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.is_mounted() {
            return;
        }
        let umount = |flag: &[&str]| {
            Command::new("umount")
                .args(flag)
                .arg(&self.point)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        if poll(Duration::from_secs(3), || umount(&[]).then_some(())).is_none() {
            // The loop device is removed with its last user.
            umount(&["-l"]);
        }
    }
}

/// A file system whose writes hang. Thaws it when dropped.
#[derive(Debug)]
pub struct Frozen<'a> {
    /// By which it can be reached when it is mounted nowhere any more.
    root: File,
    _mount: &'a Mount,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let root = format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd());
        drop(Command::new("fsfreeze").arg("-u").arg(root).output());
    }
}

/// Makes a sparse image that holds an empty file system.
#[track_caller]
pub(crate) fn make_image(fs: Fs, image: &Path, megabytes: u64) {
    assert!(megabytes >= fs.min_mb(), "{fs:?} needs at least {} MB, not {megabytes}", fs.min_mb());
    let file = std::fs::File::create(image).expect("an image file");
    file.set_len(megabytes << 20).expect("a sparse file");
    fs.mkfs(image);
}

/// Whether a file system is mounted at exactly this directory.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|point| Path::new(point) == path))
}

fn program_path(name: &str) -> PathBuf {
    find_tool(name).unwrap_or_else(|| name.into())
}
