//! The exit statuses of `walsafe restore`, row by row: what a server in recovery is told.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{MB, OURS, Place, Run, Wal, control, segment_name, segments, walsafe};

const ONE: &str = "000000010000000000000001";
const TWO: &str = "000000010000000000000002";
const THREE: &str = "000000010000000000000003";

/// Where the archive is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Directory,
    Bucket,
    #[cfg(feature = "azure")]
    Azure,
    #[cfg(feature = "gcs")]
    Google,
}

impl At {
    /// An archive without WAL.
    fn empty(self) -> Place {
        match self {
            Self::Directory => Place::new(),
            Self::Bucket => Place::in_bucket(),
            #[cfg(feature = "azure")]
            Self::Azure => Place::in_bucket_of(common::Language::Azure),
            #[cfg(feature = "gcs")]
            Self::Google => Place::in_bucket_of(common::Language::Google),
        }
    }

    /// An archive with segments 1 to 3 of timeline 1.
    fn place(self) -> Place {
        let place = self.empty();
        for (number, segment) in (1..).zip(segments().iter().take(3)) {
            place.put_with_digest(&segment_name(1, number), segment);
        }
        place
    }

    /// What is said of an archive that is away, and what to do about it.
    fn away(self) -> [&'static str; 2] {
        match self {
            Self::Directory => ["could not open", "mounted"],
            Self::Bucket => ["NoSuchBucket", "name of the bucket"],
            #[cfg(feature = "azure")]
            Self::Azure => ["ContainerNotFound", "name of the bucket"],
            #[cfg(feature = "gcs")]
            Self::Google => ["NoSuchBucket", "name of the bucket"],
        }
    }
}

fn place() -> Place {
    At::Directory.place()
}

