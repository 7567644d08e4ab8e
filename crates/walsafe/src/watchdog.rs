//! The watch over storage that hangs (`--stall-timeout`).
//!
//! A call to a storage that does not answer never returns, and sometimes the kernel does not even let it be
//! killed. So a copy of this process does the work and counts its steps, and this process ends in time, whatever
//! becomes of the copy: the server waits for this process alone. Should the copy come round later, it has been
//! ended by then, and nothing that it was to do is done.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use walsafe_core::error::Error;
use walsafe_core::restore::Round;
use walsafe_core::store::{Progress, location};
use walsafe_core::sys;
use walsafe_core::sys::worker::{End, Stream, WayOut, Worker};
use walsafe_core::words;

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
/// What a copy says that leaves because the one archive hangs. No command has it as its status.
const STALLED: u8 = 72;
/// What a copy says that leaves because it hangs where the file is to be put. No command has it.
const STUCK: u8 = 73;
/// How long an archive may stand still while another one can be asked.
pub(crate) const IMPATIENCE: Duration = Duration::from_secs(5);
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

fn died(what: &str, e: io::Error) -> Lost {
    Lost::Died(format!("could not {what}: {e}"))
}

/// Runs work that uses the storage at `path`, and returns what it returns. If it makes no step for
/// `timeout`, it is given up; without a timeout it is not watched.
pub(crate) fn watch(
    path: &Path,
    timeout: Option<Duration>,
    work: impl FnOnce(&Signs) -> u8,
) -> Result<u8, Lost> {
    let Some(timeout) = timeout else { return Ok(work(&Signs::default())) };
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
    sys::note_requests_to_end().map_err(|e| died("wait for signals", e))?;
    let signs = sys::shared(Signs::default()).map_err(|e| died("reserve memory", e))?;
    let mut worker = Worker::start(|_| guard::run(PANICKED, || work(signs)))
        .map_err(|e| died("start a process", e))?;
    let (mut still, mut hangs, mut asked) = (Still::new(signs), false, None);
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
            let (path, seconds) = (location::shown(path).into_owned(), timeout.as_secs());
            say(Some(&Error::StorageHangs { path, seconds, left: None }));
        } else if hung && !hangs {
            say(None);
        }
    }
}

/// The same, for a caller that may take over orphans and must never find one that a signal has ended: a copy that
/// hangs gives up by itself.
///
/// Of several archives, one that hangs is left to itself. It is asked once more when the others have been, and
/// then counts as one that hangs.
pub(crate) fn watch_and_leave<T, Work, Answer, Busy>(
    rounds: Rounds<'_, Work, Answer, Busy>,
    timeout: Option<Duration>,
) -> Result<u8, Lost>
where
    T: Send,
    Work: Fn(&Signs, &Round) -> T + Sync,
    Answer: Fn(T, &[Stood]) -> u8,
    Busy: Fn() -> bool,
{
    let Some(timeout) = timeout else {
        let round = Round::new(rounds.last, Vec::new());
        return Ok((rounds.answer)((rounds.work)(&Signs::default(), &round), &[]));
    };
    let archives = rounds.archives;
    let mut worker = Worker::start_quiet(|way_out| work_in_threads(rounds, timeout, way_out))
        .map_err(|e| died("start a process", e))?;
    let id = worker.id();
    loop {
        match worker.wait(timeout, &mut hand_on) {
            Ok(None) => {}
            Ok(Some(End::Left(STALLED))) => {
                let left = (!worker.ends_within(KILL_PATIENCE)).then_some(id);
                let path = archives.first().cloned().unwrap_or_default();
                return Err(stalled(&path, timeout, left));
            }
            Ok(Some(End::Left(STUCK))) => {
                let time = words::count(timeout.as_secs(), "second");
                return Err(Lost::Died(format!(
                    "nothing has moved for {time} where the file is to be put"
                )));
            }
            Ok(Some(End::Left(result))) => {
                // Otherwise it is collected by whoever takes over orphans.
                worker.ends_within(KILL_PATIENCE);
                return status(End::Exited(result));
            }
            Ok(Some(end)) => return status(end),
            Err(e) => return Err(died(&format!("wait for process {id}"), e)),
        }
    }
}

/// An archive that stood still, by its place, and for how many seconds.
pub(crate) type Stood = (usize, u64);

/// Work on archives of which each may hang, in rounds ([`Round`]).
pub(crate) struct Rounds<'a, Work, Answer, Busy> {
    /// The archives. There is at least one.
    pub(crate) archives: &'a [PathBuf],
    /// Those that the first round asks last, by their places.
    pub(crate) last: Vec<usize>,
    /// Makes one round, in a thread of its own. A round that was given up may go on until the process ends.
    pub(crate) work: Work,
    /// Says what came of it, given what stood still meanwhile, and returns the exit status. It may take as long
    /// as it likes.
    pub(crate) answer: Answer,
    /// Returns whether threads that the work has started may still be at the archives. Nobody waits for them.
    pub(crate) is_busy: Busy,
}

