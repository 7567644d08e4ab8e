//! `walsafe verify`: every kind of damage is found, and a whole archive has no finding.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use common::{MB, OURS, Place, Run, Verified, Wal, segment_name, segments, walsafe};

const TWO: &str = "000000010000000000000002";
const THREE: &str = "000000010000000000000003";

/// Segments 1 to 5 of timeline 1, with digests or, as a copy by other tools leaves them, without.
fn place(digests: bool) -> Place {
    let place = Place::new();
    for (number, segment) in (1..).zip(segments()) {
        put(&place, digests, &segment_name(1, number), &segment);
    }
    place
}

fn put(place: &Place, digests: bool, name: &str, contents: &[u8]) {
    if digests {
        place.put_with_digest(name, contents);
    } else {
        place.put(name, contents);
    }
}

fn change(place: &Place, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    let path = place.path("archive").join(name);
    let mut bytes = fs::read(&path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Timelines 1, 2 and 3, each branched off the one before in its last segment.
fn three_timelines(place: &Place) -> (u64, u64) {
    let mut wal = Wal::new(OURS, 1);
    let first = wal.segments(4);
    for (number, segment) in (1..).zip(&first) {
        place.put(&segment_name(1, number), segment);
    }
    wal.record(500_000);
    let one = wal.branch(2);
    let second = wal.segments(8);
    for (number, segment) in (5..).zip(&second[4..]) {
        place.put(&segment_name(2, number), segment);
    }
    place.put("00000002.history", format!("1\t0/{one:X}\tno reason\n").as_bytes());
    wal.record(300_000);
    let two = wal.branch(3);
    for (number, segment) in (9..).zip(&wal.segments(11)[8..]) {
        place.put(&segment_name(3, number), segment);
    }
    let history = format!("1\t0/{one:X}\tno reason\n2\t0/{two:X}\tno reason\n");
    place.put("00000003.history", history.as_bytes());
    (one, two)
}

#[test]
fn a_whole_archive_has_no_finding_and_the_report_says_how_files_were_checked() {
    let verified = place(true).verify();
    verified.finds(&[]);
    assert_eq!(verified.report["checked"]["by_digest"], 5);
    assert_eq!(verified.report["checked"]["by_records"], 5);
    let verified = place(false).verify();
    verified.finds(&[]);
    assert_eq!(verified.report["checked"]["without_digest"], 5);
    let run = Run::of(walsafe().arg("verify").arg(place(false).path("archive")));
    assert_eq!(run.status, Some(0));
    assert!(run.out.contains("0 by digest, 5 without a digest"), "{run:?}");
}

#[test]
fn damage_of_each_kind_is_found_and_never_restored_with_digests_and_without() {
    type Break = fn(&Place, bool);
    let damages: &[(&str, Break, &str, &str)] = &[
        (
            "a flipped bit",
            |p, _| change(p, TWO, |b| b[300_000] ^= 4),
            "000000010000000000000002: digest-mismatch",
            "000000010000000000000002: corrupt",
        ),
        (
            "a flipped bit in a page header",
            |p, _| change(p, TWO, |b| b[8192 * 5 + 9] ^= 1),
            "000000010000000000000002: digest-mismatch",
            "000000010000000000000002: corrupt",
        ),
        (
            "a cut",
            |p, _| change(p, TWO, |b| b.truncate(8192 * 20)),
            "000000010000000000000002: truncated",
            "000000010000000000000002: truncated",
        ),
        (
            "an end",
            |p, _| change(p, TWO, |b| b.push(0)),
            "000000010000000000000002: corrupt",
            "000000010000000000000002: corrupt",
        ),
        (
            "zeros",
            |p, _| change(p, TWO, |b| b.fill(0)),
            "000000010000000000000002: digest-mismatch",
            "000000010000000000000002: corrupt",
        ),
        (
            "another segment",
            |p, d| put(p, d, TWO, &segments()[2]),
            "000000010000000000000002: wrong-name",
            "000000010000000000000002: wrong-name",
        ),
        (
            "another cluster's",
            |p, d| put(p, d, TWO, &Wal::new(OURS + 1, 1).segments(2)[1]),
            "000000010000000000000002: wrong-cluster",
            "000000010000000000000002: wrong-cluster",
        ),
        (
            "a file that was removed",
            |p, _| fs::remove_file(p.path("archive").join(TWO)).unwrap(),
            "000000010000000000000002: gap",
            "000000010000000000000002: gap",
        ),
        (
            "a directory",
            |p, _| {
                fs::remove_file(p.path("archive").join(TWO)).unwrap();
                fs::create_dir(p.path("archive").join(TWO)).unwrap();
            },
            "000000010000000000000002: unreadable",
            "000000010000000000000002: unreadable",
        ),
        (
            "a link to itself",
            |p, _| {
                fs::remove_file(p.path("archive").join(TWO)).unwrap();
                symlink(TWO, p.path("archive").join(TWO)).unwrap();
            },
            "000000010000000000000002: unreadable",
            "000000010000000000000002: unreadable",
        ),
    ];
    for digests in [true, false] {
        for (what, damage, with, without) in damages {
            let place = place(digests);
            damage(&place, digests);
            println!("{what}, digests: {digests}");
            place.verify().finds(&[if digests { with } else { without }]);
            let run = place.restore(TWO);
            assert_eq!(run.status, Some(126), "{run:?}");
            assert_eq!(place.pg_wal(), Vec::<String>::new());
        }
    }
}

#[test]
fn two_segments_that_were_swapped_are_both_found() {
    for digests in [true, false] {
        let place = place(digests);
        let path = |name: &str| place.path("archive").join(name);
        fs::rename(path(TWO), path("0")).unwrap();
        fs::rename(path(THREE), path(TWO)).unwrap();
        fs::rename(path("0"), path(THREE)).unwrap();
        let expected = [format!("{TWO}: wrong-name"), format!("{THREE}: wrong-name")];
        place.verify().finds(&expected.each_ref().map(String::as_str));
    }
}

#[test]
fn an_unreadable_file_is_a_finding() {
    // Root may read anything, so a name that cannot be opened at all has to do: a socket.
    let place = place(true);
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path("archive").join(TWO)).unwrap();
    place.verify().finds(&["000000010000000000000002: unreadable"]);
}

#[test]
fn damage_that_was_archived_is_distinguished_from_damage_in_the_archive() {
    let place = place(true);
    let mut damaged = segments()[1].clone();
    damaged[300_000] ^= 4;
    place.put_with_digest(TWO, &damaged);
    let verified = place.verify();
    verified.finds(&["000000010000000000000002: corrupt"]);
    let reason = verified.report["findings"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("damaged before it was archived"), "{reason}");
}

#[test]
fn a_segment_that_does_not_join_its_neighbour_is_found_though_each_is_sound_alone() {
    let place = place(false);
    // The same addresses, other records: two histories mixed.
    let mut other = Wal::new(OURS, 1);
    other.record(777);
    place.put(THREE, &other.segments(3)[2]);
    let findings = place.verify().findings();
    assert!(!findings.is_empty(), "{findings:?}");
    assert!(findings.iter().all(|f| f.ends_with(": corrupt")), "{findings:?}");
}

#[test]
fn encoded_files_are_checked_by_their_codec_too() {
    for (extension, tool) in [("zst", "zstd"), ("lz4", "lz4"), ("gz", "gzip")] {
        for digests in [true, false] {
            let place = place(digests);
            let plain = place.path("archive").join(TWO);
            let out = Command::new(tool).args(["-q", "-c"]).arg(&plain).output().unwrap();
            assert!(out.status.success(), "{tool} is needed by this test");
            fs::remove_file(&plain).unwrap();
            let name = format!("{TWO}.{extension}");
            let path = place.put(&name, &out.stdout);
            if digests {
                common::set_digests(&path, &out.stdout, &segments()[1]);
            }
            place.verify().finds(&[]);
            change(&place, &name, |b| b.truncate(b.len() / 2));
            let findings = place.verify().findings();
            assert_eq!(findings, [format!("{name}: truncated")], "{tool}");
            place.restore(TWO).says(126, "truncated");
            place.put(&name, &out.stdout);
            change(&place, &name, |b| b.extend(b"x"));
            let findings = place.verify().findings();
            assert_eq!(findings, [format!("{name}: corrupt")], "{tool}");
            place.put(&name, &out.stdout);
            change(&place, &name, |b| {
                let at = b.len() / 2;
                b[at] ^= 0x55;
            });
            let findings = place.verify().findings();
            assert_eq!(findings.len(), 1, "{tool}: {findings:?}");
            assert_eq!(place.restore(TWO).status, Some(126));
        }
    }
}

#[test]
fn three_timelines_have_no_finding() {
    let place = Place::new();
    three_timelines(&place);
    place.verify().finds(&[]);
    let place = Place::new();
    three_timelines(&place);
    fs::rename(
        place.path("archive").join(segment_name(1, 4)),
        place.path("archive").join(segment_name(1, 4) + ".partial"),
    )
    .unwrap();
    place.verify().finds(&["000000010000000000000004: gap"]);
}

#[test]
fn gaps_at_a_timeline_switch_are_found_on_either_side() {
    for (missing, expected) in [
        (segment_name(1, 4), "000000010000000000000004: gap"),
        (segment_name(2, 5), "000000020000000000000005: gap"),
        (segment_name(2, 8), "000000020000000000000008: gap"),
        (segment_name(3, 9), "000000030000000000000009: gap"),
        ("00000003.history".to_owned(), "00000003.history: gap"),
    ] {
        let place = Place::new();
        three_timelines(&place);
        fs::remove_file(place.path("archive").join(&missing)).unwrap();
        place.verify().finds(&[expected]);
    }
}

#[test]
fn what_was_cleaned_up_is_not_a_gap() {
    let place = Place::new();
    three_timelines(&place);
    for number in 1..=4 {
        fs::remove_file(place.path("archive").join(segment_name(1, number))).unwrap();
    }
    place.verify().finds(&[]);
    fs::remove_file(place.path("archive").join(segment_name(2, 5))).unwrap();
    place.verify().finds(&[]);
}

#[test]
fn damaged_and_swapped_history_files_are_found() {
    let place = Place::new();
    three_timelines(&place);
    change(&place, "00000002.history", |b| b[0] = b'x');
    place.verify().finds(&["00000002.history: corrupt"]);
    place.restore("00000002.history").says(126, "corrupt");
    let place = Place::new();
    three_timelines(&place);
    fs::copy(place.path("archive/00000003.history"), place.path("archive/00000002.history"))
        .unwrap();
    place.verify().finds(&["00000002.history: corrupt"]);
    let place = Place::new();
    let (one, _) = three_timelines(&place);
    // Says that timeline 3 began later than its first segment.
    let wrong = format!("1\t0/{one:X}\tno reason\n2\t0/B00100\tno reason\n");
    place.put("00000003.history", wrong.as_bytes());
    let findings = place.verify().findings();
    assert!(findings.contains(&"00000003.history: wrong-name".to_owned()), "{findings:?}");
}

#[test]
fn a_full_segment_beside_its_partial_form_is_not_a_finding_but_encodings_that_differ_are() {
    let place = place(false);
    place.put(&format!("{}.partial", segment_name(1, 5)), &segments()[4]);
    place.verify().finds(&[]);
    let mut shorter = segments()[4].clone();
    shorter[MB - 8192 * 8..].fill(0);
    let plain = place.path("plain");
    fs::write(&plain, &shorter).unwrap();
    let out = Command::new("zstd").args(["-q", "-c"]).arg(&plain).output().unwrap();
    place.put(&format!("{}.zst", segment_name(1, 5)), &out.stdout);
    place.verify().finds(&["000000010000000000000005.zst: duplicate"]);
}

#[test]
fn what_does_not_belong_there_is_found() {
    let place = place(true);
    let host = walsafe_core::sys::host_name();
    let mut child = Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let stray = format!(".walsafe.{TWO}.{host}.{dead}.0.tmp");
    let live = format!(".walsafe.{TWO}.{host}.{}.0.tmp", std::process::id());
    for name in [&*stray, &*live, "notes.txt", "archtemp"] {
        place.put(name, b"x");
    }
    // The storage's own entries, which nobody can remove, are not findings.
    for name in ["lost+found", ".snapshot", ".zfs", ".autorelabel", "@eaDir", "aquota.group"] {
        fs::create_dir(place.path("archive").join(name)).unwrap();
    }
    fs::create_dir(place.path("archive/old")).unwrap();
    place.verify().finds(&[
        &format!("{stray}: stray-temporary"),
        "archtemp: unknown",
        "notes.txt: unknown",
        "old: unknown",
    ]);
}

/// What a pod left that does not come back stayed for ever, and nothing said that it may go.
#[test]
fn what_a_host_left_that_is_gone_is_removed_when_asked() {
    let place = place(true);
    let (old, young) =
        (format!(".walsafe.{TWO}.pod-1.7.0.tmp"), format!(".walsafe.{TWO}.pod-1.7.1.tmp"));
    for (name, hours) in [(&old, 25), (&young, 2)] {
        place.put(name, b"x");
        let file = fs::File::options().write(true).open(place.path("archive").join(name)).unwrap();
        let ago = std::time::Duration::from_secs(hours * 3600);
        file.set_modified(std::time::SystemTime::now() - ago).unwrap();
    }
    let archive = place.path("archive");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_walsafe"))
            .args(arguments)
            .arg(&archive)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let found = run(&["verify"]);
    let line = |name: &str| found.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(line(&old).contains("it may go (walsafe check --remove-stray)"), "{found}");
    assert!(!line(&young).contains("it may go"), "{found}");
    for arguments in [&["check"] as &[&str], &["check", "--read-only"]] {
        let said = run(arguments);
        assert!(said.contains("temporary files: 1 file left behind"), "{said}");
        assert!(archive.join(&old).exists());
    }
    let said = run(&["check", "--remove-stray"]);
    assert!(said.contains("temporary files: 1 file removed"), "{said}");
    assert!(!archive.join(&old).exists() && archive.join(&young).exists());
    assert!(run(&["check"]).contains("temporary files: none was left behind"));
}

#[test]
fn a_damaged_identity_file_is_found() {
    let place = place(true);
    place.put("walsafe_archive.id", b"format = 1\n");
    place.verify().finds(&["walsafe_archive.id: corrupt"]);
}

#[test]
fn without_an_identity_file_the_few_of_another_cluster_are_found() {
    let place = place(false);
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    place.verify().finds(&[]);
    place.put(TWO, &Wal::new(OURS + 1, 1).segments(2)[1]);
    place.verify().finds(&["000000010000000000000002: wrong-cluster"]);
}

#[test]
fn a_directory_that_is_not_an_archive_cannot_be_verified() {
    let place = Place::new();
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    let verify = |dir: &str| Run::of(walsafe().arg("verify").arg(place.path(dir)));
    verify("archive").says(2, "neither WAL nor an identity file");
    verify("missing").says(2, "could not open");
    verify("archive/none").says(2, "could not open");
    Run::of(walsafe().args(["verify", "--from", "nonsense"]).arg(place.path("archive")))
        .says(2, "neither an LSN nor a readable backup_label");
    Run::of(walsafe().arg("verify")).says(2, "walsafe verify --help");
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let place = place(true);
    for command in ["verify", "list", "manifest", "check"] {
        let expected = Run::of(walsafe().arg(command).arg(place.path("archive"))).status;
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = walsafe();
        let status = child.arg(command).arg(place.path("archive")).stdout(writer).status().unwrap();
        assert_eq!(status.code(), expected, "{command}");
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = walsafe();
    let run = child.arg("manifest").arg(place.path("archive")).stdout(full).output().unwrap();
    assert_eq!(run.status.code(), Some(2), "a manifest that was not written is not a success");
}

fn from(place: &Place, start: &str) -> Verified {
    Verified::of(walsafe().args(["verify", "--json", "--from", start]).arg(place.path("archive")))
}

#[test]
fn from_a_start_the_way_to_the_newest_wal_is_proved_over_timeline_switches() {
    let place = Place::new();
    three_timelines(&place);
    let verified = from(&place, "0/200028");
    verified.finds(&[]);
    let chain = &verified.report["from"];
    assert_eq!(chain["start_timeline"], 1);
    assert_eq!(chain["end_timeline"], 3);
    // The last record goes on in a segment that is not there: the server ends before it.
    assert_eq!(chain["end"], "0/BFFDC8");
    assert_eq!(chain["segments"], 10);
    // What lies before the start is not needed.
    change(&place, &segment_name(1, 1), |b| b[70_000] ^= 1);
    from(&place, "0/200028").finds(&[]);
    for (number, timeline) in [(3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (10, 3)] {
        let name = segment_name(timeline, number);
        let away = place.path("away");
        fs::rename(place.path("archive").join(&name), &away).unwrap();
        from(&place, "0/200028").finds(&[&format!("{name}: gap")]);
        fs::rename(&away, place.path("archive").join(&name)).unwrap();
    }
    change(&place, &segment_name(2, 6), |b| b[70_000] ^= 1);
    from(&place, "0/200028").finds(&["000000020000000000000006: corrupt"]);
}

#[test]
fn list_check_and_manifest_tell_what_there_is() {
    let place = Place::new();
    three_timelines(&place);
    let second = place.path("archive").join(segment_name(1, 2));
    let missing = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    let json = |command: &str| {
        let run = Run::of(walsafe().args([command, "--json"]).arg(place.path("archive")));
        serde_json::from_str::<serde_json::Value>(&run.out).unwrap()
    };
    let list = json("list");
    assert_eq!(list["system_identifier"], OURS.to_string());
    assert_eq!(list["segment_size"], MB);
    assert_eq!(list["timelines"][0]["ranges"].as_array().unwrap().len(), 2);
    assert_eq!(list["timelines"][1]["segments"], 4);
    assert_eq!(list["timelines"][2]["history"], true);

    fs::set_permissions(place.path("archive"), fs::Permissions::from_mode(0o700)).unwrap();
    let data = place.path("data");
    let check =
        |more: &[&str]| Run::of(walsafe().arg("check").args(more).arg(place.path("archive")));
    let run = check(&[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.out.contains("1 missing (000000010000000000000002)"), "{run:?}");
    fs::write(&second, missing).unwrap();
    assert_eq!(check(&[]).status, Some(0), "{:?}", check(&[]));
    assert!(check(&[]).out.starts_with("WALSAFE OK"));
    let run = check(&["--pgdata", data.to_str().unwrap()]);
    assert_eq!(run.status, Some(1), "one file system: {run:?}");
    fs::set_permissions(place.path("archive"), fs::Permissions::from_mode(0o777)).unwrap();
    let run = check(&[]);
    assert_eq!(run.status, Some(2));
    assert!(run.out.starts_with("WALSAFE CRITICAL - ownership"), "{run:?}");
    fs::set_permissions(place.path("archive"), fs::Permissions::from_mode(0o700)).unwrap();
    place.identity(OURS + 1);
    let run = check(&["--pgdata", data.to_str().unwrap()]);
    assert!(run.out.contains("error    identity"), "{run:?}");
    place.identity(OURS);
    Run::of(walsafe().arg("check")).says(3, "--help");
    let before = common::names(&place.path("archive"));
    check(&[]);
    assert_eq!(common::names(&place.path("archive")), before, "probes are removed");

    let manifest = json("manifest");
    let files = manifest["files"].as_array().unwrap();
    assert_eq!(files.len(), before.len());
    assert_eq!(files[0]["source"], "read");
    let contents = fs::read(place.path("archive").join(segment_name(1, 1))).unwrap();
    let digest = walsafe_core::encoding::digest::Digest::of(&contents).to_string();
    let run = Run::of(walsafe().arg("manifest").arg(place.path("archive")));
    assert!(run.out.contains(&format!("{digest}  {}\n", segment_name(1, 1))), "{run:?}");
}

/// Each gave the archiver's hint: create the directory of "walsafe_archive.destination", and "archiving
/// goes on by itself".
#[test]
fn a_missing_archive_is_reported_in_words_for_whoever_looks_at_it() {
    let place = Place::new();
    fs::remove_dir_all(place.path("archive")).unwrap();
    let data = place.path("data");
    for command in [&["verify"][..], &["list"], &["manifest"], &["init", "--pgdata"], &["check"]] {
        let mut run = walsafe();
        run.args(command);
        if command.len() > 1 {
            run.arg(&data);
        }
        let run = Run::of(run.arg(place.path("archive")));
        let said = format!("{}{}", run.out, run.err);
        assert_eq!(run.status, Some(2), "{command:?}: {said}");
        assert!(said.contains("could not open the archive directory"), "{command:?}: {said}");
        assert!(said.contains("Create or mount the directory, or correct its path."), "{said}");
        assert!(!said.contains("Archiving") && !said.contains("walsafe_archive."), "{said}");
    }
    // Something that is not a data directory.
    fs::create_dir(place.path("archive")).unwrap();
    let run = Run::of(walsafe().args(["init", "--pgdata", "/nowhere"]).arg(place.path("archive")));
    run.says(2, "could not read \"global/pg_control\"");
    run.says(2, "Is this the cluster's data directory?");
}
