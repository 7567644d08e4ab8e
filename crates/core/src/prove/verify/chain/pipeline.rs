//! Segments read several at a time and handed over in their order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::notes::{Ask, Watched, Watcher};
use crate::error::Error;
use crate::prove::examine::{Examined, Expectation};
use crate::prove::verify::reading::{Looked, TRIES, look_into};
use crate::prove::verify::{Progress, VerifyError};
use crate::store::{StoredName, Visit};
use crate::sys;

/// How often the watcher is called at least.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// How far a reader may be ahead of what was handed over, for each of them.
const AHEAD: usize = 4;

/// A file that was read.
#[derive(Debug)]
pub(super) struct File<'a> {
    pub(super) listed: &'a StoredName,
    pub(super) examined: Examined,
    pub(super) watched: Watched,
    /// It is gone.
    pub(super) vanished: bool,
    /// Why the others cannot be read either.
    ends_all: Option<Error>,
}

/// Whether there is more to read.
pub(super) enum Then {
    GoOn,
    Enough,
}

/// Reads files, several at a time, and hands each over in its turn.
///
/// Memory is bounded by the number of threads: no reader is further ahead than a few files for each.
///
/// # Errors
/// The watcher ended the run, there is no memory, or object storage can no longer be asked for anything.
pub(super) fn read<'a>(
    visit: &dyn Visit,
    files: &[&'a StoredName],
    expected: &Expectation,
    (ask, threads): (&Ask, usize),
    watch: &mut dyn FnMut(&Progress) -> bool,
    each: &mut dyn FnMut(File<'a>) -> Then,
) -> Result<(), VerifyError> {
    let total = files.len();
    let threads = threads.clamp(1, total.max(1));
    let gate = Gate { done: Mutex::new(0), moved: Condvar::new(), ahead: threads * AHEAD };
    let (next, bytes, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let (mut going, mut failed) = (true, None);
    thread::scope(|scope| {
        sys::with_signals_blocked(|| {
            for _ in 0..threads {
                let sender = sender.clone();
                let (next, bytes, stop, gate) = (&next, &bytes, &stop, &gate);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(listed) = files.get(index) else { break };
                        gate.wait(index, stop);
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let read = read_one(visit, listed, expected, ask, (bytes, stop));
                        if sender.send((index, read)).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        drop(sender);
        let (mut early, mut done) = (BTreeMap::new(), 0);
        'all: while done < total && going {
            match receiver.recv_timeout(WATCH_EVERY) {
                Ok((index, read)) => {
                    early.insert(index, read);
                }
                Err(RecvTimeoutError::Timeout) => {}
                // A reader that panicked makes the scope panic.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Some(file) = early.remove(&done) {
                done += 1;
                gate.pass(done);
                if file.ends_all.is_some() {
                    failed = file.ends_all;
                    break 'all;
                }
                if matches!(each(file), Then::Enough) {
                    break 'all;
                }
            }
            let bytes = bytes.load(Ordering::Relaxed);
            going = watch(&Progress { files: done, files_total: total, bytes });
        }
        stop.store(true, Ordering::Relaxed);
        gate.pass(total);
    });
    match failed {
        Some(error) => Err(error.into()),
        None if going => Ok(()),
        None => Err(VerifyError::Cancelled),
    }
}

/// Holds readers back that are too far ahead.
struct Gate {
    done: Mutex<usize>,
    moved: Condvar,
    ahead: usize,
}

impl Gate {
    fn wait(&self, index: usize, stop: &AtomicBool) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while index >= *done + self.ahead && !stop.load(Ordering::Relaxed) {
            done = self.moved.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pass(&self, count: usize) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = count;
        self.moved.notify_all();
    }
}

fn read_one<'a>(
    visit: &dyn Visit,
    listed: &'a StoredName,
    expected: &Expectation,
    ask: &Ask,
    progress: (&AtomicU64, &AtomicBool),
) -> File<'a> {
    let look = || {
        let mut watcher = Watcher::new(ask, listed.name.segment());
        let looked = look_into(visit, listed, expected, progress, &mut |chunk| watcher.feed(chunk));
        (looked, watcher)
    };
    let (mut looked, mut watcher) = look();
    for _ in 1..TRIES {
        if looked.broke_off && !progress.1.load(Ordering::Relaxed) {
            (looked, watcher) = look();
        }
    }
    let Looked { examined, vanished, ends_all, .. } = looked;
    File { listed, examined, watched: watcher.finish(), vanished, ends_all }
}
