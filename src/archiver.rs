//! What the callbacks do: hand the file to the pools, wait, report.

use std::cell::RefCell;
use std::ffi::CStr;
use std::path::Path;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use walsafe_core::archive::pool::Answer;
use walsafe_core::archive::pools::{Answers, Call, Pools, Step};
use walsafe_core::archive::{Failure, Job, Plan, Receipt, Repeats};
use walsafe_core::error::Error;
use walsafe_core::server::known::KnownDestinations;
use walsafe_core::server::postmaster;
use walsafe_core::server::settings::{Destination, Settings};
use walsafe_core::server::together;
use walsafe_core::store::directory::Staging;
use walsafe_core::store::directory::temporary::Owner;
use walsafe_core::store::location::Access;
use walsafe_core::wal::name::FileName;
use walsafe_core::wal::segment::Cluster;

use crate::damage::DamageWatch;
use crate::last::LastNote;
use crate::raised::catch_in_archiver;
use crate::report;
use crate::settings;
use crate::told::Told;
use crate::waiting::Waiter;
use crate::watch::Watch;

/// For how long a destination may stand still before a reload that waits for the call ends it. A copy that
/// moves is soon done, and the server reads its configuration then.
const PATIENCE: Duration = Duration::from_secs(3);

/// A call that takes longer may hold a shutdown up.
const LONG: Duration = Duration::from_secs(1);

thread_local! {
    static ARCHIVER: RefCell<Archiver> = RefCell::new(Archiver::new());
    /// Beside the archiver's state: a panic there is a failure that is told of, too.
    static REPEATS: RefCell<Repeats> = RefCell::default();
}

/// Archives one file for the server, and reports a failure. Never raises.
pub(crate) fn archive(file: &CStr, path: &CStr) -> bool {
    let name = file.to_string_lossy();
    match caught(|| ARCHIVER.with_borrow_mut(|archiver| archiver.archive(&name, path))) {
        Ok(Ended::Archived) => {
            REPEATS.with_borrow_mut(Repeats::succeeded);
            true
        }
        // The server asks for the file again once it has read its configuration.
        Ok(Ended::GivenUp(waited_for)) => {
            report::given_up(&name, &waited_for);
            false
        }
        Err(failure) => {
            let settings = caught(settings::current).ok();
            let telling = REPEATS.with_borrow_mut(|repeats| {
                repeats.failed(&name, &failure, settings.as_ref(), Instant::now())
            });
            report::failure(&name, &failure, telling);
            false
        }
    }
}

/// Returns whether there is a destination, which the server asks before each file. If there is none any more,
/// the threads end: they would go on through what waits.
pub(crate) fn is_configured() -> bool {
    let configured = settings::is_configured();
    if !configured {
        ARCHIVER.with(|archiver| {
            if let Ok(mut archiver) = archiver.try_borrow_mut() {
                // A thread that hangs stays known, for the next settings.
                let _ = archiver.pools.update(std::iter::empty());
                archiver.serves = None;
            }
        });
    }
    configured
}

/// Ends the threads, without waiting for one that hangs.
///
/// The server also calls this in the middle of a file, when the wait there has ended the process because
/// the postmaster died. The threads then end with the process.
pub(crate) fn shut_down() {
    ARCHIVER.with(|archiver| {
        if let Ok(mut archiver) = archiver.try_borrow_mut() {
            archiver.pools = Pools::default();
            archiver.serves = None;
        }
    });
}

/// Notes which destinations are in use, for sessions that begin after other ones were refused: they have none.
///
/// Called while a reload is under way, which leaves the settings in force as they are.
pub(crate) fn note_destinations() {
    let Ok(settings) = caught(settings::current) else { return };
    ARCHIVER.with(|archiver| {
        if let Ok(mut archiver) = archiver.try_borrow_mut() {
            archiver.watch.follow(&settings.destinations);
            archiver.watch.write();
        }
    });
}

/// Turns an error that the server raises, or a panic, into a failure like any other.
fn caught<T, E: From<Error>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_in_archiver(work).unwrap_or_else(|message| Err(Error::Panicked { message }.into()))
}

/// How a call has ended that did not fail.
enum Ended {
    /// Every destination has the file.
    Archived,
    /// Before these destinations had answered, for which nothing has moved for so long.
    GivenUp(Vec<(Destination, Duration)>),
}

