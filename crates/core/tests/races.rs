//! Servers that archive different WAL under one name into one directory: the first one stays.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use common::*;
use walsafe_core::archive::{Job, Plan};
use walsafe_core::error::Error;
use walsafe_core::store::directory::Staging;
use walsafe_core::wal::name::FileName;

/// The rivals of a race: each has its own contents, or shares them with its neighbour.
struct Race {
    world: World,
    plans: Vec<Plan>,
    jobs: Vec<Job>,
}

impl Race {
    /// Two rivals each for `contents` versions of one segment.
    fn new(contents: u64, rivals: usize, codecs: &[&str], stagings: &[Staging]) -> Self {
        let world = World::new();
        world.init();
        let name = FileName::new(&segment_name(1, 1)).unwrap();
        let (plans, jobs) = (0..rivals)
            .map(|i| {
                let mut plan = world.plan.clone();
                plan.compression = compression(codecs[i % codecs.len()]);
                plan.staging = stagings[i % stagings.len()];
                let source = world.pg_wal.join(format!("rival{i}"));
                let mut content = segment(1, 1, i as u64 % contents);
                content[300 << 10..].fill(0);
                fs::write(&source, content).unwrap();
                (plan, Job { name: name.clone(), source })
            })
            .unzip();
        Self { world, plans, jobs }
    }

    /// Everybody at once, `tries` times, while somebody looks. Returns for each whether it won.
    fn run(&self, tries: usize) -> Vec<bool> {
        let (barrier, over) = (Barrier::new(self.jobs.len() + 1), AtomicBool::new(false));
        let attempt = |i: usize| {
            barrier.wait();
            let mut wins = Vec::new();
            for _ in 0..tries {
                match run(&self.plans[i], &self.jobs[i]) {
                    Ok(_) => wins.push(true),
                    Err(Error::Conflict { .. }) => wins.push(false),
                    Err(other) => panic!("{other}: {}", other.detail()),
                }
            }
            assert!(wins.iter().all(|won| *won == wins[0]), "the answer does not change");
            wins[0]
        };
        std::thread::scope(|scope| {
            let seen = scope.spawn(|| {
                barrier.wait();
                watch(&self.world.archive, &over)
            });
            let attempt = &attempt;
            let rivals: Vec<_> =
                (0..self.jobs.len()).map(|i| scope.spawn(move || attempt(i))).collect();
            let wins: Vec<_> = rivals.into_iter().map(ScopedJoinHandle::join).collect();
            over.store(true, Ordering::Relaxed);
            let wins = wins.into_iter().map(Result::unwrap).collect();
            // What a reader saw first is what stands there now.
            for (path, first) in seen.join().unwrap() {
                let now = still(&path);
                assert_eq!((first.inode, first.len), (now.inode, now.len));
                assert_eq!(first.content, now.content);
            }
            wins
        })
    }
}

/// Looks at final names as soon as they are there, until it is over.
fn watch(archive: &Path, over: &AtomicBool) -> BTreeMap<PathBuf, Still> {
    let mut seen = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        for name in names(archive).into_iter().filter(|name| name.starts_with("0000")) {
            let path = archive.join(name);
            seen.entry(path.clone()).or_insert_with(|| still(&path));
        }
        std::thread::yield_now();
    }
    seen
}

#[test]
fn of_different_files_under_one_name_the_first_stays_byte_for_byte() {
    let (mut races, mut collisions) = (0, 0);
    for round in 0..dose::dose(8, 24) {
        for stagings in [&STAGINGS[..1], &STAGINGS[1..], &STAGINGS] {
            let codec = CODECS[round % CODECS.len()];
            let race = Race::new(6, 6, &[codec], stagings);
            let wins = race.run(2);
            let winner: Vec<_> = (0..6).filter(|i| wins[*i]).collect();
            assert_eq!(winner.len(), 1, "{wins:?}");
            let mine = &race.jobs[winner[0]];
            let path = race.world.stored(mine, compression(codec).codec);
            let content = fs::read(&mine.source).unwrap();
            assert_eq!(attributes(&path)[1], Some(hex(&content)));
            assert_eq!(race.world.names().len(), 2, "{:?}", race.world.names());
            races += 1;
            collisions += wins.len() - 1;
        }
    }
    eprintln!("{races} races under one name, {collisions} rivals refused");
}

