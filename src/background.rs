//! Runs what touches an archive outside a session's main thread, so that a destination that hangs
//! neither blocks the session's cancellation nor a barrier of the server.

use std::cell::RefCell;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use walsafe_core::sys;

use crate::waiting::wait_in_session;

/// How long the thread of a cancelled call may take to end. One that takes longer hangs.
const GRACE: Duration = Duration::from_millis(500);

thread_local! {
    /// Readable once the thread of the last call has ended; `None` once its result has been taken.
    static LAST: RefCell<Option<UnixStream>> = const { RefCell::new(None) };
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The thread of an earlier call, which was cancelled, has not returned from the archive.
    EarlierHangs,
    /// The thread, or the handle that it wakes the session by, could not be made.
    NotStarted(std::io::Error),
    /// The thread panicked.
    Panicked,
}

/// Sets the flag when the session leaves, also when a cancellation unwinds through it.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` in a thread and waits for it. Cancelling the query raises the server's error here, and the
/// flag that `work` gets tells the thread to end.
///
/// A session has at most one such thread. While a cancelled one hangs, no other is started, so that
/// calls with a `statement_timeout` do not pile up threads.
///
/// # Errors
/// The thread of an earlier call hangs, or the thread could not be started, or it panicked.
pub(crate) fn run<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
) -> Result<T, Failure> {
    wait_for_last()?;
    let (wake, notify) = UnixStream::pair().map_err(Failure::NotStarted)?;
    wake.set_nonblocking(true).map_err(Failure::NotStarted)?;
    let (send, receive) = mpsc::channel();
    let cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&cancelled));
    let spawned = sys::with_signals_blocked(|| {
        std::thread::Builder::new().name("walsafe".to_owned()).spawn(move || {
            // Dropped when the thread ends, by a panic too: the other end is readable then.
            let _notify = notify;
            // A session that has left does not need the result.
            let _ = send.send(work(&cancelled));
        })
    });
    spawned.map_err(Failure::NotStarted)?;
    LAST.with_borrow_mut(|last| {
        let wake = last.insert(wake);
        let result = loop {
            match receive.try_recv() {
                Ok(result) => break Ok(result),
                Err(mpsc::TryRecvError::Disconnected) => {
                    break Err(Failure::Panicked);
                }
                Err(mpsc::TryRecvError::Empty) => {
                    wait_in_session(wake.as_fd(), Duration::from_secs(1));
                }
            }
        };
        // It has nothing left to do: no call needs to wait for it.
        *last = None;
        drop(guard);
        result
    })
}

/// Waits a moment for the thread of an earlier call that was cancelled.
fn wait_for_last() -> Result<(), Failure> {
    LAST.with_borrow_mut(|last| {
        let since = Instant::now();
        while let Some(wake) = last {
            // Nothing is ever sent: either the end can be read, or there is nothing yet.
            if (&*wake).read(&mut [0]).is_ok() {
                *last = None;
            } else {
                let left = GRACE.checked_sub(since.elapsed()).ok_or(Failure::EarlierHangs)?;
                wait_in_session(wake.as_fd(), left);
            }
        }
        Ok(())
    })
}
