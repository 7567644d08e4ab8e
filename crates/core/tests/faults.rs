//! Each file-system operation fails in turn, at each of its calls, in every way that storage has.
//!
//! After each: old or new under the final name, never torn; nothing left behind; the error is reported as
//! what it is; the next try succeeds.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/proof.rs"]
mod proof;

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use common::*;
use proof::*;
use walsafe_core::archive::{Job, Receipt, Seam, archive_file};
use walsafe_core::encoding::codec::Codec;
use walsafe_core::error::{Error, ErrorKind};
use walsafe_core::store::Progress;
use walsafe_core::store::Store;
use walsafe_core::store::directory::Staging;
use walsafe_core::sys::buffer::Buffer;
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan};

/// What storage reports when it is in trouble, and the kind of error that it is.
const TROUBLE: [(i32, ErrorKind); 8] = [
    (libc::ENOSPC, ErrorKind::OutOfSpace),
    (libc::EDQUOT, ErrorKind::QuotaExceeded),
    (libc::EIO, ErrorKind::IoError),
    (libc::EROFS, ErrorKind::ReadOnly),
    (libc::ESTALE, ErrorKind::StaleHandle),
    (libc::EMFILE, ErrorKind::TooManyOpenFiles),
    (libc::EACCES, ErrorKind::PermissionDenied),
    (libc::EINTR, ErrorKind::IoError),
];

/// What a file system reports when it cannot do a thing: another way may be found.
const INABILITY: [i32; 5] =
    [libc::EOPNOTSUPP, libc::EINVAL, libc::EPERM, libc::ENOENT, libc::ENOSYS];

/// Held by every test: one whose plan is for all threads runs alone.
static TURN: RwLock<()> = RwLock::new(());

fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// How many descriptors of this process refer to something in a world.
fn descriptors(world: &World) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let paths = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let root = world.root.path().canonicalize().unwrap();
    paths.filter(|path| path.starts_with(&root)).count()
}

fn is_publishing(op: &Op) -> bool {
    matches!(op, Op::Link | Op::LinkUnnamed | Op::Rename)
}

/// One file to be archived again and again, with one fault at a time.
struct Trial {
    world: World,
    job: Job,
    /// One for a fault and for the try after it, as in a pool: what it remembers must not fail that.
    store: RefCell<Box<dyn Store>>,
    path: PathBuf,
    /// The bytes that the archive is to hold.
    stored: Vec<u8>,
    /// What stood there before and must not change.
    present: Option<Still>,
    cases: usize,
    failed: usize,
}

impl Trial {
    /// Archives a file once without faults, and notes the expected result.
    fn new(world: World, content: &[u8], present: bool) -> Self {
        let name = if content.len() == SEGMENT {
            segment_name(1, 1)
        } else {
            "of any length".replace(' ', "")
        };
        let job = world.wal(&name, content);
        world.run(&job).unwrap();
        let path = world.path(&job);
        let stored = fs::read(&path).unwrap();
        // What is left open would be noticed.
        let open = fs::File::open(&path).unwrap();
        assert_eq!(descriptors(&world), 1);
        drop(open);
        let present = present.then(|| still(&path));
        let store = RefCell::new(world.plan.store());
        Self { world, job, store, path, stored, present, cases: 0, failed: 0 }
    }

    fn reset(&self) {
        self.store.replace(self.world.plan.store());
        if self.present.is_none() {
            let _ = fs::remove_file(&self.path);
        }
        for name in self.world.names().iter().filter(|name| name.starts_with('.')) {
            fs::remove_file(self.world.archive.join(name)).unwrap();
        }
    }

    fn run(&self, faults: Vec<Fault>) -> (Result<Receipt, Error>, Vec<Op>, usize) {
        let plan = Plan::new(faults);
        // A long file is written by a second thread, several chunks behind, whatever its encoding.
        let is_long = self.stored.len() > 2 * SEGMENT;
        let buffer = if is_long { Buffer::large() } else { Buffer::new() };
        let (mut buffer, progress) = (buffer.unwrap(), Progress::default());
        let store = &**self.store.borrow();
        let seam = Seam::default();
        let result =
            archive_file(&self.world.plan, store, &seam, &self.job, &mut buffer, &progress);
        (result, plan.calls(), plan.hits())
    }

