//! From end to end: a hole that a wrong destination left, a `restore_command` that the server does not find, and
//! a segment that is switched, archived and read back.

use std::path::Path;

use harness::command::{Output, run_within};
use harness::scratch::chmod;
use harness::{Cluster, Scratch, TIMEOUT, wait_until};

use super::archiving;
use crate::support::document::Document;

fn checked(cluster: &Cluster, name: &str) -> String {
    cluster.sql(&format!(
        "SELECT status || ': ' || detail FROM walsafe_archive_check() WHERE check_name = '{name}'"
    ))
}

/// The check said "ok" over five missing segments.
#[test]
fn a_hole_that_a_wrong_destination_left_is_named() {
    let (archive, cluster) = archiving();
    let wrong = Scratch::new("wrong");
    cluster.wait_archived(&cluster.switch_wal());
    assert!(checked(&cluster, "contents").starts_with("ok: "));
    let point_to = |path: &Path| {
        cluster.reconfigure("walsafe_archive.destination", path.to_str().unwrap());
        cluster.wait_archived(&cluster.switch_wal());
    };
    point_to(wrong.path());
    for _ in 0..4 {
        cluster.wait_archived(&cluster.switch_wal());
    }
    point_to(archive.path());
    cluster.wait_archived(&cluster.switch_wal());
    let segment = |name: &&String| name.len() == 24;
    let (there, lost) = (archive.names(), wrong.names());
    let lost: Vec<_> = lost.iter().filter(segment).filter(|n| !there.contains(n)).collect();
    let said = checked(&cluster, "contents");
    let says = format!(
        "warning: {} segments, {} missing ({} to {}), the newest ",
        there.iter().filter(segment).count(),
        lost.len(),
        lost[0],
        lost[lost.len() - 1]
    );
    assert!(lost.len() >= 4 && said.starts_with(&says), "{said}\n{says}");
}

/// A recovery ended with "command not found", which nothing had said before.
#[test]
fn a_restore_command_that_the_server_does_not_find_is_an_error_beforehand() {
    let (archive, cluster) = archiving();
    assert!(
        checked(&cluster, "restore_command").starts_with("warning: \"restore_command\" is not")
    );
    assert!(checked(&cluster, "archive_timeout").starts_with("warning: \"archive_timeout\" is 0"));
    let path = archive.path().display();
    for (command, says) in [
        (format!("walsafe restore --from {path} %f \"%p\""), "ok: "),
        (format!("walsafe-x restore --from {path} %f \"%p\""), "error: "),
        ("walsafe restore --from /elsewhere %f \"%p\"".to_owned(), "warning: "),
    ] {
        cluster.reconfigure("restore_command", &command);
        wait_until(TIMEOUT, "the reload", || {
            checked(&cluster, "restore_command").starts_with(says).then_some(())
        });
    }
    // Without the directory of the server's programs in its PATH, as Debian starts it.
    cluster.reconfigure("restore_command", &format!("walsafe restore --from {path} %f \"%p\""));
    cluster.stop(harness::Stop::Fast);
    let programs = &cluster.server().bindir;
    let start = format!(
        "PATH=/usr/bin:/bin {}/pg_ctl -D {} -l {}/start.log -w start",
        programs.display(),
        cluster.data().display(),
        archive.path().display()
    );
    let started = run_within(&mut cluster.shell(&start), "", TIMEOUT);
    assert!(started.success(), "{started:?}");
    let said = checked(&cluster, "restore_command");
    assert!(
        said.starts_with("error: ") && said.contains("not in the server's PATH (/usr/bin:"),
        "{said}"
    );
    let whole = format!("Write its whole path: restore_command = '{}/walsafe ", programs.display());
    assert!(said.contains(&whole), "{said}");
    let stop =
        format!("{}/pg_ctl -D {} -m fast stop", programs.display(), cluster.data().display());
    assert!(run_within(&mut cluster.shell(&stop), "", TIMEOUT).success());
}

/// The script for Nagios, as docs/monitoring.md has it.
fn plugin(cluster: &Cluster) -> Output {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let script = tree.join("monitoring/walsafe-archive-test");
    let document = Document::new("monitoring.md")
        .with("monitoring/walsafe-archive-test 60", format!("{} 2", script.display()));
    document.try_run(cluster, "archive-test")
}

/// Nothing showed that a segment of this server gets into the archive and can be read back.
#[test]
fn a_segment_is_switched_archived_and_read_back() {
    let (archive, cluster) = archiving();
    for compression in ["none", "zstd"] {
        cluster.reconfigure("walsafe_archive.compression", compression);
        let row =
            cluster.sql("SELECT destination, file, status, detail FROM walsafe_archive_test()");
        let columns: Vec<_> = row.split('|').collect();
        assert_eq!(columns[0], archive.path().to_str().unwrap());
        assert!(archive.join(columns[1]).exists(), "{row}");
        assert_eq!(columns[2], "ok", "{row}");
        assert!(columns[3].contains("and every record are right"), "{row}");
    }
    // Nothing else was written: each call ends a segment of its own.
    let one = cluster.sql("SELECT left(file, 24) FROM walsafe_archive_test(30)");
    assert_ne!(one, cluster.sql("SELECT left(file, 24) FROM walsafe_archive_test(30)"));
    assert!(Document::new("operations.md").psql(&cluster, "test-sql").contains(" ok "));
    cluster.sql("CREATE ROLE exporter");
    Document::new("monitoring.md").psql(&cluster, "archive-test-role");
    assert_eq!(cluster.sql("SET ROLE exporter; SELECT status FROM walsafe_archive_test()"), "ok");
    let good = plugin(&cluster);
    assert_eq!(good.code(), Some(0), "{good:?}");
    assert!(good.stdout.starts_with("WALSAFE OK - 0000"), "{good:?}");

    chmod(archive.path(), 0o500);
    let row = cluster.sql("SELECT status, detail FROM walsafe_archive_test(2)");
    assert!(row.starts_with("error|it was not in the archive after 2 s. "), "{row}");
    assert!(row.contains("Permission denied"), "{row}");
    let bad = plugin(&cluster);
    assert_eq!(bad.code(), Some(2), "{bad:?}");
    assert!(bad.stdout.starts_with("WALSAFE CRITICAL - "), "{bad:?}");
    chmod(archive.path(), 0o700);
    let refused = cluster.psql("SELECT walsafe_archive_test(-1)").expect_err("refused");
    assert!(refused.contains("invalid timeout"), "{refused}");
    cluster.sql("ALTER SYSTEM SET walsafe_archive.destination = ''");
    cluster.restart();
    let refused = cluster.psql("SELECT walsafe_archive_test()").expect_err("refused");
    assert!(refused.contains("does not archive with walsafe_archive"), "{refused}");
    let unknown = plugin(&cluster);
    assert_eq!(unknown.code(), Some(3), "{unknown:?}");
}