/// Makes one round after the other until one comes to an end, and returns what that answers.
fn work_in_threads<T, Work, Answer, Busy>(
    rounds: Rounds<'_, Work, Answer, Busy>,
    timeout: Duration,
    way_out: WayOut,
) -> u8
where
    T: Send,
    Work: Fn(&Signs, &Round) -> T + Sync,
    Answer: Fn(T, &[Stood]) -> u8,
    Busy: Fn() -> bool,
{
    let Rounds { archives, mut last, work, answer, is_busy } = rounds;
    let (work, mut hung, mut stood) = (&work, Vec::new(), Vec::new());
    thread::scope(|scope| {
        loop {
            let (done, result) = sync_channel(1);
            let begun = Arc::new((Signs::default(), Round::new(last.clone(), hung.clone())));
            let (signs, round) = &*begun;
            let run = {
                let begun = Arc::clone(&begun);
                // Whoever waits for it stays until it is there, or has given the round up.
                move || drop(done.send(guard::catch(|| work(&begun.0, &begun.1))))
            };
            let is_last_try = |at| last.contains(&at) || hung.len() + 1 >= archives.len();
            let limit = |at| if is_last_try(at) { timeout } else { timeout.min(IMPATIENCE) };
            let ended = match thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run) {
                Ok(_) => wait(signs, round, &result, timeout, limit),
                Err(_) => Ended::Failed(NO_THREAD),
            };
            let answered = match ended {
                // A panic that left this scope would wait for the threads too.
                Ended::Made(made) => guard::catch(|| answer(made, &stood)).unwrap_or(PANICKED),
                Ended::Failed(status) => status,
                Ended::Stuck => way_out.leave(STUCK),
                Ended::Stalled if archives.len() == 1 => way_out.leave(STALLED),
                // Not at an archive.
                Ended::Stalled if hung.len() == archives.len() => way_out.leave(STUCK),
                Ended::Stalled => {
                    let at = round.at();
                    let here = (at, limit(at).as_secs());
                    if is_last_try(at) {
                        hung.push(here);
                    } else {
                        last.push(at);
                    }
                    stood.push(here);
                    continue;
                }
            };
            // A thread that hangs is waited for by whoever leaves this scope, or ends the process.
            if stood.is_empty() && !is_busy() {
                return answered;
            }
            way_out.leave(answered);
        }
    })
}

/// How a round came to an end.
enum Ended<T> {
    Made(T),
    /// The status says why.
    Failed(u8),
    /// It makes no step any more at an archive, and was given up.
    Stalled,
    /// It makes no step any more where the file is to be put.
    Stuck,
}

fn wait<T>(
    signs: &Signs,
    round: &Round,
    result: &Receiver<Option<T>>,
    timeout: Duration,
    limit: impl Fn(usize) -> Duration,
) -> Ended<T> {
    let (mut still, mut is_delivering) = (Still::new(signs), false);
    loop {
        match result.recv_timeout(LOOK_EVERY) {
            Ok(Some(made)) => return Ended::Made(made),
            Ok(None) | Err(RecvTimeoutError::Disconnected) => return Ended::Failed(PANICKED),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // Only where an archive is asked can another one be asked instead.
        let is_at_archive = round.is_at_archive() && !is_delivering;
        if still.is_for(if is_at_archive { limit(round.at()) } else { timeout }) {
            if round.give_up() {
                return if is_at_archive { Ended::Stalled } else { Ended::Stuck };
            }
            if is_delivering {
                return Ended::Stuck;
            }
            (still, is_delivering) = (Still::new(signs), true);
        }
    }
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
        // Only work in threads does that.
        End::Left(_) => died("the process that did the work has left"),
        End::Killed(signal) => {
            died(&format!("the process that did the work was ended by signal {signal}"))
        }
    }
}

fn stalled(path: &Path, timeout: Duration, left: Option<i32>) -> Lost {
    let (path, seconds) = (location::shown(path).into_owned(), timeout.as_secs());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of several archives, one that hangs is left after a short while: a local disk is not, and no archive is to
    /// blame for it.
    #[test]
    fn where_no_archive_is_asked_nothing_is_given_up_early_and_no_archive_is_blamed() {
        let timeout = LOOK_EVERY * 4;
        let (before, delivering) = (Round::default(), Round::default());
        assert!(delivering.give_up(), "it is as if it put its file in place");
        for round in [before, delivering] {
            let (_done, result) = sync_channel::<Option<()>>(1);
            let begun = Instant::now();
            let ended = wait(&Signs::default(), &round, &result, timeout, |_| LOOK_EVERY);
            assert!(matches!(ended, Ended::Stuck));
            assert!(begun.elapsed() >= timeout, "{:?}", begun.elapsed());
        }
    }
}
