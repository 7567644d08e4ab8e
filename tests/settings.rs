//! Settings are refused when they cannot be right, at once in a session and loudly at a reload. They are
//! followed when they change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use harness::command::run;
use harness::server::as_server_user;
use harness::{Cluster, Mark, Scratch, Server, scratch};

/// Values that cannot be right, and what the refusal's DETAIL or the server's own words say.
fn wrong_values(cluster: &Cluster) -> Vec<(&'static str, String, &'static str)> {
    let data = cluster.data().to_str().unwrap();
    let destination = "walsafe_archive.destination";
    vec![
        (destination, "archive".to_owned(), "must be an absolute path"),
        (destination, data.to_owned(), "inside the data directory"),
        (destination, format!("{data}/pg_wal/archive"), "inside the data directory"),
        (destination, format!("/{}", "a".repeat(1000)), "too long"),
        (destination, "/mnt/a,".to_owned(), "List syntax is invalid"),
        (destination, "/mnt/a, archive".to_owned(), "must be an absolute path: \"archive\""),
        (destination, "/mnt/a, \"/mnt/a\"".to_owned(), "\"/mnt/a\" is named twice"),
        (destination, "/mnt/a/b, /mnt/a".to_owned(), "\"/mnt/a/b\" lies in \"/mnt/a\""),
        (destination, "s3://bucket//prefix".to_owned(), "two slashes in a row"),
        (destination, "s3://bucket?region=r&sort=1".to_owned(), "option \"sort\" is not known"),
        (destination, "s3://KEY:hunter2@bucket".to_owned(), "\"s3://...\""),
        (destination, "/mnt/a, s3://bucket?region=r&secret=hunter2".to_owned(), "credentials_file"),
        ("walsafe_archive.credentials_file", "keys".to_owned(), "an absolute path"),
        ("walsafe_archive.credentials_file", format!("{data}/keys"), "in the data directory"),
        (destination, "/mnt/../etc".to_owned(), "\"..\""),
        ("walsafe_archive.file_mode", "0666".to_owned(), "0600, 0640, 0400 and 0440"),
        ("walsafe_archive.file_mode", "0644".to_owned(), "0600, 0640, 0400 and 0440"),
        ("walsafe_archive.file_mode", "rw-------".to_owned(), "0600, 0640, 0400 and 0440"),
        ("walsafe_archive.compression", "rar".to_owned(), "not a known compression"),
        ("walsafe_archive.compression", "zstd:99".to_owned(), "not a whole number from 1 to"),
        ("walsafe_archive.compression", "lz4:1".to_owned(), "takes no level"),
        ("walsafe_archive.fsync_policy", "on".to_owned(), "full, file, none"),
        ("walsafe_archive.check_wal", "page".to_owned(), "off, header, records"),
        ("walsafe_archive.workers", "65".to_owned(), "(0 .. 64)"),
        ("walsafe_archive.workers", "-1".to_owned(), "(0 .. 64)"),
        ("walsafe_archive.workers", "many".to_owned(), "invalid value for parameter"),
        ("walsafe_archive.verify", "perhaps".to_owned(), "Boolean"),
        ("walsafe_archive.stall_timeout", "-1".to_owned(), "outside the valid range"),
        ("walsafe_archive.min_free_space", "1 fathom".to_owned(), "invalid value for parameter"),
    ]
}

/// Without the check, a typing mistake is stored, and noticed only when archiving stands still.
#[test]
fn a_session_that_loaded_the_module_refuses_what_cannot_be_right() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    for (name, value, said) in wrong_values(&cluster) {
        let value = value.replace('\'', "''");
        let refused =
            cluster.psql(&format!("LOAD 'walsafe_archive';\nALTER SYSTEM SET {name} = '{value}'"));
        let refused = refused.expect_err(name);
        assert!(refused.contains("ERROR:  22023:"), "{name} = {value}: {refused}");
        assert!(refused.contains(said), "{name} = {value}: {refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
        let text = name == "walsafe_archive.destination"
            || name.ends_with("file_mode")
            || name.ends_with("compression");
        if text {
            let words = format!("invalid value for parameter \"{name}\"");
            assert!(refused.contains(&words) && refused.contains("DETAIL:  "), "{refused}");
        }
    }
    let stored = fs::read_to_string(cluster.data().join("postgresql.auto.conf")).unwrap();
    assert!(!stored.contains("walsafe_archive"), "{stored}");

    // What may be right is accepted, including a directory that does not exist now, and no directory at
    // all.
    for (name, value) in [
        ("destination", "/mnt/not/there/yet"),
        ("destination", "/mnt/a, \"/mnt/b, c\" ,/mnt/\"d\""),
        ("destination", "s3://bucket/prefix?region=eu-central-1, /mnt/a"),
        ("destination", ""),
        ("credentials_file", "/etc/not/there/yet"),
        ("file_mode", "0440"),
        ("compression", "zstd:3"),
        ("fsync_policy", "file"),
        ("check_wal", "off"),
        ("workers", "64"),
        ("workers", "0"),
        ("stall_timeout", "2min"),
        ("min_free_space", "10GB"),
    ] {
        cluster.sql(&format!(
            "LOAD 'walsafe_archive';\nALTER SYSTEM SET walsafe_archive.{name} = '{value}'"
        ));
    }
}

