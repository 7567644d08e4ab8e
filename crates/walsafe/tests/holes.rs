//! `walsafe check` and `walsafe list` show which segments are missing, by the names.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::Path;

use common::*;

/// An archive with the segments of these timelines, and history files that say where each one branched off the
/// one before.
fn archive(segments: &[(u32, std::ops::RangeInclusive<u32>)], switches: &[(u32, &str)]) -> Place {
    let (place, mut wal) = (Place::new(), Wal::new(OURS, 1));
    let bytes = wal.segments(1).remove(0);
    for (timeline, numbers) in segments {
        for number in numbers.clone() {
            place.put(&segment_name(*timeline, number), &bytes);
        }
    }
    for (timeline, text) in switches {
        place.put(&format!("{timeline:08X}.history"), text.as_bytes());
    }
    let dir = place.path("archive");
    Run::of(walsafe().arg("init").args(["--system-identifier", &OURS.to_string()]).arg(&dir));
    place
}

/// The row `contents`: its status and what it says.
fn contents(archive: &Path) -> (String, String) {
    let run = Run::of(walsafe().args(["check", "--json"]).arg(archive));
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    let rows = report["checks"].as_array().unwrap();
    let row = rows.iter().find(|row| row["check"] == "contents").unwrap();
    (row["status"].as_str().unwrap().to_owned(), row["detail"].as_str().unwrap().to_owned())
}

fn list(archive: &Path, json: bool) -> String {
    let json = if json { &["--json"][..] } else { &[] };
    let run = Run::of(walsafe().arg("list").args(json).arg(archive));
    assert_eq!(run.status, Some(0), "{run:?}");
    run.out
}

/// `check` said OK over five missing segments, and it is what monitoring programs run.
#[test]
fn a_hole_is_a_warning_and_a_line_of_the_list() {
    let place = archive(&[(1, 1..=7), (1, 13..=17)], &[]);
    let dir = place.path("archive");
    let (status, detail) = contents(&dir);
    assert_eq!(status, "warning", "{detail}");
    let hole = "000000010000000000000008 to 00000001000000000000000C";
    let begins = format!("12 segments, 5 missing ({hole}), the newest 000000010000000000000011. ");
    assert!(detail.starts_with(&begins) && detail.contains("walsafe push"), "{detail}");
    let run = Run::of(walsafe().args(["check", "--read-only"]).arg(&dir));
    assert!(run.out.contains("warning  contents: 12 segments, 5 missing ("), "{run:?}");

    let shown = list(&dir, false);
    let lines: Vec<&str> = shown.lines().filter(|line| line.contains(" to 0")).collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert_eq!(lines[1], format!("  {hole}         5  gap"));
    let json: serde_json::Value = serde_json::from_str(&list(&dir, true)).unwrap();
    assert_eq!(json["gaps"][0]["segments"], 5);
    assert_eq!(json["gaps"][0]["first"], segment_name(1, 8));

    for number in [3, 5, 15] {
        fs::remove_file(dir.join(segment_name(1, number))).unwrap();
    }
    let (_, detail) = contents(&dir);
    let first = "9 segments, 8 missing (000000010000000000000003, 000000010000000000000005, ";
    assert!(detail.starts_with(first) && detail.contains(", 1 more gap)"), "{detail}");
}

/// Pins that a cleaned up beginning, and switches between timelines, are no holes.
#[test]
fn what_was_cleaned_up_and_timelines_that_branched_off_are_no_gaps() {
    let two = (2, "1\t0/A80000\tno recovery target specified\n");
    for place in [
        archive(&[(1, 5..=9)], &[]),
        archive(&[(1, 5..=10), (2, 10..=12)], &[two]),
        archive(&[(1, 5..=9), (2, 10..=12)], &[two]),
        archive(&[(2, 11..=12)], &[two]),
    ] {
        let dir = place.path("archive");
        let (status, detail) = contents(&dir);
        assert!(status == "ok" && !detail.contains("missing"), "{detail}");
        assert!(!list(&dir, false).contains("gap"), "{}", list(&dir, false));
    }
    // Right before the switch, and a timeline whose history file is missing.
    let place = archive(&[(1, 5..=7), (2, 10..=12)], &[two]);
    let (status, detail) = contents(&place.path("archive"));
    let says = "6 segments, 2 missing (000000010000000000000008 to 000000010000000000000009)";
    assert!(status == "warning" && detail.starts_with(says), "{detail}");
    assert!(list(&place.path("archive"), false).contains("2  gap\n"));
    fs::remove_file(place.path("archive").join("00000002.history")).unwrap();
    let (status, detail) = contents(&place.path("archive"));
    assert!(
        status == "warning" && detail.contains("without the history file 00000002.history"),
        "{detail}"
    );
    assert!(list(&place.path("archive"), false).contains("  00000002.history  gap\n"));
}
