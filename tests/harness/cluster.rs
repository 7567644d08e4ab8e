//! A running cluster with its own data directory and socket.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::builder::{ClusterBuilder, conf_line};
use crate::command::{Output, run_within};
use crate::log::{Log, Mark, Report};
use crate::sandbox::{self, Adopts};
use crate::scratch::{self, Scratch};
use crate::server::{Server, as_server_user};
use crate::wait::{TIMEOUT, poll};
use crate::{process, wal};

/// The ways to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits for the sessions to end.
    Smart,
    /// Ends the sessions, and archives what is waiting.
    Fast,
    /// As in a crash.
    Immediate,
}

/// A cluster. When it is dropped, it is stopped at once and removed. A failed test shows the end of its
/// log.
#[derive(Debug)]
pub struct Cluster {
    // Stopped before its files are removed: `drop` below runs before the fields are dropped.
    postmaster: Mutex<Option<Child>>,
    setup: ClusterBuilder,
    data: PathBuf,
    log: Log,
    home: Scratch,
}

impl Cluster {
    /// A cluster to set up.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    /// A cluster to set up that archives with the module under test.
    #[must_use]
    pub fn archiving_to(destination: &Path) -> ClusterBuilder {
        ClusterBuilder::new().archive_to(destination)
    }

    pub(crate) fn new(setup: ClusterBuilder, home: Scratch) -> Self {
        Self {
            postmaster: Mutex::new(None),
            setup,
            data: home.join("data"),
            log: Log::new(home.join("log")),
            home,
        }
    }

