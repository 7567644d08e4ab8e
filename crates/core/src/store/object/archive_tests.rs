//! The algorithm, from a waiting file to an archived one, with a bucket for an archive.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::fake::{Break, Fake};
use super::tests::{World, world};
use crate::archive::pools::{Pools, Step};
use crate::archive::{Job, Outcome, Plan, Receipt, Seam, archive_file};
use crate::encoding::codec::{Codec, Compression};
use crate::error::{Error, ErrorKind};
use crate::server::known::KnownDestinations;
use crate::server::settings::{CheckWal, Destination, FileMode, FsyncPolicy};
use crate::store::directory::Staging;
use crate::store::directory::temporary::Owner;
use crate::store::location::Access;
use crate::store::{FinalName, Progress, Store, StoredName};
use crate::sys::buffer::Buffer;
use crate::sys::read_full;
use crate::wal::SegmentSize;
use crate::wal::name::FileName;
use crate::wal::segment::Cluster;

const SEGMENT: usize = 1 << 20;

struct Server {
    root: tempfile::TempDir,
    plan: Plan,
    seam: Seam,
}

impl Server {
    fn new(system_identifier: u64) -> Self {
        let root = tempfile::tempdir_in(".").unwrap();
        let data = root.path().canonicalize().unwrap().join("data");
        fs::create_dir_all(data.join("pg_wal")).unwrap();
        let plan = Plan {
            // The store that is given counts.
            destination: Destination::new("/nowhere", &data).unwrap(),
            fsync_policy: FsyncPolicy::Full,
            file_mode: FileMode::PRIVATE,
            compression: Compression::NONE,
            check_wal: CheckWal::Header,
            verify: true,
            cluster: Cluster {
                system_identifier,
                segment_size: SegmentSize::new(SEGMENT as u64).unwrap(),
            },
            known: KnownDestinations::of(&data),
            owner: Owner::this_process(),
            staging: Staging::Unnamed,
            access: Access::default(),
        };
        Self { root, plan, seam: Seam::default() }
    }

    /// Makes a segment: its header as PostgreSQL 15 writes it, and then the same byte.
    fn segment(&self, n: u32, byte: u8) -> Job {
        let name = format!("0000000100000000{n:08X}");
        let identifier = self.plan.cluster.system_identifier;
        let header = [
            &0xD110_u16.to_ne_bytes()[..],
            &2_u16.to_ne_bytes(),
            &1_u32.to_ne_bytes(),
            &(u64::from(n) * SEGMENT as u64).to_ne_bytes(),
            &[0; 8],
            &identifier.to_ne_bytes(),
            &(SEGMENT as u32).to_ne_bytes(),
            &8192_u32.to_ne_bytes(),
        ]
        .concat();
        let mut content = vec![byte; SEGMENT];
        content[..header.len()].copy_from_slice(&header);
        let source = self.root.path().join("data/pg_wal").join(&name);
        fs::write(&source, content).unwrap();
        Job { name: FileName::new(&name).unwrap(), source }
    }

    fn archive(&self, world: &World, job: &Job) -> Result<Receipt, Error> {
        let (buffer, progress) = (&mut Buffer::new().unwrap(), Progress::default());
        archive_file(&self.plan, &world.store, &self.seam, job, buffer, &progress)
    }
}

fn key(job: &Job, extension: &str) -> String {
    format!("p/{}{extension}", job.name)
}

#[test]
fn a_file_is_archived_once_and_other_contents_are_a_conflict() {
    let fake = Fake::new();
    let world = world(&fake.url("/p"), Duration::from_secs(10));
    let server = Server::new(1);
    let job = server.segment(1, 7);
    assert_eq!(server.archive(&world, &job).unwrap().outcome, Outcome::Archived);
    assert_eq!(fake.object(&key(&job, "")).unwrap(), fs::read(&job.source).unwrap());
    let again = server.archive(&world, &job).unwrap();
    assert_eq!((again.outcome, again.stored_bytes), (Outcome::AlreadyPresent, SEGMENT as u64));

    let changed = server.segment(1, 8);
    let error = server.archive(&world, &changed).unwrap_err();
    assert!(error.kind().is_conflict(), "{error} {}", error.detail());
    assert_eq!(fake.object(&key(&job, "")).unwrap()[SEGMENT - 1], 7, "it was not replaced");

    let another = Server::new(2);
    let error = another.archive(&world, &another.segment(1, 7)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherCluster);
}

