//! Where archived files lie: their names, whose archive it is, and what may be in it.
//!
//! The traits are the seam between the algorithm and the place. Their verbs are those of publishing,
//! because the guarantees are made of them: a file is staged out of sight, sealed, and published under its
//! final name in one step that never replaces another file. [`directory`] is the one store there is; what
//! every store promises is in the docs of the methods, and `conformance` tests it.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use crate::encoding::codec::{Codec, Decoder};
use crate::encoding::digest::Digest;
use crate::error::Error;
use crate::server::known::KnownDestinations;
use crate::server::settings::CheckWal;
use crate::server::source::Source;
use crate::sys::{Dir, Space};
use crate::wal::name::FileName;

pub mod access;
pub mod admission;
pub mod beyond;
#[cfg(test)]
mod conformance;
pub mod directory;
pub mod identity;
pub mod lag;
pub mod limit;
pub mod listing;
pub mod location;
pub mod mode;
mod names;
#[cfg(feature = "object")]
#[cfg_attr(
    not(all(feature = "s3", feature = "azure", feature = "gcs")),
    allow(dead_code, reason = "some of it is one cloud's alone")
)]
pub mod object;
mod progress;
pub mod trials;
pub mod unchecked;

pub use limit::Limit;
pub use names::{FinalName, PROBE, StoredName};
pub use progress::Progress;
pub use trials::Trials;

/// A place for archived files. Nothing of it is held open between two visits.
pub trait Store: Send + Sync {
    /// Goes there. What is done on the visit counts its steps in `progress`.
    ///
    /// # Errors
    /// The place is missing or cannot be reached.
    fn visit<'s>(&'s self, progress: &'s Progress) -> Result<Box<dyn Visit + 's>, Error>;

    /// Returns how many requests there were, where the place is spoken to by requests.
    fn requests(&self) -> Option<Requests> {
        None
    }

    /// Returns whether a file that waits for its name is held in memory until then.
    fn holds_in_memory(&self) -> bool {
        false
    }

    /// Gives back what was kept open for another request. Called when nothing was done here for a while.
    fn rest(&self) {}
}

/// How many requests there were since a store was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// All of them.
    pub sent: u64,
    /// Those that were sent once more.
    pub retries: u64,
    /// Those that the storage called too many.
    pub throttled: u64,
}

/// An open place. All that is done through one visit happens to the same place, whatever its path leads
/// to meanwhile.
pub trait Visit: Sync {
    /// The path by which users know the place.
    fn location(&self) -> &Path;

    /// What the data directory's list of known destinations calls the place: no other place has that name.
    fn known_as(&self) -> &Path {
        self.location()
    }

    /// The steps that are counted on this visit.
    fn progress(&self) -> &Progress;

    /// Keeps the place open beyond this visit.
    fn keep(&self) -> Box<dyn Place>;

    /// Returns whether the path still leads to this place. Asked after the last flush: a file that was
    /// flushed elsewhere is not where its readers look for it (guarantee G8).
    ///
    /// # Errors
    /// The path could not be looked up.
    fn is_still_there(&self) -> Result<bool, Error>;

    /// Returns what stands under a final name, `None` if nothing does.
    ///
    /// # Errors
    /// It could not be looked up or opened, or is not a regular file (a symbolic link is never followed).
    fn find(&self, name: &FinalName) -> Result<Option<Box<dyn Found + '_>>, Error>;

