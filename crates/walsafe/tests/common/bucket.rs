//! A directory served as a bucket of S3: a file is an object, its attributes are the object's metadata. So a test
//! changes an archive in object storage as it changes one in a directory. Requests can be broken.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::UNIX_EPOCH;

use walsafe_core::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use walsafe_core::sys;

/// The secret key of every test. No output may hold it.
pub const SECRET: &str = "hunter2hunter2";

/// How many names a listing gives at a time.
const PAGE: usize = 2;

/// What is done with a request that fits.
#[derive(Debug, Clone)]
pub enum Break {
    /// It is answered so, with an error of this code.
    Answer(u16, &'static str),
    /// The same, and the server's clock says that it is 1994.
    Skewed,
    /// The object's contents end after so many bytes, and the connection with them.
    Cut(usize),
    /// A bit of the byte at this place is another.
    Flip(usize),
}

/// A broken kind of request: what its target contains, how, and how often.
type Broken = (String, Break, usize);

#[derive(Debug, Default)]
struct State {
    broken: Vec<Broken>,
    /// The targets of the requests there were.
    seen: Vec<String>,
}

/// Whose language a bucket is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    S3,
    #[cfg(feature = "azure")]
    Azure,
    /// For reading alone.
    #[cfg(feature = "gcs")]
    Google,
}

#[derive(Debug)]
pub struct Bucket {
    language: Language,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    port: u16,
}

impl Bucket {
    /// Serves a directory, which may be away, as `s3://wal/main`.
    pub fn serve(directory: PathBuf) -> Self {
        Self::serve_in(Language::S3, directory)
    }

