//! What lies in an archive, by the names.

use crate::encoding::digest::{CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use crate::error::Error;
use crate::store::directory::temporary::Owner;
use crate::store::{StoredName, Visit, identity, unchecked};
use crate::sys::read_full;
use crate::wal::name::{FileKind, FileName};
use crate::wal::segment::HEADER_LEN;
use crate::wal::{LongPageHeader, SegmentSize};

/// The names in an archive, sorted by what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Segments, partial segments, history and backup history files, by name.
    pub files: Vec<StoredName>,
    /// Temporary files and who made them; `None` for those of `basic_archive`.
    pub temporaries: Vec<(String, Option<Owner>)>,
    /// Names that no file of an archive has, as far as this version knows.
    pub unknown: Vec<String>,
    /// An identity file is there.
    pub marked: bool,
}

impl Listing {
    /// Reads the names in an archive. `lost+found` counts as nothing.
    ///
    /// # Errors
    /// The directory could not be read to its end.
    pub fn read(visit: &dyn Visit) -> Result<Self, Error> {
        let mut listing = Self::default();
        visit.list(&mut |stored| listing.add(stored))?;
        listing.files.sort();
        listing.temporaries.sort_by(|(a, _), (b, _)| a.cmp(b));
        listing.unknown.sort();
        Ok(listing)
    }

    fn add(&mut self, stored: &str) {
        if stored == identity::FILE_NAME {
            self.marked = true;
        } else if let Some(owner) = Owner::of(stored) {
            self.temporaries.push((stored.to_owned(), Some(owner)));
        } else if is_basic_archive_temporary(stored) {
            self.temporaries.push((stored.to_owned(), None));
        } else if stored != "lost+found" && stored != unchecked::FILE_NAME {
            match StoredName::parse(stored) {
                Ok(file) if file.name.kind() != FileKind::Other => self.files.push(file),
                _ => self.unknown.push(stored.to_owned()),
            }
        }
    }

    /// Moves files that were archived out of the unknown names: they carry a digest, and have a name that a
    /// later server version may have invented.
    pub fn claim_archived(&mut self, visit: &dyn Visit) {
        for stored in std::mem::take(&mut self.unknown) {
            match StoredName::parse(&stored) {
                Ok(file) if was_archived(visit, &file) => self.files.push(file),
                _ => self.unknown.push(stored),
            }
        }
        self.files.sort();
    }
}

/// Returns whether a file carries a digest. In doubt, it does: reading it will say what is wrong.
fn was_archived(visit: &dyn Visit, file: &StoredName) -> bool {
    match visit.find(&file.into()) {
        Ok(None) | Err(Error::NotAFile { .. }) => false,
        Ok(Some(found)) => [STORED_ATTRIBUTE, CONTENT_ATTRIBUTE]
            .into_iter()
            .any(|attribute| !matches!(found.attribute(attribute), Ok(None))),
        Err(_) => true,
    }
}

/// Reads the segment size from the header of a segment of the archive; `None` if no header of the
/// few that are looked at can be read.
#[must_use]
pub fn segment_size(visit: &dyn Visit, files: &[StoredName]) -> Option<SegmentSize> {
    const LOOKED_AT: usize = 64;
    let segments = files.iter().filter(|file| file.name.segment().is_some());
    segments.rev().take(LOOKED_AT).find_map(|file| {
        let found = visit.find(&file.into()).ok()??;
        let mut header = [0; HEADER_LEN];
        let got = read_full(&mut found.decode().ok()?, &mut header).ok()?;
        let header = LongPageHeader::parse(header.get(..got)?).ok()?;
        SegmentSize::new(header.segment_size.into()).ok()
    })
}

/// `archtemp.<name>.<pid>.<epoch>`, see `basic_archive_file_internal` in contrib/basic_archive.
fn is_basic_archive_temporary(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let known = |text: &str| FileName::new(text).is_ok_and(|name| name.kind() != FileKind::Other);
    name.strip_prefix("archtemp.")
        .and_then(|rest| rest.rsplit_once('.'))
        .and_then(|(rest, epoch)| rest.rsplit_once('.').filter(|_| digits(epoch)))
        .is_some_and(|(file, pid)| known(file) && digits(pid))
}
