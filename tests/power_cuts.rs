//! Power cuts of the archive's disk under load: what counts as archived is there, whole and equal, and
//! no file under a final name is torn (G1, G2).
//!
//! The set of names that count is taken before each cut. It is what the server marked `.done`, so it
//! says that the module reported success, and nothing more.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{
    Cluster, ClusterBuilder, Dark, Fs, PowerCut, Scratch, StopOnDrop, TIMEOUT, Trace, archive,
    dose, privileged, process, require, rng, scratch, tool, wait_until,
};
use rustix::process::Signal;

/// Large enough for the WAL of one run.
pub const DISK_MB: u64 = 600;

/// What a cut left, compared with what had been promised.
#[derive(Debug, Default)]
pub struct Loss {
    pub promised: usize,
    /// Promised, but there is nothing under the name.
    pub missing: Vec<String>,
    /// There is something under the name, and it is not the WAL file.
    pub torn: Vec<String>,
}

/// Compares the archive as it came up with the WAL.
pub fn look(archive: &Path, promised: &[String], wal: &BTreeMap<String, Vec<u8>>) -> Loss {
    let mut loss = Loss { promised: promised.len(), ..Loss::default() };
    for name in promised {
        if archive::stored(archive, name).is_none() {
            loss.missing.push(name.clone());
        }
    }
    // Files that were not promised may be missing, but never torn.
    for name in archive::names(archive) {
        let (path, codec) = archive::stored(archive, &name).expect("it was listed");
        let whole = archive::decode(&path, codec).is_ok_and(|bytes| Some(&bytes) == wal.get(&name));
        if !whole {
            loss.torn.push(name);
        }
    }
    loss
}

/// Archives under load and cuts the power again and again; returns the cuts, each with the names that
/// counted as archived before it.
pub fn cut_under_load<T>(
    cluster: &Cluster,
    cuts: usize,
    rng: &mut fastrand::Rng,
    cut_off: impl Fn() -> T,
) -> Vec<(Vec<String>, T)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                cluster.fill_whole_segments(2);
                cluster.fill_segments(2);
                // The disk is small: what is archived must not run away from the cuts.
                cluster.wait_until("the backlog to shrink", || {
                    (cluster.ready_files().len() < 8).then_some(())
                });
            }
        });
        cluster.wait_until("the first files to be archived", || {
            (cluster.done_files().len() > 3).then_some(())
        });
        (0..cuts)
            .map(|_| {
                std::thread::sleep(Duration::from_micros(rng.u64(1_000..120_000)));
                let promised = cluster.done_files();
                (promised, cut_off())
            })
            .collect()
    })
}

/// Keeps all WAL, to be compared with.
pub fn keeping(builder: ClusterBuilder) -> ClusterBuilder {
    builder.set("wal_keep_size", "8GB")
}

pub fn all_wal(cluster: &Cluster) -> BTreeMap<String, Vec<u8>> {
    scratch::names(&cluster.pg_wal())
        .into_iter()
        .filter(|name| name.len() >= 24)
        .map(|name| (name.clone(), cluster.read_wal(&name)))
        .collect()
}

fn nothing_is_lost(fs: Fs, setup: impl Fn(ClusterBuilder) -> ClusterBuilder) {
    nothing_is_lost_in(dose(2, 5), fs, setup);
}

