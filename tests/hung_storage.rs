//! Storage that does not answer: the server stays responsive, says so, and continues (G7, G10).
//!
//! There are two kinds of hang: a frozen file system, whose callers cannot be killed, and a stopped FUSE
//! daemon, whose callers can.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::fuse::Stalled;
use harness::mount::Frozen;
use harness::process::{is_alive, threads, title};
use harness::wait::poll;
use harness::{
    Cluster, ClusterBuilder, Fs, FuseMount, Mark, Mount, Report, Stop, TIMEOUT, Trace, archive,
    command, privileged, process, require, tool, wait_until,
};
use rustix::process::Signal;

/// How much longer than set the machine may take.
pub const SLACK: Duration = Duration::from_secs(8);

/// A destination that can hang.
pub enum Storage {
    /// The kernel holds the callers until the thaw.
    Freezing(Mount),
    /// The callers can be killed.
    Fuse(FuseMount),
}

/// Hangs until it is dropped. Declared after the cluster, so that it goes first.
#[expect(dead_code, reason = "held for their drop")]
pub enum Hang<'a> {
    Frozen(Frozen<'a>),
    Stalled(Stalled),
}

impl Storage {
    pub fn freezing() -> Self {
        Self::Freezing(Mount::new(Fs::Ext4, 64))
    }

    pub fn fuse() -> Self {
        Self::Fuse(FuseMount::new())
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Freezing(mount) => mount.path(),
            Self::Fuse(mount) => mount.path(),
        }
    }

    pub fn hang(&self) -> Hang<'_> {
        match self {
            Self::Freezing(mount) => Hang::Frozen(mount.freeze()),
            Self::Fuse(mount) => Hang::Stalled(mount.stall()),
        }
    }

    fn cluster(&self, workers: usize, stall_timeout: u32) -> ClusterBuilder {
        Cluster::archiving_to(self.path())
            .set("walsafe_archive.workers", &workers.to_string())
            .set("walsafe_archive.stall_timeout", &format!("{stall_timeout}s"))
    }
}

fn wait_until_archiving(cluster: &Cluster, name: &str) {
    let archiver = cluster.wait_archiver();
    cluster.wait_until(&format!("the archiver to be at work on {name}"), || {
        title(archiver).contains(&format!("archiving {name}")).then_some(())
    });
}

fn stall_reports(cluster: &Cluster, mark: Mark) -> Vec<Report> {
    let mut reports = cluster.log().archiver_reports(mark);
    reports.retain(|report| report.message.ends_with("the archive does not respond"));
    reports
}

