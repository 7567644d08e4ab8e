//! Whether a timeline was abandoned before its first segment was written.
//!
//! A server that is promoted and dies at once leaves a history file, and perhaps nothing else. The next
//! recovery follows that file, replays the *older* timeline's segments to their end, and is promoted in turn.
//! Its history names the timeline in between, of which no byte was ever written. So a history file that
//! names a timeline does not prove that there were segments of it. Then the records decide: the older
//! timeline's WAL goes on in the first segment of the later one, which begins as a copy of it.

use super::RestoreError;
use super::archives::Archives;
use super::survey::Survey;
use crate::encoding::codec::Codec;
use crate::error::{Action, Error};
use crate::prove::examine::{self, Examined};
use crate::store::StoredName;
use crate::wal::name::{FileName, SegmentName};
use crate::wal::timeline::Timelines;
use crate::wal::{End, Lsn, Record, SegmentSize, continues};

/// What there is to answer with.
pub(super) struct Question<'a, 'r> {
    pub(super) archives: &'a Archives<'r>,
    pub(super) survey: &'a Survey,
    pub(super) timelines: &'a Timelines,
    pub(super) size: SegmentSize,
}

/// Returns whether the timeline of `segment`, an ancestor of `later`, has no such segment, because it was
/// abandoned before its first one was written, or began after this one. In doubt, it was written.
///
/// # Errors
/// The archive could not be read.
pub(super) fn before_it_was_written(
    question: &Question<'_, '_>,
    segment: SegmentName,
    later: u32,
) -> Result<bool, RestoreError> {
    let Question { survey, timelines, size, .. } = *question;
    let ancestors = timelines.ancestors(later);
    let Some(place) = ancestors.iter().position(|there| there.timeline == segment.timeline) else {
        return Ok(false);
    };
    let (before, rest) = ancestors.split_at(place);
    if let Some(parent) = before.last()
        && segment < SegmentName::holding(segment.timeline, parent.switch, size)
    {
        return Ok(true);
    }
    let written = |timeline: u32| survey.newest_of(timeline).is_some();
    let Some(before) = before.iter().rfind(|there| written(there.timeline)) else {
        return Ok(false);
    };
    if written(segment.timeline) {
        return Ok(false);
    }
    // The first timeline behind it that has segments, and where that one begins.
    let mut switch = Lsn::INVALID;
    let mut successor = None;
    for there in rest {
        if written(there.timeline) {
            successor = Some(there.timeline);
            break;
        }
        switch = there.switch;
    }
    let successor = successor.or_else(|| written(later).then_some(later));
    match successor {
        Some(successor) => goes_on_in(question, before.timeline, successor, switch),
        None => ends_at(question, before.timeline, switch),
    }
}

/// Returns whether the older timeline's WAL goes on, record by record, in the newer one's first segment.
fn goes_on_in(
    question: &Question<'_, '_>,
    older: u32,
    newer: u32,
    switch: Lsn,
) -> Result<bool, RestoreError> {
    let size = question.size;
    let start = switch.segment_start(size);
    let Some(end_of_older) = start.0.checked_sub(1).map(Lsn) else { return Ok(false) };
    let Some(first) = read(question, SegmentName::holding(newer, start, size), &mut |_| ())? else {
        return Ok(false);
    };
    let last = SegmentName::holding(older, end_of_older, size);
    let Some(last) = read(question, last, &mut |_| ())? else { return Ok(false) };
    let head = first.records.and_then(|records| records.head);
    let tail = last.records.and_then(|records| records.tail);
    let (Some(head), Some(tail)) = (head, tail) else { return Ok(false) };
    // A page of the timeline in between would be its WAL.
    let copied = head.page_timeline() <= older;
    let fresh = head.page_timeline() == newer;
    Ok((copied || fresh) && continues(&tail, &head) == Some(true))
}

/// Returns whether the older timeline has a record that ends at the switch: a recovery read it up to there,
/// and not the timeline in between. At the end of a segment, where many timelines have a record that ends,
/// the older timeline must end there too.
fn ends_at(question: &Question<'_, '_>, older: u32, switch: Lsn) -> Result<bool, RestoreError> {
    let size = question.size;
    let Some(before) = switch.0.checked_sub(1).map(Lsn) else { return Ok(false) };
    let segment = SegmentName::holding(older, before, size);
    let mut ends = false;
    let mut visitor = |record: &Record| ends |= record.end == switch;
    let Some(found) = read(question, segment, &mut visitor)? else { return Ok(false) };
    let Some(report) = found.records.filter(|_| found.problem.is_none()) else { return Ok(false) };
    if switch.segment_offset(size) != 0 {
        return Ok(ends);
    }
    let is_last = question.survey.newest_of(older).is_some_and(|(newest, _)| newest <= segment);
    Ok(is_last && matches!(report.end, End::Full | End::SwitchAt(_)))
}

/// Reads a segment in any archive and encoding, and shows its records; `None` if there is no sound one.
fn read(
    question: &Question<'_, '_>,
    segment: SegmentName,
    visitor: &mut (dyn FnMut(&Record) + Send),
) -> Result<Option<Examined>, RestoreError> {
    let name = FileName::from(segment);
    for archive in question.archives.opened() {
        for codec in Codec::ALL {
            let stored = StoredName::new(name.clone(), codec);
            let Some(found) = archive.visit().find(&stored.into())? else { continue };
            let read = examine::examine_records(&*found, &name, &archive.expected, &mut *visitor)
                .map_err(|e| Error::io(Action::ReadArchived, found.path(), e))?;
            if read.problem.is_none() {
                return Ok(Some(read));
            }
        }
    }
    Ok(None)
}
