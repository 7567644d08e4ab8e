//! The contents of a file, looked at chunk by chunk and judged at the end.

use std::io;

use super::digests::Claims;
use super::problems::{check_backup_history, damage, header_problem, unreadable_format};
use super::{Examined, Expectation, Unknown, ending};
use crate::encoding::codec::Codec;
use crate::prove::finding::{FindingKind, Problem};
use crate::store::Found;
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::segment::{self, Cluster, HEADER_LEN};
use crate::wal::{
    HeaderError, LongPageHeader, Lsn, SegmentChecker, SegmentReport, SegmentSize, SegmentSpec,
    Visit, WalVersion, history,
};
use crate::words;

/// No history file and no backup history file is longer than this.
const MAX_OTHER_LEN: u64 = 4 << 20;
/// The largest segment that there can be.
const MAX_SEGMENT_LEN: u64 = 1 << 30;

/// Why no more contents are taken.
#[derive(Debug)]
pub(super) enum Stop {
    /// They are judged: there are more of them than there can be.
    Over,
    /// Whoever they are handed to has failed, or there is no memory.
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// What a file's contents have shown so far.
pub(super) struct Contents<'a, V> {
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
    /// The first thing that is wrong.
    pub(super) problem: Option<Problem>,
    /// A segment's first page header, if it is one.
    pub(super) header: Option<LongPageHeader>,
    visitor: Option<V>,
    checker: Option<SegmentChecker<V>>,
    records: Option<SegmentReport>,
    /// The whole of a small file of a known kind.
    text: Vec<u8>,
}

impl<'a, V: Visit> Contents<'a, V> {
    pub(super) fn new(
        name: &'a FileName,
        expected: &'a Expectation,
        archived: &dyn Found,
        visitor: V,
    ) -> Self {
        Self {
            name,
            segment: name.wal_of(),
            expected,
            plain_len: (archived.codec() == Codec::None).then_some(archived.stored_len()),
            len: 0,
            size: expected.segment_size.map(|size| size.bytes().into()),
            behind_switch: None,
            unknown: None,
            problem: None,
            header: None,
            visitor: Some(visitor),
            checker: None,
            records: None,
            text: Vec::new(),
        }
    }

    /// Returns how many bytes there were.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Takes the next chunk, and checks what can be checked by now.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Result<(), Stop> {
        if self.len == 0 {
            let spec = self.begin(chunk);
            self.checker = spec
                .zip(self.visitor.take())
                .map(|(spec, visitor)| SegmentChecker::with_visitor(spec, None, visitor));
        }
        self.len += chunk.len() as u64;
        if let Some(checker) = &mut self.checker {
            checker.feed(chunk);
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
        if self.len.max(self.plain_len.unwrap_or(0)) <= limit {
            return Ok(());
        }
        let reason = match self.plain_len {
            Some(len) if len > limit => {
                format!("it has {}, and must have {limit}", words::count(len, "byte"))
            }
            _ => format!("its contents continue past the {limit} bytes that they must have"),
        };
        self.fail(Problem::new(FindingKind::Corrupt, reason));
        Err(Stop::Over)
    }

    /// There is no further chunk.
    pub(super) fn end(&mut self) {
        self.records = self.checker.take().map(SegmentChecker::finish);
    }

    fn fail(&mut self, problem: Problem) {
        self.problem.get_or_insert(problem);
    }

    /// Looks at the first chunk: a segment's header says what the rest must be, and whether its records can
    /// be checked.
    fn begin(&mut self, chunk: &[u8]) -> Option<SegmentSpec> {
        match self.check_header(chunk) {
            Ok(spec) => spec,
            Err(problem) => {
                self.fail(problem);
                None
            }
        }
    }

    fn check_header(&mut self, chunk: &[u8]) -> Result<Option<SegmentSpec>, Problem> {
        let Some(segment) = self.segment else { return Ok(None) };
        let header = LongPageHeader::parse(chunk).map_err(|e| {
            // Zeros are a file that was never written, and no WAL of any kind.
            let zeros = chunk.iter().take(HEADER_LEN).all(|byte| *byte == 0);
            if matches!(e, HeaderError::Magic { .. } | HeaderError::Info { .. }) && !zeros {
                self.unknown = Some(e.to_string());
            }
            header_problem(&e.into())
        })?;
        self.header = Some(header);
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
    pub(super) fn judge(&mut self, found: &mut Examined, claims: &Claims, ended: bool) {
        if !ended {
            return;
        }
        let pending = found.problem.take();
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
                let named = found.content.map(|content| FileName::tail(segment, content));
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
