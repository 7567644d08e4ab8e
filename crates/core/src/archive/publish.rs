//! The second half of an attempt: files that are ready get their names, and the names become durable.
//!
//! The types keep the order of the steps. A [`Prepared`] file has no name, a [`Named`] one is not durable,
//! and only a flush of the directory turns names into receipts: all of a batch, or none.

use std::time::Duration;

use super::plan::{Job, Outcome, Plan, Receipt};
use super::present::Sight;
use super::seam::{Newcomer, Seam};
use super::without;
use crate::error::Error;
use crate::server::settings::FsyncPolicy;
use crate::server::source::Source;
use crate::store::{Place, PlaceId, Progress, Publication, Sealed, StoredName, Visit};
use crate::sys::Space;
use crate::wal::name::FileName;

/// A file that is ready to be published. It keeps the server's file and the archive open; dropped, it
/// discards the copy.
pub(super) struct Prepared {
    pub(super) name: FileName,
    pub(super) source: Source,
    /// Before `place`: a copy goes before the directory that it lies in is closed.
    pub(super) copy: Copy,
    pub(super) place: Box<dyn Place>,
    pub(super) id: PlaceId,
    /// What there will be to tell, once the file counts.
    pub(super) receipt: Receipt,
}

impl Prepared {
    /// Returns the file that it was made from.
    pub(super) fn job(&self) -> Job {
        Job { name: self.name.clone(), source: self.source.path().to_owned() }
    }

    /// See [`Sealed::let_go`].
    pub(super) fn let_go(&mut self) -> Option<Duration> {
        match &mut self.copy {
            Copy::Sealed(sealed) => sealed.let_go(),
            Copy::Present(_) => None,
        }
    }
}

/// What the archive has of a file that is ready.
pub(super) enum Copy {
    /// A copy out of sight.
    Sealed(Box<dyn Sealed>),
    /// The same contents, under this name.
    Present(StoredName),
}

/// A file that has its name, which is not durable yet: nothing counts before [`Publishing::settle`].
pub(super) struct Named(Receipt);

/// One or more files on their way to their names, in the server's order, all in one place.
pub(super) struct Publishing<'a> {
    plan: &'a Plan,
    seam: &'a Seam,
    visit: Box<dyn Visit + 'a>,
    id: PlaceId,
    progress: &'a Progress,
}

impl<'a> Publishing<'a> {
    /// Begins in the place in which the first of the files was made ready, and whose identity was checked
    /// then.
    pub(super) fn begin(
        plan: &'a Plan,
        seam: &'a Seam,
        first: &Prepared,
        progress: &'a Progress,
    ) -> Self {
        Self { plan, seam, visit: first.place.resume(progress), id: first.id, progress }
    }

    /// Gives a file its name, unless the name is taken: then what has it must hold the same. Every file
    /// that the server wants archived before this one has its own name by now, so what depends on them is
    /// checked here, before the name is given.
    ///
    /// # Errors
    /// The file has no name, or the archive holds other contents under it; or the file was made ready in
    /// another place, or its source is no longer the file that was read. The copy is discarded.
    pub(super) fn publish(&self, prepared: Prepared) -> Result<Named, Error> {
        let Prepared { name, source, copy, id, mut receipt, .. } = prepared;
        if id != self.id {
            return Err(self.replaced());
        }
        // While the copy hung or waited, the settings may have changed, another archive may have taken the
        // file, and the server may have reused it.
        source.check_not_moved()?;
        let Self { plan, seam, progress, .. } = *self;
        let sight = Sight { plan, name: &name, source: &source, visit: &*self.visit, progress };
        let vanished = |stored: &StoredName| Error::Vanished {
            path: self.visit.location().join(stored.to_string()),
        };
        let sealed = match copy {
            Copy::Present(stored) => {
                let there = self.visit.glance(&(&stored).into())?.is_some();
                if !there {
                    return Err(vanished(&stored));
                }
                seam.confirm(&name);
                return Ok(Named(receipt));
            }
            Copy::Sealed(sealed) => sealed,
        };
        let job = Job { name: name.clone(), source: source.path().to_owned() };
        let visit = &*self.visit;
        let newcomer = Newcomer { plan, job: &job, source: &source, visit, progress };
        receipt.notices.extend(seam.check(newcomer)?);
        let stored = plan.stored_name(&name);
        match sealed.publish(progress)? {
            Publication::Published => {
                progress.tick();
                // Another server may have published the same name in another encoding meanwhile.
                sight.find_in(|codec| codec != stored.codec)?;
            }
            Publication::NameTaken => {
                // Another server published this name while we copied. What counts is whether it holds
                // the same.
                let present = sight.find()?.ok_or_else(|| vanished(&stored))?;
                receipt.outcome = Outcome::AlreadyPresent;
                receipt.stored_bytes = present.stored_bytes;
            }
        }
        seam.confirm(&name);
        Ok(Named(receipt))
    }

    /// Makes the names durable, where the policy asks for that: all of them by one flush of the directory.
    /// Only on return they count.
    ///
    /// # Errors
    /// The flush failed, or the path no longer leads to the directory that was flushed. None of the files
    /// counts then, whatever a second flush says: each has to be looked up and read back on a new visit
    /// (guarantee G8).
    pub(super) fn settle(self, named: Vec<Named>) -> Result<Vec<Receipt>, Error> {
        let space = self.settled()?;
        let said = |Named(receipt)| Receipt { space, ..receipt };
        let mut receipts: Vec<_> = named.into_iter().map(said).collect();
        if let Some(first) = receipts.first_mut() {
            self.tell_limits(first);
        }
        Ok(receipts)
    }

    /// Makes the name of a single file durable; otherwise as [`Publishing::settle`].
    ///
    /// # Errors
    /// As [`Publishing::settle`].
    pub(super) fn settle_one(self, Named(receipt): Named) -> Result<Receipt, Error> {
        let space = self.settled()?;
        let mut receipt = Receipt { space, ..receipt };
        self.tell_limits(&mut receipt);
        Ok(receipt)
    }

    /// Adds what files have had to do without. Whoever reports it does that once.
    fn tell_limits(&self, receipt: &mut Receipt) {
        let limits = self.visit.limits();
        let notice = |limit| without::notice(self.visit.location(), limit);
        receipt.notices.extend(limits.into_iter().map(notice));
    }

    fn settled(&self) -> Result<Option<Space>, Error> {
        if self.plan.fsync_policy == FsyncPolicy::Full {
            self.visit.settle()?;
        }
        if !self.visit.is_still_there()? {
            return Err(self.replaced());
        }
        Ok(self.visit.space())
    }

    fn replaced(&self) -> Error {
        Error::Replaced { path: self.visit.location().to_owned() }
    }
}
