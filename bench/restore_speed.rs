//! Measures what a `restore_command` costs, side by side: `cp`, `zstd -d`, `lz4 -d` and `walsafe restore`.
//!
//! `cargo run --release -p walsafe-core --example restore_speed -- WALSAFE[,...] SOURCE_DIR WORK_DIR [CODEC[,...]
//! [ROUNDS]]` archives the segments of SOURCE_DIR into new directories below WORK_DIR, one for each encoding,
//! and restores them one by one, each by a process of its own, as a server in recovery does. The contestants
//! take turns file by file, in another order each time. It prints the median and the least wall time of a
//! call, the median with a flush of the file behind it, and the CPU time of the call, all in milliseconds. The
//! server flushes each file that it restores before it replays it (`durable_rename` in
//! `KeepFileRestoredFromArchive`, `access/transam/xlogarchive.c`). A history file of one line shows what a call costs without its
//! bytes. Several programs may be given, to compare them with each other.
//!
//! The archive is in the page cache, and so is what is restored: the server reads it at once.

#![allow(unsafe_code, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "measure.rs"]
mod measure;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
use walsafe_core::wal::name::FileName;
use walsafe_core::wal::segment::Cluster;
use walsafe_core::wal::{LongPageHeader, SegmentSize};

/// Archives every file of a directory, and returns their names.
fn archive(source: &Path, archive: &Path, data: &Path, compression: Compression) -> Vec<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(source).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    files.sort();
    let header = LongPageHeader::parse(&fs::read(&files[0]).unwrap()).unwrap();
    fs::create_dir_all(archive).unwrap();
    let plan = Plan {
        destination: Destination::new(archive.to_str().unwrap(), data).unwrap(),
        fsync_policy: FsyncPolicy::None,
        file_mode: FileMode::PRIVATE,
        compression,
        check_wal: CheckWal::Records,
        verify: false,
        cluster: Cluster {
            system_identifier: header.system_identifier,
            segment_size: SegmentSize::new(header.segment_size.into()).unwrap(),
        },
        known: KnownDestinations::of(data),
        owner: Owner::this_process(),
        staging: Staging::Unnamed,
        access: Access::default(),
    };
    let (store, seam, mut buffer) = (plan.store(), Seam::default(), Buffer::large().unwrap());
    let mut names = Vec::new();
    for source in files {
        let text = source.file_name().unwrap().to_str().unwrap().to_owned();
        let job = Job { name: FileName::new(&text).unwrap(), source };
        archive_file(&plan, &*store, &seam, &job, &mut buffer, &Progress::default()).unwrap();
        names.push(text);
    }
    names
}

/// One way to restore, and its samples in milliseconds: of the call, of the call and a flush of the file, and of
/// the processors.
#[derive(Clone)]
struct Contestant {
    label: String,
    program: PathBuf,
    arguments: Vec<String>,
    extension: &'static str,
    names: Vec<String>,
    samples: Vec<[f64; 3]>,
}

