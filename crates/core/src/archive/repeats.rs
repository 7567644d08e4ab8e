//! Failures that repeat: the log has DETAIL and HINT in full once, then briefly.
//!
//! The server asks for a failed file three times, a second apart, and again each minute. A night of that fills
//! a log with the same lines, and hides the one that differs.

use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::error::ErrorKind;
use crate::server::settings::Settings;
use crate::words;

/// How long a failure is told briefly before it is told in full again: whoever looks at the end of a log finds
/// the whole text not far above, and logs are rotated.
const BRIEFLY: Duration = Duration::from_secs(60 * 60);

/// What the log says under the message of a failure. The message itself is always there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// The DETAIL: all of it, or that it is the same again.
    pub detail: String,
    /// The HINT; empty where it is the same again.
    pub hint: String,
}

/// The failures of the calls that have failed since the last one that succeeded.
#[derive(Debug, Default)]
pub struct Repeats(Option<Row>);

/// A row of identical failures.
#[derive(Debug)]
struct Row {
    failure: Same,
    times: u64,
    began: Instant,
    /// When it was last told in full.
    told: Instant,
}

/// What makes two failures identical: the file, what failed, where, for which cause, and what to do.
///
/// The settings are a part of it: whoever has changed one wants to see what comes of it. Figures that change
/// by themselves are not ([`Failure::gist`]): a full disk on which others write has another number of free
/// megabytes at each try, and would be told in full each time.
#[derive(Debug, PartialEq, Eq)]
struct Same {
    kind: ErrorKind,
    message: String,
    gist: String,
    settings: Option<Settings>,
}

impl Repeats {
    /// Notes a failed call, and returns what to say of it. `settings` are those in force, if they can be used.
    pub fn failed(
        &mut self,
        file: &str,
        cause: &Failure,
        settings: Option<&Settings>,
        now: Instant,
    ) -> Telling {
        let failure = Same {
            kind: cause.kind(),
            message: cause.message(file),
            gist: cause.gist(),
            settings: settings.cloned(),
        };
        let mut row = match self.0.take() {
            Some(row) if row.failure == failure => row,
            _ => Row { failure, times: 0, began: now, told: now },
        };
        row.times += 1;
        let again = (row.times > 1).then(|| {
            let since = now.saturating_duration_since(row.began);
            format!("for the {} time in {}", ordinal(row.times), span(since))
        });
        let brief = now.saturating_duration_since(row.told) < BRIEFLY;
        if !brief {
            row.told = now;
        }
        self.0 = Some(row);
        match again {
            Some(again) if brief => {
                Telling { detail: format!("Same as above, {again}."), hint: String::new() }
            }
            again => {
                let again =
                    again.map_or_else(String::new, |again| format!(" This happened {again}."));
                let hint = cause.hint(settings.map(|settings| &settings.destinations));
                Telling { detail: format!("{}{again}", cause.detail()), hint }
            }
        }
    }

    /// Notes a call that succeeded: the next failure is a first one.
    pub fn succeeded(&mut self) {
        self.0 = None;
    }
}

