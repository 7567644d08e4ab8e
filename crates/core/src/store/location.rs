//! Where an archive is, as users write it: the path of a directory, or the URL of a bucket in object storage.
//!
//! Both are carried as paths, by which messages name them. What is behind one is told by how it begins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::directory::Directory;
#[cfg(feature = "s3")]
use super::object::{Credentials, ObjectStore, Patience};
use super::{Progress, Store, Visit};
use crate::error::Error;
use crate::server::settings;
#[cfg(feature = "s3")]
use crate::server::url::{ObjectUrl, UrlError};

/// What reaching an archive takes beside its location.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The file with keys for object storage; without one, each cloud's own chain finds them.
    pub credentials_file: Option<PathBuf>,
    /// The data directory, in which that file must not lie.
    pub data_directory: Option<PathBuf>,
    /// How long object storage may make no progress; `None` if for ever. A directory's storage is watched over by
    /// the caller.
    pub stall_timeout: Option<Duration>,
}

/// Returns whether a location is meant as a URL and not as a path.
#[must_use]
pub fn is_url(location: &Path) -> bool {
    location.to_str().is_some_and(settings::is_url)
}

/// Returns the store of an archive, to read it or to bring files into it. Nothing is looked up yet.
///
/// # Errors
/// The URL cannot be right, or is of a kind that this program was built without.
pub fn open(location: &Path, access: &Access) -> Result<Box<dyn Store>, Error> {
    if is_url(location) { bucket(location, access) } else { Ok(Box::new(Directory::at(location))) }
}

/// The same; where it fails, every visit does, with that error.
pub(crate) fn open_later(location: &Path, access: &Access) -> Box<dyn Store> {
    match open(location, access) {
        Ok(store) => store,
        Err(error) => Box::new(Refused { reason: error.detail() }),
    }
}

/// An archive whose URL cannot be used.
struct Refused {
    reason: String,
}

impl Store for Refused {
    fn visit<'s>(&'s self, _: &'s Progress) -> Result<Box<dyn Visit + 's>, Error> {
        Err(Error::BadLocation { reason: self.reason.clone() })
    }
}

#[cfg(feature = "s3")]
fn bucket(location: &Path, access: &Access) -> Result<Box<dyn Store>, Error> {
    let refused = |e: UrlError| Error::BadLocation { reason: e.to_string() };
    let url: ObjectUrl = location.to_string_lossy().parse().map_err(refused)?;
    let credentials = Credentials {
        file: access.credentials_file.clone(),
        data_directory: access.data_directory.clone(),
    };
    let patience = Patience::within(access.stall_timeout);
    Ok(Box::new(ObjectStore::new(url, credentials, patience).map_err(refused)?))
}

#[cfg(not(feature = "s3"))]
fn bucket(_: &Path, _: &Access) -> Result<Box<dyn Store>, Error> {
    let reason = "this program was built without object storage".to_owned();
    Err(Error::BadLocation { reason })
}
