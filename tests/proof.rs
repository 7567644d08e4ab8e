//! `walsafe verify --from` says what a recovery will do, and the server is the witness: each test makes the
//! recovery and compares.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::recovery::{
    Origin, findings, path, refuses, restore_command, rows, rows_after_recovery, segments, walsafe,
};
use harness::{Backup, Cluster, ClusterBuilder, Scratch, Stop, scratch};

/// What `walsafe verify --from` says of a backup: findings as `file: kind`, and all of it.
struct Proof {
    findings: Vec<String>,
    report: serde_json::Value,
}

impl Proof {
    fn of(archive: &Path, backup: &Backup, more: &[&str]) -> Self {
        Self::of_label(archive, &backup.data().join("backup_label"), more)
    }

    fn of_label(archive: &Path, label: &Path, more: &[&str]) -> Self {
        let arguments =
            [&["verify", "--json", "--from", path(label)], more, &[path(archive)]].concat();
        let run = walsafe(&arguments);
        let report: serde_json::Value =
            serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run:?}"));
        let found = report["findings"].as_array().expect("findings");
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let findings: Vec<String> =
            found.iter().map(|f| format!("{}: {}", text(&f["file"]), text(&f["kind"]))).collect();
        assert_eq!(run.code, Some(i32::from(!findings.is_empty())), "{run:?}");
        Self { findings, report }
    }

    #[track_caller]
    fn finds(&self, expected: &[&str]) {
        assert_eq!(self.findings, expected, "{:#}", self.report);
    }

    /// The recovery ended where the proof says, which the new timeline's history file tells, and with the last
    /// commit that it names.
    #[track_caller]
    fn agrees_with(&self, recovered: &Cluster, timeline: u32) {
        let history = recovered.pg_wal().join(format!("{timeline:08X}.history"));
        let history = fs::read_to_string(history).expect("a history file");
        let switch = history.lines().rfind(|line| !line.trim().is_empty()).expect("a line");
        let switch = switch.split('\t').nth(1).expect("an address");
        assert_eq!(self.report["from"]["end"], switch, "{:#}", self.report);
        let log = fs::read_to_string(recovered.log().path()).expect("a log");
        let (_, last) =
            log.rsplit_once("last completed transaction was at log time ").expect("the time");
        let last = last.lines().next().expect("the time");
        assert_eq!(self.report["from"]["last_commit"]["time"], last, "{:#}", self.report);
        let (_, consistent) =
            log.rsplit_once("consistent recovery state reached at ").expect("consistent");
        let consistent = consistent.lines().next().expect("an address");
        assert_eq!(self.report["from"]["consistent_at"], consistent);
    }
}

/// A recovery from a backup and the archive.
fn recovery(archive: &Scratch, backup: &Backup) -> ClusterBuilder {
    backup
        .restore_copy()
        .recovery()
        .set("restore_command", &restore_command(archive.path()))
        .set("timezone", "UTC")
}

/// Two hours old, so that nobody waits for its first segment any more.
fn make_old(path: &Path) {
    let file = File::options().write(true).open(path).expect("a file");
    file.set_modified(SystemTime::now() - Duration::from_secs(7200)).expect("a time");
}

/// `no findings`, and the server refused to start: the newest timeline had left before the backup was taken.
#[test]
fn a_backup_that_the_newest_timeline_does_not_descend_from_is_a_finding_that_says_what_to_set() {
    let origin = Origin::new();
    origin.row(1);
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    let other = origin.standby().archive_to(origin.archive.path()).start();
    other.wait_until("the row", || (rows(&other) == "1").then_some(()));
    other.promote();
    other.sql("INSERT INTO rows VALUES (99)");
    other.switch_wal();
    other.wait_all_archived();
    other.stop(Stop::Fast);
    origin.row(2);
    let later = origin.primary.base_backup_without_wal();
    origin.row(3);
    origin.lose();
    let archive = origin.archive.path();

    let proof = Proof::of(archive, &later, &[]);
    proof.finds(&["00000002.history: unrecoverable"]);
    let advice = proof.report["findings"][0]["advice"].as_str().expect("advice");
    assert!(advice.contains("Set recovery_target_timeline = '1'"), "{advice}");
    let cluster = recovery(&origin.archive, &later).create();
    refuses(&cluster, "requested timeline 2 is not a child of this server's history");

    for target in ["current", "1"] {
        let proof = Proof::of(archive, &later, &["--target-timeline", target]);
        proof.finds(&[]);
        let cluster =
            recovery(&origin.archive, &later).set("recovery_target_timeline", target).start();
        assert_eq!(rows_after_recovery(&cluster), "1,2,3");
        proof.agrees_with(&cluster, 3);
    }
    // The first backup goes where the newest timeline goes, and both say so.
    let proof = Proof::of(archive, &origin.backup, &[]);
    proof.finds(&[]);
    let cluster = recovery(&origin.archive, &origin.backup).start();
    assert_eq!(rows_after_recovery(&cluster), "1,99");
    proof.agrees_with(&cluster, 3);
    let verified = walsafe(&["verify", path(archive)]);
    assert!(verified.out.contains("goes to timeline 2, which left timeline 1 at "), "{verified:?}");
    assert!(verified.out.contains("; WAL of timeline 1 behind that, up to "), "{verified:?}");
}

