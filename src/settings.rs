//! The configuration parameters `walsafe_archive.*`: the core's table of them, registered with the server,
//! and one snapshot of their values for a call.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use pgrx::pg_sys::panic::pgrx_extern_c_guard;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PgSqlErrorCode};
use pgrx::{pg_guard, pg_sys};
use walsafe_core::error::Error;
use walsafe_core::server::settings::{
    self, Choice, Destinations, FsyncPolicy, Kind, PREFIX, Setting, Settings, TABLE, Unit,
};
use walsafe_core::server::together;
use walsafe_core::store::location::Access;
use walsafe_core::wal::SegmentSize;
use walsafe_core::words;

use crate::archiver;
use crate::reload;
use crate::report::{self, Report};

/// The DETAIL of the server's "archiving is not configured".
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
pub(crate) const NOT_CONFIGURED: &str = "\"walsafe_archive.destination\" is not set.";

pub(crate) const DESTINATION: &CStr = c"walsafe_archive.destination";
const FSYNC_POLICY: &CStr = c"walsafe_archive.fsync_policy";

/// How long a command waits for storage that may hang.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

thread_local! {
    /// The parameters are registered: from now on, a new value comes from a reload.
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Returns the parameters as they are now.
///
/// # Errors There is no destination; or a value that the checks accepted can no longer be used, such as a
/// path that now leads into the data directory.
pub(crate) fn current() -> Result<Settings, Error> {
    if !is_configured() {
        return Err(Error::NotConfigured);
    }
    Settings::read(value, data_directory()).map_err(|reason| Error::BadSetting { reason })
}

/// Returns what reaching object storage takes.
pub(crate) fn access(settings: &Settings) -> Access {
    Access {
        credentials_file: settings.credentials_file.clone(),
        data_directory: Some(data_directory().to_owned()),
        stall_timeout: settings.stall_timeout,
    }
}

/// Returns whether there is a destination.
pub(crate) fn is_configured() -> bool {
    !value(DESTINATION).is_empty()
}

/// Returns the value of a parameter, ours or the server's own, as text without its unit; empty if there is
/// no such parameter.
pub(crate) fn value(name: &CStr) -> CString {
    // SAFETY: the name is a valid C string; a missing parameter gives a null pointer, and no
    // privilege is asked for.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return CString::default();
    }
    // SAFETY: a valid C string until the next call.
    unsafe { CStr::from_ptr(value) }.to_owned()
}

/// Returns the data directory.
pub(crate) fn data_directory() -> &'static Path {
    // SAFETY: the server sets the variable once, before any library is loaded.
    let path = unsafe { pg_sys::DataDir };
    let path = set_by_server((!path.is_null()).then_some(path), "the data directory");
    // SAFETY: a valid C string that the server never frees.
    let path = unsafe { CStr::from_ptr(path) };
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

/// Returns the cluster's segment size.
pub(crate) fn segment_size() -> SegmentSize {
    // SAFETY: a number that the server set when it started.
    let bytes = unsafe { pg_sys::wal_segment_size };
    let size = u64::try_from(bytes).ok().and_then(|bytes| SegmentSize::new(bytes).ok());
    set_by_server(size, "the size of WAL segments")
}

/// Returns what the server sets before it loads any library. A guess in its place would go unnoticed; the
/// panic becomes an error report.
#[allow(clippy::panic, reason = "every caller runs under a guard that reports it")]
fn set_by_server<T>(value: Option<T>, what: &str) -> T {
    value.unwrap_or_else(|| panic!("the server has not set {what}"))
}

/// Registers the parameters and reserves their prefix.
pub(crate) fn register() {
    for (setting, check) in TABLE.iter().zip(CHECKS) {
        define(setting, check);
    }
    // SAFETY: the prefix is a valid C string; called in the main thread while the library loads.
    unsafe { pg_sys::MarkGUCPrefixReserved(PREFIX.as_ptr()) };
    REGISTERED.set(true);
}

