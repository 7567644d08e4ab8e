//! What the archive holds is what one server wrote: clones, data directories that were put back to a
//! snapshot, and standbys that were promoted by mistake, on one archive.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::command::run;
use harness::server::as_server_user;
use harness::{Cluster, Mark, Picture, Scratch, Stop, scratch};

use crate::support::document::Document;
use crate::support::recovery::restore_command;

/// The segments in an archive, in order.
fn segments(archive: &Path) -> Vec<String> {
    scratch::names(archive).into_iter().filter(|name| name.len() == 24).collect()
}

/// The lines of the archiver that say what could not be matched.
fn unmatched(cluster: &Cluster, mark: Mark) -> Vec<String> {
    let log = cluster.log().since(mark);
    let lines = log.lines().filter(|line| line.contains("could not match WAL file"));
    lines.map(str::to_owned).collect()
}

/// Fills the rest of a segment with messages of one letter, the last of which crosses into the next one.
/// Returns the segment's name.
pub fn cross(cluster: &Cluster, letter: char) -> String {
    let segment = cluster.current_segment();
    cluster.sql(&format!(
        "SELECT count(pg_logical_emit_message(false, 'test', repeat('{letter}', 3000)))
         FROM generate_series(1, (
             SELECT (size - (pg_current_wal_insert_lsn() - '0/0') % size)::int / 3000 + 1
             FROM (SELECT setting::numeric FROM pg_settings
                   WHERE name = 'wal_segment_size') s (size)))"
    ));
    assert_ne!(cluster.current_segment(), segment);
    segment
}

/// The HINT spoke of another server. Who followed it moved the archive's files away one by one, and ended with
/// backups that `verify` called good and that did not come up.
#[test]
fn a_data_directory_put_back_to_a_snapshot_is_told_that_the_archive_is_ahead_of_it() {
    let home = Scratch::new("archive");
    let archive = home.dir("main");
    let primary = Cluster::archiving_to(&archive).start();
    primary.sql("CREATE TABLE t AS SELECT 1 AS x");
    primary.fill_whole_segments(2);
    primary.stop(Stop::Fast);
    let last = segments(&archive).pop().expect("segments");
    let snapshot = primary.clone_stopped();
    primary.start();
    primary.sql("INSERT INTO t VALUES (2)");
    primary.fill_whole_segments(3);
    primary.stop(Stop::Fast);
    let newest = segments(&archive).pop().expect("segments");
    assert!(newest > last);
    let before = Picture::of(&archive);

    let back = snapshot.start();
    let mark = back.mark();
    back.sql("INSERT INTO t VALUES (3)");
    let first = back.fill_whole_segments(1).remove(0);
    let told = |mark| {
        let report = back.wait_for_report(mark, "58P02");
        report.assert_explains(&first);
        assert!(report.message.ends_with(": the archive is ahead of this server"), "{report:?}");
        for part in [
            format!("goes on to \"{newest}\" on this server's own timeline"),
            format!("The last segment that this server has archived is \"{last}\""),
            "The first WAL record that differs begins at ".to_owned(),
        ] {
            assert!(report.detail.contains(&part), "{part}: {report:?}");
        }
        for part in ["put back to an earlier state", "Do not move single files", "new base backup"]
        {
            assert!(report.hint.contains(part), "{part}: {report:?}");
        }
    };
    told(mark);
    // Its own later segments, which wait, do not explain the archive's.
    let mark = back.mark();
    assert!(back.fill_whole_segments(6).pop() > Some(newest.clone()));
    back.wake_archiver();
    told(mark);
    back.restart();
    let mark = back.mark();
    back.switch_wal();
    told(mark);
    assert_eq!(Picture::of(&archive), before);

    // What the HINT says, with the commands of the manual.
    Document::new("emergencies.md")
        .with("/mnt/archive/main", &archive)
        .with("/var/lib/postgresql/15/main", back.data())
        .run(&back, "ahead");
    back.wait_until("the new archive", || {
        back.wake_archiver();
        back.ready_files().is_empty().then_some(())
    });
    let backup = back.base_backup_without_wal();
    back.sql("INSERT INTO t VALUES (4)");
    back.switch_wal();
    back.wait_all_archived();
    let command = restore_command(&archive);
    let restored = backup.restore().recovery().set("restore_command", &command).start();
    restored.wait_recovered();
    assert_eq!(restored.sql("SELECT string_agg(x::text, ',' ORDER BY x) FROM t"), "1,3,4");
    assert_eq!(unmatched(&back, Mark::default()), Vec::<String>::new());
}

