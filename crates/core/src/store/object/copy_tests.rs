//! Copies from a directory into a bucket, from one bucket into another, and back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::fake::{Break, Fake};
use super::tests::{World, world};
use crate::encoding::codec::Codec;
use crate::encoding::digest::{CONTENT_ATTRIBUTE, Digest, STORED_ATTRIBUTE};
use crate::error::ErrorKind;
use crate::server::settings::{CheckWal, FileMode};
use crate::store::admission;
use crate::store::directory::Directory;
use crate::store::identity::{self, Identity};
use crate::store::{Digests, Progress, Seal, Store, StoredName};
use crate::sys::buffer::{Buffer, CHUNK};
use crate::transfer::{Copied, CopyError, Known, Stop, Way, copy, lag};
use crate::wal::SegmentSize;
use crate::wal::name::FileName;
use crate::wal::segment::Cluster;

const SEGMENT: usize = 1 << 20;

fn name(text: &str) -> StoredName {
    StoredName::new(FileName::new(text).unwrap(), Codec::None)
}

/// Puts a file into an archive, as the archiver does.
fn put(store: &dyn Store, file: &str, contents: &[u8]) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    let mut draft = visit.stage(name(file).into()).unwrap();
    let mut buffer = Buffer::new().unwrap();
    for chunk in contents.chunks(CHUNK) {
        draft.put(buffer.fill(chunk)).unwrap();
    }
    let digest = Digest::of(contents);
    let digests = Some(Digests { stored: digest, content: digest });
    let checked = Some(CheckWal::Header);
    let seal = Seal { digests, checked, mode: 0o600, flush: true, verify: false };
    draft.seal(&seal).unwrap().publish(&progress).unwrap();
}

fn history(timeline: u32) -> Vec<u8> {
    format!("1\t0/{:X}\tno reason\n", 0x0300_0000 + timeline * 8).into_bytes()
}

/// A segment of timeline 1 with a header that is right and no record: as it was archived, and damaged.
fn segment(number: u32) -> (String, Vec<u8>) {
    let header = [
        &0xD110_u16.to_ne_bytes()[..],
        &2_u16.to_ne_bytes(),
        &1_u32.to_ne_bytes(),
        &(u64::from(number) * SEGMENT as u64).to_ne_bytes(),
        &[0; 8],
        &7_u64.to_ne_bytes(),
        &(SEGMENT as u32).to_ne_bytes(),
        &8192_u32.to_ne_bytes(),
    ]
    .concat();
    let mut contents = vec![7; SEGMENT];
    contents[..header.len()].copy_from_slice(&header);
    (format!("0000000100000000{number:08X}"), contents)
}

/// An archive in a directory: history files of timelines 2 to 6, and segments 1 to 3.
struct Origin {
    dir: tempfile::TempDir,
    store: Directory,
}

impl Origin {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(".").unwrap();
        let store = Directory::at(dir.path());
        let progress = Progress::default();
        Identity::new(7).publish(&*store.visit(&progress).unwrap(), 0o600).unwrap();
        for timeline in 2..=6 {
            put(&store, &format!("{timeline:08X}.history"), &history(timeline));
        }
        for number in 1..=3 {
            let (name, contents) = segment(number);
            put(&store, &name, &contents);
        }
        Self { dir, store }
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        files(self.dir.path())
    }
}

/// What a directory has, but for the identity.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| name != identity::FILE_NAME)
        .collect();
    files.sort();
    files
}

fn run(
    source: &dyn Store,
    destination: &dyn Store,
    known: &mut Known,
) -> Result<Copied, CopyError> {
    let progress = Progress::default();
    let (mode, threads, may_begin) = (FileMode::PRIVATE, 3, true);
    let way = Way { source, destination, mode, threads, may_begin, progress: &progress };
    copy(&way, known, &mut |_| true)
}

fn once(source: &dyn Store, destination: &dyn Store) -> Copied {
    run(source, destination, &mut Known::default()).unwrap()
}

fn fake_and_world() -> (Fake, World) {
    let fake = Fake::new();
    let world = world(&fake.url("/p"), Duration::from_secs(10));
    (fake, world)
}

