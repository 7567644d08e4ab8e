//! Who the files belong to that a command writes into an archive, and how its errors are said.

use std::fs::symlink_metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use walsafe_core::error::{Activity, Error};
use walsafe_core::sys;

use crate::complaint::Complaint;

/// Sees to it that new files in an archive belong to the owner of a file: of the archive's identity file, if it has
/// one. The archiver, and servers that recover, could not read those of another user. For a process with one thread.
pub(super) fn work_as_owner_of(file: &Path, archive: &Path) -> Result<(), Complaint> {
    // If it is missing, the archive is refused for that, or begun by this user.
    let Ok(there) = symlink_metadata(file) else { return Ok(()) };
    let (owner, group, user) = (there.uid(), there.gid(), sys::user());
    if owner == user {
        return Ok(());
    }
    if user != 0 {
        return Err(Complaint::new(format!(
            "the files in \"{}\" belong to the user with the number {owner}, and this is user {user}: run the command as that user, or as root",
            archive.display()
        )));
    }
    sys::become_user(owner, group).map_err(|e| {
        Complaint::new(format!("could not work as user {owner}, who owns the archive: {e}"))
    })
}

/// Says an error of a command that writes into an archive, with what to do about it: in the archiver's words where
/// the other commands have none.
pub(super) fn complaint(error: &Error) -> Complaint {
    if let Some(complaint) = super::denied(error) {
        return complaint;
    }
    let complaint = Complaint::new(error.to_string()).detail(error.detail());
    match error {
        Error::BadLocation { .. } => complaint.hint(error.hint(Activity::Checking)),
        _ => complaint.hint(error.kind().advice().writing()),
    }
}
