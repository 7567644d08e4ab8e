//! A recovery in which the test asks for each file in the server's place, to look and to meddle between two questions.

use std::fs;
use std::path::PathBuf;

use harness::{Cluster, ClusterBuilder, scratch, wait_until};

use super::ahead::{Far, PROMPT, fetched_ahead, held, next, spool};
use super::recovery::{Run, path, walsafe_in};

/// A standby that finds nothing by itself: the test asks for files as it would.
pub struct Asking<'a> {
    pub far: &'a Far,
    pub server: Cluster,
    /// What it is asked with, beside the archive.
    pub options: Vec<String>,
}

/// What came of a question.
#[derive(Debug)]
pub struct Asked {
    pub run: Run,
    /// The file, if it was delivered.
    pub file: Option<Vec<u8>>,
    /// Its permissions.
    pub mode: u32,
}

impl<'a> Asking<'a> {
    pub fn new(far: &'a Far) -> Self {
        Self::with(far, |builder| builder, |_| ())
    }

    /// The same, of a cluster that is set up and prepared.
    pub fn with(
        far: &'a Far,
        setup: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
        prepare: impl FnOnce(&Cluster),
    ) -> Self {
        // It does not ask again, which would take away what the test has got.
        let standby = far.backup.restore_copy().standby().set("restore_command", "false");
        let standby = standby.set("wal_retrieve_retry_interval", "1h");
        let server = setup(standby).create();
        prepare(&server);
        let asking = Self { far, server, options: Vec::new() };
        asking.launch();
        asking
    }

    /// It never gets so far as to accept connections.
    #[track_caller]
    pub fn launch(&self) {
        let mark = self.server.mark();
        self.server.launch();
        self.server.wait_for_log(mark, "entering standby mode");
    }

    /// Starts the server again, as after a crash, when nobody fetches for the earlier one any more.
    #[track_caller]
    pub fn relaunch(&self) {
        self.server.kill_all();
        wait_until(PROMPT, "the process that fetches ahead to end", || {
            self.far.helpers().is_empty().then_some(())
        });
        self.launch();
    }

    pub fn spool(&self) -> PathBuf {
        spool(&self.server)
    }

    /// Asks for a segment.
    pub fn ask(&self, name: &str) -> Asked {
        self.ask_for(name, "pg_wal/RECOVERYXLOG", &[])
    }

    pub fn ask_for(&self, name: &str, target: &str, more: &[&str]) -> Asked {
        use std::os::unix::fs::PermissionsExt;
        let keys = self.far.objects.credentials();
        let options = self.options.iter().map(String::as_str);
        let from = ["--from", self.far.objects.url(), "--credentials-file", path(&keys)];
        let mut arguments = vec!["restore", "--verbose"];
        arguments.extend(options.chain(more.iter().copied()).chain(from).chain([name, target]));
        let run = walsafe_in(self.server.data(), &arguments);
        let target = self.server.data().join(target);
        let mode = target.metadata().map_or(0, |found| found.permissions().mode() & 0o7777);
        let file = fs::read(&target).ok();
        drop(fs::remove_file(&target));
        Asked { run, file, mode }
    }

    /// Asks for two segments one after the other, as a server that replays, until what is behind them is fetched.
    /// Returns the next two, which are there.
    #[track_caller]
    pub fn fetch_behind(&self, name: &str) -> [String; 2] {
        self.ask_sound(name);
        self.go_on_to(&next(name))
    }

    /// Asks for a segment, behind one that was asked for, in the same way.
    #[track_caller]
    pub fn go_on_to(&self, name: &str) -> [String; 2] {
        self.ask_sound(name);
        let (names, spool) = ([next(name), next(&next(name))], self.spool());
        self.server.wait_until(&format!("{names:?} to be fetched"), || {
            let held = held(&spool);
            names.iter().all(|name| held.contains(name)).then_some(())
        });
        names
    }

    /// Asks for a segment, which has to be delivered, from wherever.
    #[track_caller]
    pub fn ask_sound(&self, name: &str) {
        let asked = self.ask(name);
        assert!(asked.is(self.far, name), "{name}: {:?}", asked.run);
    }

    /// The segment that is asked for first, and those behind it.
    pub fn segments(&self) -> Vec<String> {
        let label = scratch::read(&self.server.data().join("backup_label"));
        let label = String::from_utf8_lossy(&label).into_owned();
        let first = label.split_once("(file ").expect("a backup label").1[..24].to_owned();
        let mut names = self.far.objects.segments();
        names.retain(|name| *name >= first);
        names
    }
}

impl Asked {
    /// Returns whether it was delivered as the archive has it.
    pub fn is(&self, far: &Far, name: &str) -> bool {
        self.run.code == Some(0) && self.file == far.near.get(name)
    }

    /// The same, out of the spool.
    #[track_caller]
    pub fn assert_from_spool(&self, far: &Far, name: &str) {
        assert!(self.is(far, name), "{name}: {:?}", self.run);
        assert_eq!(fetched_ahead(&self.run.err), [name], "{:?}", self.run);
    }

    /// The same, out of the archive.
    #[track_caller]
    pub fn assert_from_archive(&self, far: &Far, name: &str) {
        assert!(self.is(far, name), "{name}: {:?}", self.run);
        assert_eq!(fetched_ahead(&self.run.err), [""; 0], "{:?}", self.run);
    }
}
