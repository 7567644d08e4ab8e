//! The watch over storage that hangs (`--stall-timeout`).
//!
//! A call to a storage that does not answer never returns, and sometimes the kernel does not even let it be
//! killed. So a copy of this process does the work and counts its steps, and this process ends in time, whatever
//! becomes of the copy: the server waits for this process alone. Should the copy come round later, it has been
//! ended by then, and nothing that it was to do is done.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use walsafe_core::error::Error;
use walsafe_core::store::Progress;
use walsafe_core::sys;
use walsafe_core::sys::worker::{End, Stream, WayOut, Worker};

use crate::{guard, terminal};

/// How often the steps are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a copy that was killed may take to end, before the message says that it does not.
const KILL_PATIENCE: Duration = Duration::from_millis(500);
/// How long work may take to end that was asked to.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// The exit status of a copy that has panicked. No command has it.
const PANICKED: u8 = 70;
/// The exit status of a copy that could not start a thread. No command has it.
const NO_THREAD: u8 = 71;
/// Stack of the thread that works, in bytes: that of a process.
const STACK: usize = 8 << 20;

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
    let mut worker = Worker::start(|_| guard::run(PANICKED, || work(signs)))
        .map_err(|e| died("start a process", e))?;
    let mut still = Still::new(signs);
    loop {
        match worker.wait(LOOK_EVERY, &mut hand_on) {
            Ok(Some(end)) => {
                if let End::Killed(_) = end {
                    terminal::clear_line();
                }
                return status(end);
            }
            Ok(None) => {}
            Err(e) => {
                let id = worker.id();
                worker.kill(KILL_PATIENCE);
                return Err(died(&format!("wait for process {id}"), e));
            }
        }
        if still.is_for(timeout) {
            let id = worker.id();
            let left = (!worker.kill(KILL_PATIENCE)).then_some(id);
            terminal::clear_line();
            return Err(stalled(path, timeout, left));
        }
    }
}

/// The same for work that goes on until this process is asked to end, with status 0 then. Storage that hangs is
/// waited for, however long; `say` is told once that it does, and once that it answers again.
pub(crate) fn watch_until_asked(
    path: &Path,
    timeout: Option<Duration>,
    say: &dyn Fn(Option<&Error>),
    work: impl FnOnce(&Signs) -> u8,
) -> Result<u8, Lost> {
    let died = |what: &str, e: io::Error| Lost::Died(format!("could not {what}: {e}"));
    sys::note_requests_to_end().map_err(|e| died("wait for signals", e))?;
    let signs = sys::shared(Signs::default()).map_err(|e| died("reserve memory", e))?;
    let mut worker = Worker::start(|_| guard::run(PANICKED, || work(signs)))
        .map_err(|e| died("start a process", e))?;
    let (mut still, mut hangs, mut asked) = (Still::new(signs), false, None);
    loop {
        match worker.wait(LOOK_EVERY, &mut hand_on) {
            Ok(Some(end)) => return status(end),
            Ok(None) => {}
            Err(e) => {
                worker.kill(KILL_PATIENCE);
                return Err(died("wait for a process", e));
            }
        }
        if asked.is_none() && sys::is_asked_to_end() {
            worker.ask_to_end();
            asked = Some(Instant::now());
        }
        // Whatever it is doing, all that it has published is whole.
        if asked.is_some_and(|at| at.elapsed() >= END_PATIENCE) {
            worker.kill(KILL_PATIENCE);
            terminal::clear_line();
            return Ok(0);
        }
        let Some(timeout) = timeout else { continue };
        let hung = std::mem::replace(&mut hangs, still.is_for(timeout));
        if hangs && !hung {
            let (path, seconds) = (path.to_owned(), timeout.as_secs());
            say(Some(&Error::StorageHangs { path, seconds, left: None }));
        } else if hung && !hangs {
            say(None);
        }
    }
}

/// The same, for a caller that may take over orphans and must never find one that a signal has ended: a copy that
/// hangs gives up by itself. The work is done by a thread of it.
pub(crate) fn watch_and_leave(
    path: &Path,
    timeout: Option<Duration>,
    work: impl FnOnce(&Signs) -> u8 + Send,
) -> Result<u8, Lost> {
    let Some(timeout) = timeout else { return Ok(work(&Signs::default())) };
    let died = |what: &str, e: io::Error| Lost::Died(format!("could not {what}: {e}"));
    let mut worker = Worker::start(|way_out| work_in_a_thread(timeout, way_out, work))
        .map_err(|e| died("start a process", e))?;
    let id = worker.id();
    loop {
        match worker.wait(timeout, &mut hand_on) {
            Ok(None) => {}
            Ok(Some(End::GaveUp)) => {
                let left = (!worker.ends_within(KILL_PATIENCE)).then_some(id);
                return Err(stalled(path, timeout, left));
            }
            Ok(Some(end)) => return status(end),
            Err(e) => return Err(died(&format!("wait for process {id}"), e)),
        }
    }
}

/// Runs work in a thread, and returns what it returns. If it makes no step for `timeout`, this process gives up.
fn work_in_a_thread(
    timeout: Duration,
    way_out: WayOut,
    work: impl FnOnce(&Signs) -> u8 + Send,
) -> u8 {
    let (signs, (done, result)) = (Signs::default(), sync_channel(1));
    thread::scope(|scope| {
        let run = || {
            // Whoever waits for it stays until it is there.
            let _ = done.send(guard::run(PANICKED, || work(&signs)));
        };
        if thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run).is_err() {
            return NO_THREAD;
        }
        let mut still = Still::new(&signs);
        loop {
            match result.recv_timeout(LOOK_EVERY) {
                Ok(status) => return status,
                Err(RecvTimeoutError::Disconnected) => return PANICKED,
                Err(RecvTimeoutError::Timeout) if still.is_for(timeout) => way_out.give_up(),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    })
}

/// For how long no step was made. Only time in which this process runs counts: all of it may be stopped, from a
/// terminal for example.
struct Still<'s> {
    signs: &'s Signs,
    seen: u64,
    time: Duration,
}

impl<'s> Still<'s> {
    fn new(signs: &'s Signs) -> Self {
        Self { signs, seen: signs.steps.steps(), time: Duration::ZERO }
    }

    /// Looks again, [`LOOK_EVERY`] after the last time. Returns whether there was no step for so long.
    fn is_for(&mut self, timeout: Duration) -> bool {
        let steps = self.signs.steps.steps();
        self.time += LOOK_EVERY;
        if steps != self.seen || self.signs.elsewhere.load(Ordering::Relaxed) {
            (self.seen, self.time) = (steps, Duration::ZERO);
        }
        self.time >= timeout
    }
}

/// Returns the status with which a copy has ended, if it is one of the work.
fn status(end: End) -> Result<u8, Lost> {
    let died = |what: &str| Err(Lost::Died(what.to_owned()));
    match end {
        End::Exited(PANICKED) => Err(Lost::Panicked),
        End::Exited(NO_THREAD) => died("could not start a thread"),
        End::Exited(status) => Ok(status),
        // Only work in a thread does that.
        End::GaveUp => died("the process that did the work has given up"),
        End::Killed(signal) => {
            died(&format!("the process that did the work was ended by signal {signal}"))
        }
    }
}

fn stalled(path: &Path, timeout: Duration, left: Option<i32>) -> Lost {
    let (path, seconds) = (path.to_owned(), timeout.as_secs());
    Lost::Stalled(Error::StorageHangs { path, seconds, left })
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
