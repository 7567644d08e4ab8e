//! Two destinations, with faults in one of them or in both: what counts as archived is in each, whole and equal,
//! and a sound one has all that can be had while the other is down.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::Duration;

use harness::process::{is_alive, private_memory_kb, threads};
use harness::wait::poll;
use harness::{
    Cluster, ClusterBuilder, Dark, Fs, Mark, Mount, Picture, PowerCut, Report, Scratch, Stop,
    TIMEOUT, Trace, archive, dose, privileged, require, rng, scratch, tool, wait_until,
};

use crate::hung_storage::{SLACK, Storage};
use crate::one_history::cross;
use crate::power_cuts::{DISK_MB, all_wal, cut_under_load, keeping, look};
use crate::support::destinations::{DESTINATION, archiving_to, assert_holds, list};

/// With two workers: the archiver itself, and for each destination the workers, each with one more thread that
/// writes.
const MOST_THREADS: usize = 1 + 2 * (2 + 2);

/// Waits until a destination has all these files, which the server must not know of.
#[track_caller]
fn wait_for_backlog(cluster: &Cluster, sound: &Path, names: &[String]) {
    wait_until(TIMEOUT, "the whole backlog in the sound one", || {
        names.iter().all(|name| sound.join(name).exists()).then_some(())
    });
    assert!(!names.iter().any(|name| cluster.is_archived(name)), "one of two is enough");
}

/// What an archive holds under these names.
#[track_caller]
fn picture(archive: &Path, names: &[String]) -> Picture {
    Picture::of_files(archive, names.iter().cloned())
}

/// Waits for a report that names the destination as the only one that failed.
#[track_caller]
fn wait_for_failure(cluster: &Cluster, mark: Mark, sqlstate: &str, destination: &Path) -> Report {
    let report = cluster.wait_for_report(mark, sqlstate);
    let begins = "could not archive file \"";
    let names = format!("\" to \"{}\": ", destination.display());
    assert!(report.message.starts_with(begins) && report.message.contains(&names), "{report:?}");
    assert!(!report.detail.is_empty() && !report.hint.is_empty(), "{report:?}");
    report
}

/// After the cause has gone: the same archiver brings both to the same files.
#[track_caller]
fn both_go_on(cluster: &Cluster, archiver: i32, archives: [&Path; 2], names: &[String]) {
    let last = cluster.switch_wal();
    cluster.wait_until("all to be archived at last", || {
        cluster.wake_archiver();
        cluster.is_archived(&last).then_some(())
    });
    cluster.wait_all_archived();
    for archive in archives {
        assert_holds(archive, cluster, names);
        assert_holds(archive, cluster, std::slice::from_ref(&last));
        archive::assert_none_torn(archive, 1 << 20);
        assert_eq!(archive::temporaries(archive), [""; 0]);
    }
    assert_eq!(archive::names(archives[0]), archive::names(archives[1]));
    assert_eq!(cluster.archiver_pid(), Some(archiver), "the archiver was restarted");
}

