//! One archived file, read to its end and checked in every way that it allows.
//!
//! `restore` and `verify` both read through [`examine`], so `restore` delivers what `verify` calls
//! sound.

use std::io;

use crate::encoding::codec::{Codec, Decoder};
use crate::encoding::digest::{Digest, Hasher};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::Found;
use crate::sys::slice::part;
use crate::sys::{read_full, zeroed};
use crate::wal::history::{self, Ancestor};
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::segment::{self, Cluster, HEADER_LEN};
use crate::wal::{
    HeaderError, LongPageHeader, SegmentChecker, SegmentReport, SegmentSize, Visit, WalVersion,
};
use crate::wal::{Lsn, SegmentSpec};
use crate::words;

/// Bytes read at a time: few enough to stay in the processor's cache while they are read, hashed and
/// written. This makes a restore as fast as `cp`.
const CHUNK: usize = 256 << 10;
mod digests;
mod ending;
mod problems;
mod received;

use digests::{Claims, Hashed};
use problems::{
    check_backup_history, damage, header_problem, read_problem, unreadable, unreadable_format,
};
use received::Received;

/// No history file and no backup history file is longer than this.
const MAX_OTHER_LEN: u64 = 4 << 20;
/// The largest segment that there can be.
const MAX_SEGMENT_LEN: u64 = 1 << 30;

/// What is known beforehand, and how much is to be checked.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    /// The cluster's system identifier, if it is known.
    pub system_identifier: Option<u64>,
    /// The cluster's segment size, if it is known; otherwise each segment's own header is believed.
    pub segment_size: Option<SegmentSize>,
    /// Check everything: the digest of the stored bytes even if that of the contents is enough.
    pub thorough: bool,
    /// Read from storage, past the page cache.
    pub past_cache: bool,
}

/// What reading a file has shown.
#[derive(Debug, Clone, Default)]
pub struct Examined {
    /// The first and most important thing that is wrong, if anything is.
    pub problem: Option<Problem>,
    /// Length of the WAL file itself, in bytes.
    pub len: u64,
    /// Digest of the WAL file's own bytes, if they could be read to the end.
    pub content: Option<Digest>,
    /// Digest of the bytes as they are stored, if it was asked for or is the same.
    pub stored: Option<Digest>,
    /// The file carries a digest, and its bytes were compared with it.
    pub had_digest: bool,
    /// A segment's first page header, if it is one.
    pub header: Option<LongPageHeader>,
    /// What a segment's records have shown, if they were read.
    pub records: Option<SegmentReport>,
    /// Where a segment's WAL ends although the segment goes on. This is correct for the last segment of a
    /// timeline only.
    pub ends_early: Option<Lsn>,
    /// Set if everything else is right, but the WAL is not in a format that is known here.
    pub unknown: Option<Unknown>,
    /// The ancestors that a history file names.
    pub history: Option<Vec<Ancestor>>,
}

/// WAL in a format that is not known here: a newer server's, or what another tool encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Why it is not known.
    pub reason: String,
    /// A digest agrees, and the file says that it was let in like this.
    pub vouched: bool,
}

impl Examined {
    fn fail(&mut self, problem: Problem) {
        self.problem.get_or_insert(problem);
    }
}

