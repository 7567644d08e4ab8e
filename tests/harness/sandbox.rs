//! Servers on a kernel that lacks a system call. So the portable ways are tested with the library that is
//! shipped, not with one built for the test. And servers that orphans are given to, as in a container.
//!
//! The program `walsafe-without` installs a seccomp filter, which all processes of the server inherit.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::scratch::{Scratch, chmod};
use crate::server::{Account, as_server_user, in_clean_environment};

const WITHOUT: &str = "walsafe-without";
const SUBREAPER: &str = "walsafe-subreaper";

/// Why a postmaster becomes the parent of processes whose own has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopts {
    /// It is process 1 of a PID namespace, as in a container without an init. Needs root.
    Process1,
    /// It was started with the attribute of a subreaper, as by some supervisors.
    Subreaper,
}

/// A command that runs a server as its own user.
pub(crate) fn server_command(
    (denied, adopts): (&[Denied], Option<Adopts>),
    home: &Scratch,
    postgres: &Path,
) -> Command {
    let (program, before) = match adopts {
        None => (postgres.to_owned(), None),
        Some(Adopts::Subreaper) => (helper(home, SUBREAPER), Some(postgres)),
        Some(Adopts::Process1) => {
            let account = Account::of_server().expect("root, for a namespace");
            let mut command = Command::new("unshare");
            in_clean_environment(&mut command)
                .args(["--pid", "--fork", "--mount-proc", "setpriv", "--clear-groups"])
                .args(["--reuid", &account.uid.to_string(), "--regid", &account.gid.to_string()])
                .arg(postgres);
            assert!(denied.is_empty(), "nobody needed both yet");
            return command;
        }
    };
    let mut command = command(denied, home, &program);
    as_server_user(&mut command).args(before);
    command
}

/// A system call that fails, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// A name that `walsafe-without` knows.
    pub call: &'static str,
    /// Such as `EINVAL`.
    pub errno: &'static str,
}

impl Denied {
    /// `open` of an unnamed temporary file; plain opens work.
    pub const TMPFILE: Self = Self::new("O_TMPFILE", "EOPNOTSUPP");
    /// As on a file system that knows no `RENAME_NOREPLACE`.
    pub const RENAMEAT2: Self = Self::new("renameat2", "EINVAL");
    /// As on a file system without hard links.
    pub const LINKAT: Self = Self::new("linkat", "EPERM");
    /// Extended attributes by path.
    pub const SETXATTR: Self = Self::new("setxattr", "EOPNOTSUPP");
    /// Extended attributes by descriptor.
    pub const FSETXATTR: Self = Self::new("fsetxattr", "EOPNOTSUPP");

    /// The server sets a umask of its own when it starts; here that fails, and the umask is 000.
    pub const UMASK: Self = Self::new("umask", "EPERM");

    #[must_use]
    pub const fn new(call: &'static str, errno: &'static str) -> Self {
        Self { call, errno }
    }
}

/// A command that runs `program` where these system calls fail. `home` gets a copy of the helper, because
/// the server's user cannot reach the place where cargo puts it.
#[must_use]
pub fn command(denied: &[Denied], home: &Scratch, program: &Path) -> Command {
    if denied.is_empty() {
        return Command::new(program);
    }
    let mut command = Command::new(helper(home, WITHOUT));
    let denied = denied.iter().map(|Denied { call, errno }| format!("{call}={errno}"));
    command.args(denied).arg("--").arg(program);
    command
}

fn helper(home: &Scratch, name: &str) -> PathBuf {
    let copy = home.join(name);
    if !copy.exists() {
        // Test programs are in target/PROFILE/deps, programs one above.
        let test = std::env::current_exe().expect("our own path");
        let built = test.ancestors().nth(2).expect("a directory of cargo's").join(name);
        // By another process: a file that is open for writing here while another test starts a program
        // is open there too, and cannot be run ("text file busy").
        run(Command::new("cp").arg(&built).arg(&copy));
        chmod(&copy, 0o755);
    }
    copy
}
