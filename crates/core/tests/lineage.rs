//! A server's own history against an archive: tails, history files that the archive lacks, and timelines
//! that go on behind the point where this server left them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod wal_support;

use std::fs;
use std::path::Path;

use common::*;
use pools::{archive, pool};
use wal_support::{Writer, data};
use walsafe_core::archive::{Job, Level, Notice};
use walsafe_core::encoding::codec::Encoder;
use walsafe_core::encoding::digest::Digest;
use walsafe_core::error::ErrorKind;
use walsafe_core::prove::check::{self, Status};
use walsafe_core::prove::overview::Overview;
use walsafe_core::prove::verify::{self, verify};
use walsafe_core::store::directory::Directory;

#[path = "common/pools.rs"]
mod pools;

/// Start of the segment in which the tests' timelines part.
const START: u64 = 3 << 20;

/// A world of the cluster whose WAL the writer writes, that is on this timeline.
fn world(timeline: u32) -> World {
    let mut world = World::new();
    world.plan.cluster.system_identifier = wal_support::SYSID;
    world.init();
    world.be_on(timeline);
    world
}

/// Segment 3, with records of these lengths behind a common beginning, and zeros behind them.
fn version(lengths: &[usize]) -> (u64, Vec<u8>) {
    let mut writer = Writer::new(8192, START);
    for length in [&[100, 20_000, 50][..], lengths].concat() {
        writer.record(10, 0, &data(length));
    }
    let end = writer.lsn();
    writer.pad();
    (end, writer.bytes)
}

fn history(world: &World, timeline: u32, lines: &[(u32, u64)]) -> Job {
    world.wal(&format!("{timeline:08X}.history"), history_text(lines).as_bytes())
}

fn history_text(lines: &[(u32, u64)]) -> String {
    lines.iter().map(|(timeline, at)| format!("{timeline}\t0/{at:X}\treason\n")).collect()
}

fn encoded(codec: &str, content: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(compression(codec), content.len() as u64, Vec::new()).unwrap();
    std::io::Write::write_all(&mut encoder, content).unwrap();
    encoder.finish().unwrap()
}

fn warning(notices: &[Notice]) -> &Notice {
    let [notice] = notices else { panic!("{notices:?}") };
    assert_eq!((notice.level, notice.sqlstate), (Level::Warning, "01000"));
    notice
}

fn tail_of(content: &[u8]) -> String {
    format!("{}.tail.{}", segment_name(1, 3), &Digest::of(content).to_string()[..16])
}

/// The second of two servers that were promoted in one segment was blocked on its own version of it.
#[test]
fn the_end_of_a_timeline_that_the_server_has_left_is_archived_beside_another_servers() {
    let (ours_end, ours) = version(&[40_000, 30]);
    let (_, earlier) = version(&[]);
    let (_, later) = version(&[40_000, 30, 700]);
    let mut leftovers = ours.clone();
    leftovers[900_000..].fill(7);
    for theirs in [&earlier, &later, &leftovers] {
        for suffix in ["", ".partial"] {
            for (codec, there) in [("none", "none"), ("zstd", "lz4")] {
                for copy_in_archive in [false, true] {
                    let mut world = world(3);
                    world.plan.compression = compression(codec);
                    history(&world, 3, &[(1, ours_end)]);
                    let job = world.wal(&format!("{}{suffix}", segment_name(1, 3)), &ours);
                    let dir = if copy_in_archive { &world.archive } else { &world.pg_wal };
                    fs::write(dir.join(segment_name(3, 3)), &ours).unwrap();
                    let taken = world.stored(&job, compression(there).codec);
                    fs::write(&taken, encoded(there, theirs)).unwrap();
                    let before = still(&taken);

                    let receipt = world.run(&job).unwrap();
                    assert!(!receipt.already_present());
                    let notice = warning(&receipt.notices);
                    let tail = tail_of(&ours);
                    let says = format!("file \"{}\" is archived as \"{tail}\"", job.name);
                    assert_eq!(notice.message, says);
                    let path = world
                        .archive
                        .join(format!("{tail}{}", if codec == "none" { "" } else { ".zst" }));
                    assert!(decoded(&path, compression(codec).codec).unwrap() == ours);
                    assert_eq!(attributes(&path)[1], Some(hex(&ours)));
                    assert_eq!(before, still(&taken));

                    // The server asks again after a crash: a tail that is there already is a success too.
                    let names = world.names();
                    assert!(world.run(&job).unwrap().already_present());
                    assert_eq!(names, world.names());
                }
            }
        }
    }
}