/// Everything that the specification asks of a hang that ends, one after the other.
fn stays_responsive_and_goes_on(storage: &Storage, workers: usize, codec: &str) {
    let cluster = storage.cluster(workers, 60).set("walsafe_archive.compression", codec).start();
    cluster.sql("CREATE DATABASE doomed");
    cluster.wait_archived(&cluster.switch_wal());
    let archiver = cluster.wait_archiver();

    // Responsive: the archiver is in the middle of the call, and will be for a minute.
    let mark = cluster.mark();
    let hang = storage.hang();
    let name = cluster.switch_wal();
    wait_until_archiving(&cluster, &name);
    let began = Instant::now();
    let output = cluster.psql_within("DROP DATABASE doomed", Duration::from_secs(20));
    assert!(output.success(), "DROP DATABASE waits for the hung write: {output:?}");
    cluster.sql(&format!("SELECT pg_log_backend_memory_contexts({archiver})"));
    cluster.wait_for_log(mark, &format!("logging memory contexts of PID {archiver}"));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(!cluster.is_archived(&name), "the destination does not hang");
    assert!(stall_reports(&cluster, mark).is_empty());
    drop(hang);
    cluster.wait_archived(&name);
    assert_eq!(cluster.stat_archiver().failed_count, 0);

    // Reported after stall_timeout, once for each try.
    cluster.reconfigure("walsafe_archive.stall_timeout", "3s");
    cluster.wait_archived(&cluster.switch_wal());
    cluster.wait_archived(&cluster.switch_wal());
    let trace = Trace::attach(archiver, "openat,linkat");
    let mark = cluster.mark();
    let hang = storage.hang();
    let began = Instant::now();
    let first = cluster.switch_wal();
    cluster.wait_failures(1);
    let after = began.elapsed();
    assert!(after >= Duration::from_secs(3) && after < Duration::from_secs(3) + SLACK, "{after:?}");
    let report = cluster.wait_for_report(mark, "58030");
    assert_eq!(
        report.message,
        format!("could not archive file \"{first}\": the archive does not respond")
    );
    assert!(report.detail.contains("has made no progress for 3 seconds"), "{report:?}");
    assert!(report.detail.contains(storage.path().to_str().unwrap()), "{report:?}");
    assert!(report.hint.contains("Nothing more is started there"), "{report:?}");

    // Tried again and again, with nothing piling up.
    let most = 1 + workers.max(1);
    let mut names = vec![first];
    for _ in 0..3 {
        let failed = cluster.stat_archiver().failed_count;
        names.push(cluster.switch_wal());
        cluster.wait_failures(failed + 2);
        assert!(threads(archiver) <= most, "{} threads", threads(archiver));
    }
    // The server's own count follows the report by a moment.
    wait_until(TIMEOUT, "a WARNING for each failure, and no more", || {
        let failed = cluster.stat_archiver().failed_count;
        (stall_reports(&cluster, mark).len() as u64 == failed).then_some(())
    });

    // After the thaw, archiving resumes by itself: the same process. What was under way counts for nothing,
    // and is copied or looked up once more; each other file is copied once.
    drop(hang);
    names.push(cluster.switch_wal());
    for name in &names {
        cluster.wait_archived(name);
        assert_eq!(archive::contents(storage.path(), name).unwrap(), cluster.read_wal(name));
    }
    assert_eq!(cluster.archiver_pid(), Some(archiver), "the archiver was restarted");
    assert!(threads(archiver) <= most, "{} threads", threads(archiver));
    let calls = trace.finish();
    let mut copies = 0;
    for name in &names {
        let source = format!("\"pg_wal/{name}\"");
        let opened = calls.iter().filter(|c| c.name == "openat" && c.text.contains(&source));
        let opened = opened.count();
        assert!(opened <= 2, "{name} was copied {opened} times");
        copies += opened;
    }
    assert!(copies <= names.len() + workers.max(1), "{copies} copies of {} files", names.len());
    assert!(archive::temporaries(storage.path()).is_empty());
    let took = cluster.stop(Stop::Fast);
    assert!(took < SLACK, "{took:?}");
}

#[test]
fn a_frozen_file_system_without_look_ahead() {
    require!(privileged());
    require!(tool("strace"));
    stays_responsive_and_goes_on(&Storage::freezing(), 0, "none");
}

#[test]
fn a_frozen_file_system_with_four_workers() {
    require!(privileged());
    require!(tool("strace"));
    stays_responsive_and_goes_on(&Storage::freezing(), 4, "zstd");
}

#[test]
fn a_stopped_fuse_daemon_without_look_ahead() {
    require!(privileged());
    require!(tool("bindfs"));
    require!(tool("strace"));
    stays_responsive_and_goes_on(&Storage::fuse(), 0, "lz4");
}

#[test]
fn a_stopped_fuse_daemon_with_four_workers() {
    require!(privileged());
    require!(tool("bindfs"));
    require!(tool("strace"));
    stays_responsive_and_goes_on(&Storage::fuse(), 4, "none");
}