#[test]
fn the_same_file_from_many_sides_is_archived_once_and_by_all() {
    let mut races = 0;
    for round in 0..dose::dose(4, 12) {
        for stagings in [&STAGINGS[..1], &STAGINGS[1..], &STAGINGS] {
            let codec = CODECS[round % CODECS.len()];
            let race = Race::new(1, 6, &[codec], stagings);
            assert_eq!(race.run(2), [true; 6]);
            assert_eq!(race.world.names().len(), 2, "{:?}", race.world.names());
            races += 1;
        }
    }
    eprintln!("{races} races with the same contents, 6 rivals each");
}

/// With different encodings the names differ, so that two can be published. But the two never both count:
/// each server looks for the other's file after its own was published.
#[test]
fn of_different_files_in_different_encodings_no_two_count() {
    let (mut races, mut none) = (0, 0);
    for _ in 0..dose::dose(6, 20) {
        for stagings in [&STAGINGS[..1], &STAGINGS[1..]] {
            let race = Race::new(4, 4, &CODECS, stagings);
            // Once: the winner's own second call finds the file that came after its first.
            let wins = race.run(1);
            let winners = wins.iter().filter(|won| **won).count();
            assert!(winners <= 1, "{wins:?}");
            assert!(!race.world.names().iter().any(|name| name.starts_with('.')));
            races += 1;
            none += usize::from(winners == 0);
        }
    }
    eprintln!("{races} races in different encodings, {none} of them without a winner");
}

#[test]
fn the_same_file_in_different_encodings_counts_for_all() {
    for _ in 0..dose::dose(4, 12) {
        assert_eq!(Race::new(1, 4, &CODECS, &STAGINGS).run(2), [true; 4]);
    }
}

/// Servers are processes: two of them, hundreds of names, other contents under each.
#[test]
fn two_processes_collide_on_hundreds_of_names_and_each_name_has_one_winner() {
    let count = dose::dose(100, 300);
    if let Some(dir) = std::env::var_os("WALSAFE_TEST_RACE") {
        return contend(Path::new(&dir), count);
    }
    for staging in ["Unnamed", "Named"] {
        let world = World::new();
        world.init();
        let rivals: Vec<_> = ["1", "2"]
            .map(|seed| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "--nocapture"])
                    .arg("two_processes_collide_on_hundreds_of_names_and_each_name_has_one_winner")
                    .env("WALSAFE_TEST_RACE", world.root.path())
                    .env("WALSAFE_TEST_SEED", seed)
                    .env("WALSAFE_TEST_STAGING", staging)
                    .stderr(Stdio::inherit())
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .into();
        for mut rival in rivals {
            assert!(rival.wait().unwrap().success());
        }
        let won = |seed: u64| {
            let list = fs::read_to_string(world.root.path().join(format!("won{seed}"))).unwrap();
            list.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let (first, second) = (won(1), won(2));
        for (seed, names) in [(1, &first), (2, &second)] {
            for name in names {
                let n = u32::from_str_radix(&name[16..], 16).unwrap();
                let there = fs::read(world.archive.join(name)).unwrap();
                assert!(there == contents(n, seed), "{name} counted as archived by {seed}");
            }
        }
        assert_eq!(first.len() + second.len(), count as usize);
        assert_eq!(world.names().len(), count as usize + 1, "and the identity file");
        eprintln!("{staging}: {} to {} of {count} names", first.len(), second.len());
    }
}

fn contents(n: u32, seed: u64) -> Vec<u8> {
    let mut content = segment(1, n, seed);
    content[100 << 10..].fill(0);
    content
}

fn contend(root: &Path, names: u32) {
    let seed: u64 = std::env::var("WALSAFE_TEST_SEED").unwrap().parse().unwrap();
    let data = root.join(format!("data{seed}"));
    fs::create_dir(&data).unwrap();
    let mut plan = plan(&root.join("archive"), &data, OURS);
    if std::env::var("WALSAFE_TEST_STAGING").unwrap() == "Named" {
        plan.staging = Staging::Named;
    }
    let mut won = String::new();
    for n in 1..=names {
        let name = FileName::new(&segment_name(1, n)).unwrap();
        let source = data.join("source");
        fs::write(&source, contents(n, seed)).unwrap();
        // Both begin each name together.
        fs::write(root.join(format!("here{seed}.{n}")), "").unwrap();
        let begun = Instant::now();
        while !root.join(format!("here{}.{n}", 3 - seed)).exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the other one has died");
            std::hint::spin_loop();
        }
        match run(&plan, &Job { name: name.clone(), source }) {
            Ok(outcome) => {
                assert!(!outcome.already_present());
                won.push_str(&format!("{name}\n"));
            }
            Err(Error::Conflict { .. }) => {}
            Err(other) => panic!("{other}: {}", other.detail()),
        }
    }
    fs::write(root.join(format!("won{seed}")), won).unwrap();
}
