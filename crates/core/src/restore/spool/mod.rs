//! Files that were fetched ahead, and wait for the server to ask for them.
//!
//! A spool is a directory on the file system of `pg_wal`, so that delivery is a rename. Only its owner may look
//! into it. Somebody who fetches holds the directory's lock: a process of its own, or a call while it runs. In it:
//!
//! - `key`: what the spool belongs to ([`Key`]), and who fetches;
//! - `asked`: the segment that was delivered last, or is being fetched as the first one;
//! - `<segment>`, checked and decoded, and `<segment>.note` ([`Given`]), without which it does not count;
//! - `<segment>.coming`: it is being fetched, if somebody holds the lock;
//! - `errors`: what the process that fetches has to say, for the next call to say it;
//! - temporary files.
//!
//! Nothing in it is needed: it may be removed at any moment, and is worth nothing after a power cut.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::store::directory::temporary::Owner;
use crate::sys::{self, Dir};
use crate::wal::SegmentSize;
use crate::wal::name::{FileKind, FileName, SegmentName};

mod deliver;
mod fetch;
mod key;
mod note;
mod plan;

pub use self::fetch::{Fetcher, Source};
pub use self::key::{Key, Way};
pub use self::note::Given;

/// The spool of a server, unless another place is named: in its `pg_wal`, which no base backup copies.
pub const DIRECTORY: &str = ".walsafe-spool";

const KEY: &str = "key";
const ASKED: &str = "asked";
const ERRORS: &str = "errors";
/// No file of lines in a spool is longer.
const LONGEST: u64 = 64 << 10;
/// How often it is looked whether a segment has come.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// No spool holds more names.
const MOST_NAMES: usize = 4096;
/// How often a spool is emptied that is to be removed.
const REMOVALS: u32 = 20;

