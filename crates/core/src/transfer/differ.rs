//! A file of the source, compared with one that the destination holds under its name.

use std::io;

use crate::encoding::digest::Digest;
use crate::error::{Action, Error, ErrorKind};
use crate::prove::examine::{self, Examined, Expectation};
use crate::prove::finding::FindingKind;
use crate::store::{Found, StoredName};
use crate::sys::buffer::{Buffer, CHUNK};
use crate::sys::read_full;
use crate::wal::name::FileKind;
use crate::wal::{Parting, SegmentComparison, SegmentSize, SegmentSpec};
use crate::words;

/// The destination holds other contents under a name, or another history beside it. Which of the two is right, the
/// files do not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The file.
    pub file: StoredName,
    /// The class of the conflict, as for the archiver.
    pub kind: ErrorKind,
    /// How the two differ: full sentences.
    pub detail: String,
}

impl Conflict {
    /// Says what is wrong, in the archiver's words.
    #[must_use]
    pub fn message(&self) -> &'static str {
        match self.kind {
            ErrorKind::NotContinued => "the segment does not fit the archived one beside it",
            _ => "the archive holds a different file of that name",
        }
    }

    /// Says what to do, in the archiver's words: full sentences.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        let advice = self.kind.advice();
        advice.checking.or(advice.archiving).unwrap_or_default()
    }
}

/// A file of the source that was read.
pub(super) struct Ours<'a> {
    pub(super) file: &'a StoredName,
    pub(super) found: &'a dyn Found,
    pub(super) examined: &'a Examined,
}

/// Compares it with one that the destination holds, which is flushed first and then read from storage: a flush that
/// succeeds after an earlier one failed proves nothing. `None` if they hold the same.
///
/// # Errors
/// The other file could not be flushed or read, or there is no memory.
pub(super) fn compare(
    ours: &Ours<'_>,
    theirs: &dyn Found,
    expected: &Expectation,
    tick: &mut (dyn FnMut() -> io::Result<()> + Send),
) -> Result<Option<Conflict>, Error> {
    theirs.flush()?;
    let failed = |e| Error::io(Action::ReadArchived, theirs.path(), e);
    let examined = examine::examine(theirs, &ours.file.name, expected, &mut |_| tick());
    let examined = examined.map_err(failed)?;
    let content = ours.examined.content;
    if content.is_some() && examined.content == content {
        return Ok(None);
    }
    if let Some(problem) = examined.problem.as_ref()
        && problem.kind == FindingKind::Unreadable
    {
        return Err(failed(io::Error::other(problem.reason.clone())));
    }
    let parted = part(ours, theirs).map_err(failed)?;
    let (kind, nature) = nature(ours, &examined, &parted);
    let holds = |len: u64, digest: Option<Digest>| {
        let digest = digest.map_or_else(String::new, |digest| format!(" (BLAKE3 {digest})"));
        format!("{}{digest}", words::count(len, "byte"))
    };
    let detail = format!(
        "\"{}\": {nature}The archived file holds {}, and \"{}\" {}; the first difference is at offset {}.",
        theirs.path().display(),
        holds(examined.len, examined.content),
        ours.found.path().display(),
        holds(ours.examined.len, content),
        parted.first
    );
    Ok(Some(Conflict { file: ours.file.clone(), kind, detail }))
}

/// Where two files part.
struct Parted {
    /// Offset of the first byte that differs, or that only one of them has.
    first: u64,
    /// How many bytes the destination's file has, as far as it can be decoded.
    theirs: u64,
    records: Option<Parting>,
}

/// Reads both once more, beside each other.
fn part(ours: &Ours<'_>, theirs: &dyn Found) -> io::Result<Parted> {
    let (mut a_stream, mut b_stream) = (ours.found.decode()?, theirs.decode()?);
    let (mut a_buffer, mut b_buffer) = (Buffer::new()?, Buffer::new()?);
    let mut comparison = spec(ours).map(SegmentComparison::new);
    let (mut at, mut their_len, mut first, mut ended) = (0_u64, 0_u64, None, false);
    loop {
        let n = read_full(&mut a_stream, a_buffer.bytes_mut())?;
        // What cannot be decoded ends there.
        let m = if ended { 0 } else { read_full(&mut b_stream, b_buffer.bytes_mut()).unwrap_or(0) };
        ended |= m < CHUNK;
        let (a, b) = (a_buffer.filled(n), b_buffer.filled(m));
        if first.is_none() && a != b {
            let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
            first = Some(at + common as u64);
        }
        if let Some(comparison) = &mut comparison {
            comparison.feed(a, b);
        }
        at += n as u64;
        their_len += m as u64;
        if n < CHUNK {
            let records = comparison.and_then(SegmentComparison::finish);
            return Ok(Parted { first: first.unwrap_or(at), theirs: their_len, records });
        }
    }
}

/// How the records of the file are read, if it is a segment.
fn spec(ours: &Ours<'_>) -> Option<SegmentSpec> {
    let segment = ours.file.name.wal_of()?;
    let segment_size = SegmentSize::new(ours.examined.header?.segment_size.into()).ok()?;
    Some(SegmentSpec {
        timeline: segment.timeline,
        start: segment.start(segment_size)?,
        segment_size,
        system_identifier: None,
    })
}

/// Says what the difference is, as far as the files show it.
fn nature(ours: &Ours<'_>, theirs: &Examined, parted: &Parted) -> (ErrorKind, String) {
    if parted.first == parted.theirs && parted.theirs < ours.examined.len {
        let text = "The archived file is a truncated beginning of the other. ";
        return (ErrorKind::ConflictTruncated, text.to_owned());
    }
    if let Some(problem) = &theirs.problem {
        let text = format!("The archived file is damaged: {}. ", problem.reason);
        return (ErrorKind::ConflictUnreadable, text);
    }
    if let FileKind::History { timeline } = ours.file.name.kind() {
        let text = format!("Another server already used timeline {timeline}. ");
        return (ErrorKind::ConflictHistory, text);
    }
    match parted.records {
        Some(Parting::SameRecords) => {
            let text = "The two differ only after the last WAL record. ";
            (ErrorKind::ConflictPadding, text.to_owned())
        }
        Some(Parting::AtRecord { lsn, .. }) => {
            let text = format!("The first WAL record that differs begins at {lsn}. ");
            (ErrorKind::Conflict, text)
        }
        None => (ErrorKind::Conflict, String::new()),
    }
}
