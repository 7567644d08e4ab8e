//! The harness itself: its faults are real, so a test that sees none proves something.

use std::time::{Duration, Instant};

use harness::process::{self, running, title};
use harness::sandbox::Adopts;
use harness::{
    Cluster, Fs, FuseMount, Mount, PowerCut, Scratch, Server, Stop, Trace, privileged, require,
    tool,
};
use rustix::process::Signal;

fn cp_to(dir: &std::path::Path) -> harness::ClusterBuilder {
    Cluster::builder().archive_command(&format!("cp %p {}/%f", dir.display()))
}

#[test]
fn a_plain_cluster_archives_three_segments() {
    let archive = Scratch::new("archive");
    let cluster = cp_to(archive.path()).start();
    let names = cluster.fill_whole_segments(3);
    cluster.wait_archived(&names[2]);
    for name in &names {
        assert_eq!(archive.read(name), cluster.read_wal(name));
        assert_eq!(archive.read(name).len(), 1 << 20);
        assert!(archive.read(name)[800_000..900_000].iter().any(|&byte| byte != 0), "not filled");
    }
    cluster.wait_until("the statistics", || {
        (cluster.stat_archiver().archived_count == 3).then_some(())
    });
    assert!(cluster.ready_files().is_empty());
    assert!(cluster.archiver_pid().is_some());
    assert!(cluster.stop(Stop::Fast) < Duration::from_secs(30));
    assert!(!cluster.is_running());
    cluster.start();
    assert_eq!(cluster.sql("SELECT 1; SELECT 2"), "1\n2");
    assert!(cluster.psql("SELECT 1/0").unwrap_err().contains("22012"));
    cluster.kill_all();
    cluster.start();
}

#[test]
fn a_failing_command_is_seen_in_statistics_and_log() {
    let cluster = Cluster::builder().archive_command("echo no; exit 1").start();
    let mark = cluster.mark();
    let name = cluster.switch_wal();
    cluster.wait_failures(1);
    assert_eq!(cluster.ready_files(), std::slice::from_ref(&name));
    assert!(!cluster.is_archived(&name));
    let report = cluster.log().wait_for_archiver_report(mark, "01000", harness::TIMEOUT);
    assert!(report.message.contains("failed too many times"), "{report:?}");
    assert!(
        cluster.log().reports(mark).iter().any(|r| r.message.starts_with("archive command failed")
            && r.detail.starts_with("The failed archive command was"))
    );
    cluster.reconfigure("archive_command", "true");
    cluster.sql("SELECT pg_switch_wal()");
    cluster.switch_wal();
    cluster.wait_all_archived();
}

#[test]
fn a_power_cut_loses_what_was_not_flushed_and_nothing_else() {
    require!(privileged());
    for fs in Fs::ALL {
        let disk = PowerCut::new(fs, fs.min_mb());
        let plain = disk.dir("plain");
        let synced = disk.dir("synced");

        let cluster = cp_to(&plain).start();
        cluster.wait_archived(&cluster.fill_whole_segments(2)[1]);
        let intact = |dir: &str| {
            let files = disk.files_after_cut(dir);
            files.iter().filter(|(name, bytes)| *bytes == cluster.read_wal(name)).count()
        };
        assert_eq!(intact("plain"), 0, "{fs:?} keeps what nobody flushed");

        let flushing = format!("cp %p {0}/%f && sync {0}/%f {0}", synced.display());
        cluster.reconfigure("archive_command", &flushing);
        cluster.wait_for_log(harness::Mark::default(), "parameter \"archive_command\" changed");
        // The archiver itself reads the change before the next file, or the next but one.
        let names = cluster.fill_whole_segments(3);
        cluster.wait_archived(&names[2]);
        assert!(intact("synced") >= 2, "{fs:?} lost what was flushed");
    }
}

#[test]
fn a_frozen_file_system_holds_writers_until_it_is_thawed() {
    require!(privileged());
    let mount = Mount::new(Fs::Ext4, 16);
    let cluster = cp_to(mount.path()).start();
    let frozen = mount.freeze();
    let name = cluster.switch_wal();
    std::thread::sleep(Duration::from_secs(1));
    assert!(!cluster.is_archived(&name));
    drop(frozen);
    cluster.wait_archived(&name);
}