/// The late result counted: the file was on the old disk alone, which nobody will ever mount again.
#[test]
fn a_late_result_does_not_count_for_another_disk() {
    require!(privileged());
    for workers in [0, 4] {
        let storage = Mount::new(Fs::Ext4, 64);
        let cluster = Cluster::archiving_to(storage.path())
            .set("walsafe_archive.workers", &workers.to_string())
            .set("walsafe_archive.stall_timeout", "2s")
            .start();
        cluster.wait_archived(&cluster.switch_wal());
        let hang = storage.freeze();
        let mark = cluster.mark();
        let names = cluster.fill_segments(5);
        wait_until(TIMEOUT, "the hang to be reported", || {
            (!stall_reports(&cluster, mark).is_empty()).then_some(())
        });
        let other = storage.replace(Fs::Ext4, 64);
        let mut init = cluster.server().command("walsafe");
        command::run(init.args(["init", "--pgdata"]).arg(cluster.data()).arg(other.path()));
        drop(hang);
        cluster.wake_archiver();
        let next = cluster.switch_wal();
        for name in names.iter().chain([&next]) {
            cluster.wait_archived(name);
            let there = archive::contents(other.path(), name);
            let there =
                there.unwrap_or_else(|| panic!("{workers}: {name} is on the old disk alone"));
            assert!(there == cluster.read_wal(name), "{name}");
        }
        cluster.stop(Stop::Fast);
    }
}

/// New settings mean a new pool of threads: it must not start beside the one that hangs.
#[test]
fn reloads_during_a_hang_start_no_threads() {
    require!(privileged());
    for workers in [0, 4] {
        let storage = Storage::freezing();
        let cluster = storage.cluster(workers, 2).start();
        cluster.wait_archived(&cluster.switch_wal());
        let archiver = cluster.wait_archiver();
        let hang = storage.hang();
        let mut names = vec![cluster.switch_wal()];
        cluster.wait_failures(1);
        let most = 1 + workers.max(1);
        for codec in ["zstd", "gzip:1", "lz4", "zstd:1", "none"] {
            cluster.reconfigure("walsafe_archive.compression", codec);
            let failed = cluster.stat_archiver().failed_count;
            names.push(cluster.switch_wal());
            cluster.wait_failures(failed + 2);
            assert!(threads(archiver) <= most, "{} threads after {codec}", threads(archiver));
        }
        drop(hang);
        names.push(cluster.switch_wal());
        for name in &names {
            cluster.wait_archived(name);
            assert_eq!(archive::contents(storage.path(), name).unwrap(), cluster.read_wal(name));
        }
        assert_eq!(cluster.archiver_pid(), Some(archiver), "the archiver was restarted");
        wait_until(TIMEOUT, "the threads of earlier settings to end", || {
            (threads(archiver) <= most).then_some(())
        });
    }
}

/// Fast shutdown archives what is waiting, but gives up on a destination that hangs.
#[test]
fn fast_shutdown_is_held_up_for_stall_timeout_at_most() {
    require!(privileged());
    require!(tool("bindfs"));
    for workers in [0, 4] {
        let storage = Storage::fuse();
        let cluster = storage.cluster(workers, 4).start();
        cluster.wait_archived(&cluster.switch_wal());
        let _hang = storage.hang();
        let names = cluster.fill_segments(8);
        wait_until_archiving(&cluster, &names[0]);
        let took = cluster.stop(Stop::Fast);
        assert!(took < Duration::from_secs(4) + SLACK, "workers {workers}: {took:?}");
        let ready = cluster.ready_files();
        assert!(names.iter().all(|name| ready.contains(name)), "{ready:?}");
    }
}

