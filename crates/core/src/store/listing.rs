//! What lies in an archive, by the names, in bounded memory whatever the archive's size.
//!
//! [`Listing::read`] goes through the names once, in no order, and keeps what grows with the number of
//! timelines at most. [`Walk`] gives the files by address: it keeps a bounded number of names, and reads the
//! names again for those behind them. What is kept is reserved before it is used, so that a lack of memory
//! is an error and never the end of a server process.

use crate::encoding::digest::{CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use crate::error::{Action, Error};
use crate::store::directory::temporary::Owner;
use crate::store::{Facts, StoredName, Visit, identity, names, trials, unchecked};
use crate::sys::read_full;
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::segment::HEADER_LEN;
use crate::wal::{LongPageHeader, SegmentSize};

mod packed;
mod walk;

pub use walk::{MOST_KEPT, Walk};

/// What the names in an archive are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// How many segments, partial segments, history and backup history files there are.
    pub files: u64,
    /// How many of them are segments, whole or partial.
    pub segments: u64,
    /// The segment with the greatest name, whole or partial.
    pub newest: Option<SegmentName>,
    /// The timelines that have segments, whole or partial, in order.
    pub timelines: Vec<u32>,
    /// An identity file is there.
    pub marked: bool,
}

/// A name in an archive that is neither that of a WAL file nor the identity file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// A temporary file and who made it; `None` for those of `basic_archive`.
    Temporary(Option<Owner>),
    /// A name that no file of an archive has, as far as this version knows.
    Unknown,
}

impl Listing {
    /// Reads the names in an archive, and calls `stranger` with each that is not one of an archive.
    /// What the storage itself keeps there (`names::is_of_storage`) counts as nothing.
    ///
    /// # Errors
    /// The names could not be read to their end, or there is no memory for the numbers of the timelines.
    pub fn read(
        visit: &dyn Visit,
        stranger: &mut dyn FnMut(&str, Stranger),
    ) -> Result<Self, Error> {
        let (mut listing, mut kept) = (Self::default(), true);
        visit.list(&mut |stored| match sort(stored) {
            Sorted::File(file) => kept &= listing.count(&file),
            Sorted::Identity => listing.marked = true,
            Sorted::Stranger(what) => stranger(stored, what),
            Sorted::Nothing => {}
        })?;
        if kept { Ok(listing) } else { Err(no_memory(visit)) }
    }

    /// Reads the names as [`Listing::read`] does, and calls `file` with each file and what the listing says of it.
    /// Returns `false`, without a call, where a listing says nothing beside the names.
    ///
    /// # Errors
    /// The names could not be read to their end.
    pub fn read_facts(
        visit: &dyn Visit,
        file: &mut dyn FnMut(StoredName, Facts),
        stranger: &mut dyn FnMut(&str, Stranger),
    ) -> Result<bool, Error> {
        visit.list_facts(&mut |stored, facts| match sort(stored) {
            Sorted::File(stored) => file(stored, facts),
            Sorted::Stranger(what) => stranger(stored, what),
            Sorted::Identity | Sorted::Nothing => {}
        })
    }

    /// Counts a file. Returns `false` if there is no memory for its timeline's number.
    fn count(&mut self, file: &StoredName) -> bool {
        self.files += 1;
        let Some(segment) = file.name.segment() else { return true };
        self.segments += 1;
        self.newest = self.newest.max(Some(segment));
        match self.timelines.binary_search(&segment.timeline) {
            Ok(_) => true,
            Err(_) if self.timelines.try_reserve(1).is_err() => false,
            Err(position) => {
                self.timelines.insert(position, segment.timeline);
                true
            }
        }
    }

    /// Returns whether there is neither a file nor an identity, as under an unmounted mount point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files == 0 && !self.marked
    }
}

/// The error of a list that has no room in memory.
pub fn no_memory(visit: &dyn Visit) -> Error {
    let source = std::io::Error::from_raw_os_error(libc::ENOMEM);
    Error::io(Action::HoldNames, visit.location(), source)
}

/// What a name is.
enum Sorted {
    File(StoredName),
    Identity,
    Stranger(Stranger),
    Nothing,
}

fn sort(stored: &str) -> Sorted {
    if stored == identity::FILE_NAME {
        return Sorted::Identity;
    }
    if names::is_of_storage(stored)
        || stored == unchecked::FILE_NAME
        || trials::is_fixed_name(stored)
    {
        return Sorted::Nothing;
    }
    if let Some(owner) = Owner::of(stored) {
        return Sorted::Stranger(Stranger::Temporary(Some(owner)));
    }
    if is_basic_archive_temporary(stored) {
        return Sorted::Stranger(Stranger::Temporary(None));
    }
    match StoredName::parse(stored) {
        Ok(file) if file.name.kind() != FileKind::Other => Sorted::File(file),
        _ => Sorted::Stranger(Stranger::Unknown),
    }
}

/// Returns a file with an unknown name if it was archived all the same: it carries a digest, and has a name
/// that a later server version may have invented. In doubt, it was: reading it will say what is wrong.
#[must_use]
pub fn archived(visit: &dyn Visit, stored: &str) -> Option<StoredName> {
    let file = StoredName::parse(stored).ok()?;
    let archived = match visit.glance(&(&file).into()) {
        Ok(None) | Err(Error::NotAFile { .. }) => false,
        Ok(Some(found)) => [STORED_ATTRIBUTE, CONTENT_ATTRIBUTE]
            .into_iter()
            .any(|attribute| !matches!(found.attribute(attribute), Ok(None))),
        Err(_) => true,
    };
    archived.then_some(file)
}

/// Reads the header of an archived segment; `None` if there is none that can be read.
#[must_use]
pub fn header(visit: &dyn Visit, file: &StoredName) -> Option<LongPageHeader> {
    let found = visit.find(&file.into()).ok()??;
    let mut header = [0; HEADER_LEN];
    let got = read_full(&mut found.decode().ok()?, &mut header).ok()?;
    LongPageHeader::parse(header.get(..got)?).ok()
}

/// Returns the headers of the newest segments of an archive, the newest first, of a bounded number of them.
///
/// # Errors
/// The names could not be read to their end, or there is no memory for a few of them.
pub fn newest_headers(visit: &dyn Visit) -> Result<impl Iterator<Item = LongPageHeader>, Error> {
    const LOOKED_AT: usize = 64;
    let newest = Walk::newest(visit, LOOKED_AT)?;
    Ok(newest.into_iter().rev().filter_map(|file| header(visit, &file)))
}

/// Reads the segment size from the header of a segment of the archive; `None` if no header of the
/// few that are looked at can be read.
///
/// # Errors
/// The names could not be read to their end, or there is no memory for a few of them.
pub fn segment_size(visit: &dyn Visit) -> Result<Option<SegmentSize>, Error> {
    let size = |header: LongPageHeader| SegmentSize::new(header.segment_size.into()).ok();
    Ok(newest_headers(visit)?.find_map(size))
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
