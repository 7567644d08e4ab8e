//! Storage that fails, for real and by injected system-call errors: nothing is lost, nothing is torn, the
//! report says what to do, and archiving resumes by itself (G7, G8, G9, G11).

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::command::run;
use harness::sandbox::Denied;
use harness::{
    Call, Cluster, ClusterBuilder, Fs, Mark, Mount, Report, Scratch, TIMEOUT, Trace, archive,
    privileged, require, scratch, skip, tool, wait_until,
};

/// Each codec with four workers; and the two ways to keep a file out of sight, with and without
/// look-ahead, among them.
fn variants() -> [fn(ClusterBuilder) -> ClusterBuilder; 5] {
    fn coded(builder: ClusterBuilder, codec: &str) -> ClusterBuilder {
        builder.set("walsafe_archive.workers", "4").set("walsafe_archive.compression", codec)
    }
    [
        |b| b.set("walsafe_archive.workers", "0"),
        |b| coded(b, "none").without_tmpfile(),
        |b| coded(b, "lz4"),
        |b| coded(b, "zstd:1"),
        |b| coded(b, "gzip:1").without_tmpfile(),
    ]
}

/// Waits for a failure of this file after the mark, and checks what all failures have in common.
fn wait_for_failure(cluster: &Cluster, mark: Mark, sqlstate: &str, name: &str) -> Report {
    let report = cluster.wait_for_report(mark, sqlstate);
    assert_eq!(report.level, "WARNING", "{report:?}");
    let expected = format!("could not archive file \"{name}\": ");
    assert!(report.message.starts_with(&expected), "{report:?}");
    assert!(!report.detail.is_empty() && !report.hint.is_empty(), "{report:?}");
    cluster.wait_failures(1);
    assert!(cluster.ready_files().contains(&name.to_owned()), "it counts as archived");
    report
}

fn assert_clean(archive: &Path, name: &str) {
    assert_eq!(archive::stored(archive, name), None);
    archive::assert_none_torn(archive, 1 << 20);
    wait_until(TIMEOUT, "the temporary files to be removed", || {
        archive::temporaries(archive).is_empty().then_some(())
    });
}

/// After the cause has gone: the server tries again at the next segment, or after a minute, for which
/// a test has no time.
fn goes_on(cluster: &Cluster, archive: &Path, names: &[&String]) {
    let archiver = cluster.wait_archiver();
    let next = cluster.switch_wal();
    for name in names.iter().copied().chain([&next]) {
        cluster.wait_until(&format!("{name} to be archived at last"), || {
            cluster.wake_archiver();
            cluster.is_archived(name).then_some(())
        });
        assert_eq!(archive::contents(archive, name).unwrap(), cluster.read_wal(name));
    }
    assert!(archive::temporaries(archive).is_empty());
    assert_eq!(cluster.archiver_pid(), Some(archiver), "the archiver was restarted");
}

#[test]
fn a_full_file_system() {
    require!(privileged());
    for variant in variants() {
        let mount = Mount::new(Fs::Ext4, 24);
        let cluster = variant(Cluster::archiving_to(mount.path())).start();
        cluster.wait_archived(&cluster.switch_wal());
        let ballast = mount.fill_but(300_000);
        let mark = cluster.mark();
        let names = cluster.fill_whole_segments(3);
        let report = wait_for_failure(&cluster, mark, "53100", &names[0]);
        assert!(report.detail.contains("No space left on device"), "{report:?}");
        assert!(report.detail.contains(" MB of 2"), "{report:?}");
        assert!(report.detail.ends_with("are free there."), "{report:?}");
        assert!(report.hint.starts_with("Free space in the archive"), "{report:?}");
        assert_clean(mount.path(), &names[0]);
        fs::remove_file(ballast).unwrap();
        goes_on(&cluster, mount.path(), &[&names[0], &names[1], &names[2]]);
    }
}

