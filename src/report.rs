//! The one place that reports to the server's log.

use std::ffi::{CStr, CString};
use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use walsafe_core::archive::{Failure, Level, Notice, Telling};
use walsafe_core::error::{Activity, Error};
use walsafe_core::server::settings::Destination;
use walsafe_core::words;

/// What a report says.
pub(crate) struct Report {
    pub(crate) code: PgSqlErrorCode,
    pub(crate) message: String,
    pub(crate) detail: String,
    pub(crate) hint: String,
}

impl Report {
    /// Writes the report to the log. Never raises: a WARNING returns.
    pub(crate) fn warn(self) {
        self.at(PgLogLevel::WARNING);
    }

    /// Raises the report as an error, in a session.
    pub(crate) fn raise(self) -> ! {
        self.at(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Writes one line to the log, of an event that is no trouble.
    pub(crate) fn log(self) {
        self.at(PgLogLevel::LOG);
    }

    fn at(self, level: PgLogLevel) {
        let (message, detail, hint) =
            (for_server(self.message), for_server(self.detail), for_server(self.hint));
        let report = ErrorReport::new(self.code, message, "walsafe_archive");
        let report = if detail.is_empty() { report } else { report.set_detail(detail) };
        let report = if hint.is_empty() { report } else { report.set_hint(hint) };
        report.report(level);
    }
}

/// Makes a text fit for the server, which takes every text to be in the encoding of the session's database.
///
/// Ours are UTF-8. In a database with another encoding, what is not ASCII is written as in the server's
/// `E'...'` strings (`\u00FC`): the same for every encoding, and no conversion can fail. `SQL_ASCII` means
/// any bytes, as does the archiver, which has no database.
pub(crate) fn for_server(text: String) -> String {
    // SAFETY: reads a variable of the server.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    let utf8 = i64::from(pg_sys::pg_enc::PG_UTF8);
    let any = i64::from(pg_sys::pg_enc::PG_SQL_ASCII);
    if text.is_ascii() || [utf8, any].contains(&i64::from(encoding)) {
        return text;
    }
    text.chars()
        .map(|c| match u32::from(c) {
            0..0x80 => c.to_string(),
            number @ 0x80..0x1_0000 => format!("\\u{number:04X}"),
            number => format!("\\U{number:08X}"),
        })
        .collect()
}

/// Reports that a file was not archived: one WARNING.
pub(crate) fn failure(file: &str, failure: &Failure, telling: Telling) {
    let Telling { detail, hint } = telling;
    let message = failure.message(file);
    Report { code: code(failure.kind().sqlstate()), message, detail, hint }.warn();
}

/// Logs that a call has ended before these destinations had answered, because of a reload. Nothing has failed.
pub(crate) fn given_up(file: &str, waited_for: &[(Destination, Duration)]) {
    let still = |(there, still_for): &(Destination, Duration)| {
        let seconds = words::count(still_for.as_secs(), "second");
        format!("Nothing has moved at \"{}\" for {seconds}.", there.path().display())
    };
    let detail = waited_for.iter().map(still).collect::<Vec<_>>().join(" ");
    Report {
        code: PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message: format!("file \"{file}\" waits while the configuration is read again"),
        detail: format!("{detail} The file is tried again at once, with the new settings."),
        hint: String::new(),
    }
    .log();
}

/// Reports what was noticed while a file was archived.
pub(crate) fn notice(notice: &Notice) {
    let Notice { level, sqlstate, message, detail, hint } = notice.clone();
    match level {
        Level::Warning => Report { code: code(sqlstate), message, detail, hint }.warn(),
        Level::Log => {
            let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
            Report { code, message, detail, hint }.log();
        }
    }
}

/// Raises an error of the core in a session.
pub(crate) fn raise_error(error: &Error) -> ! {
    let kind = error.kind();
    Report {
        code: code(kind.sqlstate()),
        message: error.to_string(),
        detail: error.detail(),
        hint: error.hint(Activity::Checking).into_owned(),
    }
    .raise()
}

/// Raises an error in a session.
pub(crate) fn raise(code: PgSqlErrorCode, message: &'static str, detail: &str) -> ! {
    let (message, detail) = (message.to_owned(), detail.to_owned());
    Report { code, message, detail, hint: String::new() }.raise()
}

/// Translates the SQLSTATEs of the core's table.
fn code(sqlstate: &str) -> PgSqlErrorCode {
    match sqlstate {
        "01000" => PgSqlErrorCode::ERRCODE_WARNING,
        "08006" => PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
        "0A000" => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "22023" => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "25006" => PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        "28000" => PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        "42501" => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "42809" => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        "53000" => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        "53100" => PgSqlErrorCode::ERRCODE_DISK_FULL,
        "53200" => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        "55000" => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "58030" => PgSqlErrorCode::ERRCODE_IO_ERROR,
        "58P01" => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
        "58P02" => PgSqlErrorCode::ERRCODE_DUPLICATE_FILE,
        "XX001" => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        _ => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
    }
}

/// Sets the DETAIL of the server's own message about a refused setting (`GUC_check_errdetail`).
///
/// # Safety
/// Called by a check hook, in the server's main thread.
pub(crate) unsafe fn set_check_detail(text: &str) {
    // SAFETY: as the caller promises.
    let detail = unsafe { elog_string(text) };
    // SAFETY: only the main thread uses the variable.
    unsafe { pg_sys::GUC_check_errdetail_string = detail };
}

/// Sets the server's own message about a refused setting (`GUC_check_errmsg`).
///
/// # Safety
/// Called by a check hook, in the server's main thread.
pub(crate) unsafe fn set_check_message(text: &str) {
    // SAFETY: as the caller promises.
    let message = unsafe { elog_string(text) };
    // SAFETY: only the main thread uses the variable.
    unsafe { pg_sys::GUC_check_errmsg_string = message };
}

/// Sets the DETAIL of the server's "archiving is not configured" (`arch_module_check_errdetail`).
///
/// # Safety
/// Called by the callback that checks the configuration, in the server's main thread.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
pub(crate) unsafe fn set_check_configured_detail(text: &str) {
    unsafe extern "C" {
        /// Of `archive/archive_module.h`, 17 and later.
        static mut arch_module_check_errdetail_string: *mut std::ffi::c_char;
    }
    // SAFETY: as the caller promises.
    let detail = unsafe { elog_string(text) };
    // SAFETY: only the main thread uses the variable, and the server defines it.
    unsafe { arch_module_check_errdetail_string = detail };
}

/// Copies a text into the memory that the server keeps for such strings.
///
/// # Safety
/// Called in the server's main thread.
unsafe fn elog_string(text: &str) -> *mut std::ffi::c_char {
    let text = for_server(text.replace('\0', ""));
    // SAFETY: no zero byte is left.
    let text = unsafe { CString::from_vec_unchecked(text.into_bytes()) };
    let format: &CStr = c"%s";
    // SAFETY: sets the error number and text domain for the next call; the domain may be null.
    unsafe { pg_sys::pre_format_elog_string(0, std::ptr::null()) };
    // SAFETY: the format takes one C string, which outlives the call; the result is a copy.
    unsafe { pg_sys::format_elog_string(format.as_ptr(), text.as_ptr()) }
}
