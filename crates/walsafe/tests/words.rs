//! What the commands say, with nothing, one and many.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::process::Command;

use common::*;

/// An archive of so many segments of timeline 1, from the first on.
fn place(count: usize) -> Place {
    let place = Place::new();
    for (number, segment) in (1..).zip(segments()).take(count) {
        place.put(&segment_name(1, number), &segment);
    }
    place
}

fn run(place: &Place, command: &[&str]) -> Run {
    Run::of(walsafe().args(command).arg(place.path("archive")))
}

/// Each recovery asks in vain for some files, and its log said of one that "neither is any segment of timeline 1"
/// in the archive, with twenty of them there.
#[test]
fn what_every_recovery_asks_for_in_vain_reads_as_normal() {
    let none = r#""000000010000000000000004" is not in the archive, nor is any WAL of timeline 1"#;
    let last = r#""000000010000000000000004" is not in the archive: the last file of timeline 1 there is 00000001000000000000000"#;
    for (count, behind) in [(0, none.to_owned()), (1, format!("{last}1")), (3, format!("{last}3"))]
    {
        let place = place(count);
        for (file, line) in [
            (
                "00000001.history",
                r#""00000001.history" does not exist: the first timeline has no history"#,
            ),
            (
                "00000002.history",
                r#""00000002.history" is not in the archive, nor is any WAL of timeline 2"#,
            ),
            ("000000010000000000000004", &behind),
            (
                "000000010000000000000004.partial",
                r#""000000010000000000000004.partial" is not in the archive, and no recovery needs it"#,
            ),
        ] {
            let run = place.restore(file);
            assert_eq!((run.status, &*run.err), (Some(1), &*format!("walsafe: {line}\n")));
        }
    }
}

/// "was not restored: 000000010000000000000002 is missing and ...", and "is digest-mismatch: BLAKE3 of ...".
#[test]
fn what_a_restore_says_of_a_file_is_a_sentence_about_it() {
    let place = place(3);
    let two = segment_name(1, 2);
    fs::remove_file(place.path("archive").join(&two)).unwrap();
    let mut command = place.restore_command(&two);
    command.args(["--patience", "0", "--end-at-hole", &two]);
    Run::of(&mut command).says(
        1,
        r#""000000010000000000000002" is missing and 000000010000000000000003 is there; recovery ends here"#,
    );
    let path = place.put(&two, &segments()[1]);
    set_digests(&path, b"other", b"other");
    let run = place.restore(&two);
    run.says(126, &format!("\"{}\": the BLAKE3 digest of its stored bytes is ", path.display()));
    run.says(126, "was recorded when it was archived (digest-mismatch).");
}

/// `list` ended with 0 over a directory that is no archive, as under an unmounted mount point, and `manifest` gave
/// an empty one.
#[test]
fn a_directory_that_is_no_archive_is_an_error_of_each_command() {
    let place = place(0);
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    for foreign in [false, true] {
        if foreign {
            place.put("notes.txt", b"not WAL");
        }
        for command in ["list", "verify", "manifest"] {
            let said = format!(
                "the archive holds neither WAL nor an identity file: \"{}\". Is this the archive, and is its file system mounted?",
                place.path("archive").display()
            );
            run(&place, &[command]).says(2, &said);
        }
    }
}

/// The hint was the archiver's: "create or mount the directory of walsafe_archive.destination. Archiving ...".
#[test]
fn the_hint_of_an_error_fits_the_command_that_was_typed() {
    let place = place(0);
    let gone = place.path("gone");
    let file = place.path("file");
    fs::write(&file, "x").unwrap();
    let data = place.path("data");
    let with_data = ["init", "push"];
    for (path, system) in [(&gone, "No such file or directory"), (&file, "Not a directory")] {
        for command in ["verify", "list", "manifest", "check", "init", "push"] {
            let mut call = walsafe();
            call.arg(command);
            if with_data.contains(&command) {
                call.arg("--pgdata").arg(&data);
            }
            let run = Run::of(call.arg(path));
            let said = format!("{}{}", run.out, run.err);
            assert_eq!(run.status, Some(2), "{command}: {run:?}");
            let hint = "Create or mount the directory, or correct its path.";
            assert!(said.contains(system) && said.contains(hint), "{command}: {run:?}");
            assert!(!said.contains("walsafe_archive.") && !said.contains("rchiving"), "{run:?}");
        }
    }
    // Of the data directory, too.
    for command in with_data {
        let mut call = walsafe();
        let run = Run::of(call.arg(command).arg("--pgdata").arg(&gone).arg(place.path("archive")));
        run.says(2, "Is this the cluster's data directory?");
        assert!(!run.err.contains("rchiving"), "{run:?}");
    }
}

