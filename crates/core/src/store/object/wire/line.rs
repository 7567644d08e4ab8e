//! A connection, plain or under TLS, every wait on which has a time limit.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::{Failure, Trust};
use crate::server::url::Endpoint;
use crate::sys::slice::{part, part_mut};

/// An open connection.
pub(super) struct Line {
    stream: Stream,
    /// What was received and not used yet, from `used` to `filled`.
    buffer: Box<[u8]>,
    used: usize,
    filled: usize,
    /// It has carried a request before.
    pub(super) reused: bool,
    /// The server's name and port, for messages.
    pub(super) host: String,
    patience: Duration,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Line {
    /// Longer than any line of an answer that is taken.
    pub(super) const BUFFER: usize = 64 << 10;

    pub(super) fn new(tcp: TcpStream, host: String, patience: Duration) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(patience))?;
        tcp.set_write_timeout(Some(patience))?;
        Ok(Self {
            stream: Stream::Plain(tcp),
            buffer: vec![0; Self::BUFFER].into_boxed_slice(),
            used: 0,
            filled: 0,
            reused: false,
            host,
            patience,
        })
    }

    /// Puts TLS over the connection. On return the server has shown its certificate, and it is the server's.
    pub(super) fn secure(&mut self, server: &Endpoint, trust: &Trust) -> Result<(), Failure> {
        let Stream::Plain(tcp) = &self.stream else { return Ok(()) };
        let cut = |source| Failure::Unreachable { host: self.host.clone(), source };
        let mut tcp = tcp.try_clone().map_err(cut)?;
        let mut connection = trust.connection(server)?;
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut tcp) {
                return Err(trust.refused(server, error));
            }
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(connection, tcp)));
        Ok(())
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    /// Returns whether nothing has come since the last answer: neither its end nor more than was asked for.
    pub(super) fn is_quiet(&self) -> bool {
        let tcp = self.tcp();
        let waits = tcp.set_nonblocking(true).is_ok()
            && matches!(tcp.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        tcp.set_nonblocking(false).is_ok() && waits && self.used == self.filled
    }

    /// Sends all of these bytes, and calls `moved` whenever some have gone.
    pub(super) fn send(&mut self, mut bytes: &[u8], moved: &dyn Fn()) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = match &mut self.stream {
                Stream::Plain(tcp) => tcp.write(bytes),
                Stream::Tls(tls) => tls.write(bytes),
            };
            match sent {
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::EPIPE)),
                Ok(sent) => {
                    bytes = part(bytes, sent..);
                    moved();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(timed(e)),
            }
        }
        Ok(())
    }

    /// Hands over what TLS has kept back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(tls) => tls.flush().map_err(timed),
        }
    }

    /// Waits at most so long for each piece from here on.
    pub(super) fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        self.tcp().set_read_timeout(Some(time.max(Duration::from_millis(1))))
    }

    /// Waits as long as ever for each piece from here on.
    pub(super) fn wait_as_usual(&self) -> io::Result<()> {
        self.wait_at_most(self.patience)
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Returns what was received and not used yet.
    pub(super) fn received(&self) -> &[u8] {
        part(&self.buffer, self.used..self.filled)
    }

    /// Uses so many bytes of what was received.
    pub(super) fn use_up(&mut self, len: usize) {
        self.used = (self.used + len).min(self.filled);
    }

    /// Receives more behind what is not used yet. Returns how much; 0 at the end of the connection, or when
    /// there is no more room.
    pub(super) fn receive(&mut self) -> io::Result<usize> {
        self.buffer.copy_within(self.used..self.filled, 0);
        (self.used, self.filled) = (0, self.filled - self.used);
        let room = part_mut(&mut self.buffer, self.filled..);
        let got = read(&mut self.stream, room)?;
        self.filled += got;
        Ok(got)
    }
}

fn read(stream: &mut Stream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        let got = match stream {
            Stream::Plain(tcp) => tcp.read(into),
            Stream::Tls(tls) => read_tls(tls, into),
        };
        match got {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // TLS that ends without saying so: whether that is the end of an answer, its length says.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            got => return got.map_err(timed),
        }
    }
}

/// Reads without sending what TLS has kept back: the server may have answered and closed before it had all, and
/// its answer is still to be read.
fn read_tls(
    tls: &mut StreamOwned<ClientConnection, TcpStream>,
    into: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.conn.reader().read(into) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            got => return got,
        }
        tls.conn.read_tls(&mut tls.sock)?;
        tls.conn.process_new_packets().map_err(io::Error::other)?;
    }
}

/// The time limit of a socket shows as "would block".
pub(super) fn timed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::from_raw_os_error(libc::ETIMEDOUT),
        _ => error,
    }
}
