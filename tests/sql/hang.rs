//! A destination that does not answer: what is shown about the archiver, and that sessions which read from
//! there can still be cancelled.

use std::thread;
use std::time::{Duration, Instant};

use harness::process::{threads, title};
use harness::{Cluster, FuseMount, Stop, privileged, require, tool};

use super::start;

/// How much longer than set the machine may take.
const SLACK: Duration = Duration::from_secs(10);

const SESSION: &str = "SELECT pid FROM pg_stat_activity WHERE application_name = 'reader'
    AND state = 'active' AND query LIKE '%walsafe%'";

fn waiting_session(cluster: &Cluster) -> i32 {
    cluster.wait_until("the session", || cluster.sql(SESSION).parse().ok())
}

/// Storage that can hang, and a cluster with the extension that has archived some segments there.
fn with_segments(count: usize, stall_timeout: &str) -> (FuseMount, Cluster) {
    let storage = FuseMount::new();
    let builder = Cluster::archiving_to(storage.path());
    let cluster = start(builder.set("walsafe_archive.stall_timeout", stall_timeout));
    cluster.fill_segments(count);
    cluster.wait_all_archived();
    (storage, cluster)
}

#[test]
fn title_and_wait_event_tell_what_the_archiver_does_and_for_how_long() {
    require!(privileged());
    require!(tool("bindfs"));
    for workers in ["0", "3"] {
        let storage = FuseMount::new();
        let cluster =
            Cluster::archiving_to(storage.path()).set("walsafe_archive.workers", workers).start();
        let before = cluster.switch_wal();
        cluster.wait_archived(&before);
        let archiver = cluster.wait_archiver();
        cluster.wait_until("the title between two files", || {
            title(archiver).ends_with(&format!("last was {before}")).then_some(())
        });
        let hang = storage.stall();
        let name = cluster.switch_wal();
        let seconds = cluster.wait_until("the title to show for how long", || {
            let title = title(archiver);
            let (_, rest) = title.split_once(&format!("archiving {name} for "))?;
            rest.strip_suffix(" s")?.parse::<u64>().ok()
        });
        assert!((5..20).contains(&seconds), "{seconds} s");
        cluster.wait_until("the title to be brought up to date", || {
            title(archiver)
                .strip_suffix(" s")?
                .rsplit_once(' ')
                .filter(|(_, n)| n.parse::<u64>().is_ok_and(|n| n > seconds))
                .map(drop)
        });
        let event = cluster.sql(
            "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE backend_type = 'archiver'",
        );
        let ours = if cluster.server().major < 17 { "Extension" } else { "WalsafeArchiveCopy" };
        assert_eq!(event, format!("Extension|{ours}"));
        drop(hang);
        cluster.wait_archived(&name);
        cluster.wait_until("the server's own title", || {
            title(archiver).ends_with(&format!("last was {name}")).then_some(())
        });
    }
}

/// A short call shows nothing: the server's own title stays.
#[test]
fn update_process_title_off_is_respected() {
    require!(privileged());
    require!(tool("bindfs"));
    let storage = FuseMount::new();
    let cluster = Cluster::archiving_to(storage.path())
        .set("update_process_title", "off")
        .set("walsafe_archive.stall_timeout", "7s")
        .start();
    let archiver = cluster.wait_archiver();
    cluster.wait_archived(&cluster.switch_wal());
    let hang = storage.stall();
    cluster.switch_wal();
    cluster.wait_failures(1);
    assert!(!title(archiver).contains("archiving"), "{}", title(archiver));
    drop(hang);
}

#[test]
fn a_session_that_reads_a_hung_archive_can_be_cancelled_and_holds_nothing_up() {
    require!(privileged());
    require!(tool("bindfs"));
    let (storage, cluster) = with_segments(3, "4s");
    let hang = storage.stall();

    for function in ["verify", "gaps", "check"] {
        let began = Instant::now();
        let sql = format!(
            "SET statement_timeout = '1s'; SELECT count(*) FROM walsafe_archive_{function}()"
        );
        let output = cluster.psql_within(&sql, Duration::from_secs(30));
        assert!(output.stderr.contains("ERROR:  57014"), "{function}: {output:?}");
        assert!(
            began.elapsed() < Duration::from_secs(1) + SLACK,
            "{function}: {:?}",
            began.elapsed()
        );
    }
    // The view does not touch the destination.
    let sql = "SET statement_timeout = '9s'; SELECT state FROM walsafe_archive_status";
    assert_eq!(cluster.sql(sql), "ok");

    let read = "SET application_name = 'reader'; SELECT count(*) FROM walsafe_archive_verify()";
    for (end, sqlstate) in [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")] {
        cluster.sql("CREATE DATABASE doomed");
        thread::scope(|scope| {
            let reader = scope.spawn(|| cluster.psql_within(read, Duration::from_secs(60)));
            let pid = waiting_session(&cluster);
            let ours = if cluster.server().major < 17 { "Extension" } else { "WalsafeArchiveRead" };
            cluster.wait_until("the wait event", || {
                let sql = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
                (cluster.sql(&sql) == ours).then_some(())
            });
            // A barrier: every process must take part.
            let output = cluster.psql_within("DROP DATABASE doomed", Duration::from_secs(20));
            assert!(output.success(), "DROP DATABASE waits for the session: {output:?}");
            assert_eq!(cluster.sql(&format!("SELECT {end}({pid})")), "t");
            let began = Instant::now();
            let output = reader.join().unwrap();
            assert!(output.stderr.contains(sqlstate), "{end}: {output:?}");
            assert!(began.elapsed() < SLACK, "{end}: {:?}", began.elapsed());
            cluster.wait_until("the session to be gone", || {
                cluster.sql(SESSION).is_empty().then_some(())
            });
        });
    }
    drop(hang);
    // Making databases filled segments: what is under way is not to be found half done.
    cluster.switch_wal();
    cluster.wait_all_archived();
    assert_eq!(cluster.sql("SELECT * FROM walsafe_archive_verify()"), "");
}