/// Registers one parameter. `check` is the hook of a text.
fn define(setting: &'static Setting, check: CheckHook) {
    let Setting { name, kind, short, long } = *setting;
    let (context, no_flags) = (GucContext::Sighup, GucFlags::default());
    match kind {
        Kind::Text { default, .. } => {
            let slot = kept(GucSetting::<Option<CString>>::new(Some(default)));
            // SAFETY: the hook is a function with the type that the server calls, guarded against panics.
            unsafe {
                GucRegistry::define_string_guc_with_hooks(
                    name,
                    short,
                    long,
                    slot,
                    context,
                    no_flags,
                    Some(check),
                    None,
                    None,
                );
            }
        }
        Kind::Integer { default, min, max, unit } => {
            let slot = kept(GucSetting::<i32>::new(default));
            let flags = match unit {
                Unit::None => no_flags,
                Unit::Seconds => GucFlags::UNIT_S,
                Unit::Megabytes => GucFlags::UNIT_MB,
            };
            GucRegistry::define_int_guc(name, short, long, slot, min, max, context, flags);
        }
        Kind::Boolean { default } => {
            let slot = kept(GucSetting::<bool>::new(default));
            GucRegistry::define_bool_guc(name, short, long, slot, context, no_flags);
        }
        // Not with pgrx's own kind of enum, which would repeat the names.
        Kind::Choice { default, names } => {
            let places = (0..).zip(names());
            let at = places.clone().find(|(_, name)| *name == default).map_or(0, |(at, _)| at);
            let entry = |(val, name): (c_int, *const c_char)| pg_sys::config_enum_entry {
                name,
                val,
                hidden: false,
            };
            let end = entry((0, std::ptr::null()));
            let options = places.map(|(at, name)| entry((at, name.as_ptr()))).chain([end]);
            let options = kept(options.collect::<Vec<_>>());
            let assign = if name == FSYNC_POLICY { Some(assign_fsync_policy as _) } else { None };
            // SAFETY: all pointers are valid as long as the process lives, the list of options ends in an
            // entry without a name, and the hook is guarded against panics.
            unsafe {
                pg_sys::DefineCustomEnumVariable(
                    name.as_ptr(),
                    short.as_ptr(),
                    long.as_ptr(),
                    kept(GucSetting::<i32>::new(at)).as_ptr(),
                    at,
                    options.as_ptr(),
                    context as isize as _,
                    0,
                    None,
                    assign,
                    None,
                );
            }
        }
    }
}

/// Keeps a value as long as the process lives: a registered parameter never goes.
fn kept<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

type CheckHook = unsafe extern "C-unwind" fn(
    *mut *mut c_char,
    *mut *mut c_void,
    pg_sys::GucSource::Type,
) -> bool;

macro_rules! check_hooks {
    ($($place:literal)*) => { [$(check_hook::<$place> as CheckHook),*] };
}

/// The check hooks of texts, one for each place in the table, as the server does not tell a hook which
/// parameter it checks.
const CHECKS: [CheckHook; 16] = check_hooks![0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15];
const _: () = assert!(TABLE.len() <= CHECKS.len(), "a setting has no check hook");

unsafe extern "C-unwind" fn check_hook<const PLACE: usize>(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: called by the server, in its main thread.
    unsafe {
        pgrx_extern_c_guard(move || TABLE.get(PLACE).is_some_and(|s| check(s, value, source)))
    }
}

/// Checks a new value, and leaves the reason of a refusal as the DETAIL of the server's message.
///
/// At a reload, only the postmaster's message of a refusal goes to the log, and the postmaster has not
/// loaded this library. So the archiver reports it here.
fn check(
    setting: &'static Setting,
    value: *mut *mut c_char,
    source: pg_sys::GucSource::Type,
) -> bool {
    // At a reload the server checks every parameter that the files set, or set before, and there is
    // no archiving without this one: so this is called once for each reload.
    let by_files =
        matches!(source, pg_sys::GucSource::PGC_S_FILE | pg_sys::GucSource::PGC_S_DEFAULT);
    if setting.name == DESTINATION && by_files && is_reload_in_archiver() {
        reload::report_refused();
    }
    // SAFETY: the server passes the address of its pointer to the new value.
    let given = unsafe { *value };
    if given.is_null() {
        return true;
    }
    // SAFETY: the new value is a valid C string for the time of the call.
    let given = unsafe { CStr::from_ptr(given) };
    let refused = setting.check(given, data_directory()).err();
    let Some(reason) = refused.or_else(|| leads_to_one_place(setting, given)) else {
        return true;
    };
    let detail = words::sentence(&reason);
    // SAFETY: the server calls check hooks in its main thread.
    unsafe { report::set_check_detail(&detail) };
    if settings::holds_secret(&given.to_string_lossy()) {
        // SAFETY: the server calls check hooks in its main thread.
        unsafe { report::set_check_message(&refused_message(setting, given)) };
    }
    if is_reload_in_archiver() {
        if setting.name == DESTINATION {
            archiver::note_destinations();
        }
        Report {
            code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            message: refused_message(setting, given),
            detail,
            hint: in_use(setting),
        }
        .warn();
    }
    false
}

