//! Base backups, what is recovered from them, and standbys.

use std::path::{Path, PathBuf};

use crate::builder::ClusterBuilder;
use crate::cluster::Cluster;
use crate::command::run;
use crate::scratch::Scratch;

/// A base backup.
#[derive(Debug)]
pub struct Backup {
    home: Scratch,
}

impl Cluster {
    /// Takes a base backup that holds the WAL it needs.
    #[must_use]
    #[track_caller]
    pub fn base_backup(&self) -> Backup {
        self.backup("stream", &[])
    }

    /// Takes a base backup that needs the archive to be recovered. Waits for that WAL to be archived.
    #[must_use]
    #[track_caller]
    pub fn base_backup_without_wal(&self) -> Backup {
        self.backup("none", &[])
    }

    /// The same of a cluster with a tablespace, which goes to another directory.
    #[must_use]
    #[track_caller]
    pub fn base_backup_moving(&self, tablespace: &Path, to: &Path) -> Backup {
        let mapping = format!("{}={}", tablespace.display(), to.display());
        self.backup("none", &["-T", &mapping])
    }

    fn backup(&self, wal: &str, more: &[&str]) -> Backup {
        let home = Scratch::new("backup");
        run(self
            .client("pg_basebackup")
            .args(more)
            .args(["--checkpoint=fast", "--no-sync", "-X", wal, "-D"])
            .arg(home.join("data")));
        Backup { home }
    }

    /// A copy of a stopped cluster, as a snapshot of its file system or a cloned machine is one: same data,
    /// same settings.
    #[must_use]
    #[track_caller]
    pub fn clone_stopped(&self) -> ClusterBuilder {
        assert!(!self.is_running(), "a copy of a running cluster is no copy of one state");
        let home = Scratch::new("clone");
        run(std::process::Command::new("cp").arg("-a").arg(self.data()).arg(home.path()));
        ClusterBuilder::existing(home)
    }

    /// A standby of this cluster that streams from it.
    #[must_use]
    #[track_caller]
    pub fn streaming_standby(&self) -> ClusterBuilder {
        let primary = format!("host={} user=postgres", self.socket_dir().display());
        self.base_backup().restore().standby().set("primary_conninfo", &primary)
    }

    /// Ends a standby's recovery and waits until it takes writes.
    #[track_caller]
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote(true, 60)"), "t");
        self.wait_recovered();
    }

    /// Waits until a recovery has ended and the server takes writes.
    #[track_caller]
    pub fn wait_recovered(&self) {
        self.wait_until("the end of recovery", || {
            (self.psql("SELECT pg_is_in_recovery()").as_deref() == Ok("f")).then_some(())
        });
    }

    /// Waits until a standby has replayed the WAL up to this address.
    #[track_caller]
    pub fn wait_replayed(&self, lsn: &str) {
        self.wait_until(&format!("the WAL up to {lsn} to be replayed"), || {
            let replayed = self.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"));
            (replayed == "t").then_some(())
        });
    }
}

impl Backup {
    /// The backup's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// A cluster from this backup: add `.recovery()` or `.standby()` and a `restore_command`. What
    /// the origin's postgresql.conf says about archiving is turned off.
    #[must_use]
    pub fn restore(self) -> ClusterBuilder {
        ClusterBuilder::existing(self.home).set("archive_mode", "off")
    }

    /// The same, with a copy of the backup, which stays.
    #[must_use]
    pub fn restore_copy(&self) -> ClusterBuilder {
        let home = Scratch::new("restored");
        run(std::process::Command::new("cp").arg("-a").arg(self.data()).arg(home.path()));
        ClusterBuilder::existing(home).set("archive_mode", "off")
    }
}
