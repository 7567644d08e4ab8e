//! One file on its way: looked up at the destination, read and checked once, written out of sight meanwhile.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::differ::{self, Conflict, Ours};
use super::known::Stamp;
use super::tee::Tee;
use super::there::There;
use crate::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, Digest, STORED_ATTRIBUTE};
use crate::error::{Action, Error, ErrorKind};
use crate::prove::examine::{self, Examined, Expectation};
use crate::prove::finding::{FindingKind, Problem};
use crate::server::settings::CheckWal;
use crate::store::{
    Digests, Found, Publication, Seal, Sealed, StoredName, Visit, listing, unchecked,
};
use crate::sys::buffer::Buffer;
use crate::wal::name::FileKind;
use crate::wal::timeline::Timelines;
use crate::wal::{SegmentReport, SegmentSize};

/// For so long after the last change, a file without a digest may be one that another tool is still writing.
const FRESH: Duration = Duration::from_secs(2);

/// What carries the files of one batch: both places, open.
pub(super) struct Carrier<'a> {
    pub(super) source: &'a dyn Visit,
    pub(super) destination: &'a dyn Visit,
    /// The names in it.
    pub(super) there: &'a There<'a>,
    pub(super) system_identifier: u64,
    pub(super) mode: u32,
    pub(super) timelines: &'a Timelines,
    /// Counts what was read in the source.
    pub(super) bytes: &'a AtomicU64,
    /// Ends the work at the next chunk.
    pub(super) stop: &'a AtomicBool,
}

/// What came of one file.
pub(super) enum Ready {
    /// It is no longer there.
    Gone,
    /// The destination has it, flushed; its name may not be durable.
    Present,
    /// It is whole at the destination, flushed and out of sight.
    Sealed {
        sealed: Box<dyn Sealed>,
        /// Its stored length.
        len: u64,
        /// It is as it was archived, and that is damaged.
        as_archived: Option<Problem>,
        /// What its records have shown, and how large it is, if it is a sound segment.
        records: Option<(Box<SegmentReport>, SegmentSize)>,
    },
    /// Another program is still writing it.
    Unfinished,
    /// It is not fit to be copied.
    Left { problem: Problem, stamp: Stamp },
    /// The destination holds other contents under the name.
    Differs(Box<Conflict>),
    /// One of the two places is in trouble.
    Failed(Error),
}

/// What came of giving a file its name.
pub(super) enum Named {
    /// It has its name.
    Copied,
    /// Another process was faster, with the same contents.
    Present,
    /// It has not, or what else stands there differs.
    Not(Ready),
}

/// Whether what was read may be published.
enum Verdict {
    /// It is sound.
    Sound,
    /// It is as it was archived, and that is damaged.
    AsArchived(Problem),
    /// Nobody has ever looked into it, which the source says; nor does it carry a digest.
    Unchecked,
    /// It is damaged, or another file than its name says.
    Unfit(Problem),
}

