//! Standbys, and recoveries from an archive in trouble: a restore never mistakes trouble for the end of the
//! WAL.

use std::fs;
use std::time::Duration;

use crate::support::document::Document;
use crate::support::recovery::{
    Origin, assert_clean, findings, path, refuses, restore_command, restore_command_with, rows,
    rows_after_recovery, segments, walsafe, walsafe_in,
};
use harness::command::{run, run_within};
use harness::{Cluster, Fs, Mount, Scratch, Stop, privileged, require, scratch};

#[test]
fn an_archive_that_is_missing_stops_a_recovery_which_goes_on_once_it_is_back() {
    let origin = Origin::lost();
    let away = origin.archive.path().with_extension("away");
    fs::rename(origin.archive.path(), &away).expect("renamed");
    let cluster = origin.recovery().create();
    refuses(&cluster, "could not open the archive directory");
    fs::rename(&away, origin.archive.path()).expect("renamed");
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
}

#[test]
fn an_archive_that_is_not_mounted_stops_a_recovery() {
    require!(privileged());
    let mount = Mount::new(Fs::Ext4, 64);
    let primary = Cluster::archiving_to(mount.path()).start();
    primary.sql("CREATE TABLE rows (n int)");
    let backup = primary.base_backup_without_wal();
    primary.sql("INSERT INTO rows VALUES (1)");
    primary.switch_wal();
    primary.wait_all_archived();
    primary.kill_all();
    mount.unmount();
    let command = restore_command(mount.path());
    let cluster = backup.restore_copy().recovery().set("restore_command", &command).create();
    refuses(&cluster, "Is the archive's file system mounted?");
    mount.mount();
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1");
}

#[test]
fn a_hole_stops_a_recovery_which_goes_on_once_it_is_filled() {
    let origin = Origin::lost();
    let names = segments(&origin.archive);
    let hole = origin.stored(&names[names.len() / 2]);
    let away = origin.archive.path().with_extension("hole");
    fs::rename(&hole, &away).expect("renamed");
    let cluster = origin.recovery().create();
    refuses(&cluster, "the file is missing from the archive, and later WAL is there");
    assert_eq!(findings(origin.archive.path()).len(), 1);
    fs::rename(&away, &hole).expect("renamed");
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    assert_clean(origin.archive.path());
}

#[test]
fn damage_stops_a_recovery_which_goes_on_once_it_is_repaired() {
    for strip in [false, true] {
        let origin = Origin::lost();
        let names = segments(&origin.archive);
        let file = origin.stored(&names[names.len() / 2]);
        let good = fs::read(&file).expect("readable");
        if strip {
            strip_attributes(&file);
        }
        let mut bad = good.clone();
        bad[400_000] ^= 1;
        fs::write(&file, &bad).expect("written");
        let cluster = origin.recovery().create();
        refuses(&cluster, "the archived file is damaged or the wrong one");
        fs::write(&file, &good).expect("written");
        cluster.start();
        assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    }
}

/// Loses a file's attributes, as a copy by other tools does.
fn strip_attributes(file: &std::path::Path) {
    let bytes = fs::read(file).expect("readable");
    fs::remove_file(file).expect("removed");
    scratch::write(file, bytes);
}

#[test]
fn a_recovery_to_a_target_stops_at_trouble_before_it_too() {
    let origin = Origin::new();
    origin.row(1);
    let lsn = origin.primary.sql("SELECT pg_create_restore_point('here')");
    let target = origin.primary.sql(&format!("SELECT pg_walfile_name('{lsn}')"));
    origin.row(2);
    origin.lose();
    let hole = origin.stored(&target);
    let away = origin.archive.path().with_extension("hole");
    fs::rename(&hole, &away).expect("renamed");
    let cluster = origin
        .recovery()
        .set("recovery_target_name", "here")
        .set("recovery_target_action", "promote")
        .create();
    refuses(&cluster, "later WAL is there");
    fs::rename(&away, &hole).expect("renamed");
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1");
}

#[test]
fn a_standby_waits_out_trouble_unless_it_is_told_to_stop() {
    let origin = Origin::lost();
    let away = origin.archive.path().with_extension("away");
    fs::rename(origin.archive.path(), &away).expect("renamed");
    // Told to stop, as a standby that has nothing but the archive should be.
    refuses(&origin.standby().create(), "could not open the archive directory");
    // By default, it tries again.
    let command = restore_command_with(origin.archive.path(), "--stall-timeout=1");
    let standby = origin.standby().set("restore_command", &command).create();
    let mark = standby.mark();
    standby.launch();
    standby.wait_for_log(mark, "could not open the archive directory");
    std::thread::sleep(Duration::from_secs(1));
    assert!(standby.is_running());
    fs::rename(&away, origin.archive.path()).expect("renamed");
    standby.wait_until("the rows", || {
        standby.psql("SELECT count(*) FROM rows").is_ok_and(|n| n == "3").then_some(())
    });
}

