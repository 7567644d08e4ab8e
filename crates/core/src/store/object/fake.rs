//! A small server that speaks S3, in memory, and breaks the requests that a test wants broken.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::server::url::text::{percent_decode, percent_encode};

#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "gcs")]
mod google;

/// An authority of the tests' own.
pub(super) const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBljCCAT2gAwIBAgIUWcfeiHJwL4tjtFGWFs/REFSOp40wCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNd2Fsc2FmZSB0ZXN0czAgFw0yNjExMjkxMzEyMzBaGA8yMTI2
MTEwNTEzMTIzMFowGDEWMBQGA1UEAwwNd2Fsc2FmZSB0ZXN0czBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABKGnAtGAWCKroQc+uFAX5hL3UxDmimltwJ1SbE92pHxg
yR0OFGzNHrerUXTUjGD359zs1Ntp0ABHMZiSZPXF1W6jYzBhMB0GA1UdDgQWBBR0
GMzJvCdS0txvRsFItqeZW3l4yTAfBgNVHSMEGDAWgBR0GMzJvCdS0txvRsFItqeZ
W3l4yTAPBgNVHRMBAf8EBTADAQH/MA4GA1UdDwEB/wQEAwICBDAKBggqhkjOPQQD
AgNHADBEAiBObH5qUk3ZbbGwg2WwbZxV2a6ujUM9xncyiTITofxyJgIgCNDfCwS7
vLp4l/w8SsZQ7zxHk+DzchM7hJlCpRYutRE=
-----END CERTIFICATE-----
";
/// What it has signed, for "localhost" and "store.test", until the year 2126.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBuDCCAV2gAwIBAgIUMOKOQMcRKs+7j5afM1ChjKYYuGAwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNd2Fsc2FmZSB0ZXN0czAgFw0yNjExMjkxMzEyMzBaGA8yMTI2
MTEwNTEzMTIzMFowFTETMBEGA1UEAwwKc3RvcmUudGVzdDBZMBMGByqGSM49AgEG
CCqGSM49AwEHA0IABCB9QrTvG5GNUCydrKmLFCBW2oW2e5xJT/fZ2EfmhNINTTsb
7izRUAxJIfbSJqePuH+xKzYUy6zbohrsEkUOAvajgYUwgYIwIAYDVR0RBBkwF4IJ
bG9jYWxob3N0ggpzdG9yZS50ZXN0MAkGA1UdEwQCMAAwEwYDVR0lBAwwCgYIKwYB
BQUHAwEwHQYDVR0OBBYEFE6Ti8RGsPs9f9aqbXctt5jHwiL0MB8GA1UdIwQYMBaA
FHQYzMm8J1LS3G9GwUi2p5lbeXjJMAoGCCqGSM49BAMCA0kAMEYCIQD+yV2JThl/
H1OCTU4Ki5O/ZSujZFjRrcEgCamA2HwR7wIhANCicE/JIz/98xXcuN2Bgk116nGP
6OwP/A2pUJwrga15
-----END CERTIFICATE-----
";
/// Of this certificate alone, and so no secret.
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgiuNzhgdGehy1U91h
DxDCT8oLDsGlf2fJwidmIJnix4OhRANCAAQgfUK07xuRjVAsnaypixQgVtqFtnuc
SU/32dhH5oTSDU07G+4s0VAMSSH20ianj7h/sSs2FMus26Ia7BJFDgL2
-----END PRIVATE KEY-----
";

/// A connection, plain or under TLS.
trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// How a request is broken.
#[derive(Debug, Clone)]
pub(super) enum Break {
    /// Not done, and answered so.
    Refuse(u16, &'static str),
    /// Done, and answered so.
    DoAndRefuse(u16, &'static str),
    /// Done or not, and not answered.
    Cut { done: bool },
    /// Neither done nor answered, for so long.
    Hang(Duration),
    /// The answer to a GET ends after so many bytes of the object.
    Short(usize),
    /// A bit of the object is another.
    Flip,
    /// The head of the answer comes a byte at a time.
    Drip,
}

/// A request that is to be broken: its method, and what its target contains.
pub(super) type Broken = (&'static str, &'static str, Break);

#[derive(Debug, Clone)]
struct Stored {
    bytes: Vec<u8>,
    headers: Headers,
}

type Headers = Vec<(String, String)>;

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    to_break: VecDeque<Broken>,
    /// Method, target and headers of each request.
    seen: Vec<(String, String, Headers)>,
    /// How many requests ended before their bodies did.
    unfinished: usize,
    hangs_are_over: bool,
    replaces: bool,
    page: Option<usize>,
    flaws: Flaws,
    /// What it answers to those who ask for a kind of the bucket's rules.
    rules: BTreeMap<&'static str, String>,
}

/// What is wrong with a server, or with the keys to it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flaws {
    /// The keys may not remove objects.
    pub(super) no_removal: bool,
    pub(super) trusts_md5: bool,
    pub(super) trusts_sha256: bool,
    /// It stores what it refuses for its digest.
    pub(super) stores_refused: bool,
    /// It stores what has come of a body that breaks off.
    pub(super) stores_half: bool,
}

