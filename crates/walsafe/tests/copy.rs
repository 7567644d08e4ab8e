//! `walsafe copy`: the files of one archive in another, once or on and on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{
    MB, OURS, Place, Run, Verified, Wal, names, segment_name, segments, set_checked, set_digests,
    walsafe,
};
use walsafe_core::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use walsafe_core::sys;

/// A place with an empty second directory.
fn place() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("second")).unwrap();
    place
}

fn call(place: &Place, options: &[&str]) -> Command {
    let mut command = walsafe();
    command.arg("copy").args(options).args([place.path("archive"), place.path("second")]);
    command
}

fn copy(place: &Place, options: &[&str]) -> Run {
    Run::of(&mut call(place, options))
}

/// What the run said as JSON, and its exit status.
fn json(place: &Place) -> (i32, serde_json::Value) {
    let run = copy(place, &["--json"]);
    assert_eq!(run.err, "", "{run:?}");
    (run.status.unwrap(), serde_json::from_str(&run.out).unwrap())
}

fn second(place: &Place) -> Vec<String> {
    let mut names = names(&place.path("second"));
    names.retain(|name| name != "walsafe_archive.id");
    names
}

/// Puts the first segments into the archive, as the archiver does.
fn fill(place: &Place, count: u32) {
    for (number, segment) in (1..=count).zip(segments()) {
        place.put_with_digest(&segment_name(1, number), &segment);
    }
}

fn attributes(path: &Path) -> [Option<String>; 3] {
    let file = File::open(path).unwrap();
    [STORED_ATTRIBUTE, CONTENT_ATTRIBUTE, CHECKED_ATTRIBUTE]
        .map(|name| sys::attribute(&file, name).unwrap())
}

/// Both hold the same bytes, with the same attributes, in files of their own.
#[track_caller]
fn assert_same(place: &Place, name: &str) {
    let [ours, theirs] = ["archive", "second"].map(|dir| place.path(dir).join(name));
    assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{name}");
    assert_eq!(attributes(&ours), attributes(&theirs), "{name}");
    assert_ne!(fs::metadata(&ours).unwrap().ino(), fs::metadata(&theirs).unwrap().ino());
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    // In place: the attributes stay.
    fs::write(path, bytes).unwrap();
}

