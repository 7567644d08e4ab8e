//! Every setting, described once.
//!
//! [`TABLE`] feeds the registration with the server, the checks of a new value, the look at the configuration
//! files at a reload, the snapshot [`Settings`] and, by a test, the page of settings in docs/operations.md.
//! A new setting is one more entry in `settings!` below.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{CheckWal, Destinations, FileMode, FsyncPolicy};
use crate::encoding::codec::Compression;

/// What the name of every setting begins with.
pub const PREFIX: &CStr = c"walsafe_archive";

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The name, prefix included.
    pub name: &'static CStr,
    /// The type, the default and what values there are.
    pub kind: Kind,
    /// What it is for, in one sentence.
    pub short: &'static CStr,
    /// What its values mean; may be empty.
    pub long: &'static CStr,
}

/// The type of a setting, and its value where nothing is set.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Kind {
    /// Any text that the check accepts, which is not asked about the default.
    Text { default: &'static CStr, check: fn(&CStr, &Path) -> Result<(), String> },
    /// A whole number.
    Integer { default: i32, min: i32, max: i32, unit: Unit },
    /// On or off.
    Boolean { default: bool },
    /// One of some names. The server knows each by its place in the list.
    Choice { default: &'static CStr, names: fn() -> Vec<&'static CStr> },
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are what their names say")]
pub enum Unit {
    None,
    Seconds,
    Megabytes,
}

impl Setting {
    /// Returns why a new text is refused, as it stands in the middle of a sentence. The server checks values of
    /// other types.
    ///
    /// # Errors
    /// The text cannot be right.
    pub fn check(&self, text: &CStr, data_directory: &Path) -> Result<(), String> {
        match self.kind {
            Kind::Text { default, check } if text != default => check(text, data_directory),
            _ => Ok(()),
        }
    }
}

macro_rules! name {
    // The setting is called what a server with a single archive calls it.
    (destinations) => {
        name!(destination)
    };
    ($name:ident) => {
        const { c_name(concat!("walsafe_archive.", stringify!($name), "\0")) }
    };
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $kind:ident($($given:expr),*), $short:literal, $long:literal;)*) => {
        /// Every setting, in the order in which they are listed to users.
        pub const TABLE: &[Setting] = &[$(Setting {
            name: name!($name),
            kind: $kind::<$type>($($given),*),
            short: $short,
            long: $long,
        }),*];

        /// The settings at one moment, ready to be used. There is a destination.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Settings {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Settings {
            /// Reads all settings. `value` returns the value of one by its name, as text without its unit.
            ///
            /// # Errors
            /// A value cannot be used: the server took it although [`Setting::check`] refuses it, or there
            /// is no destination.
            pub fn read(
                value: impl Fn(&CStr) -> CString,
                data_directory: &Path,
            ) -> Result<Self, String> {
                Ok(Self {$(
                    $name: {
                        let name = name!($name);
                        read(&value(name), data_directory).map_err(|reason| {
                            let name = name.to_string_lossy();
                            format!("the value of \"{name}\" cannot be used: {reason}")
                        })?
                    },
                )*})
            }
        }
    };
}

settings! {
    /// Where files are archived to.
    destinations: Destinations = text(c""),
        c"Directories and URLs that WAL files are archived to.",
        c"Absolute paths, and URLs such as s3://bucket/prefix, separated by commas. A file must be in each of them. Empty: nothing is archived.";

    /// The file with keys for object storage.
    credentials_file: Option<PathBuf> = text(c""),
        c"File with credentials for object storage.",
        c"Empty, or without a section for a URL: the environment, profile files, web identity and metadata are asked.";

    /// What is flushed before a file counts as archived.
    fsync_policy: FsyncPolicy = choice(c"full"),
        c"What is flushed to storage before a file counts as archived: full, file or none.",
        c"\"full\": the file and the directory. \"file\": the file's contents only. \"none\": the operating system decides.";

    /// The permission of archived files.
    file_mode: FileMode = text(c"0600"),
        c"Permission of archived files: 0600, 0640, 0400 or 0440.",
        c"They do not depend on the umask.";

    /// The compression of archived files.
    compression: Compression = text(c"none"),
        c"Compression of archived files: none, lz4, zstd[:LEVEL] or gzip[:LEVEL].",
        c"LEVEL is 1 to 22 for zstd, 3 if none is given, and 1 to 9 for gzip, 6 if none is given.";

    /// How many files are archived at a time; 0: only the one that the server asks for.
    workers: usize = integer(2, 0, 64),
        c"Number of WAL files archived at a time, ahead of the server's own calls.",
        c"0 archives only the file that the server asks for.";

    /// What is checked of a segment.
    check_wal: CheckWal = choice(c"header"),
        c"What is checked of a WAL segment before it is archived: off, header or records.",
        c"\"header\": length, first page header and cluster. \"records\": every page and every record as well. \"off\": nothing.";

    /// Each new copy is read back from storage before it counts.
    verify: bool = boolean(false),
        c"Reads each new copy back from storage before it counts as archived.",
        c"";

    /// How long a copy may stand still; `None`: for ever.
    stall_timeout: Option<Duration> = integer(60, 0, i32::MAX / 1000),
        c"Time without progress after which a copy is reported as failed.",
        c"0 waits for ever.";

    /// The free space below which a warning is logged, in bytes; 0: no warning.
    min_free_space: u64 = integer(0, 0, i32::MAX),
        c"Free space in the archive below which a warning is logged.",
        c"0 logs none.";
}

