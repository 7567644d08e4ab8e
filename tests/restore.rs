//! Recoveries as users make them, out of an archive that the module made.

use std::process::Command;

use crate::support::recovery::{
    Origin, assert_clean, path, refuses, restore_command, restore_command_with,
    rows_after_recovery, walsafe, walsafe_in,
};
use harness::command::run;
use harness::{Cluster, Scratch, Stop, require, scratch, tool};

#[test]
fn a_recovery_ends_at_a_name_a_time_or_an_address() {
    let origin = Origin::new();
    origin.row(1);
    origin.primary.sql("SELECT pg_create_restore_point('here')");
    origin.row(2);
    let time = origin.primary.sql("SELECT pg_sleep(0.2); SELECT clock_timestamp()");
    let time = time.trim().to_owned();
    origin.primary.sql("SELECT pg_sleep(0.2)");
    origin.row(3);
    let address = origin.primary.current_lsn();
    origin.row(4);
    origin.lose();
    for (target, value, expected) in [
        ("recovery_target_name", "here", "1"),
        ("recovery_target_time", &*time, "1,2"),
        ("recovery_target_lsn", &*address, "1,2,3"),
    ] {
        let cluster =
            origin.recovery().set(target, value).set("recovery_target_action", "promote").start();
        assert_eq!(rows_after_recovery(&cluster), expected, "{target}");
    }
    let cluster = origin.recovery().start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3,4", "to the end of the WAL");
    assert_clean(origin.archive.path());
}

#[test]
fn recoveries_over_three_timelines_find_their_way_and_leave_no_finding() {
    let origin = Origin::new();
    origin.row(1);
    origin.primary.sql("SELECT pg_create_restore_point('one')");
    origin.row(2);
    origin.lose();

    // Timeline 2 branches off before row 2.
    let second = origin
        .recovery()
        .set("recovery_target_name", "one")
        .set("recovery_target_action", "promote")
        .archive_to(origin.archive.path())
        .start();
    assert_eq!(rows_after_recovery(&second), "1");
    second.sql("INSERT INTO rows VALUES (12)");
    second.fill_whole_segments(2);
    second.sql("SELECT pg_create_restore_point('two')");
    second.sql("INSERT INTO rows VALUES (13)");
    second.fill_whole_segments(2);
    let later = second.base_backup_without_wal();
    second.wait_all_archived();
    second.stop(Stop::Fast);

    // Timeline 3 branches off timeline 2, before row 13, and is reached from the first backup.
    let third = origin
        .recovery()
        .set("recovery_target_name", "two")
        .set("recovery_target_action", "promote")
        .archive_to(origin.archive.path())
        .start();
    assert_eq!(rows_after_recovery(&third), "1,12");
    assert_eq!(third.sql("SELECT timeline_id FROM pg_control_checkpoint()"), "3");
    third.sql("INSERT INTO rows VALUES (23)");
    third.fill_whole_segments(2);
    third.wait_all_archived();
    third.stop(Stop::Fast);

    assert_clean(origin.archive.path());
    let label = origin.backup.data().join("backup_label");
    let proof = walsafe(&["verify", "--from", path(&label), path(origin.archive.path())]);
    assert_eq!(proof.code, Some(0), "{proof:?}");
    assert!(proof.out.contains("the recovery goes to timeline 3"), "{proof:?}");

    // Each end can be reached: the newest timeline, an older one, and from the later backup.
    let latest = origin.recovery().start();
    assert_eq!(rows_after_recovery(&latest), "1,12,23");
    let first = origin.recovery().set("recovery_target_timeline", "1").start();
    assert_eq!(rows_after_recovery(&first), "1,2");
    let command = restore_command(origin.archive.path());
    let from_later = later
        .restore_copy()
        .recovery()
        .set("restore_command", &command)
        .set("recovery_target_timeline", "2")
        // The backup's own configuration has the target of that recovery.
        .set("recovery_target_name", "")
        .start();
    assert_eq!(rows_after_recovery(&from_later), "1,12,13");
}

