//! What history files show of files that are missing: the end of the WAL, or a hole.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{MB, OURS, Place, Run, Wal, segment_name, segments};

/// An archive with segments 1 to `count` of timeline 1.
fn place(count: usize) -> Place {
    let place = Place::in_bucket();
    for (number, segment) in (1..).zip(segments().iter().take(count)) {
        place.put_with_digest(&segment_name(1, number), segment);
    }
    place
}

/// The call, without patience: from the archive as a directory, and as a bucket, of which not all names are listed.
fn restore(place: &Place, file: &str) -> Both {
    let archives = [place.path("archive"), place.archive()];
    let kinds = if cfg!(feature = "s3") { 2 } else { 1 };
    let run =
        |archive: &PathBuf| Run::of(place.restore_command_from(archive, file).arg("--patience=0"));
    Both(archives[..kinds].iter().map(run).collect())
}

/// What came of both.
struct Both(Vec<Run>);

impl Both {
    #[track_caller]
    fn says(&self, status: i32, text: &str) {
        self.0.iter().for_each(|run| run.says(status, text));
    }

    #[track_caller]
    fn delivers(&self) {
        self.0.iter().for_each(Run::delivers);
    }
}

fn history(lines: &[(u32, u64)]) -> Vec<u8> {
    let line = |(timeline, at): &(u32, u64)| format!("{timeline}\t0/{at:X}\tno reason\n");
    lines.iter().map(line).collect::<String>().into_bytes()
}

/// With nothing but the history file of the later timeline there, the first missing segment before its branch
/// was called the end of the WAL, and the recovery was promoted there.
#[test]
fn a_history_file_alone_shows_that_the_timeline_before_it_went_on() {
    let place = place(2);
    place.put("00000002.history", &history(&[(1, 0x50_0200)]));
    for number in [3, 4] {
        let run = restore(&place, &segment_name(1, number));
        run.says(
            126,
            "timeline 2 branched off after it at 0/500200, and 00000002.history is there",
        );
    }
    // The segment in which it branched off may never have been archived, and later ones are not needed.
    for number in [5, 6] {
        restore(&place, &segment_name(1, number)).says(1, "the last file of timeline 1 there is ");
    }
    // At the very end of segment 4, that one is the last which is needed.
    place.put("00000002.history", &history(&[(1, 0x50_0000)]));
    restore(&place, &segment_name(1, 4)).says(126, "branched off after it");
    restore(&place, &segment_name(1, 5)).says(1, "the last file of timeline 1 there is ");
}

/// Asking for `00000002.history` gave 1: the server took timeline 1 for the newest, and ignored timeline 3
/// with its rows.
#[test]
fn a_later_history_that_names_a_timeline_shows_that_its_history_is_missing() {
    let place = place(3);
    place.put("00000003.history", &history(&[(1, 0x30_0200), (2, 0x30_0400)]));
    let run = restore(&place, "00000002.history");
    run.says(126, "\"00000003.history\" names that timeline as an ancestor");
    run.says(126, "walsafe push --pgdata DATA_DIRECTORY --history N");
    let line = "'1\\t0/300200\\taccording to 00000003.history\\n' > 00000002.history";
    run.says(126, line);
    // What the hint says is the cure.
    let printf = format!("printf {}", line.replace("> ", "> \"$0\"/"));
    let archive = place.path("archive");
    let made = std::process::Command::new("sh").args(["-c", &printf]).arg(archive).status();
    assert!(made.unwrap().success());
    restore(&place, "00000002.history").delivers();
    restore(&place, "00000004.history")
        .says(1, "is not in the archive, nor is any WAL of timeline 4");
}

/// Such a number is taken when another one is in use elsewhere, and the server does not look further.
#[test]
fn a_number_that_only_is_left_out_is_no_hole_and_the_line_says_what_lies_behind_it() {
    let place = place(3);
    place.put("00000003.history", &history(&[(1, 0x30_0200)]));
    let run = restore(&place, "00000002.history");
    run.says(1, "\"00000003.history\" is there, and a recovery that looks for the newest timeline");
}

