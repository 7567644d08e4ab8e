//! What the archive holds of a file already.

use super::compare::{Comparison, Context, compare};
use super::plan::Plan;
use crate::encoding::codec::Codec;
use crate::encoding::digest::Digest;
use crate::error::Error;
use crate::server::settings::FsyncPolicy;
use crate::server::source::Source;
use crate::store::{Progress, StoredName, Visit};
use crate::wal::name::FileName;

/// A file of the server, and a visit of the archive to look for it on.
pub(super) struct Sight<'a> {
    pub(super) plan: &'a Plan,
    pub(super) name: &'a FileName,
    pub(super) source: &'a Source,
    pub(super) visit: &'a dyn Visit,
    pub(super) progress: &'a Progress,
}

/// What the archive holds of a file: the same contents, flushed. Its name may not be durable, because
/// whoever put it there may have died before the flush.
pub(super) struct Present {
    pub(super) name: StoredName,
    pub(super) content: Digest,
    pub(super) stored_bytes: u64,
}

impl Sight<'_> {
    /// Looks for the file in the archive, in any encoding.
    ///
    /// # Errors
    /// The archive holds other contents under the name, or what it holds could not be flushed or read.
    pub(super) fn find(&self) -> Result<Option<Present>, Error> {
        self.find_in(|_| true)
    }

    /// Looks for the file in the encodings that `which` picks.
    ///
    /// # Errors
    /// As [`Sight::find`].
    pub(super) fn find_in(&self, which: impl Fn(Codec) -> bool) -> Result<Option<Present>, Error> {
        let mut present = None;
        let there = self.visit.encodings(self.name)?;
        for codec in there.into_iter().filter(|codec| which(*codec)) {
            present = self.compare_with(codec)?.or(present);
        }
        Ok(present)
    }

    /// Compares the file with the one that the archive holds in one encoding, if any: flushed first,
    /// then read from storage past the page cache. A flush that succeeds after an earlier one failed
    /// proves nothing, for the kernel may have dropped the dirty pages; what is read back does.
    fn compare_with(&self, codec: Codec) -> Result<Option<Present>, Error> {
        let name = StoredName::new(self.name.clone(), codec);
        let Some(found) = self.visit.find(&(&name).into())? else { return Ok(None) };
        if self.plan.fsync_policy != FsyncPolicy::None {
            found.flush()?;
            self.progress.tick();
        }
        let context = Context {
            name: self.name,
            segment_size: self.plan.cluster.segment_size,
            archive: self.visit,
            known: &self.plan.known,
        };
        let look = || compare(self.source, &*found, context, self.progress);
        let comparison = match look()? {
            // A bit may have flipped on the way, and a conflict stops all archiving: what differs is read twice.
            Comparison::Different(_) => look()?,
            same @ Comparison::Same { .. } => same,
        };
        match comparison {
            Comparison::Same { content } => {
                Ok(Some(Present { name, content, stored_bytes: found.stored_bytes() }))
            }
            Comparison::Different(difference) => {
                self.source.check_not_moved()?;
                Err(Error::Conflict { path: found.path().to_owned(), difference })
            }
        }
    }
}
