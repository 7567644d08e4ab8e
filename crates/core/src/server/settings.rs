//! Settings of the archiver, validated: a value of one of these types is usable as it is. [`TABLE`] describes
//! each of them.

mod destination;
mod table;

use std::ffi::CStr;
use std::str::FromStr;

use thiserror::Error;

pub use self::destination::{
    Destination, DestinationError, Destinations, DestinationsError, MOST_DESTINATIONS,
    holds_secret, is_url, shown,
};
pub use self::table::{Choice, Kind, PREFIX, Setting, Settings, TABLE, Unit};

/// What is flushed before a file counts as archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// The file and the directory: a power cut loses nothing.
    Full,
    /// The file's contents only: a power cut may lose the name.
    File,
    /// Nothing: a power cut may lose files, or leave them empty or torn.
    None,
}

impl Choice for FsyncPolicy {
    const NAMED: &'static [(&'static CStr, Self)] =
        &[(c"full", Self::Full), (c"file", Self::File), (c"none", Self::None)];
}

/// What is checked of a WAL segment before it is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckWal {
    /// Nothing.
    Off,
    /// Length and first page header.
    Header,
    /// The same, and every page header and every record's checksum. Damage there does not stop
    /// the file from being archived: it is reported with the archived file.
    Records,
}

impl CheckWal {
    /// Returns the value as it is written in the configuration, and in an archived file's attribute.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Header => "header",
            Self::Records => "records",
        }
    }
}

impl Choice for CheckWal {
    const NAMED: &'static [(&'static CStr, Self)] =
        &[(c"off", Self::Off), (c"header", Self::Header), (c"records", Self::Records)];
}

/// The permission of archived files: one of 0600, 0640, 0400 and 0440.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u32);

/// The text is not one of the permissions that archived files may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("archived files may have the permissions 0600, 0640, 0400 and 0440")]
pub struct FileModeError;

impl FileMode {
    /// Readable and writable for the server's user alone.
    pub const PRIVATE: Self = Self(0o600);

    /// Returns the permission bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    type Err = FileModeError;

    fn from_str(text: &str) -> Result<Self, FileModeError> {
        let octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(text, 8) {
            Ok(bits @ (0o600 | 0o640 | 0o400 | 0o440)) if octal => Ok(Self(bits)),
            _ => Err(FileModeError),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_four_permissions_are_accepted() {
        for good in ["0600", "600", "0640", "0400", "0440"] {
            assert!(good.parse::<FileMode>().is_ok(), "{good}");
        }
        for wrong in ["", "0644", "0660", "0666", "0700", "00600", "+600", "0o600", "384", "rw"] {
            assert_eq!(wrong.parse::<FileMode>(), Err(FileModeError), "{wrong}");
        }
    }
}