#[allow(clippy::panic, reason = "called by the compiler alone")]
const fn c_name(name: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name does not end in a zero byte"),
    }
}

const fn text<T: Typed>(default: &'static CStr) -> Kind {
    Kind::Text { default, check: |text, data_directory| read::<T>(text, data_directory).map(drop) }
}

const fn integer<T: Typed>(default: i32, min: i32, max: i32) -> Kind {
    Kind::Integer { default, min, max, unit: T::UNIT }
}

const fn boolean<T: Typed>(default: bool) -> Kind {
    Kind::Boolean { default }
}

const fn choice<T: Choice>(default: &'static CStr) -> Kind {
    Kind::Choice { default, names: || T::NAMED.iter().map(|(name, _)| *name).collect() }
}

fn read<T: Typed>(text: &CStr, data_directory: &Path) -> Result<T, String> {
    let text = text.to_str().map_err(|_| "the value is not valid UTF-8".to_owned())?;
    T::read(text, data_directory)
}

/// The type as which a value is read. The reason for a refusal can stand in the middle of a sentence.
trait Typed: Sized {
    /// What the value counts for the server, if it is a number.
    const UNIT: Unit = Unit::None;

    fn read(text: &str, data_directory: &Path) -> Result<Self, String>;
}

/// One of some names.
pub trait Choice: Copy + 'static {
    /// The names and what they mean.
    const NAMED: &'static [(&'static CStr, Self)];
}

impl<T: Choice> Typed for T {
    fn read(text: &str, _: &Path) -> Result<Self, String> {
        let named = Self::NAMED.iter().find(|(name, _)| name.to_bytes() == text.as_bytes());
        named.map(|(_, value)| *value).ok_or_else(|| format!("\"{text}\" is not one of its values"))
    }
}

impl Typed for Destinations {
    fn read(text: &str, data_directory: &Path) -> Result<Self, String> {
        Self::new(text, data_directory).map_err(|e| e.to_string())
    }
}

/// The path of a file; empty: none.
impl Typed for Option<PathBuf> {
    fn read(text: &str, data_directory: &Path) -> Result<Self, String> {
        let refused = |why: &str| Err(why.to_owned());
        let path = Path::new(text);
        match text {
            "" => Ok(None),
            _ if text.contains(|c: char| c.is_control()) => {
                refused("control characters are not allowed in the path")
            }
            _ if !path.is_absolute() => refused("the file must be given by an absolute path"),
            _ if path.starts_with(data_directory) => {
                refused("the file must not lie in the data directory, which base backups copy")
            }
            _ => Ok(Some(path.to_owned())),
        }
    }
}

impl Typed for FileMode {
    fn read(text: &str, _: &Path) -> Result<Self, String> {
        text.parse::<Self>().map_err(|e| e.to_string())
    }
}

impl Typed for Compression {
    fn read(text: &str, _: &Path) -> Result<Self, String> {
        text.parse::<Self>().map_err(|e| e.to_string())
    }
}

impl Typed for bool {
    fn read(text: &str, _: &Path) -> Result<Self, String> {
        match text {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(format!("\"{other}\" is neither on nor off")),
        }
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not a whole number from zero up"))
}

impl Typed for usize {
    fn read(text: &str, _: &Path) -> Result<Self, String> {
        number(text)
    }
}

/// A time; 0: none.
impl Typed for Option<Duration> {
    const UNIT: Unit = Unit::Seconds;

    fn read(text: &str, _: &Path) -> Result<Self, String> {
        number(text).map(|seconds| (seconds > 0).then(|| Duration::from_secs(seconds)))
    }
}

/// A size, in bytes.
impl Typed for u64 {
    const UNIT: Unit = Unit::Megabytes;

