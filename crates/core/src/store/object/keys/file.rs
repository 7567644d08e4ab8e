//! The file of `credentials_file`: keys for object storage, a section for each URL prefix.
//!
//! ```ini
//! [s3://bucket/prefix]
//! aws_access_key_id = ...
//! aws_secret_access_key = ...
//! aws_session_token = ...
//! ```
//!
//! The section with the longest prefix of an archive's URL counts. Which keys it may have is the cloud's affair. No
//! message repeats a value.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use super::{Credentials, refused};
use crate::error::Refusal;
use crate::server::url::Cloud;
use crate::sys;

/// The section of the file that is for an archive.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Section {
    path: PathBuf,
    name: String,
    values: Vec<(&'static str, String)>,
}

impl fmt::Debug for Section {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Section {
    /// Returns the value of a key that has one.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.values.iter().rev().find(|(known, _)| *known == key)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    /// The same, of a key that must have one.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn need(&self, key: &'static str) -> Result<&str, Refusal> {
        self.get(key).ok_or_else(|| refused(self.lacks(key).to_string()))
    }

    /// Returns the error that says what the section lacks.
    pub(super) fn lacks(&self, key: &'static str) -> FileError {
        FileError::Lacks { path: self.path.clone(), section: self.name.clone(), key }
    }
}