/// A standby that follows a promoted server was blocked on the short end of the old timeline until its next
/// restartpoint: only then does its control file name the new timeline.
#[test]
fn a_standby_is_on_the_timeline_whose_segments_it_receives() {
    let (end, ours) = version(&[40_000, 30]);
    let (_, longer) = version(&[40_000, 30, 700]);
    for standby in [false, true] {
        let world = world(1);
        history(&world, 2, &[(1, end)]);
        world.wal(&segment_name(2, 3), &ours);
        if standby {
            fs::write(world.root.path().join("data/standby.signal"), "").unwrap();
        }
        let job = world.wal(&segment_name(1, 3), &ours);
        fs::write(world.path(&job), &longer).unwrap();
        assert_eq!(world.run(&job).is_ok(), standby);
        assert_eq!(world.archive.join(tail_of(&ours)).exists(), standby);
    }
}

#[test]
fn what_is_not_the_end_of_a_timeline_that_the_server_has_left_is_a_conflict() {
    let (end, ours) = version(&[40_000, 30]);
    let (_, longer) = version(&[40_000, 30, 700]);
    let (_, other) = version(&[40_000, 31, 700]);
    let half = &ours[..SEGMENT / 2];
    let copy = |world: &World| world.wal(&segment_name(2, 3), &ours);
    type Prepare<'a> = &'a dyn Fn(&World);
    let cases: [(&str, u32, &[u8], Prepare<'_>); 8] = [
        ("the server has stayed on the timeline", 1, &longer, &|world| {
            history(world, 2, &[(1, end)]);
            copy(world);
        }),
        ("the history is in the archive alone", 2, &longer, &|world| {
            fs::write(world.archive.join("00000002.history"), history_text(&[(1, end)])).unwrap();
            copy(world);
        }),
        ("no copy of the segment", 2, &longer, &|world| {
            history(world, 2, &[(1, end)]);
        }),
        ("the switch is in the segment before", 2, &longer, &|world| {
            history(world, 2, &[(1, START - 8)]);
            copy(world);
        }),
        ("the switch is where the segment begins", 2, &longer, &|world| {
            history(world, 2, &[(1, START)]);
            copy(world);
        }),
        ("the switch is in the next segment", 2, &longer, &|world| {
            history(world, 2, &[(1, START + SEGMENT as u64 + 40)]);
            copy(world);
        }),
        ("they part before the end of either", 2, &other, &|world| {
            history(world, 2, &[(1, end)]);
            copy(world);
        }),
        ("an interrupted copy", 2, half, &|world| {
            history(world, 2, &[(1, end)]);
            copy(world);
        }),
    ];
    for (what, timeline, theirs, prepare) in cases {
        let world = world(timeline);
        prepare(&world);
        let job = world.wal(&segment_name(1, 3), &ours);
        fs::write(world.path(&job), theirs).unwrap();
        let names = world.names();
        let error = world.run(&job).unwrap_err();
        assert_eq!(error.kind().sqlstate(), "58P02", "{what}: {error}");
        assert_eq!(names, world.names(), "{what}");
    }
}

#[test]
fn a_tail_is_verified_and_counts_for_no_range() {
    let world = world(1);
    let (_, ours) = version(&[40_000, 30]);
    let tail = tail_of(&ours);
    fs::write(world.archive.join(&tail), &ours).unwrap();
    let found = |archive: &Path| {
        verify(&Directory::at(archive), &verify::Options::default(), &mut |_| true)
    };
    let report = found(&world.archive).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!(
        (report.checked.files, report.checked.segments, report.checked.by_records),
        (1, 0, 1)
    );
    let overview =
        Overview::read(&Directory::at(&world.archive), &walsafe_core::store::Progress::default())
            .unwrap();
    let [timeline] = &overview.timelines[..] else { panic!("{overview:?}") };
    assert_eq!((timeline.segments, timeline.partials, timeline.tails), (0, 0, 1));
    assert_eq!((timeline.runs.len(), overview.others), (0, 0));

    let mut damaged = ours.clone();
    damaged[10_000] ^= 1;
    fs::write(world.archive.join(&tail), &damaged).unwrap();
    let report = found(&world.archive).unwrap();
    assert_eq!(report.findings.get(0).unwrap().problem.kind.name(), "corrupt", "{report:?}");
    // Behind the last record, only the name shows it.
    let mut changed = ours;
    changed[SEGMENT - 1] ^= 1;
    fs::write(world.archive.join(&tail), &changed).unwrap();
    let report = found(&world.archive).unwrap();
    assert_eq!(
        report.findings.get(0).unwrap().problem.kind.name(),
        "digest-mismatch",
        "{report:?}"
    );
}

/// An archive that began after a promotion never got the history files.
#[test]
fn the_first_file_brings_the_history_files_of_the_servers_past_along() {
    for codec in ["none", "gzip"] {
        let mut world = world(4);
        world.plan.compression = compression(codec);
        let of = |timeline| format!("{timeline:08X}.history");
        for (timeline, lines) in [
            (2, &[(1, 0x10_0000)][..]),
            (3, &[(1, 0x10_0000), (2, 0x20_0000)]),
            (4, &[(1, 0x10_0000), (2, 0x20_0000), (3, 0x28_0000)]),
            (5, &[(1, 0x10_0000)]),
        ] {
            history(&world, timeline, lines);
        }
        // One is there, in another encoding.
        let there = encoded("lz4", &fs::read(world.pg_wal.join(of(2))).unwrap());
        fs::write(world.archive.join(format!("{}.lz4", of(2))), there).unwrap();
        let (_, content) = version(&[]);
        let job = world.wal(&segment_name(4, 3), &content);
        let ended = pool(&world, 2);
        let receipt = archive(&ended, &job).unwrap();
        assert_eq!(receipt.notices, []);
        let dot = if codec == "none" { "" } else { ".gz" };
        let expected = [
            format!("{}.lz4", of(2)),
            format!("{}{dot}", of(3)),
            format!("{}{dot}", of(4)),
            format!("{}{dot}", job.name),
            "walsafe_archive.id".to_owned(),
        ];
        assert_eq!(world.names(), expected);

        // The same process does not look again, unless a call failed: the disk may be another one.
        fs::remove_file(world.archive.join(&expected[1])).unwrap();
        archive(&ended, &job).unwrap();
        assert!(!world.archive.join(&expected[1]).exists());
        let lost = Job { source: world.pg_wal.join("lost"), ..job.clone() };
        archive(&ended, &lost).unwrap_err();
        archive(&ended, &job).unwrap();
        assert!(world.archive.join(&expected[1]).exists());
    }
}

/// A history file that the server asks for itself keeps its place: after those below it, before those above.
#[test]
fn a_history_file_that_is_asked_for_is_archived_as_usual() {
    let world = world(3);
    let two = history(&world, 2, &[(1, 0x10_0000)]);
    let three = history(&world, 3, &[(1, 0x10_0000), (2, 0x20_0000)]);
    let ended = pool(&world, 0);
    assert!(!archive(&ended, &two).unwrap().already_present());
    assert!(!world.path(&three).exists());
    assert!(!archive(&ended, &three).unwrap().already_present());
    let (_, content) = version(&[]);
    archive(&ended, &world.wal(&segment_name(3, 3), &content)).unwrap();
}

#[test]
fn another_servers_history_file_stops_what_descends_from_it_and_nothing_else() {
    let (_, content) = version(&[]);
    for (lines, stops) in
        [(&[(1, 0x10_0000), (2, 0x20_0000)][..], true), (&[(1, 0x10_0000)], false)]
    {
        let world = world(3);
        history(&world, 2, &[(1, 0x10_0000)]);
        history(&world, 3, lines);
        fs::write(world.archive.join("00000002.history"), "1\t0/8\tanother\n").unwrap();
        let job = world.wal(&segment_name(3, 3), &content);
        let ended = pool(&world, 2);
        for round in 0..2 {
            let result = archive(&ended, &job);
            if stops {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConflictHistory);
                assert_eq!(error.to_string(), "the archive holds a different \"00000002.history\"");
                assert!(error.detail().contains("already used timeline 2"), "{}", error.detail());
                assert!(!world.path(&job).exists());
            } else {
                let notices = result.unwrap().notices;
                if round == 0 {
                    let notice = warning(&notices);
                    assert!(notice.message.contains("a different \"00000002.history\""));
                } else {
                    assert_eq!(notices, []);
                }
            }
        }
    }
}

