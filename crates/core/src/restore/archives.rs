//! The archives of one call: each is opened when it is first asked, and they are looked at as one where only
//! all of them can answer.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{Begun, RestoreError, Trouble};
use super::{Origin, Request, delivery};
use crate::error::Error;
use crate::prove::examine::Expectation;
use crate::server::control::ControlFile;
use crate::store::identity::{self, Identity};
use crate::store::{PlaceId, Visit};
use crate::sys::Dir;
use crate::wal::name::SegmentName;

/// The archives of one call.
pub(super) struct Archives<'r> {
    request: &'r Request<'r>,
    each: Vec<OnceCell<Option<Archive<'r>>>>,
    /// What was wrong with an archive, by its place. Such a one is not asked again.
    troubles: RefCell<BTreeMap<usize, Trouble>>,
}

/// An archive that is open and this cluster's.
pub(super) struct Archive<'r> {
    place: usize,
    origin: &'r Origin,
    visit: Box<dyn Visit + 'r>,
    identity: Option<Identity>,
    /// What its files must be.
    pub(super) expected: Expectation,
}

impl<'r> Archives<'r> {
    pub(super) fn of(request: &'r Request<'r>) -> Self {
        let each: Vec<_> = request.archives.iter().map(|_| OnceCell::new()).collect();
        let archives = Self { request, each, troubles: RefCell::default() };
        for (place, seconds) in &request.round.hung {
            if let Some(archive) = request.archives.get(*place) {
                let (path, seconds) = (archive.shown().into_owned(), *seconds);
                let error = Error::StorageHangs { path, seconds, left: None };
                archives.note(*place, error.into(), true);
            }
        }
        archives
    }

    /// Returns whether there is one, which answers alone.
    pub(super) fn is_one(&self) -> bool {
        self.each.len() == 1
    }

    /// Names all of them, for messages.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.request.archives.iter().map(|archive| archive.shown().into_owned()).collect()
    }

    /// Returns the places of the archives that are to be asked, in the order in which they are.
    pub(super) fn in_order(&self) -> Vec<usize> {
        let is_last = |place: &usize| self.request.round.last.contains(place);
        let (last, first): (Vec<_>, Vec<_>) = (0..self.each.len()).partition(is_last);
        let is_sound = |place: &usize| !self.troubles.borrow().contains_key(place);
        first.into_iter().chain(last).filter(is_sound).collect()
    }

    /// Opens an archive, if it is not open, and makes sure that it is this cluster's. `None` if it is in
    /// trouble, which is noted.
    ///
    /// # Errors
    /// Those for which no archive is to blame.
    pub(super) fn open(&self, place: usize) -> Result<Option<&Archive<'r>>, RestoreError> {
        self.request.round.comes_to(place);
        let (Some(cell), Some(origin)) = (self.each.get(place), self.request.archives.get(place))
        else {
            return Ok(None);
        };
        if self.troubles.borrow().contains_key(&place) {
            return Ok(None);
        }
        if let Some(known) = cell.get() {
            return Ok(known.as_ref());
        }
        let opened = match Archive::open(self.request, place, origin) {
            Ok(archive) => Some(archive),
            Err(e) if e.is_of_target() => return Err(e),
            Err(e) => {
                self.note(place, e, true);
                None
            }
        };
        Ok(cell.get_or_init(|| opened).as_ref())
    }

    /// Opens every archive that is not known to be in trouble.
    ///
    /// # Errors
    /// Those for which no archive is to blame.
    pub(super) fn open_all(&self) -> Result<(), RestoreError> {
        self.in_order().into_iter().try_for_each(|place| self.open(place).map(drop))
    }

    /// Returns the archives that are open and not away, in the given order. Whatever is done there is done
    /// before the next one is taken.
    pub(super) fn opened(&self) -> impl Iterator<Item = &Archive<'r>> {
        let opened = self.each.iter().filter_map(|cell| cell.get()?.as_ref());
        let is_away =
            |place| self.troubles.borrow().get(&place).is_some_and(|trouble| trouble.away);
        opened
            .filter(move |archive| !is_away(archive.place))
            .inspect(|archive| self.request.round.comes_to(archive.place))
    }

    /// Returns the places to look at where all archives count as one.
    pub(super) fn visits(&self) -> impl Iterator<Item = &dyn Visit> {
        self.opened().map(Archive::visit)
    }

    /// Returns what the files of all archives must be.
    pub(super) fn expected(&self) -> Expectation {
        self.opened().next().map(|archive| archive.expected.clone()).unwrap_or_default()
    }

    /// Notes what is wrong with an archive. `away` says that it is the archive as a whole.
    pub(super) fn note(&self, place: usize, error: RestoreError, away: bool) {
        if let Some(archive) = self.request.archives.get(place) {
            let trouble = Trouble { archive: archive.location().to_owned(), error, away };
            self.troubles.borrow_mut().entry(place).or_insert(trouble);
        }
    }

    /// Returns whether an archive as a whole is in trouble.
    pub(super) fn any_away(&self) -> bool {
        self.troubles.borrow().values().any(|trouble| trouble.away)
    }

    /// Returns whether something is wrong with any of the archives, or there is none: nobody knows where the WAL
    /// ends.
    pub(super) fn any_in_trouble(&self) -> bool {
        self.each.is_empty() || !self.troubles.borrow().is_empty()
    }

    /// Returns whether an archive has the file, and could not give it.
    pub(super) fn any_has_it(&self) -> bool {
        self.troubles.borrow().values().any(|trouble| !trouble.away)
    }

    /// Returns what was wrong, in the order of the archives. Nothing is noted any more.
    pub(super) fn take_troubles(&self) -> Vec<Trouble> {
        self.troubles.take().into_values().collect()
    }

    /// Says that no archive has the file, in the words of a sentence whose subject is its name.
    pub(super) fn nowhere(&self) -> &'static str {
        match (self.is_one(), self.any_in_trouble()) {
            (true, _) => "is not in the archive",
            (false, false) => "is in none of the archives",
            (false, true) => "is in none of the other archives",
        }
    }

    /// Returns an archive that was begun behind this segment on its timeline: the server had written the segment
    /// by then.
    pub(super) fn begun_behind(&self, segment: SegmentName) -> Option<Begun> {
        let is_behind = |first: SegmentName| first.timeline == segment.timeline && first > segment;
        self.opened().find_map(|archive| archive.begun(is_behind))
    }

    /// Returns with what each archive was begun, if every one of them was begun behind this segment, be it on a
    /// later timeline.
    pub(super) fn all_begun_behind(&self, segment: SegmentName) -> Option<Vec<Begun>> {
        let address = |name: SegmentName| (name.log, name.segment);
        let is_behind = |first: SegmentName| {
            first.timeline >= segment.timeline && address(first) > address(segment)
        };
        let all: Option<Vec<_>> = self.opened().map(|archive| archive.begun(is_behind)).collect();
        all.filter(|all| !all.is_empty())
    }
}

