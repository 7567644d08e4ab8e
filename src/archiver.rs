//! What the callbacks do: hand the file to the pool, wait, report.

use std::cell::RefCell;
use std::ffi::CStr;
use std::path::Path;
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};
use walsafe_core::archive::pool::Answer;
use walsafe_core::archive::pools::{Pools, Step};
use walsafe_core::archive::{Job, Plan, Receipt, Repeats};
use walsafe_core::error::Error;
use walsafe_core::server::known::KnownDestinations;
use walsafe_core::server::settings::Settings;
use walsafe_core::store::directory::Staging;
use walsafe_core::store::directory::temporary::Owner;
use walsafe_core::wal::name::FileName;
use walsafe_core::wal::segment::Cluster;

use crate::damage::DamageWatch;
use crate::last::LastNote;
use crate::raised::catch_in_archiver;
use crate::report::{self, Report};
use crate::settings;
use crate::waiting::Waiter;
use crate::watch::Watch;

/// Shortest time between two warnings about free space.
const SPACE_WARNING_INTERVAL: Duration = Duration::from_secs(60);

thread_local! {
    static ARCHIVER: RefCell<Archiver> = RefCell::new(Archiver::new());
    /// Beside the archiver's state: a panic there is a failure that is told of, too.
    static REPEATS: RefCell<Repeats> = RefCell::default();
}

/// Archives one file for the server, and reports a failure. Never raises.
pub(crate) fn archive(file: &CStr, path: &CStr) -> bool {
    let name = file.to_string_lossy();
    match caught(|| ARCHIVER.with_borrow_mut(|archiver| archiver.archive(&name, path))) {
        Ok(_) => {
            REPEATS.with_borrow_mut(Repeats::succeeded);
            true
        }
        Err(error) => {
            let settings = caught(settings::current).ok();
            let telling = REPEATS.with_borrow_mut(|repeats| {
                repeats.failed(&name, &error, settings.as_ref(), Instant::now())
            });
            report::failure(&name, &error, telling);
            false
        }
    }
}

/// Ends the threads, without waiting for one that hangs.
///
/// The server also calls this in the middle of a file, when the wait there has ended the process because
/// the postmaster died. The threads then end with the process.
pub(crate) fn shut_down() {
    ARCHIVER.with(|archiver| {
        if let Ok(mut archiver) = archiver.try_borrow_mut() {
            archiver.pools = Pools::default();
        }
    });
}

/// Notes which destination is in use, for sessions that begin after another one was refused: they have none.
///
/// Called while a reload is under way, which leaves the settings in force as they are.
pub(crate) fn note_destination() {
    let Ok(settings) = caught(settings::current) else { return };
    ARCHIVER.with(|archiver| {
        if let Ok(mut archiver) = archiver.try_borrow_mut() {
            archiver.watch.note(settings.destination.path());
        }
    });
}

/// Turns an error that the server raises, or a panic, into a failure like any other.
fn caught<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_in_archiver(work).unwrap_or_else(|message| Err(Error::Panicked { message }))
}

/// The state of the archiver's main thread.
struct Archiver {
    pools: Pools,
    /// The settings that the pools were last made to serve.
    served: Option<Settings>,
    space_warned: Option<Instant>,
    damage: DamageWatch,
    last: LastNote,
    watch: Watch,
    said: Option<Said>,
}

/// What the log says of where files go.
struct Said {
    settings: Settings,
    /// A call has failed since.
    failed: bool,
}

impl Archiver {
    fn new() -> Self {
        Self {
            pools: Pools::default(),
            served: None,
            space_warned: None,
            damage: DamageWatch::new(),
            last: LastNote::default(),
            watch: Watch::default(),
            said: None,
        }
    }

    /// Archives a file, and counts the call for the status view.
    fn archive(&mut self, name: &str, path: &CStr) -> Result<Receipt, Error> {
        let started = Instant::now();
        // The server asks first whether archiving is configured.
        let settings = settings::current()?;
        // Caught here already, so that a raised error is counted too.
        let result = caught(|| self.archive_with(&settings, name, path));
        let damaged = match &result {
            Ok(outcome) => {
                self.say_where(&settings);
                outcome.notices.iter().for_each(report::notice);
                self.last.note(name, outcome);
                self.warn_of_space(&settings, outcome);
                outcome.records.as_ref().map_or(0, |records| self.damage.look(name, records))
            }
            Err(_) => {
                if let Some(said) = &mut self.said {
                    said.failed = true;
                }
                0
            }
        };
        self.watch.count(name, settings.destination.path(), started, &result, damaged);
        result
    }

