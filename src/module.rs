//! The archive module interface of each server version.
//!
//! Sources: PostgreSQL 15's `postmaster/pgarch.h`; `archive/archive_module.h` of 16 and later. In 15
//! the server passes a table to be filled in. Since 16 it takes a pointer to a constant table, and
//! every callback gets a state first, which is not needed here: an archiver process loads one
//! module, so its state is a thread-local value of [`crate::archiver`].

use std::ffi::{CStr, c_char};

use pgrx::pg_guard;

use crate::{archiver, settings};

/// Reads a C string that the server passes.
///
/// # Safety
/// `text` must be a valid C string for as long as the result is used.
unsafe fn given<'a>(text: *const c_char) -> &'a CStr {
    // SAFETY: the caller promises a valid string.
    unsafe { CStr::from_ptr(text) }
}

#[cfg(feature = "pg15")]
mod table {
    use super::{CStr, archiver, c_char, given, pg_guard, settings};

    /// `ArchiveModuleCallbacks` of `postmaster/pgarch.h`.
    #[repr(C)]
    pub(super) struct ArchiveModuleCallbacks {
        check_configured: Option<unsafe extern "C-unwind" fn() -> bool>,
        archive_file: Option<unsafe extern "C-unwind" fn(*const c_char, *const c_char) -> bool>,
        shutdown: Option<unsafe extern "C-unwind" fn()>,
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn check_configured() -> bool {
        archiver::is_configured()
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn archive_file(file: *const c_char, path: *const c_char) -> bool {
        // SAFETY: the server passes a C string that outlives the call.
        let file: &CStr = unsafe { given(file) };
        // SAFETY: as above.
        let path: &CStr = unsafe { given(path) };
        archiver::archive(file, path)
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn shutdown() {
        archiver::shut_down();
    }

    /// Fills the server's table in. The archiver calls this when it starts, and nobody else.
    #[unsafe(no_mangle)]
    #[pg_guard]
    pub(super) unsafe extern "C-unwind" fn _PG_archive_module_init(
        table: *mut ArchiveModuleCallbacks,
    ) {
        let callbacks = ArchiveModuleCallbacks {
            check_configured: Some(check_configured),
            archive_file: Some(archive_file),
            shutdown: Some(shutdown),
        };
        // SAFETY: the server passes its own table, of this type, and reads it after the call.
        unsafe { table.write(callbacks) };
        settings::warn_at_start();
    }
}

#[cfg(not(feature = "pg15"))]
mod table {
    use std::ffi::c_void;

    use super::{CStr, archiver, c_char, given, pg_guard, settings};

    /// `ArchiveModuleState` of `archive/archive_module.h`; only ever passed through.
    #[repr(C)]
    pub(super) struct ArchiveModuleState {
        private_data: *mut c_void,
    }

    type State = *mut ArchiveModuleState;

    /// `ArchiveModuleCallbacks` of `archive/archive_module.h`.
    #[repr(C)]
    pub(super) struct ArchiveModuleCallbacks {
        startup: Option<unsafe extern "C-unwind" fn(State)>,
        check_configured: Option<unsafe extern "C-unwind" fn(State) -> bool>,
        archive_file:
            Option<unsafe extern "C-unwind" fn(State, *const c_char, *const c_char) -> bool>,
        shutdown: Option<unsafe extern "C-unwind" fn(State)>,
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn check_configured(_state: State) -> bool {
        let configured = archiver::is_configured();
        #[cfg(not(feature = "pg16"))]
        if !configured {
            // SAFETY: called by the server in its main thread, as the variable demands.
            unsafe { crate::report::set_check_configured_detail(settings::NOT_CONFIGURED) };
        }
        configured
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn archive_file(
        _state: State,
        file: *const c_char,
        path: *const c_char,
    ) -> bool {
        // SAFETY: the server passes a C string that outlives the call.
        let file: &CStr = unsafe { given(file) };
        // SAFETY: as above.
        let path: &CStr = unsafe { given(path) };
        archiver::archive(file, path)
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn shutdown(_state: State) {
        archiver::shut_down();
    }

    static CALLBACKS: ArchiveModuleCallbacks = ArchiveModuleCallbacks {
        startup: None,
        check_configured: Some(check_configured),
        archive_file: Some(archive_file),
        shutdown: Some(shutdown),
    };

    /// Returns the table of callbacks, valid as long as the library is loaded. The archiver calls this when
    /// it starts, and nobody else.
    #[unsafe(no_mangle)]
    #[pg_guard]
    pub(super) extern "C-unwind" fn _PG_archive_module_init() -> *const ArchiveModuleCallbacks {
        settings::warn_at_start();
        &raw const CALLBACKS
    }
}
