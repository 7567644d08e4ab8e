//! `verify` and `gaps` as the SQL functions call them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::{self, File};

use walsafe_core::prove::finding::FindingKind;
use walsafe_core::prove::verify::{self, Options, Start, StartError, VerifyError};
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
    let result = verify::verify(dir.path(), &Options { threads: 2, from: None }, &mut |_| {
        calls += 1;
        calls < 3
    });
    assert!(matches!(result, Err(VerifyError::Cancelled)), "{result:?}");
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}

#[test]
fn the_watcher_is_told_how_far_the_run_is() {
    let dir = archive(&["000000010000000000000001", "000000010000000000000002"]);
    let mut last = None;
    let report = verify::verify(dir.path(), &Options::default(), &mut |progress| {
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
    let gaps = verify::gaps(dir.path(), &mut |_| true).unwrap();
    let files: Vec<_> = gaps.iter().map(|gap| gap.file).collect();
    assert_eq!(files, ["000000010000000000000003", "000000010000000000000006"]);
    assert!(gaps.iter().all(|gap| gap.problem.kind == FindingKind::Gap));
    fs::remove_file(dir.path().join("00000002.history")).unwrap();
    let gaps = verify::gaps(dir.path(), &mut |_| true).unwrap();
    assert!(gaps.iter().any(|gap| gap.file == "00000002.history"), "{gaps:?}");
    assert!(matches!(
        verify::gaps(dir.path(), &mut |_| false),
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
    let report = verify::verify(dir.path(), &Options::default(), &mut |progress| {
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
    assert!(nothing(verify::verify(dir.path(), &Options::default(), &mut |_| true).map(drop)));
    assert!(nothing(verify::gaps(dir.path(), &mut |_| true).map(drop)));
    assert_eq!(Start::from_label("x"), Err(StartError::Line("START WAL LOCATION")));
}
