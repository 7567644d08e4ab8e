//! Archiving ahead, at little cost: what it stores, what it leaves in memory, and what it must not get
//! wrong.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{
    Cluster, ClusterBuilder, Mark, Scratch, TIMEOUT, Trace, dose, process, require, scratch, tool,
    wait_until,
};

/// Settings of `compression`, the extension of each, and a stock program that decodes it.
const CODECS: [(&str, &str, &str); 4] = [
    ("none", "", "cat"),
    ("lz4", ".lz4", "lz4"),
    ("zstd", ".zst", "zstd"),
    ("gzip", ".gz", "gzip"),
];

const DESTINATION: &str = "walsafe_archive.destination";
const COMPRESSION: &str = "walsafe_archive.compression";
const WORKERS: &str = "walsafe_archive.workers";

/// A cluster whose archiver waits for a destination, so that a backlog can be made first. Its
/// segments are kept, to be compared.
fn unconfigured() -> ClusterBuilder {
    Cluster::builder()
        .set("archive_mode", "on")
        .set("archive_library", "walsafe_archive")
        .set("wal_keep_size", "16GB")
        .set("wal_init_zero", "off")
}

/// Segments of the usual size.
fn whole_size(builder: ClusterBuilder) -> ClusterBuilder {
    // No checkpoint takes a segment away before it is compared.
    builder.segment_mb(16).set("min_wal_size", "32MB").set("max_wal_size", "1GB")
}

/// Decodes a file with the stock program; `None` if that program rejects it.
fn decode(program: &str, file: &Path) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    if program != "cat" {
        command.arg("-dc");
    }
    let output = command.arg(file).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    output.status.success().then_some(output.stdout)
}

/// The files of the archive that hold this WAL file, in whatever encoding.
fn copies(archive: &Path, name: &str) -> Vec<PathBuf> {
    CODECS
        .iter()
        .map(|(_, extension, _)| archive.join(format!("{name}{extension}")))
        .filter(|path| path.exists())
        .collect()
}

/// How many bytes of a file are in the page cache.
fn cached(file: &Path) -> u64 {
    let output = Command::new("fincore").args(["-b", "-n", "-r", "-o", "RES"]).arg(file).output();
    let text = String::from_utf8(output.expect("fincore").stdout).expect("a number");
    text.trim().parse().unwrap_or_else(|_| panic!("fincore said \"{text}\""))
}

/// Has a segment archived once more.
fn wait_again(cluster: &Cluster, name: &str) {
    let status = cluster.pg_wal().join("archive_status");
    std::fs::rename(status.join(format!("{name}.done")), status.join(format!("{name}.ready")))
        .expect("the server has archived it before");
}

/// Delays the archiver's main thread by a second at each file that it marks as archived, so that the
/// workers are ahead of it.
fn slow_main_thread(cluster: &Cluster) -> Trace {
    Trace::inject(cluster.wait_archiver(), "rename", "rename:delay_enter=1000000")
}

#[test]
fn a_segment_switched_early_takes_what_it_holds() {
    let archive = Scratch::new("archive");
    let cluster = whole_size(Cluster::archiving_to(archive.path())).start();
    // The first one holds what initdb wrote.
    cluster.switch_wal();
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    let metadata = archive.join(&name).metadata().expect("the archived file");
    assert_eq!(metadata.len(), 16 << 20);
    let stored = metadata.blocks() * 512;
    assert!((4096..=64 * 1024).contains(&stored), "{stored} bytes on disk");
    assert!(archive.read(&name) == cluster.read_wal(&name), "not what the server wrote");
}

