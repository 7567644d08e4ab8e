//! The identity file `walsafe_archive.id`: whose archive a directory is.
//!
//! `key = value` lines: `format` (1), `system_identifier` (decimal), `created` (RFC 3339), and, where the
//! module began the archive in an empty place, `begins_with` (the name of a WAL file). Lines that are empty or
//! begin with `#`, and keys that a later version may add, are passed over.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use thiserror::Error as ThisError;

use crate::error::{Action, Error};
use crate::store::directory::DirectoryVisit;
use crate::store::{FinalName, Found, Publication, Seal, Visit};
use crate::sys;
use crate::sys::buffer::Buffer;
use crate::wal::name::FileName;

/// Name of the identity file in an archive.
pub const FILE_NAME: &str = "walsafe_archive.id";

/// The format that this version writes and reads.
const FORMAT: u32 = 1;

/// No identity file is larger than this.
const MAX_LEN: u64 = 4096;

/// The contents of an identity file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's system identifier.
    pub system_identifier: u64,
    /// When the archive was begun, RFC 3339.
    pub created: String,
    /// The first file that the archive was to have, a segment's wherever possible: from there on it has all that
    /// the server has archived. `None` where that is not known, as in an archive that another tool began.
    pub begins_with: Option<FileName>,
}

/// Why the contents of an identity file are refused.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum IdentityError {
    /// The file is longer than any identity file, or is not text.
    #[error("the file is not text of at most {MAX_LEN} bytes")]
    NotText,
    /// A line is not `key = value`.
    #[error("line {0} is not of the form \"key = value\"")]
    Line(usize),
    /// A key is missing or its value is not what it must be.
    #[error("\"{0}\" is missing or wrong")]
    Key(&'static str),
    /// A later version wrote the file.
    #[error("format {0} is not known to this version, which reads format {FORMAT}")]
    Format(u32),
}

impl Identity {
    /// Makes the identity of an archive that is begun now.
    #[must_use]
    pub fn new(system_identifier: u64) -> Self {
        let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self { system_identifier, created, begins_with: None }
    }

    /// The same, of an archive whose first file is this one.
    #[must_use]
    pub fn beginning_with(self, begins_with: Option<FileName>) -> Self {
        Self { begins_with, ..self }
    }

