//! Whatever has a final name stays as it is. The server says what is wrong, and continues once an
//! administrator has done what the HINT says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::{Cluster, Mark, Picture, Report, Scratch, command, scratch};
use walsafe_core::encoding::digest::Digest;

/// A cluster whose archive gets something else under the name of an archived file, as if from another tool,
/// and that has to archive that file once more.
struct Spoilt {
    archive: Scratch,
    aside: Scratch,
    cluster: Cluster,
    archiver: i32,
}

impl Spoilt {
    fn new() -> Self {
        let archive = Scratch::new("archive");
        let cluster = Cluster::archiving_to(archive.path()).start();
        let archiver = cluster.wait_archiver();
        Self { archive, aside: Scratch::new("aside"), cluster, archiver }
    }

    /// Archives a segment, has `spoil` put something else in its place, and checks all that has to hold:
    /// one report with what an administrator needs, the failure counted, the file still waiting, nothing in
    /// the archive changed, the same archiver. Then moves the thing out of the archive, and checks that
    /// archiving resumes by itself. Returns the file's name, its contents and the report.
    #[track_caller]
    fn check(
        &self,
        sqlstate: &str,
        spoil: impl FnOnce(&Path, &Path, &[u8]),
    ) -> (String, Vec<u8>, Report) {
        let Self { archive, aside, cluster, archiver } = self;
        let name = cluster.fill_whole_segments(1).remove(0);
        cluster.wait_archived(&name);
        let (ours, source, place) =
            (cluster.read_wal(&name), cluster.pg_wal().join(&name), archive.join(&name));
        fs::remove_file(&place).unwrap();
        spoil(&place, &source, &ours);
        let before = Picture::of(archive.path());
        let (failed, mark) = (cluster.stat_archiver().failed_count, cluster.mark());

        cluster.mark_ready_again(&name);
        cluster.switch_wal();
        let report = cluster.wait_for_report(mark, sqlstate);
        report.assert_explains(&name);
        assert!(report.detail.contains(place.to_str().unwrap()), "{report:?}");
        cluster.wait_failures(failed + 1);
        assert_eq!(cluster.stat_archiver().last_failed_wal.as_deref(), Some(&*name));
        assert!(cluster.ready_files().contains(&name));
        let now = Picture::of(archive.path()).only(|name| before.shows(name));
        assert_eq!(now, before, "the archive was changed");
        assert_eq!(cluster.archiver_pid(), Some(*archiver));

        for spoilt in archive.names().iter().filter(|there| there.starts_with(&*name)) {
            fs::rename(archive.join(spoilt), aside.join(spoilt)).unwrap();
        }
        cluster.switch_wal();
        cluster.wait_all_archived();
        assert_eq!(archive.read(&name), ours);
        assert_eq!(cluster.archiver_pid(), Some(*archiver));
        (name, ours, report)
    }
}

/// Without the comparison, a file that another tool left half-way, or that another server wrote, would be
/// overwritten. Or it would block archiving, and nothing would say which of the two is right.
#[test]
fn other_contents_under_the_name_stay_and_are_explained() {
    let spoilt = Spoilt::new();

    let (_, ours, report) = spoilt.check("58P02", |place, _, ours| {
        let mut theirs = ours.to_vec();
        theirs[500_123] ^= 1;
        scratch::write(place, theirs);
    });
    let mut theirs = ours.clone();
    theirs[500_123] ^= 1;
    for part in [
        &*format!("1048576 bytes (BLAKE3 {})", Digest::of(&theirs)),
        &*format!("the server's file 1048576 bytes (BLAKE3 {})", Digest::of(&ours)),
        "first difference is at offset 500123.",
    ] {
        assert!(report.detail.contains(part), "{part}: {report:?}");
    }
    assert!(report.hint.contains("pg_waldump"), "{report:?}");

    for len in [0, 100_000, 1_048_575] {
        let (_, _, report) =
            spoilt.check("58P02", |place, _, ours| scratch::write(place, &ours[..len]));
        for part in ["truncated beginning", &*format!("holds {len} bytes")] {
            assert!(report.detail.contains(part), "{report:?}");
        }
        assert!(report.hint.contains("Move it out of the archive"), "{report:?}");
    }

    let (_, _, report) = spoilt.check("58P02", |place, _, ours| {
        scratch::write(place, [ours, &[0; 8192]].concat());
    });
    let parts = ["holds 1056768 bytes", "first difference is at offset 1048576."];
    assert!(parts.iter().all(|part| report.detail.contains(part)), "{report:?}");

    let (_, _, report) = spoilt.check("58P02", |place, _, ours| {
        let mut theirs = ours.to_vec();
        theirs[1_048_000..].fill(0xAA);
        scratch::write(place, theirs);
    });
    assert!(report.detail.contains("only after the last WAL record"), "{report:?}");

    // A damaged file of another encoding is in the way too: a restore would find both.
    let (name, _, report) = spoilt.check("58P02", |place, _, _| {
        scratch::write(&place.with_extension("zst"), "not zstd");
    });
    assert!(report.detail.contains(&format!("{name}.zst")), "{report:?}");
    assert!(report.hint.contains("damaged"), "{report:?}");
}

