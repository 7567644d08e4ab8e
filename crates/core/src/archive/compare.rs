//! Comparing a file of the server with one that the archive already holds under its name.

use std::io;
use std::path::Path;

use crate::encoding::digest::{Digest, Hasher};
use crate::error::{Action, Difference, Error, Nature};
use crate::server::source::Source;
use crate::store::directory::temporary::Owner;
use crate::store::directory::{Directory, Staging};
use crate::store::{Found, Progress, Store, StoredName, Visit};
use crate::sys;
use crate::sys::buffer::{Buffer, CHUNK};
use crate::sys::read_full;
use crate::wal::history;
use crate::wal::name::{FileKind, FileName};
use crate::wal::timeline::{Branch, Timelines};
use crate::wal::{End, Lsn, Parting, SegmentChecker, SegmentComparison, SegmentSize, SegmentSpec};

/// What came of a comparison.
#[derive(Debug)]
pub(super) enum Comparison {
    /// The same contents.
    Same {
        /// Their digest.
        content: Digest,
    },
    /// Different contents.
    Different(Box<Difference>),
}

/// Where to look for the explanation of a difference.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The file's name.
    pub(super) name: &'a FileName,
    /// The cluster's segment size.
    pub(super) segment_size: SegmentSize,
    /// The archive: its history files say where timelines branched off.
    pub(super) archive: &'a dyn Visit,
}

/// Compares the server's file with an archived one, byte for byte, the archived one read from
/// storage past the page cache.
///
/// # Errors
/// One of the files could not be read, or the archived one is the server's own. An archived file
/// that cannot be decoded is a difference.
pub(super) fn compare(
    source: &Source,
    archived: &dyn Found,
    context: Context<'_>,
    progress: &Progress,
) -> Result<Comparison, Error> {
    let path = archived.path().to_owned();
    if archived.is(source) {
        // The same bytes today; the server recycles them tomorrow (guarantee G5).
        return Err(Error::NotAFile { path, found: "a hard link to the server's own file" });
    }
    let mut stream = archived.decode().map_err(|e| Error::io(Action::ReadArchived, &path, e))?;
    let (mut ours_buffer, mut theirs_buffer) = buffers(&path)?;
    let (mut ours, mut theirs) = (Hasher::default(), Hasher::default());
    let (mut ours_len, mut theirs_len, mut first) = (0_u64, 0_u64, None);
    let mut undecodable = None;
    loop {
        let n = source.read_at(ours_buffer.bytes_mut(), ours_len)?;
        let m = if undecodable.is_some() {
            0
        } else {
            match read_full(&mut stream, theirs_buffer.bytes_mut()) {
                Ok(m) => m,
                Err(e) => {
                    undecodable = Some(reason(e, &path)?);
                    0
                }
            }
        };
        progress.tick();
        let (a, b) = (ours_buffer.filled(n), theirs_buffer.filled(m));
        if first.is_none() && a != b {
            let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
            first = Some(ours_len + common as u64);
        }
        ours.update(a);
        theirs.update(b);
        ours_len += n as u64;
        theirs_len += m as u64;
        if n < CHUNK && m < CHUNK {
            break;
        }
    }
    if ours_len != source.len() {
        return Err(source.changed(ours_len));
    }
    if undecodable.is_none() {
        undecodable = stream.finish().err().map(|e| reason(e, &path)).transpose()?;
    }
    let content = ours.digest();
    let nature = match (undecodable, first) {
        (Some(reason), _) => Nature::Unreadable { reason },
        (None, None) => return Ok(Comparison::Same { content }),
        (None, Some(first)) => explain(source, archived, context, first, theirs_len)?,
    };
    Ok(Comparison::Different(Box::new(Difference {
        ours_len,
        theirs_len,
        first: first.unwrap_or(theirs_len),
        ours: content,
        theirs: theirs.digest(),
        nature,
    })))
}

/// Returns a buffer for each of the two files.
fn buffers(path: &Path) -> Result<(Buffer, Buffer), Error> {
    let fail = |e| Error::io(Action::ReserveMemory, path, e);
    Ok((Buffer::new().map_err(fail)?, Buffer::new().map_err(fail)?))
}

/// Returns what a decoder says of a file. An error of the system is not a property of the file:
/// what could not be read now may be whole.
fn reason(error: io::Error, path: &Path) -> Result<String, Error> {
    match error.raw_os_error() {
        Some(_) => Err(Error::io(Action::ReadArchived, path, error)),
        None => Ok(error.to_string()),
    }
}

