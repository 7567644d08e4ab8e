//! A recovery to a point in time that has to be tried twice: docs/point-in-time.md, word for word.

use std::fs;
use std::path::Path;

use crate::support::document::Document;
use crate::support::recovery::{Origin, assert_clean, restore_command, rows, rows_after_recovery};
use harness::{Cluster, Picture, Stop, scratch};

const DATA: &str = "/var/lib/postgresql/15/main";

/// The page, with the places of this cluster.
fn page(origin: &Origin) -> Document {
    Document::new("point-in-time.md")
        .with("/mnt/archive", origin.archive.path())
        .with("/mnt/backups/base", origin.backup.data())
        .with(DATA, origin.primary.data())
}

/// Returns a time that lies behind everything committed so far, and before what is committed from here on.
fn moment(server: &Cluster) -> String {
    let moment = server.sql("SELECT clock_timestamp()");
    server.sql("SELECT pg_sleep(0.01)");
    moment
}

/// Adds the page's settings of a recovery. They count, and not those of an attempt before.
fn set_target(cluster: &Cluster, target: Vec<(String, String)>, archive: &Path) {
    cluster.set_conf("restore_command", &restore_command(archive));
    for (name, value) in target {
        cluster.set_conf(&name, &value);
    }
}

/// Starts a recovery, waits until it stops at its target, and returns what the page's look shows.
fn start_and_pause(cluster: &Cluster, document: &Document) -> String {
    let mark = cluster.mark();
    cluster.start();
    cluster.wait_for_log(mark, "pausing at the end of recovery");
    let log = cluster.log().since(mark);
    for line in document.block("paused-log").lines() {
        assert!(log.contains(line), "{line}: {log}");
    }
    let shown = cluster.wait_until("the pause", || {
        let shown = document.psql(cluster, "paused");
        shown.contains("paused ").then_some(shown)
    });
    assert!(!shown.contains("not paused"), "{shown}");
    shown
}

/// The documented target promoted at once into the production archive. A second attempt with a later target
/// then followed the first one's timeline, on which that target is not, without a word.
#[test]
fn a_second_attempt_does_not_follow_the_first_ones_timeline() {
    let origin = Origin::new();
    let (server, archive) = (&origin.primary, origin.archive.path());
    origin.row(1);
    let early = moment(server);
    origin.row(2);
    let right = moment(server);
    origin.row(3);
    server.switch_wal();
    server.wait_all_archived();
    server.stop(Stop::Fast);
    let document = page(&origin)
        .with("2026-11-21 07:25:23.172212+00", &early)
        .with("2026-11-21 07:31:40.501207+00", &right)
        .with("orders", "rows");

    // The first attempt: nothing is archived before somebody has looked.
    document.run(server, "old-aside");
    let verified = document.run(server, "archive-by-hand");
    assert!(verified.ends_with("no findings\n"), "{verified}");
    document.run(server, "put-in-place");
    let listed = document.run(server, "which-timeline");
    assert!(listed.contains("timeline 1: ") && !listed.contains("timeline 2"), "{listed}");
    let proof = document.run(server, "target-proof");
    assert!(proof.ends_with("no findings\n"), "{proof}");
    set_target(server, document.settings("target"), archive);
    let before = Picture::of(archive);
    let shown = start_and_pause(server, &document);
    assert!(shown.contains("\n   1\n(1 row)"), "{shown}");
    assert_eq!(Picture::of(archive), before, "a recovery that waits archived something");

    // It is taken for right, and begins timeline 2 in the archive.
    let mark = server.mark();
    document.psql(server, "resume");
    assert_eq!(rows_after_recovery(server), "1");
    let log = server.log().since(mark);
    for line in document.block("promoted-log").lines() {
        assert!(log.contains(line), "{line}: {log}");
    }
    server.switch_wal();
    server.wait_all_archived();
    assert!(origin.archive.names().contains(&"00000002.history".to_owned()));
    server.stop(Stop::Fast);

    // With the default, the row that was asked for is not reached.
    let astray = origin
        .recovery()
        .set("recovery_target_time", &right)
        .set("recovery_target_action", "promote")
        .create();
    astray.launch();
    astray.wait_for_log(
        harness::log::Mark::default(),
        "recovery ended before configured recovery target",
    );

    // The second attempt, as it is documented.
    let kept = fs::read(server.data().join("postgresql.conf")).expect("the settings");
    document.run(server, "again");
    scratch::write(&server.data().join("postgresql.conf"), kept);
    set_target(server, document.settings("target-again"), archive);
    let before = Picture::of(archive);
    let shown = start_and_pause(server, &document);
    assert!(shown.contains("\n   2\n(1 row)"), "{shown}");
    assert_eq!(rows(server), "1,2");
    assert_eq!(Picture::of(archive), before, "a recovery that waits archived something");
    let mark = server.mark();
    document.psql(server, "resume");
    assert_eq!(rows_after_recovery(server), "1,2");
    assert!(server.log().since(mark).contains("selected new timeline ID: 3"));
    server.switch_wal();
    server.wait_all_archived();
    server.stop(Stop::Fast);
    assert_clean(archive);
    // A recovery with default settings goes there, past the first attempt.
    assert_eq!(rows_after_recovery(&origin.recovery().start()), "1,2");
}

/// A recovery to the moment before a table was dropped stops before the commit of that, with the table locked:
/// whoever looked waited for ever.
#[test]
fn a_dropped_table_is_looked_at_after_the_last_commit_before_it() {
    let origin = Origin::new();
    let (server, archive) = (&origin.primary, origin.archive.path());
    origin.row(1);
    let moment = moment(server);
    server.sql("DROP TABLE rows");
    server.switch_wal();
    server.wait_all_archived();
    server.stop(Stop::Fast);
    let document = page(&origin).with("2026-11-21 07:25:23.172212+00", &moment);
    let proof = document.run(server, "target-proof");
    let last = proof.split_once("the last commit of transaction ").expect(&proof).1;
    let last = last.split(' ').next().expect("a number");

    // At the time, nobody can look.
    document.run(server, "old-aside");
    document.run(server, "put-in-place");
    set_target(server, document.settings("target"), archive);
    let mark = server.mark();
    server.start();
    server.wait_for_log(mark, "pausing at the end of recovery");
    let shown = document.psql(server, "locked");
    assert!(shown.contains(" rows ") && shown.contains("AccessExclusiveLock"), "{shown}");
    let waits = server.psql("SET lock_timeout = '200ms'; SELECT count(*) FROM rows");
    assert!(waits.as_ref().is_err_and(|said| said.contains("lock timeout")), "{waits:?}");
    server.stop(Stop::Immediate);

    // Behind the last commit, everybody can.
    let kept = fs::read(server.data().join("postgresql.conf")).expect("the settings");
    document.run(server, "again");
    scratch::write(&server.data().join("postgresql.conf"), kept);
    server.set_conf("recovery_target_time", "");
    set_target(server, document.with("738", last).settings("target-xid"), archive);
    let mark = server.mark();
    server.start();
    server.wait_for_log(mark, "pausing at the end of recovery");
    assert_eq!(rows(server), "1");
}
