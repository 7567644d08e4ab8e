//! What the server's own configuration says about archiving: with which module, and whether it can work.

use std::ffi::CStr;
use std::time::{Duration, SystemTime};

use pgrx::{Spi, pg_sys};
use walsafe_core::error::Error;
use walsafe_core::prove::check::{Check, Status};
use walsafe_core::server::settings::Destinations;

use crate::reload;
use crate::settings::{self, data_directory};

/// 16 and later refuse to archive while `archive_command` is set beside `archive_library`; 15 ignores
/// it.
const COMMAND_HINDERS: bool = cfg!(not(feature = "pg15"));

/// Returns whether the server archives, and with this module.
pub(crate) fn archives_with_this_module() -> bool {
    server_setting(c"archive_mode") != "off"
        && is_this_module(&server_setting(c"archive_library"))
        && !(COMMAND_HINDERS && is_set(&server_setting(c"archive_command")))
}

/// Returns whether the server is in recovery and archives nothing until it is promoted.
pub(crate) fn is_idle_standby() -> bool {
    // SAFETY: reads the server's shared memory, in a session.
    let in_recovery = unsafe { pg_sys::RecoveryInProgress() };
    in_recovery && server_setting(c"archive_mode") != "always"
}

/// Returns when the archiver that runs now was started; `None` if there is none, or the role may not know.
pub(crate) fn archiver_start() -> Option<SystemTime> {
    let query = "SELECT extract(epoch FROM backend_start)::float8 FROM pg_catalog.pg_stat_activity WHERE backend_type = 'archiver'";
    let seconds = Spi::get_one::<f64>(query).ok()??;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// Returns whether a library is this module, by its name, which may have a path (for example `$libdir`) and
/// the suffix of libraries.
fn is_this_module(library: &str) -> bool {
    let name = library.rsplit_once('/').map_or(library, |(_, name)| name);
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
        other if is_idle_standby() => checked(
            "archive_mode",
            Status::Ok,
            format!(
                "\"archive_mode\" is \"{other}\", and this server is a standby: it archives nothing until it is promoted"
            ),
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
                "\"archive_command\" is \"{command}\", and this command archives, not the module. Set it to an empty string, and \"archive_library\" to \"walsafe_archive\"."
            ),
        )
    } else if !COMMAND_HINDERS {
        checked(
            "archive_command",
            Status::Warning,
            format!(
                "\"archive_command\" is \"{command}\" although \"archive_library\" is set: this version ignores it, later ones refuse to archive. Set it to an empty string."
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

/// Says that two of the destinations lead to one place.
pub(crate) fn not_apart(reason: &str) -> Check {
    let detail = format!(
        "in \"walsafe_archive.destination\", {reason}: a file there would count twice, and nothing is archived. Correct the setting, and reload the configuration."
    );
    checked("destination", Status::Error, detail)
}

/// Checks the destinations that are in force, and those in the configuration files. After a reload that
/// brought a wrong one, the archiver keeps the one before. But sessions that start later do not know that
/// one, and neither does the next archiver.
fn destination() -> Check {
    let name = "destination";
    let in_force = settings::current();
    let wrong = reload::destination_in_files().filter(|path| !path.is_empty()).and_then(|path| {
        let reason = Destinations::new(&path, data_directory()).err()?;
        Some((path, reason))
    });
    match (in_force, wrong) {
        (in_force, Some((path, reason))) => {
            let in_use = in_force.map_or_else(
                |_| "An archiver that uses another one keeps it until the server is restarted; after that, nothing would be archived.".to_owned(),
                |in_force| settings::destination_in_use(&in_force.destinations.to_string()),
            );
            checked(
                name,
                Status::Error,
                format!(
                    "\"walsafe_archive.destination\" is set to \"{path}\", which is refused: {reason}. {in_use} Correct the setting, and reload the configuration."
                ),
            )
        }
        (Ok(settings), None) => checked(
            name,
            Status::Ok,
            format!("\"walsafe_archive.destination\" is \"{}\"", settings.destinations),
        ),
        (Err(error @ Error::Panicked { .. }), None) => checked(name, Status::Error, error.detail()),
        (Err(_), None) => checked(
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

/// Reads one of the server's own settings.
fn server_setting(name: &CStr) -> String {
    settings::value(name).to_string_lossy().into_owned()
}
