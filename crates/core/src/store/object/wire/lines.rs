//! Connections to one server: made within a time limit, over whichever address answers, and kept for the next
//! request.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::PROXY_AUTHORIZATION;
use http::{Method, Request, Uri};
use ureq_proto::client::{Call, SendRequestResult};

use super::head::{read_head, write_head};
use super::line::{Line, timed};
use super::via::{Through, Via};
use super::{Failure, Trust, unmade};
use crate::server::url::Endpoint;

/// How long a connection is kept for another request. Servers and what lies between close those that nobody
/// uses, often after a minute or less; and nothing is to be held while nothing is archived.
const KEPT: Duration = Duration::from_secs(4);

/// How connections to one server are made.
#[derive(Debug)]
pub(in crate::store::object) struct Dial {
    /// The server.
    pub(in crate::store::object) server: Endpoint,
    /// The way there.
    pub(in crate::store::object) via: Via,
    /// What its certificate is checked by.
    pub(in crate::store::object) trust: Arc<Trust>,
    /// How long it may take to connect, over all addresses.
    pub(in crate::store::object) connect: Duration,
    /// How long nothing may move.
    pub(in crate::store::object) patience: Duration,
}

/// The connections to one server that wait for another request.
pub(in crate::store::object) struct Lines {
    dial: Dial,
    idle: Mutex<Vec<(Instant, Line)>>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("dial", &self.dial).finish_non_exhaustive()
    }
}

impl Lines {
    pub(in crate::store::object) fn new(dial: Dial) -> Arc<Self> {
        Arc::new(Self { dial, idle: Mutex::default() })
    }

    pub(in crate::store::object) fn dial(&self) -> &Dial {
        &self.dial
    }

    /// Returns a connection: one that was used before, or a new one.
    pub(super) fn take(&self) -> Result<Line, Failure> {
        if let Some(line) = self.kept() {
            return Ok(line);
        }
        self.fresh()
    }

    /// Makes a connection.
    pub(super) fn fresh(&self) -> Result<Line, Failure> {
        connect(&self.dial)
    }

    /// The one that was used last: the others may then become too old.
    pub(super) fn kept(&self) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < KEPT);
        while let Some((_, line)) = idle.pop() {
            if line.is_quiet() {
                return Some(line);
            }
        }
        None
    }

    /// Closes those that have become too old.
    pub(in crate::store::object) fn rest(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < KEPT);
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, mut line: Line) {
        line.reused = true;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < KEPT);
        idle.push((Instant::now(), line));
    }
}

/// Makes a connection. On return, under TLS, the server has shown a certificate that is its own.
fn connect(dial: &Dial) -> Result<Line, Failure> {
    let Dial { server, via, trust, patience, .. } = dial;
    let proxy = via.proxy(server);
    let tcp = reach(proxy.map_or(server, |proxy| &proxy.at), dial.connect)?;
    let host = server.with_port();
    let mut line = Line::new(tcp, host.clone(), *patience)
        .map_err(|source| Failure::Unreachable { host, source })?;
    if server.tls {
        if let Some(proxy) = proxy {
            tunnel(&mut line, proxy, server)?;
        }
        line.secure(server, trust)?;
    }
    Ok(line)
}

/// Has the proxy connect to the server.
fn tunnel(line: &mut Line, proxy: &Through, server: &Endpoint) -> Result<(), Failure> {
    let to = server.with_port();
    let uri = Uri::builder().authority(to.as_str()).build().map_err(unmade)?;
    let mut request = Request::builder().method(Method::CONNECT).uri(uri).header("host", to);
    if let Some(authorization) = &proxy.authorization {
        request = request.header(PROXY_AUTHORIZATION, authorization);
    }
    let call = request.body(()).map_err(unmade)?;
    let (head, next) = write_head(Call::new(call).map_err(unmade)?, None)?;
    let SendRequestResult::RecvResponse(mut call) = next else {
        return Err(unmade("a tunnel with a body"));
    };
    let host = proxy.at.with_port();
    let cut = |source| Failure::Unreachable { host: host.clone(), source };
    line.send(&head, &|| ()).map_err(cut)?;
    let status = read_head(line, &mut call, false)?.status();
    if status.is_success() { Ok(()) } else { Err(Failure::Proxy { host, status: status.as_u16() }) }
}

/// Connects to the first address that answers.
fn reach(to: &Endpoint, time: Duration) -> Result<TcpStream, Failure> {
    let begun = Instant::now();
    let resolved = (to.host.as_str(), to.port).to_socket_addrs();
    let addresses: Vec<SocketAddr> =
        resolved.map_err(|source| Failure::Unknown { host: to.host.clone(), source })?.collect();
    let mut last = io::Error::from_raw_os_error(libc::ETIMEDOUT);
    for (tried, address) in addresses.iter().enumerate() {
        // An address that does not answer leaves time for the others.
        let others = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let time = time.saturating_sub(begun.elapsed()) / others;
        if time.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, time) {
            Ok(tcp) => return Ok(tcp),
            Err(e) => last = e,
        }
    }
    Err(Failure::Unreachable { host: to.with_port(), source: timed(last) })
}