/// Returns the section for an archive, if there is a file, and a section in it; `known` are the keys that it may
/// have.
///
/// # Errors
/// As [`read`].
pub(super) fn section(
    from: &Credentials,
    location: &str,
    known: &[&'static str],
) -> Result<Option<Section>, Refusal> {
    let Credentials { file: Some(file), data_directory } = from else { return Ok(None) };
    read(file, location, data_directory.as_deref(), known).map_err(|e| refused(e.to_string()))
}

/// Why a file of credentials is refused.
#[derive(Debug, ThisError)]
pub(super) enum FileError {
    #[error("\"{}\" cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("\"{}\" can be read or written by others (mode {mode:04o}): allow it to its owner, and to its group for reading at most", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("\"{}\" belongs to user {owner}: it must belong to root or to the server's user", path.display())]
    Foreign { path: PathBuf, owner: u32 },
    #[error("\"{}\" lies in the data directory, and with it in every base backup", path.display())]
    InDataDirectory { path: PathBuf },
    #[error("line {line} of \"{}\" {what}", path.display())]
    Line { path: PathBuf, line: usize, what: &'static str },
    #[error("section {section} of \"{}\" lacks {key}", path.display())]
    Lacks { path: PathBuf, section: String, key: &'static str },
}

/// No file of credentials is longer.
const LONGEST: u64 = 256 << 10;

/// Reads the keys for an archive; `None` if no section is for it. Links are followed: that is how secrets are
/// mounted.
///
/// # Errors
/// The file cannot be read, is open to others, lies in the data directory, or is not of the form above.
pub(super) fn read(
    path: &Path,
    location: &str,
    data_directory: Option<&Path>,
    known: &[&'static str],
) -> Result<Option<Section>, FileError> {
    parse(path, &text(path, data_directory)?, location, known)
}

/// Reads a file of secrets.
///
/// # Errors
/// It cannot be read, is open to others, or lies in the data directory.
pub(super) fn text(path: &Path, data_directory: Option<&Path>) -> Result<String, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    check(path, &file.metadata().map_err(unreadable)?, data_directory)?;
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn check(path: &Path, there: &Metadata, data_directory: Option<&Path>) -> Result<(), FileError> {
    let path = path.to_owned();
    let mode = there.mode() & 0o7777;
    if !there.is_file() {
        let source = io::Error::other("it is not a regular file");
        return Err(FileError::Unreadable { path, source });
    }
    if mode & 0o027 != 0 {
        return Err(FileError::Open { path, mode });
    }
    if there.uid() != 0 && there.uid() != sys::user() {
        return Err(FileError::Foreign { path, owner: there.uid() });
    }
    let within = |directory: &Path| {
        let real = |path: &Path| path.canonicalize().ok();
        real(directory)
            .zip(real(&path))
            .is_some_and(|(directory, file)| file.starts_with(directory))
    };
    if data_directory.is_some_and(within) {
        return Err(FileError::InDataDirectory { path });
    }
    Ok(())
}

fn parse(
    path: &Path,
    text: &str,
    location: &str,
    known: &[&'static str],
) -> Result<Option<Section>, FileError> {
    let wrong = |line, what| Err(FileError::Line { path: path.to_owned(), line, what });
    // The best section so far: its prefix, and whether lines belong to it now.
    let (mut best, mut values): (Option<String>, _) = (None, Vec::new());
    let (mut begun, mut counts) = (false, false);
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            let Some(section) = section.strip_suffix(']') else {
                return wrong(number, "is not a whole section's name");
            };
            let section = section.trim().trim_end_matches('/');
            let is_cloud = |cloud: Cloud| {
                section.strip_prefix(cloud.scheme()).is_some_and(|rest| rest.starts_with(':'))
            };
            if !Cloud::ALL.into_iter().any(is_cloud) {
                return wrong(number, "is a section whose name is no URL, such as [s3://bucket]");
            }
            begun = true;
            counts = covers(section, location)
                && best.as_ref().is_none_or(|best| best.len() < section.len());
            if counts {
                best = Some(section.to_owned());
                values = Vec::new();
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return wrong(number, "is not of the form \"key = value\"");
        };
        if !begun {
            return wrong(number, "stands before the first section, such as [s3://bucket]");
        }
        if !counts {
            continue;
        }
        let Some(key) = known.iter().find(|known| **known == key.trim()) else {
            return wrong(number, "has a key that is not known");
        };
        values.push((*key, value.trim().to_owned()));
    }
    Ok(best.map(|name| Section { path: path.to_owned(), name, values }))
}

/// Returns whether a section is for an archive: its URL begins with the section's, part by part.
fn covers(section: &str, location: &str) -> bool {
    match location.strip_prefix(section) {
        Some(rest) => rest.is_empty() || rest.starts_with(['/', '?']) || section.ends_with(':'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const TEXT: &str = "# keys\n[s3://]\naws_access_key_id = any\naws_secret_access_key = s0\n\
        [s3://bucket/a/b]\naws_access_key_id = ab\naws_secret_access_key = s1\naws_session_token=t\n\
        ; of the whole bucket\n[s3://bucket/]\naws_access_key_id=bucket\naws_secret_access_key=s=2\n";

    const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

    fn keys(location: &str) -> Option<String> {
        let found = parse(Path::new("f"), TEXT, location, &KEYS).unwrap();
        found.map(|keys| {
            let [id, secret] = ["aws_access_key_id", "aws_secret_access_key"];
            format!("{} {}", keys.get(id).unwrap(), keys.get(secret).unwrap())
        })
    }

    #[test]
    fn the_section_with_the_longest_prefix_counts() {
        assert_eq!(keys("s3://bucket/a/b").unwrap(), "ab s1");
        assert_eq!(keys("s3://bucket/a/b/c").unwrap(), "ab s1");
        assert_eq!(keys("s3://bucket/a/bc").unwrap(), "bucket s=2");
        assert_eq!(keys("s3://bucket").unwrap(), "bucket s=2");
        assert_eq!(keys("s3://bucket-2").unwrap(), "any s0");
        assert_eq!(keys("s3://bucket/a/b?endpoint=https://store.example").unwrap(), "ab s1");
        assert_eq!(keys("gs://bucket"), None);
    }

    #[test]
    fn what_is_wrong_is_named_without_a_value() {
        for (text, says) in [
            ("aws_access_key_id = hunter2", "before the first section"),
            ("[default]\naws_access_key_id = hunter2", "no URL"),
            ("[s3://b", "whole"),
            ("[s3://b]\nhunter2", "line 2"),
            ("[s3://b]\nkey = hunter2", "not known"),
        ] {
            let error = parse(Path::new("f"), text, "s3://b", &KEYS).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let half = "[s3://b]\naws_access_key_id = hunter2\naws_secret_access_key =\n";
        let half = parse(Path::new("f"), half, "s3://b", &KEYS).unwrap().unwrap();
        let refusal = half.need("aws_secret_access_key").unwrap_err();
        assert!(refusal.text.ends_with("lacks aws_secret_access_key"), "{}", refusal.text);
        let keys = parse(Path::new("f"), TEXT, "s3://bucket", &KEYS).unwrap();
        assert!(!format!("{keys:?}").contains("s=2"), "{keys:?}");
    }

    #[test]
    fn a_file_that_others_can_read_or_write_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("keys");
        fs::write(&file, TEXT).unwrap();
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o660, false),
            (0o604, false),
            (0o602, false),
        ] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file, "s3://bucket", None, &KEYS).is_ok(), good, "{mode:o}");
        }
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let link = temp.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(read(&link, "s3://bucket", None, &KEYS).unwrap().is_some());
        let error = read(&link, "s3://bucket", Some(temp.path()), &KEYS).unwrap_err();
        assert!(error.to_string().contains("data directory"), "{error}");
        let error = read(&temp.path().join("none"), "s3://bucket", None, &KEYS).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