    /// Returns what stands under a final name, as [`Visit::find`], for one who wants to know what it is and will
    /// hardly read it: where contents come over a network, they are not fetched before they are read.
    ///
    /// # Errors
    /// As [`Visit::find`].
    fn glance(&self, name: &FinalName) -> Result<Option<Box<dyn Found + '_>>, Error> {
        self.find(name)
    }

    /// Returns whether anything stands under a final name. In doubt, it does.
    fn holds(&self, name: &FinalName) -> bool;

    /// Returns the encodings in which a file may stand here. In those that it does not return, the file is not
    /// here; by default, it may stand in any.
    ///
    /// # Errors
    /// That could not be looked up.
    fn encodings(&self, name: &FileName) -> Result<Vec<Codec>, Error> {
        let _ = name;
        Ok(Codec::ALL.to_vec())
    }

    /// Calls `each` with every name there is, in no order, whoever made it.
    ///
    /// # Errors
    /// The names could not be read to their end.
    fn list(&self, each: &mut dyn FnMut(&str)) -> Result<(), Error>;

    /// Calls `each` with every name there is, in the order of the names, and with what the listing says of it.
    /// Returns `false`, without a call, where a listing says nothing beside the names and [`Visit::facts`] is
    /// asked for each.
    ///
    /// # Errors
    /// The names could not be read to their end.
    fn list_facts(&self, each: &mut dyn FnMut(&str, Facts)) -> Result<bool, Error> {
        let _ = each;
        Ok(false)
    }

    /// Returns what is known of the file under a name, whoever made it; `None` if nothing has the name. A
    /// symbolic link is not followed.
    ///
    /// # Errors
    /// It could not be looked up.
    fn facts(&self, name: &str) -> io::Result<Option<Facts>>;

    /// Returns the directory, if the place is one: for what only a directory has.
    fn directory(&self) -> Option<&Dir> {
        None
    }

    /// Returns what a check tries, if the place is in object storage.
    fn trials(&self) -> Option<Box<dyn Trials + '_>> {
        None
    }

    /// Calls `each` with the names there are in their order, beginning with the first that is not before `from`,
    /// until it returns `false`. Returns `false` without a call where names have no order, as in a directory: there
    /// a look at each name costs less.
    ///
    /// # Errors
    /// The names could not be read.
    fn list_from(&self, from: &str, each: &mut dyn FnMut(&str) -> bool) -> Result<bool, Error> {
        let _ = (from, each);
        Ok(false)
    }

    /// Begins a file that is to get this final name. It is out of sight until it is published; dropped
    /// before, it is discarded.
    ///
    /// If the machine dies here, nothing stands under the final name. A temporary name may stay until the
    /// next archiver on this host starts.
    ///
    /// # Errors
    /// The file could not be created.
    fn stage(&self, name: FinalName) -> Result<Box<dyn Draft + '_>, Error>;

    /// Makes sure that the place never replaces a file, where only a try tells. Asked once the identity is there:
    /// nothing else is at risk by it.
    ///
    /// # Errors
    /// It does replace, or that could not be found out.
    fn test(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes every name that was published on this visit durable, and what is found on it too. On return
    /// they survive a power cut.
    ///
    /// # Errors
    /// The flush failed. None of these names counts as durable then, whatever a second flush says.
    fn settle(&self) -> Result<(), Error>;

    /// Removes what dead processes of this host left here, and nothing under a final name. If something
    /// cannot be removed, it stays, and the rest is removed all the same.
    ///
    /// # Errors
    /// The names could not be read to their end.
    fn tidy(&self) -> Result<(), Error>;

    /// Returns what files have had to do without here since the store was made.
    fn limits(&self) -> Vec<Limit> {
        Vec::new()
    }

    /// Returns the size of the place and what is left of it, where that is known.
    fn space(&self) -> Option<Space>;

    /// Returns whether the place is one of the server's own directories, or lies in one.
    ///
    /// # Errors
    /// One of the two could not be looked up.
    fn is_within(&self, server: &KnownDestinations) -> Result<bool, Error>;

    /// Makes sure that the place is none of the other destinations of the server, by whatever path, and lies in
    /// none of them. Only directories have paths that lead to one place.
    ///
    /// # Errors
    /// It is, or it could not be looked up.
    fn check_apart(&self, _server: &KnownDestinations) -> Result<(), Error> {
        Ok(())
    }
}

/// What is known of a file without its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The length of the stored bytes.
    pub len: u64,
    /// What the file takes in the archive, in bytes.
    pub allocated: u64,
    /// When it was last written.
    pub modified: Option<SystemTime>,
}

/// A place that is kept open, for files that are complete there and not published yet. Only what is under
/// way keeps a place: an archive must be free to be unmounted while nothing is archived.
pub trait Place: Send {
    /// Goes on there, and counts steps in `progress` from now on.
    fn resume<'s>(&self, progress: &'s Progress) -> Box<dyn Visit + 's>;

    /// Returns what tells the place from every other one that is open now: the path may lead to another
    /// disk than it did for an earlier file.
    ///
    /// # Errors
    /// It could not be looked up.
    fn id(&self) -> Result<PlaceId, Error>;
}

/// What tells an open place from every other one: for a directory, its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceId(pub u64, pub u64);

/// A file that stands under a final name.
pub trait Found {
    /// The path by which users know it.
    fn path(&self) -> &Path;

    /// How it is compressed.
    fn codec(&self) -> Codec;

    /// The length of the stored bytes.
    fn stored_len(&self) -> u64;

    /// What the file takes in the archive, in bytes.
    fn stored_bytes(&self) -> u64;

