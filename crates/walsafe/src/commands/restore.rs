//! `walsafe restore`: one file for a server in recovery, and the exit status by which the server decides
//! how to go on.

use std::path::Path;
use std::time::{Duration, Instant};

use walsafe_core::error::{Activity, Standby};
use walsafe_core::restore::{self, Outcome, Request, RestoreError, own};
use walsafe_core::wal::name::{FileKind, FileName};

use super::{DONE, said};
use crate::arguments::{OnError, Restore};
use crate::guard::STOP;
use crate::terminal;
use crate::watchdog::{self, Lost, Signs};

/// How often a standby looks for a history file in an archive that is in trouble.
const HISTORY_PAUSE: Duration = Duration::from_millis(500);

/// The server's working directory.
const DATA_DIRECTORY: &str = ".";

/// What the server is to do. The numbers are exit statuses of the process that does the work: none of them
/// is one that a process may end with by accident.
#[derive(Clone, Copy)]
enum Ending {
    /// Go on: the file is there.
    Delivered = 80,
    /// Go on without: the archive does not have the file, and should not.
    NotArchived = 81,
    /// The archive is in trouble, and the server tries again or streams.
    TriesAgain = 82,
    /// The archive is in trouble, or the command line is wrong: stop.
    Stops = 83,
}

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Restore) -> u8 {
    let standby = Path::new(DATA_DIRECTORY).join("standby.signal").exists();
    let goes_on_without = match (Call { arguments, standby }).outcome() {
        Ending::Delivered => return DONE,
        Ending::NotArchived | Ending::TriesAgain => true,
        Ending::Stops => false,
    };
    // The one place where status 1 is made. It ends a recovery: where that is wrong, a server is promoted
    // that has lost data.
    if goes_on_without { 1 } else { STOP }
}

impl Ending {
    const ALL: [Self; 4] = [Self::Delivered, Self::NotArchived, Self::TriesAgain, Self::Stops];

    /// Returns what a process has said by its exit status. One that says nothing is in trouble.
    fn of(status: u8) -> Self {
        Self::ALL.into_iter().find(|ending| *ending as u8 == status).unwrap_or(Self::Stops)
    }
}

/// What the server asks for, and which kind of server it is.
struct Call<'a> {
    arguments: &'a Restore,
    standby: bool,
}

impl Call<'_> {
    /// Returns whether the server tries again, or streams, when the archive is in trouble.
    fn tries_again(&self) -> bool {
        self.standby && self.arguments.on_error != OnError::Stop
    }

    fn outcome(&self) -> Ending {
        if self.name().is_some_and(|name| own::cannot_exist(&name)) {
            let file = &self.arguments.file;
            self.tell_once(&format!(
                "\"{file}\" was not restored: the first timeline has no history"
            ));
            return Ending::NotArchived;
        }
        self.watched()
    }

    fn name(&self) -> Option<FileName> {
        FileName::new(&self.arguments.file).ok()
    }

    /// Makes the attempt in a process of its own: this one does not wait for what the storage holds, nor leaves
    /// that to the server.
    fn watched(&self) -> Ending {
        let Restore { from, file, watch, .. } = self.arguments;
        let work = |signs: &Signs| self.attempt(signs) as u8;
        match watchdog::watch_from_the_front(from, watch.timeout(), work) {
            Ok(status) => Ending::of(status),
            Err(Lost::Stalled(error)) => {
                let hint = error.kind().hint(Activity::Restoring);
                let is_history = file.ends_with(".history");
                self.trouble(&format!("{error}: {} {hint}", error.detail()), is_history)
            }
            Err(Lost::Died(message)) => {
                self.tell(&format!("could not restore \"{file}\": {message}"));
                Ending::Stops
            }
        }
    }

    fn attempt(&self, signs: &Signs) -> Ending {
        let arguments = self.arguments;
        let name = match FileName::new(&arguments.file) {
            Ok(name) => name,
            Err(e) => {
                let file = arguments.file.escape_default();
                self.tell(&format!(
                    "file name \"{file}\" is not accepted: {e}; restore_command must pass %f and \"%p\", see \"walsafe restore --help\""
                ));
                return Ending::Stops;
            }
        };
        if arguments.on_error == OnError::Retry && !self.standby {
            self.tell("--on-error=retry is refused without \"standby.signal\": a recovery would take each trouble with the archive for the end of the WAL; to end one before a hole, use --end-at-hole SEGMENT or a recovery target, see \"walsafe restore --help\"");
            return Ending::Stops;
        }
        let request = Request {
            archive: &arguments.from,
            name: &name,
            target: &arguments.target,
            data_directory: Path::new(DATA_DIRECTORY),
            allow_unmarked: arguments.allow_unmarked,
            allow_unchecked: arguments.allow_unchecked,
            patience: Duration::from_secs(arguments.patience.into()),
            end_at_hole: arguments.end_at_hole,
            prove_absence: !self.tries_again(),
            steps: &signs.steps,
        };
        let is_history = matches!(name.kind(), FileKind::History { .. });
        let waits = self.tries_again() && is_history;
        let patience = arguments.watch.timeout().filter(|_| waits).unwrap_or_default();
        let result = restore_within(&request, patience);
        signs.elsewhere(|| self.answer(&name, result))
    }

    /// Says what came of the attempt, where there is something to say.
    fn answer(&self, name: &FileName, result: Result<Outcome, RestoreError>) -> Ending {
        match result {
            Ok(Outcome::Delivered { remark }) => {
                if let Some(remark) = remark {
                    self.tell_once(&format!("\"{name}\" was restored, but {remark}"));
                }
                Ending::Delivered
            }
            Ok(Outcome::NotArchived { reason }) => {
                self.tell_once(&format!("\"{name}\" was not restored: {reason}"));
                Ending::NotArchived
            }
            Err(e) => {
                let reason = format!("{e}: {} {}", e.detail(), e.hint());
                let is_history = matches!(name.kind(), FileKind::History { .. });
                match e.standby() {
                    Standby::Retries => self.trouble(&reason, is_history),
                    Standby::Stops => {
                        self.tell(&format!("could not restore \"{name}\": {reason}"));
                        Ending::Stops
                    }
                }
            }
        }
    }

    /// Says that the archive is in trouble, and returns what the server does then. A history file that the
    /// server has itself does not depend on the archive.
    fn trouble(&self, reason: &str, is_history: bool) -> Ending {
        let mut message = format!("could not restore \"{}\": {reason}", self.arguments.file);
        let has = |name: FileName| own::has_history(&name, &self.arguments.target);
        if is_history && self.name().is_some_and(has) {
            self.tell_once(&format!("{message} But it is in pg_wal."));
            return Ending::NotArchived;
        }
        if !self.tries_again() {
            self.tell(&message);
            return Ending::Stops;
        }
        if is_history {
            message += " A promotion now may take a timeline number that is in use.";
        }
        self.tell_once(&message);
        Ending::TriesAgain
    }

    /// Writes a line, for a standby the same one at most once a minute: an idle one asks for the same files
    /// every few seconds.
    fn tell_once(&self, message: &str) {
        if !self.tries_again() || said::is_new(message, Path::new(DATA_DIRECTORY)) {
            self.tell(message);
        }
    }

    fn tell(&self, message: &str) {
        let Restore { json, file, .. } = self.arguments;
        if *json {
            terminal::complain_json(&serde_json::json!({ "file": file, "message": message }));
        } else {
            terminal::complain(message);
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
                // An answer, though not a good one: the storage does not hang.
                request.steps.tick();
                std::thread::sleep(HISTORY_PAUSE);
            }
            result => return result,
        }
    }
}