/// The power of the one goes, of the other, or of both: what the server was told is on both, whichever went dark.
#[test]
fn two_disks_that_lose_power_separately() {
    require!(privileged());
    let mut rng = rng();
    type Setup = fn(ClusterBuilder) -> ClusterBuilder;
    let variants: [([Fs; 2], Setup); 2] = [
        ([Fs::Ext4, Fs::Btrfs], |builder| builder),
        ([Fs::Xfs, Fs::Ext4], ClusterBuilder::without_tmpfile),
    ];
    for (kinds, setup) in variants {
        let disks = kinds.map(|fs| PowerCut::new(fs, DISK_MB));
        let archives = disks.each_ref().map(|disk| disk.dir("archive"));
        let both = archives.each_ref().map(|archive| archive.as_path());
        let cluster =
            setup(keeping(archiving_to(&both))).set("walsafe_archive.workers", "4").start();
        cluster.wait_archived(&cluster.switch_wal());
        let turn = Cell::new(0);
        let cut_off = || -> Vec<(usize, Dark)> {
            let which: &[usize] = [&[0][..], &[1], &[0, 1]][turn.replace(turn.get() + 1) % 3];
            which.iter().map(|at| (*at, disks[*at].cut_off())).collect()
        };
        let mut cuts = Vec::new();
        for codec in ["none", "lz4", "zstd:1", "gzip:1"] {
            cluster.reconfigure("walsafe_archive.compression", codec);
            cuts.extend(cut_under_load(&cluster, dose(2, 5), &mut rng, cut_off));
        }
        cluster.wait_all_archived();
        let wal = all_wal(&cluster);
        let (count, mut promised) = (cuts.len(), 0);
        for (number, (names, darks)) in cuts.into_iter().enumerate() {
            for (at, dark) in darks {
                let loss = look(&disks[at].come_up(dark).join("archive"), &names, &wal);
                let lost = !loss.missing.is_empty() || !loss.torn.is_empty();
                assert!(!lost, "{:?}, the other {kinds:?}, cut {number}: {loss:?}", kinds[at]);
                promised += loss.promised;
            }
        }
        assert!(promised > 4 * count, "hardly anything was archived: {promised}");

        // The server goes on with the one that ran on, and with the one that came up.
        let after = disks[0].cut();
        let came_up = after.join("archive");
        let failed = cluster.stat_archiver().failed_count;
        cluster.reconfigure(DESTINATION, &list(&[&came_up, both[1]]));
        cluster.wait_archived(&cluster.fill_segments(2)[1]);
        let names = cluster.fill_whole_segments(3);
        cluster.wait_archived(&names[2]);
        for archive in [came_up.as_path(), both[1]] {
            assert_holds(archive, &cluster, &names);
            assert_eq!(archive::temporaries(archive), [""; 0]);
        }
        assert_eq!(cluster.stat_archiver().failed_count, failed);
        cluster.stop(Stop::Fast);
        eprintln!("{kinds:?}: {count} cuts, {promised} promised, 0 lost, 0 torn");
    }
}

/// A sound destination, and a server that archives into it and into a storage that is to hang.
fn beside(storage: &Storage, stall_timeout: u32) -> (Scratch, Cluster) {
    let sound = Scratch::new("sound");
    let cluster = keeping(archiving_to(&[sound.path(), storage.path()]))
        .set("walsafe_archive.stall_timeout", &format!("{stall_timeout}s"))
        .start();
    cluster.wait_archived(&cluster.switch_wal());
    (sound, cluster)
}

/// The callers are held by the kernel: nothing but the thaw ends their calls.
#[test]
fn the_other_gets_the_whole_backlog_while_one_is_frozen() {
    require!(privileged());
    let storage = Storage::freezing();
    let (sound, cluster) = beside(&storage, 2);
    let archiver = cluster.wait_archiver();
    let mark = cluster.mark();
    let hang = storage.hang();
    let names = cluster.fill_segments(30);
    wait_for_backlog(&cluster, sound.path(), &names);
    let before = picture(sound.path(), &names);
    wait_for_failure(&cluster, mark, "58030", storage.path());
    assert!(threads(archiver) <= MOST_THREADS, "{} threads", threads(archiver));
    drop(hang);
    both_go_on(&cluster, archiver, [sound.path(), storage.path()], &names);
    assert_eq!(picture(sound.path(), &names), before, "the sound one was written again");
    assert!(threads(archiver) <= MOST_THREADS, "{} threads", threads(archiver));
    assert!(cluster.stop(Stop::Fast) < SLACK);
}

/// One that hangs holds up a shutdown no longer than if it were alone, and the other has all by then.
#[test]
fn one_that_hangs_holds_up_no_shutdown_and_no_end_of_the_archiver() {
    require!(privileged());
    require!(tool("bindfs"));
    let storage = Storage::fuse();
    let (sound, cluster) = beside(&storage, 4);
    let hang = storage.hang();
    let mut names = cluster.fill_segments(30);
    wait_for_backlog(&cluster, sound.path(), &names);
    let took = cluster.stop(Stop::Fast);
    assert!(took < Duration::from_secs(4) + SLACK, "{took:?}");
    let ready = cluster.ready_files();
    assert!(names.iter().all(|name| ready.contains(name)), "{ready:?}");
    drop(hang);
    let before = picture(sound.path(), &names);
    cluster.start();
    let archiver = cluster.wait_archiver();
    both_go_on(&cluster, archiver, [sound.path(), storage.path()], &names);
    assert_eq!(picture(sound.path(), &names), before, "the sound one was written again");

    let hang = storage.hang();
    names.extend(cluster.fill_segments(8));
    wait_for_backlog(&cluster, sound.path(), &names[30..]);
    cluster.kill_postmaster();
    let ended = poll(SLACK, || (!is_alive(archiver)).then_some(()));
    assert!(ended.is_some(), "the archiver outlives the postmaster");
    drop(hang);
    cluster.start();
    both_go_on(&cluster, cluster.wait_archiver(), [sound.path(), storage.path()], &names);
}

