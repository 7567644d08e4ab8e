//! Errors of the server that are caught before its own handler sees them.
//!
//! That handler (the `sigsetjmp` block of 17's and 18's `pgarch_archiveXlog`; in 15 and 16 the archiver
//! ends instead) releases what the error left held. Whoever catches the error has to do it in its
//! place: a lock that stays held blocks the next call that asks for it, for ever.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_sys};

/// Runs `work` in the archiver. If the server raises an error in it, or it panics, returns the message.
/// Nothing is held any more then.
pub(crate) fn catch_in_archiver<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
        .catch_others(|cause| {
            release();
            Err(text(&cause))
        })
        .execute()
}

fn text(cause: &CaughtError) -> String {
    match cause {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report.message().to_owned(),
    }
}

/// Releases what the server's handler releases, in its order. That one also ends timeouts and asynchronous
/// I/O; nothing here starts any.
fn release() {
    release_locks();
    // SAFETY: called in the main thread; does nothing where none sleeps.
    unsafe { pg_sys::ConditionVariableCancelSleep() };
    // SAFETY: points to a number of this process's own, in shared memory or not, from its start on.
    let event = unsafe { pg_sys::my_wait_event_info };
    // SAFETY: as above; others only read it, and this is how the server writes it.
    unsafe { event.write_volatile(0) };
    // SAFETY: the archiver is an auxiliary process: the server made the owner when it started, and
    // nothing between the callback and here holds anything of it that is still in use.
    unsafe { pg_sys::ReleaseAuxProcessResources(false) };
    // SAFETY: called in the main thread; the server has no file open while a callback runs.
    unsafe { pg_sys::AtEOXact_Files(false) };
    // SAFETY: as above, for scans of hash tables.
    unsafe { pg_sys::AtEOXact_HashTables(false) };
}

/// Releases the locks on shared memory that an error left held.
pub(crate) fn release_locks() {
    // SAFETY: called in the main thread after an error was caught. Neither the archiver's loop nor the
    // executor holds such a lock while it calls into a library: the code there may take any.
    unsafe { pg_sys::LWLockReleaseAll() };
}