/// Reads an archived file to its end, checks it, and hands its contents to `each`, chunk by chunk.
///
/// Bytes handed over are good only if the value returned has no problem: most of the checks are
/// complete at the end.
///
/// # Errors
/// What `each` returned, or there is no memory; everything that is wrong with the file is in the value.
pub fn examine(
    archived: &dyn Found,
    name: &FileName,
    expected: &Expectation,
    each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Examined> {
    examine_with(archived, name, expected, each, ())
}

/// Like [`examine`], and shows every record whose checksum is right.
///
/// # Errors
/// None but what [`examine`] returns; there is nothing to hand over.
pub fn examine_records(
    archived: &dyn Found,
    name: &FileName,
    expected: &Expectation,
    visitor: impl Visit,
) -> io::Result<Examined> {
    examine_with(archived, name, expected, &mut |_| Ok(()), visitor)
}

fn examine_with<V: Visit>(
    archived: &dyn Found,
    name: &FileName,
    expected: &Expectation,
    each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    visitor: V,
) -> io::Result<Examined> {
    let mut found = Examined::default();
    let claims = match Claims::read(archived) {
        Ok(claims) => claims,
        Err(problem) => {
            found.fail(problem);
            return Ok(found);
        }
    };
    let (mut raw, mut codec) = (archived.read(expected.past_cache), archived.codec());
    if name.received().is_some() {
        raw = raw.and_then(|inner| Ok(Box::new(Received::new(codec, inner)?) as _));
        codec = Codec::None;
    }
    // One digest is enough if stored bytes and contents are the same, or if the digest of the contents is
    // there.
    let encoded = codec != Codec::None;
    let hash_raw =
        encoded && (expected.thorough || (claims.stored.is_some() && claims.content.is_none()));
    let mut raw = match raw {
        Ok(inner) => Hashed { inner, hasher: hash_raw.then(Hasher::default), at_end: false },
        Err(e) => {
            found.fail(unreadable(&e));
            return Ok(found);
        }
    };
    let mut reading = Reading::new(name, expected, archived);
    let ended = reading.run(&mut raw, codec, &mut found, each, visitor)?;
    if ended {
        found.content = reading.content;
        found.stored = match raw.hasher {
            Some(hasher) => Some(hasher.digest()),
            None if encoded => None,
            None => reading.content,
        };
    }
    if reading.undecodable && raw.at_end {
        // The decoder wanted more, so the file was cut short, whatever the decoder calls it.
        if let Some(problem) = &mut found.problem {
            problem.kind = FindingKind::Truncated;
        }
    }
    found.len = reading.len;
    found.had_digest = claims.has_digest();
    let pending = found.problem.take();
    reading.judge(&mut found, &claims, pending, ended);
    Ok(found)
}

/// The state of one file being read.
struct Reading<'a> {
    name: &'a FileName,
    segment: Option<SegmentName>,
    expected: &'a Expectation,
    plain_len: Option<u64>,
    len: u64,
    /// A segment's length, if it is known beforehand, or once its header has been read.
    size: Option<u64>,
    /// Where a switch record that began in the segment before ends.
    behind_switch: Option<Lsn>,
    /// Why the WAL is not in a format that is known here.
    unknown: Option<String>,
    content: Option<Digest>,
    records: Option<SegmentReport>,
    /// The whole of a small file of a known kind.
    text: Vec<u8>,
    /// The decoder failed, and not the system.
    undecodable: bool,
}

impl<'a> Reading<'a> {
    fn new(name: &'a FileName, expected: &'a Expectation, archived: &dyn Found) -> Self {
        Self {
            name,
            segment: name.wal_of(),
            expected,
            plain_len: (archived.codec() == Codec::None).then_some(archived.stored_len()),
            len: 0,
            size: expected.segment_size.map(|size| size.bytes().into()),
            behind_switch: None,
            unknown: None,
            content: None,
            records: None,
            text: Vec::new(),
            undecodable: false,
        }
    }

