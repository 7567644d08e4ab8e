//! Recoveries from archives in which names alone do not tell the end of the WAL. `cp` is the witness: what it
//! brings back whole, `walsafe restore` does too; where it ends early, `walsafe restore` stops.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::support::recovery::{
    Origin, path, refuses, restore_command_with, rows, rows_after_recovery, walsafe_in,
};
use harness::{Cluster, ClusterBuilder, Scratch, Stop, scratch};

/// A recovery with plain `cp`.
fn with_cp(origin: &Origin) -> ClusterBuilder {
    let command = format!("cp {}/%f \"%p\"", origin.archive.path().display());
    origin.recovery().set("restore_command", &command)
}

/// The timeline that a server is on.
fn timeline(cluster: &Cluster) -> String {
    cluster.sql("SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int")
}

/// Takes a file out of the archive.
fn take(origin: &Origin, name: &str) -> Vec<u8> {
    let file = origin.stored(name);
    let bytes = fs::read(&file).expect("readable");
    fs::remove_file(&file).expect("removed");
    bytes
}

/// The module's archived segments carry digests, and so nobody looked at the records: the server was promoted
/// with 2 of 5 rows.
#[test]
fn damage_that_was_archived_with_a_digest_stops_a_recovery() {
    let origin = Origin::new();
    origin.row(1);
    origin.row(2);
    origin.primary.wait_all_archived();
    origin.primary.reconfigure("walsafe_archive.destination", "");
    let segment = origin.primary.current_segment();
    origin.row(3);
    // The server has written it and has no more use for it.
    let waiting = origin.primary.pg_wal().join(&segment);
    let file = fs::File::options().write(true).open(&waiting).expect("opened");
    let mut byte = [0];
    fs::File::open(&waiting).expect("opened").read_exact_at(&mut byte, 9000).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 9000).expect("written");
    origin.primary.reconfigure("walsafe_archive.destination", path(origin.archive.path()));
    origin.row(4);
    origin.row(5);
    origin.lose();
    let cp = with_cp(&origin).start();
    let rows = rows_after_recovery(&cp);
    assert!(rows == "1,2" || rows == "1,2,3", "the witness: {rows}");
    refuses(&origin.recovery().create(), "damaged before it was archived");
}

/// A promotion to timeline 2 before row 2 that leaves nothing but its history, and a second recovery, which
/// follows that history over the segments of timeline 1 to their end and is promoted to timeline 3.
fn after_an_aborted_promotion() -> Origin {
    let origin = Origin::new();
    origin.row(1);
    origin.primary.sql("SELECT pg_create_restore_point('one')");
    origin.row(2);
    origin.row(3);
    origin.lose();
    let aborted = origin
        .recovery()
        .set("recovery_target_name", "one")
        .set("recovery_target_action", "promote")
        .archive_to(origin.archive.path())
        .start();
    assert_eq!(rows_after_recovery(&aborted), "1");
    aborted.wait_until("the history to be archived", || {
        origin.stored("00000002.history").exists().then_some(())
    });
    aborted.kill_all();
    let left = origin.archive.names().into_iter().filter(|name| name.starts_with("00000002"));
    assert_eq!(left.collect::<Vec<_>>(), ["00000002.history"]);

    let third = origin.recovery().archive_to(origin.archive.path()).start();
    assert_eq!(rows_after_recovery(&third), "1,2,3");
    assert_eq!(timeline(&third), "3");
    third.sql("INSERT INTO rows VALUES (4)");
    third.switch_wal();
    third.sql("INSERT INTO rows VALUES (5)");
    third.switch_wal();
    third.wait_all_archived();
    third.stop(Stop::Fast);
    origin
}

/// Each history file was taken for proof that its ancestors have segments.
#[test]
fn a_timeline_of_which_nothing_was_written_does_not_stop_a_recovery() {
    let origin = after_an_aborted_promotion();
    let history = fs::read_to_string(origin.stored("00000003.history")).expect("readable");
    assert_eq!(history.lines().filter(|line| line.contains('/')).count(), 2, "{history}");
    for recovery in [with_cp(&origin), origin.recovery()] {
        let cluster = recovery.start();
        assert_eq!(rows_after_recovery(&cluster), "1,2,3,4,5");
        assert_eq!(timeline(&cluster), "4");
    }

    // Its history is needed all the same: without it, the server takes timeline 1 for the newest.
    let bytes = take(&origin, "00000002.history");
    let cluster = with_cp(&origin).start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    let cluster = origin.recovery().create();
    refuses(&cluster, "\"00000003.history\" names that timeline as an ancestor");
    scratch::write(&origin.stored("00000002.history"), bytes);
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3,4,5");

    // And a hole in timeline 1 is a hole.
    let segments = origin.archive.names().into_iter();
    let ours: Vec<_> =
        segments.filter(|name| name.len() == 24 && name.starts_with("00000001")).collect();
    take(&origin, ours.last().expect("a segment"));
    refuses(&origin.recovery().create(), "branched off after it");
}

/// Its first segment may not be archived yet when timeline 3 is recovered from.
#[test]
fn an_abandoned_timeline_is_seen_before_the_later_one_has_a_segment() {
    let origin = after_an_aborted_promotion();
    for name in origin.archive.names() {
        if name.len() == 24 && name.starts_with("00000003") {
            take(&origin, &name);
        }
    }
    for recovery in [with_cp(&origin), origin.recovery()] {
        assert_eq!(rows_after_recovery(&recovery.start()), "1,2,3");
    }
}

