//! Taking a file out of one archive, if it is there and sound.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::archives::{Archive, Archives};
use super::delivery::{Copied, Delivery};
use super::evidence;
use super::spool::Given;
use super::survey::Survey;
use super::{Request, RestoreError};
use crate::encoding::codec::Codec;
use crate::encoding::digest::Digest;
use crate::error::{Action, Error, ErrorKind, Refusal};
use crate::prove::examine::{self, Examined, Unknown};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::directory::temporary::Owner;
use crate::store::{Found, StoredName, Visit, unchecked};
use crate::wal::Lsn;
use crate::wal::name::{FileKind, FileName, SegmentName};

/// A sound file, ready to be put in place.
pub(super) struct Taken {
    pub(super) delivery: Delivery,
    /// What is known of it.
    pub(super) given: Given,
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
    let visit = archive.visit();
    let names = candidates(archive, request);
    let copy = |stored: &StoredName, archived: &dyn Found| {
        copy(archive, request, owner, &stored.name, archived)
    };
    let mut weighed = Weighed { archive, request, archives, sound: None, failure: None };
    // Each look in object storage takes a round trip. A segment is nearly always there, under one of the usual names.
    let is_split = archive.is_remote() && matches!(request.name.kind(), FileKind::Segment(_));
    let looked_up = if is_split { USUAL.len() } else { names.len() };
    let reached = AtomicUsize::new(0);
    let first = || {
        for (place, stored) in names.iter().enumerate().take(looked_up) {
            reached.store(place, Ordering::Relaxed);
            if let Some(archived) = visit.find(&stored.into())? {
                let copied = copy(stored, &*archived)?;
                return Ok(Some((archived, copied)));
            }
        }
        Ok::<_, RestoreError>(None)
    };
    // The unusual ones before those that may be looked up meanwhile.
    let not_reached = |(place, _): &(usize, &StoredName)| *place > reached.load(Ordering::Relaxed);
    let rest = || {
        let (usual, unusual) = names.split_at(looked_up);
        let numbered = (looked_up..).zip(unusual).chain((0..).zip(usual));
        there(visit, numbered.filter(not_reached))
    };
    let (found, others) = meanwhile(is_split, first, rest);
    let is_found = match found? {
        Some((archived, copied)) => weighed.add(&*archived, copied).map(|()| true)?,
        None => false,
    };
    let others = match others {
        Some(others) => others?,
        None if is_found || is_split => rest()?,
        None => Vec::new(),
    };
    for (_, stored) in others.into_iter().filter(not_reached) {
        if let Some(archived) = visit.find(&stored.into())? {
            weighed.add(&*archived, copy(stored, &*archived)?)?;
        }
    }
    weighed.outcome()
}

/// How segments in object storage are usually stored.
const USUAL: [Codec; 2] = [Codec::None, Codec::Zstd];

/// Returns the names under which the file may lie there, in the order in which they are looked up. Of object
/// storage, where each look costs a round trip, those that are usual come first.
fn candidates(archive: &Archive<'_>, request: &Request<'_>) -> Vec<StoredName> {
    let mut names = StoredName::all(request.name);
    if archive.is_remote() {
        let rank = |codec| USUAL.iter().position(|usual| *usual == codec).unwrap_or(USUAL.len());
        names.sort_by_key(|stored| rank(stored.codec));
    }
    names
}

/// Returns which of these names stand there.
fn there<'n>(
    visit: &dyn Visit,
    names: impl Iterator<Item = (usize, &'n StoredName)>,
) -> Result<Vec<(usize, &'n StoredName)>, Error> {
    let mut there = Vec::new();
    for (place, stored) in names {
        if visit.glance(&stored.into())?.is_some() {
            there.push((place, stored));
        }
    }
    Ok(there)
}

