//! `walsafe restore` from two archives: the first sound copy is given, and only both together tell where the WAL
//! ends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{MB, OURS, Place, Run, Wal, segment_name, segments, set_digests, walsafe};
use walsafe_core::store::identity::Identity;
use walsafe_core::wal::name::FileName;

/// A data directory and two archives, `archive` and `second`, the first of which is named first.
struct Two(Place);

impl Two {
    /// With these segments of timeline 1 in each.
    fn with(first: &[u32], second: &[u32]) -> Self {
        let two = Self(Place::new());
        fs::create_dir(two.second()).unwrap();
        mark(&two.second(), OURS, None);
        for (dir, numbers) in [(two.first(), first), (two.second(), second)] {
            numbers.iter().for_each(|number| put_segment(&dir, *number));
        }
        two
    }

    fn first(&self) -> PathBuf {
        self.0.path("archive")
    }

    fn second(&self) -> PathBuf {
        self.0.path("second")
    }

    /// The call that a server makes, without patience.
    fn command(&self, file: &str) -> Command {
        let mut command = self.command_to(file, Path::new("pg_wal/RECOVERYXLOG"));
        command.arg("--patience=0");
        command
    }

    fn command_to(&self, file: &str, target: &Path) -> Command {
        let mut command = walsafe();
        command.arg("restore").arg("--from").arg(self.first()).arg("--from").arg(self.second());
        command.arg(file).arg(target).current_dir(self.0.path("data"));
        command
    }

    fn restore(&self, number: u32) -> Run {
        self.restore_file(&segment_name(1, number))
    }

    fn restore_file(&self, file: &str) -> Run {
        Run::of(&mut self.command(file))
    }

    /// From the second alone.
    fn second_alone(&self, file: &str) -> Run {
        let mut command = walsafe();
        command.arg("restore").arg("--from").arg(self.second());
        Run::of(
            command
                .args(["--patience=0", file, "pg_wal/RECOVERYXLOG"])
                .current_dir(self.0.path("data")),
        )
    }

    fn standby(&self) {
        fs::write(self.0.path("data/standby.signal"), "").unwrap();
    }

    /// An archive that failed is asked last for a minute, and a standby is told the same once a minute. Lets that
    /// minute pass.
    fn forget(&self) {
        for file in ["said", "failed"] {
            let _ =
                fs::remove_file(self.0.path(&format!("data/pg_stat_tmp/walsafe_restore.{file}")));
        }
    }

    /// The restored file, which is removed.
    fn taken(&self) -> Vec<u8> {
        let bytes = fs::read(self.0.target()).unwrap();
        fs::remove_file(self.0.target()).unwrap();
        bytes
    }
}

fn mark(dir: &Path, system_identifier: u64, begins_with: Option<&str>) {
    let begins_with = begins_with.map(|name| FileName::new(name).unwrap());
    let identity = Identity::new(system_identifier).beginning_with(begins_with);
    fs::write(dir.join("walsafe_archive.id"), identity.to_string()).unwrap();
}

fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    set_digests(&path, bytes, bytes);
}

fn segment(number: u32) -> Vec<u8> {
    segments()[number as usize - 1].clone()
}

fn put_segment(dir: &Path, number: u32) {
    put(dir, &segment_name(1, number), &segment(number));
}

/// A segment whose WAL ends early, as that of a standby that was promoted.
fn short(number: u32, pages: usize) -> Vec<u8> {
    let mut short = segment(number);
    short[pages * 8192..].fill(0);
    short
}

