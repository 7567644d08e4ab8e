//! What a file costs that is not there: a standby asks for one every few seconds.

#![cfg(feature = "fault-injection")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;
#[path = "common/restores.rs"]
mod restores;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use restores::{origins, request};
use walsafe_core::restore::{self, Outcome, Request, RestoreError, Round};
use walsafe_core::store::Progress;
use walsafe_core::sys::fault::{Op, Plan};
use walsafe_core::wal::name::FileName;

/// An archive of one segment, with `count` timelines that branched off each other behind it, as histories.
fn archive(count: u32) -> (World, PathBuf) {
    let world = World::new();
    world.run(&world.segment(1, 1)).unwrap();
    let mut text = String::new();
    for timeline in 2..count + 2 {
        text += &format!("{}\t0/{timeline:X}00000\tno reason\n", timeline - 1);
        fs::write(world.archive.join(format!("{timeline:08X}.history")), &text).unwrap();
    }
    let data = world.root.path().join("restored");
    fs::create_dir_all(data.join("pg_wal")).unwrap();
    (world, data)
}

/// Asks for a file, and returns what was done for it.
fn ask(
    world: &World,
    data: &Path,
    file: &str,
    prove: bool,
) -> (Result<Outcome, RestoreError>, Vec<Op>) {
    let plan = Plan::new(Vec::new());
    let (name, target) = (FileName::new(file).unwrap(), data.join("pg_wal/RECOVERYXLOG"));
    let (archives, place) = (origins(std::slice::from_ref(&world.archive)), (data, &*target));
    let (steps, round) = (Progress::default(), Round::default());
    let request = request(&archives, &name, place, &steps, &round);
    let result = restore::restore(&Request { prove_absence: prove, ..request });
    (result, plan.calls())
}

fn count(calls: &[Op], op: Op) -> usize {
    calls.iter().filter(|call| **call == op).count()
}

/// It read the names anew for each question, and of each timeline the history: timelines × files.
#[test]
fn a_miss_is_one_reading_of_the_names_and_of_a_history_only_where_no_later_one_tells_it() {
    let (world, data) = archive(40);
    let two = segment_name(1, 2);
    // The target's directory is read too, for what killed calls left there.
    let (result, calls) = ask(&world, &data, &two, false);
    assert!(matches!(result, Ok(Outcome::NotArchived { .. })), "{result:?}");
    assert_eq!(count(&calls, Op::List), 1);
    assert_eq!(
        count(&calls, Op::Open),
        2,
        "the identity, and the control file, which is not there"
    );

    // Behind every branch: all 40 must not matter. The newest names all others.
    let (result, calls) = ask(&world, &data, &segment_name(1, 60), true);
    assert!(matches!(result, Ok(Outcome::NotArchived { .. })), "{result:?}");
    assert_eq!(count(&calls, Op::List), 2);
    assert_eq!(count(&calls, Op::Open), 4, "the newest history too, and a segment, for its size");

    // Forty drills, each a branch of its own: each is read once.
    for timeline in 2..42 {
        let name = world.archive.join(format!("{timeline:08X}.history"));
        fs::write(name, "1\t0/200000\tno reason\n").unwrap();
    }
    let (result, calls) = ask(&world, &data, &two, true);
    assert!(matches!(result, Ok(Outcome::NotArchived { .. })), "{result:?}");
    assert_eq!(count(&calls, Op::List), 2);
    assert_eq!(count(&calls, Op::Open), 2 + 40 + 1, "each history");
    // Of older timelines than the segment's own, none is read.
    let (result, calls) = ask(&world, &data, &segment_name(50, 2), true);
    assert!(matches!(result, Ok(Outcome::NotArchived { .. })), "{result:?}");
    assert_eq!(count(&calls, Op::Open), 2);
}