/// "57 MB of 58 MB are free", with advice to free space.
#[test]
fn a_file_system_without_inodes() {
    require!(privileged());
    let mount = Mount::new(Fs::Ext4, 24);
    let cluster = Cluster::archiving_to(mount.path()).set("walsafe_archive.workers", "0").start();
    cluster.wait_archived(&cluster.switch_wal());
    let spare = mount.dir("spare");
    let files = (0..).map(|n| spare.join(format!("{n}")));
    let made = files.take_while(|file| fs::write(file, "").is_ok()).count();
    assert!(made > 100, "{made}");
    let mark = cluster.mark();
    let name = cluster.switch_wal();
    let report = wait_for_failure(&cluster, mark, "53100", &name);
    assert!(report.detail.contains("No inode is left there"), "{report:?}");
    assert!(report.hint.contains("with more inodes"), "{report:?}");
    assert_clean(mount.path(), &name);
    fs::remove_dir_all(spare).unwrap();
    goes_on(&cluster, mount.path(), &[&name]);
}

#[test]
fn a_quota_that_is_used_up() {
    require!(privileged());
    require!(tool("btrfs"));
    let mount = Mount::new(Fs::Btrfs, 256);
    let btrfs = |arguments: &[&str], path: &Path| {
        Command::new("btrfs").args(arguments).arg(path).output().is_ok_and(|o| o.status.success())
    };
    if !btrfs(&["quota", "enable"], mount.path()) {
        return skip("this kernel has no quotas on btrfs");
    }
    let archive = mount.join("archive");
    assert!(btrfs(&["subvolume", "create"], &archive));
    scratch::give_away(&archive);
    let cluster = Cluster::archiving_to(&archive).set("walsafe_archive.workers", "0").start();
    cluster.wait_archived(&cluster.switch_wal());
    assert!(btrfs(&["qgroup", "limit", "1M"], &archive));
    let mark = cluster.mark();
    let names = cluster.fill_whole_segments(2);
    let report = wait_for_failure(&cluster, mark, "53100", &names[0]);
    assert!(report.detail.contains("quota exceeded"), "{report:?}");
    assert!(report.hint.starts_with("Raise the quota"), "{report:?}");
    assert_clean(&archive, &names[0]);
    assert!(btrfs(&["qgroup", "limit", "none"], &archive));
    goes_on(&cluster, &archive, &[&names[0], &names[1]]);
}

#[test]
fn a_file_system_that_became_read_only() {
    require!(privileged());
    for variant in variants() {
        let mount = Mount::new(Fs::Ext4, 24);
        let cluster = variant(Cluster::archiving_to(mount.path())).start();
        cluster.wait_archived(&cluster.switch_wal());
        mount.remount_read_only();
        let mark = cluster.mark();
        let name = cluster.switch_wal();
        let report = wait_for_failure(&cluster, mark, "25006", &name);
        assert!(report.detail.contains("Read-only file system"), "{report:?}");
        assert!(report.hint.contains("mount it writable"), "{report:?}");
        assert_clean(mount.path(), &name);
        mount.remount_read_write();
        goes_on(&cluster, mount.path(), &[&name]);
    }
}

#[test]
fn a_directory_that_is_moved_away_removed_and_made_anew() {
    for variant in variants() {
        let home = Scratch::new("archives");
        let archive = home.dir("archive");
        let cluster = variant(Cluster::archiving_to(&archive)).start();
        cluster.wait_archived(&cluster.switch_wal());

        fs::rename(&archive, home.join("elsewhere")).unwrap();
        let mark = cluster.mark();
        let name = cluster.switch_wal();
        let report = wait_for_failure(&cluster, mark, "58P01", &name);
        assert!(report.detail.contains("No such file or directory"), "{report:?}");
        assert!(report.hint.contains("Create or mount the directory"), "{report:?}");
        assert!(!archive.exists(), "the module made the directory itself");
        fs::rename(home.join("elsewhere"), &archive).unwrap();
        goes_on(&cluster, &archive, &[&name]);

        // An empty directory in place of an archive is not simply filled.
        fs::remove_dir_all(&archive).unwrap();
        scratch::make_dir(&archive);
        let mark = cluster.mark();
        let name = cluster.switch_wal();
        let report = wait_for_failure(&cluster, mark, "55000", &name);
        assert!(report.message.ends_with("the archive has lost its identity file"));
        assert!(report.hint.contains("walsafe init --pgdata"), "{report:?}");
        assert_eq!(scratch::names(&archive), [""; 0]);
        // What the HINT says.
        run(cluster
            .server()
            .command("walsafe")
            .args(["init", "--pgdata"])
            .args([cluster.data(), &archive]));
        goes_on(&cluster, &archive, &[&name]);
    }
}