/// What is wrong with a spool: without one, nothing is fetched ahead.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It cannot be made, opened, read or written.
    #[error("could not use the spool \"{}\": {source}", .path.display())]
    Io {
        /// The spool or a file in it.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is no place that only its owner can write.
    #[error("the spool \"{}\" is not used: {reason}", .path.display())]
    Unsafe {
        /// The spool.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// Another recovery uses it.
    #[error("the spool \"{}\" is in use by another recovery", .path.display())]
    InUse {
        /// The spool.
        path: PathBuf,
    },
    /// Who fetches does so for an earlier start of this server, or from other archives, and is about to leave. This
    /// passes within a second.
    #[error("the spool \"{}\" is being left", .path.display())]
    BeingLeft {
        /// The spool.
        path: PathBuf,
    },
}

/// A spool that is open, and belongs to this recovery.
#[derive(Debug)]
pub struct Spool {
    dir: Dir,
    way: Way,
    /// What each note begins with.
    mark: String,
}

impl Spool {
    /// Opens the spool for a recovery, and makes it if it is not there. One that belongs to something else is
    /// emptied; `way` then finds out who is to fetch.
    ///
    /// # Errors
    /// It is not used: it is somebody else's, or in use, or cannot be.
    pub fn open(
        path: &Path,
        pg_wal: &Path,
        key: &Key,
        way: impl FnOnce() -> Way,
    ) -> Result<Self, SpoolError> {
        let dir = open(path, pg_wal)?;
        let fail = |source| SpoolError::Io { path: path.join(KEY), source };
        let (found, mark) = (read(&dir, KEY), key.mark());
        let is_ours = |way: &Way| found.as_ref().is_some_and(|text| *text == key.text(*way));
        if let Some(way) = Way::ALL.into_iter().find(is_ours) {
            return Ok(Self { dir, way, mark });
        }
        refuse_others_files(&dir)?;
        let is_others = found.as_ref().is_some_and(|text| !key.is_of_same_server(text));
        let mut spool = Self { dir, way: Way::Process, mark };
        let is_free = spool.lock().map_err(fail)?;
        // Calls that fetch by themselves hold no lock in between.
        if is_others && (!is_free || spool.asked().is_some_and(|(_, at)| is_soon(at))) {
            return Err(SpoolError::InUse { path: path.to_owned() });
        }
        if !is_free {
            // Who finds its key gone leaves, and touches nothing any more.
            let _ = spool.dir.unlink(KEY);
            return Err(SpoolError::BeingLeft { path: path.to_owned() });
        }
        spool.way = way();
        spool.empty();
        write(&spool.dir, KEY, &key.text(spool.way)).map_err(fail)?;
        // This handle's lock would be in the way of who is to fetch.
        let dir = Dir::open(path).map_err(fail)?;
        Ok(Self { dir, ..spool })
    }

    /// Opens the spool of a recovery once more. The lock of one handle is not that of the other.
    ///
    /// # Errors
    /// It is not at its path any more.
    pub fn again(&self) -> Result<Self, SpoolError> {
        let fail = |source| SpoolError::Io { path: self.path().to_owned(), source };
        let dir = Dir::open(self.path()).map_err(fail)?;
        Ok(Self { dir, way: self.way, mark: self.mark.clone() })
    }

    /// Returns who fetches.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Becomes the one who fetches, as long as this value lives. Returns `false` if somebody else does.
    ///
    /// # Errors
    /// What `flock` reports.
    pub fn lock(&self) -> io::Result<bool> {
        self.dir.try_lock()
    }

    /// Returns whether somebody fetches.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        Dir::open(self.path()).and_then(|dir| dir.try_lock()).is_ok_and(|free| !free)
    }

    /// Returns whether the spool still belongs to this, and is where its path leads.
    #[must_use]
    pub fn is_of(&self, key: &Key) -> bool {
        self.dir.is_at_its_path().unwrap_or(false)
            && read(&self.dir, KEY).is_some_and(|text| text == key.text(self.way))
    }

    /// Notes that a segment was delivered, or is the first one that is asked for, for who fetches.
    ///
    /// # Errors
    /// It could not be written.
    pub fn note_asked(&self, segment: SegmentName) -> Result<(), SpoolError> {
        let fail = |source| SpoolError::Io { path: self.path().join(ASKED), source };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // By the clock that reads it, which may not be the file system's.
        write(&self.dir, ASKED, &format!("{segment} {}\n", now.as_nanos())).map_err(fail)
    }

    /// Returns the segment that was noted last, and when.
    #[must_use]
    pub fn asked(&self) -> Option<(SegmentName, SystemTime)> {
        let text = read(&self.dir, ASKED)?;
        let (name, nanos) = text.trim_end().split_once(' ')?;
        let time = UNIX_EPOCH.checked_add(Duration::from_nanos(nanos.parse().ok()?))?;
        match FileName::new(name).ok()?.kind() {
            FileKind::Segment(segment) => Some((segment, time)),
            _ => None,
        }
    }

    /// Leaves a line for the next call to say, in place of an earlier one. If it cannot be left, nobody hears of
    /// it: nothing depends on it.
    pub fn complain(&self, line: &str) {
        let _ = write(&self.dir, ERRORS, &format!("{}\n", line.replace('\n', " ")));
    }

    /// Takes the line that was left.
    #[must_use]
    pub fn take_complaint(&self) -> Option<String> {
        let line = read(&self.dir, ERRORS)?.trim_end().to_owned();
        let _ = self.dir.unlink(ERRORS);
        Some(line).filter(|line| !line.is_empty())
    }

    /// Returns whether a segment is here, with its note.
    #[must_use]
    pub fn has(&self, segment: SegmentName) -> bool {
        self.note_of(segment).is_some()
    }

    /// Notes what a segment is that now lies here. It counts from then on.
    ///
    /// # Errors
    /// It could not be written.
    fn admit(&self, segment: SegmentName, given: &Given) -> io::Result<()> {
        let note = given.to_note().ok_or(io::ErrorKind::InvalidData)?;
        write(&self.dir, &note_name(segment), &format!("{}{note}", self.belongs_to(segment)))
    }

    /// Removes what came from an archive that was begun anew since. That the name of the archive is the same says
    /// nothing.
    pub fn forget_before(&self, given: &Given) {
        for segment in self.segments() {
            let is_older = |old: &Given| old.from == given.from && old.created != given.created;
            if self.note_of(segment).is_some_and(|old| is_older(&old)) {
                self.remove(segment);
            }
        }
    }

    /// Removes the segments that are not wanted.
    fn keep_only(&self, is_wanted: impl Fn(SegmentName) -> bool) {
        self.segments().into_iter().filter(|segment| !is_wanted(*segment)).for_each(|segment| {
            self.remove(segment);
        });
    }

    /// Removes everything. What cannot be removed does not count for anything later.
    pub fn empty(&self) {
        let mut names = Vec::new();
        let _ = self.dir.for_each_name(|name| names.push(name.to_owned()));
        names.retain(|name| Kind::of(name).is_some());
        // A segment goes before its note: without that and a key, it may be anybody's.
        names.sort_by_key(|name| Kind::of(name));
        names.iter().for_each(|name| drop(self.dir.unlink(name)));
    }

    /// Removes everything and the directory itself, if it is the one that is used by default.
    pub fn remove_all(&self) {
        let is_usual = self.path().file_name().is_some_and(|name| name == DIRECTORY);
        // Threads that were told to stop may just have created a file.
        for _ in 0..REMOVALS {
            self.empty();
            let mut left = 0;
            let _ = self.dir.for_each_name(|_| left += 1);
            if left == 0 && (!is_usual || std::fs::remove_dir(self.path()).is_ok()) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Removes a spool that nobody uses, if there is one.
    pub fn discard(path: &Path, pg_wal: &Path) {
        if path.is_dir()
            && let Ok(dir) = open(path, pg_wal)
            && refuse_others_files(&dir).is_ok()
            && dir.try_lock().is_ok_and(|free| free)
        {
            Self { dir, way: Way::Process, mark: String::new() }.remove_all();
        }
    }

    /// Returns whether so many bytes are free.
    fn has_room(&self, bytes: u64) -> bool {
        self.dir.space().is_ok_and(|space| space.free >= bytes && space.free_inodes != Some(0))
    }

    fn note_of(&self, segment: SegmentName) -> Option<Given> {
        let text = read(&self.dir, &note_name(segment))?;
        // Another one's is right about another one's file, should both come under this name.
        Given::of_note(text.strip_prefix(&self.belongs_to(segment))?)
    }

    /// The lines that a note begins with.
    fn belongs_to(&self, segment: SegmentName) -> String {
        format!("{}segment = {segment}\n", self.mark)
    }

    /// Returns the segments of which there is anything here.
    fn segments(&self) -> Vec<SegmentName> {
        let mut segments = Vec::new();
        let _ = self.dir.for_each_name(|name| {
            let stem = name.split('.').next().unwrap_or_default();
            if let Ok(FileKind::Segment(segment)) = FileName::new(stem).map(|name| name.kind()) {
                segments.push(segment);
            }
        });
        segments.sort_unstable();
        segments.dedup();
        segments
    }

    fn remove(&self, segment: SegmentName) {
        for name in [note_name(segment), segment.to_string()] {
            let _ = self.dir.unlink(&name);
        }
    }
}

/// What a spool holds, in the order in which it is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Segment,
    /// Of no use without a segment, or with it.
    Beside,
    Key,
}

impl Kind {
    /// Returns what has this name. `None`: it is not a spool's.
    fn of(name: &str) -> Option<Self> {
        let is_segment = |name: &str| {
            FileName::new(name).is_ok_and(|name| matches!(name.kind(), FileKind::Segment(_)))
        };
        match name {
            KEY => Some(Self::Key),
            ASKED | ERRORS => Some(Self::Beside),
            _ if is_segment(name) => Some(Self::Segment),
            _ if Owner::of(name).is_some() => Some(Self::Beside),
            _ => {
                let (stem, end) = name.split_once('.')?;
                (matches!(end, "note" | "coming") && is_segment(stem)).then_some(Self::Beside)
            }
        }
    }
}

/// Refuses a directory that somebody else uses: a spool is emptied.
fn refuse_others_files(dir: &Dir) -> Result<(), SpoolError> {
    let (mut kinds, mut is_others) = (BTreeMap::new(), false);
    let read = dir.for_each_name(|name| match Kind::of(name) {
        // Of an archive there are more names than anybody wants to keep.
        Some(kind) if kinds.len() < MOST_NAMES => drop(kinds.insert(name.to_owned(), kind)),
        _ => is_others = true,
    });
    let path = dir.path().to_owned();
    if let Err(source) = read {
        return Err(SpoolError::Io { path, source });
    }
    // WAL alone may be an archive, or somebody's last copy.
    let is_ours = |(name, kind): (&String, &Kind)| {
        *kind != Kind::Segment || kinds.contains_key(&format!("{name}.note"))
    };
    if !is_others && (kinds.contains_key(KEY) || kinds.iter().all(is_ours)) {
        return Ok(());
    }
    let reason = "it holds files that are not a spool's, and a spool is emptied";
    Err(SpoolError::Unsafe { path, reason })
}

fn note_name(segment: SegmentName) -> String {
    format!("{segment}.note")
}

fn coming_name(segment: SegmentName) -> String {
    format!("{segment}.coming")
}

/// Opens a directory that only its owner can use, and that is on the file system of `pg_wal`.
fn open(path: &Path, pg_wal: &Path) -> Result<Dir, SpoolError> {
    let fail = |source| SpoolError::Io { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail(e)),
        _ => {}
    }
    let there = path.symlink_metadata().map_err(fail)?;
    let server = pg_wal.metadata().map_err(fail)?;
    let reason = match () {
        () if there.is_symlink() => Some("it is a symbolic link"),
        () if !there.is_dir() => Some("it is not a directory"),
        () if there.uid() != sys::user() => Some("it belongs to another user"),
        () if there.mode() & 0o077 != 0 => {
            Some("others than its owner may use it (its mode must be 0700)")
        }
        () if there.dev() != server.dev() => Some("it is not on the file system of pg_wal"),
        () if !is_safe_parent(path) => {
            Some("others own or can write its parent directory, and replace it")
        }
        () => None,
    };
    if let Some(reason) = reason {
        return Err(SpoolError::Unsafe { path: path.to_owned(), reason });
    }
    let dir = Dir::open(path).map_err(fail)?;
    let opened = dir.own_entry().map_err(fail)?;
    if (opened.device, opened.inode) != (there.dev(), there.ino()) {
        let reason = "it was replaced while it was opened";
        return Err(SpoolError::Unsafe { path: path.to_owned(), reason });
    }
    Ok(dir)
}

