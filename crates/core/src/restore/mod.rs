//! Giving one file back to a server in recovery.
//!
//! [`restore`] delivers the file, says that the archives do not have it and should not, or fails. It never
//! mistakes trouble for the end of the WAL (guarantee G12): a missing file counts only if every archive is
//! there, is this cluster's, and none holds anything that must come after the file.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::store::Progress;
use crate::store::directory::temporary::Owner;
use crate::wal::name::{FileKind, FileName, SegmentName};

mod abandoned;
mod archives;
mod delivery;
mod error;
mod evidence;
mod missing;
mod origin;
pub mod own;
mod round;
pub mod spool;
mod survey;
mod take;

use self::archives::Archives;
use self::delivery::Delivery;
pub use self::error::{Begun, Rest, RestoreError, Trouble};
use self::evidence::Evidence;
use self::missing::Verdict;
pub use self::origin::Origin;
pub use self::round::Round;
use self::spool::Given;
use self::survey::Survey;
use self::take::Taken;

/// What is to come is not on its way any more if what shows that it must come has been there for so long.
const LATE: Duration = Duration::from_secs(600);

/// One file that a server asks for.
#[derive(Clone)]
pub struct Request<'a> {
    /// The archives, at least one. The first one that has the file, sound, gives it.
    pub archives: &'a [Origin],
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
    /// What is known of the archives already, and where this call has got.
    pub round: &'a Round,
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// The file is at its target, whole and checked. The server flushes it.
    Delivered {
        /// What is known of it.
        given: Given,
        /// What could not be checked, and why it was delivered all the same.
        remark: Option<String>,
        /// What was wrong with archives that were asked before.
        passed_over: Vec<Trouble>,
    },
    /// Every archive is there and does not have the file, and nothing shows that it should; or nobody was to
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
    let (archives, owner) = (Archives::of(request), Owner::this_process());
    Call { request, archives, owner, is_swept: Cell::new(false) }.outcome()
}

/// A call under way.
struct Call<'r> {
    request: &'r Request<'r>,
    archives: Archives<'r>,
    owner: Owner,
    /// What calls that were killed left beside the target is gone.
    is_swept: Cell<bool>,
}

