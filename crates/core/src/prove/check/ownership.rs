//! Who owns an archive directory, and who else can write into it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use super::{Check, Options, Status, made};
use crate::error::{Action, Error};
use crate::server::users::{is_group_of_server, name_of_group, name_of_user, of_server};
use crate::store::identity;
use crate::sys::{self, Dir};

/// Returns the user that runs the server, if that is known: root never does.
fn server_user(options: &Options<'_>) -> Option<u32> {
    of_server(options.data_directory).or_else(|| Some(sys::user()).filter(|user| *user != 0))
}

/// Returns what is wrong with the owner of the directory or of its identity file. Whoever owns one of them
/// can put another one there, or lock the server out.
fn wrong_owner(dir: &Dir, owner: u32, options: &Options<'_>) -> Option<String> {
    let server = server_user(options)?;
    let (path, user) = (dir.path().display(), name_of_user(server));
    let may = |user: u32| user == server || user == 0;
    if !may(owner) {
        return Some(format!(
            "it belongs to neither the server's user ({user}) nor root. Run \"chown {user} {path}\" as root."
        ));
    }
    // What else is wrong with the file, the check of the identity says.
    let file = dir.open_file(identity::FILE_NAME).and_then(|file| file.metadata()).ok()?;
    let (name, owner, mode) = (identity::FILE_NAME, file.uid(), file.mode());
    let wrong = if !may(owner) {
        let owner = name_of_user(owner);
        format!("belongs to user {owner}, neither the server's ({user}) nor root")
    } else if owner != server && mode & 0o044 == 0 {
        format!("belongs to root, and the server's user ({user}) cannot read it")
    } else {
        return None;
    };
    Some(format!("\"{name}\" {wrong}. Run \"chown {user} {path}/{name}\" as root."))
}

pub(super) fn ownership(dir: &Dir, options: &Options<'_>) -> Check {
    let name = "ownership";
    let there = match dir.metadata() {
        Ok(there) => there,
        Err(e) => return super::failed(name, &Error::io(Action::LookUpDestination, dir.path(), e)),
    };
    let mode = there.mode() & 0o7777;
    let found = format!("owner {}, mode {mode:04o}", name_of_user(there.uid()));
    if let Some(wrong) = wrong_owner(dir, there.uid(), options) {
        return made(name, Status::Error, format!("{found}: {wrong}"));
    }
    let judged = if mode & 0o002 != 0 {
        Some(open_to_all(dir, &there, options))
    } else if mode & 0o020 != 0 {
        open_to_group(dir, &there, options)
    } else {
        None
    };
    match judged {
        Some((status, detail)) => made(name, status, format!("{found}: {detail}")),
        None if mode & 0o007 != 0 => {
            let detail = format!("{found}: everyone can list it. Run chmod o-rwx on it.");
            made(name, Status::Warning, detail)
        }
        None => made(name, Status::Ok, found),
    }
}

/// The archiver goes on there, since a full `pg_wal` stops the server, and warns.
fn open_to_all(dir: &Dir, there: &Metadata, options: &Options<'_>) -> (Status, String) {
    let path = dir.path().display();
    let server = server_user(options);
    let owns = server.is_none_or(|server| there.uid() == server);
    // Advice that takes away what the server writes by would stop archiving.
    let advice = match server {
        Some(server) if !owns => {
            let user = name_of_user(server);
            format!("Run \"chown {user} {path}\" as root, then \"chmod o-w {path}\".")
        }
        _ => format!(
            "Run \"chmod o-w {path}\"; where the mount decides (SMB: dir_mode), set its option."
        ),
    };
    if there.mode() & 0o1000 == 0 {
        (Status::Error, format!("every user can remove and replace WAL in it. {advice}"))
    } else {
        let found = "every user can put a file into it under the name of WAL to come, which stops archiving";
        (Status::Warning, format!("{found}. {advice}"))
    }
}

/// A group that the server is in may be how it writes (`fsGroup` of Kubernetes): then nothing is wrong.
fn open_to_group(dir: &Dir, there: &Metadata, options: &Options<'_>) -> Option<(Status, String)> {
    let (path, group) = (dir.path().display(), name_of_group(there.gid()));
    let server = server_user(options);
    let owns = server.is_none_or(|server| there.uid() == server);
    let member = is_group_of_server(there.gid(), server, options.data_directory);
    match (member, owns) {
        (Some(true) | None, true) => Some((
            Status::Warning,
            format!(
                "the members of group {group} can write into it. If none but the server's user has to, run \"chmod g-w {path}\"."
            ),
        )),
        (Some(true), false) => None,
        (None, false) => Some((
            Status::Warning,
            format!(
                "the members of group {group} can write into it. Make sure that the server's user is one of them, and nobody else."
            ),
        )),
        (Some(false), _) => Some((
            Status::Error,
            format!(
                "the members of group {group} can write into it, and the server's user is none of them. Run \"chmod g-w {path}\"."
            ),
        )),
    }
}
