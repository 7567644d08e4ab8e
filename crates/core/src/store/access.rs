//! Why permission was denied: which directory or file refuses, to whom it belongs, who the server's user is,
//! and the command that helps.
//!
//! All of it is looked up after a refusal, for its message, and nothing depends on it. It follows the path
//! anew, which may hang as any other call there: not for a thread that has to stay responsive.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Access, Action, Activity, Error, ErrorKind};
use crate::server::users::{is_group_of_server, name_of_group, name_of_user, of_server};
use crate::store::identity;
use crate::sys;

/// How many symbolic links are followed by hand.
const LINKS: usize = 8;

/// Who was refused, and at what.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    activity: Activity,
    /// The user that runs the server, if that is known.
    server: Option<u32>,
    data_directory: Option<&'a Path>,
}

impl<'a> Asker<'a> {
    /// A process of the server itself, which archives.
    #[must_use]
    pub fn archiver() -> Self {
        let server = Some(sys::user());
        Self { activity: Activity::Archiving, server, data_directory: None }
    }

    /// A process that reads an archive for a recovery: whoever runs it runs the server.
    #[must_use]
    pub fn restore() -> Self {
        Self { activity: Activity::Restoring, ..Self::archiver() }
    }

    /// Whoever looks at an archive, for the server with this data directory.
    #[must_use]
    pub fn check(data_directory: Option<&'a Path>) -> Self {
        Self { activity: Activity::Checking, server: of_server(data_directory), data_directory }
    }

    /// Adds to an error what the permissions say, if it is a matter of permission.
    #[must_use]
    pub fn explained(&self, error: Error) -> Error {
        let found = self.explain(&error);
        match error {
            Error::Io { action, path, space, source, access: None } => {
                Error::Io { action, path, space, source, access: found.map(Box::new) }
            }
            error => error,
        }
    }

    /// Returns what the permissions say of an error that is a matter of permission.
    #[must_use]
    pub fn explain(&self, error: &Error) -> Option<Access> {
        let Error::Io { action, path, source, .. } = error else { return None };
        let of_archive = match error.kind() {
            ErrorKind::PermissionDenied => true,
            ErrorKind::DataDirectoryForbidden => false,
            _ => return None,
        };
        // Only root can give files away.
        if *action == Action::OwnIdentity {
            return None;
        }
        let refused = Refused::find(*action, path, source)?;
        let advice = self.advice(&refused, of_archive);
        Some(Access { found: self.found(&refused), advice })
    }

    fn found(&self, refused: &Refused) -> String {
        let Refused { path, there, .. } = refused;
        let (owner, group) = (name_of_user(there.uid()), name_of_group(there.gid()));
        let mode = there.mode() & 0o7777;
        let own = sys::user();
        let who = match self.server {
            Some(server) if server == own => format!("the server's user is {}", name_of_user(own)),
            Some(server) => format!(
                "the server's user is {}, and this is user {}",
                name_of_user(server),
                name_of_user(own)
            ),
            None => format!("this is user {}", name_of_user(own)),
        };
        format!(
            "\"{}\" belongs to user {owner} and group {group}, mode {mode:04o}; {who}.",
            path.display()
        )
    }

    fn advice(&self, refused: &Refused, of_archive: bool) -> String {
        let advice = self.advice_where_mounted(refused);
        // An administrator who follows the advice at a bare mount point has WAL archived under it. The identity
        // file shows that this is the archive.
        let is_archive = || refused.path.join(identity::FILE_NAME).symlink_metadata().is_ok();
        if !of_archive || !refused.is_last_directory() || refused.is_mount_point() || is_archive() {
            return advice;
        }
        let mut chars = advice.chars();
        let first = chars.next().map(|c| c.to_ascii_lowercase());
        let rest = first.into_iter().chain(chars).collect::<String>();
        format!("Check that the archive's file system is mounted. If it is, {rest}")
    }

    fn advice_where_mounted(&self, refused: &Refused) -> String {
        let own = sys::user();
        let path = shell_word(&refused.path.display().to_string());
        if refused.source == Some(libc::EPERM) {
            return format!(
                "Look for attributes (\"lsattr -d {path}\"), and at what the mount and SELinux or AppArmor allow: it is not owner and mode that forbid this."
            );
        }
        let Some(server) = self.server else {
            let user = name_of_user(own);
            // Root never runs the server.
            return match self.command(refused, own).filter(|_| own != 0) {
                Some(command) if refused.there.uid() == own => format!("Run {command}."),
                Some(command) => format!(
                    "Run this as the user that runs the server. If that is {user}, run {command}."
                ),
                None => "Run this as the user that runs the server.".to_owned(),
            };
        };
        if !self.permits(refused, server) {
            return self.command(refused, server).map_or_else(
                || {
                    format!(
                        "Give user {} permission to read it, and its files.",
                        name_of_user(server)
                    )
                },
                |command| format!("Run {command}."),
            );
        }
        if own != server {
            return format!("Run this as user {}.", name_of_user(server));
        }
        format!(
            "Look at access control lists (\"getfacl {path}\"), and at what the mount and SELinux or AppArmor allow: owner and mode permit this."
        )
    }