/// Explains a difference.
fn explain(
    source: &Source,
    archived: &dyn Found,
    context: Context<'_>,
    first: u64,
    theirs_len: u64,
) -> Result<Nature, Error> {
    if first == theirs_len && theirs_len < source.len() {
        return Ok(Nature::Truncated);
    }
    let segment = match context.name.kind() {
        FileKind::History { timeline } => return Ok(Nature::History { timeline }),
        FileKind::Segment(segment) | FileKind::Partial(segment) => segment,
        FileKind::BackupHistory(_) | FileKind::Tail(_) | FileKind::Other => {
            return Ok(Nature::Other);
        }
    };
    let Some(start) = segment.start(context.segment_size) else { return Ok(Nature::Other) };
    let end = start.advanced(context.segment_size.bytes().into());
    let differs_at = start.advanced(first);
    let switch = branches_of(segment.timeline, source, context)
        .into_iter()
        .filter(|branch| (start..end).contains(&branch.switch) && branch.switch <= differs_at)
        .max_by_key(|branch| branch.switch);
    if let Some(Branch { timeline: successor, switch }) = switch {
        return Ok(Nature::TimelineTail { switch, successor });
    }
    let spec = SegmentSpec {
        timeline: segment.timeline,
        start,
        segment_size: context.segment_size,
        system_identifier: None,
    };
    let (parting, our_end) = part(source, archived, spec)?;
    Ok(match parting {
        Some(Parting::SameRecords) if our_end.is_some_and(|end| end <= differs_at) => {
            Nature::Padding
        }
        Some(Parting::SameRecords) => Nature::Other,
        Some(Parting::AtRecord { lsn, ends }) => Nature::Records { first_record: lsn, ends },
        None => Nature::Other,
    })
}

/// Reads both versions of a segment once more, record by record. Returns where they part, and where the WAL
/// of ours ends, if it has any and ends cleanly.
pub(super) fn part(
    source: &Source,
    archived: &dyn Found,
    spec: SegmentSpec,
) -> Result<(Option<Parting>, Option<Lsn>), Error> {
    let fail = |e| Error::io(Action::ReadArchived, archived.path(), e);
    let mut stream = archived.decode().map_err(fail)?;
    let (mut ours, mut theirs) = buffers(archived.path())?;
    let mut comparison = SegmentComparison::new(spec);
    let mut checker = SegmentChecker::new(spec, None);
    let mut offset = 0;
    loop {
        let n = source.read_at(ours.bytes_mut(), offset)?;
        let m = read_full(&mut stream, theirs.bytes_mut()).map_err(fail)?;
        comparison.feed(ours.filled(n), theirs.filled(m));
        checker.feed(ours.filled(n));
        offset += n as u64;
        if n < CHUNK && m < CHUNK {
            break;
        }
    }
    let report = checker.finish();
    let our_end = match report.end {
        End::SwitchAt(lsn) | End::EndsAt { lsn, .. } if report.is_sound() => Some(lsn),
        _ => None,
    };
    Ok((comparison.finish(), our_end.filter(|_| report.records > 0)))
}

/// Returns the timelines that branched off `timeline`, and where, according to the history files that the
/// server and the archive have. A file that cannot be read is passed over.
fn branches_of(timeline: u32, source: &Source, context: Context<'_>) -> Vec<Branch> {
    let (owner, progress) = (Owner::this_process(), Progress::default());
    let pg_wal = source.path().parent().map(|dir| Directory::new(dir, owner, Staging::Unnamed));
    let pg_wal = pg_wal.as_ref().and_then(|dir| dir.visit(&progress).ok());
    // Each separately: two servers may have used one timeline.
    pg_wal
        .as_deref()
        .into_iter()
        .chain([context.archive])
        .filter_map(|place| histories_in(place).ok())
        .flat_map(|histories| histories.branches_of(timeline).collect::<Vec<_>>())
        .collect()
}

/// Reads the history files that lie in a place.
fn histories_in(place: &dyn Visit) -> Result<Timelines, Error> {
    // Only their names are kept in memory: an archive may hold millions of others.
    let mut names = Vec::new();
    place.list(&mut |stored| {
        if let Ok(stored) = StoredName::parse(stored)
            && let FileKind::History { timeline } = stored.name.kind()
        {
            names.push((timeline, stored));
        }
    })?;
    let mut timelines = Timelines::default();
    for (timeline, stored) in names {
        let found = place.find(&stored.into()).ok().flatten();
        let text = found.and_then(|found| read_small(&*found).ok());
        timelines.add(timeline, text.and_then(|text| history::parse(timeline, &text).ok()));
    }
    Ok(timelines)
}

/// Reads and decodes a small file, of at most one chunk.
fn read_small(file: &dyn Found) -> io::Result<Vec<u8>> {
    let mut contents = sys::zeroed(CHUNK)?;
    let len = read_full(&mut file.decode()?, &mut contents)?;
    contents.truncate(len);
    Ok(contents)
}
