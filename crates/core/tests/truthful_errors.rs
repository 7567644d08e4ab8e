//! An error names what failed, and its hint fits whoever reads it.
//!
//! Each test is about a failure that used to be reported in the words of another.

#![cfg(feature = "fault-injection")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::*;
use walsafe_core::error::{Activity, Error, ErrorKind};
use walsafe_core::prove::check::{self, Check, Options, Status};
use walsafe_core::server::control::ControlFile;
use walsafe_core::server::known;
use walsafe_core::store::admission;
use walsafe_core::store::directory::temporary::Owner;
use walsafe_core::store::directory::{Directory, Staging};
use walsafe_core::store::identity::{FILE_NAME, Identity};
use walsafe_core::store::{Progress, Store};
use walsafe_core::sys;
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan};

fn fail(op: Op, skip: usize, errno: i32) -> Plan {
    Plan::new(vec![Fault { op, skip, times: 1, effect: Effect::Fail(errno) }])
}

/// It was ENOENT, made up, with "create or mount the directory".
#[test]
fn a_name_that_was_taken_and_is_free_again_has_vanished() {
    for (staging, op) in [(Staging::Unnamed, Op::LinkUnnamed), (Staging::Named, Op::Link)] {
        let mut world = World::new();
        world.init();
        world.plan.staging = staging;
        let job = world.segment(1, 1);
        let plan = fail(op, 0, libc::EEXIST);
        let error = world.run(&job).unwrap_err();
        assert_eq!(plan.hits(), 1);
        assert_eq!(error.kind(), ErrorKind::Vanished, "{staging:?}: {error}");
        assert_eq!(error.kind().sqlstate(), "58P01");
        let detail = format!("\"{}\" was there a moment ago", world.path(&job).display());
        assert!(error.detail().starts_with(&detail), "{}", error.detail());
        let hint = error.kind().hint(Activity::Archiving);
        assert!(hint.contains("removes files from the archive"), "{hint}");
    }
}

/// The same of the identity file, in `walsafe init`.
#[test]
fn an_identity_file_that_vanishes_under_init_has_vanished() {
    let world = World::new();
    let plan = fail(Op::LinkUnnamed, 0, libc::EEXIST);
    let error = init(&world.plan).unwrap_err();
    assert_eq!(plan.hits(), 1);
    assert!(matches!(&error, Error::Vanished { path } if path.ends_with(FILE_NAME)), "{error:?}");
    let hint = error.kind().hint(Activity::Checking);
    assert!(!hint.contains("Create or mount"), "{hint}");
}

/// It was "could not set the attributes of the copy", and there is no copy.
#[test]
fn an_identity_file_that_cannot_be_given_away_is_called_that() {
    let world = World::new();
    world.init();
    let (store, progress) = (Directory::at(&world.archive), Progress::default());
    let visit = store.open(&progress).unwrap();
    let plan = fail(Op::SetOwner, 0, libc::EPERM);
    let error = Identity::give_to(&visit, 12345, 12345).unwrap_err();
    assert_eq!(plan.hits(), 1);
    let text = "could not give the identity file to the user that runs the server";
    assert_eq!(error.to_string(), text);
    assert!(error.detail().contains(FILE_NAME), "{}", error.detail());
    assert_eq!(error.kind().sqlstate(), "42501");
}

/// It was published first and given away by its name afterwards: if that failed, or the machine died in
/// between, the server had an identity file that it could not read.
#[test]
fn an_identity_file_belongs_to_the_server_before_anybody_sees_it() {
    for staging in STAGINGS {
        let world = World::new();
        let owner = Owner::this_process();
        let store = Directory::new(&world.archive, owner, staging).belonging_to(12345, 54321);
        let progress = Progress::default();
        let visit = store.open(&progress).unwrap();
        let plan = fail(Op::SetOwner, 0, libc::EPERM);
        let error = admission::init(&visit, &world.plan.cluster, 0o600).unwrap_err();
        assert_eq!(plan.hits(), 1);
        assert_eq!(error.kind().sqlstate(), "42501");
        assert_eq!(fs::read_dir(&world.archive).unwrap().count(), 0, "{staging:?}");
        drop(plan);
        if sys::user() == 0 {
            assert!(admission::init(&visit, &world.plan.cluster, 0o600).unwrap());
            let there = fs::metadata(world.archive.join(FILE_NAME)).unwrap();
            assert_eq!((there.uid(), there.gid()), (12345, 54321));
            assert_eq!(there.permissions().mode() & 0o777, 0o600);
        }
    }
}

