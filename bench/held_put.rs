//! Measures publishing into object storage: bodies sent in parallel with their ends held back and released in
//! order, against one PUT after the other.
//!
//! `cargo run --release -p walsafe-core --features s3 --example held_put -- URL CREDENTIALS_FILE
//! [WORKERS[,...] [SEGMENTS [ROUNDS [LATENCY_MS [MB_A_SECOND]]]]]` archives so many segments of 16 MB in each
//! round: directly, with latency in front (each way), with a limit for each connection too, and by a proxy that
//! buffers whole bodies. Hashing counts, and is done ahead in both ways. The ways alternate, round by round, and
//! the medians are printed. The bucket keeps what was put: take an empty one.

#![allow(unsafe_code, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "measure.rs"]
mod measure;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use measure::{cpu_seconds, median};
use walsafe_core::encoding::codec::Codec;
use walsafe_core::encoding::digest::Digest;
use walsafe_core::store::object::{Credentials, ObjectStore, ObjectUrl, Patience};
use walsafe_core::store::{Digests, Progress, Publication, Seal, Sealed, Store, StoredName};
use walsafe_core::wal::name::FileName;

const SEGMENT: usize = 16 << 20;

/// How an object gets into the bucket when it is its turn.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Hashed ahead, and sent in its turn.
    Serial,
    /// Hashed and sent ahead, but for the end.
    Held,
}

/// What stands between.
#[derive(Clone, Copy)]
enum Front {
    Nothing,
    Latency(Duration),
    /// With latency, and so many bytes a second for each connection.
    Link(Duration, u64),
    Buffer,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, url, credentials, rest @ ..] = args.as_slice() else {
        eprintln!(
            "usage: held_put URL CREDENTIALS_FILE [WORKERS[,...] [SEGMENTS [ROUNDS [LATENCY_MS [MB_A_SECOND]]]]]"
        );
        std::process::exit(2);
    };
    let number = |at: usize, default: usize| rest.get(at).map_or(default, |n| n.parse().unwrap());
    let workers = rest.first().map_or("1,4,8", String::as_str);
    let (segments, rounds) = (number(1, 16), number(2, 3));
    let latency = Duration::from_millis(number(3, 20) as u64);
    let rate = number(4, 50) as u64 * 1_000_000;
    let url: ObjectUrl = url.parse().unwrap();
    let from = Credentials { file: Some(credentials.into()), data_directory: None };
    // Each segment differs, as WAL does; the first bytes will say which it is.
    let noise: Vec<u8> = (0..SEGMENT as u64 / 8)
        .flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23).to_le_bytes())
        .collect();
    println!("{segments} segments of 16 MB, medians of {rounds} rounds; serial / held");
    println!(
        "{:<16} {:>7} {:>17} {:>6} {:>17}",
        "in front", "workers", "ms a segment", "times", "CPU ms a segment"
    );
    let fronts =
        [Front::Nothing, Front::Latency(latency), Front::Link(latency, rate), Front::Buffer];
    for front in fronts {
        let to = url.endpoint.as_ref().unwrap();
        let server = format!("{}:{}", to.host, to.port);
        let mut at = url.clone();
        if let (Some(port), Some(endpoint)) = (stand_in_front(front, server), &mut at.endpoint) {
            endpoint.port = port;
        }
        for workers in workers.split(',') {
            let workers: usize = workers.parse().unwrap();
            let mut took = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
            for _ in 0..rounds {
                for (way, (walls, cpus)) in [Way::Serial, Way::Held].into_iter().zip(&mut took) {
                    let mut place = at.clone();
                    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
                    place.prefix = format!("held-put-{now}");
                    let patience = Patience::within(Some(Duration::from_secs(60)));
                    let store = ObjectStore::new(place, from.clone(), patience).unwrap();
                    let (wall, cpu) = (Instant::now(), cpu_seconds(libc::RUSAGE_SELF));
                    archive(&store, way, workers, segments, &noise);
                    walls.push(wall.elapsed().as_secs_f64());
                    cpus.push(cpu_seconds(libc::RUSAGE_SELF) - cpu);
                }
            }
            let [(serial, serial_cpu), (held, held_cpu)] =
                took.map(|(walls, cpus)| (median(walls), median(cpus)));
            let ms = |seconds: f64| seconds * 1000.0 / segments as f64;
            let name = match front {
                Front::Nothing => "nothing".to_owned(),
                Front::Latency(latency) => format!("{} ms each way", latency.as_millis()),
                Front::Link(latency, rate) => {
                    format!("{} ms, {} MB/s", latency.as_millis(), rate / 1_000_000)
                }
                Front::Buffer => "buffering".to_owned(),
            };
            println!(
                "{name:<16} {workers:>7} {:>8.0} / {:>6.0} {:>6.2} {:>8.0} / {:>6.0}",
                ms(serial),
                ms(held),
                serial / held,
                ms(serial_cpu),
                ms(held_cpu)
            );
        }
    }
}