/// `no findings`, and the server stopped at a record that says `wal_level = minimal`.
#[test]
fn wal_that_was_written_with_wal_level_minimal_is_a_finding_in_one_segment_or_over_several() {
    for several in [false, true] {
        let origin = Origin::with(|builder| builder.set("wal_keep_size", "256MB"));
        origin.row(1);
        let set = |values: [(&str, &str); 4]| {
            origin.primary.wait_all_archived();
            origin.primary.stop(Stop::Fast);
            for (name, value) in values {
                origin.primary.set_conf(name, value);
            }
            origin.primary.start();
        };
        let (level, senders, mode) = ("wal_level", "max_wal_senders", "archive_mode");
        set([(level, "minimal"), (senders, "0"), (mode, "off"), ("wal_keep_size", "256MB")]);
        origin.primary.sql("INSERT INTO rows VALUES (2)");
        if several {
            origin.primary.fill_whole_segments(3);
        }
        set([(level, "replica"), (senders, "5"), (mode, "on"), ("wal_keep_size", "0")]);
        origin.row(3);
        // What was filled while nothing was archived is handed over when it would be recycled.
        origin.primary.sql("CHECKPOINT; CHECKPOINT");
        origin.primary.fill_whole_segments(1);
        origin.primary.sql("CHECKPOINT");
        origin.lose();
        let archive = origin.archive.path();
        assert_eq!(findings(archive), Vec::<String>::new(), "the archive is whole");

        let proof = Proof::of(archive, &origin.backup, &[]);
        assert_eq!(proof.findings.len(), 1, "{:#}", proof.report);
        assert!(proof.findings[0].ends_with(": unrecoverable"), "{:?}", proof.findings);
        let cluster = recovery(&origin.archive, &origin.backup).create();
        refuses(&cluster, "WAL was generated with wal_level=minimal, cannot continue recovering");
        // With a target before that, both get there.
        let last = proof.report["from"]["last_commit"]["xid"].to_string();
        let proof = Proof::of(archive, &origin.backup, &["--until", &last]);
        proof.finds(&[]);
        let cluster = recovery(&origin.archive, &origin.backup)
            .set("recovery_target_xid", &last)
            .set("recovery_target_action", "promote")
            .start();
        assert_eq!(rows_after_recovery(&cluster), "1");
    }
}

/// `no findings`, and the server "could not locate required checkpoint record".
#[test]
fn a_label_without_its_checkpoint_record_is_a_finding() {
    let origin = Origin::new();
    origin.row(1);
    origin.lose();
    let label = fs::read_to_string(origin.backup.data().join("backup_label")).expect("a label");
    let line =
        label.lines().find(|line| line.starts_with("CHECKPOINT LOCATION")).expect("the line");
    let redo = label.split(' ').nth(3).expect("the start");
    let changed = label.replace(line, &format!("CHECKPOINT LOCATION: {redo}"));
    let cluster = recovery(&origin.archive, &origin.backup).create();
    let changed_label = cluster.data().join("backup_label");
    scratch::write(&changed_label, changed);
    let proof = Proof::of_label(origin.archive.path(), &changed_label, &[]);
    assert_eq!(proof.findings.len(), 1, "{:#}", proof.report);
    assert!(proof.findings[0].ends_with(": unrecoverable"), "{:?}", proof.findings);
    refuses(&cluster, "could not locate required checkpoint record");
    Proof::of(origin.archive.path(), &origin.backup, &[]).finds(&[]);
}

/// The proof went along a history file without segments and ended at its branch: a hole behind it was not seen,
/// at which the recovery stops.
#[test]
fn a_hole_behind_the_branch_of_an_orphan_history_is_found() {
    let origin = Origin::new();
    origin.row(1);
    let branch = origin.primary.current_lsn();
    origin.row(2);
    let third = origin.primary.current_segment();
    origin.row(3);
    origin.lose();
    let archive = origin.archive.path();
    let orphan = origin.archive.join("00000002.history");
    scratch::write(&orphan, format!("1\t{branch}\tno recovery target specified\n"));
    make_old(&orphan);
    assert!(findings(archive)[0].starts_with("00000002.history: orphan-history: "));

    let proof = Proof::of(archive, &origin.backup, &[]);
    proof.finds(&["00000002.history: orphan-history"]);
    let cluster = recovery(&origin.archive, &origin.backup).start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    proof.agrees_with(&cluster, 3);

    let hole = origin.stored(&third);
    fs::rename(&hole, archive.with_extension("hole")).expect("renamed");
    let gap = format!("{third}: gap");
    let proof = Proof::of(archive, &origin.backup, &[]);
    proof.finds(&[&gap, "00000002.history: orphan-history"]);
    let cluster = recovery(&origin.archive, &origin.backup).create();
    refuses(&cluster, "later WAL is there");
    fs::rename(archive.with_extension("hole"), &hole).expect("renamed");
}

