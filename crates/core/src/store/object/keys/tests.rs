//! Credentials that come late, or not at all, whoever gives them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::*;
use crate::server::url::ObjectUrl;
use crate::store::object::fake::{self, Fake};
use crate::store::object::server_tests::tunnel;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(20);

fn way(options: &str, longest: Duration) -> Way {
    let url: ObjectUrl = format!("s3://bucket/p?region=r{options}").parse().unwrap();
    Way::new(&url, longest)
}

/// Does something within a search.
pub(super) fn searching<T>(each: impl FnOnce(&Search<'_>) -> T) -> T {
    each(&Search::new(&way("&proxy=none", LONG), &|| ()))
}

/// What a server does with a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Does {
    Answer(u16, &'static str),
    /// Answers so late.
    Late(Duration),
    /// Closes the connection.
    Cut,
    /// Sends a byte of its answer now and then, and never the last one.
    Drip,
}

/// Serves a request a connection. Returns where, and in the end what was asked.
pub(super) fn server(does: Vec<Does>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let serve = move |does| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut asked = String::new();
        while !asked.ends_with("\r\n\r\n") {
            reader.read_line(&mut asked).unwrap();
        }
        let head = |status: u16, len: usize| {
            format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\ncontent-length: {len}\r\n\r\n")
        };
        match does {
            Does::Answer(status, body) => {
                write!(stream, "{}{body}", head(status, body.len())).unwrap();
            }
            Does::Late(time) => {
                thread::sleep(time);
                let body = r#"{"access_token": "late", "expires_in": 3600}"#;
                write!(stream, "{}{body}", head(200, body.len())).unwrap();
            }
            Does::Cut => {}
            Does::Drip => {
                write!(stream, "{}", head(200, 100_000)).unwrap();
                while stream.write_all(b" ").is_ok() {
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
        asked
    };
    (at, thread::spawn(move || does.into_iter().map(serve).collect()))
}

fn get(uri: &str) -> http::Request<Bytes> {
    http::Request::get(uri).body(Bytes::new()).unwrap()
}

#[test]
fn what_may_pass_is_told_from_what_does_not() {
    for (status, passes) in
        [(400, false), (401, false), (403, false), (404, false), (408, true), (410, true)]
            .into_iter()
            .chain([(429, true), (500, true), (503, true)])
    {
        let (at, asked) = server(vec![Does::Answer(status, "")]);
        let answer = searching(|search| search.send(get(&at)).ok().unwrap());
        asked.join().unwrap();
        assert_eq!(answer.passes(), passes, "{status}");
        let Unsigned { refusal, retry_after, .. } = answer.unsigned(passes, String::new());
        let kind = if passes { ErrorKind::StorageBusy } else { ErrorKind::CredentialsRefused };
        assert_eq!((refusal.kind, retry_after), (kind, Some(Duration::from_secs(7))));
    }
    // A connection that was made shows that somebody is there.
    let (at, asked) = server(vec![Does::Cut]);
    let unanswered = searching(|search| search.send(get(&at)).err().unwrap());
    asked.join().unwrap();
    let unsigned = unanswered.unsigned("a token");
    assert!(!unanswered.is_nobody() && unsigned.passes);
    assert_eq!(unsigned.refusal.kind, ErrorKind::Unreachable);
    let host = at.strip_prefix("http://").unwrap();
    let says = format!(
        "a token could not be asked for: the connection to {host} broke before the answer: "
    );
    assert!(unsigned.refusal.text.starts_with(&says), "{}", unsigned.refusal.text);
    // Nobody listens there any more.
    let unanswered = searching(|search| search.send(get(&at)).err().unwrap());
    assert!(unanswered.is_nobody());
    let unanswered = searching(|search| search.send(get("http://10.0.0.1/x")).err().unwrap());
    let unsigned = unanswered.unsigned("a token");
    assert!(!unanswered.is_nobody() && !unsigned.passes, "{}", unsigned.refusal.text);
}

/// What comes a byte at a time was waited for without an end, and all workers with it.
#[test]
fn a_search_ends_in_time() {
    let (at, _) = server(vec![Does::Drip]);
    let way = way("&proxy=none", Duration::from_millis(500));
    let moved = AtomicUsize::new(0);
    let count = || {
        moved.fetch_add(1, Ordering::Relaxed);
    };
    let search = Search::new(&way, &count);
    let begun = Instant::now();
    let unsigned = search.send(get(&at)).err().unwrap().unsigned("a token");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(unsigned.passes && unsigned.refusal.text.contains("timed out"), "{unsigned:?}");
    assert!(moved.load(Ordering::Relaxed) > 0);
    let before = moved.load(Ordering::Relaxed);
    assert!(search.send(get(&at)).is_err());
    assert_eq!(moved.load(Ordering::Relaxed), before, "nothing more was asked");
}

/// A server of tokens behind a firewall was not asked by the proxy that the URL names, nor believed.
#[test]
fn what_gives_tokens_is_reached_as_the_storage_is() {
    let secure = Fake::tls();
    let temp = tempfile::tempdir().unwrap();
    let authority = temp.path().join("authority.pem");
    std::fs::write(&authority, fake::AUTHORITY).unwrap();
    let trust = format!("&ca_file={}", authority.display());
    let proxy = format!("&proxy=http://127.0.0.1:{}", tunnel(secure.port()));
    let there = || get("https://store.test/token");
    let send = |options: &str, request| {
        let way = way(options, LONG);
        let sent = Search::new(&way, &|| ()).send(request);
        sent.map_err(|unanswered| unanswered.unsigned("a token"))
    };
    assert!(send(&format!("{trust}{proxy}"), there()).is_ok());
    let unsigned = send(&proxy, there()).err().unwrap();
    assert_eq!(unsigned.refusal.kind, ErrorKind::CertificateRefused);
    assert!(!unsigned.passes && unsigned.refusal.text.contains("the certificate of store.test"));
    // What is on this machine is not asked for by a proxy: this one is not there.
    let nowhere = "&proxy=http://127.0.0.1:1";
    let refused = way(nowhere, LONG);
    let unanswered = Search::new(&refused, &|| ()).send(there()).err().unwrap();
    assert!(!unanswered.is_nobody(), "it is elsewhere");
    let unsigned = unanswered.unsigned("a token");
    assert!(unsigned.passes && unsigned.refusal.kind == ErrorKind::Unreachable, "{unsigned:?}");
    let here = get(&format!("https://localhost:{}/token", secure.port()));
    assert!(send(&format!("{trust}{nowhere}"), here).is_ok());
    let (at, asked) = server(vec![Does::Answer(200, "")]);
    assert!(send(nowhere, get(&at)).is_ok());
    asked.join().unwrap();
}

#[cfg(any(feature = "azure", feature = "gcs"))]
#[test]
fn of_an_error_no_sentence_is_told() {
    for (body, code) in [
        (r#"{"error": "invalid_grant", "error_description": "hunter2"}"#, Some("invalid_grant")),
        (
            r#"{"error": {"status": "PERMISSION_DENIED", "message": "hunter2"}}"#,
            Some("PERMISSION_DENIED"),
        ),
        (r#"{"error": "call +49 (555) <now>"}"#, Some("call49555now")),
        (r#"{"error": "<>"}"#, None),
        (r#"{"error": {}}"#, None),
        ("hunter2", None),
    ] {
        let (at, asked) = server(vec![Does::Answer(400, body)]);
        let answer = searching(|search| search.send(get(&at)).ok().unwrap());
        asked.join().unwrap();
        assert_eq!(answer.code().as_deref(), code, "{body}");
    }
    let long: &str = Box::leak(format!(r#"{{"error": "{}"}}"#, "x".repeat(1000)).into());
    let (at, asked) = server(vec![Does::Answer(400, long)]);
    let answer = searching(|search| search.send(get(&at)).ok().unwrap());
    asked.join().unwrap();
    assert_eq!(answer.code().unwrap().len(), 64);
}

/// A chain whose searches take a while, and fail if they are to.
#[derive(Debug, Default)]
struct Slow {
    searches: AtomicUsize,
    fails: AtomicBool,
    is_over: AtomicBool,
}

impl Chain for &Slow {
    type Credential = usize;

    fn find(&self, _: &Search<'_>) -> Result<usize, Unsigned> {
        let searches = self.searches.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(200));
        let refusal = Refusal {
            kind: ErrorKind::StorageBusy,
            text: format!("search {searches}"),
            request_id: None,
        };
        match self.fails.load(Ordering::Relaxed) {
            true => Err(Unsigned { refusal, passes: true, retry_after: None }),
            false => Ok(searches),
        }
    }

    /// Each is to be renewed at once.
    fn is_good(&self, _: &usize) -> bool {
        false
    }

    fn is_valid(&self, _: &usize) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn sign(&self, found: &usize, parts: &mut Parts, _: Option<u64>) -> Result<(), Refusal> {
        parts.headers.insert("found", (*found).into());
        Ok(())
    }
}

fn signed(kept: &Kept<&Slow>) -> Result<String, String> {
    let mut parts = get("http://127.0.0.1/").into_parts().0;
    kept.sign(&mut parts, None, &|| ()).map_err(|unsigned| unsigned.refusal.text)?;
    Ok(parts.headers["found"].to_str().unwrap().to_owned())
}

/// Eight workers asked one after the other for what was refused to the first, ten seconds each.
#[test]
fn who_has_waited_for_a_search_takes_what_came_of_it() {
    let slow = Slow { fails: true.into(), ..Slow::default() };
    let kept = Kept::new(&slow, way("", LONG));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(|| signed(&kept))).collect();
        for worker in workers {
            assert_eq!(worker.join().unwrap(), Err("search 0".to_owned()));
        }
    });
    assert_eq!(slow.searches.load(Ordering::Relaxed), 1);
    // Who comes later asks again.
    thread::sleep(Duration::from_millis(100));
    slow.fails.store(false, Ordering::Relaxed);
    assert_eq!(signed(&kept), Ok("1".to_owned()));
}

/// Metadata that were away for a moment ended a recovery whose token was good for two more minutes.
#[test]
fn what_was_found_before_is_used_while_there_is_nothing_new() {
    let slow = Slow::default();
    let kept = Kept::new(&slow, way("", LONG));
    assert_eq!(signed(&kept), Ok("0".to_owned()));
    slow.fails.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(signed(&kept), Ok("0".to_owned()));
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(slow.searches.load(Ordering::Relaxed), 2, "it is not asked for with each request");
    slow.is_over.store(true, Ordering::Relaxed);
    assert_eq!(signed(&kept), Err("search 2".to_owned()));
    // What the storage has refused is not used again.
    slow.is_over.store(false, Ordering::Relaxed);
    kept.forget();
    assert_eq!(signed(&kept), Err("search 3".to_owned()));
}
