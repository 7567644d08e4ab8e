//! What a check tries with object storage, because only a trial shows it.
//!
//! A trial stores small objects of its own. Where the keys may remove objects, and no versions of them are kept, it
//! removes them. Elsewhere they have names of a small fixed set, which the next check uses again: an object
//! that is there already answers too. No name of either kind counts as a file of an archive or as a finding.

use std::time::Duration;

use super::{FinalName, PROBE};
use crate::error::Error;

/// What the names begin with that a check uses where it may not remove objects. They do not have the form of
/// temporary names.
const FIXED: &str = ".walsafe.";

/// What is tried. Each is a part of such a name.
pub const TRIED: [&str; 6] = ["put", "race", "md5", "sha256", "cut", "held"];

/// Returns the name of a probe that may have to stay.
#[must_use]
pub fn fixed_name(tried: &str) -> FinalName {
    FinalName::Probe(format!("{FIXED}{PROBE}.{tried}"))
}

/// Returns whether a name is that of a probe which a check had to leave.
#[must_use]
pub fn is_fixed_name(name: &str) -> bool {
    let tried = name.strip_prefix(FIXED).and_then(|rest| rest.strip_prefix(PROBE));
    tried.and_then(|rest| rest.strip_prefix('.')).is_some_and(|tried| TRIED.contains(&tried))
}

/// Tries, one after the other; [`Trials::put`] comes first, since it finds out whether probes can be removed.
pub trait Trials {
    /// Asks for the first names there are.
    ///
    /// # Errors
    /// There is no such server or bucket, it refuses the keys, or they may not list.
    fn can_be_listed(&self) -> Result<(), Error>;

    /// Puts a probe, and puts it once more: the second must be refused. Then puts the identity's own bytes over
    /// the identity, if there is one.
    ///
    /// # Errors
    /// The storage replaces objects, or refuses the probe, or cannot be reached.
    fn put(&self) -> Result<Put, Error>;

    /// Puts different bodies under one name at one time.
    ///
    /// # Errors
    /// It could not be tried.
    fn race(&self) -> Result<Race, Error>;

    /// Puts bodies that are not what the digests in the request say.
    ///
    /// # Errors
    /// It could not be tried.
    fn checksums(&self) -> Result<Checksums, Error>;

    /// Breaks a body off before its end. Returns whether the storage shows an object afterwards.
    ///
    /// # Errors
    /// It could not be tried.
    fn shows_half(&self) -> Result<bool, Error>;

    /// Keeps back the end of a body for a moment. Returns whether the storage takes it then.
    ///
    /// # Errors
    /// It could not be tried.
    fn takes_held(&self) -> Result<bool, Error>;

    /// Reads the rules of the bucket that matter to an archive.
    fn rules(&self) -> Rules;
}

/// How a PUT went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// How long it took; `None` if the probe was there already.
    pub took: Option<Duration>,
    /// The keys may remove objects, and nothing of them is kept then.
    pub removes: bool,
}

/// How PUTs of one name at one time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Race {
    /// How many there were.
    pub puts: usize,
    /// How many of them were said to be stored.
    pub stored: usize,
    /// What is there is the one that was said to be stored, or where none was, one of them or of an earlier race.
    pub agrees: bool,
}

/// What became of a body with a wrong digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It was refused, and nothing is there.
    Refused,
    /// It was stored: the digest was not looked at.
    Stored,
    /// It was refused, and is there all the same.
    RefusedAndStored,
}

/// What the storage makes of wrong digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksums {
    /// Of a wrong `Content-MD5`.
    pub md5: Wrong,
    /// Of a wrong `x-amz-content-sha256`.
    pub sha256: Wrong,
}

/// What may be read of a bucket's rules. `Err` says why one may not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Whether it keeps versions.
    pub keeps_versions: Result<bool, String>,
    /// Whether objects are locked against removal.
    pub locks: Result<bool, String>,
    /// The rules that delete or move the identity or history files by age, each in words.
    pub by_age: Result<Vec<String>, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::directory::temporary::is_temporary;

    #[test]
    fn a_probe_that_stays_is_known_by_its_name() {
        for tried in TRIED {
            let name = fixed_name(tried).to_string();
            assert!(is_fixed_name(&name) && !is_temporary(&name), "{name}");
        }
        for other in [".walsafe.check", ".walsafe.check.", ".walsafe.check.x", "check.put"] {
            assert!(!is_fixed_name(other), "{other}");
        }
    }
}