#[test]
fn a_destination_unmounted_while_in_use_and_mounted_again() {
    require!(privileged());
    for variant in variants() {
        let mount = Mount::new(Fs::Ext4, 64);
        let cluster = variant(Cluster::archiving_to(mount.path())).start();
        cluster.wait_archived(&cluster.fill_segments(5)[4]);
        // Nothing is held open while the archiver is idle: this would fail with "target is busy".
        mount.unmount();
        let mark = cluster.mark();
        let name = cluster.switch_wal();
        let report = wait_for_failure(&cluster, mark, "55000", &name);
        assert!(report.message.ends_with("the archive has lost its identity file"));
        assert!(report.hint.contains("Is the archive's file system mounted?"), "{report:?}");
        assert_eq!(scratch::names(mount.path()), [""; 0], "written under the mount point");

        // The next server knows it too.
        cluster.restart();
        let mark = cluster.mark();
        cluster.switch_wal();
        wait_for_failure(&cluster, mark, "55000", &name);
        assert_eq!(scratch::names(mount.path()), [""; 0], "written under the mount point");

        mount.mount();
        goes_on(&cluster, mount.path(), &[&name]);
    }
}

#[test]
fn permission_taken_away() {
    for variant in variants() {
        let archive = Scratch::new("archive");
        let cluster = variant(Cluster::archiving_to(archive.path())).start();
        cluster.wait_archived(&cluster.switch_wal());
        for (mode, digits) in [(0o500, "0500"), (0o000, "0000")] {
            scratch::chmod(archive.path(), mode);
            let mark = cluster.mark();
            let name = cluster.switch_wal();
            let report = wait_for_failure(&cluster, mark, "42501", &name);
            assert!(report.detail.contains("Permission denied"), "{report:?}");
            let says = format!(", mode {digits}; the server's user is ");
            assert!(report.detail.contains(&says), "{report:?}");
            let path = archive.path().display();
            assert!(report.hint.contains(&format!("\"chmod u+rwx {path}\"")), "{report:?}");
            assert!(
                report
                    .hint
                    .ends_with("Archiving resumes by itself once the server's user may do it.")
            );
            scratch::chmod(archive.path(), 0o700);
            assert_eq!(archive::temporaries(archive.path()), [""; 0]);
            goes_on(&cluster, archive.path(), &[&name]);
        }
    }
}

#[test]
fn little_free_space_is_reported_once_a_minute() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path())
        .set("walsafe_archive.min_free_space", "1000000GB")
        .start();
    let low = |mark| {
        let mut reports = cluster.log().archiver_reports(mark);
        reports.retain(|report| report.message == "archive directory is low on space");
        reports
    };
    for name in cluster.fill_segments(10) {
        cluster.wait_archived(&name);
    }
    let reports = low(Mark::default());
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!(reports[0].sqlstate, "53100");
    assert_eq!(reports[0].level, "WARNING");
    assert!(reports[0].detail.contains(archive.path().to_str().unwrap()), "{reports:?}");
    assert!(reports[0].detail.contains("MB are free"), "{reports:?}");
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    // More than that is enough.
    let mark = cluster.mark();
    cluster.reconfigure("walsafe_archive.min_free_space", "1MB");
    cluster.restart();
    cluster.wait_archived(&cluster.switch_wal());
    assert!(low(mark).is_empty());
}

