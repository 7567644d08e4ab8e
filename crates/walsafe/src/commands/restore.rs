//! `walsafe restore`: one file for a server in recovery, and the exit status by which the server decides
//! how to go on.

use std::path::Path;
use std::time::Duration;

use walsafe_core::error::{Activity, Standby};
use walsafe_core::restore::{self, Outcome, Request, own};
use walsafe_core::wal::name::FileName;

use super::DONE;
use crate::arguments::{OnError, Restore};
use crate::guard::STOP;
use crate::terminal;
use crate::watchdog::{self, Lost, Signs};

/// How long to look again for a file that is missing although later ones are there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the server is to do. The numbers are exit statuses of the process that does the work: none of them
/// is one that a process may end with by accident.
#[derive(Clone, Copy)]
enum Ending {
    /// Go on: the file is there.
    Delivered = 80,
    /// Go on without: the archive does not have the file, and should not.
    NotArchived = 81,
    /// The archive is in trouble: stop, or in a standby try again.
    Trouble = 82,
    /// The command line is wrong: stop.
    BadUsage = 83,
}

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Restore) -> u8 {
    let ending = outcome(arguments);
    let goes_on_without = match ending {
        Ending::Delivered => return DONE,
        Ending::NotArchived => true,
        Ending::Trouble => match arguments.on_error {
            OnError::Auto => is_standby(),
            OnError::Stop => false,
            OnError::Retry => true,
        },
        Ending::BadUsage => false,
    };
    // The one place where status 1 is made. It ends a recovery: where that is wrong, a server is promoted
    // that has lost data.
    if goes_on_without { 1 } else { STOP }
}

impl Ending {
    const ALL: [Self; 4] = [Self::Delivered, Self::NotArchived, Self::Trouble, Self::BadUsage];
}

/// Makes the attempt. A history file that the server has itself does not depend on the archive.
fn outcome(arguments: &Restore) -> Ending {
    let not_restored = |reason: &str| {
        tell(arguments, &format!("\"{}\" was not restored: {reason}", arguments.file));
        Ending::NotArchived
    };
    let name = FileName::new(&arguments.file).ok();
    if name.as_ref().is_some_and(own::cannot_exist) {
        return not_restored("the first timeline has no history");
    }
    match watched(arguments) {
        Ending::Trouble if name.is_some_and(|name| own::has_history(&name, &arguments.target)) => {
            not_restored("but it is in pg_wal")
        }
        ending => ending,
    }
}

/// Makes the attempt in a process of its own, so that storage that hangs ends it too.
fn watched(arguments: &Restore) -> Ending {
    let (path, timeout) = (&arguments.from, arguments.watch.timeout());
    let work = |signs: &Signs| attempt(arguments, signs) as u8;
    let failed = |reason: &str| {
        tell(arguments, &format!("could not restore \"{}\": {reason}", arguments.file));
    };
    match watchdog::watch(path, timeout, work) {
        Ok(status) => {
            let ending = Ending::ALL.into_iter().find(|ending| *ending as u8 == status);
            ending.unwrap_or(Ending::BadUsage)
        }
        Err(Lost::Stalled(error)) => {
            let hint = error.kind().hint(Activity::Restoring);
            failed(&format!("{error}: {} {hint}", error.detail()));
            Ending::Trouble
        }
        Err(Lost::Died(message)) => {
            failed(&message);
            Ending::BadUsage
        }
    }
}

fn attempt(arguments: &Restore, signs: &Signs) -> Ending {
    let name = match FileName::new(&arguments.file) {
        Ok(name) => name,
        Err(e) => {
            let file = arguments.file.escape_default();
            tell(
                arguments,
                &format!(
                    "file name \"{file}\" is not accepted: {e}; restore_command must pass %f and \"%p\", see \"walsafe restore --help\""
                ),
            );
            return Ending::BadUsage;
        }
    };
    let request = Request {
        archive: &arguments.from,
        name: &name,
        target: &arguments.target,
        data_directory: Path::new("."),
        allow_unmarked: arguments.allow_unmarked,
        patience: PATIENCE,
        steps: &signs.steps,
    };
    match restore::restore(&request) {
        Ok(Outcome::Delivered) => Ending::Delivered,
        Ok(Outcome::NotArchived { reason }) => {
            tell(arguments, &format!("\"{name}\" was not restored: {reason}"));
            Ending::NotArchived
        }
        Err(e) => {
            tell(
                arguments,
                &format!("could not restore \"{name}\": {e}: {} {}", e.detail(), e.hint()),
            );
            match e.standby() {
                Standby::Stops => Ending::BadUsage,
                Standby::Retries => Ending::Trouble,
            }
        }
    }
}

/// Returns whether the server that has this working directory is a standby.
fn is_standby() -> bool {
    Path::new("standby.signal").exists()
}

fn tell(arguments: &Restore, message: &str) {
    if arguments.json {
        terminal::complain_json(&serde_json::json!({
            "file": arguments.file,
            "message": message,
        }));
    } else {
        terminal::complain(message);
    }
}