    fn is_member(&self, refused: &Refused, user: u32) -> bool {
        let group = refused.there.gid();
        is_group_of_server(group, Some(user), self.data_directory) == Some(true)
    }

    /// Returns whether owner and mode permit what was refused.
    fn permits(&self, refused: &Refused, user: u32) -> bool {
        let mode = refused.there.mode();
        let bits = if refused.there.uid() == user {
            mode >> 6
        } else if self.is_member(refused, user) {
            mode >> 3
        } else {
            mode
        };
        user == 0 || bits & refused.needed == refused.needed
    }

    /// Returns the command that gives the user what was refused, in quotes, and who has to run it; `None` if
    /// there is none that takes nothing from others.
    fn command(&self, refused: &Refused, user: u32) -> Option<String> {
        let (owner, mode) = (refused.there.uid(), refused.there.mode());
        let reads = self.activity == Activity::Restoring;
        let (bits, needed) = match refused.what {
            What::Ancestor => ("x", 0o100),
            What::File => ("r", 0o400),
            What::LastDirectory if reads => ("rx", 0o500),
            What::LastDirectory => ("rwx", 0o700),
        };
        let path = shell_word(&refused.path.display().to_string());
        let is_ancestor = refused.what == What::Ancestor;
        let name = name_of_user(user);
        if owner == user {
            return Some(format!("\"chmod u+{bits} {path}\""));
        }
        let by_group = is_ancestor || reads || (refused.is_last_directory() && owner == 0);
        if by_group && self.is_member(refused, user) {
            return Some(format!("\"chmod g+{bits} {path}\" as root"));
        }
        if is_ancestor {
            return Some(format!("\"chmod o+x {path}\" as root"));
        }
        if reads {
            return None;
        }
        Some(if mode & needed == needed {
            format!("\"chown {name} {path}\" as root")
        } else {
            format!("\"chown {name} {path} && chmod u+{bits} {path}\" as root")
        })
    }
}

/// What refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A directory on the way, which must be searched.
    Ancestor,
    /// The directory that the path names, or that holds the file.
    LastDirectory,
    /// The file.
    File,
}

#[derive(Debug)]
struct Refused {
    path: PathBuf,
    there: Metadata,
    what: What,
    /// The bits that are needed, as those of others.
    needed: u32,
    source: Option<i32>,
}

impl Refused {
    /// Follows a path to what refuses; `None` if that cannot be looked at.
    fn find(action: Action, path: &Path, source: &io::Error) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let creates = matches!(
            action,
            Action::CreateTemporary | Action::Publish | Action::RemoveProbe | Action::Remember
        );
        // The name that a file is to get, which may be taken.
        let path = match path.parent() {
            Some(parent) if creates && !path.is_dir() => parent.to_owned(),
            _ => path,
        };
        let (way, there, is_end) = follow(path.clone())?;
        let names_a_file = matches!(
            action,
            Action::ReadArchived | Action::ReadSource | Action::ReadControl | Action::ReadKnown
        );
        let is_last = is_end || (names_a_file && Some(way.as_path()) == path.parent());
        let (what, needed) = match is_end {
            false if is_last => (What::LastDirectory, 0o1),
            false => (What::Ancestor, 0o1),
            true if !there.is_dir() => (What::File, 0o4),
            true if creates => (What::LastDirectory, 0o3),
            true => (What::LastDirectory, 0o5),
        };
        Some(Self { path: way, there, what, needed, source: source.raw_os_error() })
    }

    fn is_last_directory(&self) -> bool {
        self.what == What::LastDirectory
    }

    fn is_mount_point(&self) -> bool {
        let parent = self.path.parent().and_then(|parent| fs::metadata(parent).ok());
        parent.is_none_or(|parent| parent.dev() != self.there.dev())
    }
}

/// Returns the directory on the way to a path that this process may not search; otherwise what the path leads
/// to, or the last directory before what is not there, and `true`.
fn follow(mut path: PathBuf) -> Option<(PathBuf, Metadata, bool)> {
    let mut links = 0;
    'anew: loop {
        let mut last = None;
        let mut ways: Vec<_> = path.ancestors().collect();
        ways.reverse();
        for way in ways {
            match fs::metadata(way) {
                Ok(there) => last = Some((way.to_owned(), there)),
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    // What refuses may be on the way to a link's target.
                    if let Ok(target) = fs::read_link(way)
                        && links < LINKS
                    {
                        links += 1;
                        let rest = path.strip_prefix(way).ok()?;
                        path = way.parent()?.join(target).join(rest);
                        continue 'anew;
                    }
                    return last.map(|(way, there)| (way, there, false));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(_) => return None,
            }
        }
        return last.map(|(way, there)| (way, there, true));
    }
}

