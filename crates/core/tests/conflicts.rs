//! A name that is taken in the archive: the same contents, other contents, something else.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::*;
use walsafe_core::archive::Job;
use walsafe_core::encoding::codec::{Codec, Encoder};
use walsafe_core::error::{Activity, Error, ErrorKind};

/// Archives and expects a failure that leaves everything under the file's names as it was.
fn refused(world: &World, job: &Job, kind: ErrorKind) -> Error {
    let before: Vec<_> =
        world.names().iter().map(|name| still(&world.archive.join(name))).collect();
    let error = world.run(job).unwrap_err();
    // These segments hold no records, so that all of what follows their header is padding.
    let found = match error.kind() {
        ErrorKind::ConflictPadding => ErrorKind::Conflict,
        other => other,
    };
    assert_eq!(found, kind, "{error}: {}", error.detail());
    let after: Vec<_> = world.names().iter().map(|name| still(&world.archive.join(name))).collect();
    assert_eq!(before, after, "{kind:?}");
    error
}

fn encoded(codec: &str, content: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(compression(codec), content.len() as u64, Vec::new()).unwrap();
    std::io::Write::write_all(&mut encoder, content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn the_same_contents_in_any_encoding_count_as_archived_and_stay_as_they_are() {
    for staging in STAGINGS {
        for there in CODECS {
            for ours in CODECS {
                let mut world = World::new();
                world.plan.staging = staging;
                world.init();
                let job = world.segment(1, 1);
                let content = fs::read(&job.source).unwrap();
                let path = world.stored(&job, compression(there).codec);
                fs::write(&path, encoded(there, &content)).unwrap();
                let (before, names) = (still(&path), world.names());
                world.plan.compression = compression(ours);
                for _ in 0..2 {
                    let outcome = world.run(&job).unwrap();
                    assert!(outcome.already_present());
                    assert_eq!(outcome.wal_bytes, SEGMENT as u64);
                    assert_eq!(outcome.stored_bytes, taken(&path));
                    assert_eq!(outcome.content.to_string(), hex(&content));
                }
                assert_eq!(still(&path), before);
                assert_eq!(world.names(), names, "{there} there, {ours} ours");
            }
        }
    }
}

#[test]
fn other_contents_are_refused_with_sizes_offset_and_both_digests() {
    let ours = segment(1, 1, 1);
    let with = |at: usize| {
        let mut content = ours.clone();
        content[at] ^= 1;
        content
    };
    let longer = [&ours[..], b"more"].concat();
    let (truncated, other) = (ErrorKind::ConflictTruncated, ErrorKind::Conflict);
    for (theirs, first, kind) in [
        (with(0), 0, other),
        (with(40), 40, other),
        (with(SEGMENT - 1), SEGMENT - 1, other),
        (ours[..SEGMENT - 1].to_vec(), SEGMENT - 1, truncated),
        (ours[..5000].to_vec(), 5000, truncated),
        (Vec::new(), 0, truncated),
        (longer, SEGMENT, other),
        (b"something else".to_vec(), 0, other),
    ] {
        for there in CODECS {
            let mut world = World::new();
            world.init();
            let job = world.wal(&segment_name(1, 1), &ours);
            let path = world.stored(&job, compression(there).codec);
            fs::write(&path, encoded(there, &theirs)).unwrap();
            for text in ["none", "zstd"] {
                world.plan.compression = compression(text);
                let detail = refused(&world, &job, kind).detail();
                let says = format!(
                    "The archived file holds {} bytes (BLAKE3 {}), the server's file {SEGMENT} bytes (BLAKE3 {}); the first difference is at offset {first}.",
                    theirs.len(),
                    hex(&theirs),
                    hex(&ours),
                );
                assert!(detail.ends_with(&says), "{detail}");
                assert!(detail.contains(path.to_str().unwrap()), "{detail}");
                assert_eq!(detail.contains("truncated beginning"), kind == truncated, "{detail}");
            }
        }
    }
}

#[test]
fn a_damaged_encoding_is_a_conflict_of_its_own() {
    let ours = segment(1, 1, 1);
    for codec in ["lz4", "zstd", "gzip"] {
        let whole = encoded(codec, &ours);
        let mut flipped = whole.clone();
        let middle = whole.len() / 2;
        flipped[middle] ^= 1;
        let trailing = [&whole[..], b"x"].concat();
        for (what, stored) in [
            ("cut short", &whole[..whole.len() - 1]),
            ("cut in half", &whole[..middle]),
            ("empty", &[]),
            ("no such format", b"text"),
            ("flipped", &flipped),
            ("trailing", &trailing),
        ] {
            let world = World::new();
            world.init();
            let job = world.wal(&segment_name(1, 1), &ours);
            fs::write(world.stored(&job, compression(codec).codec), stored).unwrap();
            let detail = refused(&world, &job, ErrorKind::ConflictUnreadable).detail();
            assert!(detail.contains("cannot be decompressed"), "{codec} {what}: {detail}");
        }
    }
}

#[test]
fn whatever_else_stands_under_the_name_is_refused_and_never_followed() {
    for codec in Codec::ALL {
        for (what, kind) in [
            ("a directory", "directory"),
            ("a named pipe", "fifo"),
            ("a symbolic link", "dangling"),
            ("a symbolic link", "link to the same contents"),
        ] {
            let world = World::new();
            world.init();
            let job = world.segment(1, 1);
            let path = world.stored(&job, codec);
            match kind {
                "directory" => fs::create_dir(&path).unwrap(),
                "fifo" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
                "dangling" => symlink("nowhere", &path).unwrap(),
                _ => symlink(&job.source, &path).unwrap(),
            }
            let error = refused(&world, &job, ErrorKind::NotAFile);
            assert!(error.to_string().ends_with(what), "{error}");
            assert!(error.detail().contains(path.to_str().unwrap()));
            assert!(!world.archive.join("nowhere").exists());
        }
    }
}

/// Fails without the look at the inode: the contents are the same, the answer is "archived", and the server
/// recycles the segment and with it the only copy.
#[test]
fn a_hard_link_to_the_servers_own_file_is_not_a_copy() {
    let world = World::new();
    world.init();
    let job = world.segment(1, 1);
    fs::hard_link(&job.source, world.path(&job)).unwrap();
    let error = refused(&world, &job, ErrorKind::NotAFile);
    assert!(error.detail().contains("hard link"), "{}", error.detail());
    fs::remove_file(world.path(&job)).unwrap();
    world.run(&job).unwrap();
}

#[test]
fn a_history_file_with_other_contents_shows_that_its_timeline_is_taken() {
    let world = World::new();
    world.init();
    let job = world.wal("00000002.history", b"1\t0/3000000\tno recovery target specified\n");
    fs::write(world.path(&job), "1\t0/4000000\tno recovery target specified\n").unwrap();
    let error = refused(&world, &job, ErrorKind::ConflictHistory);
    assert!(error.detail().contains("already used timeline 2"), "{}", error.detail());
}

#[test]
fn a_tail_past_the_switch_of_a_timeline_is_distinguished_from_other_differences() {
    // Timeline 2 branched off timeline 1 in the middle of segment 3.
    let half = SEGMENT / 2;
    let history = format!("1\t0/{:X}\tno recovery target specified\n", 3 * SEGMENT + half);
    let ours = segment(1, 3, 1);
    let mut tail = ours.clone();
    tail[half + 9] ^= 1;
    let mut before = ours.clone();
    before[half - 1] ^= 1;
    // By the server's own history neither tail is needed. By a history that only the archive has, this
    // server's file may be the only whole one: it was told to give that up.
    let (own, foreign) = (ErrorKind::ConflictTimelineTail, ErrorKind::ConflictBranch);
    for (codec, in_archive, past_switch) in
        [("none", true, foreign), ("gzip", true, foreign), ("none", false, own)]
    {
        for (theirs, kind) in [(&tail, past_switch), (&before, ErrorKind::Conflict)] {
            let world = World::new();
            world.init();
            world.be_on(if in_archive { 1 } else { 2 });
            let job = world.wal(&segment_name(1, 3), &ours);
            let dir: &Path = if in_archive { &world.archive } else { &world.pg_wal };
            let name = if codec == "none" { "00000002.history" } else { "00000002.history.gz" };
            fs::write(dir.join(name), encoded(codec, history.as_bytes())).unwrap();
            fs::write(world.path(&job), theirs).unwrap();
            let error = refused(&world, &job, kind);
            let (detail, hint) = (error.detail(), kind.hint(Activity::Archiving));
            if kind == own {
                assert!(detail.contains("agree up to 0/380000, where timeline 2"), "{detail}");
            } else if kind == foreign {
                assert!(detail.contains("agree up to 0/380000. There timeline 2"), "{detail}");
                assert!(hint.contains("may be the only whole copy: keep it"), "{hint}");
                assert!(!hint.contains(".done"), "{hint}");
            }
        }
    }
}

/// A standby fetches the history file of each timeline that it is told to follow, and nothing removes it. Once
/// that promotion was undone, the file counted as the server's own: for a conflict behind that switch it was told
/// to mark the only whole copy as done.
#[test]
fn a_history_file_that_a_standby_once_fetched_is_not_the_servers_own() {
    let half = SEGMENT / 2;
    let switch = 3 * SEGMENT + half;
    let (ours, own_tail) = (segment(1, 3, 1), ErrorKind::ConflictTimelineTail);
    let mut theirs = ours.clone();
    theirs[half + 9] ^= 1;
    let cases = [
        // It stayed on timeline 1.
        (Some(1), vec![(2, format!("1\t0/{switch:X}\tx\n"))], None),
        // It is on timeline 3, which branched off timeline 1 later.
        (
            Some(3),
            vec![
                (2, format!("1\t0/{switch:X}\tx\n")),
                (3, format!("1\t0/{:X}\tx\n", switch + SEGMENT)),
            ],
            None,
        ),
        // Timeline 2 is its own, or an ancestor of its own.
        (Some(2), vec![(2, format!("1\t0/{switch:X}\tx\n"))], Some(2)),
        (
            Some(3),
            vec![
                (2, format!("1\t0/{switch:X}\tx\n")),
                (3, format!("1\t0/{switch:X}\tx\n2\t0/{:X}\tx\n", switch + SEGMENT)),
            ],
            Some(2),
        ),
        // Nothing says which timeline it is on.
        (None, vec![(2, format!("1\t0/{switch:X}\tx\n"))], None),
    ];
    for (timeline, histories, successor) in cases {
        let world = World::new();
        world.init();
        if let Some(timeline) = timeline {
            world.be_on(timeline);
        }
        for (timeline, text) in &histories {
            world.wal(&format!("{timeline:08X}.history"), text.as_bytes());
        }
        let job = world.wal(&segment_name(1, 3), &ours);
        fs::write(world.path(&job), &theirs).unwrap();
        let kind = successor.map_or(ErrorKind::Conflict, |_| own_tail);
        let error = refused(&world, &job, kind);
        if let Some(successor) = successor {
            let detail = error.detail();
            assert!(detail.contains(&format!("where timeline {successor}")), "{detail}");
        }
    }
}

#[test]
fn a_history_of_another_segment_or_that_nobody_understands_explains_nothing() {
    let ours = segment(1, 3, 1);
    let mut theirs = ours.clone();
    theirs[SEGMENT - 1] ^= 1;
    for history in ["1\t0/200000\tx\n", "1\t0/400000\tx\n", "what", "", "1\t0/3FFFFF0\tx\n"] {
        let world = World::new();
        world.init();
        let job = world.wal(&segment_name(1, 3), &ours);
        fs::write(world.archive.join("00000002.history"), history).unwrap();
        fs::create_dir(world.archive.join("00000003.history")).unwrap();
        fs::write(world.path(&job), &theirs).unwrap();
        refused(&world, &job, ErrorKind::Conflict);
    }
}

#[test]
fn a_conflict_in_one_encoding_counts_though_another_holds_the_same() {
    for (same, other) in [("none", "lz4"), ("zstd", "none"), ("gzip", "zstd")] {
        let world = World::new();
        world.init();
        let job = world.segment(1, 1);
        let content = fs::read(&job.source).unwrap();
        let codec = |text| compression(text).codec;
        fs::write(world.stored(&job, codec(same)), encoded(same, &content)).unwrap();
        fs::write(world.stored(&job, codec(other)), encoded(other, b"other")).unwrap();
        refused(&world, &job, ErrorKind::Conflict);
    }
}