/// Without this check, a link planted in a shared directory would send WAL elsewhere, a pipe would hang the
/// archiver, and a hard link to `pg_wal`, which the server recycles, would pass for a copy.
#[test]
fn what_is_not_a_file_of_its_own_is_neither_followed_nor_opened_nor_replaced() {
    let spoilt = Spoilt::new();
    let elsewhere = Scratch::new("elsewhere");

    let (_, _, report) = spoilt.check("42809", |place, _, _| scratch::make_dir(place));
    assert!(report.detail.ends_with("is a directory."), "{report:?}");
    let (_, _, report) = spoilt.check("42809", |place, _, _| {
        command::run(std::process::Command::new("mkfifo").arg(place));
        scratch::give_away(place);
    });
    assert!(report.detail.ends_with("is a named pipe."), "{report:?}");
    // Even to the same contents.
    let target = elsewhere.join("target");
    let (_, ours, report) = spoilt.check("42809", |place, _, ours| {
        scratch::write(&target, ours);
        symlink(&target, place).unwrap();
    });
    assert!(report.detail.ends_with("is a symbolic link."), "{report:?}");
    assert_eq!(scratch::read(&target), ours);
    let (_, _, report) =
        spoilt.check("42809", |place, _, _| symlink(elsewhere.join("nowhere"), place).unwrap());
    assert!(report.detail.ends_with("is a symbolic link."), "{report:?}");
    assert!(!elsewhere.join("nowhere").exists());

    let (_, _, report) =
        spoilt.check("42809", |place, source, _| fs::hard_link(source, place).unwrap());
    assert!(report.detail.contains("hard link to the server's own file"), "{report:?}");
}

/// With more reports, an archive that is down over a weekend would fill the disk of the log. With fewer, an
/// administrator would find one line and not know whether it still holds.
#[test]
fn a_failure_that_goes_on_is_reported_once_for_each_try_of_the_server() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    cluster.wait_archived(&cluster.switch_wal());
    let name = cluster.current_segment();
    scratch::make_dir(&archive.join(&name));
    let began = cluster.mark();
    // Files wait behind it, which threads may look at ahead.
    let names = cluster.fill_segments(6);
    assert_eq!(names[0], name);
    // The server's own words after its third try. It tries again after 60 s or at the next segment: here
    // once more, as segments were completed while it tried.
    let mark = cluster.mark();
    cluster.wait_for_log(mark, "failed too many times");
    settled(&cluster);
    let (ours, servers) = warnings(&cluster, began);
    assert!((1..=2).contains(&servers), "{servers} rounds of tries");
    assert_eq!(ours, 3 * servers);
    assert_eq!(cluster.stat_archiver().failed_count, ours as u64);

    let mark = cluster.mark();
    cluster.switch_wal();
    cluster.wait_for_log(mark, "failed too many times");
    settled(&cluster);
    assert_eq!(warnings(&cluster, mark), (3, 1));
    fs::remove_dir(archive.join(&name)).unwrap();
    cluster.switch_wal();
    cluster.wait_all_archived();
}

/// Waits until the archiver has given up for the moment: a round of tries takes two seconds.
fn settled(cluster: &Cluster) {
    let mut last = (0, Instant::now());
    cluster.wait_until("the tries to end", || {
        let failed = cluster.stat_archiver().failed_count;
        if failed != last.0 {
            last = (failed, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(2500)).then_some(())
    });
}

/// How many warnings are ours, and how many are the server's own.
fn warnings(cluster: &Cluster, mark: Mark) -> (usize, usize) {
    let reports = cluster.log().archiver_reports(mark);
    let ours = reports.iter().filter(|report| report.message.starts_with("could not archive"));
    let ours = ours.count();
    (ours, reports.len() - ours)
}