    fn read(text: &str, _: &Path) -> Result<Self, String> {
        number::<u32>(text).map(|megabytes| Self::from(megabytes) << 20)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const DATA: &str = "/data/pg";

    /// The defaults as the server gives them, but for those given here by the ends of their names.
    fn read(given: &[(&str, &CStr)]) -> Result<Settings, String> {
        let value = |name: &CStr| {
            let setting = TABLE.iter().find(|setting| setting.name == name).unwrap();
            let name = name.to_str().unwrap();
            match (given.iter().find(|(end, _)| name.ends_with(end)), setting.kind) {
                (Some((_, value)), _) => (*value).to_owned(),
                (_, Kind::Text { default, .. } | Kind::Choice { default, .. }) => {
                    default.to_owned()
                }
                (_, Kind::Integer { default, .. }) => CString::new(default.to_string()).unwrap(),
                (_, Kind::Boolean { default }) => if default { c"on" } else { c"off" }.to_owned(),
            }
        };
        Settings::read(value, Path::new(DATA))
    }

    #[test]
    fn the_defaults_and_a_destination_are_settings_that_can_be_used() {
        let expected = Settings {
            destinations: Destinations::new("/mnt/archive", Path::new(DATA)).unwrap(),
            fsync_policy: FsyncPolicy::Full,
            file_mode: FileMode::PRIVATE,
            compression: Compression::NONE,
            workers: 2,
            check_wal: CheckWal::Header,
            verify: false,
            stall_timeout: Some(Duration::from_secs(60)),
            min_free_space: 0,
            credentials_file: None,
        };
        assert_eq!(read(&[("destination", c"/mnt/archive")]), Ok(expected));
    }

    #[test]
    fn every_value_is_read_in_its_unit() {
        let settings = read(&[
            ("destination", c"/mnt/archive"),
            ("fsync_policy", c"file"),
            ("check_wal", c"records"),
            ("verify", c"on"),
            ("stall_timeout", c"0"),
            ("min_free_space", c"2147483647"),
        ])
        .unwrap();
        assert_eq!(settings.fsync_policy, FsyncPolicy::File);
        assert_eq!(settings.check_wal, CheckWal::Records);
        assert!(settings.verify);
        assert_eq!(settings.stall_timeout, None);
        assert_eq!(settings.min_free_space, 2_147_483_647 << 20);
    }

    /// A value that the server took although the check refuses it used to be read as the default.
    #[test]
    fn a_value_that_cannot_be_used_is_an_error_that_names_the_setting() {
        for (name, value, reason) in [
            ("destination", c"", "list syntax is invalid"),
            ("destination", c"archive", "absolute path"),
            ("file_mode", c"0777", "0600, 0640"),
            ("credentials_file", c"keys", "absolute path"),
            ("credentials_file", c"/data/pg/keys", "data directory"),
            ("compression", c"zstd:99", "level \"99\""),
            ("check_wal", c"page", "not one of its values"),
            ("workers", c"-1", "whole number"),
            ("verify", c"yes", "neither on nor off"),
        ] {
            let said = read(&[(name, value), ("destination", c"/mnt/archive")]).unwrap_err();
            let begin = format!("the value of \"walsafe_archive.{name}\" cannot be used: ");
            assert!(said.starts_with(&begin) && said.contains(reason), "{said}");
        }
    }

    #[test]
    fn a_text_is_checked_and_the_default_is_always_accepted() {
        let check = |name: &str, text| {
            let setting = TABLE.iter().find(|s| s.name.to_str().unwrap().ends_with(name)).unwrap();
            setting.check(text, Path::new(DATA))
        };
        assert_eq!(check("destination", c""), Ok(()));
        assert!(check("destination", c"/data/pg/x").is_err());
        assert_eq!(check("file_mode", c"\xff"), Err("the value is not valid UTF-8".to_owned()));
        assert_eq!(check("compression", c"zstd:3"), Ok(()));
        let refused = "level \"23\" of \"zstd\" is not a whole number from 1 to 22";
        assert_eq!(check("compression", c"zstd:23"), Err(refused.to_owned()));
    }

    #[test]
    fn every_description_is_a_sentence_and_every_default_is_a_value() {
        for Setting { name, kind, short, long } in TABLE {
            assert!(name.to_bytes().starts_with(b"walsafe_archive."), "{name:?}");
            assert!(short.to_bytes().ends_with(b"."), "{name:?}");
            assert!(long.is_empty() || long.to_bytes().ends_with(b"."), "{name:?}");
            match *kind {
                Kind::Integer { default, min, max, .. } => assert!((min..=max).contains(&default)),
                Kind::Choice { default, names } => assert!(names().contains(&default), "{name:?}"),
                Kind::Text { .. } | Kind::Boolean { .. } => {}
            }
        }
    }
}
