//! A proxy in front of a server that breaks the requests which a test chooses, each in its own way.
//!
//! Everything else passes as it comes: a body piece by piece, an answer also before the request's end. It
//! notes what it sees, and a test whose chosen request never came fails when the proxy is dropped.

mod exchange;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::{Answer, Head};
use super::latency::Connections;
use crate::wait::TIMEOUT;

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The server does not see it. The client may send it to its end, then gets this answer.
    Answer(Answer),
    /// The same at once, before the body. The connection is of no use afterwards.
    AnswerEarly(Answer),
    /// The server gets the head and this many bytes of the body, then both connections are cut. It never gets
    /// a whole request: not even the head of one without a body.
    CutRequest { after: u64 },
    /// The client may send about this many bytes of the body, of which the server sees nothing. Then nothing
    /// happens any more, until the client gives up or [`Proxy::mend`] cuts the connection.
    Hang { after: u64 },
    /// The body comes through this slowly.
    DripRequest { bytes_a_second: u64 },
    /// The server does it. What it answered stays here, and the client gets this.
    CommitThenAnswer(Answer),
    /// The server does it, then the connection is cut without an answer.
    CommitThenCut,
    /// The server does it, and the answer never comes: see `Hang`.
    CommitThenHang,
    /// The answer comes this much later.
    Late(Duration),
    /// The answer's body comes through this slowly.
    DripAnswer { bytes_a_second: u64 },
    /// The answer's head and this many bytes of its body come through, then the connection is cut.
    CutAnswer { after: u64 },
    /// The answer comes with the lowest bit of this byte of its body flipped.
    FlipBit { byte: u64 },
}

/// A request that came, and what became of it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// The path and the query, as sent.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Bytes of its body that the client has sent so far, without those of a chunked body's frame.
    pub body: u64,
    /// When its head had come.
    pub began: Instant,
    /// When the last byte of its body had come.
    pub came: Option<Instant>,
    /// What the server answered.
    pub served: Option<u16>,
    /// What the client was told.
    pub answered: Option<u16>,
    /// Whether a fault met it.
    pub broken: bool,
    /// When the proxy was done with it.
    pub ended: Option<Instant>,
}

impl Seen {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn is(&self, method: &str, part: &str) -> bool {
        (method.is_empty() || self.method == method) && self.target.contains(part)
    }
}

/// See the [module](self). Requests that hang are cut when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    open: Connections,
    clerk: Option<Clerk>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Speaks for the server at this address: is asked about each request before the server is, without an answer, and
/// again about each error that the server answers. What it says is what the client is told.
pub(super) type Clerk = fn(SocketAddr, &Head, Option<&Answer>) -> Option<Answer>;

#[derive(Debug, Default)]
struct State {
    seen: Vec<Seen>,
    rules: Vec<Rule>,
    whole_bodies: bool,
    /// How many times what hangs was let go.
    mended: u64,
}

#[derive(Debug)]
struct Rule {
    method: String,
    part: String,
    fault: Fault,
    left: usize,
    /// Places in `State::seen`.
    met: Vec<usize>,
}

impl Proxy {
    #[must_use]
    #[track_caller]
    pub fn in_front_of(server: SocketAddr) -> Self {
        Self::with_clerk(server, None)
    }

