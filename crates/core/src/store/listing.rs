//! What lies in an archive, by the names.

use crate::encoding::codec::Codec;
use crate::error::{Action, Error};
use crate::store::directory::reading::{Archived, read_full};
use crate::store::directory::temporary::Owner;
use crate::store::identity;
use crate::sys::Dir;
use crate::wal::name::{FileKind, FileName};
use crate::wal::segment::HEADER_LEN;
use crate::wal::{LongPageHeader, SegmentSize};

/// A WAL file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The WAL file's own name.
    pub name: FileName,
    /// Its encoding.
    pub codec: Codec,
    /// Its name in the archive.
    pub stored_name: String,
}

/// The names in an archive, sorted by what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Segments, partial segments, history and backup history files, by name.
    pub files: Vec<Listed>,
    /// Temporary files and who made them; `None` for those of `basic_archive`.
    pub temporaries: Vec<(String, Option<Owner>)>,
    /// Names that no file of an archive has, by what this version knows.
    pub unknown: Vec<String>,
    /// An identity file is there.
    pub marked: bool,
}

impl Listing {
    /// Reads the names in an archive. `lost+found` counts as nothing.
    ///
    /// # Errors
    /// The directory could not be read to its end.
    pub fn read(dir: &Dir) -> Result<Self, Error> {
        let mut listing = Self::default();
        dir.for_each_name(|stored| listing.add(stored))
            .map_err(|e| Error::io(Action::ListDestination, dir.path(), e))?;
        listing.files.sort_by(|a, b| (&a.name, a.codec).cmp(&(&b.name, b.codec)));
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
        } else if stored != "lost+found" {
            match FileName::from_stored(stored) {
                Ok((name, codec)) if name.kind() != FileKind::Other => {
                    self.files.push(Listed { name, codec, stored_name: stored.to_owned() });
                }
                _ => self.unknown.push(stored.to_owned()),
            }
        }
    }

    /// Takes from the unknown names those of files that were archived: they carry a digest, and
    /// have a name that a later server version may have invented.
    pub fn claim_archived(&mut self, dir: &Dir) {
        for stored_name in std::mem::take(&mut self.unknown) {
            match FileName::from_stored(&stored_name) {
                Ok((name, codec)) if was_archived(dir, &stored_name, codec) => {
                    self.files.push(Listed { name, codec, stored_name });
                }
                _ => self.unknown.push(stored_name),
            }
        }
        self.files.sort_by(|a, b| (&a.name, a.codec).cmp(&(&b.name, b.codec)));
    }
}

/// Tells whether a file carries a digest. Where that cannot be told it is taken to: reading it tells
/// why.
fn was_archived(dir: &Dir, stored_name: &str, codec: Codec) -> bool {
    match Archived::open(dir, stored_name.to_owned(), codec) {
        Ok(None) | Err(Error::NotAFile { .. }) => false,
        Ok(Some(file)) => file.carries_digest().unwrap_or(true),
        Err(_) => true,
    }
}

impl Listed {
    /// Does anything have the name still? In doubt, yes.
    #[must_use]
    pub fn is_present(&self, dir: &Dir) -> bool {
        !matches!(dir.entry(&self.stored_name), Ok(None))
    }
}

/// Reads the segment size from the header of a segment of the archive; `None` if no header of the
/// few that are looked at can be read.
#[must_use]
pub fn segment_size(dir: &Dir, files: &[Listed]) -> Option<SegmentSize> {
    const LOOKED_AT: usize = 64;
    let segments = files.iter().filter(|file| file.name.segment().is_some());
    segments.rev().take(LOOKED_AT).find_map(|file| {
        let archived = Archived::open(dir, file.stored_name.clone(), file.codec).ok()??;
        let mut header = [0; HEADER_LEN];
        let got = read_full(&mut archived.decode().ok()?, &mut header).ok()?;
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
