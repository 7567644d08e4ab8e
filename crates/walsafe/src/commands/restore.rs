//! `walsafe restore`: one file for a server in recovery, and the exit status by which the server decides
//! how to go on.

use std::path::Path;
use std::time::{Duration, Instant};

use walsafe_core::error::{Activity, Standby};
use walsafe_core::restore::{self, Outcome, Request, RestoreError, own};
use walsafe_core::wal::name::{FileKind, FileName};

use super::{DONE, said};
use crate::arguments::{OnError, Restore};
use crate::complaint::Complaint;
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
    Call { arguments, standby }.outcome().exit_status()
}

impl Ending {
    const ALL: [Self; 4] = [Self::Delivered, Self::NotArchived, Self::TriesAgain, Self::Stops];

    /// Returns what a process has said by its exit status. One that says nothing is in trouble.
    fn of(status: u8) -> Self {
        Self::ALL.into_iter().find(|ending| *ending as u8 == status).unwrap_or(Self::Stops)
    }

    const fn exit_status(self) -> u8 {
        match self {
            Self::Delivered => DONE,
            // The one place where status 1 is made. It ends a recovery: where that is wrong, a server is
            // promoted that has lost data.
            Self::NotArchived | Self::TriesAgain => 1,
            Self::Stops => STOP,
        }
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
            let message = format!("\"{}\" {}", self.arguments.file, own::CANNOT_EXIST);
            return self.tell_once(Ending::NotArchived, &Complaint::new(message));
        }
        self.watched()
    }

    fn name(&self) -> Option<FileName> {
        FileName::new(&self.arguments.file).ok()
    }

    /// Makes the attempt in a process of its own: this one does not wait for what the storage holds, nor leaves
    /// that to the server.
    fn watched(&self) -> Ending {
        let Restore { from, file, common, .. } = self.arguments;
        let work = |signs: &Signs| self.attempt(signs) as u8;
        match watchdog::watch_and_leave(from, common.timeout(), work) {
            Ok(status) => Ending::of(status),
            Err(Lost::Stalled(error)) => {
                let is_history = file.ends_with(".history");
                self.trouble(Complaint::of(&error, Activity::Restoring), is_history)
            }
            Err(Lost::Died(message)) => self.stop(Complaint::new(message)),
            Err(Lost::Panicked) => Ending::Stops,
        }
    }

    fn attempt(&self, signs: &Signs) -> Ending {
        let arguments = self.arguments;
        let name = match FileName::new(&arguments.file) {
            Ok(name) => name,
            Err(e) => {
                let file = arguments.file.escape_default();
                let message = format!("file name \"{file}\" is not accepted: {e}");
                let hint =
                    "restore_command must pass %f and \"%p\", see \"walsafe restore --help\".";
                return self.tell(Ending::Stops, &Complaint::new(message).hint(hint));
            }
        };
        if arguments.on_error == OnError::Retry && !self.standby {
            let message = "--on-error=retry is refused without \"standby.signal\": a recovery would take each trouble with the archive for the end of the WAL";
            let hint = "To end one before a hole, use --end-at-hole SEGMENT or a recovery target, see \"walsafe restore --help\".";
            return self.tell(Ending::Stops, &Complaint::new(message).hint(hint));
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
        let patience = arguments.common.timeout().filter(|_| waits).unwrap_or_default();
        let result = restore_within(&request, patience);
        signs.elsewhere(|| self.answer(&name, result))
    }

    /// Says what came of the attempt, where there is something to say.
    fn answer(&self, name: &FileName, result: Result<Outcome, RestoreError>) -> Ending {
        match result {
            Ok(Outcome::Delivered { remark }) => {
                if let Some(remark) = remark {
                    let message = format!("\"{name}\" was restored, but {remark}");
                    self.tell_once(Ending::Delivered, &Complaint::new(message));
                }
                Ending::Delivered
            }
            Ok(Outcome::NotArchived { reason }) => {
                let message = format!("\"{name}\" {reason}");
                self.tell_once(Ending::NotArchived, &Complaint::new(message))
            }
            Err(e) => {
                let is_history = matches!(name.kind(), FileKind::History { .. });
                let complaint = Complaint::new(e.to_string()).detail(e.detail()).hint(e.hint());
                match e.standby() {
                    Standby::Retries => self.trouble(complaint, is_history),
                    Standby::Stops => self.stop(complaint),
                }
            }
        }
    }

    fn not_restored(&self, why: Complaint) -> Complaint {
        why.after(&format!("could not restore \"{}\": ", self.arguments.file))
    }

    fn stop(&self, why: Complaint) -> Ending {
        self.tell(Ending::Stops, &self.not_restored(why))
    }

    /// Says that the archive is in trouble, and returns what the server does then. A history file that the
    /// server has itself does not depend on the archive.
    fn trouble(&self, why: Complaint, is_history: bool) -> Ending {
        let complaint = self.not_restored(why);
        let has = |name: FileName| own::has_history(&name, &self.arguments.target);
        if is_history && self.name().is_some_and(has) {
            return self.tell_once(Ending::NotArchived, &complaint.and("But it is in pg_wal."));
        }
        if !self.tries_again() {
            return self.tell(Ending::Stops, &complaint);
        }
        let promotion = "A promotion now may take a timeline number that is in use.";
        let complaint = if is_history { complaint.and(promotion) } else { complaint };
        self.tell_once(Ending::TriesAgain, &complaint)
    }

    /// Says something, to a standby the same at most once a minute: an idle one asks for the same files every
    /// few seconds.
    fn tell_once(&self, ending: Ending, said: &Complaint) -> Ending {
        let is_new = || said::is_new(&said.to_string(), Path::new(DATA_DIRECTORY));
        if !self.tries_again() || is_new() { self.tell(ending, said) } else { ending }
    }

    /// Says why the call ends so: as one line on standard error, or as JSON on standard output.
    fn tell(&self, ending: Ending, said: &Complaint) -> Ending {
        let Restore { common, file, .. } = self.arguments;
        let status = ending.exit_status();
        if !common.json {
            terminal::complain(&said.to_string());
            return ending;
        }
        terminal::say_json(&match ending {
            Ending::Delivered | Ending::NotArchived => serde_json::json!({
                "file": file, "message": said.to_string(), "exit_status": status,
            }),
            Ending::TriesAgain | Ending::Stops => serde_json::json!({
                "file": file, "error": said.json(status),
            }),
        });
        ending
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
            result => return result.map_err(RestoreError::explained),
        }
    }
}