/// The cases that are the same wherever the archive is.
macro_rules! wherever_the_archive_is {
    ($($case:ident,)*) => {
        mod directory {
            $(#[test] fn $case() { super::$case(super::At::Directory); })*
        }
        #[cfg(feature = "s3")]
        mod bucket {
            $(#[test] fn $case() { super::$case(super::At::Bucket); })*
        }
        #[cfg(feature = "azure")]
        mod azure {
            $(#[test] fn $case() { super::$case(super::At::Azure); })*
        }
        #[cfg(feature = "gcs")]
        mod google {
            $(#[test] fn $case() { super::$case(super::At::Google); })*
        }
    };
}

wherever_the_archive_is! {
    a_delivered_segment_is_whole_private_fully_allocated_and_a_file_of_its_own,
    what_stood_at_the_target_is_replaced_and_never_written_into,
    the_file_is_found_in_any_encoding,
    a_segment_after_the_last_one_is_the_end_of_the_wal,
    segments_of_other_timelines_make_no_hole,
    the_history_of_a_timeline_without_segments_need_not_be_there,
    a_missing_history_of_a_timeline_with_segments_stops,
    a_hole_is_looked_at_for_five_seconds_and_then_stops,
    a_file_that_is_published_after_a_later_one_is_waited_for,
    a_later_partial_segment_shows_a_hole_too,
    a_timeline_that_branched_off_later_shows_a_hole_too,
    a_segment_that_is_in_pg_wal_is_not_a_hole,
    a_recycled_file_of_that_name_in_pg_wal_fills_no_hole,
    every_trouble_stops_a_recovery_and_lets_a_standby_try_again,
    a_hole_lets_a_standby_try_again,
    on_error_overrides_what_the_kind_of_recovery_says,
    an_unmarked_archive_is_accepted_only_when_asked_for,
    the_control_file_in_the_working_directory_counts_where_it_can_be_read,
    without_digests_headers_and_records_are_checked,
    of_two_encodings_a_sound_one_is_delivered_and_two_that_differ_are_not,
    records_are_checked_whatever_a_digest_says,
    a_torn_end_with_old_contents_behind_it_is_the_end_of_the_wal,
    evidence_that_is_older_than_ten_minutes_is_not_looked_at_again,
    a_hole_is_the_end_only_where_it_is_named,
    an_idle_standby_says_the_same_at_most_once_a_minute,
    wal_of_an_unknown_kind_is_delivered_where_the_archive_says_that_it_was_let_in_so,
    where_files_carry_nothing_a_marker_says_that_wal_was_let_in_unchecked,
    encrypted_records_behind_readable_headers_are_of_an_unknown_kind_too,
    a_newer_servers_wal_is_delivered_by_its_digest_where_it_was_let_in_so,
    a_standby_looks_for_a_history_file_until_the_archive_is_out_of_trouble,
    history_and_backup_history_files_are_delivered_and_checked,
    a_target_that_cannot_be_written_stops,
    the_line_can_be_json,
}

fn standby(place: &Place) {
    fs::write(place.path("data/standby.signal"), "").unwrap();
}

/// A standby says the same line once a minute. Lets that minute pass.
fn forget(place: &Place) {
    let _ = fs::remove_file(place.path("data/pg_stat_tmp/walsafe_restore.said"));
}

fn a_delivered_segment_is_whole_private_fully_allocated_and_a_file_of_its_own(at: At) {
    let place = at.place();
    // The last one: it ends early, with a hole in the archive where it has zeros.
    let mut sparse = segments()[2].clone();
    sparse[10 * 8192..].fill(0);
    let archived = place.put(THREE, &[]);
    fs::File::options().write(true).open(&archived).unwrap().set_len(MB as u64).unwrap();
    let file = fs::File::options().write(true).open(&archived).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &sparse[..10 * 8192], 0).unwrap();
    common::set_digests(&archived, &sparse, &sparse);
    place.restore(THREE).delivers();
    assert_eq!(fs::read(place.target()).unwrap(), sparse);
    let (stored, restored) = (archived.metadata().unwrap(), place.target().metadata().unwrap());
    assert!(stored.blocks() * 512 < MB as u64, "the archived file has no hole to begin with");
    assert!(restored.blocks() * 512 >= MB as u64, "{} blocks", restored.blocks());
    assert_ne!(stored.ino(), restored.ino());
    assert_eq!(restored.nlink(), 1);
    assert_eq!(restored.permissions().mode() & 0o7777, 0o600);
    assert_eq!(place.pg_wal(), ["RECOVERYXLOG"]);
}

fn what_stood_at_the_target_is_replaced_and_never_written_into(at: At) {
    let place = at.place();
    fs::write(place.path("data/elsewhere"), "keep").unwrap();
    symlink("../elsewhere", place.target()).unwrap();
    place.restore(ONE).delivers();
    assert!(place.target().symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read(place.path("data/elsewhere")).unwrap(), b"keep");
}

fn the_file_is_found_in_any_encoding(at: At) {
    let segment = &segments()[0];
    for (extension, tool) in [("zst", "zstd"), ("lz4", "lz4"), ("gz", "gzip")] {
        let place = at.empty();
        place.put(ONE, segment);
        let encoded = Command::new(tool)
            .args(["-q", "-c"])
            .arg(place.path("archive").join(ONE))
            .output()
            .unwrap();
        assert!(encoded.status.success(), "{tool} is needed by this test");
        fs::remove_file(place.path("archive").join(ONE)).unwrap();
        let path = place.put(&format!("{ONE}.{extension}"), &encoded.stdout);
        place.restore(ONE).delivers();
        assert_eq!(&fs::read(place.target()).unwrap(), segment);
        // The same with digests.
        common::set_digests(&path, &encoded.stdout, segment);
        place.restore(ONE).delivers();
        assert_eq!(&fs::read(place.target()).unwrap(), segment);
    }
}

fn a_segment_after_the_last_one_is_the_end_of_the_wal(at: At) {
    let place = at.place();
    let started = Instant::now();
    place
        .restore(&segment_name(1, 4))
        .says(1, "the last file of timeline 1 there is 000000010000000000000003");
    assert!(started.elapsed() < Duration::from_secs(4), "nothing to wait for");
    assert_eq!(place.pg_wal(), Vec::<String>::new());
}

fn segments_of_other_timelines_make_no_hole(at: At) {
    let place = at.place();
    place.put(&segment_name(2, 9), &segments()[0]);
    place.restore(&segment_name(1, 4)).says(1, "the last file of timeline 1 there is ");
    place
        .restore(&segment_name(3, 1))
        .says(1, "is not in the archive, nor is any WAL of timeline 3");
}

fn the_history_of_a_timeline_without_segments_need_not_be_there(at: At) {
    let place = at.place();
    place
        .restore("00000002.history")
        .says(1, "is not in the archive, nor is any WAL of timeline 2");
    // The first timeline has segments but no history file.
    place.restore("00000001.history").says(1, "does not exist: the first timeline has no history");
}

fn a_missing_history_of_a_timeline_with_segments_stops(at: At) {
    let place = at.place();
    place.put(&segment_name(2, 3), &segments()[2]);
    place.restore("00000002.history").says(126, "the history of timeline 2 is missing");
}

fn a_hole_is_looked_at_for_five_seconds_and_then_stops(at: At) {
    let place = at.place();
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    let started = Instant::now();
    place.restore(TWO).says(126, "000000010000000000000003 is there");
    let took = started.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(9)).contains(&took), "{took:?}");
}

fn a_file_that_is_published_after_a_later_one_is_waited_for(at: At) {
    let place = at.place();
    let (from, to) = (place.path("archive").join(TWO), place.path("away"));
    fs::rename(&from, &to).unwrap();
    let mut child = place.restore_command(TWO).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    fs::rename(&to, &from).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read(place.target()).unwrap(), fs::read(&from).unwrap());
}

