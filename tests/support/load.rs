//! A writer that commits rows and ends a WAL segment behind each, while a test does something to the
//! archive; and what has to be true afterwards.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use harness::command::run_within;
use harness::{Cluster, ClusterBuilder, Server, StopOnDrop, TIMEOUT, scratch};

/// How long the writer rests between two rows: some twenty segments a second.
const REST: Duration = Duration::from_millis(25);

/// A cluster that keeps all its WAL, for the archive to be compared with.
pub fn keeps_wal(builder: ClusterBuilder) -> ClusterBuilder {
    builder.set("wal_keep_size", "8GB")
}

/// The writer, while it writes.
#[derive(Default)]
pub struct Load {
    stop: AtomicBool,
    acknowledged: AtomicU32,
}

impl Load {
    /// Waits until so many more rows are committed.
    #[track_caller]
    pub fn rows(&self, cluster: &Cluster, more: u32) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + more;
        cluster.wait_until("rows to be written", || {
            (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
        });
    }
}

/// Makes the table that [`under_load`] writes to; returns the name of the segment where that begins.
#[track_caller]
pub fn prepare(cluster: &Cluster) -> String {
    let first = cluster.current_segment();
    cluster.sql("CREATE TABLE rows (n int)");
    first
}

/// Writes rows, each with a segment switch, while `during` runs. Returns the last row that was
/// acknowledged. What fails, as it does while the server is down, is tried again.
#[track_caller]
pub fn under_load(cluster: &Cluster, during: impl FnOnce(&Load)) -> u32 {
    let load = Load::default();
    let first =
        cluster.sql("SELECT coalesce(max(n), 0) FROM rows").parse::<u32>().expect("a number");
    load.acknowledged.store(first, Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = first + 1;
            while !load.stop.load(Ordering::Relaxed) {
                if insert(cluster, n) {
                    load.acknowledged.store(n, Ordering::Relaxed);
                    n += 1;
                }
                std::thread::sleep(REST);
            }
        });
        let _stop = StopOnDrop(&load.stop);
        during(&load);
    });
    load.acknowledged.into_inner()
}

/// Commits a row and ends the segment. Not with the cluster's own psql, which a test may be replacing.
fn insert(cluster: &Cluster, n: u32) -> bool {
    let mut psql = Server::under_test().command("psql");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-U", "postgres", "-h"])
        .arg(cluster.socket_dir())
        .args(["-c", &format!("INSERT INTO rows VALUES ({n})"), "-c", "SELECT pg_switch_wal()"]);
    run_within(&mut psql, "", TIMEOUT).success()
}

/// Waits until all is archived, the current segment too; returns its name.
#[track_caller]
pub fn finish(cluster: &Cluster) -> String {
    let last = cluster.switch_wal();
    cluster.wait_all_archived();
    last
}

/// Checks that every segment from `first` to `last` can be read from the archive, byte for byte as
/// `pg_wal` has it. Returns how many there are.
#[track_caller]
pub fn assert_nothing_missing(
    cluster: &Cluster,
    (first, last): (&str, &str),
    archived: impl Fn(&str) -> Option<Vec<u8>>,
) -> u32 {
    let number = |name: &str| u32::from_str_radix(&name[16..], 16).expect("a segment's name");
    assert_eq!(first[..16], last[..16]);
    for n in number(first)..=number(last) {
        let name = format!("{}{n:08X}", &last[..16]);
        let bytes =
            archived(&name).unwrap_or_else(|| panic!("{name} is in no archive, last {last}"));
        let ours = scratch::read(&cluster.pg_wal().join(&name));
        assert!(bytes == ours, "{name} differs from the server's");
    }
    number(last) - number(first) + 1
}

/// Waits for the end of a recovery and checks that no acknowledged row is missing.
#[track_caller]
pub fn assert_recovered(cluster: &Cluster, acknowledged: u32) {
    cluster.wait_recovered();
    let found =
        cluster.sql(&format!("SELECT count(DISTINCT n) FROM rows WHERE n <= {acknowledged}"));
    assert_eq!(found, acknowledged.to_string(), "of the rows that the server acknowledged");
}
