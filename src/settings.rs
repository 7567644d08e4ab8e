//! The configuration parameters `walsafe_archive.*`, and one snapshot of them for a call.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::time::Duration;

use pgrx::guc::GucEnum;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PgSqlErrorCode, PostgresGucEnum};
use pgrx::{pg_guard, pg_sys};
use walsafe_core::archive;
use walsafe_core::encoding::codec::Compression;
use walsafe_core::server::settings::{self as values, Destination, FileMode};
use walsafe_core::wal::SegmentSize;

use crate::reload;
use crate::report::{self, Report};

/// The DETAIL of the server's "archiving is not configured".
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
pub(crate) const NOT_CONFIGURED: &str = "\"walsafe_archive.destination\" is not set.";

#[derive(Clone, Copy, PostgresGucEnum)]
#[allow(non_camel_case_types, reason = "the values are the names that users write")]
enum FsyncPolicy {
    full,
    file,
    none,
}

#[derive(Clone, Copy, PostgresGucEnum)]
#[allow(non_camel_case_types, reason = "the values are the names that users write")]
enum CheckWal {
    off,
    header,
    records,
}

static DESTINATION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static FSYNC_POLICY: GucSetting<FsyncPolicy> = GucSetting::<FsyncPolicy>::new(FsyncPolicy::full);
static FILE_MODE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"0600"));
static COMPRESSION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"none"));
static WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static CHECK_WAL: GucSetting<CheckWal> = GucSetting::<CheckWal>::new(CheckWal::header);
static VERIFY: GucSetting<bool> = GucSetting::<bool>::new(false);
static STALL_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60);
static MIN_FREE_SPACE: GucSetting<i32> = GucSetting::<i32>::new(0);

thread_local! {
    /// The parameters are registered: from here on a new value is one of a reload.
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The parameters as they were at the start of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) destination: Destination,
    pub(crate) fsync_policy: values::FsyncPolicy,
    pub(crate) file_mode: FileMode,
    pub(crate) compression: Compression,
    pub(crate) workers: usize,
    pub(crate) check_wal: archive::CheckWal,
    pub(crate) verify: bool,
    /// `None`: a copy may stand still for ever.
    pub(crate) stall_timeout: Option<Duration>,
    /// In bytes; 0: no warning.
    pub(crate) min_free_space: u64,
}

impl Settings {
    /// Reads the parameters. `None` while there is no destination: the check hooks let no other
    /// value through that cannot be used.
    pub(crate) fn current() -> Option<Self> {
        let destination = text(&DESTINATION).filter(|path| !path.is_empty())?;
        Some(Self {
            destination: Destination::new(&destination, data_directory()).ok()?,
            fsync_policy: match FSYNC_POLICY.get() {
                FsyncPolicy::full => values::FsyncPolicy::Full,
                FsyncPolicy::file => values::FsyncPolicy::File,
                FsyncPolicy::none => values::FsyncPolicy::None,
            },
            file_mode: text(&FILE_MODE)
                .and_then(|mode| mode.parse().ok())
                .unwrap_or(FileMode::PRIVATE),
            compression: text(&COMPRESSION)
                .and_then(|codec| codec.parse().ok())
                .unwrap_or(Compression::NONE),
            workers: usize::try_from(WORKERS.get()).unwrap_or(0),
            check_wal: match CHECK_WAL.get() {
                CheckWal::off => archive::CheckWal::Off,
                CheckWal::header => archive::CheckWal::Header,
                CheckWal::records => archive::CheckWal::Records,
            },
            verify: VERIFY.get(),
            stall_timeout: u64::try_from(STALL_TIMEOUT.get())
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            min_free_space: u64::try_from(MIN_FREE_SPACE.get()).unwrap_or(0) << 20,
        })
    }
}

/// Tells whether there is a destination.
pub(crate) fn is_configured() -> bool {
    text(&DESTINATION).is_some_and(|path| !path.is_empty())
}

