//! `walsafe push`, and what `walsafe check --pgdata` says of it: what a standby or a lost server holds and the
//! archive lacks.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use common::{MB, OURS, Place, Run, Wal, control, names, segment_name, segments, walsafe};

/// A standby that has received these segments of timeline 1, and marked them.
fn standby(place: &Place, held: &[(u32, &[u8])]) {
    fs::create_dir_all(place.path("data/pg_wal/archive_status")).unwrap();
    fs::write(place.path("data/standby.signal"), "").unwrap();
    for (number, contents) in held {
        hold(place, &segment_name(1, *number), contents, "done");
    }
}

/// Puts a file into `pg_wal`, with a status file unless `mark` is empty.
fn hold(place: &Place, name: &str, contents: &[u8], mark: &str) {
    fs::write(place.path("data/pg_wal").join(name), contents).unwrap();
    if !mark.is_empty() {
        let status = format!("data/pg_wal/archive_status/{name}.{mark}");
        fs::write(place.path(&status), "").unwrap();
    }
}

fn push(place: &Place, options: &[&str]) -> Run {
    let data = place.path("data");
    Run::of(
        walsafe().arg("push").args(options).arg("--pgdata").arg(data).arg(place.path("archive")),
    )
}

fn check(place: &Place) -> Run {
    let mut command = walsafe();
    command.args(["check", "--read-only", "--json", "--pgdata"]);
    Run::of(command.args([place.path("data"), place.path("archive")]))
}

/// Status and detail of the check of what the archive lacks.
fn unarchived(place: &Place) -> (String, String) {
    let report: serde_json::Value = serde_json::from_str(&check(place).out).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["check"] == "unarchived WAL").unwrap();
    let text = |key: &str| check[key].as_str().unwrap().to_owned();
    (text("status"), text("detail"))
}

fn archived(place: &Place) -> Vec<String> {
    let mut names = names(&place.path("archive"));
    names.retain(|name| name != "walsafe_archive.id");
    names
}

/// The standby had the last segments of the lost primary, and nothing said so or could bring them.
#[test]
fn what_the_lost_primary_had_not_archived_comes_from_the_standby() {
    let (place, wal) = (Place::new(), segments());
    for number in [1, 2] {
        place.put_with_digest(&segment_name(1, number), &wal[number as usize - 1]);
    }
    standby(&place, &[(2, &wal[1]), (3, &wal[2]), (4, &wal[3])]);
    // The segment that is being written, and a recycled file.
    hold(&place, &segment_name(1, 5), &wal[4], "");
    hold(&place, &segment_name(1, 6), &wal[0], "");
    let (status, detail) = unarchived(&place);
    assert_eq!(status, "warning");
    let expected = format!("2 complete segments: {} to {}", segment_name(1, 3), segment_name(1, 4));
    assert!(detail.contains(&expected), "{detail}");
    assert!(detail.contains("Run \"walsafe push --pgdata "), "{detail}");

    let run = push(&place, &[]);
    assert_eq!((run.status, &*run.err), (Some(0), ""), "{run:?}");
    assert!(run.out.starts_with("pushed 2 files (2 MB) to "), "{run:?}");
    assert!(run.out.contains(&format!("{} to {}", segment_name(1, 3), segment_name(1, 4))));
    for number in [3, 4] {
        let stored = fs::read(place.path("archive").join(segment_name(1, number))).unwrap();
        assert!(stored == wal[number as usize - 1]);
    }
    assert_eq!(archived(&place).len(), 4);
    assert_eq!(unarchived(&place).0, "ok");
    place.verify().finds(&[]);
    // Nothing of ours stays in the data directory.
    assert!(!place.path("data/walsafe_archive.destinations").exists());
    let again = push(&place, &[]);
    assert_eq!(again.status, Some(0));
    assert!(again.out.starts_with("nothing to push: "), "{again:?}");
}

