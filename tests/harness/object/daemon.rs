//! Processes of an object server, and where they live.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::http;
use super::sign::Keys;
use crate::scratch::Scratch;
use crate::wait::poll;

/// How long a server may take to answer.
const START: Duration = Duration::from_secs(120);

/// Where `tools/get-object-server` has put a server.
///
/// # Errors
/// It is not on this machine.
pub(super) fn programs(name: &str) -> Result<PathBuf, String> {
    static FOUND: Mutex<Option<HashMap<String, Option<PathBuf>>>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let path = found.get_or_insert_default().entry(name.to_owned()).or_insert_with(|| {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/get-object-server");
        let output = Command::new(tool).args(["--if-there", name]).output().ok()?;
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then(|| path.into())
    });
    path.clone().ok_or_else(|| format!("needs an object server: tools/get-object-server {name}"))
}

/// What a server is started with.
#[derive(Debug)]
pub(super) struct Place {
    /// Where its programs are.
    pub programs: PathBuf,
    /// Its data and logs, and where its processes work: so a killed test program's are found again.
    pub home: Scratch,
    /// An address of loopback that no other server of the tests has. Each has all ports to itself: none is taken
    /// by somebody else's connection while the server is down.
    pub host: Ipv4Addr,
    /// Where it speaks http.
    pub port: u16,
    pub keys: Keys,
}

impl Place {
    pub(super) fn new(name: &str, port: u16, keys: Keys) -> Self {
        let programs = programs(name).unwrap_or_else(|reason| panic!("{reason}"));
        Self { programs, home: Scratch::new(name), host: own_address(port), port, keys }
    }

    /// Starts a program that works in the server's directory. What it prints is in `NAME.out` there.
    #[track_caller]
    pub(super) fn start(&self, name: &str, command: &mut Command) -> Daemon {
        let log = self.home.join(format!("{name}.out"));
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let copy = file.try_clone().expect("a descriptor");
        let child = command
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            .spawn()
            .unwrap_or_else(|error| panic!("could not run {command:?}: {error}"));
        Daemon { child, name: name.to_owned(), log }
    }

    pub(super) fn address(&self) -> SocketAddr {
        (self.host, self.port).into()
    }
}

fn own_address(port: u16) -> Ipv4Addr {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    // Two test programs may have the same: the process's number does not fit whole.
    for _ in 0..100 {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let [.., high, low] = std::process::id().to_be_bytes();
        let block = 64 + u8::try_from(number % 128).expect("below 128");
        let host = Ipv4Addr::new(127, block, high, low);
        if TcpListener::bind((host, port)).is_ok() {
            return host;
        }
    }
    panic!("no free address for port {port}")
}

/// A process of a server. Killed when dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Waits until it listens. A process that ends instead is a failure, shown with the end of its log.
    #[track_caller]
    pub(super) fn wait_listening(&mut self, address: SocketAddr) {
        self.wait("listen", || TcpStream::connect(address).ok().map(drop));
    }

    /// Waits until it answers requests: some listen before, and say 503 until they can do more.
    #[track_caller]
    pub(super) fn wait_answering(&mut self, address: SocketAddr) {
        let head = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        self.wait("answer", || {
            let answer = http::exchange(address, "GET", &head, b"").ok()?;
            (answer.status < 500).then_some(())
        });
    }

    #[track_caller]
    pub(super) fn wait(&mut self, what: &str, mut ready: impl FnMut() -> Option<()>) {
        let mut ended = None;
        let done = poll(START, || {
            ended = self.child.try_wait().expect("our child");
            if ended.is_some() { Some(()) } else { ready() }
        });
        if done.is_none() || ended.is_some() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            panic!("{} did not {what} (ended: {ended:?}):\n{}", self.name, lines.join("\n"));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
