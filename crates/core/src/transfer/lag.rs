//! How far the destination is behind the source.

use std::time::SystemTime;

use super::{Known, Way, holds};
use crate::error::Error;
use crate::store::StoredName;
use crate::store::listing::Walk;

/// What the source has and the destination lacks. What is left out does not count, nor what another program is
/// still writing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// How many files.
    pub files: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// When the oldest of them was archived.
    pub oldest: Option<SystemTime>,
}

/// Looks what the destination lacks, by the names. `None` if the destination cannot be reached and no earlier run
/// has looked at everything: then nothing is known of it.
///
/// # Errors
/// The source cannot be reached or listed.
pub fn lag(way: &Way<'_>, known: &Known) -> Result<Option<Lag>, Error> {
    let source = way.source.visit(way.progress)?;
    let destination = way.destination.visit(way.progress).ok();
    if destination.is_none() && !known.is_complete() {
        return Ok(None);
    }
    let is_there =
        |file: &StoredName| destination.as_ref().is_some_and(|there| holds(&**there, file));
    let mut lag = Lag::default();
    for file in Walk::all(&*source) {
        let file = file?;
        if known.has(&file) || known.is_left_out(&file) || is_there(&file) {
            continue;
        }
        let Ok(Some(found)) = source.find(&(&file).into()) else { continue };
        lag.files += 1;
        lag.bytes += found.stored_len();
        lag.oldest = match (lag.oldest, found.modified()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(Some(lag))
}
