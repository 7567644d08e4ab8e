//! `walsafe copy`, below the program: every operation on a file system fails in turn, and what is at the destination
//! afterwards is whole, equal, and a beginning of what the source has.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod wal_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use common::{World, attributes, names, plan, scratch, segment_name};
use wal_support::{SIZE, SYSID, Writer, data};
use walsafe_core::server::settings::FileMode;
use walsafe_core::store::Progress;
use walsafe_core::store::directory::temporary::Owner;
use walsafe_core::store::directory::{Directory, Staging};
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan};
use walsafe_core::transfer::{Copied, CopyError, Known, Stop, Way, copy};

/// Held by every test: one whose plan is for all threads runs alone.
static TURN: RwLock<()> = RwLock::new(());

fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// An archive with a history file and some segments, and a directory to copy it to.
struct Pair {
    world: World,
    destination: PathBuf,
    /// The files, in the order of the archive.
    files: Vec<String>,
}

impl Pair {
    fn new(segments: usize) -> Self {
        let mut world = World::at(scratch());
        let data_directory = world.root.path().join("data");
        world.plan = plan(&world.archive, &data_directory, SYSID);
        let mut wal = Writer::new(8192, u64::from(SIZE));
        while wal.bytes.len() < segments * SIZE as usize {
            wal.record(0, 0x20, &data(wal.bytes.len() % 7000));
        }
        let mut files = vec!["00000002.history".to_owned()];
        let history = world.wal(&files[0], b"1\t0/4000000\tno reason\n");
        world.run(&history).unwrap();
        let segments = wal.segments().into_iter().take(segments).map(<[u8]>::to_vec);
        for (n, content) in (1..).zip(segments) {
            files.push(segment_name(1, n));
            let job = world.wal(&segment_name(1, n), &content);
            world.run(&job).unwrap();
        }
        let destination = world.root.path().join("second");
        fs::create_dir(&destination).unwrap();
        Self { world, destination, files }
    }

    fn copy(&self, threads: usize, staging: Staging) -> Result<Copied, CopyError> {
        let source = Directory::at(&self.world.archive);
        let destination = Directory::new(&self.destination, Owner::this_process(), staging);
        let way = Way {
            source: &source,
            destination: &destination,
            mode: FileMode::PRIVATE,
            threads,
            may_begin: true,
            progress: &Progress::default(),
        };
        copy(&way, &mut Known::default(), &mut |_| true)
    }

    /// Removes what was copied.
    fn reset(&self) {
        for name in names(&self.destination) {
            fs::remove_file(self.destination.join(name)).unwrap();
        }
    }

    /// What is at the destination is whole and equal, and there is no gap before the last file of it.
    fn assert_sound(&self, what: &str) -> usize {
        let there = names(&self.destination);
        let there: Vec<_> = there.iter().filter(|name| !name.starts_with(['.', 'w'])).collect();
        let expected = self.files.iter().take(there.len());
        let mut expected: Vec<_> = expected.collect();
        expected.sort();
        assert_eq!(there, expected, "{what}");
        for name in &there {
            let [ours, theirs] = [&self.destination, &self.world.archive].map(|dir| dir.join(name));
            assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{what}: {name}");
            let carried = attributes(&ours);
            assert!(carried[0].is_none() || carried == attributes(&theirs), "{what}: {name}");
        }
        there.len()
    }
}

fn is_whole(copied: &Copied) -> bool {
    copied.stopped.is_none() && copied.findings.is_empty()
}