/// A destination that is full, or read-only, beside one that is neither.
#[test]
fn a_fault_in_one_leaves_the_other_whole_and_both_are_equal_once_it_is_mended() {
    require!(privileged());
    let kinds: [fn(ClusterBuilder) -> ClusterBuilder; 2] = [
        |builder| builder,
        |builder| builder.without_tmpfile().set("walsafe_archive.workers", "4"),
    ];
    for setup in kinds {
        let (sound, mount) = (Scratch::new("sound"), Mount::new(Fs::Ext4, 48));
        let archives = [mount.path(), sound.path()];
        let cluster = setup(keeping(archiving_to(&archives))).start();
        cluster.wait_archived(&cluster.switch_wal());
        let archiver = cluster.wait_archiver();
        let sound_goes_on = |sqlstate: &str, says: &str| {
            let mark = cluster.mark();
            let names = cluster.fill_whole_segments(6);
            let report = wait_for_failure(&cluster, mark, sqlstate, mount.path());
            assert!(report.detail.contains(says), "{report:?}");
            wait_for_backlog(&cluster, sound.path(), &names);
            assert!(!names.iter().any(|name| mount.join(name).exists()), "not a fault: {says}");
            archive::assert_none_torn(mount.path(), 1 << 20);
            (picture(sound.path(), &names), names)
        };
        let ballast = mount.fill_but(300_000);
        let (before, names) = sound_goes_on("53100", "No space left on device");
        fs::remove_file(ballast).unwrap();
        both_go_on(&cluster, archiver, archives, &names);
        assert_eq!(picture(sound.path(), &names), before, "the sound one was written again");

        mount.remount_read_only();
        let (before, names) = sound_goes_on("25006", "Read-only file system");
        mount.remount_read_write();
        both_go_on(&cluster, archiver, archives, &names);
        assert_eq!(picture(sound.path(), &names), before, "the sound one was written again");
    }
}

/// A clone of the primary writes what neither archive can follow. Nothing of it comes behind the conflict: not
/// even in the one that lacks the file, as it was down when the primary ended.
#[test]
fn a_clone_adds_nothing_behind_its_conflict_to_either() {
    for lacking in [false, true] {
        let homes = [Scratch::new("first"), Scratch::new("second")];
        let archives = homes.each_ref().map(Scratch::path);
        let primary = archiving_to(&archives).start();
        primary.fill_segments(1);
        primary.stop(Stop::Fast);
        let clone = primary.clone_stopped();
        primary.start();
        let parted = cross(&primary, 'a');
        primary.wait_archived(&parted);
        primary.stop(Stop::Immediate);
        if lacking {
            fs::remove_file(archives[1].join(&parted)).unwrap();
        }
        let before = archives.map(Picture::of);

        let clone = clone.start();
        let refused = |mark, name: &str| {
            let begins = format!("could not archive file \"{name}\" to ");
            clone.wait_until("the refusal", || {
                clone.wake_archiver();
                let reports = clone.log().archiver_reports(mark);
                let told = |report: &Report| {
                    report.sqlstate == "58P02" && report.message.starts_with(&begins)
                };
                reports.iter().any(told).then_some(())
            });
        };
        let nothing_came = || {
            for (archive, before) in archives.iter().zip(&before) {
                // The file itself may come to the one that lacks it, but nothing that follows.
                let here = Picture::of(archive).only(|name| !lacking || !name.starts_with(&parted));
                let before = before.clone().only(|name| !lacking || !name.starts_with(&parted));
                assert_eq!(here, before, "{}", archive.display());
            }
        };
        let mark = clone.mark();
        assert_eq!(cross(&clone, 'b'), parted);
        let next = cross(&clone, 'b');
        refused(mark, &parted);
        clone.fill_whole_segments(4);
        nothing_came();
        let mark = clone.mark();
        clone.restart();
        refused(mark, &parted);
        nothing_came();
        if lacking {
            continue;
        }
        // Somebody marks the file as archived, and a checkpoint removes it.
        let status = clone.pg_wal().join("archive_status");
        let [from, to] = ["ready", "done"].map(|mark| status.join(format!("{parted}.{mark}")));
        let mark = clone.mark();
        fs::rename(from, to).expect("the file waits");
        clone.sql("CHECKPOINT; CHECKPOINT");
        refused(mark, &next);
        let mark = clone.mark();
        clone.kill_all();
        clone.start();
        refused(mark, &next);
        nothing_came();
    }
}

