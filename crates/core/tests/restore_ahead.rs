//! Segments that are fetched before the server asks for them: what counts in a spool, and what does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;
#[path = "common/pools.rs"]
mod pools;
#[path = "common/restores.rs"]
mod restores;
mod wal_support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use pools::wait_until;
use restores::origins;
use wal_support::{SYSID, Writer, data};
use walsafe_core::encoding::digest::Digest;
use walsafe_core::restore::Round;
use walsafe_core::restore::spool::{Fetcher, Given, Key, Source, Spool, SpoolError, Way, follows};
use walsafe_core::store::Progress;
use walsafe_core::wal::SegmentSize;
use walsafe_core::wal::name::SegmentName;

fn number(n: u32) -> SegmentName {
    SegmentName { timeline: 1, log: 0, segment: n }
}

fn key(server: &str) -> Key {
    let (server, data_directory) = (server.to_owned(), "1:2".to_owned());
    Key { server, data_directory, archives: Digest::of(b"/mnt/archive") }
}

/// An archive with whole segments, the last of which ends early, and the data directory of a server.
struct Place {
    world: World,
    segments: Vec<Vec<u8>>,
    data: PathBuf,
}

impl Place {
    fn new() -> Self {
        let mut world = World::new();
        world.plan.cluster.system_identifier = SYSID;
        world.init();
        world.be_on(1);
        let mut writer = Writer::new(8192, SEGMENT as u64);
        while writer.segments().len() < 6 {
            writer.record(0, 0x20, &data(4000));
        }
        writer.pad();
        let segments: Vec<_> = writer.segments().iter().map(|bytes| bytes.to_vec()).collect();
        for (at, bytes) in segments.iter().enumerate() {
            world.run(&world.wal(&number(at as u32 + 1).to_string(), bytes)).unwrap();
        }
        fs::remove_dir_all(&world.pg_wal).unwrap();
        fs::create_dir(&world.pg_wal).unwrap();
        let data = world.root.path().join("data");
        Self { world, segments, data }
    }

    fn path(&self) -> PathBuf {
        self.world.pg_wal.join(".walsafe-spool")
    }

    fn open(&self, key: &Key) -> Result<Spool, SpoolError> {
        Spool::open(&self.path(), &self.world.pg_wal, key, || Way::Process)
    }

    fn fetcher(&self, key: &Key, ahead: u32) -> Arc<Fetcher> {
        let source = Source {
            archives: origins(std::slice::from_ref(&self.world.archive)),
            data_directory: self.data.clone(),
            allow_unmarked: false,
            allow_unchecked: false,
            goes_to_end: true,
            failed: Box::new(Vec::new),
        };
        Arc::new(Fetcher::new(source, self.open(key).unwrap(), ahead, ahead).unwrap())
    }

    /// Fetches what comes behind a segment, and waits for it.
    fn fetch_behind(&self, key: &Key, segment: u32, ahead: u32) -> Spool {
        let fetcher = self.fetcher(key, ahead);
        fetcher.delivered(number(segment));
        fetcher.start().unwrap();
        fetcher.wait(Duration::from_secs(60));
        fetcher.stop();
        wait_until("nothing is fetched", || !fetcher.is_busy());
        self.open(key).unwrap()
    }

    fn target(&self) -> PathBuf {
        self.world.pg_wal.join("RECOVERYXLOG")
    }

    fn take(&self, spool: &Spool, segment: u32) -> Option<Given> {
        let (steps, round) = (Progress::default(), Round::default());
        spool.take(number(segment), &self.target(), &steps, &round).unwrap()
    }

    /// What is in the spool, by the numbers of the segments that count.
    fn here(&self, spool: &Spool) -> Vec<u32> {
        (0..20).filter(|n| spool.has(number(*n))).collect()
    }
}

#[test]
fn what_was_fetched_is_delivered_by_a_rename_and_once() {
    let place = Place::new();
    let spool = place.fetch_behind(&key("1 100"), 1, 3);
    assert_eq!(place.here(&spool), [2, 3, 4]);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let fetched = inode(&place.path().join(number(2).to_string()));
    let given = place.take(&spool, 2).unwrap();
    assert_eq!(given.from, place.world.archive);
    assert!(given.fetched_ahead && given.created.is_some());
    assert_eq!(inode(&place.target()), fetched);
    assert!(fs::read(place.target()).unwrap() == place.segments[1]);
    assert_eq!(place.here(&spool), [3, 4]);
    assert_eq!(place.take(&spool, 2), None);
    // What is behind is not wanted any more once another one was delivered.
    let spool = place.fetch_behind(&key("1 100"), 3, 2);
    assert_eq!(place.here(&spool), [4, 5]);
    spool.remove_all();
    assert!(!place.path().exists());
}

