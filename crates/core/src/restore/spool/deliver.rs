//! Out of the spool to where the server wants a segment.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Given, LOOK_EVERY, Spool, SpoolError, Way, coming_name, note_name};
use crate::encoding::digest::{Digest, Hasher};
use crate::restore::{Round, delivery};
use crate::store::Progress;
use crate::store::directory::temporary;
use crate::sys::{self, Dir};
use crate::wal::name::SegmentName;

/// How long a segment that is coming may stand still.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes hashed at a time.
const CHUNK: usize = 256 << 10;

impl Spool {
    /// Puts a segment in its place, as a rename out of the spool, if it is here and what was noted of it is still so. One
    /// that somebody is just fetching is waited for, as long as more of it comes. `None` if it is not here.
    ///
    /// # Errors
    /// It is sound, and cannot be put in its place.
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
        match self.is_sound(&name, &given, steps) {
            Ok(true) => {}
            unsound => {
                let why = match unsound {
                    Err(e) => format!("could not be read in the spool: {e}"),
                    Ok(_) => "was changed in the spool".to_owned(),
                };
                self.complain(&format!("\"{name}\" {why}; it is fetched again"));
                self.remove(segment);
                return Ok(None);
            }
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

    /// Returns whether a file is what was noted, whoever could write here.
    fn is_sound(&self, name: &str, given: &Given, steps: &Progress) -> io::Result<bool> {
        let mut file = match self.dir.open_file(name) {
            // A link, or something else than a file, or nothing.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENOENT)) => {
                return Ok(false);
            }
            file => file?,
        };
        let there = file.metadata()?;
        let is_ours = there.is_file() && there.nlink() == 1 && there.uid() == sys::user();
        if !is_ours || there.len() != given.len || hash(&mut file, steps)? != given.content {
            return Ok(false);
        }
        // What has the name now is what was read.
        Ok(self
            .dir
            .entry(name)?
            .is_some_and(|now| (now.device, now.inode) == (there.dev(), there.ino())))
    }
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
