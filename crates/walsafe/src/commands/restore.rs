//! `walsafe restore`: one file for a server in recovery, and the exit status by which the server decides
//! how to go on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use walsafe_core::error::{Activity, Error, ErrorKind, Standby};
use walsafe_core::restore::spool::Given;
use walsafe_core::restore::{self, Origin, Outcome, Request, RestoreError, Round, Trouble, own};
use walsafe_core::server::postmaster;
use walsafe_core::store::location;
use walsafe_core::sys;
use walsafe_core::wal::name::{FileKind, FileName};

use super::ahead::Ahead;
use super::{DONE, lately};
use crate::arguments::{OnError, Restore};
use crate::complaint::Complaint;
use crate::guard::STOP;
use crate::terminal;
use crate::watchdog::{self, Lost, Rounds, Signs, Stood};

/// How often a standby looks for a history file in an archive that is in trouble.
const HISTORY_PAUSE: Duration = Duration::from_millis(500);

/// How long a standby waits for object storage, at most; half of that for what fails.
const STANDBY: Duration = Duration::from_secs(20);

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
    // Before there is any other process of this call.
    sys::end_after_parent();
    let standby = postmaster::is_standby(here());
    Call { arguments, standby, begun: Instant::now() }.outcome().exit_status()
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
    begun: Instant,
}

