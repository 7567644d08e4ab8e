//! What is said where several archives were asked.

use std::path::{Path, PathBuf};

use super::RestoreError;
use crate::error::ErrorKind;
use crate::store::location;
use crate::wal::name::FileName;
use crate::words;

/// What was wrong with one of several archives, while another was asked too.
#[derive(Debug)]
pub struct Trouble {
    /// The archive, by its location.
    pub archive: PathBuf,
    /// What was wrong.
    pub error: RestoreError,
    /// It is the archive as a whole, not the one file: what is there cannot be told.
    pub away: bool,
}

impl Trouble {
    /// Returns whether it is likely to be as bad for the next file, so that the archive is better asked last for
    /// a while.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.away || matches!(self.error.kind(), ErrorKind::IoError | ErrorKind::StaleHandle)
    }

    /// Says what was wrong, in full sentences.
    #[must_use]
    pub fn sentence(&self) -> String {
        words::sentence(&format!("{}: {}", self.error, self.error.detail()))
    }

    /// Returns whether the archive has the file, and it is of no use.
    fn is_damage(&self) -> bool {
        match &self.error {
            RestoreError::Damaged { .. } | RestoreError::UnknownWal { .. } => true,
            RestoreError::Archive(error) => {
                matches!(error.kind(), ErrorKind::NotAFile | ErrorKind::ColdObject)
            }
            _ => false,
        }
    }

    /// Adds what the permissions say, if it is a matter of permission.
    pub(super) fn explained(self) -> Self {
        Self { error: self.error.explained(), ..self }
    }
}

/// An archive that was begun later than a file that it does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The archive.
    pub archive: PathBuf,
    /// With which file it was begun.
    pub first: FileName,
}

/// What the archives that could be asked say of a file that they do not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// The WAL would end there, as far as they go: this says how far, with the file's name as its subject.
    Ends(String),
    /// They have something that shows that the file must exist.
    Hole(String),
    /// They were begun later than the file.
    Begun(Vec<Begun>),
    /// That was not asked, or there is no such archive.
    Unknown,
}

/// Says that no archive gives the file, in words that fit what is wrong.
pub(super) fn unsettled(troubles: &[Trouble]) -> &'static str {
    if troubles.iter().any(Trouble::is_damage) {
        "no archive gives a sound copy of the file"
    } else {
        "the file may be in an archive that cannot be read"
    }
}

/// Returns the trouble that decides what is to be done first: a copy of the file that is there, otherwise an
/// archive that is away.
pub(super) fn worst(troubles: &[Trouble]) -> Option<&Trouble> {
    let damage = troubles.iter().find(|trouble| trouble.is_damage());
    damage.or_else(|| troubles.iter().find(|trouble| trouble.away)).or(troubles.first())
}

/// Returns the archives without which the end of the WAL would be told, if that is so.
pub(super) fn left_out(troubles: &[Trouble], rest: &Rest) -> Option<String> {
    let (away, others): (Vec<_>, Vec<_>) = troubles.iter().partition(|trouble| trouble.away);
    let is_short = |trouble: &&Trouble| matches!(trouble.error, RestoreError::EndUnknown { .. });
    let is_end = match others.is_empty() {
        true => matches!(rest, Rest::Ends(_)),
        false => others.iter().all(is_short),
    };
    let shown = away.iter().map(|trouble| location::shown(&trouble.archive));
    (is_end && !away.is_empty()).then(|| quoted(shown))
}

/// Says with what each archive was begun.
pub(super) fn begun(archives: &[Begun]) -> String {
    let begun = |Begun { archive, first }: &Begun| {
        format!("\"{}\" was begun with {first}.", archive.display())
    };
    archives.iter().map(begun).collect::<Vec<_>>().join(" ")
}

/// Names directories.
pub(super) fn quoted<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> String {
    let quoted = |path: P| format!("\"{}\"", path.as_ref().display());
    paths.into_iter().map(quoted).collect::<Vec<_>>().join(" and ")
}
