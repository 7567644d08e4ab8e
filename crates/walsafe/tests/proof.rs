//! `walsafe verify --from`: what a recovery does, as the server will do it. The servers themselves are asked in
//! the cluster tests (`tests/proof.rs`); here is every case that takes no server.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use common::{MB, OURS, Place, Run, Verified, Wal, segment_name, walsafe};

fn from(place: &Place, start: &str, more: &[&str]) -> Verified {
    let mut command = walsafe();
    command.args(["verify", "--json", "--from", start]).args(more);
    Verified::of(command.arg(place.path("archive")))
}

/// What a recovery does, as `file: kind: reason`, for what the reason says.
fn reason(verified: &Verified) -> String {
    verified.report["findings"][0]["reason"].as_str().unwrap_or_default().to_owned()
}

/// Puts segments of WAL into the archive.
fn put(place: &Place, wal: &mut Wal, timeline: u32, numbers: std::ops::RangeInclusive<u32>) {
    let segments = wal.segments(*numbers.end() as usize);
    for number in numbers {
        place.put(&segment_name(timeline, number), &segments[number as usize - 1]);
    }
}

fn remove(place: &Place, name: &str) {
    fs::remove_file(place.path("archive").join(name)).unwrap();
}

fn history(place: &Place, timeline: u32, ancestors: &[(u32, u64)]) {
    let lines = ancestors.iter().map(|(timeline, at)| format!("{timeline}\t0/{at:X}\tno reason\n"));
    place.put(&format!("{timeline:08X}.history"), lines.collect::<String>().as_bytes());
}

fn make_old(place: &Place, name: &str) {
    let file = File::options().write(true).open(place.path("archive").join(name)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(4000)).unwrap();
}

/// A backup within segment 2, and its label.
#[derive(Clone, Copy)]
struct Backup {
    redo: u64,
    checkpoint: u64,
    end: u64,
}

impl Backup {
    fn take(wal: &mut Wal) -> Self {
        wal.record(100);
        let redo = wal.record_of(0, 0x20, 0, &[0; 40]);
        let checkpoint = wal.checkpoint(redo);
        wal.record(3000);
        wal.backup_end(redo);
        let end = wal.record_of(0, 0x20, 0, &[]);
        Self { redo, checkpoint, end }
    }

    fn text(&self, timeline: u32) -> String {
        let segment = segment_name(timeline, u32::try_from(self.redo / MB as u64).unwrap());
        format!(
            "START WAL LOCATION: 0/{:X} (file {segment})\nCHECKPOINT LOCATION: 0/{:X}\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-21 07:00:00 UTC\nLABEL: weekly\nSTART TIMELINE: {timeline}\n",
            self.redo, self.checkpoint
        )
    }

    fn label(&self, place: &Place, timeline: u32) -> String {
        let path = place.path("backup_label");
        fs::write(&path, self.text(timeline)).unwrap();
        path.display().to_string()
    }

    /// The backup history file, which the server archives.
    fn archive(&self, place: &Place, timeline: u32) {
        let number = u32::try_from(self.redo / MB as u64).unwrap();
        let name =
            format!("{}.{:08X}.backup", segment_name(timeline, number), self.redo % MB as u64);
        let stop = format!("STOP WAL LOCATION: 0/{:X} (file x)\n", self.end);
        place.put(&name, format!("{}{stop}", self.text(timeline)).as_bytes());
    }
}

/// A backup in segment 2, and segments up to the one given.
fn with_backup(last: u32) -> (Place, Wal, Backup) {
    let (place, mut wal) = (Place::new(), Wal::new(OURS, 1));
    wal.segments(1);
    let backup = Backup::take(&mut wal);
    put(&place, &mut wal, 1, 1..=last);
    (place, wal, backup)
}

