//! `walsafe_archive_check()` names each misconfiguration: every test makes one.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use harness::command::Output;
use harness::scratch::{chmod, make_dir};
use harness::{
    Cluster, Fs, FuseMount, Mount, Scratch, TIMEOUT, Trace, privileged, require, tool, wait_until,
};

use super::{archiving, start};

/// What the check of that name says: its status and its detail.
#[track_caller]
fn checked(cluster: &Cluster, name: &str) -> (String, String) {
    let row = cluster.sql(&format!(
        "SELECT status || '|' || detail FROM walsafe_archive_check() WHERE check_name = '{name}'"
    ));
    let (status, detail) = row.split_once('|').unwrap_or_else(|| panic!("no check {name}: {row}"));
    (status.to_owned(), detail.to_owned())
}

/// Asserts the status of a check, and what it says.
#[track_caller]
fn assert_check(cluster: &Cluster, name: &str, status: &str, says: &str) {
    let (found, detail) = checked(cluster, name);
    assert!(found == status && detail.contains(says), "{name}: {found}: {detail}");
}

fn point_to(cluster: &Cluster, destination: &Path) {
    cluster.reconfigure("walsafe_archive.destination", destination.to_str().unwrap());
    cluster.wait_until("the reload", || {
        let now = cluster.sql("SELECT destination FROM walsafe_archive_status");
        (now == destination.to_str().unwrap()).then_some(())
    });
}

#[test]
fn a_good_configuration_has_nothing_to_complain_about() {
    require!(privileged());
    let storage = Mount::new(Fs::Ext4, 64);
    let command = crate::support::recovery::restore_command(storage.path());
    let builder = Cluster::archiving_to(storage.path()).set("archive_timeout", "300");
    let cluster = start(builder.set("restore_command", &command));
    cluster.wait_archived(&cluster.switch_wal());
    let found = cluster.sql(
        "SELECT check_name, status, detail FROM walsafe_archive_check() WHERE status <> 'ok'
         AND check_name <> 'flush latency'",
    );
    assert_eq!(found, "");
    let names = cluster.sql("SELECT string_agg(check_name, ', ') FROM walsafe_archive_check()");
    assert_eq!(
        names,
        "archive_mode, archive_library, archive_command, destination, archive_timeout, restore_command, directory, ownership, identity, \
         free space, no-replace publish, unnamed temporary files, extended attributes, \
         file mode, flush latency, same file system, contents, timelines, temporary files"
    );
    // The probes leave nothing behind.
    let names = harness::scratch::names(storage.path());
    assert!(!names.iter().any(|name| name.contains("tmp") || name.contains("check")), "{names:?}");
}

/// A fresh install had a warning, with the question whether the archive is mounted.
#[test]
fn before_the_first_file_an_empty_directory_is_as_it_should_be() {
    let (archive, cluster) = archiving();
    let says = "empty, becomes this cluster's archive with the first file";
    assert_check(&cluster, "identity", "ok", says);
    harness::scratch::write(&archive.join("notes.txt"), "x");
    assert_check(&cluster, "identity", "warning", "Is the archive mounted?");
    fs::remove_file(archive.join("notes.txt")).unwrap();
    cluster.wait_archived(&cluster.switch_wal());
    assert_check(&cluster, "identity", "ok", "cluster ");
}

#[test]
fn the_servers_own_settings() {
    let (_archive, cluster) = archiving();
    let both = if cluster.server().major == 15 { "warning" } else { "error" };
    cluster.sql("ALTER SYSTEM SET archive_command = 'cp %p /x/%f'");
    cluster.sql("SELECT pg_reload_conf()");
    wait_until(TIMEOUT, "the reload", || {
        (checked(&cluster, "archive_command").0 != "ok").then_some(())
    });
    assert_check(&cluster, "archive_command", both, "\"cp %p /x/%f\" although \"archive_library\"");
    cluster.alter_system("archive_library", "");
    wait_until(TIMEOUT, "the reload", || {
        (checked(&cluster, "archive_library").0 == "error").then_some(())
    });
    assert_check(&cluster, "archive_library", "error", "this module is not in use");
    assert_check(&cluster, "archive_command", "error", "this command archives");
    cluster.sql("ALTER SYSTEM RESET ALL");
    cluster.sql("ALTER SYSTEM SET archive_mode = off");
    cluster.sql("ALTER SYSTEM SET walsafe_archive.destination = ''");
    cluster.restart();
    assert_check(&cluster, "archive_mode", "error", "\"archive_mode\" is off");
    assert_check(&cluster, "archive_command", "ok", "is not set");
    assert_check(&cluster, "destination", "error", "is not set");
}