/// The clone's segments followed the primary's, although another server had written what was before them.
/// Where the records of both had the same lengths, `verify` found nothing, and a recovery replayed both as one
/// history.
#[test]
fn a_clone_adds_nothing_behind_a_segment_of_the_primary_whatever_it_was_told_of_its_own() {
    for same_lengths in [true, false] {
        let archive = Scratch::new("archive");
        let primary = Cluster::archiving_to(archive.path()).start();
        primary.fill_segments(1);
        primary.stop(Stop::Fast);
        let clone = primary.clone_stopped();
        primary.start();
        let parted = cross(&primary, 'a');
        primary.wait_archived(&parted);
        let edge = primary.current_lsn();
        primary.stop(Stop::Immediate);

        let clone = clone.start();
        if !same_lengths {
            clone.sql("SELECT pg_logical_emit_message(false, 'test', repeat('b', 1000))");
        }
        let mark = clone.mark();
        assert_eq!(cross(&clone, 'b'), parted);
        if same_lengths {
            assert_eq!(
                clone.current_lsn(),
                edge,
                "the clone was to write records of the same lengths"
            );
        }
        let next = cross(&clone, 'b');
        let report = clone.wait_for_report(mark, "58P02");
        report.assert_explains(&parted);
        let before = Picture::of(archive.path());

        // Somebody marks the file as archived, and a checkpoint removes it.
        let status = clone.pg_wal().join("archive_status");
        fs::rename(status.join(format!("{parted}.ready")), status.join(format!("{parted}.done")))
            .expect("the file waits");
        clone.sql("CHECKPOINT; CHECKPOINT");
        let is_gone = !clone.pg_wal().join(&parted).exists();
        assert!(is_gone, "the server keeps {parted}");
        let refused = |mark| {
            clone.wake_archiver();
            let told = || {
                let reports = clone.log().archiver_reports(mark);
                let refusal = "does not continue";
                let told = |report: &harness::Report| report.message.contains(refusal);
                reports.into_iter().find(|report| told(report) && !report.is_again())
            };
            let report = clone.wait_until("the refusal", told);
            report.assert_explains(&next);
            assert_eq!(report.sqlstate, "58P02");
            assert!(report.detail.contains(&parted), "{report:?}");
            let reason =
                if same_lengths { "incorrect resource manager data checksum" } else { "at " };
            assert!(report.detail.contains(reason), "{report:?}");
            assert!(report.hint.contains("Do not move single files"), "{report:?}");
        };
        refused(clone.mark());
        assert_eq!(Picture::of(archive.path()), before);
        if !same_lengths {
            continue;
        }
        let mark = clone.mark();
        clone.restart();
        refused(mark);
        // A new pool, which knows of no failure.
        let mark = clone.mark();
        clone.reconfigure("walsafe_archive.file_mode", "0640");
        clone.switch_wal();
        refused(mark);
        let mark = clone.mark();
        clone.kill_all();
        clone.start();
        refused(mark);
        assert_eq!(Picture::of(archive.path()), before);
    }
}