fn ordinal(number: u64) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// Words a time in the largest unit of which it has at least two; rounded down, and never 0.
fn span(time: Duration) -> String {
    let seconds = time.as_secs().max(1);
    let units = [(24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| seconds >= 2 * unit).unwrap_or((1, "second"));
    words::count(seconds / unit, name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;
    use std::path::Path;

    use super::*;
    use crate::encoding::codec::Compression;
    use crate::encoding::digest::Digest;
    use crate::error::{Action, Difference, Nature};
    use crate::error::{Activity, Error};
    use crate::server::settings::{CheckWal, Destinations, FileMode, FsyncPolicy};
    use crate::sys::Space;
    use crate::wal::Lsn;
    use crate::wal::name::SegmentName;

    const FILE: &str = "000000010000000000000007";

    fn at(seconds: u64, began: Instant) -> Instant {
        began + Duration::from_secs(seconds)
    }

    fn missing(path: &str) -> Error {
        Error::io(Action::OpenDestination, path, io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn in_full(failure: &Failure) -> Telling {
        let hint = failure.kind().hint(Activity::Archiving).to_owned();
        Telling { detail: failure.detail(), hint }
    }

    fn settings(workers: usize) -> Settings {
        Settings {
            destinations: Destinations::new("/mnt/a", Path::new("/data")).unwrap(),
            fsync_policy: FsyncPolicy::Full,
            file_mode: FileMode::PRIVATE,
            compression: Compression::NONE,
            workers,
            check_wal: CheckWal::Header,
            verify: false,
            stall_timeout: None,
            min_free_space: 0,
            credentials_file: None,
        }
    }

    /// A log of one night had the same three lines 500 times.
    #[test]
    fn a_failure_that_repeats_is_told_in_full_once_and_again_after_an_hour() {
        let (mut repeats, began, error) =
            (Repeats::default(), Instant::now(), missing("/mnt/a").into());
        let mut tell = |seconds| repeats.failed(FILE, &error, None, at(seconds, began));
        assert_eq!(tell(0), in_full(&error));
        for (seconds, detail) in [
            (0, "Same as above, for the 2nd time in 1 second."),
            (2, "Same as above, for the 3rd time in 2 seconds."),
            (119, "Same as above, for the 4th time in 119 seconds."),
            (120, "Same as above, for the 5th time in 2 minutes."),
            (3599, "Same as above, for the 6th time in 59 minutes."),
        ] {
            assert_eq!(tell(seconds), Telling { detail: detail.to_owned(), hint: String::new() });
        }
        let full = in_full(&error);
        let detail = format!("{} This happened for the 7th time in 60 minutes.", full.detail);
        assert_eq!(tell(3600), Telling { detail, hint: full.hint });
        assert_eq!(tell(3601).detail, "Same as above, for the 8th time in 60 minutes.");
        assert_eq!(tell(7199).detail, "Same as above, for the 9th time in 119 minutes.");
        let full = tell(7200);
        assert!(full.detail.ends_with(" This happened for the 10th time in 2 hours."), "{full:?}");
        assert!(!full.hint.is_empty());
    }

    #[test]
    fn whatever_changes_is_told_in_full() {
        let forbidden =
            |action| Error::io(action, "/mnt/a", io::Error::from_raw_os_error(libc::EACCES));
        let errors = [
            missing("/mnt/a"),
            missing("/mnt/b"),
            forbidden(Action::OpenDestination),
            forbidden(Action::ListDestination),
            Error::io(Action::OpenDestination, "/mnt/a", io::Error::from_raw_os_error(libc::EIO)),
            Error::io(Action::OpenDestination, "/mnt/a", io::Error::from_raw_os_error(libc::ENXIO)),
        ];
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for error in &errors.map(Failure::from) {
            assert_eq!(repeats.failed(FILE, error, None, now), in_full(error));
            assert!(repeats.failed(FILE, error, None, now).hint.is_empty());
        }
        // A history file comes before the segments, also if one of them fails.
        let error = missing("/mnt/a").into();
        for file in ["00000002.history", FILE] {
            assert_eq!(repeats.failed(file, &error, None, now), in_full(&error), "{file}");
        }
        for workers in [2, 3] {
            let settings = settings(workers);
            let told = repeats.failed(FILE, &error, Some(&settings), now);
            assert_eq!(told, in_full(&error), "{workers}");
            assert!(repeats.failed(FILE, &error, Some(&settings), now).hint.is_empty());
        }
        repeats.succeeded();
        assert_eq!(repeats.failed(FILE, &error, None, now), in_full(&error));
        assert!(repeats.failed(FILE, &error, None, now).detail.contains(" 2nd time "));
    }

    /// Each try on a full disk has another number of free megabytes.
    #[test]
    fn figures_that_change_by_themselves_change_nothing() {
        let full = |free| Error::Io {
            action: Action::WriteCopy,
            path: "/mnt/a/x".into(),
            space: Some(Space { total: 1 << 40, free, free_inodes: None }),
            access: None,
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        let hangs = |seconds| Error::Stalled { path: "/mnt/a".into(), seconds };
        let ahead = |segment| Error::Conflict {
            path: "/mnt/a/x".into(),
            difference: Box::new(Difference {
                ours_len: 1,
                theirs_len: 1,
                first: 0,
                ours: Digest::of(b"a"),
                theirs: Digest::of(b"b"),
                nature: Nature::Ahead {
                    first_record: Lsn(4096),
                    newest: SegmentName { timeline: 1, log: 0, segment },
                    last: None,
                },
            }),
        };
        let pairs =
            [(full(3 << 20), full(1 << 20)), (hangs(60), hangs(120)), (ahead(9), ahead(10))];
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for (first, second) in pairs.map(|(first, second)| (first.into(), second.into())) {
            let (first, second): (&Failure, &Failure) = (&first, &second);
            assert_ne!(first.detail(), second.detail());
            assert_eq!(repeats.failed(FILE, first, None, now), in_full(first));
            let told = repeats.failed(FILE, second, None, now);
            assert_eq!(told.detail, "Same as above, for the 2nd time in 1 second.");
        }
        // No inode is another cause than no space.
        let no_inode = Error::Io {
            action: Action::CreateTemporary,
            path: "/mnt/a/x".into(),
            space: Some(Space { total: 1 << 40, free: 1 << 30, free_inodes: Some(0) }),
            access: None,
            source: io::Error::from_raw_os_error(libc::ENOSPC),
        }
        .into();
        assert_eq!(repeats.failed(FILE, &no_inode, None, now), in_full(&no_inode));
    }

    #[test]
    fn ordinals_and_times_are_worded_right() {
        let ordinals = [1, 2, 3, 4, 10, 11, 12, 13, 14, 21, 22, 23, 101, 111, 112, 113, 121, 1011];
        let worded = [
            "1st", "2nd", "3rd", "4th", "10th", "11th", "12th", "13th", "14th", "21st", "22nd",
            "23rd", "101st", "111th", "112th", "113th", "121st", "1011th",
        ];
        assert_eq!(ordinals.map(ordinal), worded);
        let spans = [0, 1, 2, 119, 120, 7199, 7200, 172_799, 172_800].map(Duration::from_secs);
        let worded = [
            "1 second",
            "1 second",
            "2 seconds",
            "119 seconds",
            "2 minutes",
            "119 minutes",
            "2 hours",
            "47 hours",
            "2 days",
        ];
        assert_eq!(spans.map(span), worded);
    }
}