/// A backup of a promoted server needs no history of its own timeline, and an archive that begins after the
/// promotion does not have it.
#[test]
fn the_history_of_the_timeline_on_which_a_recovery_begins_is_not_needed() {
    let place = place(1);
    place.put(&segment_name(2, 4), &segments()[3]);
    place.put("00000003.history", &history(&[(1, 0x30_0200), (2, 0x40_0400)]));
    let missing = |file: &str| restore(&place, file);
    missing("00000002.history").says(126, "names that timeline");
    let label = |timeline: u32| {
        let text = format!(
            "START WAL LOCATION: 0/400028 (file {})\nSTART TIMELINE: {timeline}\n",
            segment_name(timeline, 4)
        );
        fs::write(place.path("data/backup_label"), text).unwrap();
    };
    label(2);
    missing("00000002.history").says(1, "begins on timeline 2 does not need it");
    // The label counts, not the control file.
    fs::write(place.path("data/global/pg_control"), common::control_on(OURS, 3)).unwrap();
    label(1);
    missing("00000002.history").says(126, "names that timeline");
    fs::write(place.path("data/backup_label"), "nonsense").unwrap();
    missing("00000002.history").says(126, "names that timeline");
    fs::remove_file(place.path("data/backup_label")).unwrap();
    missing("00000002.history").says(1, "begins on timeline 3 does not need it");
}

/// With `recovery_target_timeline = 3`, a server reads that history, and then asks for those before it. It can
/// do without, and plain cp brings all rows back.
#[test]
fn a_server_that_follows_a_later_timeline_already_does_not_need_the_history() {
    let place = place(3);
    let later = history(&[(1, 0x30_0200), (2, 0x30_0400)]);
    place.put("00000003.history", &later);
    let missing = || restore(&place, "00000002.history");
    let (kept, pid) =
        (place.path("data/pg_wal/00000003.history"), place.path("data/postmaster.pid"));
    fs::write(&kept, &later).unwrap();
    missing().says(126, "names that timeline");
    // Left there by an earlier start, which had a target.
    let now = std::time::SystemTime::now();
    let at = |path, seconds| {
        let file = fs::File::options().append(true).create(true).open(path).unwrap();
        file.set_modified(now - std::time::Duration::from_secs(seconds)).unwrap();
    };
    at(&kept, 10);
    at(&pid, 5);
    missing().says(126, "names that timeline");
    at(&kept, 2);
    missing().says(1, "the server follows timeline 3 already");
    fs::write(&kept, "1\t0x300200\n").unwrap();
    missing().says(126, "names that timeline");
}

/// With a number as the target, a server asks for the histories of all the numbers in between. The recovery
/// stopped for that of a timeline on which it does not go, and plain cp brings all rows back.
#[test]
fn a_server_that_follows_a_later_timeline_does_not_need_the_history_of_another_branch() {
    let place = place(3);
    let later = history(&[(1, 0x30_0200)]);
    place.put("00000003.history", &later);
    place.put(&segment_name(2, 3), &segments()[2]);
    let missing = || restore(&place, "00000002.history");
    missing().says(126, "the history of timeline 2 is missing");
    let pid = fs::File::create(place.path("data/postmaster.pid")).unwrap();
    pid.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(5)).unwrap();
    fs::write(place.path("data/pg_wal/00000003.history"), &later).unwrap();
    missing().says(1, "the server follows timeline 3 already");
}

/// `pg_basebackup -X stream` puts it there, and the server reads it.
#[test]
fn a_history_file_in_pg_wal_is_as_good_as_one_in_the_archive() {
    let place = place(3);
    place.put(&segment_name(2, 3), &segments()[2]);
    let beside = place.path("data/pg_wal/00000002.history");
    fs::write(&beside, history(&[(1, 0x30_0200)])).unwrap();
    restore(&place, "00000002.history").says(1, "but it is in pg_wal");
    fs::write(&beside, "1\t0x300200\n").unwrap();
    restore(&place, "00000002.history").says(126, "the history of timeline 2 is missing");
}

/// WAL of timeline 1 with two records of a page behind segment 2, on which a later timeline begins.
fn trunk() -> Wal {
    let mut wal = Wal::new(OURS, 1);
    wal.segments(2);
    wal
}