/// The server. It has one bucket, named "bucket".
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
    port: u16,
    ended: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self::under(None)
    }

    /// Speaks TLS.
    pub(super) fn tls() -> Self {
        Self::under(Some(certified()))
    }

    fn under(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, ended) = (Arc::<Mutex<State>>::default(), Arc::new(AtomicBool::new(false)));
        let (shared, over) = (Arc::clone(&state), Arc::clone(&ended));
        let listening = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                thread::spawn(move || {
                    let stream: Box<dyn Stream> = match tls {
                        None => Box::new(stream),
                        Some(config) => Box::new(StreamOwned::new(
                            ServerConnection::new(config).unwrap(),
                            stream,
                        )),
                    };
                    serve(&state, stream);
                });
            }
        });
        Self { state, port, ended, listening: Some(listening) }
    }

    pub(super) fn url(&self, prefix: &str) -> String {
        format!("s3://bucket{prefix}?endpoint=http://127.0.0.1:{}", self.port)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Breaks the next request that fits.
    pub(super) fn break_next(&self, broken: Broken) {
        self.state.lock().unwrap().to_break.push_back(broken);
    }

    /// Makes sure that all that was to be broken was.
    pub(super) fn all_broken(&self) {
        let left = &self.state.lock().unwrap().to_break;
        assert!(left.is_empty(), "{left:?} never came");
    }

    /// Replaces objects, whatever the condition says.
    pub(super) fn replace(&self, replaces: bool) {
        self.state.lock().unwrap().replaces = replaces;
    }

    pub(super) fn flaws(&self, flaws: Flaws) {
        self.state.lock().unwrap().flaws = flaws;
    }

    pub(super) fn rule(&self, kind: &'static str, text: &str) {
        self.state.lock().unwrap().rules.insert(kind, text.to_owned());
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Gives so many names a page.
    pub(super) fn page(&self, names: usize) {
        self.state.lock().unwrap().page = Some(names);
    }

    pub(super) fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().objects.get(key).map(|stored| stored.bytes.clone())
    }

    pub(super) fn store(&self, key: &str, bytes: &[u8]) {
        let stored = Stored { bytes: bytes.to_vec(), headers: Vec::new() };
        self.state.lock().unwrap().objects.insert(key.to_owned(), stored);
    }

    pub(super) fn remove(&self, key: &str) {
        self.state.lock().unwrap().objects.remove(key);
    }

    /// How many requests ended before their bodies did.
    pub(super) fn unfinished(&self) -> usize {
        self.state.lock().unwrap().unfinished
    }

    /// Ends all requests that hang.
    pub(super) fn end_hangs(&self) {
        self.state.lock().unwrap().hangs_are_over = true;
    }

    /// How many requests of a method there were whose targets contain this.
    pub(super) fn count(&self, method: &str, part: &str) -> usize {
        let seen = &self.state.lock().unwrap().seen;
        seen.iter().filter(|(m, target, _)| m == method && target.contains(part)).count()
    }

    /// The same, of those with a header.
    pub(super) fn count_with_header(&self, method: &str, part: &str, name: &str) -> usize {
        let seen = &self.state.lock().unwrap().seen;
        let fits = |(m, target, headers): &&(String, String, Headers)| {
            m == method && target.contains(part) && header(headers, name).is_some()
        };
        seen.iter().filter(fits).count()
    }

    /// Gives an object other bytes, and leaves what it carries.
    pub(super) fn change(&self, key: &str, bytes: &[u8]) {
        self.state.lock().unwrap().objects.get_mut(key).unwrap().bytes = bytes.to_vec();
    }

    /// Returns a header of the last request of a method.
    pub(super) fn header(&self, method: &str, name: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        let (_, _, headers) = state.seen.iter().rev().find(|(m, ..)| m == method)?;
        header(headers, name).map(str::to_owned)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        // On return nobody answers there any more.
        let _ = self.listening.take().map(JoinHandle::join);
    }
}

/// What a server needs that shows the certificate.
pub(super) fn certified() -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap(),
        )
        .unwrap();
    Arc::new(config)
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn serve(state: &Mutex<State>, stream: Box<dyn Stream>) {
    let mut reader = BufReader::new(stream);
    while let Ok(Some(())) = one(state, &mut reader) {}
}

