//! Every file of an archive, read through [`examine`], several at a time.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::{Progress, VerifyError};
use crate::encoding::digest::Digest;
use crate::error::{Action, Error, ErrorKind};
use crate::prove::examine::{self, Examined, Expectation};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::{StoredName, Visit, listing};
use crate::sys;
use crate::wal::history::Ancestor;
use crate::wal::name::{FileKind, SegmentName};
use crate::wal::{End, Head, SegmentSize, Tail};

/// How often the watcher is called at least.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// What is kept of a file once it has been read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) listed: StoredName,
    pub(super) problem: Option<Problem>,
    pub(super) content: Option<Digest>,
    pub(super) len: u64,
    pub(super) had_digest: bool,
    pub(super) segment: Option<SegmentName>,
    pub(super) size: Option<SegmentSize>,
    pub(super) system_identifier: Option<u64>,
    pub(super) head: Option<Head>,
    pub(super) tail: Option<Tail>,
    pub(super) end: Option<End>,
    pub(super) history: Option<Vec<Ancestor>>,
    /// It was removed while the archive was verified.
    pub(super) vanished: bool,
    /// Why the others cannot be read either.
    pub(super) ends_all: Option<Error>,
    /// How long before it was read something was last written to it, if that is known.
    pub(super) idle: Option<Duration>,
}

/// How many files are read before they are compared: all that is kept of files at a time.
pub(super) const BATCH: usize = 512;
/// Stack of a thread that reads, in bytes: the buffers are on the heap.
const STACK: usize = 1 << 20;

/// How an archive is read.
pub(super) struct Reader<'r> {
    pub(super) visit: &'r dyn Visit,
    pub(super) system_identifier: Option<u64>,
    pub(super) threads: usize,
    pub(super) watch: &'r mut dyn FnMut(&Progress) -> bool,
    /// How far it has come, over all batches.
    pub(super) progress: Progress,
}

impl<'r> Reader<'r> {
    pub(super) fn new(
        visit: &'r dyn Visit,
        system_identifier: Option<u64>,
        threads: usize,
        watch: &'r mut dyn FnMut(&Progress) -> bool,
    ) -> Self {
        Self { visit, system_identifier, threads, watch, progress: Progress::default() }
    }

    /// Reads all files of a walk, several at a time, and calls `each` with what is needed of each, in the
    /// order of the walk.
    ///
    /// # Errors
    /// The walk's, those of `each`, a thread could not be started, or the run was cancelled.
    pub(super) fn read_all(
        &mut self,
        mut walk: impl Iterator<Item = Result<StoredName, Error>>,
        each: &mut dyn FnMut(Read) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        loop {
            let batch = walk.by_ref().take(BATCH).collect::<Result<Vec<StoredName>, Error>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            sys::headroom().map_err(|_| listing::no_memory(self.visit))?;
            self.read_batch(&batch)?.into_iter().try_for_each(&mut *each)?;
        }
    }

