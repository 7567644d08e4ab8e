//! Comparing a file of the server with one that the archive already holds under its name.

use std::io;
use std::path::Path;

use super::pair::{Pair, buffers};
pub(super) use super::place::Context;
use super::place::{Place, ahead};
use crate::encoding::digest::{Digest, Hasher};
use crate::error::{Action, Difference, Error, Nature};
use crate::server::last::LastArchived;
use crate::server::lineage::Lineage;
use crate::server::source::Source;
use crate::store::{Found, Progress};
use crate::sys::buffer::CHUNK;
use crate::sys::read_full;
use crate::wal::name::FileKind;
use crate::wal::timeline::Branch;
use crate::wal::{End, Lsn, Parting, SegmentReport, SegmentSpec, Side};

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
        (None, Some(first)) => explain(source, archived, context, first, theirs_len, progress)?,
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
    progress: &Progress,
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
    let size = context.segment_size;
    let Some(start) = segment.start(size) else { return Ok(Nature::Other) };
    let theirs = Place::look(context.archive, segment.timeline).unwrap_or_default();
    // The server's own history decides: neither the archive's, nor a history file in pg_wal that the server
    // once fetched. A standby that was promoted by mistake leaves one, and this server's file may then be the
    // only whole one. Where nothing says which history is its own, nothing shows that it left the timeline.
    let own = Lineage::of(context.known.data_directory()).unwrap_or_default();
    let left = own.left(segment.timeline);
    let (differs_at, end) = (start.advanced(first), start.advanced(size.bytes().into()));
    let at = (start, differs_at);
    if let Some(left) = &left
        && (start..end).contains(&left.switch)
        && left.switch <= differs_at
    {
        return Ok(Nature::TimelineTail { switch: left.switch, successor: left.successor() });
    }
    if let Some(Branch { timeline: successor, switch }) = theirs.branch(segment, at, size) {
        return Ok(Nature::ForeignBranch { switch, successor });
    }
    let spec = SegmentSpec {
        timeline: segment.timeline,
        start,
        segment_size: size,
        system_identifier: None,
    };
    let pair = Pair::read(archived, Some(source), spec, progress)?;
    let Some((report, parting)) = pair.ours else { return Ok(Nature::Other) };
    Ok(match parting {
        Some(Parting::SameRecords) if end_of(&report).is_some_and(|end| end <= differs_at) => {
            Nature::Padding
        }
        Some(Parting::AtRecord { lsn, ends }) => {
            let note = LastArchived::read(context.known.data_directory());
            // A timeline that the server has left may go on without it.
            let partial = matches!(context.name.kind(), FileKind::Partial(_));
            let newest = theirs.newest.filter(|_| left.is_none() && !partial);
            match ahead(source, context, segment, newest, note, progress) {
                Some(newest) => {
                    Nature::Ahead { first_record: lsn, newest, last: note.map(|note| note.segment) }
                }
                None => Nature::Records {
                    first_record: lsn,
                    ends,
                    noted: note.filter(|note| note.segment == segment).map(|note| {
                        if note.content == pair.content { Side::Theirs } else { Side::Ours }
                    }),
                },
            }
        }
        Some(Parting::SameRecords) | None => Nature::Other,
    })
}

/// Returns where the WAL of a segment ends, if it has any and ends cleanly.
pub(super) fn end_of(report: &SegmentReport) -> Option<Lsn> {
    let end = match report.end {
        End::SwitchAt(lsn) | End::EndsAt { lsn, .. } if report.is_sound() => Some(lsn),
        _ => None,
    };
    end.filter(|_| report.records > 0)
}
