//! One attempt to archive one file, from its first look to the last flush.

use super::compare::{Comparison, Context, compare};
use super::copy::{Copied, Reader};
use super::parent;
use super::plan::{Job, Outcome, Plan, Receipt};
use super::seam::{Newcomer, Seam};
use super::tail::{self, Tail};
use crate::encoding::codec::Codec;
use crate::encoding::digest::Digest;
use crate::error::Error;
use crate::server::settings::{CheckWal, FsyncPolicy};
use crate::server::source::Source;
use crate::store::{Progress, Publication, Seal, Sealed, Store, StoredName, Visit, unchecked};
use crate::sys::buffer::Buffer;
use crate::sys::slice::part;
use crate::wal::SegmentReport;
use crate::wal::segment::{self, HEADER_LEN};

/// Archives one file. `store` is what [`Plan::store`] returns. The file is copied through `buffer`,
/// preferably a [`Buffer::large`]. `seam` knows the segment that was archived last. All three can be used
/// for many files. Before a history file, what the archive lacks of the timeline before is archived, as far
/// as `pg_wal` has it ([`parent::bring`]).
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
    let mut before = |job: &Job| archive_alone(plan, store, seam, job, buffer, progress);
    let notices = parent::bring(plan, store, job, progress, &mut before);
    let mut receipt = archive_alone(plan, store, seam, job, buffer, progress)?;
    receipt.notices.splice(0..0, notices);
    Ok(receipt)
}

/// The same, and nothing beside it: for `walsafe push`, which brings the rest itself.
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
    let source = Source::open(&job.source)?;
    check_segment(plan, job, &source)?;
    source.spare_page_cache();
    let visit = plan.visit(store, progress)?;
    let attempt = Attempt { plan, seam, job, source: &source, visit: &*visit, progress };
    match attempt.run(buffer) {
        Err(conflict @ Error::Conflict { .. }) => {
            let Tail { job, notice } =
                tail::of_conflict(conflict, plan, job, &source, &*visit, progress)?;
            let mut receipt = Attempt { job: &job, ..attempt }.run(buffer)?;
            receipt.notices.push(notice);
            Ok(receipt)
        }
        result => result,
    }
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
    seam: &'a Seam,
    job: &'a Job,
    source: &'a Source,
    visit: &'a dyn Visit,
    progress: &'a Progress,
}

/// What the archive holds of a file.
struct Present {
    content: Digest,
    stored_bytes: u64,
}

impl Attempt<'_> {
    fn run(&self, buffer: &mut Buffer) -> Result<Receipt, Error> {
        if let Some(present) = self.find_present()? {
            return self.accept(&present, buffer);
        }
        let name = self.plan.stored_name(&self.job.name);
        let mut draft = self.visit.stage(name.clone().into())?;
        let Copied { digests, records } = self.reader().copy(&mut *draft, buffer)?;
        let sealed = draft.seal(&Seal {
            digests: Some(digests),
            checked: self.job.name.segment().map(|_| self.plan.check_wal),
            mode: self.plan.file_mode.bits(),
            flush: self.plan.fsync_policy != FsyncPolicy::None,
            verify: self.plan.verify,
        })?;
        let stored_bytes = sealed.stored_bytes();
        // While the copy hung, the settings may have changed, another archive may have taken the file, and
        // the server may have reused it.
        self.source.check_not_moved()?;
        let notice = self.seam.check(self.newcomer())?;
        self.note_unchecked(&*sealed)?;
        match sealed.publish()? {
            Publication::Published => {}
            Publication::NameTaken => {
                // Another server published this name while we copied. What counts is whether it
                // holds the same.
                let present = self.find_present()?;
                let path = || self.visit.location().join(name.to_string());
                let present = present.ok_or_else(|| Error::Vanished { path: path() })?;
                return self.accept(&present, buffer);
            }
        }
        self.progress.tick();
        self.settle()?;
        // Another server may have published the same name in another encoding meanwhile.
        for codec in Codec::ALL.into_iter().filter(|codec| *codec != name.codec) {
            self.compare_with(codec)?;
        }
        let receipt = self.receipt(Outcome::Archived, digests.content, stored_bytes, records);
        Ok(Receipt { notices: notice.into_iter().collect(), ..receipt })
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

    /// Looks for the file in the archive, in any encoding.
    fn find_present(&self) -> Result<Option<Present>, Error> {
        let mut present = None;
        for codec in Codec::ALL {
            present = self.compare_with(codec)?.or(present);
        }
        Ok(present)
    }

    /// Compares the file with the one that the archive holds in one encoding, if any: flushed first,
    /// then read from storage past the page cache. A flush that succeeds after an earlier one failed
    /// proves nothing, for the kernel may have dropped the dirty pages; what is read back does.
    fn compare_with(&self, codec: Codec) -> Result<Option<Present>, Error> {
        let stored = StoredName::new(self.job.name.clone(), codec);
        let Some(found) = self.visit.find(&stored.into())? else { return Ok(None) };
        if self.plan.fsync_policy != FsyncPolicy::None {
            found.flush()?;
            self.progress.tick();
        }
        let context = Context {
            name: &self.job.name,
            segment_size: self.plan.cluster.segment_size,
            archive: self.visit,
            known: &self.plan.known,
        };
        match compare(self.source, &*found, context, self.progress)? {
            Comparison::Same { content } => {
                Ok(Some(Present { content, stored_bytes: found.stored_bytes() }))
            }
            Comparison::Different(difference) => {
                self.source.check_not_moved()?;
                Err(Error::Conflict { path: found.path().to_owned(), difference })
            }
        }
    }

    /// Accepts what the archive holds. Its name is flushed again, because whoever put it there may have
    /// died before its own flush.
    fn accept(&self, present: &Present, buffer: &mut Buffer) -> Result<Receipt, Error> {
        self.settle()?;
        let records = match self.plan.check_wal {
            CheckWal::Records => self.reader().read(buffer.bytes_mut(), |_| Ok(()))?.records,
            CheckWal::Off | CheckWal::Header => None,
        };
        let Present { content, stored_bytes } = *present;
        Ok(self.receipt(Outcome::AlreadyPresent, content, stored_bytes, records))
    }

    /// Makes the names durable, where the policy asks for that.
    fn settle(&self) -> Result<(), Error> {
        if self.plan.fsync_policy == FsyncPolicy::Full { self.visit.settle() } else { Ok(()) }
    }

    fn reader(&self) -> Reader<'_> {
        Reader { plan: self.plan, job: self.job, source: self.source, progress: self.progress }
    }

    fn newcomer(&self) -> Newcomer<'_> {
        let Self { plan, job, source, visit, progress, .. } = *self;
        Newcomer { plan, job, source, visit, progress }
    }

    fn receipt(
        &self,
        outcome: Outcome,
        content: Digest,
        stored_bytes: u64,
        records: Option<Box<SegmentReport>>,
    ) -> Receipt {
        let wal_bytes = self.source.len();
        self.seam.confirm(&self.job.name);
        Receipt {
            outcome,
            wal_bytes,
            stored_bytes,
            content,
            space: self.visit.space(),
            records,
            notices: Vec::new(),
        }
    }
}
