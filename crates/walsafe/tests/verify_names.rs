//! `walsafe verify`, and what is in an archive beside WAL or does not have the form that it should.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use common::{MB, OURS, Place, Run, Wal, segment_name, segments, set_digests, walsafe};

const NINE: &str = "000000010000000000000009";

fn place() -> Place {
    let place = Place::new();
    for (number, segment) in (1..).zip(segments()) {
        place.put_with_digest(&segment_name(1, number), &segment);
    }
    place
}

/// Puts a temporary file there that was last changed so many minutes ago.
fn put_aged(place: &Place, name: &str, minutes: i64) {
    let (path, now) = (place.put(name, b"x"), SystemTime::now());
    let distance = Duration::from_secs(60 * minutes.unsigned_abs());
    let at = if minutes < 0 { now + distance } else { now - distance };
    File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

/// They were passed over for an hour, or for ever if their time was in the future. Then the advice was to
/// wait for an archiver that never comes.
#[test]
fn what_basic_archive_left_is_a_stray_after_a_minute() {
    let place = place();
    let name = |n: u32| format!("archtemp.{NINE}.42.170000000000{n}");
    put_aged(&place, &name(1), 0);
    put_aged(&place, &name(2), 2);
    put_aged(&place, &name(3), -2);
    put_aged(&place, "archtemp.notes.42.1700000000000", 0);
    let verified = place.verify();
    verified.finds(&[
        &format!("{}: stray-temporary", name(2)),
        &format!("{}: stray-temporary", name(3)),
        "archtemp.notes.42.1700000000000: unknown",
    ]);
    let finding = &verified.report["findings"][0];
    let text = |key: &str| finding[key].as_str().unwrap();
    assert!(
        text("reason").starts_with("basic_archive left it: nothing has been written"),
        "{finding}"
    );
    assert!(text("advice").contains("once no basic_archive writes there"), "{finding}");
}

/// One whose process number was given to another process was passed over for ever.
#[test]
fn a_temporary_file_of_a_process_that_runs_is_a_stray_after_an_hour() {
    let place = place();
    let (host, pid) = (walsafe_core::sys::host_name(), std::process::id());
    let name = |n: u32| format!(".walsafe.{NINE}.{host}.{pid}.{n}.tmp");
    put_aged(&place, &name(1), 2);
    put_aged(&place, &name(2), 61);
    let verified = place.verify();
    verified.finds(&[&format!("{}: stray-temporary", name(2))]);
    let reason = verified.report["findings"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("may be another one by now"), "{reason}");
}

/// A file that the module archived for a newer server was called unknown, its digest never checked,
/// and the manifest left it out.
#[test]
fn a_file_of_an_unknown_kind_that_was_archived_is_checked_by_its_digest() {
    let place = place();
    let name = format!("{NINE}.summary");
    let path = place.put_with_digest(&name, b"of a newer server");
    place.verify().finds(&[]);
    assert_eq!(place.verify().report["checked"]["by_digest"], 6);
    let manifest = Run::of(walsafe().arg("manifest").arg(place.path("archive")));
    assert!(manifest.out.contains(&format!("  {name}\n")), "{manifest:?}");
    fs::write(&path, b"of a newer Server").unwrap();
    place.verify().finds(&[&format!("{name}: digest-mismatch")]);

    fs::remove_file(&path).unwrap();
    place.put(&name, b"of a newer server");
    let verified = place.verify();
    verified.finds(&[&format!("{name}: unknown")]);
    let reason = verified.report["findings"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("a newer server"), "{reason}");
    let manifest = Run::of(walsafe().arg("manifest").arg(place.path("archive")));
    assert!(!manifest.out.contains(&name), "{manifest:?}");
}

#[test]
fn an_encoded_file_of_an_unknown_kind_is_decoded_too() {
    let place = place();
    let name = format!("{NINE}.summary.zst");
    let path = place.put(&name, b"no zstd");
    set_digests(&path, b"no zstd", b"of a newer server");
    place.verify().finds(&[&format!("{name}: corrupt")]);
}

/// Because of another cluster's segment size, gaps were reported that do not exist.
#[test]
fn the_segment_size_of_a_foreign_file_does_not_count() {
    let place = place();
    let mut foreign = Wal::new(OURS + 1, 1).segments(2).remove(1);
    foreign[32..36].copy_from_slice(&(64 * MB as u32).to_ne_bytes());
    foreign.resize(64 * MB, 0);
    place.put_with_digest("000000010000000000000002", &foreign);
    place.verify().finds(&["000000010000000000000002: wrong-cluster"]);
}