    /// Returns when the file was last written, if that is known.
    fn modified(&self) -> Option<SystemTime>;

    /// Returns what the file carries under this name beside its contents, `None` if nothing.
    ///
    /// # Errors
    /// It could not be looked up.
    fn attribute(&self, name: &str) -> io::Result<Option<String>>;

    /// Returns what tells these contents from others that had the name before, where the storage says that.
    fn version(&self) -> Option<&str> {
        None
    }

    /// Returns whether this is the server's own file: a hard link, not a copy.
    fn is(&self, source: &Source) -> bool;

    /// Makes the contents durable: whoever put them there may have died before its own flush.
    ///
    /// # Errors The flush failed. If a later flush succeeds, that proves nothing: only what is then read
    /// past the cache does.
    fn flush(&self) -> Result<(), Error>;

    /// Reads the stored bytes from their start, and counts each piece as a step of the visit: from storage, past every cache, or through the caches. One
    /// reader is used at a time.
    ///
    /// # Errors
    /// The reader could not be made.
    fn read(&self, past_cache: bool) -> io::Result<Box<dyn Read + '_>>;

    /// Reads the WAL file's own bytes from storage, past every cache.
    ///
    /// # Errors
    /// The reader or the decoder could not be made.
    fn decode(&self) -> io::Result<Decoder<Box<dyn Read + '_>>> {
        Decoder::new(self.codec(), self.read(true)?)
    }
}

/// A file that is being written, out of sight. It knows its final name.
pub trait Draft: Send {
    /// Appends a chunk. All must be aligned as a [`Buffer`](crate::sys::buffer::Buffer) is, and all but
    /// the last of whole blocks.
    ///
    /// # Errors
    /// The write failed.
    fn put(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.put_all(&[chunk])
    }

    /// Appends chunks, each as [`Draft::put`], in as few writes as the place allows.
    ///
    /// # Errors
    /// A write failed.
    fn put_all(&mut self, chunks: &[&[u8]]) -> Result<(), Error>;

    /// Completes the file: contents, digests, permission.
    ///
    /// On return with [`Seal::flush`], all of these survive a power cut; no name does yet. With
    /// [`Seal::verify`], storage gave back what the digests say.
    ///
    /// # Errors
    /// One of the steps failed. The copy is discarded, so that no later flush can be mistaken for a
    /// success of this one (guarantee G8).
    fn seal(self: Box<Self>, seal: &Seal) -> Result<Box<dyn Sealed>, Error>;
}

/// A file that is complete, and still out of sight. It keeps its place open, and can wait there for its turn
/// longer than the visit on which it was written.
pub trait Sealed: Send {
    /// What the file takes in the archive, in bytes.
    fn stored_bytes(&self) -> u64;

    /// Returns whether the file carries what [`Seal`] says that it is to carry. Not every file system has
    /// attributes.
    fn carries_attributes(&self) -> bool;

    /// Lets go of what the storage does not keep for long, where the file has waited for its turn for long enough:
    /// it is brought anew when it is published. Returns how long it may wait on before this is to be called again;
    /// `None` if there is nothing to let go any more. Waits for nothing.
    fn let_go(&mut self) -> Option<Duration> {
        None
    }

    /// Gives the file its final name, unless that is taken: the storage decides in one step, not an
    /// earlier look (guarantee G3). A [`Visit::settle`] of the same place makes the name durable. Steps are
    /// counted in `progress`.
    ///
    /// If the machine dies here, the name may be there or not. If it is there, so are the bytes.
    ///
    /// # Errors
    /// The name was not given, or the storage cannot promise not to replace.
    fn publish(self: Box<Self>, progress: &Progress) -> Result<Publication, Error>;
}

/// How a file is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// What the file carries, if anything.
    pub digests: Option<Digests>,
    /// How a segment was checked before it was let in, which it carries too.
    pub checked: Option<CheckWal>,
    /// Permission bits.
    pub mode: u32,
    /// Make the contents durable.
    pub flush: bool,
    /// Read the contents back from storage and compare them with the digest of the stored bytes; without
    /// digests, they are only read.
    pub verify: bool,
}

/// The digests that a file carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// Of the bytes as they are stored.
    pub stored: Digest,
    /// Of the WAL file's own bytes.
    pub content: Digest,
}

/// What came of publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// The file has its name.
    Published,
    /// Another file has the name, and stays as it is. This may also follow a lost answer: what counts is
    /// whether that file holds the same.
    NameTaken,
}
