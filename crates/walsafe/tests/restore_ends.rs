//! What looks like the end of the WAL but is not: a recovery must not end there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{MB, OURS, Place, Run, Wal, control, segment_name, segments};
use walsafe_core::encoding::codec::Codec;
use walsafe_core::prove::examine::{Expectation, examine};
use walsafe_core::restore::{self, Origin, Outcome, Request, Round};
use walsafe_core::store::directory::Directory;
use walsafe_core::store::location::Access;
use walsafe_core::store::{Progress, Store, StoredName};
use walsafe_core::wal::name::FileName;

const PAGE: usize = 8192;
const TWO: &str = "000000010000000000000002";
const THREE: &str = "000000010000000000000003";

/// An archive that cp made, of these segments of timeline 1.
fn place(segments: &[Vec<u8>]) -> Place {
    let place = Place::new();
    for (number, segment) in (1..).zip(segments) {
        place.put(&segment_name(1, number), segment);
    }
    place
}

/// A segment as a power cut leaves a file that was not flushed: its last pages are zeros.
fn cut(segment: &[u8], pages: usize) -> Vec<u8> {
    let mut cut = segment.to_vec();
    cut[pages * PAGE..].fill(0);
    cut
}

/// What the program would do, without its patience with holes.
fn at_once(place: &Place, file: &str) -> Result<Outcome, String> {
    let name = FileName::new(file).unwrap();
    let origin = Origin::new(&place.path("archive"), &Access::default()).unwrap();
    let request = Request {
        archives: &[origin],
        name: &name,
        target: &place.target(),
        data_directory: &place.path("data"),
        allow_unmarked: false,
        allow_unchecked: false,
        steps: &Progress::default(),
        round: &Round::default(),
        patience: Duration::ZERO,
        end_at_hole: None,
        prove_absence: true,
    };
    restore::restore(&request).map_err(|e| format!("{e}: {}", e.detail()))
}

/// It was delivered with status 0; the server took the zeros for the end of the WAL and was promoted.
#[test]
fn a_segment_that_lost_its_tail_is_not_delivered_while_later_ones_are_there() {
    let whole = segments();
    // Within a record that goes over the cut, in the middle of the first record, in the last page.
    for pages in [1, 50, MB / PAGE - 1] {
        let place = place(&whole);
        place.put(TWO, &cut(&whole[1], pages));
        let run = place.restore(TWO);
        run.says(126, "its WAL ends at 0/2");
        run.says(126, "and 000000010000000000000003 is there");
        assert_eq!(place.pg_wal(), Vec::<String>::new());
        place.verify().finds(&["000000010000000000000002: corrupt"]);
        fs::write(place.path("data/standby.signal"), "").unwrap();
        place.restore(TWO).says(1, "its WAL ends at");

        // A digest says that it was archived so, not that it is whole.
        fs::remove_file(place.path("data/standby.signal")).unwrap();
        place.put_with_digest(TWO, &cut(&whole[1], pages));
        place.restore(TWO).says(126, "its WAL ends at 0/2");
        // The last one of its timeline may end early, as one that a standby received.
        for number in 3..=5 {
            fs::remove_file(place.path("archive").join(segment_name(1, number))).unwrap();
        }
        place.restore(TWO).delivers();
    }
}

/// Such damage looks like the end of the WAL too, with old contents of the file behind it.
#[test]
fn a_segment_whose_last_records_were_overwritten_is_not_delivered() {
    let mut whole = segments();
    whole[1][MB - PAGE + 40..].fill(0x33);
    at_once(&place(&whole), TWO).unwrap_err();
}

#[test]
fn a_later_partial_segment_and_a_later_branch_show_the_lost_tail_too() {
    let whole = segments();
    let place = place(&[whole[0].clone(), cut(&whole[1], 50)]);
    place.restore(TWO).delivers();
    place.verify().finds(&[]);
    let partial = place.put(&format!("{THREE}.partial"), &cut(&whole[2], 70));
    place.restore(TWO).says(126, "000000010000000000000003 is there");
    place.verify().finds(&["000000010000000000000002: corrupt"]);
    fs::remove_file(partial).unwrap();

    let mut wal = Wal::new(OURS, 1);
    wal.segments(2);
    wal.record(5_000);
    let switch = wal.branch(2);
    place.put("00000002.history", format!("1\t0/{switch:X}\tno reason\n").as_bytes());
    place.put(&segment_name(2, 3), &wal.segments(3)[2]);
    place.restore(TWO).says(126, "timeline 2 branched off after it");
    place.verify().finds(&["000000010000000000000002: corrupt"]);
}

#[test]
fn the_segment_in_which_a_timeline_branches_off_may_end_early() {
    let mut wal = Wal::new(OURS, 1);
    let first = wal.segments(1).remove(0);
    wal.record(300_000);
    let switch = wal.branch(2);
    let second = wal.segments(3);
    let mut short = second[1].clone();
    short[switch as usize - 2 * MB..].fill(0);
    let place = place(&[first, short]);
    for number in [2, 3] {
        place.put(&segment_name(2, number), &second[number as usize - 1]);
    }
    place.put("00000002.history", format!("1\t0/{switch:X}\tno reason\n").as_bytes());
    place.restore(TWO).delivers();
    place.verify().finds(&[]);
}

#[test]
fn a_segment_that_a_switch_ended_is_delivered_also_where_the_switch_record_crosses() {
    for room in [8, 16, 24, 5_000] {
        let mut wal = Wal::new(OURS, 1);
        wal.segments(1);
        wal.fill_to(room);
        wal.switch();
        let segments = wal.segments(5);
        if room < 24 {
            assert_eq!(segments[2][16..20], (24 - room as u32).to_ne_bytes(), "it does not cross");
        }
        let place = place(&segments);
        for number in 1..=5 {
            place.restore(&segment_name(1, number)).delivers();
        }
        place.verify().finds(&[]);
    }
}