    /// Reads the contents of an identity file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(contents: &[u8]) -> Result<Self, IdentityError> {
        let text = std::str::from_utf8(contents).map_err(|_| IdentityError::NotText)?;
        let (mut format, mut system_identifier, mut created) = (None, None, None);
        let mut begins_with = None;
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = line.split_once('=').ok_or(IdentityError::Line(number))?;
            let value = value.trim();
            match key.trim() {
                "format" => format = value.parse().ok(),
                "system_identifier" => system_identifier = value.parse().ok(),
                "created" => created = Some(value.to_owned()),
                // What is not a name says nothing, and must not stop archiving.
                "begins_with" => begins_with = FileName::new(value).ok(),
                _ => {}
            }
        }
        match format {
            None => return Err(IdentityError::Key("format")),
            Some(FORMAT) => {}
            Some(other) => return Err(IdentityError::Format(other)),
        }
        Ok(Self {
            system_identifier: system_identifier.ok_or(IdentityError::Key("system_identifier"))?,
            created: created
                .filter(|text| humantime::parse_rfc3339(text).is_ok())
                .ok_or(IdentityError::Key("created"))?,
            begins_with,
        })
    }

    /// Reads the identity of the place that is visited; `None` if it has none.
    ///
    /// # Errors
    /// The file could not be read, is not a regular file, or cannot be understood.
    pub fn at(visit: &dyn Visit) -> Result<Option<Self>, Error> {
        match visit.find(&FinalName::Identity) {
            Ok(None) => Ok(None),
            Ok(Some(found)) => Self::from_found(&*found, false).map(Some),
            Err(Error::NotAFile { path, found }) => {
                Err(Error::BadIdentity { path, reason: format!("it is {found}") })
            }
            Err(e) => Err(e),
        }
    }

    fn from_found(found: &dyn Found, past_cache: bool) -> Result<Self, Error> {
        let fail = |e| Error::io(Action::ReadArchived, found.path(), e);
        let mut contents = Vec::new();
        let stream = found.read(past_cache).map_err(fail)?;
        stream.take(MAX_LEN + 1).read_to_end(&mut contents).map_err(fail)?;
        let parsed = match contents.len() as u64 {
            0..=MAX_LEN => Self::parse(&contents),
            _ => Err(IdentityError::NotText),
        };
        let path = || found.path().to_owned();
        parsed.map_err(|e| Error::BadIdentity { path: path(), reason: e.to_string() })
    }

    /// Publishes the identity, durably and without replacing one. Returns `false` if the place has got one
    /// in the meantime: the caller then reads that one.
    ///
    /// On return with `true`, the file and its name survive a power cut. If the machine dies before, the
    /// whole file is there or nothing is.
    ///
    /// # Errors
    /// The file could not be written, flushed or published.
    pub fn publish(&self, visit: &dyn Visit, mode: u32) -> Result<bool, Error> {
        let text = self.to_string();
        let mut buffer = Buffer::new()
            .map_err(|e| Error::io(Action::ReserveMemory, visit.location().join(FILE_NAME), e))?;
        let mut draft = visit.stage(FinalName::Identity)?;
        draft.put(buffer.fill(text.as_bytes()))?;
        let seal = Seal { digests: None, checked: None, mode, flush: true, verify: false };
        match draft.seal(&seal)?.publish(visit.progress())? {
            Publication::Published => {}
            Publication::NameTaken => return Ok(false),
        }
        visit.settle()?;
        Ok(true)
    }

    /// Makes an identity that is there already durable, and returns what storage holds of it: a flush
    /// that succeeds after one that failed proves nothing (guarantee G8).
    ///
    /// # Errors
    /// One of the flushes failed, or the file is gone, or storage holds no identity.
    pub fn settle(visit: &dyn Visit) -> Result<Self, Error> {
        let found = visit.find(&FinalName::Identity)?;
        let found =
            found.ok_or_else(|| Error::Vanished { path: visit.location().join(FILE_NAME) })?;
        found.flush()?;
        visit.settle()?;
        Self::from_found(&*found, true)
    }

    /// Gives an identity file that is there already to the user that runs the server, durably: if root wrote
    /// it with mode 0600, the archiver could not read it.
    ///
    /// Whoever may write into the directory chooses what has the name, so the file is given away only if what
    /// is open is an identity and has no other name, as somebody else's file would have.
    ///
    /// # Errors
    /// The file is not such a file, or could not be opened, given away (only root may) or flushed.
    pub fn give_to(visit: &DirectoryVisit<'_>, user: u32, group: u32) -> Result<(), Error> {
        let fail = |action| move |e| Error::io(action, visit.location().join(FILE_NAME), e);
        let file = visit.dir().open_file(FILE_NAME).map_err(fail(Action::ReadArchived))?;
        let there = file.metadata().map_err(fail(Action::ReadArchived))?;
        if (there.uid(), there.gid()) == (user, group) {
            return Ok(());
        }
        let mut contents = Vec::new();
        (&file).take(MAX_LEN + 1).read_to_end(&mut contents).map_err(fail(Action::ReadArchived))?;
        let refused =
            |reason| Error::BadIdentity { path: visit.location().join(FILE_NAME), reason };
        Self::parse(&contents).map_err(|e| refused(e.to_string()))?;
        if !there.is_file() || there.nlink() != 1 {
            return Err(refused("it is not a file with this name alone".to_owned()));
        }
        sys::set_owner(&file, user, group).map_err(fail(Action::OwnIdentity))?;
        Self::settle(visit).map(drop)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# This directory is the WAL archive of one PostgreSQL cluster. Do not remove this file."
        )?;
        writeln!(f, "format = {FORMAT}")?;
        writeln!(f, "system_identifier = {}", self.system_identifier)?;
        writeln!(f, "created = {}", self.created)?;
        self.begins_with.iter().try_for_each(|name| writeln!(f, "begins_with = {name}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::store::directory::temporary::Owner;
    use crate::store::directory::{Directory, Staging};
    use crate::store::{Progress, Store};

    #[test]
    fn an_identity_reads_back_from_its_text() {
        let identity = Identity::new(7_123_456_789_012_345_678);
        assert_eq!(Identity::parse(identity.to_string().as_bytes()), Ok(identity.clone()));
        let begun = identity.beginning_with(FileName::new("00000001000000000000000A").ok());
        assert_eq!(Identity::parse(begun.to_string().as_bytes()), Ok(begun));
    }

    #[test]
    fn keys_of_later_versions_are_passed_over_and_later_formats_refused() {
        let good = "format = 1\nsystem_identifier=5\ncreated = 2026-11-21T00:00:00Z\nnew = x\n";
        assert_eq!(Identity::parse(good.as_bytes()).unwrap().system_identifier, 5);
        // What is no name is no reason to refuse an archive.
        let odd = format!("{good}begins_with = no/name\n");
        assert_eq!(Identity::parse(odd.as_bytes()).unwrap().begins_with, None);
        let later = good.replace("format = 1", "format = 2");
        assert_eq!(Identity::parse(later.as_bytes()), Err(IdentityError::Format(2)));
    }

    #[test]
    fn anything_incomplete_is_refused() {
        for wrong in [
            "",
            "format = 1",
            "format = 1\nsystem_identifier = 5\n",
            "format = 1\nsystem_identifier = -5\ncreated = 2026-11-21T00:00:00Z",
            "format = 1\nsystem_identifier = 5\ncreated = today",
            "what",
        ] {
            assert!(Identity::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn writing_never_replaces_an_identity() {
        let temp = tempfile::tempdir().unwrap();
        let store = Directory::new(temp.path(), Owner::this_process(), Staging::Unnamed);
        let progress = Progress::default();
        let visit = store.visit(&progress).unwrap();
        assert_eq!(Identity::at(&*visit).unwrap(), None);
        assert!(Identity::new(1).publish(&*visit, 0o600).unwrap());
        assert!(!Identity::new(2).publish(&*visit, 0o600).unwrap());
        assert_eq!(Identity::at(&*visit).unwrap().unwrap().system_identifier, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(dose::dose(64, 256)))]
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Identity::parse(&bytes);
        }
    }
}