/// An archive of timeline 1 and of timeline 3, whose history says that it came from timeline 2. There is
/// nothing of timeline 2 but its history, by which it left timeline 1 in segment 2.
fn place_with(one: &[Vec<u8>], three: &[(u32, Vec<u8>)], switch: u64) -> Place {
    let place = Place::in_bucket();
    for (number, segment) in (1..).zip(one) {
        place.put(&segment_name(1, number), segment);
    }
    for (number, segment) in three {
        place.put(&segment_name(3, *number), segment);
    }
    place.put("00000002.history", &history(&[(1, 0x20_0200)]));
    place.put("00000003.history", &history(&[(1, 0x20_0200), (2, switch)]));
    place
}

const NO_LATER: &str = "nor is any WAL of timeline 2";

/// A promotion that is broken off leaves a history file without a segment. The next recovery reads on timeline
/// 1 to its end, and the timeline that follows names timeline 2, of which nothing was ever written.
#[test]
fn a_timeline_that_was_abandoned_before_its_first_segment_is_no_hole() {
    // Timeline 3 begins in the middle of a segment, as a copy of timeline 1.
    let mut wal = trunk();
    wal.segments(4);
    wal.record(300_000);
    let switch = wal.branch(3);
    let number = u32::try_from(switch as usize / MB).unwrap();
    let three = wal.segments(number as usize + 1);
    let (one, rest) = (&three[..number as usize - 1], &three[number as usize - 1..]);
    let three: Vec<_> = (number..).zip(rest.iter().cloned()).collect();
    let place = place_with(one, &three, switch);
    for asked in 2..number {
        restore(&place, &segment_name(2, asked)).says(1, NO_LATER);
    }
    // Timeline 1 itself is needed up to there.
    fs::remove_file(place.path("archive").join(segment_name(1, 3))).unwrap();
    restore(&place, &segment_name(1, 3)).says(126, "is there");

    // Timeline 3 begins with a segment, behind a switch.
    let mut wal = trunk();
    let count = wal.segments(4).len() + 1;
    wal.switch();
    let switch = wal.begin(3);
    let first = u32::try_from(switch as usize / MB).unwrap();
    let all = wal.segments(first as usize);
    let (one, rest) = all.split_at(first as usize - 1);
    assert!(one.len() >= count - 1);
    let place = place_with(one, &[(first, rest[0].clone())], switch);
    for asked in 2..first {
        restore(&place, &segment_name(2, asked)).says(1, NO_LATER);
    }
    // Its own first segment may not be there yet. Then timeline 1 has to end where it begins.
    let place = place_with(one, &[], switch);
    restore(&place, &segment_name(2, 3)).says(1, NO_LATER);
    place.put(
        &segment_name(1, first),
        &Wal::new(OURS, 1).segments(first as usize)[first as usize - 1],
    );
    restore(&place, &segment_name(2, 3)).says(126, "timeline 3 branched off after it");
}

/// The same names, but the records do not fit: timeline 2 was written, and is lost.
#[test]
fn a_timeline_that_was_written_and_is_lost_is_a_hole() {
    let mut wal = trunk();
    wal.record(100);
    let mut lost = wal.clone();
    let one = wal.segments(5);
    lost.branch(2);
    lost.segments(3);
    let inside = {
        let mut wal = lost.clone();
        wal.record(100_000);
        let switch = wal.branch(3);
        let number = u32::try_from(switch as usize / MB).unwrap();
        (wal.segments(number as usize)[number as usize - 1].clone(), number, switch)
    };
    let boundary = {
        lost.switch();
        let switch = lost.begin(3);
        let number = u32::try_from(switch as usize / MB).unwrap();
        (lost.segments(number as usize)[number as usize - 1].clone(), number, switch)
    };
    for (first, number, switch) in [inside, boundary] {
        let place = place_with(&one, &[(number, first)], switch);
        restore(&place, &segment_name(2, 3)).says(126, "timeline 3 branched off after it");
        // Without the first segment of timeline 3 there is less to see.
        let place = place_with(&one, &[], switch);
        restore(&place, &segment_name(2, 3)).says(126, "timeline 3 branched off after it");
        // What is there of timeline 2 shows that it was written.
        place.put(&segment_name(2, 2), &one[1]);
        restore(&place, &segment_name(2, 3)).says(126, "timeline 3 branched off after it");
    }
}
