//! As much of HTTP/1.1 as servers of S3 and their clients speak: heads, and where bodies end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nobody's head is longer.
const LONGEST_HEAD: u64 = 1 << 20;
/// How long one of our own requests waits for the next bytes: longer than any test lets a server hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first line and the headers of a request or an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// As it came, the empty line included.
    pub raw: Vec<u8>,
    pub first: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads one. `None`: the other side closed the connection instead.
    ///
    /// # Errors
    /// The connection broke, or what came is no head.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut raw = Vec::new();
        loop {
            let before = raw.len();
            let limit = LONGEST_HEAD - before as u64;
            if from.by_ref().take(limit).read_until(b'\n', &mut raw)? == 0 {
                return if raw.is_empty() { Ok(None) } else { Err(cut()) };
            }
            match &raw[before..] {
                // An empty line before a request does not count.
                b"\r\n" | b"\n" if before == 0 => raw.clear(),
                b"\r\n" | b"\n" => break,
                _ => {}
            }
        }
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Some(Self { raw, first, headers }))
    }

    /// The value of a header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// A request's method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// A request's path and query, as sent.
    #[must_use]
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// An answer's status; 0 if it has none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    /// Whether more may follow on the same connection.
    #[must_use]
    pub fn keeps_open(&self) -> bool {
        !self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
            && !self.first.contains("HTTP/1.0")
    }

    fn framing(&self, otherwise: Framing) -> Framing {
        let coding = self.header("transfer-encoding").unwrap_or_default();
        if coding.to_ascii_lowercase().contains("chunked") {
            return Framing::Chunked;
        }
        let length = self.header("content-length").and_then(|value| value.parse().ok());
        length.map_or(otherwise, Framing::Length)
    }

    /// How the body of this request ends.
    #[must_use]
    pub fn request_framing(&self) -> Framing {
        self.framing(Framing::Length(0))
    }

    /// How the body of this answer to a request with `method` ends.
    #[must_use]
    pub fn answer_framing(&self, method: &str) -> Framing {
        match self.status() {
            100..200 | 204 | 304 => Framing::Length(0),
            _ if method == "HEAD" => Framing::Length(0),
            _ => self.framing(Framing::UntilClosed),
        }
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClosed,
}

/// What a body consists of, as it comes.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    Data(&'a [u8]),
    /// The sizes and line ends of a chunked body.
    Frame(&'a [u8]),
}

impl<'a> Piece<'a> {
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Data(bytes) | Self::Frame(bytes) => bytes,
        }
    }
}

/// Gives a body to `sink` piece by piece, as soon as each comes. Returns once it has ended.
///
/// # Errors
/// `sink`'s own; or the body was cut short.
pub fn body(
    from: &mut impl BufRead,
    framing: Framing,
    sink: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    match framing {
        Framing::Length(length) => data(from, length, sink),
        Framing::UntilClosed => loop {
            let piece = from.fill_buf()?;
            let length = piece.len();
            if length == 0 {
                return Ok(());
            }
            sink(Piece::Data(piece))?;
            from.consume(length);
        },
        Framing::Chunked => loop {
            let size = line(from)?;
            let digits = String::from_utf8_lossy(&size);
            let digits = digits.split(';').next().unwrap_or_default().trim();
            let length = u64::from_str_radix(digits, 16)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no size of a chunk"))?;
            sink(Piece::Frame(&size))?;
            if length > 0 {
                data(from, length, sink)?;
                sink(Piece::Frame(&line(from)?))?;
                continue;
            }
            // The last one. Trailers may follow, then an empty line.
            loop {
                let trailer = line(from)?;
                sink(Piece::Frame(&trailer))?;
                if trailer == b"\r\n" || trailer == b"\n" {
                    return Ok(());
                }
            }
        },
    }
}

fn data(
    from: &mut impl BufRead,
    length: u64,
    sink: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let piece = from.fill_buf()?;
        if piece.is_empty() {
            return Err(cut());
        }
        let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        sink(Piece::Data(&piece[..count]))?;
        from.consume(count);
        left -= count as u64;
    }
    Ok(())
}

fn line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(LONGEST_HEAD).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") { Ok(line) } else { Err(cut()) }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed the connection too early")
}

/// An answer that was read whole, or one to give.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// An error as S3 words it, such as 409 `ConditionalRequestConflict`. With the status 200 it is the error
    /// inside a success that some of its requests know.
    #[must_use]
    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
             <Message>As the test wants it.</Message><RequestId>TEST0123</RequestId></Error>"
        );
        let answer = Self { body: body.into_bytes(), ..Self::new(status) };
        answer.with("Content-Type", "application/xml")
    }

    /// A redirect to another address.
    #[must_use]
    pub fn redirect(status: u16, to: &str) -> Self {
        Self::error(status, "TemporaryRedirect").with("Location", to)
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The code of an error, such as `NoSuchKey`, or Google's reason, such as `notFound`; empty if the body has none.
    #[must_use]
    pub fn code(&self) -> String {
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(&self.body) {
            let reason = json.pointer("/error/errors/0/reason").and_then(|reason| reason.as_str());
            return reason.unwrap_or_default().to_owned();
        }
        let body = String::from_utf8_lossy(&self.body);
        elements(&body, "Code").first().cloned().unwrap_or_default()
    }

    /// Its bytes for the connection.
    #[must_use]
    pub fn bytes(&self, method: &str) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} Test\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = text.into_bytes();
        if method != "HEAD" {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }

    /// Reads one to its end.
    ///
    /// # Errors
    /// The connection broke, or ended too early.
    pub fn read(from: &mut impl BufRead, method: &str) -> io::Result<Self> {
        loop {
            let head = Head::read(from)?.ok_or_else(cut)?;
            if (100..200).contains(&head.status()) {
                continue;
            }
            let mut bytes = Vec::new();
            body(from, head.answer_framing(method), &mut |piece| {
                if let Piece::Data(data) = piece {
                    bytes.extend_from_slice(data);
                }
                Ok(())
            })?;
            return Ok(Self { status: head.status(), headers: head.headers, body: bytes });
        }
    }
}

/// The texts of all elements with this name, in order.
#[must_use]
pub fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| rest.split(&close).next()).map(plain).collect()
}

/// A text of XML as it is meant.
fn plain(text: &str) -> String {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (entity, rest) = part.split_once(';').expect("the end of an entity");
        plain.push(match entity {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let number = number.trim_start_matches('#');
                let code = match number.strip_prefix('x') {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => number.parse(),
                };
                code.ok().and_then(char::from_u32).unwrap_or_else(|| panic!("what is {text}?"))
            }
        });
        plain.push_str(rest);
    }
    plain
}

/// A connection on which a test sends by hand.
///
/// # Errors
/// Nobody listens there.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends a request on a connection of its own and reads the answer, also one that comes before the request
/// is sent to its end.
///
/// # Errors
/// The connection broke.
pub fn exchange(address: SocketAddr, method: &str, head: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let answer = Answer::read(&mut BufReader::new(&stream), method);
    match (sent, answer) {
        (Err(error), Err(_)) => Err(error),
        (_, answer) => answer,
    }
}
