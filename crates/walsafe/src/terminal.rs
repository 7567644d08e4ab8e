//! Writing to standard output and standard error.
//!
//! Neither may change what the program does: a closed pipe is not an error, and nothing here panics.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Writes one line to standard error. That it cannot be written changes nothing.
pub(crate) fn complain(message: &str) {
    let line = format!("walsafe: {}\n", one_line(message));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Turns a text into one line, so that a log has one entry for one event.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns a progress bar on standard error, unless that is no terminal. It starts a thread.
pub(crate) fn progress_bar(quiet: bool, style: &str) -> Option<ProgressBar> {
    if quiet || !io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    Some(bar)
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
            if e.kind() != io::ErrorKind::BrokenPipe {
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
                complain(&format!("could not write to standard output: {e}"));
                false
            }
        }
    }
}

/// Writes one line of JSON to standard error. That it cannot be written changes nothing.
pub(crate) fn complain_json(value: &serde_json::Value) {
    let _ = io::stderr().lock().write_all(format!("{value}\n").as_bytes());
}
