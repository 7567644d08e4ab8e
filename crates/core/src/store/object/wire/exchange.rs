//! A request and its answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use ureq_proto::client::state::{RecvResponse, SendBody};
use ureq_proto::client::{Call, RecvResponseResult, SendRequestResult};

use super::body::Body;
use super::head::{read_head, write_head};
use super::line::Line;
use super::lines::Lines;
use super::{Failure, unmade};

/// A request whose head is sent, and as much of its body as it was given. Dropped, it is taken back: a server
/// keeps nothing of a body that has not come to its end.
pub(in crate::store::object) struct Begun {
    lines: Arc<Lines>,
    line: Line,
    step: Step,
    /// How sending has failed. What the server said before that counts more.
    failed: Option<io::Error>,
}

enum Step {
    /// So much of the body is to be sent.
    Body(Call<SendBody>, usize),
    Answer(Call<RecvResponse>),
}

impl Begun {
    /// Sends the head of a request, whose body is as long as its `content-length` says. `fresh` asks for a
    /// connection that no other request went over.
    pub(in crate::store::object) fn new(
        lines: &Arc<Lines>,
        request: Request<()>,
        fresh: bool,
        moved: &dyn Fn(),
    ) -> Result<Self, Failure> {
        let dial = lines.dial();
        let forwarded = dial.via.forwarded(&dial.server);
        let left = request.headers().get(http::header::CONTENT_LENGTH);
        let left = left.and_then(|len| len.to_str().ok()?.parse().ok()).unwrap_or(0);
        let mut call = Call::new(request).map_err(unmade)?;
        if let Some((_, Some(authorization))) = forwarded {
            call.header("proxy-authorization", authorization).map_err(unmade)?;
        }
        let (text, call) = write_head(call, forwarded.map(|(before, _)| before).as_deref())?;
        let step = match call {
            SendRequestResult::SendBody(call) => Step::Body(call, left),
            SendRequestResult::RecvResponse(call) => Step::Answer(call),
            // Waiting for a leave to send would cost each object a round trip.
            SendRequestResult::Await100(_) => return Err(unmade("it expects a leave to go on")),
        };
        let mut line = if fresh { lines.fresh()? } else { lines.take()? };
        moved();
        let failed = line.send(&text, moved).err();
        Ok(Self { lines: Arc::clone(lines), line, step, failed })
    }

    /// Sends a piece of the body. What goes wrong shows in the answer.
    pub(in crate::store::object) fn send(&mut self, piece: &[u8], moved: &dyn Fn()) {
        if self.failed.is_some() {
            return;
        }
        self.failed = match &mut self.step {
            Step::Body(call, left) => match call.consume_direct_write(piece.len()) {
                Ok(()) => {
                    *left -= piece.len();
                    self.line.send(piece, moved).err()
                }
                Err(e) => Some(io::Error::other(e)),
            },
            Step::Answer(_) if piece.is_empty() => None,
            Step::Answer(_) => Some(io::Error::other("a body without a length")),
        };
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

    /// Reads the answer, after the last piece of the body, or after sending has failed: a server may answer
    /// before it has the body, and close.
    pub(in crate::store::object) fn answer(mut self) -> Result<Reply, Failure> {
        self.flush();
        let whole = self.failed.is_none();
        // It has been waited for, while nothing more could be sent.
        let waited = self.failed.as_ref().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut);
        let mut call = match self.step {
            Step::Answer(call) => call,
            Step::Body(mut call, left) => {
                // What was not sent counts as sent, so that the answer is read. Nothing else goes over the
                // connection then.
                if left > 0 {
                    call.consume_direct_write(left).map_err(unmade)?;
                }
                call.proceed().ok_or_else(|| unmade("its body has no end"))?
            }
        };
        let response = match (read_head(&mut self.line, &mut call, waited), self.failed.take()) {
            (Ok(response), _) => response,
            (Err(Failure::Cut { host, reused, .. }), Some(source)) => {
                return Err(Failure::Cut { host, source, reused });
            }
            (Err(failure), _) => return Err(failure),
        };
        let host = self.line.host.clone();
        let garbled = || Failure::Garbled { host: host.clone(), what: "it has no end" };
        let (line, lines) = (self.line, whole.then_some(self.lines));
        let body = match call.proceed().ok_or_else(garbled)? {
            RecvResponseResult::RecvBody(call) => Body::new(line, call, lines),
            RecvResponseResult::Redirect(call) => {
                Body::empty(line, lines.filter(|_| !call.must_close_connection()))
            }
            RecvResponseResult::Cleanup(call) => {
                Body::empty(line, lines.filter(|_| !call.must_close_connection()))
            }
        };
        let (parts, ()) = response.into_parts();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, host, body })
    }
}

/// An answer, whose body is still to be read.
pub(in crate::store::object) struct Reply {
    /// The number.
    pub(in crate::store::object) status: u16,
    headers: HeaderMap,
    /// Who gave it: name and port.
    pub(in crate::store::object) host: String,
    /// The rest.
    pub(in crate::store::object) body: Body,
}

impl Reply {
    /// Returns a header by its name in lower case, if it is text.
    pub(in crate::store::object) fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.headers.get(name)?.as_bytes()).ok()
    }

    /// Returns how long the server asks to be left alone.
    pub(in crate::store::object) fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.parse().ok().map(Duration::from_secs)
    }
}
