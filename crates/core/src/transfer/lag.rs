//! How far the destination is behind the source.

use std::time::SystemTime;

use super::there::There;
use super::{Known, Way};
use crate::error::Error;
use crate::store::Visit;
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
    if let Ok(destination) = way.destination.visit(way.progress)
        && let Some(lag) = count(&*source, Some(&There::new(&*destination)), known)?
    {
        return Ok(Some(lag));
    }
    if !known.is_complete() {
        return Ok(None);
    }
    count(&*source, None, known)
}

/// Counts what the destination lacks, by its names, if it is asked, and by what is known of it. `None` if it does not
/// answer.
fn count(
    source: &dyn Visit,
    there: Option<&There<'_>>,
    known: &Known,
) -> Result<Option<Lag>, Error> {
    let mut lag = Lag::default();
    // In the order in which names come at the destination.
    for file in Walk::as_archived(source) {
        let file = file?;
        // Where the destination is doubted, only its names count, if it can be asked.
        let is_known = (there.is_none() || !known.is_doubtful()) && known.has(&file);
        if is_known || known.is_left_out(&file) {
            continue;
        }
        match there.map(|there| there.names(&file.name)).transpose() {
            Ok(Some(names)) if !names.is_empty() => continue,
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
        let Ok(Some(found)) = source.glance(&(&file).into()) else { continue };
        lag.files += 1;
        lag.bytes += found.stored_len();
        lag.oldest = match (lag.oldest, found.modified()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(Some(lag))
}
