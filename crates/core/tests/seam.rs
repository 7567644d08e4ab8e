//! The first segment after a start is matched with the archived one before it, so that a server that has
//! left the archive's history adds nothing behind it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod wal_support;

use std::fs;

use common::{CODECS, World, compression, run};
use wal_support::{SIZE, SYSID, Writer, data};
use walsafe_core::archive::{Job, Level, Receipt, Seam, archive_file};
use walsafe_core::encoding::codec::Encoder;
use walsafe_core::error::{Error, ErrorKind};
use walsafe_core::server::settings::CheckWal;
use walsafe_core::store::Progress;
use walsafe_core::sys::buffer::Buffer;
use walsafe_core::wal::Lsn;
use walsafe_core::wal::name::SegmentName;

const BASE: u64 = 0x300_0000;
const WHOLE: usize = SIZE as usize;

fn world() -> World {
    let mut world = World::new();
    world.plan.cluster.system_identifier = SYSID;
    world.init();
    world
}

/// The name of the segment at an address.
fn name(timeline: u32, at: u64) -> String {
    SegmentName::holding(timeline, Lsn(at), world_size()).to_string()
}

fn world_size() -> walsafe_core::wal::SegmentSize {
    walsafe_core::wal::SegmentSize::new(u64::from(SIZE)).unwrap()
}

/// The names of the segment before and of the one that comes, on timeline 1.
fn names() -> [String; 2] {
    [name(1, BASE), name(1, BASE + u64::from(SIZE))]
}

/// A writer that has filled a segment and a half with records of this length, made of one byte. One of them
/// crosses into the second segment.
fn history(len: usize, byte: u8) -> Writer {
    let mut writer = Writer::new(8192, BASE);
    fill(&mut writer, len, byte, WHOLE * 3 / 2);
    writer
}

fn fill(writer: &mut Writer, len: usize, byte: u8, until: usize) {
    while writer.bytes.len() < until {
        writer.record(10, 0, &vec![byte; len]);
    }
}

/// The two segments of a history, the second one padded with zeros.
fn both(mut writer: Writer) -> [Vec<u8>; 2] {
    writer.pad();
    [writer.bytes[..WHOLE].to_vec(), writer.bytes[WHOLE..2 * WHOLE].to_vec()]
}

/// Archives through a new pool's seam.
fn arrive(world: &World, name: &str, segment: &[u8]) -> Result<Receipt, Error> {
    run(&world.plan, &world.wal(name, segment))
}

/// It is archived, and nobody says anything.
#[track_caller]
fn fits(world: &World, name: &str, segment: &[u8]) {
    let receipt = arrive(world, name, segment).unwrap_or_else(|e| panic!("{e}: {}", e.detail()));
    assert_eq!(receipt.notices, []);
}

/// It is archived, with one line that says why it could not be matched.
#[track_caller]
fn passes(world: &World, name: &str, segment: &[u8], reason: &str) {
    let receipt = arrive(world, name, segment).unwrap_or_else(|e| panic!("{e}: {}", e.detail()));
    let [notice] = &receipt.notices[..] else { panic!("{:?}", receipt.notices) };
    assert_eq!(notice.level, Level::Log);
    assert!(notice.message.contains(reason), "{}", notice.message);
    assert!(notice.message.contains(name), "{}", notice.message);
}

/// It is refused, and not in the archive. Returns the DETAIL.
#[track_caller]
fn refused(world: &World, name: &str, segment: &[u8]) -> String {
    let before = world.names();
    let error = arrive(world, name, segment).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotContinued, "{error}: {}", error.detail());
    assert_eq!(world.names(), before);
    error.detail()
}

#[test]
fn a_segment_that_continues_the_archived_one_says_nothing() {
    let [before, after] = names();
    let [first, second] = both(history(700, 1));
    for codec in CODECS {
        let mut world = world();
        world.plan.compression = compression(codec);
        // By cp, without digests; then by this module.
        let mut encoder = Encoder::new(compression(codec), SIZE.into(), Vec::new()).unwrap();
        std::io::Write::write_all(&mut encoder, &first).unwrap();
        let job = world.wal(&before, &first);
        fs::write(world.path(&job), encoder.finish().unwrap()).unwrap();
        fits(&world, &after, &second);
        fs::remove_file(world.path(&job)).unwrap();
        fs::remove_file(world.archive.join(&world.names()[0])).unwrap();
        world.init();
        world.run(&job).unwrap();
        fs::remove_file(job.source).unwrap();
        fits(&world, &name(1, BASE + u64::from(SIZE)), &second);
    }
}

