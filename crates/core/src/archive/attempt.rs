//! The first half of an attempt: a file is checked and made ready, whole and flushed, out of sight.
//!
//! The second half, in [`publish`](super::publish), gives it its name. Between the two a file may wait for
//! its turn: files are made ready in parallel, and published in the server's order.

use super::copy::{Copied, Reader};
use super::notice::Notice;
use super::parent::{self, Kept};
use super::plan::{Job, Outcome, Plan, Receipt};
use super::present::{Present, Sight};
use super::publish::{Copy, Prepared, Publishing};
use super::seam::Seam;
use super::tail::{self, Tail};
use crate::error::Error;
use crate::server::settings::{CheckWal, FsyncPolicy};
use crate::server::source::Source;
use crate::store::{Progress, Seal, Sealed, Store, Visit, unchecked};
use crate::sys::buffer::Buffer;
use crate::sys::slice::part;
use crate::wal::segment::{self, HEADER_LEN};

/// Archives one file. `store` is what [`Plan::store`] returns, and `seam` knows the segment that was
/// archived last. The file is copied through `buffer`, preferably a [`Buffer::large`]. All three can be used
/// for many files. Before a history file, what the archive lacks of the timeline before is archived, as far
/// as `pg_wal` has it.
///
/// On return, under [`FsyncPolicy::Full`], the file's bytes and its name survive a power cut, and
/// nothing that stood under a final name was changed. If the machine dies half-way, the archive holds
/// the whole file under its name or nothing under it.
///
/// # Errors The file is not in the archive, or not durably, or the archive holds other contents under its
/// name. Nothing under a final name was changed; a temporary file was removed where that was possible.
pub fn archive_file(
    plan: &Plan,
    store: &dyn Store,
    seam: &Seam,
    job: &Job,
    buffer: &mut Buffer,
    progress: &Progress,
) -> Result<Receipt, Error> {
    let known = (seam, &Kept::default());
    let notices = bring_parent(plan, store, known, job, buffer, progress, &|| true);
    let mut receipt = archive_alone(plan, store, seam, job, buffer, progress)?;
    receipt.notices.splice(0..0, notices);
    Ok(receipt)
}

/// Archives what must be in the archive before a history file gets its name: see [`parent::bring`]. Each file
/// is begun only while `may` says so.
pub(super) fn bring_parent(
    plan: &Plan,
    store: &dyn Store,
    (seam, kept): (&Seam, &Kept),
    job: &Job,
    buffer: &mut Buffer,
    progress: &Progress,
    may: &dyn Fn() -> bool,
) -> Vec<Notice> {
    let mut archive = |job: &Job| match may() {
        true => archive_alone(plan, store, seam, job, buffer, progress),
        false => Err(Error::Replaced { path: plan.destination.path().to_owned() }),
    };
    parent::bring(plan, store, kept, job, progress, &mut archive)
}

/// Archives one file, and nothing beside it: for `walsafe push`, which brings the rest itself.
///
/// # Errors As [`archive_file`].
pub(super) fn archive_alone(
    plan: &Plan,
    store: &dyn Store,
    seam: &Seam,
    job: &Job,
    buffer: &mut Buffer,
    progress: &Progress,
) -> Result<Receipt, Error> {
    let prepared = prepare(plan, store, job, buffer, progress)?;
    let publishing = Publishing::begin(plan, seam, &prepared, progress);
    let named = publishing.publish(prepared)?;
    publishing.settle_one(named)
}

/// Makes one file ready to be published.
///
/// On return, the archive holds the same contents already, or a copy of the file is whole, out of sight, and
/// flushed where the policy asks for that. Neither counts as archived. If the machine dies here, nothing
/// stands under the final name that did not before.
///
/// # Errors
/// The file cannot be read or is not what its name says; the archive cannot be reached, is not this
/// cluster's, or holds other contents under the name; the copy could not be made. It is discarded then.
pub(super) fn prepare(
    plan: &Plan,
    store: &dyn Store,
    job: &Job,
    buffer: &mut Buffer,
    progress: &Progress,
) -> Result<Prepared, Error> {
    let source = open_checked(plan, job)?;
    let (visit, identity) = plan.enter(store, progress)?;
    let visit = &*visit;
    let prepared = match (Attempt { plan, job, source, visit, progress }).run(buffer) {
        Err(conflict @ Error::Conflict { .. }) => {
            let source = open_checked(plan, job)?;
            let Tail { job, notice } =
                tail::of_conflict(conflict, plan, job, &source, visit, progress)?;
            let mut prepared = Attempt { plan, job: &job, source, visit, progress }.run(buffer)?;
            prepared.receipt.notices.push(notice);
            Ok(prepared)
        }
        result => result,
    };
    let mut prepared = prepared?;
    prepared.receipt.begins_with = identity.begins_with;
    Ok(prepared)
}