    /// The same in another language.
    pub fn serve_in(language: Language, directory: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, ended) = (Arc::<Mutex<State>>::default(), Arc::new(AtomicBool::new(false)));
        let (shared, over) = (Arc::clone(&state), Arc::clone(&ended));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (state, directory) = (Arc::clone(&shared), directory.clone());
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    while let Ok(true) = one(&state, &directory, &mut stream) {}
                });
            }
        });
        Self { language, state, ended, port }
    }

    pub fn url(&self) -> String {
        let place = match self.language {
            Language::S3 => "s3://wal",
            #[cfg(feature = "azure")]
            Language::Azure => "azure://walsafetest/wal",
            #[cfg(feature = "gcs")]
            Language::Google => "gs://wal",
        };
        format!("{place}/main?endpoint=http://127.0.0.1:{}", self.port)
    }

    /// Has a command find its credentials here, where it looks for those of this machine.
    pub fn gives_tokens_to(&self, command: &mut Command) {
        command.env("GCE_METADATA_HOST", format!("127.0.0.1:{}", self.port));
        command.env("IDENTITY_ENDPOINT", format!("http://127.0.0.1:{}/identity", self.port));
        command.env("IDENTITY_HEADER", "x");
    }

    /// Breaks the next requests whose targets contain this, or end so before a `$`, so many.
    pub fn break_next(&self, part: &str, how: Break, times: usize) {
        self.state.lock().unwrap().broken.push((part.to_owned(), how, times));
    }

    /// Breaks every request whose target contains this. What was to be broken before is not any more.
    pub fn break_all(&self, part: &str, how: Break) {
        self.mend();
        self.break_next(part, how, usize::MAX);
    }

    pub fn mend(&self) {
        self.state.lock().unwrap().broken.clear();
    }

    /// Returns the targets of the requests since it was last asked, without the bucket.
    pub fn seen(&self) -> Vec<String> {
        let seen = std::mem::take(&mut self.state.lock().unwrap().seen);
        seen.iter().map(|target| target.trim_start_matches("/wal").to_owned()).collect()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Status, headers and body.
type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// Serves a request. `false` ends the connection.
fn one(
    state: &Mutex<State>,
    directory: &Path,
    stream: &mut BufReader<TcpStream>,
) -> io::Result<bool> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(false);
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some((name, value)) = header.trim_end().split_once(": ") {
            headers.insert(name.to_owned(), value.to_owned());
        }
    }
    let len = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
    let mut sent = vec![0; len];
    stream.read_exact(&mut sent)?;
    let broken = {
        let mut state = state.lock().unwrap();
        state.seen.push(target.to_owned());
        let is_meant = |part: &str| match part.strip_suffix('$') {
            Some(end) => target.ends_with(end),
            None => target.contains(part),
        };
        let mut fits =
            state.broken.iter_mut().filter(|(part, _, left)| *left > 0 && is_meant(part));
        fits.next().map(|(_, how, left)| {
            *left -= 1;
            how.clone()
        })
    };
    let (status, headers, mut body) = match &broken {
        Some(Break::Answer(status, code)) => refuse(*status, code),
        Some(Break::Skewed) => {
            let is_azure = headers.contains_key("x-ms-version");
            let code = if is_azure { "AuthenticationFailed" } else { "RequestTimeTooSkewed" };
            let (status, mut headers, body) = refuse(403, code);
            headers.push(("date".to_owned(), "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()));
            (status, headers, body)
        }
        #[cfg(feature = "azure")]
        _ if headers.contains_key("x-ms-version") => {
            azure::answer(directory, method, target, &headers, &sent)
        }
        _ if method == "PUT" => put(directory, target, &headers, &sent),
        _ if method != "GET" => refuse(405, "MethodNotAllowed"),
        _ => answer(directory, target, headers.contains_key("range")),
    };
    let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let stream = stream.get_mut();
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    match broken {
        Some(Break::Flip(at)) => body[at] ^= 1,
        Some(Break::Cut(len)) => {
            stream.write_all(&body[..len])?;
            return Ok(false);
        }
        _ => {}
    }
    stream.write_all(&body)?;
    Ok(true)
}

fn refuse(status: u16, code: &str) -> Answer {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Key>{SECRET}</Key></Error>");
    (status, Vec::new(), body.into_bytes())
}

/// The headers that carry what a file carries as attributes.
const METADATA: [(&str, &str); 3] = [
    (STORED_ATTRIBUTE, "x-amz-meta-walsafe-stored"),
    (CONTENT_ATTRIBUTE, "x-amz-meta-walsafe-content"),
    (CHECKED_ATTRIBUTE, "x-amz-meta-walsafe-checked"),
];

/// Stores an object, unless one is there.
fn put(directory: &Path, target: &str, headers: &BTreeMap<String, String>, bytes: &[u8]) -> Answer {
    let Some(name) = target.strip_prefix("/wal/main/") else { return refuse(404, "NoSuchKey") };
    assert_eq!(headers.get("if-none-match").map(String::as_str), Some("*"), "it would replace");
    let temporary = tempfile::NamedTempFile::new_in(directory.parent().unwrap()).unwrap();
    fs::write(temporary.path(), bytes).unwrap();
    for (attribute, header) in METADATA {
        if let Some(value) = headers.get(header) {
            super::set_attribute(temporary.as_file(), attribute, value);
        }
    }
    match temporary.persist_noclobber(directory.join(name)) {
        Ok(_) => (200, Vec::new(), Vec::new()),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => {
            refuse(412, "PreconditionFailed")
        }
        Err(e) => panic!("{e}"),
    }
}

fn answer(directory: &Path, target: &str, first_byte: bool) -> Answer {
    #[cfg(feature = "gcs")]
    if let Some(answer) = google::answer(directory, target) {
        return answer;
    }
    #[cfg(feature = "azure")]
    if target.starts_with("/identity?") {
        return azure::token();
    }
    if !directory.exists() {
        return refuse(404, "NoSuchBucket");
    }
    match target.split_once('?') {
        Some((_, query)) => list(directory, query),
        None => match target.strip_prefix("/wal/main/") {
            Some(name) => object(directory, name, first_byte),
            None => refuse(404, "NoSuchKey"),
        },
    }
}

fn object(directory: &Path, name: &str, first_byte: bool) -> Answer {
    let Ok(file) = File::open(directory.join(name)) else { return refuse(404, "NoSuchKey") };
    let mut headers = Vec::new();
    for (attribute, header) in METADATA {
        let value = sys::attribute(&file, attribute).unwrap();
        if let Some(value) = value {
            headers.push((header.replace("x-amz-", "x-goog-"), value.clone()));
            headers.push((header.to_owned(), value));
        }
    }
    let modified = file.metadata().unwrap().modified().unwrap();
    let seconds = modified.duration_since(UNIX_EPOCH).unwrap().as_secs();
    headers.push(("last-modified".to_owned(), date(seconds)));
    let mut bytes = fs::read(directory.join(name)).unwrap();
    if !first_byte {
        return (200, headers, bytes);
    }
    if bytes.is_empty() {
        return refuse(416, "InvalidRange");
    }
    headers.push(("content-range".to_owned(), format!("bytes 0-0/{}", bytes.len())));
    bytes.truncate(1);
    (206, headers, bytes)
}

/// Words a time as a header does. Nobody looks at the day of the week.
fn date(seconds: u64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let is_leap = |year: u64| year.is_multiple_of(4);
    let (mut days, time, mut year) = (seconds / 86400, seconds % 86400, 1970);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    for len in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let (day, month) = (days + 1, MONTHS[month]);
    format!("Sun, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

fn list(directory: &Path, query: &str) -> Answer {
    let option = |name: &str| {
        let find = |pair: &str| pair.strip_prefix(&format!("{name}=")).map(str::to_owned);
        query.split('&').find_map(find).map(|value| value.replace("%2F", "/"))
    };
    let prefix = option("prefix").unwrap();
    let after = option("start-after").unwrap_or_default();
    let mut keys: Vec<_> =
        super::names(directory).iter().map(|name| format!("main/{name}")).collect();
    keys.retain(|key| *key > after && key.starts_with(&prefix));
    let more = keys.len() > PAGE;
    keys.truncate(PAGE);
    let keys: String =
        keys.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>")).collect();
    let text =
        format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>{keys}</ListBucketResult>");
    (200, Vec::new(), text.into_bytes())
}

/// What Azure's client asks for, in the words of S3, and the answers in its own.
#[cfg(feature = "azure")]
mod azure {
    use std::collections::BTreeMap;

    use super::{Answer, METADATA, PAGE, Path, refuse};

    /// What a machine's metadata give.
    const TOKEN: &str = "t0k3n";

    pub(super) fn token() -> Answer {
        let text = format!(r#"{{"access_token": "{TOKEN}", "expires_in": "3599"}}"#);
        (200, Vec::new(), text.into_bytes())
    }

    pub(super) fn answer(
        directory: &Path,
        method: &str,
        target: &str,
        headers: &BTreeMap<String, String>,
        sent: &[u8],
    ) -> Answer {
        let Some(target) = target.strip_prefix("/walsafetest") else {
            return refuse(400, "InvalidUri");
        };
        let authorization = &headers["authorization"];
        let is_known = authorization == &format!("Bearer {TOKEN}");
        if !is_known && !authorization.starts_with("SharedKey walsafetest:") {
            return refuse(401, "NoAuthenticationInformation");
        }
        let (status, mut headers, body) = match (method, target.split_once('?')) {
            ("PUT", _) => super::put(directory, target, &named(headers, false), sent),
            ("GET", Some((_, query))) if directory.exists() => return list(directory, query),
            ("GET", _) => super::answer(directory, target, headers.contains_key("range")),
            _ => return refuse(405, "UnsupportedHttpVerb"),
        };
        if status < 300 {
            let status = if method == "PUT" { 201 } else { status };
            headers = named(&headers.into_iter().collect(), true).into_iter().collect();
            return (status, headers, body);
        }
        let has = |code: &str| String::from_utf8_lossy(&body).contains(code);
        match status {
            404 if has("NoSuchKey") => refuse(404, "BlobNotFound"),
            404 => refuse(404, "ContainerNotFound"),
            412 => refuse(409, "BlobAlreadyExists"),
            _ => (status, headers, body),
        }
    }

    /// Names the metadata as S3 does, or as Azure does.
    fn named(headers: &BTreeMap<String, String>, as_azure: bool) -> BTreeMap<String, String> {
        let mut named = headers.clone();
        for (_, header) in METADATA {
            let azures = header.replace("x-amz-", "x-ms-").replace("walsafe-", "walsafe_");
            let (from, to) = if as_azure { (header, &*azures) } else { (&*azures, header) };
            if let Some(value) = headers.get(from) {
                named.insert(to.to_owned(), value.clone());
            }
        }
        named
    }

    fn list(directory: &Path, query: &str) -> Answer {
        let option = |name: &str| {
            let find = |pair: &str| pair.strip_prefix(&format!("{name}=")).map(str::to_owned);
            query.split('&').find_map(find).map(|value| value.replace("%2F", "/"))
        };
        let prefix = option("prefix").unwrap();
        let names = crate::common::names(directory).into_iter();
        let mut keys: Vec<_> = names.map(|name| format!("main/{name}")).collect();
        keys.retain(|key| key.starts_with(&prefix));
        let from = option("marker").map_or(0, |marker| marker.parse().unwrap());
        let next = from + PAGE;
        let next = if keys.len() > next { next.to_string() } else { String::new() };
        let blobs: String = keys
            .iter()
            .skip(from)
            .take(PAGE)
            .map(|key| format!("<Blob><Name>{key}</Name><Properties/></Blob>"))
            .collect();
        let text = format!(
            "<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
        );
        (200, Vec::new(), text.into_bytes())
    }
}

/// What Google's client asks for beside objects.
#[cfg(feature = "gcs")]
mod google {
    use serde_json::{Value, json};

    use super::{Answer, PAGE, Path};

    /// Answers a request for a token, or of the JSON API; `None` if it is neither.
    pub(super) fn answer(directory: &Path, target: &str) -> Option<Answer> {
        if target.starts_with("/computeMetadata/v1/") {
            return Some(ok(&json!({"access_token": "t0k3n", "expires_in": 3600})));
        }
        let query = target.strip_prefix("/storage/v1/b/wal/o?")?;
        Some(if directory.exists() { list(directory, query) } else { not_found() })
    }

    fn ok(json: &Value) -> Answer {
        (200, Vec::new(), json.to_string().into_bytes())
    }

    fn not_found() -> Answer {
        let error = json!({"error": {"code": 404, "errors": [{"reason": "notFound"}]}});
        (404, Vec::new(), error.to_string().into_bytes())
    }

    fn list(directory: &Path, query: &str) -> Answer {
        let option = |name: &str| {
            let find = |pair: &str| pair.strip_prefix(&format!("{name}=")).map(str::to_owned);
            query.split('&').find_map(find).map(|value| value.replace("%2F", "/"))
        };
        let prefix = option("prefix").unwrap();
        let start = option("pageToken").or_else(|| option("startOffset")).unwrap_or_default();
        let names = crate::common::names(directory).into_iter();
        let mut keys: Vec<_> = names.map(|name| format!("main/{name}")).collect();
        keys.retain(|key| *key >= start && key.starts_with(&prefix));
        let next = keys.get(PAGE).cloned();
        keys.truncate(PAGE);
        let items: Vec<_> = keys.iter().map(|key| json!({"name": key, "size": "1"})).collect();
        let mut page = json!({"kind": "storage#objects", "items": items});
        if let Some(next) = next {
            page["nextPageToken"] = next.into();
        }
        ok(&page)
    }
}