    #[must_use]
    pub fn server(&self) -> &Server {
        &self.setup.server
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of the socket, for programs that make their own connections.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.home.path()
    }

    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The end of the log, now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.log.mark()
    }

    /// Waits for a line in the log after the mark.
    #[track_caller]
    pub fn wait_for_log(&self, mark: Mark, text: &str) -> String {
        self.log.wait_for(mark, text, TIMEOUT)
    }

    /// Waits for a report of the archiver with this SQLSTATE after the mark.
    #[track_caller]
    pub fn wait_for_report(&self, mark: Mark, sqlstate: &str) -> Report {
        self.log.wait_for_archiver_report(mark, sqlstate, TIMEOUT)
    }

    /// Starts it and waits until it accepts connections.
    #[track_caller]
    pub fn start(&self) {
        self.launch();
        let began = Instant::now();
        let state = poll(TIMEOUT, || {
            let ended =
                self.child().as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            match self.pid_file_status().as_deref() {
                Some("ready" | "standby") if !ended => Some(true),
                _ => ended.then_some(false),
            }
        });
        if state != Some(true) {
            panic!("the server did not start within {:?}", began.elapsed());
        }
    }

    /// Starts it and does not wait: for a recovery that is to fail, or takes long.
    pub fn launch(&self) {
        assert!(self.child().is_none(), "the server runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log.path())
            .expect("the log can be written");
        let postgres = self.server().bindir.join("postgres");
        let place = (&*self.setup.denied, self.setup.adopts);
        let mut command = sandbox::server_command(place, &self.home, &postgres);
        command
            // Commands in its configuration find walsafe, as an administrator sees to it.
            .env("PATH", self.server().path())
            .arg("-D")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("could not run {command:?}: {error}"));
        let id = child.id();
        *self.child() = Some(child);
        if self.setup.adopts == Some(Adopts::Process1) {
            let id = i32::try_from(id).expect("a process id");
            let forked = || (!process::children(id).is_empty()).then_some(()).or(self.ended());
            self.wait_until("the namespace", forked);
        }
    }

    fn ended(&self) -> Option<()> {
        (!self.is_running()).then_some(())
    }

    /// The last line of postmaster.pid: `starting`, `stopping`, `ready` or `standby`.
    #[must_use]
    pub fn pid_file_status(&self) -> Option<String> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        // A crashed server leaves its postmaster.pid.
        let pid = if self.setup.adopts == Some(Adopts::Process1) { 1 } else { self.pid() };
        let ours = text.lines().next()? == pid.to_string();
        let status = text.lines().nth(7)?.trim().to_owned();
        ours.then_some(status)
    }

    /// The postmaster's process id.
    #[must_use]
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let id = self.child().as_ref().expect("the server runs").id();
        let id = i32::try_from(id).expect("a process id");
        match self.setup.adopts {
            // What made the namespace waits for it.
            Some(Adopts::Process1) => process::children(id).first().copied().unwrap_or(id),
            Some(Adopts::Subreaper) | None => id,
        }
    }

    /// Whether the postmaster runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Stops it; returns how long that took. Panics after two minutes.
    #[track_caller]
    pub fn stop(&self, how: Stop) -> Duration {
        let began = Instant::now();
        self.request_stop(how);
        self.wait_exit(Duration::from_secs(120));
        began.elapsed()
    }

    /// Asks it to stop, and returns at once.
    pub fn request_stop(&self, how: Stop) {
        let signal = match how {
            Stop::Smart => Signal::TERM,
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        process::signal(self.pid(), signal);
    }

    /// Waits until the postmaster has ended, by request or by itself.
    #[track_caller]
    pub fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        match self.try_wait_exit(timeout) {
            Some(status) => status,
            None => panic!("the server did not stop within {timeout:?}"),
        }
    }

    /// The same; `None` if it still runs after that time.
    pub fn try_wait_exit(&self, timeout: Duration) -> Option<ExitStatus> {
        let status = poll(timeout, || self.child().as_mut()?.try_wait().expect("our child"))?;
        *self.child() = None;
        Some(status)
    }

    /// Kills the postmaster alone (SIGKILL). Its children notice, or should.
    pub fn kill_postmaster(&self) {
        process::signal(self.pid(), Signal::KILL);
        self.wait_exit(TIMEOUT);
    }

    /// Kills every process at once, as a crash of the machine would.
    pub fn kill_all(&self) {
        process::signal(self.pid(), Signal::KILL);
        process::kill_all_in(&self.data);
        self.wait_exit(TIMEOUT);
    }

    #[track_caller]
    pub fn restart(&self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// Has the configuration files read again. Each process does so when it gets to it.
    pub fn reload(&self) {
        process::signal(self.pid(), Signal::HUP);
    }

    /// Adds a line to postgresql.conf; takes effect at the next reload or start.
    pub fn set_conf(&self, name: &str, value: &str) {
        let conf = self.data.join("postgresql.conf");
        let mut text = fs::read_to_string(&conf).expect("postgresql.conf");
        text.push_str(&conf_line(name, value));
        scratch::write(&conf, text);
    }

    /// Changes a setting and has it read. The archiver looks between two files.
    pub fn reconfigure(&self, name: &str, value: &str) {
        self.set_conf(name, value);
        self.reload();
    }

    /// Runs SQL that has to succeed; returns rows as lines, columns separated by `|`. Statements
    /// run one by one, each a transaction.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        match self.psql(sql) {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}\n{error}"),
        }
    }

    /// Runs SQL; returns the rows, or what psql said, SQLSTATE and all.
    pub fn psql(&self, sql: &str) -> Result<String, String> {
        let output = self.psql_within(sql, TIMEOUT);
        if output.success() {
            Ok(output.stdout.trim_end_matches('\n').to_owned())
        } else if output.status.is_none() {
            Err(format!("timed out after {TIMEOUT:?}\n{}", output.stderr))
        } else {
            Err(output.stderr)
        }
    }

    /// Runs SQL with a time limit and returns all that came of it, warnings on `stderr` included.
    pub fn psql_within(&self, sql: &str, timeout: Duration) -> Output {
        let mut command = self.client("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-f", "-"]);
        run_within(&mut command, sql, timeout)
    }

    /// A client program that connects to this cluster, as `postgres` to database `postgres`.
    #[must_use]
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.server().command(program);
        command
            .env("PGHOST", self.home.path())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// A shell script as the server's user, with this cluster's programs first in the `PATH`, and
    /// clients connecting to it. It ends at the first command that fails.
    #[must_use]
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        as_server_user(&mut command)
            .args(["-e", "-o", "pipefail", "-c", script])
            .env("PATH", self.server().path())
            .env("PGHOST", self.home.path())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// Changes a setting with ALTER SYSTEM, and has it read.
    #[track_caller]
    pub fn alter_system(&self, name: &str, value: &str) {
        let value = value.replace('\'', "''");
        self.sql(&format!("ALTER SYSTEM SET {name} = '{value}'; SELECT pg_reload_conf()"));
    }

    /// The archiver's process id; `None` while there is no archiver.
    #[must_use]
    pub fn archiver_pid(&self) -> Option<i32> {
        process::children(self.pid())
            .into_iter()
            .find(|&pid| process::title(pid).starts_with("postgres: archiver"))
    }

    /// Waits until there is an archiver.
    #[must_use]
    #[track_caller]
    pub fn wait_archiver(&self) -> i32 {
        self.wait_until("an archiver", || self.archiver_pid())
    }

    /// Has the archiver look for files at once: after three failures it sleeps for a minute.
    pub fn wake_archiver(&self) {
        if let Some(pid) = self.archiver_pid() {
            // It only sets the latch of a process that has nothing to do.
            process::signal(pid, Signal::USR1);
        }
    }

    /// Waits for something; panics after [`TIMEOUT`].
    #[track_caller]
    pub fn wait_until<T>(&self, what: &str, ready: impl FnMut() -> Option<T>) -> T {
        match poll(TIMEOUT, ready) {
            Some(value) => value,
            None => panic!("waited {TIMEOUT:?} in vain for {what}"),
        }
    }

    /// The system identifier.
    #[must_use]
    pub fn system_identifier(&self) -> u64 {
        wal::system_identifier(self.server(), &self.data)
    }

    /// Removes the shared memory segment by which the next server would notice one that was killed.
    fn remove_shared_memory(&self) {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        // Its line holds key and identifier.
        if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            drop(Command::new("ipcrm").args(["-m", id]).output());
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that panicked with it locked still has to clean up.
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_running() {
            self.request_stop(Stop::Immediate);
            if self.try_wait_exit(Duration::from_secs(10)).is_none() {
                process::signal(self.pid(), Signal::KILL);
            }
        }
        process::kill_all_in(&self.data);
        if self.child().is_some() {
            let _ = self.try_wait_exit(Duration::from_secs(5));
        }
        self.remove_shared_memory();
        if std::thread::panicking() {
            eprintln!("the log of {} ends:\n{}", self.data.display(), self.log.tail());
        }
    }
}
