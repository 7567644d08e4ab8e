//! Measures what the codecs cost on WAL, without a disk and without hashing.
//!
//! `cargo run --release -p walsafe-core --example codec_speed -- COMPRESSION[,...] ROUNDS DIRECTORY...`
//! encodes the files of each directory in memory, with each value of `compression` in turn, and prints for
//! each pair CPU milliseconds (each file's best of all rounds) and bytes, as means over the files.
//! `zstd-own:3` is zstd's own search of that level, which `zstd` and `zstd:3` are tuned to replace.

#![allow(unsafe_code, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::io::{self, Write};

use walsafe_core::encoding::codec::{Compression, Encoder};

/// As the archiver reads them.
const CHUNK: usize = 512 * 1024;

/// Takes what an encoder writes as the archiver does: copied, and then overwritten.
struct Sink {
    chunk: Vec<u8>,
    filled: usize,
    bytes: usize,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.filled);
        self.chunk[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
        self.filled = (self.filled + n) % CHUNK;
        self.bytes += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cpu_ms() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is this function's own.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn encode(content: &[u8], name: &str) -> usize {
    let sink = Sink { chunk: vec![0; CHUNK], filled: 0, bytes: 0 };
    let len = content.len() as u64;
    if let Some(level) = name.strip_prefix("zstd-own:") {
        let mut encoder = zstd::stream::write::Encoder::new(sink, level.parse().unwrap()).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.set_pledged_src_size(Some(len)).unwrap();
        content.chunks(CHUNK).for_each(|chunk| encoder.write_all(chunk).unwrap());
        return encoder.finish().unwrap().bytes;
    }
    let compression: Compression = name.parse().unwrap();
    let mut encoder = Encoder::new(compression, len, sink).unwrap();
    content.chunks(CHUNK).for_each(|chunk| encoder.write_all(chunk).unwrap());
    encoder.finish().unwrap().bytes
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, names, rounds, directories @ ..] = args.as_slice() else {
        eprintln!("usage: codec_speed COMPRESSION[,...] ROUNDS DIRECTORY...");
        std::process::exit(2);
    };
    let names: Vec<&str> = names.split(',').collect();
    for directory in directories {
        let files: Vec<Vec<u8>> = fs::read_dir(directory)
            .unwrap()
            .map(|e| fs::read(e.unwrap().path()).unwrap())
            .collect();
        let mut best = vec![vec![f64::INFINITY; files.len()]; names.len()];
        let mut bytes = vec![0; names.len()];
        for _ in 0..rounds.parse::<usize>().unwrap() {
            for (i, name) in names.iter().enumerate() {
                bytes[i] = 0;
                for (content, best) in files.iter().zip(&mut best[i]) {
                    let began = cpu_ms();
                    bytes[i] += encode(content, name);
                    *best = best.min(cpu_ms() - began);
                }
            }
        }
        for (i, name) in names.iter().enumerate() {
            let mean = best[i].iter().sum::<f64>() / files.len() as f64;
            println!("{directory} {name} {mean:.2} {}", bytes[i] / files.len());
        }
    }
}
