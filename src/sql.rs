//! The extension's SQL functions. The files in sql/ declare them: pgrx generates nothing (`sql = false`), and
//! a test compares the two.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use pgrx::prelude::*;
use walsafe_core::error::{Activity, Error, ErrorKind};
use walsafe_core::prove::check;
use walsafe_core::prove::check::restoring::{self, Restoring};
use walsafe_core::prove::examine::Expectation;
use walsafe_core::prove::finding::{Finding, FindingKind, Findings};
use walsafe_core::prove::read_back::{ReadBack, read_back};
use walsafe_core::prove::verify::{self, VerifyError};
use walsafe_core::server::control::ControlFile;
use walsafe_core::server::ready;
use walsafe_core::server::settings::Destination;
use walsafe_core::server::stats::{self, Stats};
use walsafe_core::server::together;
use walsafe_core::store::Store;
use walsafe_core::store::location::{self, Access};
use walsafe_core::sys;
use walsafe_core::wal::name::{FileName, SegmentName};
use walsafe_core::words;

use crate::background::{self, Failure};
use crate::configuration;
use crate::end_to_end;
use crate::report::{self, Report};
use crate::settings;
use crate::state::{State, states};
use crate::watch;

/// How many threads a verification from SQL reads with. It leaves processors to the database.
const VERIFY_THREADS: usize = 2;

/// The rows behind the view `walsafe_archive_status`, one for each destination. Times are seconds since 1970;
/// the view turns them into timestamps.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "pgrx wants the row's type spelled out")]
fn walsafe_archive_stat() -> TableIterator<
    'static,
    (
        name!(destination, Option<String>),
        name!(state, Option<String>),
        name!(last_archived_wal, Option<String>),
        name!(last_archived_time, Option<f64>),
        name!(last_failed_wal, Option<String>),
        name!(last_failed_time, Option<f64>),
        name!(last_error, Option<String>),
        name!(archived_count, Option<i64>),
        name!(already_present_count, Option<i64>),
        name!(failed_count, Option<i64>),
        name!(wal_bytes, Option<i64>),
        name!(stored_bytes, Option<i64>),
        name!(busy_ms, Option<f64>),
        name!(last_ms, Option<f64>),
        name!(backlog_files, Option<i64>),
        name!(backlog_bytes, Option<i64>),
        name!(oldest_waiting_since, Option<f64>),
        name!(free_bytes, Option<i64>),
        name!(pg_wal_free_bytes, Option<i64>),
        name!(damaged_count, Option<i64>),
        name!(complete_from, Option<String>),
        name!(requests, Option<i64>),
        name!(retries, Option<i64>),
        name!(throttled, Option<i64>),
        name!(stats_reset, Option<f64>),
    ),
