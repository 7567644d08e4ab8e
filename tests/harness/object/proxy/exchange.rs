//! What happens on one connection of a client.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Fault, Shared};
use crate::object::http::{self, Answer, Framing, Head, Piece};

const PIECE: usize = 64 << 10;

/// Whether another request may follow on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    End,
}

/// Serves a client's connection to its end.
pub(super) fn serve(client: &TcpStream, shared: &Shared) {
    if let Ok(_entered) = shared.open.enter(client) {
        drop(client.set_nodelay(true));
        let mut reader = BufReader::with_capacity(PIECE, client);
        while let Ok(Some(head)) = Head::read(&mut reader) {
            let (place, fault, mended) = shared.arrived(&head);
            let mut exchange =
                Exchange { client, reader: &mut reader, shared, head, place, mended };
            let next = exchange.carry_out(fault);
            let is_over = !matches!(next, Ok(Next::Request));
            if is_over {
                drop(client.shutdown(Shutdown::Both));
            }
            shared.update(place, |seen| seen.ended = Some(Instant::now()));
            if is_over {
                break;
            }
        }
    }
    drop(client.shutdown(Shutdown::Both));
}

struct Exchange<'a, 'c> {
    client: &'c TcpStream,
    reader: &'a mut BufReader<&'c TcpStream>,
    shared: &'a Shared,
    head: Head,
    place: usize,
    /// `State::mended` when the request came.
    mended: u64,
}

/// What happens to a request and its answer on their way.
#[derive(Debug, Clone, Copy, Default)]
struct Way {
    /// Bytes of the request's body that the server gets.
    cut_request: Option<u64>,
    request_pace: Option<u64>,
    keep_answer: bool,
    late: Duration,
    answer_pace: Option<u64>,
    cut_answer: Option<u64>,
    flip: Option<u64>,
}

impl Exchange<'_, '_> {
    fn carry_out(&mut self, fault: Option<Fault>) -> io::Result<Next> {
        let way = Way::default();
        match fault {
            None => match self.shared.told(&self.head, None) {
                Some(answer) => {
                    self.take_body(u64::MAX)?;
                    self.answer(&answer)
                }
                None => self.forward(way),
            },
            Some(Fault::Answer(answer)) => {
                self.take_body(u64::MAX)?;
                self.answer(&answer)
            }
            Some(Fault::AnswerEarly(answer)) => {
                self.answer(&answer)?;
                self.client.shutdown(Shutdown::Write)?;
                // Closed with something unread, the connection would take the answer along.
                io::copy(self.reader, &mut io::sink())?;
                Ok(Next::End)
            }
            Some(Fault::CutRequest { .. }) if self.head.request_framing() == Framing::Length(0) => {
                Ok(Next::End)
            }
            Some(Fault::CutRequest { after }) => {
                self.forward(Way { cut_request: Some(after), ..way })
            }
            Some(Fault::Hang { after }) => {
                self.take_body(after)?;
                self.hang()
            }
            Some(Fault::DripRequest { bytes_a_second }) => {
                self.forward(Way { request_pace: Some(bytes_a_second), ..way })
            }
            Some(Fault::CommitThenAnswer(answer)) => {
                self.forward(Way { keep_answer: true, ..way })?;
                self.answer(&answer)
            }
            Some(Fault::CommitThenCut) => {
                self.forward(Way { keep_answer: true, ..way })?;
                Ok(Next::End)
            }
            Some(Fault::CommitThenHang) => {
                self.forward(Way { keep_answer: true, ..way })?;
                self.hang()
            }
            Some(Fault::Late(late)) => self.forward(Way { late, ..way }),
            Some(Fault::DripAnswer { bytes_a_second }) => {
                self.forward(Way { answer_pace: Some(bytes_a_second), ..way })
            }
            Some(Fault::CutAnswer { after }) => {
                self.forward(Way { cut_answer: Some(after), ..way })
            }
            Some(Fault::FlipBit { byte }) => self.forward(Way { flip: Some(byte), ..way }),
        }
    }

