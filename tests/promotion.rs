//! Timelines: history, partial and backup files, the copy that a timeline begins with, and two servers
//! that were promoted from one.

use std::time::Duration;

use harness::{Cluster, ClusterBuilder, Mark, Picture, Scratch};

const WAYS: [fn(ClusterBuilder) -> ClusterBuilder; 2] =
    [|builder| builder, ClusterBuilder::without_tmpfile];

/// The timeline in a segment's first page header.
fn header_timeline(segment: &[u8]) -> u32 {
    u32::from_ne_bytes(segment[4..8].try_into().expect("four bytes"))
}

/// A recovery after a failover needs the WAL around the switch of timelines first. It must not be refused
/// for the old timeline in its headers, and neither its history file nor its last partial segment may be
/// missing.
#[test]
fn a_promoted_standby_goes_on_in_its_primarys_archive_and_all_of_it_can_be_restored() {
    for way in WAYS {
        let archive = Scratch::new("archive");
        let primary = way(Cluster::archiving_to(archive.path())).start();
        primary.sql("CREATE TABLE t AS SELECT 1 AS x");
        let backup = primary.base_backup_without_wal();
        let standby = way(primary.streaming_standby().archive_to(archive.path())).start();
        primary.sql("INSERT INTO t VALUES (2)");
        primary.switch_wal();
        primary.wait_all_archived();
        primary.sql("INSERT INTO t VALUES (3)");
        standby.wait_replayed(&primary.current_lsn());
        let last = primary.current_segment();
        let before = Picture::of(archive.path());
        primary.kill_all();

        standby.promote();
        standby.sql("INSERT INTO t VALUES (4)");
        let first = standby.switch_wal();
        let second = standby.fill_whole_segments(1).remove(0);
        standby.wait_archived(&second);
        standby.wait_all_archived();
        assert_eq!(standby.stat_archiver().failed_count, 0);
        assert_eq!(standby.log().archiver_reports(Mark::default()), []);
        assert_eq!(Picture::of(archive.path()).only(|name| before.shows(name)), before);

        // The new timeline begins with a copy of the old one's last segment, old headers and all.
        assert_eq!(first, last.replacen("00000001", "00000002", 1));
        let partial = format!("{last}.partial");
        for name in ["00000002.history", &first, &second, &partial] {
            assert_eq!(archive.read(name), standby.read_wal(name), "{name}");
        }
        assert_eq!(header_timeline(&archive.read(&first)), 1);
        assert_eq!(header_timeline(&archive.read(&second)), 2);
        let backups = archive.names().into_iter().filter(|name| name.ends_with(".backup"));
        assert_eq!(backups.count(), 2, "{:?}", archive.names());

        let plain = format!("cp {}/%f %p", archive.path().display());
        let restored = backup.restore().recovery().set("restore_command", &plain).start();
        restored.wait_recovered();
        assert_eq!(restored.sql("SELECT string_agg(x::text, ',' ORDER BY x) FROM t"), "1,2,3,4");
    }
}

/// Without the refusal, two servers that were both promoted (a split brain) mix their histories in one
/// archive, and every recovery to that timeline is a matter of luck.
#[test]
fn the_second_server_promoted_to_one_timeline_is_refused_until_it_has_an_archive_of_its_own() {
    let archive = Scratch::new("archive");
    let primary = Cluster::archiving_to(archive.path()).start();
    let [one, other] =
        [(); 2].map(|()| primary.streaming_standby().archive_to(archive.path()).start());
    primary.sql("CREATE TABLE t AS SELECT 1 AS x");
    for standby in [&one, &other] {
        standby.wait_replayed(&primary.current_lsn());
    }
    one.promote();
    one.sql("INSERT INTO t VALUES (2)");
    one.switch_wal();
    one.wait_all_archived();
    // The other follows the old primary for a while longer.
    primary.fill_whole_segments(1);
    primary.wait_all_archived();
    other.wait_replayed(&primary.current_lsn());
    let before = Picture::of(archive.path());

    let mark = other.mark();
    other.promote();
    let pid = other.wait_archiver();
    let report = other.wait_for_report(mark, "58P02");
    report.assert_explains("00000002.history");
    assert!(report.detail.contains("Another server already used timeline 2."), "{report:?}");
    assert!(report.hint.contains("Another server was promoted to the same timeline"), "{report:?}");
    assert!(report.hint.contains("an archive of its own"), "{report:?}");
    other.wait_failures(1);
    assert!(other.ready_files().contains(&"00000002.history".to_owned()));
    assert_eq!(Picture::of(archive.path()), before, "WAL of a wrong history came ahead of it");

    let own = Scratch::new("own");
    other.reconfigure("walsafe_archive.destination", own.path().to_str().unwrap());
    other.wait_until("its own archive", || {
        std::thread::sleep(Duration::from_millis(300));
        other.switch_wal();
        own.join("00000002.history").exists().then_some(())
    });
    other.wait_all_archived();
    assert_eq!(own.read("00000002.history"), other.read_wal("00000002.history"));
    assert_eq!(other.archiver_pid(), Some(pid));
}