/// rsync carried temporary files, and needed flags for attributes, for what is there, and for the identity file.
#[test]
fn every_file_of_an_archive_is_copied_as_it_is_and_nothing_else() {
    let place = place();
    let mut wal = Wal::new(OURS, 1);
    let mut old = wal.segments(2);
    wal.record(500);
    let switch = wal.branch(2);
    let new = wal.segments(4);
    old.push(Wal::new(OURS, 1).segments(3).remove(2));
    fill(&place, 0);
    for (number, segment) in (1..).zip(&old).take(2) {
        set_checked(&place.put_with_digest(&segment_name(1, number), segment), "header");
    }
    let gzip = |bytes: &[u8]| {
        let mut command = Command::new("gzip");
        command.args(["-c", "-1"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut out = child.stdout.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(bytes).unwrap());
            let mut stored = Vec::new();
            out.read_to_end(&mut stored).unwrap();
            child.wait().unwrap();
            stored
        })
    };
    let stored = gzip(&new[2]);
    let path = place.put(&format!("{}.gz", segment_name(2, 3)), &stored);
    set_digests(&path, &stored, &new[2]);
    set_checked(&path, "records");
    place.put_with_digest(&segment_name(2, 4), &new[3]);
    place.put_with_digest("00000002.history", format!("1\t0/{switch:X}\tno reason\n").as_bytes());
    // The end of timeline 1, as the server that left it had it.
    let partial = format!("{}.partial", segment_name(1, 3));
    place.put_with_digest(&partial, &old[2]);
    let backup = format!("{}.00000028.backup", segment_name(1, 2));
    let label = format!("START WAL LOCATION: 0/200028 (file {})\n", segment_name(1, 2));
    place.put_with_digest(&backup, label.as_bytes());
    let digest = walsafe_core::encoding::digest::Digest::of(&old[2]).to_string();
    let tail = format!("{}.tail.{}", segment_name(1, 3), &digest[..16]);
    place.put_with_digest(&tail, &old[2]);
    let expected: BTreeSet<String> = names(&place.path("archive")).into_iter().collect();
    // None of these belongs to an archive.
    place.put(".walsafe.000000010000000000000009.elsewhere.1.0.tmp", b"x");
    place.put("archtemp.000000010000000000000009.1.2", b"x");
    place.put("notes.txt", b"x");
    fs::create_dir(place.path("archive/lost+found")).unwrap();
    // A later server's, which its digest shows.
    place.put_with_digest("000000010000000000000003.newkind", b"anything");

    let (status, report) = json(&place);
    assert_eq!(status, 0, "{report}");
    assert_eq!((&report["copied"], &report["skipped"]), (&9.into(), &0.into()), "{report}");
    assert_eq!(report["system_identifier"], OURS.to_string());
    assert_eq!(report["last_file"], "000000010000000000000003.newkind");
    let mut copied: BTreeSet<String> = names(&place.path("second")).into_iter().collect();
    assert!(copied.remove("000000010000000000000003.newkind"), "{copied:?}");
    assert_eq!(copied, expected);
    for name in copied.iter().filter(|name| *name != "walsafe_archive.id") {
        if attributes(&place.path("archive").join(name))[2].is_some() {
            assert_same(&place, name);
        }
    }
    // Where nothing says how a segment was checked, it is said now.
    let checked = |name: &str| attributes(&place.path("second").join(name))[2].clone();
    assert_eq!(checked(&segment_name(2, 4)).as_deref(), Some("records"));
    assert_eq!(checked(&segment_name(1, 1)).as_deref(), Some("header"));
    // It begins with the oldest WAL, not with a history file.
    let identity = fs::read_to_string(place.path("second/walsafe_archive.id")).unwrap();
    let begins = format!("begins_with = {}\n", segment_name(1, 1));
    assert!(identity.contains(&begins) && identity.contains(&OURS.to_string()), "{identity}");
    let verify =
        |dir: &str| Verified::of(walsafe().args(["verify", "--json"]).arg(place.path(dir)));
    verify("second").finds(&[]);
    let run = copy(&place, &[]);
    assert_eq!((run.status, &*run.err), (Some(0), ""), "{run:?}");
    assert!(run.out.contains("9 files were there already"), "{run:?}");
    assert_eq!(run.out.lines().count(), 1, "{run:?}");
}

/// What both carry a digest of was read again, and a damaged file of the source could end as damage of the copy.
#[test]
fn what_is_there_and_equal_by_digest_is_not_read() {
    let place = place();
    fill(&place, 3);
    assert_eq!(copy(&place, &[]).status, Some(0));
    // Reading either would show it.
    for dir in ["archive", "second"] {
        flip(&place.path(dir).join(segment_name(1, 2)), MB / 2);
    }
    let (status, report) = json(&place);
    assert_eq!((status, &report["skipped"]), (0, &3.into()), "{report}");
    // Without the digest, both are read.
    let file = place.path("second").join(segment_name(1, 1));
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let (status, report) = json(&place);
    assert_eq!((status, &report["skipped"]), (0, &3.into()), "{report}");
}

/// Another encoding of the same WAL is the same file.
#[test]
fn what_is_there_in_another_encoding_is_not_copied() {
    let place = place();
    fill(&place, 2);
    assert_eq!(copy(&place, &[]).status, Some(0));
    let file = place.path("second").join(segment_name(1, 1));
    let gzip = Command::new("gzip").arg(&file).status().unwrap();
    assert!(gzip.success());
    let (status, report) = json(&place);
    assert_eq!((status, &report["copied"], &report["skipped"]), (0, &0.into(), &2.into()));
    assert_eq!(second(&place), [format!("{}.gz", segment_name(1, 1)), segment_name(1, 2)]);
}