fn a_later_partial_segment_shows_a_hole_too(at: At) {
    let place = at.place();
    place.put("000000010000000000000005.partial", &segments()[4]);
    place.restore(&segment_name(1, 4)).says(126, "000000010000000000000005 is there");
    // The partial form of the very segment is where a timeline ends.
    place.restore(&segment_name(1, 5)).says(1, "the last file of timeline 1 there is ");
}

fn a_timeline_that_branched_off_later_shows_a_hole_too(at: At) {
    let place = at.place();
    place.put(&segment_name(2, 5), &Wal::new(OURS, 1).segments(5)[4]);
    place.put("00000002.history", b"1\t0/500200\tno recovery target specified\n");
    // Timeline 1 went on to segment 5, of which timeline 2 has the copy.
    place.restore(&segment_name(1, 4)).says(126, "timeline 2 branched off after it at 0/500200");
    place.restore(&segment_name(1, 5)).says(1, "the last file of timeline 1 there is ");
}

fn a_segment_that_is_in_pg_wal_is_not_a_hole(at: At) {
    let place = at.place();
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    fs::write(place.path("data/pg_wal").join(TWO), &segments()[1]).unwrap();
    place.restore(TWO).says(1, "but it is in pg_wal");
}

fn a_recycled_file_of_that_name_in_pg_wal_fills_no_hole(at: At) {
    let place = at.place();
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    fs::write(place.path("data/pg_wal").join(TWO), &segments()[0]).unwrap();
    place.restore(TWO).says(126, "000000010000000000000003 is there");
}

fn every_trouble_stops_a_recovery_and_lets_a_standby_try_again(at: At) {
    type Break = fn(&Place);
    let troubles: [(&str, Break, &str); 12] = [
        ("flipped", |p| flip(p, TWO, 70_000), "digest-mismatch"),
        ("truncated", |p| drop(p.put(TWO, &segments()[1][..MB / 2])), "truncated"),
        ("empty", |p| drop(p.put(TWO, b"")), "truncated"),
        ("longer", |p| longer(p), "corrupt"),
        ("another segment", |p| copy(p, THREE, TWO), "wrong-name"),
        ("another cluster's", |p| foreign(p), "wrong-cluster"),
        ("a directory", |p| directory(p), "is a directory"),
        ("a link", |p| link(p), "is a symbolic link"),
        ("another archive", |p| p.identity(OURS + 1), "belongs to another cluster"),
        ("no identity", |p| unmark(p), "no identity file"),
        ("bad identity", |p| drop(p.put("walsafe_archive.id", b"x")), "cannot be understood"),
        ("no archive", |p| fs::remove_dir_all(p.path("archive")).unwrap(), at.away()[0]),
    ];
    for (name, make, text) in troubles {
        // An object is a file.
        if at != At::Directory && text.starts_with("is a ") {
            continue;
        }
        let place = at.place();
        make(&place);
        let run = place.restore(TWO);
        println!("{name}: {}", run.err.trim());
        run.says(126, text);
        standby(&place);
        place.restore(TWO).says(1, text);
        assert_eq!(place.pg_wal(), Vec::<String>::new(), "{name}");
    }
}

