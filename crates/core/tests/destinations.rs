//! Whose archive a directory is: begun, adopted, refused, lost, raced for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Barrier;

use common::*;
use walsafe_core::archive::{Job, Plan};
use walsafe_core::error::{Activity, Error, ErrorKind};
use walsafe_core::server::known::KnownDestinations;
use walsafe_core::server::settings::Destination;
use walsafe_core::store::directory::Directory;
use walsafe_core::store::identity::{FILE_NAME, Identity};
use walsafe_core::store::{Progress, Store};

fn identity(world: &World) -> Option<u64> {
    let (store, progress) = (Directory::at(&world.archive), Progress::default());
    Identity::at(&*store.visit(&progress).unwrap())
        .unwrap()
        .map(|identity| identity.system_identifier)
}

fn kind_of(result: Result<impl std::fmt::Debug, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// What storage keeps in the root of a file system.
const OF_STORAGE: &[&str] = &[
    "lost+found",
    ".snapshot",
    ".zfs",
    ".autorelabel",
    "@eaDir",
    "#recycle",
    "aquota.user",
    ".nfs000000000000a1b200000001",
    ".fuse_hidden0000002c00000001",
    ".Trash-1000",
];

/// The message counted the files and named none.
#[test]
fn what_stands_in_the_way_of_a_new_archive_is_named() {
    let world = World::new();
    for name in ["b.txt", "d.txt", "a.txt", "c.txt", ".zfs"] {
        fs::write(world.archive.join(name), "x").unwrap();
    }
    let error = world.run(&world.segment(1, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAdoptable);
    let says =
        "4 other files (such as \"a.txt\", \"b.txt\", \"c.txt\") are there, and no WAL segment";
    assert!(format!("{error} {}", error.detail()).contains(says), "{error}: {}", error.detail());
}

#[test]
fn an_empty_directory_becomes_this_clusters_archive() {
    // `.snapshot` and its like stood in the way, and nobody can remove them.
    for of_storage in [&[] as &[&str], &["lost+found"], OF_STORAGE] {
        let world = World::new();
        for name in of_storage {
            fs::create_dir(world.archive.join(name)).unwrap();
        }
        world.run(&world.segment(1, 1)).unwrap();
        assert_eq!(identity(&world), Some(OURS));
        assert!(world.plan.known.contains(&world.archive).unwrap());
        let text = fs::read_to_string(world.archive.join(FILE_NAME)).unwrap();
        for key in ["format = 1", "system_identifier = 7300000000000000001", "created = 20"] {
            assert!(text.lines().any(|line| line.starts_with(key)), "{text}");
        }
    }
}

/// Nothing said that a destination which was added later lacks what was archived before.
#[test]
fn an_archive_says_which_file_it_begins_with() {
    let begins_with = |world: &World| {
        let (store, progress) = (Directory::at(&world.archive), Progress::default());
        let identity = Identity::at(&*store.visit(&progress).unwrap()).unwrap().unwrap();
        identity.begins_with.map(|name| name.to_string())
    };
    for (waiting, expected) in [
        // The history files before it are archived in any case; the file may not be the first one.
        (
            &["00000001.history", "000000010000000000000004", "000000010000000000000003"][..],
            Some("000000010000000000000003"),
        ),
        (&["00000001.history"], Some("00000001.history")),
        (&[], None),
    ] {
        let world = World::new();
        let status = world.pg_wal.join("archive_status");
        fs::create_dir(&status).unwrap();
        for name in waiting {
            fs::write(status.join(format!("{name}.ready")), "").unwrap();
        }
        let expected = expected.map(str::to_owned);
        let receipt = world.run(&world.segment(4, 1)).unwrap();
        assert_eq!(begins_with(&world), expected);
        assert_eq!(receipt.begins_with.map(|name| name.to_string()), expected);
    }
    // Of what another tool brought, nobody knows whether it is all from somewhere on.
    let world = World::new();
    let status = world.pg_wal.join("archive_status");
    fs::create_dir(&status).unwrap();
    let job = world.segment(1, 1);
    fs::copy(&job.source, world.archive.join(job.name.as_str())).unwrap();
    let job = world.segment(2, 1);
    fs::write(status.join(format!("{}.ready", job.name)), "").unwrap();
    world.run(&job).unwrap();
    assert_eq!(begins_with(&world), None);
}

#[test]
fn a_directory_of_another_cluster_is_refused_and_nothing_is_written_there() {
    let world = World::new();
    world.run(&world.segment(1, 1)).unwrap();
    let before = world.names();
    let mut other = World::new();
    other.plan.destination = world.plan.destination.clone();
    other.plan.cluster.system_identifier = THEIRS;
    let mut content = segment(1, 2, 2);
    content[..40].copy_from_slice(&header(THEIRS, 1, 2));
    let error = other.run(&other.wal(&segment_name(1, 2), &content)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherCluster);
    for number in [OURS.to_string(), THEIRS.to_string()] {
        assert!(error.detail().contains(&number), "{}", error.detail());
    }
    assert_eq!(world.names(), before);
    let list = other.pg_wal.parent().unwrap().join("walsafe_archive.destinations");
    assert!(!list.exists(), "a directory that was refused is not remembered");
}

/// What an unmounted mount point looks like.
#[test]
fn a_destination_in_use_that_lost_its_identity_is_refused() {
    let world = World::new();
    world.run(&world.segment(1, 1)).unwrap();
    let mounted = world.root.path().join("elsewhere");
    fs::rename(&world.archive, &mounted).unwrap();
    fs::create_dir(&world.archive).unwrap();
    let job = world.segment(2, 2);
    let error = world.run(&job).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityLost);
    assert!(error.kind().hint(Activity::Archiving).contains("walsafe init"));
    assert!(world.names().is_empty(), "nothing is written under the mount point");

    fs::remove_dir(&world.archive).unwrap();
    fs::rename(&mounted, &world.archive).unwrap();
    world.run(&job).unwrap();

    // A disk replaced on purpose.
    fs::remove_file(world.archive.join(FILE_NAME)).unwrap();
    assert_eq!(kind_of(world.run(&job)), ErrorKind::IdentityLost);
    world.init();
    assert!(world.run(&job).unwrap().already_present());
}

#[test]
fn an_identity_that_cannot_be_understood_is_refused_and_left_alone() {
    for what in ["empty", "text", "later format", "directory", "link", "huge"] {
        let world = World::new();
        let path = world.archive.join(FILE_NAME);
        let good =
            "format = 1\nsystem_identifier = 7300000000000000001\ncreated = 2026-01-01T00:00:00Z\n";
        match what {
            "empty" => fs::write(&path, "").unwrap(),
            "text" => fs::write(&path, "mine!").unwrap(),
            "later format" => {
                fs::write(&path, good.replace("format = 1", "format = 2")).unwrap();
            }
            "directory" => fs::create_dir(&path).unwrap(),
            "link" => {
                fs::write(world.archive.join("x"), good).unwrap();
                symlink("x", &path).unwrap();
            }
            _ => fs::write(&path, good.to_owned() + &"#\n".repeat(5000)).unwrap(),
        }
        let before = still(&path);
        assert_eq!(kind_of(world.run(&world.segment(1, 1))), ErrorKind::BadIdentity, "{what}");
        assert_eq!(kind_of(init(&world.plan)), ErrorKind::BadIdentity, "{what}");
        assert_eq!(still(&path), before, "{what}");
    }
}

#[test]
fn an_archive_that_another_tool_began_is_adopted() {
    let world = World::new();
    for n in 0..40 {
        fs::write(world.archive.join(segment_name(1, n)), &segment(1, n, 1)[..8192]).unwrap();
    }
    fs::write(world.archive.join("00000002.history"), "1\t0/100\tx\n").unwrap();
    fs::write(world.archive.join("archtemp.000000010000000000000005.77.1"), "").unwrap();
    // An interrupted copy at either end proves nothing, and harms nothing.
    fs::write(world.archive.join(segment_name(1, 0)), "").unwrap();
    fs::write(world.archive.join(segment_name(1, 39)), [0; 100]).unwrap();
    world.run(&world.segment(40, 1)).unwrap();
    assert_eq!(identity(&world), Some(OURS));
}

#[test]
fn an_archive_with_wal_of_another_cluster_at_either_end_is_refused() {
    for foreign in [0, 39] {
        let world = World::new();
        for n in 0..40 {
            let mut content = segment(1, n, 1);
            if n == foreign {
                content[..40].copy_from_slice(&header(THEIRS, 1, n));
            }
            fs::write(world.archive.join(segment_name(1, n)), &content[..8192]).unwrap();
        }
        let error = world.run(&world.segment(50, 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OtherCluster);
        assert_eq!(
            kind_of(init(&world.plan)),
            ErrorKind::OtherCluster,
            "walsafe init is no way around that"
        );
        assert_eq!(identity(&world), None);
    }
}

#[test]
fn a_directory_with_other_files_and_no_wal_of_ours_is_refused_until_init() {
    for name in ["notes.txt", "00000002.history", "000000010000000000000001"] {
        let world = World::new();
        fs::write(world.archive.join(name), "1\t0/100\tx\n").unwrap();
        let job = world.segment(9, 1);
        assert_eq!(kind_of(world.run(&job)), ErrorKind::NotAdoptable, "{name}");
        assert_eq!(world.names(), [name]);
        world.init();
        world.run(&job).unwrap();
    }
}

#[test]
fn compressed_segments_show_whose_an_archive_is() {
    for text in ["lz4", "zstd", "gzip"] {
        let mut world = World::new();
        world.plan.compression = compression(text);
        world.run(&world.segment(1, 1)).unwrap();
        fs::remove_file(world.archive.join(FILE_NAME)).unwrap();
        fs::remove_dir_all(world.pg_wal.parent().unwrap()).unwrap();
        fs::create_dir_all(&world.pg_wal).unwrap();
        world.run(&world.segment(2, 2)).unwrap();

        fs::remove_file(world.archive.join(FILE_NAME)).unwrap();
        let other = World::new();
        let mut plan = world.plan.clone();
        plan.known = other.plan.known.clone();
        plan.cluster.system_identifier = THEIRS;
        let mut content = segment(1, 3, 3);
        content[..40].copy_from_slice(&header(THEIRS, 1, 3));
        let job = other.wal(&segment_name(1, 3), &content);
        let result = run(&plan, &job);
        assert_eq!(kind_of(result), ErrorKind::OtherCluster, "{text}");
    }
}

#[test]
fn a_link_into_the_data_directory_is_refused() {
    let mut world = World::new();
    let inside = world.pg_wal.parent().unwrap().join("inside");
    fs::create_dir(&inside).unwrap();
    let link = world.root.path().join("link");
    symlink(&inside, &link).unwrap();
    let data = world.pg_wal.parent().unwrap().to_owned();
    world.plan = plan(&link, &data, OURS);
    assert!(world.run(&world.segment(1, 1)).is_err());
    assert!(names(&inside).is_empty());
}

#[test]
fn init_writes_an_identity_once_and_never_over_another() {
    let world = World::new();
    let plan = &world.plan;
    assert!(init(plan).unwrap());
    let before = still(&world.archive.join(FILE_NAME));
    assert!(!init(plan).unwrap());
    let mut other = plan.clone();
    other.cluster.system_identifier = THEIRS;
    assert_eq!(kind_of(init(&other)), ErrorKind::OtherCluster);
    assert_eq!(still(&world.archive.join(FILE_NAME)), before);
    assert!(!plan.known.contains(&world.archive).unwrap(), "that is the archiver's to write");
    let gone = world.root.path().join("gone");
    let mut lost = plan.clone();
    lost.destination = Destination::new(gone.to_str().unwrap(), &world.pg_wal).unwrap();
    assert_eq!(kind_of(init(&lost)), ErrorKind::DestinationMissing);
}

/// Two clusters, many threads of each, one empty directory.
///
/// Fails when an identity file that another thread has just written is taken for a foreign file.
#[test]
fn of_clusters_that_begin_one_archive_at_once_exactly_one_gets_it() {
    let rounds = dose::dose(15, 60);
    for round in 0..rounds {
        let world = World::new();
        let datas = [OURS, THEIRS].map(|system_identifier| {
            let data = world.root.path().join(system_identifier.to_string());
            fs::create_dir(&data).unwrap();
            let source = data.join("source");
            let mut content = vec![0; SEGMENT];
            content[..40].copy_from_slice(&header(system_identifier, 1, 1));
            fs::write(&source, content).unwrap();
            (plan(&world.archive, &data, system_identifier), source)
        });
        let barrier = Barrier::new(6);
        let attempt = |(plan, source): &(Plan, _)| {
            let name = walsafe_core::wal::name::FileName::new(&segment_name(1, 1)).unwrap();
            let job = Job { name, source: std::path::PathBuf::clone(source) };
            barrier.wait();
            run(plan, &job)
        };
        let attempt = &attempt;
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|i| (i % 2, &datas[i % 2]))
                .map(|(who, data)| (who, scope.spawn(move || attempt(data))))
                .collect();
            threads.into_iter().map(|(who, thread)| (who, thread.join().unwrap())).collect()
        });
        let winner = usize::from(identity(&world) == Some(THEIRS));
        for (who, result) in results {
            match result {
                Ok(_) => assert_eq!(who, winner, "round {round}"),
                Err(error) => {
                    let said = format!("round {round}: {error}: {}", error.detail());
                    assert_eq!(error.kind(), ErrorKind::OtherCluster, "{said}");
                    assert_ne!(who, winner, "{said}");
                }
            }
        }
        let names = world.names();
        assert_eq!(names, [&segment_name(1, 1), FILE_NAME], "round {round}");
        assert!(datas[winner].0.known.contains(&world.archive).unwrap());
        assert!(!datas[1 - winner].0.known.contains(&world.archive).unwrap());
    }
    eprintln!("{rounds} races for an empty directory, 6 threads each");
}