/// The sound one has the whole backlog while the other is down for as long as it likes, in threads and memory
/// that do not grow, and is neither read nor written again for what it has.
#[test]
fn a_backlog_of_hundreds_costs_the_sound_one_a_single_pass_and_a_bounded_memory() {
    require!(tool("strace"));
    const FILES: usize = 500;
    let home = Scratch::new("archives");
    let (sound, away) = (home.dir("sound"), home.join("away"));
    scratch::write(&away, "not a directory");
    let cluster = archiving_to(&[&sound, &away])
        .set("wal_keep_size", "16GB")
        .set("wal_init_zero", "off")
        .start();
    let archiver = cluster.wait_archiver();
    let (mut most_threads, mut early, mut late) = (0, 0, 0);
    let mut names = Vec::new();
    for part in 0..5 {
        names.extend(cluster.fill_segments(FILES / 5));
        wait_until(TIMEOUT, "the backlog in the sound one", || {
            most_threads = most_threads.max(threads(archiver));
            let memory = if part < 2 { &mut early } else { &mut late };
            *memory = (*memory).max(private_memory_kb(archiver));
            names.iter().all(|name| sound.join(name).exists()).then_some(())
        });
    }
    wait_for_backlog(&cluster, &sound, &names);
    assert_eq!(cluster.archiver_pid(), Some(archiver), "the archiver was restarted");

    // It comes back.
    // Whatever is read or written is opened before.
    let trace = Trace::attach(archiver, "openat,linkat,unlinkat,renameat2");
    // To compare each byte of them all would take longer than all else.
    let some: Vec<_> = names.iter().step_by(20).cloned().collect();
    let before = picture(&sound, &some);
    fs::remove_file(&away).unwrap();
    scratch::make_dir(&away);
    cluster.wake_archiver();
    let (mut memory, mut reached) = (0, 0);
    cluster.wait_until("the other to have it too", || {
        most_threads = most_threads.max(threads(archiver));
        memory = memory.max(private_memory_kb(archiver));
        reached = names.iter().position(|name| !cluster.is_archived(name)).unwrap_or(FILES);
        (reached == FILES).then_some(())
    });
    let calls = trace.finish();
    assert_holds(&sound, &cluster, &some);
    assert_holds(&away, &cluster, &some);
    assert_eq!(archive::names(&sound), archive::names(&away));
    assert_eq!(picture(&sound, &some), before);
    let in_dir = |dir: &Path| {
        let dir = dir.display().to_string();
        calls.iter().filter(|call| call.text.contains(&dir)).cloned().collect::<Vec<_>>()
    };
    let again: Vec<_> = in_dir(&sound)
        .into_iter()
        .filter(|call| names.iter().any(|name| call.text.contains(name.as_str())))
        .collect();
    assert!(again.is_empty(), "{} calls, such as {:?}", again.len(), again.first());
    let (here, there) = (in_dir(&sound).len(), in_dir(&away).len());
    assert!(there >= FILES, "only {there} calls were seen");
    assert!(here < FILES / 10, "{here} calls in the sound one");
    eprintln!(
        "{most_threads} threads; {early} kB with the first files, {late} kB with the last, {memory} kB for the \
         other; {here} and {there} system calls"
    );
    assert!(most_threads <= MOST_THREADS, "{most_threads} threads");
    // Some hundred bytes are remembered of each file.
    assert!(late <= early + 2 * 1024, "{early} kB early, {late} kB late");
    assert!(memory <= early.max(late) + 2 * 2 * 7 * 1024, "{early} kB, {late} kB, {memory} kB");
}
