//! The body of an answer, by whichever of HTTP's ways its end is known.

use std::io::{self, Read};
use std::sync::Arc;

use ureq_proto::BodyMode;
use ureq_proto::client::state::RecvBody;
use ureq_proto::client::{Call, RecvBodyResult};

use super::line::Line;
use super::lines::Lines;

/// A body. Read to its end, it gives its connection back; dropped before, it closes it.
pub(in crate::store::object) struct Body {
    rest: Rest,
    len: Option<u64>,
    /// Where the connection goes afterwards; `None` if it is not used again.
    lines: Option<Arc<Lines>>,
}

/// What is still to come.
enum Rest {
    Some(Box<Line>, Box<Call<RecvBody>>),
    Nothing,
    /// The connection ended too early, or what came is not a body.
    Broken,
}

impl Body {
    pub(super) fn new(line: Line, call: Call<RecvBody>, lines: Option<Arc<Lines>>) -> Self {
        let len = match call.body_mode() {
            BodyMode::NoBody => Some(0),
            BodyMode::LengthDelimited(len) => Some(len),
            BodyMode::Chunked | BodyMode::CloseDelimited => None,
        };
        Self { rest: Rest::Some(Box::new(line), Box::new(call)), len, lines }
    }

    pub(super) fn empty(line: Line, lines: Option<Arc<Lines>>) -> Self {
        if let Some(lines) = lines {
            lines.keep(line);
        }
        Self { rest: Rest::Nothing, len: Some(0), lines: None }
    }

    /// Returns its whole length, if that is known before the end.
    pub(in crate::store::object) fn len(&self) -> Option<u64> {
        self.len
    }

    /// Reads at most so much of it, and no more.
    pub(in crate::store::object) fn read_at_most(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        self.by_ref().take(limit).read_to_end(&mut bytes)?;
        bytes.truncate(most);
        Ok(bytes)
    }

    /// The end has come.
    fn end(&mut self) {
        let Rest::Some(line, call) = std::mem::replace(&mut self.rest, Rest::Nothing) else {
            return;
        };
        let closes = match call.proceed() {
            Some(RecvBodyResult::Cleanup(call)) => call.must_close_connection(),
            Some(RecvBodyResult::Redirect(call)) => call.must_close_connection(),
            None => true,
        };
        if let Some(lines) = self.lines.take().filter(|_| !closes) {
            lines.keep(*line);
        }
    }

    /// Reads some bytes; 0 of them at the end.
    fn next(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let (line, call) = match &mut self.rest {
                Rest::Some(line, call) => (line, call),
                Rest::Nothing => return Ok(0),
                Rest::Broken => return Err(cut()),
            };
            let until_closed = call.body_mode() == BodyMode::CloseDelimited;
            let (used, got) = call.read(line.received(), into).map_err(|_| cut())?;
            line.use_up(used);
            if call.can_proceed() && !until_closed {
                self.end();
                return Ok(got);
            }
            if got > 0 {
                return Ok(got);
            }
            // Nothing is received where there is no more room: what is there is no part of a body then.
            if used == 0 && line.receive()? == 0 {
                if !until_closed {
                    return Err(cut());
                }
                self.end();
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        self.next(into).inspect_err(|_| self.rest = Rest::Broken)
    }
}

/// An end before the end. It carries a number of the system's, which tells a broken transfer from broken
/// contents.
fn cut() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNRESET)
}