/// A session that starts after a refused reload knows no destination, and said that there was none while
/// the archiver continued with the one before.
#[test]
fn a_destination_that_a_reload_refused() {
    let (archive, cluster) = archiving();
    cluster.reconfigure("walsafe_archive.destination", "archive");
    wait_until(TIMEOUT, "the reload", || {
        (checked(&cluster, "destination").0 == "error").then_some(())
    });
    assert_check(&cluster, "destination", "error", "is set to \"archive\", which is refused: ");
    assert_check(
        &cluster,
        "destination",
        "error",
        "must be an absolute path. An archiver that uses another",
    );
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    assert!(archive.join(&name).exists());
    cluster.reconfigure("walsafe_archive.destination", archive.path().to_str().unwrap());
    wait_until(TIMEOUT, "the reload", || {
        (checked(&cluster, "destination").0 == "ok").then_some(())
    });
}

#[test]
fn a_missing_destination() {
    let home = Scratch::new("archive");
    let cluster = start(Cluster::archiving_to(&home.join("missing")));
    assert_check(&cluster, "directory", "error", "No such file or directory");
    assert_check(&cluster, "directory", "error", "Create or mount the directory");
}

#[test]
fn a_destination_that_cannot_be_written() {
    let (archive, cluster) = archiving();
    chmod(archive.path(), 0o500);
    assert_check(&cluster, "no-replace publish", "error", "Permission denied");
    // Who has it, who needs it, and the command; in one row and not in four.
    assert_check(&cluster, "no-replace publish", "error", "mode 0500; the server's user is ");
    assert_check(&cluster, "no-replace publish", "error", "un \"chmod u+rwx ");
    let errors = "SELECT count(*) FROM walsafe_archive_check() WHERE status = 'error'";
    assert_eq!(cluster.sql(errors), "1");
    chmod(archive.path(), 0o700);
}

#[test]
fn a_destination_open_to_others() {
    let (archive, cluster) = archiving();
    for (mode, status, says) in [
        (0o755, "warning", "everyone can list it"),
        (0o770, "warning", "the members of group"),
        (0o777, "error", "every user can remove and replace WAL in it"),
        (0o1777, "warning", "every user can put a file into it"),
        (0o750, "ok", "mode 0750"),
        (0o700, "ok", "mode 0700"),
    ] {
        chmod(archive.path(), mode);
        assert_check(&cluster, "ownership", status, says);
    }
}

/// The setting itself refuses a path inside, but a symbolic link hides it.
#[test]
fn a_destination_inside_the_data_directory() {
    let home = Scratch::new("link");
    let link = home.join("archive");
    let cluster = Cluster::archiving_to(&link).create();
    let inside = cluster.data().join("archive");
    make_dir(&inside);
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    cluster.start();
    cluster.sql("CREATE EXTENSION walsafe_archive");
    assert_check(&cluster, "directory", "error", "inside the data directory");
}

#[test]
fn a_destination_on_the_file_system_of_the_data() {
    require!(privileged());
    let (_archive, cluster) = archiving();
    assert_check(&cluster, "same file system", "warning", "one broken disk takes both");
    let storage = Mount::tmpfs(16);
    point_to(&cluster, storage.path());
    assert_check(&cluster, "same file system", "ok", "of its own");
}

