//! Digests of an archive's files as they are stored, for `b3sum --check`.

use crate::encoding::digest::{Digest, Hasher, STORED_ATTRIBUTE};
use crate::error::{Action, Error};
use crate::store::{FinalName, Visit};
use crate::sys::buffer::CHUNK;
use crate::sys::read_full;
use crate::sys::slice::part;

/// Where a digest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file's attribute: what was archived.
    Attribute,
    /// The file's bytes as they are now.
    Read,
}

/// Returns the digest of a file's stored bytes: the one it carries, or the one that its bytes give, if it
/// carries none or `read` is set. `None` when nothing has the name.
///
/// # Errors
/// The file could not be read, or is not a regular file.
pub fn stored_digest(
    visit: &dyn Visit,
    name: &FinalName,
    read: bool,
) -> Result<Option<(Digest, Origin)>, Error> {
    let found = if read { visit.find(name)? } else { visit.glance(name)? };
    let Some(found) = found else { return Ok(None) };
    let fail = |e| Error::io(Action::ReadArchived, found.path(), e);
    if !read {
        let carried = found.attribute(STORED_ATTRIBUTE).map_err(fail)?;
        if let Some(digest) = carried.and_then(|text| text.parse().ok()) {
            return Ok(Some((digest, Origin::Attribute)));
        }
    }
    let (mut stream, mut hasher) = (found.read(true).map_err(fail)?, Hasher::default());
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = read_full(&mut stream, &mut buffer).map_err(fail)?;
        hasher.update(part(&buffer, ..got));
        if got < buffer.len() {
            return Ok(Some((hasher.digest(), Origin::Read)));
        }
    }
}
