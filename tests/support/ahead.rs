//! What the tests of fetching ahead have in common: an archive on the other side of a network, recoveries from it,
//! and a look at what was fetched and by whom.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use harness::command::run;
use harness::object::{Kind, Latency, ObjectServer, Proxy};
use harness::process::{running, title};
use harness::{Backup, Cluster, ClusterBuilder, Mount, Scratch, scratch, wait_until};

use super::bucket::Objects;
use super::recovery::{self, path, rows};

/// Each way: some requests one after the other take longer than the server needs for a segment.
const LATENCY: Duration = Duration::from_millis(20);

/// In which a helper has to end once nobody needs it any more.
pub const PROMPT: Duration = Duration::from_secs(10);

/// The rows in [`Far::lost`].
pub const ALL: &str = "1,2,3,4,5,6,7,8,9,10";

/// An archive in a bucket, and the way from there to those that are recovered, over a network of this test's own.
pub struct Far {
    /// As a recovery reaches it.
    pub objects: Objects,
    /// What its requests pass.
    pub proxy: Proxy,
    source: Arc<Source>,
    _network: Latency,
}

/// A primary that archives into a bucket, and a base backup that needs the archive.
pub struct Source {
    pub primary: Cluster,
    pub backup: Backup,
    /// The archive as the primary reaches it.
    pub near: Objects,
}

impl Deref for Far {
    type Target = Source;

    fn deref(&self) -> &Source {
        &self.source
    }
}

impl Source {
    fn new() -> Self {
        let near = Objects::new(ObjectServer::shared(Kind::SeaweedFs).bucket());
        let primary = near.archiving(Cluster::builder()).start();
        primary.sql("CREATE TABLE rows (n int)");
        let backup = primary.base_backup_without_wal();
        Self { primary, backup, near }
    }

    fn lost(rows: u32) -> Self {
        let source = Self::new();
        for n in 1..=rows {
            source.row(n);
            if n == 2 {
                source.primary.sql("SELECT pg_create_restore_point('early')");
            }
        }
        source.lose();
        source
    }

    /// Adds a row, and WAL of some segments behind it.
    pub fn row(&self, n: u32) {
        recovery::add_row(&self.primary, n);
    }

    /// Ends the primary, with everything archived.
    pub fn lose(&self) {
        recovery::lose(&self.primary);
    }
}

impl Far {
    pub fn new() -> Self {
        Self::to(Arc::new(Source::new()))
    }

    /// Rows 1 to 10 in the archive of a primary that is gone, and a restore point `early` behind the second. Other
    /// tests use the archive too: nothing in it may change.
    pub fn lost() -> Self {
        static LOST: Mutex<Weak<Source>> = Mutex::new(Weak::new());
        let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        Self::to(lost.upgrade().unwrap_or_else(|| {
            let source = Arc::new(Source::lost(10));
            *lost = Arc::downgrade(&source);
            source
        }))
    }

    /// The same with so many rows, and an archive of this test's own.
    pub fn lost_with(rows: u32) -> Self {
        Self::to(Arc::new(Source::lost(rows)))
    }

    fn to(source: Arc<Source>) -> Self {
        let bucket = source.near.bucket.clone();
        let network = Latency::in_front_of(bucket.address, LATENCY);
        let proxy = Proxy::in_front_of(network.address());
        let objects = Objects::new(bucket).behind(proxy.address());
        Self { objects, proxy, source, _network: network }
    }

    /// The `restore_command`, which says what was fetched ahead.
    pub fn command(&self, options: &str) -> String {
        self.objects.restore_command_with(&format!("--verbose {options}"))
    }

    /// A cluster to be recovered from the backup and the archive.
    pub fn recovery(&self, options: &str) -> ClusterBuilder {
        self.backup.restore_copy().recovery().set("restore_command", &self.command(options))
    }

    /// The same, which goes no further than to the restore point `early`, and does this there.
    pub fn early(&self, action: &str) -> ClusterBuilder {
        self.recovery("").set("recovery_target_name", "early").set("recovery_target_action", action)
    }

    /// A standby that has nothing but the archive.
    pub fn standby(&self, options: &str) -> ClusterBuilder {
        self.backup.restore_copy().standby().set("restore_command", &self.command(options))
    }

