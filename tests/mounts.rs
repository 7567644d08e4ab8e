//! Where an archive may lie beside a plain directory of its own, and the largest segments: nothing that the
//! server or `walsafe` says about a destination depends on what kind of directory it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::recovery::{assert_clean, path, rows_after_recovery, walsafe_in};
use harness::command::{run, run_within};
use harness::{
    Cluster, Mount, Scratch, Server, TIMEOUT, archive, privileged, require, scratch, tool,
};

/// Archives a segment to a destination, and sees that it got there.
fn archives_to(cluster: &Cluster, destination: &Path) -> String {
    cluster.alter_system("walsafe_archive.destination", path(destination));
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    let there = archive::contents(destination, &name);
    assert!(
        there.as_deref() == Some(&cluster.read_wal(&name)),
        "{name}: {}",
        destination.display()
    );
    assert_eq!(archive::temporaries(destination), Vec::<String>::new());
    assert_clean(destination);
    name
}

/// A path of about 700 characters, with spaces, percent signs and the letters that PostgreSQL and shells
/// put something else for.
fn long_path(home: &Scratch) -> PathBuf {
    let mut dir = home.path().to_owned();
    for part in ["a space", "100% of %p and %f", "it's $HOME"] {
        dir.push(format!("{part} {}", "x".repeat(210 - part.len())));
        scratch::make_dir(&dir);
    }
    assert!((650..800).contains(&path(&dir).len()), "{}", path(&dir).len());
    dir
}

/// A shell's word for a path, in a command where the server puts something else for `%p`.
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''").replace('%', "%%"))
}

/// If a path were cut off, split at a space or filled in at its percent signs, a recovery would look in
/// another directory, and one through a symbolic link could refuse its own archive.
#[test]
fn a_path_with_spaces_and_percent_signs_of_700_characters_and_a_symbolic_link() {
    let home = Scratch::new("paths");
    let cluster = Cluster::archiving_to(&home.dir("first")).start();
    cluster.sql("CREATE TABLE rows (n int)");

    let (target, link) = (home.dir("target"), home.join("link"));
    symlink(&target, &link).unwrap();
    let name = archives_to(&cluster, &link);
    assert!(archive::stored(&target, &name).is_some());
    let linked = ["restore", "--from", path(&link), &name, "restored"];
    assert_eq!(walsafe_in(home.path(), &linked).code, Some(0));
    assert!(home.read("restored") == cluster.read_wal(&name));

    let long = long_path(&home);
    archives_to(&cluster, &long);
    let backup = cluster.base_backup_without_wal();
    cluster.sql("INSERT INTO rows VALUES (1), (2)");
    cluster.switch_wal();
    cluster.wait_all_archived();
    let program = Server::under_test().walsafe();
    let command =
        format!("{} restore --from {} %f \"%p\"", word(path(&program)), word(path(&long)));
    let recovered = backup.restore().recovery().set("restore_command", &command).start();
    assert_eq!(rows_after_recovery(&recovered), "1,2");
}

/// The root of a container is an overlay, whose files change their device and number when they are first
/// written to. If the archive were recognized by those, the server would refuse it.
#[test]
fn a_directory_of_an_overlay() {
    require!(privileged());
    let overlay = Mount::overlay("archive");
    let destination = overlay.join("archive");
    let cluster = Cluster::archiving_to(&destination).start();
    let name = archives_to(&cluster, &destination);
    // The same file once more is the same file.
    cluster.mark_ready_again(&name);
    archives_to(&cluster, &destination);
    cluster.wait_archived(&name);
    cluster.restart();
    archives_to(&cluster, &destination);
}

/// A default ACL gives a backup user what the group's bits of `file_mode` let through. If the module did not
/// set them, or set more, an administrator's ACL would give too little or too much.
#[test]
fn a_default_acl_is_bounded_by_file_mode() {
    require!(privileged());
    require!(tool("setfacl"));
    const BACKUP_USER: u32 = 34;
    let home = Scratch::new("acl");
    scratch::chmod(home.path(), 0o711);
    let destination = home.dir("archive");
    let user = format!("u:{BACKUP_USER}:rx,d:u:{BACKUP_USER}:rx");
    run(Command::new("setfacl").args(["-m", &user]).arg(&destination));
    let read_as_backup_user = |name: &str| {
        let mut cat = Command::new("cat");
        cat.uid(BACKUP_USER).gid(BACKUP_USER).current_dir("/").arg(destination.join(name));
        run_within(&mut cat, "", TIMEOUT).success()
    };
    let cluster =
        Cluster::archiving_to(&destination).set("walsafe_archive.file_mode", "0600").start();
    for (mode, bits, readable) in [("0600", 0o600, false), ("0640", 0o640, true)] {
        cluster.alter_system("walsafe_archive.file_mode", mode);
        let name = archives_to(&cluster, &destination);
        let metadata = fs::metadata(destination.join(&name)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, bits, "{mode}");
        assert_eq!(read_as_backup_user(&name), readable, "{mode}");
    }
}

/// Segments of this size from just before to just behind the 4 GB of WAL at which the high half of their
/// names counts on: nothing is missing in between.
fn crosses_the_border_of_names(megabytes: u32, last_before: &str, first_behind: &str) {
    let home = Scratch::new("border");
    let destination = home.dir("archive");
    let cluster = Cluster::archiving_to(&destination)
        .segment_mb(megabytes)
        .set("min_wal_size", &format!("{}MB", 2 * megabytes))
        .set("max_wal_size", &format!("{}MB", 8 * megabytes))
        .set("walsafe_archive.compression", "lz4")
        .create();
    run(cluster
        .server()
        .command("pg_resetwal")
        .args(["-l", last_before, "-D"])
        .arg(cluster.data()));
    cluster.start();
    let names = [cluster.switch_wal(), cluster.switch_wal()];
    assert_eq!(names, [last_before, first_behind]);
    cluster.wait_archived(&names[1]);
    assert_clean(&destination);
    cluster.sql("CREATE EXTENSION walsafe_archive");
    assert_eq!(cluster.sql("SELECT * FROM walsafe_archive_gaps()"), "");
    for name in &names {
        let restored = home.join("restored");
        let arguments = ["restore", "--from", path(&destination), name, path(&restored)];
        let run = walsafe_in(home.path(), &arguments);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(scratch::read(&restored) == cluster.read_wal(name), "{name}");
        fs::remove_file(&restored).unwrap();
    }
}

/// There are 64 of them between two borders. If the names were taken to count to FF, as with 16 MB, 192
/// segments would seem to be missing.
#[test]
fn segments_of_64_mb_over_the_border_of_4_gb() {
    crosses_the_border_of_names(64, "00000001000000000000003F", "000000010000000100000000");
}
