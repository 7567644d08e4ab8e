//! File systems that refuse what is only good to have: archiving goes on without, and says so once.

use std::process::Command;

use harness::command::run;
use harness::{Cluster, Fs, FuseMount, Mount, archive, privileged, require, tool};

use crate::support::recovery::{assert_clean, path, walsafe};

const ATTRIBUTES: &str = "files are archived without extended attributes";
const REMOVAL: &str = "temporary files stay in the archive";

fn times_said(cluster: &Cluster, text: &str) -> usize {
    cluster.log().text().matches(text).count()
}

/// Nothing was archived: the refusal was reported as a matter of permission.
#[test]
fn attributes_that_may_only_be_read_are_done_without_and_that_is_said_once() {
    require!(privileged());
    require!(tool("bindfs"));
    let storage = FuseMount::with(&["--xattr-ro"]);
    let cluster =
        Cluster::archiving_to(storage.path()).set("walsafe_archive.check_wal", "off").start();
    let first = cluster.switch_wal();
    cluster.wait_archived(&first);
    cluster.wait_archived(&cluster.switch_wal());
    assert_eq!(times_said(&cluster, ATTRIBUTES), 1, "{}", cluster.log().text());
    // Nobody looked into these segments, and no attribute says so.
    assert!(storage.path().join("walsafe_archive.unchecked").exists());
    cluster.restart();
    cluster.wait_archived(&cluster.switch_wal());
    assert_clean(storage.path());
    let listed = walsafe(&["manifest", path(storage.path())]);
    assert!(listed.code == Some(0) && listed.out.contains(&first), "{listed:?}");
    let target = cluster.data().join("restored");
    let restored = walsafe(&["restore", "--from", path(storage.path()), &first, path(&target)]);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    assert_eq!(std::fs::read(target).unwrap(), archive::contents(storage.path(), &first).unwrap());
}

/// A temporary file stayed for each segment without a word, and three of each `check`.
#[test]
fn an_append_only_directory_is_told_of_and_a_check_leaves_nothing_there() {
    require!(privileged());
    let mount = Mount::new(Fs::Ext4, 24);
    let chattr = |flag| run(Command::new("chattr").arg(flag).arg(mount.path()));
    let cluster = Cluster::archiving_to(mount.path()).without_tmpfile().start();
    chattr("+a");
    cluster.wait_archived(&cluster.switch_wal());
    cluster.wait_archived(&cluster.switch_wal());
    let left = archive::temporaries(mount.path()).len();
    let checked = walsafe(&["check", path(mount.path())]);
    let after = archive::temporaries(mount.path()).len();
    cluster.sql("CREATE EXTENSION walsafe_archive");
    let named = cluster.sql("SELECT status, detail FROM walsafe_archive_check() WHERE check_name = 'no-replace publish'");
    let last = archive::temporaries(mount.path()).len();
    chattr("-a");
    assert!(left >= 2, "{left}");
    assert_eq!((after, last), (left, left), "{checked:?}");
    assert!(checked.out.contains("append-only"), "{checked:?}");
    assert!(named.starts_with("warning") && named.contains("chattr -a"), "{named}");
    assert_eq!(times_said(&cluster, REMOVAL), 1, "{}", cluster.log().text());
}
