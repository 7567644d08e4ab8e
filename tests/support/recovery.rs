//! What the tests of recoveries have in common: a primary with rows to count, and its archive.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use harness::command::run_within;
use harness::server::as_server_user;
use harness::{Backup, Cluster, ClusterBuilder, Scratch, Server, TIMEOUT};

/// The `restore_command` of the documentation.
pub fn restore_command(archive: &Path) -> String {
    restore_command_with(archive, "")
}

/// The same, with further options.
pub fn restore_command_with(archive: &Path, options: &str) -> String {
    restore_command_from(&[archive], options)
}

/// The same, from several archives.
pub fn restore_command_from(archives: &[&Path], options: &str) -> String {
    let program = Server::under_test().walsafe();
    let from: Vec<_> =
        archives.iter().map(|archive| format!("--from {}", archive.display())).collect();
    format!("{} restore {} {options} %f \"%p\"", program.display(), from.join(" "))
}

/// The result of a call of `walsafe`.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs `walsafe` as the server's user.
pub fn walsafe(arguments: &[&str]) -> Run {
    walsafe_in(Path::new("/"), arguments)
}

/// The same, in a directory.
pub fn walsafe_in(directory: &Path, arguments: &[&str]) -> Run {
    let mut command = Command::new(Server::under_test().walsafe());
    as_server_user(&mut command).args(arguments).current_dir(directory);
    let output = run_within(&mut command, "", TIMEOUT);
    Run { code: output.code(), out: output.stdout, err: output.stderr }
}

/// The findings of `walsafe verify`, as lines `file: kind: reason`.
pub fn findings(archive: &Path) -> Vec<String> {
    let run = walsafe(&["verify", path(archive)]);
    assert!(matches!(run.code, Some(0 | 1)), "{run:?}");
    let found: Vec<String> = run
        .out
        .lines()
        .take_while(|line| !line.starts_with("checked "))
        .filter(|line| !line.starts_with("    "))
        .map(str::to_owned)
        .collect();
    assert_eq!(run.code == Some(0), found.is_empty(), "{run:?}");
    found
}

#[track_caller]
pub fn assert_clean(archive: &Path) {
    assert_eq!(findings(archive), Vec::<String>::new());
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// A primary that archives with the module, and a base backup that needs the archive.
pub struct Origin {
    pub archive: Scratch,
    pub primary: Cluster,
    pub backup: Backup,
}

impl Origin {
    pub fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// Rows 1 to 3 in the archive of a primary that is gone.
    pub fn lost() -> Self {
        let origin = Self::new();
        for n in 1..=3 {
            origin.row(n);
        }
        origin.lose();
        origin
    }

    /// The same, with further settings.
    pub fn with(configure: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        let archive = Scratch::new("archive");
        let primary = configure(Cluster::archiving_to(archive.path())).start();
        primary.sql("CREATE TABLE rows (n int)");
        let backup = primary.base_backup_without_wal();
        Self { archive, primary, backup }
    }

    /// Adds a row, and WAL of some segments behind it.
    pub fn row(&self, n: u32) {
        add_row(&self.primary, n);
    }

    /// Ends the primary, with everything archived.
    pub fn lose(&self) {
        lose(&self.primary);
    }

    /// A cluster to be recovered from the backup and the archive.
    pub fn recovery(&self) -> ClusterBuilder {
        self.recovery_from(self.archive.path())
    }

    /// The same, from another archive.
    pub fn recovery_from(&self, archive: &Path) -> ClusterBuilder {
        self.backup.restore_copy().recovery().set("restore_command", &restore_command(archive))
    }

    /// A standby that has nothing but the archive.
    pub fn standby(&self) -> ClusterBuilder {
        let command = restore_command_with(self.archive.path(), "--on-error=stop");
        self.backup.restore_copy().standby().set("restore_command", &command)
    }

    pub fn stored(&self, name: &str) -> PathBuf {
        self.archive.join(name)
    }
}

/// A call of `walsafe` under a process 1 of its own, which says how each of its children and orphans has ended.
pub struct UnderInit {
    init: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl UnderInit {
    /// Starts the call in a directory.
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        let program = "$| = 1; my $own = fork(); if (!$own) { exec @ARGV; } \
            while ((my $pid = wait()) != -1) { print $pid == $own ? 'own' : 'orphan', \" $?\\n\"; }";
        let mut init = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "perl", "-e", program])
            .arg(Server::under_test().walsafe())
            .args(arguments)
            .current_dir(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare");
        let lines = BufReader::new(init.stdout.take().expect("its output")).lines();
        Self { init, lines }
    }

    /// How the next process has ended: `own` or `orphan`, and what `wait` said.
    pub fn next_end(&mut self) -> Option<String> {
        self.lines.next().map(|line| line.expect("a line"))
    }

    /// Waits until there is no process left.
    #[track_caller]
    pub fn end(mut self) {
        assert_eq!(self.next_end(), None);
        assert!(self.init.wait().expect("unshare").success());
    }
}

/// The whole segments in an archive.
pub fn segments(archive: &Scratch) -> Vec<String> {
    archive.names().into_iter().filter(|name| name.len() == 24).collect()
}

/// Waits until a recovery that ends with a promotion has ended, and counts the rows.
#[track_caller]
pub fn rows_after_recovery(cluster: &Cluster) -> String {
    cluster.wait_recovered();
    rows(cluster)
}

/// The rows, `1,2,3`.
#[track_caller]
pub fn rows(cluster: &Cluster) -> String {
    cluster.sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM rows")
}

/// Starts a recovery that has to stop with an error, and returns its log.
#[track_caller]
pub fn refuses(cluster: &Cluster, reason: &str) {
    let mark = cluster.mark();
    cluster.launch();
    let status: ExitStatus = cluster.wait_exit(Duration::from_secs(60));
    assert!(!status.success(), "the recovery came to an end: {status:?}");
    let log = cluster.log().since(mark);
    assert!(log.contains(reason), "the log does not say \"{reason}\":\n{log}");
    assert!(!log.contains("archive recovery complete"), "{log}");
    assert!(!log.contains("selected new timeline"), "{log}");
}

/// Adds a row, and WAL of some segments behind it.
pub fn add_row(primary: &Cluster, n: u32) {
    primary.sql(&format!("INSERT INTO rows VALUES ({n})"));
    primary.fill_whole_segments(2);
}

/// Ends a primary, with everything archived.
pub fn lose(primary: &Cluster) {
    primary.switch_wal();
    primary.wait_all_archived();
    primary.kill_all();
}