/// Says that a value is refused, as the server does, and repeats no secret.
fn refused_message(setting: &Setting, given: &CStr) -> String {
    let (name, given) = (setting.name.to_string_lossy(), given.to_string_lossy());
    format!("invalid value for parameter \"{name}\": \"{}\"", settings::shown(&given))
}

/// Returns why a list is refused that a session's command sets, if two of its directories turn out to be one.
///
/// Only there: whoever types the command can wait a moment, if storage hangs, and correct it. At a reload and at the
/// start of a process, nobody may wait for storage. The archiver finds it out with the first file.
fn leads_to_one_place(setting: &Setting, given: &CStr) -> Option<String> {
    // SAFETY: set once when the process starts.
    let in_session = unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_BACKEND };
    // SAFETY: only compared; null between two commands, which is when a session reads the configuration again.
    let in_command = unsafe { !pg_sys::debug_query_string.is_null() };
    if setting.name != DESTINATION
        || !(in_session && in_command && REGISTERED.get())
        || reload::is_judging()
    {
        return None;
    }
    let list = Destinations::new(given.to_str().ok()?, data_directory()).ok()?;
    together::look_within(&list, LONGEST_LOOK)
}

/// Says where files go although the configuration files say otherwise, which is refused.
pub(crate) fn destination_in_use(destination: &str) -> String {
    format!(
        "Files are archived to \"{destination}\" until the server is restarted; after that, nothing would be archived."
    )
}

/// Says which value the archiver uses after it has refused a new one, for how long, and what to do.
fn in_use(setting: &Setting) -> String {
    let (name, now) = (setting.name.to_string_lossy(), value(setting.name));
    let now = now.to_string_lossy();
    let state = match setting.kind {
        _ if setting.name == DESTINATION && now.is_empty() => "Nothing is archived.".to_owned(),
        _ if setting.name == DESTINATION => destination_in_use(&now),
        Kind::Text { default, .. } => format!(
            "\"{now}\" is in use until the server is restarted; after that, it would be the default, \"{}\".",
            default.to_string_lossy()
        ),
        _ => format!("\"{now}\" is in use."),
    };
    format!("{state} Correct \"{name}\", and reload the configuration.")
}

/// Warns if a reload brings another policy. The server calls this for each policy that the files set,
/// before it is in force.
#[pg_guard]
unsafe extern "C-unwind" fn assign_fsync_policy(new: c_int, _extra: *mut c_void) {
    let new = usize::try_from(new).ok().and_then(|place| FsyncPolicy::NAMED.get(place));
    if let Some((name, _)) = new
        && is_reload_in_archiver()
        && *name != &*value(FSYNC_POLICY)
    {
        warn_of_policy(name);
    }
}

/// Warns at the start of an archiver, whoever loaded the library: with `shared_preload_libraries` that was
/// the postmaster, before there was an archiver that could warn.
pub(crate) fn warn_at_start() {
    warn_of_policy(&value(FSYNC_POLICY));
}

/// Says what a weaker policy can lose.
fn warn_of_policy(name: &CStr) {
    let named = FsyncPolicy::NAMED.iter().find(|(known, _)| *known == name);
    let loss = match named.map(|(_, policy)| *policy) {
        None | Some(FsyncPolicy::Full) => return,
        Some(FsyncPolicy::File) => {
            "A power failure can lose the names of files that count as archived."
        }
        Some(FsyncPolicy::None) => {
            "A power failure can lose files that count as archived, or leave them empty or torn."
        }
    };
    Report {
        code: PgSqlErrorCode::ERRCODE_WARNING,
        message: format!("\"walsafe_archive.fsync_policy\" is \"{}\"", name.to_string_lossy()),
        detail: loss.to_owned(),
        hint: "Set it to \"full\" unless you can afford to lose the archive.".to_owned(),
    }
    .warn();
}

/// Returns whether a hook is called because the archiver reads the configuration again: before that, the
/// server reports what it refuses.
fn is_reload_in_archiver() -> bool {
    // SAFETY: set once when the process starts.
    let is_archiver = unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_ARCHIVER };
    is_archiver && REGISTERED.get()
}