    #[track_caller]
    pub(super) fn with_clerk(server: SocketAddr, clerk: Option<Clerk>) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = socket.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            server,
            open: Connections::default(),
            clerk,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let all = Arc::clone(&shared);
        let listener = thread::spawn(move || {
            for client in socket.incoming() {
                if all.open.is_closed() {
                    return;
                }
                let Ok(client) = client else { continue };
                let all = Arc::clone(&all);
                thread::spawn(move || exchange::serve(&client, &all));
            }
        });
        Self { address, shared, listener: Some(listener) }
    }

    /// From now on, a request's body goes to the server only once it has come whole, as with many proxies.
    pub fn hold_bodies(&self) {
        self.shared.lock().whole_bodies = true;
    }

    /// Where the client is to go.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks the next request with this method, or with any if that is empty, whose path or query contains
    /// `part`.
    #[must_use = "it says when the request came"]
    pub fn break_next(&self, method: &str, part: &str, fault: Fault) -> Broken {
        self.rule(method, part, fault, 1)
    }

    /// Breaks each such request until [`mend`](Self::mend).
    #[must_use = "it says when a request came"]
    pub fn break_each(&self, method: &str, part: &str, fault: Fault) -> Broken {
        self.rule(method, part, fault, usize::MAX)
    }

    /// A request takes the earliest rule that fits it and is not used up.
    fn rule(&self, method: &str, part: &str, fault: Fault, left: usize) -> Broken {
        let (method, part) = (method.to_owned(), part.to_owned());
        let mut state = self.shared.lock();
        state.rules.push(Rule { method, part, fault, left, met: Vec::new() });
        Broken { shared: Arc::clone(&self.shared), rule: state.rules.len() - 1 }
    }

    /// No more faults; what hangs is cut.
    pub fn mend(&self) {
        let mut state = self.shared.lock();
        for rule in &mut state.rules {
            rule.left = 0;
        }
        state.mended += 1;
        self.shared.changed.notify_all();
    }

    /// Every request so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// Those with this method whose path or query contains `part`.
    #[must_use]
    pub fn requests(&self, method: &str, part: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|request| request.is(method, part));
        seen
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mend();
        self.shared.open.close();
        // It waits for the next connection.
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            drop(listener.join());
        }
        // A test that broke nothing proves nothing.
        let state = self.shared.lock();
        if let Some(rule) = state.rules.iter().find(|rule| rule.met.is_empty())
            && !thread::panicking()
        {
            panic!("the request that was to be broken never came: {rule:?} of {:#?}", state.seen);
        }
    }
}

/// The requests that are to be broken, or were.
#[derive(Debug)]
pub struct Broken {
    shared: Arc<Shared>,
    rule: usize,
}

impl Broken {
    /// How many came.
    #[must_use]
    pub fn times(&self) -> usize {
        self.shared.lock().rules[self.rule].met.len()
    }

    /// Waits until one has come.
    #[track_caller]
    pub fn begun(&self) -> Seen {
        self.wait("come", |_| true)
    }

    /// Waits until the proxy is done with one: until what the fault promises has happened.
    #[track_caller]
    pub fn done(&self) -> Seen {
        self.wait("be done with", |seen| seen.ended.is_some())
    }

    #[track_caller]
    fn wait(&self, what: &str, is_enough: impl Fn(&Seen) -> bool) -> Seen {
        let until = Instant::now() + TIMEOUT;
        let mut state = self.shared.lock();
        loop {
            let rule = &state.rules[self.rule];
            if let Some(&place) = rule.met.iter().find(|&&place| is_enough(&state.seen[place])) {
                return state.seen[place].clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no request to {what}: {rule:?} of {:#?}", state.seen);
            state = match self.shared.changed.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl Shared {
    fn told(&self, head: &Head, answer: Option<&Answer>) -> Option<Answer> {
        self.clerk.and_then(|clerk| clerk(self.server, head, answer))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request and chooses what happens to it. Returns its place, the fault, and `State::mended`.
    fn arrived(&self, head: &Head) -> (usize, Option<Fault>, u64) {
        let mut request = Seen {
            method: head.method().to_owned(),
            target: head.target().to_owned(),
            headers: head.headers.clone(),
            body: 0,
            began: Instant::now(),
            came: None,
            served: None,
            answered: None,
            broken: false,
            ended: None,
        };
        let mut state = self.lock();
        let place = state.seen.len();
        let fits = |rule: &&mut Rule| rule.left > 0 && request.is(&rule.method, &rule.part);
        let fault = state.rules.iter_mut().find(fits).map(|rule| {
            rule.left = if rule.left == usize::MAX { usize::MAX } else { rule.left - 1 };
            rule.met.push(place);
            rule.fault.clone()
        });
        request.broken = fault.is_some();
        state.seen.push(request);
        self.changed.notify_all();
        (place, fault, state.mended)
    }

    fn update(&self, place: usize, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock().seen[place]);
        self.changed.notify_all();
    }
}
