//! What is wrong with a file: the kind, and in words.

use std::io;

use crate::prove::finding::{FindingKind, Problem};
use crate::wal::name::SegmentName;
use crate::wal::segment::SegmentError;
use crate::wal::{End, HeaderError, SegmentReport};
use crate::words;

/// A backup history file begins with the address of the backup's start and its segment's name
/// (`build_backup_content` in `access/transam/xlogbackup.c`).
pub(super) fn check_backup_history(text: &[u8], segment: SegmentName) -> Option<Problem> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().next().unwrap_or_default();
    let file = line
        .strip_prefix("START WAL LOCATION: ")
        .and_then(|rest| rest.split_once(" (file "))
        .and_then(|(_, file)| file.strip_suffix(')'));
    match file {
        Some(file) if file == segment.to_string() => None,
        Some(file) => Some(Problem::new(
            FindingKind::WrongName,
            format!("it belongs to a backup that began in {}", file.escape_default()),
        )),
        None if text.is_empty() => Some(Problem::new(FindingKind::Truncated, "it has 0 bytes")),
        None => {
            Some(Problem::new(FindingKind::Corrupt, "its first line is not the start of a backup"))
        }
    }
}

/// Returns why the WAL behind a right header is not in a format that is known here: the pages are of another
/// version, or there is not one record that can be read, as where a server encrypts its records.
pub(super) fn unreadable_format(report: &SegmentReport) -> Option<String> {
    match (report.end, report.damage.first()) {
        (End::UnknownVersion(magic), _) => Some(format!(
            "its pages are of a version that is not known here (magic number {magic:04X})"
        )),
        (_, Some(first)) if report.records == 0 => {
            Some(format!("not one record in it can be read: {first}"))
        }
        _ => None,
    }
}

pub(super) fn damage(report: &SegmentReport) -> Option<Problem> {
    let first = report.damage.first()?;
    let more = match report.damage_count {
        0 | 1 => String::new(),
        places => format!(" (and {})", words::count(places - 1, "more place")),
    };
    Some(Problem::new(FindingKind::Corrupt, format!("{first}{more}")))
}

pub(super) fn header_problem(error: &SegmentError) -> Problem {
    let kind = match error {
        SegmentError::Header(
            HeaderError::SystemIdentifier { .. } | HeaderError::SegmentSize { .. },
        ) => FindingKind::WrongCluster,
        SegmentError::Header(HeaderError::Address { .. } | HeaderError::Timeline { .. })
        | SegmentError::Number { .. } => FindingKind::WrongName,
        SegmentError::Header(HeaderError::TooShort { .. }) => FindingKind::Truncated,
        SegmentError::Length { .. } | SegmentError::Header(_) => FindingKind::Corrupt,
    };
    Problem::new(kind, error.to_string())
}

pub(super) fn unreadable(error: &io::Error) -> Problem {
    Problem::new(FindingKind::Unreadable, error.to_string())
}

/// Makes the problem for an error in reading: an error of the system and one of the decoder differ in kind.
pub(super) fn read_problem(error: &io::Error, at: u64) -> Problem {
    let after = words::count(at, "byte");
    if error.raw_os_error().is_some() {
        return Problem::new(FindingKind::Unreadable, format!("{error}, after {after}"));
    }
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof => FindingKind::Truncated,
        io::ErrorKind::OutOfMemory => FindingKind::Unreadable,
        _ => FindingKind::Corrupt,
    };
    Problem::new(kind, format!("it cannot be decompressed: {error}, after {after} of contents"))
}
