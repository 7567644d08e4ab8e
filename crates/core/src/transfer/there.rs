//! Which names the destination has, without a look at each where a look costs a round trip.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::store::listing;
use crate::store::{StoredName, Visit};
use crate::sys;
use crate::wal::name::FileName;

/// How many names are kept at a time: about a page of a listing.
const MOST: usize = 900;

/// How long what was listed counts: other servers write there too.
const COUNTS: Duration = Duration::from_secs(5);

/// The names at a destination. Those of object storage come in their order, a piece of the listing at a time; a
/// directory is asked for each.
pub(super) struct There<'v> {
    visit: &'v dyn Visit,
    /// Names have no order here.
    unordered: AtomicBool,
    piece: Mutex<Option<Piece>>,
}

/// All the names from one to another.
struct Piece {
    from: String,
    /// `None` if there are none behind those that are kept.
    to: Option<String>,
    names: BTreeSet<String>,
    listed: Instant,
}

impl Piece {
    /// Returns whether it tells under which names a file is there: all of them begin with the file's own.
    fn covers(&self, file: &FileName) -> bool {
        let (first, last) = (file.as_str(), format!("{file}.~"));
        *self.from <= *first && self.to.as_ref().is_none_or(|to| last <= *to)
    }
}

impl<'v> There<'v> {
    pub(super) fn new(visit: &'v dyn Visit) -> Self {
        Self { visit, unordered: AtomicBool::new(false), piece: Mutex::default() }
    }

    /// Returns the names under which the destination has a file, as seen a few seconds ago at most. In doubt, it has
    /// one.
    ///
    /// # Errors
    /// The names could not be listed, or there is no memory for them.
    pub(super) fn names(&self, file: &FileName) -> Result<Vec<StoredName>, Error> {
        self.look(file, None)
    }

    /// Returns the names under which the destination has a file, as seen after a moment.
    ///
    /// # Errors
    /// As [`There::names`].
    pub(super) fn names_since(
        &self,
        file: &FileName,
        since: Instant,
    ) -> Result<Vec<StoredName>, Error> {
        self.look(file, Some(since))
    }

    fn look(&self, file: &FileName, since: Option<Instant>) -> Result<Vec<StoredName>, Error> {
        let mut all = names(file);
        if !self.unordered.load(Ordering::Relaxed) {
            let mut piece = self.piece.lock().unwrap_or_else(PoisonError::into_inner);
            let counts = |piece: &Piece| match since {
                Some(since) => piece.listed >= since,
                None => piece.listed.elapsed() < COUNTS,
            };
            if !piece.as_ref().is_some_and(|piece| piece.covers(file) && counts(piece)) {
                *piece = self.list(file.as_str())?;
            }
            if let Some(piece) = &*piece {
                all.retain(|name| piece.names.contains(&name.to_string()));
                return Ok(all);
            }
            self.unordered.store(true, Ordering::Relaxed);
        }
        all.retain(|name| self.visit.holds(&name.into()));
        Ok(all)
    }

    /// Lists the names from one on; `None` where they have no order.
    fn list(&self, from: &str) -> Result<Option<Piece>, Error> {
        sys::headroom().map_err(|_| listing::no_memory(self.visit))?;
        let (mut names, mut to, listed) = (BTreeSet::new(), None, Instant::now());
        let ordered = self.visit.list_from(from, &mut |name| {
            names.insert(name.to_owned());
            if names.len() == MOST {
                to = Some(name.to_owned());
            }
            names.len() < MOST
        })?;
        Ok(ordered.then(|| Piece { from: from.to_owned(), to, names, listed }))
    }
}

/// Every name under which the destination may hold a file.
fn names(file: &FileName) -> Vec<StoredName> {
    let mut all = StoredName::all(file);
    // What is being received is another file than a partial segment of that name.
    all.retain(|name| name.name == *file);
    all
}
