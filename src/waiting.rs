//! How the archiver's main thread waits while threads copy (guarantee G10).

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::wait_event::{self, WaitEvent};

/// Longest single wait, and so how often the process title is updated.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits for one call of the server to be answered, and keeps the process responsive meanwhile.
///
/// The process latch belongs to the archiver's main loop, which must see every wake-up that comes
/// while we wait: dropping this sets the latch again if we have reset it.
pub(crate) struct Waiter<'a> {
    latch_was_set: bool,
    file: &'a str,
    since: Instant,
}

impl<'a> Waiter<'a> {
    /// Begins to wait for a file that the server has asked for.
    pub(crate) fn new(file: &'a str) -> Self {
        Self { latch_was_set: false, file, since: Instant::now() }
    }

    /// Waits until `handle` is readable, the latch is set or the time is over, and does what the
    /// server asks of every process: barriers and memory reports. Does not return when the
    /// postmaster has died.
    ///
    /// Reloads are left to the server, between two calls. See [`Waiter::is_reload_pending`].
    pub(crate) fn wait(&mut self, handle: BorrowedFd<'_>, timeout: Duration) {
        self.latch_was_set |= wait_for_latch(handle, timeout, wait_event::COPY);
        self.show_time();
        // SAFETY: a flag that signal handlers of this thread set.
        if unsafe { pg_sys::ProcSignalBarrierPending } != 0 {
            // SAFETY: called in the main thread, where the server's own loop would call it.
            unsafe { pg_sys::ProcessProcSignalBarrier() };
        }
        // SAFETY: as above.
        if unsafe { pg_sys::LogMemoryContextPending } != 0 {
            // SAFETY: as above.
            unsafe { pg_sys::ProcessLogMemoryContextInterrupt() };
        }
    }

    /// Returns whether the server is to read its configuration again, which it does between two calls. The
    /// signal has ended a wait.
    pub(crate) fn is_reload_pending() -> bool {
        // SAFETY: a flag that a signal handler of this thread sets.
        unsafe { pg_sys::ConfigReloadPending != 0 }
    }

    /// Adds the time to the server's own process title, "archiving NAME". The server sets the next title
    /// after the call. A call of normal length changes nothing.
    fn show_time(&self) {
        let waited = self.since.elapsed();
        if waited < LONGEST {
            return;
        }
        let title = format!("archiving {} for {} s", self.file, waited.as_secs());
        if let Ok(title) = CString::new(title) {
            set_title(&title);
        }
    }
}

/// Sets the process title, if the server's settings want one.
fn set_title(title: &CStr) {
    // SAFETY: called in the main thread with a valid C string, which is copied.
    #[cfg(feature = "pg15")]
    unsafe {
        pg_sys::set_ps_display(title.as_ptr());
    }
    // SAFETY: as above; later versions make an inline function of the other.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        pg_sys::set_ps_display_with_len(title.as_ptr(), title.count_bytes());
    }
}

/// Waits in a session until `handle` is readable, the latch is set or the time is over; raises the
/// server's error when the query is cancelled.
pub(crate) fn wait_in_session(handle: BorrowedFd<'_>, timeout: Duration) {
    wait_for_latch(handle, timeout, wait_event::READ);
    pgrx::check_for_interrupts!();
}

/// Waits until `handle` is readable, the latch is set or the time is over. Resets the latch, and
/// returns whether it was set. Does not return when the postmaster has died.
fn wait_for_latch(handle: BorrowedFd<'_>, timeout: Duration, event: WaitEvent) -> bool {
    let events = pg_sys::WL_LATCH_SET
        | pg_sys::WL_SOCKET_READABLE
        | pg_sys::WL_TIMEOUT
        | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = timeout.min(LONGEST).as_millis().max(1);
    // SAFETY: a pointer that is set up before any library is loaded, read in the main thread.
    let latch = unsafe { pg_sys::MyLatch };
    // SAFETY: called in the main thread with its own latch; the handle is open for the time of the
    // call.
    let happened = unsafe {
        pg_sys::WaitLatchOrSocket(
            latch,
            events as _,
            handle.as_raw_fd(),
            milliseconds as _,
            event.number(),
        )
    };
    let set = happened as u32 & pg_sys::WL_LATCH_SET != 0;
    if set {
        // SAFETY: the main thread's own latch.
        unsafe { pg_sys::ResetLatch(latch) };
    }
    set
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.latch_was_set {
            // SAFETY: a pointer that is set up before any library is loaded, read in the main thread.
            let latch = unsafe { pg_sys::MyLatch };
            // SAFETY: the main thread's own latch; setting it never fails or raises.
            unsafe { pg_sys::SetLatch(latch) };
        }
    }
}
