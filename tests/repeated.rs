//! The same file a second time: after a crash, from another server, half-way through a copy.

use std::fs;
use std::os::unix::fs::MetadataExt;

use harness::{Cluster, ClusterBuilder, Picture, Scratch, Trace, process, require, scratch, tool};
use walsafe_core::store::directory::temporary::Owner;

/// Longer than any test: the call is under way until the process is killed.
const FOR_EVER: &str = "delay_enter=600000000";

const WAYS: [fn(ClusterBuilder) -> ClusterBuilder; 2] =
    [|builder| builder, ClusterBuilder::without_tmpfile];

/// If such a file were refused, the archiver would stand still after each crash, as with `test ! -f`.
#[test]
fn a_file_that_is_there_already_is_flushed_again_and_succeeds() {
    require!(tool("strace"));
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    let before = Picture::of(archive.path());

    let trace = Trace::attach(cluster.wait_archiver(), "fsync,fdatasync,rename");
    cluster.mark_ready_again(&name);
    let next = cluster.switch_wal();
    cluster.wait_archived(&next);
    cluster.wait_archived(&name);
    assert_eq!(Picture::of(archive.path()).only(|name| name != next), before);
    assert_eq!(cluster.stat_archiver().failed_count, 0);

    // Whoever wrote it may have died before the flush.
    let calls = trace.finish_after(&format!("{name}.done"));
    let shown = archive.path().to_str().unwrap();
    let at = |text: String| {
        let call = calls.iter().find(|call| call.text.contains(&text) && call.succeeded());
        call.unwrap_or_else(|| panic!("no {text} in {calls:?}")).began
    };
    let done = at(format!("{name}.done"));
    assert!(at(format!("<{shown}/{name}>")) < done, "{calls:?}");
    assert!(at(format!("<{shown}>")) < done, "{calls:?}");
}

/// This is the worst moment for a crash: the file has its name, and the server does not know. If the file
/// were refused then, nothing would be archived until an administrator removes it.
#[test]
fn a_server_killed_between_publishing_and_marking_goes_on_after_its_restart() {
    require!(tool("strace"));
    for way in WAYS {
        let archive = Scratch::new("archive");
        let cluster = way(Cluster::archiving_to(archive.path())).start();
        cluster.wait_archived(&cluster.switch_wal());
        let trace = Trace::inject(cluster.wait_archiver(), "rename", &format!("rename:{FOR_EVER}"));
        let name = cluster.switch_wal();
        let status = cluster.pg_wal().join("archive_status").join(format!("{name}.ready"));
        cluster
            .wait_until("the file to be published", || archive.join(&name).exists().then_some(()));
        // Published, flushed, and about to be marked.
        cluster.wait_until("the mark", || (!trace.calls().is_empty()).then_some(()));
        cluster.kill_all();
        drop(trace);
        assert!(status.exists());
        let before = Picture::of(archive.path());

        cluster.start();
        cluster.wait_archived(&name);
        assert_eq!(Picture::of(archive.path()).only(|name| before.shows(name)), before);
        assert_eq!(archive.read(&name), cluster.read_wal(&name));
        assert_eq!(cluster.stat_archiver().failed_count, 0);
    }
}

/// A kill in the middle of a copy must leave neither a partial file under a final name nor a temporary one
/// for ever, and the clean-up must not remove what is not ours.
#[test]
fn a_copy_that_was_killed_leaves_no_name_and_its_temporary_file_goes_at_the_next_start() {
    require!(tool("strace"));
    for (way, named) in WAYS.into_iter().zip([false, true]) {
        let archive = Scratch::new("archive");
        let cluster = way(Cluster::archiving_to(archive.path())).start();
        cluster.wait_archived(&cluster.switch_wal());
        let pid = cluster.wait_archiver();
        let trace = Trace::inject(pid, "linkat", &format!("linkat:{FOR_EVER}"));
        let name = cluster.switch_wal();
        cluster.wait_until("the copy to be whole", || (!trace.calls().is_empty()).then_some(()));
        cluster.kill_all();
        drop(trace);
        assert!(!archive.join(&name).exists());

        let us = Owner::this_process();
        let left = format!(".walsafe.{name}.{}.{pid}.", us.host);
        let is_left = |name: &&String| name.starts_with(&left) && name.ends_with(".tmp");
        let temporary = archive.names().iter().filter(is_left).count();
        assert_eq!(temporary, usize::from(named), "{left} {:?}", archive.names());

        // A temporary file of a live process, one of another host, and something that is not a temporary
        // file of ours.
        let another = Owner { host: "another-host".to_owned(), ..us.clone() };
        let keep = [
            us.temporary_name(&name).to_string(),
            another.temporary_name(&name).to_string(),
            format!(".walsafe.{name}.tmp"),
            format!("{name}.tmp"),
            ".hidden".to_owned(),
            "notes.txt".to_owned(),
        ];
        for name in &keep {
            scratch::write(&archive.join(name), "not to be touched");
        }
        let picture = || Picture::of(archive.path()).only(|name| keep.iter().any(|k| k == name));
        let before = picture();

        cluster.start();
        cluster.wait_archived(&name);
        assert_eq!(archive.read(&name), cluster.read_wal(&name));
        assert_eq!(archive.names().iter().filter(is_left).count(), 0);
        assert_eq!(picture(), before);
        assert_eq!(cluster.stat_archiver().failed_count, 0);
    }
}

/// The server shuts the module down in the middle of the file. The archiver must neither outlive a killed
/// postmaster nor end with an error of its own.
#[test]
fn the_archiver_ends_quietly_with_its_postmaster_in_the_middle_of_a_file() {
    require!(tool("strace"));
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    cluster.wait_archived(&cluster.switch_wal());
    let pid = cluster.wait_archiver();
    let trace = Trace::inject(pid, "linkat", &format!("linkat:{FOR_EVER}"));
    let name = cluster.switch_wal();
    cluster.wait_until("the copy to be whole", || (!trace.calls().is_empty()).then_some(()));
    let mark = cluster.mark();
    cluster.kill_postmaster();
    // Its main thread is what ends; the tracer still holds the thread that it has stopped.
    let ended = || matches!(process::state(pid), None | Some('Z' | 'X')).then_some(());
    cluster.wait_until("the archiver to end", ended);
    assert_eq!(cluster.log().archiver_reports(mark), []);
    assert!(!archive.join(name).exists());
}

/// If equal contents were refused, two servers that share an archive, such as a primary and a standby with
/// `archive_mode = always`, would block each other although they hold the same WAL.
#[test]
fn a_standby_that_archives_the_same_wal_into_the_same_archive_succeeds() {
    let archive = Scratch::new("archive");
    let primary = Cluster::archiving_to(archive.path()).start();
    let standby = primary
        .streaming_standby()
        .archive_to(archive.path())
        .set("archive_mode", "always")
        .start();
    let names = primary.fill_whole_segments(5);
    primary.wait_all_archived();
    standby.wait_until("the standby to have archived it all", || {
        names.iter().all(|name| standby.is_archived(name)).then_some(())
    });
    for name in &names {
        assert_eq!(archive.read(name), primary.read_wal(name));
        assert_eq!(fs::metadata(archive.join(name)).unwrap().nlink(), 1);
    }
    for server in [&primary, &standby] {
        assert_eq!(server.log().archiver_reports(harness::Mark::default()), []);
        assert_eq!(server.stat_archiver().failed_count, 0);
    }
}