/// A recovery goes on where a promotion was broken off. Its history names a timeline of which nothing was
/// written, and `verify` missed segments of it, though `cp` brings every row.
#[test]
fn a_recovery_behind_a_promotion_that_was_broken_off_is_proved() {
    let origin = Origin::new();
    origin.row(1);
    let branch = origin.primary.current_lsn();
    origin.row(2);
    origin.lose();
    let archive = origin.archive.path();
    let line = format!("1\t{branch}\tno recovery target specified\n");
    scratch::write(&origin.archive.join("00000002.history"), line);
    let copy = format!("cp {}/%f %p", archive.display());
    let next = origin.recovery().archive_to(archive).start();
    next.wait_recovered();
    next.sql("INSERT INTO rows VALUES (3)");
    next.switch_wal();
    next.wait_all_archived();
    next.stop(Stop::Fast);
    let history = fs::read_to_string(origin.archive.join("00000003.history")).expect("a history");
    assert_eq!(history.lines().filter(|line| !line.is_empty()).count(), 2, "{history}");
    assert_eq!(findings(archive), Vec::<String>::new());
    let proof = Proof::of(archive, &origin.backup, &[]);
    proof.finds(&[]);
    let cluster = recovery(&origin.archive, &origin.backup).set("restore_command", &copy).start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    proof.agrees_with(&cluster, 4);
}

/// A partial segment at the end was counted as reached, and so was everything behind a damaged one.
#[test]
fn a_recovery_ends_where_the_proof_says_before_a_partial_segment_and_before_damage() {
    let origin = Origin::new();
    origin.row(1);
    origin.row(2);
    let third = origin.primary.current_segment();
    origin.row(3);
    origin.lose();
    let archive = origin.archive.path();
    let proof = Proof::of(archive, &origin.backup, &[]);
    proof.finds(&[]);
    let cluster = recovery(&origin.archive, &origin.backup).start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    proof.agrees_with(&cluster, 2);

    let file = origin.stored(&third);
    let good = scratch::read(&file);
    let mut bad = good.clone();
    bad[400_000] ^= 1;
    fs::write(&file, &bad).expect("written");
    let proof = Proof::of(archive, &origin.backup, &[]);
    assert_eq!(proof.findings.len(), 1, "{:#}", proof.report);
    assert!(proof.findings[0].starts_with(&third), "{:?}", proof.findings);
    refuses(&recovery(&origin.archive, &origin.backup).create(), "the archived file is damaged");
    fs::write(&file, &good).expect("written");

    // Only a partial form of the third and nothing behind it.
    for name in segments(&origin.archive) {
        if name > third {
            fs::remove_file(origin.stored(&name)).expect("removed");
        }
    }
    let partial = origin.archive.join(format!("{third}.partial"));
    fs::rename(&file, &partial).expect("renamed");
    let proof = Proof::of(archive, &origin.backup, &[]);
    proof.finds(&[]);
    let note = proof.report["from"]["notes"][0].as_str().expect("a note");
    assert!(note.starts_with(&format!("{third}.partial")), "{note}");
    let cluster = recovery(&origin.archive, &origin.backup).start();
    assert_eq!(rows_after_recovery(&cluster), "1,2");
    proof.agrees_with(&cluster, 2);
}

