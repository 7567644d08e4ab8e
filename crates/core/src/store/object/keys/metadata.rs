//! How credentials are fetched: from the metadata of a container or an instance, or for a web identity.

use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};

use super::Unsigned;
use crate::error::{ErrorKind, Refusal};
use crate::server::url::text::is_loopback;
use crate::server::url::{Endpoint, ObjectUrl, Proxy};
use crate::store::object::answer;
use crate::store::object::wire::{Begun, Dial, Failure, Lines, Trust, Via};

/// How long nothing may move in a request: metadata ask elsewhere themselves at times.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to connect to metadata: a machine without any does not answer at all.
const CONNECT_NEAR: Duration = Duration::from_secs(2);

/// No answer is longer.
const LONGEST: u64 = 1 << 20;

/// The way to the servers that give credentials: the one that the archive's own requests take.
#[derive(Debug, Clone)]
pub(in crate::store::object) struct Way {
    proxy: Proxy,
    trust: Arc<Trust>,
    /// How long all the requests for credentials may take together.
    longest: Duration,
}

impl Way {
    pub(in crate::store::object) fn new(url: &ObjectUrl, longest: Duration) -> Self {
        Self { proxy: url.proxy.clone(), trust: Trust::new(url.ca_file.clone()), longest }
    }
}

/// A search for credentials, which ends in time.
pub(in crate::store::object) struct Search<'a> {
    way: &'a Way,
    begun: Instant,
    moved: &'a dyn Fn(),
}

/// An answer, whole.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
    retry_after: Option<Duration>,
}

/// Why there is none.
pub(super) struct Unanswered {
    failure: Failure,
    /// It was asked for on this machine or its link.
    is_near: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(way: &'a Way, moved: &'a dyn Fn()) -> Self {
        Self { way, begun: Instant::now(), moved }
    }

    /// A search that goes this way and has begun then, and of whose steps nobody is told.
    #[cfg(feature = "s3")]
    pub(super) fn quiet((way, begun): &'a (Way, Instant)) -> Self {
        Self { way, begun: *begun, moved: &|| () }
    }

    /// Returns its way and its begin.
    #[cfg(feature = "s3")]
    pub(super) fn terms(&self) -> (Way, Instant) {
        (self.way.clone(), self.begun)
    }

    fn left(&self) -> Duration {
        self.way.longest.saturating_sub(self.begun.elapsed())
    }

    /// Sends a request for credentials, over a connection of its own.
    ///
    /// # Errors
    /// There was no whole answer. No error repeats what was sent or answered.
    pub(super) fn send(&self, request: http::Request<Bytes>) -> Result<Answer, Unanswered> {
        let is_near = request.uri().host().is_some_and(is_near);
        self.answer(request, is_near).map_err(|failure| Unanswered { failure, is_near })
    }

    fn answer(&self, request: http::Request<Bytes>, is_near: bool) -> Result<Answer, Failure> {
        let unmade = |reason: &str| Failure::Unmade { reason: reason.to_owned() };
        let (mut parts, body) = request.into_parts();
        let server = server(&parts.uri)
            .ok_or_else(|| unmade("without TLS only this machine and its link are asked"))?;
        let host = server.with_port();
        let left = self.left();
        if left.is_zero() {
            return Err(Failure::Unreachable { host, source: late() });
        }
        // Metadata are this machine's own affair, and never asked for by a proxy.
        let proxy = if is_near { &Proxy::Never } else { &self.way.proxy };
        let via = Via::new(proxy, server.tls, |name| std::env::var(name).ok());
        let connect = if is_near { CONNECT_NEAR } else { PATIENCE }.min(left);
        let trust = Arc::clone(&self.way.trust);
        let named = HeaderValue::try_from(server.authority()).map_err(|_| unmade("no host"))?;
        parts.headers.insert(HOST, named);
        if parts.method != Method::GET {
            parts.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let lines = Lines::new(Dial { server, via, trust, connect, patience: PATIENCE.min(left) });
        let request = http::Request::from_parts(parts, ());
        let mut begun = Begun::new(&lines, request, true, self.moved)?;
        begun.send(&body, self.moved);
        let mut reply = begun.answer()?;
        (self.moved)();
        let mut body = Vec::new();
        let timed = Timed { from: &mut reply.body, search: self };
        let read = timed.take(LONGEST).read_to_end(&mut body);
        read.map_err(|source| Failure::Cut { host, source, reused: false })?;
        let retry_after = reply.retry_after();
        Ok(Answer { status: reply.status, body: body.into(), retry_after })
    }
}

impl Answer {
    /// Returns whether who answers so may give credentials a little later. The metadata of Azure's machines say 410
    /// for up to 70 seconds while they are updated.
    pub(super) fn passes(&self) -> bool {
        matches!(self.status, 408 | 410 | 429 | 500..=599)
    }

    /// Words an answer that gives no credentials.
    pub(super) fn unsigned(&self, passes: bool, text: String) -> Unsigned {
        let kind = if passes { ErrorKind::StorageBusy } else { ErrorKind::CredentialsRefused };
        let refusal = Refusal { kind, text, request_id: None };
        Unsigned { refusal, passes, retry_after: self.retry_after }
    }

