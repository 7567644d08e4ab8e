//! Files in an archive that are not WAL files: temporary files, and what nobody knows.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::directory::temporary::Owner;
use crate::store::listing::Listing;
use crate::sys::{self, Dir};
use crate::wal::name::FileName;

/// If nothing has been written to a temporary file for this long, it counts as left behind, if the process
/// that made it is on another host or its number was given to another process.
const STRAY_AFTER: Duration = Duration::from_secs(3600);

/// The same for a temporary file of `basic_archive`, which writes it in one go and removes only its own.
const BASIC_STRAY_AFTER: Duration = Duration::from_secs(60);

/// Makes the findings of temporary files that nobody is writing any more.
pub(super) fn strays(dir: &Dir, listing: &Listing) -> Vec<Finding> {
    let host = sys::host_name();
    let stray = |(name, owner): &(String, Option<Owner>)| {
        let reason = stray(&dir.path().join(name), owner.as_ref(), &host)?;
        let problem = Problem::new(FindingKind::StrayTemporary, reason);
        Some(Finding { file: name.clone(), problem })
    };
    listing.temporaries.iter().filter_map(stray).collect()
}

/// Returns why a temporary file counts as left behind; `None` if it may be in use.
fn stray(path: &Path, owner: Option<&Owner>, host: &str) -> Option<String> {
    let here = owner.filter(|owner| owner.host == host);
    if let Some(owner) = here
        && !sys::process_runs(owner.pid)
    {
        return Some(format!("process {} of this host, which made it, is gone", owner.pid));
    }
    let grace = if owner.is_some() { STRAY_AFTER } else { BASIC_STRAY_AFTER };
    let age = match last_change(path) {
        Ok((idle, _)) if idle < grace => return None,
        Ok((_, age)) => age,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => e.to_string(),
    };
    Some(match (owner, here) {
        (None, _) => format!("basic_archive left it: {age}"),
        (_, None) => age,
        (_, Some(owner)) => format!("{age}; process {} may be another one by now", owner.pid),
    })
}

/// Returns how far from now a file's last change is, as a time and in words. A change in the future comes
/// from another clock. Like one long ago, it does not show that somebody is writing.
fn last_change(path: &Path) -> io::Result<(Duration, String)> {
    let at = std::fs::symlink_metadata(path)?.modified()?;
    let minutes = |time: Duration| time.as_secs() / 60;
    Ok(match SystemTime::now().duration_since(at) {
        Ok(ago) => (ago, format!("nothing has been written to it for {} minutes", minutes(ago))),
        Err(ahead) => {
            let ahead = ahead.duration();
            (ahead, format!("its last change is {} minutes in the future", minutes(ahead)))
        }
    })
}

/// Makes the findings of names that no file of an archive has. What is gone by now is not one.
pub(super) fn unknown(dir: &Dir, listing: &Listing) -> Vec<Finding> {
    let finding = |name: &String| {
        let reason = unknown_reason(dir, name)?;
        Some(Finding { file: name.clone(), problem: Problem::new(FindingKind::Unknown, reason) })
    };
    listing.unknown.iter().filter_map(finding).collect()
}

fn unknown_reason(dir: &Dir, name: &str) -> Option<String> {
    let what = match dir.entry(name) {
        Ok(Some(entry)) if entry.is_file() && FileName::from_stored(name).is_ok() => {
            return Some(
                "it carries no digest, and its name is not that of a WAL file this version knows; a newer server may write files with such names"
                    .to_owned(),
            );
        }
        Ok(Some(entry)) => entry.type_name().to_owned(),
        // A name that is not UTF-8 was listed with this in its place, and cannot be looked up.
        Ok(None) if name.contains(char::REPLACEMENT_CHARACTER) => {
            "an entry whose name is not UTF-8".to_owned()
        }
        Ok(None) => return None,
        Err(e) => e.to_string(),
    };
    Some(format!("it is {what}, and its name is not the name of a WAL file"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A name that had gone since it was listed was a finding. One that cannot be looked up still is.
    #[test]
    fn an_unknown_name_that_is_gone_is_not_a_finding_and_one_that_is_not_text_is() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let unknown_names = vec!["notes.txt".to_owned(), "not\u{fffd}es".to_owned()];
        let listing = Listing { unknown: unknown_names, ..Listing::default() };
        let found = unknown(&dir, &listing);
        assert_eq!(found.iter().map(|f| f.file.as_str()).collect::<Vec<_>>(), ["not\u{fffd}es"]);
    }
}
