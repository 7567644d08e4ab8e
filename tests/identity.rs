//! The right cluster, the right file: whose archive a directory is, and whose WAL a file holds.

use std::fs;
use std::path::Path;
use std::time::Duration;

use harness::{Cluster, ClusterBuilder, Picture, Scratch, Server, command, scratch};

const IDENTITY: &str = "walsafe_archive.id";

/// Waits until a cluster has reported a failure, and checks that this changed nothing in its archive.
#[track_caller]
fn refused(cluster: &Cluster, archive: &Path, sqlstate: &str) -> harness::Report {
    let before = Picture::of(archive);
    let mark = cluster.mark();
    let failed = cluster.stat_archiver().failed_count;
    cluster.switch_wal();
    let report = cluster.wait_for_report(mark, sqlstate);
    cluster.wait_failures(failed + 1);
    let stuck = cluster.stat_archiver().last_failed_wal.expect("a failure");
    report.assert_explains(&stuck);
    assert!(cluster.ready_files().contains(&stuck));
    assert_eq!(Picture::of(archive), before, "the archive was changed");
    report
}

fn goes_on(cluster: &Cluster, archive: &Path) {
    let name = cluster.switch_wal();
    cluster.wait_all_archived();
    assert_eq!(scratch::read(&archive.join(&name)), cluster.read_wal(&name));
}

fn init(cluster: &Cluster, archive: &Path) {
    let mut program = cluster.server().command("walsafe");
    command::run(program.args(["init", "--pgdata"]).arg(cluster.data()).arg(archive));
}

/// Without the identity check, two clusters with one `destination` (a copied configuration) mix their WAL:
/// the names are the same, and neither cluster can be restored.
#[test]
fn another_clusters_archive_is_refused_until_the_cluster_has_one_of_its_own() {
    let archive = Scratch::new("archive");
    let owner = Cluster::archiving_to(archive.path()).start();
    goes_on(&owner, archive.path());
    let stranger = Cluster::archiving_to(archive.path()).start();
    let pid = stranger.wait_archiver();
    let report = refused(&stranger, archive.path(), "55000");
    for cluster in [&owner, &stranger] {
        assert!(report.detail.contains(&cluster.system_identifier().to_string()), "{report:?}");
    }
    assert!(report.hint.contains("walsafe_archive.destination"), "{report:?}");

    let own = Scratch::new("archive");
    stranger.reconfigure("walsafe_archive.destination", own.path().to_str().unwrap());
    stranger.wait_until("the new destination", || {
        stranger.switch_wal();
        stranger.ready_files().is_empty().then_some(())
    });
    assert_eq!(stranger.archiver_pid(), Some(pid));
    goes_on(&owner, archive.path());
}

/// Without the check of the header, a file that was copied into `pg_wal` by hand, or whose first page is
/// damaged, gets the name of a segment in the archive, and the restore that needs the true one ends there.
#[test]
fn a_file_that_is_not_the_segment_its_name_says_is_refused() {
    let donor = Cluster::builder().archive_command("true").start();
    let foreign_name = donor.fill_segments(24).pop().unwrap();
    let foreign = donor.read_wal(&foreign_name);
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    let pid = cluster.wait_archiver();
    let own_name = cluster.switch_wal();
    let own = cluster.read_wal(&own_name);
    cluster.wait_all_archived();

    let partial = format!("{foreign_name}.partial");
    let later_timeline = {
        let mut bytes = own.clone();
        bytes[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        bytes
    };
    let both = [donor.system_identifier().to_string(), cluster.system_identifier().to_string()];
    let [theirs, ours] = [&*both[0], &*both[1]];
    // A later segment's name, so that the server's own are not held up by it.
    let far = "000000010000000A00000003";
    let cases: [(&str, &[u8], &[&str]); 6] = [
        (&foreign_name, &foreign, &["system identifier", theirs, ours]),
        (&partial, &foreign, &["system identifier", theirs, ours]),
        (far, &own, &["page address", "A/300000"]),
        (far, &own[..1 << 19], &["524288", "1048576"]),
        (far, &[], &["0 bytes", "1048576"]),
        (&own_name.replacen("00000001", "00000002", 1), &later_timeline, &["timeline is 7", "2"]),
    ];
    for (name, contents, said) in cases {
        let before = Picture::of(archive.path());
        let (mark, failed) = (cluster.mark(), cluster.stat_archiver().failed_count);
        cluster.put_ready(name, contents);
        cluster.switch_wal();
        let report = cluster.wait_for_report(mark, "XX001");
        report.assert_explains(name);
        for part in said {
            assert!(report.detail.contains(part), "{name}, {part}: {report:?}");
        }
        assert!(report.detail.contains(&format!("pg_wal/{name}\"")), "{report:?}");
        cluster.wait_failures(failed + 1);
        assert!(cluster.ready_files().iter().any(|ready| ready == name));
        assert!(!archive.join(name).exists());
        assert_eq!(Picture::of(archive.path()).only(|name| before.shows(name)), before);
        cluster.remove_ready(name);
        goes_on(&cluster, archive.path());
        assert_eq!(cluster.archiver_pid(), Some(pid), "{name}");
    }

    // An administrator may turn the check off.
    cluster.reconfigure("walsafe_archive.check_wal", "off");
    cluster.put_ready(&foreign_name, &foreign);
    cluster.wait_until("the foreign segment to be archived", || {
        cluster.switch_wal();
        archive.join(&foreign_name).exists().then_some(())
    });
    cluster.wait_all_archived();
    assert_eq!(archive.read(&foreign_name), foreign);
}

/// Without the list in the data directory, an archive whose disk is not mounted, or was replaced by an
/// empty one, is begun anew in the wrong place. Without `walsafe init`, an administrator who did replace
/// the disk has no way out.
#[test]
fn a_lost_identity_file_is_refused_until_walsafe_init_writes_one() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    goes_on(&cluster, archive.path());
    fs::remove_file(archive.join(IDENTITY)).unwrap();
    let report = refused(&cluster, archive.path(), "55000");
    assert!(report.detail.contains(IDENTITY), "{report:?}");
    assert!(report.hint.contains("walsafe init --pgdata"), "{report:?}");

    // The data directory remembers it, over a restart and over a crash, and an empty directory does not
    // pass for a new one.
    cluster.kill_all();
    for name in archive.names() {
        fs::remove_file(archive.join(name)).unwrap();
    }
    cluster.start();
    let report = refused(&cluster, archive.path(), "55000");
    assert!(report.detail.contains("used by this cluster before"), "{report:?}");
    assert_eq!(archive.names(), [""; 0]);

    init(&cluster, archive.path());
    goes_on(&cluster, archive.path());
    let identity = String::from_utf8(archive.read(IDENTITY)).unwrap();
    let line = format!("system_identifier = {}", cluster.system_identifier());
    assert!(identity.lines().any(|there| there == line), "{identity}");
}

