//! Names of WAL files, and of the files that hold them in an archive.
//!
//! Source of the format: PostgreSQL's `access/xlog_internal.h` (`XLogFileName`, `IsXLogFileName`,
//! `IsPartialXLogFileName`, `TLHistoryFileName`, `BackupHistoryFileName`) and, for the characters
//! and the length that the archiver accepts at all, `postmaster/pgarch.h` (`VALID_XFN_CHARS`,
//! `MAX_XFN_CHARS`).

use std::fmt;

use thiserror::Error;

use crate::encoding::codec::Codec;
use crate::encoding::digest::Digest;
use crate::wal::{Lsn, SegmentSize};

/// The longest file name that is accepted, in bytes. The server itself hands out at most 40.
pub const MAX_NAME_LEN: usize = 64;

/// Digits of a segment's name: timeline, log and segment number, eight each.
const SEGMENT_DIGITS: usize = 24;

/// Digits of a digest in the name of a tail.
const TAIL_DIGITS: usize = 16;

/// Why a string is not the name of a WAL file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than [`MAX_NAME_LEN`] bytes.
    #[error("the name has {0} bytes, and at most {MAX_NAME_LEN} are accepted")]
    TooLong(usize),
    /// A leading dot would hide the file, or climb out of the directory.
    #[error("the name begins with a dot")]
    LeadingDot,
    /// A byte outside `[0-9A-Za-z.]`.
    #[error("the name holds the byte {0:#04x}, and only digits, letters and dots are accepted")]
    Character(u8),
    /// The name ends in the extension of an encoding, so in an archive it could not be told from
    /// the encoded form of another file.
    #[error("the name ends in \".{0}\", which in an archive marks a compressed file")]
    Encoded(&'static str),
}

/// The name of a file as the server gives it: 1 to 64 characters of `[0-9A-Za-z.]`.
///
/// A value of this type is safe to use as a path component: it has no slash, no leading dot
/// and no zero byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(String);

/// What a file is, according to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A WAL segment, 24 upper-case hexadecimal digits.
    Segment(SegmentName),
    /// The last, unfinished segment of a timeline, kept when a standby was promoted, or received by
    /// `pg_receivewal` so far. With compression the latter is `<segment>.gz.partial` or
    /// `<segment>.lz4.partial` ([`FileName::received`]).
    Partial(SegmentName),
    /// A timeline history file, `TTTTTTTT.history`.
    History {
        /// The timeline whose ancestors the file lists.
        timeline: u32,
    },
    /// A backup history file, `<segment>.OOOOOOOO.backup`.
    BackupHistory(SegmentName),
    /// The end of a timeline as one of several servers has it, `<segment>.tail.XXXXXXXXXXXXXXXX`: 16
    /// lower-case hexadecimal digits of its BLAKE3. Only this project gives such names, and only in an
    /// archive ([`FileName::tail`]).
    Tail(SegmentName),
    /// Anything else that the rules for names allow; a later server version may invent one.
    Other,
}

/// The three numbers in a segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName {
    /// Timeline.
    pub timeline: u32,
    /// High 32 bits of the segment's start address.
    pub log: u32,
    /// Number of the segment within those 4 GB.
    pub segment: u32,
}

impl SegmentName {
    /// Returns the address of the segment's first byte, or `None` when no segment of this size has
    /// that name (its number lies past the 4 GB that `log` stands for).
    #[must_use]
    pub fn start(&self, size: SegmentSize) -> Option<Lsn> {
        Lsn::of_segment(self.log, self.segment, size)
    }

    /// Returns the name of the segment that holds `address`.
    #[must_use]
    pub fn holding(timeline: u32, address: Lsn, size: SegmentSize) -> Self {
        let (log, segment) = address.segment_numbers(size);
        Self { timeline, log, segment }
    }

    /// Reads the 24 upper-case hexadecimal digits of a segment's name.
    fn parse(text: &str) -> Option<Self> {
        let hex = |range: std::ops::Range<usize>| u32::from_str_radix(text.get(range)?, 16).ok();
        let digits = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        if text.len() != SEGMENT_DIGITS || !text.bytes().all(digits) {
            return None;
        }
        Some(Self { timeline: hex(0..8)?, log: hex(8..16)?, segment: hex(16..24)? })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.segment)
    }
}

impl From<SegmentName> for FileName {
    fn from(segment: SegmentName) -> Self {
        Self(segment.to_string())
    }
}

