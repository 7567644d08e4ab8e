//! The body of an answer, by whichever of HTTP's ways its end is known.

use std::io::{self, Read};
use std::sync::Arc;

use super::head::ReplyHead;
use super::line::Line;
use super::lines::Lines;
use crate::sys::slice::part_mut;

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// Chunks, of whose present one so many bytes are left.
    Chunk(u64),
    /// Chunks, of which the next one begins.
    NextChunk,
    /// The last chunk has come, and lines may follow.
    Trailer,
    /// The end of the connection.
    UntilClosed,
    /// The connection ended too early.
    Broken,
}

impl Framing {
    pub(super) fn of(method: &str, head: &ReplyHead) -> Result<Self, &'static str> {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Ok(Self::Length(0));
        }
        match (head.header("transfer-encoding"), head.header("content-length")) {
            (Some(encoding), _) if encoding.eq_ignore_ascii_case("chunked") => Ok(Self::NextChunk),
            (Some(encoding), _) if !encoding.eq_ignore_ascii_case("identity") => {
                Err("its body is encoded in an unknown way")
            }
            (_, Some(len)) => {
                len.parse().map(Self::Length).map_err(|_| "the length of its body is not a number")
            }
            (_, None) => Ok(Self::UntilClosed),
        }
    }
}

/// A body. Read to its end, it gives its connection back; dropped before, it closes it.
pub(in crate::store::object) struct Body {
    /// `None` once the end has come.
    line: Option<Line>,
    framing: Framing,
    /// Where the connection goes afterwards; `None` if it is not used again.
    lines: Option<Arc<Lines>>,
}

impl Body {
    pub(super) fn new(line: Line, framing: Framing, lines: Option<Arc<Lines>>) -> Self {
        let mut body = Self { line: Some(line), framing, lines };
        if framing == Framing::Length(0) {
            body.end();
        }
        body
    }

    /// Returns the length, if it is known before the end.
    pub(in crate::store::object) fn len(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(len) => Some(len),
            _ => None,
        }
    }

    /// Reads at most so much of it, and no more.
    pub(in crate::store::object) fn read_at_most(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        self.by_ref().take(limit).read_to_end(&mut bytes)?;
        bytes.truncate(most);
        Ok(bytes)
    }

    fn end(&mut self) {
        if let (Some(line), Some(lines)) = (self.line.take(), self.lines.take()) {
            lines.keep(line);
        }
    }

    /// Reads a line of the chunked encoding.
    fn text_line(line: &mut Line) -> io::Result<String> {
        const LONGEST: usize = 4096;
        loop {
            if let Some(end) = line.received().iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = line.received().iter().copied().take(end).collect();
                line.use_up(end + 1);
                return Ok(String::from_utf8_lossy(&text).trim().to_owned());
            }
            if line.received().len() > LONGEST || line.receive()? == 0 {
                return Err(cut());
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(line) = &mut self.line else { return Ok(0) };
            match self.framing {
                Framing::Broken => return Err(cut()),
                Framing::UntilClosed => {
                    let got = line.read(into)?;
                    if got == 0 {
                        self.line = None;
                    }
                    return Ok(got);
                }
                Framing::Length(0) => self.end(),
                Framing::Length(left) | Framing::Chunk(left) if left > 0 => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
                    let got = line.read(part_mut(into, ..most))?;
                    if got == 0 {
                        self.framing = Framing::Broken;
                        return Err(cut());
                    }
                    let left = left - got as u64;
                    let whole = matches!(self.framing, Framing::Length(_));
                    self.framing = if whole { Framing::Length(left) } else { Framing::Chunk(left) };
                    if self.framing == Framing::Length(0) {
                        self.end();
                    }
                    return Ok(got);
                }
                Framing::Length(_) => self.end(),
                Framing::Chunk(_) => {
                    Self::text_line(line)?;
                    self.framing = Framing::NextChunk;
                }
                Framing::NextChunk => {
                    let size = Self::text_line(line)?;
                    let digits = size.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(digits, 16).map_err(|_| cut())?;
                    self.framing = if size == 0 { Framing::Trailer } else { Framing::Chunk(size) };
                }
                Framing::Trailer => {
                    if Self::text_line(line)?.is_empty() {
                        self.end();
                    }
                }
            }
        }
    }
}

/// An end before the end. It carries a number of the system's, which tells a broken transfer from broken
/// contents.
fn cut() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNRESET)
}