/// Requests that fetch contents.
fn whole_gets(fake: &Fake) -> usize {
    let with = fake.count("GET", "/p/0");
    with - fake.count_with_header("GET", "/p/0", "range")
}

#[test]
fn an_archive_goes_into_a_bucket_and_comes_back_as_it_was() {
    let origin = Origin::new();
    let (fake, world) = fake_and_world();
    let copied = once(&origin.store, &world.store);
    assert!(copied.stopped.is_none(), "{:?}", copied.stopped);
    assert_eq!((copied.files, copied.present, copied.findings.len()), (8, 0, 0));
    for (name, contents) in origin.files() {
        assert!(fake.object(&format!("p/{name}")).unwrap() == contents, "{name}");
    }
    assert_eq!(whole_gets(&fake), 0, "no object is read that was just written");
    assert_eq!(fake.count("PUT", "/p/0"), 8);

    let back = tempfile::tempdir_in(".").unwrap();
    let second = Directory::at(back.path());
    let copied = once(&world.store, &second);
    assert!(copied.stopped.is_none(), "{:?}", copied.stopped);
    assert_eq!((copied.files, copied.present), (8, 0));
    assert!(files(back.path()) == origin.files());
    let progress = Progress::default();
    let visit = second.visit(&progress).unwrap();
    let found = visit.find(&name("00000003.history").into()).unwrap().unwrap();
    let digest = Digest::of(&history(3)).to_string();
    for attribute in [STORED_ATTRIBUTE, CONTENT_ATTRIBUTE] {
        assert_eq!(found.attribute(attribute).unwrap().as_ref(), Some(&digest));
    }

    // From bucket to bucket.
    let (other, another) = fake_and_world();
    assert_eq!(once(&world.store, &another.store).files, 8);
    for (name, contents) in origin.files() {
        assert!(other.object(&format!("p/{name}")).unwrap() == contents, "{name}");
    }
}

/// A second run fetched all that the first had sent, or asked four times for each file.
#[test]
fn what_a_bucket_has_is_neither_sent_nor_fetched_again() {
    let origin = Origin::new();
    let (fake, world) = fake_and_world();
    once(&origin.store, &world.store);
    let before = (fake.count("GET", "list-type=2"), fake.count("GET", "/p/0"));
    let mut known = Known::default();
    let copied = run(&origin.store, &world.store, &mut known).unwrap();
    assert!(copied.stopped.is_none(), "{:?}", copied.stopped);
    assert_eq!((copied.files, copied.present), (0, 8));
    assert_eq!((fake.count("PUT", "/p/0"), whole_gets(&fake)), (8, 0));
    assert_eq!(fake.count("GET", "/p/0") - before.1, 8, "one byte of each");
    let lists = fake.count("GET", "list-type=2") - before.0;
    assert!(lists <= 5, "{lists} listings for 8 files");
    // What this process knows costs nothing at all.
    let before = fake.count("GET", "/bucket");
    let copied = run(&origin.store, &world.store, &mut known).unwrap();
    assert_eq!((copied.files, copied.present), (0, 0));
    assert!(fake.count("GET", "/bucket") - before <= 3, "the identity is looked at");
}

#[test]
fn other_contents_in_a_bucket_end_the_copy_there() {
    for there in ["p/00000004.history", "p/00000004.history.gz"] {
        let origin = Origin::new();
        let (fake, world) = fake_and_world();
        fake.store("p/walsafe_archive.id", Identity::new(7).to_string().as_bytes());
        fake.store(there, &history(5));
        let copied = once(&origin.store, &world.store);
        let Some(Stop::Conflict(conflict)) = &copied.stopped else { panic!("{copied:?}") };
        assert_eq!(conflict.file, name("00000004.history"));
        assert_eq!(copied.files, 2, "the two before it");
        assert_eq!(fake.object(there).unwrap(), history(5));
        assert_eq!(fake.object("p/00000005.history"), None);
        assert_eq!(fake.count("PUT", "/p/00000001"), 0);
    }
}