#[test]
fn stock_programs_decode_every_encoding_and_see_its_checksum() {
    for program in ["lz4", "zstd", "gzip"] {
        require!(tool(program));
    }
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    for (codec, extension, program) in CODECS {
        cluster.reconfigure(COMPRESSION, codec);
        // The reload counts at the latest for the file after the next.
        cluster.fill_segments(2);
        let name = cluster.fill_whole_segments(1).remove(0);
        cluster.wait_archived(&name);
        let stored = archive.join(format!("{name}{extension}"));
        assert_eq!(copies(archive.path(), &name), std::slice::from_ref(&stored), "{codec}");
        let original = cluster.read_wal(&name);
        assert!(decode(program, &stored).expect("it decodes") == original, "{codec}");

        let bytes = scratch::read(&stored);
        let listed = |arguments: &[&str]| {
            let output = Command::new(program).args(arguments).arg(&stored).output();
            String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned()
        };
        match codec {
            "zstd" => {
                let list = listed(&["-lv"]);
                assert!(list.contains("1048576 B") && list.contains("XXH64"), "{list}");
            }
            // Bit 3 of the frame's flags: content size. Bit 2: content checksum.
            "lz4" => assert_eq!(bytes[4] & 0b1100, 0b1100),
            "gzip" => assert!(listed(&["-l"]).contains("1048576")),
            _ => continue,
        }
        // The checksum is at the end (in gzip before the length): the program looks at it.
        let at = bytes.len() - if codec == "gzip" { 8 } else { 4 };
        let mut damaged = bytes;
        damaged[at] ^= 1;
        let copy = archive.join(format!("damaged{extension}"));
        scratch::write(&copy, damaged);
        assert!(decode(program, &copy).is_none(), "{program} overlooks a wrong checksum");
    }
}

#[test]
fn another_encoding_makes_no_second_copy_and_no_conflict() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    let mut stored = Vec::new();
    for (codec, extension, _) in CODECS {
        cluster.reconfigure(COMPRESSION, codec);
        let names = cluster.fill_segments(3);
        cluster.wait_archived(&names[2]);
        let path = archive.join(format!("{}{extension}", names[2]));
        let inode = path.metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display())).ino();
        stored.push((names[2].clone(), path, inode));
    }
    for (codec, extension, _) in CODECS {
        for (name, ..) in &stored {
            wait_again(&cluster, name);
        }
        cluster.reconfigure(COMPRESSION, codec);
        cluster.wait_all_archived();
        for (name, path, inode) in &stored {
            assert_eq!(copies(archive.path(), name), std::slice::from_ref(path), "under {codec}");
            assert_eq!(path.metadata().expect("it is there").ino(), *inode, "under {codec}");
        }
        let names = cluster.fill_segments(2);
        cluster.wait_archived(&names[1]);
        assert!(archive.join(format!("{}{extension}", names[1])).exists(), "{codec} not in force");
    }
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    assert_eq!(cluster.log().archiver_reports(Mark::default()), []);
}

#[test]
fn reloads_in_the_middle_of_two_thousand_files_lose_nothing() {
    let files = dose(1200, 2000);
    let archives = [Scratch::new("archive"), Scratch::new("other")];
    let home = Scratch::new("conf");
    let conf = home.join("reloaded.conf");
    scratch::write(&conf, "");
    let path = conf.to_str().expect("a path of ours");
    let cluster = unconfigured().set("include", path).start();
    let bare = process::private_memory_kb(cluster.wait_archiver());
    let names = cluster.fill_segments(files);
    let mut rng = harness::rng();
    // Every pair of an archive and a codec in turn, in whatever order: few reloads fit into a small dose.
    let mut pairs: Vec<_> = (0..archives.len() * CODECS.len()).collect();
    rng.shuffle(&mut pairs);
    let mut pairs = pairs.into_iter().cycle().map(|n| (n % archives.len(), n / archives.len()));
    let mark = cluster.mark();
    let archiver = cluster.wait_archiver();
    let (mut threads, mut memory) = (0, Vec::new());
    wait_until(5 * TIMEOUT, "all files to be archived", || {
        let (archive, codec) = pairs.next().expect("an endless cycle");
        let settings = [
            (DESTINATION, archives[archive].path().to_str().expect("a path of ours")),
            (COMPRESSION, CODECS[codec].0),
            (WORKERS, ["0", "1", "4", "4"][rng.usize(..4)]),
        ];
        let lines: String =
            settings.iter().map(|(n, value)| format!("{n} = '{value}'\n")).collect();
        scratch::write(&conf, lines);
        cluster.reload();
        for _ in 0..4 {
            threads = threads.max(process::threads(archiver));
            memory.push(process::private_memory_kb(archiver));
            std::thread::sleep(Duration::from_millis(5));
        }
        cluster.is_archived(&names[files - 1]).then_some(())
    });
    cluster.wait_all_archived();
    if cluster.archiver_pid() != Some(archiver) {
        let log = cluster.log().since(mark);
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("> 00000 LOG")).collect();
        panic!("the archiver was restarted: {lines:#?}");
    }

    // Pools of earlier settings finish the files that they have begun.
    assert!((2..=13).contains(&threads), "{threads} threads");
    let highest = *memory.iter().max().expect("samples");
    // 4 MB to copy through and a codec's buffers, for each thread that there was: the allocator keeps some.
    assert!(highest <= bare + 13 * 7 * 1024, "{bare} kB at rest, {highest} kB at most");

    let mut used = BTreeSet::new();
    for name in &names {
        let original = cluster.read_wal(name);
        let found: Vec<PathBuf> =
            archives.iter().flat_map(|archive| copies(archive.path(), name)).collect();
        assert!(!found.is_empty(), "{name} is in no archive");
        for archive in &archives {
            assert!(copies(archive.path(), name).len() <= 1, "{found:?}");
        }
        for path in found {
            let extension = path.extension().map_or("", |e| e.to_str().expect("ours")).to_owned();
            let program =
                CODECS.iter().find(|c| c.1.trim_start_matches('.') == extension).expect("ours").2;
            assert!(decode(program, &path).as_ref() == Some(&original), "{}", path.display());
            used.insert((path.parent().expect("in an archive").to_owned(), extension));
        }
    }
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    assert_eq!(cluster.log().archiver_reports(mark), []);
    eprintln!("{threads} threads, {bare} kB at rest, {highest} kB at most; {} pairs", used.len());
    // Had one reload served for all, nothing would have been tested.
    assert!(used.len() >= 4, "only {used:?}");
}

