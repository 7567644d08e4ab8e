//! The end-to-end test: a segment is ended, and waited for in the archive.

use std::path::Path;

use pgrx::{PgSqlErrorCode, pg_sys};
use walsafe_core::error::{Activity, Error};
use walsafe_core::prove::check::Status;
use walsafe_core::prove::read_back::ReadBack;
use walsafe_core::server::ready;
use walsafe_core::server::settings::Destination;
use walsafe_core::server::stats;
use walsafe_core::store::location::Access;
use walsafe_core::wal::Lsn;
use walsafe_core::wal::name::SegmentName;
use walsafe_core::words;

use crate::report::Report;
use crate::watch::{FAILING, WAITING};
use crate::{configuration, settings};

/// Returns the archives that this server writes to.
pub(crate) fn destinations() -> (Vec<Destination>, Access) {
    let settings = settings::current().ok().filter(|_| configuration::archives_with_this_module());
    // SAFETY: looks at shared memory, in a session.
    if unsafe { pg_sys::RecoveryInProgress() } {
        refuse(
            "recovery is in progress",
            "Only a server that writes WAL can end a segment.",
            "Call the function on the primary.",
        );
    }
    match settings {
        Some(settings) => {
            (settings.destinations.iter().cloned().collect(), settings::access(&settings))
        }
        None => refuse(
            "this server does not archive with walsafe_archive",
            "There is nothing to test.",
            "walsafe_archive_check() says what is missing.",
        ),
    }
}

fn refuse(message: &str, detail: &str, hint: &str) -> ! {
    Report {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: message.to_owned(),
        detail: detail.to_owned(),
        hint: hint.to_owned(),
    }
    .raise()
}

/// Writes a record into the segment in use, so that there is something to archive, and ends the segment.
/// Returns that one, or the next if another session ended it in between.
pub(crate) fn switch() -> SegmentName {
    // SAFETY: a valid C string, copied into the record; called in a session of a primary, whose
    // "archive_mode" needs the "wal_level" that the record does. An error is raised, as pgrx guards the call.
    unsafe { pg_sys::XLogRestorePoint(c"walsafe_archive_test".as_ptr()) };
    // SAFETY: as above.
    let end = unsafe { pg_sys::RequestXLogSwitch(false) };
    // SAFETY: as above.
    let timeline = unsafe { pg_sys::GetWALInsertionTimeLine() };
    // The address behind the last record; at a boundary, that is the next segment's.
    SegmentName::holding(timeline, Lsn(end.saturating_sub(1)), settings::segment_size())
}

/// Says how it came out: a status and a sentence.
pub(crate) fn outcome(archive: &Path, found: &ReadBack, timeout: f64) -> (Status, String) {
    match found {
        ReadBack::Whole { after, by_digest, .. } => {
            let digest =
                if *by_digest { "its digest and every record are" } else { "every record is" };
            let after = after.as_secs_f64();
            (Status::Ok, format!("archived after {after:.1} s, and read back: {digest} right"))
        }
        ReadBack::Wrong { reason, .. } => (
            Status::Error,
            format!(
                "it is in the archive, and wrong: {reason}. Run \"walsafe verify\" on the archive."
            ),
        ),
        ReadBack::NotThere(error) => (Status::Error, missing(archive, error.as_ref(), timeout)),
    }
}

fn missing(archive: &Path, error: Option<&Error>, timeout: f64) -> String {
    let mut sentences = vec![format!("it was not in the archive after {timeout} s.")];
    if let Some(error) = error {
        let hint = error.hint(Activity::Checking);
        sentences.push(format!("{error}: {} {hint}", error.detail()));
    }
    let waiting = ready::backlog(Path::new("pg_wal"), settings::segment_size());
    if let Ok(backlog) = waiting {
        let wait = words::either(backlog.files, "waits", "wait");
        sentences.push(format!("{} {wait} to be archived.", words::count(backlog.files, "file")));
    }
    let stats = stats::current(settings::data_directory()).unwrap_or_default();
    let failing = stats.iter().map(|(stats, _)| stats).find(|stats| {
        archive.to_string_lossy() == stats.destination
            && [FAILING, WAITING].contains(&stats.failing)
    });
    match failing {
        Some(stats) => sentences.push(format!("The archiver's last error: {}", stats.last_error)),
        None => sentences
            .push("The archiver reports no error: it may be slow, or not running.".to_owned()),
    }
    sentences.join(" ")
}