#[test]
fn from_a_backup_label_the_end_of_the_backup_has_to_be_there() {
    let (place, _, backup) = with_backup(5);
    let label = backup.label(&place, 1);
    let proved = from(&place, &label, &[]);
    proved.finds(&[]);
    assert_eq!(proved.report["from"]["consistent_at"], format!("0/{:X}", backup.end));
    // The start's own address stands for the backup, as soon as its history file is there.
    let start = format!("0/{:X}", backup.redo);
    from(&place, &start, &[]).finds(&[]);
    backup.archive(&place, 1);
    let proved = from(&place, &start, &[]);
    proved.finds(&[]);
    assert_eq!(proved.report["from"]["consistent_at"], format!("0/{:X}", backup.end));

    // A backup whose end was not archived, and one whose first segment was not.
    let (place, mut wal) = (Place::new(), Wal::new(OURS, 1));
    wal.segments(1);
    let redo = wal.record_of(0, 0x20, 0, &[]);
    let checkpoint = wal.checkpoint(redo);
    put(&place, &mut wal, 1, 1..=4);
    let label = Backup { redo, checkpoint, end: 0 }.label(&place, 1);
    let proved = from(&place, &label, &[]);
    proved.finds(&["000000010000000000000004: gap"]);
    assert!(reason(&proved).starts_with("WAL ends before end of online backup"), "{proved:?}");
    remove(&place, &segment_name(1, 2));
    from(&place, &label, &[]).finds(&["000000010000000000000002: gap"]);
}

/// A label in Latin 1 was "neither an LSN nor a readable backup_label", and such a `.backup` file
/// was passed over.
#[test]
fn a_label_in_another_encoding_is_a_start() {
    let to_latin = |path: &str| {
        let text = fs::read_to_string(path).unwrap().replace("weekly", "w\u{f6}chentlich");
        let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        fs::write(path, bytes).unwrap();
    };
    let (place, _, backup) = with_backup(5);
    let label = backup.label(&place, 1);
    to_latin(&label);
    from(&place, &label, &[]).finds(&[]);
    backup.archive(&place, 1);
    let name = format!("{}.{:08X}.backup", segment_name(1, 2), backup.redo % MB as u64);
    to_latin(&place.path("archive").join(name).display().to_string());
    let proved = from(&place, &format!("0/{:X}", backup.redo), &[]);
    proved.finds(&[]);
    assert_eq!(proved.report["from"]["consistent_at"], format!("0/{:X}", backup.end));
}

/// `verify --from` took any label, and the server said that it could not locate the checkpoint record.
#[test]
fn the_record_at_the_labels_checkpoint_location_has_to_be_a_checkpoint() {
    let (place, _, backup) = with_backup(4);
    for (checkpoint, said) in
        [(backup.redo, "is not a checkpoint"), (backup.checkpoint + 8, "no record begins")]
    {
        let label = Backup { checkpoint, ..backup }.label(&place, 1);
        let proved = from(&place, &label, &[]);
        proved.finds(&["000000010000000000000002: unrecoverable"]);
        assert!(
            reason(&proved).starts_with("could not locate required checkpoint record"),
            "{proved:?}"
        );
        assert!(reason(&proved).contains(said), "{proved:?}");
    }
    let label = Backup { redo: backup.redo + 8, ..backup }.label(&place, 1);
    let proved = from(&place, &label, &[]);
    assert!(
        reason(&proved).contains("START WAL LOCATION") || proved.findings().len() > 1,
        "{proved:?}"
    );
}

