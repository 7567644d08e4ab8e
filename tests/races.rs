//! Several servers and one directory: nothing is replaced, and the server that comes second is told why
//! (G3, G4).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{
    Cluster, ClusterBuilder, Mark, Scratch, Stop, StopOnDrop, TIMEOUT, archive, dose, process,
    scratch, wait_until,
};
use rustix::process::Signal;

use crate::support::destinations::{DESTINATION, assert_holds, list};

/// Segments that both servers complete under the same names before their archivers start at once.
const BATCH: usize = 8;
/// More rounds than in a full dose without a race mean that there is none.
const MOST_ROUNDS: usize = 32;

/// What is known of a file since it was first seen: inode, time of change of its bytes, contents.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Seen {
    inode: u64,
    modified: (i64, i64),
    bytes: Vec<u8>,
}

fn look(path: &Path) -> Seen {
    let metadata = path.symlink_metadata().expect("a file that was there");
    Seen {
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        bytes: scratch::read(path),
    }
}

/// Notes each file as soon as it appears, until told to stop.
fn watch(archive: &Path, stop: &AtomicBool) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    loop {
        let last = stop.load(Ordering::Relaxed);
        for name in scratch::names(archive) {
            if !name.starts_with('.') {
                seen.entry(name.clone()).or_insert_with(|| look(&archive.join(&name)));
            }
        }
        if last {
            return seen;
        }
        // The servers want the processors too.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Brings both servers to the same segment.
pub fn align(clusters: &[&Cluster; 2]) {
    let at = clusters.map(|cluster| {
        let name = cluster.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
        u64::from_str_radix(&name[8..], 16).expect("a segment's name")
    });
    // With segments of 1 MB the names count on, up to the first 4 GB.
    for (i, cluster) in clusters.iter().enumerate() {
        let behind = usize::try_from(at[1 - i].saturating_sub(at[i])).expect("a few");
        if behind > 0 {
            cluster.fill_segments(behind);
        }
    }
}

/// Waits until a server has archived all that waits or is told that a file is taken; then does what
/// an administrator would: marks the lost files as done. Returns their names.
pub fn settle(cluster: &Cluster, contents: impl Fn(&str) -> Option<Vec<u8>>) -> BTreeSet<String> {
    let mut lost = BTreeSet::new();
    let status = cluster.pg_wal().join("archive_status");
    wait_until(TIMEOUT, "a server to have done with the batch", || {
        let ready = cluster.ready_files();
        let taken = |name: &&String| {
            let theirs = contents(name);
            theirs.is_some_and(|bytes| bytes != cluster.read_wal(name))
        };
        // The report has to be there first, so wait for the report of the file at which it stops.
        let told = |name: &&String| {
            let report = format!("could not archive file \"{name}\"");
            taken(name) && cluster.log().text().contains(&report)
        };
        if ready.first().is_some_and(|first| told(&first)) {
            for name in ready.iter().filter(taken) {
                drop(fs::rename(
                    status.join(format!("{name}.ready")),
                    status.join(format!("{name}.done")),
                ));
                lost.insert(name.clone());
            }
        }
        cluster.wake_archiver();
        ready.is_empty().then_some(())
    });
    lost
}

/// Returns whether SIGHUP waits for a process that is stopped.
pub fn is_told(pid: i32) -> bool {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that is stopped");
    let pending = status.lines().filter_map(|line| {
        let mask = line.strip_prefix("ShdPnd:").or(line.strip_prefix("SigPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    pending.fold(0, |all, mask| all | mask) & 1 != 0
}

fn first_stays(setup: impl Fn(ClusterBuilder) -> ClusterBuilder) {
    let home = Scratch::new("archives");
    let rounds = dose(4, 16);
    let settings = |builder: ClusterBuilder| {
        setup(builder.set("walsafe_archive.workers", "64").set("wal_keep_size", "4GB"))
    };
    let first = settings(Cluster::archiving_to(&home.dir("begun"))).start();
    let copy = first.base_backup().restore();
    let second = settings(copy.archive_to(&home.dir("begun too"))).start();
    assert_eq!(first.system_identifier(), second.system_identifier());
    let clusters = [&first, &second];

    let mut lost = [BTreeSet::new(), BTreeSet::new()];
    let mut round = 0;
    // A small dose goes on until each has been the second: of few rounds one server may win all.
    while round < rounds || (round < MOST_ROUNDS && lost.iter().any(BTreeSet::is_empty)) {
        // A new archive: to one that the other has begun, the loser of a round adds nothing any more.
        let archive = home.dir(&format!("round {round}"));
        let mut archivers = clusters.map(Cluster::wait_archiver);
        for archiver in archivers {
            process::signal(archiver, Signal::STOP);
        }
        align(&clusters);
        let names = clusters.map(|cluster| cluster.fill_whole_segments(BATCH));
        assert_eq!(names[0], names[1], "not the same names");
        for cluster in clusters {
            let path = archive.to_str().expect("a path of ours");
            cluster.reconfigure("walsafe_archive.destination", path);
        }
        // The postmaster hands the signal on in its own time, and until then the archive is the one before.
        for archiver in archivers {
            wait_until(TIMEOUT, "the signal of the reload", || is_told(archiver).then_some(()));
        }
        // In half of the rounds, each is the first to continue.
        if round % 2 == 1 {
            archivers.reverse();
        }
        let stop = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let stopping = StopOnDrop(&stop);
            let watcher = scope.spawn(|| watch(&archive, &stop));
            for archiver in archivers {
                process::signal(archiver, Signal::CONT);
            }
            for (cluster, lost) in clusters.iter().zip(&mut lost) {
                lost.extend(settle(cluster, |name| archive::contents(&archive, name)));
            }
            drop(stopping);
            watcher.join().expect("the watcher")
        });
        // Byte for byte, inode for inode.
        for (name, before) in &seen {
            assert!(*before == look(&archive.join(name)), "{name} was changed or replaced");
        }
        // The copies that a server's other threads had made behind its conflict go in their own time.
        wait_until(TIMEOUT, "the copies that lost to be removed", || {
            archive::temporaries(&archive).is_empty().then_some(())
        });
        // What is there is what one of the two has written, and all of it.
        let whose = |name: &String| {
            let there = archive::contents(&archive, name);
            clusters
                .map(|cluster| there.as_ref().is_some_and(|bytes| *bytes == cluster.read_wal(name)))
        };
        let owners: Vec<_> = names[0].iter().map(|name| (name, whose(name))).collect();
        let one = (0..2).any(|server| owners.iter().all(|(_, whose)| whose[server]));
        assert!(one, "two histories in one archive: {owners:?}");
        round += 1;
    }

    let collisions = lost.iter().map(BTreeSet::len).sum::<usize>();
    assert!(collisions >= BATCH * round, "only {collisions} collisions");
    assert!(lost[0].is_disjoint(&lost[1]), "a file that both lost");
    for (cluster, lost) in clusters.iter().zip(&lost) {
        assert!(!lost.is_empty(), "no race: one server was always first");
        let reports = cluster.log().archiver_reports(Mark::default());
        let mut told = 0;
        for report in reports.iter().filter(|r| r.message.starts_with("could not archive")) {
            assert_eq!(report.sqlstate, "58P02", "{report:?}");
            // Behind a file that the test has marked, the archive holds the other server's.
            let known = [
                "the segment does not continue the archived one before it",
                "the archive is ahead of this server",
                "the archive holds a different file of that name",
            ];
            assert!(known.iter().any(|known| report.message.ends_with(known)), "{report:?}");
            let explains = !report.detail.is_empty() && !report.hint.is_empty();
            assert!(explains || report.is_again(), "{report:?}");
            told += 1;
        }
        assert!(told > 0);
        assert!(cluster.stat_archiver().failed_count >= told);
    }
    eprintln!(
        "{collisions} collisions, {} lost by the one and {} by the other; 0 files changed",
        lost[0].len(),
        lost[1].len()
    );
}

#[test]
fn the_first_file_stays_with_unnamed_temporary_files() {
    first_stays(|builder| builder);
}

#[test]
fn the_first_file_stays_with_named_temporary_files() {
    first_stays(|builder| builder.without_tmpfile().set("walsafe_archive.compression", "lz4"));
}

/// As on a file system that has neither links nor unnamed files: `renameat2` decides.
#[test]
fn the_first_file_stays_where_there_are_no_links() {
    first_stays(|builder| builder.without_tmpfile().without(harness::sandbox::Denied::LINKAT));
}

/// Two servers at one moment: each destination keeps the history of the one that came first there, and loses
/// nothing of it, even if another one was first in the other.
#[test]
fn two_servers_at_once_mix_no_histories_in_either() {
    let home = Scratch::new("archives");
    let settings = |builder: ClusterBuilder, names: [&str; 2]| {
        let dirs = names.map(|name| home.dir(name));
        builder
            .archive_to(&dirs[0])
            .set(DESTINATION, &list(&[&dirs[0], &dirs[1]]))
            .set("wal_keep_size", "4GB")
    };
    let first = settings(Cluster::builder(), ["a", "b"]).start();
    let copy = first.base_backup().restore();
    let second = settings(copy, ["c", "d"]).start();
    let clusters = [&first, &second];
    let (mut conflicts, mut split) = (0, 0);
    for round in 0..dose(4, 16) {
        let archives = [0, 1].map(|at| home.dir(&format!("round {round}, {at}")));
        let mut archivers = clusters.map(Cluster::wait_archiver);
        for archiver in archivers {
            process::signal(archiver, Signal::STOP);
            wait_until(TIMEOUT, "the archiver to stop", || {
                (process::state(archiver) == Some('T')).then_some(())
            });
        }
        // What was refused in the round before.
        for cluster in clusters {
            let status = cluster.pg_wal().join("archive_status");
            for name in cluster.ready_files() {
                let [from, to] =
                    ["ready", "done"].map(|mark| status.join(format!("{name}.{mark}")));
                fs::rename(from, to).expect("the archiver stands still");
            }
        }
        align(&clusters);
        let names = clusters.map(|cluster| cluster.fill_whole_segments(BATCH));
        assert_eq!(names[0], names[1], "not the same names");
        let mark = clusters.map(Cluster::mark);
        let waiting = clusters.map(Cluster::ready_files);
        for cluster in clusters {
            cluster.reconfigure(DESTINATION, &list(&[&archives[0], &archives[1]]));
        }
        for archiver in archivers {
            wait_until(TIMEOUT, "the reload", || is_told(archiver).then_some(()));
        }
        if round % 2 == 1 {
            archivers.reverse();
        }
        let stop = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let stopping = StopOnDrop(&stop);
            let (stop, each) = (&stop, archives.each_ref());
            let watchers = each.map(|archive| scope.spawn(move || watch(archive, stop)));
            for archiver in archivers {
                process::signal(archiver, Signal::CONT);
            }
            for ((cluster, mark), waiting) in clusters.iter().zip(mark).zip(&waiting) {
                cluster.wait_until("all to be archived, or a conflict", || {
                    cluster.wake_archiver();
                    let reports = cluster.log().archiver_reports(mark);
                    let told = reports.iter().any(|report| {
                        let about = |name: &String| report.message.contains(name.as_str());
                        report.sqlstate == "58P02" && waiting.iter().any(about)
                    });
                    conflicts += usize::from(told);
                    (told || cluster.ready_files().is_empty()).then_some(())
                });
            }
            drop(stopping);
            watchers.map(|watcher| watcher.join().expect("the watcher"))
        });
        let mut owners = Vec::new();
        for (archive, seen) in archives.iter().zip(&seen) {
            for (name, before) in seen {
                assert!(*before == look(&archive.join(name)), "{name} was replaced");
            }
            let whose = clusters.map(|cluster| {
                names[0].iter().all(|name| {
                    let there = archive::contents(archive, name);
                    there.is_none_or(|bytes| bytes == cluster.read_wal(name))
                })
            });
            assert!(whose.contains(&true), "two histories in {}", archive.display());
            owners.push(whose);
        }
        split += usize::from(owners[0] != owners[1]);
        for cluster in clusters {
            let done = cluster.done_files();
            for name in names[0].iter().filter(|name| done.contains(name)) {
                archives.iter().for_each(|archive| {
                    assert_holds(archive, cluster, std::slice::from_ref(name));
                });
            }
        }
    }
    assert!(conflicts > 0, "no race");
    eprintln!("{conflicts} conflicts, in {split} rounds each was first in one");
}

/// One archive for three servers, across a promotion. The follower's archiving was blocked on its version of
/// the segment with the switch, until somebody renamed a status file.
#[test]
fn standbys_that_archive_always_differ_in_the_tail_of_a_timeline_and_go_on() {
    let archive = Scratch::new("archive");
    let always =
        |builder: ClusterBuilder| builder.archive_to(archive.path()).set("archive_mode", "always");
    let primary = always(Cluster::builder()).start();
    let backup = primary.base_backup_without_wal();
    let heir = always(primary.streaming_standby()).start();
    let follower = always(primary.streaming_standby()).start();
    primary.sql("CREATE TABLE t (x int)");
    let names = primary.fill_whole_segments(20);
    for cluster in [&primary, &heir, &follower] {
        cluster.wait_until("the WAL to be archived by each", || {
            (cluster.is_archived(&names[19]) && cluster.ready_files().is_empty()).then_some(())
        });
    }

    // The follower stands still in the middle of a segment, the heir is promoted there, and the old
    // primary goes on and completes that segment on the old timeline.
    primary.sql("INSERT INTO t VALUES (1)");
    let switch = primary.current_lsn();
    for standby in [&heir, &follower] {
        standby.wait_replayed(&switch);
    }
    follower.stop(Stop::Fast);
    let tail = primary.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    heir.promote();
    heir.sql("INSERT INTO t VALUES (2)");
    assert_eq!(primary.switch_wal(), tail);
    primary.wait_archived(&tail);
    heir.fill_segments(3);
    heir.wait_all_archived();

    let heir_conninfo = format!("host={} user=postgres", heir.socket_dir().display());
    follower.set_conf("primary_conninfo", &heir_conninfo);
    let mark = follower.mark();
    let before = look(&archive.join(&tail));
    follower.start();
    let ours = format!("{tail}.tail.");
    let says = format!("file \"{tail}\" is archived as \"{ours}");
    // The old primary went on behind the switch, which is another warning.
    let report = follower.wait_until("the warning", || {
        let mut reports = follower.log().archiver_reports(mark).into_iter();
        reports.find(|report| report.message.starts_with(&says))
    });
    assert!(report.detail.contains("left timeline 1 at "), "{report:?}");
    let after = heir.switch_wal();
    follower.wait_until("the follower to go on archiving", || {
        (follower.is_archived(&after) && follower.ready_files().is_empty()).then_some(())
    });
    assert!(before == look(&archive.join(&tail)), "the archived segment was touched");
    let names = archive.names();
    let tails: Vec<_> = names.iter().filter(|name| name.starts_with(&ours)).collect();
    let [kept] = tails[..] else { panic!("{names:?}") };
    assert_eq!(archive.read(kept), follower.read_wal(&tail));

    // Nothing else failed anywhere. The follower's file may be refused until the new timeline's first segment
    // is on its way.
    for cluster in [&primary, &heir, &follower] {
        let mut other = cluster.log().archiver_reports(Mark::default());
        other.retain(|report| report.sqlstate != "01000" && !report.message.contains(&tail));
        assert_eq!(other, []);
    }
    assert_eq!(primary.stat_archiver().failed_count, 0);
    assert_eq!(heir.stat_archiver().failed_count, 0);

    // A recovery that follows the switch needs neither tail.
    heir.sql("INSERT INTO t VALUES (3)");
    let last = heir.switch_wal();
    heir.wait_archived(&last);
    let restore = format!("cp {}/%f %p", archive.path().display());
    let again = backup.restore().recovery().set("restore_command", &restore).start();
    again.wait_recovered();
    assert_eq!(again.sql("SELECT x FROM t ORDER BY x"), "1\n2\n3");
}
