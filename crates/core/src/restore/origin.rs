//! Where files may come from.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::store::Store;
use crate::store::location::{self, Access};

/// An archive that may be asked for a file.
pub struct Origin {
    location: PathBuf,
    pub(super) store: Box<dyn Store>,
}

impl Origin {
    /// Names an archive by the path of a directory or by a URL. Nothing is looked up yet.
    ///
    /// # Errors
    /// The URL cannot be right.
    pub fn new(location: &Path, access: &Access) -> Result<Self, Error> {
        Ok(Self { location: location.to_owned(), store: location::open(location, access)? })
    }

    /// Returns the location, as it was given.
    #[must_use]
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Returns what names the archive in messages.
    #[must_use]
    pub fn shown(&self) -> Cow<'_, Path> {
        location::shown(&self.location)
    }

    /// Returns whether each look there costs a round trip, and a file may break off on its way.
    pub(super) fn is_remote(&self) -> bool {
        location::is_url(&self.location)
    }
}