/// Cuts so often for each codec.
fn nothing_is_lost_in(cuts_each: usize, fs: Fs, setup: impl Fn(ClusterBuilder) -> ClusterBuilder) {
    let mut rng = rng();
    let disk = PowerCut::new(fs, DISK_MB);
    let archive = disk.dir("archive");
    let cluster = setup(keeping(Cluster::archiving_to(&archive))).start();
    cluster.wait_archived(&cluster.switch_wal());

    cluster.set_conf("walsafe_archive.workers", "4");
    let mut cuts = Vec::new();
    for codec in ["none", "lz4", "zstd:1", "gzip:1"] {
        cluster.reconfigure("walsafe_archive.compression", codec);
        cuts.extend(cut_under_load(&cluster, cuts_each, &mut rng, || disk.cut_off()));
    }
    cluster.wait_all_archived();

    let wal = all_wal(&cluster);
    let (count, mut promised, mut files) = (cuts.len(), 0, 0);
    for (number, (names, dark)) in cuts.into_iter().enumerate() {
        let after = disk.come_up(dark);
        let loss = look(&after.join("archive"), &names, &wal);
        assert!(loss.missing.is_empty() && loss.torn.is_empty(), "{fs:?}, cut {number}: {loss:?}");
        promised += loss.promised;
        files += archive::names(&after.join("archive")).len();
        if number + 1 < count {
            continue;
        }
        // The server continues from here. It was promised more than the disk had at the cut, which would
        // not be so for another server. So only what is new counts.
        assert!(loss.promised > 4, "hardly anything was archived: {loss:?}");
        let dir = after.join("archive");
        cluster.reconfigure("walsafe_archive.destination", dir.to_str().expect("a path of ours"));
        let failed = cluster.stat_archiver().failed_count;
        // The archiver reads the settings between two files.
        cluster.wait_archived(&cluster.fill_segments(2)[1]);
        for name in cluster.fill_whole_segments(3) {
            cluster.wait_archived(&name);
            assert_eq!(archive::contents(&dir, &name).expect("archived"), cluster.read_wal(&name));
        }
        assert_eq!(archive::temporaries(&dir), [""; 0]);
        assert_eq!(cluster.stat_archiver().failed_count, failed);
        cluster.stop(harness::Stop::Fast);
    }
    eprintln!(
        "{fs:?}: {count} cuts, {promised} promised and {files} files looked at, 0 lost, 0 torn"
    );
}

#[test]
fn ext4_with_unnamed_temporary_files() {
    require!(privileged());
    nothing_is_lost(Fs::Ext4, |builder| builder);
}

#[test]
fn ext4_with_named_temporary_files() {
    require!(privileged());
    nothing_is_lost(Fs::Ext4, ClusterBuilder::without_tmpfile);
}

/// Without the clean-up by name, files that the archiver had removed, and that a disk without power brings
/// back, stay until the server restarts, because the process that made them is alive.
#[test]
fn temporary_files_of_the_living_archiver_that_a_cut_brings_back_go() {
    require!(privileged());
    require!(tool("strace"));
    let disk = PowerCut::new(Fs::Ext4, DISK_MB);
    let archive = disk.dir("archive");
    let cluster = Cluster::archiving_to(&archive).without_tmpfile().start();
    cluster.wait_archived(&cluster.switch_wal());
    // Flushed, and not published yet.
    let trace = Trace::inject(cluster.wait_archiver(), "linkat", "linkat:delay_enter=2000000");
    let name = cluster.switch_wal();
    cluster.wait_until("the copy to be whole", || (!trace.calls().is_empty()).then_some(()));
    let dark = disk.cut_off();
    drop(trace);
    cluster.wait_archived(&name);
    assert_eq!(archive::temporaries(&archive), [""; 0]);

    let after = disk.come_up(dark);
    let dir = after.join("archive");
    assert_eq!(archive::temporaries(&dir).len(), 1, "the cut brings nothing back");
    cluster.reconfigure("walsafe_archive.destination", dir.to_str().expect("a path of ours"));
    // The archiver reads the settings between two files.
    cluster.wait_archived(&cluster.fill_segments(2)[1]);
    assert_eq!(archive::temporaries(&dir), [""; 0]);
    cluster.stop(harness::Stop::Fast);
}

#[test]
fn xfs_with_unnamed_temporary_files() {
    require!(privileged());
    nothing_is_lost(Fs::Xfs, |builder| builder);
}

#[test]
fn xfs_with_named_temporary_files() {
    require!(privileged());
    nothing_is_lost(Fs::Xfs, ClusterBuilder::without_tmpfile);
}

/// More of them: there, the flush of a file without a name may be passed over.
#[test]
fn btrfs_with_unnamed_temporary_files() {
    require!(privileged());
    nothing_is_lost_in(dose(5, 15), Fs::Btrfs, |builder| builder);
}

#[test]
fn btrfs_with_named_temporary_files() {
    require!(privileged());
    nothing_is_lost(Fs::Btrfs, ClusterBuilder::without_tmpfile);
}

