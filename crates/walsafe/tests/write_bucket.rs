//! What the commands that write an archive do where it is in object storage: `init`, `push` and `copy`.

#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::bucket::Break;
use common::stored::bucket;
use common::{
    OURS, Place, Run, SECRET, Wal, control, names, segment_name, segments, set_checked, walsafe,
};
use walsafe_core::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use walsafe_core::sys;

const IDENTITY: &str = "walsafe_archive.id";

/// An empty bucket; and a directory, named "local", with segments 1 to 5 and a history file, as the archiver left
/// them.
fn place() -> Place {
    let place = Place::in_bucket();
    fs::rename(place.path("archive"), place.path("local")).unwrap();
    fs::create_dir(place.path("archive")).unwrap();
    let mut wal = Wal::new(OURS, 1);
    let old = wal.segments(4);
    wal.record(500);
    let switch = wal.branch(2);
    let new = wal.segments(5).remove(4);
    let history = format!("1\t0/{switch:X}\tno reason\n");
    let mut files: Vec<_> = (1..).zip(old).map(|(n, wal)| (segment_name(1, n), wal)).collect();
    files.push((segment_name(2, 5), new));
    files.push(("00000002.history".to_owned(), history.into_bytes()));
    for (name, contents) in files {
        let path = place.path("local").join(&name);
        fs::write(&path, &contents).unwrap();
        common::set_digests(&path, &contents, &contents);
        if !name.ends_with("history") {
            set_checked(&path, "header");
        }
    }
    place
}

fn copy(source: &Path, destination: &Path) -> Command {
    let mut command = walsafe();
    command.arg("copy").args([source, destination]);
    command
}

fn copies(source: &Path, destination: &Path, summary: &str) {
    let run = Run::of(&mut copy(source, destination));
    assert_eq!((run.status, &*run.err), (Some(0), ""), "{run:?}");
    assert!(run.out.contains(summary), "{run:?}");
}

fn files(dir: &Path) -> Vec<String> {
    let mut names = names(dir);
    names.retain(|name| name != IDENTITY);
    names
}

fn attributes(path: &Path) -> [Option<String>; 3] {
    let file = File::open(path).unwrap();
    [STORED_ATTRIBUTE, CONTENT_ATTRIBUTE, CHECKED_ATTRIBUTE]
        .map(|name| sys::attribute(&file, name).unwrap())
}

/// Both have the same files, with what they carry.
#[track_caller]
fn assert_same(first: &Path, second: &Path) {
    assert_eq!(files(first), files(second));
    for name in files(first) {
        let [ours, theirs] = [first, second].map(|dir| dir.join(&name));
        assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{name}");
        assert_eq!(attributes(&ours), attributes(&theirs), "{name}");
    }
}

#[test]
fn an_archive_goes_into_a_bucket_and_comes_back_as_it_was() {
    let place = place();
    copies(&place.path("local"), &place.archive(), "copied 6 files");
    assert_same(&place.path("local"), &place.path("archive"));
    let identity = fs::read_to_string(place.path("archive").join(IDENTITY)).unwrap();
    assert!(identity.contains(&format!("begins_with = {}\n", segment_name(1, 1))), "{identity}");

    // What is there is neither sent nor compared byte by byte.
    copies(&place.path("local"), &place.archive(), "copied nothing to");
    copies(&place.path("local"), &place.archive(), "6 files were there already");
    assert_same(&place.path("local"), &place.path("archive"));

    fs::create_dir(place.path("second")).unwrap();
    copies(&place.archive(), &place.path("second"), "copied 6 files");
    assert_same(&place.path("local"), &place.path("second"));
    let verified = Run::of(walsafe().arg("verify").arg(place.path("second")));
    assert_eq!(verified.status, Some(0), "{verified:?}");
}

/// A run that ended in the middle has left whole objects alone, and the next one goes on behind them.
#[test]
fn a_copy_that_ended_early_goes_on_where_it_stopped() {
    let place = place();
    bucket(&place).break_all(&segment_name(1, 3), Break::Answer(403, "AccessDenied"));
    let run = Run::of(&mut copy(&place.path("local"), &place.archive()));
    run.says(2, "answered 403 AccessDenied");
    assert!(run.err.contains("goes on where it stopped"), "{run:?}");
    let expected = ["00000002.history".to_owned(), segment_name(1, 1), segment_name(1, 2)];
    let mut there = files(&place.path("archive"));
    there.sort_by_key(|name| !name.ends_with("history"));
    assert_eq!(there, expected, "in the order of the archive");
    bucket(&place).mend();
    copies(&place.path("local"), &place.archive(), "copied 3 files");
    assert_same(&place.path("local"), &place.path("archive"));
}

