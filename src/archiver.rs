//! What the callbacks do: hand the file to the pool, wait, report.

use std::cell::RefCell;
use std::ffi::CStr;
use std::path::Path;
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};
use walsafe_core::archive::pool::Pool;
use walsafe_core::archive::{Job, Plan, Receipt, Repeats};
use walsafe_core::error::{Action, Error};
use walsafe_core::server::known::KnownDestinations;
use walsafe_core::server::ready;
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

/// How many files one look into `archive_status` lists at most.
const BATCH: usize = 1024;
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
            archiver.pool = None;
            archiver.retired.clear();
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

/// A pool, and the settings that it was last found to serve.
struct Kept {
    pool: Pool,
    settings: Settings,
}

/// The state of the archiver's main thread.
struct Archiver {
    pool: Option<Kept>,
    /// Pools of earlier settings with a file still under way.
    retired: Vec<Pool>,
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
            pool: None,
            retired: Vec::new(),
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
        let pool = keep_pool(&mut self.pool, &mut self.retired, settings)?;
        let mut waiter = Waiter::new(job.name.as_str());
        wait_for_retired(&mut self.retired, settings, &mut waiter)?;
        ask(pool, &job, settings, &mut waiter)
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

/// Returns the pool for these settings: the current one, unless a setting that decides how files are
/// archived has changed.
fn keep_pool<'a>(
    slot: &'a mut Option<Kept>,
    retired: &mut Vec<Pool>,
    settings: &Settings,
) -> Result<&'a Pool, Error> {
    let kept = match slot.take() {
        Some(kept) if kept.settings == *settings => kept,
        before => {
            let plan = plan(settings);
            let fits =
                |kept: &Kept| *kept.pool.plan() == plan && kept.pool.workers() == settings.workers;
            let pool = match before {
                Some(before) if fits(&before) => before.pool,
                before => {
                    if let Some(Kept { pool, .. }) = before {
                        pool.retire();
                        retired.push(pool);
                    }
                    let path = settings.destination.path();
                    Pool::new(plan, settings.workers)
                        .map_err(|e| Error::io(Action::MakePool, path, e))?
                }
            };
            Kept { pool, settings: settings.clone() }
        }
    };
    Ok(&slot.insert(kept).pool)
}

/// Waits until no file of earlier settings is under way to the same destination: other calls must not pile
/// up behind one that hangs, and two threads must not work on one file.
fn wait_for_retired(
    retired: &mut Vec<Pool>,
    settings: &Settings,
    waiter: &mut Waiter<'_>,
) -> Result<(), Error> {
    loop {
        retired.retain(|pool| pool.busy().is_some());
        let same = |pool: &&Pool| pool.plan().destination == settings.destination;
        let Some(pool) = retired.iter().find(same) else { return Ok(()) };
        pool.clear_wake();
        let Some(still_for) = pool.busy() else { continue };
        let left = remaining(settings, still_for)?;
        waiter.wait(pool.wake_handle(), left);
    }
}

/// Asks the pool for a file and waits for it; offers it the next waiting files meanwhile.
fn ask(
    pool: &Pool,
    job: &Job,
    settings: &Settings,
    waiter: &mut Waiter<'_>,
) -> Result<Receipt, Error> {
    let stalled = |still_for: Duration| Error::Stalled {
        path: settings.destination.path().to_owned(),
        seconds: still_for.as_secs(),
    };
    if let Some(still_for) = pool.held() {
        return Err(stalled(still_for));
    }
    pool.ask(job);
    if pool.wants_more() {
        offer_more(pool);
    }
    loop {
        pool.clear_wake();
        if let Some(result) = pool.take(job) {
            return result;
        }
        let still_for = pool.still_for(job);
        match remaining(settings, still_for) {
            Ok(left) => waiter.wait(pool.wake_handle(), left),
            Err(error) => {
                pool.hold(still_for);
                return Err(error);
            }
        }
    }
}

/// Returns how much longer a copy may stand still, or the error that reports it.
fn remaining(settings: &Settings, still_for: Duration) -> Result<Duration, Error> {
    let Some(limit) = settings.stall_timeout else { return Ok(Duration::MAX) };
    match limit.checked_sub(still_for) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(Error::Stalled {
            path: settings.destination.path().to_owned(),
            seconds: still_for.as_secs(),
        }),
    }
}

/// Offers the next waiting files. If they cannot be listed, nothing is lost: the server asks for each
/// file itself.
fn offer_more(pool: &Pool) {
    let pg_wal = Path::new("pg_wal");
    let waiting = ready::first_waiting(&pg_wal.join("archive_status"), BATCH).unwrap_or_default();
    pool.offer(waiting.into_iter().map(|name| {
        let source = pg_wal.join(name.as_str());
        Job { name, source }
    }));
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