/// If the prefix were not reserved, a misspelt setting would be accepted without a word, and do nothing.
#[test]
fn a_name_that_does_not_exist_under_the_reserved_prefix_is_refused() {
    let cluster = Cluster::builder().start();
    let refused = cluster
        .psql("LOAD 'walsafe_archive';\nALTER SYSTEM SET walsafe_archive.destinaton = '/mnt/a'")
        .expect_err("there is no such setting");
    assert!(refused.contains("walsafe_archive.destinaton"), "{refused}");
    let refused = cluster
        .psql("LOAD 'walsafe_archive';\nSET walsafe_archive.destinaton = '/mnt/a'")
        .expect_err("there is no such setting");
    assert!(refused.contains("\"walsafe_archive\" is a reserved prefix"), "{refused}");
    let refused = cluster
        .psql("LOAD 'walsafe_archive';\nSET walsafe_archive.destination = '/mnt/a'")
        .expect_err("a session has no say in it");
    assert!(refused.contains("cannot be changed now"), "{refused}");
}

/// The postmaster cannot judge a wrong value in postgresql.conf. Without the archiver's report, it would
/// stop archiving or be ignored in silence.
#[test]
fn a_wrong_value_in_the_file_is_reported_at_the_reload_and_the_old_one_stays_in_force() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path())
        .set("walsafe_archive.file_mode", "0640")
        .set("walsafe_archive.workers", "3")
        .start();
    let pid = cluster.wait_archiver();
    cluster.wait_archived(&cluster.switch_wal());
    let conf = cluster.data().join("postgresql.conf");
    let right = fs::read_to_string(&conf).unwrap();
    for (name, value, said) in wrong_values(&cluster) {
        let mark = cluster.mark();
        cluster.reconfigure(name, &value);
        let segment = cluster.switch_wal();
        let report = cluster.wait_for_report(mark, "22023");
        assert_eq!(report.level, "WARNING");
        assert!(report.message.contains(name), "{report:?}");
        let all = format!("{} {} {}", report.message, report.detail, report.hint);
        assert!(all.contains(said) && !all.contains("hunter2"), "{name} = {value}: {report:?}");
        // "The value in force before stays in force": which one was not said, nor what a restart would bring.
        let in_use = match name.split('.').next_back() {
            Some("destination") => format!(
                "Files are archived to \"{}\" until the server is restarted; after that, nothing would be archived.",
                archive.path().display()
            ),
            Some("file_mode") => "\"0640\" is in use until the server is restarted; after that, it would be the default, \"0600\".".to_owned(),
            Some("compression") => "\"none\" is in use until".to_owned(),
            _ => String::new(),
        };
        assert!(report.hint.contains(&in_use), "{name} = {value}: {report:?}");
        cluster.wait_archived(&segment);
        assert_eq!(archive.read(&segment), cluster.read_wal(&segment));
        let mode = scratch_mode(&archive, &segment);
        assert_eq!(mode, 0o640, "{name} = {value}");
        scratch::write(&conf, &right);
    }
    assert_eq!(cluster.archiver_pid(), Some(pid));
    assert_eq!(cluster.stat_archiver().failed_count, 0);

    // A correct value is no reason for a report.
    cluster.reload();
    let mark = cluster.mark();
    cluster.reconfigure("walsafe_archive.file_mode", "0600");
    cluster.wait_until("the new mode", || {
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment);
        (scratch_mode(&archive, &segment) == 0o600).then_some(())
    });
    assert_eq!(cluster.log().archiver_reports(mark), []);
}