/// Where WAL ends early, that may be the end or damage, and what shows which may come any moment.
#[test]
fn what_ends_early_or_is_not_there_or_damaged_is_left_to_the_call() {
    let place = Place::new();
    let damaged = place.world.archive.join(number(4).to_string());
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[SEGMENT / 2] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let spool = place.fetch_behind(&key("1 100"), 1, 8);
    // What is behind it may have been on its way already.
    assert_eq!(place.here(&spool).into_iter().filter(|n| *n < 5).collect::<Vec<_>>(), [2, 3]);
    assert!(!place.path().join(number(4).to_string()).exists());
    let said = spool.take_complaint().unwrap();
    assert!(said.contains("000000010000000000000004"), "{said}");
    assert_eq!(spool.take_complaint(), None);
    // The last one ends early, and there is none behind it.
    let spool = place.fetch_behind(&key("1 100"), 4, 8);
    assert_eq!(place.here(&spool), [5]);
    assert!(!place.path().join(number(6).to_string()).exists());
    assert_eq!(spool.take_complaint(), None);
}

#[test]
fn a_file_counts_only_as_it_was_noted() {
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 8] = [
        ("flipped", |file, _| {
            let mut bytes = fs::read(file).unwrap();
            bytes[70_000] ^= 1;
            fs::write(file, bytes).unwrap();
        }),
        ("cut", |file, _| {
            fs::File::options().write(true).open(file).unwrap().set_len(8192).unwrap()
        }),
        ("longer", |file, _| {
            fs::File::options().write(true).open(file).unwrap().set_len(2 << 20).unwrap()
        }),
        ("a link", |file, _| {
            let elsewhere = file.parent().unwrap().with_file_name("elsewhere");
            fs::rename(file, &elsewhere).unwrap();
            symlink(elsewhere, file).unwrap();
        }),
        ("has another name", |file, _| {
            fs::hard_link(file, file.parent().unwrap().with_file_name("second")).unwrap()
        }),
        ("a directory", |file, _| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
        ("its note is another's", |file, note| {
            fs::copy(file.with_file_name(format!("{}.note", number(3))), note).map(drop).unwrap()
        }),
        ("its note is cut", |_, note| {
            let text = fs::read_to_string(note).unwrap();
            fs::write(note, &text[..text.len() / 2]).unwrap();
        }),
    ];
    for (what, change) in changes {
        let place = Place::new();
        let spool = place.fetch_behind(&key("1 100"), 1, 2);
        let file = place.path().join(number(2).to_string());
        change(&file, &place.path().join(format!("{}.note", number(2))));
        assert_eq!(place.take(&spool, 2), None, "{what}");
        assert!(!place.target().exists(), "{what}");
        assert_eq!(place.here(&spool), [3], "{what}");
        assert!(place.take(&spool, 3).is_some(), "{what}");
        // It is fetched again, but for what cannot be removed.
        if what != "a directory" {
            let spool = place.fetch_behind(&key("1 100"), 1, 2);
            assert!(place.take(&spool, 2).is_some(), "{what}");
            assert!(fs::read(place.target()).unwrap() == place.segments[1]);
        }
    }
}

/// A round that was given up delivers nothing any more: a later one may have.
#[test]
fn a_round_that_was_given_up_delivers_nothing() {
    let place = Place::new();
    let spool = place.fetch_behind(&key("1 100"), 1, 2);
    let round = Round::default();
    assert!(round.give_up());
    let taken = spool.take(number(2), &place.target(), &Progress::default(), &round).unwrap();
    assert_eq!((taken, place.here(&spool)), (None, vec![2, 3]));
}

