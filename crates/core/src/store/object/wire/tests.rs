//! Servers that say what they like.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::Request;
use rustls::{ServerConnection, StreamOwned};

use super::{Begun, Dial, Failure, Lines, Reply, Trust, Via};
use crate::server::url::Endpoint;
use crate::store::object::fake::{AUTHORITY, certified};

/// Longer than any server takes that answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that gives each request, whose head it reads, the next of its answers, and then closes the
/// connection, at once or after it has read on to the client's end.
struct Server {
    port: u16,
    /// How many connections there were.
    connections: Arc<AtomicUsize>,
}

/// What a server says to each request over a connection, and whether it then closes without reading on.
#[derive(Clone, Copy)]
struct Says(&'static [&'static [u8]], bool);

impl Server {
    fn new(says: Says, tls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                // Otherwise the answer waits until the beginning of TLS was acknowledged, and a close discards it.
                tcp.set_nodelay(true).unwrap();
                thread::spawn(move || {
                    if tls {
                        let server = ServerConnection::new(certified()).unwrap();
                        let mut stream = StreamOwned::new(server, tcp);
                        say(&mut stream, says);
                        end(&stream.sock, says);
                    } else {
                        let mut stream = tcp;
                        say(&mut stream, says);
                        end(&stream, says);
                    }
                });
            }
        });
        Self { port, connections }
    }

    fn lines(&self, tls: bool, patience: Duration) -> Arc<Lines> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), AUTHORITY).unwrap();
        let server = Endpoint { tls, host: "localhost".to_owned(), port: self.port };
        let trust = Trust::new(tls.then(|| file.path().to_owned()));
        let via = Via::default();
        let lines = Lines::new(Dial { server, via, trust, connect: patience, patience });
        if tls {
            // The certificates are read with the first connection.
            drop(lines.fresh().unwrap());
        }
        lines
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn say(stream: &mut (impl Read + Write), Says(answers, _): Says) {
    for answer in answers {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        stream.write_all(answer).unwrap();
        stream.flush().unwrap();
    }
}

fn end(mut tcp: &TcpStream, Says(_, at_once): Says) {
    if !at_once {
        let _ = tcp.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut tcp, &mut std::io::sink());
    }
}

fn ask(lines: &Arc<Lines>, body: &[u8]) -> Result<Reply, Failure> {
    let request = match body.len() {
        0 => Request::get("http://localhost/a?b"),
        len => Request::put("http://localhost/a?b").header("content-length", len),
    };
    let request = request.header("host", "localhost").body(()).unwrap();
    let mut begun = Begun::new(lines, request, false, &|| ())?;
    for piece in body.chunks(1 << 20) {
        begun.send(piece, &|| ());
    }
    begun.answer()
}

fn text(reply: &mut Reply) -> std::io::Result<String> {
    let mut text = String::new();
    reply.body.read_to_string(&mut text)?;
    Ok(text)
}

/// A server refuses a request by its head, and closes: the answer was lost to the error of sending on, and what
/// is not known to have failed for good is sent again, all of it.
#[test]
fn an_answer_before_the_end_of_the_body_is_read() {
    let body = vec![7; 16 << 20];
    let answer: &[&[u8]] = &[b"HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nhello"];
    for (at_once, tls) in [(true, false), (false, false), (true, true), (false, true)] {
        for _ in 0..5 {
            let server = Server::new(Says(answer, at_once), tls);
            let lines = server.lines(tls, PATIENCE);
            let reply = ask(&lines, &body);
            let mut reply = reply.unwrap_or_else(|e| panic!("{at_once} {tls} {e:?}"));
            assert_eq!(reply.status, 403);
            assert_eq!(text(&mut reply).unwrap(), "hello", "at once: {at_once}, TLS: {tls}");
            // What was not sent would be taken for the next request.
            assert!(lines.kept().is_none());
        }
    }
}