#[test]
fn a_panic_while_frozen_leaves_nothing_behind() {
    require!(privileged());
    let path = std::sync::Mutex::new(None);
    let failed = std::panic::catch_unwind(|| {
        let mount = Mount::new(Fs::Xfs, 300);
        *path.lock().unwrap() = Some(mount.path().to_owned());
        let cluster = cp_to(mount.path()).start();
        let _frozen = mount.freeze();
        cluster.switch_wal();
        panic!("as a failed test does");
    });
    assert!(failed.is_err());
    let path = path.lock().unwrap().take().unwrap();
    assert!(!path.exists());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()), "{mounts}");
}

#[test]
fn a_file_system_can_fill_up_become_read_only_and_be_unmounted() {
    require!(privileged());
    for mount in [Mount::new(Fs::Ext4, 16), Mount::tmpfs(16)] {
        let write = |name: &str| std::fs::write(mount.join(name), vec![1; 1 << 20]);
        let ballast = mount.fill_but(500_000);
        assert_eq!(write("a").unwrap_err().raw_os_error(), Some(28)); // ENOSPC
        std::fs::remove_file(ballast).unwrap();
        write("a").unwrap();
        mount.remount_read_only();
        assert_eq!(write("b").unwrap_err().raw_os_error(), Some(30)); // EROFS
        mount.remount_read_write();
        write("b").unwrap();
        mount.unmount();
        assert!(!mount.join("b").exists());
        mount.mount();
    }
}

#[test]
fn a_stalled_fuse_daemon_is_a_hang_and_a_dead_one_an_error() {
    require!(privileged());
    require!(tool("bindfs"));
    let mount = FuseMount::new();
    let cluster = cp_to(mount.path()).start();
    let first = cluster.switch_wal();
    cluster.wait_archived(&first);
    assert!(mount.behind().join(&first).exists());
    let stalled = mount.stall();
    let second = cluster.switch_wal();
    std::thread::sleep(Duration::from_secs(1));
    assert!(!cluster.is_archived(&second));
    drop(stalled);
    cluster.wait_archived(&second);
    mount.kill_daemon();
    cluster.switch_wal();
    cluster.wait_failures(1);
}

#[test]
fn system_calls_can_be_taken_away_from_a_server() {
    let archive = Scratch::new("archive");
    // Python, as the archiver's child, prints what it gets from the kernel.
    let script = r"
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call):
    try:
        call()
        return 'works'
    except OSError as error:
        return os.strerror(error.errno)
def rename():
    if libc.renameat2(-100, b'/nowhere', -100, b'/nowhere2', 1) != 0:
        raise OSError(ctypes.get_errno(), '')
print(attempt(lambda: os.open('/var/tmp', os.O_TMPFILE | os.O_WRONLY)), end='|')
print(attempt(lambda: os.open('/var/tmp', os.O_RDONLY)), end='|')
print(attempt(rename))
";
    harness::scratch::write(&archive.join("script.py"), script);
    let command = format!("/usr/bin/python3 {0}/script.py > {0}/%f", archive.path().display());

    let bare = Cluster::builder().archive_command(&command).start();
    let name = bare.switch_wal();
    bare.wait_archived(&name);
    let found = String::from_utf8(archive.read(&name)).unwrap();
    assert_eq!(found, "works|works|No such file or directory\n");

    let poor =
        Cluster::builder().archive_command(&command).without_tmpfile().without_renameat2().start();
    let name = poor.switch_wal();
    poor.wait_archived(&name);
    let found = String::from_utf8(archive.read(&name)).unwrap();
    assert_eq!(found, "Operation not supported|works|Invalid argument\n");
}

#[test]
fn a_trace_sees_calls_and_makes_them_fail() {
    require!(tool("strace"));
    let cluster = Cluster::builder().archive_command("true").start();
    let pid = cluster.wait_archiver();
    let trace = Trace::attach(pid, "rename,renameat,renameat2,wait4,vfork,clone,execve");
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    let calls = trace.finish();
    let rename = calls.iter().find(|call| call.name.starts_with("rename"));
    let rename = rename.unwrap_or_else(|| panic!("{calls:?}"));
    assert!(rename.succeeded() && rename.text.contains(&format!("{name}.done")), "{rename:?}");

    let mark = cluster.mark();
    let trace = Trace::inject(pid, "rename", "rename:error=EIO");
    cluster.switch_wal();
    cluster.wait_for_log(mark, "Input/output error");
    assert!(trace.calls().iter().any(|call| !call.succeeded()));
    drop(trace);
    cluster.wait_until("the archiver to go on", || {
        cluster.switch_wal();
        cluster.ready_files().is_empty().then_some(())
    });
}