#[test]
fn a_hole_is_filled_and_what_retention_removed_stays_removed() {
    let (place, wal) = (Place::new(), segments());
    for number in [2, 4] {
        place.put(&segment_name(1, number), &wal[number as usize - 1]);
    }
    standby(&place, &[(1, &wal[0]), (2, &wal[1]), (3, &wal[2])]);
    assert_eq!(push(&place, &[]).status, Some(0));
    assert_eq!(archived(&place), [2, 3, 4].map(|number| segment_name(1, number)));
    // A file that the server itself wants archived is.
    fs::rename(
        place.path(&format!("data/pg_wal/archive_status/{}.done", segment_name(1, 1))),
        place.path(&format!("data/pg_wal/archive_status/{}.ready", segment_name(1, 1))),
    )
    .unwrap();
    assert_eq!(push(&place, &[]).status, Some(0));
    assert_eq!(archived(&place).len(), 4);
}

/// Two servers wrote from one point on. Without the look at the neighbours, both histories are in one archive.
#[test]
fn wal_that_does_not_continue_the_archive_is_refused() {
    let place = Place::new();
    let (ours, theirs) = (segments(), {
        let mut wal = Wal::new(OURS, 1);
        wal.record(77);
        wal.segments(5)
    });
    // The server no longer has what it would be compared with: its records decide.
    place.put(&segment_name(1, 2), &theirs[1]);
    standby(&place, &[(3, &ours[2]), (4, &ours[3])]);
    let (status, detail) = unarchived(&place);
    assert_eq!(status, "error");
    assert!(detail.contains("is not of the history that is in the archive"), "{detail}");
    let run = push(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.err.contains(&format!("it does not continue {}", segment_name(1, 2))), "{run:?}");
    assert_eq!(archived(&place), [segment_name(1, 2)]);

    // Behind it.
    let place = Place::new();
    place.put(&segment_name(1, 1), &ours[0]);
    place.put(&segment_name(1, 3), &theirs[2]);
    standby(&place, &[(2, &ours[1])]);
    let run = push(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    let reason = format!("{} in the archive does not continue it", segment_name(1, 3));
    assert!(run.err.contains(&reason), "{run:?}");
    assert_eq!(archived(&place).len(), 2);
}

/// The edges of segments tell little of what is between them: where the server holds a neighbour too, the files
/// themselves are compared.
#[test]
fn a_neighbour_that_differs_ends_the_run_in_the_archivers_words() {
    let (place, wal) = (Place::new(), segments());
    let mut other = wal[1].clone();
    // Both edges stay as they are.
    other[MB / 2] ^= 1;
    place.put(&segment_name(1, 2), &other);
    standby(&place, &[(2, &wal[1]), (3, &wal[2])]);
    let run = push(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.err.contains("the archive holds a different file of that name"), "{run:?}");
    assert!(run.err.contains("Compare the two files with pg_waldump"), "{run:?}");
    assert_eq!(archived(&place), [segment_name(1, 2)]);
    assert!(fs::read(place.path("archive").join(segment_name(1, 2))).unwrap() == other);
}

#[test]
fn a_damaged_segment_stays_out_and_what_follows_it_does_not() {
    let (place, mut wal) = (Place::new(), segments());
    wal[2][MB / 2] ^= 1;
    place.put(&segment_name(1, 1), &wal[0]);
    standby(&place, &[(2, &wal[1]), (3, &wal[2]), (4, &wal[3])]);
    let run = push(&place, &["--json"]);
    assert_eq!((run.status, &*run.err), (Some(1), ""), "{run:?}");
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["pushed"], serde_json::json!([segment_name(1, 2), segment_name(1, 4)]));
    assert_eq!(report["not_pushed"][0]["file"], segment_name(1, 3));
    assert_eq!(report["missing"][0]["first"], segment_name(1, 3));
    let run = push(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.err.contains("still lacks"), "{run:?}");
    let (status, detail) = unarchived(&place);
    assert_eq!(status, "warning");
    assert!(detail.contains("not whole"), "{detail}");
}

