//! The archiver's record of what it did in each destination, for other sessions (see
//! `walsafe_core::server::stats`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use walsafe_core::archive::{Level, Notice, Receipt};
use walsafe_core::error::{Error, ErrorKind};
use walsafe_core::server::settings::{Destination, Destinations};
use walsafe_core::server::stats::{Stats, StatsFile};
use walsafe_core::store::Requests;
use walsafe_core::wal::name::SegmentName;

use crate::settings;

/// The value of [`Stats::failing`] after a failed call.
pub(crate) const FAILING: u64 = 1;
/// The same, after a call that failed because the destination is not there.
pub(crate) const WAITING: u64 = 2;
/// The same, while nothing was tried there.
const STARTING: u64 = 3;

/// Counts the calls of the server. What cannot be written is not counted: archiving goes on.
#[derive(Default)]
pub(crate) struct Watch {
    file: Option<StatsFile>,
    /// Of the destinations in use, in their order.
    records: Vec<Stats>,
    /// How many requests to each were counted so far, by its name.
    asked: BTreeMap<String, Requests>,
}

impl Watch {
    /// Takes over which destinations are in use. The counts of the others end.
    pub(crate) fn follow(&mut self, destinations: &Destinations) {
        if self.file.is_none() {
            let Ok((file, records)) = StatsFile::open(settings::data_directory()) else { return };
            (self.file, self.records) = (Some(file), records);
        }
        let names = || destinations.iter().map(name);
        let same = |(name, stats): (Cow<'_, str>, &Stats)| stats.destination == name;
        if self.records.len() == destinations.len() && names().zip(&self.records).all(same) {
            return;
        }
        let mut before = std::mem::take(&mut self.records);
        let since = microseconds(SystemTime::now());
        for destination in names() {
            let at = before.iter().position(|stats| stats.destination == destination);
            self.records.push(match at {
                Some(at) => before.swap_remove(at),
                None => Stats {
                    since,
                    failing: STARTING,
                    destination: destination.into_owned(),
                    ..Stats::default()
                },
            });
        }
    }

    fn of(&mut self, destination: &Destination) -> Option<&mut Stats> {
        let name = name(destination);
        self.records.iter_mut().find(|stats| stats.destination == name)
    }

    /// Counts a call for a file that a destination has now.
    pub(crate) fn archived(
        &mut self,
        file: &str,
        destination: &Destination,
        took: Duration,
        receipt: &Receipt,
        damaged: u64,
    ) {
        let Some(stats) = self.of(destination) else { return };
        count(stats, took);
        stats.damaged += damaged;
        stats.archived += 1;
        stats.already_present += u64::from(receipt.already_present());
        stats.wal_bytes += receipt.wal_bytes;
        stats.stored_bytes += receipt.stored_bytes;
        stats.archived_at = microseconds(SystemTime::now());
        file.clone_into(&mut stats.last_archived);
        stats.failing = 0;
        stats.free_known = u64::from(receipt.space.is_some());
        stats.free_bytes = receipt.space.map_or(0, |space| space.free);
        let begins_with = receipt.begins_with.as_ref().map(ToString::to_string);
        stats.complete_from = begins_with.unwrap_or_default();
        // A warning beside a success: the view shows it until the next failure or warning.
        let warning = receipt.notices.iter().rfind(|notice| notice.level == Level::Warning);
        if let Some(Notice { message, detail, .. }) = warning {
            stats.last_error = format!("{message}: {detail}");
        }
    }

    /// Counts a call that failed in a destination.
    pub(crate) fn failed(
        &mut self,
        file: &str,
        destination: &Destination,
        took: Duration,
        error: &Error,
    ) {
        let Some(stats) = self.of(destination) else { return };
        count(stats, took);
        stats.failed += 1;
        stats.failed_at = microseconds(SystemTime::now());
        file.clone_into(&mut stats.last_failed);
        stats.last_error = format!("{error}: {}", error.detail());
        stats.failing = match error.kind() {
            ErrorKind::DestinationMissing => WAITING,
            _ => FAILING,
        };
    }

    /// Counts the requests to a destination. `now` counts from zero again with each change of the settings.
    pub(crate) fn has_asked(&mut self, destination: &Destination, now: Requests) {
        let before = self.asked.insert(name(destination).into_owned(), now).unwrap_or_default();
        let Some(stats) = self.of(destination) else { return };
        stats.by_requests = 1;
        let before = if now.sent < before.sent { Requests::default() } else { before };
        stats.requests += now.sent - before.sent;
        stats.retries += now.retries.saturating_sub(before.retries);
        stats.throttled += now.throttled.saturating_sub(before.throttled);
    }

    /// Notes how far a destination is ahead of another one.
    pub(crate) fn is_ahead(&mut self, destination: &Destination, last: Option<SegmentName>) {
        let Some(stats) = self.of(destination) else { return };
        stats.has_up_to = last.map(|last| last.to_string()).unwrap_or_default();
    }

    /// Lets other sessions know.
    pub(crate) fn write(&mut self) {
        if self.file.as_ref().is_some_and(|file| file.write(&self.records).is_err()) {
            self.file = None;
        }
    }
}

/// Counts the time of a call.
fn count(stats: &mut Stats, took: Duration) {
    stats.last_us = whole_microseconds(took);
    stats.busy_us += stats.last_us;
}

/// A destination as its record names it.
fn name(destination: &Destination) -> Cow<'_, str> {
    destination.path().to_string_lossy()
}

fn whole_microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Returns a time as microseconds since 1970.
pub(crate) fn microseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, whole_microseconds)
}