/// A system call that fails for as long as strace is there: name, error, SQLSTATE of the report.
type Fault = (&'static str, &'static str, &'static str);

/// Lets each call fail in turn, in one live server.
fn each_fails(cluster: &Cluster, archive: &Path, faults: &[Fault]) {
    cluster.wait_archived(&cluster.switch_wal());
    let archiver = cluster.wait_archiver();
    for (call, errno, sqlstate) in faults {
        let failed = cluster.stat_archiver().failed_count;
        let mark = cluster.mark();
        let fault = format!("{call}:error={errno}");
        // The server's own main thread opens files too: let it.
        let trace = match *call {
            "openat" => Trace::inject_in(archiver, archive, call, &fault),
            _ => Trace::inject(archiver, call, &fault),
        };
        let name = cluster.switch_wal();
        let report = wait_for_failure(cluster, mark, sqlstate, &name);
        cluster.wait_failures(failed + 1);
        let injected: Vec<Call> = trace.calls();
        assert!(injected.iter().any(|call| call.text.contains("(INJECTED)")), "{call}: {report:?}");
        // The server tries again in a second, and would succeed without the fault.
        assert_nothing_there(archive, &name, call);
        drop(trace);
        goes_on(cluster, archive, &[&name]);
        eprintln!("{call} {errno}: {} {}", report.message, report.detail);
    }
}

fn assert_nothing_there(archive: &Path, name: &str, call: &str) {
    archive::assert_none_torn(archive, 1 << 20);
    assert!(archive::stored(archive, name).is_none(), "{call}: {name} is there");
    // A try may be under way.
    wait_until(TIMEOUT, &format!("no temporary file after {call}"), || {
        archive::temporaries(archive).is_empty().then_some(())
    });
}

#[test]
fn each_system_call_fails_with_unnamed_temporary_files() {
    require!(tool("strace"));
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).set("walsafe_archive.workers", "0").start();
    each_fails(
        &cluster,
        archive.path(),
        &[
            ("openat", "EMFILE", "53000"),
            ("openat", "ESTALE", "58030"),
            ("pread64", "EIO", "58030"),
            ("pwrite64", "ENOSPC", "53100"),
            ("pwrite64", "EIO", "58030"),
            ("ftruncate", "EDQUOT", "53100"),
            ("fsetxattr", "EIO", "58030"),
            ("fchmod", "EROFS", "25006"),
            ("fsync", "EIO", "58030"),
            ("fsync", "ENOSPC", "53100"),
            ("linkat", "EIO", "58030"),
            ("linkat", "EACCES", "42501"),
        ],
    );
}

#[test]
fn each_system_call_fails_with_named_temporary_files() {
    require!(tool("strace"));
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path())
        .set("walsafe_archive.workers", "0")
        .set("walsafe_archive.compression", "gzip:1")
        .without_tmpfile()
        .without(Denied::LINKAT)
        .start();
    each_fails(
        &cluster,
        archive.path(),
        &[
            ("openat", "EACCES", "42501"),
            ("pwrite64", "EDQUOT", "53100"),
            ("fsync", "EIO", "58030"),
            ("renameat2", "EIO", "58030"),
            ("renameat2", "ENOSPC", "53100"),
        ],
    );
}

