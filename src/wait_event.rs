//! What `pg_stat_activity` shows while the main thread waits: an event of our own from 17 on, `Extension`
//! before.

#[cfg(not(any(feature = "pg15", feature = "pg16")))]
use std::cell::RefCell;
use std::ffi::CStr;
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
use std::panic::AssertUnwindSafe;

#[cfg(not(any(feature = "pg15", feature = "pg16")))]
use pgrx::PgTryBuilder;
use pgrx::pg_sys;

#[cfg(not(any(feature = "pg15", feature = "pg16")))]
use crate::raised;

/// The archiver waits for a copy.
pub(crate) const COPY: WaitEvent = WaitEvent(c"WalsafeArchiveCopy");
/// A session waits for a check or a verification of an archive.
pub(crate) const READ: WaitEvent = WaitEvent(c"WalsafeArchiveRead");

/// A wait event's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitEvent(&'static CStr);

impl WaitEvent {
    /// Returns the number that the server knows it by.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    pub(crate) fn number(self) -> u32 {
        // Only later versions use the name.
        let Self(_) = self;
        pg_sys::PG_WAIT_EXTENSION
    }

    /// Returns the number that the server knows it by; asks the server once in each process. If other
    /// libraries have taken all the names that the server has room for, this is the number of `Extension`.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    pub(crate) fn number(self) -> u32 {
        thread_local! {
            static KNOWN: RefCell<Vec<(WaitEvent, u32)>> = const { RefCell::new(Vec::new()) };
        }
        let known = |known: &Vec<(Self, u32)>| known.iter().find(|(e, _)| *e == self).map(|e| e.1);
        if let Some(number) = KNOWN.with_borrow(known) {
            return number;
        }
        let number = PgTryBuilder::new(AssertUnwindSafe(|| {
            // SAFETY: called in the main thread of a process with shared memory, with a valid C string
            // that the server copies. A name that another process has given keeps its number.
            unsafe { pg_sys::WaitEventExtensionNew(self.0.as_ptr()) }
        }))
        .catch_others(|_| {
            // "too many custom wait events" is raised with the lock on the list held.
            raised::release_locks();
            pg_sys::PG_WAIT_EXTENSION
        })
        .execute();
        KNOWN.with_borrow_mut(|known| known.push((self, number)));
        number
    }
}