/// A promoted server: what its history left behind does not go into the archive, and its history file does.
#[test]
fn the_way_of_the_servers_history_is_followed_over_a_switch() {
    let place = Place::new();
    let mut wal = Wal::new(OURS, 1);
    let first = wal.segments(2);
    let mut old = Wal::new(OURS, 1);
    let abandoned = old.segments(4);
    wal.record(500);
    let switch = wal.branch(2);
    let new = wal.segments(4);
    standby(&place, &[(1, &first[0]), (2, &first[1]), (3, &abandoned[2]), (4, &abandoned[3])]);
    hold(&place, &segment_name(2, 3), &new[2], "ready");
    hold(&place, &segment_name(2, 4), &new[3], "ready");
    hold(&place, &format!("{}.partial", segment_name(1, 3)), &abandoned[2], "ready");
    let history = format!("1\t{:X}/{switch:08X}\tno recovery target specified\n", 0);
    hold(&place, "00000002.history", history.as_bytes(), "ready");
    place.put(&segment_name(1, 1), &first[0]);
    let run = push(&place, &[]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let expected = [
        segment_name(1, 1),
        segment_name(1, 2),
        "00000002.history".to_owned(),
        segment_name(2, 3),
        segment_name(2, 4),
    ];
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(archived(&place), expected);
    place.verify().finds(&[]);
}

#[test]
fn one_history_file_alone() {
    let (place, wal) = (Place::new(), segments());
    standby(&place, &[(1, &wal[0])]);
    push(&place, &["--history", "2"]).says(2, "there is no history file");
    hold(&place, "00000002.history", b"1\t0/300028\twhy\n", "");
    let run = push(&place, &["--history", "2"]);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(archived(&place), ["00000002.history"]);
    let run = push(&place, &["--history", "2"]);
    assert!(run.out.contains("has the history file"), "{run:?}");
    fs::write(place.path("archive/00000002.history"), "1\t0/300030\twhy\n").unwrap();
    let run = push(&place, &["--history", "2"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.err.contains("Another server already used timeline 2."), "{run:?}");
}

#[test]
fn another_clusters_archive_and_one_without_identity_are_refused() {
    let (place, wal) = (Place::new(), segments());
    standby(&place, &[(1, &wal[0])]);
    place.identity(OURS + 1);
    push(&place, &[]).says(2, "belongs to another cluster");
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    push(&place, &[]).says(2, "has no identity file");
    fs::remove_dir_all(place.path("archive")).unwrap();
    push(&place, &[]).says(2, "could not open the archive directory");
    let place = Place::new();
    standby(&place, &[(1, &wal[0])]);
    fs::write(place.path("data/global/pg_control"), &control(OURS)[..100]).unwrap();
    push(&place, &[]).says(2, "pg_control");
}

/// Files of root's would stop the archiver, and a recovery, with "permission denied".
#[test]
fn files_get_the_owner_and_the_mode_of_the_identity_file() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let (place, wal) = (Place::new(), segments());
    standby(&place, &[(1, &wal[0])]);
    let identity = place.path("archive/walsafe_archive.id");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o640)).unwrap();
    // Where the other user may not read or write, it is an error, and no file of root's appears.
    for path in [place.path("archive"), identity] {
        chown(path, Some(65_534), Some(65_534)).unwrap();
    }
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(place.path(""), private).unwrap();
    let run = push(&place, &[]);
    assert_eq!(run.status, Some(2), "{run:?}");
    assert!(run.err.contains("ermission denied"), "{run:?}");
    // Which directory refuses, and whom, was not said.
    let refuses = place.path("archive");
    let says = format!("\"{}\" belongs to user root", refuses.parent().unwrap().display());
    assert!(run.err.contains(&says), "{run:?}");
    assert!(run.err.contains("mode 0700; this is user nobody."), "{run:?}");
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let run = push(&place, &[]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let there = fs::metadata(place.path("archive").join(segment_name(1, 1))).unwrap();
    assert_eq!((there.uid(), there.gid(), there.mode() & 0o777), (65_534, 65_534, 0o640));
}

/// What files had to do without was told of, but not the permissions that the archiver warns of.
#[test]
fn a_directory_that_every_user_can_write_into_is_told_of_once() {
    let (place, wal) = (Place::new(), segments());
    standby(&place, &[(1, &wal[0]), (2, &wal[1])]);
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(place.path("archive"), open).unwrap();
    let run = push(&place, &[]);
    assert_eq!(run.status, Some(0), "{run:?}");
    let says = "every user can write into the archive directory: ";
    assert_eq!(run.err.matches(says).count(), 1, "{run:?}");
}
