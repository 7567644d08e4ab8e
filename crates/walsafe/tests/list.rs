//! `walsafe list` shows whatever an archive holds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use common::*;

/// It panicked: a time before 1970 or after 9999 has no form in RFC 3339, or none in the library's.
#[test]
fn a_file_whose_time_lies_before_1970_or_after_9999_is_listed() {
    let place = Place::new();
    let path = place.put("000000010000000000000001", &[0; MB]);
    let file = File::options().write(true).open(&path).unwrap();
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let after = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    for (at, text) in [(before, "1969-12-31T23:59:59Z"), (after, "+11476-08-15T05:20:00Z")] {
        file.set_modified(at).unwrap();
        if fs::metadata(&path).unwrap().modified().unwrap() != at {
            // ext4 and xfs know no year after 2500. `time.rs` has a test of its own.
            eprintln!("skipped: the file system cannot keep {text}");
            continue;
        }
        let list = Run::of(walsafe().arg("list").arg(place.path("archive")));
        assert_eq!(list.status, Some(0), "{list:?}");
        assert!(list.out.contains(&format!("archived from {text} to {text}")), "{list:?}");
        let list = Run::of(walsafe().args(["list", "--json"]).arg(place.path("archive")));
        assert_eq!(list.status, Some(0), "{list:?}");
        let json: serde_json::Value = serde_json::from_str(&list.out).unwrap();
        assert_eq!(json["timelines"][0]["first_archived"], text);
        assert_eq!(json["timelines"][0]["last_archived"], text);
        for command in ["verify", "check", "manifest"] {
            let run = Run::of(walsafe().arg(command).arg(place.path("archive")));
            assert!(!run.err.contains("internal error"), "{command}: {run:?}");
        }
    }
}

const BACKUP: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
    STOP WAL LOCATION: 0/3000138 (file 000000010000000000000003)\n\
    CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
    START TIME: 2026-11-21 07:00:00 UTC\nLABEL: weekly\nSTART TIMELINE: 1\n\
    STOP TIME: 2026-11-21 07:05:00 UTC\nSTOP TIMELINE: 1\n";

/// `list` said "2 backups" and nothing of which: whoever wanted to know had to open each file. One that is
/// damaged does not hide the others.
#[test]
fn each_base_backup_is_listed_with_its_place_and_times() {
    let place = Place::new();
    for name in ["000000010000000000000002", "000000010000000000000003"] {
        place.put(name, &[0; MB]);
    }
    let plain = place.put("000000010000000000000002.00000028.backup", BACKUP.as_bytes());
    let tool = std::process::Command::new("gzip").arg("-k").arg(&plain).status();
    let zipped = tool.is_ok_and(|status| status.success());
    if zipped {
        // The same file in two encodings is one backup; a label may have any bytes and be long.
        fs::write(&plain, BACKUP).unwrap();
        let later = BACKUP.replace("0/2000028", "0/3000028").replace("weekly", &"x".repeat(1000));
        let later = place.put("000000010000000000000003.00000028.backup", later.as_bytes());
        assert!(std::process::Command::new("gzip").arg(later).status().unwrap().success());
    }
    let list = Run::of(walsafe().arg("list").arg(place.path("archive")));
    assert_eq!(list.status, Some(0), "{list:?}");
    let shown = "  base backup \"weekly\" of the primary\n    \
        from 0/2000028 in 000000010000000000000002, 2026-11-21 07:00:00 UTC\n    \
        to   0/3000138 in 000000010000000000000003, 2026-11-21 07:05:00 UTC\n";
    assert_eq!(list.out.matches(shown).count(), 1, "{list:?}");
    let wide = list.out.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None);

    place.put("000000010000000000000003.00000099.backup", b"\xff\xfe");
    let unreadable = "000000010000000000000003.00000099.backup";
    let list = Run::of(walsafe().arg("list").arg(place.path("archive")));
    assert_eq!(list.status, Some(1), "{list:?}");
    assert!(list.err.contains(&format!("could not read \"{unreadable}\"")), "{list:?}");
    let list = Run::of(walsafe().args(["list", "--json"]).arg(place.path("archive")));
    assert_eq!((list.status, &*list.err), (Some(1), ""), "{list:?}");
    let json: serde_json::Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!(json["unreadable"][0]["file"], unreadable);
    let backups = json["timelines"][0]["base_backups"].as_array().unwrap();
    assert_eq!(backups.len(), if zipped { 2 } else { 1 });
    let expected = serde_json::json!({
        "file": "000000010000000000000002.00000028.backup",
        "label": "weekly",
        "from": "primary",
        "start_lsn": "0/2000028",
        "start_segment": "000000010000000000000002",
        "start_time": "2026-11-21 07:00:00 UTC",
        "stop_lsn": "0/3000138",
        "stop_segment": "000000010000000000000003",
        "stop_time": "2026-11-21 07:05:00 UTC",
    });
    assert_eq!(backups[0], expected);
}
