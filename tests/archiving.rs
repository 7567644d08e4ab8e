//! What is in the archive, and how it gets there: whole, private, flushed, a copy of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use harness::{
    Call, Cluster, ClusterBuilder, Fs, Mount, Picture, Scratch, Trace, privileged, process,
    require, tool,
};
use walsafe_core::encoding::digest::{CONTENT_ATTRIBUTE, Digest, STORED_ATTRIBUTE};

/// Calls that publish, flush, mark as archived or could share blocks with `pg_wal`.
const CALLS: &str = "openat,open,fsync,fdatasync,sync_file_range,link,linkat,rename,renameat,renameat2,\
                     unlink,unlinkat,copy_file_range,ioctl,sendfile,splice";

/// The way for Linux, with unnamed files, and the portable one.
const WAYS: [fn(ClusterBuilder) -> ClusterBuilder; 2] =
    [|builder| builder, ClusterBuilder::without_tmpfile];

fn attribute(path: &Path, name: &str) -> String {
    let mut value = [0; 128];
    let len = rustix::fs::getxattr(path, name, &mut value[..])
        .unwrap_or_else(|error| panic!("{} has no {name}: {error}", path.display()));
    String::from_utf8(value[..len].to_vec()).expect("text")
}

/// A partial or world-readable file would be noticed only when somebody restores it, or steals it.
#[test]
fn files_are_whole_private_and_copies_of_their_own_under_umask_000() {
    for way in WAYS {
        let archive = Scratch::new("archive");
        let cluster = way(Cluster::archiving_to(archive.path()).umask_000()).start();
        let umask = fs::read_to_string(format!("/proc/{}/status", cluster.wait_archiver()));
        assert!(umask.unwrap().contains("Umask:\t0000\n"));
        let names = cluster.fill_whole_segments(3);
        cluster.wait_archived(&names[2]);
        for name in &names {
            let (ours, path) = (cluster.read_wal(name), archive.join(name));
            assert_eq!(archive.read(name), ours);
            let found = fs::symlink_metadata(&path).unwrap();
            let source = fs::metadata(cluster.pg_wal().join(name)).unwrap();
            assert_eq!(found.mode(), 0o100_600, "{name}");
            assert_eq!((found.uid(), found.gid()), (source.uid(), source.gid()));
            assert_eq!(found.nlink(), 1, "a link to something");
            assert_ne!((found.dev(), found.ino()), (source.dev(), source.ino()));
            let digest = Digest::of(&ours).to_string();
            assert_eq!(attribute(&path, STORED_ATTRIBUTE), digest);
            assert_eq!(attribute(&path, CONTENT_ATTRIBUTE), digest);
        }
        let identity = archive.join("walsafe_archive.id");
        assert_eq!(fs::metadata(identity).unwrap().permissions().mode() & 0o777, 0o600);
        // Nothing else: no temporary file stays.
        let mut expected = names.clone();
        expected.push("walsafe_archive.id".to_owned());
        assert_eq!(archive.names(), expected);
    }
}

/// If the umask decided, a backup tool in the server's group could not read the archive, or could write to
/// it.
#[test]
fn file_mode_decides_the_permission_whatever_the_umask() {
    let archive = Scratch::new("archive");
    // The server's umask is 027 with group access, 077 without.
    let groups = Cluster::archiving_to(archive.path())
        .initdb_argument("--allow-group-access")
        .set("walsafe_archive.file_mode", "0600")
        .start();
    let first = groups.switch_wal();
    groups.wait_archived(&first);
    let mode = |name: &str| fs::metadata(archive.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode(&first), 0o600);
    drop(groups);

    for way in WAYS {
        let other = Scratch::new("archive");
        let cluster = way(Cluster::archiving_to(other.path())).start();
        let mode = |name: &str| fs::metadata(other.join(name)).unwrap().mode() & 0o7777;
        for text in ["0640", "0400", "0440", "600"] {
            let expected = u32::from_str_radix(text, 8).unwrap();
            cluster.reconfigure("walsafe_archive.file_mode", text);
            cluster.wait_until(&format!("files of mode {text}"), || {
                let name = cluster.switch_wal();
                cluster.wait_archived(&name);
                (mode(&name) == expected).then_some(())
            });
            // A file that its owner may not write gets its attributes first.
            let name = cluster.switch_wal();
            cluster.wait_archived(&name);
            assert_eq!(mode(&name), expected);
            let digest = Digest::of(&cluster.read_wal(&name)).to_string();
            assert_eq!(attribute(&other.join(&name), CONTENT_ATTRIBUTE), digest);
        }
    }
}