/// A connection is used again if it is known where the answer ended, and no other answer is on its way.
#[test]
fn a_connection_is_kept_after_a_whole_answer() {
    let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".as_slice();
    for (answer, kept) in [
        (plain, true),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\na: b\r\n\r\n", true),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", true),
        (b"HTTP/1.1 302 Found\r\nlocation: http://example.com/\r\ncontent-length: 2\r\n\r\nhi", true),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nhi", false),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", false),
        (b"HTTP/1.1 200 OK\r\n\r\nhi", false),
        // More than was asked for.
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n", false),
    ] {
        let said = String::from_utf8_lossy(answer);
        // A whole body to an answer that only ends with the connection comes but once.
        let answers: &'static [&'static [u8]] =
            if kept { Box::leak(Box::new([answer, plain])) } else { Box::leak(Box::new([answer])) };
        let server = Server::new(Says(answers, false), false);
        let lines = server.lines(false, PATIENCE);
        let mut reply = ask(&lines, b"").unwrap();
        assert!(matches!(reply.status, 200 | 302), "{said}");
        assert_eq!(text(&mut reply).unwrap(), "hi", "{said}");
        let mut reply = ask(&lines, b"").unwrap();
        assert_eq!(text(&mut reply).unwrap(), "hi", "{said}");
        assert_eq!(server.connections(), if kept { 1 } else { 2 }, "{said}");
    }
    // The rest of a body that was not read would be the beginning of the next answer.
    let server = Server::new(
        Says(&[b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome", b""], false),
        false,
    );
    let lines = server.lines(false, PATIENCE);
    drop(ask(&lines, b"").unwrap());
    drop(ask(&lines, b"").unwrap());
    assert_eq!(server.connections(), 2);
}

/// A body that is cut is an error, each time that it is read, and never a shorter body.
#[test]
fn a_cut_body_is_an_error_and_not_the_end() {
    for answer in [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome".as_slice(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nsome",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsomethingelse\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nlong\r\nsome\r\n0\r\n\r\n",
    ] {
        for tls in [false, true] {
            let answers: &'static [&'static [u8]] = Box::leak(Box::new([answer]));
            let lines = Server::new(Says(answers, false), tls).lines(tls, PATIENCE);
            let mut reply = ask(&lines, b"").unwrap();
            let mut bytes = Vec::new();
            for _ in 0..2 {
                let error = reply.body.read_to_end(&mut bytes).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET), "{answer:?} {error}");
            }
            assert!(bytes.len() <= 4);
            assert!(lines.kept().is_none());
        }
    }
}

#[test]
fn what_is_no_answer_is_told_from_an_answer_that_did_not_come() {
    let garbled = |answer: Vec<u8>| {
        let answers: &'static [&'static [u8]] = Box::leak(Box::new([&*answer.leak()]));
        let lines = Server::new(Says(answers, false), false).lines(false, PATIENCE);
        match ask(&lines, b"") {
            Err(Failure::Garbled { what, .. }) => what,
            other => panic!("{:?}", other.map(|reply| reply.status)),
        }
    };
    assert_eq!(garbled(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()), "it is not HTTP");
    assert_eq!(garbled(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n".to_vec()), "it is not HTTP");
    assert_eq!(
        garbled(format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(70_000)).into()),
        "its headers are too long"
    );
    assert_eq!(
        garbled(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(200)).into()),
        "it is not HTTP"
    );
    for answer in [b"".as_slice(), b"HTTP/1.1 200 OK\r\ncontent-le"] {
        let answers: &'static [&'static [u8]] = Box::leak(Box::new([answer]));
        let lines = Server::new(Says(answers, false), false).lines(false, PATIENCE);
        assert!(matches!(ask(&lines, b""), Err(Failure::Cut { reused: false, .. })));
    }
}

/// Once nothing more can be sent, what is not answered yet is not waited for once more.
#[test]
fn an_answer_that_does_not_come_is_waited_for_so_long_and_no_longer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Server { port, connections: Arc::default() };
    let lines = server.lines(false, Duration::from_secs(1));
    for (len, limits) in [(0, 1), (64 << 20, 3)] {
        let begun = Instant::now();
        let Err(Failure::Cut { source, .. }) = ask(&lines, &vec![7; len]) else { panic!() };
        assert_eq!(source.raw_os_error(), Some(libc::ETIMEDOUT));
        let took = begun.elapsed();
        assert!(
            took >= Duration::from_secs(1) && took < Duration::from_secs(limits + 5),
            "{took:?}"
        );
    }
}
