//! Runs what touches an archive outside a session's main thread, so that a destination that hangs
//! neither blocks the session's cancellation nor a barrier of the server.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use walsafe_core::sys;

use crate::waiting::wait_in_session;

/// Sets the flag when the session leaves: also when a cancellation unwinds through it.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` in a thread and waits for it. Cancelling the query raises the server's error here,
/// and tells the thread to end by the flag that `work` gets.
///
/// # Errors
/// The thread could not be started, or it panicked.
pub(crate) fn run<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
) -> Result<T, String> {
    let (wake, notify) = UnixStream::pair().map_err(|e| e.to_string())?;
    let (send, receive) = mpsc::channel();
    let cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&cancelled));
    let spawned = sys::with_signals_blocked(|| {
        std::thread::Builder::new().name("walsafe".to_owned()).spawn(move || {
            // Dropped when the thread ends, by a panic too: the other end is readable then.
            let _notify = notify;
            // A session that has left does not want the result.
            let _ = send.send(work(&cancelled));
        })
    });
    spawned.map_err(|e| e.to_string())?;
    loop {
        match receive.try_recv() {
            Ok(result) => {
                drop(guard);
                return Ok(result);
            }
            Err(mpsc::TryRecvError::Disconnected) => return Err("a thread panicked".to_owned()),
            Err(mpsc::TryRecvError::Empty) => {
                wait_in_session(wake.as_fd(), Duration::from_secs(1));
            }
        }
    }
}
