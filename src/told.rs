//! What the log says once of each destination: that archiving to it begins or resumes, what was noticed on the
//! way, and that its space runs out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};
use walsafe_core::archive::Receipt;
use walsafe_core::encoding::codec::Compression;
use walsafe_core::server::settings::{Destination, Destinations, FsyncPolicy, Settings};

use crate::report::{self, Report};
use crate::settings;

/// Shortest time between two warnings about free space in one destination.
const SPACE_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// What was said so far of each destination.
#[derive(Default)]
pub(crate) struct Told(BTreeMap<PathBuf, Said>);

/// What was said of one destination.
#[derive(Default)]
struct Said {
    /// With which settings the log says that archiving began.
    began: Option<(FsyncPolicy, Compression)>,
    /// A call has failed since.
    failed: bool,
    space_warned: Option<Instant>,
}

impl Told {
    /// Forgets the destinations that are no longer in use.
    pub(crate) fn follow(&mut self, destinations: &Destinations) {
        self.0.retain(|path, _| destinations.iter().any(|there| there.path() == path));
    }

    /// A call has failed there.
    pub(crate) fn failed(&mut self, destination: &Destination) {
        self.0.entry(destination.path().to_owned()).or_default().failed = true;
    }

    /// Logs what there is to say of a file that the destination has.
    pub(crate) fn archived(
        &mut self,
        settings: &Settings,
        destination: &Destination,
        receipt: &Receipt,
    ) {
        let path = destination.path();
        let said = self.0.entry(path.to_owned()).or_default();
        said.say_where(settings, path);
        receipt.notices.iter().for_each(report::notice);
        said.warn_of_space(settings, path, receipt);
    }
}

impl Said {
    /// Logs one line when archiving to a destination begins, and when it succeeds again after a failure.
    fn say_where(&mut self, settings: &Settings, path: &Path) {
        let now = (settings.fsync_policy, settings.compression);
        let word = match self.began {
            Some(began) if began == now && !self.failed => return,
            Some(began) if began == now => "resumes",
            _ => "begins",
        };
        // SAFETY: a number that the server read from its control file before it started the archiver.
        let system_identifier = unsafe { pg_sys::GetSystemIdentifier() };
        let name = |setting| settings::value(setting).to_string_lossy().into_owned();
        Report {
            code: PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            message: format!("archiving to \"{}\" {word}", path.display()),
            detail: format!(
                "Cluster {system_identifier}, flush policy \"{}\", compression \"{}\".",
                name(c"walsafe_archive.fsync_policy"),
                name(c"walsafe_archive.compression")
            ),
            hint: String::new(),
        }
        .log();
        (self.began, self.failed) = (Some(now), false);
    }

    fn warn_of_space(&mut self, settings: &Settings, path: &Path, receipt: &Receipt) {
        let Some(space) = receipt.space.filter(|space| space.free < settings.min_free_space) else {
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
                path.display(),
                space.free >> 20,
                space.total >> 20,
                settings.min_free_space >> 20
            ),
            hint: "Remove WAL that no backup needs any more (pg_archivecleanup), or give the archive more space.".to_owned(),
        }
        .warn();
    }
}
