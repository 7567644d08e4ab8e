//! Each fault, on a server with objects in memory.

mod memory;

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use self::memory::Memory;
use super::{Fault, Proxy};
use crate::command::run;
use crate::object::http::{self, Answer, Head};
use crate::object::latency::Latency;
use crate::scratch::Scratch;
use crate::wait::{TIMEOUT, wait_until};

fn setup() -> (Memory, Proxy) {
    let memory = Memory::new();
    let proxy = Proxy::in_front_of(memory.address);
    (memory, proxy)
}

fn head(method: &str, key: &str, length: usize) -> String {
    format!("{method} {key} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n")
}

fn put(to: SocketAddr, key: &str, body: &[u8]) -> io::Result<Answer> {
    http::exchange(to, "PUT", &head("PUT", key, body.len()), body)
}

fn get(from: SocketAddr, key: &str) -> io::Result<Answer> {
    http::exchange(from, "GET", &head("GET", key, 0), b"")
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[test]
fn what_is_not_broken_passes() {
    let (memory, proxy) = setup();
    let body = bytes(300_000);
    let mut stream = http::connect(proxy.address()).unwrap();
    // Several requests on one connection.
    stream.write_all(head("PUT", "/a", body.len()).as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(Answer::read(&mut reader, "PUT").unwrap().status, 200);
    for (method, key, status) in [("HEAD", "/a", 200), ("GET", "/a", 200), ("GET", "/b?x=1", 404)] {
        stream.write_all(head(method, key, 0).as_bytes()).unwrap();
        let answer = Answer::read(&mut reader, method).unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.body == body, (method, status) == ("GET", 200));
    }
    // A chunked body, piece by piece.
    let chunked = "PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x=y\r\nhello\r\n7\r\n there\n\r\n0\r\nTrailer: 1\r\n\r\n";
    stream.write_all(chunked.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut reader, "PUT").unwrap().status, 200);
    assert_eq!(memory.get("/c").unwrap(), b"hello there\n");
    let seen = proxy.seen();
    assert_eq!(seen.len(), 5);
    assert_eq!((seen[0].method.as_str(), seen[0].body), ("PUT", 300_000));
    assert_eq!((seen[0].served, seen[0].answered, seen[0].broken), (Some(200), Some(200), false));
    assert!(seen[0].came.unwrap() >= seen[0].began && seen[3].header("host") == Some("test"));
    assert_eq!((seen[3].target.as_str(), seen[3].served), ("/b?x=1", Some(404)));
    assert_eq!(proxy.requests("GET", "x=1").len(), 1);
    assert_eq!(seen[4].body, 12);
}

/// curl asks to be told to go on before it sends a large body.
#[test]
fn curl_speaks_through_it() {
    for whole in [false, true] {
        let (memory, proxy) = setup();
        if whole {
            proxy.hold_bodies();
        }
        let dir = Scratch::new("curl");
        let body = bytes(2 << 20);
        std::fs::write(dir.join("body"), &body).unwrap();
        let url = format!("http://{}/a", proxy.address());
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "-w", "%{http_code}", "-H", "Expect: 100-continue"]);
        assert_eq!(run(curl.arg("-T").arg(dir.join("body")).arg(&url)), "200");
        assert_eq!(memory.get("/a").unwrap(), body);
        let redirect = Fault::Answer(Answer::redirect(307, "http://127.0.0.1:1/elsewhere"));
        let broken = proxy.break_next("GET", "/a", redirect);
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--noproxy",
            "*",
            "-w",
            " %{http_code} %{redirect_url}",
            "-o",
            "/dev/null",
        ]);
        assert_eq!(run(curl.arg(&url)), " 307 http://127.0.0.1:1/elsewhere");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "-o"]).arg(dir.join("back")).arg(&url);
        run(&mut curl);
        assert_eq!(dir.read("back"), body);
        assert_eq!((broken.times(), memory.requests()), (1, 2));
    }
}

#[test]
fn an_answer_of_its_own_reaches_no_server() {
    let (memory, proxy) = setup();
    let body = bytes(100_000);
    let conflict = Answer::error(409, "ConditionalRequestConflict");
    let busy = Answer::error(429, "SlowDown").with("Retry-After", "7");
    let inside = Answer::error(200, "InternalError");
    for (fault, status, code) in [
        (Fault::Answer(conflict), 409, "ConditionalRequestConflict"),
        (Fault::Answer(busy), 429, "SlowDown"),
        (Fault::Answer(inside), 200, "InternalError"),
    ] {
        let broken = proxy.break_next("PUT", "/a", fault);
        let answer = put(proxy.address(), "/a", &body).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert_eq!(answer.header("retry-after"), (status == 429).then_some("7"));
        let seen = broken.done();
        assert_eq!((seen.body, seen.served, seen.answered), (100_000, None, Some(status)));
    }
    assert_eq!(memory.requests(), 0);
    // Each met one request: the next passes.
    assert_eq!(put(proxy.address(), "/a", &body).unwrap().status, 200);
    assert_eq!(memory.get("/a").unwrap(), body);
}