fn open_checked(plan: &Plan, job: &Job) -> Result<Source, Error> {
    let source = Source::open(&job.source)?;
    check_segment(plan, job, &source)?;
    source.spare_page_cache();
    Ok(source)
}

/// Refuses a segment that is not what its name says, or another cluster's (guarantee G6).
fn check_segment(plan: &Plan, job: &Job, source: &Source) -> Result<(), Error> {
    let Some(name) = job.name.segment().filter(|_| plan.check_wal != CheckWal::Off) else {
        return Ok(());
    };
    let mut header = [0; HEADER_LEN];
    let len = source.read_at(&mut header, 0)?;
    segment::check(name, source.len(), part(&header, ..len), &plan.cluster)
        .map_err(|e| Error::Segment { path: source.path().to_owned(), source: e })
}

/// A file that was checked, on its way into an archive that is this cluster's.
struct Attempt<'a> {
    plan: &'a Plan,
    job: &'a Job,
    source: Source,
    visit: &'a dyn Visit,
    progress: &'a Progress,
}

impl Attempt<'_> {
    /// What can be found out by the server's file alone, or by what the archive holds whatever the order, is
    /// checked here, before a byte is copied. What depends on the files before this one is checked in
    /// [`Publishing::publish`].
    fn run(self, buffer: &mut Buffer) -> Result<Prepared, Error> {
        if let Some(present) = self.sight().find()? {
            return self.accept(present, buffer);
        }
        let mut draft = self.visit.stage(self.plan.stored_name(&self.job.name).into())?;
        let Copied { digests, records } = self.reader().copy(&mut *draft, buffer)?;
        let sealed = draft.seal(&Seal {
            digests: Some(digests),
            checked: self.job.name.segment().map(|_| self.plan.check_wal),
            mode: self.plan.file_mode.bits(),
            flush: self.plan.fsync_policy != FsyncPolicy::None,
            verify: self.plan.verify,
        })?;
        self.note_unchecked(&*sealed)?;
        let receipt = Receipt {
            outcome: Outcome::Archived,
            wal_bytes: self.source.len(),
            stored_bytes: sealed.stored_bytes(),
            content: digests.content,
            space: None,
            records,
            begins_with: None,
            notices: Vec::new(),
        };
        self.prepared(Copy::Sealed(sealed), receipt)
    }

    /// Makes sure that the archive says of a segment nobody looked into that it was let in so, before it has
    /// its name: a restore would otherwise take it for damaged.
    fn note_unchecked(&self, sealed: &dyn Sealed) -> Result<(), Error> {
        let unchecked = self.plan.check_wal == CheckWal::Off && self.job.name.segment().is_some();
        if !unchecked || sealed.carries_attributes() {
            return Ok(());
        }
        unchecked::mark(self.visit, self.plan.file_mode.bits())
    }

    /// Accepts what the archive holds.
    fn accept(self, present: Present, buffer: &mut Buffer) -> Result<Prepared, Error> {
        let records = match self.plan.check_wal {
            CheckWal::Records => {
                let chunk = buffer.pieces().next().unwrap_or_default();
                self.reader().read(chunk, |_| Ok(()))?.records
            }
            CheckWal::Off | CheckWal::Header => None,
        };
        let receipt = Receipt {
            outcome: Outcome::AlreadyPresent,
            wal_bytes: self.source.len(),
            stored_bytes: present.stored_bytes,
            content: present.content,
            space: None,
            records,
            begins_with: None,
            notices: Vec::new(),
        };
        self.prepared(Copy::Present(present.name), receipt)
    }

    fn prepared(self, copy: Copy, receipt: Receipt) -> Result<Prepared, Error> {
        let place = self.visit.keep();
        let id = place.id()?;
        let name = self.job.name.clone();
        Ok(Prepared { name, source: self.source, copy, place, id, receipt })
    }

    fn sight(&self) -> Sight<'_> {
        let Self { plan, job, visit, progress, .. } = *self;
        Sight { plan, name: &job.name, source: &self.source, visit, progress }
    }

    fn reader(&self) -> Reader<'_> {
        let Self { plan, job, progress, .. } = *self;
        Reader { plan, job, source: &self.source, progress }
    }
}