fn flip(place: &Place, name: &str, at: usize) {
    let path = place.path("archive").join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(&path, bytes).unwrap();
}

fn longer(place: &Place) {
    let mut bytes = segments()[1].clone();
    bytes.push(0);
    place.put(TWO, &bytes);
}

/// Puts one segment under the name of another, its attributes with it.
fn copy(place: &Place, from: &str, to: &str) {
    let bytes = fs::read(place.path("archive").join(from)).unwrap();
    place.put_with_digest(to, &bytes);
}

fn foreign(place: &Place) {
    place.put_with_digest(TWO, &Wal::new(OURS + 1, 1).segments(2)[1]);
}

fn directory(place: &Place) {
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    fs::create_dir(place.path("archive").join(TWO)).unwrap();
}

fn link(place: &Place) {
    let path = place.path("archive").join(TWO);
    fs::rename(&path, place.path("elsewhere")).unwrap();
    symlink(place.path("elsewhere"), path).unwrap();
}

fn unmark(place: &Place) {
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
}

fn a_hole_lets_a_standby_try_again(at: At) {
    let place = at.place();
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    standby(&place);
    let started = Instant::now();
    place.restore(TWO).says(1, "is not in the archive");
    assert!(started.elapsed() < Duration::from_secs(4), "a standby asks again by itself");
}

fn on_error_overrides_what_the_kind_of_recovery_says(at: At) {
    let place = at.place();
    flip(&place, TWO, 70_000);
    let run =
        |action: &str| Run::of(place.restore_command(TWO).arg(format!("--on-error={action}")));
    // In a recovery, it would turn each trouble with the archive into the end of the WAL.
    run("retry").says(126, "--on-error=retry is refused without \"standby.signal\"");
    run("stop").says(126, "digest-mismatch");
    standby(&place);
    run("stop").says(126, "digest-mismatch");
    run("auto").says(1, "digest-mismatch");
    forget(&place);
    run("retry").says(1, "digest-mismatch");
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    run("stop").says(126, "000000010000000000000003 is there");
}

fn an_unmarked_archive_is_accepted_only_when_asked_for(at: At) {
    let place = at.place();
    unmark(&place);
    place.restore(TWO).says(126, "no identity file");
    let run = |file: &str| Run::of(place.restore_command(file).arg("--allow-unmarked"));
    run(TWO).delivers();
    run(&segment_name(1, 4)).says(1, "the last file of timeline 1 there is ");
    // The control file still tells whose segments are right.
    foreign(&place);
    run(TWO).says(126, "wrong-cluster");
}

fn the_control_file_in_the_working_directory_counts_where_it_can_be_read(at: At) {
    let place = at.place();
    fs::write(place.path("data/global/pg_control"), control(OURS + 1)).unwrap();
    place.restore(TWO).says(126, "belongs to another cluster");
    fs::remove_file(place.path("data/global/pg_control")).unwrap();
    place.restore(TWO).delivers();
}

fn without_digests_headers_and_records_are_checked(at: At) {
    let place = at.empty();
    for (number, segment) in (1..).zip(segments()) {
        place.put(&segment_name(1, number), &segment);
    }
    place.restore(TWO).delivers();
    fs::remove_file(place.target()).unwrap();
    // In a record, in a page header, in the first header.
    for at in [300_000, 8192 * 3 + 8, 9] {
        place.put(TWO, &segments()[1]);
        flip(&place, TWO, at);
        let run = place.restore(TWO);
        assert_eq!(run.status, Some(126), "flipped at {at}: {run:?}");
        assert_eq!(place.pg_wal(), Vec::<String>::new());
    }
}

fn of_two_encodings_a_sound_one_is_delivered_and_two_that_differ_are_not(at: At) {
    let place = at.place();
    let other = Wal::new(OURS, 1).segments(2)[1].clone();
    fs::remove_file(place.path("archive").join(THREE)).unwrap();
    let encoded = zstd(&place, &other);
    place.put(&format!("{TWO}.zst"), &encoded);
    place.restore(TWO).delivers();
    flip(&place, TWO, 70_000);
    place.restore(TWO).delivers();
    assert_eq!(fs::read(place.target()).unwrap(), other);
    fs::remove_file(place.target()).unwrap();
    // Both are sound, but not the same: one has one more record in place of zeros.
    let mut shorter = other.clone();
    shorter[MB - 8192 * 8..].fill(0);
    place.put_with_digest(TWO, &shorter);
    place.restore(TWO).says(126, "duplicate");
    assert_eq!(place.pg_wal(), Vec::<String>::new());
}