#[test]
fn an_early_answer_comes_before_the_body() {
    let (memory, proxy) = setup();
    let broken = proxy.break_next("PUT", "/a", Fault::AnswerEarly(Answer::error(503, "SlowDown")));
    // The second is one of the server's own.
    for (key, status) in [("/a", 503), ("/early", 403)] {
        let mut stream = http::connect(proxy.address()).unwrap();
        stream.write_all(head("PUT", key, 1000).as_bytes()).unwrap();
        let answer = Answer::read(&mut BufReader::new(&stream), "PUT").unwrap();
        assert_eq!(answer.status, status);
        drop(stream);
    }
    assert_eq!(broken.done().body, 0);
    wait_until(TIMEOUT, "the server to see the end", || {
        (memory.objects.lock().unwrap().cut == 1).then_some(())
    });
    assert_eq!(memory.requests(), 1);
}

#[test]
fn a_request_that_is_cut_is_not_carried_out() {
    let (memory, proxy) = setup();
    let body = bytes(200_000);
    let wait_cut = |count: usize| {
        wait_until(TIMEOUT, "the server to see the end", || {
            (memory.objects.lock().unwrap().cut == count).then_some(())
        });
    };
    // The last would be the whole of it.
    for (i, after) in [0, 1, 100_000, 200_000].into_iter().enumerate() {
        let broken = proxy.break_next("PUT", "/a", Fault::CutRequest { after });
        assert!(put(proxy.address(), "/a", &body).is_err());
        assert_eq!(broken.done().served, None);
        wait_cut(i + 1);
    }
    let broken = proxy.break_next("GET", "/a", Fault::CutRequest { after: 9 });
    assert!(get(proxy.address(), "/a").is_err());
    assert_eq!(broken.done().served, None);
    let chunked = "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let broken = proxy.break_next("PUT", "/a", Fault::CutRequest { after: 99 });
    assert!(http::exchange(proxy.address(), "PUT", chunked, b"").is_err());
    assert_eq!(broken.done().served, None);
    wait_cut(5);
    assert_eq!((memory.get("/a"), memory.requests()), (None, 5));
}

#[test]
fn what_breaks_after_the_commit_is_carried_out() {
    let (memory, proxy) = setup();
    let unavailable = Answer::error(503, "ServiceUnavailable");
    for (key, fault, answered) in [
        ("/answer", Fault::CommitThenAnswer(unavailable), Some(503)),
        ("/cut", Fault::CommitThenCut, None),
    ] {
        let body = bytes(100_000);
        let broken = proxy.break_next("PUT", key, fault);
        let answer = put(proxy.address(), key, &body);
        assert_eq!(answer.as_ref().ok().map(|answer| answer.status), answered);
        let seen = broken.done();
        assert_eq!((seen.served, seen.answered), (Some(200), answered));
        assert_eq!(memory.get(key).unwrap(), body);
    }
}

#[test]
fn a_hang_ends_with_the_client_or_the_test() {
    let (memory, proxy) = setup();
    for (fault, served) in [
        (Fault::Hang { after: 0 }, None),
        (Fault::Hang { after: u64::MAX }, None),
        (Fault::CommitThenHang, Some(200)),
    ] {
        for by_client in [true, false] {
            let broken = proxy.break_next("PUT", "/a", fault.clone());
            let mut stream = http::connect(proxy.address()).unwrap();
            // Short, so that it is sent whole to somebody who does not read it.
            stream.write_all(head("PUT", "/a", 3).as_bytes()).unwrap();
            stream.write_all(b"abc").unwrap();
            let seen = broken.begun();
            assert!(seen.broken && seen.answered.is_none());
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let error = stream.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            if by_client {
                stream.shutdown(Shutdown::Both).unwrap();
            } else {
                proxy.mend();
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
            }
            let seen = broken.done();
            assert_eq!((seen.served, seen.answered), (served, None));
        }
    }
    assert_eq!(memory.requests(), 2);
}

#[test]
fn drops_take_their_time() {
    let (memory, proxy) = setup();
    let body = bytes(10_000);
    for (method, fault) in [
        ("PUT", Fault::DripRequest { bytes_a_second: 40_000 }),
        ("GET", Fault::DripAnswer { bytes_a_second: 40_000 }),
        ("GET", Fault::Late(Duration::from_millis(250))),
    ] {
        let broken = proxy.break_next(method, "/a", fault);
        let began = Instant::now();
        if method == "PUT" {
            assert_eq!(put(proxy.address(), "/a", &body).unwrap().status, 200);
        } else {
            assert_eq!(get(proxy.address(), "/a").unwrap().body, body);
        }
        assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
        assert_eq!(broken.done().served, Some(200));
    }
    assert_eq!(memory.get("/a").unwrap(), body);
}