/// A commit, a restore point and an address were all one: the end of the WAL.
#[test]
fn a_target_is_reached_where_the_server_stops_and_the_last_commit_before_it_is_told() {
    let (place, mut wal) = (Place::new(), Wal::new(OURS, 1));
    wal.segments(1);
    let backup = Backup::take(&mut wal);
    let first = wal.commit(700, 1_000_000);
    // Records that cross a page and a segment, byte by byte of their header and data.
    wal.fill_to(24);
    let second = wal.commit(701, 2_000_000);
    let mut point = 2_500_000_i64.to_ne_bytes().to_vec();
    point.extend(b"before the release\0");
    point.resize(72, 0);
    let point = wal.record_of(0, 0x70, 0, &point);
    let third = wal.commit(702, 3_000_000);
    put(&place, &mut wal, 1, 1..=5);
    let label = backup.label(&place, 1);
    let at = |lsn: u64| format!("0/{lsn:X}");
    let whole = from(&place, &label, &[]);
    whole.finds(&[]);
    assert_eq!(whole.report["from"]["first_commit"]["lsn"], at(first));
    assert_eq!(whole.report["from"]["last_commit"]["lsn"], at(third));
    assert_eq!(whole.report["from"]["last_commit"]["time"], "2000-01-01 00:00:03+00");
    assert_eq!(whole.report["from"]["last_commit"]["xid"], 702);
    let lsn = at(point);
    for (until, stop, after, last) in [
        ("2000-01-01 00:00:02+00", third, false, second),
        ("2000-01-01 00:00:01.5+00", second, false, first),
        ("701", second, true, second),
        ("before the release", point, true, second),
        (&*lsn, point, true, second),
        ("xid:702", third, true, third),
    ] {
        let proved = from(&place, &label, &["--until", until]);
        proved.finds(&[]);
        let chain = &proved.report["from"];
        assert_eq!(chain["stops_at"], at(stop), "{until}: {chain:#}");
        assert_eq!(chain["stops_after"], after, "{until}");
        assert_eq!(chain["last_commit"]["lsn"], at(last), "{until}");
    }
    for until in ["703", "2000-01-01 00:00:03+00", "name:elsewhere", "0/900000"] {
        let proved = from(&place, &label, &["--until", until]);
        proved.finds(&["000000010000000000000005: unrecoverable"]);
        assert!(
            reason(&proved).contains("before configured recovery target was reached"),
            "{proved:?}"
        );
        assert!(reason(&proved).contains("2000-01-01 00:00:03+00"), "{proved:?}");
    }
    let proved = from(&place, &label, &["--until", &at(backup.checkpoint)]);
    proved.finds(&["000000010000000000000002: unrecoverable"]);
    assert!(reason(&proved).contains("before consistent recovery point"), "{proved:?}");
    // What lies behind the target is not needed.
    remove(&place, &segment_name(1, 4));
    from(&place, &label, &["--until", "700"]).finds(&[]);
    let list = Run::of(walsafe().args(["list", "--times", "--json"]).arg(place.path("archive")));
    let list: serde_json::Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!(list["timelines"][0]["first_commit"]["lsn"], at(first));
    assert_eq!(list["timelines"][0]["last_commit"]["lsn"], at(third));
    let list = Run::of(walsafe().args(["list", "--times"]).arg(place.path("archive")));
    assert!(
        list.out.contains("commits from 2000-01-01 00:00:01+00 to 2000-01-01 00:00:03+00"),
        "{list:?}"
    );
}

#[test]
fn a_commit_that_crosses_from_one_segment_to_the_next_is_the_first_and_the_last() {
    for room in [8, 16, 24, 40] {
        let (place, mut wal) = (Place::new(), Wal::new(OURS, 1));
        wal.fill_to(room);
        let commit = wal.commit(700, 1_000_000);
        put(&place, &mut wal, 1, 1..=3);
        let proved = from(&place, "0/100028", &[]);
        proved.finds(&[]);
        let expected = format!("0/{commit:X}");
        assert_eq!(proved.report["from"]["last_commit"]["lsn"], expected, "{room}");
        let list =
            Run::of(walsafe().args(["list", "--times", "--json"]).arg(place.path("archive")));
        let list: serde_json::Value = serde_json::from_str(&list.out).unwrap();
        assert_eq!(list["timelines"][0]["first_commit"]["lsn"], expected, "{room}");
        assert_eq!(list["timelines"][0]["last_commit"]["lsn"], expected, "{room}");
        from(&place, "0/100028", &["--until", "700"]).finds(&[]);
    }
}