/// Serves one request. `None` ends the connection.
fn one(state: &Mutex<State>, reader: &mut BufReader<Box<dyn Stream>>) -> io::Result<Option<()>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let len = header(&headers, "content-length").map_or(0, |len| len.parse().unwrap());
    let mut body = Vec::new();
    reader.by_ref().take(len as u64).read_to_end(&mut body)?;

    let mut locked = state.lock().unwrap();
    if body.len() < len {
        locked.unfinished += 1;
        if locked.flaws.stores_half {
            let key = target.trim_start_matches("/bucket/").to_owned();
            locked.objects.insert(key, Stored { bytes: body, headers: Vec::new() });
        }
        return Ok(None);
    }

    locked.seen.push((method.clone(), target.clone(), headers.clone()));
    let fits = |(m, part, _): &Broken| *m == method && target.contains(part);
    let broken = locked.to_break.iter().position(fits);
    let broken = broken.and_then(|at| locked.to_break.remove(at)).map(|(.., how)| how);
    let mut answer = match &broken {
        Some(Break::Refuse(status, code)) => refuse_of(&target, *status, code),
        Some(Break::Cut { done: false }) => return Ok(None),
        Some(Break::Hang(time)) => {
            let (begun, time) = (Instant::now(), *time);
            drop(locked);
            while begun.elapsed() < time && !state.lock().unwrap().hangs_are_over {
                thread::sleep(Duration::from_millis(20));
            }
            return Ok(None);
        }
        _ => locked.done(&method, &target, &headers, &body),
    };
    drop(locked);
    match broken {
        Some(Break::DoAndRefuse(status, code)) => answer = refuse_of(&target, status, code),
        Some(Break::Cut { done: true }) => return Ok(None),
        Some(Break::Flip) => *answer.2.last_mut().unwrap() ^= 1,
        _ => {}
    }
    let (status, headers, body) = answer;
    let stream = reader.get_mut();
    let mut head = format!("HTTP/1.1 {status} X\r\nx-amz-request-id: 17\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    if let Some(Break::Drip) = broken {
        for byte in head.bytes() {
            stream.write_all(&[byte])?;
            thread::sleep(Duration::from_millis(100));
        }
    }
    stream.write_all(head.as_bytes())?;
    if let Some(Break::Short(len)) = broken {
        stream.write_all(&body[..len])?;
        return Ok(None);
    }
    stream.write_all(&body)?;
    stream.flush()?;
    Ok(Some(()))
}

type Answer = (u16, Headers, Vec<u8>);

fn refuse(status: u16, code: &str) -> Answer {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Key>the body</Key></Error>");
    (status, Vec::new(), if code.is_empty() { Vec::new() } else { body.into_bytes() })
}

/// The same in the words of whoever is asked so.
fn refuse_of(target: &str, status: u16, code: &str) -> Answer {
    #[cfg(feature = "gcs")]
    if google::is_json(target) {
        return google::refuse(status, code);
    }
    let _ = target;
    refuse(status, code)
}

/// The parameters of a query, decoded, by name.
fn options(query: &str) -> impl Fn(&str) -> Option<String> {
    move |name| {
        let find = |pair: &str| {
            let (known, value) = pair.split_once('=')?;
            (known == name).then(|| percent_decode(value).unwrap())
        };
        query.split('&').find_map(find)
    }
}

impl State {
    fn done(
        &mut self,
        method: &str,
        target: &str,
        asked: &[(String, String)],
        body: &[u8],
    ) -> Answer {
        #[cfg(feature = "azure")]
        if let Some(answer) = azure::done(self, method, target, asked, body) {
            return answer;
        }
        #[cfg(feature = "gcs")]
        if let Some(answer) = google::done(self, method, target, asked, body) {
            return answer;
        }
        self.stored(method, target, asked, body)
    }

