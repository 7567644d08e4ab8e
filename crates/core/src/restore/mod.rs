//! Giving one file back to a server in recovery.
//!
//! [`restore`] delivers the file, says that the archive does not have it and should not, or fails. It never
//! mistakes trouble for the end of the WAL (guarantee G12): a missing file counts only if the archive is
//! there, is this cluster's, and holds nothing that must come after the file.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::encoding::digest::Digest;
use crate::error::{Action, Error};
use crate::prove::examine::{self, Examined, Expectation, Unknown};
use crate::prove::finding::{FindingKind, Problem};
use crate::server::control::ControlFile;
use crate::store::directory::Directory;
use crate::store::directory::temporary::Owner;
use crate::store::identity::{self, Identity};
use crate::store::{Progress, StoredName, Visit, unchecked};
use crate::sys::Dir;
use crate::wal::name::{FileKind, FileName, SegmentName};

mod abandoned;
mod delivery;
mod error;
mod evidence;
mod missing;
pub mod own;
mod survey;

use self::delivery::Delivery;
pub use self::error::RestoreError;
use self::survey::Survey;

/// What is to come is not on its way any more if what shows that it must come has been there for so long.
const LATE: Duration = Duration::from_secs(600);

/// One file that a server asks for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The archive directory.
    pub archive: &'a Path,
    /// The file's name, `%f`.
    pub name: &'a FileName,
    /// Where the server wants it, `%p`.
    pub target: &'a Path,
    /// The data directory, whose control file says which cluster it is; the server's working directory.
    pub data_directory: &'a Path,
    /// Accept an archive without an identity file.
    pub allow_unmarked: bool,
    /// Accept WAL of an unknown kind although the archive does not say that it was let in so.
    pub allow_unchecked: bool,
    /// How long to look again for a file that is missing although something shows that it must exist.
    pub patience: Duration,
    /// The segment at which a hole counts as the end of the WAL.
    pub end_at_hole: Option<SegmentName>,
    /// Find out whether a file that is not there should be. A standby does not need to know: it asks again
    /// whatever the reason, and often.
    pub prove_absence: bool,
    /// Counts the steps, for whoever watches over storage that hangs.
    pub steps: &'a Progress,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The file is at its target, whole and checked. The server flushes it.
    Delivered {
        /// What could not be checked, and why it was delivered all the same.
        remark: Option<String>,
    },
    /// The archive is there and does not have the file, and nothing shows that it should; or nobody was to
    /// find that out ([`Request::prove_absence`]).
    NotArchived {
        /// Why that is the end and not a hole.
        reason: String,
    },
}

/// Gives one file back.
///
/// On return with [`Outcome::Delivered`], the target is a file of its own, fully allocated, readable for
/// those who may read the data directory, and every check passed; it is not flushed. In any other case, the
/// target is as it was before. If the machine dies half-way, a temporary file stays beside the target until
/// the next call.
///
/// # Errors
/// The file is not at its target, and nothing shows that this is the end of the WAL.
pub fn restore(request: &Request<'_>) -> Result<Outcome, RestoreError> {
    let store = Directory::at(request.archive);
    let visit = store.open(request.steps)?;
    let expected = admit(request, &visit)?;
    let owner = Owner::this_process();
    refuse_archive(request, visit.dir())?;
    Delivery::sweep(request.target, &owner)?;
    if let Some(outcome) = deliver(request, &visit, &expected, &owner)? {
        return Ok(outcome);
    }
    if !request.prove_absence {
        return Ok(Outcome::NotArchived { reason: "is not in the archive".to_owned() });
    }
    refuse_nothing(request, &visit)?;
    let (evidence, contents) = match missing::judge(request, &visit, &expected)? {
        missing::Verdict::End(reason) => return Ok(Outcome::NotArchived { reason }),
        missing::Verdict::Hole(evidence) => (evidence, None),
        missing::Verdict::HistoryHole(evidence, contents) => (evidence, Some(contents)),
    };
    // Other archivers publish out of order: the file may be on its way.
    let patience = match evidence.is_older_than(LATE, &visit) {
        true => Duration::ZERO,
        false => request.patience,
    };
    let started = Instant::now();
    loop {
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(Duration::from_millis(250)));
        if let Some(outcome) = deliver(request, &visit, &expected, &owner)? {
            return Ok(outcome);
        }
    }
    let (path, evidence) = (request.archive.to_owned(), evidence.text);
    match (contents, request.name.kind()) {
        (Some(contents), FileKind::History { timeline }) => {
            Err(RestoreError::HistoryHole { path, timeline, evidence, contents })
        }
        (_, FileKind::Segment(segment)) if request.end_at_hole == Some(segment) => {
            let name = format!("{segment} ");
            let found = evidence.strip_prefix(&name).unwrap_or(&evidence);
            let reason = format!("{found}; recovery ends here because --end-at-hole says so");
            Ok(Outcome::NotArchived { reason })
        }
        _ => Err(RestoreError::Hole { path, evidence }),
    }
}

/// Makes sure, through its handle, that the archive is this cluster's. Returns what its files must be.
fn admit(request: &Request<'_>, visit: &dyn Visit) -> Result<Expectation, RestoreError> {
    let path = request.archive;
    // If the control file cannot be read, only the identity file counts.
    let control = ControlFile::read(request.data_directory).ok();
    let ours = control.map(|control| control.system_identifier);
    let theirs = Identity::at(visit)?.map(|identity| identity.system_identifier);
    match (ours, theirs) {
        (_, None) if !request.allow_unmarked => {
            return Err(RestoreError::Unmarked { path: path.to_owned() });
        }
        (Some(ours), Some(theirs)) if ours != theirs => {
            return Err(
                Error::OtherCluster { path: path.join(identity::FILE_NAME), ours, theirs }.into()
            );
        }
        _ => {}
    }
    Ok(Expectation {
        system_identifier: theirs.or(ours),
        segment_size: control.and_then(|control| control.segment_size),
        ..Expectation::default()
    })
}