#[test]
fn each_encoding_of_the_module_is_recovered() {
    for compression in ["lz4", "zstd", "gzip"] {
        let origin =
            Origin::with(|builder| builder.set("walsafe_archive.compression", compression));
        origin.row(1);
        origin.lose();
        let plain = origin.archive.names().into_iter().filter(|name| name.len() == 24).count();
        assert_eq!(plain, 0, "{compression}: nothing was compressed");
        let cluster = origin.recovery().start();
        assert_eq!(rows_after_recovery(&cluster), "1", "{compression}");
        assert_clean(origin.archive.path());
    }
}

#[test]
fn what_stock_tools_compressed_is_recovered_too() {
    for (program, arguments) in
        [("zstd", &["-q", "--rm"][..]), ("lz4", &["-q", "--rm", "-m"]), ("gzip", &[])]
    {
        require!(tool(program));
        let origin = Origin::new();
        origin.row(1);
        origin.lose();
        let segments: Vec<_> = origin
            .archive
            .names()
            .into_iter()
            .filter(|name| name.len() == 24)
            .map(|name| origin.archive.join(name))
            .collect();
        run(Command::new(program).args(arguments).args(&segments));
        let cluster = origin.recovery().start();
        assert_eq!(rows_after_recovery(&cluster), "1", "{program}");
        assert_clean(origin.archive.path());
    }
}

#[test]
fn cp_recovers_from_a_plain_archive() {
    let origin = Origin::new();
    origin.row(1);
    origin.lose();
    let command = format!("cp {}/%f \"%p\"", origin.archive.path().display());
    let cluster = origin.recovery().set("restore_command", &command).start();
    assert_eq!(rows_after_recovery(&cluster), "1");
}

#[test]
fn an_archive_that_cp_made_is_recovered_once_it_is_marked() {
    let archive = Scratch::new("archive");
    let command = format!("cp %p {}/%f", archive.path().display());
    let primary = Cluster::builder().archive_command(&command).start();
    primary.sql("CREATE TABLE rows (n int)");
    let backup = primary.base_backup_without_wal();
    primary.sql("INSERT INTO rows VALUES (1)");
    primary.switch_wal();
    primary.wait_all_archived();
    primary.stop(Stop::Fast);

    let restored = || {
        backup.restore_copy().recovery().set("restore_command", &restore_command(archive.path()))
    };
    refuses(&restored().create(), "the archive has no identity file");
    let unmarked = restore_command_with(archive.path(), "--allow-unmarked");
    let cluster = restored().set("restore_command", &unmarked).start();
    assert_eq!(rows_after_recovery(&cluster), "1");

    let init = walsafe(&["init", "--pgdata", path(primary.data()), path(archive.path())]);
    assert_eq!(init.code, Some(0), "{init:?}");
    let cluster = restored().start();
    assert_eq!(rows_after_recovery(&cluster), "1");
    assert_clean(archive.path());
}

#[test]
fn segments_of_sixteen_megabytes_are_recovered() {
    let archive = Scratch::new("archive");
    let primary =
        Cluster::archiving_to(archive.path()).segment_mb(16).set("min_wal_size", "32MB").start();
    primary.sql("CREATE TABLE rows (n int)");
    let backup = primary.base_backup_without_wal();
    primary.sql("INSERT INTO rows VALUES (1)");
    primary.fill_whole_segments(1);
    primary.wait_all_archived();
    let names = archive.names();
    let segment = names.iter().rfind(|name| name.len() == 24).expect("a segment");
    let data = Scratch::new("target");
    scratch::make_dir(&data.join("pg_wal"));
    let target = data.join("pg_wal/RECOVERYXLOG");
    let restored = walsafe_in(
        data.path(),
        &["restore", "--from", path(archive.path()), segment, path(&target)],
    );
    assert_eq!(restored.code, Some(0), "{restored:?}");
    assert_eq!(std::fs::read(&target).expect("restored").len(), 16 << 20);
    assert_eq!(std::fs::read(&target).expect("restored"), archive.read(segment));
    primary.stop(Stop::Fast);
    let command = restore_command(archive.path());
    let cluster = backup
        .restore_copy()
        .recovery()
        .set("restore_command", &command)
        .set("min_wal_size", "32MB")
        .start();
    assert_eq!(rows_after_recovery(&cluster), "1");
    assert_clean(archive.path());
}