    /// Reads to the end, and returns whether it got there. What goes wrong on the way is recorded in
    /// `found`, and reading continues where that can show more.
    fn run<V: Visit>(
        &mut self,
        raw: &mut Hashed<'_>,
        codec: Codec,
        found: &mut Examined,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        visitor: V,
    ) -> io::Result<bool> {
        let mut decoder = match Decoder::new(codec, raw) {
            Ok(decoder) => decoder,
            Err(e) => {
                found.fail(read_problem(&e, 0));
                return Ok(false);
            }
        };
        let mut visitor = Some(visitor);
        let (mut buffer, mut hasher, mut records) = (zeroed(CHUNK)?, Hasher::default(), None);
        loop {
            let got = match read_full(&mut decoder, &mut buffer) {
                Ok(got) => got,
                Err(e) => {
                    self.undecodable = e.raw_os_error().is_none();
                    found.fail(read_problem(&e, self.len));
                    return Ok(false);
                }
            };
            let chunk = part(&buffer, ..got);
            if self.len == 0 {
                records = self
                    .begin(chunk, found)
                    .zip(visitor.take())
                    .map(|(spec, visitor)| SegmentChecker::with_visitor(spec, None, visitor));
            }
            self.len += got as u64;
            hasher.update(chunk);
            if let Some(records) = &mut records {
                records.feed(chunk);
            }
            if self.segment.is_none() && self.name.kind() != FileKind::Other {
                let no_memory = |_| io::Error::from_raw_os_error(libc::ENOMEM);
                self.text.try_reserve(chunk.len()).map_err(no_memory)?;
                self.text.extend_from_slice(chunk);
            }
            // A stream that never ends is damage, and so is one that continues after the segment. None
            // of it may be written where the server keeps its WAL.
            let limit = match self.segment {
                Some(_) => self.size.unwrap_or(MAX_SEGMENT_LEN),
                None if self.name.kind() == FileKind::Other => MAX_SEGMENT_LEN,
                None => MAX_OTHER_LEN,
            };
            if self.len.max(self.plain_len.unwrap_or(0)) > limit {
                let reason = match self.plain_len {
                    Some(len) if len > limit => {
                        format!("it has {}, and must have {limit}", words::count(len, "byte"))
                    }
                    _ => {
                        format!("its contents continue past the {limit} bytes that they must have")
                    }
                };
                found.fail(Problem::new(FindingKind::Corrupt, reason));
                return Ok(false);
            }
            each(chunk)?;
            if got < CHUNK {
                break;
            }
        }
        if let Err(e) = decoder.finish() {
            found.fail(read_problem(&e, self.len));
            return Ok(false);
        }
        self.content = Some(hasher.digest());
        self.records = records.map(SegmentChecker::finish);
        Ok(true)
    }

    /// Looks at the first chunk: a segment's header says what the rest must be, and whether its records can
    /// be checked.
    fn begin(&mut self, chunk: &[u8], found: &mut Examined) -> Option<SegmentSpec> {
        match self.check_header(chunk, found) {
            Ok(spec) => spec,
            Err(problem) => {
                found.fail(problem);
                None
            }
        }
    }

    fn check_header(
        &mut self,
        chunk: &[u8],
        found: &mut Examined,
    ) -> Result<Option<SegmentSpec>, Problem> {
        let Some(segment) = self.segment else { return Ok(None) };
        let header = LongPageHeader::parse(chunk).map_err(|e| {
            // Zeros are a file that was never written, and no WAL of any kind.
            let zeros = chunk.iter().take(HEADER_LEN).all(|byte| *byte == 0);
            if matches!(e, HeaderError::Magic { .. } | HeaderError::Info { .. }) && !zeros {
                self.unknown = Some(e.to_string());
            }
            header_problem(&e.into())
        })?;
        found.header = Some(header);
        self.behind_switch = ending::behind_crossing_switch(&header, chunk);
        let size = match self.expected.segment_size {
            Some(size) => size,
            None => SegmentSize::new(header.segment_size.into())
                .map_err(|e| Problem::new(FindingKind::Corrupt, e.to_string()))?,
        };
        self.size = Some(size.bytes().into());
        let cluster = Cluster {
            system_identifier: self.expected.system_identifier.unwrap_or(header.system_identifier),
            segment_size: size,
        };
        // The length is judged at the end, when it is known.
        segment::check(segment, size.bytes().into(), chunk, &cluster).map_err(|e| {
            // What looks like the header of a newer version may be anything.
            if matches!(header.page.version(), WalVersion::Unknown(_)) {
                self.unknown = Some(e.to_string());
            }
            header_problem(&e)
        })?;
        let Some(start) = segment.start(size) else { return Ok(None) };
        Ok(Some(SegmentSpec {
            timeline: segment.timeline,
            start,
            segment_size: size,
            system_identifier: Some(cluster.system_identifier),
        }))
    }