impl Call<'_> {
    /// Returns whether the server tries again, or streams, when the archive is in trouble.
    fn tries_again(&self) -> bool {
        self.standby && self.arguments.on_error != OnError::Stop
    }

    fn outcome(&self) -> Ending {
        let arguments = self.arguments;
        if self.name().is_some_and(|name| own::cannot_exist(&name)) {
            let message = format!("\"{}\" {}", arguments.file, own::CANNOT_EXIST);
            return self.tell_once(Ending::NotArchived, &Complaint::new(message));
        }
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
        match self.origins() {
            Ok(origins) => self.watched(&name, &origins),
            Err(complaint) => self.stop(complaint),
        }
    }

    /// Names the archives.
    ///
    /// # Errors
    /// A URL cannot be right: the command line is wrong.
    fn origins(&self) -> Result<Vec<Origin>, Complaint> {
        let Restore { from, common, .. } = self.arguments;
        let mut access = common.access(Some(here()));
        // A standby asks again by itself, and may stream meanwhile.
        if self.tries_again() {
            access.stall_timeout = Some(access.stall_timeout.map_or(STANDBY, |t| t.min(STANDBY)));
        }
        let named = |(place, location): (usize, &PathBuf)| {
            Origin::new(location, &access).map_err(|e| {
                let complaint = Complaint::of(&e, Activity::Restoring);
                // The location is not repeated: it may hold a secret.
                match from.len() {
                    1 => complaint,
                    _ => complaint.after(&format!("--from number {}: ", place + 1)),
                }
            })
        };
        from.iter().enumerate().map(named).collect()
    }

    fn name(&self) -> Option<FileName> {
        FileName::new(&self.arguments.file).ok()
    }

    /// Makes the attempt in a process of its own: this one does not wait for what the storage holds, nor leaves
    /// that to the server.
    fn watched(&self, name: &FileName, origins: &[Origin]) -> Ending {
        let Restore { from, file, common, .. } = self.arguments;
        let ahead = self.ahead(name);
        if let Some(ahead) = ahead.as_ref().filter(|_| !self.tries_again()) {
            ahead.begin_recovery();
        }
        let rounds = Rounds {
            archives: from,
            last: if from.len() > 1 { lately::failed(from, here()) } else { Vec::new() },
            work: |signs: &Signs, round: &Round| match &ahead {
                Some(ahead) => self.attempt_ahead(ahead, name, origins, signs, round),
                None => self.attempt(name, origins, signs, round),
            },
            answer: |result, stood: &[Stood]| {
                self.note_failed(&result, stood);
                self.answer(name, self.with(result, stood)) as u8
            },
            is_busy: || ahead.as_ref().is_some_and(Ahead::is_busy),
        };
        match watchdog::watch_and_leave(rounds, common.timeout()) {
            Ok(status) => {
                let ending = Ending::of(status);
                if let (Ending::Delivered, Some(ahead)) = (ending, &ahead) {
                    ahead.delivered();
                }
                ending
            }
            Err(Lost::Stalled(error)) => {
                let is_history = file.ends_with(".history");
                self.trouble(Complaint::of(&error, Activity::Restoring), is_history)
            }
            Err(Lost::Died(message)) => self.stop(Complaint::new(message)),
            Err(Lost::Panicked) => Ending::Stops,
        }
    }

    /// Prepares to fetch ahead, if that is wanted, and says what is wrong with that. Without it, the file is restored
    /// all the same.
    fn ahead(&self, name: &FileName) -> Option<Ahead<'_>> {
        let ahead = Ahead::of(self.arguments, name);
        let wrong = match &ahead {
            Ok(ahead) => ahead.as_ref().and_then(Ahead::complaint),
            Err(e) => Some(e.to_string()),
        };
        if let Some(wrong) = wrong.filter(|wrong| lately::is_new(wrong, here())) {
            terminal::remark(&wrong);
        }
        ahead.ok().flatten()
    }

    /// As [`Call::attempt`], but takes the file if it was fetched before.
    fn attempt_ahead(
        &self,
        ahead: &Ahead<'_>,
        name: &FileName,
        origins: &[Origin],
        signs: &Signs,
        round: &Round,
    ) -> Result<Outcome, RestoreError> {
        if let Some(given) = ahead.take(&signs.steps, round) {
            return Ok(Outcome::Delivered { given, remark: None, passed_over: Vec::new() });
        }
        // In a standby the segment may not be there yet, and nothing behind it is looked for before it is.
        if !self.tries_again() {
            ahead.begin();
        }
        let mut result = self.attempt(name, origins, signs, round);
        if result.as_ref().is_err_and(|e| e.kind() == ErrorKind::DataDirectoryFull) {
            ahead.make_room(&signs.steps);
            result = self.attempt(name, origins, signs, round);
        }
        if let Ok(Outcome::Delivered { given, .. }) = &result {
            ahead.forget_before(given);
            ahead.begin();
        }
        let is_delivered = matches!(result, Ok(Outcome::Delivered { .. }));
        // That is bounded, and whether an archive still moves makes no difference to this file any more.
        signs.elsewhere(|| ahead.finish(self.begun, is_delivered));
        result
    }

    fn attempt(
        &self,
        name: &FileName,
        origins: &[Origin],
        signs: &Signs,
        round: &Round,
    ) -> Result<Outcome, RestoreError> {
        let arguments = self.arguments;
        let request = Request {
            archives: origins,
            name,
            target: &arguments.target,
            data_directory: here(),
            allow_unmarked: arguments.allow_unmarked,
            allow_unchecked: arguments.allow_unchecked,
            patience: Duration::from_secs(arguments.patience.into()),
            end_at_hole: arguments.end_at_hole,
            prove_absence: !self.tries_again(),
            steps: &signs.steps,
            round,
        };
        let is_history = matches!(name.kind(), FileKind::History { .. });
        let waits = self.tries_again() && is_history;
        let patience = arguments.common.timeout().filter(|_| waits).unwrap_or_default();
        restore_until(&request, self.begun + patience)
    }

    /// Notes which of several archives are better asked last for a while: those that stood still, by their
    /// places, and those that failed.
    fn note_failed(&self, result: &Result<Outcome, RestoreError>, stood: &[Stood]) {
        let from = &self.arguments.from;
        let troubles: &[Trouble] = match result {
            Ok(Outcome::Delivered { passed_over, .. }) => passed_over,
            Err(RestoreError::Unsettled { troubles, .. }) => troubles,
            _ => &[],
        };
        let failed = troubles.iter().filter(|trouble| trouble.lasts());
        let failed = failed.map(|trouble| &*trouble.archive);
        let stood = stood.iter().filter_map(|(place, _)| from.get(*place)).map(|path| &**path);
        lately::note_failed(failed.chain(stood), here());
    }

    /// Adds the archives that stood still to those that were passed over for the one that gave the file.
    fn with(
        &self,
        mut result: Result<Outcome, RestoreError>,
        stood: &[Stood],
    ) -> Result<Outcome, RestoreError> {
        if let Ok(Outcome::Delivered { given, passed_over, .. }) = &mut result {
            for (place, seconds) in stood {
                let Some(path) = self.arguments.from.get(*place) else { continue };
                let is_told = passed_over.iter().any(|trouble| trouble.archive == *path);
                if *path != given.from && !is_told {
                    let (archive, seconds) = (path.clone(), *seconds);
                    let path = location::shown(path).into_owned();
                    let hangs = Error::StorageHangs { path, seconds, left: None };
                    passed_over.push(Trouble { archive, error: hangs.into(), away: true });
                }
            }
        }
        result
    }

    /// Says what came of the attempt, where there is something to say.
    fn answer(&self, name: &FileName, result: Result<Outcome, RestoreError>) -> Ending {
        match result {
            Ok(Outcome::Delivered { given, remark, passed_over }) => {
                self.delivered(name, &given, remark, &passed_over)
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

    /// Says from where a file was restored, if that was asked for or is not what was to be expected.
    fn delivered(
        &self,
        name: &FileName,
        given: &Given,
        remark: Option<String>,
        passed_over: &[Trouble],
    ) -> Ending {
        let Restore { common, verbose, from: archives, .. } = self.arguments;
        let is_asked = *verbose || common.json && archives.len() > 1;
        if remark.is_none() && passed_over.is_empty() && !is_asked {
            return Ending::Delivered;
        }
        let mut message = format!("\"{name}\" was restored");
        if is_asked || !passed_over.is_empty() {
            message += &format!(" from \"{}\"", location::shown(&given.from).display());
        }
        if given.fetched_ahead {
            message += ", fetched ahead";
        }
        for trouble in passed_over {
            message +=
                &format!(" and not from \"{}\"", location::shown(&trouble.archive).display());
        }
        if let Some(remark) = remark {
            message += &format!(", but {remark}");
        }
        let detail: Vec<_> = passed_over.iter().map(Trouble::sentence).collect();
        let said = Complaint::new(message).detail(detail.join(" "));
        if *verbose || self.is_new(&said) {
            self.tell_of(Ending::Delivered, &said, Some(given));
        }
        Ending::Delivered
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
        if self.is_new(said) { self.tell(ending, said) } else { ending }
    }

    fn is_new(&self, said: &Complaint) -> bool {
        !self.tries_again() || lately::is_new(&said.to_string(), here())
    }

    /// Says why the call ends so: as one line on standard error, or as JSON on standard output.
    fn tell(&self, ending: Ending, said: &Complaint) -> Ending {
        self.tell_of(ending, said, None)
    }

    /// The same, of a file that an archive has given.
    fn tell_of(&self, ending: Ending, said: &Complaint, given: Option<&Given>) -> Ending {
        let Restore { common, file, .. } = self.arguments;
        let status = ending.exit_status();
        if !common.json {
            terminal::complain(&said.to_string());
            return ending;
        }
        let mut value = match ending {
            Ending::Delivered | Ending::NotArchived => serde_json::json!({
                "file": file, "message": said.to_string(), "exit_status": status,
            }),
            Ending::TriesAgain | Ending::Stops => serde_json::json!({
                "file": file, "error": said.json(status),
            }),
        };
        if let (Some(given), Some(object)) = (given, value.as_object_mut()) {
            let from = location::shown(&given.from).display().to_string();
            object.insert("from".to_owned(), from.into());
            object.insert("fetched_ahead".to_owned(), given.fetched_ahead.into());
        }
        terminal::say_json(&value);
        ending
    }
}

/// The server's working directory.
fn here() -> &'static Path {
    Path::new(DATA_DIRECTORY)
}

/// Restores a file, and tries again until then while the archive is in trouble. That is for a standby that
/// asks for a history file: if it is promoted after "no", it takes the number of the timeline.
fn restore_until(request: &Request<'_>, until: Instant) -> Result<Outcome, RestoreError> {
    loop {
        match restore::restore(request) {
            Err(e) if e.standby() == Standby::Retries && Instant::now() < until => {
                // An answer, though not a good one: the storage does not hang.
                request.steps.tick();
                std::thread::sleep(HISTORY_PAUSE);
            }
            result => return result.map_err(RestoreError::explained),
        }
    }
}