    /// Returns the code of an error, if it has one. RFC 6749 has a word; Google's other services have an object.
    #[cfg(any(feature = "azure", feature = "gcs"))]
    pub(super) fn code(&self) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        let error = json.get("error")?;
        let code = error.as_str().or_else(|| error.get("status")?.as_str())?;
        // Not a sentence, which may say anything.
        let fits = |c: &char| c.is_ascii_alphanumeric() || "_.-".contains(*c);
        let code: String = code.chars().filter(fits).take(64).collect();
        (!code.is_empty()).then_some(code)
    }
}

impl Unanswered {
    /// Returns whether there is no such thing as metadata on this machine. Once there was a connection, there is.
    pub(super) fn is_nobody(&self) -> bool {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut,
        };
        let Failure::Unreachable { source, .. } = &self.failure else { return false };
        let nobody =
            [ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut];
        self.is_near && nobody.contains(&source.kind())
    }

    /// Words it, in the words that there are for the storage's own server.
    pub(super) fn unsigned(&self, what: &str) -> Unsigned {
        let Refusal { kind, text, .. } = answer::refusal("a server of credentials", &self.failure);
        let kind = match kind {
            // It is not the storage's request.
            ErrorKind::RequestRefused => ErrorKind::CredentialsRefused,
            kind => kind,
        };
        let text = format!("{what} could not be asked for: {text}");
        let refusal = Refusal { kind, text, request_id: None };
        Unsigned { refusal, passes: answer::may_pass(&self.failure), retry_after: None }
    }
}

/// Reads while the search lasts: each piece of a body may take a while, and there may be many.
struct Timed<'s, R> {
    from: R,
    search: &'s Search<'s>,
}

impl<R: Read> Read for Timed<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.search.left().is_zero() { Err(late()) } else { self.from.read(into) }
    }
}

fn late() -> io::Error {
    io::Error::from_raw_os_error(libc::ETIMEDOUT)
}

/// Returns the server that is to be asked: without TLS only one on this machine or its own link, by its
/// address, since what it answers, and is shown, are secrets.
fn server(uri: &http::Uri) -> Option<Endpoint> {
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = uri.host()?;
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let endpoint = Endpoint { tls, host: bare(host).to_owned(), port };
    (tls || is_near(host)).then_some(endpoint)
}

/// Returns an address without its brackets.
pub(super) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Returns whether a host is this machine, or on its own link.
fn is_near(host: &str) -> bool {
    let host = bare(host);
    match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        // The second one is Amazon's, of metadata alone.
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.segments().starts_with(&[0xfd00, 0xec2])
        }
        Err(_) => is_loopback(host),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::object::keys::tests::searching;

    /// A URL for credentials in the environment had the token that goes with it sent to any server, in clear.
    #[test]
    fn credentials_are_asked_for_without_tls_on_this_machine_and_its_link_alone() {
        let port = |uri: &str| server(&uri.parse().unwrap()).map(|server| server.port);
        for near in [
            "http://169.254.169.254/latest/meta-data",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::254]/latest",
            "http://[fe80::1]/x",
            "http://[::1]/x",
            "http://localhost/x",
            "http://127.0.0.1/x",
        ] {
            assert_eq!(port(near), Some(80), "{near}");
        }
        assert_eq!(port("http://127.0.0.1:1234/x"), Some(1234));
        assert_eq!(port("https://sts.amazonaws.com/"), Some(443));
        for afar in ["http://10.0.0.1/x", "http://example.com/x", "http://[fd00::1]/x", "/x"] {
            assert_eq!(port(afar), None, "{afar}");
        }
    }

    #[test]
    fn what_is_asked_and_answered_goes_through_unchanged() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let mut len = 0;
            while !asked.get(..len).unwrap().ends_with(b"\r\n\r\n") {
                len += stream.read(asked.get_mut(len..).unwrap()).unwrap();
            }
            let answer =
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ntoken\r\n0\r\n\r\n";
            stream.write_all(answer).unwrap();
            String::from_utf8(asked.get(..len).unwrap().to_vec()).unwrap()
        });
        let request = http::Request::put(format!("http://{at}/latest/api/token"))
            .header("X-aws-ec2-metadata-token-ttl-seconds", "21600");
        let request = request.body(Bytes::new()).unwrap();
        let answer = searching(|search| search.send(request).ok().unwrap());
        assert_eq!((answer.status, &*answer.body), (200, b"token".as_slice()));
        let asked = server.join().unwrap();
        assert!(asked.starts_with("PUT /latest/api/token HTTP/1.1\r\n"), "{asked}");
        for line in [
            format!("host: {at}"),
            "content-length: 0".to_owned(),
            "x-aws-ec2-metadata-token-ttl-seconds: 21600".to_owned(),
        ] {
            assert!(asked.contains(&format!("\r\n{line}\r\n")), "{asked}");
        }
    }
}
