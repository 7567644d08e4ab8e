//! `verify` and `gaps` as the SQL functions call them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use walsafe_core::prove::finding::{FindingKind, Findings};
use walsafe_core::prove::verify::{self, Options, Start, StartError, VerifyError};
use walsafe_core::store::directory::Directory;
use walsafe_core::store::identity::Identity;

/// An archive whose files are empty: enough where only names count.
fn archive(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("walsafe_archive.id"), Identity::new(7).to_string()).unwrap();
    for name in names {
        File::create(dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn a_watcher_that_says_no_ends_the_run() {
    let dir = archive(&[]);
    // Sixteen gigabytes of nothing take a while to be read; nothing longer is a segment.
    for number in 1..=16 {
        let name = format!("{:08X}{:016X}", 1, number);
        File::create(dir.path().join(name)).unwrap().set_len(1 << 30).unwrap();
    }
    let began = std::time::Instant::now();
    let mut calls = 0;
    let result = verify::verify(
        &Directory::at(dir.path()),
        &Options { threads: 2, ..Options::default() },
        &mut |_| {
            calls += 1;
            calls < 3
        },
    );
    assert!(matches!(result, Err(VerifyError::Cancelled)), "{result:?}");
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}

#[test]
fn the_watcher_is_told_how_far_the_run_is() {
    let dir = archive(&["000000010000000000000001", "000000010000000000000002"]);
    let mut last = None;
    let report = verify::verify(&Directory::at(dir.path()), &Options::default(), &mut |progress| {
        last = Some(*progress);
        true
    });
    let last = last.unwrap();
    assert_eq!((last.files, last.files_total), (2, 2));
    let kinds: Vec<_> = report.unwrap().findings.iter().map(|f| f.problem.kind).collect();
    assert_eq!(kinds, [FindingKind::Truncated; 2]);
}

#[test]
fn gaps_are_found_by_the_names_alone() {
    let dir = archive(&[
        "000000010000000000000001",
        "000000010000000000000002.zst",
        "000000010000000000000005",
        "000000010000000000000007.partial",
        "000000020000000000000007",
    ]);
    fs::write(dir.path().join("00000002.history"), "1\t0/7000100\tno reason\n").unwrap();
    let gaps = verify::gaps(&Directory::at(dir.path()), &mut |_| true).unwrap();
    let files: Vec<_> = gaps.iter().map(|gap| gap.file).collect();
    assert_eq!(files, ["000000010000000000000003", "000000010000000000000006"]);
    assert!(gaps.iter().all(|gap| gap.problem.kind == FindingKind::Gap));
    fs::remove_file(dir.path().join("00000002.history")).unwrap();
    let gaps = verify::gaps(&Directory::at(dir.path()), &mut |_| true).unwrap();
    assert!(gaps.iter().any(|gap| gap.file == "00000002.history"), "{gaps:?}");
    assert!(matches!(
        verify::gaps(&Directory::at(dir.path()), &mut |_| false),
        Ok(_) | Err(VerifyError::Cancelled)
    ));
}

/// Segments that were read before `pg_archivecleanup` removed them made gaps with those that it had
/// removed already.
#[test]
fn what_is_cleaned_up_while_the_archive_is_verified_is_not_a_gap() {
    let names =
        ["000000010000000000000001", "000000010000000000000003", "000000010000000000000004"];
    let dir = archive(&names);
    let report = verify::verify(&Directory::at(dir.path()), &Options::default(), &mut |progress| {
        if progress.files == progress.files_total {
            // The others are read twice, as they look like files that are being written.
            let _ = fs::remove_file(dir.path().join(names[0]));
        }
        true
    });
    let findings = report.unwrap().findings;
    assert!(findings.iter().all(|f| f.problem.kind == FindingKind::Truncated), "{findings:?}");
    assert_eq!(findings.len(), 2, "{findings:?}");
}

#[test]
fn an_empty_directory_is_not_a_clean_archive() {
    let dir = tempfile::tempdir().unwrap();
    let nothing =
        |result: Result<_, VerifyError>| matches!(result, Err(VerifyError::Nothing { .. }));
    assert!(nothing(
        verify::verify(&Directory::at(dir.path()), &Options::default(), &mut |_| true).map(drop)
    ));
    assert!(nothing(verify::gaps(&Directory::at(dir.path()), &mut |_| true).map(drop)));
    assert_eq!(Start::from_label("x"), Err(StartError::Line("START WAL LOCATION")));
}

fn segment(number: u64) -> String {
    format!("{:08X}{:08X}{:08X}", 1, number >> 8, number & 0xFF)
}

/// The missing files, by what `gaps` and `verify` find.
fn missing(dir: &Path) -> [Vec<String>; 2] {
    let of = |findings: Findings| {
        findings.iter().filter(|f| f.problem.kind == FindingKind::Gap).map(|f| f.file).collect()
    };
    let report = verify::verify(&Directory::at(dir), &Options::default(), &mut |_| true).unwrap();
    [of(verify::gaps(&Directory::at(dir), &mut |_| true).unwrap()), of(report.findings)]
}

/// What waited for a slower copy than that of a later segment was a gap, with the advice to take a new base
/// backup.
#[test]
fn a_segment_that_is_late_is_not_a_gap_and_one_that_is_missing_is() {
    let dir = archive(&[]);
    for number in (1..=200).filter(|number| *number != 7) {
        File::create(dir.path().join(segment(number))).unwrap();
    }
    let (done, mut all) = (AtomicBool::new(false), Vec::new());
    thread::scope(|scope| {
        // Nearly always there is a segment with none before it.
        scope.spawn(|| {
            for number in (201..).step_by(2).take_while(|_| !done.load(Ordering::Relaxed)) {
                File::create(dir.path().join(segment(number + 1))).unwrap();
                thread::sleep(Duration::from_millis(50));
                File::create(dir.path().join(segment(number))).unwrap();
            }
        });
        for _ in 0..3 {
            all.push(missing(dir.path()));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(all.iter().all(|found| *found == [[segment(7)], [segment(7)]]), "{all:?}");
}

/// `pg_archivecleanup` removes in no order: what it had left so far were the ends of gaps.
#[test]
fn what_is_being_removed_is_not_a_gap_however_long_that_takes() {
    let dir = archive(&[]);
    (1..=3000).for_each(|number| drop(File::create(dir.path().join(segment(number))).unwrap()));
    thread::scope(|scope| {
        scope.spawn(|| {
            // 1009 is a prime: each number comes once, in an order that is none.
            for number in (0..2000).map(|step| 1 + step * 1009 % 2000) {
                fs::remove_file(dir.path().join(segment(number))).unwrap();
                thread::sleep(Duration::from_millis(3));
            }
        });
        thread::sleep(Duration::from_millis(500));
        assert_eq!(missing(dir.path()), [[""; 0], [""; 0]]);
    });
}

/// `cp` gives a file its name first. Such a file was `truncated`.
#[test]
fn a_file_that_is_being_written_is_not_a_finding_until_nobody_writes_it_any_more() {
    let dir = archive(&["000000010000000000000001"]);
    let path = dir.path().join("000000010000000000000001");
    let found = || -> Vec<FindingKind> {
        let report =
            verify::verify(&Directory::at(dir.path()), &Options::default(), &mut |_| true).unwrap();
        report.findings.iter().map(|finding| finding.problem.kind).collect()
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::create(&path).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.write_all(&[0; 100]).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
        });
        let found = found();
        done.store(true, Ordering::Relaxed);
        assert_eq!(found, []);
    });
    assert_eq!(found(), [FindingKind::Truncated]);
}
