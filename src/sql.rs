//! The extension's SQL functions. The files in sql/ declare them: pgrx generates nothing (`sql = false`), and
//! a test compares the two.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use pgrx::prelude::*;
use walsafe_core::error::{Activity, Error, ErrorKind};
use walsafe_core::prove::check;
use walsafe_core::prove::check::restoring::{self, Restoring};
use walsafe_core::prove::examine::Expectation;
use walsafe_core::prove::finding::{Finding, Findings};
use walsafe_core::prove::read_back::{ReadBack, read_back};
use walsafe_core::prove::verify::{self, VerifyError};
use walsafe_core::server::control::ControlFile;
use walsafe_core::server::ready;
use walsafe_core::server::settings::Destination;
use walsafe_core::server::stats::{self, Stats};
use walsafe_core::sys;
use walsafe_core::wal::name::FileName;
use walsafe_core::words;

use crate::background::{self, Failure};
use crate::configuration;
use crate::end_to_end;
use crate::reload;
use crate::report::{self, Report};
use crate::settings;
use crate::watch::{self, FAILING, WAITING};

/// How many threads a verification from SQL reads with. It leaves processors to the database.
const VERIFY_THREADS: usize = 2;

/// The row behind the view `walsafe_archive_status`. Times are seconds since 1970; the view turns
/// them into timestamps.
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
        name!(stats_reset, Option<f64>),
    ),
> {
    let known = stats::current(settings::data_directory());
    let State { name: state, destination, refused } = state(known.as_ref().map(|(stats, _)| stats));
    // Nothing waits on a standby: the primary archives what it has.
    let nothing_waits = configuration::is_idle_standby();
    let backlog = ready::backlog(Path::new("pg_wal"), settings::segment_size()).ok();
    let pg_wal = sys::Dir::open(Path::new("pg_wal")).and_then(|dir| dir.space()).ok();
    let (stats, reset_at) = known.unzip();
    let count = |field: fn(&Stats) -> u64| stats.as_ref().map(|s| big(field(s)));
    let milliseconds = |field: fn(&Stats) -> u64| stats.as_ref().map(|s| field(s) as f64 / 1e3);
    let time = |field: fn(&Stats) -> u64| stats.as_ref().and_then(|s| seconds(field(s)));
    let text = |field: fn(&Stats) -> &String| {
        stats.as_ref().map(field).filter(|text| !text.is_empty()).cloned().map(report::for_server)
    };
    TableIterator::once((
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
        reset_at.and_then(seconds),
    ))
}

/// What the view says of the whole.
struct State {
    name: &'static str,
    /// The destination in use, as far as it is known.
    destination: Option<String>,
    /// With `misconfigured`, which value was refused, and why.
    refused: Option<String>,
}

fn state(known: Option<&Stats>) -> State {
    let named = |name, destination| State { name, destination, refused: None };
    let settings = settings::current().ok().map(|s| s.destination.path().display().to_string());
    if !configuration::archives_with_this_module() {
        return named("unconfigured", None);
    }
    let refused = reload::refused_in_files();
    // This session may have begun after the reload that brought the refused value, and have none. The archiver
    // continues with the one that it had before, if it is still the same archiver.
    let destination = settings.or_else(|| {
        refused.as_ref()?;
        let in_use =
            stats::written_at(settings::data_directory())? >= configuration::archiver_start()?;
        known.filter(|_| in_use).map(|stats| stats.destination.clone())
    });
    if destination.is_none() && refused.is_none() {
        return named("unconfigured", None);
    }
    if configuration::is_idle_standby() {
        return State { name: "standby", destination, refused };
    }
    // What was counted for another destination says nothing about this one.
    let same = known.filter(|stats| destination.as_ref() == Some(&stats.destination));
    match same.map(|stats| stats.failing) {
        Some(WAITING) => named("waiting", destination),
        Some(FAILING) => named("failing", destination),
        _ if refused.is_some() => State { name: "misconfigured", destination, refused },
        Some(0) => named("ok", destination),
        _ => named("starting", destination),
    }
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

/// Checks the configuration and the destination.
#[pg_extern(sql = false)]
fn walsafe_archive_check()
-> TableIterator<'static, (name!(check_name, String), name!(status, String), name!(detail, String))>
{
    let mut rows = configuration::checks();
    if let Ok(settings) = settings::current() {
        let path = settings.destination.path().to_owned();
        let data_directory = settings::data_directory();
        let min_free = settings.min_free_space;
        let command = settings::value(c"restore_command").to_string_lossy().into_owned();
        rows.push(restoring::archive_timeout(
            &settings::value(c"archive_timeout").to_string_lossy(),
        ));
        let checks = in_background(move |cancelled| {
            let options = check::Options {
                data_directory: Some(data_directory),
                min_free,
                cancelled: Some(cancelled),
                ..check::Options::default()
            };
            let server = std::env::current_exe().ok();
            let restore_command = restoring::restore_command(&Restoring {
                command: &command,
                path: std::env::var_os("PATH").as_deref(),
                archive: &path,
                programs: server.as_deref().and_then(Path::parent),
            });
            let mut checks = vec![restore_command];
            checks.extend(check::check(&path, &options));
            checks
        });
        rows.extend(checks);
    }
    TableIterator::new(
        rows.into_iter()
            .map(|c| (c.name.to_owned(), c.status.name().to_owned(), report::for_server(c.detail))),
    )
}

/// Ends a segment, waits for it in the archive and reads it back.
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
    let archive = end_to_end::destination();
    let destination = archive.display().to_string();
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
        read_back(&archive, &name, &expected, limit, &|| !cancelled.load(Ordering::Relaxed))
    });
    let file = match &found {
        ReadBack::Whole { stored, .. } | ReadBack::Wrong { stored, .. } => stored.to_string(),
        ReadBack::NotThere(_) => segment,
    };
    let (status, detail) = end_to_end::outcome(&found, timeout);
    TableIterator::once((destination, file, status.name().to_owned(), detail))
}