/// A copy that stops at the damage looks complete up to there: a recovery from it would end early, in silence.
#[test]
fn a_damaged_file_is_left_out_and_found_and_what_follows_is_copied() {
    let place = place();
    fill(&place, 4);
    let damaged = place.path("archive").join(segment_name(1, 2));
    let good = fs::read(&damaged).unwrap();
    flip(&damaged, MB / 2);
    let run = copy(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    let says = format!("walsafe: {}: digest-mismatch: ", segment_name(1, 2));
    assert!(run.err.starts_with(&says) && run.err.contains("a second archive"), "{run:?}");
    assert!(run.out.contains("copied 3 files") && run.out.contains("1 finding"), "{run:?}");
    assert_eq!(second(&place), [1, 3, 4].map(|number| segment_name(1, number)));
    let (status, report) = json(&place);
    assert_eq!(status, 1);
    assert_eq!(report["findings"][0]["file"], segment_name(1, 2));
    assert_eq!(report["findings"][0]["kind"], "digest-mismatch");
    // Once it is mended, it is brought.
    fs::write(&damaged, good).unwrap();
    let (status, report) = json(&place);
    assert_eq!((status, &report["copied"]), (0, &1.into()), "{report}");
    // Of what has no digest, the records decide; and of a link, nothing.
    let broken = segment_name(1, 5);
    let mut bytes = segments()[4].clone();
    bytes[MB / 2] ^= 1;
    place.put(&broken, &bytes);
    symlink(
        place.path("archive").join(segment_name(1, 1)),
        place.path("archive").join(segment_name(1, 6)),
    )
    .unwrap();
    let (status, report) = json(&place);
    let kinds: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["kind"].clone())
        .collect();
    assert_eq!((status, kinds), (1, vec!["corrupt".into(), "unreadable".into()]), "{report}");
    assert_eq!(second(&place).len(), 4);
}

/// It is all that there is of that WAL, and a recovery checks every record anyway.
#[test]
fn what_was_damaged_before_it_was_archived_is_copied_as_it_is() {
    let place = place();
    fill(&place, 1);
    let mut bytes = segments()[1].clone();
    bytes[MB / 2] ^= 1;
    place.put_with_digest(&segment_name(1, 2), &bytes);
    let (status, report) = json(&place);
    assert_eq!((status, &report["copied"]), (1, &2.into()), "{report}");
    let reason = report["findings"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("the digest agrees") && reason.ends_with("it was copied as it is"));
    assert!(fs::read(place.path("second").join(segment_name(1, 2))).unwrap() == bytes);
    assert_eq!(attributes(&place.path("second").join(segment_name(1, 2)))[2], None);
}

