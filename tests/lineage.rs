//! Servers that leave each other's history: two promotions in one segment, an archive that begins after a
//! promotion, and a drill that archives into production.

use std::fs;

use harness::{
    Cluster, ClusterBuilder, Fs, Mark, Mount, Report, Scratch, Stop, TIMEOUT, privileged, require,
    scratch,
};
use walsafe_core::encoding::digest::Digest;

use crate::support::document::Document;
use crate::support::recovery::{
    Origin, assert_clean, path, restore_command, rows, rows_after_recovery, walsafe,
};

/// The name of a segment on another timeline.
fn on_timeline(timeline: u32, segment: &str) -> String {
    format!("{timeline:08X}{}", &segment[8..])
}

/// The name under which a segment's contents are archived as a tail.
fn tail_name(segment: &str, contents: &[u8]) -> String {
    format!("{segment}.tail.{}", &Digest::of(contents).to_string()[..16])
}

/// The archiver's warnings of what was archived all the same.
fn warnings(cluster: &Cluster, mark: Mark) -> Vec<Report> {
    cluster.log().archiver_reports(mark)
}

/// S1 was promoted and died, S2 had stopped at another address in the same segment and was promoted: its
/// archiving stayed blocked on `...0C.partial`, and timeline 3 waited, until somebody renamed a status file.
#[test]
fn a_second_promotion_in_one_segment_goes_on_and_a_recovery_follows_it() {
    let origin = Origin::new();
    let Origin { archive, primary, .. } = &origin;
    let restore = restore_command(archive.path());
    let standby = || {
        let builder = primary.streaming_standby().archive_to(archive.path());
        builder.set("restore_command", &restore).start()
    };
    let (one, two) = (standby(), standby());
    primary.sql("INSERT INTO rows VALUES (1)");
    for standby in [&one, &two] {
        standby.wait_replayed(&primary.current_lsn());
    }
    one.reconfigure("primary_conninfo", "");
    one.wait_until("the end of the stream", || {
        (one.sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0").then_some(())
    });
    primary.sql("INSERT INTO rows VALUES (2)");
    two.wait_replayed(&primary.current_lsn());
    let last = primary.current_segment();
    primary.kill_all();

    one.promote();
    one.sql("INSERT INTO rows VALUES (10)");
    one.switch_wal();
    one.wait_all_archived();
    let partial = format!("{last}.partial");
    let first = archive.read(&partial);
    one.kill_all();

    let mark = two.mark();
    two.promote();
    two.sql("INSERT INTO rows VALUES (20)");
    let newest = two.switch_wal();
    assert_eq!(newest, on_timeline(3, &last));
    two.wait_archived(&newest);
    two.wait_all_archived();
    assert_eq!(two.stat_archiver().failed_count, 0);
    let ours = two.read_wal(&partial);
    assert!(ours != first, "both stopped at one address");
    let tail = tail_name(&last, &ours);
    assert_eq!(archive.read(&tail), ours);
    assert_eq!(archive.read(&partial), first);
    assert_eq!(archive.read(&newest), two.read_wal(&newest));

    // What the other standby would archive that follows one of them: the same, under the full name.
    scratch::write(&archive.join(&last), &first);
    two.put_ready(&last, &ours);
    two.switch_wal();
    two.wait_archived(&last);
    assert_eq!(two.stat_archiver().failed_count, 0);
    assert_eq!(archive.read(&last), first);
    let tails = archive.names().into_iter().filter(|name| name.contains(".tail."));
    assert_eq!(tails.collect::<Vec<_>>(), std::slice::from_ref(&tail));
    fs::remove_file(archive.join(&last)).unwrap();

    let reports = warnings(&two, mark);
    assert_eq!(reports.len(), 2, "{reports:?}");
    for (report, name) in reports.iter().zip([&partial, &last]) {
        assert_eq!(report.sqlstate, "01000", "{report:?}");
        assert_eq!(report.message, format!("file \"{name}\" is archived as \"{tail}\""));
        assert!(report.detail.contains("another server's version of it"), "{report:?}");
        assert!(report.hint.contains("Nothing has to be done"), "{report:?}");
    }

    assert_clean(archive.path());
    let list = walsafe(&["list", path(archive.path())]);
    assert!(list.out.contains("1 partial, 1 tail, "), "{list:?}");
    let recovery = origin.recovery().start();
    assert_eq!(rows_after_recovery(&recovery), "1,2,20");
    assert_eq!(recovery.current_segment()[..8], *"00000004");
}

/// The server keeps its whole copy while a standby was promoted by accident: without the look at the server's
/// own history, its file would count as archived under a name that no recovery reads.
#[test]
fn a_server_that_stays_on_its_timeline_gets_no_tail() {
    let origin = Origin::new();
    let Origin { archive, primary, .. } = &origin;
    let standby = primary.streaming_standby().archive_to(archive.path()).start();
    primary.sql("INSERT INTO rows VALUES (1)");
    standby.wait_replayed(&primary.current_lsn());
    let last = primary.current_segment();
    standby.promote();
    standby.switch_wal();
    standby.wait_all_archived();
    // As a standby with archive_mode = always leaves it.
    scratch::write(&archive.join(&last), archive.read(&format!("{last}.partial")));
    // The history file of the accident is in the server's pg_wal too, and is not its own.
    fs::copy(archive.join("00000002.history"), primary.pg_wal().join("00000002.history")).unwrap();

    let mark = primary.mark();
    primary.sql("INSERT INTO rows VALUES (2)");
    assert_eq!(primary.switch_wal(), last);
    let report = primary.wait_for_report(mark, "58P02");
    report.assert_explains(&last);
    assert!(primary.ready_files().contains(&last));
    assert!(!archive.names().iter().any(|name| name.contains(".tail.")), "{:?}", archive.names());
}

/// `00000002.history` never got into an archive that begins after a promotion: a base backup without WAL was
/// "proved", and its recovery stopped. An archive begun by the version before stayed like that.
#[test]
fn an_archive_that_begins_after_a_promotion_can_be_recovered_from() {
    let origin = Cluster::builder().start();
    origin.sql("CREATE TABLE rows (n int)");
    let first = origin.streaming_standby().start();
    first.promote();
    let second = first.streaming_standby().start();
    first.kill_all();
    second.promote();
    // Of a timeline above its own, which it was told of and does not follow. The server cannot even read it.
    fs::copy(second.pg_wal().join("00000003.history"), second.pg_wal().join("00000009.history"))
        .unwrap();

    let archive = Scratch::new("archive");
    let own = Scratch::new("own");
    second.stop(Stop::Fast);
    second.set_conf("archive_mode", "on");
    second.set_conf("archive_library", "walsafe_archive");
    second.set_conf("walsafe_archive.destination", path(archive.path()));
    second.start();
    let without = second.base_backup_without_wal();
    let with = second.base_backup();
    second.sql("INSERT INTO rows VALUES (1)");
    second.switch_wal();
    second.wait_all_archived();
    assert_eq!(second.stat_archiver().failed_count, 0);
    let histories = |archive: &Scratch| -> Vec<String> {
        archive.names().into_iter().filter(|name| name.ends_with(".history")).collect()
    };
    assert_eq!(histories(&archive), ["00000002.history", "00000003.history"]);
    for backup in [without, with] {
        let command = restore_command(archive.path());
        let recovery = backup.restore().recovery().set("restore_command", &command).start();
        assert_eq!(rows_after_recovery(&recovery), "1");
    }

    // The next process heals it; a destination that is new to this one gets them too.
    fs::remove_file(archive.join("00000002.history")).unwrap();
    second.restart();
    second.switch_wal();
    second.wait_all_archived();
    assert_eq!(histories(&archive), ["00000002.history", "00000003.history"]);
    second.reconfigure("walsafe_archive.destination", path(own.path()));
    second.wait_until("the new destination", || {
        second.switch_wal();
        own.join("00000003.history").exists().then_some(())
    });
    assert_eq!(histories(&own), ["00000002.history", "00000003.history"]);

    // Another server's timeline 2 is not this one's ancestor: nothing may be added to it.
    second.wait_all_archived();
    second.stop(Stop::Fast);
    scratch::write(&own.join("00000002.history"), "1\t0/1000000\tanother server\n");
    second.start();
    let mark = second.mark();
    let segment = second.switch_wal();
    let report = second.wait_for_report(mark, "58P02");
    assert!(
        report.message.ends_with("the archive holds a different \"00000002.history\""),
        "{report:?}"
    );
    assert!(report.detail.contains("Another server already used timeline 2."), "{report:?}");
    assert!(!own.join(&segment).exists());
}

/// A drill archived into production after its promotion, and nobody said so, although the next default
/// recovery of production and its standbys follow the drill.
#[test]
fn a_drill_that_archives_into_production_is_named_once_a_timeline() {
    let origin = Origin::new();
    let Origin { archive, primary, .. } = &origin;
    origin.row(1);
    let target = primary.current_lsn();
    origin.row(2);
    primary.switch_wal();
    primary.wait_all_archived();
    let check = || walsafe(&["check", "--read-only", path(archive.path())]);
    assert!(!check().out.contains("timelines: WAL after"), "{:?}", check());

    let drill = origin
        .recovery()
        .set("recovery_target_lsn", &target)
        .set("recovery_target_action", "promote")
        .archive_to(archive.path())
        .start();
    assert_eq!(rows_after_recovery(&drill), "1");
    drill.switch_wal();
    drill.wait_all_archived();
    drill.reconfigure("walsafe_archive.compression", "lz4");
    drill.wait_until("a file of the new settings", || {
        let name = drill.switch_wal();
        archive.join(format!("{name}.lz4")).exists().then_some(())
    });
    drill.wait_all_archived();
    let reports = warnings(&drill, Mark::default());
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(report.sqlstate, "01000");
    assert!(report.message.starts_with("WAL after 0/"), "{report:?}");
    assert!(
        report.message.ends_with(
            " on timeline 1 is not part of this server: a drill, or a failover that lost it"
        ),
        "{report:?}"
    );
    assert!(report.detail.contains("follows timeline 2"), "{report:?}");
    assert!(report.hint.contains("set \"archive_mode\" to \"off\""), "{report:?}");

    // Production itself is silent, and the program says it to both.
    assert_eq!(warnings(primary, Mark::default()), []);
    let check = check();
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.out.contains("timelines: WAL after 0/"), "{check:?}");
    drill.sql("CREATE EXTENSION walsafe_archive");
    let row = drill
        .sql("SELECT status, detail FROM walsafe_archive_check() WHERE check_name = 'timelines'");
    assert!(row.starts_with("warning|WAL after 0/"), "{row}");
    let row = drill.sql("SELECT state, last_error FROM walsafe_archive_status");
    assert!(row.starts_with("ok|WAL after 0/"), "{row}");
    assert_eq!(rows(&drill), "1");
}