/// What an object carries is a hint. Its length is no less known.
#[test]
fn an_object_with_the_right_digest_and_a_wrong_length_is_read() {
    let origin = Origin::new();
    let (fake, world) = fake_and_world();
    once(&origin.store, &world.store);
    let (segment, contents) = segment(2);
    fake.change(&format!("p/{segment}"), &contents[..SEGMENT - 8192]);
    let copied = once(&origin.store, &world.store);
    let Some(Stop::Conflict(conflict)) = &copied.stopped else { panic!("{copied:?}") };
    assert_eq!((conflict.file.to_string(), conflict.kind), (segment, ErrorKind::ConflictTruncated));
}

/// The answer is lost, and the object is there: what it holds is read before it counts.
#[test]
fn a_lost_answer_counts_once_the_object_is_compared() {
    for how in [Break::DoAndRefuse(503, "SlowDown"), Break::Cut { done: true }] {
        let origin = Origin::new();
        let (fake, world) = fake_and_world();
        fake.break_next(("PUT", "/p/000000010000000000000002", how));
        let copied = once(&origin.store, &world.store);
        fake.all_broken();
        assert!(copied.stopped.is_none(), "{:?}", copied.stopped);
        assert_eq!((copied.files, copied.present), (7, 1));
        assert_eq!(whole_gets(&fake), 1);
    }
}

#[test]
fn a_source_that_is_cut_short_is_read_again() {
    let origin = Origin::new();
    let (fake, world) = fake_and_world();
    once(&origin.store, &world.store);
    let back = tempfile::tempdir_in(".").unwrap();
    for how in [Break::Short(SEGMENT / 2), Break::Flip] {
        fake.break_next(("GET", "/p/000000010000000000000002", how));
        let copied = once(&world.store, &Directory::at(back.path()));
        fake.all_broken();
        assert!(copied.stopped.is_none(), "{:?}", copied.stopped);
        let (segment, contents) = segment(2);
        let there = back.path().join(&segment);
        // A flipped bit is a finding: it may be what the storage holds.
        if there.exists() {
            assert!(fs::read(&there).unwrap() == contents);
            fs::remove_file(&there).unwrap();
        } else {
            let found = |finding: crate::prove::finding::Finding| finding.file == segment;
            assert!(copied.findings.iter().any(found));
        }
    }
    once(&world.store, &Directory::at(back.path()));
    assert!(files(back.path()) == origin.files());
}

/// What lies under the prefix is somebody's, or the bucket's other tools' own.
#[test]
fn only_a_place_that_holds_nothing_of_others_is_begun() {
    let origin = Origin::new();
    let (fake, world) = fake_and_world();
    for key in ["p/", "p/wal_$folder$", "p_$folder$", "other/x", "p2"] {
        fake.store(key, b"");
    }
    assert_eq!(once(&origin.store, &world.store).files, 8);
    for stranger in ["p/backup.tar", "p/base/1/PG_VERSION"] {
        let (fake, world) = fake_and_world();
        fake.store(stranger, b"x");
        let error = run(&origin.store, &world.store, &mut Known::default()).unwrap_err();
        let CopyError::Failed(error) = error else { panic!("{error}") };
        assert_eq!(error.kind(), ErrorKind::NotAdoptable, "{}", error.detail());
        assert_eq!(fake.count("PUT", ""), 0);
    }
}

/// What another tool has brought there counts if its segments are this cluster's, and is compared.
#[test]
fn a_bucket_that_another_tool_filled_is_taken_over() {
    let origin = Origin::new();
    let (fake, world) = fake_and_world();
    let (name, contents) = segment(1);
    fake.store(&format!("p/{name}"), &contents);
    let copied = once(&origin.store, &world.store);
    assert!(copied.stopped.is_none(), "{:?}", copied.stopped);
    assert_eq!((copied.files, copied.present), (7, 1));
    let text = String::from_utf8(fake.object("p/walsafe_archive.id").unwrap()).unwrap();
    assert!(text.contains("system_identifier = 7") && !text.contains("begins_with"), "{text}");
}