/// The digest agreed, so the records were not looked at: the server was promoted at the damage.
fn records_are_checked_whatever_a_digest_says(at: At) {
    let place = at.place();
    // In records with others behind them, and in a page header.
    for at in [300_000, 8192 * 3 + 8, 20_000] {
        let mut damaged = segments()[1].clone();
        damaged[at] ^= 0x10;
        place.put_with_digest(TWO, &damaged);
        place
            .restore(TWO)
            .says(126, "the digest agrees, so the segment was damaged before it was archived");
        // Also at the end of the archive: records with matching addresses follow in the segment itself.
        place.put_with_digest("000000010000000000000004", &{
            let mut damaged = segments()[3].clone();
            damaged[at] ^= 0x10;
            damaged
        });
        place.restore("000000010000000000000004").says(126, "(corrupt).");
    }
}

/// The end of a timeline after a crash: a record that is cut short, and what the recycled file held before.
fn a_torn_end_with_old_contents_behind_it_is_the_end_of_the_wal(at: At) {
    let place = at.place();
    let whole = segments();
    for digest in [false, true] {
        for end in [40 + 8192 * 20, 8192 * 50 + 3000, MB - 700] {
            // Old contents of two kinds: an earlier segment's, and those of the same place on no timeline.
            for old in [&whole[1], &vec![0x5a; MB]] {
                let mut torn = whole[3].clone();
                let page = end.next_multiple_of(8192);
                torn[end..page].fill(0);
                torn[page..].copy_from_slice(&old[page..]);
                let name = segment_name(1, 4);
                match digest {
                    true => place.put_with_digest(&name, &torn),
                    false => place.put(&name, &torn),
                };
                place.restore(&name).delivers();
                assert!(fs::read(place.target()).unwrap() == torn);
            }
        }
    }
}

fn evidence_that_is_older_than_ten_minutes_is_not_looked_at_again(at: At) {
    let place = at.place();
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    let took = |arguments: &[&str]| {
        let started = Instant::now();
        Run::of(place.restore_command(TWO).args(arguments))
            .says(126, "000000010000000000000003 is there");
        started.elapsed()
    };
    assert!(took(&["--patience=1"]) >= Duration::from_secs(1));
    assert!(took(&["--patience=0"]) < Duration::from_secs(1));
    let old = std::time::SystemTime::now() - Duration::from_secs(660);
    let later = fs::File::open(place.path("archive").join(THREE)).unwrap();
    later.set_modified(old).unwrap();
    assert!(took(&[]) < Duration::from_secs(2));
}

fn a_hole_is_the_end_only_where_it_is_named(at: At) {
    let place = at.place();
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    let run = |hole: &str| {
        Run::of(place.restore_command(TWO).args(["--patience=0", "--end-at-hole", hole]))
    };
    run(TWO).says(1, "000000010000000000000003 is there; recovery ends here because --end-at-hole");
    // A setting that was left behind does no harm.
    run(ONE).says(126, "add \"--end-at-hole SEGMENT\" with the name of the missing segment");
    run("00000002.history").says(126, "--help");
    // A file that is there and damaged is not missing.
    place.put(TWO, &segments()[1][..MB / 2]);
    run(TWO).says(126, "truncated");
}

/// It logged two lines every five seconds, for ever.
fn an_idle_standby_says_the_same_at_most_once_a_minute(at: At) {
    let place = at.place();
    standby(&place);
    let quiet = |file: &str| {
        let run = place.restore(file);
        assert_eq!((run.status, &*run.err), (Some(1), ""), "{run:?}");
    };
    let four = segment_name(1, 4);
    place.restore(&four).says(1, "not in the archive");
    place.restore("00000002.history").says(1, "not in the archive");
    quiet(&four);
    quiet("00000002.history");
    // Something else is said at once.
    unmark(&place);
    place.restore(&four).says(1, "no identity file");
    quiet(&four);
    forget(&place);
    place.restore(&four).says(1, "no identity file");
    // A recovery says everything.
    fs::remove_file(place.path("data/standby.signal")).unwrap();
    place.restore(&four).says(126, "no identity file");
    place.restore(&four).says(126, "no identity file");
}