#[test]
fn other_contents_in_a_bucket_end_the_copy_and_stay() {
    let place = place();
    copies(&place.path("local"), &place.archive(), "copied 6 files");
    let theirs = place.path("archive").join(segment_name(1, 3));
    for name in [segment_name(1, 4), segment_name(2, 5)] {
        fs::remove_file(place.path("archive").join(name)).unwrap();
    }
    let mut other = Wal::new(OURS, 1);
    other.record(77);
    let other = other.segments(3).remove(2);
    fs::write(&theirs, &other).unwrap();
    common::set_digests(&theirs, &other, &other);
    let run = Run::of(&mut copy(&place.path("local"), &place.archive()));
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.err.contains("the archive holds a different file of that name"), "{run:?}");
    assert!(run.err.contains("Nothing is copied from there on."), "{run:?}");
    assert!(fs::read(&theirs).unwrap() == other);
    assert_eq!(files(&place.path("archive")).len(), 4, "nothing behind it");
}

/// One bucket by two URLs: a copy of it onto itself, or into itself.
#[test]
fn two_urls_of_one_place_are_not_two_archives() {
    let place = place();
    let url = bucket(&place).url();
    let other = url.replace("127.0.0.1", "localhost");
    Run::of(&mut copy(Path::new(&url), Path::new(&other)))
        .says(2, "are the same place in a bucket");
    let inner = url.replace("s3://wal/main", "s3://wal/main/inner");
    Run::of(&mut copy(Path::new(&url), Path::new(&inner))).says(2, "lies inside of");
    assert_eq!(files(&place.path("archive")), Vec::<String>::new());
    let secret = format!("s3://AKID:{SECRET}@wal/main");
    for command in ["init", "push"] {
        let mut walsafe = walsafe();
        walsafe.args([command, "--pgdata"]).arg(place.path("data")).arg(&secret);
        let run = Run::of(&mut walsafe);
        run.says(2, "credentials");
        assert!(!run.err.contains(SECRET), "{run:?}");
    }
    let run = Run::of(&mut copy(&place.path("local"), Path::new(&secret)));
    run.says(2, "credentials");
    assert!(!run.err.contains(SECRET), "{run:?}");
}

#[test]
fn a_bucket_is_marked_once_and_the_mark_is_never_replaced() {
    let place = Place::in_bucket();
    let id = place.path("archive").join(IDENTITY);
    fs::remove_file(&id).unwrap();
    let init = || {
        let mut command = walsafe();
        command.args(["init", "--pgdata"]).arg(place.path("data")).arg(place.archive());
        Run::of(&mut command)
    };
    let run = init();
    assert_eq!((run.status, &*run.err), (Some(0), ""), "{run:?}");
    assert!(run.out.contains("is now the archive of cluster"), "{run:?}");
    let identity = fs::read_to_string(&id).unwrap();
    assert!(identity.contains(&format!("system_identifier = {OURS}\n")), "{identity}");
    let run = init();
    assert!(run.out.contains("is already the archive of cluster"), "{run:?}");
    assert_eq!(fs::read_to_string(&id).unwrap(), identity);
    fs::write(place.path("data/global/pg_control"), control(OURS + 1)).unwrap();
    init().says(2, "belongs to another cluster");
    // Nothing shows whose it is but its WAL.
    fs::remove_file(&id).unwrap();
    place.put_with_digest(&segment_name(1, 1), &segments()[0]);
    init().says(2, "belongs to another cluster");
    assert!(!id.exists());
}

#[test]
fn what_a_standby_has_and_a_bucket_lacks_is_pushed() {
    let (place, wal) = (Place::in_bucket(), segments());
    place.put_with_digest(&segment_name(1, 1), &wal[0]);
    fs::create_dir_all(place.path("data/pg_wal/archive_status")).unwrap();
    fs::write(place.path("data/standby.signal"), "").unwrap();
    for number in [1, 2, 3] {
        let name = segment_name(1, number);
        fs::write(place.path("data/pg_wal").join(&name), &wal[number as usize - 1]).unwrap();
        fs::write(place.path(&format!("data/pg_wal/archive_status/{name}.done")), "").unwrap();
    }
    let push = || {
        let mut command = walsafe();
        command.args(["push", "--pgdata"]).arg(place.path("data")).arg(place.archive());
        Run::of(&mut command)
    };
    let run = push();
    assert_eq!((run.status, &*run.err), (Some(0), ""), "{run:?}");
    assert!(run.out.starts_with("pushed 2 files (2 MB) to \"s3://wal/main"), "{run:?}");
    for number in [1, 2, 3] {
        let there = place.path("archive").join(segment_name(1, number));
        assert!(fs::read(there).unwrap() == wal[number as usize - 1]);
    }
    assert!(push().out.starts_with("nothing to push"));
    fs::remove_file(place.path("archive").join(IDENTITY)).unwrap();
    push().says(2, "has no identity file");
}