    /// Whole, or absent where nothing was; never anything else.
    fn look(&self, what: &str, must_be_there: bool) {
        match fs::read(&self.path) {
            Ok(there) => assert!(there == self.stored, "{what}: torn"),
            Err(_) => assert!(!must_be_there, "{what}: absent"),
        }
        if let Some(before) = &self.present {
            assert_eq!(&still(&self.path), before, "{what}: changed");
        }
    }

    fn temporaries(&self) -> usize {
        self.world.names().iter().filter(|name| name.starts_with('.')).count()
    }

    /// Fails one call, looks, and tries again without a fault.
    fn fault(&mut self, fault: Fault) {
        self.reset();
        let what = format!("{:?} {:?}: {fault:?}", self.world.plan.staging, self.path);
        let before = descriptors(&self.world);
        let (result, calls, hits) = self.run(vec![fault]);
        assert!(hits > 0, "{what}: not hit");
        assert_eq!(descriptors(&self.world), before, "{what}: a descriptor was left open");
        self.look(&what, result.is_ok());
        let left = usize::from(fault.op == Op::Unlink);
        assert!(self.temporaries() <= left, "{what}: {:?}", self.world.names());
        self.judge(&what, fault, &result, &calls);
        self.failed += usize::from(result.is_err());
        self.cases += 1;

        let (again, calls, _) = self.run(Vec::new());
        let outcome = again.unwrap_or_else(|e| panic!("{what}: then {e}: {}", e.detail()));
        self.look(&what, true);
        assert!(self.temporaries() <= left, "{what}: {:?}", self.world.names());
        if outcome.already_present() {
            assert_proven(&calls, &what);
        }
    }

    fn judge(&self, what: &str, fault: Fault, result: &Result<Receipt, Error>, calls: &[Op]) {
        let Effect::Fail(errno) = fault.effect else { return };
        let expected = TROUBLE.iter().find(|(number, _)| *number == errno).map(|(_, kind)| *kind);
        // A temporary name that cannot be removed, space that cannot be told, or a thread to write beside that
        // cannot be started, fails nothing. Neither does an attribute, or a permission, that is refused: what
        // counts is the file.
        let refused = match fault.op {
            Op::SetAttribute => matches!(errno, libc::ENOSPC | libc::EACCES),
            Op::SetMode => errno == libc::EACCES,
            _ => false,
        };
        let harmless = refused || matches!(fault.op, Op::Unlink | Op::FileSystem | Op::StartThread);
        match (result, expected) {
            (Ok(_), Some(_)) => {
                assert!(harmless || errno == libc::EINTR, "{what}: counted as archived");
            }
            (Err(error), Some(expected)) => {
                let kind = error.kind();
                let detail = error.detail();
                // A call that is interrupted again and again ends as `EAGAIN`.
                let numbers = [errno, if errno == libc::EINTR { libc::EAGAIN } else { errno }];
                let told = numbers.iter().any(|n| detail.contains(&format!("(os error {n})")));
                assert!(told, "{what}: {detail}");
                // The server's own side is named by its path.
                let data = self.world.pg_wal.parent().unwrap().to_str().unwrap();
                let on_server = detail.contains(data);
                let server = matches!(
                    kind,
                    ErrorKind::SourceUnreadable
                        | ErrorKind::DataDirectory
                        | ErrorKind::DataDirectoryFull
                        | ErrorKind::DataDirectoryForbidden
                );
                assert!(kind == expected || (server && on_server), "{what}: {kind:?}, {detail}");
                assert_eq!(
                    server,
                    on_server && errno != libc::EMFILE,
                    "{what}: {kind:?}, {detail}"
                );
            }
            (_, None) => {}
        }
        // A flush that failed is the end of that copy (guarantee G8).
        if fault.op == Op::Flush && result.is_err() {
            let nth = calls.iter().enumerate().filter(|(_, op)| **op == Op::Flush);
            let failed = nth.map(|(at, _)| at).nth(fault.skip).unwrap();
            assert!(!calls[failed..].iter().any(is_publishing), "{what}: {calls:?}");
        }
    }

