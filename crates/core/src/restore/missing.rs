//! The archive does not have the file: is that the end of the WAL, or a hole?

use super::{Request, RestoreError};
use crate::codec::Codec;
use crate::error::{Action, Error};
use crate::examine::{self, Expectation};
use crate::name::{FileKind, FileName, SegmentName};
use crate::reading::{Archived, Source, read_full};
use crate::segment::HEADER_LEN;
use crate::sys::Dir;
use crate::wal::{LongPageHeader, SegmentSize};

/// What a missing file means.
pub(super) enum Verdict {
    /// Nothing shows that the archive ever had it: the reason in words.
    End(String),
    /// Something is there that must come after it: what.
    Hole(String),
}

/// Judges a file that the archive does not have.
pub(super) fn judge(request: &Request<'_>, dir: &Dir) -> Result<Verdict, RestoreError> {
    match request.name.kind() {
        FileKind::Segment(segment) => judge_segment(request, dir, segment),
        FileKind::History { timeline } => judge_history(dir, timeline),
        // No WAL is missing when these are: a backup history file is for people, and recovery
        // asks for whole segments only.
        FileKind::Partial(_) | FileKind::BackupHistory(_) | FileKind::Other => {
            Ok(Verdict::End("it is not in the archive".to_owned()))
        }
    }
}

fn judge_segment(
    request: &Request<'_>,
    dir: &Dir,
    segment: SegmentName,
) -> Result<Verdict, RestoreError> {
    let (mut later, mut histories): (Option<SegmentName>, Vec<(u32, FileName, Codec)>) =
        (None, Vec::new());
    each_name(dir, |name, codec| match name.kind() {
        FileKind::Segment(there) | FileKind::Partial(there) => {
            // The name itself: it was published between the look-up and this list.
            let whole = matches!(name.kind(), FileKind::Segment(_));
            if there.timeline == segment.timeline && (there > segment || whole && there == segment)
            {
                later = Some(later.map_or(there, |least| least.min(there)));
            }
        }
        FileKind::History { timeline } if timeline > segment.timeline => {
            histories.push((timeline, name.clone(), codec));
        }
        _ => {}
    })?;
    let evidence = match later {
        Some(later) if later == segment => {
            Some(format!("{segment} is listed but cannot be opened"))
        }
        Some(later) => Some(format!("{segment} is missing and {later} is there")),
        None => branched_later(dir, segment, &histories)?,
    };
    let Some(evidence) = evidence else {
        let timeline = segment.timeline;
        return Ok(Verdict::End(format!(
            "it is not in the archive, and neither is any later segment of timeline {timeline}"
        )));
    };
    if lies_beside_target(request, segment) {
        return Ok(Verdict::End("it is not in the archive, and lies in pg_wal".to_owned()));
    }
    Ok(Verdict::Hole(evidence))
}

/// Looks for a timeline that branched off the segment's own one after the segment, and of which
/// the archive has segments: then the segment was written, and recovery along that timeline needs it.
fn branched_later(
    dir: &Dir,
    segment: SegmentName,
    histories: &[(u32, FileName, Codec)],
) -> Result<Option<String>, RestoreError> {
    for (timeline, name, codec) in histories {
        let Some(archived) = Archived::open(dir, name.stored(*codec), *codec)? else { continue };
        let examined = examine::examine(&archived, name, &Expectation::default(), &mut |_| Ok(()))
            .map_err(|e| Error::io(Action::ReadArchived, dir.path().join(name.as_str()), e))?;
        if let Some(problem) = examined.problem {
            let path = dir.path().join(&archived.stored_name);
            return Err(RestoreError::Damaged { path, problem });
        }
        let ancestors = examined.history.unwrap_or_default();
        let Some(own) = ancestors.iter().find(|there| there.timeline == segment.timeline) else {
            continue;
        };
        let Some((first, size)) = first_segment(dir, *timeline)? else { continue };
        // The switch's own segment is there as a copy under the new timeline's name.
        let switch = SegmentName::holding(segment.timeline, own.switch, size);
        if segment < switch {
            return Ok(Some(format!(
                "{segment} is missing, timeline {timeline} branched off after it at {}, and {first} is there",
                own.switch
            )));
        }
    }
    Ok(None)
}

/// Finds a timeline's first whole segment and the segment size in its header.
fn first_segment(
    dir: &Dir,
    timeline: u32,
) -> Result<Option<(SegmentName, SegmentSize)>, RestoreError> {
    let mut first: Option<(SegmentName, FileName, Codec)> = None;
    each_name(dir, |name, codec| {
        if let FileKind::Segment(there) = name.kind()
            && there.timeline == timeline
            && first.as_ref().is_none_or(|(least, ..)| there < *least)
        {
            first = Some((there, name.clone(), codec));
        }
    })?;
    let Some((segment, name, codec)) = first else { return Ok(None) };
    let path = dir.path().join(name.stored(codec));
    let fail = |e| Error::io(Action::ReadArchived, &path, e);
    let Some(archived) = Archived::open(dir, name.stored(codec), codec)? else { return Ok(None) };
    let mut header = [0; HEADER_LEN];
    let got = archived.decode().and_then(|mut stream| read_full(&mut stream, &mut header));
    let got = got.map_err(fail)?;
    let size = LongPageHeader::parse(header.get(..got).unwrap_or_default())
        .ok()
        .and_then(|header| SegmentSize::new(header.segment_size.into()).ok());
    Ok(size.map(|size| (segment, size)))
}

fn judge_history(dir: &Dir, timeline: u32) -> Result<Verdict, RestoreError> {
    let mut first: Option<String> = None;
    each_name(dir, |name, _| {
        if name.segment().is_some_and(|there| there.timeline == timeline)
            && first.as_deref().is_none_or(|least| name.as_str() < least)
        {
            first = Some(name.to_string());
        }
    })?;
    Ok(match first {
        // The first timeline has no ancestors, so no history.
        Some(first) if timeline != 1 => Verdict::Hole(format!(
            "the history of timeline {timeline} is missing and {first} is there"
        )),
        _ => Verdict::End(format!(
            "it is not in the archive, and neither is any segment of timeline {timeline}"
        )),
    })
}

/// Calls `visit` with each WAL file of the archive.
fn each_name(dir: &Dir, mut visit: impl FnMut(&FileName, Codec)) -> Result<(), Error> {
    dir.for_each_name(|stored| {
        if let Ok((name, codec)) = FileName::from_stored(stored) {
            visit(&name, codec);
        }
    })
    .map_err(|e| Error::io(Action::ListDestination, dir.path(), e))
}

/// Tells whether the segment lies beside the target, in `pg_wal`: the server looks there next. A
/// recycled file has the name of a segment to come and old contents; its header tells.
fn lies_beside_target(request: &Request<'_>, segment: SegmentName) -> bool {
    let path = request.target.with_file_name(segment.to_string());
    let Ok(source) = Source::open(&path) else { return false };
    let mut bytes = [0; HEADER_LEN];
    let Ok(got) = source.read_at(&mut bytes, 0) else { return false };
    let Ok(header) = LongPageHeader::parse(bytes.get(..got).unwrap_or_default()) else {
        return false;
    };
    SegmentSize::new(header.segment_size.into())
        .ok()
        .and_then(|size| segment.start(size))
        .is_some_and(|start| {
            header.page.address == start && header.page.timeline <= segment.timeline
        })
}