/// Two histories under one name: what comes behind would mix them.
#[test]
fn other_contents_under_a_name_end_the_run_in_the_archivers_words() {
    let place = place();
    fill(&place, 4);
    assert_eq!(copy(&place, &[]).status, Some(0));
    for number in [2, 3, 4] {
        fs::remove_file(place.path("second").join(segment_name(1, number))).unwrap();
    }
    let mut wal = Wal::new(OURS, 1);
    wal.record(77);
    let other = wal.segments(2).remove(1);
    let file = place.path("second").join(segment_name(1, 2));
    fs::write(&file, &other).unwrap();
    set_digests(&file, &other, &other);
    let run = copy(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    for text in [
        &*format!(
            "could not copy \"{}\": the archive holds a different file of that name",
            segment_name(1, 2)
        ),
        "The first WAL record that differs begins at 0/2000",
        "Nothing is copied from there on",
        "Compare the two files with pg_waldump",
    ] {
        assert!(run.err.contains(text), "{text}: {run:?}");
    }
    assert_eq!(second(&place), [1, 2].map(|number| segment_name(1, number)));
    assert!(fs::read(&file).unwrap() == other);
    let (status, report) = json(&place);
    assert_eq!((status, &report["conflict"]["file"]), (1, &segment_name(1, 2).into()), "{report}");
    // The beginning that an interrupted cp leaves.
    fs::write(&file, &segments()[1][..MB / 2]).unwrap();
    let run = copy(&place, &[]);
    assert!(run.err.contains("a truncated beginning of the other"), "{run:?}");
    assert!(run.err.contains("An interrupted copy by another tool"), "{run:?}");
    // A damaged file of the source is no second history.
    fs::write(&file, &segments()[1]).unwrap();
    flip(&place.path("archive").join(segment_name(1, 2)), MB / 2);
    let (status, report) = json(&place);
    assert_eq!((status, &report["conflict"]), (1, &serde_json::Value::Null), "{report}");
    assert_eq!(report["findings"][0]["kind"], "digest-mismatch");
    assert_eq!(second(&place).len(), 4);
    // A history file of another server comes before everything else.
    place.put_with_digest("00000002.history", b"1\t0/300028\twhy\n");
    fs::write(place.path("second/00000002.history"), "1\t0/300030\twhy\n").unwrap();
    fs::remove_file(place.path("second").join(segment_name(1, 4))).unwrap();
    let run = copy(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.err.contains("Another server already used timeline 2."), "{run:?}");
    assert_eq!(second(&place).len(), 4);
}

/// The archive of a clone has no name in common with the archive that the clone has left.
#[test]
fn wal_of_another_history_is_not_put_beside_the_archives_own() {
    let place = place();
    let (ours, theirs) = (segments(), {
        let mut wal = Wal::new(OURS, 1);
        wal.record(77);
        wal.segments(5)
    });
    place.put_with_digest(&segment_name(1, 3), &ours[2]);
    assert_eq!(copy(&place, &[]).status, Some(0));
    fs::remove_file(place.path("archive").join(segment_name(1, 3))).unwrap();
    // Behind what is there.
    place.put_with_digest(&segment_name(1, 4), &theirs[3]);
    let run = copy(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.err.contains("the segment does not fit the archived one beside it"), "{run:?}");
    assert!(run.err.contains("does not continue it"), "{run:?}");
    assert_eq!(second(&place), [segment_name(1, 3)]);
    // Before it.
    fs::remove_file(place.path("archive").join(segment_name(1, 4))).unwrap();
    place.put_with_digest(&segment_name(1, 2), &theirs[1]);
    let run = copy(&place, &[]);
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.err.contains(&format!("does not continue \"{}\"", segment_name(1, 2))), "{run:?}");
    assert_eq!(second(&place), [segment_name(1, 3)]);
    // The archive's own WAL is put on both sides.
    place.put_with_digest(&segment_name(1, 2), &ours[1]);
    place.put_with_digest(&segment_name(1, 4), &ours[3]);
    assert_eq!(copy(&place, &[]).status, Some(0));
    assert_eq!(second(&place).len(), 3);
}

