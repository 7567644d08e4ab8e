//! An address where a connection is never made and never refused, as behind a firewall that drops packets.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

/// A socket whose queue of new connections is full and that nobody empties: the kernel drops what comes.
#[derive(Debug)]
pub struct Silence {
    address: SocketAddr,
    _queue: Vec<TcpStream>,
    _socket: OwnedFd,
}

impl Silence {
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it listens")]
    pub fn new() -> Self {
        // The standard library's listener has room for many.
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        listen(&socket, 0).expect("it listens");
        let address = TcpListener::from(socket.try_clone().expect("a descriptor"));
        let address = address.local_addr().expect("its address");
        let wait = Duration::from_millis(300);
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, wait) {
            queue.push(stream);
            assert!(queue.len() < 10, "the queue has no end");
        }
        Self { address, _queue: queue, _socket: socket }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_neither_made_nor_refused() {
        let silence = Silence::new();
        for _ in 0..2 {
            let failed = TcpStream::connect_timeout(&silence.address(), Duration::from_secs(1));
            assert_eq!(failed.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        }
    }
}
