//! Chunks on their way to storage: while one is filled, those before it are written by another thread.
//!
//! Storage stands still while the processor hashes, and the processor while storage writes. With several
//! chunks under way, neither waits for the other. Chunks that were filled during a write are written together:
//! the longer storage takes for a write, the larger the next one is, so that a lone copy does not pay its
//! latency for every chunk.
//!
//! The thread lives as long as one file is copied, and whoever copies waits for its end. So no memory is
//! filled again or freed before its write has ended, on errors and panics too; a write that the kernel holds
//! also holds the thread that copies, as it would without a second one; and there are never more than two
//! threads for one copy.

use std::iter::once;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use crate::sys::process::start_scoped;
use crate::sys::slice::part;

/// Stack of the thread, in bytes: what it writes is on the heap.
const STACK: usize = 256 << 10;

/// A piece of memory to fill, and its way to the writer. Handing it over gives the next one.
///
/// Each piece is in one place at any time: here, on its way to the writer, with the writer, or on its way
/// back.
pub struct Pipeline<'s, E> {
    piece: &'s mut [u8],
    way: Way<'s, E>,
}

enum Way<'s, E> {
    /// Each piece is written while it is handed over.
    InPlace(&'s Write<'s, E>),
    /// A thread writes them.
    Overlapped {
        filled: SyncSender<(&'s mut [u8], usize)>,
        written: Receiver<&'s mut [u8]>,
        writer: ScopedJoinHandle<'s, Result<(), E>>,
    },
}

/// Used by one thread for the whole copy.
type Write<'s, E> = Mutex<dyn FnMut(&[&[u8]]) -> Result<(), E> + Send + 's>;

/// Runs `fill`, which fills one piece of memory after the other and hands each over to be written by `write`,
/// in this order, one or several at a time. On return every write has ended.
///
/// Where there are fewer than two pieces, or no thread can be started, each piece is written while it is
/// handed over.
///
/// # Errors
/// The error of `write`, after which nothing more is written, or that of `fill`.
pub fn overlap<'m, T, E: Send + 'static>(
    pieces: impl IntoIterator<Item = &'m mut [u8]>,
    write: impl FnMut(&[&[u8]]) -> Result<(), E> + Send,
    fill: impl for<'s> FnOnce(Pipeline<'s, E>) -> Result<(T, Pipeline<'s, E>), E>,
) -> Result<T, E> {
    let write = Mutex::new(write);
    let mut pieces: Vec<&mut [u8]> = pieces.into_iter().collect();
    let piece = pieces.pop().unwrap_or_default();
    std::thread::scope(|scope| {
        let mut way = Way::InPlace(&write);
        if !pieces.is_empty() {
            // Neither side ever waits to hand over: there is room for all pieces.
            let (filled, to_write) = sync_channel(pieces.len() + 1);
            let (back, written) = sync_channel(pieces.len() + 1);
            for piece in pieces {
                let _ = back.send(piece);
            }
            let write: &Write<'_, E> = &write;
            let writer = start_scoped(scope, STACK, move || write_each(write, &to_write, &back));
            if let Ok(writer) = writer {
                way = Way::Overlapped { filled, written, writer };
            }
        }
        let (result, pipeline) = fill(Pipeline { piece, way })?;
        pipeline.finish()?;
        Ok(result)
    })
}

impl<E> Pipeline<'_, E> {
    /// Returns the piece of memory to fill.
    pub fn piece(&mut self) -> &mut [u8] {
        self.piece
    }

    /// Hands over the first `len` bytes of the piece, and waits until there is another piece to fill.
    ///
    /// # Errors
    /// The write of this piece, or of one before it, has failed.
    pub fn put(self, len: usize) -> Result<Self, E> {
        let Self { piece, way } = self;
        match way {
            Way::InPlace(write) => {
                let mut write = write.lock().unwrap_or_else(PoisonError::into_inner);
                write(&[part(piece, ..len)])?;
                drop(write);
                Ok(Self { piece, way })
            }
            Way::Overlapped { filled, written, writer } => {
                // Where the writer has ended, nothing comes back any more.
                let _ = filled.send((piece, len));
                if let Ok(piece) = written.recv() {
                    return Ok(Self { piece, way: Way::Overlapped { filled, written, writer } });
                }
                match writer.join() {
                    Ok(Err(error)) => Err(error),
                    Ok(Ok(())) => resume_unwind(Box::new("a thread that writes has gone")),
                    Err(panic) => resume_unwind(panic),
                }
            }
        }
    }

    fn finish(self) -> Result<(), E> {
        match self.way {
            Way::InPlace(_) => Ok(()),
            Way::Overlapped { filled, written: _, writer } => {
                drop(filled);
                writer.join().unwrap_or_else(|panic| resume_unwind(panic))
            }
        }
    }
}

/// What the thread does until there is nothing more to write, or a write fails.
fn write_each<'s, E>(
    write: &Write<'_, E>,
    filled: &Receiver<(&'s mut [u8], usize)>,
    written: &SyncSender<&'s mut [u8]>,
) -> Result<(), E> {
    let mut write = write.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok(first) = filled.recv() {
        let pieces: Vec<_> = once(first).chain(filled.try_iter()).collect();
        let bytes: Vec<&[u8]> = pieces.iter().map(|(piece, len)| part(piece, ..*len)).collect();
        write(&bytes)?;
        for (piece, _) in pieces {
            // Nobody may need it any more.
            let _ = written.send(piece);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::sync::mpsc::channel;

    use super::*;

    /// Each chunk was a write of its own: a lone copy to a disk that answers after 1 ms waited 32 times.
    #[test]
    fn what_was_filled_during_a_write_is_written_by_one() {
        let mut memory = [0; 8];
        let (full, wait) = channel();
        let mut written = Vec::new();
        let writes = &mut written;
        overlap(
            memory.chunks_exact_mut(1),
            move |chunks: &[&[u8]]| {
                if writes.is_empty() {
                    wait.recv().unwrap();
                }
                writes.push(chunks.concat());
                Ok::<_, ()>(())
            },
            |mut pipeline| {
                for byte in 1..=8 {
                    pipeline.piece()[0] = byte;
                    if byte == 8 {
                        full.send(()).unwrap();
                    }
                    pipeline = pipeline.put(1)?;
                }
                Ok(((), pipeline))
            },
        )
        .unwrap();
        assert_eq!(written.concat(), [1, 2, 3, 4, 5, 6, 7, 8]);
        // The first write may have come upon several chunks already.
        assert!(written.len() <= 3, "{written:?}");
    }
}