    /// Gives the client an answer of ours.
    fn answer(&mut self, answer: &Answer) -> io::Result<Next> {
        self.shared.update(self.place, |seen| seen.answered = Some(answer.status));
        self.client.write_all(&answer.bytes(self.head.method()))?;
        Ok(if self.head.keeps_open() { Next::Request } else { Next::End })
    }

    /// Reads the request's body, or the first `most` bytes of it, and returns them with the frame.
    fn take_body(&mut self, most: u64) -> io::Result<Vec<u8>> {
        if most == 0 {
            return Ok(Vec::new());
        }
        if self.head.header("expect").is_some() {
            self.client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let (shared, place) = (self.shared, self.place);
        let (mut bytes, mut count) = (Vec::new(), 0);
        let enough = io::ErrorKind::Interrupted;
        let taken = http::body(self.reader, self.head.request_framing(), &mut |piece| {
            bytes.extend_from_slice(piece.bytes());
            count += note(shared, place, piece);
            if count < most { Ok(()) } else { Err(enough.into()) }
        });
        match taken {
            Ok(()) => shared.update(place, |seen| seen.came = Some(Instant::now())),
            Err(error) if error.kind() == enough => {}
            Err(error) => return Err(error),
        }
        Ok(bytes)
    }

    /// Nothing happens any more until the client closes the connection, or the test ends this.
    fn hang(&mut self) -> io::Result<Next> {
        let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        while self.shared.lock().mended == self.mended {
            // What it sends meanwhile stays unread, and its end is seen all the same.
            let mut client = [PollFd::new(self.client, PollFlags::RDHUP)];
            if poll(&mut client, Some(&pause))? > 0 {
                break;
            }
        }
        Ok(Next::End)
    }

    fn forward(&mut self, way: Way) -> io::Result<Next> {
        let whole = if self.shared.lock().whole_bodies && way.cut_request.is_none() {
            Some(self.take_body(u64::MAX)?)
        } else {
            None
        };
        let server = TcpStream::connect(self.shared.server)?;
        let _entered = self.shared.open.enter(&server)?;
        server.set_nodelay(true)?;
        (&server).write_all(&self.head.raw)?;
        let (client, shared, place) = (self.client, self.shared, self.place);
        let framing = self.head.request_framing();
        let asked = &self.head;
        let reader = &mut *self.reader;
        let (sent, answered) = thread::scope(|scope| {
            let is_whole = whole.is_some();
            let upload = scope.spawn(|| match whole {
                Some(body) => (&server).write_all(&body),
                None => upload(reader, framing, client, &server, way, (shared, place)),
            });
            let answered = download(&server, client, asked, way, is_whole, (shared, place));
            if answered.is_err() {
                // The client may be waiting with the rest of the body.
                drop(client.shutdown(Shutdown::Both));
            }
            // Also after an answer that came early: what the client then does with its body is its affair.
            (upload.join().expect("no panic in it"), answered)
        });
        let next = answered?;
        sent?;
        Ok(if self.head.keeps_open() { next } else { Next::End })
    }
}

/// Counts what came of a request's body.
fn note(shared: &Shared, place: usize, piece: Piece<'_>) -> u64 {
    let Piece::Data(data) = piece else { return 0 };
    let count = data.len() as u64;
    shared.update(place, |seen| seen.body += count);
    count
}

/// Sends the body to the server as it comes from the client.
fn upload(
    reader: &mut BufReader<&TcpStream>,
    framing: Framing,
    client: &TcpStream,
    mut server: &TcpStream,
    way: Way,
    (shared, place): (&Shared, usize),
) -> io::Result<()> {
    let cut = match (way.cut_request, framing) {
        // Never the last byte.
        (Some(cut), Framing::Length(length)) => Some(cut.min(length.saturating_sub(1))),
        (cut, _) => cut,
    };
    let mut count = 0;
    let mut server_failed = false;
    let result = http::body(reader, framing, &mut |piece| {
        note(shared, place, piece);
        let bytes = piece.bytes();
        if let Some(cut) = cut {
            let left = usize::try_from(cut - count).unwrap_or(usize::MAX);
            let is_end = match piece {
                Piece::Data(_) => left < bytes.len(),
                Piece::Frame(_) => bytes.starts_with(b"0"),
            };
            if is_end {
                server.write_all(&bytes[..left.min(bytes.len() - 1)])?;
                drop(client.shutdown(Shutdown::Both));
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if matches!(piece, Piece::Data(_)) {
                count += bytes.len() as u64;
            }
        }
        let written = at_pace(way.request_pace, bytes, &mut |bytes| server.write_all(bytes));
        server_failed = written.is_err();
        written
    });
    match &result {
        Ok(()) => shared.update(place, |seen| seen.came = Some(Instant::now())),
        // The server may have said why before it closed the connection.
        Err(_) if server_failed => {}
        Err(_) => drop(server.shutdown(Shutdown::Both)),
    }
    result
}

/// Gives the server's answer to the client.
fn download(
    server: &TcpStream,
    mut client: &TcpStream,
    asked: &Head,
    way: Way,
    whole_body: bool,
    (shared, place): (&Shared, usize),
) -> io::Result<Next> {
    let mut reader = BufReader::with_capacity(PIECE, server);
    let head = loop {
        let head = Head::read(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if !(100..200).contains(&head.status()) {
            break head;
        }
        // Of a body that came whole the client was told before.
        if !whole_body {
            client.write_all(&head.raw)?;
        }
    };
    shared.update(place, |seen| seen.served = Some(head.status()));
    let framing = head.answer_framing(asked.method());
    if head.status() >= 400 && shared.clerk.is_some() {
        let mut bytes = Vec::new();
        http::body(&mut reader, framing, &mut |piece| {
            if let Piece::Data(data) = piece {
                bytes.extend_from_slice(data);
            }
            Ok(())
        })?;
        let mut answer = Answer { status: head.status(), headers: head.headers, body: bytes };
        answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
        let answer = shared.told(asked, Some(&answer)).unwrap_or(answer);
        shared.update(place, |seen| seen.answered = Some(answer.status));
        client.write_all(&answer.bytes(asked.method()))?;
        return Ok(Next::Request);
    }
    if way.keep_answer {
        http::body(&mut reader, framing, &mut |_| Ok(()))?;
        return Ok(Next::Request);
    }
    thread::sleep(way.late);
    shared.update(place, |seen| seen.answered = Some(head.status()));
    client.write_all(&head.raw)?;
    let mut offset = 0;
    http::body(&mut reader, framing, &mut |piece| {
        let Piece::Data(data) = piece else { return client.write_all(piece.bytes()) };
        let mut data = data.to_vec();
        let begin = offset;
        offset += data.len() as u64;
        if let Some(byte) = way.flip.filter(|byte| (begin..offset).contains(byte)) {
            data[usize::try_from(byte - begin).expect("within a piece")] ^= 1;
        }
        if let Some(cut) = way.cut_answer.filter(|&cut| cut < offset) {
            client.write_all(&data[..usize::try_from(cut - begin).expect("within a piece")])?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        at_pace(way.answer_pace, &data, &mut |bytes| client.write_all(bytes))
    })?;
    Ok(if framing == Framing::UntilClosed || !head.keeps_open() {
        Next::End
    } else {
        Next::Request
    })
}

/// Gives bytes to `sink`, slowly if there is a pace.
fn at_pace(
    bytes_a_second: Option<u64>,
    bytes: &[u8],
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let Some(pace) = bytes_a_second else { return sink(bytes) };
    let drops = 20;
    let size = usize::try_from(pace / drops).unwrap_or(usize::MAX).max(1);
    for piece in bytes.chunks(size) {
        thread::sleep(Duration::from_secs_f64(piece.len() as f64 / pace as f64));
        sink(piece)?;
    }
    Ok(())
}
