//! What the server's log says of a file that was not archived, and how often.

use std::path::Path;
use std::process::Command;

use harness::command::run;
use harness::server::as_server_user;
use harness::{Cluster, Fs, Mark, Mount, Report, Scratch, privileged, require, scratch, tool};

/// What was said after the mark of files that were not archived, once there is so much of it.
#[track_caller]
fn told(cluster: &Cluster, mark: Mark, count: usize) -> Vec<Report> {
    cluster.wait_until(&format!("{count} failures"), || {
        let mut reports = cluster.log().archiver_reports(mark);
        reports.retain(|report| report.message.starts_with("could not archive file "));
        (reports.len() >= count).then_some(reports)
    })
}

#[track_caller]
fn assert_again(report: &Report, file: &str, time: &str) {
    assert!(report.message.contains(file), "{report:?}");
    let begin = format!("Same as above, for the {time} time in ");
    assert!(report.detail.starts_with(&begin) && report.hint.is_empty(), "{report:?}");
}

/// A log of one night had the same three lines hundreds of times: the server tries three times, and again each
/// minute.
#[test]
fn a_failure_that_goes_on_is_told_in_full_once_until_something_changes() {
    let home = Scratch::new("archive");
    let archive = home.join("archive");
    let cluster = Cluster::archiving_to(&archive).start();
    let mark = cluster.mark();
    cluster.sql("CREATE EXTENSION walsafe_archive");
    let name = cluster.switch_wal();
    let reports = told(&cluster, mark, 3);
    let first = cluster.stat_archiver().last_failed_wal.unwrap_or(name);
    reports[0].assert_explains(&first);
    assert_again(&reports[1], &first, "2nd");
    assert_again(&reports[2], &first, "3rd");
    // Everything else has the whole text.
    let error = cluster.sql("SELECT last_error FROM walsafe_archive_status");
    assert!(error.contains("No such file or directory") && !error.contains("above"), "{error}");
    cluster.wait_failures(3);
    cluster.wait_for_log(mark, "failed too many times");

    // Another cause.
    let mark = cluster.mark();
    scratch::write(&archive, "a file");
    cluster.switch_wal();
    let reports = told(&cluster, mark, 2);
    reports[0].assert_explains(&first);
    assert!(reports[0].detail.contains("Not a directory"), "{reports:?}");
    assert_again(&reports[1], &first, "2nd");
    cluster.wait_for_log(mark, "failed too many times");

    // A setting, which wakes the archiver.
    let mark = cluster.mark();
    cluster.reconfigure("walsafe_archive.workers", "1");
    let reports = told(&cluster, mark, 2);
    reports[0].assert_explains(&first);
    assert_again(&reports[1], &first, "2nd");

    // A success.
    std::fs::remove_file(&archive).expect("ours");
    scratch::make_dir(&archive);
    cluster.switch_wal();
    cluster.wait_all_archived();
    std::fs::rename(&archive, home.join("elsewhere")).expect("moved");
    let mark = cluster.mark();
    let next = cluster.switch_wal();
    let reports = told(&cluster, mark, 2);
    reports[0].assert_explains(&next);
    assert_again(&reports[1], &next, "2nd");
}

/// The rows of the SQL function and of the program that are errors.
fn errors(cluster: &Cluster, archive: &Path) -> [Vec<String>; 2] {
    let rows = cluster.sql(
        "SELECT check_name || ': ' || detail FROM walsafe_archive_check() WHERE status = 'error'",
    );
    let mut program = cluster.server().command("walsafe");
    let output = program.args(["check", "--pgdata"]).args([cluster.data(), archive]).output();
    let output = String::from_utf8(output.expect("it runs").stdout).expect("text");
    let lines = output.lines().filter(|line| line.starts_with("error"));
    [rows.lines().map(str::to_owned).collect(), lines.map(str::to_owned).collect()]
}

/// The command in a HINT, between quotes.
fn command(hint: &str) -> &str {
    hint.split('"').nth(1).unwrap_or_else(|| panic!("no command: {hint}"))
}

/// Nobody was named, and not the directory that refused; the check had an error for each thing that it could
/// not look at.
#[test]
fn the_directory_that_refuses_is_named_with_the_command_that_helps() {
    let home = Scratch::new("way");
    let closed = home.dir("closed");
    let archive = closed.join("archive");
    scratch::make_dir(&archive);
    let cluster = Cluster::archiving_to(&archive).start();
    cluster.sql("CREATE EXTENSION walsafe_archive");
    cluster.wait_archived(&cluster.switch_wal());
    for (refuses, mode, digits, advice) in [
        (&closed, 0o600, "0600", "u+x"),
        (&archive, 0o400, "0400", "u+rwx"),
        (&archive, 0o200, "0200", "u+rwx"),
        (&archive, 0o500, "0500", "u+rwx"),
    ] {
        scratch::chmod(refuses, mode);
        let mark = cluster.mark();
        let name = cluster.switch_wal();
        let report = cluster.wait_for_report(mark, "42501");
        report.assert_explains(&name);
        let found = format!("\"{}\" belongs to user ", refuses.display());
        assert!(report.detail.contains(&found), "{report:?}");
        assert!(report.detail.contains(&format!(", mode {digits}; the server's user is ")));
        assert_eq!(command(&report.hint), format!("chmod {advice} {}", refuses.display()));
        let error = cluster.sql("SELECT last_error FROM walsafe_archive_status");
        assert!(error.contains(&found), "{error}");
        for rows in errors(&cluster, &archive) {
            let [row] = &rows[..] else { panic!("{digits}: {rows:#?}") };
            assert!(row.contains(&found) && row.contains(command(&report.hint)), "{row}");
        }
        run(as_server_user(Command::new("sh").args(["-c", command(&report.hint)])));
        cluster.switch_wal();
        cluster.wait_all_archived();
    }
}

/// The advice was to give the server permission, also where that would have filled the disk under a mount point,
/// and where no owner and no mode helps.
#[test]
fn advice_about_permission_fits_a_bare_mount_point_and_an_attribute() {
    require!(privileged());
    require!(tool("chattr"));
    let mount = Mount::new(Fs::Ext4, 32);
    let archive = mount.join("archive");
    std::fs::create_dir(&archive).expect("root may do that");
    scratch::chmod(&archive, 0o755);
    let cluster = Cluster::archiving_to(&archive).start();
    let mark = cluster.mark();
    cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "42501");
    assert!(report.message.contains("could not "), "{report:?}");
    let found = "belongs to user root and group root, mode 0755; the server's user is postgres.";
    assert!(report.detail.ends_with(found), "{report:?}");
    let path = archive.display();
    let says = format!(
        "Check that the archive's file system is mounted. If it is, run \"chown postgres {path}\" as root. "
    );
    assert!(report.hint.starts_with(&says), "{report:?}");
    run(Command::new("sh").args(["-c", command(&report.hint)]));
    cluster.switch_wal();
    cluster.wait_all_archived();

    run(Command::new("chattr").arg("+i").arg(&archive));
    let mark = cluster.mark();
    let name = cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "42501");
    run(Command::new("chattr").arg("-i").arg(&archive));
    report.assert_explains(&name);
    assert!(report.detail.contains("Operation not permitted"), "{report:?}");
    assert_eq!(command(&report.hint), format!("lsattr -d {path}"));
    assert!(!report.hint.contains("chmod") && !report.hint.contains("chown"), "{report:?}");
    cluster.switch_wal();
    cluster.wait_archived(&name);
}