/// A body whose turn does not come was held until it came, however long that was: a connection that stands still,
/// and a request that the server keeps waiting for.
#[test]
fn a_body_whose_turn_does_not_come_is_let_go_in_time() {
    let fake = Fake::new();
    let World { keys, .. } = world(&fake.url("/p"), Duration::ZERO);
    let mut server = Server::new(1);
    let plan = &mut server.plan;
    plan.destination = Destination::new(&fake.url("/p"), server.root.path()).unwrap();
    // Nothing may move for 30 s, and a body is held for 10.
    plan.access.stall_timeout = None;
    plan.access.credentials_file = Some(keys.path().join("keys"));
    let jobs = [server.segment(1, 7), server.segment(2, 8)];
    let status = server.root.path().join("data/pg_wal/archive_status");
    fs::create_dir(&status).unwrap();
    for job in &jobs {
        fs::write(status.join(format!("{}.ready", job.name)), "").unwrap();
    }
    fake.break_next(("PUT", "000000010000000000000001", Break::Hang(Duration::from_secs(60))));
    let mut pools = Pools::default();
    pools.update([(server.plan.clone(), 2)]).unwrap();
    let mut call = pools.call(jobs[0].clone(), None);
    let begun = Instant::now();
    let mut step = |what: &str| {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(20));
        call.step()
    };
    let mut longest = Duration::MAX;
    while fake.unfinished() == 0 {
        let Step::Wait(time) = step("it is held") else { panic!("it is answered") };
        longest = longest.min(time);
    }
    assert!(
        longest < Duration::from_secs(11),
        "whoever waits is to look again in time: {longest:?}"
    );
    assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!(fake.count("PUT", "000000010000000000000001"), 1, "its turn has not come yet");
    fake.end_hangs();
    // When it does come, all of it is sent anew.
    while fake.object(&key(&jobs[1], "")).is_none() {
        step("it was never sent again");
    }
    assert_eq!(fake.object(&key(&jobs[1], "")).unwrap(), fs::read(&jobs[1].source).unwrap());
}

/// A name that another server has taken under another extension, or while the copy was under way.
#[test]
fn what_is_there_in_another_encoding_counts() {
    let fake = Fake::new();
    let world = world(&fake.url("/p"), Duration::from_secs(10));
    let mut server = Server::new(1);
    server.plan.compression = "lz4".parse().unwrap();
    let job = server.segment(1, 7);
    server.archive(&world, &job).unwrap();
    assert!(fake.object(&key(&job, ".lz4")).is_some());
    server.plan.compression = Compression::NONE;
    let lists = fake.count("GET", "list-type=2");
    assert!(server.archive(&world, &job).unwrap().already_present());
    assert_eq!(fake.object(&key(&job, "")), None);
    assert_eq!(fake.count("GET", "list-type=2") - lists, 1, "one look for all encodings");

    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let name = FinalName::from(StoredName::new(job.name.clone(), Codec::Lz4));
    let mut decoded = vec![0; SEGMENT + 1];
    let found = visit.find(&name).unwrap().unwrap();
    assert_eq!(read_full(&mut found.decode().unwrap(), &mut decoded).unwrap(), SEGMENT);
    assert_eq!(decoded[..SEGMENT], fs::read(&job.source).unwrap());
}

/// An archive that cannot be read to its end was taken for one that ends there, and for a damaged one.
#[test]
fn an_archived_file_that_cannot_be_read_now_is_no_conflict() {
    let fake = Fake::new();
    let world = world(&fake.url("/p"), Duration::from_secs(10));
    let mut server = Server::new(1);
    for compression in ["none", "lz4", "zstd", "gzip"] {
        server.plan.compression = compression.parse().unwrap();
        let job = server.segment(u32::from(compression.as_bytes()[0]), 7);
        server.archive(&world, &job).unwrap();
        let name = server.plan.stored_name(&job.name).to_string();
        let half = fake.object(&format!("p/{name}")).unwrap().len() / 2;
        // Not the listing, in which the slash is encoded.
        let part: &'static str = Box::leak(format!("/p/{name}").into_boxed_str());
        fake.break_next(("GET", part, Break::Short(half)));
        let error = server.archive(&world, &job).unwrap_err();
        fake.all_broken();
        assert!(!error.kind().is_conflict(), "{compression}: {error} {}", error.detail());
        assert!(server.archive(&world, &job).unwrap().already_present());
    }
}

/// The answer was lost, and what has the name is what was sent.
#[test]
fn a_lost_answer_counts_as_archived_once_the_object_is_compared() {
    for how in [Break::DoAndRefuse(503, "SlowDown"), Break::Cut { done: true }] {
        let fake = Fake::new();
        let world = world(&fake.url("/p"), Duration::from_secs(10));
        let server = Server::new(1);
        let job = server.segment(1, 7);
        fake.break_next(("PUT", "000000010000000000000001", how));
        assert_eq!(server.archive(&world, &job).unwrap().outcome, Outcome::AlreadyPresent);
        fake.all_broken();
        assert_eq!(fake.object(&key(&job, "")).unwrap(), fs::read(&job.source).unwrap());
    }
}

/// The cluster has archived here before, and a rule of the bucket has deleted the identity.
#[test]
fn an_archive_that_has_lost_its_identity_is_refused() {
    let fake = Fake::new();
    let world = world(&fake.url("/p"), Duration::from_secs(10));
    let server = Server::new(1);
    server.archive(&world, &server.segment(1, 7)).unwrap();
    fake.remove("p/walsafe_archive.id");
    let error = server.archive(&world, &server.segment(2, 7)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdentityLost);
    assert_eq!(fake.object("p/000000010000000000000002"), None);
}