/// Each kind of target, reached, not reached and too early.
#[test]
fn a_recovery_stops_at_its_target_where_the_proof_says() {
    let origin = Origin::with(|builder| builder.set("max_prepared_transactions", "5"));
    let time = || {
        std::thread::sleep(Duration::from_millis(20));
        let time = origin.primary.sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'") + "+00";
        std::thread::sleep(Duration::from_millis(20));
        time
    };
    origin.row(1);
    let first = time();
    origin.row(2);
    let lsn = origin.primary.sql("SELECT pg_create_restore_point('before three')");
    let prepared = origin.primary.sql(
        "BEGIN; SAVEPOINT s; INSERT INTO rows VALUES (3); RELEASE s; SELECT txid_current();
         PREPARE TRANSACTION 'three'; COMMIT PREPARED 'three'",
    );
    origin.row(4);
    origin.lose();
    let archive = origin.archive.path();
    for (setting, value, until, expected) in [
        ("time", first.as_str(), first.as_str(), "1"),
        ("name", "before three", "before three", "1,2"),
        ("lsn", &lsn, &lsn, "1,2"),
        ("xid", &prepared, &prepared, "1,2,3"),
    ] {
        let proof = Proof::of(archive, &origin.backup, &["--until", until]);
        proof.finds(&[]);
        let cluster = recovery(&origin.archive, &origin.backup)
            .set(&format!("recovery_target_{setting}"), value)
            .set("recovery_target_action", "promote")
            .start();
        assert_eq!(rows_after_recovery(&cluster), expected, "{setting}");
        let log = fs::read_to_string(cluster.log().path()).expect("a log");
        let from = &proof.report["from"];
        let side = if from["stops_after"] == true {
            "recovery stopping a"
        } else {
            "recovery stopping before"
        };
        assert!(log.contains(side), "{setting}: {from:#}");
        let time = from["last_commit"]["time"].as_str().expect("a time");
        assert!(log.contains(&format!("was at log time {time}\n")), "{setting}: {from:#}");
    }
    for (setting, value) in [("xid", "4000000"), ("name", "never made")] {
        let until = format!("{setting}:{value}");
        let proof = Proof::of(archive, &origin.backup, &["--until", &until]);
        assert_eq!(proof.findings.len(), 1, "{:#}", proof.report);
        assert!(proof.findings[0].ends_with(": unrecoverable"), "{:?}", proof.findings);
        let cluster = recovery(&origin.archive, &origin.backup)
            .set(&format!("recovery_target_{setting}"), value)
            .create();
        refuses(&cluster, "recovery ended before configured recovery target was reached");
    }
    let label = fs::read_to_string(origin.backup.data().join("backup_label")).expect("a label");
    let early = label.split(' ').nth(3).expect("the start");
    let proof = Proof::of(archive, &origin.backup, &["--until", early]);
    assert_eq!(proof.findings.len(), 1, "{:#}", proof.report);
    let cluster =
        recovery(&origin.archive, &origin.backup).set("recovery_target_lsn", early).create();
    refuses(&cluster, "requested recovery stop point is before consistent recovery point");
}

/// The times of commits, with `pg_waldump` as the witness.
#[test]
fn list_tells_the_first_and_the_last_commit_as_pg_waldump_does() {
    let origin = Origin::new();
    origin.primary.pgbench_init(1);
    origin.primary.pgbench(200);
    origin.row(1);
    // The end holds no commit.
    origin.primary.fill_whole_segments(2);
    origin.lose();
    let archive = origin.archive.path();
    let names = segments(&origin.archive);
    let mut command = origin.primary.server().command("pg_waldump");
    command.env("TZ", "UTC").arg("-p").arg(archive);
    command.args([&names[0], names.last().expect("segments")]);
    let dump = harness::command::run_within(&mut command, "", Duration::from_secs(60)).stdout;
    let commits: Vec<&str> =
        dump.lines().filter_map(|line| line.split_once("desc: COMMIT ")).map(|(_, t)| t).collect();
    assert!(commits.len() > 200, "{}", commits.len());
    let list = walsafe(&["list", "--times", "--json", path(archive)]);
    let list: serde_json::Value = serde_json::from_str(&list.out).expect("JSON");
    for (what, line) in [("first_commit", commits[0]), ("last_commit", commits[commits.len() - 1])]
    {
        let ours = list["timelines"][0][what]["time"].as_str().expect("a time");
        // 2026-11-29 00:00:00.120000 UTC
        let theirs = line.split_once(" UTC").expect("a time").0.trim_end_matches('0');
        assert_eq!(ours.trim_end_matches("+00"), theirs.trim_end_matches('.'), "{what}");
    }
    let verified = Proof::of(archive, &origin.backup, &[]);
    verified.finds(&[]);
    let last = &verified.report["from"]["last_commit"];
    assert_eq!(*last, list["timelines"][0]["last_commit"]);
}

/// The backup of a standby has no end record: it is consistent where its control file says.
#[test]
fn a_backup_of_a_standby_is_consistent_where_its_control_file_says() {
    let origin = Origin::new();
    origin.row(1);
    origin.primary.sql("CHECKPOINT");
    origin.row(2);
    origin.primary.switch_wal();
    let standby = origin.standby().start();
    standby.wait_until("the rows", || (rows(&standby) == "1,2").then_some(()));
    let backup = standby.base_backup_without_wal();
    origin.row(3);
    origin.lose();
    let proof = Proof::of(origin.archive.path(), &backup, &[]);
    proof.finds(&[]);
    let cluster = recovery(&origin.archive, &backup).create();
    let _ = fs::remove_file(cluster.data().join("standby.signal"));
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3");
    proof.agrees_with(&cluster, 2);
}
