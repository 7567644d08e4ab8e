//! A request and its answer.

use std::io;
use std::sync::Arc;

use super::body::{Body, Framing};
use super::head::{header, read_head};
use super::line::Line;
use super::lines::Lines;
use super::{Failure, Via};
use crate::server::url::Endpoint;

/// What of a request comes before its body.
pub(in crate::store::object) struct Head {
    /// `GET`, `PUT` or another.
    pub(in crate::store::object) method: &'static str,
    /// Path and query, encoded.
    pub(in crate::store::object) target: String,
    /// Names in lower case.
    pub(in crate::store::object) headers: Vec<(String, String)>,
    /// The length of the body; `None` for a request without one.
    pub(in crate::store::object) body: Option<u64>,
}

impl Head {
    fn text(&self, via: &Via, server: &Endpoint) -> String {
        let (before, authorization) = via.forwarded(server).unwrap_or_default();
        let mut text = format!("{} {before}{} HTTP/1.1\r\n", self.method, self.target);
        let mut add = |name: &str, value: &str| text.push_str(&format!("{name}: {value}\r\n"));
        for (name, value) in &self.headers {
            add(name, value);
        }
        if let Some(authorization) = authorization {
            add("proxy-authorization", authorization);
        }
        if let Some(len) = self.body {
            add("content-length", &len.to_string());
        }
        text.push_str("\r\n");
        text
    }
}

/// A request whose head is sent, and as much of its body as it was given. Dropped, it is taken back: a server
/// keeps nothing of a body that has not come to its end.
pub(in crate::store::object) struct Begun {
    lines: Arc<Lines>,
    line: Line,
    /// How sending has failed. What the server said before that counts more.
    failed: Option<io::Error>,
    method: &'static str,
}

impl Begun {
    /// Sends a head. `fresh` asks for a connection that no other request went over.
    pub(in crate::store::object) fn new(
        lines: &Arc<Lines>,
        head: &Head,
        fresh: bool,
        moved: &dyn Fn(),
    ) -> Result<Self, Failure> {
        let mut line = if fresh { lines.fresh()? } else { lines.take()? };
        moved();
        let dial = lines.dial();
        let text = head.text(&dial.via, &dial.server);
        let failed = line.send(text.as_bytes(), moved).err();
        Ok(Self { lines: Arc::clone(lines), line, failed, method: head.method })
    }

    /// Sends a piece of the body. What goes wrong shows in the answer.
    pub(in crate::store::object) fn send(&mut self, piece: &[u8], moved: &dyn Fn()) {
        if self.failed.is_none() {
            self.failed = self.line.send(piece, moved).err();
        }
    }

    /// Hands over all that was sent so far.
    pub(in crate::store::object) fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.line.flush().err();
        }
    }

    /// Returns whether sending has failed: there is no use in sending more.
    pub(in crate::store::object) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Reads the answer, after the last piece of the body.
    pub(in crate::store::object) fn answer(mut self) -> Result<Reply, Failure> {
        self.flush();
        let head = match (read_head(&mut self.line), self.failed.take()) {
            (Ok(head), _) => head,
            (Err(Failure::Cut { host, reused, .. }), Some(source)) => {
                return Err(Failure::Cut { host, source, reused });
            }
            (Err(failure), _) => return Err(failure),
        };
        let host = self.line.host.clone();
        let framing = Framing::of(self.method, &head)
            .map_err(|what| Failure::Garbled { host: host.clone(), what })?;
        let complete = self.failed.is_none() && head.keeps_open();
        let body = Body::new(self.line, framing, complete.then_some(self.lines));
        Ok(Reply { status: head.status, headers: head.headers, host, body })
    }
}

/// An answer, whose body is still to be read.
pub(in crate::store::object) struct Reply {
    /// The number.
    pub(in crate::store::object) status: u16,
    headers: Vec<(String, String)>,
    /// Who gave it: name and port.
    pub(in crate::store::object) host: String,
    /// The rest.
    pub(in crate::store::object) body: Body,
}

impl Reply {
    /// Returns a header by its name in lower case.
    pub(in crate::store::object) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}
