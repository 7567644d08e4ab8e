//! Some files, made ready side by side and published one after the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::carry::{Carrier, Named, Ready};
use super::known::Known;
use super::neighbour::Newcomer;
use super::there::There;
use super::{BATCH, Copied, Step, Stop};
use crate::archive::without_notice;
use crate::error::{Action, Error};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::{StoredName, Visit, listing};
use crate::sys;
use crate::sys::buffer::Buffer;
use crate::wal::{SegmentReport, SegmentSize};

/// How often the watcher is called at least.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// Stack of a thread, in bytes: the buffers are on the heap.
const STACK: usize = 1 << 20;
/// How many files a thread may be ahead of the one whose turn it is, where one that waits takes no memory.
const AHEAD: usize = 2;
/// How many names are given before the directory is flushed.
pub(super) const NAMED: usize = 16;
/// For how long a file is waited for that another tool seems to be writing.
const PATIENCE: Duration = Duration::from_secs(30);

/// A run under way.
pub(super) struct Running<'r> {
    pub(super) step: Step,
    pub(super) threads: usize,
    /// A file that waits for its name takes memory.
    pub(super) in_memory: bool,
    pub(super) bytes: &'r AtomicU64,
    pub(super) stop: &'r AtomicBool,
    /// The last file that the destination has with the source's contents.
    pub(super) before: Option<StoredName>,
    pub(super) known: &'r mut Known,
    pub(super) copied: &'r mut Copied,
    pub(super) watch: &'r mut dyn FnMut(&Step) -> bool,
}

/// A file that has its name at the destination, which is not durable yet.
struct Given<'f> {
    file: &'f StoredName,
    /// Its stored length, if it was copied now.
    copied: Option<u64>,
}

/// Whose turn it is to be published, for those who may not be too far ahead.
#[derive(Default)]
struct Turn {
    at: Mutex<usize>,
    moved: Condvar,
}

impl Turn {
    /// Waits until a file is not too far ahead; returns `false` if the work is to end.
    fn wait_for(&self, index: usize, ahead: usize, stop: &AtomicBool) -> bool {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        while index >= *at + ahead && !stop.load(Ordering::Relaxed) {
            let waited = self.moved.wait_timeout(at, WATCH_EVERY);
            at = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !stop.load(Ordering::Relaxed)
    }

    fn advance(&self, to: usize) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.moved.notify_all();
    }
}