/// After a flush that failed the copy is thrown away: no later flush makes it good (G8).
#[test]
fn a_copy_whose_flush_failed_is_written_anew() {
    require!(tool("strace"));
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).set("walsafe_archive.workers", "0").start();
    cluster.wait_archived(&cluster.switch_wal());
    let trace = Trace::inject(
        cluster.wait_archiver(),
        "openat,pwrite64,fsync,linkat",
        "fsync:error=EIO:when=1",
    );
    let name = cluster.fill_whole_segments(1).remove(0);
    cluster.wait_archived(&name);
    let calls = trace.finish();
    let at = |from: usize, what: &str| {
        let found = calls[from..].iter().position(|call| call.text.contains(what));
        from + found.unwrap_or_else(|| panic!("no {what} after call {from} of {calls:#?}"))
    };
    let failed = at(0, "(INJECTED)");
    assert_eq!(calls[failed].name, "fsync");
    let created = at(failed, "O_TMPFILE");
    let written = at(created, "pwrite64(");
    let flushed = at(written, "fsync(");
    let linked = at(flushed, "linkat(");
    assert!(calls[flushed].succeeded() && calls[linked].succeeded());
    assert!(calls[..created].iter().all(|call| call.name != "linkat"), "{calls:#?}");
    cluster.wait_failures(1);
    assert_eq!(archive::contents(archive.path(), &name).unwrap(), cluster.read_wal(&name));
}

/// A file that was published, and whose directory could not be flushed, is read back past the page
/// cache and flushed anew, name and all, before it counts (G8).
#[test]
fn a_published_file_whose_directory_flush_failed_is_read_back() {
    require!(tool("strace"));
    for setup in [|b: ClusterBuilder| b, ClusterBuilder::without_tmpfile] {
        let archive = Scratch::new("archive");
        let cluster = setup(Cluster::archiving_to(archive.path()))
            .set("walsafe_archive.workers", "0")
            .start();
        cluster.wait_archived(&cluster.switch_wal());
        let trace = Trace::inject(
            cluster.wait_archiver(),
            "openat,pread64,fsync,linkat,fcntl",
            "fsync:error=EIO:when=2",
        );
        let mark = cluster.mark();
        let name = cluster.fill_whole_segments(1).remove(0);
        cluster.wait_archived(&name);
        let report = cluster.wait_for_report(mark, "58030");
        assert!(report.message.contains("could not flush the archive directory"), "{report:?}");
        cluster.wait_failures(1);
        let calls = trace.finish();
        let failed = calls.iter().position(|call| call.text.contains("(INJECTED)"));
        let after = &calls[failed.expect("an injected failure") + 1..];
        let path = archive.join(&name).display().to_string();
        let of = |call: &Call, path: &str| call.text.contains(&format!("<{path}>"));
        assert!(after.iter().any(|c| c.name == "fcntl" && c.text.contains("O_DIRECT")));
        let read = after.iter().filter(|c| c.name == "pread64" && of(c, &path) && c.succeeded());
        assert!(read.count() >= 1, "{name} was not read back: {after:#?}");
        let flush = |path: &str| {
            after.iter().position(|c| c.name == "fsync" && of(c, path) && c.succeeded())
        };
        assert!(flush(&path).is_some(), "{after:#?}");
        let dir = archive.path().display().to_string();
        assert!(flush(&dir) > flush(&path), "{after:#?}");
        assert_eq!(archive::contents(archive.path(), &name).unwrap(), cluster.read_wal(&name));
    }
}

/// A temporary name that cannot be removed does not hold up archiving, and is removed at the next start.
#[test]
fn a_temporary_file_that_cannot_be_removed_goes_at_the_next_start() {
    require!(tool("strace"));
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path())
        .set("walsafe_archive.workers", "0")
        .without_tmpfile()
        .start();
    cluster.wait_archived(&cluster.switch_wal());
    let trace =
        Trace::inject_in(cluster.wait_archiver(), archive.path(), "unlinkat", "unlinkat:error=EIO");
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    assert!(trace.calls().iter().any(|call| call.text.contains("(INJECTED)")));
    drop(trace);
    assert_eq!(archive::temporaries(archive.path()).len(), 1);
    let wal = cluster.read_wal(&name);
    cluster.restart();
    cluster.wait_archived(&cluster.switch_wal());
    assert_eq!(archive::temporaries(archive.path()), [""; 0]);
    assert_eq!(archive::contents(archive.path(), &name).unwrap(), wal);
}