/// The position of the one call that matters.
#[track_caller]
fn position(calls: &[Call], what: &str, wanted: impl Fn(&Call) -> bool) -> usize {
    let found: Vec<usize> =
        (0..calls.len()).filter(|&i| calls[i].succeeded() && wanted(&calls[i])).collect();
    match found[..] {
        [one] => one,
        _ => panic!("{what}: {} calls\n{}", found.len(), list(calls)),
    }
}

fn list(calls: &[Call]) -> String {
    calls.iter().map(|call| format!("{} {}\n", call.thread, call.text)).collect()
}

/// Archives one segment, and returns the archiver's calls. The archive is known to it already.
fn calls_for_a_segment(cluster: &Cluster) -> (String, Vec<Call>) {
    cluster.wait_archived(&cluster.switch_wal());
    let trace = Trace::attach(cluster.wait_archiver(), CALLS);
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    let calls = trace.finish_after(&format!("{name}.done"));
    (name, calls)
}

/// Without these flushes, a power failure would break the promise "archived". The server's own `fsync`,
/// which turns off the flushes of basic_archive, is off here.
#[test]
fn the_file_is_flushed_before_its_name_is_given_and_the_directory_before_success() {
    require!(tool("strace"));
    for way in WAYS {
        let archive = Scratch::new("archive");
        let cluster = way(Cluster::archiving_to(archive.path()).set("fsync", "off")).start();
        assert_eq!(cluster.sql("SHOW fsync"), "off");
        let (name, calls) = calls_for_a_segment(&cluster);
        let shown = archive.path().to_str().unwrap();
        let published = position(&calls, "publish", |call| {
            call.name == "linkat" && call.text.contains(&format!(", \"{name}\","))
        });
        let flushed = |call: &Call| call.name == "fsync" || call.name == "fdatasync";
        let directory = position(&calls, "flush of the directory", |call| {
            flushed(call) && call.text.contains(&format!("<{shown}>"))
        });
        let file = position(&calls, "flush of the file", |call| {
            flushed(call) && call.text.contains(&format!("<{shown}/"))
        });
        let marked = position(&calls, "mark as archived", |call| {
            call.name == "rename" && call.text.contains(&format!("{name}.done"))
        });
        assert!(
            file < published && published < directory && directory < marked,
            "{file} {published} {directory} {marked}\n{}",
            list(&calls)
        );
        let ends = |call: &Call| call.began + call.took.unwrap_or(f64::INFINITY);
        for pair in [file, published, directory, marked].windows(2) {
            assert!(ends(&calls[pair[0]]) <= calls[pair[1]].began, "{}", list(&calls));
        }
        // No inode and no block of pg_wal's goes into the archive.
        for call in &calls {
            let shares = matches!(&*call.name, "copy_file_range" | "link" | "sendfile" | "splice")
                || call.text.contains("FICLONE")
                || (call.name == "linkat" && call.text.contains("pg_wal"));
            assert!(!shares, "{}", call.text);
        }
    }
}

