//! The note of the last segment that was archived from a data directory.
//!
//! It is the file `walsafe_archive.last` in the data directory. It only chooses words: when an archive holds
//! a later segment of the server's timeline than the server has archived, the data directory was put back
//! to an earlier state, or is a copy, and administrators are told so. A note that is missing, torn or old
//! never decides whether a file is archived.
//!
//! Text of fixed length, written in place with one call after each segment and never flushed. If the server
//! is killed, nothing is lost; if the machine dies, the note of the last seconds may be missing, or torn,
//! which its checksum shows. Base backups and snapshots include it, and it is then as old as they are.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::encoding::digest::Digest;
use crate::server::permission;
use crate::sys;
use crate::wal::name::{FileKind, FileName, SegmentName};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "walsafe_archive.last";

const TITLE: &str = "# The last segment that walsafe_archive has archived. Do not edit.\n";

/// The last segment that was archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastArchived {
    /// Its name.
    pub segment: SegmentName,
    /// Digest of its bytes.
    pub content: Digest,
}

impl LastArchived {
    /// Reads the note in a data directory; `None` if it is missing, torn or not such a note.
    #[must_use]
    pub fn read(data_directory: &Path) -> Option<Self> {
        Self::decode(&std::fs::read_to_string(data_directory.join(FILE_NAME)).ok()?)
    }

    fn encode(&self) -> String {
        let body = format!("{TITLE}name = {}\ncontent = {}\n", self.segment, self.content);
        let crc = crc32c::crc32c(body.as_bytes());
        format!("{body}crc = {crc:08X}\n")
    }

    fn decode(text: &str) -> Option<Self> {
        let mut fields = text.strip_prefix(TITLE)?.lines();
        let mut field = |key: &str| fields.next()?.strip_prefix(key)?.strip_prefix(" = ");
        let name = FileName::new(field("name")?).ok()?;
        let FileKind::Segment(segment) = name.kind() else { return None };
        let note = Self { segment, content: field("content")?.parse().ok()? };
        (note.encode() == text).then_some(note)
    }
}

/// The note, open for writing. There is one writer: the archiver.
#[derive(Debug)]
pub struct LastFile(File);

impl LastFile {
    /// Opens the note of a data directory; creates it if there is none.
    ///
    /// # Errors
    /// The file could not be opened.
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(data_directory.join(FILE_NAME))?;
        permission::share(&file, data_directory)?;
        Ok(Self(file))
    }

    /// Writes the note. Nothing is flushed.
    ///
    /// # Errors
    /// The write failed.
    pub fn write(&self, last: &LastArchived) -> io::Result<()> {
        sys::write_all_at(&self.0, last.encode().as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn note(log: u32, segment: u32) -> LastArchived {
        let segment = SegmentName { timeline: 3, log, segment };
        LastArchived { segment, content: Digest::of(&[segment.segment as u8]) }
    }

    #[test]
    fn the_last_note_is_read_back_over_an_earlier_one() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(LastArchived::read(temp.path()), None);
        let file = LastFile::open(temp.path()).unwrap();
        for note in [note(0xFFFF_FFFF, 0xFF), note(1, 2)] {
            file.write(&note).unwrap();
            assert_eq!(LastArchived::read(temp.path()), Some(note));
        }
        LastFile::open(temp.path()).unwrap();
        assert_eq!(LastArchived::read(temp.path()), Some(note(1, 2)));
    }

    /// A note that is half an older one must not say anything.
    #[test]
    fn a_note_that_is_torn_or_changed_says_nothing() {
        let (old, new) = (note(0, 1).encode(), note(7, 2).encode());
        assert_eq!(old.len(), new.len());
        for at in 0..=new.len() {
            let torn = format!("{}{}", &new[..at], &old[at..]);
            let whole = [None, Some(note(0, 1)), Some(note(7, 2))];
            assert!(whole.contains(&LastArchived::decode(&torn)), "{torn}");
            let cut = LastArchived::decode(&new[..at]);
            assert_eq!(cut.is_some(), at == new.len(), "{at} bytes");
        }
        assert_eq!(LastArchived::decode(&new.replace("name = 0", "name = 1")), None);
    }
}