/// With one archive there was nothing to choose; a second `--from` was an error.
#[test]
fn the_first_archive_that_has_the_file_gives_it() {
    let two = Two::with(&[1, 2], &[2, 3]);
    for number in 1..=3 {
        two.restore(number).delivers();
        assert!(two.taken() == segment(number), "{number}");
    }
    let said =
        |number: u32, option: &str| Run::of(two.command(&segment_name(1, number)).arg(option));
    for (number, from) in [(2, two.first()), (3, two.second())] {
        let line = format!("was restored from \"{}\"", from.display());
        for option in ["-v", "--verbose"] {
            let run = said(number, option);
            run.says(0, &format!("\"{}\" {line}", segment_name(1, number)));
            assert!(run.err.ends_with(&format!("{line}\n")), "{run:?}");
        }
        let run = said(number, "--json");
        let json: serde_json::Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!((run.status, &*run.err), (Some(0), ""));
        assert_eq!(json["from"], from.to_str().unwrap());
        assert_eq!(
            (&json["file"], &json["exit_status"]),
            (&segment_name(1, number).into(), &0.into())
        );
    }
}

/// With one archive, each of these stops the recovery. With a sound copy beside it, the recovery goes on, and
/// somebody is told.
#[test]
fn a_copy_that_is_of_no_use_in_the_first_archive_is_taken_from_the_second() {
    type Break = fn(&Path);
    let name = segment_name(1, 2);
    let troubles: [(Break, &str); 7] = [
        (|file| flip(file), "(digest-mismatch)."),
        (|file| fs::write(file, &segment(2)[..MB / 2]).unwrap(), "(truncated)."),
        (|file| fs::write(file, b"").unwrap(), "(truncated)."),
        (|file| put(file.parent().unwrap(), &segment_name(1, 2), &segment(3)), "(wrong-name)."),
        (
            |file| {
                let other = Wal::new(OURS + 1, 1).segments(2).remove(1);
                put(file.parent().unwrap(), &segment_name(1, 2), &other);
            },
            "(wrong-cluster).",
        ),
        (
            |file| {
                fs::remove_file(file).unwrap();
                fs::create_dir(file).unwrap();
            },
            "is a directory.",
        ),
        (
            |file| {
                fs::remove_file(file).unwrap();
                symlink("elsewhere", file).unwrap();
            },
            "is a symbolic link.",
        ),
    ];
    for (make, text) in troubles {
        let two = Two::with(&[1, 2, 3], &[1, 2, 3]);
        make(&two.first().join(&name));
        for standby in [false, true] {
            let run = two.restore(2);
            run.says(0, text);
            let line = format!(
                "\"{name}\" was restored from \"{}\" and not from \"{}\": ",
                two.second().display(),
                two.first().display()
            );
            run.says(0, &line);
            assert!(two.taken() == segment(2));
            // The archive as a whole is sound.
            two.restore(1).delivers();
            let run = Run::of(two.command(&segment_name(1, 1)).arg("-v"));
            run.says(0, &format!("from \"{}\"", two.first().display()));
            assert!(two.taken() == segment(1));
            two.forget();
            if !standby {
                two.standby();
            }
        }
        // Neither has a sound one.
        flip(&two.second().join(&name));
        let run = two.restore(2);
        run.says(1, "no archive gives a sound copy of the file");
        run.says(1, "(digest-mismatch).");
        fs::remove_file(two.0.path("data/standby.signal")).unwrap();
        let run = two.restore(2);
        run.says(126, text);
        run.says(126, "(digest-mismatch).");
        assert!(!run.err.contains("leave "), "{run:?}");
        assert_eq!(two.0.pg_wal(), Vec::<String>::new());
    }
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[70_000] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

type Break = fn(&Two);

/// The first archive as a whole is in trouble: what is wrong, and what is said of it.
const AWAY: [(Break, &str); 5] = [
    (
        |two| fs::rename(two.first(), two.0.path("away")).unwrap(),
        "Could not open the archive directory: ",
    ),
    (
        |two| fs::remove_file(two.first().join("walsafe_archive.id")).unwrap(),
        "has no identity file: ",
    ),
    (|two| mark(&two.first(), OURS + 1, None), "belongs to another cluster: "),
    (
        |two| fs::write(two.first().join("walsafe_archive.id"), "x").unwrap(),
        "cannot be understood: ",
    ),
    (
        |two| {
            fs::rename(two.first(), two.0.path("away")).unwrap();
            fs::write(two.first(), "").unwrap();
        },
        "Could not open the archive directory: ",
    ),
];

/// It cost each file what it costs to find out that an archive is gone, and a line in the log.
#[test]
fn an_archive_that_failed_is_asked_last_for_a_minute() {
    for (make, text) in AWAY {
        let two = Two::with(&[1, 2, 3], &[1, 2, 3]);
        let (first, second) = (two.first(), two.second());
        make(&two);
        for _ in 0..2 {
            let run = two.restore(1);
            run.says(0, text);
            let line =
                format!("from \"{}\" and not from \"{}\"", second.display(), first.display());
            run.says(0, &line);
            two.restore(2).delivers();
            two.restore(3).delivers();
            two.forget();
        }
        // It is asked all the same where the others do not have the file.
        two.restore(1).says(0, text);
        if two.0.path("away").exists() {
            let _ = fs::remove_file(&first);
            fs::rename(two.0.path("away"), &first).unwrap();
        }
        mark(&first, OURS, None);
        put_segment(&first, 4);
        two.restore(4).delivers();
        // And first again when the minute is over.
        let by = |run: Run| run.err.contains(&format!("from \"{}\"", first.display()));
        let verbose = || Run::of(two.command(&segment_name(1, 1)).arg("-v"));
        assert!(!by(verbose()));
        two.forget();
        assert!(by(verbose()));
    }
}

/// With `||` between two calls, a recovery ended where the archive that could be read ends.
#[test]
fn the_end_of_the_wal_needs_both_archives() {
    for (make, text) in AWAY {
        let two = Two::with(&[1, 2, 3, 4, 5], &[1, 2, 3]);
        let first = format!("\"{}\"", two.first().display());
        make(&two);
        let run = two.restore(4);
        run.says(126, "the file may be in an archive that cannot be read: ");
        run.says(126, text);
        run.says(126, &first);
        run.says(
            126,
            "\"000000010000000000000004\" is in none of the other archives: the last file of timeline 1 there is 000000010000000000000003.",
        );
        let leave = format!(
            "To accept that the WAL ends where the others end, leave {first} out of --from."
        );
        run.says(126, &leave);
        two.second_alone(&segment_name(1, 4)).says(1, "is not in the archive: the last file");
        let history = two.restore_file("00000002.history");
        history.says(126, "is in none of the other archives, nor is any WAL of timeline 2.");
        history.says(126, &leave);
        // What the others have decides what it would mean to leave one out.
        put_segment(&two.second(), 5);
        let run = two.restore(4);
        run.says(126, "In the other archives, 000000010000000000000004 is missing and 000000010000000000000005 is there.");
        assert!(!run.err.contains("leave "), "{run:?}");
        let hole =
            Run::of(two.command(&segment_name(1, 4)).args(["--end-at-hole", &segment_name(1, 4)]));
        hole.says(126, "the file may be in an archive that cannot be read: ");
        // A standby tries again.
        two.standby();
        two.restore(4).says(1, text);
        let brief = Run::of(two.command("00000002.history").arg("--stall-timeout=0"));
        brief.says(1, "A promotion now may take a timeline number that is in use.");
        assert_eq!(
            Run::of(two.command(&segment_name(1, 4)).arg("--on-error=stop")).status,
            Some(126)
        );
        assert_eq!(two.0.pg_wal(), Vec::<String>::new());
    }
    // Both away.
    let two = Two::with(&[], &[]);
    fs::remove_dir_all(two.first()).unwrap();
    fs::remove_dir_all(two.second()).unwrap();
    let run = two.restore(1);
    for dir in [two.first(), two.second()] {
        run.says(126, &format!("Could not open the archive directory: \"{}\"", dir.display()));
    }
    assert!(!run.err.contains("leave "), "{run:?}");
}

/// Each archive for itself ended a recovery where it ends, or saw holes that the other fills.
#[test]
fn the_archives_are_one_where_the_end_and_holes_are_told() {
    let two = Two::with(&[1, 3], &[2, 5]);
    for number in [1, 2, 3, 5] {
        two.restore(number).delivers();
    }
    let both = format!("In \"{}\" and \"{}\", ", two.first().display(), two.second().display());
    let run = two.restore(4);
    run.says(126, "the file is missing from the archive, and later WAL is there: ");
    run.says(
        126,
        &format!(
            "{both}000000010000000000000004 is missing and 000000010000000000000005 is there."
        ),
    );
    two.restore(6).says(
        1,
        "is in none of the archives: the last file of timeline 1 there is 000000010000000000000005",
    );
    two.restore_file("00000002.history")
        .says(1, "is in none of the archives, nor is any WAL of timeline 2");
    let ends = |file: &str| Run::of(two.command(file).args(["--end-at-hole", &segment_name(1, 4)]));
    ends(&segment_name(1, 4))
        .says(1, "000000010000000000000005 is there; recovery ends here because --end-at-hole");
    // A file in pg_wal fills a hole as ever.
    fs::write(two.0.path("data/pg_wal").join(segment_name(1, 4)), segment(4)).unwrap();
    two.restore(4).says(1, "is in none of the archives, but it is in pg_wal");
    // Nobody finds that out for a standby.
    two.standby();
    two.restore(6).says(1, "is in none of the archives\n");
}

#[test]
fn a_file_that_comes_into_the_second_archive_is_waited_for() {
    let two = Two::with(&[1, 3], &[1]);
    let target = two.0.target();
    let mut child = two.command_to(&segment_name(1, 2), &target).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    fs::write(two.0.path("coming"), segment(2)).unwrap();
    fs::rename(two.0.path("coming"), two.second().join(segment_name(1, 2))).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(two.taken() == segment(2));
}

/// A timeline that only one archive knows is as good as one that both know.
#[test]
fn history_files_of_either_archive_count() {
    let two = Two::with(&[1, 2, 3], &[]);
    put(&two.second(), &segment_name(2, 5), &Wal::new(OURS, 1).segments(5)[4]);
    two.restore_file("00000002.history")
        .says(126, "the history of timeline 2 is missing and 000000020000000000000005 is there");
    let history = b"1\t0/500200\tno recovery target specified\n";
    put(&two.second(), "00000002.history", history);
    two.restore_file("00000002.history").delivers();
    assert_eq!(two.taken(), history);
    // Timeline 1 went on to segment 5, of which timeline 2 has the copy.
    two.restore(4).says(126, "timeline 2 branched off after it at 0/500200");
    // The same if the first archive has a history file that cannot be read.
    put(&two.first(), "00000002.history", b"");
    two.restore(4).says(126, "timeline 2 branched off after it at 0/500200");
    two.restore_file("00000002.history").says(0, "(truncated).");
    assert_eq!(two.taken(), history);
    // What is in between is told by a later one.
    fs::remove_file(two.first().join("00000002.history")).unwrap();
    put(&two.first(), "00000003.history", b"1\t0/500200\tx\n2\t0/700200\tx\n");
    fs::remove_file(two.second().join("00000002.history")).unwrap();
    let run = two.restore_file("00000002.history");
    run.says(126, "\"00000003.history\" names that timeline as an ancestor");
    run.says(126, "printf '1\\t0/500200\\t");
}

/// A segment that ends early ends the recovery, be it delivered or not.
#[test]
fn a_segment_that_ends_early_is_given_only_if_no_archive_has_more() {
    let three = segment_name(1, 3);
    // The same segment, whole, in the second.
    let two = Two::with(&[1, 2], &[1, 2, 3]);
    put(&two.first(), &three, &short(3, 50));
    let run = two.restore(3);
    run.says(0, &format!("and \"{}\" is whole (corrupt).", two.second().join(&three).display()));
    assert!(two.taken() == segment(3));
    // Shorter there, and longer.
    put(&two.second(), &three, &short(3, 20));
    two.restore(3).delivers();
    assert!(two.taken() == short(3, 50));
    put(&two.second(), &three, &short(3, 90));
    two.restore(3).says(0, "before the segment does, and that of ");
    assert!(two.taken() == short(3, 90));
    // Nobody knows how far a damaged one goes.
    flip(&two.second().join(&three));
    two.restore(3).says(126, "no archive gives a sound copy of the file");
    // Later WAL, in the second only.
    fs::remove_file(two.second().join(&three)).unwrap();
    two.restore(3).delivers();
    put_segment(&two.second(), 4);
    two.restore(3).says(126, "and 000000010000000000000004 is there (corrupt).");
    fs::remove_file(two.second().join(segment_name(1, 4))).unwrap();
    // And where the second cannot be asked.
    two.restore(3).delivers();
    fs::rename(two.second(), two.0.path("away")).unwrap();
    let run = two.restore(3);
    run.says(
        126,
        "the file may be in an archive that cannot be read: The archived file may lack its end: ",
    );
    run.says(126, &format!("leave \"{}\" out of --from.", two.second().display()));
    two.restore(2).delivers();
}

/// It was a hole like any other, and the hint spoke of `walsafe push`.
#[test]
fn an_archive_that_was_begun_later_says_so_and_another_one_is_asked() {
    let two = Two::with(&[1, 2, 3], &[4, 5]);
    let four = segment_name(1, 4);
    mark(&two.second(), OURS, Some(&four));
    let run = two.second_alone(&segment_name(1, 2));
    run.says(126, "the archive was begun later, and does not have the file: ");
    run.says(
        126,
        &format!(
            "\"{}\" was begun with {four}. Look for the file in another archive",
            two.second().display()
        ),
    );
    (1..=5).for_each(|number| two.restore(number).delivers());
    two.restore(6).says(1, "is in none of the archives");
    two.second_alone(&segment_name(1, 6)).says(1, "is not in the archive");
    // Missing from the one that should have it.
    fs::remove_file(two.first().join(segment_name(1, 2))).unwrap();
    two.restore(2)
        .says(126, "000000010000000000000002 is missing and 000000010000000000000003 is there");
    // Nothing but the name of its first file shows that there was WAL before.
    fs::remove_file(two.first().join(segment_name(1, 3))).unwrap();
    for number in [4, 5] {
        fs::remove_file(two.second().join(segment_name(1, number))).unwrap();
    }
    let begun = format!(
        "000000010000000000000003 is missing and \"{}\" was begun with {four}.",
        two.second().display()
    );
    two.restore(3).says(126, &begun);
    two.second_alone(&segment_name(1, 3)).says(126, "was begun later");
    two.restore(4).says(1, "is in none of the archives");
    two.restore_file(&segment_name(2, 3)).says(1, "is in none of the archives");
    // Begun with a later timeline, whose segments alone show no more than they do.
    mark(&two.second(), OURS, Some(&segment_name(2, 4)));
    two.restore(3).says(1, "is in none of the archives");
    put_segment(&two.second(), 5);
    two.second_alone(&segment_name(1, 3)).says(126, "was begun later");
    // Away from the one that should have it, and with all begun later.
    fs::rename(two.first(), two.0.path("away")).unwrap();
    let run = two.restore(3);
    run.says(126, "Could not open the archive directory: ");
    run.says(126, " was begun with 000000020000000000000004.");
    assert!(!run.err.contains("leave "), "{run:?}");
    fs::rename(two.0.path("away"), two.first()).unwrap();
    mark(&two.first(), OURS, Some(&four));
    let run = two.restore(3);
    run.says(126, "was begun later");
    run.says(126, &format!("\"{}\" was begun with {four}.", two.first().display()));
    let run =
        Run::of(two.command(&segment_name(1, 3)).args(["--end-at-hole", &segment_name(1, 3)]));
    run.says(1, "recovery ends here because --end-at-hole says so");
    two.standby();
    two.restore(3).says(1, "is in none of the archives");
    Run::of(two.command(&segment_name(1, 3)).arg("--on-error=stop")).says(126, "was begun later");
}

#[test]
fn what_is_accepted_with_one_archive_is_accepted_with_two() {
    // No identity file in the first.
    let two = Two::with(&[1, 2], &[3]);
    fs::remove_file(two.first().join("walsafe_archive.id")).unwrap();
    let run = |number: u32| Run::of(two.command(&segment_name(1, number)).arg("--allow-unmarked"));
    (1..=3).for_each(|number| run(number).delivers());
    run(4).says(1, "is in none of the archives");
    // It is no archive at all, as under an unmounted mount point.
    for number in [1, 2] {
        fs::remove_file(two.first().join(segment_name(1, number))).unwrap();
    }
    run(3).delivers();
    let away = run(4);
    away.says(126, "The archive holds neither WAL nor an identity file: ");
    away.says(126, &format!("leave \"{}\" out of --from.", two.first().display()));

    // WAL of an unknown kind, let in by the second only.
    let encrypted: Vec<u8> = segment(2).iter().map(|byte| byte.wrapping_mul(7) ^ 0xa5).collect();
    let two = Two::with(&[1], &[1]);
    let name = segment_name(1, 2);
    put(&two.first(), &name, &encrypted);
    put(&two.second(), &name, &encrypted);
    two.restore(2).says(126, "not in a known format of WAL");
    Run::of(two.command(&name).arg("--allow-unchecked"))
        .says(0, "was restored, but its records were not checked");
    common::set_checked(&two.second().join(&name), "off");
    let run = two.restore(2);
    run.says(0, ", but its records were not checked: ");
    run.says(
        0,
        &format!("\"{name}\" was restored from \"{}\" and not from ", two.second().display()),
    );
    // No server asks for a name of no known kind; both are looked through.
    let run = two.restore_file("whatever");
    run.says(126, "its name is not of a known kind: ");
    run.says(
        126,
        &format!("\"{}\" and \"{}\" were searched.", two.first().display(), two.second().display()),
    );
    fs::write(two.second().join("whatever"), "x").unwrap();
    two.restore_file("whatever").delivers();
}

/// What is wrong where the file is to be put is not the archive's fault, and another one would not help.
#[test]
fn trouble_with_the_target_is_no_trouble_of_an_archive() {
    let two = Two::with(&[1], &[1]);
    fs::create_dir_all(two.0.target()).unwrap();
    let run = two.restore(1);
    run.says(126, "could not write the restored file: ");
    fs::remove_dir(two.0.target()).unwrap();
    let run = Run::of(two.command(&segment_name(1, 1)).arg("-v"));
    run.says(0, &format!("from \"{}\"", two.first().display()));
    // Into the second archive, and into a marked one.
    let into = |dir: &Path| Run::of(&mut two.command_to(&segment_name(1, 1), &dir.join("target")));
    into(&two.second()).says(126, "nothing in one is replaced");
    into(&two.first()).says(126, "nothing in one is replaced");
}

/// A standby looks for a history file while one archive is away: what the other does not have may be there.
#[test]
fn a_standby_waits_for_a_history_file_until_all_archives_can_be_asked() {
    let two = Two::with(&[1], &[1]);
    put(&two.first(), "00000002.history", b"1\t0/200100\tno reason\n");
    two.standby();
    let (first, away) = (two.first(), two.0.path("away"));
    fs::rename(&first, &away).unwrap();
    let began = Instant::now();
    let mut child = two.command("00000002.history").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    assert!(child.try_wait().unwrap().is_none(), "it gave up at once");
    fs::rename(&away, &first).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20));
}
