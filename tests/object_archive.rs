//! Archives on real servers of object storage, from a cluster under load to a recovery, and the servers that are
//! refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use harness::object::{Bucket, Kind, ObjectServer};
use harness::{Cluster, ClusterBuilder, Mark, TIMEOUT, process, require, wait_until};
use rustix::process::Signal;

use crate::races::{align, is_told, settle};
use crate::support::bucket::Objects;
use crate::support::load::{assert_nothing_missing, finish, keeps_wal, prepare, under_load};
use crate::support::{extension, recovery};

/// A cluster archives under load: all that it says is archived is there, equal, and nothing else.
fn archives_under_load(objects: &Objects, setup: impl FnOnce(ClusterBuilder) -> ClusterBuilder) {
    let cluster = extension::start(setup(keeps_wal(objects.archiving(Cluster::builder()))));
    let first = prepare(&cluster);
    let rows = under_load(&cluster, |load| load.rows(&cluster, 20));
    let last = finish(&cluster);
    let count = assert_nothing_missing(&cluster, (&first, &last), |name| objects.get(name));
    assert!(count > rows.min(20), "{count}");
    assert_eq!(cluster.log().archiver_reports(Mark::default()), []);

    let stat = cluster.stat_archiver();
    assert_eq!((stat.failed_count, stat.last_archived_wal.as_ref()), (0, Some(&last)));
    assert!(stat.archived_count >= u64::from(count), "{stat:?}");
    let names = objects.names();
    assert!(names.iter().all(|name| name.len() == 24 || name == "walsafe_archive.id"), "{names:?}");
    let status = cluster.sql(
        "SELECT state, archived_count, failed_count, throttled, requests >= archived_count,
             stored_bytes = wal_bytes, free_bytes IS NULL
         FROM walsafe_archive_status",
    );
    assert_eq!(status, format!("ok|{}|0|0|t|t|t", stat.archived_count));
    let check = cluster.sql("SELECT * FROM walsafe_archive_check() WHERE status = 'error'");
    assert_eq!(check, "");
    objects.assert_clean();
}

/// What a base backup and a bucket make of each other: a recovery to a time, a standby, its promotion, and a
/// recovery along the new timeline.
fn servers_come_back_from_a_bucket(objects: &Objects) {
    let primary = objects.archiving(Cluster::builder()).start();
    primary.sql("CREATE TABLE rows (n int)");
    let backup = primary.base_backup_without_wal();
    let row = |cluster: &Cluster, n: u32| {
        cluster.sql(&format!("INSERT INTO rows VALUES ({n})"));
        cluster.fill_whole_segments(2);
    };
    row(&primary, 1);
    let target = primary.sql("SELECT pg_create_restore_point('between')");
    assert!(!target.is_empty());
    row(&primary, 2);
    primary.wait_all_archived();

    let command = objects.restore_command();
    let to = backup
        .restore_copy()
        .recovery()
        .set("restore_command", &command)
        .set("recovery_target_name", "between")
        .set("recovery_target_action", "promote")
        .start();
    assert_eq!(recovery::rows_after_recovery(&to), "1");
    drop(to);

    let standby = backup.restore_copy().standby().set("restore_command", &command);
    let standby = objects.archiving(standby).start();
    standby.wait_replayed(&primary.sql("SELECT pg_switch_wal()"));
    row(&primary, 3);
    primary.switch_wal();
    primary.wait_all_archived();
    standby.wait_until("the third row", || (recovery::rows(&standby) == "1,2,3").then_some(()));
    primary.kill_all();
    standby.promote();
    row(&standby, 4);
    standby.switch_wal();
    standby.wait_all_archived();
    assert_eq!(standby.log().archiver_reports(Mark::default()), []);
    objects.assert_clean();
    drop(standby);

    let again = backup.restore().recovery().set("restore_command", &command).start();
    assert_eq!(recovery::rows_after_recovery(&again), "1,2,3,4");
    assert!(objects.names().contains(&"00000002.history".to_owned()));
}

