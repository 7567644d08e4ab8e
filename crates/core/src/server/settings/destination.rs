//! Where files are archived to: a directory or a URL, or a list of them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use crate::server::url::{ObjectUrl, UrlError};
use crate::wal::name::MAX_NAME_LEN;

/// The server's own limit for paths, `MAXPGPATH` in `pg_config_manual.h`, zero byte included.
const MAX_PATH: usize = 1024;

/// How many destinations there may be. Each has threads and statistics of its own.
pub const MOST_DESTINATIONS: usize = 16;

/// Why a destination is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DestinationError {
    /// Not absolute.
    #[error("the archive directory must be an absolute path")]
    Relative,
    /// A URL that cannot be right.
    #[error("the URL is not accepted: {0}")]
    Url(UrlError),
    /// The storage of this cloud is not part of this build.
    #[error("this library was built without {0}")]
    LeftOut(&'static str),
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

/// Why a list of destinations is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DestinationsError {
    /// Not a list, or an empty one.
    #[error("list syntax is invalid")]
    Syntax,
    /// The only destination of the list is refused.
    #[error(transparent)]
    Only(DestinationError),
    /// One of several is refused.
    #[error("{source}: \"{path}\"")]
    OneOf {
        /// The destination, as it was given; nothing of a URL that may hold a secret.
        path: String,
        /// Why.
        source: DestinationError,
    },
    /// One place, two times.
    #[error("\"{0}\" is named twice")]
    Twice(String),
    /// One place lies in another: every file of it would be a stranger there.
    #[error("\"{inner}\" lies in \"{outer}\"")]
    Inside {
        /// The one that lies in the other.
        inner: String,
        /// The other.
        outer: String,
    },
    /// More than [`MOST_DESTINATIONS`].
    #[error("there are {0} destinations in the list, and at most {MOST_DESTINATIONS} are possible")]
    TooMany(usize),
}

/// Where an archive is: the absolute path of a directory, without trailing or doubled slashes, or a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    path: PathBuf,
    /// As it is to be written in the setting.
    given: String,
    is_url: bool,
}

impl Destination {
    /// Accepts the path of an archive directory, or a URL. Whether it exists now does not matter: a mount
    /// may come later.
    ///
    /// # Errors
    /// The path or the URL cannot be right.
    pub fn new(text: &str, data_directory: &Path) -> Result<Self, DestinationError> {
        if text.contains(|c: char| c.is_control()) {
            return Err(DestinationError::Control);
        }
        if is_url(text) {
            return Self::in_object_storage(text);
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
        let given = path.to_string_lossy().into_owned();
        Ok(Self { path, given, is_url: false })
    }

    fn in_object_storage(text: &str) -> Result<Self, DestinationError> {
        let url: ObjectUrl = text.parse().map_err(DestinationError::Url)?;
        if !url.cloud.is_built_in() {
            return Err(DestinationError::LeftOut(url.cloud.name()));
        }
        url.region(|name| std::env::var(name).ok()).map_err(DestinationError::Url)?;
        Ok(Self { path: url.name().into(), given: text.to_owned(), is_url: true })
    }

    /// Returns the path, or the URL with nothing but what tells the place from others, by which users know it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path, or the whole URL.
    #[must_use]
    pub fn given(&self) -> &str {
        &self.given
    }

    fn lies_in(&self, other: &Self) -> bool {
        let url = |there: &Self| there.given.parse::<ObjectUrl>();
        match (self.is_url, other.is_url) {
            (false, false) => self.path.starts_with(&other.path),
            (true, true) => {
                url(self).is_ok_and(|ours| url(other).is_ok_and(|theirs| ours.lies_in(&theirs)))
            }
            _ => false,
        }
    }

    /// Returns whether it is in object storage.
    #[must_use]
    pub fn is_url(&self) -> bool {
        self.is_url
    }
}

/// Returns a value of the setting as it may be shown: nothing of a URL that holds a secret but its scheme.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    if !holds_secret(text) {
        return text.into();
    }
    // What is no list may hold the secret anywhere.
    let Some(names) = split(text) else { return "...".into() };
    let names = names.iter().map(|name| match name.split_once("://") {
        Some((scheme, _)) if is_secret(name) => format!("{scheme}://..."),
        _ => quoted(name),
    });
    names.collect::<Vec<_>>().join(", ").into()
}

