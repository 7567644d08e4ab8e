//! The end of an end-to-end test: a file that the server has just handed over is waited for in the archive and
//! read back.

use std::thread;
use std::time::{Duration, Instant};

use super::examine::{self, Expectation};
use crate::error::{Action, Error};
use crate::store::{Progress, Store, StoredName};
use crate::wal::name::FileName;

/// How often the archive is looked at.
const EVERY: Duration = Duration::from_millis(50);

/// How a file came back.
#[derive(Debug)]
pub enum ReadBack {
    /// It is there and sound.
    Whole {
        /// Its name in the archive.
        stored: StoredName,
        /// How long it was waited for.
        after: Duration,
        /// It carries a digest, which agrees.
        by_digest: bool,
    },
    /// It is there, and something is wrong with it.
    Wrong {
        /// Its name in the archive.
        stored: StoredName,
        /// What is wrong.
        reason: String,
    },
    /// It did not come in time. The error is that of the last look, if there was one.
    NotThere(Option<Error>),
}

/// Waits for a file in an archive, under any of its names, and reads it back from storage: its digest, and
/// every page and record. `expected` says which cluster's it is. Ends early once `go_on` returns `false`, which
/// is asked twenty times a second.
pub fn read_back(
    archive: &dyn Store,
    name: &FileName,
    expected: &Expectation,
    timeout: Duration,
    go_on: &dyn Fn() -> bool,
) -> ReadBack {
    let since = Instant::now();
    loop {
        let error = match look(archive, name, expected, since) {
            Ok(Some(found)) => return found,
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if since.elapsed() >= timeout || !go_on() {
            return ReadBack::NotThere(error);
        }
        thread::sleep(EVERY);
    }
}

fn look(
    archive: &dyn Store,
    name: &FileName,
    expected: &Expectation,
    since: Instant,
) -> Result<Option<ReadBack>, Error> {
    let steps = Progress::default();
    let visit = archive.visit(&steps)?;
    for stored in StoredName::all(name) {
        let Some(found) = visit.find(&(&stored).into())? else { continue };
        let after = since.elapsed();
        let examined = examine::examine(&*found, name, expected, &mut |_| Ok(()))
            .map_err(|e| Error::io(Action::ReadArchived, found.path(), e))?;
        return Ok(Some(match examined.problem {
            Some(problem) => ReadBack::Wrong { stored, reason: problem.reason },
            None => ReadBack::Whole { stored, after, by_digest: examined.had_digest },
        }));
    }
    Ok(None)
}
