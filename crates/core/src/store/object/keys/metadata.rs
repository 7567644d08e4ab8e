//! How credentials are fetched: from the metadata of a container or an instance, or for a web identity.

use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};

use crate::server::url::text::is_loopback;
use crate::server::url::{Endpoint, Proxy};
use crate::store::object::wire::{Begun, Dial, Lines, Trust, Via};

/// How long metadata may take: a machine without any answers nothing at all.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a server elsewhere may take.
const PATIENCE_AFAR: Duration = Duration::from_secs(10);

/// No answer is longer.
const LONGEST: u64 = 1 << 20;

/// Sends a request for credentials, over a connection of its own.
///
/// # Errors
/// There was no whole answer. No error repeats what was sent or answered.
pub(super) fn send(request: http::Request<Bytes>) -> Result<http::Response<Bytes>, &'static str> {
    send_within(request, PATIENCE)
}

/// The same, for metadata that has to ask elsewhere itself.
///
/// # Errors
/// As [`send`].
#[cfg(feature = "azure")]
pub(super) fn send_patiently(
    request: http::Request<Bytes>,
) -> Result<http::Response<Bytes>, &'static str> {
    send_within(request, PATIENCE_AFAR)
}

fn send_within(
    request: http::Request<Bytes>,
    near: Duration,
) -> Result<http::Response<Bytes>, &'static str> {
    let (mut parts, body) = request.into_parts();
    let server = server(&parts.uri).ok_or("a server that is not asked")?;
    let tls = server.tls;
    let variable = |name: &str| std::env::var(name).ok();
    // Metadata is this machine's own affair, and never asked for by a proxy.
    let proxy = if tls { Proxy::Environment } else { Proxy::Never };
    let via = Via::new(&proxy, tls, variable);
    let (connect, patience) = if tls { (PATIENCE_AFAR, PATIENCE_AFAR) } else { (PATIENCE, near) };
    let host = HeaderValue::try_from(server.authority()).map_err(|_| "no host")?;
    parts.headers.insert(HOST, host);
    if parts.method != Method::GET {
        parts.headers.insert(CONTENT_LENGTH, body.len().into());
    }
    let trust = Trust::new(None);
    let lines = Lines::new(Dial { server, via, trust, connect, patience });
    let failed = |_| "no answer";
    let request = http::Request::from_parts(parts, ());
    let mut begun = Begun::new(&lines, request, true, &|| ()).map_err(failed)?;
    begun.send(&body, &|| ());
    let mut reply = begun.answer().map_err(failed)?;
    let mut body = Vec::new();
    let read = reply.body.by_ref().take(LONGEST).read_to_end(&mut body);
    read.map_err(|_| "half an answer")?;
    let response = http::Response::builder().status(reply.status);
    response.body(body.into()).map_err(|_| "no status")
}

/// Returns the server that is to be asked: without TLS only one on this machine or its own link, by its
/// address, since what it answers, and is shown, are secrets.
fn server(uri: &http::Uri) -> Option<Endpoint> {
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let near = match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        // The second one is Amazon's, of metadata alone.
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.segments().starts_with(&[0xfd00, 0xec2])
        }
        Err(_) => is_loopback(&host),
    };
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    (tls || near).then_some(Endpoint { tls, host, port })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

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
        let answer = send(request.body(Bytes::new()).unwrap()).unwrap();
        assert_eq!((answer.status().as_u16(), &**answer.body()), (200, b"token".as_slice()));
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