/// "1 segments", "checked 1 files", "0 of 0 segments", "1 files plain".
#[test]
fn nothing_one_and_many_are_counted_as_people_do() {
    for (count, list, verify) in [
        (0, &["it holds no WAL yet"][..], &["no file was checked", "no findings"][..]),
        (
            1,
            &["timeline 1: 1 segment, 0 partial, 0 backups", "1 file without compression"],
            &[
                "checked 1 file with 1 MB of WAL: 0 by digest, 1 without a digest",
                "every page header and record was checked in 1 of 1 segment",
                "no findings",
            ],
        ),
        (
            3,
            &["timeline 1: 3 segments, 0 partial, 0 backups", "3 files without compression"],
            &[
                "checked 3 files with 3 MB of WAL: 0 by digest, 3 without a digest",
                "every page header and record was checked in 3 of 3 segments",
                "no findings",
            ],
        ),
    ] {
        let place = place(count);
        let listed = run(&place, &["list"]);
        for line in list {
            assert!(listed.out.lines().any(|there| there == *line), "{line}: {listed:?}");
        }
        assert_eq!(listed.out.contains("yet"), count == 0, "{listed:?}");
        let verified = run(&place, &["verify"]);
        assert_eq!(verified.out.lines().collect::<Vec<_>>(), verify, "{verified:?}");
        let checked = run(&place, &["check", "--read-only"]);
        let newest = (count > 0).then(|| format!(", the newest {}", segment_name(1, count as u32)));
        let segments = if count == 1 { "segment" } else { "segments" };
        let contents = format!("contents: {count} {segments}{}\n", newest.unwrap_or_default());
        assert!(checked.out.contains(&contents), "{checked:?}");
    }
    let place = place(1);
    for (name, said) in [
        ("one", "1 file that is not WAL, such as \"one\". Find out who put it there."),
        ("two", "2 files that are not WAL, such as \"one\". Find out who put them there."),
    ] {
        place.put(name, b"x");
        let checked = run(&place, &["check", "--read-only"]);
        assert!(checked.out.contains(said), "{checked:?}");
    }
    assert!(run(&place, &["list"]).out.contains("\n2 files that are not WAL\n"));
}

/// Behind the end of the archive, it replayed "every record from 0/600000 to nowhere (0 segments)", beside a gap of
/// which nothing showed that it was one.
#[test]
fn a_start_behind_the_end_of_the_archive_is_called_that() {
    let place = place(3);
    let run = run(&place, &["verify", "--from", "0/600000"]);
    assert_eq!(run.status, Some(1), "{run:?}");
    let lines: Vec<_> = run.out.lines().collect();
    assert_eq!(
        lines[0],
        "000000010000000000000006: gap: the archive's WAL of timeline 1 ends at 0/400000, and the recovery begins at 0/600000"
    );
    assert!(lines[1].contains("wait until its WAL is archived"), "{run:?}");
    assert!(!lines[1].contains("Put the missing files back"), "{run:?}");
    let rest = [
        "no file was checked",
        "with recovery_target_timeline = 'latest', the recovery goes to timeline 1",
        "it cannot begin: no record at its start, 0/600000 on timeline 1, can be read",
        "1 finding",
    ];
    assert_eq!(lines[2..], rest, "{run:?}");
}

/// A value that is refused was told of with a capital in the middle of the line, and an encoding where the option
/// speaks of compression.
#[test]
fn a_refused_value_is_told_of_in_one_sentence() {
    let place = place(0);
    let call = |command: &mut Command| {
        let path = place.path("archive");
        Run::of(command.arg("--pgdata").arg(place.path("data")).arg(path))
    };
    call(walsafe().args(["init", "--file-mode", "0777"])).says(
        2,
        "invalid value '0777' for '--file-mode <MODE>' (possible values: 0600, 0640, 0400, 0440). See \"walsafe init --help\".",
    );
    call(walsafe().args(["push", "--compression", "bzip2"])).says(
        2,
        "invalid value 'bzip2' for '--compression <COMPRESSION>': \"bzip2\" is not a known compression; known are \"none\", \"lz4\", \"zstd\" and \"gzip\". See \"walsafe push --help\".",
    );
}
