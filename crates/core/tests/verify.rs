//! What storage gives back is what counts, not what the page cache says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::*;
use walsafe_core::error::ErrorKind;

#[test]
fn with_verify_on_a_whole_file_is_archived_with_every_codec() {
    for staging in STAGINGS {
        for text in CODECS {
            let mut world = World::new();
            (world.plan.staging, world.plan.verify) = (staging, true);
            world.plan.compression = compression(text);
            let job = world.segment(1, 1);
            world.run(&job).unwrap();
            if let Some(decoded) = decoded(&world.path(&job), world.plan.compression.codec) {
                assert!(decoded == fs::read(&job.source).unwrap());
            }
        }
    }
}

/// One byte changes between the write and the read back, as a bad cable or controller has it.
#[cfg(feature = "fault-injection")]
#[test]
fn a_byte_flipped_on_its_way_to_storage_is_seen_with_verify_and_never_published() {
    use walsafe_core::archive::Plan;
    use walsafe_core::sys::fault::{self, Effect, Fault, Op};

    let attempt = |plan: &Plan, world: &World, skip, verify| {
        let mut plan = plan.clone();
        plan.verify = verify;
        let faults = fault::Plan::new(vec![Fault {
            op: Op::Write,
            skip,
            times: 1,
            effect: Effect::Corrupt,
        }]);
        let job = world.wal("long", &random(5 * SEGMENT / 2, 9));
        let result = run(&plan, &job);
        assert_eq!(faults.hits(), 1);
        (result, job)
    };
    for staging in STAGINGS {
        for text in CODECS {
            for skip in 0..2 {
                let mut world = World::new();
                world.init();
                world.plan.staging = staging;
                world.plan.compression = compression(text);
                // The identity file and the list of destinations are written first.
                world.run(&world.wal("first", b"")).unwrap();
                let (result, job) = attempt(&world.plan, &world, skip, true);
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::StorageLied, "{text} {skip}");
                assert_eq!(error.detail().matches("BLAKE3").count(), 1, "{}", error.detail());
                assert!(!world.path(&job).exists());
                assert!(!world.names().iter().any(|name| name.starts_with('.')));
                world.run(&job).unwrap();
                fs::remove_file(world.path(&job)).unwrap();

                // Without `verify` the change is not noticed: what this test injects is really there.
                let (result, job) = attempt(&world.plan, &world, skip, false);
                result.unwrap();
                let expected = attributes(&world.path(&job))[0].clone().unwrap();
                assert_ne!(hex(&fs::read(world.path(&job)).unwrap()), expected);
            }
        }
    }
}

/// Changes one byte of a file on the disk, an image under a loop device, while the page cache above
/// goes on showing the old one. `None` where a tool is missing.
fn flip_on_disk(mount: &Mount, path: &Path, offset: usize) -> Option<impl FnOnce() + use<>> {
    let cached = fs::read(path).unwrap();
    let Ok(output) = Command::new("filefrag").args(["-v", "-b4096"]).arg(path).output() else {
        skip("read past the page cache: filefrag is not installed");
        return None;
    };
    let extents = String::from_utf8_lossy(&output.stdout).into_owned();
    let block: u64 = extents
        .lines()
        .filter_map(|line| line.trim().strip_prefix("0:")?.split_whitespace().nth(2))
        .filter_map(|start| start.trim_end_matches("..").parse().ok())
        .next()
        .unwrap_or_else(|| panic!("{extents}"));
    let image = fs::OpenOptions::new().read(true).write(true).open(mount.image()).unwrap();
    let (mut byte, at) = ([0], block * 4096 + offset as u64);
    image.read_exact_at(&mut byte, at).unwrap();
    assert_eq!(byte[0], cached[offset], "the extent was found");
    image.write_all_at(&[byte[0] ^ 1], at).unwrap();
    assert!(fs::read(path).unwrap() == cached, "a plain read sees the cache");
    Some(move || image.write_all_at(&byte, at).unwrap())
}

/// A file that is there already is compared with storage: a flush that failed earlier may have
/// left right pages in the cache above a disk that never got them.
///
/// With `data=journal` ext4 takes the flag for direct I/O and reads through the cache all the same:
/// there it fails unless clean pages are dropped too.
#[test]
fn a_file_that_is_right_only_in_the_page_cache_is_not_taken_as_archived() {
    let make = "mkfs.ext4";
    for options in ["loop", "loop,data=journal"] {
        let Some(mount) = Mount::with(make, options) else {
            return skip(&format!("read past the page cache: no {make} on a loop device here"));
        };
        let root = mount.tempdir();
        let world = World::at(root);
        let job = world.segment(1, 1);
        world.run(&job).unwrap();
        assert!(world.run(&job).unwrap().already_present());
        mount.again(options);

        let Some(mend) = flip_on_disk(&mount, &world.path(&job), 100) else { return };
        let error = world.run(&job).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::ConflictPadding));
        assert!(error.detail().contains("offset 100."), "{}", error.detail());
        mend();
        assert!(world.run(&job).unwrap().already_present());
    }
}

/// Fails when the identity is believed as it was read before its flush: after a flush that failed the
/// next one succeeds, and the archive counts as begun without an identity on storage.
#[test]
fn an_identity_that_is_right_only_in_the_page_cache_is_not_taken_as_durable() {
    let make = "mkfs.ext4";
    let Some(mount) = Mount::new(make) else {
        return skip(&format!("read past the page cache: no {make} on a loop device here"));
    };
    let world = World::at(mount.tempdir());
    let job = world.segment(1, 1);
    world.run(&job).unwrap();
    let path = world.archive.join("walsafe_archive.id");
    let Some(mend) = flip_on_disk(&mount, &path, 0) else { return };
    // Another data directory of the cluster, which does not know the archive yet.
    let data = scratch();
    let plan = plan(&world.archive, data.path(), OURS);
    assert_eq!(run(&plan, &job).unwrap_err().kind(), ErrorKind::BadIdentity);
    assert!(!plan.known.contains(&world.archive).unwrap());
    mend();
    assert!(run(&plan, &job).unwrap().already_present());
}
