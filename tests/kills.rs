//! SIGKILL at random points of the copy, under load: to the archiver, which is a crash of the cluster,
//! and to the whole server (G2, G9). A hundred in all in the full dose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::process::{self, is_alive};
use harness::{Cluster, ClusterBuilder, Scratch, TIMEOUT, archive, dose, rng, scratch, wait_until};
use rustix::process::Signal;

use crate::support::destinations::archiving_to;

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
fn check_new(archives: &[&Path], checked: &mut BTreeSet<PathBuf>) {
    for archive in archives {
        for name in archive::names(archive) {
            if checked.insert(archive.join(&name)) {
                let bytes = archive::contents(archive, &name).expect("it was there");
                assert_eq!(bytes.len(), SEGMENT, "{name} in {} is torn", archive.display());
            }
        }
    }
}

fn survives_kills(
    destinations: usize,
    setup: impl Fn(ClusterBuilder) -> ClusterBuilder,
    named: bool,
) {
    let mut rng = rng();
    let (kills, most) = (dose(12, 50), 50);
    let homes: Vec<_> = (0..destinations).map(|_| Scratch::new("archive")).collect();
    let archives: Vec<_> = homes.iter().map(Scratch::path).collect();
    let files = || archives.iter().map(|archive| archive::names(archive).len()).sum::<usize>();
    let temporaries =
        || archives.iter().flat_map(|archive| archive::temporaries(archive)).collect::<Vec<_>>();
    // All WAL stays, to be compared in the end.
    let cluster = setup(archiving_to(&archives).set("wal_keep_size", "4GB")).start();
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
        let before = files();
        std::thread::scope(|scope| {
            scope.spawn(|| load(&cluster));
            // Something is under way first, and then anything from nothing to a few files.
            wait_until(TIMEOUT, "the archiver to be at work", || (files() > before).then_some(()));
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
        mid_copy += usize::from(!temporaries().is_empty());
        check_new(&archives, &mut checked);
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
        assert_eq!(temporaries(), [""; 0], "left by kill {kill}");
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
    check_new(&archives, &mut checked);
    assert!(wal.len() > 2 * kills, "only {} segments", wal.len());
    let number = |name: &String| u64::from_str_radix(&name[16..], 16).expect("a segment's name");
    for archive in &archives {
        for (name, bytes) in &wal {
            let archived = archive::contents(archive, name);
            let archived = archived.unwrap_or_else(|| panic!("{} lacks {name}", archive.display()));
            assert!(archived == *bytes, "{name} in {} differs", archive.display());
        }
        let archived = archive::names(archive);
        for pair in archived.windows(2) {
            let is_next = number(&pair[1]) == number(&pair[0]) + 1;
            assert!(is_next, "a gap, or a file twice: {archived:?}");
        }
    }
    assert!(!named || mid_copy > 0, "no kill came while a file was copied");
    eprintln!(
        "{archivers} archivers and {servers} servers killed ({mid_copy} left a temporary file), {} files archived, 0 lost",
        files()
    );
}

#[test]
fn kills_with_unnamed_temporary_files() {
    survives_kills(1, |builder| builder, false);
}

#[test]
fn kills_with_named_temporary_files() {
    survives_kills(1, ClusterBuilder::without_tmpfile, true);
}

/// A kill leaves the two with different files: what one has and the server does not know, and what the other
/// lacks.
#[test]
fn kills_with_two_destinations() {
    survives_kills(2, ClusterBuilder::without_tmpfile, true);
}
