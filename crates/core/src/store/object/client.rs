//! Requests to a bucket: signed, sent, and sent again where that may help, within a time limit.

use std::io::{self, ErrorKind as IoErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::Request;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderValue, USER_AGENT};

use super::answer::{self, Said};
use super::ask::{Ask, Asked, Meaning};
use super::cloud::{Dialect, dialect};
use super::keys::{Credentials, Sign, Unsigned, Way};
use super::wire::{Begun, Dial, Failure, Lines, Reply, Trust, Via};
use crate::error::{ErrorKind, Refusal};
use crate::server::url::Endpoint;
use crate::server::url::ObjectUrl;
use crate::server::url::UrlError;
use crate::server::url::text::percent_encode;
use crate::store::Requests;

/// Time limits of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long nothing may move in a request.
    pub progress: Duration,
    /// How long a request is tried again.
    pub tries: Duration,
    /// How long a body is held, all but its end sent: not for so long that a server takes the silence for the end
    /// of its client.
    pub held: Duration,
}

impl Patience {
    /// Divides the time after which a copy that stands still is reported, so that a request fails by itself
    /// before that. `None` stands for no limit.
    #[must_use]
    pub fn within(stall_timeout: Option<Duration>) -> Self {
        const LONGEST: Duration = Duration::from_secs(30);
        const LONGEST_HELD: Duration = Duration::from_secs(10);
        let half = stall_timeout.map_or(LONGEST, |time| time / 2);
        Self { progress: half.min(LONGEST), tries: half, held: (half / 2).min(LONGEST_HELD) }
    }
}

/// Counts requests.
#[derive(Debug, Default)]
pub(super) struct Counts {
    requests: AtomicU64,
    retries: AtomicU64,
    throttled: AtomicU64,
}

impl Counts {
    pub(super) fn now(&self) -> Requests {
        Requests {
            sent: self.requests.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
        }
    }
}

/// A PUT, all of whose body but the end is sent.
pub(super) struct Held {
    begun: Begun,
    since: Instant,
}

/// Requests to one bucket.
#[derive(Debug)]
pub(super) struct Client {
    url: ObjectUrl,
    dialect: &'static dyn Dialect,
    server: Endpoint,
    keys: Box<dyn Sign>,
    lines: Arc<Lines>,
    patience: Patience,
    pub(super) counts: Counts,
}

impl Client {
    /// How much of a body is held back: it goes out in the first packets, however long the connection was
    /// silent.
    pub(super) const END: u64 = 4096;

    /// How long it may take to connect.
    const CONNECT: Duration = Duration::from_secs(10);

    pub(super) fn new(
        url: ObjectUrl,
        credentials: Credentials,
        patience: Patience,
    ) -> Result<Self, UrlError> {
        let dialect = dialect(url.cloud).ok_or(UrlError::LeftOut(url.cloud))?;
        let variable = |name: &str| std::env::var(name).ok();
        let region = url.region(variable)?;
        let server = url.server(&region);
        let lines = Lines::new(Dial {
            server: server.clone(),
            via: Via::new(&url.proxy, server.tls, variable),
            trust: Trust::new(url.ca_file.clone()),
            connect: Self::CONNECT.min(patience.progress),
            patience: patience.progress,
        });
        // A single request for them may stand still for as long as any other.
        let way = Way::new(&url, patience.tries.max(patience.progress));
        let keys = dialect.signer(credentials, &url, &region, way);
        Ok(Self { url, dialect, server, keys, lines, patience, counts: Counts::default() })
    }

    pub(super) fn url(&self) -> &ObjectUrl {
        &self.url
    }