/// Returns whether nobody but root and the owner can put something else in the place of a directory.
fn is_safe_parent(path: &Path) -> bool {
    const STICKY: u32 = 0o1000;
    let parent = path.canonicalize().ok().and_then(|path| path.parent()?.metadata().ok());
    parent.is_some_and(|parent| {
        let is_owned = parent.uid() == 0 || parent.uid() == sys::user();
        is_owned && (parent.mode() & 0o022 == 0 || parent.mode() & STICKY != 0)
    })
}

/// Reads a file of lines; `None` if it cannot be read.
fn read(dir: &Dir, name: &str) -> Option<String> {
    dir.read_text(name, LONGEST).ok()
}

/// Writes a file of lines in one step. Several threads may write the same one.
fn write(dir: &Dir, name: &str, text: &str) -> io::Result<()> {
    dir.replace_text(&Owner::this_process().temporary_name(name), name, text)
}

/// How long after a segment the next one is asked for by a server that replays one after the other.
const SOON: Duration = Duration::from_secs(60);

/// Returns whether that was within the last while. A clock may have been set back since.
fn is_soon(at: SystemTime) -> bool {
    match at.elapsed() {
        Ok(since) => since < SOON,
        Err(ahead) => ahead.duration() < SOON,
    }
}

/// Returns whether a server asks for one segment after the other, and fetching ahead pays: this one comes right
/// behind the one that was delivered before, soon after it. A switch of the timeline makes no difference.
#[must_use]
pub fn follows(
    last: Option<(SegmentName, SystemTime)>,
    segment: SegmentName,
    size: SegmentSize,
) -> bool {
    let address = |name: SegmentName| (name.log, name.segment);
    last.is_some_and(|(last, at)| {
        is_soon(at) && plan::next(last, size).map(address) == Some(address(segment))
    })
}
