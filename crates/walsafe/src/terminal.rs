//! Writing to standard output and standard error.
//!
//! Neither may change what the program does: a closed pipe is not an error, and nothing here panics.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::complaint::Complaint;
use crate::guard::STOP;

/// How this call of the program reports that it has failed.
#[derive(Clone, Copy)]
struct Failure {
    json: bool,
    status: u8,
}

static FAILURE: OnceLock<Failure> = OnceLock::new();

/// Notes, once and before anything is said, whether JSON is wanted, and with which exit status a failure ends.
pub(crate) fn begin(json: bool, status: u8) {
    let _ = FAILURE.set(Failure { json, status });
}

fn failure() -> Failure {
    FAILURE.get().copied().unwrap_or(Failure { json: false, status: STOP })
}

/// Says why the command has failed, and returns the exit status that tells so: one line on standard error, or
/// where JSON is wanted an object on standard output, and nothing else.
pub(crate) fn fail(complaint: &Complaint) -> u8 {
    let Failure { json, status } = failure();
    if json {
        say_json(&serde_json::json!({ "error": complaint.json(status) }));
    } else {
        complain(&complaint.to_string());
    }
    status
}

/// Says something beside the result, unless JSON is wanted: the result holds it then.
pub(crate) fn remark(message: &str) {
    if !failure().json {
        complain(message);
    }
}

/// Writes one line to standard error. That it cannot be written changes nothing.
pub(crate) fn complain(message: &str) {
    let line = format!("walsafe: {}\n", one_line(message));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Writes one line of JSON to standard output; to standard error, if that cannot be written, unless nobody
/// reads it any more.
pub(crate) fn say_json(value: &serde_json::Value) {
    let line = format!("{value}\n");
    let mut out = io::stdout().lock();
    if let Err(e) = out.write_all(line.as_bytes()).and_then(|()| out.flush())
        && e.kind() != ErrorKind::BrokenPipe
    {
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

/// Turns a text into one line, so that a log has one entry for one event.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Removes what a progress bar has left, of a process that was killed.
pub(crate) fn clear_line() {
    let mut out = io::stderr().lock();
    if out.is_terminal() {
        let _ = out.write_all(b"\r\x1b[2K");
    }
}

/// A progress bar on standard error, if that is a terminal. It goes when it is dropped.
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    const READS_NAMES: &str = "{spinner} reading the names of the files, {elapsed_precise}";
    const COUNTS: &str = "{bar:20} {pos}/{len} files, {elapsed_precise}{msg}";

    /// Starts a thread that draws it.
    pub(crate) fn start(quiet: bool) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self(None);
        }
        let target = ProgressDrawTarget::stderr_with_hz(5);
        let bar = ProgressBar::with_draw_target(None, target);
        set_style(&bar, Self::READS_NAMES);
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(Some(bar))
    }

    /// Shows how many of how many files are done; nothing is known before the first call with a total.
    pub(crate) fn show(&self, files: usize, total: usize, bytes: u64) {
        let Some(bar) = self.0.as_ref().filter(|_| total > 0) else { return };
        let begins = bar.length().is_none();
        bar.set_length(total as u64);
        bar.set_position(files as u64);
        if files > 0 && bytes > 0 {
            let rate = bytes as f64 / bar.elapsed().as_secs_f64().max(0.001);
            bar.set_message(format!(
                ", {}, {}/s, {:#} to go",
                megabytes(bytes),
                megabytes(rate as u64),
                HumanDuration(bar.eta())
            ));
        }
        if begins {
            set_style(bar, Self::COUNTS);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// Writes a length for people to read.
pub(crate) fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} kB", bytes.div_ceil(1024)),
        1_048_576..10_737_418_240 => format!("{} MB", bytes >> 20),
        _ => format!("{:.1} GB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Standard output, buffered. Once its reader has closed it, the rest is dropped.
pub(crate) struct Output {
    out: io::BufWriter<io::Stdout>,
    closed: bool,
    error: Option<io::Error>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { out: io::BufWriter::new(io::stdout()), closed: false, error: None }
    }

    /// Writes a line. Returns `false` once writing has become pointless.
    pub(crate) fn line(&mut self, line: impl Display) -> bool {
        if !self.closed {
            let result = writeln!(self.out, "{line}");
            self.note(result);
        }
        !self.closed
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        if !self.closed {
            let result = self.out.write_all(bytes);
            self.note(result);
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        if let Err(e) = result {
            self.closed = true;
            if e.kind() != ErrorKind::BrokenPipe {
                self.error = Some(e);
            }
        }
    }

    /// Writes what is left, and returns `false` if output was lost for any reason other than a reader
    /// that went away: a full disk, for example. Standard error says so.
    #[must_use]
    pub(crate) fn finish(mut self) -> bool {
        if !self.closed {
            let result = self.out.flush();
            self.note(result);
        }
        // What could not be written must not be tried again on drop.
        let (_, _) = self.out.into_parts();
        match self.error {
            None => true,
            Some(e) => {
                lost_output(&e);
                false
            }
        }
    }
}

/// Says on standard error that the result is lost: standard output takes nothing, JSON either.
fn lost_output(error: &io::Error) {
    let complaint = Complaint::new(format!("could not write to standard output: {error}"));
    let Failure { json, status } = failure();
    if json {
        let value = serde_json::json!({ "error": complaint.json(status) });
        let _ = io::stderr().lock().write_all(format!("{value}\n").as_bytes());
    } else {
        complain(&complaint.to_string());
    }
}