#[test]
fn what_is_copied_is_counted_and_what_is_there_is_not_read() {
    let _turn = alone();
    let pair = Pair::new(3);
    let copied = pair.copy(2, Staging::Unnamed).unwrap();
    assert!(is_whole(&copied), "{copied:?}");
    assert_eq!((copied.files, copied.present), (4, 0));
    assert!(copied.bytes > 3 << 20, "{copied:?}");
    assert_eq!(copied.last.unwrap().to_string(), pair.files[3]);
    assert_eq!(pair.assert_sound("all"), 4);
    // Without the look at the digests, every file would be read again, twice.
    let faults = Plan::everywhere(Vec::new());
    let copied = pair.copy(2, Staging::Unnamed).unwrap();
    let calls = faults.calls();
    drop(faults);
    assert_eq!((copied.files, copied.present), (0, 4));
    let count = |wanted: Op| calls.iter().filter(|op| **op == wanted).count();
    assert_eq!((count(Op::Write), count(Op::CreateUnnamed)), (0, 1), "only the look for its ways");
    assert!(count(Op::Read) < 12, "identity, marks and history files: {}", count(Op::Read));
    // Each is flushed: who put it there may have died before that.
    assert!(count(Op::Flush) >= 4 && count(Op::FlushDirectory) >= 1);
}

/// Without the order, or with a name given before its bytes are flushed, a fault leaves a gap or a torn file.
#[test]
fn whatever_fails_a_beginning_of_the_archive_is_there_and_the_next_run_completes_it() {
    let _turn = alone();
    let pair = Pair::new(2);
    let (mut cases, mut failed) = (0, 0);
    // What only files with temporary names do.
    let named = [Op::CreateNamed, Op::Close, Op::Link, Op::Rename, Op::Unlink];
    let of = |staging| if staging == Staging::Named { &named[..] } else { &Op::ALL[..] };
    for staging in [Staging::Unnamed, Staging::Named] {
        for &op in of(staging) {
            let errno = if op == Op::Write { libc::ENOSPC } else { libc::EIO };
            for skip in 0..400 {
                pair.reset();
                let what = format!("{staging:?}, {op:?} {skip}, {errno}");
                let effect = Effect::Fail(errno);
                let faults = Plan::everywhere(vec![Fault { op, skip, times: 1, effect }]);
                let result = pair.copy(1 + skip % 2, staging);
                let hits = faults.hits();
                drop(faults);
                if hits == 0 {
                    assert!(is_whole(&result.unwrap()), "{what}");
                    break;
                }
                cases += 1;
                let counted = result.as_ref().map_or(0, |copied| copied.files + copied.present);
                failed += usize::from(!result.as_ref().is_ok_and(is_whole));
                let there = pair.assert_sound(&what);
                assert!(counted <= there as u64, "{what}: {result:?}");
                if let Ok(copied) = &result {
                    assert!(copied.findings.is_empty(), "{what}: {copied:?}");
                }
                let again = pair.copy(2, staging).unwrap();
                assert!(is_whole(&again), "{what}: {again:?}");
                assert_eq!(pair.assert_sound(&what), 3, "{what}");
                // Only what could not be removed stays.
                let hidden = names(&pair.destination);
                let hidden = hidden.iter().filter(|name| name.starts_with('.')).count();
                assert!(hidden == 0 || op == Op::Unlink, "{what}");
            }
        }
    }
    assert!(cases > 100 && failed > 50, "{cases}, {failed}");
}

/// A name that was given before the flush of the directory failed is not durable, whatever a later flush says.
#[test]
fn a_directory_flush_that_fails_counts_for_none_of_its_names() {
    let _turn = alone();
    let pair = Pair::new(3);
    pair.copy(1, Staging::Unnamed).unwrap();
    for name in &pair.files {
        fs::remove_file(pair.destination.join(name)).unwrap();
    }
    let effect = Effect::Fail(libc::EIO);
    // The first one is the identity's, whose name is made sure of.
    let fault = Fault { op: Op::FlushDirectory, skip: 1, times: 100, effect };
    let faults = Plan::everywhere(vec![fault]);
    let copied = pair.copy(1, Staging::Unnamed).unwrap();
    drop(faults);
    assert_eq!((copied.files, copied.present), (0, 0));
    assert!(matches!(copied.stopped, Some(Stop::Failed(_))), "{copied:?}");
    let copied = pair.copy(1, Staging::Unnamed).unwrap();
    assert_eq!(copied.files + copied.present, 4);
}