/// A smart shutdown waits for sessions, for hours if need be. Storage that hung for longer than a fast one may take
/// was given no time at all from then on: nothing was archived any more.
#[test]
fn a_smart_shutdown_archives_what_waits_once_storage_answers() {
    require!(privileged());
    require!(tool("bindfs"));
    let storage = Storage::fuse();
    let cluster = storage.cluster(0, 2).start();
    cluster.wait_archived(&cluster.switch_wal());
    let mut session = cluster.client("psql").stdin(Stdio::piped()).spawn().unwrap();
    cluster.wait_until("a session", || {
        let sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        (cluster.sql(sessions) == "2").then_some(())
    });
    let hang = storage.hang();
    let name = cluster.switch_wal();
    wait_until_archiving(&cluster, &name);
    let archiver = cluster.wait_archiver();
    cluster.request_stop(Stop::Smart);
    // The time is over, whenever it began.
    let began = Instant::now();
    wait_until(TIMEOUT, "the time of a fast shutdown to be over", || {
        process::signal(archiver, Signal::USR1);
        (began.elapsed() > Duration::from_secs(5)).then_some(())
    });
    drop(hang);
    wait_until(TIMEOUT, "the file in the archive", || {
        process::signal(archiver, Signal::USR1);
        archive::contents(storage.path(), &name)
    });
    assert!(cluster.is_running(), "the session was not waited for");
    drop(session.stdin.take());
    cluster.wait_exit(TIMEOUT);
    session.wait().unwrap();
}

#[test]
fn immediate_shutdown_is_not_held_up() {
    require!(privileged());
    require!(tool("bindfs"));
    for workers in [0, 4] {
        let storage = Storage::fuse();
        let cluster = storage.cluster(workers, 60).start();
        cluster.wait_archived(&cluster.switch_wal());
        let hang = storage.hang();
        let names = cluster.fill_segments(8);
        wait_until_archiving(&cluster, &names[0]);
        // The server itself kills children that do not end within 5 seconds, and says so.
        let mark = cluster.mark();
        let took = cluster.stop(Stop::Immediate);
        assert!(took < Duration::from_secs(5) + SLACK, "workers {workers}: {took:?}");
        assert!(!cluster.log().since(mark).contains("recalcitrant"), "workers {workers}");
        // What waited is archived by the next server, once the storage answers.
        drop(hang);
        cluster.start();
        for name in &names {
            cluster.wait_archived(name);
        }
        archive::assert_none_torn(storage.path(), 1 << 20);
        assert!(archive::temporaries(storage.path()).is_empty());
    }
}

#[test]
fn the_archiver_ends_when_the_postmaster_was_killed() {
    require!(privileged());
    require!(tool("bindfs"));
    for workers in [0, 4] {
        let storage = Storage::fuse();
        let cluster = storage.cluster(workers, 60).start();
        cluster.wait_archived(&cluster.switch_wal());
        let archiver = cluster.wait_archiver();
        let _hang = storage.hang();
        let names = cluster.fill_segments(8);
        wait_until_archiving(&cluster, &names[0]);
        cluster.kill_postmaster();
        let ended = poll(SLACK, || (!is_alive(archiver)).then_some(()));
        assert!(ended.is_some(), "workers {workers}: the archiver outlives the postmaster");
    }
}

/// A call that the kernel does not interrupt holds the process and the postmaster until it returns.
/// No module can change that: but the log has said so before.
#[test]
fn a_frozen_file_system_holds_the_shutdown_and_the_log_says_why() {
    require!(privileged());
    let storage = Storage::freezing();
    let cluster = storage.cluster(2, 2).start();
    cluster.wait_archived(&cluster.switch_wal());
    let mark = cluster.mark();
    let hang = storage.hang();
    let name = cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "58030");
    assert!(report.message.contains(&name), "{report:?}");
    cluster.request_stop(Stop::Immediate);
    assert!(cluster.try_wait_exit(Duration::from_secs(3)).is_none(), "this kernel can kill it");
    drop(hang);
    assert!(cluster.try_wait_exit(TIMEOUT).is_some());
    cluster.start();
    cluster.wait_archived(&name);
    assert_eq!(archive::contents(storage.path(), &name).unwrap(), cluster.read_wal(&name));
}
