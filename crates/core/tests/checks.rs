//! What `walsafe check` and `walsafe_archive_check()` make of an archive, where that depends on when they look
//! and on what they may do.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use common::*;
use walsafe_core::error::ErrorKind;
use walsafe_core::prove::check::{self, Check, Options, Status};
use walsafe_core::prove::examine::Expectation;
use walsafe_core::prove::read_back::{ReadBack, read_back};
use walsafe_core::store::directory::Directory;
use walsafe_core::store::directory::temporary::Owner;
use walsafe_core::wal::name::FileName;

fn row(world: &World, name: &str, options: &Options<'_>) -> Check {
    let checks = check::check(&Directory::at(&world.archive), options);
    checks.into_iter().find(|check| check.name == name).unwrap()
}

/// An archive that has the segments 1 and 3.
fn with_a_gap() -> World {
    let world = World::new();
    world.init();
    for n in [1, 3] {
        world.run(&world.segment(n, 1)).unwrap();
    }
    world
}

/// If one look were enough, every check of an archive that is being written to could warn.
#[test]
fn a_gap_that_is_filled_between_two_looks_is_none() {
    let world = with_a_gap();
    let missing = world.archive.join(segment_name(1, 2));
    let contents = segment(1, 2, 1);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            fs::write(&missing, &contents).unwrap();
        });
        row(&world, "contents", &Options { read_only: true, ..Options::default() })
    });
    assert_eq!(found.status, Status::Ok, "{found:?}");
    fs::remove_file(missing).unwrap();
    let found = row(&world, "contents", &Options::default());
    assert!(found.status == Status::Warning && found.detail.contains("1 missing"), "{found:?}");
}

/// Otherwise a session that was cancelled would keep its thread for as long as an archive is slow.
#[test]
fn a_check_that_nobody_waits_for_does_not_look_twice() {
    let world = with_a_gap();
    let cancelled = AtomicBool::new(true);
    let options = Options { cancelled: Some(&cancelled), ..Options::default() };
    let found = row(&world, "contents", &options);
    assert!(found.status == Status::Error && !found.detail.contains("missing"), "{found:?}");
}

/// "becomes this cluster's archive" is said only where that is true.
#[test]
fn a_directory_without_identity_is_no_new_archive_unless_it_is_empty_and_may_be_written() {
    const EMPTY: &str = "empty, becomes this cluster's archive with the first file";
    let found = |options: &dyn Fn(&mut Options<'_>), prepare: &dyn Fn(&World)| {
        let world = World::new();
        world.be_on(1);
        prepare(&world);
        let data = world.root.path().join("data");
        let mut all = Options { data_directory: Some(&data), ..Options::default() };
        options(&mut all);
        let found = row(&world, "identity", &all);
        (found.status, found.detail == EMPTY)
    };
    let put =
        |name: &'static str| move |world: &World| fs::write(world.archive.join(name), "x").unwrap();
    let nothing = |_: &World| ();
    assert_eq!(found(&|_| (), &nothing), (Status::Ok, true));
    assert_eq!(found(&|o| o.data_directory = None, &nothing), (Status::Warning, false));
    assert_eq!(found(&|o| o.read_only = true, &nothing), (Status::Error, false));
    assert_eq!(found(&|_| (), &put("notes.txt")), (Status::Warning, false));
    assert_eq!(found(&|_| (), &put("000000010000000000000001")), (Status::Warning, false));
}

/// A check that is to write nothing removes nothing either, whatever else it is asked for.
#[test]
fn what_a_host_left_is_told_of_and_removed_only_by_a_check_that_may_write() {
    let world = World::new();
    world.init();
    let left = Owner { host: "pod-1".to_owned(), pid: 7 }.temporary_name("left").to_string();
    let file = fs::File::create(world.archive.join(&left)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
    let options =
        |read_only, remove_stray| Options { read_only, remove_stray, ..Options::default() };
    for options in [options(false, false), options(true, true)] {
        let found = row(&world, "temporary files", &options);
        assert!(found.status == Status::Warning && found.detail.contains(&left), "{found:?}");
        assert!(world.archive.join(&left).exists());
    }
    let found = row(&world, "temporary files", &options(false, true));
    assert!(found.status == Status::Ok && found.detail.contains("1 file removed"), "{found:?}");
    assert!(!world.archive.join(&left).exists());
}

/// The end-to-end test is what an administrator relies on: what came back wrong, or cannot be looked for, is not
/// whole.
#[test]
fn what_is_read_back_is_whole_or_wrong_or_not_there_with_the_reason() {
    let (world, at_once) = (World::new(), Duration::ZERO);
    let job = world.segment(1, 1);
    world.run(&job).unwrap();
    let expected = Expectation { system_identifier: Some(OURS), ..Expectation::default() };
    let look = |name| read_back(&Directory::at(&world.archive), name, &expected, at_once, &|| true);
    let found = look(&job.name);
    assert!(matches!(found, ReadBack::Whole { by_digest: true, .. }), "{found:?}");
    let later = FileName::new(&segment_name(1, 2)).unwrap();
    assert!(matches!(look(&later), ReadBack::NotThere(None)));

    let mut bytes = fs::read(world.path(&job)).unwrap();
    bytes[SEGMENT / 2] ^= 1;
    let file = fs::File::options().write(true).open(world.path(&job)).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    drop(file);
    let found = look(&job.name);
    let told = matches!(&found, ReadBack::Wrong { reason, .. } if reason.contains("BLAKE3"));
    assert!(told, "{found:?}");

    fs::rename(&world.archive, world.root.path().join("elsewhere")).unwrap();
    let found = look(&job.name);
    let ReadBack::NotThere(Some(error)) = &found else { panic!("{found:?}") };
    assert_eq!(error.kind(), ErrorKind::DestinationMissing);
    // Nobody waits for it any more.
    let asked = Cell::new(0);
    let go_on = || {
        asked.set(asked.get() + 1);
        assert_eq!(asked.get(), 1, "it went on");
        false
    };
    let patient = Duration::from_secs(600);
    let found = read_back(&Directory::at(&world.archive), &later, &expected, patient, &go_on);
    assert!(matches!(found, ReadBack::NotThere(Some(_))), "{found:?}");
}