/// Whoever may write into the archive could put any file of the system under the name, for root to give away.
#[test]
fn a_file_with_another_name_is_not_given_away() {
    let world = World::new();
    world.init();
    let (store, progress) = (Directory::at(&world.archive), Progress::default());
    let visit = store.open(&progress).unwrap();
    fs::hard_link(world.archive.join(FILE_NAME), world.root.path().join("elsewhere")).unwrap();
    let error = Identity::give_to(&visit, 12345, 12345).unwrap_err();
    assert!(matches!(error, Error::BadIdentity { .. }), "{error:?}");
    fs::remove_file(world.archive.join(FILE_NAME)).unwrap();
    fs::write(world.archive.join(FILE_NAME), "root:secret").unwrap();
    let error = Identity::give_to(&visit, 12345, 12345).unwrap_err();
    assert!(matches!(error, Error::BadIdentity { .. }), "{error:?}");
    let owner = fs::metadata(world.archive.join(FILE_NAME)).unwrap().uid();
    assert_eq!(owner, sys::user());
}

/// The owner was shown and compared with nobody.
#[test]
fn an_archive_or_an_identity_file_of_a_third_user_is_an_error() {
    if sys::user() != 0 {
        return; // nobody else gives files away
    }
    let world = World::new();
    world.init();
    let data = world.pg_wal.parent().unwrap();
    fs::write(data.join("PG_VERSION"), "15\n").unwrap();
    let (server, other) = (12345, 12346);
    let give = |path: &Path, user| std::os::unix::fs::chown(path, Some(user), None).unwrap();
    let file = world.archive.join(FILE_NAME);
    fs::set_permissions(&world.archive, Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    give(&data.join("PG_VERSION"), server);
    for (directory, identity, status, says) in [
        (server, server, Status::Ok, ""),
        (0, server, Status::Ok, ""),
        (other, server, Status::Error, "it belongs to neither the server's user (12345) nor root"),
        (server, other, Status::Error, "belongs to user 12346"),
        (server, 0, Status::Error, "cannot read it"),
    ] {
        give(&world.archive, directory);
        give(&file, identity);
        let check = checked(&world, "ownership");
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.detail.contains(says), "{check:?}");
        assert_eq!(check.detail.contains("Run \"chown 12345 "), status == Status::Error);
    }
    // Root runs no server, so without a data directory nobody knows its user.
    give(&world.archive, other);
    let checks = check::check(&Directory::at(&world.archive), &Options::default());
    let check = checks.into_iter().find(|check| check.name == "ownership").unwrap();
    assert_eq!(check.status, Status::Ok, "{check:?}");
}

/// A file that was gone could not "be flushed", and the advice was to mount its directory.
#[test]
fn an_identity_file_that_is_gone_at_its_flush_has_vanished() {
    let world = World::new();
    let (store, progress) = (Directory::at(&world.archive), Progress::default());
    let error = Identity::settle(&*store.visit(&progress).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), Error::Vanished { path: "x".into() }.to_string());
    assert_eq!(error.kind(), ErrorKind::Vanished);
}

/// It was "could not read" for a file that was read, with a made-up error of the system.
#[test]
fn a_damaged_control_file_was_read_and_is_not_understood() {
    let world = World::new();
    let data = world.pg_wal.parent().unwrap();
    fs::create_dir_all(data.join("global")).unwrap();
    fs::write(data.join("global/pg_control"), [1; 8192]).unwrap();
    let error = ControlFile::read(data).unwrap_err();
    assert_eq!(error.to_string(), "the control file cannot be understood");
    assert!(error.detail().ends_with("its checksum is wrong."), "{}", error.detail());
    assert_eq!(error.kind().sqlstate(), "XX001");
}