#[test]
fn a_spool_is_emptied_for_another_recovery_and_refused_while_it_is_in_use() {
    let place = Place::new();
    let spool = place.fetch_behind(&key("1 100"), 1, 2);
    spool.note_asked(number(1)).unwrap();
    assert_eq!(spool.asked().unwrap().0, number(1));
    // The same number, and another start.
    assert!(spool.lock().unwrap());
    let elsewhere = Key { data_directory: "1:3".to_owned(), ..key("1 100") };
    let other = place.open(&elsewhere);
    assert!(matches!(other, Err(SpoolError::InUse { .. })), "{other:?}");
    assert!(spool.is_of(&key("1 100")) && spool.is_locked());
    // Who fetches for an earlier start of the same server is asked to leave, and had the lock for a minute.
    for _ in 0..2 {
        let other = place.open(&key("1 200"));
        assert!(matches!(other, Err(SpoolError::BeingLeft { .. })), "{other:?}");
        assert!(!spool.is_of(&key("1 100")) && spool.is_locked());
    }
    drop(spool);
    let spool = place.open(&key("1 200")).unwrap();
    assert_eq!((place.here(&spool), spool.asked()), (vec![], None));
    // Nor is it taken from calls that have just used it, and hold no lock in between.
    spool.note_asked(number(1)).unwrap();
    assert!(matches!(place.open(&elsewhere), Err(SpoolError::InUse { .. })));
    assert!(!spool.is_locked(), "who fetches is to have the lock");
    // The way is found out once.
    let again = Spool::open(&place.path(), &place.world.pg_wal, &key("1 200"), || Way::Calls);
    assert_eq!(again.unwrap().way(), Way::Process);
    let archives = Key { archives: Digest::of(b"/mnt/other"), ..key("1 200") };
    assert!(!spool.is_of(&archives));
}

/// Another archive in the same place: the files of the first are no use for it.
#[test]
fn what_comes_from_an_archive_that_was_begun_anew_is_forgotten() {
    let place = Place::new();
    let spool = place.fetch_behind(&key("1 100"), 1, 2);
    let id = place.world.archive.join("walsafe_archive.id");
    let text = fs::read_to_string(&id).unwrap();
    let anew: String = text
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some(("created", _)) => "created = 2030-01-01T00:00:00Z\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    fs::remove_file(&id).unwrap();
    fs::write(&id, anew).unwrap();
    assert_eq!(place.here(&spool), [2, 3]);
    let spool = place.fetch_behind(&key("1 100"), 1, 3);
    assert_eq!(place.here(&spool), [4], "what was there is fetched again when it is asked for");
}

#[test]
fn a_spool_that_others_can_use_is_not_used() {
    let place = Place::new();
    let (path, pg_wal) = (place.path(), &place.world.pg_wal);
    let reason = || match place.open(&key("1 100")) {
        Err(SpoolError::Unsafe { reason, .. }) => reason,
        other => format!("{other:?}").leak(),
    };
    for mode in [0o770, 0o750, 0o701, 0o777] {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(reason(), "others than its owner may use it (its mode must be 0700)");
        fs::remove_dir(&path).unwrap();
    }
    let elsewhere = place.world.root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert_eq!(reason(), "it is a symbolic link");
    assert_eq!(names(&elsewhere), Vec::<String>::new());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(reason(), "it is not a directory");
    fs::remove_file(&path).unwrap();
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let other = Spool::open(&shm.path().join("spool"), pg_wal, &key("1 100"), || Way::Calls);
    assert!(
        matches!(
            other,
            Err(SpoolError::Unsafe { reason: "it is not on the file system of pg_wal", .. })
        ),
        "{other:?}"
    );
    // Somebody else could put another directory in its place.
    let open_to_all = place.world.root.path().join("open");
    fs::create_dir(&open_to_all).unwrap();
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
    let other = Spool::open(&open_to_all.join("spool"), pg_wal, &key("1 100"), || Way::Calls);
    assert!(matches!(other, Err(SpoolError::Unsafe { .. })), "{other:?}");
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o1777)).unwrap();
    let other = Spool::open(&open_to_all.join("spool"), pg_wal, &key("1 100"), || Way::Calls);
    assert!(other.is_ok(), "{other:?}");
    // Belongs to another user, or lies in a directory that does: as root, such ones can be made.
    let others = place.world.root.path().join("others");
    fs::create_dir(&others).unwrap();
    if std::os::unix::fs::chown(&others, Some(65534), None).is_ok() {
        let other = Spool::open(&others.join("spool"), pg_wal, &key("1 100"), || Way::Calls);
        assert!(matches!(other, Err(SpoolError::Unsafe { .. })), "{other:?}");
    }
    if std::os::unix::fs::chown(&elsewhere, Some(65534), None).is_ok() {
        fs::rename(&elsewhere, &path).unwrap();
        assert_eq!(reason(), "it belongs to another user");
    }
}

