//! The system calls of a running process, recorded or made to fail, by strace.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::process;
use crate::scratch::{self, Scratch};
use crate::wait::{TIMEOUT, poll, wait_until};

/// strace at work. Detaches when dropped. Needs `require!(tool("strace"))`.
#[derive(Debug)]
pub struct Trace {
    strace: Child,
    home: Scratch,
}

/// One system call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The thread that made it.
    pub thread: i32,
    /// When it began, in seconds since 1970.
    pub began: f64,
    /// How long it took, in seconds; `None` when it had not returned at the end.
    pub took: Option<f64>,
    pub name: String,
    /// The whole call as strace shows it, with paths for descriptors: `fsync(5</a/b>) = 0`.
    pub text: String,
}

impl Call {
    /// Whether it returned without an error.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.took.is_some() && !self.text.contains(") = -1 ")
    }
}

impl Trace {
    /// Attaches to a process with all its threads, and those that it starts later. `calls` is a list as
    /// `strace -e trace=` takes it, such as `openat,fsync,linkat` or `%file,fsync`.
    #[must_use]
    #[track_caller]
    pub fn attach(pid: i32, calls: &str) -> Self {
        Self::start(pid, &["-e", &format!("trace={calls}")])
    }

    /// The same, and makes a call fail, in the form of `strace -e inject=`: `fsync:error=EIO:when=1`.
    #[must_use]
    #[track_caller]
    pub fn inject(pid: i32, calls: &str, fault: &str) -> Self {
        Self::start(pid, &["-e", &format!("trace={calls}"), "-e", &format!("inject={fault}")])
    }

    /// The same, for calls on a directory, or on names in it, only.
    #[must_use]
    #[track_caller]
    pub fn inject_in(pid: i32, dir: &Path, calls: &str, fault: &str) -> Self {
        let dir = dir.to_str().expect("a path of ours");
        let (trace, inject) = (format!("trace={calls}"), format!("inject={fault}"));
        Self::start(pid, &["-P", dir, "-e", &trace, "-e", &inject])
    }

    #[track_caller]
    fn start(pid: i32, arguments: &[&str]) -> Self {
        let home = Scratch::new("strace");
        // One file for each thread: lines of calls that overlap are then not torn apart.
        let mut strace = Command::new("strace")
            .args(["-f", "-ff", "-ttt", "-T", "-y", "-s", "64"])
            .arg("-o")
            .arg(home.join("calls"))
            .args(arguments)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not run strace: {error}"));
        let mut said = String::new();
        let mut lines = BufReader::new(strace.stderr.take().expect("piped"));
        while !said.contains(" attached") {
            if lines.read_line(&mut said).unwrap_or_default() == 0 {
                panic!("strace could not attach to process {pid}: {said}");
            }
        }
        // It must not block on a pipe that nobody reads.
        std::thread::spawn(move || drop(std::io::copy(&mut lines, &mut std::io::sink())));
        Self { strace, home }
    }

    /// Detaches and returns the calls in the order in which they began.
    #[must_use]
    pub fn finish(mut self) -> Vec<Call> {
        self.detach();
        self.calls()
    }

    /// The same, once a call with this in its text has succeeded. Its effect may be seen before it is in the trace.
    #[must_use]
    #[track_caller]
    pub fn finish_after(self, text: &str) -> Vec<Call> {
        wait_until(TIMEOUT, &format!("{text} in the trace"), || {
            self.calls().iter().any(|c| c.succeeded() && c.text.contains(text)).then_some(())
        });
        self.finish()
    }

    /// The calls up to now.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        for file in self.home.names() {
            let thread = file.rsplit('.').next().and_then(|pid| pid.parse().ok());
            let bytes = scratch::read(&self.home.join(&file));
            let text = String::from_utf8_lossy(&bytes);
            calls.extend(text.lines().filter_map(|line| parse(thread?, line)));
        }
        calls.sort_by(|a, b| a.began.total_cmp(&b.began));
        calls
    }

    fn detach(&mut self) {
        let Ok(pid) = i32::try_from(self.strace.id()) else {
            return;
        };
        process::signal(pid, Signal::INT);
        let ended = poll(Duration::from_secs(5), || self.strace.try_wait().ok()?);
        if ended.is_none() {
            drop(self.strace.kill());
            drop(self.strace.wait());
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            self.detach();
        }
    }
}

/// `1763708877.557000 fsync(5</a/b>) = 0 <0.000012>`
fn parse(thread: i32, line: &str) -> Option<Call> {
    let (began, rest) = line.split_once(' ')?;
    let (name, _) = rest.split_once('(')?;
    let (text, took) = match rest.rsplit_once(" <") {
        Some((text, took)) if took.ends_with('>') => {
            (text, took.trim_end_matches('>').parse().ok())
        }
        _ => (rest, None),
    };
    Some(Call {
        thread,
        began: began.parse().ok()?,
        took,
        name: name.to_owned(),
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_of_strace_is_read() {
        let call = parse(
            7,
            "1763708877.557000 fsync(5</a b/c>) = -1 EIO (Input/output error) (INJECTED) <0.000012>",
        );
        let call = call.expect("a call");
        assert_eq!((call.thread, &*call.name, call.took), (7, "fsync", Some(0.000_012)));
        assert!(!call.succeeded());
        let call = parse(7, "1763708877.557000 write(5</a/b>, \"x <1>\", 5 <unfinished ...>")
            .expect("a call");
        assert_eq!(call.took, None);
        assert!(parse(7, "1763708877.557000 --- SIGUSR1 {si_signo=SIGUSR1} ---").is_none());
    }
}
