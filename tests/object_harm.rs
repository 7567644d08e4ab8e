//! Object storage does no harm to the server: it stays responsive while the network hangs, threads, descriptors
//! and memory are bounded, no process is started, and the keys are nowhere to be seen.

use std::time::{Duration, Instant};

use harness::command::run_within;
use harness::object::{Answer, Fault, Kind, ObjectServer, Proxy, Silence};
use harness::process::{children, connections, private_memory_kb, threads, title};
use harness::{Cluster, Stop, TIMEOUT, Trace, require, scratch, tool, wait_until};

use crate::hung_storage::SLACK;
use crate::support::bucket::{CREDENTIALS, Objects};
use crate::support::extension;

const WORKERS: usize = 4;
const STALL_TIMEOUT: &str = "walsafe_archive.stall_timeout";

/// A cluster whose requests go through a proxy, after its first segment.
struct World {
    cluster: Cluster,
    proxy: Proxy,
    objects: Objects,
    archiver: i32,
}

impl World {
    fn new() -> Self {
        let bucket = ObjectServer::shared(Kind::SeaweedFs).bucket();
        let proxy = Proxy::in_front_of(bucket.address);
        let objects = Objects::new(bucket).behind(proxy.address());
        let builder = objects.archiving(Cluster::builder());
        let cluster =
            extension::start(builder.set("walsafe_archive.workers", &WORKERS.to_string()));
        let archiver = cluster.wait_archiver();
        cluster.wait_archived(&cluster.switch_wal());
        Self { cluster, proxy, objects, archiver }
    }
}

/// The network hangs in the middle of the requests, and all of them.
#[test]
fn a_hanging_network_holds_up_neither_a_drop_nor_for_long_a_shutdown() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let world = World::new();
    let World { cluster, proxy, .. } = &world;
    let archiver = world.archiver;
    cluster.sql("CREATE DATABASE doomed");
    cluster.wait_all_archived();

    let hang = proxy.break_each("", "", Fault::Hang { after: 10_000 });
    let name = cluster.fill_whole_segments(6).remove(0);
    hang.begun();
    let dropped = cluster.psql_within("DROP DATABASE doomed", Duration::from_secs(20));
    assert!(dropped.success(), "DROP DATABASE waits for the network: {dropped:?}");
    let mark = cluster.mark();
    cluster.sql(&format!("SELECT pg_log_backend_memory_contexts({archiver})"));
    cluster.wait_for_log(mark, &format!("logging memory contexts of PID {archiver}"));
    assert!(!cluster.is_archived(&name));
    assert_eq!(cluster.stat_archiver().failed_count, 0, "it was over before");

    // Nothing piles up, however often it is tried.
    cluster.reconfigure(STALL_TIMEOUT, "3s");
    for count in 1..=3 {
        cluster.wake_archiver();
        cluster.wait_failures(count);
        let (threads, connections) = (threads(archiver), connections(archiver));
        assert!(threads <= 2 + 2 * WORKERS, "{threads} threads");
        assert!(connections <= 2 * WORKERS + 2, "{connections} connections");
    }
    let stall_timeout = Duration::from_secs(3);
    cluster.wake_archiver();
    let began = Instant::now();
    cluster.stop(Stop::Fast);
    assert!(began.elapsed() < stall_timeout + SLACK, "{:?}", began.elapsed());
}

/// What is used is closed again, and the archiver starts no process, catches no signal and keeps its title.
#[test]
fn threads_and_connections_are_bounded_and_given_back() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(tool("strace"));
    let world = World::new();
    let World { cluster, objects, .. } = &world;
    let archiver = world.archiver;
    let trace = Trace::attach(archiver, "fork,vfork,clone,clone3,execve,execveat,rt_sigaction");
    let (mut most_threads, mut most) = (0, 0);
    let last = cluster.fill_whole_segments(40).pop().expect("a segment");
    wait_until(TIMEOUT, "the segments to be archived", || {
        most_threads = most_threads.max(threads(archiver));
        most = most.max(connections(archiver));
        assert!(children(archiver).is_empty(), "a process of the archiver's");
        cluster.is_archived(&last).then_some(())
    });
    assert!(most_threads <= 2 + WORKERS, "{most_threads} threads");
    // A worker holds bodies for files whose turn comes later.
    assert!((1..=2 * WORKERS + 2).contains(&most), "{most} connections");
    for call in trace.finish() {
        assert!(call.text.contains("CLONE_THREAD"), "{call:?}");
    }
    wait_until(TIMEOUT, "the connections to be closed", || {
        (connections(archiver) == 0).then_some(())
    });
    objects.assert_holds(cluster, &last);
}

/// Every text of a server, and every file in its data directory, that may hold a key.
#[track_caller]
fn assert_nowhere(secret: &str, cluster: &Cluster) {
    let log = cluster.log().text();
    assert!(!log.contains(secret), "in the log");
    for what in [
        "walsafe_archive_status",
        "walsafe_archive_check()",
        "pg_settings",
        "pg_file_settings",
        "pg_stat_activity",
        "pg_stat_archiver",
    ] {
        let rows = cluster.sql(&format!("SELECT * FROM {what}"));
        assert!(!rows.is_empty() && !rows.contains(secret), "in {what}");
    }
    for pid in children(cluster.pid()) {
        assert!(!title(pid).contains(secret), "in a title");
    }
    let mut grep = std::process::Command::new("grep");
    grep.args(["-rlF", secret]).arg(cluster.data());
    let found = run_within(&mut grep, "", TIMEOUT);
    assert_eq!((found.code(), &*found.stdout), (Some(1), ""), "in the data directory");
}