impl Contestant {
    /// Runs it once. `FROM`, `FILE` and `TO` in its arguments stand for the file in the archive, the file's name and
    /// the target.
    fn run(&mut self, archive: &Path, data: &Path, name: &str) {
        let target = data.join("pg_wal/RECOVERYXLOG");
        let _ = fs::remove_file(&target);
        let from = archive.join(format!("{name}{}", self.extension));
        let arguments = self.arguments.iter().map(|argument| match argument.as_str() {
            "FROM" => from.to_str().unwrap(),
            "FILE" => name,
            "TO" => "pg_wal/RECOVERYXLOG",
            other => other,
        });
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(data).stdin(Stdio::null());
        let (cpu, wall) = (cpu_seconds(libc::RUSAGE_CHILDREN), Instant::now());
        let status = command.status().unwrap();
        let (called, cpu) = (wall.elapsed(), cpu_seconds(libc::RUSAGE_CHILDREN) - cpu);
        assert!(status.success(), "{} of {name}: {status}", self.label);
        File::open(&target).unwrap().sync_all().unwrap();
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        self.samples.push([milliseconds(called), milliseconds(wall.elapsed()), cpu * 1000.0]);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, programs, from, to, rest @ ..] = args.as_slice() else {
        eprintln!("usage: restore_speed WALSAFE[,...] SOURCE_DIR WORK_DIR [CODEC[,...] [ROUNDS]]");
        std::process::exit(2);
    };
    let codecs = rest.first().map_or("none,zstd,lz4", String::as_str);
    let rounds: usize = rest.get(1).map_or(10, |n| n.parse().unwrap());
    let root =
        Path::new(to).canonicalize().unwrap().join(format!("restore_speed.{}", std::process::id()));
    let data = root.join("data");
    fs::create_dir_all(data.join("pg_wal")).unwrap();
    fs::write(data.join("PG_VERSION"), "15\n").unwrap();
    println!("medians of {rounds} rounds, milliseconds a file");
    println!(
        "{:<32} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "call", "least", "\u{f7} first", "flushed", "\u{f7} first", "CPU"
    );
    for codec in codecs.split(',') {
        let place = root.join(codec);
        let names = archive(Path::new(from), &place, &data, codec.parse().unwrap());
        let (other, arguments, extension) = match codec {
            "none" => ("cp", vec!["FROM", "TO"], ""),
            "zstd" => ("zstd", vec!["-d", "-q", "FROM", "-o", "TO"], ".zst"),
            "lz4" => ("lz4", vec!["-d", "-q", "FROM", "TO"], ".lz4"),
            _ => ("gzip", vec!["-d", "-q", "FROM", "TO"], ".gz"),
        };
        let strings = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mut contestants = vec![Contestant {
            label: format!("{codec}: {other}"),
            program: other.into(),
            arguments: strings(arguments),
            extension,
            names: names.clone(),
            samples: Vec::new(),
        }];
        for program in programs.split(',') {
            let program = Path::new(program).canonicalize().unwrap();
            let arguments = vec!["restore", "--from", place.to_str().unwrap(), "FILE", "TO"];
            contestants.push(Contestant {
                label: format!("{codec}: {}", program.file_name().unwrap().to_str().unwrap()),
                program,
                arguments: strings(arguments),
                extension,
                names: names.clone(),
                samples: Vec::new(),
            });
        }
        fs::write(place.join("00000002.history"), "1\t0/3000060\tno reason\n").unwrap();
        let mut groups = vec![contestants];
        if codec == "none" {
            // What a call costs without its bytes.
            let mut small = groups[0].clone();
            for one in &mut small {
                one.label += ", history file";
                one.names = vec!["00000002.history".to_owned(); names.len()];
            }
            groups.push(small);
        }
        for mut group in groups {
            for round in 0..rounds {
                for at in 0..names.len() {
                    for turn in 0..group.len() {
                        let count = group.len();
                        let one = &mut group[(turn + at + round) % count];
                        let name = one.names[at].clone();
                        one.run(&place, &data, &name);
                    }
                }
            }
            let mut first = None;
            for Contestant { label, samples, .. } in &group {
                let each = |at: usize| samples.iter().map(|sample| sample[at]).collect::<Vec<_>>();
                let least = each(0).into_iter().fold(f64::INFINITY, f64::min);
                let [call, flushed, cpu] = [0, 1, 2].map(|at| median(each(at)));
                let (first_call, first_flushed) = *first.get_or_insert((call, flushed));
                println!(
                    "{label:<32} {call:>8.2} {least:>8.2} {:>8.2} {flushed:>8.2} {:>8.2} {cpu:>8.2}",
                    call / first_call,
                    flushed / first_flushed
                );
            }
        }
    }
    fs::remove_dir_all(&root).unwrap();
    File::open(to).unwrap().sync_all().unwrap();
}