/// Makes sure that the target does not lie in an archive, where a file would be replaced and other
/// processes' temporary files removed.
fn refuse_archive(request: &Request<'_>, archive: &Dir) -> Result<(), RestoreError> {
    let path = delivery::parent(request.target);
    let fail = |source| RestoreError::Deliver { path: path.to_owned(), space: None, source };
    let place = |dir: &Dir| dir.metadata().map(|there| (there.dev(), there.ino()));
    let dir = Dir::open(path).map_err(fail)?;
    let target = place(&dir).map_err(fail)?;
    let archived =
        place(archive).map_err(|e| Error::io(Action::LookUpDestination, archive.path(), e))?;
    if target == archived || dir.entry(identity::FILE_NAME).map_err(fail)?.is_some() {
        return Err(RestoreError::IntoArchive { path: path.to_owned() });
    }
    Ok(())
}

/// Makes sure that a directory without an identity file is an archive at all.
fn refuse_nothing(request: &Request<'_>, visit: &dyn Visit) -> Result<(), RestoreError> {
    let marked = !request.allow_unmarked || Identity::at(visit)?.is_some();
    if marked || Survey::read(visit, request.name)?.any {
        return Ok(());
    }
    Err(RestoreError::Nothing { path: request.archive.to_owned() })
}

/// Delivers the file if the archive has it, in any encoding. Of two encodings with the same contents, the
/// first sound one is taken. Two sound ones that differ are an error.
fn deliver(
    request: &Request<'_>,
    visit: &dyn Visit,
    expected: &Expectation,
    owner: &Owner,
) -> Result<Option<Outcome>, RestoreError> {
    // No server asks for a tail, and none may be given one.
    if matches!(request.name.kind(), FileKind::Tail(_)) {
        return Ok(None);
    }
    let mut candidates = Vec::new();
    for stored in StoredName::all(request.name) {
        candidates.extend(visit.find(&(&stored).into())?.map(|found| (stored.name, found)));
    }
    let mut sound: Option<(Digest, Delivery, Option<String>)> = None;
    let mut failure = None;
    for (name, archived) in &candidates {
        let delivery =
            Delivery::begin(request.target, request.name, owner, request.data_directory)?;
        let result =
            delivery.copy(|each| examine::examine_overlapped(&**archived, name, expected, each))?;
        let path = archived.path().to_owned();
        match (judge(request, visit, expected, &result.examined)?, result.examined.content) {
            (Ok(remark), Some(content)) => match sound {
                None => sound = Some((content, result.delivery, remark)),
                Some((first, ..)) if first == content => {}
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
            (Err(Refused::Damaged(problem)), _) => {
                failure = Some(RestoreError::Damaged { path, problem });
            }
            (Err(Refused::Unknown(reason)), _) => {
                failure = Some(RestoreError::UnknownWal { path, reason });
            }
        }
    }
    match (sound, failure) {
        (Some((_, delivery, remark)), _) => {
            delivery.finish()?;
            Ok(Some(Outcome::Delivered { remark }))
        }
        (None, Some(failure)) => Err(failure),
        (None, None) if matches!(request.name.kind(), FileKind::Other) => {
            Err(RestoreError::UnknownKind { path: request.archive.to_owned() })
        }
        (None, None) => Ok(None),
    }
}

/// Why a file that could be read is not delivered.
enum Refused {
    /// It is damaged or the wrong one.
    Damaged(Problem),
    /// Its format is not known here, and the archive does not say that it was let in so.
    Unknown(String),
}

/// Decides whether a file that was read may be delivered, and with which remark.
fn judge(
    request: &Request<'_>,
    visit: &dyn Visit,
    expected: &Expectation,
    examined: &Examined,
) -> Result<Result<Option<String>, Refused>, RestoreError> {
    if let Some(Unknown { reason, vouched }) = &examined.unknown {
        // Where files carry nothing, the archive as a whole says that some were let in unchecked.
        let marked = || Ok::<_, Error>(!examined.had_digest && unchecked::is_marked(visit)?);
        return Ok(if *vouched || request.allow_unchecked || marked()? {
            Ok(Some(format!("its records were not checked: {reason}")))
        } else {
            Err(Refused::Unknown(reason.clone()))
        });
    }
    let problem = match &examined.problem {
        None => lost_tail(request, visit, expected, examined)?,
        known => known.clone(),
    };
    Ok(problem.map_or(Ok(None), |problem| Err(Refused::Damaged(problem))))
}

/// A segment whose WAL ends early is the last one of its timeline, or it has lost its tail. In the second
/// case, the server would end the recovery there.
fn lost_tail(
    request: &Request<'_>,
    visit: &dyn Visit,
    expected: &Expectation,
    examined: &Examined,
) -> Result<Option<Problem>, RestoreError> {
    let (FileKind::Segment(segment), Some(end)) = (request.name.kind(), examined.ends_early) else {
        return Ok(None);
    };
    let survey = Survey::read(visit, request.name)?;
    Ok(evidence::of_later_wal(visit, expected, &survey, segment)?.map(|later| {
        let later = later.text;
        let reason = format!("its WAL ends at {end}, before the segment does, and {later}");
        Problem::new(FindingKind::Corrupt, reason)
    }))
}
