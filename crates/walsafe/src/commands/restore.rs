//! `walsafe restore`: one file for a server in recovery, and the exit status by which the server decides
//! how to go on.

use std::path::Path;
use std::time::Duration;

use walsafe_core::error::Standby;
use walsafe_core::restore::{self, Outcome, Request};
use walsafe_core::wal::name::FileName;

use super::DONE;
use crate::arguments::{OnError, Restore};
use crate::guard::STOP;
use crate::terminal;

/// How long to look again for a file that is missing although later ones are there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the server is to do.
enum Ending {
    /// Go on: the file is there.
    Delivered,
    /// Go on without: the archive does not have the file, and should not.
    NotArchived,
    /// The archive is in trouble: stop, or in a standby try again.
    Trouble,
    /// The command line is wrong: stop.
    BadUsage,
}

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Restore) -> u8 {
    let ending = attempt(arguments);
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

fn attempt(arguments: &Restore) -> Ending {
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
