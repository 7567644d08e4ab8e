//! Running programs with a time limit.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crate::wait::{TIMEOUT, poll};

/// What a program did.
#[derive(Debug)]
pub struct Output {
    /// `None`: it did not end in time, and was killed.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The exit status, if the program was not killed.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status?.code()
    }
}

/// Runs a program with `input` and collects its output; kills it after `timeout`.
pub fn run_within(command: &mut Command, input: &str, timeout: Duration) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("could not run {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let input = input.to_owned();
    // A program that ends early does not read it all.
    let feeder = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let status = poll(timeout, || child.try_wait().expect("our child"));
    if status.is_none() {
        drop(child.kill());
        // Not when the kernel holds it: a test of a hang must not hang itself.
        let ended = poll(Duration::from_secs(5), || child.try_wait().expect("our child"));
        if ended.is_none() {
            return Output {
                status: None,
                stdout: String::new(),
                stderr: "cannot be killed".to_owned(),
            };
        }
    }
    drop(feeder.join());
    Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    }
}

/// Runs a program that has to succeed; returns what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = run_within(command, "", TIMEOUT);
    assert!(
        output.success(),
        "{command:?}: {:?}\n{}{}",
        output.status,
        output.stdout,
        output.stderr
    );
    output.stdout
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