/// What the destinations have said to a call, and when.
struct Said {
    answers: Answers,
    /// Those that have not answered.
    open: Vec<(Destination, Duration)>,
    times: Times,
}

/// When each destination was seen to have answered.
struct Times {
    began: Instant,
    answered: Vec<(Destination, Duration)>,
}

impl Times {
    /// Notes which destinations have answered by now.
    fn note(&mut self, settings: &Settings, call: &Call<'_>) {
        for there in settings.destinations.iter() {
            let known = self.answered.iter().any(|(known, _)| known == there);
            if !known && !call.open().any(|(open, _)| open == there) {
                self.answered.push((there.clone(), self.began.elapsed()));
            }
        }
    }

    /// Returns how long the server waited for a destination.
    fn of(&self, destination: &Destination) -> Duration {
        let at = self.answered.iter().find(|(there, _)| there == destination);
        at.map_or_else(|| self.began.elapsed(), |(_, took)| *took)
    }
}

/// The state of the archiver's main thread.
struct Archiver {
    pools: Pools,
    /// The settings that the pools were last found to serve.
    serves: Option<Settings>,
    /// The file that was looked at last for damage, and how many damaged files were found with it.
    looked_at: Option<(String, u64)>,
    damage: DamageWatch,
    last: LastNote,
    watch: Watch,
    told: Told,
    /// The last call has failed.
    failed: bool,
    /// Since when the server has been stopping and nothing was archived. Looked at only where calls fail or take
    /// long: whoever archives file after file reads nothing for it.
    stopping: Option<Instant>,
}

/// Notes that the server is stopping, and returns for how long it has been, with nothing archived.
///
/// A smart shutdown waits for sessions, for hours if need be. What was away for a while must be tried again then: a
/// server that is still there after twice the time begins anew.
fn stopping_for(since: &mut Option<Instant>, stall_timeout: Duration) -> Duration {
    if since.is_some_and(|since| since.elapsed() > 2 * stall_timeout) {
        *since = None;
    }
    // An archiver is not told before it is to end.
    if since.is_none() && postmaster::is_stopping(settings::data_directory()) {
        *since = Some(Instant::now());
    }
    since.map_or(Duration::ZERO, |since| since.elapsed())
}

impl Archiver {
    fn new() -> Self {
        Self {
            pools: Pools::default(),
            serves: None,
            looked_at: None,
            damage: DamageWatch::new(),
            last: LastNote::default(),
            watch: Watch::default(),
            told: Told::default(),
            failed: false,
            stopping: None,
        }
    }

    /// Archives a file, and counts the call for the status view.
    fn archive(&mut self, name: &str, path: &CStr) -> Result<Ended, Failure> {
        let began = Instant::now();
        // The server asks first whether archiving is configured.
        let settings = settings::current()?;
        self.watch.follow(&settings.destinations);
        // Caught here already, so that a raised error is counted too.
        let result = caught(|| self.ask(&settings, name, path, began));
        let ended = match result {
            Ok(said) => self.take(&settings, name, said),
            Err(error) => {
                for there in settings.destinations.iter() {
                    self.told.failed(there);
                    self.watch.failed(name, there, began.elapsed(), &error);
                }
                Err(error.into())
            }
        };
        for (there, last) in self.pools.ahead() {
            self.watch.is_ahead(there, last);
        }
        for (there, requests) in self.pools.requests() {
            self.watch.has_asked(there, requests);
        }
        self.watch.write();
        self.failed = !matches!(ended, Ok(Ended::Archived));
        ended
    }

