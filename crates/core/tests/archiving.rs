//! Archiving a file that the archive does not hold yet.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::*;
use walsafe_core::encoding::digest::CHECKED_ATTRIBUTE;
use walsafe_core::error::{Activity, Error, ErrorKind};
use walsafe_core::server::settings::CheckWal;
use walsafe_core::server::settings::FsyncPolicy;
use walsafe_core::store::directory::Staging;

#[test]
fn a_segment_arrives_whole_private_and_with_its_digests() {
    for staging in STAGINGS {
        for text in CODECS {
            let mut world = World::new();
            world.plan.staging = staging;
            world.plan.compression = compression(text);
            let job = world.segment(1, 1);
            let content = fs::read(&job.source).unwrap();
            let outcome = world.run(&job).unwrap();
            let path = world.path(&job);
            let stored = fs::read(&path).unwrap();

            assert!(!outcome.already_present());
            assert_eq!(outcome.wal_bytes, SEGMENT as u64);
            assert_eq!(outcome.stored_bytes, taken(&path));
            assert!(outcome.stored_bytes >= stored.len() as u64);
            assert_eq!(outcome.content.to_string(), hex(&content));
            assert_eq!(attributes(&path), [Some(hex(&stored)), Some(hex(&content))]);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
            assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
            if let Some(decoded) = decoded(&path, world.plan.compression.codec) {
                assert!(decoded == content, "{text} {staging:?}");
            }
            let file = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(world.names(), [file, "walsafe_archive.id"], "{text} {staging:?}");
        }
    }
}

/// The umask is the process's, so this test runs in one of its own.
#[test]
fn files_have_their_mode_whatever_the_umask() {
    let Some(dir) = std::env::var_os("WALSAFE_TEST_UMASK") else {
        for umask in ["000", "077", "777"] {
            let dir = scratch();
            let output = Command::new("sh")
                .args(["-c", "umask $1; exec \"$0\" --exact \"$2\" --nocapture"])
                .arg(std::env::current_exe().unwrap())
                .args([umask, "files_have_their_mode_whatever_the_umask"])
                .env("WALSAFE_TEST_UMASK", dir.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "umask {umask}: {said}");
        }
        return;
    };
    let (archive, data) = (Path::new(&dir).join("archive"), Path::new(&dir).join("data"));
    for dir in [&archive, &data] {
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let source = data.join("00000002.history");
    fs::write(&source, "1\t0/3000000\tno recovery target specified\n").unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o600)).unwrap();
    each_mode_in(&archive, &data, &source);
}

/// WAL that is encrypted was let in, and nothing said so to whoever wanted it back.
#[test]
fn a_segment_carries_how_it_was_checked_and_other_files_carry_nothing_of_it() {
    let mut world = World::new();
    for (number, check_wal) in (1..).zip([CheckWal::Off, CheckWal::Header, CheckWal::Records]) {
        world.plan.check_wal = check_wal;
        let job = match check_wal {
            CheckWal::Off => world.wal(&segment_name(1, number), &random(SEGMENT, 7)),
            _ => world.segment(number, 1),
        };
        world.run(&job).unwrap();
        let file = fs::File::open(world.path(&job)).unwrap();
        let checked = walsafe_core::sys::attribute(&file, CHECKED_ATTRIBUTE).unwrap();
        assert_eq!(checked.as_deref(), Some(check_wal.as_str()));
    }
    let job = world.wal("00000002.history", b"1\t0/300028\tno reason\n");
    world.run(&job).unwrap();
    let file = fs::File::open(world.path(&job)).unwrap();
    assert_eq!(walsafe_core::sys::attribute(&file, CHECKED_ATTRIBUTE).unwrap(), None);
    // The marker is for places where files carry nothing.
    assert!(!world.names().contains(&"walsafe_archive.unchecked".to_owned()));
}