impl<'r> Archive<'r> {
    fn open(
        request: &'r Request<'r>,
        place: usize,
        origin: &'r Origin,
    ) -> Result<Self, RestoreError> {
        let visit = origin.store.visit(request.steps)?;
        let identity = read_again(origin.is_remote(), || Identity::at(&*visit))?;
        let path = visit.location();
        // If the control file cannot be read, only the identity file counts.
        let control = ControlFile::read(request.data_directory).ok();
        let ours = control.map(|control| control.system_identifier);
        let theirs = identity.as_ref().map(|identity| identity.system_identifier);
        match (ours, theirs) {
            (_, None) if !request.allow_unmarked => {
                return Err(RestoreError::Unmarked { path: path.to_owned() });
            }
            (Some(ours), Some(theirs)) if ours != theirs => {
                let path = path.join(identity::FILE_NAME);
                return Err(Error::OtherCluster { path, ours, theirs }.into());
            }
            _ => {}
        }
        let expected = Expectation {
            system_identifier: theirs.or(ours),
            segment_size: control.and_then(|control| control.segment_size),
            ..Expectation::default()
        };
        refuse_archive(request.target, visit.keep().id()?)?;
        Ok(Self { place, origin, visit, identity, expected })
    }

    pub(super) fn place(&self) -> usize {
        self.place
    }

    pub(super) fn visit(&self) -> &dyn Visit {
        &*self.visit
    }

    /// Returns its location, as it was given.
    pub(super) fn location(&self) -> &'r Path {
        self.origin.location()
    }

    /// As [`Origin::is_remote`].
    pub(super) fn is_remote(&self) -> bool {
        self.origin.is_remote()
    }

    pub(super) fn path(&self) -> &Path {
        self.visit.known_as()
    }

    /// Returns whether the archive has an identity file.
    pub(super) fn is_marked(&self) -> bool {
        self.identity.is_some()
    }

    /// Returns when the archive was begun, as its identity says.
    pub(super) fn created(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| &*identity.created)
    }

    /// Returns with what the archive was begun, if that is so.
    fn begun(&self, is_so: impl Fn(SegmentName) -> bool) -> Option<Begun> {
        let first = self.identity.as_ref()?.begins_with.as_ref()?;
        first.segment().filter(|segment| is_so(*segment))?;
        Some(Begun { archive: self.path().to_owned(), first: first.clone() })
    }
}

/// How often a small file is read that breaks off on its way.
const READS: u32 = 3;

/// Reads a small file, again if it breaks off on its way: a recovery would stop at that.
fn read_again<T>(is_remote: bool, read: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let mut reads = 1;
    loop {
        match read() {
            Err(Error::Io { .. }) if is_remote && reads < READS => reads += 1,
            result => return result,
        }
    }
}

/// Makes sure that the target does not lie in an archive, where a file would be replaced and other
/// processes' temporary files removed.
fn refuse_archive(target: &Path, archive: PlaceId) -> Result<(), RestoreError> {
    let path = delivery::parent(target);
    let fail = |source| RestoreError::Deliver { path: path.to_owned(), space: None, source };
    let dir = Dir::open(path).map_err(fail)?;
    let there = dir.metadata().map_err(fail)?;
    if PlaceId(there.dev(), there.ino()) == archive
        || dir.entry(identity::FILE_NAME).map_err(fail)?.is_some()
    {
        return Err(RestoreError::IntoArchive { path: path.to_owned() });
    }
    Ok(())
}
