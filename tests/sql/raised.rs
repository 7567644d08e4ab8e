//! What the server raises in the archiver's main thread, or in a session's, is a failure like any other.

use std::process::Command;

use harness::command::run;
use harness::scratch::{chmod, write};
use harness::{Cluster, Scratch, Trace, require, tool};

use super::{archiving, start, status};

/// A failure that left by unwinding was not in the view: its state stayed "ok".
#[test]
fn an_error_of_the_server_while_a_file_is_archived_is_counted_and_explained() {
    require!(tool("strace"));
    let (archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    let pid = cluster.wait_archiver();
    let mark = cluster.mark();
    // The server makes a set of events for each wait for a latch and a socket.
    let trace = Trace::inject(pid, "epoll_create1", "epoll_create1:error=EMFILE");
    let name = cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "XX000");
    report.assert_explains(&name);
    assert!(report.detail.contains("poll_create1 failed"), "{report:?}");
    cluster.wait_failures(1);
    assert_eq!(status(&cluster, "state, last_failed_wal"), format!("failing|{name}"));
    assert_eq!(
        status(&cluster, "failed_count > 0 AND last_error LIKE '%poll_create1 failed%'"),
        "t"
    );
    drop(trace);
    cluster.switch_wal();
    cluster.wait_all_archived();
    assert_eq!(archive.read(&name), cluster.read_wal(&name));
    assert_eq!(status(&cluster, "state"), "ok");
    assert_eq!(cluster.archiver_pid(), Some(pid), "the archiver was restarted");
}

/// The server raises "too many custom wait events" with the lock on their list held. Caught, and the
/// lock kept, the second try waited for the archiver itself, for ever.
#[test]
fn a_server_without_room_for_another_wait_event_archives_all_the_same() {
    require!(tool("cc"));
    let archive = Scratch::new("archive");
    let cluster = start(
        Cluster::builder().set("archive_mode", "on").set("archive_library", "walsafe_archive"),
    );
    if cluster.server().major < 17 {
        // They have no custom wait events.
        return;
    }
    let home = Scratch::new("library");
    use_up_wait_events(&cluster, &home);
    let pid = cluster.wait_archiver();
    let first = cluster.switch_wal();
    cluster.reconfigure("walsafe_archive.destination", archive.path().to_str().unwrap());
    cluster.wait_archived(&first);
    cluster.wait_archived(&cluster.switch_wal());
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    assert_eq!(cluster.archiver_pid(), Some(pid));

    // Twice in one session, which stays free to use what it used before.
    let count = "SELECT count(*) > 4 FROM walsafe_archive_check()";
    assert_eq!(
        cluster.sql(&format!("{count}; {count}; SELECT count(*) FROM pg_class WHERE false")),
        "t\nt\n0"
    );
}

/// Takes all the names of wait events that the server has room for, as other libraries may.
fn use_up_wait_events(cluster: &Cluster, home: &Scratch) {
    let source = home.join("events.c");
    let library = home.join("events.so");
    write(
        &source,
        r#"
        #include "postgres.h"
        #include "fmgr.h"
        #include "utils/wait_event.h"
        PG_MODULE_MAGIC;
        PG_FUNCTION_INFO_V1(take_all);
        Datum take_all(PG_FUNCTION_ARGS)
        {
            for (int i = 0;; i++)
                WaitEventExtensionNew(psprintf("Taken%d", i));
        }
        "#,
    );
    let pg_config = cluster.server().bindir.join("pg_config");
    let headers = run(Command::new(pg_config).arg("--includedir-server"));
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-w", "-I", headers.trim(), "-o"])
        .args([&library, &source]));
    chmod(&library, 0o755);
    let path = library.display();
    cluster.sql(&format!(
        "CREATE FUNCTION take_all() RETURNS void LANGUAGE c AS '{path}', 'take_all'"
    ));
    let said = cluster.psql("SELECT take_all()").expect_err("it ends when there is no room");
    assert!(said.contains("too many custom wait events"), "{said}");
}