/// The newest segments of timeline 1 are lost, and nothing of timeline 2 but its history is there. The recovery
/// was promoted in the middle of timeline 1.
#[test]
fn a_history_file_without_a_segment_stops_a_recovery_before_its_branch() {
    let origin = Origin::new();
    origin.row(1);
    let second = origin.primary.current_segment();
    origin.row(2);
    origin.lose();
    let promoted = origin.recovery().archive_to(origin.archive.path()).start();
    assert_eq!(rows_after_recovery(&promoted), "1,2");
    promoted.wait_until("the history to be archived", || {
        origin.stored("00000002.history").exists().then_some(())
    });
    promoted.kill_all();
    let lost: Vec<_> = origin
        .archive
        .names()
        .into_iter()
        .filter(|name| name.len() == 24 && *name >= second)
        .map(|name| (name.clone(), take(&origin, &name)))
        .collect();
    assert!(lost.len() > 1, "{lost:?}");
    let cluster = with_cp(&origin).start();
    assert_eq!(rows_after_recovery(&cluster), "1", "the witness");
    let cluster = origin.recovery().create();
    refuses(&cluster, "timeline 2 branched off after it");
    // The way out if it is lost for good, for this one segment.
    let hole = format!("--end-at-hole {second}");
    let command = restore_command_with(origin.archive.path(), &hole);
    let ended = origin.recovery().set("restore_command", &command).start();
    assert_eq!(rows_after_recovery(&ended), "1");
    for (name, bytes) in lost {
        scratch::write(&origin.stored(&name), bytes);
    }
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2");
}

/// The segment in which a server died, with a torn end and old contents of the recycled file behind it, is
/// put into the archive by hand.
#[test]
fn the_last_segment_of_a_server_that_died_is_delivered() {
    let origin = Origin::new();
    origin.row(1);
    origin.row(2);
    origin.row(3);
    origin.primary.wait_all_archived();
    origin.primary.sql("INSERT INTO rows VALUES (4)");
    let last = origin.primary.current_segment();
    let end = "SELECT file_offset FROM pg_walfile_name_offset(pg_current_wal_insert_lsn())";
    let end: usize = origin.primary.sql(end).parse().expect("a number");
    origin.primary.kill_all();
    let mut bytes = fs::read(origin.primary.pg_wal().join(&last)).expect("readable");
    // As in a recycled file: whole pages of an earlier segment, whose addresses are lower.
    let names = origin.archive.names().into_iter();
    let old = names.filter(|name| name.len() == 24).min().expect("a segment");
    let old = fs::read(origin.stored(&old)).expect("readable");
    let behind = end.next_multiple_of(8192) + 2 * 8192;
    assert!(old[behind..].iter().any(|byte| *byte != 0), "nothing at {behind} of the old segment");
    bytes[behind..].copy_from_slice(&old[behind..]);
    scratch::write(&origin.stored(&last), bytes);
    for recovery in [with_cp(&origin), origin.recovery()] {
        assert_eq!(rows_after_recovery(&recovery.start()), "1,2,3,4");
    }
}

/// What a server that encrypts its WAL hands to the archiver. It was archived, and never given back.
#[test]
fn wal_that_was_let_in_unchecked_is_given_back() {
    for attributes in [true, false] {
        let archive = Scratch::new("archive");
        let builder = Cluster::archiving_to(archive.path()).set("walsafe_archive.check_wal", "off");
        let cluster = if attributes { builder } else { builder.without_xattrs() }.start();
        let name = "0000000100000000000000F0";
        let encrypted: Vec<u8> = (0..1 << 18).flat_map(|n: u32| (n | 1).to_ne_bytes()).collect();
        scratch::write(&cluster.pg_wal().join(name), &encrypted);
        scratch::write(&cluster.pg_wal().join(format!("archive_status/{name}.ready")), "");
        cluster.switch_wal();
        cluster.wait_all_archived();
        let marked = archive.names().contains(&"walsafe_archive.unchecked".to_owned());
        assert_eq!(marked, !attributes);
        let data = Scratch::new("target");
        let target = data.join("segment");
        let restored = walsafe_in(
            data.path(),
            &["restore", "--from", path(archive.path()), name, path(&target)],
        );
        assert_eq!(restored.code, Some(0), "{restored:?}");
        assert!(restored.err.contains("its records were not checked"), "{restored:?}");
        assert!(fs::read(&target).expect("restored") == encrypted);
    }
}

/// It logged two lines every five seconds.
#[test]
fn an_idle_standby_says_once_that_there_is_nothing() {
    let origin = Origin::new();
    origin.row(1);
    origin.primary.wait_all_archived();
    let command = restore_command_with(origin.archive.path(), "");
    let standby = origin
        .standby()
        .set("restore_command", &command)
        .set("wal_retrieve_retry_interval", "200ms")
        .start();
    standby.wait_until("the row", || (rows(&standby) == "1").then_some(()));
    std::thread::sleep(Duration::from_secs(4));
    let log = standby.log().text();
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains(" is not in the archive")).collect();
    let mut different = lines.clone();
    different.sort_unstable();
    different.dedup();
    assert!(!lines.is_empty() && lines.len() == different.len(), "{lines:?}");
}
