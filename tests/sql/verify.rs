//! `walsafe_archive_verify()` and `walsafe_archive_gaps()` find what is wrong with an archive.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use harness::{Cluster, Scratch};

use super::{archiving, start};

#[track_caller]
fn findings(cluster: &Cluster, function: &str) -> String {
    cluster.sql(&format!("SELECT file, finding FROM {function} ORDER BY file"))
}

/// The SQLSTATE and text of an error.
#[track_caller]
fn error(cluster: &Cluster, sql: &str) -> String {
    cluster.psql(sql).expect_err("it should have failed")
}

#[test]
fn a_flipped_byte_and_a_missing_segment_are_found() {
    let (archive, cluster) = archiving();
    let names = cluster.fill_whole_segments(5);
    cluster.wait_all_archived();
    for function in ["walsafe_archive_verify()", "walsafe_archive_gaps()"] {
        assert_eq!(findings(&cluster, function), "", "{function} of a whole archive");
    }

    let file = File::options().read(true).write(true).open(archive.join(&names[1])).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 300_000).unwrap();
    file.write_all_at(&[!byte[0]], 300_000).unwrap();
    fs::remove_file(archive.join(&names[3])).unwrap();
    let found = findings(&cluster, "walsafe_archive_verify()");
    assert!(found.contains(&format!("{}|digest-mismatch", names[1])), "{found}");
    assert!(found.contains(&format!("{}|gap", names[3])), "{found}");
    assert_eq!(found.lines().count(), 2, "{found}");
    // Gaps are found by name alone.
    assert_eq!(findings(&cluster, "walsafe_archive_gaps()"), format!("{}|gap", names[3]));
    let told = cluster.sql(
        "SELECT bool_and(length(reason) > 20 AND advice LIKE '%base backup%') FROM walsafe_archive_verify()",
    );
    assert_eq!(told, "t");
}

#[test]
fn another_directory_can_be_named() {
    let (archive, cluster) = archiving();
    let names = cluster.fill_segments(3);
    cluster.wait_all_archived();
    let copy = Scratch::new("copy");
    for name in archive.names() {
        fs::copy(archive.join(&name), copy.join(&name)).unwrap();
        harness::scratch::give_away(&copy.join(&name));
    }
    fs::remove_file(copy.join(&names[1])).unwrap();
    let path = copy.path().display();
    let gap = format!("{}|gap", names[1]);
    assert_eq!(findings(&cluster, &format!("walsafe_archive_verify('{path}')")), gap);
    assert_eq!(findings(&cluster, &format!("walsafe_archive_gaps('{path}')")), gap);
    assert_eq!(findings(&cluster, "walsafe_archive_verify()"), "");
    // Also from a server that archives elsewhere, or not at all.
    let other = start(Cluster::builder());
    assert_eq!(findings(&other, &format!("walsafe_archive_gaps('{path}')")), gap);
}

#[test]
fn what_cannot_be_an_archive_is_refused() {
    let (_archive, cluster) = archiving();
    let inside = cluster.data().join("pg_wal");
    for (path, sqlstate) in [
        ("relative", "22023"),
        ("/var/../etc", "22023"),
        (inside.to_str().unwrap(), "22023"),
        ("/nowhere/at/all", "58P01"),
    ] {
        for function in ["verify", "gaps"] {
            let error = error(&cluster, &format!("SELECT walsafe_archive_{function}('{path}')"));
            assert!(error.contains(&format!("ERROR:  {sqlstate}")), "{path}: {error}");
        }
    }
    let empty = Scratch::new("empty");
    let sql = format!("SELECT walsafe_archive_verify('{}')", empty.path().display());
    let said = error(&cluster, &sql);
    assert!(said.contains("55000") && said.contains("neither WAL nor an identity file"), "{said}");
    assert!(said.contains("HINT:  Is this the archive, and is its file system mounted?"), "{said}");
    let unset = start(Cluster::builder());
    let said = error(&unset, "SELECT walsafe_archive_verify()");
    assert!(said.contains("55000") && said.contains("is not set"), "{said}");
}