#[test]
fn a_standby_fed_by_restore_alone_follows_and_is_promoted() {
    let origin = Origin::new();
    origin.row(1);
    origin.primary.switch_wal();
    let standby = origin.standby().archive_to(origin.archive.path()).start();
    origin.primary.sql("INSERT INTO rows VALUES (2)");
    let lsn = origin.primary.current_lsn();
    origin.primary.switch_wal();
    standby.wait_replayed(&lsn);
    assert_eq!(rows(&standby), "1,2");
    let check = walsafe(&[
        "check",
        "--read-only",
        "--pgdata",
        path(standby.data()),
        path(origin.archive.path()),
    ]);
    // The data directory is on the same file system here, which is a warning.
    assert!(matches!(check.code, Some(0 | 1)), "{check:?}");
    origin.lose();
    standby.promote();
    standby.sql("INSERT INTO rows VALUES (3)");
    standby.switch_wal();
    standby.wait_all_archived();
    standby.stop(Stop::Fast);
    assert!(origin.archive.names().contains(&"00000002.history".to_owned()));
    assert_clean(origin.archive.path());
    let cluster = origin.recovery().start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
}

#[test]
fn a_streaming_standby_is_promoted_and_its_partial_segment_is_no_trouble() {
    let origin = Origin::new();
    origin.row(1);
    let standby = origin
        .primary
        .streaming_standby()
        .set("restore_command", &restore_command(origin.archive.path()))
        .archive_to(origin.archive.path())
        .start();
    origin.primary.sql("INSERT INTO rows VALUES (2)");
    let lsn = origin.primary.sql("SELECT pg_current_wal_flush_lsn()");
    standby.wait_replayed(&lsn);
    origin.primary.wait_all_archived();
    // The last segment is not in any archive.
    origin.primary.kill_all();
    standby.promote();
    standby.sql("INSERT INTO rows VALUES (3)");
    standby.switch_wal();
    standby.wait_all_archived();
    standby.stop(Stop::Fast);
    let partial = origin.archive.names().into_iter().find(|name| name.ends_with(".partial"));
    let partial = partial.expect("the promoted standby archives the end of the old timeline");
    assert_clean(origin.archive.path());

    let cluster = origin.recovery().start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    // And it can be fetched by hand.
    let data = Scratch::new("target");
    let target = data.join("segment");
    let archive = path(origin.archive.path());
    let restored =
        walsafe_in(data.path(), &["restore", "--from", archive, &partial, path(&target)]);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    assert_eq!(fs::read(&target).expect("restored"), origin.archive.read(&partial));
}

#[test]
fn a_standby_that_streams_goes_on_streaming_while_its_archive_is_gone() {
    let origin = Origin::new();
    let standby = origin
        .primary
        .streaming_standby()
        .set(
            "restore_command",
            &restore_command_with(Scratch::new("gone").path(), "--stall-timeout=1"),
        )
        .start();
    origin.primary.sql("INSERT INTO rows VALUES (1)");
    standby.wait_replayed(&origin.primary.sql("SELECT pg_current_wal_flush_lsn()"));
    assert_eq!(rows(&standby), "1");
}

#[test]
fn pg_rewind_finds_the_wal_that_it_needs_in_the_archive() {
    let archive = Scratch::new("archive");
    let old = Cluster::archiving_to(archive.path())
        .set("wal_log_hints", "on")
        .set("wal_keep_size", "0")
        .set("restore_command", &restore_command_with(archive.path(), "--ahead 4"))
        .start();
    old.sql("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)");
    let new = old.streaming_standby().set("wal_log_hints", "on").start();
    new.wait_replayed(&old.sql("SELECT pg_current_wal_flush_lsn()"));
    new.promote();
    new.sql("INSERT INTO rows VALUES (2); CHECKPOINT");
    // The old primary goes on alone, so far that its own WAL of the switch is recycled.
    old.sql("INSERT INTO rows VALUES (99)");
    old.fill_whole_segments(4);
    old.wait_all_archived();
    old.sql("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT");
    old.wait_all_archived();
    old.stop(Stop::Fast);
    new.stop(Stop::Fast);
    for name in segments(&archive) {
        let _ = fs::remove_file(old.pg_wal().join(name));
    }
    let rewind = |more: &[&str]| {
        let mut command = old.server().command("pg_rewind");
        command.arg("--target-pgdata").arg(old.data()).arg("--source-pgdata").arg(new.data());
        run_within(command.args(more).arg("--no-sync"), "", Duration::from_secs(60))
    };
    let without = rewind(&["--dry-run"]);
    assert!(!without.success(), "its WAL was there all the time: {without:?}");
    let with = rewind(&["--restore-target-wal"]);
    assert!(with.success(), "{with:?}");
    // What comes next is not fetched for it.
    assert!(!old.pg_wal().join(".walsafe-spool").exists());
}