/// What a tool that encrypts WAL leaves in pg_wal. Under `check_wal = off` it was archived, and never given
/// back.
fn wal_of_an_unknown_kind_is_delivered_where_the_archive_says_that_it_was_let_in_so(at: At) {
    let encrypted: Vec<u8> = segments()[1].iter().map(|byte| byte.wrapping_mul(7) ^ 0xa5).collect();
    let place = at.place();
    let path = place.put_with_digest(TWO, &encrypted);
    let run = place.restore(TWO);
    run.says(126, "the archived file is not in a known format of WAL");
    run.says(126, "add --allow-unchecked to restore_command");
    for how in ["header", "records"] {
        common::set_checked(&path, how);
        place.restore(TWO).says(126, "not in a known format");
    }
    place.verify().finds(&["000000010000000000000002: corrupt"]);
    let allowed = || Run::of(place.restore_command(TWO).arg("--allow-unchecked"));
    allowed().says(0, "its records were not checked");
    common::set_checked(&path, "off");
    place.restore(TWO).says(0, "its records were not checked");
    assert!(fs::read(place.target()).unwrap() == encrypted);
    place.verify().finds(&[]);
    // Its own digest still counts, and its length.
    flip(&place, TWO, 70_000);
    place.restore(TWO).says(126, "digest-mismatch");
    allowed().says(126, "digest-mismatch");
    let path = place.put_with_digest(TWO, &encrypted[..MB / 2]);
    common::set_checked(&path, "off");
    allowed().says(126, "truncated");
    // A file that was never written is not encrypted.
    let path = place.put_with_digest(TWO, &vec![0; MB]);
    common::set_checked(&path, "off");
    place.restore(TWO).says(126, "the archived file is damaged");
    // Another cluster's is not of an unknown kind.
    let path = place.put_with_digest(TWO, &Wal::new(OURS + 1, 1).segments(2)[1]);
    common::set_checked(&path, "off");
    allowed().says(126, "wrong-cluster");
}

fn where_files_carry_nothing_a_marker_says_that_wal_was_let_in_unchecked(at: At) {
    let encrypted: Vec<u8> = segments()[1].iter().map(|byte| byte.wrapping_mul(7) ^ 0xa5).collect();
    let place = at.place();
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    place.put(TWO, &encrypted);
    place.restore(TWO).says(126, "not in a known format");
    place.put("walsafe_archive.unchecked", b"");
    place.restore(TWO).says(0, "its records were not checked");
    // A file that carries a digest says it itself.
    place.put_with_digest(TWO, &encrypted);
    place.restore(TWO).says(126, "not in a known format");
}

/// Servers that leave the page headers readable, and encrypt the records.
fn encrypted_records_behind_readable_headers_are_of_an_unknown_kind_too(at: At) {
    let mut encrypted = segments()[1].clone();
    for page in encrypted.chunks_mut(8192) {
        page[40..].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(7) ^ 0xa5);
    }
    let place = at.place();
    let path = place.put_with_digest(TWO, &encrypted);
    place.restore(TWO).says(126, "not one record in it can be read");
    common::set_checked(&path, "off");
    place.restore(TWO).says(0, "its records were not checked");
}

fn a_newer_servers_wal_is_delivered_by_its_digest_where_it_was_let_in_so(at: At) {
    let mut newer = segments()[1].clone();
    for page in newer.chunks_mut(8192) {
        page[..2].copy_from_slice(&0xD1F1_u16.to_ne_bytes());
    }
    let place = at.place();
    let path = place.put_with_digest(TWO, &newer);
    place.restore(TWO).says(126, "use a newer walsafe");
    place.verify().finds(&[]);
    common::set_checked(&path, "header");
    place.restore(TWO).says(0, "magic number D1F1");
    fs::remove_file(path).unwrap();
    place.put(TWO, &newer);
    place.restore(TWO).says(126, "use a newer walsafe");
    Run::of(place.restore_command(TWO).arg("--allow-unchecked")).says(0, "magic number D1F1");
}

