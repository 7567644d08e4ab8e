//! Whether archived files get the permission that is asked for.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use super::{Check, Status, made};
use crate::error::{Action, Error};
use crate::store::mode;
use crate::sys::{self, Dir};

/// The permission that the probe asks for: that of `file_mode` where it is not set.
const ASKED: u32 = 0o600;

pub(super) fn file_mode(dir: &Dir) -> Check {
    let name = "file mode";
    let probe = |file: &File| {
        mode::ask(file, ASKED).map_err(|e| (Action::SealProbe, e))?;
        sys::entry(file).map(|entry| entry.mode).map_err(|e| (Action::SealProbe, e))
    };
    let given = match super::with_probe(dir, probe) {
        Ok(given) => given,
        Err(e) => return super::failed(name, &e),
    };
    let Some(given) = mode::other(given, ASKED) else {
        return made(name, Status::Ok, "files get the permission that they are to have");
    };
    let reached = match dir.metadata() {
        Ok(there) => there.mode() & 0o001 != 0,
        Err(e) => {
            return super::failed(name, &Error::io(Action::LookUpDestination, dir.path(), e));
        }
    };
    let (status, detail) = judged(given, reached);
    made(name, status, detail)
}

/// Judges the permission that a mount gives to files, in a directory that other users reach or do not.
fn judged(given: u32, reached: bool) -> (Status, String) {
    let found = format!("the mount gives files mode {given:04o}, whatever file_mode says");
    let options = "Set the options of the mount (SMB: file_mode, dir_mode and uid).";
    if !mode::is_open(given) || !reached {
        (Status::Ok, found)
    } else if given & 0o002 != 0 {
        (Status::Error, format!("{found}: every user can change them. {options}"))
    } else {
        (Status::Warning, format!("{found}: users other than the server's have access. {options}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_is_judged_by_what_others_can_do_with_it() {
        for (given, reached, status, says) in [
            (0o644, false, Status::Ok, "mode 0644"),
            (0o640, true, Status::Ok, "mode 0640"),
            (0o644, true, Status::Warning, "have access"),
            (0o666, true, Status::Error, "can change them"),
        ] {
            let (found, detail) = judged(given, reached);
            assert!(found == status && detail.contains(says), "{given:o}: {detail}");
        }
    }
}