/// The report said that the archive reaches to its very end without a gap, whatever lay on the way.
#[test]
fn a_recovery_ends_where_a_file_is_damaged_and_never_reaches_a_partial_segment() {
    let (place, mut wal, backup) = with_backup(6);
    let label = backup.label(&place, 1);
    let end = from(&place, &label, &[]).report["from"]["end"].clone();
    wal.segments(7);
    let partial = format!("{}.partial", segment_name(1, 7));
    place.put(&partial, &wal.segments(7)[6]);
    let proved = from(&place, &label, &[]);
    proved.finds(&[]);
    assert_eq!(proved.report["from"]["end"], end, "a partial segment was counted as reached");
    assert!(
        proved.report["from"]["notes"][0].as_str().unwrap().starts_with(&partial),
        "{proved:?}"
    );
    let path = place.path("archive").join(segment_name(1, 4));
    let mut bytes = fs::read(&path).unwrap();
    bytes[70_000] ^= 1;
    fs::write(path, bytes).unwrap();
    let proved = from(&place, &label, &[]);
    proved.finds(&["000000010000000000000004: corrupt"]);
    let end = proved.report["from"]["end"].as_str().unwrap().to_owned();
    assert!(("0/300000".."0/400000").contains(&&*end), "{end}");
}

/// A hole behind the branch of a history file without segments was not seen: the proof ended at the branch.
#[test]
fn a_history_file_without_segments_does_not_end_the_proof_and_is_a_finding_after_an_hour() {
    let (place, _, backup) = with_backup(7);
    let label = backup.label(&place, 1);
    history(&place, 2, &[(1, 0x40_0100)]);
    from(&place, &label, &[]).finds(&[]);
    place.verify().finds(&[]);
    make_old(&place, "00000002.history");
    place.verify().finds(&["00000002.history: orphan-history"]);
    from(&place, &label, &[]).finds(&["00000002.history: orphan-history"]);
    from(&place, &label, &["--target-timeline", "current"]).finds(&[]);
    remove(&place, &segment_name(1, 6));
    let found = ["000000010000000000000006: gap", "00000002.history: orphan-history"];
    from(&place, &label, &[]).finds(&found);
    from(&place, &label, &["--target-timeline", "1"]).finds(&found[..1]);
    // Timeline 1 up to the branch was written, although nothing of it is there.
    remove(&place, &segment_name(1, 7));
    for number in [3, 4, 5] {
        remove(&place, &segment_name(1, number));
    }
    let found = ["000000010000000000000003: gap", "00000002.history: orphan-history"];
    place.verify().finds(&found);
    from(&place, &label, &[]).finds(&found);
}

/// Timeline 2 and 3 branched off in one segment, and nothing of timeline 2 is there: there was no finding, and
/// the server ignores timeline 3 with all its rows.
#[test]
fn a_history_file_that_a_later_one_names_is_missed_although_its_timeline_has_no_segment() {
    let (place, mut wal, backup) = with_backup(3);
    let label = backup.label(&place, 1);
    wal.record(100);
    let two = wal.branch(2);
    wal.record(100);
    let three = wal.branch(3);
    put(&place, &mut wal, 3, 4..=6);
    history(&place, 3, &[(1, two), (2, three)]);
    let found = ["00000002.history: gap"];
    place.verify().finds(&found);
    from(&place, &label, &[]).finds(&found);
    from(&place, &label, &["--target-timeline", "3"]).finds(&found);
    history(&place, 2, &[(1, two)]);
    place.verify().finds(&[]);
    let proved = from(&place, &label, &[]);
    proved.finds(&[]);
    assert_eq!(proved.report["from"]["end_timeline"], 3);
    assert_eq!(proved.report["from"]["heading"]["left_timeline"], 2);
    // A number that nobody names ends the search; a later timeline is not found.
    let (place, mut wal, backup) = with_backup(3);
    let label = backup.label(&place, 1);
    let fork = wal.branch(5);
    put(&place, &mut wal, 5, 4..=6);
    history(&place, 5, &[(1, fork)]);
    let proved = from(&place, &label, &[]);
    assert_eq!(proved.report["from"]["end_timeline"], 1);
    let note = proved.report["from"]["notes"][0].as_str().unwrap();
    assert!(note.contains("00000002.history") && note.contains("= '5'"), "{note}");
    from(&place, &label, &["--target-timeline", "5"]).finds(&[]);
    from(&place, &label, &["--target-timeline", "4"]).finds(&["00000004.history: gap"]);
}

