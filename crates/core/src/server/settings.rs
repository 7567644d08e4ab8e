//! Settings of the archiver, validated: a value of one of these types is usable as it is. [`TABLE`] describes
//! each of them.

mod table;

use std::ffi::CStr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

pub use self::table::{Choice, Kind, PREFIX, Setting, Settings, TABLE, Unit};
use crate::wal::name::MAX_NAME_LEN;

/// The server's own limit for paths, `MAXPGPATH` in `pg_config_manual.h`, zero byte included.
const MAX_PATH: usize = 1024;

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

/// Why a `destination` is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DestinationError {
    /// Not absolute.
    #[error("the archive directory must be an absolute path")]
    Relative,
    /// A comma or a double quote: reserved for lists of directories.
    #[error("commas and double quotes are not allowed in the path")]
    Character,
    /// A control character, which would make log lines and the list of destinations ambiguous.
    #[error("control characters are not allowed in the path")]
    Control,
    /// A `..` component: where it leads can change while the archiver runs.
    #[error("the path must not contain \"..\"")]
    Parent,
    /// Too long for the file names that go under it.
    #[error("the path is too long for WAL file names of {MAX_NAME_LEN} characters under it")]
    TooLong,
    /// Inside the data directory: a base backup would copy it, and a lost disk would take it along.
    #[error("the path is inside the data directory \"{0}\"")]
    InDataDirectory(String),
}

/// The absolute path of an archive directory, without trailing or doubled slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination(PathBuf);

impl Destination {
    /// Accepts the path of an archive directory. Whether it exists now does not matter: a mount
    /// may come later.
    ///
    /// # Errors
    /// The path cannot be right.
    pub fn new(text: &str, data_directory: &Path) -> Result<Self, DestinationError> {
        if text.contains([',', '"']) {
            return Err(DestinationError::Character);
        }
        if text.contains(|c: char| c.is_control()) {
            return Err(DestinationError::Control);
        }
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(DestinationError::Relative);
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(DestinationError::Parent);
        }
        // A slash, the name, an encoding's extension, the zero byte.
        if text.len() + 1 + MAX_NAME_LEN + ".zst".len() + 1 > MAX_PATH {
            return Err(DestinationError::TooLong);
        }
        let path: PathBuf = path.components().collect();
        // By name only: the check must not touch a destination that may hang. Symbolic links are
        // seen when the directory is opened.
        let resolved = data_directory.canonicalize();
        if path.starts_with(data_directory) || resolved.is_ok_and(|data| path.starts_with(data)) {
            return Err(DestinationError::InDataDirectory(data_directory.display().to_string()));
        }
        Ok(Self(path))
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
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
    fn only_absolute_paths_outside_the_data_directory_are_accepted() {
        let new = |text: &str| Destination::new(text, Path::new("/data/pg"));
        assert_eq!(new("archive"), Err(DestinationError::Relative));
        assert_eq!(new(""), Err(DestinationError::Relative));
        assert_eq!(new("/a,b"), Err(DestinationError::Character));
        assert_eq!(new("/a\"b"), Err(DestinationError::Character));
        assert_eq!(new("/a\nb"), Err(DestinationError::Control));
        assert_eq!(new("/a/../b"), Err(DestinationError::Parent));
        assert_eq!(new(&format!("/{}", "a".repeat(960))), Err(DestinationError::TooLong));
        assert!(matches!(new("/data/pg"), Err(DestinationError::InDataDirectory(_))));
        assert!(matches!(new("/data//pg/x/"), Err(DestinationError::InDataDirectory(_))));
        assert_eq!(new("/data/pg2").unwrap().path(), Path::new("/data/pg2"));
        assert_eq!(new("/mnt//archive/./x/").unwrap().path(), Path::new("/mnt/archive/x"));
    }

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