/// Two clusters that begin in one place at the same moment: it becomes the archive of one, and the other is
/// told. Nothing of the other's is there.
fn a_place_is_one_clusters(objects: &Objects) {
    let clusters = [1, 2].map(|_| {
        // Without a place to archive to, until both have something to archive.
        let builder = objects.archiving(Cluster::builder().set("wal_keep_size", "1GB"));
        let cluster = builder.set("walsafe_archive.destination", "").start();
        cluster.fill_segments(3);
        cluster
    });
    for cluster in &clusters {
        cluster.reconfigure("walsafe_archive.destination", objects.url());
    }
    let refused = |cluster: &Cluster| {
        let mut reports = cluster.log().archiver_reports(Mark::default()).into_iter();
        reports.find(|report| report.message.contains("another cluster"))
    };
    let [one, two] = &clusters;
    let (winner, report) = harness::wait_until(harness::TIMEOUT, "a loser", || {
        clusters.iter().for_each(Cluster::wake_archiver);
        refused(one).map(|report| (two, report)).or_else(|| Some((one, refused(two)?)))
    });
    winner.wait_until("the other's files", || {
        winner.wake_archiver();
        winner.ready_files().is_empty().then_some(())
    });
    assert_eq!(report.sqlstate, "55000", "{report:?}");
    for name in objects.segments() {
        objects.assert_holds(winner, &name);
    }
    assert!(objects.segments().len() >= 3);
}

/// A cluster is refused a place in this bucket, after at most one object.
#[track_caller]
fn is_refused(bucket: Bucket) {
    let objects = Objects::new(bucket);
    let cluster = objects.archiving(Cluster::builder()).start();
    let mark = cluster.mark();
    let name = cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "0A000");
    report.assert_explains(&name);
    assert!(report.hint.contains("ignores \"If-None-Match: *\""), "{report:?}");
    assert!(!cluster.is_archived(&name));
    assert_eq!(objects.names(), ["walsafe_archive.id"]);
}

#[test]
fn a_cluster_archives_under_load_and_tls() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let server = ObjectServer::shared(Kind::SeaweedFs);
    let objects = Objects::new(server.bucket()).secured(server.https());
    archives_under_load(&objects, |builder| builder);
}

#[test]
fn a_place_in_a_bucket_is_one_clusters() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    a_place_is_one_clusters(&Objects::new(ObjectServer::shared(Kind::SeaweedFs).bucket()));
}

#[test]
fn servers_come_back_from_object_storage() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let objects = Objects::new(ObjectServer::shared(Kind::SeaweedFs).bucket());
    servers_come_back_from_a_bucket(&objects);
}

#[test]
fn servers_come_back_from_a_bucket_of_googles() {
    require!(ObjectServer::is_there(Kind::FakeGcs));
    let objects = Objects::new(ObjectServer::shared(Kind::FakeGcs).bucket());
    servers_come_back_from_a_bucket(&objects);
}

/// What only `make test-all` does, with the servers that it gets.
mod full {
    use super::*;

    #[test]
    fn a_cluster_archives_to_ceph() {
        require!(ObjectServer::is_there(Kind::Ceph));
        let server = ObjectServer::shared(Kind::Ceph);
        archives_under_load(&Objects::new(server.bucket()), |builder| {
            builder.set("walsafe_archive.workers", "8").set("walsafe_archive.verify", "on")
        });
        a_place_is_one_clusters(&Objects::new(server.bucket()));
        servers_come_back_from_a_bucket(&Objects::new(server.bucket()));
    }

    /// From another cloud, by its own requests, signatures and listings.
    #[test]
    fn a_cluster_archives_to_azure() {
        require!(ObjectServer::is_there(Kind::Azurite));
        let server = ObjectServer::shared(Kind::Azurite);
        archives_under_load(&Objects::new(server.bucket()), |builder| {
            builder.set("walsafe_archive.workers", "8").set("walsafe_archive.verify", "on")
        });
        a_place_is_one_clusters(&Objects::new(server.bucket()));
        servers_come_back_from_a_bucket(&Objects::new(server.bucket()));
    }

    #[test]
    fn a_clone_adds_nothing_behind_its_conflict_in_a_container_of_azure() {
        require!(ObjectServer::is_there(Kind::Azurite));
        one_history(&ObjectServer::shared(Kind::Azurite), 4);
    }

    /// What counted as archived when every process of the storage was killed is there afterwards, whole and
    /// equal, and archiving goes on by itself.
    fn survives_kills(server: &Arc<ObjectServer>, kills: usize) {
        let objects = Objects::new(server.bucket());
        let builder = keeps_wal(objects.archiving(Cluster::builder()));
        let cluster = builder.set("walsafe_archive.workers", "4").start();
        let first = prepare(&cluster);
        let mut counted = BTreeSet::new();
        under_load(&cluster, |_| {
            for _ in 0..kills {
                cluster.wait_until("more to be archived", || {
                    let done = cluster.done_files();
                    (done.iter().filter(|name| !counted.contains(*name)).count() >= 8).then_some(())
                });
                server.kill();
                counted.extend(cluster.done_files());
                server.restart();
                for name in &counted {
                    objects.assert_holds(&cluster, name);
                }
                cluster.wait_until("archiving to go on", || {
                    cluster.wake_archiver();
                    cluster.done_files().iter().any(|name| !counted.contains(name)).then_some(())
                });
            }
        });
        cluster.wake_archiver();
        let last = finish(&cluster);
        let count = assert_nothing_missing(&cluster, (&first, &last), |name| objects.get(name));
        assert!(counted.len() >= 8 * kills, "{} of {count}", counted.len());
        objects.assert_clean();
    }

