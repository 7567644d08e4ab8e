//! The marker `walsafe_archive.unchecked`: WAL that nobody looked into may lie here.
//!
//! Under `check_wal = off`, WAL is let in that is not in the server's own format, such as that of a server
//! that encrypts it. Each file carries how it was checked; the marker is for places where files carry
//! nothing. It is made once and never removed.

use super::{FinalName, Publication, Seal, Visit};
use crate::error::{Action, Error};
use crate::sys::buffer::Buffer;

/// Name of the marker in an archive.
pub const FILE_NAME: &str = "walsafe_archive.unchecked";

const TEXT: &str =
    "# WAL was archived here with walsafe_archive.check_wal = off. Do not remove this file.\n";

/// Returns whether the place that is visited is marked.
///
/// # Errors
/// The marker could not be looked up, or is not a regular file.
pub fn is_marked(visit: &dyn Visit) -> Result<bool, Error> {
    Ok(visit.find(&FinalName::Unchecked)?.is_some())
}

/// Marks the place, unless it is marked already.
///
/// On return, a marker that was made here survives a power cut; the name of one that was there does so after
/// the next [`Visit::settle`].
///
/// # Errors
/// The marker could not be written, flushed or published.
pub fn mark(visit: &dyn Visit, mode: u32) -> Result<(), Error> {
    if let Some(found) = visit.find(&FinalName::Unchecked)? {
        return found.flush();
    }
    let path = || visit.location().join(FILE_NAME);
    let mut buffer = Buffer::new().map_err(|e| Error::io(Action::ReserveMemory, path(), e))?;
    let mut draft = visit.stage(FinalName::Unchecked)?;
    draft.put(buffer.fill(TEXT.as_bytes()))?;
    let seal = Seal { digests: None, checked: None, mode, flush: true, verify: false };
    match draft.seal(&seal)?.publish(visit.progress())? {
        Publication::Published | Publication::NameTaken => visit.settle(),
    }
}
