//! What of an answer comes before its body.

use std::io;
use std::time::Instant;

use super::Failure;
use super::line::Line;

/// No answer that is taken has more headers, or more bytes before its body than a line's buffer.
const MOST_HEADERS: usize = 100;

/// Returns a header by its name in lower case.
pub(super) fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// What of an answer comes before its body.
pub(super) struct ReplyHead {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    http_1_1: bool,
}

impl ReplyHead {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Returns whether another request may follow over the same connection.
    pub(super) fn keeps_open(&self) -> bool {
        let says = |word| self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case(word));
        self.http_1_1 && !says("close")
    }
}

/// Reads the head of an answer. It has to come whole while nothing may move: one that comes a byte at a time
/// is not waited for longer.
pub(super) fn read_head(line: &mut Line) -> Result<ReplyHead, Failure> {
    let begun = Instant::now();
    let head = loop {
        match parse_head(line.received()) {
            Ok(Some((len, head))) => {
                line.use_up(len);
                // "100 Continue" and its like come before the answer.
                if !(100..200).contains(&head.status) {
                    break head;
                }
            }
            Ok(None) => {
                let left = line.patience().saturating_sub(begun.elapsed());
                let got = line.wait_at_most(left).and_then(|()| line.receive());
                let cut =
                    |source| Failure::Cut { host: line.host.clone(), source, reused: line.reused };
                match got {
                    Ok(0) if line.received().len() >= Line::BUFFER => {
                        return Err(garbled(line, "its headers are too long"));
                    }
                    Ok(0) => return Err(cut(io::Error::from_raw_os_error(libc::ECONNRESET))),
                    Ok(_) => {}
                    Err(source) => return Err(cut(source)),
                }
            }
            Err(what) => return Err(garbled(line, what)),
        }
    };
    line.wait_as_usual().map_err(|source| Failure::Cut {
        host: line.host.clone(),
        source,
        reused: false,
    })?;
    Ok(head)
}

fn garbled(line: &Line, what: &'static str) -> Failure {
    Failure::Garbled { host: line.host.clone(), what }
}

fn parse_head(bytes: &[u8]) -> Result<Option<(usize, ReplyHead)>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err("it is not HTTP"),
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
    let headers = response.headers.iter();
    let headers = headers.map(|h| (h.name.to_ascii_lowercase(), text(h.value))).collect();
    let status = response.code.unwrap_or_default();
    let http_1_1 = response.version == Some(1);
    Ok(Some((len, ReplyHead { status, headers, http_1_1 })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::sys::slice::part;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A:  b \r\n\r\nabc";
        assert!(parse_head(part(text, ..20)).unwrap().is_none());
        let (len, head) = parse_head(text).unwrap().unwrap();
        assert_eq!((len, head.status), (text.len() - 3, 200));
        assert_eq!((head.header("content-length"), head.header("x-a")), (Some("3"), Some("b")));
        assert!(head.keeps_open());
        assert!(parse_head(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
        let (_, old) = parse_head(b"HTTP/1.0 200 OK\r\n\r\n").unwrap().unwrap();
        assert!(!old.keeps_open());
    }
}