/// Returns the data directory.
pub(crate) fn data_directory() -> &'static Path {
    // SAFETY: the server sets the variable once, before any library is loaded, to a valid string
    // that it never frees.
    let path = unsafe { pg_sys::DataDir };
    if path.is_null() {
        return Path::new(".");
    }
    // SAFETY: as above.
    let path = unsafe { CStr::from_ptr(path) };
    path.to_str().map_or(Path::new("."), Path::new)
}

/// Returns the cluster's segment size.
pub(crate) fn segment_size() -> SegmentSize {
    // SAFETY: a number that the server set when it started.
    let bytes = unsafe { pg_sys::wal_segment_size };
    u64::try_from(bytes)
        .ok()
        .and_then(|bytes| SegmentSize::new(bytes).ok())
        .unwrap_or(SegmentSize::DEFAULT)
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    setting.get().and_then(|value| value.into_string().ok())
}

/// Registers the parameters and reserves their prefix.
pub(crate) fn register() {
    let flags = GucFlags::default();
    string(
        c"walsafe_archive.destination",
        c"Directory that WAL files are archived to.",
        c"An absolute path outside the data directory. Empty: nothing is archived.",
        &DESTINATION,
        check_destination,
    );
    // SAFETY: the hook is a function with the type that the server calls, guarded against panics.
    unsafe {
        GucRegistry::define_enum_guc_with_hooks(
            c"walsafe_archive.fsync_policy",
            c"What is flushed to storage before a file counts as archived.",
            c"\"full\": the file and the directory. \"file\": the file's contents only. \"none\": the operating system decides.",
            &FSYNC_POLICY,
            GucContext::Sighup,
            flags,
            None,
            Some(assign_fsync_policy),
            None,
        );
    }
    string(
        c"walsafe_archive.file_mode",
        c"Permission of archived files.",
        c"One of 0600, 0640, 0400 and 0440, whatever the umask.",
        &FILE_MODE,
        check_file_mode,
    );
    string(
        c"walsafe_archive.compression",
        c"Encoding of archived files.",
        c"\"none\", \"lz4\", \"zstd\" or \"gzip\", the last two with \":level\".",
        &COMPRESSION,
        check_compression,
    );
    GucRegistry::define_int_guc(
        c"walsafe_archive.workers",
        c"Number of WAL files archived at a time, ahead of the server's own calls.",
        c"0 archives only the file that the server asks for.",
        &WORKERS,
        0,
        64,
        GucContext::Sighup,
        flags,
    );
    GucRegistry::define_enum_guc(
        c"walsafe_archive.check_wal",
        c"What is checked of a WAL segment before it is archived.",
        c"\"header\": length, first page header and cluster. \"records\": every page and every record as well. \"off\": nothing.",
        &CHECK_WAL,
        GucContext::Sighup,
        flags,
    );
    GucRegistry::define_bool_guc(
        c"walsafe_archive.verify",
        c"Reads each new copy back from storage before it counts as archived.",
        c"",
        &VERIFY,
        GucContext::Sighup,
        flags,
    );
    GucRegistry::define_int_guc(
        c"walsafe_archive.stall_timeout",
        c"Time without progress after which a copy is reported as failed.",
        c"0 waits for ever.",
        &STALL_TIMEOUT,
        0,
        i32::MAX / 1000,
        GucContext::Sighup,
        flags | GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"walsafe_archive.min_free_space",
        c"Free space in the archive below which a warning is logged.",
        c"0 logs none.",
        &MIN_FREE_SPACE,
        0,
        i32::MAX,
        GucContext::Sighup,
        flags | GucFlags::UNIT_MB,
    );
    // SAFETY: the prefix is a valid C string; called in the main thread while the library loads.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"walsafe_archive".as_ptr()) };
    REGISTERED.set(true);
    if is_archiver() {
        warn_of_policy(FSYNC_POLICY.get());
    }
}

type CheckHook = unsafe extern "C-unwind" fn(
    *mut *mut c_char,
    *mut *mut c_void,
    pg_sys::GucSource::Type,
) -> bool;

