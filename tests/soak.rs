//! Archiving for long, with faults at random all along: in the end a recovery from the base backup
//! through the archive reaches every transaction that was acknowledged.
//!
//! `WALSAFE_SOAK_SECONDS` says how long. If it is not set, the dose does; `make soak` takes an hour.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::wait::poll;
use harness::{
    Cluster, Fs, Mount, Stop, StopOnDrop, TIMEOUT, Trace, archive, dose, privileged, process,
    require, rng, scratch, tool, wait_until,
};
use rustix::process::Signal;

/// Segments in one batch of the load.
const BATCH: u64 = 5;
/// At most this many batches a second: an hour must fit on the disk.
const PACE: Duration = Duration::from_millis(400);

/// Inserts numbers, each a transaction and a segment, and notes those that were acknowledged.
fn load(cluster: &Cluster, stop: &AtomicBool, acknowledged: &Mutex<BTreeSet<u64>>) {
    let mut next = 1;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut sql = String::new();
        for n in next..next + BATCH {
            sql.push_str(&format!(
                "INSERT INTO ledger VALUES ({n});\nSELECT {n};\n\
                 SELECT pg_logical_emit_message(false, 'load', string_agg(md5(random()::text), ''))\
                 IS NULL FROM generate_series(1, {});\n\
                 SELECT pg_switch_wal() IS NULL;\n",
                n % 7 * 500 + 1
            ));
        }
        next += BATCH;
        // The server may be down, or go down: then what it printed up to there is acknowledged.
        let output = cluster.psql_within(&sql, TIMEOUT);
        let numbers = output.stdout.lines().filter_map(|line| line.parse::<u64>().ok());
        acknowledged.lock().expect("no panic").extend(numbers);
        while cluster.ready_files().len() > 100 && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(PACE.saturating_sub(began.elapsed()));
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// A number of each kind of fault, as [`fault`] takes it.
const KINDS: [u32; 9] = [0, 30, 42, 54, 66, 74, 84, 93, 97];

/// Makes one fault, which is over when this returns. `number`, below 100, says which. Returns its name.
fn fault(number: u32, cluster: &Cluster, mount: &Mount, rng: &mut fastrand::Rng) -> &'static str {
    let moment = Duration::from_millis(rng.u64(200..2500));
    match number {
        0..30 => {
            for (name, values) in [
                ("compression", &["none", "lz4", "zstd", "gzip:1", "zstd:9"][..]),
                ("workers", &["0", "1", "2", "4", "16"]),
                ("fsync_policy", &["full", "full", "file", "none"]),
                ("check_wal", &["header", "records", "off"]),
                ("verify", &["off", "on"]),
            ] {
                let value = values[rng.usize(0..values.len())];
                cluster.set_conf(&format!("walsafe_archive.{name}"), value);
            }
            cluster.reload();
            "settings changed"
        }
        30..42 => {
            let ballast = mount.fill_but(rng.u64(0..200_000));
            std::thread::sleep(moment);
            fs::remove_file(ballast).expect("our file");
            "disk full"
        }
        42..54 => {
            // Refused as long as a file is open for writing.
            let read_only = poll(Duration::from_secs(2), || {
                succeeds(Command::new("mount").args(["-o", "remount,ro"]).arg(mount.path()))
                    .then_some(())
            });
            if read_only.is_none() {
                return "remount refused";
            }
            std::thread::sleep(moment);
            mount.remount_read_write();
            "read-only"
        }
        54..66 => {
            let frozen = mount.freeze();
            std::thread::sleep(moment * 2);
            drop(frozen);
            "frozen"
        }
        66..74 => {
            scratch::chmod(mount.path(), 0o000);
            std::thread::sleep(moment);
            scratch::chmod(mount.path(), 0o700);
            "permission taken away"
        }
        74..84 => {
            let Some(archiver) = cluster.archiver_pid() else { return "no archiver" };
            let faults = ["fsync:error=EIO:when=1+3", "pwrite64:error=ENOSPC:when=2+5"];
            let fault = faults[rng.usize(0..faults.len())];
            let call = fault.split(':').next().expect("a name");
            let trace = Trace::inject(archiver, call, fault);
            std::thread::sleep(moment);
            drop(trace);
            "system calls fail"
        }
        84..93 => {
            cluster.kill_all();
            cluster.start();
            "server killed"
        }
        93..97 => {
            let Some(archiver) = cluster.archiver_pid() else { return "no archiver" };
            let mark = cluster.mark();
            process::signal(archiver, Signal::KILL);
            // If one process crashes, all do.
            cluster.wait_for_log(mark, "reinitializing");
            wait_until(TIMEOUT, "the server to come back", || cluster.psql("SELECT 1").ok());
            "archiver killed"
        }
        _ => {
            cluster.stop(Stop::Fast);
            cluster.start();
            "server restarted"
        }
    }
}

