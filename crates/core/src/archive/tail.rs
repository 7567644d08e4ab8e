//! The end of a timeline that this server's own history has left.
//!
//! Two standbys of one primary are promoted, one after the other, in one segment: each archives the old
//! timeline's last segment as it has it (`.partial`, or a short segment under its full name), and the two
//! end at different addresses. No recovery reads either: the segment is read under the new timeline's name,
//! which has the beginning of it as a copy. So the second one must not hold up what comes after it. It is
//! archived beside the first, under a name of its own, and nothing is lost (guarantee G4, its only exception).

use std::io::ErrorKind;

use super::compare::end_of;
use super::notice::{Level, Notice};
use super::pair::Pair;
use super::plan::{Job, Plan};
use crate::encoding::codec::Codec;
use crate::error::{Action, Difference, Error, Nature};
use crate::server::lineage::{Left, Lineage};
use crate::server::source::Source;
use crate::store::{Progress, StoredName, Visit};
use crate::sys;
use crate::wal::name::{FileName, SegmentName};
use crate::wal::{Parting, SegmentSpec, Side};

/// What is archived instead of a file that conflicts.
#[derive(Debug)]
pub(super) struct Tail {
    /// The same file of the server, under the name of a tail.
    pub(super) job: Job,
    /// What the administrator is told.
    pub(super) notice: Notice,
}

/// Decides whether a file of the server that conflicts with an archived one is the end of a timeline that its
/// own history has left, and may be archived as a tail. `conflict` is what the comparison has returned; it is
/// returned again if the file is not such a tail.
///
/// Four things must hold: the file is a segment or a partial one, and the server's own history leaves its
/// timeline in it; a successor's copy of the segment is in `pg_wal` or in the archive; and every version that
/// the archive has agrees with ours, record by record, up to the lower of their two ends.
///
/// # Errors
/// The conflict; or something could not be read.
pub(super) fn of_conflict(
    conflict: Error,
    plan: &Plan,
    job: &Job,
    source: &Source,
    visit: &dyn Visit,
    progress: &Progress,
) -> Result<Tail, Error> {
    let Error::Conflict { path, difference } = &conflict else { return Err(conflict) };
    let (Some(segment), false) = (job.name.segment(), is_broken(difference)) else {
        return Err(conflict);
    };
    let size = plan.cluster.segment_size;
    let Some(start) = segment.start(size) else { return Err(conflict) };
    // Without the server's own history, nothing shows that the file is such a tail.
    let Ok(own) = Lineage::of(plan.known.data_directory()) else { return Err(conflict) };
    let Some(left) = own.left_in(segment.timeline, start, size) else { return Err(conflict) };
    let Some(copy) = copy_of(plan, segment, &left, visit)? else { return Err(conflict) };
    let spec = SegmentSpec {
        timeline: segment.timeline,
        start,
        segment_size: size,
        system_identifier: Some(plan.cluster.system_identifier),
    };
    if !agrees(&job.name, source, visit, spec, progress)? {
        return Err(conflict);
    }
    let name = FileName::tail(segment, difference.ours);
    let notice = Notice {
        level: Level::Warning,
        sqlstate: "01000",
        message: format!("file \"{}\" is archived as \"{name}\"", job.name),
        detail: format!(
            "\"{}\" is another server's version of it. The two agree up to the end of one of them. This server's history left timeline {} at {}, and \"{copy}\" has its WAL up to there.",
            path.display(),
            segment.timeline,
            left.switch
        ),
        hint: format!(
            "Nothing has to be done for this server: no recovery reads either file. Two servers went on from timeline {}. If WAL of the other one is missed after {}, look for it in these two files with pg_waldump.",
            segment.timeline, left.switch
        ),
    };
    Ok(Tail { job: Job { name, source: job.source.clone() }, notice })
}

/// Returns whether the archived file is damaged, so that it is no version of ours.
fn is_broken(difference: &Difference) -> bool {
    matches!(difference.nature, Nature::Truncated | Nature::Unreadable { .. })
}

/// Returns the name of the segment's copy under a later timeline of the server's own history.
fn copy_of(
    plan: &Plan,
    segment: SegmentName,
    left: &Left,
    visit: &dyn Visit,
) -> Result<Option<SegmentName>, Error> {
    let pg_wal = plan.known.data_directory().join("pg_wal");
    for &timeline in &left.successors {
        let copy = SegmentName { timeline, ..segment };
        let path = pg_wal.join(copy.to_string());
        let there =
            sys::source_entry(&path).map_err(|e| Error::io(Action::ReadSource, &path, e))?;
        if there.is_some_and(|entry| entry.is_file()) {
            return Ok(Some(copy));
        }
        let name = FileName::from(copy);
        for codec in Codec::ALL {
            if visit.find(&StoredName::new(name.clone(), codec).into())?.is_some() {
                return Ok(Some(copy));
            }
        }
    }
    Ok(None)
}

/// Returns whether every archived version agrees with ours up to the lower of their two ends.
fn agrees(
    name: &FileName,
    source: &Source,
    visit: &dyn Visit,
    spec: SegmentSpec,
    progress: &Progress,
) -> Result<bool, Error> {
    for codec in Codec::ALL {
        let stored = StoredName::new(name.clone(), codec);
        let Some(archived) = visit.find(&stored.into())? else { continue };
        let pair = match Pair::read(&*archived, Some(source), spec, progress) {
            Ok(pair) => pair,
            // It cannot be decoded.
            Err(Error::Io { action: Action::ReadArchived, source, .. })
                if source.raw_os_error().is_none() && source.kind() != ErrorKind::OutOfMemory =>
            {
                return Ok(false);
            }
            Err(e) => return Err(e),
        };
        let Some((ours, parting)) = pair.ours else { return Ok(false) };
        let agree = match parting {
            // Without a record of ours, they have nothing in common.
            Some(Parting::SameRecords) if end_of(&ours).is_none() => false,
            Some(Parting::SameRecords) => true,
            // At the very beginning, they would have nothing in common.
            Some(Parting::AtRecord { lsn, ends: Some(Side::Ours | Side::Theirs) }) => {
                lsn > spec.start
            }
            Some(Parting::AtRecord { ends: None, .. }) | None => false,
        };
        if !agree {
            return Ok(false);
        }
    }
    // Nobody reuses the file while it is compared.
    source.check_not_moved()?;
    Ok(true)
}