/// A promotion that was broken off leaves a history file, and the next one names a timeline of which nothing
/// was ever written: `cp` brings all rows, and this was a gap.
#[test]
fn wal_of_a_timeline_that_was_never_written_is_not_missed() {
    let (place, mut wal, backup) = with_backup(6);
    let label = backup.label(&place, 1);
    let three = wal.branch(3);
    put(&place, &mut wal, 3, 7..=9);
    history(&place, 2, &[(1, 0x40_0100)]);
    history(&place, 3, &[(1, 0x40_0100), (2, three)]);
    place.verify().finds(&[]);
    let proved = from(&place, &label, &[]);
    proved.finds(&[]);
    assert_eq!(proved.report["from"]["segments"], 8);
    // What stands in for it is needed.
    remove(&place, &segment_name(1, 5));
    place.verify().finds(&["000000010000000000000005: gap"]);
    from(&place, &label, &[]).finds(&["000000010000000000000005: gap"]);

    // The next timeline begins with a segment of its own: its first record names the last one before it.
    let (place, mut wal, backup) = with_backup(5);
    let label = backup.label(&place, 1);
    wal.record(1000);
    wal.switch();
    put(&place, &mut wal, 1, 6..=6);
    let three = wal.branch_at_segment(3);
    put(&place, &mut wal, 3, 7..=9);
    history(&place, 2, &[(1, 0x40_0100)]);
    history(&place, 3, &[(1, 0x40_0100), (2, three)]);
    place.verify().finds(&[]);
    from(&place, &label, &[]).finds(&[]);
    // Another history's segment of that name does not stand in for it.
    let mut other = Wal::new(OURS, 1);
    place.put(&segment_name(1, 6), &other.segments(6)[5]);
    let found = place.verify().findings();
    assert!(found.contains(&"000000020000000000000004: gap".to_owned()), "{found:?}");

    // This one was written: its pages say so.
    let (place, mut wal, backup) = with_backup(3);
    let label = backup.label(&place, 1);
    let two = wal.branch(2);
    wal.segments(6);
    let three = wal.branch(3);
    put(&place, &mut wal, 3, 7..=9);
    history(&place, 2, &[(1, two)]);
    history(&place, 3, &[(1, two), (2, three)]);
    place.verify().finds(&["000000020000000000000004: gap"]);
    from(&place, &label, &[]).finds(&["000000020000000000000004: gap"]);
}

/// `no findings`, and the server said "requested timeline 2 is not a child of this server's history".
#[test]
fn a_timeline_that_left_before_the_backup_cannot_be_reached() {
    let (place, mut wal) = (Place::new(), Wal::new(OURS, 1));
    put(&place, &mut wal, 1, 1..=3);
    history(&place, 2, &[(1, 0x20_0100)]);
    let backup = Backup::take(&mut wal);
    put(&place, &mut wal, 1, 4..=6);
    place.put(&segment_name(2, 2), &Wal::new(OURS, 2).segments(2)[1]);
    let label = backup.label(&place, 1);
    let proved = from(&place, &label, &[]);
    proved.finds(&["00000002.history: unrecoverable"]);
    assert!(
        reason(&proved).starts_with("requested timeline 2 is not a child of this server's history")
    );
    let advice = proved.report["findings"][0]["advice"].as_str().unwrap();
    assert!(advice.contains("Set recovery_target_timeline = '1'"), "{advice}");
    for target in ["current", "1"] {
        let proved = from(&place, &label, &["--target-timeline", target]);
        proved.finds(&[]);
        assert_eq!(proved.report["from"]["end_timeline"], 1);
    }
    let report = place.verify().report;
    assert_eq!(report["default_recovery"]["timeline"], 2);
    assert_eq!(report["default_recovery"]["left_at"], "0/200100");
    assert_eq!(report["default_recovery"]["not_part_of_it_up_to"], "0/700000");
    let run = Run::of(walsafe().arg("verify").arg(place.path("archive")));
    assert!(run.out.contains("goes to timeline 2, which left timeline 1 at 0/200100; its history file was archived at "), "{run:?}");
}

