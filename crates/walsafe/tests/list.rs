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