/// Cuts after each name of a batch, before its flush and after it.
///
/// One flush serves several names. If one of them counted before it, or because of an earlier flush, a cut
/// in between would show it: the server was told, and the name is not there.
#[test]
fn cuts_between_the_names_and_the_flush_of_a_batch() {
    require!(privileged());
    require!(tool("strace"));
    for fs in dose(&[Fs::Ext4, Fs::Btrfs][..], &Fs::ALL) {
        let disk = PowerCut::new(*fs, DISK_MB);
        let archive = disk.dir("archive");
        let cluster =
            keeping(Cluster::archiving_to(&archive)).set("walsafe_archive.workers", "4").start();
        cluster.wait_archived(&cluster.switch_wal());
        // While one thread gives names, the others make files ready: the next batch.
        let trace = Trace::inject(
            cluster.wait_archiver(),
            "linkat,fsync",
            "linkat:delay_enter=60000:delay_exit=60000",
        );
        let before = archive::names(&archive).len();
        cluster.fill_segments(24);
        let mut cuts = Vec::new();
        for named in before + 1..before + 24 {
            cluster.wait_until("the next name", || {
                (archive::names(&archive).len() >= named).then_some(())
            });
            let promised = cluster.done_files();
            cuts.push((promised, disk.cut_off()));
        }
        cluster.wait_all_archived();
        let largest = largest_batch(&trace.finish(), &archive);
        assert!(largest >= 8, "{fs:?}: no batch has more than {largest} names");
        let wal = all_wal(&cluster);
        let (count, mut promised) = (cuts.len(), 0);
        for (names, dark) in cuts {
            let loss = look(&disk.come_up(dark).join("archive"), &names, &wal);
            assert!(loss.missing.is_empty() && loss.torn.is_empty(), "{fs:?}: {loss:?}");
            promised += loss.promised;
        }
        cluster.stop(harness::Stop::Fast);
        eprintln!("{fs:?}: {count} cuts, {promised} promised, batches of up to {largest}, 0 lost");
    }
}

/// How many names were given, at most, between two flushes of the archive's directory.
fn largest_batch(calls: &[harness::Call], archive: &Path) -> usize {
    let directory = format!("<{}>)", archive.display());
    let (mut names, mut largest) = (0, 0);
    for call in calls.iter().filter(|call| call.succeeded()) {
        match &*call.name {
            "linkat" => names += 1,
            "fsync" if call.text.contains(&directory) => names = 0,
            _ => {}
        }
        largest = largest.max(names);
    }
    largest
}

/// The same cuts find losses where there are some; otherwise those above would prove nothing. The policy
/// `file` may lose names, but what is there is whole.
#[test]
fn weaker_ways_lose_files_in_the_same_cuts() {
    require!(privileged());
    for fs in Fs::ALL {
        let mut rng = rng();
        for way in ["cp", "none", "file"] {
            let disk = PowerCut::new(fs, DISK_MB);
            let archive = disk.dir("archive");
            let builder = keeping(match way {
                "cp" => {
                    Cluster::builder().archive_command(&format!("cp %p {}/%f", archive.display()))
                }
                policy => {
                    Cluster::archiving_to(&archive).set("walsafe_archive.fsync_policy", policy)
                }
            });
            let cluster = builder.start();
            let cuts = cut_under_load(&cluster, 5, &mut rng, || disk.cut_off());
            cluster.stop(harness::Stop::Fast);
            let wal = all_wal(&cluster);
            let (mut promised, mut missing, mut torn) = (0, 0, 0);
            for (names, dark) in cuts {
                let loss = look(&disk.come_up(dark).join("archive"), &names, &wal);
                promised += loss.promised;
                missing += loss.missing.len();
                torn += loss.torn.len();
            }
            eprintln!("{fs:?}, {way}: {promised} promised, {missing} missing, {torn} torn");
            if way == "file" {
                assert_eq!(torn, 0, "{fs:?}: the policy \"file\" shows torn files");
            } else {
                assert!(missing + torn > 0, "{fs:?}: {way} loses nothing, so these cuts are none");
            }
        }
    }
}