#[test]
fn a_success_from_before_a_change_of_destination_does_not_count() {
    require!(tool("strace"));
    let (before, after) = (Scratch::new("before"), Scratch::new("after"));
    let cluster = unconfigured().set(WORKERS, "4").start();
    let names = cluster.fill_segments(30);
    let slow = slow_main_thread(&cluster);
    cluster.reconfigure(DESTINATION, before.path().to_str().expect("a path of ours"));
    cluster.wait_archived(&names[1]);
    let far_ahead = || before.join(&names[8]).exists().then_some(());
    wait_until(TIMEOUT, "workers to be ahead", far_ahead);
    let claimed = cluster.done_files().iter().filter(|name| names.contains(name)).count();
    assert!(claimed < 8, "{claimed} files were asked for already: the main thread is not slow");
    cluster.reconfigure(DESTINATION, after.path().to_str().expect("a path of ours"));
    wait_until(TIMEOUT, "the change to count", || (!after.names().is_empty()).then_some(()));
    drop(slow);
    cluster.wait_all_archived();
    let late: Vec<&String> = names.iter().filter(|name| after.join(name).exists()).collect();
    // One file may be asked for while the reload comes, and one more before it is noticed.
    let first = names.iter().position(|name| name == late[0]).expect("one of ours");
    assert!(first < 9, "files that were only ahead, up to {}, counted", names[first]);
    assert_eq!(late.len(), names.len() - first, "files are missing in between");
    for name in late {
        assert!(after.read(name) == cluster.read_wal(name), "{name}");
    }
}

#[test]
fn the_list_of_waiting_files_is_read_once_for_many() {
    require!(tool("strace"));
    const FILES: usize = 500;
    let archive = Scratch::new("archive");
    let cluster = unconfigured().start();
    let names = cluster.fill_segments(FILES);
    let trace = Trace::attach(cluster.wait_archiver(), "getdents64");
    cluster.reconfigure(DESTINATION, archive.path().to_str().expect("a path of ours"));
    cluster.wait_archived(&names[FILES - 1]);
    // A list was read to its end when the kernel has no more entries.
    let ends =
        |call: &&harness::Call| call.text.contains("archive_status") && call.text.ends_with("= 0");
    let scans = trace.finish().iter().filter(ends).count();
    // The server reads it for every 64 files and once more to find nothing (9). We read it at the
    // beginning, and once more when the batch is taken.
    assert!((9..=12).contains(&scans), "{scans} scans for {FILES} files");
}