fn string(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    check: CheckHook,
) {
    // SAFETY: the hook is a function with the type that the server calls, guarded against panics.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Sighup,
            GucFlags::default(),
            Some(check),
            None,
            None,
        );
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_destination(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // At a reload the server checks every parameter that the files set, or set before, and there is
    // no archiving without this one: so this is called once for each reload.
    let by_files =
        matches!(source, pg_sys::GucSource::PGC_S_FILE | pg_sys::GucSource::PGC_S_DEFAULT);
    if by_files && is_reload_in_archiver() {
        reload::report_refused();
    }
    let check = |path: &str| match path {
        "" => Ok(()),
        path => Destination::new(path, data_directory()).map(drop).map_err(|e| e.to_string()),
    };
    // SAFETY: passes on what the server passed.
    unsafe { check_text("walsafe_archive.destination", value, check) }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_file_mode(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let check = |mode: &str| mode.parse::<FileMode>().map(drop).map_err(|e| e.to_string());
    // SAFETY: passes on what the server passed.
    unsafe { check_text("walsafe_archive.file_mode", value, check) }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_compression(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let check = |codec: &str| {
        codec.parse::<Compression>().map(drop).map_err(|e| {
            let text = e.to_string();
            format!("{}.", text.replacen("level", "Level", usize::from(text.starts_with("level"))))
        })
    };
    // SAFETY: passes on what the server passed.
    unsafe { check_text("walsafe_archive.compression", value, check) }
}

/// Warns where a reload brings another policy; the server calls this for each one that the files set.
#[pg_guard]
unsafe extern "C-unwind" fn assign_fsync_policy(value: c_int, _extra: *mut c_void) {
    if is_reload_in_archiver() && value != FSYNC_POLICY.get().to_ordinal() {
        warn_of_policy(FsyncPolicy::from_ordinal(value));
    }
}

/// Says what a weaker policy can lose.
fn warn_of_policy(policy: FsyncPolicy) {
    let (name, loss) = match policy {
        FsyncPolicy::full => return,
        FsyncPolicy::file => {
            ("file", "A power failure can lose the names of files that count as archived.")
        }
        FsyncPolicy::none => (
            "none",
            "A power failure can lose files that count as archived, or leave them empty or torn.",
        ),
    };
    Report {
        code: PgSqlErrorCode::ERRCODE_WARNING,
        message: format!("\"walsafe_archive.fsync_policy\" is \"{name}\""),
        detail: loss.to_owned(),
        hint: "Set it to \"full\" unless the archive can be lost.".to_owned(),
    }
    .warn();
}

/// Tells whether a hook is called because the archiver reads the configuration again: before, the
/// server reports what it refuses.
fn is_reload_in_archiver() -> bool {
    is_archiver() && REGISTERED.get()
}

fn is_archiver() -> bool {
    // SAFETY: set once when the process starts.
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_ARCHIVER }
}

/// Checks a new value, and leaves the reason of a refusal as the DETAIL of the server's message.
///
/// The server's message of a refusal at a reload goes to the log only from the postmaster, and that
/// has not loaded this library: so the archiver reports it here.
///
/// # Safety
/// `value` must be what the server passes to a check hook of a string.
unsafe fn check_text(
    name: &str,
    value: *mut *mut c_char,
    check: impl Fn(&str) -> Result<(), String>,
) -> bool {
    // SAFETY: the server passes the address of its pointer to the new value.
    let given = unsafe { *value };
    if given.is_null() {
        return true;
    }
    // SAFETY: the new value is a valid C string for the time of the call.
    let given = unsafe { CStr::from_ptr(given) };
    let result = match given.to_str() {
        Ok(text) => check(text),
        Err(_) => Err("The value is not valid UTF-8.".to_owned()),
    };
    let Err(detail) = result else { return true };
    // SAFETY: the server calls check hooks in its main thread.
    unsafe { report::set_check_detail(&detail) };
    if is_reload_in_archiver() {
        Report {
            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            message: format!(
                "invalid value for parameter \"{name}\": \"{}\"",
                given.to_string_lossy()
            ),
            detail,
            hint: "The value in force before stays in force.".to_owned(),
        }
        .warn();
    }
    false
}