/// In successes and in errors, of which those about the keys are the most tempting.
#[test]
fn secrets_are_nowhere_to_be_seen() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let world = World::new();
    let World { cluster, proxy, objects, .. } = &world;
    let Objects { bucket, .. } = &objects;
    let secret = bucket.keys.secret.clone();
    cluster.reconfigure("log_min_messages", "debug2");
    cluster.wait_archived(&cluster.switch_wal());
    assert_nowhere(&secret, cluster);

    // Servers give back what they were sent, and what it should have been.
    let mut telling = Answer::error(403, "AccessDenied");
    telling.body.splice(0..0, format!("<!-- {secret} -->").into_bytes());
    let telling = proxy.break_each("PUT", "/0000", Fault::Answer(telling));
    let mark = cluster.mark();
    let name = cluster.switch_wal();
    telling.done();
    let report = cluster.wait_for_report(mark, "42501");
    assert!(report.detail.contains("AccessDenied"), "{report:?}");
    proxy.mend();
    cluster.wait_until("the file to be archived", || {
        cluster.wake_archiver();
        cluster.is_archived(&name).then_some(())
    });

    // Files of keys that are wrong in one way or another.
    let wrong_secret = format!("{secret}x");
    let good = bucket.credentials();
    for (n, (text, mode, says)) in [
        (good.replace(&secret, &wrong_secret), 0o600, "SignatureDoesNotMatch"),
        (good.replace("aws_secret_access_key =", "aws_secret_access_key "), 0o600, "line 3"),
        (good.replace("aws_secret_access_key", "secret"), 0o600, "line 3"),
        (good.replace("[s3", "[s4"), 0o600, "line 1"),
        (good.clone(), 0o644, "mode 0644"),
    ]
    .into_iter()
    .enumerate()
    {
        let wrong = objects.credentials().with_file_name(format!("wrong-{n}"));
        scratch::write(&wrong, text);
        scratch::chmod(&wrong, mode);
        let mark = cluster.mark();
        cluster.reconfigure(CREDENTIALS, &wrong.display().to_string());
        let name = cluster.switch_wal();
        cluster.wake_archiver();
        let report = cluster.wait_for_report(mark, "28000");
        assert!(report.detail.contains(says), "{says}: {report:?}");
        assert_nowhere(&secret, cluster);
        let credentials = wrong.display().to_string();
        let run = crate::support::recovery::walsafe(&[
            "verify",
            "--credentials-file",
            &credentials,
            objects.url(),
        ]);
        assert_ne!(run.code, Some(0), "{run:?}");
        assert!(!format!("{run:?}").contains(&secret), "{run:?}");
        // The keys are read again at the next try.
        scratch::write(&wrong, &good);
        scratch::chmod(&wrong, 0o600);
        cluster.wait_until("the right keys to be read", || {
            cluster.wake_archiver();
            cluster.is_archived(&name).then_some(())
        });
    }
}

/// What only `make test-all` does.
mod full {
    use super::*;

    /// The memory of the archiver once it has archived so many segments more.
    fn after(cluster: &Cluster, count: usize) -> u64 {
        let last = cluster.fill_whole_segments(count).pop().expect("a segment");
        cluster.wait_archived(&last);
        private_memory_kb(cluster.wait_archiver())
    }

    /// Packets that vanish, as behind a firewall.
    #[test]
    fn a_server_that_never_answers_is_reported_and_holds_up_no_shutdown() {
        require!(ObjectServer::is_there(Kind::SeaweedFs));
        let silence = Silence::new();
        let bucket = ObjectServer::shared(Kind::SeaweedFs).bucket();
        let objects = Objects::new(bucket).behind(silence.address());
        let stall_timeout = Duration::from_secs(4);
        let cluster = objects.archiving(Cluster::builder()).set(STALL_TIMEOUT, "4s").start();
        let mark = cluster.mark();
        let name = cluster.switch_wal();
        let report = cluster.wait_for_report(mark, "08006");
        report.assert_explains(&name);
        assert!(report.detail.contains("cannot be reached"), "{report:?}");
        cluster.wake_archiver();
        let began = Instant::now();
        cluster.stop(Stop::Fast);
        assert!(began.elapsed() < stall_timeout + SLACK, "{:?}", began.elapsed());
    }

    #[test]
    fn memory_is_flat_over_many_objects() {
        require!(ObjectServer::is_there(Kind::SeaweedFs));
        let World { cluster, objects, proxy, archiver } = &World::new();
        // Each worker takes its memory when it is first used, and a quick server needs few of them.
        let _late = proxy.break_each("PUT", "", Fault::Late(Duration::from_millis(200)));
        let early = after(cluster, 100);
        assert!(threads(*archiver) > WORKERS, "not all workers were needed");
        proxy.mend();
        let late = after(cluster, 400);
        eprintln!("{early} kB after 100 objects, {late} kB after 500");
        assert!(late < early + early / 4, "{early} kB after 100 objects, {late} kB after 500");
        assert!(objects.segments().len() >= 500);
    }
}
