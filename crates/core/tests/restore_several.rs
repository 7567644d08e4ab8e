//! Restoring from two archives: what is touched, and that no trouble in either is taken for the end of the WAL.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/restores.rs"]
mod restores;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use restores::{origins, request};
use walsafe_core::restore::{self, Outcome, RestoreError, Round};
use walsafe_core::store::Progress;
use walsafe_core::sys::fault::{Effect, Fault, Op, Plan};
use walsafe_core::wal::name::FileName;

/// Two archives of one cluster, and a data directory to restore into.
struct Two {
    world: World,
    second: PathBuf,
    data: PathBuf,
}

impl Two {
    /// With these segments of timeline 1 in each.
    fn with(first: &[u32], second: &[u32]) -> Self {
        let world = World::new();
        let (root, data) = (world.root.path().to_owned(), world.root.path().join("restored"));
        let two = Self { world, second: root.join("second"), data };
        fs::create_dir_all(&two.second).unwrap();
        fs::create_dir_all(two.data.join("pg_wal")).unwrap();
        let other = plan(&two.second, &root.join("data"), OURS);
        two.world.init();
        init(&other).unwrap();
        for number in 1..=3 {
            let job = two.world.segment(number, number.into());
            for (plan, numbers) in [(&two.world.plan, first), (&other, second)] {
                if numbers.contains(&number) {
                    run(plan, &job).unwrap();
                }
            }
        }
        two
    }

    fn archives(&self) -> [PathBuf; 2] {
        [self.world.archive.clone(), self.second.clone()]
    }

    fn target(&self) -> PathBuf {
        self.data.join("pg_wal/RECOVERYXLOG")
    }
}

/// Asks for a file, and returns what was done for it.
fn ask(
    data: &Path,
    archives: &[PathBuf],
    file: &str,
    round: &Round,
    faults: Vec<Fault>,
) -> (Result<Outcome, RestoreError>, Vec<Op>) {
    let plan = Plan::new(faults);
    let (name, target) = (FileName::new(file).unwrap(), data.join("pg_wal/RECOVERYXLOG"));
    let steps = Progress::default();
    let archives = origins(archives);
    let result = restore::restore(&request(&archives, &name, (data, &target), &steps, round));
    (result, plan.calls())
}

/// How many archives were passed over for the one that gave the file.
fn passed_over(result: Result<Outcome, RestoreError>) -> usize {
    match result {
        Ok(Outcome::Delivered { passed_over, .. }) => passed_over.len(),
        other => panic!("{other:?}"),
    }
}

/// A second archive cost each file what the first costs, though it is not needed.
#[test]
fn an_archive_behind_one_that_gives_the_file_is_not_touched() {
    let two = Two::with(&[], &[]);
    let history = "00000002.history";
    two.world.run(&two.world.wal(history, b"1\t0/200000\tno reason\n")).unwrap();
    let sound = two.world.archive.clone();
    let missing = two.world.root.path().join("missing");
    let (result, alone) =
        ask(&two.data, std::slice::from_ref(&sound), history, &Round::default(), vec![]);
    assert_eq!(passed_over(result), 0);
    let archives = [sound.clone(), missing.clone()];
    let (result, calls) = ask(&two.data, &archives, history, &Round::default(), vec![]);
    assert_eq!((passed_over(result), calls), (0, alone.clone()));
    // Nor is one that failed lately, or hangs.
    let archives = [missing, sound];
    for round in [Round::new(vec![0], vec![]), Round::new(vec![], vec![(0, 60)])] {
        let (result, calls) = ask(&two.data, &archives, history, &round, vec![]);
        assert_eq!((passed_over(result), calls), (round.hung.len(), alone.clone()));
    }
    let (result, _) = ask(&two.data, &archives, history, &Round::default(), vec![]);
    assert_eq!(passed_over(result), 1);
}

/// A thread that hung came round, and put its file where that of another archive lay by then.
#[test]
fn a_round_that_was_given_up_puts_nothing_in_place() {
    let two = Two::with(&[1], &[1]);
    let round = Round::default();
    assert!(round.give_up());
    let (result, _) = ask(&two.data, &two.archives(), &segment_name(1, 1), &round, vec![]);
    assert!(matches!(result, Err(RestoreError::Deliver { .. })), "{result:?}");
    assert_eq!(names(&two.data.join("pg_wal")), Vec::<String>::new());
    // Without any archive, nothing is known.
    let (result, _) = ask(&two.data, &[], &segment_name(1, 1), &Round::default(), vec![]);
    assert!(matches!(result, Err(RestoreError::Unsettled { .. })), "{result:?}");
}

/// Each call of the system fails in turn, at each archive: the file is delivered whole or the recovery stops.
#[test]
fn no_fault_in_either_archive_is_taken_for_the_end_of_the_wal() {
    // In the second alone; in neither, with a later one in the second; and in both.
    for (first, second, number) in
        [(&[1][..], &[1, 2][..], 2), (&[1], &[1, 3], 2), (&[1, 2], &[1, 2], 2)]
    {
        let (two, file) = (Two::with(first, second), segment_name(1, number));
        let (result, calls) = ask(&two.data, &two.archives(), &file, &Round::default(), vec![]);
        let delivers = second.contains(&number);
        assert_eq!(result.is_ok(), delivers, "{result:?}");
        let content = fs::read(two.world.pg_wal.join(&file)).unwrap();
        for (at, op) in calls.iter().enumerate() {
            let skip = calls[..at].iter().filter(|before| *before == op).count();
            for errno in [libc::EIO, libc::ENOENT, libc::EACCES] {
                let _ = fs::remove_file(two.target());
                let faults = vec![Fault { op: *op, skip, times: 1, effect: Effect::Fail(errno) }];
                let round = Round::default();
                let (result, _) = ask(&two.data, &two.archives(), &file, &round, faults);
                match result {
                    Ok(Outcome::Delivered { .. }) => {
                        assert!(delivers && fs::read(two.target()).unwrap() == content);
                    }
                    // The look-up of the later one's age has failed; or that of the file.
                    Err(_) => assert!(!two.target().exists(), "{op:?} {skip}"),
                    Ok(Outcome::NotArchived { reason }) => {
                        panic!("{op:?} {skip} {errno}: {reason}")
                    }
                }
            }
        }
    }
}