impl Carrier<'_> {
    /// Looks a file up in both places, and makes it ready to be published where the destination lacks it.
    ///
    /// On return, the destination has the same contents, flushed; or they are complete out of sight. Neither counts
    /// before its name is durable. If the machine dies here, nothing stands under the name that did not before.
    pub(super) fn prepare(&self, file: &StoredName, buffer: &mut Buffer) -> Ready {
        let there = self.there.names(&file.name);
        there.and_then(|there| self.look(file, &there, true, buffer)).unwrap_or_else(Ready::Failed)
    }

    /// Looks a file up that the destination may hold under some names. What that carries counts only if it is to be
    /// trusted; if not, it is read.
    fn look(
        &self,
        file: &StoredName,
        names: &[StoredName],
        trusted: bool,
        buffer: &mut Buffer,
    ) -> Result<Ready, Error> {
        let unreadable = |reason: String| {
            let problem = Problem::new(FindingKind::Unreadable, reason);
            Ok(Ready::Left { problem, stamp: Stamp::default() })
        };
        // What will hardly be read is not fetched.
        let name = file.into();
        let found =
            if names.is_empty() { self.source.find(&name) } else { self.source.glance(&name) };
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Ready::Gone),
            Err(Error::NotAFile { found, .. }) => return unreadable(format!("it is {found}")),
            Err(Error::Io { source, .. }) => return unreadable(source.to_string()),
            Err(Error::Remote { refusal, .. }) if refusal.kind == ErrorKind::ColdObject => {
                return unreadable(format!("it lies in a cold storage class: {}", refusal.text));
            }
            Err(e) => return Err(e),
        };
        let claims = match Claims::of(&*found) {
            Ok(claims) => claims,
            Err(e) => return unreadable(e.to_string()),
        };
        if !claims.any() && self.is_received(file) {
            return Ok(Ready::Unfinished);
        }
        let left = |problem| Ok(Ready::Left { problem, stamp: Stamp::of(&*found) });
        let (mut is_there, mut unlike) = (false, Vec::new());
        for name in names {
            let Some(there) = self.destination.glance(&name.into())? else { continue };
            if trusted && claims.are_those_of(&*there, found.stored_len()) {
                there.flush()?;
                is_there = true;
            } else {
                unlike.push(there);
            }
        }
        if unlike.is_empty() && !is_there {
            return self.write(file, &*found, &claims, buffer);
        }
        if unlike.is_empty() {
            return Ok(Ready::Present);
        }
        let examined = self.examine(&*found, file)?;
        if let Verdict::Unfit(problem) = self.judge(&examined, &claims) {
            return left(problem);
        }
        let ours = Ours { file, found: &*found, examined: &examined };
        for there in unlike {
            let conflict =
                differ::compare(&ours, &*there, &self.expected(), &mut || self.may_go_on())?;
            if let Some(conflict) = conflict {
                return Ok(Ready::Differs(Box::new(conflict)));
            }
        }
        Ok(Ready::Present)
    }

    /// Reads, checks and writes a file that the destination lacks: each byte of it once.
    fn write(
        &self,
        file: &StoredName,
        found: &dyn Found,
        claims: &Claims,
        buffer: &mut Buffer,
    ) -> Result<Ready, Error> {
        let left = |problem| Ok(Ready::Left { problem, stamp: Stamp::of(found) });
        let tee = Tee::new(found, self.destination.stage(file.into())?, buffer);
        let examined = self.examine(&tee, file);
        let (draft, len) = tee.finish()?;
        let examined = examined?;
        let (digests, as_archived) = match self.judge(&examined, claims) {
            Verdict::Unfit(problem) => return left(problem),
            Verdict::Unchecked => (None, None),
            Verdict::Sound => (digests(&examined), None),
            Verdict::AsArchived(problem) => (digests(&examined), Some(problem)),
        };
        if len != found.stored_len() {
            let reason = "it changed while it was read";
            return left(Problem::new(FindingKind::Unreadable, reason));
        }
        let whole = digests.is_some() && as_archived.is_none() && examined.unknown.is_none();
        let size = examined.header.map(|header| u64::from(header.segment_size));
        let size = size.and_then(|size| SegmentSize::new(size).ok());
        let records = examined.records.filter(|_| whole).map(Box::new).zip(size);
        let checked = claims.checked.or(records.as_ref().map(|_| CheckWal::Records));
        let seal = Seal { digests, checked, mode: self.mode, flush: true, verify: false };
        let sealed = draft.seal(&seal)?;
        if checked == Some(CheckWal::Off) && !sealed.carries_attributes() {
            unchecked::mark(self.destination, self.mode)?;
        }
        Ok(Ready::Sealed { sealed, len, as_archived, records })
    }

    /// Gives a file its name, unless that is taken: then what has it must hold the same.
    ///
    /// # Errors
    /// The name was not given, and the destination is in trouble.
    pub(super) fn publish(
        &self,
        file: &StoredName,
        sealed: Box<dyn Sealed>,
        buffer: &mut Buffer,
    ) -> Result<Named, Error> {
        if sealed.publish(self.destination.progress())? == Publication::Published {
            return Ok(Named::Copied);
        }
        let names = self.there.names_since(&file.name, Instant::now())?;
        Ok(match self.look(file, &names, false, buffer)? {
            Ready::Present => Named::Present,
            Ready::Sealed { .. } => {
                let path = self.destination.location().join(file.to_string());
                return Err(Error::Vanished { path });
            }
            other => Named::Not(other),
        })
    }

    /// Makes sure that a file which was published before `since` has no other contents in another encoding: another
    /// process may have published those meanwhile.
    ///
    /// # Errors
    /// The destination is in trouble.
    pub(super) fn check_alone(
        &self,
        file: &StoredName,
        since: Instant,
        buffer: &mut Buffer,
    ) -> Result<Option<Box<Conflict>>, Error> {
        let mut names = self.there.names_since(&file.name, since)?;
        names.retain(|name| name != file);
        if names.is_empty() {
            return Ok(None);
        }
        match self.look(file, &names, false, buffer)? {
            Ready::Differs(conflict) => Ok(Some(conflict)),
            Ready::Failed(error) => Err(error),
            // What of the source or of the destination is gone by now, or cannot be read, differs from nothing.
            _ => Ok(None),
        }
    }

    /// Marks the destination, if the source is marked: WAL that nobody looked into may come from there.
    ///
    /// # Errors
    /// The marker could not be looked up or written.
    pub(super) fn mark_like_source(&self) -> Result<(), Error> {
        if !unchecked::is_marked(self.source)? || unchecked::is_marked(self.destination)? {
            return Ok(());
        }
        unchecked::mark(self.destination, self.mode)
    }

    pub(super) fn examine(&self, found: &dyn Found, file: &StoredName) -> Result<Examined, Error> {
        let each = &mut |chunk: &[u8]| {
            self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            self.may_go_on()
        };
        examine::examine(found, &file.name, &self.expected(), each)
            .map_err(|e| Error::io(Action::ReadArchived, found.path(), e))
    }

    fn expected(&self) -> Expectation {
        Expectation {
            system_identifier: Some(self.system_identifier),
            segment_size: None,
            thorough: true,
            past_cache: true,
        }
    }

    fn may_go_on(&self) -> io::Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Decides by what reading a file has shown.
    fn judge(&self, examined: &Examined, claims: &Claims) -> Verdict {
        let Some(problem) = &examined.problem else { return Verdict::Sound };
        let agrees = |claim: Option<Digest>, found| claim.is_none() || claim == found;
        let as_archived = examined.content.is_some()
            && claims.any()
            && agrees(claims.content, examined.content)
            && agrees(claims.stored, examined.stored);
        match problem.kind {
            FindingKind::Corrupt | FindingKind::Truncated if as_archived => {
                Verdict::AsArchived(problem.clone())
            }
            FindingKind::Corrupt
                if examined.unknown.is_some()
                    && !claims.any()
                    && matches!(unchecked::is_marked(self.source), Ok(true)) =>
            {
                Verdict::Unchecked
            }
            _ => Verdict::Unfit(problem.clone()),
        }
    }

    /// Returns whether a file is one that `pg_receivewal` may still be writing: a partial segment, and no timeline
    /// has branched off in it. A server archives a partial segment only when it leaves a timeline there.
    fn is_received(&self, file: &StoredName) -> bool {
        let FileKind::Partial(segment) = file.name.kind() else { return false };
        let header = listing::header(self.source, file);
        let size = header.and_then(|header| SegmentSize::new(header.segment_size.into()).ok());
        let Some((start, size)) = size.and_then(|size| Some((segment.start(size)?, size))) else {
            return true;
        };
        let end = start.advanced(size.bytes().into());
        let mut branches = self.timelines.branches_of(segment.timeline);
        !branches.any(|branch| (start..end).contains(&branch.switch))
    }

    /// Returns for how long to wait before a file that is not fit is looked at once more, if that may help: another
    /// tool may be writing it.
    pub(super) fn fresh_for(&self, file: &StoredName) -> Option<Duration> {
        let found = self.source.glance(&file.into()).ok()??;
        if Claims::of(&*found).is_ok_and(|claims| claims.any()) {
            return None;
        }
        let idle = SystemTime::now().duration_since(found.modified()?).unwrap_or_default();
        FRESH.checked_sub(idle)
    }

    /// Makes sure that it is one file that cannot be read, and not the whole source.
    ///
    /// # Errors
    /// The source is in trouble, or its path leads elsewhere by now.
    pub(super) fn check_source(&self) -> Result<(), Error> {
        if !self.source.is_still_there()? {
            return Err(Error::Replaced { path: self.source.location().to_owned() });
        }
        let whose = super::ends::whose(self.source)?;
        let location = self.source.location();
        if whose != Some(self.system_identifier) {
            return Err(Error::Replaced { path: location.to_owned() });
        }
        Ok(())
    }
}