#[test]
fn a_recovery_reaches_the_last_acknowledged_transaction() {
    require!(privileged());
    require!(tool("strace"));
    let seconds = std::env::var("WALSAFE_SOAK_SECONDS")
        .map_or(dose(30, 120), |text| text.parse().expect("WALSAFE_SOAK_SECONDS is a number"));
    let mut rng = rng();
    // Sparse: it takes what is archived.
    let mount = Mount::new(Fs::Ext4, 1024 + 4 * seconds);
    let cluster =
        Cluster::archiving_to(mount.path()).set("walsafe_archive.stall_timeout", "2s").start();
    cluster.sql("CREATE TABLE ledger (n bigint)");
    cluster.wait_archived(&cluster.switch_wal());
    let backup = cluster.base_backup_without_wal();

    let stop = AtomicBool::new(false);
    let acknowledged = Mutex::new(BTreeSet::new());
    let mut faults: BTreeMap<&str, u32> = BTreeMap::new();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let loader = scope.spawn(|| load(&cluster, &stop, &acknowledged));
        // Each kind once, in any order; then whatever comes.
        let mut first = KINDS;
        rng.shuffle(&mut first);
        let mut first = first.into_iter();
        let more = |left| left > 0 || began.elapsed() < Duration::from_secs(seconds);
        while more(first.len()) && !loader.is_finished() {
            let number = first.next().unwrap_or_else(|| rng.u32(0..100));
            *faults.entry(fault(number, &cluster, &mount, &mut rng)).or_default() += 1;
            cluster.wake_archiver();
            std::thread::sleep(Duration::from_millis(rng.u64(100..2000)));
        }
    });
    let acknowledged = acknowledged.into_inner().expect("no panic");

    // All WAL goes to the archive. A segment that was complete when the server was killed, and not
    // yet marked, is marked by a checkpoint.
    for _ in 0..3 {
        cluster.switch_wal();
        cluster.sql("CHECKPOINT");
    }
    cluster.wait_until("all files to be archived", || {
        cluster.wake_archiver();
        drop(cluster.psql("SELECT 1"));
        cluster.ready_files().is_empty().then_some(())
    });
    assert_eq!(archive::temporaries(mount.path()), [""; 0]);
    let files = archive::assert_none_torn(mount.path(), 1 << 20);
    cluster.stop(Stop::Immediate);

    let restored = backup
        .restore()
        .recovery()
        .set("restore_command", &restore_command(&cluster, mount.path()))
        .create();
    restored.launch();
    wait_until(Duration::from_secs(60 + 10 * seconds), "the end of recovery", || {
        assert!(restored.is_running(), "the recovery failed");
        (restored.psql("SELECT pg_is_in_recovery()").ok()? == "f").then_some(())
    });
    let there: BTreeSet<u64> = restored
        .sql("SELECT n FROM ledger")
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    let lost: Vec<_> = acknowledged.difference(&there).collect();
    eprintln!(
        "{} s, {} faults {faults:?}, {files} files archived, {} transactions acknowledged, {} lost",
        began.elapsed().as_secs(),
        faults.values().sum::<u32>(),
        acknowledged.len(),
        lost.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acknowledged.len() as u64 > seconds, "hardly anything was done");
    // A remount may be refused, and an archiver not be there: the others happened in any case.
    assert!(faults.len() + 2 >= KINDS.len(), "not all kinds: {faults:?}");
}

/// The program, where `make install` put it.
fn restore_command(cluster: &Cluster, archive: &Path) -> String {
    let walsafe = cluster.server().walsafe();
    format!("{} restore --from {} %f \"%p\"", walsafe.display(), archive.display())
}