    #[test]
    fn what_counts_as_archived_survives_the_kill_of_ceph() {
        require!(ObjectServer::is_there(Kind::Ceph));
        survives_kills(&ObjectServer::start(Kind::Ceph), 2);
    }

    /// Two servers with one history up to a point and the same names behind it archive to one place at the same
    /// moment. Whoever has the first name has all: the other adds nothing behind the point where they part, of
    /// all that it has sent ahead.
    fn one_history(server: &Arc<ObjectServer>, rounds: usize) {
        let bucket = server.bucket();
        let place = |name: &str| Objects::at(bucket.clone(), name);
        // Its file of keys is for all of them.
        let begun = place("begun");
        let settings = |builder: ClusterBuilder| {
            let builder = begun.archiving(builder);
            builder.set("walsafe_archive.workers", "8").set("wal_keep_size", "1GB")
        };
        let first = settings(Cluster::builder()).start();
        let second = settings(first.base_backup().restore()).start();
        let clusters = [&first, &second];
        let mut won = [0, 0];
        for round in 0..rounds {
            let objects = place(&format!("round-{round}"));
            let mut archivers = clusters.map(Cluster::wait_archiver);
            for archiver in archivers {
                process::signal(archiver, Signal::STOP);
            }
            align(&clusters);
            let names = clusters.map(|cluster| cluster.fill_whole_segments(8));
            assert_eq!(names[0], names[1]);
            for cluster in clusters {
                cluster.reconfigure("walsafe_archive.destination", objects.url());
            }
            for archiver in archivers {
                wait_until(TIMEOUT, "the signal of the reload", || is_told(archiver).then_some(()));
            }
            if round % 2 == 1 {
                archivers.reverse();
            }
            for archiver in archivers {
                process::signal(archiver, Signal::CONT);
            }
            let lost = clusters.map(|cluster| settle(cluster, |name| objects.get(name)).len());
            // What was sent ahead would show by now.
            std::thread::sleep(Duration::from_millis(300));
            let whose = |name: &String| {
                let there = objects.get(name).expect("it is archived");
                clusters.map(|cluster| there == cluster.read_wal(name))
            };
            let owners: Vec<_> = names[0].iter().map(whose).collect();
            let winner = (0..2).find(|&server| owners.iter().all(|whose| whose[server]));
            let winner = winner.unwrap_or_else(|| panic!("two histories in one: {owners:?}"));
            assert_eq!((lost[winner], lost[1 - winner]), (0, 8), "round {round}");
            won[winner] += 1;
        }
        eprintln!("{won:?}");
        for cluster in clusters {
            let reports = cluster.log().archiver_reports(Mark::default());
            let ours =
                reports.iter().filter(|report| report.message.starts_with("could not archive"));
            for report in ours {
                assert_eq!(report.sqlstate, "58P02", "{report:?}");
            }
        }
    }

    #[test]
    fn a_clone_adds_nothing_behind_its_conflict_in_a_bucket() {
        require!(ObjectServer::is_there(Kind::SeaweedFs));
        one_history(&ObjectServer::shared(Kind::SeaweedFs), 20);
    }

    #[test]
    fn a_clone_adds_nothing_behind_its_conflict_in_a_bucket_of_ceph() {
        require!(ObjectServer::is_there(Kind::Ceph));
        one_history(&ObjectServer::shared(Kind::Ceph), 8);
    }

    #[test]
    fn storage_that_ignores_the_condition_is_refused() {
        for kind in Kind::BAD {
            require!(ObjectServer::is_there(kind));
            is_refused(ObjectServer::shared(kind).bucket());
        }
    }

    #[test]
    fn a_bucket_of_ceph_that_keeps_versions_is_refused() {
        require!(ObjectServer::is_there(Kind::Ceph));
        let bucket = ObjectServer::shared(Kind::Ceph).bucket();
        bucket.keep_versions();
        is_refused(bucket);
    }
}
