//! A network between a client and a server that takes its time: bytes arrive later, but no fewer of them each
//! second.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What may be on its way in one direction: at 20 ms, 400 MB a second.
const PIECES: usize = 128;
const PIECE: usize = 64 << 10;

/// Everything that comes to its address goes to another, and back, each way this much later. It knows nothing
/// of what is said, so it can stand in front of TLS too. A new connection takes one way there and one back
/// before its first byte, as TCP's handshake does.
#[derive(Debug)]
pub struct Latency {
    address: SocketAddr,
    open: Arc<Connections>,
    listener: Option<JoinHandle<()>>,
}

impl Latency {
    #[must_use]
    #[track_caller]
    pub fn in_front_of(server: SocketAddr, each_way: Duration) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = socket.local_addr().expect("its address");
        let open = Arc::new(Connections::default());
        let all = Arc::clone(&open);
        let listener = thread::spawn(move || {
            for client in socket.incoming() {
                if all.is_closed() {
                    return;
                }
                let Ok(client) = client else { continue };
                let all = Arc::clone(&all);
                thread::spawn(move || drop(relay(&client, server, each_way, &all)));
            }
        });
        Self { address, open, listener: Some(listener) }
    }

    /// Where the client is to go.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Latency {
    fn drop(&mut self) {
        self.open.close();
        // It waits for the next connection.
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            drop(listener.join());
        }
    }
}

fn relay(
    client: &TcpStream,
    server: SocketAddr,
    each_way: Duration,
    all: &Connections,
) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (_one, _other) = (all.enter(client)?, all.enter(&server)?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::sleep(2 * each_way);
    let ((to_server, up), (to_client, down)) = (sync_channel(PIECES), sync_channel(PIECES));
    thread::scope(|scope| {
        scope.spawn(|| take(client, to_server, each_way));
        scope.spawn(|| take(&server, to_client, each_way));
        scope.spawn(|| give(&server, up, client));
        give(client, down, &server);
    });
    Ok(())
}

/// Bytes, and when they arrive. No bytes: the end.
type Arriving = (Instant, Vec<u8>);

fn take(mut from: &TcpStream, line: SyncSender<Arriving>, each_way: Duration) {
    loop {
        let mut piece = vec![0; PIECE];
        let count = from.read(&mut piece).unwrap_or(0);
        piece.truncate(count);
        if line.send((Instant::now() + each_way, piece)).is_err() || count == 0 {
            return;
        }
    }
}

fn give(mut to: &TcpStream, line: Receiver<Arriving>, from: &TcpStream) {
    while let Ok((at, piece)) = line.recv() {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if piece.is_empty() {
            drop(to.shutdown(Shutdown::Write));
            return;
        }
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    // What nobody takes any more need not be sent either.
    drop(from.shutdown(Shutdown::Both));
}

/// The connections that are open, so that they can be closed from outside.
#[derive(Debug, Default)]
pub(super) struct Connections {
    closed: AtomicBool,
    number: AtomicU64,
    streams: Mutex<HashMap<u64, TcpStream>>,
}

impl Connections {
    /// Counts a connection among the open ones until the guard is dropped.
    pub(super) fn enter(&self, stream: &TcpStream) -> io::Result<Entered<'_>> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let copy = stream.try_clone()?;
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        streams.insert(number, copy);
        Ok(Entered { all: self, number })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Closes all, and every later one.
    pub(super) fn close(&self) {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        for stream in streams.values() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

#[derive(Debug)]
pub(super) struct Entered<'a> {
    all: &'a Connections,
    number: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut streams = self.all.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.remove(&self.number);
    }
}