    fn stored(
        &mut self,
        method: &str,
        target: &str,
        asked: &[(String, String)],
        body: &[u8],
    ) -> Answer {
        // As a proxy gets it.
        let target = target.strip_prefix("http://store.test").unwrap_or(target);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = percent_decode(path).unwrap();
        if header(asked, "authorization").is_none() {
            return refuse(403, "AccessDenied");
        }
        let Some(key) = path.strip_prefix("/bucket") else { return refuse(404, "NoSuchBucket") };
        match (method, key.strip_prefix('/').filter(|key| !key.is_empty())) {
            ("GET", None) if query.contains("list-type") => self.list(query),
            ("GET", None) => match self.rules.get(query.trim_end_matches('=')) {
                Some(rule) => (200, Vec::new(), rule.clone().into_bytes()),
                None if query.contains("lifecycle") => refuse(404, "NoSuchLifecycleConfiguration"),
                None => refuse(403, "AccessDenied"),
            },
            ("DELETE", Some(_)) if self.flaws.no_removal => refuse(403, "AccessDenied"),
            ("DELETE", Some(key)) => {
                self.objects.remove(key);
                (204, Vec::new(), Vec::new())
            }
            ("GET", Some(key)) => match self.objects.get(key) {
                None => refuse(404, "NoSuchKey"),
                Some(stored) => {
                    let mut headers = stored.headers.clone();
                    headers.push(("etag".to_owned(), "\"1\"".to_owned()));
                    headers.push((
                        "last-modified".to_owned(),
                        "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
                    ));
                    match (header(asked, "range"), stored.bytes.first()) {
                        (None, _) => (200, headers, stored.bytes.clone()),
                        (Some(range), Some(first)) => {
                            assert_eq!(range, "bytes=0-0");
                            let whole = format!("bytes 0-0/{}", stored.bytes.len());
                            headers.push(("content-range".to_owned(), whole));
                            (206, headers, vec![*first])
                        }
                        (Some(_), None) => refuse(416, "InvalidRange"),
                    }
                }
            },
            ("PUT", Some(key)) => {
                let mut payload = super::payload::Payload::new();
                payload.add(body).unwrap();
                let Flaws { trusts_md5, trusts_sha256, stores_refused, .. } = self.flaws;
                let md5 = header(asked, "content-md5") == Some(payload.md5().as_str());
                let sha256 = Some(payload.sha256());
                let sha256 = header(asked, "x-amz-content-sha256") == sha256.as_deref();
                if !(md5 || trusts_md5) || !(sha256 || trusts_sha256) {
                    if stores_refused {
                        let stored = Stored { bytes: body.to_vec(), headers: Vec::new() };
                        self.objects.insert(key.to_owned(), stored);
                    }
                    return refuse(400, "BadDigest");
                }
                assert_eq!(header(asked, "if-none-match"), Some("*"), "it would replace");
                if self.objects.contains_key(key) && !self.replaces {
                    return refuse(412, "PreconditionFailed");
                }
                let meta = asked.iter().filter(|(name, _)| name.starts_with("x-amz-meta-"));
                let stored = Stored { bytes: body.to_vec(), headers: meta.cloned().collect() };
                self.objects.insert(key.to_owned(), stored);
                (200, Vec::new(), Vec::new())
            }
            _ => refuse(405, "MethodNotAllowed"),
        }
    }

    /// The prefix of a listing, and its names: keys, and in one name those that have a slash behind the prefix.
    fn names_of(
        &self,
        option: &dyn Fn(&str) -> Option<String>,
        is_asked_for: impl Fn(&str, &str) -> bool,
    ) -> (String, Vec<String>) {
        let prefix = option("prefix").unwrap();
        assert_eq!(option("delimiter").as_deref(), Some("/"));
        let mut names: Vec<String> = Vec::new();
        for key in self.objects.keys() {
            let Some(rest) = key.strip_prefix(&prefix) else { continue };
            let name = match rest.split_once('/') {
                Some((directory, _)) => format!("{prefix}{directory}/"),
                None => key.clone(),
            };
            if is_asked_for(key, &name) && names.last() != Some(&name) {
                names.push(name);
            }
        }
        (prefix, names)
    }

    fn list(&self, query: &str) -> Answer {
        let option = options(query);
        let after = option("start-after").unwrap_or_default();
        let (prefix, mut names) = self.names_of(&option, |key, _| *key > *after);
        let most = self.page.unwrap_or(1000);
        let more = names.len() > most;
        names.truncate(most);
        let mut text = format!(
            "<ListBucketResult xmlns=\"x\"><EncodingType>url</EncodingType><IsTruncated>{more}</IsTruncated>"
        );
        for name in names {
            let encoded = percent_encode(&name, true);
            text.push_str(&if name.ends_with('/') && name != prefix {
                format!("<CommonPrefixes><Prefix>{encoded}</Prefix></CommonPrefixes>")
            } else {
                let size = self.objects[&name].bytes.len();
                let modified = "2026-11-29T10:11:12.000Z";
                format!(
                    "<Contents><Key>{encoded}</Key><LastModified>{modified}</LastModified><Size>{size}</Size></Contents>"
                )
            });
        }
        text.push_str("</ListBucketResult>");
        (200, Vec::new(), text.into_bytes())
    }
}
