//! SIGKILL at random points of the copy, under load: to the archiver, which is a crash of the cluster,
//! and to the whole server (G2, G9). A hundred in all in the full dose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::process::{self, is_alive};
use harness::{Cluster, ClusterBuilder, Scratch, TIMEOUT, archive, dose, rng, scratch, wait_until};
use rustix::process::Signal;

/// After this many kills of the archiver, the server is left to recover alone: it starts another archiver
/// 10 seconds after the last. After the other kills it is restarted, which is quicker.
const BY_ITSELF: usize = 2;
const SEGMENT: usize = 1 << 20;

/// Completes segments for as long as the server lives.
fn load(cluster: &Cluster) {
    let sql = "SELECT pg_switch_wal() FROM (
                   SELECT pg_logical_emit_message(false, 'load', (SELECT string_agg(
                       md5(random()::text || i || g), '') FROM generate_series(1, 20000) i))
                   FROM generate_series(1, 6) g OFFSET 0) emitted (lsn) WHERE lsn IS NOT NULL";
    drop(cluster.psql_within(sql, TIMEOUT));
}

/// The files that appeared since the last look are whole.
fn check_new(archive: &Scratch, checked: &mut BTreeSet<String>) {
    for name in archive::names(archive.path()) {
        if checked.insert(name.clone()) {
            let bytes = archive::contents(archive.path(), &name).expect("it was there");
            assert_eq!(bytes.len(), SEGMENT, "{name} is torn");
        }
    }
}

fn survives_kills(setup: impl Fn(ClusterBuilder) -> ClusterBuilder, named: bool) {
    let mut rng = rng();
    let (kills, most) = (dose(12, 50), 50);
    let archive = Scratch::new("archive");
    // All WAL stays, to be compared in the end.
    let cluster = setup(Cluster::archiving_to(archive.path()).set("wal_keep_size", "4GB")).start();
    let mut checked = BTreeSet::new();
    let (mut archivers, mut servers, mut mid_copy) = (0, 0, 0);
    for kill in 0..most {
        // A kill between two files proves little: with temporary names it shows which were not.
        if kill >= kills && (mid_copy > 0 || !named) {
            break;
        }
        let codec = ["none", "lz4", "zstd", "gzip:1"][kill % 4];
        cluster.set_conf("walsafe_archive.compression", codec);
        cluster.set_conf("walsafe_archive.workers", ["0", "2", "4"][kill % 3]);
        cluster.reload();
        let archiver = cluster.wait_archiver();
        let before = archive::names(archive.path()).len();
        std::thread::scope(|scope| {
            scope.spawn(|| load(&cluster));
            // Something is under way first, and then anything from nothing to a few files.
            wait_until(TIMEOUT, "the archiver to be at work", || {
                (archive::names(archive.path()).len() > before).then_some(())
            });
            std::thread::sleep(Duration::from_micros(rng.u64(0..60_000)));
            if rng.bool() {
                archivers += 1;
                process::signal(archiver, Signal::KILL);
                wait_until(TIMEOUT, "the archiver to die", || (!is_alive(archiver)).then_some(()));
            } else {
                servers += 1;
                cluster.kill_all();
            }
        });
        mid_copy += usize::from(!archive::temporaries(archive.path()).is_empty());
        check_new(&archive, &mut checked);
        if cluster.is_running() {
            wait_until(TIMEOUT, "the server to come back", || cluster.psql("SELECT 1").ok());
            if archivers > BY_ITSELF {
                cluster.restart();
            }
        } else {
            cluster.start();
        }
        // The postmaster looks for what it has to start when it is called.
        wait_until(TIMEOUT, "another archiver", || {
            drop(cluster.psql("SELECT 1"));
            cluster.archiver_pid().filter(|pid| *pid != archiver)
        });
        cluster.switch_wal();
        cluster.wait_all_archived();
        assert_eq!(archive::temporaries(archive.path()), [""; 0], "left by kill {kill}");
    }

    // Nothing is missing, and all is what pg_wal has. A segment that was complete and not yet marked
    // when the server was killed is marked by a checkpoint that would remove it, not before.
    let last = cluster.switch_wal();
    cluster.wait_archived(&last);
    let mut wal = BTreeMap::new();
    for name in scratch::names(&cluster.pg_wal()) {
        if name.len() == 24 && name <= last {
            wal.insert(name.clone(), cluster.read_wal(&name));
        }
    }
    cluster.reconfigure("wal_keep_size", "0");
    cluster.wait_until("the checkpointer to read wal_keep_size", || {
        cluster.sql("CHECKPOINT");
        (scratch::names(&cluster.pg_wal()).len() < wal.len()).then_some(())
    });
    cluster.wait_all_archived();
    check_new(&archive, &mut checked);
    assert!(wal.len() > 2 * kills, "only {} segments", wal.len());
    for (name, bytes) in &wal {
        let archived = archive::contents(archive.path(), name);
        let archived = archived.unwrap_or_else(|| panic!("{name} is not in the archive"));
        assert!(archived == *bytes, "{name} differs");
    }
    let archived: Vec<_> = archive::names(archive.path());
    let number = |name: &String| u64::from_str_radix(&name[16..], 16).expect("a segment's name");
    for pair in archived.windows(2) {
        assert_eq!(number(&pair[1]), number(&pair[0]) + 1, "a gap, or a file twice: {archived:?}");
    }
    assert!(!named || mid_copy > 0, "no kill came while a file was copied");
    eprintln!(
        "{archivers} archivers and {servers} servers killed ({mid_copy} left a temporary file), {} files archived, 0 lost",
        archived.len()
    );
}

#[test]
fn kills_with_unnamed_temporary_files() {
    survives_kills(|builder| builder, false);
}

#[test]
fn kills_with_named_temporary_files() {
    survives_kills(ClusterBuilder::without_tmpfile, true);
}
