//! Files that were fetched ahead, and wait for the server to ask for them.
//!
//! A spool is a directory on the file system of `pg_wal`, so that delivery is a rename. Only its owner may look
//! into it. Somebody who fetches holds the directory's lock: a process of its own, or a call while it runs. In it:
//!
//! - `key`: what the spool belongs to ([`Key`]), and who fetches;
//! - `asked`: the segment that was delivered last;
//! - `<segment>`, checked and decoded, and `<segment>.note` ([`Given`]), without which it does not count;
//! - `<segment>.coming`: it is being fetched, if somebody holds the lock;
//! - `errors`: what the process that fetches has to say, for the next call to say it;
//! - temporary files.
//!
//! Nothing in it is needed: it may be removed at any moment, and is worth nothing after a power cut.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{Round, delivery};
use crate::encoding::digest::{Digest, Hasher};
use crate::store::Progress;
use crate::store::directory::temporary;
use crate::sys::{self, Dir};
use crate::wal::SegmentSize;
use crate::wal::name::{FileKind, FileName, SegmentName};

mod fetch;
mod note;
mod plan;

pub use self::fetch::{Fetcher, Source};
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
/// How long one that is coming may stand still.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes hashed at a time.
const CHUNK: usize = 256 << 10;

/// What a spool belongs to. Of anything else, it is emptied before use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The start of the server: its process, and when it was started.
    pub server: String,
    /// The data directory, by what no other has.
    pub data_directory: String,
    /// The archives in their order, and what is accepted of them, as a digest.
    pub archives: Digest,
}

