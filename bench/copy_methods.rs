//! Measures ways to copy a WAL segment durably, side by side: what docs/performance.md reports.
//!
//! `cargo run --release -p walsafe-core --example copy_methods -- SOURCE_DIR DESTINATION_DIR [ROUNDS]`
//! copies every file of SOURCE_DIR with each method in turn, by 1, 2 and 4 threads, and prints wall
//! and CPU seconds and what stays in the page cache, as medians over the rounds.

#![allow(unsafe_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "measure.rs"]
mod measure;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use measure::{cpu_seconds, median};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// Through the page cache, one flush at the end.
    Buffered,
    /// The same, with write-back begun after each chunk.
    EarlyWriteBack,
    /// Past the page cache.
    Direct,
    /// The same from a buffer in one huge page.
    DirectHuge,
    /// Past the page cache into space allocated beforehand.
    DirectAllocated,
    /// Through the page cache with RWF_DONTCACHE (kernel 6.14): written back at once, then dropped.
    DontCache,
}

const METHODS: [Method; 6] = [
    Method::Buffered,
    Method::EarlyWriteBack,
    Method::Direct,
    Method::DirectHuge,
    Method::DirectAllocated,
    Method::DontCache,
];
const RWF_DONTCACHE: i32 = 0x80;

fn aligned(len: usize, huge: bool) -> (Vec<u8>, usize) {
    let alignment = if huge { 2 << 20 } else { 4096 };
    let mut memory = vec![0_u8; len + 2 * alignment];
    let start = memory.as_ptr().align_offset(alignment);
    if huge {
        let page = &mut memory[start..start + len.next_multiple_of(alignment)];
        // SAFETY: memory of our own, whose contents this advice does not change.
        unsafe { libc::madvise(page.as_mut_ptr().cast(), page.len(), libc::MADV_HUGEPAGE) };
    }
    (memory, start)
}

fn write_dontcache(file: &File, data: &[u8], offset: u64) {
    let iov = libc::iovec { iov_base: data.as_ptr() as *mut _, iov_len: data.len() };
    // SAFETY: the vector names memory that outlives the call, which only reads it.
    let n = unsafe { libc::pwritev2(file.as_raw_fd(), &iov, 1, offset as i64, RWF_DONTCACHE) };
    assert_eq!(n, data.len() as isize, "{}", std::io::Error::last_os_error());
}

fn copy(method: Method, chunk: usize, hash: bool, from: &Path, to: &Path) {
    let source = File::open(from).unwrap();
    let len = source.metadata().unwrap().len();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if matches!(method, Method::Direct | Method::DirectHuge | Method::DirectAllocated) {
        options.custom_flags(libc::O_DIRECT);
    }
    let file = options.open(to).unwrap();
    let fd = file.as_raw_fd();
    if method == Method::DirectAllocated {
        // SAFETY: numbers only.
        unsafe { libc::posix_fallocate(fd, 0, len as i64) };
    }
    let (mut memory, start) = aligned(chunk, method == Method::DirectHuge);
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < len {
        let buffer = &mut memory[start..start + chunk];
        let n = source.read_at(buffer, offset).unwrap();
        let data = &buffer[..n];
        if hash {
            hasher.update(data);
        }
        if method == Method::DontCache {
            write_dontcache(&file, data, offset);
        } else {
            file.write_all_at(data, offset).unwrap();
        }
        if method == Method::EarlyWriteBack {
            // SAFETY: numbers only.
            unsafe {
                libc::sync_file_range(fd, offset as i64, n as i64, libc::SYNC_FILE_RANGE_WRITE)
            };
        }
        offset += n as u64;
    }
    file.sync_all().unwrap();
    if method != Method::Buffered {
        // SAFETY: numbers only.
        unsafe { libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    File::open(to.parent().unwrap()).unwrap().sync_all().unwrap();
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, from, to, rest @ ..] = args.as_slice() else {
        eprintln!("usage: copy_methods SOURCE_DIR DESTINATION_DIR [ROUNDS]");
        std::process::exit(2);
    };
    let rounds: usize = rest.first().map_or(3, |n| n.parse().unwrap());
    let mut files: Vec<PathBuf> = std::fs::read_dir(from)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file())
        .collect();
    files.sort();
    let bytes: u64 = files.iter().map(|p| p.metadata().unwrap().len()).sum();
    println!("{} files, {} MB, medians of {rounds} rounds", files.len(), bytes >> 20);
    println!(
        "{:<16} {:>6} {:>5} {:>7} {:>9} {:>9} {:>11}",
        "method", "chunk", "hash", "threads", "wall s", "MB/s", "CPU ms/file"
    );
    let destination = Path::new(to);
    for (threads, chunk_kb, hash) in [
        (1, 1024, true),
        (1, 1024, false),
        (1, 256, true),
        (1, 2048, true),
        (1, 4096, true),
        (2, 1024, true),
        (2, 2048, true),
        (4, 1024, true),
    ] {
        let mut results = vec![(Vec::new(), Vec::new()); METHODS.len()];
        for _ in 0..rounds {
            for (i, method) in METHODS.into_iter().enumerate() {
                let (cpu, wall) = (cpu_seconds(libc::RUSAGE_SELF), Instant::now());
                let next = AtomicUsize::new(0);
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                                let target = destination.join(file.file_name().unwrap());
                                copy(method, chunk_kb * 1024, hash, file, &target);
                            }
                        });
                    }
                });
                results[i].0.push(wall.elapsed().as_secs_f64());
                results[i].1.push(cpu_seconds(libc::RUSAGE_SELF) - cpu);
                for file in &files {
                    std::fs::remove_file(destination.join(file.file_name().unwrap())).unwrap();
                }
                File::open(destination).unwrap().sync_all().unwrap();
            }
        }
        for (method, (wall, cpu)) in METHODS.into_iter().zip(results) {
            let (wall, cpu) = (median(wall), median(cpu));
            println!(
                "{:<16} {:>6} {:>5} {:>7} {:>9.3} {:>9.0} {:>11.2}",
                format!("{method:?}"),
                format!("{chunk_kb}k"),
                hash,
                threads,
                wall,
                bytes as f64 / 1048576.0 / wall,
                cpu * 1000.0 / files.len() as f64
            );
        }
    }
}
