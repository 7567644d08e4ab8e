//! Directories about whose permissions somebody else decides: mounts that refuse or ignore `chmod`, and groups.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::support::recovery::{restore_command, rows_after_recovery};
use harness::{Cluster, FuseMount, Mark, Scratch, privileged, require, scratch, tool};

const MODE: &str = "archived files do not have the permission of \"walsafe_archive.file_mode\"";
const OPEN: &str = "every user can write into the archive directory";

/// How often the server's log has a message.
fn said(cluster: &Cluster, mark: Mark, message: &str) -> usize {
    let reports = cluster.log().reports(mark);
    reports.iter().filter(|report| report.message.contains(message)).count()
}

fn check(cluster: &Cluster, name: &str) -> String {
    cluster.sql(&format!(
        "SELECT status || ' ' || detail FROM walsafe_archive_check() WHERE check_name = '{name}'"
    ))
}

/// Archives to the directory and recovers from it; returns the primary, and where its log began.
#[track_caller]
fn archives_and_recovers(archive: &Path) -> (Cluster, Mark) {
    let primary = Cluster::archiving_to(archive)
        // Where files carry no attributes, its marker is written too.
        .set("walsafe_archive.check_wal", "off")
        .start();
    let mark = primary.mark();
    primary.sql("CREATE EXTENSION walsafe_archive");
    primary.sql("CREATE TABLE rows (n int)");
    let backup = primary.base_backup_without_wal();
    for n in 1..=2 {
        primary.sql(&format!("INSERT INTO rows VALUES ({n})"));
        primary.switch_wal();
    }
    primary.wait_all_archived();
    let command = restore_command(archive);
    let restored = backup.restore_copy().recovery().set("restore_command", &command).start();
    assert_eq!(rows_after_recovery(&restored), "1,2");
    (primary, mark)
}

/// Nothing was archived where `chmod` is refused: the identity file's failed. Where it is ignored, nobody said
/// that all users could read the WAL.
#[test]
fn a_mount_that_refuses_or_ignores_chmod_is_archived_to_with_one_warning() {
    require!(privileged());
    require!(tool("bindfs"));
    for option in ["--chmod-deny", "--chmod-ignore"] {
        let mount = FuseMount::with(&[option, "--create-with-perms=a+r"]);
        let (primary, mark) = archives_and_recovers(mount.path());
        let entries = fs::read_dir(mount.path()).expect("readable");
        let modes = entries.map(|entry| entry.expect("an entry").metadata().expect("there").mode());
        assert!(modes.into_iter().all(|mode| mode & 0o777 == 0o644), "{option}");
        assert_eq!(said(&primary, mark, MODE), 1, "{option}");
        // Nobody else gets into a directory of mode 0700.
        assert!(check(&primary, "file mode").starts_with("ok the mount gives files mode 0644"));
        scratch::chmod(mount.behind(), 0o755);
        let found = check(&primary, "file mode");
        assert!(found.starts_with("warning ") && found.contains("uid"), "{found}");
    }
}

/// `fsGroup` of Kubernetes: the check was critical with "chmod go-w", and who did that stopped archiving.
#[test]
fn a_directory_of_root_that_is_writable_for_the_servers_group_is_as_it_should_be() {
    require!(privileged());
    let archive = Scratch::new("archive");
    chown(archive.path(), Some(0), None).expect("given to root");
    scratch::chmod(archive.path(), 0o2770);
    let (primary, _) = archives_and_recovers(archive.path());
    let found = check(&primary, "ownership");
    assert!(found.starts_with("ok owner root, mode 2770"), "{found}");
    // What helps a directory that lost the permission.
    scratch::chmod(archive.path(), 0o2750);
    let found = check(&primary, "no-replace publish");
    assert!(found.contains("chmod g+rwx"), "{found}");
}

#[test]
fn a_directory_that_every_user_can_write_into_is_archived_to_with_one_warning() {
    let archive = Scratch::new("archive");
    scratch::chmod(archive.path(), 0o777);
    let (primary, mark) = archives_and_recovers(archive.path());
    assert_eq!(said(&primary, mark, OPEN), 1);
    let found = check(&primary, "ownership");
    assert!(found.starts_with("error ") && found.contains("remove and replace"), "{found}");
    let mode = fs::metadata(archive.path()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
}