> {
    let known = stats::current(settings::data_directory()).unwrap_or_default();
    let rows = states(&known).into_iter().map(|state| {
        // Without a destination, what was counted stays to be read.
        let counted = match &state.destination {
            Some(name) => known.iter().find(|(stats, _)| stats.destination == *name),
            None => known.first(),
        };
        (state, counted.cloned())
    });
    let rows: Vec<(State, Option<(Stats, u64)>)> = rows.collect();
    // Nothing waits on a standby: the primary archives what it has.
    let nothing_waits = configuration::is_idle_standby();
    let has_up_to: Vec<_> = rows.iter().map(|(_, counted)| has_up_to(counted.as_ref()?)).collect();
    let backlogs = ready::backlogs(Path::new("pg_wal"), settings::segment_size(), &has_up_to);
    let backlogs = backlogs.map_or_else(
        |_| vec![None; rows.len()],
        |backlogs| backlogs.into_iter().map(Some).collect::<Vec<_>>(),
    );
    let pg_wal = sys::Dir::open(Path::new("pg_wal")).and_then(|dir| dir.space()).ok();
    let rows = rows.into_iter().zip(backlogs).map(move |((state, counted), backlog)| {
        let (stats, reset_at) = counted.unzip();
        let count = |field: fn(&Stats) -> u64| stats.as_ref().map(|s| big(field(s)));
        let asked = stats.as_ref().filter(|s| s.by_requests != 0);
        let requests = |field: fn(&Stats) -> u64| asked.map(|s| big(field(s)));
        let milliseconds = |field: fn(&Stats) -> u64| stats.as_ref().map(|s| field(s) as f64 / 1e3);
        let time = |field: fn(&Stats) -> u64| stats.as_ref().and_then(|s| seconds(field(s)));
        let text = |field: fn(&Stats) -> &String| {
            let text = stats.as_ref().map(field).filter(|text| !text.is_empty());
            text.cloned().map(report::for_server)
        };
        let State { name: state, destination, refused } = state;
        (
            destination.map(report::for_server),
            Some(state.to_owned()),
            text(|s| &s.last_archived),
            time(|s| s.archived_at),
            text(|s| &s.last_failed),
            time(|s| s.failed_at),
            refused.map(report::for_server).or_else(|| text(|s| &s.last_error)),
            count(|s| s.archived),
            count(|s| s.already_present),
            count(|s| s.failed),
            count(|s| s.wal_bytes),
            count(|s| s.stored_bytes),
            milliseconds(|s| s.busy_us),
            milliseconds(|s| s.last_us),
            backlog.map(|b| big(b.files)),
            backlog.map(|b| big(b.bytes)),
            backlog
                .and_then(|b| b.oldest)
                .filter(|_| !nothing_waits)
                .and_then(|t: SystemTime| seconds(watch::microseconds(t))),
            stats.as_ref().filter(|s| s.free_known != 0).map(|s| big(s.free_bytes)),
            pg_wal.map(|space| big(space.free)),
            count(|s| s.damaged),
            text(|s| &s.complete_from),
            requests(|s| s.requests),
            requests(|s| s.retries),
            requests(|s| s.throttled),
            reset_at.and_then(seconds),
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Returns the last segment that a destination has although it waits for another one.
fn has_up_to((stats, _): &(Stats, u64)) -> Option<SegmentName> {
    FileName::new(&stats.has_up_to).ok()?.segment()
}

fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn seconds(microseconds: u64) -> Option<f64> {
    (microseconds != 0).then_some(microseconds as f64 / 1e6)
}

/// Sets the counts of the view to zero.
#[pg_extern(sql = false)]
fn walsafe_archive_reset() {
    let now = watch::microseconds(SystemTime::now());
    match stats::reset(settings::data_directory(), now) {
        // Nothing was counted yet.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => report::raise(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            "could not reset the statistics of the archiver",
            &words::sentence(&e.to_string()),
        ),
        Ok(()) => {}
    }
}

/// Checks the configuration and the destinations.
#[pg_extern(sql = false)]
fn walsafe_archive_check() -> TableIterator<
    'static,
    (
        name!(destination, Option<String>),
        name!(check_name, String),
        name!(status, String),
        name!(detail, String),
    ),
> {
    let mut general = configuration::checks();
    let mut rows = Vec::new();
    if let Ok(settings) = settings::current() {
        let destinations = settings.destinations.clone();
        let access = settings::access(&settings);
        let data_directory = settings::data_directory();
        let min_free = settings.min_free_space;
        let command = settings::value(c"restore_command").to_string_lossy().into_owned();
        general.push(restoring::archive_timeout(
            &settings::value(c"archive_timeout").to_string_lossy(),
        ));
        let (apart, restore_command, checks) = in_background(move |cancelled| {
            let options = check::Options {
                data_directory: Some(data_directory),
                min_free,
                cancelled: Some(cancelled),
                ..check::Options::default()
            };
            let given: Vec<_> = destinations.iter().map(|there| Path::new(there.given())).collect();
            let server = std::env::current_exe().ok();
            let restore_command = restoring::restore_command(&Restoring {
                command: &command,
                path: std::env::var_os("PATH").as_deref(),
                archives: &given,
                credentials_file: access.credentials_file.as_deref(),
                programs: server.as_deref().and_then(Path::parent),
            });
            let checks = destinations.iter().map(|there| {
                let checks = match location::open(Path::new(there.given()), &access) {
                    Ok(store) => check::check(&*store, &options),
                    Err(error) => vec![check::unusable(&error)],
                };
                (there.path().display().to_string(), checks)
            });
            (together::look(&destinations), restore_command, checks.collect::<Vec<_>>())
        });
        if let Some(reason) = apart {
            let wrong = configuration::not_apart(&reason);
            general.iter_mut().filter(|check| check.name == wrong.name).for_each(|check| {
                *check = wrong.clone();
            });
        }
        general.push(restore_command);
        rows = checks;
    }
    let general = general.into_iter().map(|check| (None, check));
    let rows = rows.into_iter().flat_map(|(destination, checks)| {
        checks.into_iter().map(move |check| (Some(destination.clone()), check))
    });
    let rows = general.chain(rows).map(|(destination, check)| {
        let detail = report::for_server(check.detail);
        let destination = destination.map(report::for_server);
        (destination, check.name.to_owned(), check.status.name().to_owned(), detail)
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Ends a segment, waits for it in each archive and reads it back.
#[pg_extern(sql = false)]
fn walsafe_archive_test(
    timeout: f64,
) -> TableIterator<
    'static,
    (name!(destination, String), name!(file, String), name!(status, String), name!(detail, String)),
> {
    let Ok(limit) = Duration::try_from_secs_f64(timeout) else {
        report::raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "invalid timeout",
            "It is a number of seconds, 0 or more.",
        );
    };
    let (archives, access) = end_to_end::destinations();
    let data_directory = settings::data_directory();
    let segment = end_to_end::switch().to_string();
    let name = FileName::new(&segment).map_err(|e| e.to_string());
    let name = name.unwrap_or_else(|reason| {
        report::raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "invalid name of a segment", &reason)
    });
    let found = in_background(move |cancelled| {
        let control = ControlFile::read(data_directory).ok();
        let expected = Expectation {
            system_identifier: control.map(|control| control.system_identifier),
            thorough: true,
            past_cache: true,
            ..Expectation::default()
        };
        let began = Instant::now();
        let read = archives.into_iter().map(|archive| {
            // All have the same time.
            let limit = limit.saturating_sub(began.elapsed());
            let go_on = || !cancelled.load(Ordering::Relaxed);
            let found = match location::open(Path::new(archive.given()), &access) {
                Ok(store) => read_back(&*store, &name, &expected, limit, &go_on),
                Err(error) => ReadBack::NotThere(Some(error)),
            };
            (archive.path().to_owned(), found)
        });
        read.collect::<Vec<_>>()
    });
    let rows = found.into_iter().map(move |(archive, found)| {
        let file = match &found {
            ReadBack::Whole { stored, .. } | ReadBack::Wrong { stored, .. } => stored.to_string(),
            ReadBack::NotThere(_) => segment.clone(),
        };
        let (status, detail) = end_to_end::outcome(&archive, &found, timeout);
        let destination = report::for_server(archive.display().to_string());
        (destination, file, status.name().to_owned(), report::for_server(detail))
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// A finding as a row.
type Row = (String, String, String, String, String);

/// Reads every file of an archive, or of each, and returns what is wrong.
#[pg_extern(sql = false)]
fn walsafe_archive_verify(
    destination: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(destination, String),
        name!(file, String),
        name!(finding, String),
        name!(reason, String),
        name!(advice, String),
    ),
> {
    let found = in_each(archives_to_read(destination), |store, go_on| {
        let options = verify::Options { threads: VERIFY_THREADS, ..verify::Options::default() };
        verify::verify(store, &options, &mut |_| go_on()).map(|report| report.findings)
    });
    TableIterator::new(rows(found))
}

/// Returns the segments that are missing from an archive, or from each.
#[pg_extern(sql = false)]
fn walsafe_archive_gaps(
    destination: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(destination, String),
        name!(file, String),
        name!(finding, String),
        name!(reason, String),
        name!(advice, String),
    ),
> {
    let found = in_each(archives_to_read(destination), |store, go_on| {
        verify::gaps(store, &mut |_| go_on())
    });
    TableIterator::new(rows(found))
}

/// What was found in one archive.
type Found = (Destination, Result<Findings, VerifyError>);

/// Reads one archive after the other, beside the session's main thread.
fn in_each(
    archives: Vec<Destination>,
    read: impl Fn(&dyn Store, &dyn Fn() -> bool) -> Result<Findings, VerifyError> + Send + 'static,
) -> Vec<Found> {
    let access = access();
    in_background(move |cancelled| {
        let go_on = || !cancelled.load(Ordering::Relaxed);
        let read = archives.into_iter().map(|archive| {
            let store = location::open(Path::new(archive.given()), &access);
            let found = store.map_err(VerifyError::from).and_then(|store| read(&*store, &go_on));
            (archive, found)
        });
        read.collect()
    })
}

/// Makes the rows one by one, as the server asks for them: there may be one for each file of an archive, and
/// the server keeps what it has asked for in memory and files of its own.
///
/// An archive that cannot be read is an error; one of several, a row: what was found in the others counts.
fn rows(found: Vec<Found>) -> impl Iterator<Item = Row> {
    let several = found.len() > 1;
    let found: Vec<_> = found
        .into_iter()
        .map(|(archive, result)| {
            let result = match result {
                Err(error) if several => Err(unreadable(&error)),
                Err(error) => raise(error),
                Ok(findings) => Ok(findings),
            };
            (report::for_server(archive.path().display().to_string()), result)
        })
        .collect();
    found.into_iter().flat_map(|(destination, result)| {
        let (findings, unreadable) = match result {
            Ok(findings) => (Some(findings), None),
            Err(unreadable) => (None, Some(unreadable)),
        };
        let name = destination.clone();
        let unreadable = unreadable.map(move |(reason, advice)| {
            let kind = FindingKind::Unreadable.name().to_owned();
            (name, String::new(), kind, report::for_server(reason), advice)
        });
        let mut next = 0;
        let rows = std::iter::from_fn(move || {
            let Finding { file, problem } = findings.as_ref()?.get(next)?;
            next += 1;
            let advice = problem.advice().to_owned();
            let (file, reason) = (report::for_server(file), report::for_server(problem.reason));
            Some((destination.clone(), file, problem.kind.name().to_owned(), reason, advice))
        });
        unreadable.into_iter().chain(rows)
    })
}

/// Returns why an archive could not be read, and what to do.
fn unreadable(error: &VerifyError) -> (String, String) {
    let advice = match error {
        VerifyError::Archive(error) => error.hint(Activity::Checking).into_owned(),
        VerifyError::Nothing { .. } => ErrorKind::NothingThere.hint(Activity::Checking).to_owned(),
        VerifyError::Cancelled => String::new(),
    };
    let reason = match error {
        VerifyError::Archive(error) => format!("{error}: {}", error.detail()),
        error => error.to_string(),
    };
    (reason, advice)
}

fn raise(error: VerifyError) -> ! {
    match error {
        VerifyError::Archive(error) => report::raise_error(&error),
        VerifyError::Nothing { ref path } => Report {
            code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message: error.to_string(),
            detail: format!("\"{}\" was searched.", path.display()),
            hint: ErrorKind::NothingThere.hint(Activity::Checking).to_owned(),
        }
        .raise(),
        error @ VerifyError::Cancelled => report::raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "could not verify the archive",
            &words::sentence(&error.to_string()),
        ),
    }
}

/// Returns what reaching an archive takes, also where none is configured.
fn access() -> Access {
    if let Ok(settings) = settings::current() {
        return settings::access(&settings);
    }
    let file = settings::value(c"walsafe_archive.credentials_file");
    let file = Some(file.to_string_lossy().into_owned()).filter(|file| !file.is_empty());
    Access {
        credentials_file: file.map(Into::into),
        data_directory: Some(settings::data_directory().to_owned()),
        stall_timeout: None,
    }
}

/// Runs `work` beside the session's main thread.
fn in_background<T: Send + 'static>(
    work: impl FnOnce(&std::sync::atomic::AtomicBool) -> T + Send + 'static,
) -> T {
    match background::run(work) {
        Ok(result) => result,
        Err(Failure::EarlierHangs) => Report {
            code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message: "an earlier read of an archive in this session still hangs".to_owned(),
            detail: "The call was cancelled, but the storage has not answered it.".to_owned(),
            hint: "Check the storage of the archive and the network to it. This session can read again once the storage has answered.".to_owned(),
        }
        .raise(),
        Err(Failure::NotStarted(reason)) => report::raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
            "could not start a thread to read the archive",
            &format!("{reason}."),
        ),
        Err(Failure::Panicked) => report::raise(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "internal error while the archive was read",
            "A thread panicked.",
        ),
    }
}

/// Returns the archives that a function is to read: the one given, or the configured ones. The role must be
/// allowed to read the server's files, whatever the function's privileges are.
fn archives_to_read(given: Option<&str>) -> Vec<Destination> {
    // SAFETY: looks at the session's user in its main thread.
    let user = unsafe { pg_sys::GetUserId() };
    let role = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES);
    // SAFETY: takes two role numbers; called in a session's transaction.
    if !unsafe { pg_sys::has_privs_of_role(user, role) } {
        report::raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to read an archive",
            "Only roles with privileges of the \"pg_read_server_files\" role may do so.",
        );
    }
    let Some(given) = given else {
        return match settings::current() {
            Ok(settings) => settings.destinations.iter().cloned().collect(),
            Err(Error::NotConfigured) => report::raise(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "there is no archive to read",
                "\"walsafe_archive.destination\" is not set.",
            ),
            Err(error) => report::raise_error(&error),
        };
    };
    match Destination::new(given, settings::data_directory()) {
        Ok(destination) => vec![destination],
        Err(error) => report::raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "invalid archive directory or URL",
            &words::sentence(&error.to_string()),
        ),
    }
}