    /// Faults every call of a run without faults, in each way; or in one of so many, in turn.
    fn every_call(&mut self, one_in: usize, only: impl Fn(Op) -> bool) {
        self.reset();
        let (result, calls, _) = self.run(Vec::new());
        result.unwrap();
        let forever = usize::MAX;
        // Storage has no part in memory, which has a test of its own.
        let only = |op: Op| op != Op::Allocate && only(op);
        let mut ways = Vec::new();
        for (at, op) in calls.iter().copied().enumerate().filter(|(_, op)| only(*op)) {
            let skip = calls[..at].iter().filter(|before| **before == op).count();
            let fault = |times, effect| Fault { op, skip, times, effect };
            for (errno, _) in TROUBLE {
                ways.push(fault(1, Effect::Fail(errno)));
            }
            ways.push(fault(forever, Effect::Fail(libc::EINTR)));
            for errno in INABILITY {
                ways.push(fault(1, Effect::Fail(errno)));
                if is_publishing(&op) || is_creating(&op) {
                    ways.push(fault(forever, Effect::Fail(errno)));
                }
            }
            if op == Op::Write {
                ways.push(fault(1, Effect::Short));
                ways.push(fault(forever, Effect::Short));
            }
        }
        for fault in ways.into_iter().step_by(one_in) {
            self.fault(fault);
        }
        self.reset();
    }
}

/// A segment that is quick to encode, and has holes.
fn sparse_segment() -> Vec<u8> {
    let mut content = segment(1, 1, 1);
    content[64 << 10..512 << 10].fill(0);
    content[600 << 10..].fill(0);
    content
}

/// Makes a trial for each variant and has it do something, side by side: a plan is its thread's alone.
/// Returns how many faults there were, and how many tries failed.
fn trials<V: Send>(
    variants: Vec<V>,
    make: impl Fn(V) -> Trial + Sync,
    work: impl Fn(&mut Trial) + Sync,
) -> (usize, usize) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = variants
            .into_iter()
            .map(|variant| {
                scope.spawn(|| {
                    let mut trial = make(variant);
                    work(&mut trial);
                    (trial.cases, trial.failed)
                })
            })
            .collect();
        threads.into_iter().fold((0, 0), |(cases, failed), thread| {
            let (more, too) = thread.join().unwrap();
            (cases + more, failed + too)
        })
    })
}

fn world(staging: Staging, codec: &str, verify: bool) -> World {
    let mut world = World::new();
    world.plan.staging = staging;
    world.plan.compression = compression(codec);
    world.plan.verify = verify;
    world
}

#[test]
fn no_fault_tears_a_new_file_or_counts_it_as_archived() {
    let _turn = beside_others();
    let one_in = dose::dose(5, 1);
    let mut variants = Vec::new();
    for staging in STAGINGS {
        for codec in CODECS {
            for verify in [false, true] {
                // Every codec with and without, but only the plain one on both paths.
                if codec == "none" || verify == (staging == Staging::Named) {
                    variants.push((staging, codec, verify));
                }
            }
        }
    }
    // What a directory without links remembers is where it begins with the next file.
    variants.push((Staging::Renamed, "none", false));
    let (cases, failed) = trials(
        variants,
        |(staging, codec, verify)| {
            Trial::new(world(staging, codec, verify), &sparse_segment(), false)
        },
        |trial| trial.every_call(one_in, |_| true),
    );
    eprintln!("new files: {cases} faults, {failed} tries failed");
    assert!(failed > 2500 / one_in, "{failed}");
}

#[test]
fn no_fault_changes_a_file_that_is_there_or_counts_it_unproven() {
    let _turn = beside_others();
    let one_in = dose::dose(5, 1);
    let (cases, failed) = trials(
        CODECS.to_vec(),
        |codec| Trial::new(world(Staging::Unnamed, codec, false), &sparse_segment(), true),
        |trial| trial.every_call(one_in, |_| true),
    );
    eprintln!("files there already: {cases} faults, {failed} tries failed");
    assert!(failed > 800 / one_in, "{failed}");
}

