//! A disk that loses power.
//!
//! The disk is an image on an xfs, which can copy it in an instant by sharing its blocks. At any
//! moment such a copy is what the disk would hold if the power went: what was flushed, and of the
//! rest what the kernel happened to have written. (A drive that loses its cache or reorders writes
//! is not modelled: so tests look at the order of the system calls as well.)

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::command::run;
use crate::mount::{Fs, Mount, make_image};
use crate::scratch;

/// A mounted disk whose power can be cut, as often as a test likes.
#[derive(Debug)]
pub struct PowerCut {
    // In the order in which they must be dropped.
    disk: Mount,
    outer: Mount,
    fs: Fs,
    cuts: AtomicU32,
}

/// A disk without power, from [`PowerCut::cut_off`].
#[derive(Debug)]
#[must_use]
pub struct Dark {
    number: u32,
    image: PathBuf,
}

impl PowerCut {
    /// Makes and mounts a disk of this many megabytes (at least [`Fs::min_mb`]).
    #[must_use]
    #[track_caller]
    pub fn new(fs: Fs, megabytes: u64) -> Self {
        // Sparse, so only what the copies do not share takes space.
        let outer = Mount::new(Fs::Xfs, 512 + 8 * megabytes);
        let image = outer.join("disk");
        make_image(fs, &image, megabytes);
        let disk = Mount::image(image, outer.dir("mounted"), "loop", None);
        // The empty file system is no part of the test.
        run(Command::new("sync").arg("-f").arg(disk.path()));
        Self { disk, outer, fs, cuts: AtomicU32::new(0) }
    }

    /// Where the disk is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Makes a directory on the disk, flushed.
    #[must_use]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.disk.dir(name);
        self.sync();
        path
    }

    /// Flushes all that is on the disk: how it was set up is no part of the test.
    #[track_caller]
    pub fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(self.path()));
    }

    /// Cuts the power: the disk as it comes up afterwards, its journal replayed. The disk itself runs
    /// on, so a test can cut again.
    #[must_use]
    #[track_caller]
    pub fn cut(&self) -> Mount {
        self.come_up(self.cut_off())
    }

    /// Cuts the power, and leaves the disk switched off. This is quick, so a run can make many cuts.
    #[track_caller]
    pub fn cut_off(&self) -> Dark {
        let number = self.cuts.fetch_add(1, Ordering::Relaxed);
        let image = self.outer.join(format!("cut-{number}"));
        run(Command::new("cp").arg("--reflink=always").arg(self.outer.join("disk")).arg(&image));
        Dark { number, image }
    }

    /// Switches a disk on again.
    #[must_use]
    #[track_caller]
    pub fn come_up(&self, dark: Dark) -> Mount {
        let point = self.outer.dir(&format!("after-{}", dark.number));
        Mount::image(dark.image, point, self.fs.clone_options(), None)
    }

    /// The names in a directory of the disk as it would come up after a cut now, each with its contents.
    #[must_use]
    #[track_caller]
    pub fn files_after_cut(&self, dir: &str) -> Vec<(String, Vec<u8>)> {
        let after = self.cut();
        let dir = after.join(dir);
        scratch::names(&dir)
            .into_iter()
            .filter(|name| dir.join(name).is_file())
            .map(|name| {
                let bytes = scratch::read(&dir.join(&name));
                (name, bytes)
            })
            .collect()
    }
}