#[test]
fn a_lost_cluster_comes_back_from_backup_and_archive() {
    let archive = Scratch::new("archive");
    let cluster = cp_to(archive.path()).start();
    cluster.pgbench_init(1);
    let backup = cluster.base_backup_without_wal();
    cluster.pgbench(200);
    let count = cluster.sql("SELECT count(*), sum(delta) FROM pgbench_history");
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    let identifier = cluster.system_identifier();
    drop(cluster);

    let restore = format!("cp {}/%f %p", archive.path().display());
    let again = backup.restore_copy().recovery().set("restore_command", &restore).start();
    again.wait_recovered();
    assert_eq!(again.sql("SELECT count(*), sum(delta) FROM pgbench_history"), count);
    assert_eq!(again.system_identifier(), identifier);

    let failing = backup.restore().recovery().set("restore_command", "exit 126").create();
    failing.launch();
    assert!(!failing.wait_exit(harness::TIMEOUT).success());
}

#[test]
fn a_standby_follows_and_is_promoted() {
    let primary = Cluster::builder().start();
    let standby = primary.streaming_standby().start();
    primary.sql("CREATE TABLE t AS SELECT 1 AS x");
    standby.wait_replayed(&primary.current_lsn());
    assert_eq!(standby.sql("SELECT x FROM t"), "1");
    standby.promote();
    standby.sql("INSERT INTO t VALUES (2)");
    assert!(standby.switch_wal().starts_with("00000002"));
}

#[test]
fn a_killed_postmaster_takes_its_children_along() {
    let cluster = Cluster::builder().archive_command("true").start();
    let archiver = cluster.wait_archiver();
    assert!(harness::process::private_memory_kb(archiver) > 0);
    assert!(!harness::process::open_files(archiver).is_empty());
    assert_eq!(harness::process::threads(archiver), 1);
    let began = Instant::now();
    cluster.kill_postmaster();
    harness::wait_until(harness::TIMEOUT, "the archiver to end", || {
        (!harness::process::is_alive(archiver)).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// What a server does when an orphan is killed that it was given: the reason to leave none to it.
#[test]
fn a_server_that_adopts_takes_an_orphans_bad_end_for_a_crash() {
    require!(privileged());
    for adopts in [None, Some(Adopts::Process1), Some(Adopts::Subreaper)] {
        let builder = Cluster::builder();
        let cluster = match adopts {
            Some(how) => builder.adopting(how),
            None => builder,
        };
        let cluster = cluster.start();
        // Like no other process.
        let orphan = format!("sleep 60.{}", cluster.pid());
        cluster.sql(&format!("COPY (SELECT 1) TO PROGRAM 'cat; {orphan} >/dev/null 2>&1 &'"));
        let pid = cluster.wait_until("the orphan", || running(|pid| title(pid) == orphan).pop());
        let mark = cluster.mark();
        process::signal(pid, Signal::KILL);
        if adopts.is_some() {
            cluster.wait_for_log(mark, "terminating any other active server processes");
            cluster.wait_for_log(mark, "database system is ready to accept connections");
        }
        assert_eq!(cluster.sql("SELECT 1"), "1");
        let log = cluster.log().since(mark);
        assert_eq!(log.contains("terminating any other"), adopts.is_some(), "{log}");
        assert!(cluster.stop(Stop::Fast) < Duration::from_secs(30));
    }
}

/// Numbers of processes come again: a lock that names one may name another.
#[test]
fn a_number_that_was_a_process_can_be_given_to_another() {
    require!(process::Numbered::is_possible());
    let cluster = Cluster::builder().start();
    let pid = cluster.pid();
    cluster.kill_all();
    let taken = process::Numbered::take(pid);
    cluster.wait_until("its title", || title(pid).starts_with("sleep ").then_some(()));
    assert!(process::is_alive(pid));
    drop(taken);
    assert!(!process::is_alive(pid));
}

#[test]
fn the_version_is_read_from_pg_config() {
    let server = Server::under_test();
    assert!((15..=18).contains(&server.major), "{server:?}");
    assert!(server.version.starts_with(&format!("PostgreSQL {}", server.major)));
}