/// Does both at the same time, if that gains anything; otherwise only the first. So it does if no thread can be
/// started.
fn meanwhile<A, B: Send>(
    gains: bool,
    one: impl FnOnce() -> A,
    other: impl FnOnce() -> B + Send,
) -> (A, Option<B>) {
    thread::scope(|scope| {
        let thread =
            gains.then(|| thread::Builder::new().spawn_scoped(scope, other)).and_then(Result::ok);
        let one = one();
        let other = thread.map(|thread| match thread.join() {
            Ok(other) => other,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        (one, other)
    })
}

/// How often a file is read that breaks off on its way.
const READS: u32 = 3;
/// How long to wait before it is read again, the first time.
const PAUSE: Duration = Duration::from_millis(200);

/// Copies a file beside the target, and examines it on the way.
fn copy(
    archive: &Archive<'_>,
    request: &Request<'_>,
    owner: &Owner,
    name: &FileName,
    archived: &dyn Found,
) -> Result<Copied, RestoreError> {
    let mut reads = 1;
    loop {
        let delivery =
            Delivery::begin(request.target, request.name, owner, request.data_directory)?;
        let copied = delivery
            .copy(|each| examine::examine_overlapped(archived, name, &archive.expected, each))?;
        let problem = copied.examined.problem.as_ref();
        let broke = problem.filter(|problem| problem.kind == FindingKind::Unreadable);
        let Some(broke) = broke.filter(|_| archive.is_remote()) else { return Ok(copied) };
        // A connection breaks now and then, and a recovery would stop at that.
        if reads == READS {
            let text = format!("it broke off on its way {READS} times: {}", broke.reason);
            let refusal = Refusal { kind: ErrorKind::Unreachable, text, request_id: None }.into();
            let (action, path) = (Action::ReadArchived, archived.path().to_owned());
            return Err(Error::Remote { action, path, refusal }.into());
        }
        request.steps.tick();
        thread::sleep(PAUSE * reads);
        reads += 1;
    }
}

/// What the copies that were read are worth.
struct Weighed<'a, 'r, 's> {
    archive: &'a Archive<'r>,
    request: &'a Request<'a>,
    archives: &'a Archives<'s>,
    sound: Option<(Digest, Taken)>,
    failure: Option<RestoreError>,
}

impl Weighed<'_, '_, '_> {
    /// Adds a copy.
    ///
    /// # Errors
    /// It is sound, and so is another one with other contents.
    fn add(&mut self, archived: &dyn Found, copied: Copied) -> Result<(), RestoreError> {
        let (Copied { examined, delivery }, path) = (copied, archived.path());
        let judged = judge(self.archive, self.request, self.archives, path, &examined)?;
        let damaged = |problem| RestoreError::Damaged { path: path.to_owned(), problem };
        match (judged, examined.content) {
            (Ok(remark), Some(content)) => match &self.sound {
                None => {
                    let given = Given {
                        from: self.archive.location().to_owned(),
                        created: self.archive.created().map(str::to_owned),
                        version: archived.version().map(str::to_owned),
                        content,
                        len: examined.len,
                        ends_early: examined.ends_early.is_some(),
                        fetched_ahead: false,
                    };
                    self.sound = Some((content, Taken { delivery, given, remark }));
                }
                Some((first, _)) if *first == content => {}
                Some(_) => {
                    let reason = "the file is there with another compression too, sound and with other contents";
                    return Err(damaged(Problem::new(FindingKind::Duplicate, reason)));
                }
            },
            (Ok(_), None) => {
                let problem = Problem::new(FindingKind::Unreadable, "it was not read to its end");
                self.failure = Some(damaged(problem));
            }
            (Err(refused), _) => self.failure = Some(refused),
        }
        Ok(())
    }

    fn outcome(self) -> Result<Option<Taken>, RestoreError> {
        match (self.sound, self.failure) {
            (Some((_, taken)), _) => Ok(Some(taken)),
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(None),
        }
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
    let survey = Survey::near(archives.visits(), request.name)?;
    if let Some(later) = evidence::of_later_wal(archives, &survey, request.name, segment)? {
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