impl Running<'_> {
    /// Takes the next files that have to be looked at. What is known of the destination counts only as far as the
    /// names are there, where it is doubted.
    ///
    /// # Errors
    /// The names could not be read, or there is no memory for them.
    pub(super) fn next(
        &mut self,
        source: &dyn Visit,
        doubted: Option<&There<'_>>,
        files: &mut dyn Iterator<Item = Result<StoredName, Error>>,
    ) -> Result<Vec<StoredName>, Error> {
        let mut batch = Vec::new();
        for file in files {
            let file = file?;
            let is_known = self.known.has(&file)
                && match doubted {
                    Some(there) => !there.names(&file.name)?.is_empty(),
                    None => true,
                };
            if is_known || self.known.is_left(source, &file) {
                self.step.files += 1;
                continue;
            }
            batch.push(file);
            if batch.len() == BATCH {
                break;
            }
        }
        sys::headroom().map_err(|_| listing::no_memory(source))?;
        Ok(batch)
    }

    /// Handles a batch. On return, what is counted is durable.
    ///
    /// # Errors
    /// What ended the run. What had its name by then counts all the same, if the directory could be flushed.
    pub(super) fn run(&mut self, carrier: &Carrier<'_>, files: &[StoredName]) -> Result<(), Stop> {
        let threads = self.threads.clamp(1, files.len().max(1));
        let ahead = threads * if self.in_memory { 1 } else { AHEAD };
        let (next, turn, stop) = (AtomicUsize::new(0), Turn::default(), self.stop);
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            let started = (0..threads).try_for_each(|_| {
                let (sender, next, turn) = (sender.clone(), &next, &turn);
                let work = move || make_ready(carrier, files, next, (turn, ahead), &sender);
                sys::start_scoped(scope, STACK, work).map(drop)
            });
            // Once the threads have gone, nothing more can come.
            drop(sender);
            let result = match started {
                Ok(()) => self.publish(carrier, files, &receiver, &turn),
                Err(e) => {
                    let location = carrier.source.location();
                    Err(Error::io(Action::StartReader, location, e).into())
                }
            };
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            result
        })
    }

    /// Gives the files their names, in order.
    fn publish(
        &mut self,
        carrier: &Carrier<'_>,
        files: &[StoredName],
        receiver: &Receiver<(usize, Ready)>,
        turn: &Turn,
    ) -> Result<(), Stop> {
        let mut buffer = new_buffer(carrier)?;
        let mut given = Vec::new();
        let result = self.publish_each(carrier, files, receiver, turn, &mut given, &mut buffer);
        let settled = self.settle(carrier, &mut given, &mut buffer);
        result.and(settled)
    }

    fn publish_each<'f>(
        &mut self,
        carrier: &Carrier<'_>,
        files: &'f [StoredName],
        receiver: &Receiver<(usize, Ready)>,
        turn: &Turn,
        given: &mut Vec<Given<'f>>,
        buffer: &mut Buffer,
    ) -> Result<(), Stop> {
        let mut waiting = BTreeMap::new();
        let mut at = 0;
        while let Some(mut file) = files.get(at) {
            match receiver.recv_timeout(WATCH_EVERY) {
                Ok((index, ready)) => drop(waiting.insert(index, ready)),
                Err(RecvTimeoutError::Timeout) => {}
                // A thread that panicked makes the scope panic.
                Err(RecvTimeoutError::Disconnected) if !waiting.contains_key(&at) => {
                    return Err(Stop::Cancelled);
                }
                Err(RecvTimeoutError::Disconnected) => {}
            }
            waiting.extend(receiver.try_iter());
            while let Some(ready) = waiting.remove(&at) {
                if let Some(one) = self.one(carrier, file, ready, buffer)? {
                    self.before = Some(file.clone());
                    given.push(one);
                }
                self.step.files += 1;
                at += 1;
                turn.advance(at);
                if given.len() >= NAMED {
                    self.settle(carrier, given, buffer)?;
                }
                let Some(next) = files.get(at) else { break };
                file = next;
            }
            if !self.tell() {
                return Err(Stop::Cancelled);
            }
        }
        Ok(())
    }

    /// Gives one file its name, if it is to have one. Returns it then.
    fn one<'f>(
        &mut self,
        carrier: &Carrier<'_>,
        file: &'f StoredName,
        mut ready: Ready,
        buffer: &mut Buffer,
    ) -> Result<Option<Given<'f>>, Stop> {
        let (until, mut tried) = (Instant::now() + PATIENCE, false);
        loop {
            ready = match ready {
                Ready::Gone => return Ok(None),
                Ready::Present => return Ok(Some(Given { file, copied: None })),
                Ready::Unfinished => {
                    self.copied.unfinished += 1;
                    self.known.wait_for(file);
                    return Ok(None);
                }
                Ready::Differs(conflict) => return Err(Stop::Conflict(conflict)),
                Ready::Failed(error) => return Err(Stop::Failed(error)),
                Ready::Sealed { sealed, len, as_archived, records } => {
                    self.check_neighbours(carrier, file, records.as_ref())?;
                    match carrier.publish(file, sealed, buffer)? {
                        Named::Copied => {
                            if let Some(mut problem) = as_archived {
                                problem.reason += "; it was copied as it is";
                                self.known.count_damaged();
                                self.find(carrier, file, problem)?;
                            }
                            return Ok(Some(Given { file, copied: Some(len) }));
                        }
                        Named::Present => return Ok(Some(Given { file, copied: None })),
                        Named::Not(other) => other,
                    }
                }
                Ready::Left { problem, stamp } => {
                    let fresh = carrier.fresh_for(file).filter(|_| Instant::now() < until);
                    match fresh {
                        Some(pause) => self.wait(carrier, pause)?,
                        // One error of the system may pass.
                        None if problem.kind == FindingKind::Unreadable && !tried => tried = true,
                        None => {
                            if problem.kind == FindingKind::Unreadable {
                                carrier.check_source()?;
                            }
                            self.known.leave(file, stamp);
                            self.find(carrier, file, problem)?;
                            return Ok(None);
                        }
                    }
                    carrier.prepare(file, buffer)
                }
            };
        }
    }

    /// Makes sure that a segment may stand beside those that the destination has.
    fn check_neighbours(
        &self,
        carrier: &Carrier<'_>,
        file: &StoredName,
        records: Option<&(Box<SegmentReport>, SegmentSize)>,
    ) -> Result<(), Stop> {
        let Some((report, size)) = records else { return Ok(()) };
        let is_ours = |file: &StoredName| {
            self.known.has(file) || self.before.as_ref().is_some_and(|last| last.name == file.name)
        };
        let newcomer = Newcomer { file, report, size: *size };
        match newcomer.check(carrier, &is_ours)? {
            Some(conflict) => Err(Stop::Conflict(Box::new(conflict))),
            None => Ok(()),
        }
    }

    /// Makes the names durable that were given, and makes sure that each new file has its name alone. Only then they
    /// count.
    ///
    /// # Errors
    /// The flush failed, or the path leads elsewhere by now. None of them counts then, whatever a second flush says:
    /// the next run looks at each of them. Or other contents stand beside one of them, which do not count from there
    /// on.
    fn settle(
        &mut self,
        carrier: &Carrier<'_>,
        given: &mut Vec<Given<'_>>,
        buffer: &mut Buffer,
    ) -> Result<(), Stop> {
        if given.is_empty() {
            return Ok(());
        }
        let (given, now) = (std::mem::take(given), Instant::now());
        carrier.destination.settle()?;
        if !carrier.destination.is_still_there()? {
            let path = carrier.destination.location().to_owned();
            return Err(Error::Replaced { path }.into());
        }
        for Given { file, copied } in given {
            if copied.is_some()
                && let Some(conflict) = carrier.check_alone(file, now, buffer)?
            {
                return Err(Stop::Conflict(conflict));
            }
            self.known.add(file);
            match copied {
                Some(len) => {
                    self.copied.files += 1;
                    self.copied.bytes += len;
                }
                None => self.copied.present += 1,
            }
            self.copied.last = Some(file.clone());
        }
        Ok(())
    }

    fn find(
        &mut self,
        carrier: &Carrier<'_>,
        file: &StoredName,
        problem: Problem,
    ) -> Result<(), Error> {
        let finding = Finding { file: file.to_string(), problem };
        let kept = self.copied.findings.push(&finding);
        kept.map_err(|_| listing::no_memory(carrier.source))
    }

    fn wait(&mut self, carrier: &Carrier<'_>, pause: Duration) -> Result<(), Stop> {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !self.tell() {
                return Err(Stop::Cancelled);
            }
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(WATCH_EVERY));
            carrier.source.progress().tick();
        }
    }

    fn tell(&mut self) -> bool {
        self.step.bytes = self.bytes.load(Ordering::Relaxed);
        (self.watch)(&self.step)
    }

    /// Notes what files have had to do without at the destination.
    pub(super) fn note_limits(&mut self, destination: &dyn Visit) {
        for limit in destination.limits() {
            let notice = without_notice(destination.location(), limit);
            if self.copied.without.iter().all(|said| said.message != notice.message) {
                self.copied.without.push(notice);
            }
        }
    }
}

/// What a thread does: makes one file after the other ready, and hands each over.
fn make_ready(
    carrier: &Carrier<'_>,
    files: &[StoredName],
    next: &AtomicUsize,
    (turn, ahead): (&Turn, usize),
    sender: &Sender<(usize, Ready)>,
) {
    let mut buffer = new_buffer(carrier);
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(file) = files.get(index) else { return };
        if !turn.wait_for(index, ahead, carrier.stop) {
            return;
        }
        let ready = match &mut buffer {
            Ok(buffer) => carrier.prepare(file, buffer),
            Err(_) => Ready::Failed(listing::no_memory(carrier.destination)),
        };
        if sender.send((index, ready)).is_err() {
            return;
        }
    }
}

fn new_buffer(carrier: &Carrier<'_>) -> Result<Buffer, Error> {
    let failed = |e| Error::io(Action::ReserveMemory, carrier.destination.location(), e);
    sys::headroom().map_err(|_| listing::no_memory(carrier.destination))?;
    Buffer::new().map_err(failed)
}