/// A standby was promoted while the archive hung, and the old primary went on until the thaw: what it had
/// under way arrives afterwards. The promoted server's archiving must go on by itself, and what the old one
/// has added must be named, with a way to read it and a way to put it aside.
#[test]
fn after_a_promotion_beside_a_frozen_archive_the_docs_lead_out() {
    require!(privileged());
    let mount = Mount::new(Fs::Ext4, 64);
    let impatient = |builder: ClusterBuilder| {
        builder.archive_to(mount.path()).set("walsafe_archive.stall_timeout", "2")
    };
    let primary = impatient(Cluster::builder()).start();
    primary.sql("CREATE TABLE rows (n int)");
    let backup = primary.base_backup_without_wal();
    let standby = impatient(primary.streaming_standby()).start();
    primary.sql("INSERT INTO rows VALUES (1)");
    primary.switch_wal();
    primary.wait_all_archived();
    primary.sql("INSERT INTO rows VALUES (2)");
    standby.wait_replayed(&primary.current_lsn());
    let parted = primary.current_segment();

    let marks = [primary.mark(), standby.mark()];
    let frozen = mount.freeze();
    standby.promote();
    standby.sql("INSERT INTO rows VALUES (20)");
    standby.switch_wal();
    primary.sql("INSERT INTO rows VALUES (3)");
    assert_eq!(primary.switch_wal(), parted);
    let behind = primary.switch_wal();
    for (server, mark) in [&primary, &standby].into_iter().zip(marks) {
        let report = server.log().wait_for_archiver_report(mark, "58030", TIMEOUT);
        assert!(report.message.ends_with("the archive does not respond"), "{report:?}");
    }
    drop(frozen);
    for server in [&primary, &standby] {
        server.wait_all_archived();
    }
    let newest = on_timeline(2, &parted);
    for name in ["00000002.history", &newest, &format!("{parted}.partial"), &parted, &behind] {
        assert!(mount.join(name).exists(), "{name}");
    }
    primary.stop(Stop::Fast);

    let lost = Scratch::new("lost");
    let document = Document::new("operations.md")
        .with("/mnt/archive.lost", lost.path())
        .with("/mnt/archive", mount.path())
        .with("00000001000000000000002C", &parted)
        .with("00000001000000000000002D", &behind);
    let check = document.try_run(&standby, "left-behind-check");
    assert_eq!(check.code(), Some(1), "{check:?}");
    document.shows("left-behind-check-shows", &check.stdout);
    let recover = |more: &[(String, String)]| {
        let builder = backup.restore_copy().recovery();
        let builder = builder.set("restore_command", &restore_command(mount.path()));
        let set =
            |builder: ClusterBuilder, (name, value): &(String, String)| builder.set(name, value);
        rows_after_recovery(&more.iter().fold(builder, set).start())
    };
    assert_eq!(recover(&[]), "1,2,20");
    assert_eq!(recover(&document.settings("left-behind-target")), "1,2,3");

    document.run(&standby, "left-behind-aside");
    let check = document.try_run(&standby, "left-behind-check");
    assert!(!check.stdout.contains("timelines: WAL after"), "{check:?}");
    assert_eq!(recover(&[]), "1,2,20");
    assert_clean(mount.path());
    assert!(lost.join(&parted).exists());
}