impl Stamp {
    pub(super) fn of(found: &dyn Found) -> Self {
        Self { len: found.stored_len(), modified: found.modified() }
    }
}

/// What a file of the source carries beside its contents.
struct Claims {
    stored: Option<Digest>,
    content: Option<Digest>,
    checked: Option<CheckWal>,
}

impl Claims {
    fn of(found: &dyn Found) -> io::Result<Self> {
        let checked = found.attribute(CHECKED_ATTRIBUTE)?;
        let known = [CheckWal::Off, CheckWal::Header, CheckWal::Records];
        let is = |how: &CheckWal| checked.as_deref() == Some(how.as_str());
        Ok(Self {
            stored: digest(found, STORED_ATTRIBUTE)?,
            content: digest(found, CONTENT_ATTRIBUTE)?,
            checked: known.into_iter().find(is),
        })
    }

    /// Returns whether another file, which carries digests too, holds the same by them, and by its length where its
    /// stored bytes are to be the same.
    fn are_those_of(&self, there: &dyn Found, stored_len: u64) -> bool {
        let theirs = |attribute| digest(there, attribute).ok().flatten();
        let same_bytes = self.stored.is_some() && theirs(STORED_ATTRIBUTE) == self.stored;
        self.content.is_some()
            && theirs(CONTENT_ATTRIBUTE) == self.content
            && (!same_bytes || there.stored_len() == stored_len)
    }

    /// Returns whether it carries a digest.
    fn any(&self) -> bool {
        self.stored.is_some() || self.content.is_some()
    }
}

/// Reads a digest that a file carries. What is no digest is found when the file is examined.
fn digest(found: &dyn Found, attribute: &str) -> io::Result<Option<Digest>> {
    Ok(found.attribute(attribute)?.and_then(|text| text.parse().ok()))
}

fn digests(examined: &Examined) -> Option<Digests> {
    Some(Digests { stored: examined.stored?, content: examined.content? })
}