impl FileName {
    /// Accepts a name that the server may hand to an archiver.
    ///
    /// # Errors
    /// A name that is empty, too long, begins with a dot, holds any other character than
    /// `[0-9A-Za-z.]`, or ends in the extension of an encoding (`.zst`, `.lz4`, `.gz`).
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong(name.len()));
        }
        if name.starts_with('.') {
            return Err(NameError::LeadingDot);
        }
        if let Some(byte) = name.bytes().find(|b| !b.is_ascii_alphanumeric() && *b != b'.') {
            return Err(NameError::Character(byte));
        }
        for codec in Codec::ENCODED {
            if name.strip_suffix(codec.extension()).is_some_and(|stem| stem.ends_with('.')) {
                return Err(NameError::Encoded(codec.extension()));
            }
        }
        Ok(Self(name.to_owned()))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what the file is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        let name = self.as_str();
        if let Some(segment) = SegmentName::parse(name) {
            return FileKind::Segment(segment);
        }
        let Some((stem, extension)) = name.rsplit_once('.') else {
            return FileKind::Other;
        };
        match extension {
            "partial" => SegmentName::parse(stem)
                .or_else(|| self.received().map(|(segment, _)| segment))
                .map_or(FileKind::Other, FileKind::Partial),
            "history" => match hex8(stem) {
                Some(timeline) => FileKind::History { timeline },
                None => FileKind::Other,
            },
            "backup" => stem
                .split_once('.')
                .filter(|(_, offset)| hex8(offset).is_some())
                .and_then(|(segment, _)| SegmentName::parse(segment))
                .map_or(FileKind::Other, FileKind::BackupHistory),
            digest if is_tail_digest(digest) => stem
                .strip_suffix(".tail")
                .and_then(SegmentName::parse)
                .map_or(FileKind::Other, FileKind::Tail),
            _ => FileKind::Other,
        }
    }

    /// Returns which segment `pg_receivewal` writes under this name, and in which encoding: it puts the
    /// encoding's extension before `.partial` (`get_walfile_name` in its `receivelog.c`). Such a file has no
    /// other name in an archive.
    #[must_use]
    pub fn received(&self) -> Option<(SegmentName, Codec)> {
        let (segment, extension) = self.0.strip_suffix(".partial")?.rsplit_once('.')?;
        let codec = Codec::RECEIVED.into_iter().find(|codec| codec.extension() == extension)?;
        Some((SegmentName::parse(segment)?, codec))
    }

    /// Makes the name under which `pg_receivewal` writes a segment in an encoding.
    #[must_use]
    pub fn receiving(segment: SegmentName, codec: Codec) -> Self {
        Self(format!("{segment}.{}.partial", codec.extension()))
    }

    /// Makes the name under which an archive holds a server's own version of a segment that is already
    /// there in another version: [`FileKind::Tail`].
    #[must_use]
    pub fn tail(segment: SegmentName, content: Digest) -> Self {
        let digest = content.to_string();
        Self(format!("{segment}.tail.{}", digest.get(..TAIL_DIGITS).unwrap_or(&digest)))
    }

    /// Returns which segment a whole or partial segment file holds. A tail does not count: no recovery reads
    /// it.
    #[must_use]
    pub fn segment(&self) -> Option<SegmentName> {
        match self.kind() {
            FileKind::Segment(segment) | FileKind::Partial(segment) => Some(segment),
            _ => None,
        }
    }

    /// Returns of which segment the file holds WAL: a segment, a partial one, or a tail.
    #[must_use]
    pub fn wal_of(&self) -> Option<SegmentName> {
        match self.kind() {
            FileKind::Segment(segment) | FileKind::Partial(segment) | FileKind::Tail(segment) => {
                Some(segment)
            }
            _ => None,
        }
    }

    /// Returns the timeline that the name gives, if it gives one.
    #[must_use]
    pub fn timeline(&self) -> Option<u32> {
        match self.kind() {
            FileKind::Segment(segment)
            | FileKind::Partial(segment)
            | FileKind::BackupHistory(segment)
            | FileKind::Tail(segment) => Some(segment.timeline),
            FileKind::History { timeline } => Some(timeline),
            FileKind::Other => None,
        }
    }

    /// Returns the name under which the file lies in an archive in the given encoding.
    #[must_use]
    pub fn stored(&self, codec: Codec) -> String {
        match codec {
            Codec::None => self.0.clone(),
            _ if self.received().is_some() => self.0.clone(),
            encoded => format!("{}.{}", self.0, encoded.extension()),
        }
    }

    /// Splits a name found in an archive into the WAL file's name and its encoding.
    ///
    /// # Errors
    /// The same as [`FileName::new`], for what is left without the encoding's extension.
    pub fn from_stored(stored: &str) -> Result<(Self, Codec), NameError> {
        for codec in Codec::ENCODED {
            let stem = stored.strip_suffix(codec.extension()).and_then(|s| s.strip_suffix('.'));
            if let Some(stem) = stem {
                let name = Self::new(stem)?;
                return match name.received() {
                    None => Ok((name, codec)),
                    Some((_, inner)) => Err(NameError::Encoded(inner.extension())),
                };
            }
        }
        let name = Self::new(stored)?;
        let codec = name.received().map_or(Codec::None, |(_, codec)| codec);
        Ok((name, codec))
    }
}

/// Returns whether a text has the form of a digest in the name of a tail.
fn is_tail_digest(text: &str) -> bool {
    text.len() == TAIL_DIGITS
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Reads eight upper-case hexadecimal digits.
fn hex8(text: &str) -> Option<u32> {
    let digits = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    (text.len() == 8 && text.bytes().all(digits)).then(|| u32::from_str_radix(text, 16).ok())?
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
