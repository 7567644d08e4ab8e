//! Files in an archive that are not WAL files: temporary files, and what nobody knows.

use std::io;
use std::time::{Duration, SystemTime};

use super::add_line;
use crate::prove::finding::{Finding, FindingKind, Findings, Problem};
use crate::store::directory::temporary::{self, Owner};
use crate::store::listing::{self, Stranger};
use crate::store::{Facts, Visit};
use crate::sys;
use crate::wal::name::FileName;
use crate::words;

/// If nothing has been written to a temporary file for this long, it counts as left behind, if the process
/// that made it is on another host or its number was given to another process.
const STRAY_AFTER: Duration = Duration::from_secs(3600);

/// The same for a temporary file of `basic_archive`, which writes it in one go and removes only its own.
const BASIC_STRAY_AFTER: Duration = Duration::from_secs(60);

/// What to do about the name of a temporary file in object storage, where nothing else removes it.
const REMOVE: &str = "Nothing is lost. A check that was killed left it, or it was copied here from a directory. The next \"walsafe check\" on that host removes what a check left; remove anything else yourself.";

/// What is added for a file that `walsafe check --remove-stray` removes.
const MAY_GO: &str = ", for more than a day: it may go (walsafe check --remove-stray)";

/// Judges names that are not those of WAL files.
pub(super) struct Strangers<'v> {
    visit: &'v dyn Visit,
    host: String,
    /// Files that were archived all the same, one name in each line.
    archived: String,
    /// There was memory for everything.
    kept: bool,
}

impl<'v> Strangers<'v> {
    pub(super) fn new(visit: &'v dyn Visit) -> Self {
        Self { visit, host: sys::host_name(), archived: String::new(), kept: true }
    }

    /// Takes a name: a temporary file that nobody is writing any more is a finding, and so is what nobody
    /// knows.
    pub(super) fn add(&mut self, name: &str, what: &Stranger, findings: &mut Findings) {
        let visit = self.visit;
        let problem = match what {
            Stranger::Temporary(owner) => {
                stray(visit, name, owner.as_ref(), &self.host).map(|reason| {
                    let kind = FindingKind::StrayTemporary;
                    let Some(dir) = visit.directory() else {
                        return Problem::new(kind, reason).with_advice(REMOVE);
                    };
                    let us = Owner { host: self.host.clone(), pid: std::process::id() };
                    let may_go = temporary::is_forsaken(dir, name, &us).unwrap_or(false);
                    let may_go = if may_go { MAY_GO } else { "" };
                    Problem::new(kind, format!("{reason}{may_go}"))
                })
            }
            Stranger::Unknown if listing::archived(visit, name).is_some() => {
                self.kept &= add_line(&mut self.archived, name);
                None
            }
            // What is gone by now is not a finding.
            Stranger::Unknown => {
                unknown_reason(visit, name).map(|reason| Problem::new(FindingKind::Unknown, reason))
            }
        };
        if let Some(problem) = problem {
            let finding = Finding { file: name.to_owned(), problem };
            self.kept &= findings.push(&finding).is_ok();
        }
    }

    /// Returns the files that were archived all the same, one name in each line; `None` if there was no memory
    /// for everything.
    pub(super) fn finish(self) -> Option<String> {
        self.kept.then_some(self.archived)
    }
}

/// Returns why a temporary file counts as left behind; `None` if it may be in use.
fn stray(visit: &dyn Visit, name: &str, owner: Option<&Owner>, host: &str) -> Option<String> {
    let here = owner.filter(|owner| owner.host == host);
    if let Some(owner) = here
        && !sys::process_runs(owner.pid)
    {
        return Some(format!("process {} of this host, which made it, is gone", owner.pid));
    }
    let grace = if owner.is_some() { STRAY_AFTER } else { BASIC_STRAY_AFTER };
    let age = match last_change(visit, name) {
        Ok(Some((idle, _))) if idle < grace => return None,
        Ok(Some((_, age))) => age,
        // What is gone by now is not a finding.
        Ok(None) => return None,
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
fn last_change(visit: &dyn Visit, name: &str) -> io::Result<Option<(Duration, String)>> {
    let Some(Facts { modified: Some(at), .. }) = visit.facts(name)? else { return Ok(None) };
    let minutes = |time: Duration| words::count(time.as_secs() / 60, "minute");
    Ok(Some(match SystemTime::now().duration_since(at) {
        Ok(ago) => (ago, format!("nothing has been written to it for {}", minutes(ago))),
        Err(ahead) => {
            let ahead = ahead.duration();
            (ahead, format!("its last change is {} in the future", minutes(ahead)))
        }
    }))
}

fn unknown_reason(visit: &dyn Visit, name: &str) -> Option<String> {
    const LATER: &str = "it carries no digest, and its name is not that of a WAL file this version knows; a newer server may write files with such names";
    let is_name = FileName::from_stored(name).is_ok();
    let Some(dir) = visit.directory() else { return unknown_object(visit, name, is_name, LATER) };
    let what = match dir.entry(name) {
        Ok(Some(entry)) if entry.is_file() && is_name => return Some(LATER.to_owned()),
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

/// The same for object storage, where a name that ends with a slash stands for what is named below it.
fn unknown_object(visit: &dyn Visit, name: &str, is_name: bool, later: &str) -> Option<String> {
    if name.ends_with('/') {
        return Some("other objects lie below it, which is not a part of an archive".to_owned());
    }
    let what = match visit.facts(name) {
        Ok(Some(_)) if is_name => return Some(later.to_owned()),
        Ok(Some(_)) => "an object".to_owned(),
        Ok(None) => return None,
        Err(e) => e.to_string(),
    };
    Some(format!("it is {what}, and its name is not the name of a WAL file"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::Progress;
    use crate::store::directory::Directory;

    /// A name that had gone since it was listed was a finding. One that cannot be looked up still is.
    #[test]
    fn an_unknown_name_that_is_gone_is_not_a_finding_and_one_that_is_not_text_is() {
        let temp = tempfile::tempdir().unwrap();
        let (store, steps) = (Directory::at(temp.path()), Progress::default());
        let visit = store.open(&steps).unwrap();
        let (mut found, mut strangers) = (Findings::default(), Strangers::new(&visit));
        for name in ["notes.txt", "not\u{fffd}es"] {
            strangers.add(name, &Stranger::Unknown, &mut found);
        }
        assert_eq!(strangers.finish().as_deref(), Some(""));
        assert_eq!(found.iter().map(|f| f.file).collect::<Vec<_>>(), ["not\u{fffd}es"]);
    }
}