/// Who fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A process of its own.
    Process,
    /// The calls themselves: the orphan of a call would be taken over by the server.
    Calls,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Calls => "calls",
        }
    }
}

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
        let is_ours = |way: &Way| read(&dir, KEY).is_some_and(|text| text == key.text(*way));
        if let Some(way) = [Way::Process, Way::Calls].into_iter().find(is_ours) {
            return Ok(Self { dir, way });
        }
        if !dir.try_lock().map_err(fail)? {
            let path = path.to_owned();
            if read(&dir, KEY).is_some_and(|text| !key.is_of_same_server(&text)) {
                return Err(SpoolError::InUse { path });
            }
            // Who finds its key gone leaves, and touches nothing any more.
            let _ = dir.unlink(KEY);
            return Err(SpoolError::BeingLeft { path });
        }
        let spool = Self { dir, way: way() };
        spool.empty();
        write(&spool.dir, KEY, &key.text(spool.way)).map_err(fail)?;
        // This handle's lock would be in the way of who is to fetch.
        let dir = Dir::open(path).map_err(fail)?;
        Ok(Self { dir, ..spool })
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

    /// Notes that a segment was delivered, for who fetches.
    ///
    /// # Errors
    /// It could not be written.
    pub fn note_asked(&self, segment: SegmentName) -> Result<(), SpoolError> {
        let fail = |source| SpoolError::Io { path: self.path().join(ASKED), source };
        write(&self.dir, ASKED, &format!("{segment}\n")).map_err(fail)
    }

    /// Returns the segment that was delivered last, and when.
    #[must_use]
    pub fn asked(&self) -> Option<(SegmentName, SystemTime)> {
        let time = self.dir.open_file(ASKED).and_then(|file| file.metadata()?.modified()).ok()?;
        let name = FileName::new(read(&self.dir, ASKED)?.trim_end()).ok()?;
        match name.kind() {
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

    /// As [`Spool::deliver`], but waits for a segment that somebody is just fetching, as long as more of it comes.
    ///
    /// # Errors
    /// As [`Spool::deliver`].
    pub fn take(
        &self,
        segment: SegmentName,
        target: &Path,
        steps: &Progress,
        round: &Round,
    ) -> Result<Option<Given>, SpoolError> {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let is_coming = self.way == Way::Process && self.is_coming(segment);
            // It may have come since that was looked at.
            if let Some(given) = self.deliver(segment, target, steps, round)? {
                return Ok(Some(given));
            }
            let bytes = self.bytes_of(segment);
            if bytes != seen {
                (seen, since) = (bytes, Instant::now());
            }
            // No archive is asked meanwhile, and none is to blame.
            steps.tick();
            if !is_coming || since.elapsed() >= PATIENCE {
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Returns whether somebody is fetching a segment at this moment.
    fn is_coming(&self, segment: SegmentName) -> bool {
        self.dir.entry(&coming_name(segment)).is_ok_and(|entry| entry.is_some()) && self.is_locked()
    }

    /// Returns how much there is of a segment that is being fetched, in bytes.
    fn bytes_of(&self, segment: SegmentName) -> u64 {
        let begin = temporary::begin_of(&segment.to_string());
        let mut bytes = 0;
        let _ = self.dir.for_each_name(|name| {
            if name.starts_with(&begin)
                && let Ok(Some(entry)) = self.dir.entry(name)
            {
                bytes += entry.len;
            }
        });
        bytes
    }

    /// Puts a segment in its place and takes it out of the spool, if it is here and what was noted of it is still
    /// so. `None` if it is not here, or not any more; then it is removed.
    ///
    /// If the machine dies half-way, the segment may be at its target, unflushed, as after any restore.
    ///
    /// # Errors
    /// It is sound, and cannot be put in its place.
    fn deliver(
        &self,
        segment: SegmentName,
        target: &Path,
        steps: &Progress,
        round: &Round,
    ) -> Result<Option<Given>, SpoolError> {
        let Some(given) = self.note_of(segment) else { return Ok(None) };
        let name = segment.to_string();
        if !self.is_sound(&name, &given, steps) {
            self.complain(&format!("\"{name}\" was changed in the spool, and is fetched again"));
            self.remove(segment);
            return Ok(None);
        }
        let fail = |source| SpoolError::Io { path: target.to_owned(), source };
        let no_name = || fail(io::ErrorKind::InvalidFilename.into());
        let target_name = target.file_name().and_then(|name| name.to_str()).ok_or_else(no_name)?;
        let parent = Dir::open(delivery::parent(target)).map_err(fail)?;
        if !round.settle() {
            return Ok(None);
        }
        self.dir.move_into(&name, &parent, target_name).map_err(|e| {
            round.reopen();
            fail(e)
        })?;
        let _ = self.dir.unlink(&note_name(segment));
        Ok(Some(given))
    }

    /// Notes what a segment is that now lies here. It counts from then on.
    ///
    /// # Errors
    /// It could not be written.
    fn admit(&self, segment: SegmentName, given: &Given) -> io::Result<()> {
        let note = given.to_note().ok_or(io::ErrorKind::InvalidData)?;
        write(&self.dir, &note_name(segment), &format!("{}{note}", belongs_to(segment)))
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
        // Without the key, what else is there belongs to nothing.
        names.sort_by_key(|name| name != KEY);
        names.iter().for_each(|name| drop(self.dir.unlink(name)));
    }

    /// Removes everything and the directory itself, if it is the one that is used by default.
    pub fn remove_all(&self) {
        self.empty();
        if self.path().file_name().is_some_and(|name| name == DIRECTORY) {
            let _ = std::fs::remove_dir(self.path());
        }
    }

    /// Returns whether another segment may be fetched: so much as the spool takes at most must stay free.
    fn has_room(&self, size: SegmentSize, most: u64) -> bool {
        let needed = most.saturating_add(size.bytes().into());
        self.dir.space().is_ok_and(|space| space.free >= needed && space.free_inodes != Some(0))
    }

    fn note_of(&self, segment: SegmentName) -> Option<Given> {
        let text = read(&self.dir, &note_name(segment))?;
        // Another one's is right about another one's file, should both come under this name.
        Given::of_note(text.strip_prefix(&belongs_to(segment))?)
    }

    /// Returns whether a file is what was noted, whoever could write here.
    fn is_sound(&self, name: &str, given: &Given, steps: &Progress) -> bool {
        let is_ours = |file: &Metadata| {
            file.is_file()
                && file.nlink() == 1
                && file.uid() == sys::user()
                && file.len() == given.len
        };
        let hash = || {
            let mut file = self.dir.open_file(name)?;
            if !is_ours(&file.metadata()?) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            hash(&mut file, steps)
        };
        hash().is_ok_and(|digest| digest == given.content)
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

impl Key {
    fn text(&self, way: Way) -> String {
        let Self { server, data_directory, archives } = self;
        let way = way.name();
        format!(
            "server = {server}\ndata directory = {data_directory}\narchives = {archives}\nfetched by = {way}\n"
        )
    }

    /// Returns whether the text of a key is one of the same data directory's.
    fn is_of_same_server(&self, text: &str) -> bool {
        let line = format!("data directory = {}", self.data_directory);
        text.lines().any(|other| other == line)
    }
}

fn note_name(segment: SegmentName) -> String {
    format!("{segment}.note")
}

/// The line that a note begins with.
fn belongs_to(segment: SegmentName) -> String {
    format!("segment = {segment}\n")
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

/// Reads a file of lines, following no link; `None` if it cannot be read.
fn read(dir: &Dir, name: &str) -> Option<String> {
    let mut text = String::new();
    dir.open_file(name).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Writes a file of lines in one step.
fn write(dir: &Dir, name: &str, text: &str) -> io::Result<()> {
    let temporary = format!("{name}.{}.new", std::process::id());
    let _ = dir.unlink(&temporary);
    let written = dir.create_named(&temporary).and_then(|mut file| file.write_all(text.as_bytes()));
    let renamed = written.and_then(|()| dir.replace(&temporary, name));
    renamed.inspect_err(|_| drop(dir.unlink(&temporary)))
}

fn hash(file: &mut File, steps: &Progress) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut chunk = sys::zeroed(CHUNK)?;
    loop {
        let got = sys::read_full(file, &mut chunk)?;
        hasher.update(sys::slice::part(&chunk, ..got));
        steps.tick();
        if got < CHUNK {
            return Ok(hasher.digest());
        }
    }
}

/// How long after a segment the next one is asked for by a server that replays one after the other.
const SOON: Duration = Duration::from_secs(60);

/// Returns whether a server asks for one segment after the other, and fetching ahead pays: this one comes right
/// behind the one that was delivered before, soon after it.
#[must_use]
pub fn follows(
    last: Option<(SegmentName, SystemTime)>,
    segment: SegmentName,
    size: SegmentSize,
) -> bool {
    last.is_some_and(|(last, at)| {
        let is_soon = at.elapsed().is_ok_and(|since| since < SOON);
        // On another timeline too.
        is_soon
            && plan::next(last, size)
                .is_some_and(|next| (next.log, next.segment) == (segment.log, segment.segment))
    })
}