/// Archives so many segments by so many workers, each in its turn.
fn archive(store: &ObjectStore, way: Way, workers: usize, segments: usize, noise: &[u8]) {
    let (next, turn, changed) = (AtomicUsize::new(0), Mutex::new(0), Condvar::new());
    let work = || {
        let progress = Progress::default();
        let visit = store.visit(&progress).unwrap();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= segments {
                return;
            }
            let name = FileName::new(&format!("0000000100000000{n:08X}")).unwrap();
            let mut draft = visit.stage(StoredName::new(name, Codec::None).into()).unwrap();
            draft.put(&n.to_le_bytes()).unwrap();
            for chunk in noise[8..].chunks(512 << 10) {
                draft.put(chunk).unwrap();
            }
            let digest = Digest::of(&n.to_le_bytes());
            let digests = Some(Digests { stored: digest, content: digest });
            let seal = Seal { digests, checked: None, mode: 0o600, flush: true, verify: false };
            let publish = |sealed: Box<dyn Sealed>| {
                assert!(sealed.publish(&progress).unwrap() == Publication::Published);
            };
            let wait = || changed.wait_while(turn.lock().unwrap(), |turn| *turn != n).unwrap();
            // The lock is not held meanwhile: only one has its turn.
            match way {
                Way::Serial => {
                    drop(wait());
                    publish(draft.seal(&seal).unwrap());
                }
                Way::Held => {
                    let sealed = draft.seal(&seal).unwrap();
                    drop(wait());
                    publish(sealed);
                }
            }
            *turn.lock().unwrap() += 1;
            changed.notify_all();
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
}

/// Starts what is to stand in front of a server, and returns its port.
fn stand_in_front(front: Front, server: String) -> Option<u16> {
    if let Front::Nothing = front {
        return None;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = server.clone();
            thread::spawn(move || match front {
                Front::Nothing => {}
                Front::Latency(latency) => delay(&client, &server, latency, 200_000_000),
                Front::Link(latency, rate) => delay(&client, &server, latency, rate),
                Front::Buffer => buffer(client, &server),
            });
        }
    });
    Some(port)
}

/// Passes bytes on, each so much later, and no more of them a second than the link has room for.
fn delay(client: &TcpStream, server: &str, latency: Duration, rate: u64) {
    let server = TcpStream::connect(server).unwrap();
    for stream in [client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    // What is under way, and half as much that waits.
    let bytes = latency.as_secs_f64() * rate as f64 * 1.5;
    let most = (bytes as usize / CHUNK).max(1);
    let way = |from: TcpStream, to: TcpStream| {
        let (sender, receiver) = sync_channel(most);
        thread::spawn(move || take(from, &sender, latency, rate));
        thread::spawn(move || give(to, &receiver));
    };
    way(client.try_clone().unwrap(), server.try_clone().unwrap());
    way(server, client.try_clone().unwrap());
}

const CHUNK: usize = 64 << 10;

fn take(mut from: TcpStream, to: &SyncSender<(Instant, Vec<u8>)>, latency: Duration, rate: u64) {
    let (mut buffer, mut free) = (vec![0; CHUNK], Instant::now());
    while let Ok(got) = from.read(&mut buffer) {
        free = free.max(Instant::now()) + Duration::from_secs_f64(got as f64 / rate as f64);
        if to.send((free + latency, buffer[..got].to_vec())).is_err() || got == 0 {
            return;
        }
    }
}

fn give(mut to: TcpStream, receiver: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in receiver {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if bytes.is_empty() || to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Takes requests whole before it passes them on, as many proxies do.
fn buffer(mut client: TcpStream, server: &str) {
    let mut server = TcpStream::connect(server).unwrap();
    server.set_nodelay(true).unwrap();
    let mut answers = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut answers.0, &mut answers.1));
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        while let Some(len) = request_len(&bytes).filter(|len| *len <= bytes.len()) {
            if server.write_all(&bytes[..len]).is_err() {
                return;
            }
            bytes.drain(..len);
        }
        match client.read(&mut chunk) {
            Ok(got) if got > 0 => bytes.extend_from_slice(&chunk[..got]),
            _ => return,
        }
    }
}

/// Returns the length of the first request, once its head is whole.
fn request_len(bytes: &[u8]) -> Option<usize> {
    let search = &bytes[..bytes.len().min(16 << 10)];
    let end = search.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    Some(end + len.map_or(0, |len| len.trim().parse().unwrap()))
}