/// The primary was told to mark its own file as archived: by the archive's history file of the standby that was
/// promoted by mistake, it was a tail that nobody needs. It was the only whole copy.
#[test]
fn a_primary_whose_standby_was_promoted_by_mistake_is_told_to_keep_its_own_file() {
    let archive = Scratch::new("archive");
    let primary = Cluster::archiving_to(archive.path()).start();
    primary.sql("CREATE TABLE t AS SELECT 1 AS x");
    let backup = primary.base_backup_without_wal();
    let heir = primary.streaming_standby().archive_to(archive.path()).start();
    let conninfo = format!("host={} user=postgres", heir.socket_dir().display());
    let follower = primary
        .streaming_standby()
        .set("primary_conninfo", &conninfo)
        .archive_to(archive.path())
        .set("archive_mode", "always")
        .start();
    primary.sql("INSERT INTO t VALUES (2)");
    for standby in [&heir, &follower] {
        standby.wait_replayed(&primary.current_lsn());
    }
    primary.wait_all_archived();
    let tail = primary.current_segment();
    heir.promote();
    // The follower hands over what it has of the old timeline's last segment under its full name.
    follower.wait_until("the short file", || archive.join(&tail).exists().then_some(()));
    heir.stop(Stop::Fast);
    follower.stop(Stop::Fast);
    let before = Picture::of(archive.path());

    let mark = primary.mark();
    primary.sql("INSERT INTO t VALUES (3)");
    assert_eq!(primary.switch_wal(), tail);
    let report = primary.wait_for_report(mark, "58P02");
    report.assert_explains(&tail);
    assert!(
        report.detail.contains("There timeline 2 branched off, which this server has not followed"),
        "{report:?}"
    );
    assert!(report.hint.contains("may be the only whole copy: keep it"), "{report:?}");
    assert!(!report.hint.contains(".done"), "{report:?}");
    assert_eq!(Picture::of(archive.path()), before);

    // What the HINT says: the promotion was a mistake.
    let aside = Scratch::new("aside");
    for name in archive.names() {
        if name.starts_with("00000002") || name.starts_with(&tail) {
            fs::rename(archive.join(&name), aside.join(&name)).expect("a file to move");
        }
    }
    primary.switch_wal();
    primary.wake_archiver();
    primary.wait_all_archived();
    let command = restore_command(archive.path());
    let restored = backup.restore().recovery().set("restore_command", &command).start();
    restored.wait_recovered();
    assert_eq!(restored.sql("SELECT string_agg(x::text, ',' ORDER BY x) FROM t"), "1,2,3");
}

/// Nothing that the server itself does looks like another history: a crash, a recovery that begins a
/// timeline with a segment of its own, and pg_resetwal, which is the one that cannot be proved.
#[test]
fn a_servers_own_history_is_never_refused() {
    let archive = Scratch::new("archive");
    let server =
        |cluster: &Cluster| assert_eq!(cluster.log().archiver_reports(Mark::default()), []);
    let primary = Cluster::archiving_to(archive.path()).start();
    primary.sql("CREATE TABLE t AS SELECT 1 AS x");
    let backup = primary.base_backup_without_wal();
    for _ in 0..3 {
        // In the middle of a segment, and of a record that crosses.
        cross(&primary, 'a');
        primary.kill_all();
        primary.start();
        primary.fill_whole_segments(1);
        primary.wait_all_archived();
    }
    assert_eq!(unmatched(&primary, Mark::default()), Vec::<String>::new());
    primary.stop(Stop::Fast);
    server(&primary);

    let command = restore_command(archive.path());
    let restored = backup.restore().recovery().set("restore_command", &command);
    let restored = restored.archive_to(archive.path()).start();
    restored.wait_recovered();
    restored.fill_whole_segments(2);
    restored.wait_all_archived();
    server(&restored);
    assert_eq!(unmatched(&restored, Mark::default()), Vec::<String>::new());
    restored.stop(Stop::Fast);

    run(as_server_user(&mut Command::new(restored.server().bindir.join("pg_resetwal")))
        .args(["-f", "-D"])
        .arg(restored.data()));
    let mark = restored.mark();
    restored.start();
    restored.fill_whole_segments(2);
    restored.wait_all_archived();
    let lines = unmatched(&restored, mark);
    assert_eq!(lines.len(), 1, "{lines:?}");
    server(&restored);
}