/// A drill that archived into production was silent.
#[test]
fn wal_that_the_parent_timeline_has_past_the_switch_is_named_once() {
    let (switch, until_switch) = version(&[]);
    let (_, past_switch) = version(&[40_000]);
    let far = segment_name(1, 3 + 64);
    type There<'a> = Option<(&'a str, &'a [u8])>;
    let cases: [(There<'_>, Option<&str>); 5] = [
        (None, None),
        // Whoever archived it had no more WAL than we have.
        (Some((&segment_name(1, 3), &until_switch)), None),
        (Some((&segment_name(1, 3), &past_switch)), Some(&segment_name(1, 3))),
        (Some((&segment_name(1, 4), b"")), Some(&segment_name(1, 4))),
        (Some((&far, b"")), Some(&far)),
    ];
    for (there, named) in cases {
        let world = world(2);
        let history = history(&world, 2, &[(1, switch)]);
        let segment = world.wal(&segment_name(2, 3), &past_switch);
        if let Some((name, content)) = there {
            fs::write(world.archive.join(format!("{name}.lz4")), encoded("lz4", content)).unwrap();
        }
        let mut notices = Vec::new();
        for workers in [1, 2] {
            let ended = pool(&world, workers);
            for job in [&history, &segment] {
                notices.extend(archive(&ended, job).unwrap().notices);
            }
        }
        // That the segment before is not there is a line in the log.
        notices.retain(|notice| notice.level == Level::Warning);
        let checks = check::check(&Directory::at(&world.archive), &check::Options::default());
        let row = checks.iter().find(|check| check.name == "timelines").unwrap();
        let Some(named) = named else {
            assert_eq!(notices, []);
            assert_eq!(row.status, Status::Ok, "{row:?}");
            assert_eq!(row.detail, "a recovery with default settings follows timeline 2");
            continue;
        };
        let notice = warning(&notices);
        let at = format!("WAL after 0/{switch:X} on timeline 1 ");
        assert!(notice.message.starts_with(&at), "{notice:?}");
        assert!(notice.detail.contains(&format!("holds \"{named}\" of timeline 1")), "{notice:?}");
        assert_eq!(row.status, Status::Warning);
        assert!(row.detail.starts_with(&at) && row.detail.contains(named), "{row:?}");
    }
}

/// A file ahead, in another thread, archived the history file that the server was about to ask for: what was
/// to be said of the timeline before went with that thread's receipt, which nobody sees.
#[test]
fn a_history_file_that_waits_is_left_to_the_servers_own_call() {
    let world = world(2);
    let two = history(&world, 2, &[(1, START)]);
    let ready = world.pg_wal.join("archive_status/00000002.history.ready");
    fs::create_dir(ready.parent().unwrap()).unwrap();
    fs::write(&ready, "").unwrap();
    let (_, content) = version(&[]);
    let segment = world.wal(&segment_name(2, 3), &content);
    let ended = pool(&world, 0);
    archive(&ended, &segment).unwrap();
    assert!(!world.path(&two).exists());
    assert!(!archive(&ended, &two).unwrap().already_present());

    // Once it does not wait, it is looked for like any other.
    fs::rename(&ready, ready.with_extension("done")).unwrap();
    fs::remove_file(world.path(&two)).unwrap();
    archive(&ended, &segment).unwrap();
    assert!(world.path(&two).exists());
}

/// A history file that nobody can read blocked every file, also where the server does not descend from it.
#[test]
fn a_history_file_that_is_not_needed_and_cannot_be_read_is_a_warning() {
    let (_, content) = version(&[]);
    for (lines, stops) in
        [(&[(1, 0x10_0000), (2, 0x20_0000)][..], true), (&[(1, 0x10_0000)], false)]
    {
        let world = world(3);
        fs::create_dir(world.pg_wal.join("00000002.history")).unwrap();
        history(&world, 3, lines);
        let job = world.wal(&segment_name(3, 3), &content);
        let ended = pool(&world, 2);
        let result = archive(&ended, &job);
        assert_eq!(world.archive.join("00000003.history").exists(), !stops);
        if stops {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::SourceNotAFile);
            continue;
        }
        let mut notices = result.unwrap().notices;
        notices.retain(|notice| notice.level == Level::Warning);
        let [notice] = &notices[..] else { panic!("{notices:?}") };
        assert!(notice.message.starts_with("could not archive \"00000002.history\""), "{notice:?}");
        assert_eq!(archive(&ended, &job).unwrap().notices, []);
    }
}