/// `--spool` with the name of an archive, of pg_wal or of the data directory emptied it.
#[test]
fn a_directory_that_holds_anything_else_is_no_spool_and_stays_as_it_is() {
    let place = Place::new();
    let (path, segment) = (place.path(), number(2).to_string());
    let note = format!("{segment}.note");
    let layouts: [&[&str]; 6] = [
        &["postgresql.auto.conf"],
        &[&segment],
        &[&segment, "errors"],
        &[&segment, &note, "key", "walsafe.json"],
        &[&segment, "00000002.history"],
        &["key", "base/1"],
    ];
    for layout in layouts {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        for name in layout {
            fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
            fs::write(path.join(name), "mine").unwrap();
        }
        let there = names(&path);
        let opened = place.open(&key("1 100"));
        let reason = "it holds files that are not a spool's, and a spool is emptied";
        assert!(
            matches!(opened, Err(SpoolError::Unsafe { reason: said, .. }) if said == reason),
            "{layout:?}: {opened:?}"
        );
        Spool::discard(&path, &place.world.pg_wal);
        assert_eq!(names(&path), there, "{layout:?}");
        fs::remove_dir_all(&path).unwrap();
    }
    // One whose key is gone, as it stands while it is left.
    let spool = place.fetch_behind(&key("1 100"), 1, 2);
    fs::remove_file(path.join("key")).unwrap();
    drop(spool);
    let spool = place.open(&key("1 100")).unwrap();
    assert_eq!((place.here(&spool), names(&path)), (vec![], vec!["key".to_owned()]));
}

/// What a process that was killed left half done.
#[test]
fn what_was_half_done_is_removed_and_does_not_count() {
    let place = Place::new();
    let spool = place.open(&key("1 100")).unwrap();
    let name = number(2).to_string();
    let temporary =
        |name: &str| format!(".walsafe.{name}.{}.999999999.1.tmp", walsafe_core::sys::host_name());
    let note = format!("{name}.note");
    let half = [name.clone(), format!("{name}.coming"), temporary(&note), temporary(&name)];
    half.iter().for_each(|name| fs::write(place.path().join(name), "half").unwrap());
    // Nobody fetches it, whatever is said.
    let begun = std::time::Instant::now();
    assert_eq!(place.take(&spool, 2), None);
    assert!(begun.elapsed() < Duration::from_secs(4));
    let _fetcher = place.fetcher(&key("1 100"), 1);
    assert_eq!(names(&place.path()), ["key"]);
}

/// Two recoveries with one spool: the check whose it is and the delivery are not one step.
#[test]
fn a_note_of_another_recovery_does_not_count() {
    let place = Place::new();
    let spool = place.fetch_behind(&key("1 100"), 1, 2);
    // Its owner has not noticed yet that it is another's now.
    let other = place.fetch_behind(&key("1 200"), 1, 2);
    assert_eq!((place.here(&spool), place.here(&other)), (vec![], vec![2, 3]));
    assert_eq!(place.take(&spool, 2), None);
    assert!(!spool.is_of(&key("1 100")));
}

/// A spool that is left behind, after a helper was killed for example.
#[test]
fn a_spool_that_nobody_uses_is_discarded_and_one_in_use_is_not() {
    let place = Place::new();
    let spool = place.fetch_behind(&key("1 100"), 1, 2);
    assert!(spool.lock().unwrap());
    Spool::discard(&place.path(), &place.world.pg_wal);
    assert_eq!(place.here(&spool), [2, 3]);
    drop(spool);
    Spool::discard(&place.path(), &place.world.pg_wal);
    assert!(!place.path().exists());
    Spool::discard(&place.path(), &place.world.pg_wal);
    assert!(!place.path().exists(), "it is not made");
}

/// A call waits for what is on its way, as long as more of it comes.
#[test]
fn a_call_waits_for_a_segment_that_is_coming() {
    let place = Place::new();
    let fetching = place.fetch_behind(&key("1 100"), 1, 1);
    let spool = place.open(&key("1 100")).unwrap();
    assert!(fetching.lock().unwrap());
    let [note, late, coming] =
        ["note", "late", "coming"].map(|end| place.path().join(format!("{}.{end}", number(2))));
    fs::rename(&note, &late).unwrap();
    fs::write(&coming, "").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            fs::rename(&late, &note).unwrap();
        });
        assert!(place.take(&spool, 2).is_some());
    });
}

#[test]
fn fetching_ahead_begins_where_one_segment_follows_another_at_once() {
    let size = SegmentSize::DEFAULT;
    let now = std::time::SystemTime::now();
    let other = SegmentName { timeline: 2, ..number(5) };
    for (last, segment, expected) in [
        (None, number(5), false),
        (Some((number(4), now)), number(5), true),
        // At a switch of the timeline too.
        (Some((number(4), now)), other, true),
        (Some((number(5), now)), number(5), false),
        (Some((number(3), now)), number(5), false),
        (Some((number(4), now - Duration::from_secs(61))), number(5), false),
        (Some((number(0xFF), now)), SegmentName { timeline: 1, log: 1, segment: 0 }, true),
    ] {
        assert_eq!(follows(last, segment, size), expected, "{last:?} {segment}");
    }
}