#[test]
fn no_fault_in_any_chunk_of_a_long_file_tears_it() {
    let _turn = beside_others();
    let one_in = dose::dose(5, 1);
    let variants = STAGINGS.map(|staging| ["none", "lz4", "zstd"].map(|codec| (staging, codec)));
    let (cases, failed) = trials(
        variants.concat(),
        |(staging, codec)| {
            Trial::new(world(staging, codec, true), &random(9 * SEGMENT / 2, 5), false)
        },
        |trial| {
            trial.every_call(one_in, |op| {
                matches!(op, Op::Write | Op::Read | Op::Truncate | Op::StartThread)
            })
        },
    );
    eprintln!("long files: {cases} faults, {failed} tries failed");
}

/// The first file in a new archive: identity file and list of destinations too.
#[test]
fn no_fault_while_an_archive_is_begun_counts_before_identity_and_list_are_durable() {
    let _turn = beside_others();
    let begin = || {
        let world = World::new();
        let job = world.wal("00000002.history", b"1\t0/300000\tx\n");
        (world, job)
    };
    let (world, job) = begin();
    let plan = Plan::new(Vec::new());
    world.run(&job).unwrap();
    let calls = plan.calls();
    drop(plan);
    let (mut cases, mut failed) = (0, 0);
    for (at, op) in calls.iter().copied().enumerate().filter(|(_, op)| *op != Op::Allocate) {
        let skip = calls[..at].iter().filter(|before| **before == op).count();
        for (errno, _) in TROUBLE {
            let forever = [libc::EIO, libc::EINTR].contains(&errno).then_some(usize::MAX);
            for times in [1].into_iter().chain(forever) {
                let (world, job) = begin();
                let what = format!("{op:?} {skip} {errno} {times}");
                let before = descriptors(&world);
                let fault = Fault { op, skip, times, effect: Effect::Fail(errno) };
                let plan = Plan::new(vec![fault]);
                let result = world.run(&job);
                drop(plan);
                assert_eq!(descriptors(&world), before, "{what}");
                let names = world.names();
                if !matches!(op, Op::Unlink) {
                    assert!(!names.iter().any(|name| name.starts_with('.')), "{what}: {names:?}");
                }
                if names.iter().any(|name| name == "00000002.history") {
                    assert!(names.iter().any(|name| name == "walsafe_archive.id"), "{what}");
                    assert!(world.plan.known.is_durable(&world.archive), "{what}");
                }
                failed += usize::from(result.is_err());
                cases += 1;
                let plan = Plan::new(Vec::new());
                world.run(&job).unwrap_or_else(|e| panic!("{what}: {e}: {}", e.detail()));
                let again = plan.calls();
                drop(plan);
                if op == Op::FlushDirectory && result.is_err() {
                    let flushes = again.iter().filter(|call| **call == op).count();
                    // Identity file, list, archived file; when only the last failed, that one.
                    let wanted = if skip == 3 { 1 } else { 3 };
                    assert!(flushes >= wanted, "{what}: {again:?}");
                }
                assert!(world.plan.known.contains(&world.archive).unwrap());
            }
        }
    }
    eprintln!("beginning an archive: {cases} faults, {failed} tries failed");
    assert!(failed > 200, "{failed}");
}

#[test]
fn after_a_failed_flush_of_the_directory_it_is_flushed_through_a_fresh_handle() {
    let _turn = beside_others();
    for staging in STAGINGS {
        for codec in CODECS {
            let world = world(staging, codec, false);
            let trial = Trial::new(world, &sparse_segment(), false);
            trial.reset();
            let fault = |skip| Fault {
                op: Op::FlushDirectory,
                skip,
                times: 1,
                effect: Effect::Fail(libc::EIO),
            };
            let (result, _, _) = trial.run(vec![fault(0)]);
            assert_eq!(result.unwrap_err().kind(), ErrorKind::IoError);
            assert!(trial.path.exists(), "the file has its name, and may lose it");
            for _ in 0..3 {
                let (result, calls, _) = trial.run(vec![fault(0)]);
                result.unwrap_err();
                assert!(calls.contains(&Op::OpenDirectory), "{calls:?}");
            }
            let (result, calls, _) = trial.run(Vec::new());
            assert!(result.unwrap().already_present());
            assert_proven(&calls, codec);
        }
    }
}

