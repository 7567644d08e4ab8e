//! Digests of an archive's files as they are stored, for `b3sum --check`.

use std::io;

use crate::encoding::codec::Codec;
use crate::encoding::digest::{Digest, Hasher, STORED_ATTRIBUTE};
use crate::error::{Action, Error};
use crate::store::directory::reading::{Archived, PastCache, read_full};
use crate::store::listing::Listed;
use crate::sys::buffer::CHUNK;
use crate::sys::{self, Dir};

/// Where a digest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file's attribute: what was archived.
    Attribute,
    /// The file's bytes as they are now.
    Read,
}

/// Returns the digest of a file's stored bytes: the one it carries, or, if it carries none or `read`
/// asks for that, the one that its bytes give. `None` when nothing has the name.
///
/// # Errors
/// The file could not be read, or is not a regular file.
pub fn stored_digest(
    dir: &Dir,
    file: &Listed,
    read: bool,
) -> Result<Option<(Digest, Origin)>, Error> {
    stored_digest_of(dir, &file.stored_name, read)
}

/// The same for any name of the archive, such as the identity file's.
///
/// # Errors
/// As [`stored_digest`].
pub fn stored_digest_of(
    dir: &Dir,
    stored_name: &str,
    read: bool,
) -> Result<Option<(Digest, Origin)>, Error> {
    let path = dir.path().join(stored_name);
    let fail = |e| Error::io(Action::ReadArchived, &path, e);
    let Some(archived) = Archived::open(dir, stored_name.to_owned(), Codec::None)? else {
        return Ok(None);
    };
    if !read {
        let carried = sys::attribute(&archived.file, STORED_ATTRIBUTE).map_err(fail)?;
        if let Some(digest) = carried.and_then(|text| text.parse().ok()) {
            return Ok(Some((digest, Origin::Attribute)));
        }
    }
    let (mut stream, mut hasher) = (PastCache::new(archived.file), Hasher::default());
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = read_full(&mut stream, &mut buffer).map_err(fail)?;
        let read = buffer.get(..got).ok_or_else(|| fail(io::ErrorKind::InvalidData.into()))?;
        hasher.update(read);
        if got < buffer.len() {
            return Ok(Some((hasher.digest(), Origin::Read)));
        }
    }
}
