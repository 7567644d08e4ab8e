//! Where an archive is, as users write it: the path of a directory, or the URL of a bucket in object storage.
//!
//! Both are carried as paths, by which messages name them. What is behind one is told by how it begins.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::directory::Directory;
#[cfg(feature = "object")]
use super::object::{Credentials, ObjectStore, Patience};
use super::{Progress, Store, Visit};
use crate::error::Error;
use crate::server::settings;
use crate::server::url::ObjectUrl;
#[cfg(feature = "object")]
use crate::server::url::UrlError;

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

/// Returns what names a location in messages: a directory's path, and of a URL what tells the place from others. Of a
/// URL that is not accepted, and may hold a secret, nothing is shown but that it is one.
#[must_use]
pub fn shown(location: &Path) -> Cow<'_, Path> {
    if !is_url(location) {
        return Cow::Borrowed(location);
    }
    let url = location.to_string_lossy().parse::<ObjectUrl>();
    Cow::Owned(url.map_or_else(|_| "the URL".into(), |url| url.name().into()))
}

/// Returns the location of a directory as an absolute path, and a URL as it is.
///
/// # Errors
/// The working directory cannot be found.
pub fn absolute(location: &Path) -> std::io::Result<PathBuf> {
    if is_url(location) { Ok(location.to_owned()) } else { std::path::absolute(location) }
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

#[cfg(feature = "object")]
fn bucket(location: &Path, access: &Access) -> Result<Box<dyn Store>, Error> {
    let refused = |e: UrlError| Error::BadLocation { reason: e.to_string() };
    let url: ObjectUrl = location.to_string_lossy().parse().map_err(refused)?;
    if !url.cloud.is_built_in() {
        return Err(refused(UrlError::LeftOut(url.cloud)));
    }
    let credentials = Credentials {
        file: access.credentials_file.clone(),
        data_directory: access.data_directory.clone(),
    };
    let patience = Patience::within(access.stall_timeout);
    Ok(Box::new(ObjectStore::new(url, credentials, patience).map_err(refused)?))
}

#[cfg(not(feature = "object"))]
fn bucket(_: &Path, _: &Access) -> Result<Box<dyn Store>, Error> {
    let reason = "this program was built without object storage".to_owned();
    Err(Error::BadLocation { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_named_without_what_may_be_secret() {
        for (location, expected) in [
            ("/mnt/archive", "/mnt/archive"),
            ("s3://wal/main/?region=eu-central-1", "s3://wal/main"),
            (
                "s3://wal/main?region=r&endpoint=https://store.test",
                "s3://wal/main?endpoint=https://store.test",
            ),
            ("s3://AKID:hunter2@wal/main", "the URL"),
            ("s3://wal/main?secret_access_key=hunter2", "the URL"),
        ] {
            assert_eq!(shown(Path::new(location)), Path::new(expected));
        }
    }
}
