//! One history: a server that left the archive's history adds nothing behind the point where it left, and
//! files get their names in the server's order (G13).

use std::path::Path;
use std::time::Duration;

use harness::{Cluster, ClusterBuilder, Scratch, Stop, archive, dose, scratch};

const DESTINATION: &str = "walsafe_archive.destination";
const WORKERS: &str = "walsafe_archive.workers";

/// A clone of a stopped cluster, which archives nothing before it is told where to.
fn clone_of(cluster: &Cluster) -> ClusterBuilder {
    cluster
        .clone_stopped()
        .set("archive_mode", "on")
        .set("archive_library", "walsafe_archive")
        .set(DESTINATION, "")
        .set("wal_keep_size", "1GB")
}

/// Waits until a server is refused once more, and its look-ahead had the time to do harm.
#[track_caller]
fn is_refused_again(cluster: &Cluster) {
    let failed = cluster.stat_archiver().failed_count;
    cluster.wake_archiver();
    cluster.wait_failures(failed + 1);
    std::thread::sleep(Duration::from_millis(300));
}

/// Whatever the archive holds is what this server wrote.
#[track_caller]
fn assert_all_of(cluster: &Cluster, archive: &Path) {
    for name in archive::names(archive) {
        let theirs = archive::contents(archive, &name).expect("it was listed");
        assert!(theirs == cluster.read_wal(&name), "{name} is not this server's");
    }
}

/// Two servers from one data directory, on one archive. The primary was first with segment N. The clone's N
/// is refused, and its next segments were archived all the same: at the start, after a restart, a reload and
/// a kill. The primary was then refused for good, and a recovery took the two for one history.
#[test]
fn a_clone_adds_nothing_behind_the_point_where_it_left() {
    let archive = Scratch::new("archive");
    let destination = archive.path().to_str().expect("a path of ours");
    let keep = |builder: ClusterBuilder| builder.set("wal_keep_size", "1GB");
    let primary = keep(Cluster::archiving_to(archive.path())).start();
    primary.wait_archived(&primary.switch_wal());
    primary.stop(Stop::Fast);
    let clone = clone_of(&primary).start();
    primary.start();
    // Messages of one length: only their contents tell the two histories apart.
    for (cluster, text) in [(&primary, "of the primary"), (&clone, "of the clone  ")] {
        cluster.sql(&format!("SELECT pg_logical_emit_message(false, 'test', '{text}')"));
    }
    let first = primary.switch_wal();
    primary.wait_archived(&first);
    assert_eq!(clone.fill_segments(6)[0], first);
    let there = archive::names(archive.path());

    clone.set_conf(DESTINATION, destination);
    for workers in dose(&[2, 64][..], &[1, 2, 4, 8, 64]) {
        clone.set_conf(WORKERS, &workers.to_string());
        clone.restart();
        is_refused_again(&clone);
        assert_eq!(archive::names(archive.path()), there, "{workers} workers, at the start");
        clone.restart();
        is_refused_again(&clone);
        assert_eq!(archive::names(archive.path()), there, "{workers} workers, after a restart");
        for (setting, value) in [("file_mode", "0640"), ("file_mode", "0600")] {
            clone.reconfigure(&format!("walsafe_archive.{setting}"), value);
            is_refused_again(&clone);
            assert_eq!(archive::names(archive.path()), there, "{workers} workers, after a reload");
        }
        clone.kill_all();
        clone.start();
        is_refused_again(&clone);
        assert_eq!(archive::names(archive.path()), there, "{workers} workers, after a kill");
    }
    let report = clone.wait_for_report(harness::Mark::default(), "58P02");
    assert!(report.message.contains(&first), "{report:?}");

    let more = primary.fill_segments(8);
    primary.wait_archived(&more[7]);
    assert_eq!(primary.stat_archiver().failed_count, 0);
    assert_all_of(&primary, archive.path());
}

/// A data directory that was put back to an earlier snapshot, with all that was archived since then in the
/// archive, added to it what it wrote anew.
#[test]
fn a_data_directory_put_back_to_a_snapshot_adds_nothing_to_the_archive() {
    let archive = Scratch::new("archive");
    let builder = Cluster::archiving_to(archive.path()).set("wal_keep_size", "1GB");
    let before = builder.start();
    before.wait_archived(&before.switch_wal());
    before.stop(Stop::Fast);
    let put_back = clone_of(&before).set(WORKERS, "4").start();
    before.start();
    let names = before.fill_segments(3);
    before.wait_archived(&names[2]);
    before.stop(Stop::Fast);
    let there = archive::names(archive.path());

    put_back.sql("SELECT pg_logical_emit_message(false, 'test', 'another history')");
    assert_eq!(put_back.fill_segments(8)[..3], names);
    put_back.reconfigure(DESTINATION, archive.path().to_str().expect("a path of ours"));
    is_refused_again(&put_back);
    put_back.restart();
    is_refused_again(&put_back);
    assert_eq!(archive::names(archive.path()), there);
    before.start();
    assert_all_of(&before, archive.path());
}

/// Files that appear late, with names below those that the server has come to: `.backup` files do. And
/// `.ready` files without a file, which the server removes without asking for it.
#[test]
fn a_backlog_drains_though_lower_names_and_orphans_appear_meanwhile() {
    for workers in ["1", "4"] {
        let archive = Scratch::new("archive");
        let cluster = Cluster::builder()
            .set("archive_mode", "on")
            .set("archive_library", "walsafe_archive")
            .set("wal_keep_size", "1GB")
            .set("wal_init_zero", "off")
            .set(WORKERS, workers)
            .start();
        let names = cluster.fill_segments(200);
        let status = cluster.pg_wal().join("archive_status");
        cluster.reconfigure(DESTINATION, archive.path().to_str().expect("a path of ours"));
        let backup = format!("{}.00000028.backup", names[0]);
        let mut orphans = Vec::new();
        for n in [20, 60, 100] {
            cluster.wait_until("the backlog to drain", || {
                archive.join(&names[n]).exists().then_some(())
            });
            // Below what the server has come to, and above.
            for orphan in [
                format!("{}.{n:08X}.backup", names[1]),
                format!("{}.{n:08X}.backup", names[n + 40]),
            ] {
                scratch::write(&status.join(format!("{orphan}.ready")), "");
                orphans.push(orphan);
            }
            if n == 60 {
                cluster.put_ready(&backup, "START WAL LOCATION: 0/1000028\n");
            }
        }
        cluster.wait_all_archived();
        for name in names.iter().chain([&backup]) {
            assert!(archive.read(name) == cluster.read_wal(name), "{name}");
        }
        assert!(orphans.iter().all(|orphan| !archive.join(orphan).exists()));
        let stat = cluster.stat_archiver();
        assert_eq!(stat.failed_count, 0, "{workers} workers: a file was held back: {stat:?}");
    }
}