    /// Decides which of the problems counts. If the file is cut short, that comes before anything else. If
    /// the bytes differ from what was archived, that says more than what they happen to contain.
    fn judge(
        &mut self,
        found: &mut Examined,
        claims: &Claims,
        pending: Option<Problem>,
        ended: bool,
    ) {
        if !ended {
            found.problem = pending;
            return;
        }
        let bytes = self.check_length().or_else(|| claims.check(found));
        let as_archived = bytes.is_none() && found.had_digest;
        let mut origin = "it was archived like this";
        let mut contents = pending;
        if let Some(report) = self.records.take() {
            contents = contents.or_else(|| {
                origin = "the segment was damaged before it was archived";
                damage(&report)
            });
            found.ends_early = ending::early(&report, self.behind_switch);
            self.unknown = self.unknown.take().or_else(|| unreadable_format(&report));
            found.records = Some(report);
        }
        if bytes.is_none()
            && let Some(reason) = self.unknown.take()
        {
            // A format of a newer version was let in by any check, as its header was right; what does not
            // even begin like WAL, by none.
            let let_in = claims.checked.as_deref();
            let as_known = let_in.is_some_and(|how| contents.is_none() || how == "off");
            let vouched = as_archived && as_known;
            contents = contents.filter(|_| !vouched);
            found.ends_early = None;
            found.unknown = Some(Unknown { reason, vouched });
        }
        if as_archived && let Some(problem) = &mut contents {
            problem.reason += &format!("; the digest agrees, so {origin}");
        }
        found.problem = bytes.or(contents);
        match self.name.kind() {
            FileKind::Tail(segment) => {
                let named = self.content.map(|content| FileName::tail(segment, content));
                if named.is_some_and(|named| named != *self.name) {
                    let reason = "its contents are not those that its name gives the digest of";
                    found.fail(Problem::new(FindingKind::DigestMismatch, reason));
                }
            }
            _ if self.segment.is_none() => self.check_text(found),
            _ => {}
        }
    }

    fn check_length(&self) -> Option<Problem> {
        self.segment?;
        let len = self.plain_len.unwrap_or(self.len).max(self.len);
        let kind = match self.size {
            Some(size) if len == size => return None,
            Some(size) if len > size => FindingKind::Corrupt,
            None if len > 0 && SegmentSize::new(len).is_ok() => return None,
            None if len > MAX_SEGMENT_LEN => FindingKind::Corrupt,
            _ => FindingKind::Truncated,
        };
        let must = self.size.map_or_else(String::new, |size| format!(", and must have {size}"));
        Some(Problem::new(kind, format!("it has {}{must}", words::count(len, "byte"))))
    }

    /// Checks the files that are text: history and backup history files.
    fn check_text(&self, found: &mut Examined) {
        match self.name.kind() {
            FileKind::History { timeline } => match history::parse(timeline, &self.text) {
                Ok(ancestors) if ancestors.is_empty() => {
                    let kind =
                        if self.len == 0 { FindingKind::Truncated } else { FindingKind::Corrupt };
                    found.fail(Problem::new(kind, "it names no ancestor of the timeline"));
                }
                Ok(ancestors) => found.history = Some(ancestors),
                Err(e) => found.fail(Problem::new(FindingKind::Corrupt, e.to_string())),
            },
            FileKind::BackupHistory(segment) => {
                if let Some(problem) = check_backup_history(&self.text, segment) {
                    found.fail(problem);
                }
            }
            _ => {}
        }
    }
}