/// A file of mode 0400 takes no attributes from its owner; root's capabilities would hide that.
#[test]
fn every_mode_comes_with_attributes_for_a_user_without_privileges() {
    if let Some(dir) = std::env::var_os("WALSAFE_TEST_USER") {
        let dir = Path::new(&dir);
        let archive = dir.join("archive");
        fs::create_dir(&archive).unwrap();
        return each_mode_in(&archive, &dir.join("data"), &dir.join("data/00000002.history"));
    }
    let dir = scratch();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("00000002.history"), "1\t0/3000000\tx\n").unwrap();
    if !is_root() {
        return each_mode_in(dir.path(), &data, &data.join("00000002.history"));
    }
    const NOBODY: u32 = 65_534;
    for path in [dir.path(), &data, &data.join("00000002.history")] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let test = "every_mode_comes_with_attributes_for_a_user_without_privileges";
    let output = as_user(NOBODY, test, ("WALSAFE_TEST_USER", dir.path()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = dir.path().join("archive/0400-Unnamed/00000002.history");
    assert_eq!(fs::metadata(file).unwrap().uid(), NOBODY, "the test ran as another user");
}

fn each_mode_in(archive: &Path, data: &Path, source: &Path) {
    let content = fs::read(source).unwrap();
    for staging in STAGINGS {
        for mode in ["0600", "0640", "0400", "0440"] {
            let archive = archive.join(format!("{mode}-{staging:?}"));
            fs::create_dir(&archive).unwrap();
            fs::set_permissions(&archive, fs::Permissions::from_mode(0o700)).unwrap();
            let mut plan = plan(&archive, data, OURS);
            (plan.file_mode, plan.staging) = (mode.parse().unwrap(), staging);
            let name = walsafe_core::wal::name::FileName::new("00000002.history").unwrap();
            let job = walsafe_core::archive::Job { name, source: source.to_owned() };
            run(&plan, &job).unwrap();
            let path = archive.join("00000002.history");
            let bits = u32::from_str_radix(mode, 8).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, bits, "{mode} {staging:?}");
            let digest = Some(hex(&content));
            assert_eq!(attributes(&path), [digest.clone(), digest], "{mode} {staging:?}");
        }
    }
}

