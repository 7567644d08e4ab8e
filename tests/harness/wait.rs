//! Waiting for something to come true, with an end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for what should take a moment. Generous: the machine may be busy.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until the closure returns `Some`; panics after `timeout` with what was waited for.
#[track_caller]
pub fn wait_until<T>(timeout: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    match poll(timeout, &mut ready) {
        Some(value) => value,
        None => panic!("waited {timeout:?} in vain for {what}"),
    }
}

/// The same, without the panic.
pub fn poll<T>(timeout: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let looked = Instant::now();
        if let Some(value) = ready() {
            return Some(value);
        }
        if start.elapsed() >= timeout {
            return None;
        }
        // A look that takes long, as with psql, must not keep the processors from what is waited for.
        std::thread::sleep(pause.max(2 * looked.elapsed()));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Tells threads of the test to end when it is dropped, also while the test fails: it would wait for
/// them for ever.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