/// Makes a backlog whose file number 5 (from 0) is damaged, sets the destination, and waits until
/// the workers have come to it while the server is far behind.
fn backlog_with_a_bad_file(archive: &Scratch) -> (Cluster, Vec<String>, Vec<u8>, Trace) {
    let cluster = unconfigured().set(WORKERS, "2").start();
    let names = cluster.fill_segments(30);
    let good = cluster.read_wal(&names[5]);
    let mut bad = good.clone();
    bad[16..40].fill(0); // page address, system identifier, segment size
    scratch::write(&cluster.pg_wal().join(&names[5]), bad);
    let slow = slow_main_thread(&cluster);
    cluster.reconfigure(DESTINATION, archive.path().to_str().expect("a path of ours"));
    wait_until(TIMEOUT, "the files before the bad one", || {
        archive.join(&names[4]).exists().then_some(())
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!archive.join(&names[5]).exists(), "the bad file was archived");
    assert!(!cluster.is_archived(&names[2]), "the main thread is not slow");
    (cluster, names, good, slow)
}

#[test]
fn a_failure_ahead_is_reported_when_the_server_asks_and_not_before() {
    require!(tool("strace"));
    let archive = Scratch::new("archive");
    let (cluster, names, good, slow) = backlog_with_a_bad_file(&archive);
    let report = cluster.log().archiver_reports(Mark::default());
    let told = |report: &harness::Report| format!("{report:?}").contains(&names[5]);
    assert!(!report.iter().any(told), "reported before it was asked for: {report:?}");
    wait_until(TIMEOUT, "the failure to be reported", || {
        cluster.log().archiver_reports(Mark::default()).iter().any(told).then_some(())
    });
    assert!(cluster.is_archived(&names[4]), "reported while files before it were waiting");
    cluster.wait_failures(1);
    assert_eq!(cluster.stat_archiver().last_failed_wal.as_ref(), Some(&names[5]));
    // While it fails nothing is started; what was archived ahead before may be there.
    let there = archive.names();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(archive.names(), there, "archived past a file that fails");
    assert!(!archive.join(&names[20]).exists(), "not bounded ahead: {there:?}");
    scratch::write(&cluster.pg_wal().join(&names[5]), good);
    drop(slow);
    cluster.reload(); // wakes the archiver before its 60 s are over
    cluster.wait_all_archived();
    for name in &names {
        assert!(archive.read(name) == cluster.read_wal(name), "{name}");
    }
}

#[test]
fn a_failure_ahead_that_has_passed_is_never_reported() {
    require!(tool("strace"));
    let archive = Scratch::new("archive");
    let (cluster, names, good, slow) = backlog_with_a_bad_file(&archive);
    scratch::write(&cluster.pg_wal().join(&names[5]), good);
    drop(slow);
    cluster.wait_all_archived();
    assert!(archive.read(&names[5]) == cluster.read_wal(&names[5]));
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    let reports = cluster.log().archiver_reports(Mark::default());
    assert!(!reports.iter().any(|r| format!("{r:?}").contains(&names[5])), "{reports:?}");
}

/// What is cached depends on what others need memory for.
mod alone {
    use super::*;

    #[test]
    fn archived_files_leave_the_page_cache_to_the_server() {
        require!(tool("fincore"));
        for (codec, extension, _) in CODECS {
            let archive = Scratch::new("archive");
            let cluster = whole_size(unconfigured()).set(COMPRESSION, codec).start();
            let names = cluster.fill_whole_segments(2);
            let in_pg_wal =
                || -> u64 { names.iter().map(|name| cached(&cluster.pg_wal().join(name))).sum() };
            // All that was written is in the cache, as long as nobody drops it.
            let before = in_pg_wal();
            assert!(before > 2 * (14 << 20), "only {before} bytes of pg_wal are cached");
            cluster.reconfigure(DESTINATION, archive.path().to_str().expect("a path of ours"));
            cluster.wait_archived(&names[1]);
            let stored = |name: &String| archive.join(format!("{name}{extension}"));
            for name in &names {
                assert_eq!(cached(&stored(name)), 0, "{codec}: {name}");
            }
            let after = in_pg_wal();
            assert!(after >= before, "{codec}: {after} of {before} bytes of pg_wal are left");
            // A read through the cache is noticed.
            let len = scratch::read(&stored(&names[0])).len() as u64;
            assert!(cached(&stored(&names[0])) >= len, "fincore sees nothing");
        }
    }
}