    /// Asks every destination for a file, and waits until all have answered; or until one hangs while the
    /// configuration is to be read again, which may take that one out.
    fn ask(
        &mut self,
        settings: &Settings,
        name: &str,
        path: &CStr,
        began: Instant,
    ) -> Result<Said, Error> {
        let name =
            FileName::new(name).map_err(|source| Error::Name { name: name.to_owned(), source })?;
        let source = Path::new(&*path.to_string_lossy()).to_owned();
        self.follow(settings)?;
        let mut waiter = Waiter::new(name.as_str());
        let job = Job { name: name.clone(), source };
        // The server tries several times before it ends: together, failures hold it up no longer than one does.
        let stall_timeout = settings.stall_timeout.map(|time| match self.failed {
            true => time.saturating_sub(stopping_for(&mut self.stopping, time)),
            false => time,
        });
        let mut call = self.pools.call(job, stall_timeout);
        let mut times = Times { began, answered: Vec::new() };
        loop {
            let mut left = match call.step() {
                Step::Done(answers) => return Ok(Said { answers, open: Vec::new(), times }),
                Step::Wait(left) => left,
            };
            times.note(settings, &call);
            if began.elapsed() >= LONG
                && let Some(time) = settings.stall_timeout
            {
                stopping_for(&mut self.stopping, time);
            }
            if Waiter::is_reload_pending() {
                if call.open().any(|(_, still_for)| still_for >= PATIENCE) {
                    let open = call.open().map(|(there, still)| (there.clone(), still)).collect();
                    return Ok(Said { answers: call.give_up(), open, times });
                }
                left = left.min(PATIENCE / 10);
            }
            let Some(handle) = call.wake_handle() else { return Err(Error::NotConfigured) };
            waiter.wait(handle, left);
        }
    }

    /// Has the pools serve these settings. Destinations whose part of them has not changed keep their results.
    fn follow(&mut self, settings: &Settings) -> Result<(), Error> {
        if self.serves.as_ref() == Some(settings) {
            return Ok(());
        }
        together::use_together(settings::data_directory(), &settings.destinations);
        let plans =
            settings.destinations.iter().map(|there| (plan(settings, there), settings.workers));
        self.pools.update(plans)?;
        self.told.follow(&settings.destinations);
        self.serves = Some(settings.clone());
        Ok(())
    }

    /// Reports and counts what the destinations have said.
    fn take(&mut self, settings: &Settings, name: &str, said: Said) -> Result<Ended, Failure> {
        let Said { answers, open, times } = said;
        for (there, answer) in answers.iter() {
            let took = times.of(there);
            match answer {
                Answer::Archived(receipt) => {
                    self.told.archived(settings, there, receipt);
                    let damaged = self.look_for_damage(name, receipt);
                    self.watch.archived(name, there, took, receipt, damaged);
                }
                // Reported and counted when it was archived.
                Answer::Remembered(_) | Answer::Withheld => {}
                Answer::Failed(error) => {
                    self.told.failed(there);
                    self.watch.failed(name, there, took, error);
                }
            }
        }
        if !open.is_empty() {
            return Ok(Ended::GivenUp(open));
        }
        if answers.are_all_good() {
            self.stopping = None;
            let receipt = answers.iter().find_map(|(_, answer)| match answer {
                Answer::Archived(receipt) | Answer::Remembered(receipt) => Some(receipt),
                Answer::Failed(_) | Answer::Withheld => None,
            });
            if let Some(receipt) = receipt {
                self.last.note(name, receipt);
            }
            return Ok(Ended::Archived);
        }
        let failed = answers.into_iter().filter_map(|(there, answer)| match answer {
            Answer::Failed(error) => Some((there, error)),
            _ => None,
        });
        Err(Failure::of(failed, settings.destinations.len())
            .unwrap_or_else(|| Error::NotConfigured.into()))
    }

    /// Reports damage in the WAL of a file, once, whichever destination was the first to have it. Returns the
    /// number of damaged files, the same for each of them.
    fn look_for_damage(&mut self, name: &str, receipt: &Receipt) -> u64 {
        let Some(records) = &receipt.records else { return 0 };
        if let Some((looked_at, damaged)) = &self.looked_at
            && looked_at == name
        {
            return *damaged;
        }
        let damaged = self.damage.look(name, records);
        self.looked_at = Some((name.to_owned(), damaged));
        damaged
    }
}

fn plan(settings: &Settings, destination: &Destination) -> Plan {
    // SAFETY: a number that the server read from its control file before it started the archiver.
    let system_identifier = unsafe { pg_sys::GetSystemIdentifier() };
    Plan {
        destination: destination.clone(),
        fsync_policy: settings.fsync_policy,
        file_mode: settings.file_mode,
        compression: settings.compression,
        check_wal: settings.check_wal,
        verify: settings.verify,
        cluster: Cluster { system_identifier, segment_size: settings::segment_size() },
        known: KnownDestinations::of(settings::data_directory()),
        owner: Owner::this_process(),
        staging: Staging::Unnamed,
        // A directory has no part in these, and keeps its results when one of them changes.
        access: if destination.is_url() { settings::access(settings) } else { Access::default() },
    }
}