#[test]
fn every_kind_of_file_is_archived_under_its_name() {
    let world = World::new();
    let segment = segment(1, 7, 7);
    for (name, content) in [
        ("00000002.history", &b"1\t0/700028\tno recovery target specified\n"[..]),
        ("000000010000000000000007.00000028.backup", b"START WAL LOCATION: 0/700028\n"),
        ("000000010000000000000007.partial", &segment),
        ("SomethingOfALaterVersion.x1", b"anything"),
        ("empty", b""),
    ] {
        for text in CODECS {
            let mut plan = world.plan.clone();
            plan.compression = compression(text);
            let job = world.wal(name, content);
            let path = world.stored(&job, plan.compression.codec);
            run(&plan, &job).unwrap();
            if let Some(decoded) = decoded(&path, plan.compression.codec) {
                assert!(decoded == content, "{name} {text}");
            }
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_segment_switched_early_takes_the_space_of_what_it_holds() {
    for staging in STAGINGS {
        let mut world = World::new();
        world.plan.staging = staging;
        let mut content = segment(1, 1, 1);
        content[8192..].fill(0);
        let job = world.wal(&segment_name(1, 1), &content);
        assert_eq!(world.run(&job).unwrap().stored_bytes, taken(&world.path(&job)));
        let metadata = fs::metadata(world.path(&job)).unwrap();
        assert_eq!(metadata.len(), SEGMENT as u64);
        assert!(metadata.blocks() * 512 <= 16 << 10, "{} blocks", metadata.blocks());
        assert!(fs::read(world.path(&job)).unwrap() == content);
    }
}

/// Copies within xfs and btrfs can share extents behind the caller's back (guarantee G5).
#[test]
fn the_archive_shares_neither_inode_nor_extents_with_pg_wal() {
    let same = World::new();
    not_shared(&same);
    for make in ["mkfs.xfs", "mkfs.btrfs"] {
        let Some(mount) = Mount::new(make) else {
            skip(&format!("no shared extents: no {make} on a loop device here"));
            continue;
        };
        not_shared(&World::at(mount.tempdir()));
    }
}

fn not_shared(world: &World) {
    let job = world.segment(1, 1);
    world.run(&job).unwrap();
    let (ours, theirs) = (fs::metadata(&job.source).unwrap(), fs::metadata(world.path(&job)));
    let theirs = theirs.unwrap();
    assert_eq!(ours.dev(), theirs.dev());
    assert_ne!(ours.ino(), theirs.ino());
    assert_eq!((ours.nlink(), theirs.nlink()), (1, 1));
    let Ok(output) = Command::new("filefrag").arg("-v").arg(world.path(&job)).output() else {
        return skip("no shared extents: filefrag is not installed");
    };
    let extents = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && extents.contains("ext:"), "{extents}");
    assert!(!extents.contains("shared"), "{extents}");
}

#[test]
fn a_segment_that_is_not_what_its_name_says_is_refused() {
    let world = World::new();
    let good = segment(1, 5, 5);
    let with = |at: usize, bytes: &[u8]| {
        let mut content = good.clone();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        content
    };
    let long = [&good[..], &[0]].concat();
    for (what, content) in [
        ("xlp_magic", with(0, &[0, 0])),
        ("xlp_info", with(2, &[0, 0])),
        ("xlp_tli", with(4, &2_u32.to_ne_bytes())),
        ("xlp_tli", with(4, &0_u32.to_ne_bytes())),
        ("xlp_pageaddr", with(8, &(6 * SEGMENT as u64).to_ne_bytes())),
        ("xlp_sysid", with(24, &THEIRS.to_ne_bytes())),
        ("xlp_seg_size", with(32, &(16_u32 << 20).to_ne_bytes())),
        ("xlp_xlog_blcksz", with(36, &0_u32.to_ne_bytes())),
        ("bytes", good[..SEGMENT - 1].to_vec()),
        ("bytes", long),
        ("bytes", Vec::new()),
        ("xlp_magic", vec![0; SEGMENT]),
    ] {
        for name in ["000000010000000000000005", "000000010000000000000005.partial"] {
            let job = world.wal(name, &content);
            let error = world.run(&job).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongSegment, "{what}");
            assert!(error.detail().contains(what), "{what}: {}", error.detail());
            assert!(error.detail().contains(name), "{}", error.detail());
        }
    }
    assert!(world.names().is_empty(), "not even the identity file is written for such a file");
}

#[test]
fn newer_servers_and_the_copy_at_the_start_of_a_timeline_are_accepted() {
    let world = World::new();
    let mut newer = segment(1, 5, 5);
    newer[..2].copy_from_slice(&0xD1FF_u16.to_ne_bytes());
    for (name, content) in [(segment_name(1, 5), newer), (segment_name(3, 5), segment(1, 5, 5))] {
        let job = world.wal(&name, &content);
        world.run(&job).unwrap();
        assert!(fs::read(world.path(&job)).unwrap() == content, "{name}");
    }
}

#[test]
fn without_the_check_any_contents_are_accepted() {
    let mut world = World::new();
    world.plan.check_wal = CheckWal::Off;
    let job = world.wal(&segment_name(1, 1), b"no segment");
    world.run(&job).unwrap();
    assert_eq!(fs::read(world.path(&job)).unwrap(), b"no segment");
}

#[test]
fn every_policy_ends_with_the_whole_file() {
    for policy in [FsyncPolicy::Full, FsyncPolicy::File, FsyncPolicy::None] {
        for verify in [false, true] {
            let mut world = World::new();
            (world.plan.fsync_policy, world.plan.verify) = (policy, verify);
            let job = world.segment(1, 1);
            world.run(&job).unwrap();
            assert!(fs::read(world.path(&job)).unwrap() == fs::read(&job.source).unwrap());
            assert!(world.run(&job).unwrap().already_present(), "{policy:?}");
        }
    }
}

#[test]
fn a_source_that_is_missing_or_not_a_file_is_not_blamed_on_the_archive() {
    let world = World::new();
    let mut job = world.wal("x", b"");
    for source in ["gone", ".", "fifo"] {
        job.source = world.pg_wal.join(source);
        if source == "fifo" {
            let made = Command::new("mkfifo").arg(&job.source).status().unwrap();
            assert!(made.success());
        }
        let error = world.run(&job).unwrap_err();
        // A missing file, and something that is not a file, were both reported as trouble with the storage.
        let expected = match source {
            "gone" => (ErrorKind::SourceMissing, "could not read the WAL file", "os error 2"),
            "." => (ErrorKind::SourceNotAFile, "by a directory", "is a directory."),
            _ => (ErrorKind::SourceNotAFile, "by a named pipe", "is a named pipe."),
        };
        let (message, detail) = (error.to_string(), error.detail());
        assert_eq!(error.kind(), expected.0, "{source}");
        assert!(
            message.ends_with(expected.1) && detail.contains(expected.2),
            "{message}: {detail}"
        );
        let hint = error.kind().hint(Activity::Archiving);
        assert!(hint.contains("\"pg_wal\"") && !hint.contains("storage"), "{hint}");
    }
}

#[test]
fn a_destination_that_is_missing_is_waited_for() {
    let world = World::new();
    let job = world.segment(1, 1);
    fs::remove_dir(&world.archive).unwrap();
    let error = world.run(&job).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DestinationMissing);
    assert!(error.detail().contains(world.archive.to_str().unwrap()));
    assert!(!world.archive.exists(), "nothing makes the directory");
    fs::create_dir(&world.archive).unwrap();
    world.run(&job).unwrap();
}

#[test]
fn the_cache_holds_no_more_of_an_archived_file_than_its_last_chunk() {
    // With 8 chunks, all but the last went past the page cache.
    let mut world = World::new();
    world.plan.check_wal = CheckWal::Off;
    world.plan.staging = Staging::Unnamed;
    let job = world.wal("large", &random(8 * SEGMENT, 3));
    world.run(&job).unwrap();
    let Ok(output) = Command::new("fincore").args(["-bnro", "RES"]).arg(world.path(&job)).output()
    else {
        return skip("archived pages stay out of the cache: fincore is not installed");
    };
    let cached: usize = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    assert!(cached <= SEGMENT, "{cached} bytes are cached");
}

#[test]
fn an_error_names_its_file_and_the_systems_reason() {
    let world = World::new();
    let job = world.segment(1, 1);
    fs::remove_file(&job.source).unwrap();
    let error = world.run(&job).unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    assert_eq!(error.to_string(), "could not read the WAL file");
    assert_eq!(
        error.detail(),
        format!("\"{}\": No such file or directory (os error 2).", job.source.display())
    );
}
