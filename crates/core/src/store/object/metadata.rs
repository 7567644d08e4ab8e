//! How credentials are fetched: from the metadata of a container or an instance, or for a web identity.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use reqsign_core::{Error, HttpSend, Result};

use super::wire::{Begun, Dial, Head, Lines, Trust, Via};
use crate::server::url::Endpoint;
use crate::server::url::Proxy;

/// How long metadata may take: a machine without any answers nothing at all.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a server elsewhere may take.
const PATIENCE_AFAR: Duration = Duration::from_secs(10);

/// No answer is longer.
const LONGEST: u64 = 1 << 20;

/// Requests for credentials, each over a connection of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata;

impl HttpSend for Metadata {
    async fn http_send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        send(&request)
    }
}

fn send(request: &http::Request<Bytes>) -> Result<http::Response<Bytes>> {
    let wrong = |what: &'static str| Error::unexpected(what);
    let uri = request.uri();
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host().ok_or_else(|| wrong("no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let server = Endpoint { tls, host, port };
    let variable = |name: &str| std::env::var(name).ok();
    // Metadata is this machine's own affair, and never asked for by a proxy.
    let proxy = if tls { Proxy::Environment } else { Proxy::Never };
    let via = Via::new(&proxy, tls, variable);
    let patience = if tls { PATIENCE_AFAR } else { PATIENCE };
    let mut headers = vec![("host".to_owned(), server.authority())];
    for (name, value) in request.headers() {
        let name = name.as_str();
        if name != "host" && name != "content-length" {
            headers.push((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
    }
    let method = match request.method().as_str() {
        "GET" => "GET",
        "PUT" => "PUT",
        "POST" => "POST",
        _ => return Err(wrong("unknown method")),
    };
    let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let body = (method != "GET").then_some(request.body().len() as u64);
    let head = Head { method, target, headers, body };
    let trust = Trust::new(None);
    let lines = Lines::new(Dial { server, via, trust, connect: patience, patience });
    let failed = |_| wrong("no answer");
    let mut begun = Begun::new(&lines, &head, true, &|| ()).map_err(failed)?;
    begun.send(request.body(), &|| ());
    let mut reply = begun.answer().map_err(failed)?;
    let mut body = Vec::new();
    let read = reply.body.by_ref().take(LONGEST).read_to_end(&mut body);
    read.map_err(|_| wrong("half an answer"))?;
    let response = http::Response::builder().status(reply.status);
    response.body(body.into()).map_err(|_| wrong("no status"))
}
