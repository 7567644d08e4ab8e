//! `walsafe restore`: one file for a server in recovery, and the exit status by which the server decides
//! how to go on.

use std::path::Path;
use std::time::{Duration, Instant};

use walsafe_core::error::Standby;
use walsafe_core::restore::{self, Outcome, Request, RestoreError};
use walsafe_core::wal::name::{FileKind, FileName};

use super::{DONE, said};
use crate::arguments::{OnError, Restore};
use crate::guard::STOP;
use crate::terminal;

/// How often a standby looks for a history file in an archive that is in trouble.
const HISTORY_PAUSE: Duration = Duration::from_millis(500);

/// The server's working directory.
const DATA_DIRECTORY: &str = ".";

/// What the server is to do.
enum Ending {
    /// Go on: the file is there.
    Delivered,
    /// Go on without: the archive does not have the file, and should not.
    NotArchived,
    /// The archive is in trouble, and the server tries again or streams.
    TriesAgain,
    /// The archive is in trouble, or the command line is wrong: stop.
    Stops,
}

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Restore) -> u8 {
    let goes_on_without = match attempt(arguments) {
        Ending::Delivered => return DONE,
        Ending::NotArchived | Ending::TriesAgain => true,
        Ending::Stops => false,
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
            return Ending::Stops;
        }
    };
    let standby = is_standby();
    if arguments.on_error == OnError::Retry && !standby {
        tell(
            arguments,
            "--on-error=retry is refused without \"standby.signal\": a recovery would take each trouble with the archive for the end of the WAL; to end one before a hole, use --end-at-hole SEGMENT or a recovery target, see \"walsafe restore --help\"",
        );
        return Ending::Stops;
    }
    let tries_again = standby && arguments.on_error != OnError::Stop;
    let request = Request {
        archive: &arguments.from,
        name: &name,
        target: &arguments.target,
        data_directory: Path::new(DATA_DIRECTORY),
        allow_unmarked: arguments.allow_unmarked,
        allow_unchecked: arguments.allow_unchecked,
        patience: Duration::from_secs(arguments.patience.into()),
        end_at_hole: arguments.end_at_hole,
        prove_absence: !tries_again,
    };
    let waits = tries_again && matches!(name.kind(), FileKind::History { .. });
    let patience = Duration::from_secs(if waits { arguments.stall_timeout.into() } else { 0 });
    let result = restore_within(&request, patience);
    // An idle standby asks for the same files every few seconds.
    let tell_again = |message: &str| {
        if !tries_again || said::is_new(message, Path::new(DATA_DIRECTORY)) {
            tell(arguments, message);
        }
    };
    match result {
        Ok(Outcome::Delivered { remark: None }) => Ending::Delivered,
        Ok(Outcome::Delivered { remark: Some(remark) }) => {
            tell_again(&format!("\"{name}\" was restored, but {remark}"));
            Ending::Delivered
        }
        Ok(Outcome::NotArchived { reason }) => {
            tell_again(&format!("\"{name}\" was not restored: {reason}"));
            Ending::NotArchived
        }
        Err(e) => {
            let mut message =
                format!("could not restore \"{name}\": {e}: {} {}", e.detail(), e.hint());
            if waits && e.standby() == Standby::Retries {
                message += " A promotion now may take a timeline number that is in use.";
            }
            match e.standby() {
                Standby::Retries if tries_again => {
                    tell_again(&message);
                    Ending::TriesAgain
                }
                Standby::Retries | Standby::Stops => {
                    tell(arguments, &message);
                    Ending::Stops
                }
            }
        }
    }
}

/// Restores a file, and tries again for so long while the archive is in trouble. That is for a standby that
/// asks for a history file: if it is promoted after "no", it takes the number of the timeline.
fn restore_within(request: &Request<'_>, patience: Duration) -> Result<Outcome, RestoreError> {
    let started = Instant::now();
    loop {
        match restore::restore(request) {
            Err(e) if e.standby() == Standby::Retries && started.elapsed() < patience => {
                std::thread::sleep(HISTORY_PAUSE);
            }
            result => return result,
        }
    }
}

/// Returns whether the server that has this working directory is a standby.
fn is_standby() -> bool {
    Path::new(DATA_DIRECTORY).join("standby.signal").exists()
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