/// A gap in the past made the weekly run red for ever, whatever backups were taken since.
#[test]
fn a_gap_is_accepted_if_a_backup_behind_it_can_be_recovered() {
    let (place, mut wal) = (Place::new(), Wal::new(OURS, 1));
    put(&place, &mut wal, 1, 1..=4);
    let backup = Backup::take(&mut wal);
    put(&place, &mut wal, 1, 5..=7);
    remove(&place, &segment_name(1, 3));
    let accepting = || {
        Verified::of(
            walsafe().args(["verify", "--json", "--accept-gaps"]).arg(place.path("archive")),
        )
    };
    let gap = ["000000010000000000000003: gap"];
    accepting().finds(&gap);
    backup.archive(&place, 1);
    place.verify().finds(&gap);
    let verified = accepting();
    verified.finds(&[]);
    assert_eq!(verified.report["accepted"][0]["file"], segment_name(1, 3));
    let run = Run::of(walsafe().args(["verify", "--accept-gaps"]).arg(place.path("archive")));
    assert_eq!(run.status, Some(0));
    assert!(run.out.contains("accepted: 000000010000000000000003: gap"), "{run:?}");
    // Not if that backup cannot be recovered, and nothing else is accepted.
    let away = place.path("away");
    fs::rename(place.path("archive").join(segment_name(1, 6)), &away).unwrap();
    accepting().finds(&[gap[0], "000000010000000000000006: gap"]);
    fs::rename(&away, place.path("archive").join(segment_name(1, 6))).unwrap();
    place.put(&segment_name(1, 2), &vec![0; MB]);
    accepting().finds(&["000000010000000000000002: corrupt"]);
}

#[test]
fn wal_of_minimal_level_ends_a_recovery_unless_the_target_lies_before_it() {
    let (place, mut wal) = (Place::new(), Wal::new(OURS, 1));
    wal.segments(1);
    let backup = Backup::take(&mut wal);
    wal.commit(700, 1_000_000);
    let change = wal.record_of(0, 0x60, 0, &[0; 28]);
    wal.commit(701, 2_000_000);
    put(&place, &mut wal, 1, 1..=5);
    let label = backup.label(&place, 1);
    let proved = from(&place, &label, &[]);
    let name = segment_name(1, u32::try_from(change / MB as u64).unwrap());
    proved.finds(&[&format!("{name}: unrecoverable")]);
    assert!(reason(&proved).starts_with("WAL was generated with wal_level=minimal"), "{proved:?}");
    assert_eq!(proved.report["from"]["end"], format!("0/{change:X}"));
    assert_eq!(proved.report["from"]["last_commit"]["xid"], 700);
    from(&place, &label, &["--until", "700"]).finds(&[]);
    assert_eq!(from(&place, &label, &["--until", "701"]).status, Some(1));
}

#[test]
fn what_makes_no_sense_on_the_command_line_is_refused() {
    let place = Place::new();
    let refuses = |arguments: &[&str], text: &str| {
        let run = Run::of(walsafe().arg("verify").args(arguments).arg(place.path("archive")));
        assert_eq!(run.status, Some(2), "{run:?}");
        assert!(run.err.contains(text), "{run:?}");
    };
    refuses(&["--until", "7"], "--from");
    refuses(&["--target-timeline", "current"], "--from");
    refuses(&["--from", "0/1", "--until", "2026-11-29 07:30:00"], "offset from UTC");
    refuses(&["--from", "0/1", "--target-timeline", "newest"], "latest");
    refuses(&["--from", "0/1", "--accept-gaps"], "cannot be used with");
}