#[test]
fn the_archive_of_another_cluster() {
    let (archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    assert_check(&cluster, "identity", "ok", &cluster.system_identifier().to_string());
    let other = start(Cluster::archiving_to(archive.path()));
    assert_check(&other, "identity", "error", "belongs to another cluster");
    assert_check(&other, "identity", "error", &other.system_identifier().to_string());
}

#[test]
fn a_destination_that_is_not_mounted() {
    require!(privileged());
    let storage = Mount::new(Fs::Ext4, 32);
    let cluster = start(Cluster::archiving_to(storage.path()));
    cluster.wait_archived(&cluster.switch_wal());
    storage.unmount();
    assert_check(&cluster, "identity", "error", "has lost its identity file");
    assert_check(&cluster, "identity", "error", "walsafe init");
    storage.mount();
    assert_check(&cluster, "identity", "ok", "");
}

#[test]
fn a_destination_low_on_space() {
    require!(privileged());
    let storage = Mount::tmpfs(64);
    let cluster = start(Cluster::archiving_to(storage.path()));
    assert_check(&cluster, "free space", "ok", "MB are free");
    let ballast = storage.fill_but(2 << 20);
    assert_check(&cluster, "free space", "warning", "of 64 MB are free");
    fs::remove_file(ballast).unwrap();
    cluster.reconfigure("walsafe_archive.min_free_space", "1GB");
    wait_until(TIMEOUT, "the reload", || {
        (checked(&cluster, "free space").0 == "warning").then_some(())
    });
    assert_check(&cluster, "free space", "warning", "less than the 1024 MB asked for");
}

#[test]
fn a_file_system_without_unnamed_temporary_files() {
    require!(privileged());
    require!(tool("bindfs"));
    let storage = FuseMount::new();
    let cluster = start(Cluster::archiving_to(storage.path()));
    assert_check(&cluster, "unnamed temporary files", "ok", "has none");
    assert_check(&cluster, "no-replace publish", "ok", "cannot replace");
}

#[test]
fn a_file_system_without_extended_attributes() {
    let archive = Scratch::new("archive");
    let cluster = start(Cluster::archiving_to(archive.path()).without_xattrs());
    assert_check(&cluster, "extended attributes", "warning", "no digest there");
}

#[test]
fn a_file_system_without_any_way_to_publish() {
    let archive = Scratch::new("archive");
    let cluster = start(
        Cluster::archiving_to(archive.path())
            .without_renameat2()
            .without(harness::sandbox::Denied::LINKAT),
    );
    assert_check(&cluster, "no-replace publish", "error", "cannot publish");
}

#[test]
fn other_files_in_the_archive() {
    let (archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    assert_check(&cluster, "contents", "ok", "1 segment, ");
    fs::write(archive.join("notes of mine"), "").unwrap();
    assert_check(&cluster, "contents", "warning", "\"notes of mine\"");
}

#[test]
fn storage_that_is_slow_to_flush() {
    require!(tool("strace"));
    let (_archive, cluster) = archiving();
    let row = with_slow_flushes(&cluster, |_| ());
    assert!(row.success(), "{row:?}");
    assert!(row.stdout.starts_with("warning|"), "{row:?}");
    assert!(row.stdout.contains("Archiving cannot be faster"), "{row:?}");
}

/// A check that was terminated left its probe, and `walsafe verify` found it until the archiver's next
/// start.
#[test]
fn the_probe_of_a_check_that_was_killed_goes_with_the_next_check() {
    require!(tool("strace"));
    // Where there are no unnamed files: elsewhere no probe has a name.
    let archive = Scratch::new("archive");
    let cluster = start(Cluster::archiving_to(archive.path()).without_tmpfile());
    cluster.wait_archived(&cluster.switch_wal());
    let probes = || {
        let mut names = archive.names();
        names.retain(|name| name.starts_with(".walsafe.check."));
        names
    };
    let ended = with_slow_flushes(&cluster, |pid| {
        cluster.wait_until("a probe", || (!probes().is_empty()).then_some(()));
        cluster.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
    });
    assert!(!ended.success(), "{ended:?}");
    assert_eq!(probes().len(), 1);
    let host = probes()[0].split('.').nth(3).unwrap().to_owned();
    // Of a process that lives, and of another host, where nobody can tell.
    let kept = [format!(".walsafe.check.{host}.1.0.tmp"), ".walsafe.check.far.99999.0.tmp".into()];
    for name in &kept {
        harness::scratch::write(&archive.join(name), "");
    }
    assert_check(&cluster, "no-replace publish", "ok", "");
    let mut left = probes();
    left.sort();
    let mut kept = kept.to_vec();
    kept.sort();
    assert_eq!(left, kept);
}

/// Has a session ask for the flush latency while each flush takes 0.7 s, and calls `meanwhile` with
/// its process.
fn with_slow_flushes(cluster: &Cluster, meanwhile: impl FnOnce(i32)) -> Output {
    let home = Scratch::new("signal");
    let go = home.join("go");
    let script = format!(
        "SET application_name = 'slow';
         DO $$ BEGIN LOOP EXIT WHEN (pg_stat_file('{}', true)).size IS NOT NULL;
             PERFORM pg_sleep(0.1); END LOOP; END $$;
         SELECT status || '|' || detail FROM walsafe_archive_check() WHERE check_name = 'flush latency'",
        go.display()
    );
    thread::scope(|scope| {
        let asked = scope.spawn(|| cluster.psql_within(&script, Duration::from_secs(120)));
        let pid = cluster.wait_until("the session", || {
            let pid = "SELECT pid FROM pg_stat_activity WHERE application_name = 'slow'";
            cluster.sql(pid).parse().ok()
        });
        let slow = "fsync,fdatasync:delay_enter=700000";
        let _trace = Trace::inject(pid, "fsync,fdatasync", slow);
        harness::scratch::write(&go, "");
        meanwhile(pid);
        asked.join().unwrap()
    })
}