/// Without the report, a line that was misspelt while the server ran would do nothing, and nothing would
/// say so.
#[test]
fn a_misspelt_name_in_the_file_is_reported_once_at_each_reload() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    let pid = cluster.wait_archiver();
    cluster.wait_archived(&cluster.switch_wal());
    for (name, written) in
        [("compresion", "walsafe_archive.compresion"), ("mode", "Walsafe_archive.MODE")]
    {
        let mark = cluster.mark();
        cluster.set_conf(written, "zstd");
        cluster.reconfigure(written, "lz4");
        let message = format!("invalid configuration parameter name \"walsafe_archive.{name}\"");
        let report = cluster.wait_until(&message, || {
            let mut reports = cluster.log().archiver_reports(mark);
            reports.retain(|report| report.message == message && !report.hint.is_empty());
            reports.pop()
        });
        assert_eq!((&*report.level, &*report.sqlstate), ("WARNING", "42602"));
        assert!(
            report.hint.contains("\"walsafe_archive.fsync_policy\", \"walsafe_archive.file_mode\""),
            "{report:?}"
        );
    }
    // Both are in the file now. Then the destination is misspelt too, and no hook sees a value of it.
    cluster.wait_archived(&cluster.switch_wal());
    let mark = cluster.mark();
    cluster.reconfigure("walsafe_archive.stall_timeout", "1min");
    cluster.wait_until("two reports", || {
        (cluster.log().archiver_reports(mark).len() == 2).then_some(())
    });
    let conf = cluster.data().join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    scratch::write(
        &conf,
        text.replace("walsafe_archive.destination", "walsafe_archive.destinaton"),
    );
    let mark = cluster.mark();
    cluster.reload();
    cluster.wait_for_log(mark, "walsafe_archive.destinaton");
    assert_eq!(cluster.archiver_pid(), Some(pid));
}

/// The warning came with the first file: an idle server, or one whose archive was not there yet, did
/// not say what it would lose. Then it came with the library, and from the archiver alone: a library that
/// the postmaster had loaded before said nothing.
#[test]
fn a_weaker_policy_gives_a_warning_at_load_and_when_a_reload_brings_it() {
    for preload in ["", "walsafe_archive"] {
        let home = Scratch::new("missing");
        let cluster = Cluster::archiving_to(&home.join("archive"))
            .set("shared_preload_libraries", preload)
            .set("walsafe_archive.fsync_policy", "none")
            .start();
        // Of every process: sessions and the postmaster say nothing.
        let warnings = |mark| {
            let mut reports = cluster.log().reports(mark);
            reports.retain(|report| {
                report.level == "WARNING" && report.message.contains("fsync_policy")
            });
            assert!(reports.iter().all(|report| report.process == "archiver"), "{reports:?}");
            reports
        };
        cluster.wait_until("the warning at load", || {
            (warnings(Mark::default()).len() == 1).then_some(())
        });
        cluster.sql("LOAD 'walsafe_archive'");
        // A refused value tells that the archiver is reading the files, and a second one that it was through
        // with them before. Each is another one, since one reload can be read twice, and the second time after
        // the next one was asked for.
        let wait_until_read = |what: &str| {
            for time in ["first", "second"] {
                let (mark, value) = (cluster.mark(), format!("many of {what}, {time}"));
                cluster.reconfigure("walsafe_archive.workers", &value);
                cluster.wait_until("the refusal", || {
                    let reports = cluster.log().archiver_reports(mark);
                    reports.iter().any(|report| report.message.contains(&value)).then_some(())
                });
            }
        };
        for (policy, says) in
            [("full", ""), ("file", "can lose the names"), ("none", "empty or torn")]
        {
            let mark = cluster.mark();
            cluster.reconfigure("walsafe_archive.fsync_policy", policy);
            wait_until_read(policy);
            let found = warnings(mark);
            assert_eq!(found.len(), usize::from(policy != "full"), "{policy}: {found:?}");
            assert!(found.iter().all(|report| report.detail.contains(says)), "{policy}: {found:?}");
        }
        // Another setting is no reason to say it again.
        let mark = cluster.mark();
        cluster.reconfigure("walsafe_archive.compression", "zstd");
        wait_until_read("another setting");
        assert_eq!(warnings(mark), []);
    }
}

/// The list of destinations followed the server's rule, and the statistics and restored WAL did not: a
/// backup by the group stopped at the restored WAL.
#[test]
fn files_in_a_data_directory_with_group_access_can_be_read_by_the_group() {
    for (argument, mode) in [("--allow-group-access", 0o640), ("--no-instructions", 0o600)] {
        let archive = Scratch::new("archive");
        let cluster =
            Cluster::archiving_to(archive.path()).initdb_argument(argument).umask_000().start();
        cluster.sql("CREATE EXTENSION walsafe_archive");
        let name = cluster.switch_wal();
        cluster.wait_archived(&name);
        cluster.wait_until("the statistics", || {
            cluster.data().join("pg_stat_tmp/walsafe_archive.stat").exists().then_some(())
        });
        cluster.sql("SELECT walsafe_archive_reset()");
        let restored = cluster.pg_wal().join("restored");
        let output = run(as_server_user(&mut Command::new(Server::under_test().walsafe()))
            .args(["restore", "--from", archive.path().to_str().unwrap(), &name])
            .arg(&restored)
            .current_dir(cluster.data()));
        assert!(restored.exists(), "{output:?}");
        let mut wrong = Vec::new();
        for path in [
            cluster.data().join("walsafe_archive.destinations"),
            cluster.data().join("walsafe_archive.last"),
            cluster.data().join("pg_stat_tmp/walsafe_archive.stat"),
            cluster.data().join("pg_stat_tmp/walsafe_archive.reset"),
            restored,
        ] {
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            if found != mode {
                wrong.push((path, format!("{found:o}")));
            }
        }
        assert!(wrong.is_empty(), "not {mode:o}: {wrong:?}");
    }
}