/// Everything that the storage can make go wrong, and no key in any of it.
#[test]
fn secrets_are_in_no_error_and_in_nothing_that_is_shown() {
    let origin = Origin::new();
    let mut shown = String::new();
    for how in [
        Break::Refuse(403, "AccessDenied"),
        Break::Refuse(403, "SignatureDoesNotMatch"),
        Break::Refuse(400, "ExpiredToken"),
        Break::Refuse(404, "NoSuchBucket"),
        Break::Refuse(301, "PermanentRedirect"),
        Break::Refuse(418, "hunter2"),
        Break::Refuse(500, ""),
        Break::Cut { done: false },
        Break::Hang(Duration::from_secs(2)),
    ] {
        for request in [("GET", "walsafe_archive.id"), ("GET", "list-type=2"), ("PUT", "/p/")] {
            // One of them takes its time.
            if matches!(how, Break::Hang(_)) && request.0 == "GET" {
                continue;
            }
            let fake = Fake::new();
            let world = world(&fake.url("/p"), Duration::ZERO);
            for _ in 0..4 {
                fake.break_next((request.0, request.1, how.clone()));
            }
            match run(&origin.store, &world.store, &mut Known::default()) {
                Err(CopyError::Failed(error))
                | Ok(Copied { stopped: Some(Stop::Failed(error)), .. }) => {
                    let gist = error.gist();
                    shown += &format!("{error} {error:?} {} {gist}\n", error.detail());
                }
                other => panic!("{request:?} {how:?}: {other:?}"),
            }
            shown += &format!("{:?}\n", world.store);
        }
    }
    assert!(shown.lines().count() >= 50);
    assert!(!shown.contains(super::tests::SECRET), "{shown}");
}

/// `walsafe init` marked storage that the archiver then refused.
#[test]
fn storage_that_replaces_is_not_marked_without_a_word() {
    let cluster =
        Cluster { system_identifier: 7, segment_size: SegmentSize::new(SEGMENT as u64).unwrap() };
    let (fake, world) = fake_and_world();
    fake.replace(true);
    let progress = Progress::default();
    for round in 1..=2 {
        let visit = world.store.visit(&progress).unwrap();
        let error = admission::init(&*visit, &cluster, 0o600).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConditionIgnored, "{round}: {}", error.detail());
    }
    fake.replace(false);
    let visit = world.store.visit(&progress).unwrap();
    assert!(!admission::init(&*visit, &cluster, 0o600).unwrap(), "it is marked already");
}

/// Storage that did not answer was taken to have everything: the figures said that nothing was behind.
#[test]
fn what_a_bucket_that_does_not_answer_lacks_is_told_by_what_is_known() {
    let origin = Origin::new();
    let fake = Fake::new();
    let world = world(&fake.url("/p"), Duration::ZERO);
    let progress = Progress::default();
    let (mode, threads, may_begin) = (FileMode::PRIVATE, 3, true);
    let (source, destination) = (&origin.store, &world.store);
    let way = Way { source, destination, mode, threads, may_begin, progress: &progress };
    let down = || fake.break_next(("GET", "list-type=2", Break::Refuse(503, "SlowDown")));
    down();
    assert_eq!(lag(&way, &Known::default()).unwrap(), None, "nothing is known yet");
    let mut known = Known::default();
    copy(&way, &mut known, &mut |_| true).unwrap();
    put(&origin.store, "00000007.history", &history(7));
    down();
    let behind = lag(&way, &known).unwrap().unwrap();
    assert_eq!((behind.files, behind.bytes), (1, history(7).len() as u64));
    known.doubt();
    assert_eq!(lag(&way, &known).unwrap().unwrap().files, 1, "it answers");
    // Nor did a run that could not look for what it doubted take it for done.
    down();
    let copied = copy(&way, &mut known, &mut |_| true).unwrap();
    assert!(matches!(copied.stopped, Some(Stop::Failed(_))), "{copied:?}");
    fake.remove("p/00000003.history");
    let copied = copy(&way, &mut known, &mut |_| true).unwrap();
    assert_eq!((copied.files, copied.present), (2, 0), "{copied:?}");
    fake.all_broken();
}