/// Without adoption, nobody could move over from cp or basic_archive without a new archive and a new base
/// backup.
#[test]
fn an_archive_begun_by_another_tool_is_adopted_on_the_running_server() {
    let by_cp: fn(ClusterBuilder, &str) -> ClusterBuilder =
        |builder, archive| builder.archive_command(&format!("cp %p {archive}/%f"));
    let by_basic: fn(ClusterBuilder, &str) -> ClusterBuilder = |builder, archive| {
        builder
            .set("archive_mode", "on")
            .set("archive_library", "basic_archive")
            .set("basic_archive.archive_directory", archive)
    };
    let mut tools = vec![by_cp];
    if Server::under_test().has_library("basic_archive") {
        tools.push(by_basic);
    }
    for tool in tools {
        let archive = Scratch::new("archive");
        let path = archive.path().to_str().unwrap();
        // No checkpoint forgets what was archived.
        let cluster = tool(Cluster::builder(), path).set("max_wal_size", "1GB").start();
        let names = cluster.fill_whole_segments(20);
        cluster.wait_all_archived();
        let before = Picture::of(archive.path());

        cluster.set_conf("archive_command", "");
        cluster.set_conf("walsafe_archive.destination", path);
        cluster.reconfigure("archive_library", "walsafe_archive");
        cluster.wait_until("the archive to be adopted", || {
            std::thread::sleep(Duration::from_millis(300));
            cluster.switch_wal();
            archive.join(IDENTITY).exists().then_some(())
        });
        // When the server asks again for a file of the other tool, it is there already.
        cluster.mark_ready_again(&names[7]);
        goes_on(&cluster, archive.path());
        assert_eq!(Picture::of(archive.path()).only(|name| before.shows(name)), before);
        assert_eq!(cluster.stat_archiver().failed_count, 0);
    }
}

/// Without the sample of segments, WAL is put among files of another kind, or into another cluster's
/// archive.
#[test]
fn a_directory_that_another_cluster_or_nobody_archived_to_is_not_adopted() {
    let archive = Scratch::new("archive");
    let copies = format!("cp %p {}/%f", archive.path().display());
    let other = Cluster::builder().archive_command(&copies).start();
    other.fill_segments(3);
    other.wait_all_archived();
    let cluster = Cluster::archiving_to(archive.path()).start();
    let report = refused(&cluster, archive.path(), "55000");
    assert!(report.detail.contains(&other.system_identifier().to_string()), "{report:?}");

    for name in archive.names() {
        fs::remove_file(archive.join(name)).unwrap();
    }
    scratch::write(&archive.join("letter.txt"), "not WAL");
    let report = refused(&cluster, archive.path(), "55000");
    assert!(report.hint.contains("walsafe init"), "{report:?}");
    init(&cluster, archive.path());
    goes_on(&cluster, archive.path());
    assert_eq!(archive.read("letter.txt"), b"not WAL");
}