#[test]
fn what_cannot_be_the_ends_of_a_copy_is_refused() {
    let place = place();
    fill(&place, 1);
    let (archive, other) = (place.path("archive"), place.path("second"));
    let copy = |from: &Path, to: &Path, options: &[&str]| {
        Run::of(walsafe().arg("copy").args(options).args([from, to]))
    };
    let link = place.path("link");
    symlink(&archive, &link).unwrap();
    for to in [&archive, &link, &place.path("data/../archive")] {
        copy(&archive, to, &[]).says(2, "are the same directory");
    }
    fs::create_dir(archive.join("inner")).unwrap();
    copy(&archive, &link.join("inner"), &[]).says(2, "lies inside of");
    copy(&archive.join("inner"), &archive, &[]).says(2, "lies inside of");
    fs::remove_dir(archive.join("inner")).unwrap();
    copy(&archive, &place.path("gone"), &[]).says(2, "could not open the archive directory");
    copy(&place.path("gone"), &other, &[]).says(2, "could not open the archive directory");
    copy(&other, &archive, &[]).says(2, "neither WAL nor an identity file");
    copy(&archive, &other, &["--no-begin"]).says(2, "no identity file");
    assert_eq!(names(&other), Vec::<String>::new());
    // Files that nothing shows to be this cluster's.
    fs::write(other.join("photo.jpg"), "x").unwrap();
    copy(&archive, &other, &[]).says(2, "the archive holds other files");
    fs::remove_file(other.join("photo.jpg")).unwrap();
    let theirs = Wal::new(OURS + 1, 1).segments(1).remove(0);
    fs::write(other.join(segment_name(1, 7)), &theirs).unwrap();
    copy(&archive, &other, &[]).says(2, "the archive belongs to another cluster");
    fs::remove_file(other.join(segment_name(1, 7))).unwrap();
    let id = |system_identifier: u64| {
        walsafe_core::store::identity::Identity::new(system_identifier).to_string()
    };
    fs::write(other.join("walsafe_archive.id"), id(OURS + 1)).unwrap();
    let run = copy(&archive, &other, &[]);
    run.says(2, "the archive belongs to another cluster");
    assert!(run.err.contains("Name two archives of one and the same cluster."), "{run:?}");
    assert_eq!(names(&other), ["walsafe_archive.id"]);
}

/// Such an archive carries nothing: records are checked, and the copy has digests.
#[test]
fn an_archive_that_cp_made_is_copied_into_one_of_ours() {
    let place = place();
    for (number, segment) in (1..).zip(segments()) {
        place.put(&segment_name(1, number), &segment);
    }
    fs::remove_file(place.path("archive/walsafe_archive.id")).unwrap();
    // What pg_receivewal is writing is not copied before it is whole, nor is what cp has not finished.
    let partial = format!("{}.partial", segment_name(1, 6));
    let mut wal = Wal::new(OURS, 1).segments(6).remove(5);
    wal[MB / 2..].fill(0);
    place.put(&partial, &wal);
    let cp = {
        let path = place.path("archive").join(segment_name(1, 3));
        let whole = segments()[2].clone();
        fs::write(&path, &whole[..MB / 2]).unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            fs::write(&path, whole).unwrap();
        })
    };
    let (status, report) = json(&place);
    cp.join().unwrap();
    assert_eq!((status, &report["copied"]), (0, &5.into()), "{report}");
    assert_eq!(report["being_received"], 1);
    assert_eq!(second(&place), [1, 2, 3, 4, 5].map(|number| segment_name(1, number)));
    for name in second(&place) {
        let [stored, content, checked] = attributes(&place.path("second").join(&name));
        assert!(stored.is_some() && stored == content);
        assert_eq!(checked.as_deref(), Some("records"));
    }
    // Two clusters in one directory are nobody's archive.
    place.put(&segment_name(1, 7), &Wal::new(OURS + 1, 1).segments(7).remove(6));
    copy(&place, &[]).says(2, "belongs to another cluster");
}

/// A restore takes such WAL for damaged, unless the archive says that it was let in so.
#[test]
fn wal_that_nobody_looked_into_is_copied_with_what_says_so() {
    let place = place();
    fill(&place, 1);
    let encrypted: Vec<u8> = (0..MB).map(|at| (at * 7 % 251) as u8 + 1).collect();
    set_checked(&place.put_with_digest(&segment_name(1, 2), &encrypted), "off");
    place.put(&segment_name(1, 3), &encrypted);
    let (status, report) = json(&place);
    assert_eq!(
        (status, &report["findings"][0]["file"]),
        (1, &segment_name(1, 3).into()),
        "{report}"
    );
    assert_same(&place, &segment_name(1, 2));
    place.put("walsafe_archive.unchecked", b"#\n");
    let (status, report) = json(&place);
    assert_eq!((status, &report["copied"]), (0, &1.into()), "{report}");
    assert!(place.path("second/walsafe_archive.unchecked").exists());
    // A digest would vouch for what nobody can.
    assert_same(&place, &segment_name(1, 3));
    assert_eq!(attributes(&place.path("second").join(segment_name(1, 3))), [None, None, None]);
}

