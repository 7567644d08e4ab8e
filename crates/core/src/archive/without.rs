//! What the administrator is told, once, of what files are archived without.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::notice::{Level, Notice};
use crate::store::Limit;

const ATTRIBUTES: &str = "files are archived without extended attributes";
const REMOVAL: &str = "temporary files stay in the archive";
const MODE: &str = "archived files do not have the permission of \"walsafe_archive.file_mode\"";
const OPEN: &str = "every user can write into the archive directory";

/// What this process has said, and of which destination. A pool that follows another one, because a setting
/// changed, does not say it again.
static SAID: Mutex<BTreeSet<(PathBuf, &'static str)>> = Mutex::new(BTreeSet::new());

/// Makes the notice of a limit of the archive at `path`.
pub(crate) fn notice(path: &Path, limit: Limit) -> Notice {
    let (path, error) = (path.display(), io::Error::from_raw_os_error);
    let (level, sqlstate, message, detail, hint) = match limit {
        Limit::Attributes { refused } => (
            Level::Log,
            "00000",
            ATTRIBUTES,
            format!(
                "\"{path}\" refuses them: {refused}. Files carry no digest there; restore and verify check records instead.",
                refused = error(refused)
            ),
            "For digests, allow extended attributes of users in the archive's file system (on ext4, inodes of 256 bytes or more).",
        ),
        Limit::Removal { refused } => (
            Level::Warning,
            "01000",
            REMOVAL,
            format!(
                "\"{path}\" does not let files be removed: {refused}. One file \".walsafe.*.tmp\" stays for each file that is archived.",
                refused = error(refused)
            ),
            "If the directory is append-only (lsattr -d), put the archive on a file system with unnamed temporary files (ext4, XFS, btrfs), or take the attribute away (chattr -a).",
        ),
        Limit::Mode { asked, given } => (
            Level::Warning,
            "01000",
            MODE,
            format!(
                "Files in \"{path}\" have mode {given:04o}, and {asked:04o} was asked for: its mount refuses or ignores changes."
            ),
            "Set the permissions with the options of the mount (SMB: file_mode, dir_mode and uid), or \"walsafe_archive.file_mode\" to what the mount gives.",
        ),
        Limit::OpenToAll { sticky } => (
            Level::Warning,
            "01000",
            OPEN,
            if sticky {
                format!(
                    "Any user of this host can put a file into \"{path}\" under the name of WAL that is still to come, which stops archiving."
                )
            } else {
                format!("Any user of this host can remove or replace the WAL in \"{path}\".")
            },
            "Let the directory belong to the server's user, and run \"chmod o-w\" on it. Where the mount decides (SMB: dir_mode), set its option.",
        ),
    };
    let (message, hint) = (message.to_owned(), hint.to_owned());
    Notice { level, sqlstate, message, detail, hint }
}

/// Returns whether a notice is one of those.
pub(super) fn is_one(notice: &Notice) -> bool {
    known(notice).is_some()
}

fn known(notice: &Notice) -> Option<&'static str> {
    [ATTRIBUTES, REMOVAL, MODE, OPEN].into_iter().find(|known| notice.message == *known)
}

/// Keeps of these notices those that were not given yet for this destination. Those of other kinds stay.
pub(super) fn once(destination: &Path, notices: &mut Vec<Notice>) {
    if notices.is_empty() {
        return;
    }
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    notices.retain(|notice| {
        known(notice).is_none_or(|known| said.insert((destination.to_owned(), known)))
    });
}