#[test]
fn an_answer_is_cut_short_or_has_a_flipped_bit() {
    let (memory, proxy) = setup();
    let body = bytes(300_000);
    memory.objects.lock().unwrap().whole.insert("/a".to_owned(), body.clone());
    for after in [0, 1, 200_000, 299_999] {
        let broken = proxy.break_next("GET", "/a", Fault::CutAnswer { after });
        let mut stream = http::connect(proxy.address()).unwrap();
        stream.write_all(head("GET", "/a", 0).as_bytes()).unwrap();
        let mut reader = BufReader::new(&stream);
        let answer = Head::read(&mut reader).unwrap().unwrap();
        assert_eq!(answer.header("content-length"), Some("300000"));
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, body[..usize::try_from(after).unwrap()]);
        assert_eq!(broken.done().answered, Some(200));
    }
    for byte in [0, 70_000, 299_999] {
        let broken = proxy.break_next("GET", "/a", Fault::FlipBit { byte });
        let answer = get(proxy.address(), "/a").unwrap();
        let mut expected = body.clone();
        expected[usize::try_from(byte).unwrap()] ^= 1;
        assert!(answer.body == expected, "{byte}");
        broken.done();
    }
    assert_eq!(get(proxy.address(), "/a").unwrap().body, body);
}

/// What the order of publishing depends on: a body whose end is held back is at the server all but that, and a
/// proxy that takes whole bodies makes a difference.
#[test]
fn a_body_that_is_held_back_is_seen_by_the_server_or_not() {
    for whole in [false, true] {
        let (memory, proxy) = setup();
        if whole {
            proxy.hold_bodies();
        }
        let mut stream = http::connect(proxy.address()).unwrap();
        stream.write_all(head("PUT", "/held", 1000).as_bytes()).unwrap();
        stream.write_all(&[1; 999]).unwrap();
        wait_until(TIMEOUT, "the proxy to see it", || {
            (proxy.seen().first()?.body == 999).then_some(())
        });
        if !whole {
            wait_until(TIMEOUT, "the server to see it", || (memory.requests() == 1).then_some(()));
        }
        // Others pass meanwhile.
        assert_eq!(put(proxy.address(), "/b", b"b").unwrap().status, 200);
        assert_eq!(memory.requests(), if whole { 1 } else { 2 });
        assert!(memory.get("/held").is_none());
        stream.write_all(&[1]).unwrap();
        let answer = Answer::read(&mut BufReader::new(&stream), "PUT").unwrap();
        assert_eq!((answer.status, memory.get("/held").unwrap()), (200, vec![1; 1000]));
    }
}

#[test]
fn each_request_is_broken_until_the_proxy_is_mended() {
    let (_memory, proxy) = setup();
    let fault = Fault::Answer(Answer::error(500, "InternalError"));
    let broken = proxy.break_each("PUT", "00000001", fault);
    for _ in 0..3 {
        assert_eq!(put(proxy.address(), "/wal/00000001", b"x").unwrap().status, 500);
        assert_eq!(put(proxy.address(), "/wal/00000002", b"x").unwrap().status, 200);
    }
    assert_eq!(broken.times(), 3);
    proxy.mend();
    assert_eq!(put(proxy.address(), "/wal/00000001", b"x").unwrap().status, 200);
}

#[test]
fn a_fault_that_met_no_request_fails_the_test() {
    let failed = std::panic::catch_unwind(|| {
        let (_memory, proxy) = setup();
        let _never = proxy.break_next("PUT", "/a", Fault::CommitThenCut);
        put(proxy.address(), "/b", b"x").unwrap();
    });
    assert!(failed.is_err());
}

#[test]
fn a_network_may_be_slow_to_answer_and_still_carry_much() {
    let memory = Memory::new();
    let each_way = Duration::from_millis(20);
    let latency = Latency::in_front_of(memory.address, each_way);
    let began = Instant::now();
    assert_eq!(put(latency.address(), "/a", b"x").unwrap().status, 200);
    // One way there and back for the connection, and for the request.
    assert!(began.elapsed() >= 4 * each_way, "{:?}", began.elapsed());
    let body = bytes(64 << 20);
    let began = Instant::now();
    assert_eq!(put(latency.address(), "/b", &body).unwrap().status, 200);
    let elapsed = began.elapsed();
    assert_eq!(memory.get("/b").unwrap(), body);
    // One piece after the other, 1024 of them would take 20 s.
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    // A connection that the other side closes is closed here too.
    let address = latency.address();
    let mut stream = http::connect(address).unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\n").unwrap();
    drop(latency);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    assert!(TcpStream::connect(address).is_err());
}