/// The records of both had the same lengths: the clone's next segment lay behind the primary's, `verify` found
/// nothing, and a recovery replayed both as one history.
#[test]
fn a_clone_whose_records_have_the_same_lengths_adds_nothing_behind_the_primarys_segment() {
    let [before, after] = names();
    let world = world();
    fs::write(world.archive.join(&before), &both(history(700, 1))[0]).unwrap();
    let [_, second] = both(history(700, 2));
    for _ in 0..2 {
        let detail = refused(&world, &after, &second);
        assert!(detail.contains("incorrect resource manager data checksum"), "{detail}");
        assert!(detail.contains(&before), "{detail}");
    }
}

#[test]
fn a_clone_whose_records_have_other_lengths_adds_nothing_either() {
    let [before, after] = names();
    let mut reasons = Vec::new();
    for (ours, theirs) in [(700, 100), (100, 700), (3000, 5000), (200, 240)] {
        let world = world();
        fs::write(world.archive.join(&before), &both(history(theirs, 1))[0]).unwrap();
        let [_, second] = both(history(ours, 1));
        reasons.push(refused(&world, &after, &second));
    }
    // One that ended its segment by a switch, and one that had a record cross it; and two switches.
    let switched = |len| {
        let mut writer = Writer::new(8192, BASE);
        fill(&mut writer, len, 1, WHOLE / 2);
        writer.switch();
        fill(&mut writer, len, 1, WHOLE * 3 / 2);
        both(writer)
    };
    let ([ends, begins], [_, later]) = (switched(700), switched(300));
    let [crosses, crossed] = both(history(700, 1));
    for (theirs, ours) in [(&ends, &crossed), (&crosses, &begins), (&ends, &later)] {
        let world = world();
        fs::write(world.archive.join(&before), theirs).unwrap();
        reasons.push(refused(&world, &after, ours));
    }
    for what in ["prev-link", "contrecord length", "unexpected contrecord", "no contrecord flag"] {
        assert!(reasons.iter().any(|reason| reason.contains(what)), "{what}: {reasons:#?}");
    }
}

/// Both ended their segment by a switch, at the same address: no record shows the difference. The server's
/// own file of that name does, as long as it is there.
#[test]
fn a_clone_is_found_by_its_own_file_where_the_edges_agree() {
    let [before, after] = names();
    let world = world();
    let side = |byte| {
        let mut writer = Writer::new(8192, BASE);
        fill(&mut writer, 700, byte, WHOLE / 2);
        writer.switch();
        fill(&mut writer, 700, byte, WHOLE * 3 / 2);
        both(writer)
    };
    let ([theirs, _], [ours, second]) = (side(1), side(2));
    fs::write(world.archive.join(&before), theirs).unwrap();
    let own = world.wal(&before, &ours).source;
    let detail = refused(&world, &after, &second);
    assert!(detail.contains("this server's own"), "{detail}");
    // What was recycled shows nothing any more.
    fs::remove_file(own).unwrap();
    fits(&world, &after, &second);
}

