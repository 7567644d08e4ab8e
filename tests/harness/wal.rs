//! Making WAL, and looking at where it is on its way to the archive.

use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::command::run;
use crate::scratch;
use crate::server::Server;

/// One row of `pg_stat_archiver`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatArchiver {
    pub archived_count: u64,
    pub last_archived_wal: Option<String>,
    pub failed_count: u64,
    pub last_failed_wal: Option<String>,
}

impl Cluster {
    /// The directory of the WAL.
    #[must_use]
    pub fn pg_wal(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    /// A file of `pg_wal`, as it is.
    #[must_use]
    #[track_caller]
    pub fn read_wal(&self, name: &str) -> Vec<u8> {
        scratch::read(&self.pg_wal().join(name))
    }

    /// The name of the segment that is being written: the next to be archived.
    #[must_use]
    #[track_caller]
    pub fn current_segment(&self) -> String {
        self.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    }

    /// Ends the current segment, which must hold something, and returns its name.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.fill_segments(1).remove(0)
    }

    /// Completes `count` segments that hold little, and returns their names.
    #[track_caller]
    pub fn fill_segments(&self, count: usize) -> Vec<String> {
        self.switch_after(count, "'a small message ' || g")
    }

    /// Completes `count` segments that are nine tenths full of text, and returns their names.
    #[track_caller]
    pub fn fill_whole_segments(&self, count: usize) -> Vec<String> {
        // md5 gives 32 bytes that do not compress well. No more than what is left of the segment: a
        // message that ran over would complete a further one.
        self.switch_after(
            count,
            "(SELECT string_agg(md5(random()::text || i), '') FROM generate_series(1, (
                 SELECT (size - (pg_current_wal_insert_lsn() - '0/0') % size) * 9 / 320
                 FROM (SELECT setting::numeric + g * 0 FROM pg_settings
                       WHERE name = 'wal_segment_size') s (size))::int) i)",
        )
    }

    fn switch_after(&self, count: usize, message: &str) -> Vec<String> {
        // In one command: a session for each segment would take most of the time.
        let names = self.sql(&format!(
            "SELECT pg_walfile_name(pg_switch_wal()) FROM (
                 SELECT pg_logical_emit_message(false, 'test', {message})
                 FROM generate_series(1, {count}) g OFFSET 0) emitted (lsn)
             WHERE lsn IS NOT NULL"
        ));
        let names: Vec<String> = names.lines().map(str::to_owned).collect();
        assert_eq!(names.len(), count);
        names
    }

    /// Fills pgbench's tables.
    #[track_caller]
    pub fn pgbench_init(&self, scale: u32) {
        run(self.client("pgbench").args(["-i", "-q", "-s", &scale.to_string()]));
    }

    /// Runs so many of pgbench's transactions.
    #[track_caller]
    pub fn pgbench(&self, transactions: u32) {
        run(self.client("pgbench").args(["-n", "-c", "2", "-t", &(transactions / 2).to_string()]));
    }

    /// Where the WAL ends.
    #[must_use]
    #[track_caller]
    pub fn current_lsn(&self) -> String {
        self.sql("SELECT pg_current_wal_insert_lsn()")
    }

    /// The names of the files that wait to be archived.
    #[must_use]
    pub fn ready_files(&self) -> Vec<String> {
        self.status_files(".ready")
    }

    /// The names of the files marked as archived (until a checkpoint takes them away).
    #[must_use]
    pub fn done_files(&self) -> Vec<String> {
        self.status_files(".done")
    }

    fn status_files(&self, suffix: &str) -> Vec<String> {
        scratch::names(&self.pg_wal().join("archive_status"))
            .iter()
            .filter_map(|name| Some(name.strip_suffix(suffix)?.to_owned()))
            .collect()
    }

    /// Waits until the server considers a file archived.
    #[track_caller]
    pub fn wait_archived(&self, name: &str) {
        self.wait_until(&format!("{name} to be archived"), || self.is_archived(name).then_some(()));
    }

    /// Whether the server considers a file archived: it is marked so, or no longer there.
    #[must_use]
    pub fn is_archived(&self, name: &str) -> bool {
        let status = self.pg_wal().join("archive_status");
        !status.join(format!("{name}.ready")).exists()
            && (status.join(format!("{name}.done")).exists() || !self.pg_wal().join(name).exists())
    }

    /// Marks an archived file as one that waits, as a crash between archiving and marking does. The
    /// archiver sees it when it looks next.
    #[track_caller]
    pub fn mark_ready_again(&self, name: &str) {
        let status = self.pg_wal().join("archive_status");
        std::fs::rename(status.join(format!("{name}.done")), status.join(format!("{name}.ready")))
            .unwrap_or_else(|error| panic!("{name} is not marked as archived: {error}"));
    }

    /// Hands the archiver a file that the server would not have handed over.
    pub fn put_ready(&self, name: &str, contents: impl AsRef<[u8]>) {
        scratch::write(&self.pg_wal().join(name), contents);
        scratch::write(&self.pg_wal().join("archive_status").join(format!("{name}.ready")), "");
    }

    /// Takes back what [`Cluster::put_ready`] handed over.
    #[track_caller]
    pub fn remove_ready(&self, name: &str) {
        for path in [format!("archive_status/{name}.ready"), name.to_owned()] {
            let path = self.pg_wal().join(path);
            std::fs::remove_file(&path)
                .unwrap_or_else(|error| panic!("could not remove {}: {error}", path.display()));
        }
    }

    /// Waits until nothing waits to be archived.
    #[track_caller]
    pub fn wait_all_archived(&self) {
        self.wait_until("all files to be archived", || self.ready_files().is_empty().then_some(()));
    }

    /// What `pg_stat_archiver` says.
    #[must_use]
    #[track_caller]
    pub fn stat_archiver(&self) -> StatArchiver {
        let row = self.sql(
            "SELECT archived_count, last_archived_wal, failed_count, last_failed_wal FROM pg_stat_archiver",
        );
        let columns: Vec<&str> = row.split('|').collect();
        let [archived, last_archived, failed, last_failed] = columns[..] else {
            panic!("pg_stat_archiver: {row}");
        };
        let name = |column: &str| (!column.is_empty()).then(|| column.to_owned());
        StatArchiver {
            archived_count: archived.parse().expect("a number"),
            last_archived_wal: name(last_archived),
            failed_count: failed.parse().expect("a number"),
            last_failed_wal: name(last_failed),
        }
    }

    /// Waits until `pg_stat_archiver` counts at least so many failures.
    #[track_caller]
    pub fn wait_failures(&self, count: u64) {
        self.wait_until(&format!("{count} failures to be counted"), || {
            (self.stat_archiver().failed_count >= count).then_some(())
        });
    }
}

/// The system identifier in a data directory, asked of `pg_controldata`.
pub(crate) fn system_identifier(server: &Server, data: &Path) -> u64 {
    run(server.command("pg_controldata").arg(data))
        .lines()
        .find_map(|line| line.strip_prefix("Database system identifier:")?.trim().parse().ok())
        .expect("pg_controldata prints it")
}