/// A second thread must not get its file's name before the first one's.
#[test]
fn files_that_are_ready_early_wait_for_their_turn() {
    let _turn = alone();
    let pair = Pair::new(6);
    // A write in the first file hangs, in whichever thread.
    let effect = Effect::Hang;
    let faults = Plan::everywhere(vec![Fault { op: Op::Write, skip: 1, times: 1, effect }]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| pair.copy(4, Staging::Unnamed).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(500));
        let there = names(&pair.destination);
        // Before anything is asserted: a thread that hangs would never end.
        faults.release();
        assert!(is_whole(&running.join().unwrap()));
        let there: Vec<_> = there.into_iter().filter(|name| !name.starts_with('w')).collect();
        let mut expected = pair.files[..there.len()].to_vec();
        expected.sort();
        assert!(there == expected && there.len() < 7, "nothing behind it: {there:?}");
    });
    drop(faults);
    assert_eq!(pair.assert_sound("after it"), 7);
}

/// Both find the names free, and one of them finds each taken.
#[test]
fn two_copies_at_once_leave_one_whole_archive() {
    let _turn = beside_others();
    let pair = Pair::new(5);
    for _ in 0..5 {
        pair.reset();
        let results: Vec<Copied> = std::thread::scope(|scope| {
            let run = || pair.copy(3, Staging::Unnamed).unwrap();
            let running: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(results.iter().all(is_whole), "{results:?}");
        assert!(results.iter().all(|copied| copied.files + copied.present == 6), "{results:?}");
        assert_eq!(results.iter().map(|copied| copied.files).sum::<u64>(), 6);
        assert_eq!(pair.assert_sound("a race"), 6);
    }
}

/// The archiver goes on at the destination while what lies before is filled in.
#[test]
fn a_race_with_the_archiver_loses_nothing() {
    let _turn = beside_others();
    let pair = Pair::new(5);
    for round in 0..5 {
        pair.reset();
        let data_directory = pair.world.root.path().join(format!("data-{round}"));
        fs::create_dir_all(data_directory.join("pg_wal")).unwrap();
        let second = plan(&pair.destination, &data_directory, SYSID);
        let (copied, archived) = std::thread::scope(|scope| {
            let running = scope.spawn(|| pair.copy(2, Staging::Unnamed).unwrap());
            let archived = pair.files[2..].iter().map(|name| {
                let source = pair.world.pg_wal.join(name);
                let name = walsafe_core::wal::name::FileName::new(name).unwrap();
                common::run(&second, &walsafe_core::archive::Job { name, source })
            });
            let archived: Vec<_> = archived.collect();
            (running.join().unwrap(), archived)
        });
        assert!(is_whole(&copied), "{copied:?}");
        for result in archived {
            result.unwrap();
        }
        assert_eq!(pair.assert_sound("a race"), 6);
    }
}

/// Without the limit, a thousand files could lie out of sight, each with its descriptor.
#[test]
fn what_is_ready_and_waits_is_bounded() {
    let _turn = alone();
    let pair = Pair::new(14);
    let effect = Effect::Hang;
    let faults = Plan::everywhere(vec![Fault { op: Op::LinkUnnamed, skip: 2, times: 1, effect }]);
    let open = |dir: &Path| {
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let paths = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        paths.filter(|path| path.starts_with(dir) && path != dir).count()
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| pair.copy(2, Staging::Unnamed).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(700));
        let open = open(&pair.destination);
        // Before anything is asserted: a thread that hangs would never end.
        faults.release();
        assert!(is_whole(&running.join().unwrap()));
        // Two threads, each two files ahead, one of them being published.
        assert!(open <= 6, "{open}");
    });
    drop(faults);
    assert_eq!(pair.assert_sound("after it"), 15);
}