#[test]
fn what_cannot_be_decided_is_archived_with_one_line() {
    let [before, after] = names();
    let [first, second] = both(history(700, 1));
    let foreign = &both(history(700, 9))[0];
    let edit = |at: usize, bytes: &[u8], of: &[u8]| {
        let mut edited = of.to_vec();
        edited[at..at + bytes.len()].copy_from_slice(bytes);
        edited
    };
    let short = [&first[..WHOLE - 20_000], &[0; 20_000]].concat();
    let encrypted = common::random(WHOLE, 7);
    for (stored, theirs, reason) in [
        (format!("{before}.partial"), first.clone(), "only a part of it"),
        (name(1, BASE - u64::from(SIZE)), first.clone(), "it is not in the archive"),
        (before.clone(), first[..WHOLE / 2].to_vec(), "the earlier one is damaged"),
        (before.clone(), [&first[..], &first[..]].concat(), "the earlier one is damaged"),
        (before.clone(), edit(WHOLE / 2, &[0xA5; 64], foreign), "the earlier one is damaged"),
        (before.clone(), Vec::new(), "the earlier one"),
        (format!("{before}.zst"), first.clone(), "could not read a file in the archive"),
        (before.clone(), encrypted.clone(), "no WAL of a known version"),
        (before.clone(), short, "the WAL of the earlier one ends within it"),
        // Of another segment size, and of another cluster.
        (
            before.clone(),
            edit(32, &(SIZE * 2).to_ne_bytes(), foreign),
            "the earlier one is damaged",
        ),
        (before.clone(), edit(24, &7_u64.to_ne_bytes(), foreign), "the earlier one is damaged"),
    ] {
        let world = world();
        fs::write(world.archive.join(stored), theirs).unwrap();
        passes(&world, &after, &second, reason);
    }

    // The segment itself: damaged, without a record, and encrypted but for its first header.
    for (ours, reason) in [
        (edit(WHOLE / 4, &[0xA5; 64], &second), "it is damaged"),
        ([&second[..40], &[0; WHOLE][40..]].concat(), "ends before its first record does"),
        (edit(40, &encrypted[40..], &second), "ends before its first record does"),
    ] {
        let world = world();
        fs::write(world.archive.join(&before), foreign).unwrap();
        passes(&world, &after, &ours, reason);
    }

    // After pg_resetwal.
    let mut reset = Writer { prev: 0, ..Writer::new(8192, BASE + u64::from(SIZE)) };
    fill(&mut reset, 100, 3, WHOLE / 2);
    reset.pad();
    let world_reset = world();
    fs::write(world_reset.archive.join(&before), foreign).unwrap();
    passes(&world_reset, &after, &reset.bytes, "as after pg_resetwal");

    // A pipe, and a file whose bytes are no longer those that were archived.
    let world_pipe = world();
    fs::create_dir(world_pipe.archive.join(&before)).unwrap();
    passes(&world_pipe, &after, &second, "the name is taken in the archive by a directory");
    let world_rot = world();
    let job = world_rot.wal(&before, &first);
    world_rot.run(&job).unwrap();
    fs::remove_file(&job.source).unwrap();
    fs::write(world_rot.path(&job), foreign).unwrap();
    passes(&world_rot, &after, &second, "the earlier one is damaged");

    let mut world_off = world();
    world_off.plan.check_wal = CheckWal::Off;
    fs::write(world_off.archive.join(&before), foreign).unwrap();
    passes(&world_off, &after, &second, "\"walsafe_archive.check_wal\" is \"off\"");

    // A record as long as two segments.
    let mut long = Writer::new(8192, BASE);
    long.record(10, 0, &data(3 * WHOLE));
    let world_long = world();
    fs::write(world_long.archive.join(&before), &long.bytes[..WHOLE]).unwrap();
    passes(&world_long, &after, &long.bytes[WHOLE..2 * WHOLE], "fills a whole segment");
}

/// The server's own segment before this one is the archived one: then it is this server's WAL, and damaged.
/// Damage in `pg_wal` never stops archiving.
#[test]
fn a_break_in_the_servers_own_wal_is_damage_and_not_another_history() {
    let [before, after] = names();
    let ([first, _], [_, second]) = (both(history(700, 1)), both(history(700, 2)));
    let world = world();
    fs::write(world.archive.join(&before), &first).unwrap();
    world.wal(&before, &first);
    passes(&world, &after, &second, "it is damaged");
}

#[test]
fn where_there_is_nothing_to_match_nothing_is_said() {
    let [_, after] = names();
    let [_, second] = both(history(700, 1));
    fits(&world(), &after, &second);
    let only_names = world();
    fs::write(only_names.archive.join("00000002.history"), "1\t0/200\tx\n").unwrap();
    fits(&only_names, &after, &second);
    // The first segment that there can be: initdb begins with number 1.
    let mut writer = Writer { prev: 0, ..Writer::new(8192, SIZE.into()) };
    fill(&mut writer, 700, 1, WHOLE);
    let first = world();
    fs::write(first.archive.join(&after), &second).unwrap();
    fits(&first, &name(1, SIZE.into()), &writer.bytes[..WHOLE]);
}

