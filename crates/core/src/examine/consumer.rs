//! What is computed of every byte of a file, beside its reading or in the same thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use crate::digest::{Digest, Hasher};
use crate::sys;
use crate::wal::{SegmentChecker, SegmentReport};

/// Size of the chunks that go through: they stay in the processor's cache from the reading over the
/// hashing to the writing.
pub(super) const CHUNK: usize = 256 << 10;

/// Chunks in use while a thread beside works: one that it works on, one that waits, one that is
/// written, one that is filled.
const CHUNKS: usize = 4;

/// Makes a chunk.
pub(super) fn new_chunk() -> Arc<Vec<u8>> {
    Arc::new(vec![0; CHUNK])
}

/// Returns a chunk's bytes, to be filled.
pub(super) fn bytes_mut(chunk: &mut Arc<Vec<u8>>) -> &mut [u8] {
    // Copied only if it were still shared, which `Consumer::next` rules out.
    Arc::<Vec<u8>>::make_mut(chunk).as_mut_slice()
}

/// What came of the bytes.
pub(super) struct Consumed {
    pub(super) digest: Digest,
    pub(super) records: Option<SegmentReport>,
}

/// The digest and, of a segment, its records.
struct Work {
    hasher: Hasher,
    records: Option<SegmentChecker>,
}

impl Work {
    fn take(&mut self, chunk: &[u8]) {
        self.hasher.update(chunk);
        if let Some(records) = &mut self.records {
            records.feed(chunk);
        }
    }

    fn finish(self) -> Consumed {
        Consumed { digest: self.hasher.digest(), records: self.records.map(SegmentChecker::finish) }
    }
}

enum Worker {
    Here(Box<Work>),
    Beside { sender: SyncSender<(Arc<Vec<u8>>, usize)>, thread: JoinHandle<Consumed> },
}

/// Takes a file's bytes in order.
pub(super) struct Consumer {
    worker: Worker,
    used: VecDeque<Arc<Vec<u8>>>,
}

impl Consumer {
    /// Begins a file; `beside` has the work done by a thread of its own.
    pub(super) fn new(records: Option<SegmentChecker>, beside: bool) -> Self {
        let mut work = Work { hasher: Hasher::default(), records };
        let worker = if beside {
            let (sender, receiver) = mpsc::sync_channel::<(Arc<Vec<u8>>, usize)>(1);
            let run = move || {
                for (chunk, len) in receiver {
                    work.take(chunk.get(..len).unwrap_or_default());
                }
                work.finish()
            };
            let thread = sys::with_signals_blocked(|| thread::spawn(run));
            Worker::Beside { sender, thread }
        } else {
            Worker::Here(Box::new(work))
        };
        Self { worker, used: VecDeque::new() }
    }

    /// Takes the first `len` bytes of a chunk.
    pub(super) fn take(&mut self, chunk: &Arc<Vec<u8>>, len: usize) {
        match &mut self.worker {
            Worker::Here(work) => work.take(chunk.get(..len).unwrap_or_default()),
            // A worker that has gone has panicked, which `finish` passes on.
            Worker::Beside { sender, .. } => drop(sender.send((Arc::clone(chunk), len))),
        }
    }

    /// Gives back a chunk that was taken, and returns one that nobody uses any more.
    pub(super) fn next(&mut self, used: Arc<Vec<u8>>) -> Arc<Vec<u8>> {
        if matches!(self.worker, Worker::Here(_)) {
            return used;
        }
        self.used.push_back(used);
        if self.used.len() < CHUNKS {
            return new_chunk();
        }
        // Of the chunks after this one the worker had to take two for the last to be sent.
        self.used.pop_front().unwrap_or_else(new_chunk)
    }

    /// Waits for the last byte to be worked on.
    pub(super) fn finish(self) -> Consumed {
        match self.worker {
            Worker::Here(work) => work.finish(),
            Worker::Beside { sender, thread } => {
                drop(sender);
                match thread.join() {
                    Ok(consumed) => consumed,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        }
    }
}
