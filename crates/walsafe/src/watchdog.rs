//! The watch over storage that hangs (`--stall-timeout`).
//!
//! A call to a storage that does not answer never returns, and sometimes the kernel does not even let it be
//! killed. So a copy of this process does the work, counts its steps in memory that both share, and this
//! process ends in time, whatever becomes of the copy: the server waits for this process alone. Should the
//! copy come round later, it has been killed by then, and nothing that it was to do is done.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use walsafe_core::error::Error;
use walsafe_core::store::Progress;
use walsafe_core::sys;
use walsafe_core::sys::worker::{End, Stream, Worker};

use crate::{guard, terminal};

/// How often the steps are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a copy that was killed may take to end, before the message says that it does not.
const KILL_PATIENCE: Duration = Duration::from_millis(500);
/// The exit status of a copy that has panicked. No command has it.
const PANICKED: u8 = 70;

/// What the work shows of itself to its watcher.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    /// Counts the steps; if it stands still, the storage hangs.
    pub(crate) steps: Progress,
    /// The work does not use the storage at present: it writes to somebody who may read slowly.
    elsewhere: AtomicBool,
}

impl Signs {
    /// Runs `f`, which does not use the storage and may take as long as it likes.
    pub(crate) fn elsewhere<T>(&self, f: impl FnOnce() -> T) -> T {
        self.elsewhere.store(true, Ordering::Relaxed);
        let result = f();
        self.steps.tick();
        self.elsewhere.store(false, Ordering::Relaxed);
        result
    }
}

/// Why watched work has no result.
pub(crate) enum Lost {
    /// The storage hangs.
    Stalled(Error),
    /// The process that did the work could not be started, or did not end by itself. The text is a message.
    Died(String),
    /// The process that did the work has panicked, and has said so.
    Panicked,
}

/// Runs work that uses the storage at `path`, and returns what it returns. If it makes no step for
/// `timeout`, it is given up; without a timeout it is not watched.
pub(crate) fn watch(
    path: &Path,
    timeout: Option<Duration>,
    work: impl FnOnce(&Signs) -> u8,
) -> Result<u8, Lost> {
    let Some(timeout) = timeout else { return Ok(work(&Signs::default())) };
    let died = |what: &str, e: io::Error| Lost::Died(format!("could not {what}: {e}"));
    let signs = sys::shared(Signs::default()).map_err(|e| died("reserve memory", e))?;
    let mut worker = Worker::start(|| guard::run(PANICKED, || work(signs)))
        .map_err(|e| died("start a process", e))?;
    // Only time in which this process runs counts: both may be stopped, from a terminal for example.
    let (mut seen, mut still) = (signs.steps.steps(), Duration::ZERO);
    loop {
        match worker.wait(LOOK_EVERY, &mut hand_on) {
            Ok(Some(End::Exited(PANICKED))) => return Err(Lost::Panicked),
            Ok(Some(End::Exited(status))) => return Ok(status),
            Ok(Some(End::Killed(signal))) => {
                terminal::clear_line();
                let what = "the process that did the work was ended by signal";
                return Err(Lost::Died(format!("{what} {signal}")));
            }
            Ok(None) => still += LOOK_EVERY,
            Err(e) => {
                let id = worker.id();
                worker.kill(KILL_PATIENCE);
                return Err(died(&format!("wait for process {id}"), e));
            }
        }
        let steps = signs.steps.steps();
        if steps != seen || signs.elsewhere.load(Ordering::Relaxed) {
            (seen, still) = (steps, Duration::ZERO);
        }
        if still >= timeout {
            let id = worker.id();
            let left = (!worker.kill(KILL_PATIENCE)).then_some(id);
            terminal::clear_line();
            let (path, seconds) = (path.to_owned(), timeout.as_secs());
            return Err(Lost::Stalled(Error::StorageHangs { path, seconds, left }));
        }
    }
}

/// Writes what the work has written where it belongs. Returns `false` if nobody reads that any more: the work
/// then finds its pipe closed, as it would without us.
fn hand_on(stream: Stream, bytes: &[u8]) -> bool {
    let write = |out: &mut dyn Write| out.write_all(bytes).and_then(|()| out.flush()).is_ok();
    match stream {
        Stream::Output => write(&mut io::stdout().lock()),
        Stream::Error => write(&mut io::stderr().lock()),
    }
}
