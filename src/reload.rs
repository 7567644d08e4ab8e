//! Reloads: mistakes in the configuration files that the server does not report.
//!
//! When configuration files are read again, every process applies them for itself, and only the
//! postmaster's complaints go to the log. It has not loaded this library, so it cannot judge our
//! parameters. The archiver can, but the server turns its complaints down to DEBUG3. The check hooks of
//! texts report a refusal themselves. For parameters of other types, and for names that are not a
//! parameter's, the server finds the mistake before any hook is called. So the archiver reads the files
//! again here and reports the mistake, without a change to any value.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char};

use pgrx::{PgSqlErrorCode, pg_sys};
use walsafe_core::server::settings::{Kind, PREFIX, TABLE, shown};

use crate::raised::catch_in_archiver;
use crate::report::Report;
use crate::settings::{DESTINATION, data_directory};

/// A line of the configuration files. The value is in the memory context of whoever had the files read. The
/// server discards that of a reload when it has applied them, and a session that of its query.
struct Item {
    /// As it is written.
    name: String,
    value: *const c_char,
}

impl Item {
    /// Names are not case-sensitive.
    fn is(&self, parameter: &CStr) -> bool {
        self.name.as_bytes().eq_ignore_ascii_case(parameter.to_bytes())
    }
}

/// Reports names and values in the configuration files that the server has refused without a word.
///
/// Called while the server applies the files, which it has read successfully a moment ago. An error
/// here (out of memory) is not reported: it must not restart the archiver.
pub(crate) fn report_refused() {
    let _ = catch_in_archiver(|| {
        let items = our_items();
        report_unknown(&items);
        // For a text, our hook reports it.
        let by_server = TABLE.iter().filter(|setting| !matches!(setting.kind, Kind::Text { .. }));
        for name in by_server.map(|setting| setting.name) {
            if let Some(item) = last(&items, name) {
                accepts(name, item, pg_sys::WARNING);
            }
        }
    });
}

fn report_unknown(items: &[Item]) {
    let known = || TABLE.iter().map(|setting| setting.name);
    let unknown: BTreeSet<String> = items
        .iter()
        .filter(|item| !known().any(|name| item.is(name)))
        .map(|item| item.name.to_ascii_lowercase())
        .collect();
    let names: Vec<_> = known().map(|name| format!("\"{}\"", name.to_string_lossy())).collect();
    for name in unknown {
        Report {
            code: PgSqlErrorCode::ERRCODE_INVALID_NAME,
            message: format!("invalid configuration parameter name \"{name}\""),
            detail: "There is no such parameter: the line in the configuration files does nothing."
                .to_owned(),
            hint: format!("The parameters of walsafe_archive are {}.", names.join(", ")),
        }
        .warn();
    }
}

/// Returns the destination that the configuration files set, whether it was accepted or not. To be called in
/// a session's query.
pub(crate) fn destination_in_files() -> Option<String> {
    let items = our_items();
    let value = last(&items, DESTINATION)?.value;
    // SAFETY: a valid C string as long as the query's memory lives.
    Some(unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
}

/// Returns which of our values in the configuration files is refused, and why. To be called in a session's
/// query.
pub(crate) fn refused_in_files() -> Option<String> {
    let items = our_items();
    TABLE.iter().find_map(|setting| {
        let item = last(&items, setting.name)?;
        // A refusal is a message that nobody sees.
        if accepts(setting.name, item, pg_sys::DEBUG5) {
            return None;
        }
        // SAFETY: a valid C string as long as the query's memory lives.
        let value = unsafe { CStr::from_ptr(item.value) };
        let reason =
            setting.check(value, data_directory()).err().map(|reason| format!(": {reason}"));
        Some(format!(
            "\"{}\" is set to \"{}\", which is refused{}",
            setting.name.to_string_lossy(),
            shown(&value.to_string_lossy()),
            reason.unwrap_or_default()
        ))
    })
}

thread_local! {
    static JUDGING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether a hook is called because [`refused_in_files`] or [`report_refused`] asks what it thinks of a value.
pub(crate) fn is_judging() -> bool {
    JUDGING.get()
}

/// Ends the judging, also when an error is raised.
struct Judging;

impl Judging {
    fn begin() -> Self {
        JUDGING.set(true);
        Self
    }
}

impl Drop for Judging {
    fn drop(&mut self) {
        JUDGING.set(false);
    }
}

/// Has the server judge a value as at a reload, and say at a level below ERROR why it refuses one.
fn accepts(name: &CStr, item: &Item, level: u32) -> bool {
    let _judging = Judging::begin();
    // SAFETY: both are valid C strings; with `changeVal` false the call only checks the value, and returns
    // after a message of that level. 0 is the answer for a refused value.
    let accepted = unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            item.value,
            pg_sys::GucContext::PGC_SIGHUP,
            pg_sys::GucSource::PGC_S_FILE,
            pg_sys::GucAction::GUC_ACTION_SET,
            false,
            level as i32,
            false,
        )
    };
    accepted != 0
}

/// The last line of a parameter is the one that counts.
fn last<'a>(items: &'a [Item], parameter: &CStr) -> Option<&'a Item> {
    items.iter().rev().find(|item| item.is(parameter))
}

/// Returns the lines of the configuration files that set parameters with our prefix, in their order.
fn our_items() -> Vec<Item> {
    let mut items = Vec::new();
    let mut next = read_files();
    while !next.is_null() {
        // SAFETY: the parser's list is well-formed, and nothing changes it while we walk.
        let variable = unsafe { &*next };
        next = variable.next;
        // The parser sets both, except in an item that stands for an error.
        if variable.name.is_null() || variable.value.is_null() {
            continue;
        }
        // SAFETY: a valid C string.
        let name = unsafe { CStr::from_ptr(variable.name) }.to_string_lossy().into_owned();
        let prefix = name.split_once('.').map(|(prefix, _)| prefix.as_bytes());
        if prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX.to_bytes())) {
            items.push(Item { name, value: variable.value });
        }
    }
    items
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