/// What a full disk says about the space left, with every codec. The reason used to be lost in lz4's last
/// write.
#[test]
fn a_full_disk_is_reported_as_such_with_every_codec() {
    let _turn = beside_others();
    for codec in CODECS {
        let world = world(Staging::Unnamed, codec, false);
        let mut trial = Trial::new(world, &random(9 * SEGMENT / 2, 5), false);
        trial.reset();
        let (_, calls, _) = trial.run(Vec::new());
        let writes = calls.iter().filter(|op| **op == Op::Write).count();
        for skip in 0..writes {
            trial.reset();
            let effect = Effect::Fail(libc::ENOSPC);
            let fault = Fault { op: Op::Write, skip, times: usize::MAX, effect };
            let error = trial.run(vec![fault]).0.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{codec}, write {skip}");
            assert!(error.detail().contains(" MB are free there."), "{}", error.detail());
        }
        trial.cases += writes;
    }
    assert_eq!(Codec::ALL.len(), CODECS.len());
}

/// A directory that is removed while a copy is under way is missing, and not a file system without
/// hard links.
#[test]
fn a_directory_that_goes_away_under_a_copy_is_missing() {
    let _turn = beside_others();
    for staging in Staging::ALL {
        let world = world(staging, "none", false);
        let trial = Trial::new(world, &sparse_segment(), false);
        trial.reset();
        let gone = match staging {
            Staging::Unnamed => [Op::LinkUnnamed, Op::CreateNamed],
            Staging::Named | Staging::Renamed => [Op::Link, Op::Rename],
        };
        let effect = Effect::Fail(libc::ENOENT);
        let faults = gone.map(|op| Fault { op, skip: 0, times: usize::MAX, effect });
        let error = trial.run(faults.to_vec()).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DestinationMissing, "{staging:?}: {error}");
    }
}

/// Fails with `vec!`: the process was aborted. What is read back or compared needs memory of its own.
#[test]
fn without_memory_a_file_fails_as_that_and_the_next_try_succeeds() {
    let _turn = beside_others();
    let mut cases = 0;
    for codec in CODECS {
        for present in [false, true] {
            let mut world = world(Staging::Unnamed, codec, true);
            world.plan.check_wal = walsafe_core::server::settings::CheckWal::Records;
            let trial = Trial::new(world, &sparse_segment(), present);
            trial.reset();
            let (_, calls, _) = trial.run(Vec::new());
            let allocations = calls.iter().filter(|op| **op == Op::Allocate).count();
            // The first is this test's own buffer.
            for skip in 1..allocations {
                trial.reset();
                let effect = Effect::Fail(libc::ENOMEM);
                let fault = Fault { op: Op::Allocate, skip, times: 1, effect };
                let error = trial.run(vec![fault]).0.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{codec}, {skip}: {error}");
                assert_eq!(trial.temporaries(), 0);
                trial.look(codec, present);
                trial.run(Vec::new()).0.unwrap();
                cases += 1;
            }
        }
    }
    assert!(cases >= 16, "{cases}");
}

/// Fails when the temporary name is removed first: NFS then keeps the file under a name of its own
/// making, which a crash leaves there.
#[test]
fn a_copy_is_closed_before_its_temporary_name_is_removed() {
    let _alone = alone();
    let world = world(Staging::Named, "none", true);
    let mut trial = Trial::new(world, &sparse_segment(), false);
    for discarded in [false, true] {
        trial.reset();
        let hang = Fault { op: Op::Unlink, skip: 0, times: 1, effect: Effect::Hang };
        let lost = Fault { op: Op::Flush, skip: 0, times: 1, effect: Effect::Fail(libc::EIO) };
        let faults = if discarded { vec![hang, lost] } else { vec![hang] };
        let plan = Plan::everywhere(faults);
        std::thread::scope(|scope| {
            let run = scope.spawn(|| trial.world.run(&trial.job).is_ok());
            while plan.calls().last() != Some(&Op::Unlink) {
                std::thread::yield_now();
            }
            let open = fs::read_dir("/proc/self/fd").unwrap();
            let open: Vec<_> =
                open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect();
            plan.release();
            assert_eq!(run.join().unwrap(), !discarded);
            let copies = open.iter().filter(|path| path.to_string_lossy().contains(".walsafe."));
            assert_eq!(copies.count(), 0, "{open:?}");
        });
        drop(plan);
        trial.cases += 1;
    }
}