/// "No" to a standby that is promoted next gives it a timeline number that is in use.
fn a_standby_looks_for_a_history_file_until_the_archive_is_out_of_trouble(at: At) {
    let place = at.place();
    place.put("00000002.history", b"1\t0/500200\tno recovery target specified\n");
    standby(&place);
    let (archive, away) = (place.path("archive"), place.path("away"));
    fs::rename(&archive, &away).unwrap();
    let mut child = place.restore_command("00000002.history").spawn().unwrap();
    // Not for ever.
    let brief = Run::of(place.restore_command("00000002.history").arg("--stall-timeout=0"));
    brief.says(1, at.away()[0]);
    brief.says(1, "A promotion now may take a timeline number that is in use.");
    // A segment is not waited for.
    let started = Instant::now();
    place.restore(TWO).says(1, at.away()[0]);
    assert!(started.elapsed() < Duration::from_secs(2));
    std::thread::sleep(Duration::from_millis(1200).saturating_sub(started.elapsed()));
    assert!(child.try_wait().unwrap().is_none(), "it gave up at once");
    fs::rename(&away, &archive).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn zstd(place: &Place, contents: &[u8]) -> Vec<u8> {
    let path = place.path("plain");
    fs::write(&path, contents).unwrap();
    let encoded = Command::new("zstd").args(["-q", "-c"]).arg(path).output().unwrap();
    assert!(encoded.status.success());
    encoded.stdout
}

fn history_and_backup_history_files_are_delivered_and_checked(at: At) {
    let place = at.place();
    place.put("00000002.history", b"1\t0/500200\tno recovery target specified\n");
    place.restore("00000002.history").delivers();
    place.put("00000002.history", b"1\t0x500200\tno recovery target specified\n");
    place.restore("00000002.history").says(126, "line 1 is not");
    place.put("00000002.history", b"");
    place.restore("00000002.history").says(126, "truncated");
    let backup = "000000010000000000000002.00000028.backup";
    place.restore(backup).says(1, "not in the archive");
    place.put(backup, b"START WAL LOCATION: 0/200028 (file 000000010000000000000002)\n");
    place.restore(backup).delivers();
    place.put(backup, b"START WAL LOCATION: 0/300028 (file 000000010000000000000003)\n");
    place.restore(backup).says(126, "wrong-name");
}

#[test]
fn bad_usage_stops_even_a_standby_and_prints_one_line_and_the_way_to_help() {
    let place = place();
    standby(&place);
    let calls: &[&[&str]] = &[
        &["restore"],
        &["restore", "--from", "archive", ONE],
        &["restore", ONE, "pg_wal/RECOVERYXLOG"],
        &["restore", "--from", "archive", ONE, "pg_wal/RECOVERYXLOG", "more"],
        &["restore", "--from", "archive", "--on-error=later", ONE, "pg_wal/RECOVERYXLOG"],
        &["restore", "--form", "archive", ONE, "pg_wal/RECOVERYXLOG"],
        &["restore", "--from", "archive", ONE, "pg_wal/RECOVERYXLOG", "--help"],
        &["--help", ONE, "pg_wal/RECOVERYXLOG"],
        &["restore", "--from", "../archive", "../secret", "pg_wal/RECOVERYXLOG"],
        &["restore", "--from", "../archive", "", "pg_wal/RECOVERYXLOG"],
        &["restore", "--from", "../archive", "%f", "%p"],
        &["resotre", "--from", "archive", ONE, "pg_wal/RECOVERYXLOG"],
        &["--from", "archive", ONE, "pg_wal/RECOVERYXLOG"],
    ];
    for call in calls {
        let run = Run::of(walsafe().args(*call).current_dir(place.path("data")));
        assert_eq!(run.status, Some(126), "{call:?}: {run:?}");
        if !call.contains(&"--help") {
            run.says(126, "--help");
        }
        assert_eq!(place.pg_wal(), Vec::<String>::new());
    }
}

#[test]
fn a_panic_stops_even_a_standby() {
    let place = place();
    standby(&place);
    let run = Run::of(place.restore_command(ONE).env("WALSAFE_TEST_PANIC", "1"));
    run.says(126, "internal error");
}

/// It was 126 for every command, which check's and verify's callers do not know.
#[test]
fn a_panic_ends_each_command_as_its_own_failure_does() {
    for (command, status) in
        [("verify", 2), ("list", 2), ("check", 3), ("restore", 126), ("resotre", 126)]
    {
        let run = Run::of(walsafe().arg(command).env("WALSAFE_TEST_PANIC", "1"));
        run.says(status, "internal error");
    }
}

#[test]
fn a_closed_standard_error_changes_no_exit_status() {
    let place = place();
    flip(&place, TWO, 70_000);
    let with = |file: &str, close: &str| {
        let program = env!("CARGO_BIN_EXE_walsafe");
        let script =
            format!("exec \"$0\" restore --from ../archive {file} pg_wal/RECOVERYXLOG {close}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, program]).current_dir(place.path("data"));
        command.stderr(Stdio::null()).status().unwrap().code()
    };
    for close in ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"] {
        assert_eq!(with(ONE, close), Some(0), "{close}");
        assert_eq!(with(&segment_name(1, 4), close), Some(1), "{close}");
        assert_eq!(with(TWO, close), Some(126), "{close}");
    }
    // A pipe that nobody reads any more.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = place.restore_command(TWO).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(126));
}

#[test]
fn a_signal_is_not_the_end_of_the_wal() {
    let place = place();
    fs::remove_file(place.path("archive").join(TWO)).unwrap();
    let mut child = place.restore_command(TWO).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
}

#[test]
fn leftovers_of_killed_calls_go_at_the_next_one_and_nothing_else_does() {
    let place = place();
    let host = walsafe_core::sys::host_name();
    let mut child = Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let ours = format!("data/pg_wal/.walsafe.{ONE}.{host}.{dead}.0.tmp");
    let theirs = format!("data/pg_wal/.walsafe.{ONE}.{host}.{}.0.tmp", std::process::id());
    for name in [&ours, &theirs, "data/pg_wal/keep.tmp"] {
        fs::write(place.path(name), "x").unwrap();
    }
    place.restore(ONE).delivers();
    assert!(!place.path(&ours).exists());
    assert!(place.path(&theirs).exists());
    assert!(place.path("data/pg_wal/keep.tmp").exists());
}

fn a_target_that_cannot_be_written_stops(at: At) {
    let place = at.place();
    fs::remove_dir_all(place.path("data/pg_wal")).unwrap();
    place.restore(ONE).says(126, "could not write the restored file");
    fs::create_dir_all(place.target()).unwrap();
    place.restore(ONE).says(126, "could not write the restored file");
    assert_eq!(place.pg_wal(), ["RECOVERYXLOG"]);
}

/// It was an "invalid input parameter" of a call that was never made, and a standby tried it for ever.
#[test]
fn a_target_that_names_no_file_stops_a_standby_too() {
    let place = place();
    standby(&place);
    let mut command = walsafe();
    command.args(["restore", "--from", "../archive", ONE, "pg_wal/.."]);
    let run = Run::of(command.current_dir(place.path("data")));
    run.says(126, "there is no file name in the path of the restored file");
    run.says(126, "restore_command");
}

/// A line of JSON was on standard error, where the other commands had their words.
fn the_line_can_be_json(at: At) {
    let place = at.place();
    let run = |file: &str| Run::of(place.restore_command(file).arg("--json"));
    let end = run(&segment_name(1, 4));
    let said: serde_json::Value = serde_json::from_str(&end.out).unwrap();
    assert_eq!((end.status, &*end.err, end.out.lines().count()), (Some(1), "", 1));
    assert_eq!((&said["file"], &said["exit_status"]), (&segment_name(1, 4).into(), &1.into()));
    let message = said["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("\"{}\" ", segment_name(1, 4))), "{said}");
    place.put(THREE, &segments()[2][..MB / 2]);
    let error = run(THREE).fails_in_json(126);
    assert!(error["detail"].as_str().unwrap().contains("truncated"), "{error}");
    standby(&place);
    fs::rename(place.path("archive"), place.path("away")).unwrap();
    let error = run(THREE).fails_in_json(1);
    assert!(error["hint"].as_str().unwrap().contains(at.away()[1]), "{error}");
    // What a standby was told a moment ago is not said again, be it in JSON.
    let again = run(THREE);
    assert_eq!((again.status, &*again.out, &*again.err), (Some(1), "", ""));
}
