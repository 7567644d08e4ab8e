//! What lies in the archive, by the names: how much, what is missing in between, and what is no WAL.

use std::sync::atomic::Ordering;

use super::{Check, Options, Status, failed, made};
use crate::prove::finding::{FindingKind, Problem};
use crate::prove::verify::{Missing, VerifyError};
use crate::store::Visit;
use crate::store::lag::range;
use crate::store::listing::Listing;
use crate::words::count;

const NAME: &str = "contents";

/// How many stretches of missing segments are named; the others are counted.
const MOST_NAMED: usize = 3;

/// Describes what a listing shows. `strange` is the sentence about files that are not WAL.
pub(super) fn contents(
    visit: &dyn Visit,
    options: &Options<'_>,
    listing: &Listing,
    strange: Option<String>,
) -> Check {
    let cancelled = || options.cancelled.is_some_and(|flag| flag.load(Ordering::Relaxed));
    let missing = match Missing::read(visit, &mut |_| !cancelled()) {
        Ok(missing) => missing,
        Err(VerifyError::Archive(error)) => return failed(NAME, &error),
        Err(error) => return made(NAME, Status::Error, error.to_string()),
    };
    let mut found = count(listing.segments, "segment");
    if !missing.is_nothing() {
        found = format!("{found}, {}", words(&missing));
    }
    if let Some(newest) = listing.newest {
        found = format!("{found}, the newest {newest}");
    }
    let mut status = Status::Ok;
    if let Some(strange) = strange {
        (status, found) = (Status::Warning, format!("{found}{strange}"));
    }
    if !missing.is_nothing() {
        let gap = Problem::new(FindingKind::Gap, String::new());
        let end = if found.ends_with('.') { "" } else { "." };
        (status, found) = (Status::Warning, format!("{found}{end} {}", gap.advice()));
    }
    made(NAME, status, found)
}

/// Says what is missing: how many segments and which, and the history files.
fn words(missing: &Missing) -> String {
    let mut parts = Vec::new();
    if !missing.runs.is_empty() {
        let mut named: Vec<_> = missing.runs.iter().take(MOST_NAMED).map(range).collect();
        if let Some(more) = missing.runs.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
            named.push(count(more, "more gap"));
        }
        parts.push(format!("{} missing ({})", missing.segments(), named.join(", ")));
    }
    if !missing.histories.is_empty() {
        let named: Vec<_> = missing.histories.iter().take(MOST_NAMED).map(String::as_str).collect();
        let more = if missing.histories.len() > MOST_NAMED { " and others" } else { "" };
        parts.push(format!("without the history file {}{more}", named.join(", ")));
    }
    parts.join(", ")
}
