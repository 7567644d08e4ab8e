//! What the server's own configuration says of archiving: with which module, and can it be?

use std::ffi::CStr;

use pgrx::pg_sys;
use walsafe_core::prove::check::{Check, Status};
use walsafe_core::server::settings::Destination;

use crate::reload;
use crate::settings::{Settings, data_directory};

/// 16 and later refuse to archive while `archive_command` is set beside `archive_library`; 15 passes
/// it over.
const COMMAND_HINDERS: bool = cfg!(not(feature = "pg15"));

/// Tells whether the server archives, and with this module.
pub(crate) fn archives_with_this_module() -> bool {
    server_setting(c"archive_mode") != "off"
        && is_this_module(&server_setting(c"archive_library"))
        && !(COMMAND_HINDERS && is_set(&server_setting(c"archive_command")))
}

/// Tells whether a library is this module, by its name: it may come with a path, `$libdir` for one,
/// and with the suffix of libraries.
fn is_this_module(library: &str) -> bool {
    let name = library.rsplit('/').next().unwrap_or_default();
    name.strip_suffix(std::env::consts::DLL_SUFFIX).unwrap_or(name) == "walsafe_archive"
}

/// While archiving is off the server shows "(disabled)" for `archive_command`.
fn is_set(command: &str) -> bool {
    !matches!(command, "" | "(disabled)")
}

/// Checks what the server's configuration says, for `walsafe_archive_check()`.
pub(crate) fn checks() -> Vec<Check> {
    let mode = server_setting(c"archive_mode");
    let library = server_setting(c"archive_library");
    let command = server_setting(c"archive_command");
    let archive_mode = match mode.as_str() {
        "off" => checked(
            "archive_mode",
            Status::Error,
            "\"archive_mode\" is off: nothing is archived. Set it to \"on\" and restart the server.",
        ),
        other => checked("archive_mode", Status::Ok, format!("\"archive_mode\" is \"{other}\"")),
    };
    let archive_library = if is_this_module(&library) {
        checked("archive_library", Status::Ok, format!("\"archive_library\" is \"{library}\""))
    } else {
        checked(
            "archive_library",
            Status::Error,
            format!(
                "\"archive_library\" is \"{library}\": this module is not in use. Set it to \"walsafe_archive\"."
            ),
        )
    };
    let archive_command = if !is_set(&command) {
        checked("archive_command", Status::Ok, "\"archive_command\" is not set")
    } else if library.is_empty() {
        checked(
            "archive_command",
            Status::Error,
            format!(
                "\"archive_command\" is \"{command}\", and it is what archives. Set it to an empty string, and \"archive_library\" to \"walsafe_archive\"."
            ),
        )
    } else if !COMMAND_HINDERS {
        checked(
            "archive_command",
            Status::Warning,
            format!(
                "\"archive_command\" is \"{command}\" although \"archive_library\" is set: this version passes it over, later ones refuse to archive. Set it to an empty string."
            ),
        )
    } else {
        checked(
            "archive_command",
            Status::Error,
            format!(
                "\"archive_command\" is \"{command}\" although \"archive_library\" is set: the server refuses to archive with both. Set it to an empty string."
            ),
        )
    };
    vec![archive_mode, archive_library, archive_command, destination()]
}

/// Checks the destination that is in force, and the one in the configuration files: a reload that
/// brought a wrong one leaves the archiver with the one before, but no session that starts later
/// gets to know that, and neither does the next archiver.
fn destination() -> Check {
    let name = "destination";
    let in_force = Settings::current().map(|s| {
        format!("\"walsafe_archive.destination\" is \"{}\"", s.destination.path().display())
    });
    let wrong = reload::destination_in_files().filter(|path| !path.is_empty()).and_then(|path| {
        let reason = Destination::new(&path, data_directory()).err()?;
        Some((path, reason))
    });
    match (in_force, wrong) {
        (_, Some((path, reason))) => checked(
            name,
            Status::Error,
            format!(
                "\"walsafe_archive.destination\" is set to \"{path}\", which is refused: {reason} An archiver that had another one goes on with that until it ends; the next one archives nothing. Set it right and reload."
            ),
        ),
        (Some(detail), None) => checked(name, Status::Ok, detail),
        (None, None) => checked(
            name,
            Status::Error,
            "\"walsafe_archive.destination\" is not set. Set it to a directory of its own, on other storage than the data directory.",
        ),
    }
}

/// Makes a row of the check, for what the server's configuration says.
fn checked(name: &'static str, status: Status, detail: impl Into<String>) -> Check {
    Check { name, status, detail: detail.into() }
}

/// Reads one of the server's settings that are not this module's.
fn server_setting(name: &CStr) -> String {
    // SAFETY: the name is a valid C string; a missing setting gives a null pointer, and no
    // privilege is asked for.
    let value = unsafe { pg_sys::GetConfigOption(name.as_ptr(), true, false) };
    if value.is_null() {
        return String::new();
    }
    // SAFETY: a valid C string until the next call.
    unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned()
}