#[test]
fn files_belong_to_the_owner_of_the_archive_and_have_its_mode() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let place = place();
    fill(&place, 1);
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let identity = place.path("archive/walsafe_archive.id");
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o640)).unwrap();
    let segment = place.path("archive").join(segment_name(1, 1));
    for path in [&place.path("archive"), &identity, &segment] {
        chown(path, Some(65_534), Some(65_534)).unwrap();
    }
    // The new archive would be root's, whom no server runs as.
    let run = copy(&place, &[]);
    assert_eq!(run.status, Some(2), "{run:?}");
    assert!(run.err.contains("ermission denied") && run.err.contains("user nobody"), "{run:?}");
    chown(place.path("second"), Some(65_534), Some(65_534)).unwrap();
    assert_eq!(copy(&place, &[]).status, Some(0));
    for name in [segment_name(1, 1), "walsafe_archive.id".to_owned()] {
        let there = fs::metadata(place.path("second").join(name)).unwrap();
        assert_eq!((there.uid(), there.mode() & 0o777), (65_534, 0o640));
    }
}

/// A copy that was killed left a torn file under its name, or a gap.
#[test]
fn a_run_that_is_killed_leaves_whole_files_and_the_next_goes_on() {
    let place = place();
    let wal = Wal::new(OURS, 1).segments(24);
    for (number, segment) in (1..).zip(&wal) {
        place.put_with_digest(&segment_name(1, number), segment);
    }
    let all: Vec<String> = (1..=24).map(|number| segment_name(1, number)).collect();
    let mut kills = 0;
    for after in [0, 3, 6, 10, 15, 20, 30, 40, 60, 90] {
        let mut child = call(&place, &["--quiet"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after));
        child.kill().unwrap();
        let killed = !child.wait().unwrap().success();
        kills += usize::from(killed);
        // The process that does the work ends with the one that watches it.
        std::thread::sleep(Duration::from_millis(20));
        let there = second(&place);
        let there: Vec<_> = there.into_iter().filter(|name| !name.starts_with('.')).collect();
        assert_eq!(there, all[..there.len()], "in order, without a gap");
        for (name, segment) in there.iter().zip(&wal) {
            assert!(&fs::read(place.path("second").join(name)).unwrap() == segment, "{name}");
        }
    }
    assert!(kills > 0);
    let (status, report) = json(&place);
    assert_eq!(status, 0, "{report}");
    assert_eq!(second(&place), all);
}

/// `--follow`, until it is dropped.
struct Following(Child);