/// The other side: the file is published, and the server crashes before its `.done` survives.
#[test]
fn a_server_that_forgot_its_success_succeeds_again() {
    require!(tool("strace"));
    for setup in [|b: ClusterBuilder| b, ClusterBuilder::without_tmpfile] {
        for codec in ["none", "lz4", "zstd", "gzip"] {
            let archive = Scratch::new("archive");
            let cluster = setup(keeping(Cluster::archiving_to(archive.path())))
                .set("walsafe_archive.compression", codec)
                .set("walsafe_archive.workers", "4")
                .start();
            cluster.wait_archived(&cluster.switch_wal());
            // The rename to `.done` never reaches the disk.
            let trace = Trace::inject(
                cluster.wait_archiver(),
                "rename,renameat,renameat2",
                "rename,renameat:error=EIO",
            );
            let names = cluster.fill_whole_segments(3);
            cluster.wait_until("the files to be published", || {
                names.iter().all(|n| archive::stored(archive.path(), n).is_some()).then_some(())
            });
            cluster.kill_all();
            drop(trace);
            let ready = cluster.ready_files();
            assert!(names.iter().all(|name| ready.contains(name)), "{ready:?}");
            let inode = |name: &String| {
                use std::os::unix::fs::MetadataExt;
                let (path, _) = archive::stored(archive.path(), name).expect("archived");
                path.metadata().expect("archived").ino()
            };
            let before: Vec<u64> = names.iter().map(inode).collect();

            // In another encoding too, if the administrator chose one meanwhile.
            cluster.set_conf("walsafe_archive.compression", "zstd:2");
            cluster.start();
            for name in &names {
                cluster.wait_archived(name);
                assert_eq!(
                    archive::contents(archive.path(), name).expect("archived"),
                    cluster.read_wal(name)
                );
            }
            assert_eq!(names.iter().map(inode).collect::<Vec<_>>(), before);
            assert_eq!(cluster.stat_archiver().failed_count, 0);
            let mut twice = archive::names(archive.path());
            twice.dedup();
            assert_eq!(twice, archive::names(archive.path()), "archived in two encodings");
        }
    }
}

/// The whole machine loses power, the data directory's disk with the archive's: what the server considers
/// archived when it comes up is there, and it archives the rest again, whether it is there or not.
#[test]
fn both_disks_lose_power_together() {
    require!(privileged());
    let mut rng = rng();
    let (mut promised, mut again, mut count) = (0, 0, 0);
    for (fs, setup) in [
        (Fs::Xfs, (|builder| builder) as fn(ClusterBuilder) -> ClusterBuilder),
        (Fs::Btrfs, ClusterBuilder::without_tmpfile),
    ] {
        let data_disk = PowerCut::new(Fs::Ext4, DISK_MB);
        let archive_disk = PowerCut::new(fs, DISK_MB);
        let archive = archive_disk.dir("archive");
        let settings = |builder: ClusterBuilder| {
            setup(keeping(builder)).set("fsync", "on").set("walsafe_archive.workers", "4")
        };
        let cluster = settings(Cluster::archiving_to(&archive).home_in(data_disk.path())).start();
        cluster.wait_archived(&cluster.fill_segments(4)[3]);
        // initdb flushed nothing.
        data_disk.sync();

        let stop = AtomicBool::new(false);
        let cuts: Vec<(Dark, Dark)> = std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    cluster.fill_whole_segments(4);
                }
            });
            let archiver = cluster.wait_archiver();
            (0..4)
                .map(|_| {
                    std::thread::sleep(Duration::from_micros(rng.u64(100_000..400_000)));
                    // At one moment, as far as archiving goes: it stands still meanwhile.
                    process::signal(archiver, Signal::STOP);
                    wait_until(TIMEOUT, "the archiver to stop", || {
                        (process::state(archiver) == Some('T')).then_some(())
                    });
                    let cut = (archive_disk.cut_off(), data_disk.cut_off());
                    process::signal(archiver, Signal::CONT);
                    cut
                })
                .collect()
        });
        cluster.kill_all();

        for (archive_dark, data_dark) in cuts {
            count += 1;
            let archive_disk = archive_disk.come_up(archive_dark);
            let data_disk = data_disk.come_up(data_dark);
            let archive = archive_disk.join("archive");
            let came_up =
                settings(ClusterBuilder::come_up(&data_disk.join("cluster")).archive_to(&archive))
                    .create();
            let done = came_up.done_files();
            for name in &done {
                let archived = archive::contents(&archive, name);
                let archived = archived.unwrap_or_else(|| panic!("{fs:?}: {name} is lost"));
                assert!(archived == came_up.read_wal(name), "{fs:?}: {name} differs");
            }
            promised += done.len();
            let ready = came_up.ready_files();
            again += ready.iter().filter(|n| archive::stored(&archive, n).is_some()).count();

            came_up.start();
            let last = came_up.switch_wal();
            came_up.wait_archived(&last);
            came_up.wait_all_archived();
            for name in ready.iter().chain([&last]) {
                let archived = archive::contents(&archive, name).expect("it is archived");
                assert!(archived == came_up.read_wal(name), "{fs:?}: {name} differs");
            }
            assert_eq!(came_up.stat_archiver().failed_count, 0);
            assert_eq!(archive::temporaries(&archive), [""; 0]);
        }
    }
    eprintln!("{count} cuts of both disks, {promised} promised, {again} archived twice, 0 lost");
    assert!(promised > 0, "nothing was promised, so nothing was looked at");
}