    pub(super) fn dialect(&self) -> &'static dyn Dialect {
        self.dialect
    }

    /// Closes the connections that nobody has used for a while.
    pub(super) fn rest(&self) {
        self.lines.rest();
    }

    /// Sends a request, again where that may help, until what it has come to is known. `moved` is called with
    /// each step.
    ///
    /// # Errors
    /// It was not done, or not known to be done when the time was over.
    pub(super) fn send(
        &self,
        ask: &Ask<'_>,
        moved: &dyn Fn(),
    ) -> Result<(Meaning, Reply), Refusal> {
        self.follow(ask, None, moved)
    }

    /// Begins a PUT, and holds back its end. What goes wrong here shows when it is ended. `None` if the body
    /// is too small for that.
    pub(super) fn hold(&self, ask: &Ask<'_>, moved: &dyn Fn()) -> Option<Held> {
        ask.payload.filter(|payload| payload.len() > 4 * Self::END)?;
        let request = self.request(ask, moved).ok()?;
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let mut begun = Begun::new(&self.lines, request, false, moved).ok()?;
        let mut send = |piece: &[u8]| {
            begun.send(piece, moved);
            !begun.has_failed()
        };
        ask.begin(Self::END, &mut send).ok()?;
        begun.flush();
        Some(Held { begun, since: Instant::now() })
    }

    /// Returns for how long a PUT may still be held; `None` if it may not.
    pub(super) fn may_hold(&self, held: &Held) -> Option<Duration> {
        let left = self.patience.held.saturating_sub(held.since.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// Ends a PUT that was held, or sends it anew if it was held for too long; otherwise as [`Client::send`].
    ///
    /// # Errors
    /// As [`Client::send`].
    pub(super) fn release(
        &self,
        held: Option<Held>,
        ask: &Ask<'_>,
        moved: &dyn Fn(),
    ) -> Result<(Meaning, Reply), Refusal> {
        let held = held.filter(|held| self.may_hold(held).is_some());
        let first = held.map(|Held { mut begun, .. }| {
            let mut send = |piece: &[u8]| {
                begun.send(piece, moved);
                true
            };
            match ask.end(Self::END, &mut send) {
                Ok(()) => self.answered(ask, begun, moved),
                Err(source) => Err(self.unreadable(source)),
            }
        });
        self.follow(ask, first, moved)
    }

    fn follow(
        &self,
        ask: &Ask<'_>,
        mut first: Option<Result<(Said, Reply), Failure>>,
        moved: &dyn Fn(),
    ) -> Result<(Meaning, Reply), Refusal> {
        let mut pauses = Pauses::new(self.patience.tries);
        let (mut renewed, mut fresh) = (false, false);
        loop {
            let outcome = match first.take() {
                Some(outcome) => outcome,
                None => match self.attempt(ask, fresh, moved) {
                    Ok(outcome) => outcome,
                    // Nothing was sent to the storage.
                    Err(Unsigned { refusal, passes: true, retry_after }) => {
                        thread::sleep(pauses.next(retry_after).ok_or(refusal)?);
                        continue;
                    }
                    Err(Unsigned { refusal, .. }) => return Err(refusal),
                },
            };
            let pause = match outcome {
                Ok((said, reply)) => match said.meaning {
                    Meaning::Success | Meaning::Exists | Meaning::Absent => {
                        return Ok((said.meaning, reply));
                    }
                    Meaning::Trouble(kind) => return Err(said.refusal(kind)),
                    Meaning::Renew(kind) if renewed => return Err(said.refusal(kind)),
                    Meaning::Renew(_) => {
                        self.keys.forget();
                        renewed = true;
                        Duration::ZERO
                    }
                    Meaning::TryAgain | Meaning::Unknown => {
                        self.counts.throttled.fetch_add(said.throttled.into(), Ordering::Relaxed);
                        let asked = said.retry_after;
                        pauses.next(asked).ok_or_else(|| said.refusal(ErrorKind::StorageBusy))?
                    }
                },
                // The server closed it while nobody used it.
                Err(Failure::Cut { reused: true, source, .. })
                    if !fresh && source.kind() != IoErrorKind::TimedOut =>
                {
                    Duration::ZERO
                }
                Err(failure) if answer::may_pass(&failure) => {
                    pauses.next(None).ok_or_else(|| self.refusal(&failure))?
                }
                Err(failure) => return Err(self.refusal(&failure)),
            };
            fresh = true;
            thread::sleep(pause);
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Words the lack of an answer.
    fn refusal(&self, failure: &Failure) -> Refusal {
        let mut refusal = answer::refusal(self.dialect.name(), failure);
        refusal.text.push_str(self.dialect.advice(&self.url, failure).unwrap_or_default());
        refusal
    }

    fn attempt(
        &self,
        ask: &Ask<'_>,
        fresh: bool,
        moved: &dyn Fn(),
    ) -> Result<Result<(Said, Reply), Failure>, Unsigned> {
        let request = self.request(ask, moved)?;
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let mut begun = match Begun::new(&self.lines, request, fresh, moved) {
            Ok(begun) => begun,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut send = |piece: &[u8]| {
            begun.send(piece, moved);
            !begun.has_failed()
        };
        if let Err(source) = ask.begin(0, &mut send).and_then(|()| ask.end(0, &mut send)) {
            return Ok(Err(self.unreadable(source)));
        }
        Ok(self.answered(ask, begun, moved))
    }

    /// The bytes to be sent cannot be read: the request ends there.
    fn unreadable(&self, source: io::Error) -> Failure {
        Failure::Cut { host: self.server.with_port(), source, reused: false }
    }

    /// Makes a request, but for its body, and signs it.
    fn request(&self, ask: &Ask<'_>, moved: &dyn Fn()) -> Result<Request<()>, Unsigned> {
        let path = self.dialect.path(&self.url, ask);
        let query: Vec<_> = ask
            .query
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encode(value, false)))
            .collect();
        let target = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
        let scheme = if self.server.tls { "https" } else { "http" };
        let host = self.server.authority();
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("{scheme}://{host}{target}"))
            .header("host", &host);
        for (name, value) in self.dialect.headers(&self.url, ask).iter().chain(&ask.headers) {
            request = request.header(*name, value);
        }
        let wrong = |e: http::Error| Refusal {
            kind: ErrorKind::RequestRefused,
            text: format!("the request cannot be made: {e}"),
            request_id: None,
        };
        let (mut parts, ()) = request.body(()).map_err(wrong)?.into_parts();
        self.keys.sign(&mut parts, ask.len(), moved)?;
        // Not signed: what lies between may change these.
        let agent = concat!("walsafe/", env!("CARGO_PKG_VERSION"));
        parts.headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if ask.asked != Asked::Publish {
            parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        if let Some(len) = ask.len() {
            parts.headers.insert(CONTENT_LENGTH, len.into());
        }
        Ok(Request::from_parts(parts, ()))
    }

    fn answered(
        &self,
        ask: &Ask<'_>,
        begun: Begun,
        moved: &dyn Fn(),
    ) -> Result<(Said, Reply), Failure> {
        let mut reply = begun.answer()?;
        moved();
        let said = Said::of(self.dialect, ask, &mut reply)?;
        Ok((said, reply))
    }
}

/// Pauses between tries: each about twice as long as the one before.
struct Pauses {
    begun: Instant,
    limit: Duration,
    next: Duration,
}

impl Pauses {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    fn new(limit: Duration) -> Self {
        Self { begun: Instant::now(), limit, next: Self::FIRST }
    }

    /// Returns how long to wait, as long as the storage has asked for at least; `None` when the time would be
    /// over.
    fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let pause = self.next.max(asked.unwrap_or_default());
        self.next = (self.next * 2).min(Self::LONGEST);
        (self.begun.elapsed().saturating_add(pause) < self.limit).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::object::fake::Fake;
    use crate::store::object::payload::Payload;

    /// A body that stands still for long is taken for a client that is gone, or fills a server.
    #[test]
    fn a_body_that_was_held_for_too_long_is_sent_again() {
        let fake = Fake::new();
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("keys");
        std::fs::write(&file, "[s3://]\naws_access_key_id = a\naws_secret_access_key = b\n")
            .unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let from = Credentials { file: Some(file), data_directory: None };
        let patience = Patience::within(None);
        let client = Client::new(fake.url("").parse().unwrap(), from, patience).unwrap();
        let mut payload = Payload::new();
        payload.add(&[7; 50_000]).unwrap();
        let put = |key: &str| Ask {
            asked: Asked::Publish,
            method: "PUT",
            key: Some(key.to_owned()),
            query: Vec::new(),
            headers: vec![("if-none-match", "*".to_owned())],
            payload: Some(&payload),
            ..Ask::new(Asked::Publish, "PUT")
        };
        for (key, held_for, requests) in [("fresh", 0, 1), ("stale", 11, 2)] {
            let before = client.counts.requests.load(Ordering::Relaxed);
            let ask = put(key);
            let mut held = client.hold(&ask, &|| ()).unwrap();
            held.since = held.since.checked_sub(Duration::from_secs(held_for)).unwrap();
            let (meaning, _) = client.release(Some(held), &ask, &|| ()).unwrap();
            assert_eq!(meaning, Meaning::Success);
            assert_eq!(client.counts.requests.load(Ordering::Relaxed) - before, requests, "{key}");
            assert_eq!(fake.object(key).unwrap(), [7; 50_000]);
        }
        assert_eq!(client.counts.retries.load(Ordering::Relaxed), 0);
        // What fits into the first packets anyway is not worth a connection that waits.
        let mut payload = Payload::new();
        payload.add(b"small").unwrap();
        assert!(client.hold(&Ask { payload: Some(&payload), ..put("small") }, &|| ()).is_none());
    }

    #[test]
    fn pauses_grow_and_end_with_the_time() {
        let mut pauses = Pauses::new(Duration::from_secs(60));
        let ms = |pause: Option<Duration>| pause.map(|pause| pause.as_millis());
        assert_eq!([ms(pauses.next(None)), ms(pauses.next(None))], [Some(100), Some(200)]);
        assert_eq!(ms(pauses.next(Some(Duration::from_secs(7)))), Some(7000));
        assert_eq!(ms(pauses.next(Some(Duration::from_secs(61)))), None);
        assert_eq!(ms(pauses.next(None)), Some(1600));
        assert_eq!(ms(pauses.next(Some(Duration::from_secs(u64::MAX)))), None);
        assert_eq!(Pauses::new(Duration::ZERO).next(None), None);
    }
}