    fn archive_with(
        &mut self,
        settings: &Settings,
        name: &str,
        path: &CStr,
    ) -> Result<Receipt, Error> {
        let name =
            FileName::new(name).map_err(|source| Error::Name { name: name.to_owned(), source })?;
        let job = Job { name, source: Path::new(&*path.to_string_lossy()).to_owned() };
        if self.served.as_ref() != Some(settings) {
            self.pools.update([(plan(settings), settings.workers)])?;
            self.served = Some(settings.clone());
        }
        let title = job.name.clone();
        let mut waiter = Waiter::new(title.as_str());
        let mut call = self.pools.call(job, settings.stall_timeout);
        let answers = loop {
            match call.step() {
                Step::Done(answers) => break answers,
                Step::Wait(longest) => {
                    if let Some(handle) = call.wake_handle() {
                        waiter.wait(handle, longest);
                    }
                }
            }
        };
        match answers.into_iter().next() {
            Some((_, Answer::Archived(receipt) | Answer::Remembered(receipt))) => Ok(receipt),
            Some((_, Answer::Failed(error))) => Err(error),
            // There is one destination.
            Some((_, Answer::Withheld)) | None => Err(Error::NotConfigured),
        }
    }

    /// Logs one line when archiving to a destination begins, and when it succeeds again after a failure.
    fn say_where(&mut self, settings: &Settings) {
        let same = |said: &Said| {
            said.settings.destination == settings.destination
                && said.settings.fsync_policy == settings.fsync_policy
                && said.settings.compression == settings.compression
        };
        let word = match &self.said {
            Some(said) if same(said) && !said.failed => return,
            Some(said) if same(said) => "resumes",
            _ => "begins",
        };
        // SAFETY: a number that the server read from its control file before it started the archiver.
        let system_identifier = unsafe { pg_sys::GetSystemIdentifier() };
        let name = |setting| settings::value(setting).to_string_lossy().into_owned();
        Report {
            code: PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            message: format!("archiving to \"{}\" {word}", settings.destination.path().display()),
            detail: format!(
                "Cluster {system_identifier}, flush policy \"{}\", compression \"{}\".",
                name(c"walsafe_archive.fsync_policy"),
                name(c"walsafe_archive.compression")
            ),
            hint: String::new(),
        }
        .log();
        self.said = Some(Said { settings: settings.clone(), failed: false });
    }

    fn warn_of_space(&mut self, settings: &Settings, outcome: &Receipt) {
        let Some(space) = outcome.space.filter(|space| space.free < settings.min_free_space) else {
            return;
        };
        if self.space_warned.is_some_and(|last| last.elapsed() < SPACE_WARNING_INTERVAL) {
            return;
        }
        self.space_warned = Some(Instant::now());
        Report {
            code: PgSqlErrorCode::ERRCODE_DISK_FULL,
            message: "archive directory is low on space".to_owned(),
            detail: format!(
                "\"{}\": {} MB of {} MB are free, and \"walsafe_archive.min_free_space\" is {} MB.",
                settings.destination.path().display(),
                space.free >> 20,
                space.total >> 20,
                settings.min_free_space >> 20
            ),
            hint: "Remove WAL that no backup needs any more (pg_archivecleanup), or give the archive more space.".to_owned(),
        }
        .warn();
    }
}

fn plan(settings: &Settings) -> Plan {
    // SAFETY: a number that the server read from its control file before it started the archiver.
    let system_identifier = unsafe { pg_sys::GetSystemIdentifier() };
    Plan {
        destination: settings.destination.clone(),
        fsync_policy: settings.fsync_policy,
        file_mode: settings.file_mode,
        compression: settings.compression,
        check_wal: settings.check_wal,
        verify: settings.verify,
        cluster: Cluster { system_identifier, segment_size: settings::segment_size() },
        known: KnownDestinations::of(settings::data_directory()),
        owner: Owner::this_process(),
        staging: Staging::Unnamed,
    }
}