/// After a crash in the middle of a record that crosses, the server declares what it wrote of it void.
#[test]
fn a_record_that_the_server_declared_void_is_no_break() {
    let [before, after] = names();
    let crash = |byte: u8| {
        let mut writer = Writer::new(8192, BASE);
        fill(&mut writer, 700, byte, WHOLE - 5000);
        let room = WHOLE - writer.bytes.len();
        let aborted = writer.record_upto(10, 0, &data(20_000), room);
        writer.bytes.resize(WHOLE, 0);
        writer.overwrite(aborted);
        fill(&mut writer, 700, byte, WHOLE * 3 / 2);
        both(writer)
    };
    let [first, second] = crash(1);
    let world = world();
    fs::write(world.archive.join(&before), first).unwrap();
    fits(&world, &after, &second);
}

/// A server on a newer timeline: its first segment begins as a copy of the older timeline's, page headers
/// and all; or with a segment of its own, where the older one ended by a switch.
#[test]
fn the_first_segment_of_a_timeline_is_matched_with_its_parents() {
    let boundary = BASE + u64::from(SIZE);
    for (switch, timelines) in
        [(boundary + 100_000, [1, 1]), (boundary + 0x30, [1, 1]), (boundary, [1, 2])]
    {
        let mut parent = history(700, 1);
        if switch == boundary {
            parent = Writer::new(8192, BASE);
            fill(&mut parent, 700, 1, WHOLE / 2);
            parent.switch();
            parent.timeline = 2;
            parent.record(0, 0x90, &data(30));
            fill(&mut parent, 700, 1, WHOLE * 3 / 2);
        }
        let [first, second] = both(parent);
        assert_eq!(u32::from(second[4]), timelines[1]);
        let history = format!("1\t{}\tno recovery target specified\n", Lsn(switch));
        for (theirs, is_ours) in [(&first, true), (&both(self::history(90, 5))[0], false)] {
            let world = world();
            fs::write(world.archive.join(name(1, BASE)), theirs).unwrap();
            world.wal("00000002.history", history.as_bytes());
            if is_ours {
                fits(&world, &name(2, boundary), &second);
            } else {
                refused(&world, &name(2, boundary), &second);
            }
        }
    }
}

/// Each later segment stands behind one that this pool has put there: nothing is read for it, and nothing
/// said. What this pool has not archived is looked at again.
#[test]
fn one_segment_is_read_for_each_start() {
    let mut writer = Writer::new(8192, BASE);
    fill(&mut writer, 700, 1, 5 * WHOLE + 10_000);
    let at = |n: u64| name(1, BASE + n * u64::from(SIZE));
    let segment = |n: usize| &writer.bytes[n * WHOLE..(n + 1) * WHOLE];
    let (world, seam) = (world(), Seam::default());
    let archive = |n: usize| {
        let job: Job = world.wal(&at(n as u64), segment(n));
        let (mut buffer, progress) = (Buffer::new().unwrap(), Progress::default());
        let store = world.plan.store();
        let result = archive_file(&world.plan, &*store, &seam, &job, &mut buffer, &progress);
        fs::remove_file(&job.source).unwrap();
        result
    };
    for n in 0..3 {
        assert_eq!(archive(n).unwrap().notices, []);
        if n > 0 {
            fs::remove_file(world.archive.join(at(n as u64 - 1))).unwrap();
        }
    }
    // Somebody marked the next one as archived by hand, and the archive has another server's.
    fs::write(world.archive.join(at(3)), &both(history(700, 2))[0]).unwrap();
    assert_eq!(archive(3).unwrap_err().kind(), ErrorKind::Conflict);
    let theirs = {
        let mut theirs = Writer::new(8192, BASE);
        fill(&mut theirs, 700, 2, 5 * WHOLE + 10_000);
        theirs.bytes[3 * WHOLE..4 * WHOLE].to_vec()
    };
    fs::write(world.archive.join(at(3)), theirs).unwrap();
    for _ in 0..2 {
        assert_eq!(archive(4).unwrap_err().kind(), ErrorKind::NotContinued);
    }
}