    /// Waits, and tells the watcher all the while.
    ///
    /// # Errors
    /// The run was cancelled.
    pub(super) fn wait_until(&mut self, time: Instant) -> Result<(), VerifyError> {
        loop {
            if !(self.watch)(&self.progress) {
                return Err(VerifyError::Cancelled);
            }
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(WATCH_EVERY));
        }
    }

    fn read_batch(&mut self, files: &[StoredName]) -> Result<Vec<Read>, VerifyError> {
        let Self { visit, system_identifier, threads, watch, progress } = self;
        let (visit, before) = (*visit, *progress);
        let expected = Expectation {
            system_identifier: *system_identifier,
            thorough: true,
            past_cache: true,
            ..Expectation::default()
        };
        let (next, bytes, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let mut done = Vec::with_capacity(files.len());
        let mut going = true;
        thread::scope(|scope| {
            let started = sys::with_signals_blocked(|| {
                (0..(*threads).clamp(1, files.len().max(1))).try_for_each(|_| {
                    let sender = sender.clone();
                    let (next, bytes, stop, expected) = (&next, &bytes, &stop, &expected);
                    let work = move || {
                        loop {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            let Some(listed) = files.get(index) else { break };
                            let read = read_one(visit, listed, expected, bytes, stop);
                            if stop.load(Ordering::Relaxed) || sender.send((index, read)).is_err() {
                                break;
                            }
                        }
                    };
                    sys::headroom().map_err(|_| std::io::ErrorKind::OutOfMemory)?;
                    let thread = thread::Builder::new().stack_size(STACK);
                    thread.spawn_scoped(scope, work).map(drop)
                })
            });
            // Once the workers have gone, nothing more can come.
            drop(sender);
            while started.is_ok() && done.len() < files.len() && going {
                match receiver.recv_timeout(WATCH_EVERY) {
                    Ok((_, Read { ends_all: Some(error), .. })) => {
                        stop.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                    Ok(read) => done.push(read),
                    Err(RecvTimeoutError::Timeout) => {}
                    // A worker that panicked makes the scope panic.
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                progress.files = before.files + done.len();
                progress.bytes = before.bytes + bytes.load(Ordering::Relaxed);
                going = watch(progress);
            }
            stop.store(true, Ordering::Relaxed);
            started.map_err(|e| Error::io(Action::StartReader, visit.location(), e))
        })?;
        if !going {
            return Err(VerifyError::Cancelled);
        }
        done.sort_unstable_by_key(|(index, _)| *index);
        Ok(done.into_iter().map(|(_, read)| read).collect())
    }
}

/// `pg_receivewal` fills a new file with zeros before it writes WAL there. For so long after the last change
/// a file without WAL counts as new.
const BEGINNING: Duration = Duration::from_secs(60);

/// Returns whether a partial segment, of which no header could be read, is one that `pg_receivewal` has begun
/// and written no WAL to. With compression, WAL stays in its memory for as long as it likes, and the file has
/// at most the few bytes with which a stream begins.
fn has_just_begun(visit: &dyn Visit, listed: &StoredName, size: Option<SegmentSize>) -> bool {
    const STREAM_BEGINS: u64 = 32;
    if size.is_some() || !matches!(listed.name.kind(), FileKind::Partial(_)) {
        return false;
    }
    let Ok(Some(there)) = visit.facts(&listed.to_string()) else { return false };
    if listed.name.received().is_some() {
        return there.len <= STREAM_BEGINS;
    }
    there.modified.is_some_and(|at| at.elapsed().is_ok_and(|ago| ago < BEGINNING))
}

/// What came of looking a file up and reading it to its end.
pub(super) struct Looked {
    pub(super) examined: Examined,
    /// It is not there any more.
    pub(super) vanished: bool,
    /// How long ago it was last written to.
    idle: Option<Duration>,
    /// There is no memory, or object storage can no longer be asked for anything.
    pub(super) ends_all: Option<Error>,
    /// It broke off on its way here, and may come whole the next time.
    pub(super) broke_off: bool,
}

/// How often a file is read that breaks off on its way.
pub(super) const TRIES: u32 = 3;

/// Looks a file up and examines it. Counts the bytes, hands them to `each`, and ends early once `stop` is set.
/// A file that cannot be looked up or read is a problem of its own.
pub(super) fn look_into(
    visit: &dyn Visit,
    listed: &StoredName,
    expected: &Expectation,
    (bytes, stop): (&AtomicU64, &AtomicBool),
    each: &mut (dyn FnMut(&[u8]) + Send),
) -> Looked {
    let unreadable = |reason: String| Examined {
        problem: Some(Problem::new(FindingKind::Unreadable, reason)),
        ..Examined::default()
    };
    let (mut vanished, mut idle, mut ends_all, mut broke_off) = (false, None, None, false);
    let examined = match visit.find(&listed.into()) {
        Ok(Some(found)) => {
            let examined = examine::examine(&*found, &listed.name, expected, &mut |chunk| {
                bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return Err(std::io::ErrorKind::Interrupted.into());
                }
                each(chunk);
                Ok(())
            });
            idle = found.modified().map(since);
            let examined = examined.unwrap_or_else(|e| {
                let no_memory = e.raw_os_error() == Some(libc::ENOMEM);
                ends_all = no_memory.then(|| listing::no_memory(visit));
                unreadable(e.to_string())
            });
            let kind = examined.problem.as_ref().map(|problem| problem.kind);
            broke_off = visit.directory().is_none() && kind == Some(FindingKind::Unreadable);
            examined
        }
        Ok(None) => {
            vanished = true;
            Examined::default()
        }
        Err(Error::NotAFile { found, .. }) => unreadable(format!("it is {found}")),
        Err(Error::Io { source, .. }) => unreadable(source.to_string()),
        Err(error) if is_of_all(error.kind()) => {
            let examined = unreadable(error.to_string());
            ends_all = Some(error);
            examined
        }
        Err(error @ Error::Remote { .. }) => {
            let kind = match error.kind() {
                ErrorKind::ColdObject => FindingKind::Cold,
                _ => FindingKind::Unreadable,
            };
            let problem = Problem::new(kind, error.detail().trim_end_matches('.'));
            Examined { problem: Some(problem), ..Examined::default() }
        }
        Err(other) => unreadable(other.to_string()),
    };
    Looked { examined, vanished, idle, ends_all, broke_off }
}

/// Returns whether an error of object storage is one of every object, and no word on this one.
const fn is_of_all(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unreachable
            | ErrorKind::CertificateRefused
            | ErrorKind::CredentialsRefused
            | ErrorKind::ClockSkew
            | ErrorKind::BucketMissing
            | ErrorKind::WrongServer
    )
}

fn read_one(
    visit: &dyn Visit,
    listed: &StoredName,
    expected: &Expectation,
    bytes: &AtomicU64,
    stop: &AtomicBool,
) -> Read {
    let look = || look_into(visit, listed, expected, (bytes, stop), &mut |_| {});
    let mut looked = look();
    for _ in 1..TRIES {
        if looked.broke_off && !stop.load(Ordering::Relaxed) {
            looked = look();
        }
    }
    let Looked { examined, vanished, idle, ends_all, .. } = looked;
    let size = examined.header.and_then(|h| SegmentSize::new(h.segment_size.into()).ok());
    let (mut head, mut tail, mut end) = (None, None, None);
    if let Some(records) = examined.records {
        (head, tail, end) = (records.head, records.tail, Some(records.end));
    }
    let problem = examined.problem.filter(|_| vanished || !has_just_begun(visit, listed, size));
    Read {
        listed: listed.clone(),
        problem,
        content: examined.content,
        len: examined.len,
        had_digest: examined.had_digest,
        segment: listed.name.segment(),
        size,
        system_identifier: examined.header.map(|header| header.system_identifier),
        head,
        tail,
        end,
        history: examined.history,
        vanished,
        ends_all,
        idle,
    }
}

/// Returns how long ago something was. A time in the future comes from another clock, and shows how far that one
/// is off.
fn since(at: SystemTime) -> Duration {
    SystemTime::now().duration_since(at).unwrap_or_else(|ahead| ahead.duration())
}