/// Runs the checks, and returns the one of this name.
fn checked(world: &World, name: &str) -> Check {
    let data = world.pg_wal.parent().unwrap();
    let options = Options { data_directory: Some(data), ..Options::default() };
    let checks = check::check(&Directory::at(&world.archive), &options);
    checks.into_iter().find(|check| check.name == name).unwrap()
}

/// Each was "could not open the archive directory", "set the attributes of the copy" or "flush the copy to
/// storage", and said to whoever ran the check that archiving goes on by itself.
#[test]
fn a_check_that_cannot_be_made_says_what_failed() {
    for (name, op, errno, text) in [
        (
            "free space",
            Op::FileSystem,
            libc::EIO,
            "read the free space of the archive's file system",
        ),
        ("unnamed temporary files", Op::CreateUnnamed, libc::EIO, "create a temporary file"),
        ("extended attributes", Op::CreateUnnamed, libc::ENOSPC, "create a temporary file"),
        ("extended attributes", Op::SetAttribute, libc::EIO, "set an attribute of a probe file"),
        ("flush latency", Op::CreateUnnamed, libc::EROFS, "create a temporary file"),
        ("flush latency", Op::Write, libc::EDQUOT, "write a probe file in the archive"),
        ("flush latency", Op::Flush, libc::EIO, "flush a probe file"),
        ("flush latency", Op::FlushDirectory, libc::EIO, "flush the archive directory"),
    ] {
        let world = World::new();
        world.init();
        let plan = Plan::new(Vec::new());
        checked(&world, name);
        let calls = plan.calls().iter().filter(|call| **call == op).count();
        drop(plan);
        // Which of the calls is this check's depends on the file system.
        let found = (0..calls).find_map(|skip| {
            let _plan = fail(op, skip, errno);
            Some(checked(&world, name))
                .filter(|check| check.detail.contains(&format!("(os error {errno})")))
        });
        let check = found.unwrap_or_else(|| panic!("{name}: no call of {op:?} fails it"));
        assert_eq!(check.status, Status::Error, "{name}: {}", check.detail);
        let expected = format!("could not {text}");
        assert!(check.detail.starts_with(&expected), "{expected}: {}", check.detail);
        assert!(!check.detail.contains("Archiving"), "{}", check.detail);
    }
}

/// A probe that stays behind is reported as one that cannot be removed.
#[test]
fn a_probe_that_cannot_be_removed_is_called_that() {
    let world = World::new();
    world.init();
    let always = |op, errno| Fault { op, skip: 0, times: usize::MAX, effect: Effect::Fail(errno) };
    let unnamed = always(Op::CreateUnnamed, libc::EOPNOTSUPP);
    let plan = Plan::new(vec![unnamed, always(Op::Unlink, libc::EIO)]);
    let check = checked(&world, "extended attributes");
    drop(plan);
    assert!(check.detail.starts_with("could not remove a probe file"), "{}", check.detail);
}

/// It was taken for a list that does not name the archive: an archive that has lost its identity file
/// was a mere warning.
#[test]
fn a_list_of_destinations_that_cannot_be_read_fails_the_check_of_the_identity() {
    let world = World::new();
    let data = world.pg_wal.parent().unwrap();
    fs::create_dir_all(data.join("global")).unwrap();
    fs::write(data.join("global/pg_control"), control(OURS)).unwrap();
    let check = checked(&world, "identity");
    assert_eq!(check.detail, "empty, becomes this cluster's archive with the first file");
    fs::create_dir(data.join(known::FILE_NAME)).unwrap();
    let check = checked(&world, "identity");
    assert_eq!(check.status, Status::Error, "{}", check.detail);
    assert!(check.detail.starts_with("could not read the list of archive directories"));
}

/// A control file as 15 writes it.
fn control(system_identifier: u64) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, field: &[u8]| {
        bytes.get_mut(at..at + field.len()).unwrap().copy_from_slice(field);
    };
    put(0, &system_identifier.to_ne_bytes());
    put(8, &1300_u32.to_ne_bytes());
    put(228, &(SEGMENT as u32).to_ne_bytes());
    let crc = crc32c::crc32c(bytes.get(..288).unwrap());
    bytes.get_mut(288..292).unwrap().copy_from_slice(&crc.to_ne_bytes());
    bytes
}