/// Returns whether a value of the setting holds a secret, which nobody is to repeat.
#[must_use]
pub fn holds_secret(text: &str) -> bool {
    match split(text) {
        Some(names) => names.iter().any(|name| is_secret(name)),
        None => text.split([',', '"', ' ']).any(is_secret),
    }
}

fn is_secret(name: &str) -> bool {
    is_url(name) && name.parse::<ObjectUrl>() == Err(UrlError::Secret)
}

/// Returns whether a text begins as URLs do (RFC 3986, section 3.1), such as `s3://`.
#[must_use]
pub fn is_url(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once("://") else { return false };
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(known)
}

/// Where files are archived to, in the order of the setting: at least one directory, no two the same, and none
/// in another, by their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destinations(Vec<Destination>);

impl Destinations {
    /// Reads a list as the server reads `unix_socket_directories`.
    ///
    /// # Errors
    /// It is not a list, or one of the directories cannot be right.
    pub fn new(text: &str, data_directory: &Path) -> Result<Self, DestinationsError> {
        let names = split(text).ok_or(DestinationsError::Syntax)?;
        if names.len() > MOST_DESTINATIONS {
            return Err(DestinationsError::TooMany(names.len()));
        }
        let mut destinations: Vec<Destination> = Vec::new();
        for name in &names {
            let new = Destination::new(name, data_directory).map_err(|source| {
                if names.len() == 1 {
                    DestinationsError::Only(source)
                } else {
                    let path = shown(name).into_owned();
                    DestinationsError::OneOf { path, source }
                }
            })?;
            for other in &destinations {
                apart(other, &new)?;
            }
            destinations.push(new);
        }
        match destinations.is_empty() {
            true => Err(DestinationsError::Syntax),
            false => Ok(Self(destinations)),
        }
    }

    /// Returns the list without some of its directories, as a value of the setting; `None` if nothing is left.
    #[must_use]
    pub fn without(&self, gone: &[&Path]) -> Option<String> {
        let left: Vec<_> = self.0.iter().filter(|there| !gone.contains(&there.path())).collect();
        (!left.is_empty()).then(|| written(left))
    }
}

impl Deref for Destinations {
    type Target = [Destination];

    fn deref(&self) -> &[Destination] {
        &self.0
    }
}

/// As a value of the setting.
impl fmt::Display for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(&self.0))
    }
}

fn written<'d>(destinations: impl IntoIterator<Item = &'d Destination>) -> String {
    let names = destinations.into_iter().map(|there| quoted(there.given()));
    names.collect::<Vec<_>>().join(", ")
}

/// Writes a name so that [`split`] reads it back.
fn quoted(name: &str) -> String {
    let plain = !name.is_empty()
        && !name.contains(',')
        && !name.starts_with(|c| is_space(c) || c == '"')
        && !name.ends_with(is_space);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Refuses two places of which one is the other, or lies in it.
fn apart(first: &Destination, second: &Destination) -> Result<(), DestinationsError> {
    let name = |there: &Destination| there.path.display().to_string();
    let inside =
        |inner, outer| Err(DestinationsError::Inside { inner: name(inner), outer: name(outer) });
    match (first.lies_in(second), second.lies_in(first)) {
        (true, true) => Err(DestinationsError::Twice(name(first))),
        (true, false) => inside(first, second),
        (false, true) => inside(second, first),
        (false, false) => Ok(()),
    }
}

/// Splits a list into its names; `None` if its syntax is wrong.
///
/// Source: `SplitDirectoriesString` in `src/backend/utils/adt/varlena.c`. Names are separated by commas. Space
/// around a name does not count. A name that begins with a double quote ends at the next one, and two of them
/// inside stand for one. Paths are not made shorter here, where the server's function cuts them off.
fn split(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    if rest.is_empty() {
        return Some(names);
    }
    loop {
        let name;
        (name, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                (name.trim_end_matches(is_space).to_owned(), after)
            }
        };
        if name.is_empty() {
            return None;
        }
        names.push(name);
        rest = rest.trim_start_matches(is_space);
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches(is_space);
    }
}