#[test]
fn a_cancelled_session_goes_on_and_its_thread_ends_with_the_hang() {
    require!(privileged());
    require!(tool("bindfs"));
    let (storage, cluster) = with_segments(3, "60s");
    let hang = storage.stall();
    let script = "\\set ON_ERROR_STOP 0
        SET application_name = 'reader';
        SET statement_timeout = '1s';
        SELECT count(*) FROM walsafe_archive_verify();
        RESET statement_timeout;
        SELECT 'walsafe', pg_sleep(600);
        SELECT count(*) FROM walsafe_archive_gaps()";
    thread::scope(|scope| {
        let session = scope.spawn(|| cluster.psql_within(script, Duration::from_secs(60)));
        let pid = cluster.wait_until("the session to go on", || {
            cluster.sql(&format!("{SESSION} AND query LIKE '%pg_sleep%'")).parse::<i32>().ok()
        });
        assert!(threads(pid) > 1, "nothing hangs");
        drop(hang);
        cluster.wait_until("the thread to end", || (threads(pid) == 1).then_some(()));
        cluster.sql(&format!("SELECT pg_cancel_backend({pid})"));
        let output = session.join().unwrap();
        assert!(output.stdout.trim().ends_with('0'), "{output:?}");
    });
}

/// Each call that a `statement_timeout` ended left a thread behind in a session of monitoring.
#[test]
fn a_session_with_a_read_that_hangs_starts_no_other() {
    require!(privileged());
    require!(tool("bindfs"));
    let (storage, cluster) = with_segments(3, "60s");
    let hang = storage.stall();
    let script = "\\set ON_ERROR_STOP 0
        SET application_name = 'reader';
        SET statement_timeout = '2s';
        SELECT count(*) FROM walsafe_archive_verify();
        SELECT count(*) FROM walsafe_archive_check();
        SELECT count(*) FROM walsafe_archive_gaps();
        SELECT count(*) FROM walsafe_archive_verify();
        RESET statement_timeout;
        SELECT 'walsafe', pg_sleep(600);
        SELECT count(*) FROM walsafe_archive_gaps()";
    thread::scope(|scope| {
        let session = scope.spawn(|| cluster.psql_within(script, Duration::from_secs(60)));
        let pid = cluster.wait_until("the session to go on", || {
            cluster.sql(&format!("{SESSION} AND query LIKE '%pg_sleep%'")).parse::<i32>().ok()
        });
        assert_eq!(threads(pid), 2, "the main thread, and the one that hangs");
        drop(hang);
        cluster.wait_until("the threads to end", || (threads(pid) == 1).then_some(()));
        cluster.sql(&format!("SELECT pg_cancel_backend({pid})"));
        let output = session.join().unwrap();
        assert_eq!(output.stderr.matches("ERROR:  55000:").count(), 3, "{output:?}");
        assert_eq!(output.stderr.matches("HINT:  Check the storage").count(), 3, "{output:?}");
        assert!(output.stdout.trim().ends_with('0'), "{output:?}");
    });
}

#[test]
fn fast_shutdown_does_not_wait_for_a_session_that_reads_a_hung_archive() {
    require!(privileged());
    require!(tool("bindfs"));
    let (storage, cluster) = with_segments(2, "3s");
    let _hang = storage.stall();
    thread::scope(|scope| {
        let read = "SET application_name = 'reader'; SELECT count(*) FROM walsafe_archive_verify()";
        let reader = scope.spawn(|| cluster.psql_within(read, Duration::from_secs(60)));
        waiting_session(&cluster);
        let took = cluster.stop(Stop::Fast);
        assert!(took < Duration::from_secs(3) + SLACK, "{took:?}");
        assert!(!reader.join().unwrap().success());
    });
}