/// Only its first header was looked at: the server then ended the recovery where it ends.
#[test]
fn a_hole_is_filled_by_nothing_less_than_the_whole_segment_in_pg_wal() {
    let whole = segments();
    let place = place(&whole);
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    let there = place.path("data/pg_wal").join(TWO);
    let foreign = Wal::new(OURS + 1, 1).segments(2).remove(1);
    for wrong in [&cut(&whole[1], 50), &whole[1][..MB / 2], &foreign, &whole[2]] {
        fs::write(&there, wrong).unwrap();
        let error = at_once(&place, TWO).unwrap_err();
        assert!(error.contains("000000010000000000000003 is there"), "{error}");
    }
    fs::write(&there, &whole[1]).unwrap();
    assert!(matches!(at_once(&place, TWO), Ok(Outcome::NotArchived { .. })));
}

/// A damaged first segment of the later timeline was taken for no segment, and the hole for the end.
#[test]
fn a_branch_whose_first_segment_cannot_be_read_shows_a_hole_all_the_same() {
    let place = place(&segments()[..3]);
    place.put(&segment_name(2, 5), &[0; MB]);
    place.put("00000002.history", b"1\t0/500200\tno recovery target specified\n");
    let four = segment_name(1, 4);
    let error = at_once(&place, &four).unwrap_err();
    assert!(error.contains("timeline 2 branched off after it at 0/500200"), "{error}");
    // Without the control file, another segment tells the segment size; without any, nothing does.
    fs::remove_file(place.path("data/global/pg_control")).unwrap();
    let error = at_once(&place, &four).unwrap_err();
    assert!(error.contains("timeline 2 branched off after it at 0/500200"), "{error}");
    for number in 1..=3 {
        fs::remove_file(place.path("archive").join(segment_name(1, number))).unwrap();
    }
    let error = at_once(&place, &four).unwrap_err();
    assert!(error.contains("segment size"), "{error}");
}

/// An unmounted archive ended the recovery.
#[test]
fn an_empty_directory_is_not_an_archive_even_if_an_unmarked_one_is_allowed() {
    let place = Place::new();
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    fs::create_dir(place.path("archive/lost+found")).unwrap();
    let run = |file: &str| Run::of(place.restore_command(file).arg("--allow-unmarked"));
    for file in [TWO, "00000002.history"] {
        run(file).says(126, "neither WAL nor an identity file");
        run(file).says(126, "mounted?");
    }
    fs::write(place.path("data/standby.signal"), "").unwrap();
    run(TWO).says(1, "not in the archive");
}

/// Hundreds of megabytes went into pg_wal before the file was refused.
#[test]
fn nothing_is_written_of_a_file_that_is_longer_than_a_segment() {
    let place = place(&segments());
    let file = fs::File::options().write(true).open(place.path("archive").join(TWO)).unwrap();
    file.set_len(64 * MB as u64).unwrap();
    let (store, progress) = (Directory::at(place.path("archive")), Progress::default());
    let visit = store.visit(&progress).unwrap();
    let name = FileName::new(TWO).unwrap();
    let archived = visit.find(&StoredName::new(name.clone(), Codec::None).into()).unwrap().unwrap();
    let mut written = 0;
    let found = examine(&*archived, &name, &Expectation::default(), &mut |chunk| {
        written += chunk.len();
        Ok(())
    });
    let problem = found.unwrap().problem.unwrap().to_string();
    assert_eq!(problem, "corrupt: it has 67108864 bytes, and must have 1048576");
    assert_eq!(written, 0);
    place.restore(TWO).says(126, "it has 67108864 bytes");
}

/// With a target in an archive, restore replaced archived files.
#[test]
fn nothing_is_restored_into_an_archive_and_a_standby_stops_too() {
    let place = place(&segments());
    fs::create_dir(place.path("second")).unwrap();
    fs::write(place.path("second/walsafe_archive.id"), "").unwrap();
    fs::write(place.path("second").join(TWO), "keep").unwrap();
    fs::write(place.path("data/standby.signal"), "").unwrap();
    let into = |target: &Path| {
        let mut command = common::walsafe();
        command.args(["restore", "--allow-unmarked", "--from"]).arg(place.path("archive"));
        Run::of(command.arg(TWO).arg(target).current_dir(place.path("data")))
    };
    into(&place.path("second").join(TWO)).says(126, "nothing in one is replaced");
    assert_eq!(fs::read(place.path("second").join(TWO)).unwrap(), b"keep");
    // Its own archive, also unmarked.
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    into(&place.path("archive").join(THREE)).says(126, "nothing in one is replaced");
    assert!(fs::read(place.path("archive").join(THREE)).unwrap() == segments()[2]);
    fs::write(place.path("data/global/pg_control"), control(OURS)).unwrap();
    into(&place.target()).delivers();
}

/// A tail is the end of a timeline as a server had it that went another way. Given to a recovery, it would be
/// that server's WAL.
#[test]
fn a_tail_is_never_given() {
    let place = place(&[]);
    let tail = format!("{TWO}.tail.0123456789abcdef");
    place.put(&tail, b"whatever it holds");
    place.restore(&tail).says(1, "is a tail, which is not part of any recovery");
    place.restore(TWO).says(1, "is not in the archive");
    assert_eq!(place.pg_wal(), Vec::<String>::new());
}