/// The figures name both places, and no option of a URL; what comes later is brought.
#[test]
fn a_copy_that_follows_into_a_bucket_brings_what_comes_and_writes_its_figures() {
    let place = place();
    let last = place.path("local").join(segment_name(2, 5));
    let later = fs::read(&last).unwrap();
    let carried = attributes(&last);
    fs::remove_file(&last).unwrap();
    let metrics = place.path("copy.prom");
    let mut command = copy(&place.path("local"), &place.archive());
    command.args(["--follow", "--interval=1", "--metrics"]).arg(&metrics);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let wait = |what: &dyn Fn() -> bool| {
        while !what() {
            assert!(Instant::now() < until, "it does not come");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let has = |text: &str| fs::read_to_string(&metrics).is_ok_and(|figures| figures.contains(text));
    wait(&|| {
        has("walsafe_copy_files_behind") && has("} 0\n") && files(&place.path("archive")).len() == 5
    });
    // Whole at once, as the archiver publishes.
    let temporary = place.path("later");
    fs::write(&temporary, &later).unwrap();
    common::set_digests(&temporary, &later, &later);
    set_checked(&temporary, carried[2].as_deref().unwrap());
    fs::rename(&temporary, &last).unwrap();
    wait(&|| files(&place.path("archive")).len() == 6);
    let ended = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(ended.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_same(&place.path("local"), &place.path("archive"));
    assert!(has("destination=\"s3://wal/main"), "{}", fs::read_to_string(&metrics).unwrap());
}

/// What a process and those that it has started have at most, while they run.
#[derive(Debug, Default)]
struct Most {
    /// Megabytes of memory.
    memory: usize,
    threads: usize,
    descriptors: usize,
}

impl Most {
    /// Looks at them until the process has ended.
    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let mut most = Self::default();
        while child.try_wait().unwrap().is_none() {
            let mut now = Self::default();
            now.add(child.id());
            most.memory = most.memory.max(now.memory);
            most.threads = most.threads.max(now.threads);
            most.descriptors = most.descriptors.max(now.descriptors);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
        most
    }

    fn add(&mut self, process: u32) {
        let of = |file: &str| format!("/proc/{process}/{file}");
        let status = fs::read_to_string(of("status")).unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        self.memory += number("VmHWM:") / 1024;
        self.threads += number("Threads:");
        self.descriptors += fs::read_dir(of("fd")).map_or(0, Iterator::count);
        let children = fs::read_to_string(of(&format!("task/{process}/children")));
        for child in children.unwrap_or_default().split_whitespace() {
            self.add(child.parse().unwrap());
        }
    }
}

/// Each object that was sent or fetched took its length of memory, until the end of the run.
#[test]
fn many_objects_take_no_more_memory_threads_or_descriptors_than_a_few() {
    let place = Place::in_bucket();
    fs::create_dir(place.path("local")).unwrap();
    fs::create_dir(place.path("back")).unwrap();
    let put = |number: u32, wal: &[u8]| {
        let path = place.path("local").join(segment_name(1, number));
        fs::write(&path, wal).unwrap();
        common::set_digests(&path, wal, wal);
        set_checked(&path, "header");
    };
    let wal = Wal::new(OURS, 1).segments(50);
    let run = |source: &Path, destination: &Path| {
        let mut command = copy(source, destination);
        command.arg("--jobs=2");
        Most::of(command)
    };
    let mut seen = Vec::new();
    for range in [0..6, 6..50] {
        range.for_each(|number| put(number + 1, &wal[number as usize]));
        seen.push(run(&place.path("local"), &place.archive()));
        seen.push(run(&place.archive(), &place.path("back")));
    }
    assert_eq!(files(&place.path("archive")).len(), 50);
    assert_same(&place.path("local"), &place.path("back"));
    println!("{seen:#?}");
    for (few, many) in [(&seen[0], &seen[2]), (&seen[1], &seen[3])] {
        assert!(many.memory < few.memory + 20, "{few:?} {many:?}");
        assert!(many.threads <= few.threads.max(8), "{few:?} {many:?}");
        assert!(many.descriptors <= few.descriptors + 8, "{few:?} {many:?}");
    }
}