fn scratch_mode(archive: &Scratch, name: &str) -> u32 {
    fs::metadata(archive.join(name)).unwrap().permissions().mode() & 0o777
}

/// If a missing destination were refused for good, a server that boots before its network file system is
/// mounted would not archive until somebody restarts something.
#[test]
fn a_destination_that_appears_later_is_used_without_a_restart() {
    let home = Scratch::new("later");
    let archive = home.join("archive");
    let cluster = Cluster::archiving_to(&archive).start();
    let pid = cluster.wait_archiver();
    let mark = cluster.mark();
    let name = cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "58P01");
    report.assert_explains(&name);
    assert!(report.detail.contains(archive.to_str().unwrap()), "{report:?}");
    cluster.wait_failures(1);
    assert!(cluster.ready_files().contains(&name));
    assert!(!archive.exists(), "it is not for us to make it");

    scratch::make_dir(&archive);
    cluster.switch_wal();
    cluster.wait_all_archived();
    assert_eq!(scratch::read(&archive.join(&name)), cluster.read_wal(&name));
    assert_eq!(cluster.archiver_pid(), Some(pid));

    // Not a directory, and one where we may do nothing.
    for (sqlstate, spoil) in [("58P01", false), ("42501", true)] {
        let aside = home.join("aside");
        fs::rename(&archive, &aside).unwrap();
        if spoil {
            fs::create_dir(&archive).unwrap();
            scratch::chmod(&archive, 0);
        } else {
            scratch::write(&archive, "a file");
        }
        let mark = cluster.mark();
        let name = cluster.switch_wal();
        let report = cluster.wait_for_report(mark, sqlstate);
        report.assert_explains(&name);
        if spoil {
            fs::remove_dir(&archive).unwrap();
        } else {
            fs::remove_file(&archive).unwrap();
        }
        fs::rename(&aside, &archive).unwrap();
        cluster.switch_wal();
        cluster.wait_all_archived();
        assert_eq!(scratch::read(&archive.join(&name)), cluster.read_wal(&name));
    }
}

/// If later files still went to the old directory, an administrator who moves the archive could not know
/// when nobody needs it any more.
#[test]
fn a_destination_changed_by_reload_takes_every_later_file() {
    let (first, second) = (Scratch::new("first"), Scratch::new("second"));
    let cluster = Cluster::archiving_to(first.path()).start();
    let pid = cluster.wait_archiver();
    let before = cluster.fill_segments(3);
    cluster.wait_all_archived();
    cluster.reconfigure("walsafe_archive.destination", second.path().to_str().unwrap());
    let between = cluster.wait_until("the new destination to be used", || {
        let name = cluster.switch_wal();
        cluster.wait_archived(&name);
        second.join(&name).exists().then_some(name)
    });
    let after = cluster.fill_segments(3);
    cluster.wait_all_archived();
    for name in before {
        assert_eq!(first.read(&name), cluster.read_wal(&name));
        assert!(!second.join(&name).exists());
    }
    for name in after.iter().chain([&between]) {
        assert_eq!(second.read(name), cluster.read_wal(name));
        assert!(!first.join(name).exists(), "archived ahead under the old setting");
    }
    assert_eq!(cluster.archiver_pid(), Some(pid));
    assert_eq!(cluster.stat_archiver().failed_count, 0);
}

/// If the server said nothing, `pg_wal` would fill up, and nobody would know why.
#[test]
fn without_a_destination_the_server_says_that_archiving_is_not_configured() {
    let cluster = Cluster::builder()
        .set("archive_mode", "on")
        .set("archive_library", "walsafe_archive")
        .start();
    let mark = Mark::default();
    let name = cluster.switch_wal();
    cluster.wait_for_log(mark, "is not configured");
    let mut reports = cluster.log().archiver_reports(mark);
    reports.retain(|report| report.message.contains("not configured"));
    if cluster.server().major >= 17 {
        assert!(reports[0].detail.contains("walsafe_archive.destination"), "{reports:?}");
    }
    assert_eq!(cluster.ready_files(), std::slice::from_ref(&name));

    let archive = Scratch::new("archive");
    cluster.reconfigure("walsafe_archive.destination", archive.path().to_str().unwrap());
    cluster.wait_until("the file to be archived", || {
        cluster.switch_wal();
        archive.join(&name).exists().then_some(())
    });
    cluster.wait_all_archived();
}
