//! Storage that refuses what is only good to have, or a flush of a directory: what is archived all the same,
//! what is demanded, and what is said.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use common::*;
use walsafe_core::error::{Activity, ErrorKind};
use walsafe_core::prove::check::{self, Status};
use walsafe_core::server::settings::{CheckWal, FsyncPolicy};
use walsafe_core::store::directory::Directory;
use walsafe_core::store::directory::Staging;
use walsafe_core::sys;
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan};

const ALWAYS: usize = 1_000_000;
const WITHOUT: &str = "files are archived without extended attributes";

fn always(op: Op, errno: i32) -> Plan {
    Plan::new(vec![Fault { op, skip: 0, times: ALWAYS, effect: Effect::Fail(errno) }])
}

fn an_io_error_fails_the_file(op: Op) {
    let world = World::new();
    let job = world.segment(1, 1);
    let plan = always(op, libc::EIO);
    assert_eq!(run(&world.plan, &job).unwrap_err().kind(), ErrorKind::IoError);
    drop(plan);
}

/// The identity file's directory was flushed whatever the policy, so under no policy anything was archived.
#[test]
fn a_directory_that_takes_no_flush_is_refused_under_full_and_accepted_otherwise() {
    for errno in [libc::EINVAL, libc::EOPNOTSUPP, libc::EBADF] {
        for policy in [FsyncPolicy::File, FsyncPolicy::None, FsyncPolicy::Full] {
            let mut world = World::new();
            world.plan.fsync_policy = policy;
            let job = world.segment(1, 1);
            // The identity's name is flushed when it is given and when it is read back; then comes the
            // data directory.
            let effect = Effect::Fail(errno);
            let fault = |times| vec![Fault { op: Op::FlushDirectory, skip: 0, times, effect }];
            let faults = Plan::new(fault(2));
            let result = run(&world.plan, &job);
            drop(faults);
            if policy == FsyncPolicy::Full {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NoDirectoryFlush, "{errno}");
                let hint = error.kind().hint(Activity::Archiving);
                assert!(hint.contains("\"walsafe_archive.fsync_policy\""), "{hint}");
                assert!(hint.contains("\"file\"") && hint.contains("power cut"), "{hint}");
                continue;
            }
            assert!(!result.unwrap().already_present());
            // As after a restart: what is durable is not known, and the identity is flushed anew.
            let data = world.pg_wal.parent().unwrap();
            fs::remove_file(data.join(walsafe_core::server::known::FILE_NAME)).unwrap();
            let faults = Plan::new(fault(1));
            assert!(run(&world.plan, &job).unwrap().already_present());
            assert_eq!(faults.hits(), 1, "{errno}");
            drop(faults);
        }
    }
}

/// A flush that was made and failed counts under every policy that makes it (guarantee G8).
#[test]
fn a_flush_of_the_directory_that_fails_is_an_error_under_every_policy() {
    for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
        for policy in [FsyncPolicy::File, FsyncPolicy::None, FsyncPolicy::Full] {
            let mut world = World::new();
            world.plan.fsync_policy = policy;
            let job = world.segment(1, 1);
            let plan = always(Op::FlushDirectory, errno);
            let error = run(&world.plan, &job).unwrap_err();
            drop(plan);
            assert_ne!(error.kind(), ErrorKind::NoDirectoryFlush, "{errno}");
        }
    }
}

/// All but `EOPNOTSUPP` failed the file, `ENOSPC` with advice to free space; that one said nothing.
#[test]
fn a_file_that_takes_no_attributes_is_archived_without_and_the_receipt_says_so() {
    for errno in [libc::EOPNOTSUPP, libc::EPERM, libc::EACCES, libc::EINVAL, libc::ENOSPC] {
        for staging in STAGINGS {
            let mut world = World::new();
            (world.plan.staging, world.plan.check_wal) = (staging, CheckWal::Off);
            let job = world.segment(1, 1);
            let plan = always(Op::SetAttribute, errno);
            let receipt = run(&world.plan, &job).unwrap();
            drop(plan);
            let notice = receipt.notices.iter().find(|notice| notice.message == WITHOUT).unwrap();
            assert!(notice.detail.contains(&format!("os error {errno}")), "{notice:?}");
            assert!(world.archive.join("walsafe_archive.unchecked").exists(), "{errno}");
        }
    }
    an_io_error_fails_the_file(Op::SetAttribute);
}

