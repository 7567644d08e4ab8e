//! Reloads, as far as the server leaves a wrong value unsaid.
//!
//! When configuration files are read again, every process applies them for itself, and only the
//! postmaster's complaints go to the log. It has not loaded this library, so it cannot judge our
//! parameters; the archiver can, but the server turns its complaints down to DEBUG3. The check
//! hooks of strings speak for themselves. For parameters of other types the server finds the mistake
//! before any hook is called: here the archiver reads the files again and lets the server complain
//! aloud, without a change to any value.

use std::ffi::{CStr, c_char};
use std::panic::AssertUnwindSafe;

use pgrx::{PgTryBuilder, pg_sys};

/// Parameters whose values the server itself checks.
const CHECKED_BY_SERVER: [&CStr; 6] = [
    c"walsafe_archive.fsync_policy",
    c"walsafe_archive.workers",
    c"walsafe_archive.check_wal",
    c"walsafe_archive.verify",
    c"walsafe_archive.stall_timeout",
    c"walsafe_archive.min_free_space",
];

/// Reports values in the configuration files that the server has refused without a word.
///
/// Called while the server applies the files, which it has read successfully a moment ago. An error
/// here (out of memory) is left unsaid: it must not restart the archiver.
pub(crate) fn report_refused() {
    PgTryBuilder::new(AssertUnwindSafe(|| {
        for (name, value) in last_values() {
            // SAFETY: both are valid C strings; with `changeVal` false the call only checks the
            // value, and a WARNING returns.
            unsafe {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value,
                    pg_sys::GucContext::PGC_SIGHUP,
                    pg_sys::GucSource::PGC_S_FILE,
                    pg_sys::GucAction::GUC_ACTION_SET,
                    false,
                    pg_sys::WARNING as i32,
                    false,
                );
            }
        }
    }))
    .catch_others(|_| ())
    .execute();
}

/// Returns the value that counts, the last one, of each parameter that the files set. The strings
/// live in the memory context that the server throws away when it has applied the files.
fn last_values() -> Vec<(&'static CStr, *const c_char)> {
    let mut values: [*const c_char; CHECKED_BY_SERVER.len()] =
        [std::ptr::null(); CHECKED_BY_SERVER.len()];
    let mut item = read_files();
    while !item.is_null() {
        // SAFETY: the parser's list is well-formed, and nothing changes it while we walk.
        let variable = unsafe { &*item };
        // SAFETY: the parser sets the name of every item that has no `errmsg`; checked here anyway.
        let name = (!variable.name.is_null()).then(|| unsafe { CStr::from_ptr(variable.name) });
        let known = CHECKED_BY_SERVER.iter().position(|known| {
            name.is_some_and(|name| name.to_bytes().eq_ignore_ascii_case(known.to_bytes()))
        });
        if let Some(value) = known.and_then(|place| values.get_mut(place)) {
            *value = variable.value;
        }
        item = variable.next;
    }
    CHECKED_BY_SERVER.into_iter().zip(values).filter(|(_, value)| !value.is_null()).collect()
}

/// Parses postgresql.conf, what it includes, and postgresql.auto.conf, as the server does.
fn read_files() -> *mut pg_sys::ConfigVariable {
    let (mut head, mut tail) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the server sets the variable when it starts.
    let main = unsafe { pg_sys::ConfigFileName };
    let files = [(main.cast_const(), true), (c"postgresql.auto.conf".as_ptr(), false)];
    for (file, strict) in files.into_iter().filter(|(file, _)| !file.is_null()) {
        // SAFETY: the name is a valid C string, and the list is the parser's own from the call
        // before. A relative name is one in the data directory.
        unsafe {
            pg_sys::ParseConfigFile(
                file,
                strict,
                std::ptr::null(),
                0,
                0,
                pg_sys::DEBUG3 as i32,
                &raw mut head,
                &raw mut tail,
            );
        }
    }
    head
}