    /// The processes of `walsafe` that use this archive, but for those of the tests.
    pub fn processes(&self) -> Vec<i32> {
        let keys = self.objects.credentials();
        running(|pid| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program.ends_with("walsafe") && title(pid).contains(path(&keys))
        })
    }

    /// Those that fetch ahead.
    pub fn helpers(&self) -> Vec<i32> {
        let mut pids = self.processes();
        pids.retain(|pid| title(*pid).contains("restore-ahead"));
        pids
    }

    /// Waits for the one process that fetches ahead.
    #[track_caller]
    pub fn helper(&self) -> i32 {
        wait_until(PROMPT, "a process that fetches ahead", || match self.helpers()[..] {
            [pid] => Some(pid),
            _ => None,
        })
    }

    /// Nobody fetches ahead any more, and nothing is left of what was fetched.
    #[track_caller]
    pub fn assert_over(&self, spool: &Path) {
        wait_until(PROMPT, "the process that fetches ahead to end", || {
            self.helpers().is_empty().then_some(())
        });
        // One that an administrator has named stays, empty.
        let is_usual = spool.ends_with(".walsafe-spool");
        assert!(!(is_usual && spool.exists()), "{} is there", spool.display());
        assert_eq!(scratch::names(spool), [""; 0], "{}", spool.display());
    }
}

/// Where a cluster's `restore_command` keeps what it has fetched ahead.
pub fn spool(cluster: &Cluster) -> PathBuf {
    cluster.pg_wal().join(".walsafe-spool")
}

/// Moves the WAL of a cluster that does not run to a file system of its own.
pub fn move_pg_wal(cluster: &Cluster, mount: &Mount) {
    let (own, moved) = (cluster.pg_wal(), mount.join("pg_wal"));
    run(Command::new("cp").arg("-a").arg(&own).arg(&moved));
    fs::remove_dir_all(&own).expect("removed");
    symlink(&moved, &own).expect("a link");
}

/// The segments in a spool that may be delivered.
pub fn held(spool: &Path) -> Vec<String> {
    let names = scratch::names(spool);
    let noted = |name: &&String| names.contains(&format!("{name}.note"));
    names.iter().filter(|name| name.len() == 24).filter(noted).cloned().collect()
}

/// The files that a server's log, or what a call has said, names as fetched ahead.
pub fn fetched_ahead(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains(", fetched ahead"));
    lines.filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
}

/// The segments that a server has restored, by its log, in this order.
pub fn restored(log: &str) -> Vec<String> {
    let after =
        |line: &str| Some(line.split_once("restored log file \"")?.1.split_once('"')?.0.to_owned());
    log.lines().filter_map(after).filter(|name| name.len() == 24).collect()
}

/// The segment behind another one.
pub fn next(name: &str) -> String {
    let number = u32::from_str_radix(&name[16..], 16).expect("a segment's name");
    format!("{}{:08X}", &name[..16], number + 1)
}

/// A standby that waits in the middle of its replay, with row 2 and without row 3, while rows up to 6 are in its
/// archive, and some of those fetched. Their primary is gone.
pub struct Stopped {
    pub standby: Cluster,
    pub far: Far,
    reader: Child,
    _gate: Scratch,
}

impl Stopped {
    pub fn new(setup: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        let far = Far::new();
        far.primary.sql("CREATE TABLE read (n int)");
        far.row(1);
        let home = Scratch::new("gate");
        let gate = home.join("closed");
        // Finds nothing while the gate is closed: all of it has to be there before the first segment is.
        let command = format!("test ! -e {} && {}", gate.display(), far.command(""));
        let standby = far.standby("").set("restore_command", &command);
        let standby = setup(standby.set("max_standby_archive_delay", "-1")).start();
        standby.wait_replayed(&far.primary.sql("SELECT pg_switch_wal()"));
        scratch::write(&gate, "");
        let mut reader = standby.client("psql");
        let reading = "BEGIN; SELECT * FROM read; SELECT pg_sleep(600)";
        let reader = reader.args(["-X", "-c", reading]).stdout(Stdio::null()).stderr(Stdio::null());
        let reader = reader.spawn().expect("psql");
        standby.wait_until("the reader", || {
            let asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            (standby.sql(asleep) == "1").then_some(())
        });
        for n in 2..=6 {
            if n == 3 {
                far.primary.sql("DROP TABLE read");
            }
            far.row(n);
        }
        far.lose();
        fs::remove_file(&gate).expect("the gate");
        let own = spool(&standby);
        standby.wait_until("the replay to stop, with segments ahead", || {
            let waits = standby.sql("SELECT 1 FROM pg_locks WHERE NOT granted");
            (waits == "1" && !held(&own).is_empty()).then_some(())
        });
        assert_eq!(rows(&standby), "1,2");
        Self { far, standby, reader, _gate: home }
    }

    /// Lets the replay go on.
    pub fn go_on(&self) {
        let reading = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        assert_eq!(self.standby.sql(reading), "1");
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.reader.kill());
        drop(self.reader.wait());
    }
}