/// Quotes a path or a URL for the shell, where that is needed.
#[must_use]
pub fn shell_word(location: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%:".contains(c);
    match location.chars().all(plain) {
        true => location.to_owned(),
        false => format!("'{}'", location.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn denied(action: Action, path: &Path, errno: i32) -> Error {
        Error::io(action, path, io::Error::from_raw_os_error(errno))
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Where owner and mode are not what forbids it, `chmod` does not help, and said that it did.
    #[test]
    fn what_owner_and_mode_permit_is_looked_for_elsewhere() {
        let temp = tempfile::tempdir().unwrap();
        let archive = temp.path().join("it's an archive");
        fs::create_dir(&archive).unwrap();
        chmod(&archive, 0o700);
        fs::write(archive.join(identity::FILE_NAME), "").unwrap();
        for (errno, says) in [(libc::EACCES, "getfacl '"), (libc::EPERM, "lsattr -d '")] {
            let error = denied(Action::CreateTemporary, &archive.join("x"), errno);
            let access = Asker::archiver().explain(&error).unwrap();
            assert!(access.advice.contains(says), "{access:?}");
            assert!(access.advice.contains(r"/it'\''s an archive'"), "{access:?}");
            assert!(access.advice.contains("SELinux or AppArmor"), "{access:?}");
            assert!(!access.advice.contains("chmod"), "{access:?}");
            let owner = name_of_user(sys::user());
            let begin = format!("\"{}\" belongs to user {owner} and group ", archive.display());
            assert!(access.found.starts_with(&begin), "{access:?}");
            let end = format!(", mode 0700; the server's user is {owner}.");
            assert!(access.found.ends_with(&end), "{access:?}");
        }
    }

    #[test]
    fn only_a_matter_of_permission_is_explained() {
        let temp = tempfile::tempdir().unwrap();
        for errno in [libc::ENOSPC, libc::EROFS, libc::ENOENT, libc::EIO] {
            let error = denied(Action::CreateTemporary, temp.path(), errno);
            assert_eq!(Asker::archiver().explain(&error), None, "{errno}");
        }
        let error = denied(Action::OwnIdentity, temp.path(), libc::EPERM);
        assert_eq!(Asker::archiver().explain(&error), None);
    }

    /// Judged from outside, so that it does not matter who runs the test.
    #[test]
    fn the_command_gives_the_server_what_it_lacks_and_takes_nothing_away() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        let owner = fs::metadata(dir).unwrap().uid();
        let other = 4_000_000;
        let asker =
            |activity, server| Asker { activity, server: Some(server), data_directory: None };
        let refused = |what, mode| {
            chmod(dir, mode);
            let there = fs::metadata(dir).unwrap();
            Refused { path: dir.into(), there, what, needed: 0o3, source: Some(libc::EACCES) }
        };
        let path = dir.display();
        let command = |activity, server, what, mode| {
            asker(activity, server).command(&refused(what, mode), server)
        };
        let (archiving, restoring) = (Activity::Archiving, Activity::Restoring);
        for (activity, server, what, mode, expected) in [
            (archiving, owner, What::LastDirectory, 0o500, format!("\"chmod u+rwx {path}\"")),
            (archiving, owner, What::Ancestor, 0o600, format!("\"chmod u+x {path}\"")),
            (archiving, other, What::Ancestor, 0o700, format!("\"chmod o+x {path}\" as root")),
            (
                archiving,
                other,
                What::LastDirectory,
                0o700,
                format!("\"chown {other} {path}\" as root"),
            ),
            (
                archiving,
                other,
                What::LastDirectory,
                0o500,
                format!("\"chown {other} {path} && chmod u+rwx {path}\" as root"),
            ),
            (restoring, owner, What::LastDirectory, 0o200, format!("\"chmod u+rx {path}\"")),
        ] {
            assert_eq!(command(activity, server, what, mode), Some(expected));
        }
        // An archive that another server writes must stay that server's.
        assert_eq!(command(restoring, other, What::LastDirectory, 0o700), None);
        chmod(dir, 0o700);
    }

    #[test]
    fn links_are_followed_to_what_refuses() {
        let temp = tempfile::tempdir().unwrap();
        let inner = temp.path().join("real/inner");
        fs::create_dir_all(&inner).unwrap();
        let link = temp.path().join("link");
        symlink("real", &link).unwrap();
        let (way, there, is_end) = follow(link.join("inner/not there")).unwrap();
        assert!(is_end && there.is_dir());
        assert_eq!(way, link.join("inner"));
        if sys::user() != 0 {
            chmod(&temp.path().join("real"), 0o600);
            let (way, _, is_end) = follow(link.join("inner/x")).unwrap();
            assert_eq!((way, is_end), (link.clone(), false));
            chmod(&temp.path().join("real"), 0o700);
        }
    }
}