#[test]
fn pg_archivecleanup_cleans_an_archive_of_each_encoding_behind_a_standby() {
    for (compression, extension) in
        [("none", ""), ("lz4", ".lz4"), ("zstd", ".zst"), ("gzip", ".gz")]
    {
        let origin = Origin::with(|b| b.set("walsafe_archive.compression", compression));
        for n in 1..=3 {
            origin.row(n);
        }
        origin.primary.sql("CHECKPOINT");
        origin.primary.switch_wal();
        origin.primary.wait_all_archived();
        let before = segments_of(&origin.archive, extension);
        let cleanup = origin.primary.server().bindir.join("pg_archivecleanup");
        let strip = if extension.is_empty() { String::new() } else { format!("-x {extension}") };
        let command =
            format!("{} {strip} {} %r", cleanup.display(), origin.archive.path().display());
        let standby = origin.standby().set("archive_cleanup_command", &command).start();
        standby.wait_until("the rows", || (rows(&standby) == "1,2,3").then_some(()));
        standby.wait_replayed(&origin.primary.sql("SELECT redo_lsn FROM pg_control_checkpoint()"));
        standby.wait_until("the archive to be cleaned", || {
            standby.sql("CHECKPOINT");
            (segments_of(&origin.archive, extension).len() < before.len()).then_some(())
        });
        assert!(origin.stored("walsafe_archive.id").exists());
        assert_clean(origin.archive.path());
        // What is left is enough for the standby to go on.
        origin.primary.sql("INSERT INTO rows VALUES (4)");
        let lsn = origin.primary.current_lsn();
        origin.primary.switch_wal();
        standby.wait_replayed(&lsn);
        assert_eq!(rows(&standby), "1,2,3,4", "{compression}");
    }
}

fn segments_of(archive: &Scratch, extension: &str) -> Vec<String> {
    let mut names = archive.names();
    names.retain(|name| name.strip_suffix(extension).is_some_and(|name| name.len() == 24));
    names
}

#[test]
fn restored_files_survive_in_pg_wal_and_leftovers_do_not_disturb_the_server() {
    let origin = Origin::lost();
    let cluster = origin.recovery().create();
    // As left by a call that was killed together with its machine.
    let host = run(&mut std::process::Command::new("hostname"));
    let leftover = format!(".walsafe.000000010000000000000009.{}.4000000.0.tmp", host.trim());
    scratch::write(&cluster.pg_wal().join(&leftover), "x");
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    assert!(!cluster.pg_wal().join(&leftover).exists());
    // One that stays, because it is another host's, disturbs neither checkpoints nor backups.
    let foreign = ".walsafe.000000010000000000000009.elsewhere.1.0.tmp";
    scratch::write(&cluster.pg_wal().join(foreign), "x");
    cluster.sql("CHECKPOINT");
    let _backup = cluster.base_backup();
    cluster.restart();
    assert_eq!(rows(&cluster), "1,2,3");
    assert!(cluster.pg_wal().join(foreign).exists());
}

#[test]
fn a_recovery_may_be_ended_before_a_named_hole_on_purpose() {
    let origin = Origin::new();
    origin.row(1);
    origin.row(2);
    let third = origin.primary.current_segment();
    origin.row(3);
    origin.lose();
    fs::remove_file(origin.stored(&third)).expect("removed");
    // To take each trouble for the end of the WAL is no way.
    let retry = restore_command_with(origin.archive.path(), "--on-error=retry");
    let cluster = origin.recovery().set("restore_command", &retry).create();
    refuses(&cluster, "--on-error=retry is refused");
    let document = Document::new("walsafe.md")
        .with("walsafe restore", format!("{} restore", origin.primary.server().walsafe().display()))
        .with("/mnt/archive", origin.archive.path())
        .with("000000010000000000000062", &third);
    let mut recovery = origin.recovery();
    for (name, value) in document.settings("end-at-hole") {
        recovery = recovery.set(&name, &value);
    }
    let cluster = recovery.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2");
}