impl Call<'_> {
    fn outcome(&self) -> Result<Outcome, RestoreError> {
        if let Some(outcome) = self.ask()? {
            return Ok(outcome);
        }
        if self.archives.any_in_trouble() {
            return Err(self.unsettled());
        }
        if matches!(self.request.name.kind(), FileKind::Other) {
            return Err(RestoreError::UnknownKind { paths: self.archives.paths() });
        }
        if !self.request.prove_absence {
            return Ok(Outcome::NotArchived { reason: self.archives.nowhere().to_owned() });
        }
        self.refuse_nothing()?;
        let verdict = match missing::judge(self.request, &self.archives) {
            Ok(verdict) => Some(verdict),
            Err(e) => {
                self.blame(e)?;
                None
            }
        };
        match verdict.filter(|_| !self.archives.any_in_trouble()) {
            Some(verdict) => self.conclude(verdict),
            None => Err(self.unsettled()),
        }
    }

    /// Asks each archive in turn, and puts the first sound copy in its place. `None` if none gave one: what was
    /// wrong is noted.
    fn ask(&self) -> Result<Option<Outcome>, RestoreError> {
        for place in self.archives.in_order() {
            let Some(archive) = self.archives.open(place)? else { continue };
            if !self.is_swept.replace(true) {
                Delivery::sweep(self.request.target, &self.owner)?;
            }
            match take::out_of(archive, self.request, &self.archives, &self.owner) {
                Ok(Some(taken)) => return self.put_in_place(taken).map(Some),
                Ok(None) => {}
                Err(e) if e.is_of_copy() => self.archives.note(place, e, false),
                Err(e) => self.blame(e)?,
            }
        }
        Ok(None)
    }

    fn put_in_place(&self, taken: Taken) -> Result<Outcome, RestoreError> {
        if !self.request.round.settle() {
            // Nobody waits for this answer any more.
            let (path, source) =
                (self.request.target.to_owned(), io::ErrorKind::Interrupted.into());
            return Err(RestoreError::Deliver { path, space: None, source });
        }
        taken.delivery.finish().inspect_err(|_| self.request.round.reopen())?;
        Ok(Outcome::Delivered {
            given: taken.given,
            remark: taken.remark,
            passed_over: self.archives.take_troubles(),
        })
    }

    /// Notes an error of the archive that was looked at last.
    ///
    /// # Errors
    /// No archive is to blame.
    fn blame(&self, error: RestoreError) -> Result<(), RestoreError> {
        if error.is_of_target() {
            return Err(error);
        }
        let away = error.is_of_archive();
        self.archives.note(self.request.round.at(), error, away);
        Ok(())
    }

    /// Notes each directory without an identity file that is no archive at all.
    fn refuse_nothing(&self) -> Result<(), RestoreError> {
        for archive in self.archives.opened().filter(|archive| !archive.is_marked()) {
            let visit = || [archive.visit()];
            let near = Survey::near(visit(), self.request.name);
            let survey = match near {
                Ok(near) if near.any || near.is_whole => Ok(near),
                Ok(_) => Survey::whole(visit(), self.request.name),
                Err(e) => Err(e),
            };
            match survey {
                Ok(survey) if survey.any => {}
                Ok(_) => self.blame(RestoreError::Nothing { path: archive.path().to_owned() })?,
                Err(e) => self.blame(e.into())?,
            }
        }
        Ok(())
    }

    /// Returns what is wrong where nobody can tell whether the file must exist: of a single archive that, of
    /// several also what the sound ones say.
    fn unsettled(&self) -> RestoreError {
        let rest = self.rest();
        let mut troubles = self.archives.take_troubles();
        if self.archives.is_one()
            && let Some(only) = troubles.pop()
        {
            return only.error;
        }
        RestoreError::Unsettled { name: self.request.name.clone(), troubles, rest }
    }

    fn rest(&self) -> Rest {
        // A copy that is there and is of no use would be taken for a sign that the file must exist.
        let is_asked = self.request.prove_absence && !self.archives.any_has_it();
        if !is_asked || self.archives.opened().next().is_none() {
            return Rest::Unknown;
        }
        match missing::judge(self.request, &self.archives) {
            Ok(Verdict::End(reason)) => Rest::Ends(reason),
            Ok(Verdict::Hole(evidence) | Verdict::HistoryHole(evidence, ..)) => {
                Rest::Hole(evidence.text)
            }
            Ok(Verdict::BegunLater(archives)) => Rest::Begun(archives),
            // What is known to be wrong comes first.
            Err(_) => Rest::Unknown,
        }
    }

    fn conclude(&self, verdict: Verdict) -> Result<Outcome, RestoreError> {
        let paths = || self.archives.paths();
        let segment = match self.request.name.kind() {
            FileKind::Segment(segment) => Some(segment),
            _ => None,
        };
        let ends_here = segment.is_some() && segment == self.request.end_at_hole;
        let end = |found: &str| {
            let reason = format!("{found}; recovery ends here because --end-at-hole says so");
            Ok(Outcome::NotArchived { reason })
        };
        match verdict {
            Verdict::End(reason) => Ok(Outcome::NotArchived { reason }),
            Verdict::BegunLater(_) if ends_here => {
                let were = if self.archives.is_one() { "was" } else { "were" };
                end(&format!("{}, which {were} begun later", self.archives.nowhere()))
            }
            // Nobody is about to bring the file there.
            Verdict::BegunLater(archives) => Err(RestoreError::BegunLater { archives }),
            Verdict::Hole(evidence) => {
                if let Some(outcome) = self.look_again(&evidence)? {
                    return Ok(outcome);
                }
                let evidence = evidence.text;
                if !ends_here {
                    return Err(RestoreError::Hole { paths: paths(), evidence });
                }
                let name = format!("{} ", self.request.name);
                end(evidence.strip_prefix(&name).unwrap_or(&evidence))
            }
            Verdict::HistoryHole(evidence, contents, timeline) => {
                match self.look_again(&evidence)? {
                    Some(outcome) => Ok(outcome),
                    None => {
                        let (paths, evidence) = (paths(), evidence.text);
                        Err(RestoreError::HistoryHole { paths, timeline, evidence, contents })
                    }
                }
            }
        }
    }

    /// Looks for the file again for a while: other archivers publish out of order, and it may be on its way.
    fn look_again(&self, evidence: &Evidence) -> Result<Option<Outcome>, RestoreError> {
        let patience = match evidence.is_older_than(LATE, || self.archives.visits()) {
            true => Duration::ZERO,
            false => self.request.patience,
        };
        let started = Instant::now();
        loop {
            let left = patience.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(left.min(Duration::from_millis(250)));
            if let Some(outcome) = self.ask()? {
                return Ok(Some(outcome));
            }
            if self.archives.any_in_trouble() {
                return Err(self.unsettled());
            }
        }
    }
}
