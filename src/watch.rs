//! The archiver's record of what it did, for other sessions (see `walsafe_core::server::stats`).

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use walsafe_core::archive::{Level, Notice, Receipt};
use walsafe_core::error::{Error, ErrorKind};
use walsafe_core::server::stats::{Stats, StatsFile};

use crate::settings;

/// The value of [`Stats::failing`] after a failed call.
pub(crate) const FAILING: u64 = 1;
/// The same, after a call that failed because the destination is not there.
pub(crate) const WAITING: u64 = 2;
/// The same, while nothing was tried there: see [`Watch::note`].
const STARTING: u64 = 3;

/// Counts the calls of the server. What cannot be written is not counted: archiving goes on.
#[derive(Default)]
pub(crate) struct Watch(Option<(StatsFile, Stats)>);

impl Watch {
    /// Notes which destination is in use before a file was archived to it.
    pub(crate) fn note(&mut self, destination: &Path) {
        let Some((record, stats)) = self.record() else { return };
        let destination = destination.to_string_lossy();
        if stats.destination != destination {
            stats.destination = destination.into_owned();
            stats.failing = STARTING;
        }
        if record.write(stats).is_err() {
            self.0 = None;
        }
    }

    fn record(&mut self) -> Option<&mut (StatsFile, Stats)> {
        if self.0.is_none() {
            let now = microseconds(SystemTime::now());
            self.0 = StatsFile::open(settings::data_directory(), now).ok();
        }
        self.0.as_mut()
    }

    /// Counts one call.
    pub(crate) fn count(
        &mut self,
        file: &str,
        destination: &Path,
        started: Instant,
        result: &Result<Receipt, Error>,
        damaged: u64,
    ) {
        let now = microseconds(SystemTime::now());
        let Some((record, stats)) = self.record() else { return };
        stats.destination = destination.to_string_lossy().into_owned();
        stats.last_us = whole_microseconds(started.elapsed());
        stats.busy_us += stats.last_us;
        stats.damaged += damaged;
        match result {
            Ok(outcome) => {
                stats.archived += 1;
                stats.already_present += u64::from(outcome.already_present());
                stats.wal_bytes += outcome.wal_bytes;
                stats.stored_bytes += outcome.stored_bytes;
                stats.archived_at = now;
                file.clone_into(&mut stats.last_archived);
                stats.failing = 0;
                stats.free_known = u64::from(outcome.space.is_some());
                stats.free_bytes = outcome.space.map_or(0, |space| space.free);
                // A warning beside a success: the view shows it until the next failure or warning.
                let warning = outcome.notices.iter().rfind(|notice| notice.level == Level::Warning);
                if let Some(Notice { message, detail, .. }) = warning {
                    stats.last_error = format!("{message}: {detail}");
                }
            }
            Err(error) => {
                stats.failed += 1;
                stats.failed_at = now;
                file.clone_into(&mut stats.last_failed);
                stats.last_error = format!("{error}: {}", error.detail());
                stats.failing = match error.kind() {
                    ErrorKind::DestinationMissing => WAITING,
                    _ => FAILING,
                };
            }
        }
        if record.write(stats).is_err() {
            self.0 = None;
        }
    }
}

fn whole_microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Returns a time as microseconds since 1970.
pub(crate) fn microseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, whole_microseconds)
}