/// Fails without a lock in the list: two threads shared its one temporary file, and the slower
/// one found it gone.
#[test]
fn threads_that_remember_destinations_at_once_lose_none() {
    for _ in 0..dose::dose(10, 40) {
        let data = scratch();
        let known = KnownDestinations::of(data.path());
        let (known, barrier) = (&known, &Barrier::new(8));
        std::thread::scope(|scope| {
            for i in 0..8 {
                scope.spawn(move || {
                    barrier.wait();
                    known.add(format!("/mnt/{}", i / 2).as_ref()).unwrap();
                });
            }
        });
        for i in 0..4 {
            assert!(known.contains(format!("/mnt/{i}").as_ref()).unwrap(), "/mnt/{i}");
        }
    }
}

/// `initdb --waldir`: what is to be kept must not lie where the server recycles files.
///
/// Fails when only paths below the data directory are looked at: the archive was begun in `pg_wal`.
#[test]
fn a_pg_wal_outside_of_the_data_directory_is_refused_and_all_below_it() {
    let mut world = World::new();
    let data = world.pg_wal.parent().unwrap().to_owned();
    let elsewhere = world.root.path().join("waldir");
    fs::rename(&world.pg_wal, &elsewhere).unwrap();
    symlink(&elsewhere, &world.pg_wal).unwrap();
    let below = elsewhere.join("archive");
    fs::create_dir(&below).unwrap();
    let job = world.segment(1, 1);
    for path in [&elsewhere, &below] {
        world.plan = plan(path, &data, OURS);
        let before = names(path);
        let error = world.run(&job).unwrap_err();
        // It was "holds other files", with the hint to run "walsafe init" all the same.
        assert_eq!(error.kind(), ErrorKind::InsideData);
        assert!(!error.kind().hint(Activity::Archiving).contains("walsafe init"));
        assert!(error.detail().contains("pg_wal"), "{}", error.detail());
        assert_eq!(names(path), before);
    }
}