impl Following {
    fn start(place: &Place, options: &[&str]) -> Self {
        let options = [&["--follow", "--interval", "1"], options].concat();
        let command = &mut call(place, &options);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Asks it to end. Returns what it said, the status last.
    fn end(mut self) -> (String, String, Option<i32>) {
        let status = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(status.success());
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (out, err, self.0.wait().unwrap().code())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn metric(place: &Place, name: &str) -> Option<u64> {
    let text = fs::read_to_string(place.path("lag.prom")).ok()?;
    let line = text.lines().find(|line| line.starts_with(&format!("walsafe_copy_{name}{{")))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Waits until figures are written that are about a time after this call.
fn wait_for_a_round(place: &Place) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for after in [now, now + 1] {
        wait_until("a round", || metric(place, "time_seconds").is_some_and(|at| at > after));
    }
}

/// A mount that is away for a while ended such a job, and nobody learned how far it was behind.
#[test]
fn a_copy_that_follows_waits_for_archives_that_are_away_and_ends_when_asked() {
    let place = place();
    fill(&place, 2);
    let file = place.path("lag.prom");
    let following = Following::start(&place, &["--metrics", file.to_str().unwrap()]);
    wait_until("the first files", || second(&place).len() == 2);
    wait_until("the figures", || metric(&place, "files_behind") == Some(0));
    assert_eq!((metric(&place, "up"), metric(&place, "findings")), (Some(1), Some(0)));
    // The destination goes away, and WAL comes meanwhile.
    fs::rename(place.path("second"), place.path("away")).unwrap();
    place.put_with_digest(&segment_name(1, 3), &segments()[2]);
    wait_until("that it is away", || metric(&place, "up") == Some(0));
    wait_until("what is behind", || metric(&place, "files_behind") == Some(1));
    assert_eq!(metric(&place, "bytes_behind"), Some(MB as u64));
    // A bare mount point is not begun anew.
    fs::create_dir(place.path("second")).unwrap();
    wait_for_a_round(&place);
    assert_eq!(names(&place.path("second")), Vec::<String>::new());
    fs::rename(place.path("away"), place.path("second")).unwrap();
    wait_until("it to go on", || second(&place).len() == 3);
    wait_until("the figures", || metric(&place, "files_behind") == Some(0));
    // The source.
    fs::rename(place.path("archive"), place.path("away")).unwrap();
    wait_until("that it is away", || metric(&place, "up") == Some(0));
    fs::rename(place.path("away"), place.path("archive")).unwrap();
    place.put_with_digest(&segment_name(1, 4), &segments()[3]);
    wait_until("it to go on again", || second(&place).len() == 4);
    let (out, err, status) = following.end();
    assert_eq!(status, Some(0), "{err}");
    assert!(out.starts_with("copied 4 files (4 MB) to "), "{out}");
    assert_eq!(err.matches("could not open the archive directory").count(), 2, "{err}");
    assert_eq!(err.matches("has lost its identity file").count(), 1, "{err}");
    assert_eq!(err.matches("copying goes on").count(), 2, "{err}");
}

/// What is for good ends it at once, and damage is said once.
#[test]
fn a_copy_that_follows_says_damage_once_and_does_not_wait_for_another_cluster() {
    let place = place();
    fill(&place, 3);
    let damaged = place.path("archive").join(segment_name(1, 2));
    let good = fs::read(&damaged).unwrap();
    flip(&damaged, MB / 2);
    place.put(&format!("{}.partial", segment_name(1, 4)), &segments()[3]);
    let file = place.path("lag.prom");
    let mut following = Following::start(&place, &["--metrics", file.to_str().unwrap()]);
    let mut lines = BufReader::new(following.0.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("digest-mismatch"), "{first}");
    wait_until("the rest", || second(&place).len() == 2);
    wait_for_a_round(&place);
    assert_eq!((metric(&place, "findings"), metric(&place, "files_behind")), (Some(1), Some(0)));
    fs::write(&damaged, good).unwrap();
    wait_until("the mended file", || second(&place).len() == 3);
    wait_until("the figures", || metric(&place, "findings") == Some(0));
    following.0.stderr = None;
    let status = Command::new("kill").args(["-INT", &following.0.id().to_string()]).status();
    assert!(status.unwrap().success());
    assert_eq!(following.0.wait().unwrap().code(), Some(0));
    assert!(lines.next().is_none(), "said once");
    place.identity(OURS + 1);
    let run = copy(&place, &["--follow"]);
    run.says(2, "belongs to another cluster");
    copy(&place, &["--interval", "3"]).says(2, "--follow");
}

/// Another copy into the same archive, and `walsafe push`, at the same time.
#[test]
fn copies_at_the_same_time_do_each_other_no_harm() {
    let place = place();
    let wal = Wal::new(OURS, 1).segments(12);
    for (number, segment) in (1..).zip(&wal) {
        place.put_with_digest(&segment_name(1, number), segment);
    }
    let running: Vec<Child> = (0..3)
        .map(|_| call(&place, &["--jobs", "3"]).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    for (number, segment) in (1..).zip(&wal) {
        let file = place.path("second").join(segment_name(1, number));
        assert!(&fs::read(file).unwrap() == segment);
    }
    assert_eq!(second(&place).len(), 12);
}
