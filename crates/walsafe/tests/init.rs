//! `walsafe init`: the way out after a replaced disk or a moved archive.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;

use common::{OURS, Place, Run, Wal, control, segment_name, walsafe};

fn init(place: &Place) -> Run {
    Run::of(walsafe().args(["init", "--pgdata"]).args([place.path("data"), place.path("archive")]))
}

fn unmarked() -> Place {
    let place = Place::new();
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    place
}

#[test]
fn a_directory_is_marked_once_and_the_mark_is_never_replaced() {
    let place = unmarked();
    let run = init(&place);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.out.contains(&OURS.to_string()));
    let identity = fs::read_to_string(place.path("archive/walsafe_archive.id")).unwrap();
    assert!(identity.contains(&format!("system_identifier = {OURS}\n")));
    let run = init(&place);
    assert_eq!(run.status, Some(0));
    assert!(run.out.contains("already"));
    assert_eq!(fs::read_to_string(place.path("archive/walsafe_archive.id")).unwrap(), identity);
}

#[test]
fn another_clusters_archive_is_refused_with_or_without_a_mark() {
    let place = Place::new();
    place.identity(OURS + 1);
    init(&place).says(2, "belongs to another cluster");
    let place = unmarked();
    place.put(&segment_name(1, 1), &Wal::new(OURS + 1, 1).segments(1)[0]);
    init(&place).says(2, "belongs to another cluster");
    assert!(!place.path("archive/walsafe_archive.id").exists());
}

#[test]
fn what_is_not_a_data_directory_or_is_damaged_is_refused() {
    let place = unmarked();
    let mut damaged = control(OURS);
    damaged[3] ^= 1;
    fs::write(place.path("data/global/pg_control"), damaged).unwrap();
    init(&place).says(2, "checksum");
    fs::remove_file(place.path("data/global/pg_control")).unwrap();
    init(&place).says(2, "pg_control");
    assert!(!place.path("archive/walsafe_archive.id").exists());
}

#[test]
fn a_missing_directory_is_not_made() {
    let place = Place::new();
    fs::remove_dir_all(place.path("archive")).unwrap();
    init(&place).says(2, "could not open the archive directory");
    assert!(!place.path("archive").exists());
}

#[test]
fn the_result_can_be_json() {
    let place = unmarked();
    let run = Run::of(
        walsafe()
            .args(["init", "--json", "--pgdata"])
            .args([place.path("data"), place.path("archive")]),
    );
    let value: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(value["system_identifier"], OURS.to_string());
    assert_eq!(value["created"], true);
}