/// Where a timeline begins with a segment of its own, that was not compared with the one before: the archive was
/// said to be recoverable, and the recovery stops, or is promoted, before the branch.
#[test]
fn a_segment_that_ends_early_before_a_branch_at_its_end_is_found() {
    let (place, mut wal, backup) = with_backup(3);
    let label = backup.label(&place, 1);
    for _ in 0..100 {
        wal.record(3000);
    }
    wal.switch();
    let fork = wal.branch_at_segment(2);
    let last = u32::try_from(fork / MB as u64).unwrap() - 1;
    put(&place, &mut wal, 1, 1..=last);
    put(&place, &mut wal, 2, last + 1..=last + 2);
    history(&place, 2, &[(1, fork)]);
    let proved = from(&place, &label, &[]);
    proved.finds(&[]);
    assert_eq!(proved.report["from"]["end_timeline"], 2);
    place.verify().finds(&[]);
    let name = segment_name(1, last);
    let mut bytes = wal.segments(last as usize)[last as usize - 1].clone();
    bytes[12 * 8192..].fill(0);
    place.put(&name, &bytes);
    let proved = from(&place, &label, &[]);
    proved.finds(&[&format!("{name}: corrupt")]);
    place.verify().finds(&[&format!("{name}: corrupt")]);
    let end = proved.report["from"]["end"].as_str().unwrap().to_owned();
    assert!(end < format!("0/{fork:X}"), "{end}");
}

/// An archive that was begun after a promotion does not have the history file, and the server does without it:
/// this was a gap.
#[test]
fn the_history_of_the_backups_own_timeline_may_be_missing() {
    let (place, mut wal) = (Place::new(), Wal::new(OURS, 2));
    wal.segments(1);
    let backup = Backup::take(&mut wal);
    put(&place, &mut wal, 2, 2..=4);
    let label = backup.label(&place, 2);
    let proved = from(&place, &label, &[]);
    proved.finds(&[]);
    let note = proved.report["from"]["notes"][0].as_str().unwrap();
    assert!(note.starts_with("00000002.history is not there"), "{note}");
}

/// Makes the label that of a standby's backup, with this minimum recovery point in the control file.
fn of_a_standby(place: &Place, label: &str, minimum: u64, timeline: u32) {
    let text = fs::read_to_string(label).unwrap().replace("FROM: primary", "FROM: standby");
    fs::write(label, text).unwrap();
    let mut bytes = common::control_on(OURS, 1);
    bytes[136..144].copy_from_slice(&minimum.to_ne_bytes());
    bytes[144..148].copy_from_slice(&timeline.to_ne_bytes());
    let crc = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&crc.to_ne_bytes());
    fs::create_dir_all(place.path("global")).unwrap();
    fs::write(place.path("global/pg_control"), bytes).unwrap();
}

/// A standby's backup may begin with the same checkpoint as one of the primary. It was taken for consistent where
/// that one ended.
#[test]
fn the_end_of_a_primarys_backup_is_not_that_of_a_standbys() {
    let (place, mut wal, backup) = with_backup(4);
    let label = backup.label(&place, 1);
    let minimum = wal.record_of(0, 0x20, 0, &[]);
    put(&place, &mut wal, 1, 5..=6);
    of_a_standby(&place, &label, minimum, 1);
    backup.archive(&place, 1);
    let proved = from(&place, &label, &[]);
    proved.finds(&[]);
    assert_eq!(proved.report["from"]["consistent_at"], format!("0/{minimum:X}"));
    from(&place, &label, &["--until", &format!("0/{:X}", backup.end)])
        .finds(&["000000010000000000000005: unrecoverable"]);
}

/// A timeline that left before the point from which on a standby's backup is consistent was taken for one that the
/// recovery can go to. The server refuses to start.
#[test]
fn a_standbys_backup_that_ends_behind_a_branch_cannot_go_there() {
    let (place, mut wal, backup) = with_backup(5);
    let label = backup.label(&place, 1);
    let (fork, minimum) = (0x30_0000, wal.record_of(0, 0x20, 0, &[]));
    put(&place, &mut wal, 1, 6..=6);
    history(&place, 2, &[(1, fork)]);
    of_a_standby(&place, &label, fork, 1);
    from(&place, &label, &[]).finds(&[]);
    of_a_standby(&place, &label, minimum, 1);
    let proved = from(&place, &label, &[]);
    proved.finds(&["00000002.history: unrecoverable"]);
    assert!(reason(&proved).contains("does not contain minimum recovery point"), "{proved:?}");
    assert_eq!(proved.report["from"]["end_timeline"], 1);
    from(&place, &label, &["--target-timeline", "current"]).finds(&[]);
}
