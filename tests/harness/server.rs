//! A PostgreSQL installation, and the user that servers run as.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::command::run;
use crate::scratch::{Scratch, chmod};

/// The user that clusters run as when we are root, because PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// `None` if clusters run as our own user.
    #[must_use]
    pub fn of_server() -> Option<Self> {
        static ACCOUNT: OnceLock<Option<Account>> = OnceLock::new();
        *ACCOUNT.get_or_init(|| {
            let id = |flag| {
                let text = run(Command::new("id").args([flag, "postgres"]));
                text.trim().parse().expect("id prints a number")
            };
            rustix::process::geteuid().is_root().then(|| Account { uid: id("-u"), gid: id("-g") })
        })
    }
}

/// Lets a command run as the server's user, in a directory where it may be, with a clean environment.
pub fn as_server_user(command: &mut Command) -> &mut Command {
    if let Some(account) = Account::of_server() {
        command.uid(account.uid).gid(account.gid);
    }
    in_clean_environment(command)
}

/// Takes away what the tests' own environment says to a server or its clients.
pub(crate) fn in_clean_environment(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("PG") || name_text.starts_with("LC_") {
            command.env_remove(&name);
        }
    }
    command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/")
}

/// An installation of PostgreSQL with the extension.
#[derive(Debug, Clone)]
pub struct Server {
    pub major: u32,
    /// As `pg_config --version` prints it.
    pub version: String,
    pub bindir: PathBuf,
    pub pkglibdir: PathBuf,
    pub sharedir: PathBuf,
}

impl Server {
    /// The server under test: that of `WALSAFE_PG_CONFIG`, else Debian's PostgreSQL 15.
    #[must_use]
    pub fn under_test() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            let pg_config = std::env::var_os("WALSAFE_PG_CONFIG")
                .unwrap_or_else(|| "/usr/lib/postgresql/15/bin/pg_config".into());
            Self::from_pg_config(Path::new(&pg_config))
        })
    }

    /// The installation that a `pg_config` describes.
    #[must_use]
    pub fn from_pg_config(pg_config: &Path) -> Self {
        let ask = |what| run(Command::new(pg_config).arg(what)).trim().to_owned();
        let version = ask("--version");
        let major = version
            .trim_start_matches("PostgreSQL ")
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("no version number in \"{version}\""));
        Self {
            major,
            version,
            bindir: ask("--bindir").into(),
            pkglibdir: ask("--pkglibdir").into(),
            sharedir: ask("--sharedir").into(),
        }
    }

    /// Where `tools/test-server` put it; `None` for another server.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.bindir.ancestors().find(|dir| dir.join("made").is_file())
    }

    /// A copy of this tree's copy of the server, for a test that replaces its files. Hard links, so that
    /// it costs nothing; installing replaces files and writes into none.
    ///
    /// # Errors This is not a server that `tools/test-server` made.
    pub fn copy_to(&self, dir: &Scratch) -> Result<Self, String> {
        let root = self.root().ok_or("needs a server made by tools/test-server")?;
        // The server's user has to reach it.
        chmod(dir.path(), 0o755);
        let copy = dir.join("server");
        let from = root.join(".");
        let links = Command::new("cp").arg("-al").arg(&from).arg(&copy).status();
        if !links.is_ok_and(|status| status.success()) {
            run(Command::new("cp").arg("-a").arg(from).arg(&copy));
        }
        let inside = self.bindir.strip_prefix(root).expect("an ancestor");
        Ok(Self::from_pg_config(&copy.join(inside).join("pg_config")))
    }

    /// This tree's copy of another server: `15` is Debian's own, the others are those of
    /// `tools/get-server`. It has the extension if that version's tests were run before.
    ///
    /// # Errors
    /// It is not on this machine.
    pub fn copy_of(version: &str) -> Result<Self, String> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools");
        let ask = |tool: &str, arguments: &[&str]| {
            let output = Command::new(tools.join(tool)).args(arguments).output();
            let output = output.ok().filter(|output| output.status.success());
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let original = match version {
            "15" => Some("/usr/lib/postgresql/15/bin/pg_config".to_owned()),
            other => ask("get-server", &["--if-there", other]),
        };
        original
            .and_then(|pg_config| ask("test-server", &[&pg_config]))
            .map(|pg_config| Self::from_pg_config(Path::new(&pg_config)))
            .ok_or_else(|| format!("needs tools/get-server {version}"))
    }

    /// Installs the extension and the program that another server has.
    pub fn install_from(&self, other: &Self) {
        let files = [
            (&other.pkglibdir, "walsafe_archive.so", &self.pkglibdir),
            (&other.bindir, "walsafe", &self.bindir),
            (
                &other.sharedir.join("extension"),
                "walsafe_archive*",
                &self.sharedir.join("extension"),
            ),
        ];
        for (from, names, to) in files {
            let copy = format!("cp {}/{names} {}", from.display(), to.display());
            run(Command::new("sh").args(["-c", &copy]));
        }
    }

    /// One of the server's programs, run as the server's user.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bindir.join(program));
        as_server_user(&mut command);
        command
    }

    /// The `PATH` with the server's programs and `walsafe` first.
    #[must_use]
    pub fn path(&self) -> OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let rest = std::env::split_paths(&path);
        let paths = [self.bindir.clone()].into_iter().chain(rest);
        std::env::join_paths(paths).expect("no colon in a path of ours")
    }

    /// The program `walsafe`, as `make install` put it beside the server's own.
    #[must_use]
    pub fn walsafe(&self) -> PathBuf {
        self.bindir.join("walsafe")
    }

    /// Whether a module or extension is installed, such as `basic_archive`.
    #[must_use]
    pub fn has_library(&self, name: &str) -> bool {
        self.pkglibdir.join(format!("{name}.so")).is_file()
    }
}
