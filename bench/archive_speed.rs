//! Measures the archiver's own copy, without a server around it.
//!
//! `cargo run --release -p walsafe-core --example archive_speed -- SOURCE_DIR DESTINATION [THREADS[,...]
//! [CODEC[,...] [ROUNDS]]]` archives every file of SOURCE_DIR into a new directory below DESTINATION, by so
//! many threads, and prints MB/s, CPU milliseconds and wall milliseconds a file, as medians over the rounds.
//! The files need names of segments; what is in them is not checked.

#![allow(unsafe_code, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "measure.rs"]
mod measure;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use measure::{cpu_seconds, median};
use walsafe_core::archive::{Job, Plan, Seam, archive_file};
use walsafe_core::encoding::codec::Compression;
use walsafe_core::server::known::KnownDestinations;
use walsafe_core::server::settings::{CheckWal, Destination, FileMode, FsyncPolicy};
use walsafe_core::store::Progress;
use walsafe_core::store::directory::Staging;
use walsafe_core::store::directory::temporary::Owner;
use walsafe_core::store::location::Access;
use walsafe_core::sys::buffer::Buffer;
use walsafe_core::wal::SegmentSize;
use walsafe_core::wal::name::FileName;
use walsafe_core::wal::segment::Cluster;

fn plan(archive: &Path, data: &Path, compression: Compression) -> Plan {
    Plan {
        destination: Destination::new(archive.to_str().unwrap(), data).unwrap(),
        fsync_policy: FsyncPolicy::Full,
        file_mode: FileMode::PRIVATE,
        compression,
        check_wal: CheckWal::Off,
        verify: false,
        cluster: Cluster {
            system_identifier: 1,
            segment_size: SegmentSize::new(16 << 20).unwrap(),
        },
        known: KnownDestinations::of(data),
        owner: Owner::this_process(),
        staging: Staging::Unnamed,
        access: Access::default(),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, from, to, rest @ ..] = args.as_slice() else {
        eprintln!(
            "usage: archive_speed SOURCE_DIR DESTINATION [THREADS[,...] [CODEC[,...] [ROUNDS]]]"
        );
        std::process::exit(2);
    };
    let list = |at: usize, default: &str| -> Vec<String> {
        let text = rest.get(at).map_or(default, String::as_str);
        text.split(',').map(str::to_owned).collect()
    };
    let rounds: usize = rest.get(2).map_or(5, |n| n.parse().unwrap());
    let mut files: Vec<PathBuf> = fs::read_dir(from).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let bytes: u64 = files.iter().map(|path| path.metadata().unwrap().len()).sum();
    for path in &files {
        fs::read(path).unwrap();
    }
    println!("{} files, {} MB, medians of {rounds} rounds", files.len(), bytes >> 20);
    println!(
        "{:<8} {:>7} {:>8} {:>12} {:>12}",
        "codec", "threads", "MB/s", "CPU ms/file", "ms/file"
    );
    for codec in list(1, "none") {
        for threads in list(0, "1,2") {
            let threads: usize = threads.parse().unwrap();
            let (mut walls, mut cpus) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let root = Path::new(to).join(format!("archive_speed.{}", std::process::id()));
                let (archive, data) = (root.join("archive"), root.join("data"));
                fs::create_dir_all(&archive).unwrap();
                fs::create_dir_all(data.join("pg_wal")).unwrap();
                File::open(&root).unwrap().sync_all().unwrap();
                let plan = plan(&archive, &data, codec.parse().unwrap());
                let store = plan.store();
                let next = AtomicUsize::new(0);
                let (cpu, wall) = (cpu_seconds(libc::RUSAGE_SELF), Instant::now());
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            let (mut buffer, seam) = (Buffer::large().unwrap(), Seam::default());
                            while let Some(source) = files.get(next.fetch_add(1, Ordering::Relaxed))
                            {
                                let name = source.file_name().unwrap().to_str().unwrap();
                                let name = FileName::new(name).unwrap();
                                let job = Job { name, source: source.clone() };
                                let progress = Progress::default();
                                archive_file(&plan, &*store, &seam, &job, &mut buffer, &progress)
                                    .unwrap();
                            }
                        });
                    }
                });
                walls.push(wall.elapsed().as_secs_f64());
                cpus.push(cpu_seconds(libc::RUSAGE_SELF) - cpu);
                fs::remove_dir_all(&root).unwrap();
                File::open(to).unwrap().sync_all().unwrap();
            }
            let (wall, cpu) = (median(walls), median(cpus));
            println!(
                "{codec:<8} {threads:>7} {:>8.0} {:>12.2} {:>12.2}",
                bytes as f64 / 1048576.0 / wall,
                cpu * 1000.0 / files.len() as f64,
                wall * 1000.0 / files.len() as f64
            );
        }
    }
}