/// Returns a quoted name, whose first quote has been read, and what follows its last one.
fn unquote(mut rest: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        rest = match after.strip_prefix('"') {
            None => return Some((name, after)),
            Some(after) => after,
        };
        name.push('"');
    }
}

/// `scanner_isspace` in `src/backend/parser/scansup.c`, of version 16 and later: 15 has no vertical tab, which
/// is refused in a path in any case.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const DATA: &str = "/data/pg";

    #[test]
    fn only_absolute_paths_outside_the_data_directory_are_accepted() {
        let new = |text: &str| Destination::new(text, Path::new(DATA));
        assert_eq!(new("archive"), Err(DestinationError::Relative));
        assert_eq!(new(""), Err(DestinationError::Relative));
        assert_eq!(new("/a\nb"), Err(DestinationError::Control));
        assert_eq!(new("/a/../b"), Err(DestinationError::Parent));
        assert_eq!(new(&format!("/{}", "a".repeat(960))), Err(DestinationError::TooLong));
        assert!(matches!(new("/data/pg"), Err(DestinationError::InDataDirectory(_))));
        assert!(matches!(new("/data//pg/x/"), Err(DestinationError::InDataDirectory(_))));
        assert_eq!(new("/data/pg2").unwrap().path(), Path::new("/data/pg2"));
        assert_eq!(new("/mnt//archive/./x/").unwrap().path(), Path::new("/mnt/archive/x"));
        assert_eq!(new("/a,\"b").unwrap().path(), Path::new("/a,\"b"));
    }

    #[test]
    fn a_url_is_known_by_its_place_and_written_as_it_was_given() {
        let new = |text: &str| Destination::new(text, Path::new(DATA));
        let given = "s3://wal-1/main/?region=eu-west-1&endpoint=https://store.example:9000";
        let there = new(given).unwrap();
        assert_eq!(there.path(), Path::new("s3://wal-1/main?endpoint=https://store.example:9000"));
        assert_eq!((there.given(), there.is_url()), (given, true));
        assert!(!new("/mnt/a").unwrap().is_url());
        for (url, reason) in [
            ("file:///mnt/a", "\"s3://\""),
            ("X-1.+://", "\"s3://\""),
            ("s3://wal/a//b?region=r", "two slashes"),
            ("s3://KEY:hunter2@wal/a?region=r", "credentials_file"),
        ] {
            let error = new(url).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{url}: {error}");
        }
        for path in ["a/b://c", "://", "1x://y", "s3:/x"] {
            assert_eq!(new(path), Err(DestinationError::Relative), "{path}");
        }
        assert!(new("/mnt/s3://x").is_ok());
    }

    /// Two sites often call their buckets the same.
    #[test]
    fn urls_are_one_place_only_on_one_server() {
        let said = |text: &str| {
            Destinations::new(text, Path::new(DATA))
                .map(|list| list.len())
                .map_err(|e| e.to_string())
        };
        let (one, two) = ("endpoint=https://one.example", "endpoint=https://two.example");
        assert_eq!(said(&format!("s3://wal/a?{one}, s3://wal/a?{two}, /mnt/a")), Ok(3));
        assert_eq!(said(&format!("s3://wal/a?{one}, s3://wal/ab?{one}")), Ok(2));
        let twice = said(&format!("s3://wal/a?{one}, s3://wal/a/?region=r&{one}"));
        assert_eq!(twice.unwrap_err(), format!("\"s3://wal/a?{one}\" is named twice"));
        let inside = said(&format!("s3://wal/a?{one}, s3://wal?{one}")).unwrap_err();
        assert_eq!(inside, format!("\"s3://wal/a?{one}\" lies in \"s3://wal?{one}\""));
        let secret = said("/mnt/a, s3://KEY:hunter2@wal/a").unwrap_err();
        assert!(secret.ends_with(": \"s3://...\""), "{secret}");
    }

    /// What the server's own function does with `unix_socket_directories`.
    #[test]
    fn a_list_is_split_as_the_server_splits_directories() {
        for (text, names) in [
            ("", Some(&[] as &[&str])),
            (" \t\n", Some(&[])),
            ("/a", Some(&["/a"])),
            (" /a , /b b\t,/c ", Some(&["/a", "/b b", "/c"])),
            ("\"/a, b\" ,\" /c \"", Some(&["/a, b", " /c "])),
            ("\"/a\"\"b\"\"\",\"\"\"\"", Some(&["/a\"b\"", "\""])),
            // A quote counts at the beginning of a name only.
            ("/a\"b,/c\"", Some(&["/a\"b", "/c\""])),
            (",", None),
            ("/a,", None),
            ("/a,,/b", None),
            (",/a", None),
            ("\"/a", None),
            ("\"/a\"/b", None),
            ("\"/a\"\",/b", None),
        ] {
            let expected = names.map(|names| names.iter().map(ToString::to_string).collect());
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_list_is_said_and_of_which_directory() {
        let said = |text: &str| {
            Destinations::new(text, Path::new(DATA))
                .map(|list| list.to_string())
                .map_err(|e| e.to_string())
        };
        let relative = "the archive directory must be an absolute path";
        for (text, reason) in [
            ("archive", relative.to_owned()),
            ("/mnt/a, archive", format!("{relative}: \"archive\"")),
            ("/mnt/a, ", "list syntax is invalid".to_owned()),
            (" ", "list syntax is invalid".to_owned()),
            ("/mnt/a, /mnt//a/", "\"/mnt/a\" is named twice".to_owned()),
            ("/mnt/a/b, /mnt/a", "\"/mnt/a/b\" lies in \"/mnt/a\"".to_owned()),
            ("/mnt/a, /mnt/c, /mnt/a/b", "\"/mnt/a/b\" lies in \"/mnt/a\"".to_owned()),
            (
                "/mnt/a, /data/pg/x",
                "the path is inside the data directory \"/data/pg\": \"/data/pg/x\"".to_owned(),
            ),
        ] {
            assert_eq!(said(text), Err(reason), "{text}");
        }
        let many = (0..=MOST_DESTINATIONS).map(|n| format!("/mnt/{n}")).collect::<Vec<_>>();
        assert!(said(&many.join(",")).unwrap_err().contains("at most 16"));
        assert_eq!(said("/mnt/ab,/mnt/a"), Ok("/mnt/ab, /mnt/a".to_owned()));
    }

    #[test]
    fn without_some_of_them_the_others_are_left_in_their_order() {
        let list = Destinations::new("/a, \"/b, c\", /d", Path::new(DATA)).unwrap();
        let without = |gone: &[&str]| list.without(&gone.iter().map(Path::new).collect::<Vec<_>>());
        assert_eq!(without(&["/a"]).as_deref(), Some("\"/b, c\", /d"));
        assert_eq!(without(&["/a", "/b, c"]).as_deref(), Some("/d"));
        assert_eq!(without(&["/a", "/b, c", "/d"]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(dose::dose(64, 256)))]
        #[test]
        fn a_list_that_was_written_reads_back(names in prop::collection::vec("[ ,\"a/\t]{1,6}", 1..5)) {
            let text = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(split(&text), Some(names));
        }

        #[test]
        fn arbitrary_text_is_a_list_or_not(text: String) {
            let _ = split(&text);
        }
    }
}