/// A refusal to read them was trouble with the file, for `restore` and `verify` too.
#[test]
fn attributes_that_may_not_be_read_are_none_and_an_io_error_is_trouble() {
    let temp = scratch();
    fs::write(temp.path().join("a"), "x").unwrap();
    let file = fs::File::open(temp.path().join("a")).unwrap();
    for errno in [libc::EOPNOTSUPP, libc::EPERM, libc::EACCES, libc::EINVAL] {
        let plan = always(Op::ReadAttribute, errno);
        assert_eq!(sys::attribute(&file, "user.x").unwrap(), None, "{errno}");
        drop(plan);
    }
    let plan = always(Op::ReadAttribute, libc::EIO);
    assert_eq!(sys::attribute(&file, "user.x").unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(plan);
}

/// In an append-only directory a temporary file stayed for each segment, without a word.
#[test]
fn a_temporary_file_that_cannot_be_removed_is_told_of() {
    let mut world = World::new();
    world.plan.staging = Staging::Named;
    let job = world.segment(1, 1);
    let plan = always(Op::Unlink, libc::EPERM);
    let receipt = run(&world.plan, &job).unwrap();
    drop(plan);
    let stays = receipt.notices.iter().find(|n| n.message == "temporary files stay in the archive");
    assert!(stays.unwrap().hint.contains("chattr -a"), "{stays:?}");
}

/// A probe with a name stays where names cannot be removed: three of each check did.
#[test]
fn probes_have_no_name_where_files_need_none() {
    let temp = scratch();
    let plan = Plan::new(vec![]);
    let checks = check::check(&Directory::at(temp.path()), &check::Options::default());
    let named = plan.calls().into_iter().filter(|op| *op == Op::CreateNamed).count();
    drop(plan);
    assert_eq!(named, 0);
    let flush = checks.iter().find(|check| check.name == "flush latency").unwrap();
    assert_eq!(flush.status, Status::Ok, "{flush:?}");
}

/// "57 MB of 58 MB are free", with advice to free space; and `check` said that the file system has no unnamed
/// files.
#[test]
fn a_file_system_without_inodes_is_called_that() {
    let Some(mount) = Mount::with("mkfs.ext4", "loop,nodelalloc") else {
        return skip("a file system without inodes");
    };
    let world = World::at(mount.tempdir());
    let job = world.segment(1, 1);
    let spare = world.root.path().join("spare");
    fs::create_dir(&spare).unwrap();
    let mut n = 0;
    let full = loop {
        match fs::write(spare.join(n.to_string()), "") {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let error = run(&world.plan, &job).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfInodes, "{error:?}");
    assert!(error.detail().contains("No inode is left"), "{}", error.detail());
    let checks = check::check(&Directory::at(&world.archive), &check::Options::default());
    for name in ["free space", "unnamed temporary files", "extended attributes"] {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.status, Status::Error, "{check:?}");
        assert!(check.detail.contains("inode") && !check.detail.contains("has none"), "{check:?}");
    }
    for n in 0..8 {
        fs::remove_file(spare.join(n.to_string())).unwrap();
    }
    assert!(!run(&world.plan, &job).unwrap().already_present());
}

/// `check` left three files in it each time.
#[test]
fn a_check_leaves_nothing_in_an_append_only_directory() {
    let Some(mount) = Mount::new("mkfs.ext4") else { return skip("an append-only directory") };
    let world = World::at(mount.tempdir());
    let chattr = |flag: &str| {
        let mut command = std::process::Command::new("chattr");
        assert!(command.arg(flag).arg(&world.archive).status().unwrap().success());
    };
    chattr("+a");
    let checks = check::check(&Directory::at(&world.archive), &check::Options::default());
    let left = world.names();
    let archived = run(&world.plan, &world.segment(1, 1));
    chattr("-a");
    assert_eq!(left, Vec::<String>::new());
    assert!(!archived.unwrap().already_present());
    let check = checks.iter().find(|check| check.name == "no-replace publish").unwrap();
    assert!(check.detail.contains("append-only"), "{check:?}");
    assert!(checks.iter().all(|check| check.status != Status::Error), "{checks:?}");
}

/// Nothing was archived: the identity file's `fchmod` failed. A change that was ignored was not noticed.
#[test]
fn a_permission_that_is_refused_is_done_without_and_the_receipt_says_so() {
    for errno in [libc::EPERM, libc::EACCES, libc::EOPNOTSUPP, libc::EINVAL, libc::ENOSYS] {
        for (asked, said) in [("0640", true), ("0600", false)] {
            let mut world = World::new();
            // What is refused is refused in the archive alone: no group reads this data directory.
            fs::set_permissions(world.root.path().join("data"), Permissions::from_mode(0o700))
                .unwrap();
            world.plan.file_mode = asked.parse().unwrap();
            world.plan.check_wal = CheckWal::Off;
            let job = world.segment(1, 1);
            let plan = always(Op::SetMode, errno);
            let receipt = run(&world.plan, &job).unwrap();
            drop(plan);
            let message =
                "archived files do not have the permission of \"walsafe_archive.file_mode\"";
            let notice = receipt.notices.iter().find(|notice| notice.message == message);
            // New files have 0600 by themselves.
            assert_eq!(notice.is_some(), said, "{errno}");
            if let Some(notice) = notice {
                assert!(notice.detail.contains("mode 0600, and 0640"), "{notice:?}");
                assert!(notice.hint.contains("file_mode, dir_mode and uid"), "{notice:?}");
            }
        }
    }
    an_io_error_fails_the_file(Op::SetMode);
}

/// The archiver used such a directory without a word.
#[test]
fn a_directory_that_every_user_can_write_into_is_told_of() {
    for (mode, says, status) in [
        (0o777, Some("remove or replace"), Status::Error),
        (0o1777, Some("that is still to come"), Status::Warning),
        (0o755, None, Status::Warning),
    ] {
        let world = World::new();
        let job = world.segment(1, 1);
        fs::set_permissions(&world.archive, Permissions::from_mode(mode)).unwrap();
        let receipt = run(&world.plan, &job).unwrap();
        let message = "every user can write into the archive directory";
        let notice = receipt.notices.iter().find(|notice| notice.message == message);
        assert_eq!(notice.is_some(), says.is_some(), "{mode:o}");
        assert!(notice.is_none_or(|notice| notice.detail.contains(says.unwrap())), "{notice:?}");
        let checks = check::check(&Directory::at(&world.archive), &check::Options::default());
        let check = checks.iter().find(|check| check.name == "ownership").unwrap();
        assert_eq!(check.status, status, "{check:?}");
    }
}

/// btrfs may pass over the flush of a file without a name, so that a power cut leaves the name and no contents.
#[test]
fn a_file_that_was_flushed_without_a_name_is_flushed_once_more_where_that_may_have_done_nothing() {
    for (make, again) in [("mkfs.btrfs", true), ("mkfs.ext4", false), ("mkfs.xfs", false)] {
        let Some(mount) = Mount::new(make) else { return skip("flushes on btrfs, ext4 and xfs") };
        for (policy, flushes) in [(FsyncPolicy::Full, again), (FsyncPolicy::None, false)] {
            let mut world = World::at(mount.tempdir());
            world.plan.fsync_policy = policy;
            run(&world.plan, &world.segment(1, 1)).unwrap();
            let plan = Plan::new(Vec::new());
            run(&world.plan, &world.segment(2, 1)).unwrap();
            let calls = plan.calls();
            drop(plan);
            let named = calls.iter().rposition(|op| *op == Op::LinkUnnamed).unwrap();
            let after = calls.get(named..).unwrap();
            assert_eq!(after.contains(&Op::Flush), flushes, "{make}, {policy:?}: {after:?}");
        }
    }
}

/// What was published before its second flush failed counts only after it was read back (guarantee G8).
#[test]
fn a_second_flush_that_fails_is_a_failure_of_the_file_and_the_next_try_reads_it_back() {
    let Some(mount) = Mount::new("mkfs.btrfs") else { return skip("a second flush on btrfs") };
    let world = World::at(mount.tempdir());
    run(&world.plan, &world.segment(1, 1)).unwrap();
    let job = world.segment(2, 1);
    let effect = Effect::Fail(libc::EIO);
    let plan = Plan::new(vec![Fault { op: Op::Flush, skip: 1, times: 1, effect }]);
    let result = run(&world.plan, &job);
    let calls = plan.calls();
    drop(plan);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::IoError);
    assert_eq!(calls.iter().rfind(|op| **op != Op::FileSystem), Some(&Op::Flush), "{calls:?}");
    assert!(world.path(&job).exists());
    assert!(run(&world.plan, &job).unwrap().already_present());
}

/// NFS and FUSE tell at `close` that a write was refused, where the copy itself is not flushed.
#[test]
fn a_write_that_is_refused_at_close_is_no_success_without_a_flush() {
    for staging in [Staging::Named, Staging::Renamed] {
        let mut world = World::new();
        world.plan.staging = staging;
        world.plan.fsync_policy = FsyncPolicy::None;
        run(&world.plan, &world.segment(1, 1)).unwrap();
        let job = world.segment(2, 1);
        let plan = always(Op::Close, libc::EIO);
        let error = run(&world.plan, &job).unwrap_err();
        drop(plan);
        assert_eq!(error.kind(), ErrorKind::IoError, "{error:?}");
        assert!(!world.path(&job).exists());
        assert!(!run(&world.plan, &job).unwrap().already_present());
    }
}
