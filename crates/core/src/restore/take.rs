//! Taking a file out of one archive, if it is there and sound.

use std::path::{Path, PathBuf};

use super::archives::{Archive, Archives};
use super::delivery::Delivery;
use super::evidence;
use super::survey::Survey;
use super::{Request, RestoreError};
use crate::encoding::digest::Digest;
use crate::error::{Action, Error};
use crate::prove::examine::{self, Examined, Unknown};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::directory::temporary::Owner;
use crate::store::{StoredName, unchecked};
use crate::wal::Lsn;
use crate::wal::name::{FileKind, SegmentName};

/// A sound file, ready to be put in place.
pub(super) struct Taken {
    pub(super) delivery: Delivery,
    /// What could not be checked, and why it is given all the same.
    pub(super) remark: Option<String>,
}

/// Takes the file, in any encoding. Of two encodings with the same contents, the first sound one is taken.
/// Two sound ones that differ are an error. `None` if the archive does not have the file.
pub(super) fn out_of(
    archive: &Archive<'_>,
    request: &Request<'_>,
    archives: &Archives<'_>,
    owner: &Owner,
) -> Result<Option<Taken>, RestoreError> {
    // No server asks for a tail, and none may be given one.
    if matches!(request.name.kind(), FileKind::Tail(_)) {
        return Ok(None);
    }
    let mut candidates = Vec::new();
    for stored in StoredName::all(request.name) {
        candidates
            .extend(archive.visit().find(&(&stored).into())?.map(|found| (stored.name, found)));
    }
    let mut sound: Option<(Digest, Taken)> = None;
    let mut failure = None;
    for (name, archived) in &candidates {
        let delivery =
            Delivery::begin(request.target, request.name, owner, request.data_directory)?;
        let result = delivery
            .copy(|each| examine::examine_overlapped(&**archived, name, &archive.expected, each))?;
        let path = archived.path().to_owned();
        let judged = judge(archive, request, archives, &path, &result.examined)?;
        match (judged, result.examined.content) {
            (Ok(remark), Some(content)) => match sound {
                None => sound = Some((content, Taken { delivery: result.delivery, remark })),
                Some((first, _)) if first == content => {}
                Some(_) => {
                    let reason = "the file is there with another compression too, sound and with other contents";
                    let problem = Problem::new(FindingKind::Duplicate, reason);
                    return Err(RestoreError::Damaged { path, problem });
                }
            },
            (Ok(_), None) => {
                let problem = Problem::new(FindingKind::Unreadable, "it was not read to its end");
                failure = Some(RestoreError::Damaged { path, problem });
            }
            (Err(refused), _) => failure = Some(refused),
        }
    }
    match (sound, failure) {
        (Some((_, taken)), _) => Ok(Some(taken)),
        (None, Some(failure)) => Err(failure),
        (None, None) => Ok(None),
    }
}

/// Decides whether a file that was read may be given, and with which remark. The inner error says why it is
/// not.
fn judge(
    archive: &Archive<'_>,
    request: &Request<'_>,
    archives: &Archives<'_>,
    path: &Path,
    examined: &Examined,
) -> Result<Result<Option<String>, RestoreError>, RestoreError> {
    let path = || path.to_owned();
    if let Some(Unknown { reason, vouched }) = &examined.unknown {
        // Where files carry nothing, the archive as a whole says that some were let in unchecked.
        let marked =
            || Ok::<_, Error>(!examined.had_digest && unchecked::is_marked(archive.visit())?);
        return Ok(if *vouched || request.allow_unchecked || marked()? {
            Ok(Some(format!("its records were not checked: {reason}")))
        } else {
            Err(RestoreError::UnknownWal { path: path(), reason: reason.clone() })
        });
    }
    if let Some(problem) = examined.problem.clone() {
        return Ok(Err(RestoreError::Damaged { path: path(), problem }));
    }
    let (FileKind::Segment(segment), Some(end)) = (request.name.kind(), examined.ends_early) else {
        return Ok(Ok(None));
    };
    let lost = |why: String| {
        let reason = format!("its WAL ends at {end}, before the segment does, and {why}");
        let problem = Problem::new(FindingKind::Corrupt, reason);
        Ok(Err(RestoreError::Damaged { path: path(), problem }))
    };
    match behind(archive, request, archives, segment, end)? {
        Behind::Nothing => Ok(Ok(None)),
        Behind::More(what) => lost(what),
        Behind::Unknown => Ok(Err(RestoreError::EndUnknown { path: path(), end })),
    }
}

/// What there is behind the early end of a segment's WAL.
enum Behind {
    /// Nothing anywhere: it is the end of its timeline.
    Nothing,
    /// This shows that the segment has lost its end. The server would end the recovery there.
    More(String),
    /// Nothing in the archives that could be asked, and not all could.
    Unknown,
}

fn behind(
    archive: &Archive<'_>,
    request: &Request<'_>,
    archives: &Archives<'_>,
    segment: SegmentName,
    end: Lsn,
) -> Result<Behind, RestoreError> {
    archives.open_all()?;
    let survey = Survey::read(archives.visits(), request.name)?;
    if let Some(later) = evidence::of_later_wal(archives, &survey, segment)? {
        return Ok(Behind::More(later.text));
    }
    for other in archives.opened().filter(|other| other.place() != archive.place()) {
        match end_in(other, request) {
            Ok(Some((path, None))) => {
                return Ok(Behind::More(format!("\"{}\" is whole", path.display())));
            }
            Ok(Some((path, Some(there)))) if there > end => {
                return Ok(Behind::More(format!("that of \"{}\" at {there}", path.display())));
            }
            Ok(_) => {}
            // What is wrong there is told when that archive is asked in turn.
            Err(_) => return Ok(Behind::Unknown),
        }
    }
    Ok(if archives.any_away() { Behind::Unknown } else { Behind::Nothing })
}

/// Returns the file in another archive, and where the WAL in it ends early, if it is there.
///
/// # Errors
/// It is there, and nobody can tell how far its WAL goes.
fn end_in(
    archive: &Archive<'_>,
    request: &Request<'_>,
) -> Result<Option<(PathBuf, Option<Lsn>)>, RestoreError> {
    for stored in StoredName::all(request.name) {
        let Some(found) = archive.visit().find(&(&stored).into())? else { continue };
        let path = found.path().to_owned();
        let read = examine::examine(&*found, &stored.name, &archive.expected, &mut |_| Ok(()))
            .map_err(|e| Error::io(Action::ReadArchived, &path, e))?;
        return match (read.problem, read.unknown) {
            (None, None) => Ok(Some((path, read.ends_early))),
            (Some(problem), _) => Err(RestoreError::Damaged { path, problem }),
            (None, Some(unknown)) => Err(RestoreError::UnknownWal { path, reason: unknown.reason }),
        };
    }
    Ok(None)
}