/// A weaker policy must cost less than the full one, and must not lose WAL without a warning beforehand.
#[test]
fn a_weaker_policy_flushes_less_and_says_what_can_be_lost() {
    require!(tool("strace"));
    for (policy, file, lost) in [("file", 1, "can lose the names"), ("none", 0, "empty or torn")] {
        let archive = Scratch::new("archive");
        let cluster = Cluster::archiving_to(archive.path())
            .set("walsafe_archive.fsync_policy", policy)
            .start();
        let (name, calls) = calls_for_a_segment(&cluster);
        let shown = archive.path().to_str().unwrap();
        let flushes = |inside: &str| {
            let place = format!("<{shown}{inside}");
            let flush = |call: &&Call| call.name.contains("sync") && call.text.contains(&place);
            calls.iter().filter(flush).count()
        };
        assert_eq!((flushes("/"), flushes(">")), (file, 0), "{policy}\n{}", list(&calls));
        assert_eq!(archive.read(&name), cluster.read_wal(&name));
        let mut warnings = cluster.log().archiver_reports(harness::Mark::default());
        warnings.retain(|report| report.message.contains("fsync_policy"));
        let [warning] = &warnings[..] else { panic!("{policy}: {warnings:?}") };
        assert_eq!(warning.level, "WARNING");
        assert_eq!(warning.message, format!("\"walsafe_archive.fsync_policy\" is \"{policy}\""));
        assert!(warning.detail.contains(lost) && !warning.hint.is_empty(), "{warning:?}");
    }
}

/// If the archiver held a handle while idle, the archive could not be unmounted for maintenance while the
/// server runs. If it accepted the bare mount point, it would fill the root disk with WAL that the next
/// mount hides.
#[test]
fn an_idle_archiver_lets_go_of_the_archive_and_refuses_the_bare_mount_point() {
    require!(privileged());
    let mount = Mount::new(Fs::Ext4, 32);
    let cluster = Cluster::archiving_to(mount.path()).start();
    let pid = cluster.wait_archiver();
    let first = cluster.fill_segments(3).pop().unwrap();
    cluster.wait_archived(&first);
    cluster.wait_until("the archive to be let go of", || {
        let held = process::open_files(pid).iter().any(|file| file.starts_with(mount_path(&mount)));
        (!held).then_some(())
    });
    mount.unmount();

    let bare = Picture::of(mount.path());
    let mark = cluster.mark();
    let name = cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "55000");
    report.assert_explains(&name);
    assert!(report.hint.contains("mounted") && report.hint.contains("walsafe init"), "{report:?}");
    assert!(report.detail.contains(mount_path(&mount)), "{report:?}");
    cluster.wait_failures(1);
    assert!(cluster.ready_files().contains(&name));
    assert_eq!(Picture::of(mount.path()), bare, "something was written under the mount point");

    mount.mount();
    cluster.switch_wal();
    cluster.wait_all_archived();
    assert_eq!(fs::read(mount.join(&name)).unwrap(), cluster.read_wal(&name));
    assert_eq!(cluster.archiver_pid(), Some(pid));
}

fn mount_path(mount: &Mount) -> &str {
    mount.path().to_str().expect("a path of ours")
}

/// An archiver that grows with each file takes, over months, the memory that the database needs.
#[test]
fn three_hundred_segments_leave_the_archivers_memory_flat() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    let pid = cluster.wait_archiver();
    let archive_some = |count| {
        let names = cluster.fill_segments(count);
        cluster.wait_archived(&names[count - 1]);
        process::private_memory_kb(pid)
    };
    let early = archive_some(60);
    let late = archive_some(240);
    assert!(early > 0 && late < early + 1024, "{early} kB after 60, {late} kB after 300 segments");
    assert!(early < 16 << 10, "{early} kB");
    assert_eq!(cluster.archiver_pid(), Some(pid));
    assert_eq!(archive.names().len(), 301, "segments and the identity file");
    // Each thread that ended would have to be collected; each file that stays open counts too.
    assert!(process::threads(pid) <= 3);
    assert!(process::open_files(pid).len() < 32, "{:?}", process::open_files(pid));
}
