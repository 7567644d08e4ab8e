//! Every file of an archive, read through [`examine`], several at a time.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::{Progress, VerifyError};
use crate::encoding::digest::Digest;
use crate::error::Error;
use crate::prove::examine::{self, Examined, Expectation};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::{StoredName, Visit};
use crate::sys;
use crate::wal::history::Ancestor;
use crate::wal::name::{FileKind, SegmentName};
use crate::wal::timeline::Timelines;
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
}

impl Read {
    /// Returns the finding of a file that has a problem.
    pub(super) fn finding(&self) -> Option<Finding> {
        let problem = self.problem.clone()?;
        Some(Finding { file: self.listed.to_string(), problem })
    }
}

/// Collects what the history files among those read say.
pub(super) fn timelines_of(read: &[Read]) -> Timelines {
    let mut timelines = Timelines::default();
    for file in read {
        if let FileKind::History { timeline } = file.listed.name.kind() {
            timelines.add(timeline, file.history.clone());
        }
    }
    timelines
}

/// Drops the files that are gone by now. `pg_archivecleanup` removes old segments in no order. Some of them
/// may have been read before it ran, and there would be gaps between those.
pub(super) fn keep_present(visit: &dyn Visit, read: &mut Vec<Read>) {
    read.retain(|file| !file.vanished && visit.holds(&(&file.listed).into()));
}

/// Takes the history files out of a list.
pub(super) fn take_histories(files: &mut Vec<StoredName>) -> Vec<StoredName> {
    let is_history = |file: &StoredName| matches!(file.name.kind(), FileKind::History { .. });
    let histories = files.iter().filter(|file| is_history(file)).cloned().collect();
    files.retain(|file| !is_history(file));
    histories
}

/// Reads files, several at a time, and keeps what is needed of each.
pub(super) fn read_all(
    visit: &dyn Visit,
    files: Vec<StoredName>,
    system_identifier: Option<u64>,
    threads: usize,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<Vec<Read>, VerifyError> {
    let total = files.len();
    let expected = Expectation {
        system_identifier,
        thorough: true,
        past_cache: true,
        ..Expectation::default()
    };
    let (next, bytes, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let mut done = Vec::with_capacity(total);
    let mut going = true;
    thread::scope(|scope| {
        sys::with_signals_blocked(|| {
            for _ in 0..threads.clamp(1, total.max(1)) {
                let sender = sender.clone();
                let (files, next, bytes, stop, expected) =
                    (&files, &next, &bytes, &stop, &expected);
                scope.spawn(move || {
                    while let Some(listed) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let read = read_one(visit, listed, expected, bytes, stop);
                        if stop.load(Ordering::Relaxed) || sender.send(read).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        // Once the workers have gone, nothing more can come.
        drop(sender);
        while done.len() < total && going {
            match receiver.recv_timeout(WATCH_EVERY) {
                Ok(read) => done.push(read),
                Err(RecvTimeoutError::Timeout) => {}
                // A worker that panicked makes the scope panic.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let bytes = bytes.load(Ordering::Relaxed);
            going = watch(&Progress { files: done.len(), files_total: total, bytes });
        }
        stop.store(true, Ordering::Relaxed);
    });
    if going { Ok(done) } else { Err(VerifyError::Cancelled) }
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
    let Ok(there) = std::fs::symlink_metadata(visit.location().join(listed.to_string())) else {
        return false;
    };
    if listed.name.received().is_some() {
        return there.len() <= STREAM_BEGINS;
    }
    there.modified().is_ok_and(|at| at.elapsed().is_ok_and(|ago| ago < BEGINNING))
}

fn read_one(
    visit: &dyn Visit,
    listed: &StoredName,
    expected: &Expectation,
    bytes: &AtomicU64,
    stop: &AtomicBool,
) -> Read {
    let unreadable = |reason: String| Examined {
        problem: Some(Problem::new(FindingKind::Unreadable, reason)),
        ..Examined::default()
    };
    let mut vanished = false;
    let examined = match visit.find(&listed.into()) {
        Ok(Some(found)) => examine::examine(&*found, &listed.name, expected, &mut |chunk| {
            bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            Ok(())
        })
        .unwrap_or_else(|e| unreadable(e.to_string())),
        Ok(None) => {
            vanished = true;
            Examined::default()
        }
        Err(Error::NotAFile { found, .. }) => unreadable(format!("it is {found}")),
        Err(Error::Io { source, .. }) => unreadable(source.to_string()),
        Err(other) => unreadable(other.to_string()),
    };
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
    }
}
