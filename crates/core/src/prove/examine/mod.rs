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
use crate::wal::segment::{self, Cluster};
use crate::wal::{LongPageHeader, SegmentChecker, SegmentReport, SegmentSize};
use crate::wal::{Lsn, SegmentSpec};

/// Bytes read at a time: few enough to stay in the processor's cache while they are read, hashed and
/// written. This makes a restore as fast as `cp`.
const CHUNK: usize = 256 << 10;
mod digests;
mod ending;
mod problems;

use digests::{Claims, Hashed};
use problems::{check_backup_history, damage, header_problem, read_problem, unreadable};

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
    /// Check everything: records even if a digest agrees, and the digest of the stored bytes even if that
    /// of the contents is enough.
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
    /// Where a segment's WAL ends although the segment goes on, if no digest says that it was archived so.
    /// This is correct for the last segment of a timeline only.
    pub ends_early: Option<Lsn>,
    /// The ancestors that a history file names.
    pub history: Option<Vec<Ancestor>>,
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
    let mut found = Examined::default();
    let claims = match Claims::read(archived) {
        Ok(claims) => claims,
        Err(problem) => {
            found.fail(problem);
            return Ok(found);
        }
    };
    let raw = archived.read(expected.past_cache);
    // One digest is enough if stored bytes and contents are the same, or if the digest of the contents is
    // there.
    let encoded = archived.codec() != Codec::None;
    let hash_raw =
        encoded && (expected.thorough || (claims.stored.is_some() && claims.content.is_none()));
    let mut raw = match raw {
        Ok(inner) => Hashed { inner, hasher: hash_raw.then(Hasher::default), at_end: false },
        Err(e) => {
            found.fail(unreadable(&e));
            return Ok(found);
        }
    };
    let mut reading = Reading::new(name, expected, &claims, archived);
    let ended = reading.run(&mut raw, archived.codec(), &mut found, each)?;
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
    found.had_digest = claims.stored.is_some() || claims.content.is_some();
    let pending = found.problem.take();
    reading.judge(&mut found, &claims, pending, ended);
    Ok(found)
}

/// The state of one file being read.
struct Reading<'a> {
    name: &'a FileName,
    segment: Option<SegmentName>,
    expected: &'a Expectation,
    check_records: bool,
    plain_len: Option<u64>,
    len: u64,
    /// A segment's length, if it is known beforehand, or once its header has been read.
    size: Option<u64>,
    /// Where a switch record that began in the segment before ends.
    behind_switch: Option<Lsn>,
    content: Option<Digest>,
    records: Option<SegmentReport>,
    /// The whole of a small file of a known kind.
    text: Vec<u8>,
    /// The decoder failed, and not the system.
    undecodable: bool,
}

impl<'a> Reading<'a> {
    fn new(
        name: &'a FileName,
        expected: &'a Expectation,
        claims: &Claims,
        archived: &dyn Found,
    ) -> Self {
        let digest = claims.stored.is_some() || claims.content.is_some();
        Self {
            name,
            segment: name.segment(),
            expected,
            check_records: expected.thorough || !digest,
            plain_len: (archived.codec() == Codec::None).then_some(archived.stored_len()),
            len: 0,
            size: expected.segment_size.map(|size| size.bytes().into()),
            behind_switch: None,
            content: None,
            records: None,
            text: Vec::new(),
            undecodable: false,
        }
    }

    /// Reads to the end, and returns whether it got there. What goes wrong on the way is recorded in
    /// `found`, and reading continues where that can show more.
    fn run(
        &mut self,
        raw: &mut Hashed,
        codec: Codec,
        found: &mut Examined,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut decoder = match Decoder::new(codec, raw) {
            Ok(decoder) => decoder,
            Err(e) => {
                found.fail(read_problem(&e, 0));
                return Ok(false);
            }
        };
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
                records = self.begin(chunk, found);
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
                        format!("it has {len} bytes, and must have {limit}")
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

    /// Looks at the first chunk: a segment's header says what the rest must be. Returns the checker of the
    /// records, if they are to be checked.
    fn begin(&mut self, chunk: &[u8], found: &mut Examined) -> Option<SegmentChecker> {
        match self.check_header(chunk, found) {
            Ok(checker) => checker,
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
    ) -> Result<Option<SegmentChecker>, Problem> {
        let Some(segment) = self.segment else { return Ok(None) };
        let header = LongPageHeader::parse(chunk).map_err(|e| header_problem(&e.into()))?;
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
        segment::check(segment, size.bytes().into(), chunk, &cluster)
            .map_err(|e| header_problem(&e))?;
        let Some(start) = segment.start(size).filter(|_| self.check_records) else {
            return Ok(None);
        };
        let spec = SegmentSpec {
            timeline: segment.timeline,
            start,
            segment_size: size,
            system_identifier: Some(cluster.system_identifier),
        };
        Ok(Some(SegmentChecker::new(spec, None)))
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
        let mut first = self.check_length();
        first = first.or_else(|| claims.check(found));
        first = first.or(pending);
        if let Some(report) = self.records.take() {
            first = first.or_else(|| damage(&report, found.had_digest));
            found.ends_early =
                ending::early(&report, self.behind_switch).filter(|_| !found.had_digest);
            found.records = Some(report);
        }
        found.problem = first;
        if self.segment.is_none() {
            self.check_text(found);
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
        Some(Problem::new(kind, format!("it has {len} bytes{must}")))
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