/// A finding as a row.
type Row = (String, String, String, String);

/// Reads every file of an archive and returns what is wrong.
#[pg_extern(sql = false)]
fn walsafe_archive_verify(
    destination: Option<&str>,
) -> TableIterator<
    'static,
    (name!(file, String), name!(finding, String), name!(reason, String), name!(advice, String)),
> {
    let path = archive_to_read(destination);
    let result = in_background(move |cancelled| {
        let options = verify::Options { threads: VERIFY_THREADS, ..verify::Options::default() };
        verify::verify(&path, &options, &mut |_| !cancelled.load(Ordering::Relaxed))
            .map(|report| report.findings)
    });
    TableIterator::new(rows(result))
}

/// Returns the segments that are missing from an archive.
#[pg_extern(sql = false)]
fn walsafe_archive_gaps(
    destination: Option<&str>,
) -> TableIterator<
    'static,
    (name!(file, String), name!(finding, String), name!(reason, String), name!(advice, String)),
> {
    let path = archive_to_read(destination);
    let result = in_background(move |cancelled| {
        verify::gaps(&path, &mut |_| !cancelled.load(Ordering::Relaxed))
    });
    TableIterator::new(rows(result))
}

/// Makes the rows one by one, as the server asks for them: there may be one for each file of an archive, and
/// the server keeps what it has asked for in memory and files of its own.
fn rows(result: Result<Findings, VerifyError>) -> impl Iterator<Item = Row> {
    let findings = match result {
        Ok(findings) => findings,
        Err(VerifyError::Archive(error)) => report::raise_error(&error),
        Err(ref error @ VerifyError::Nothing { ref path }) => Report {
            code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message: error.to_string(),
            detail: format!("\"{}\" was searched.", path.display()),
            hint: ErrorKind::NothingThere.hint(Activity::Checking).to_owned(),
        }
        .raise(),
        Err(error) => report::raise(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "could not verify the archive",
            &words::sentence(&error.to_string()),
        ),
    };
    let mut next = 0;
    std::iter::from_fn(move || {
        let Finding { file, problem } = findings.get(next)?;
        next += 1;
        let advice = problem.advice().to_owned();
        let (file, reason) = (report::for_server(file), report::for_server(problem.reason));
        Some((file, problem.kind.name().to_owned(), reason, advice))
    })
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

/// Returns the archive that a function is to read: the one given, or the configured one. The role must be
/// allowed to read the server's files, whatever the function's privileges are.
fn archive_to_read(given: Option<&str>) -> PathBuf {
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
            Ok(settings) => settings.destination.path().to_owned(),
            Err(Error::NotConfigured) => report::raise(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "there is no archive to read",
                "\"walsafe_archive.destination\" is not set.",
            ),
            Err(error) => report::raise_error(&error),
        };
    };
    match Destination::new(given, settings::data_directory()) {
        Ok(destination) => destination.path().to_owned(),
        Err(error) => report::raise(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "invalid archive directory",
            &words::sentence(&error.to_string()),
        ),
    }
}
