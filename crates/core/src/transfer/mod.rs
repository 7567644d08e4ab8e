//! The files of one archive brought into another: `walsafe copy`.
//!
//! [`copy`] goes through the source in the order in which a server archives: history files first, then the others
//! by name. Several files at a time are looked up, read, checked and written out of sight (`carry`); they get
//! their names one after the other, in that order, and never in place of another file (`batch`). Stored bytes
//! stay as they are, and so does what a file carries.
//!
//! What may end a run early, and what may not:
//!
//! - The destination holds other contents under a name, or a segment beside which the source's does not fit: two
//!   histories. Nothing is published from there on, as the
//!   archiver publishes nothing behind a conflict.
//! - A file of the source is damaged. It is left out, and everything else is copied. The WAL behind it serves every
//!   base backup behind it, and only that WAL shows a recovery that there is a hole: a copy that ended before the
//!   damage would look complete up to there, and a recovery from it would end early. A file that is as it was
//!   archived, by its digest, is copied although its records are damaged: it is all that there is of them.
//! - The source or the destination is in trouble: the run ends, and the next one goes on where it stopped.
//!
//! If the machine dies half-way, each name at the destination is that of a whole, flushed file. Of the names that
//! were given since the last flush of the directory (at most `NAMED` in `batch`), any may be missing. The next run
//! finds that out: no name counts before a flush of the directory has followed it in the same run.

mod batch;
mod carry;
mod differ;
mod ends;
mod known;
mod lag;
mod neighbour;
mod tee;
mod there;

use std::sync::atomic::{AtomicBool, AtomicU64};

use thiserror::Error as ThisError;

use crate::archive::Notice;
use crate::error::Error;
use crate::prove::finding::Findings;
use crate::server::settings::FileMode;
use crate::store::identity::FILE_NAME;
use crate::store::listing::{self, Listing, Walk};
use crate::store::{Progress, Store, StoredName, Visit};
use crate::wal::name::FileName;
use crate::wal::timeline::Timelines;

use batch::Running;
use carry::Carrier;
pub use differ::Conflict;
pub use ends::{Apart, apart};
pub use known::Known;
pub use lag::{Lag, lag};
use there::There;

/// How many files are looked at before the destination is opened anew.
const BATCH: usize = 256;

/// From where to where, and how.
pub struct Way<'a> {
    /// The archive to read.
    pub source: &'a dyn Store,
    /// The archive to write.
    pub destination: &'a dyn Store,
    /// Permission of new files.
    pub mode: FileMode,
    /// How many files are handled at a time; 0 stands for one.
    pub threads: usize,
    /// A destination that is empty and has no identity file is begun.
    pub may_begin: bool,
    /// Counts the steps in both archives.
    pub progress: &'a Progress,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Files that are done.
    pub files: usize,
    /// Files there are.
    pub files_total: usize,
    /// Bytes that were read in the source.
    pub bytes: u64,
}

/// Why a run could not begin.
#[derive(Debug, ThisError)]
pub enum CopyError {
    /// One of the archives is in trouble, or they are not of one cluster.
    #[error(transparent)]
    Failed(#[from] Error),
    /// The source holds nothing, as under an unmounted mount point.
    #[error("the archive holds neither WAL nor an identity file")]
    Nothing,
    /// The destination has no identity file, and is not to be begun.
    #[error("the destination has no identity file \"{FILE_NAME}\"")]
    Unmarked,
}

/// What ended a run early.
#[derive(Debug)]
pub enum Stop {
    /// The destination holds another history.
    Conflict(Box<Conflict>),
    /// One of the archives failed.
    Failed(Error),
    /// The watcher ended the run.
    Cancelled,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Copied {
    /// The cluster whose archives they are.
    pub system_identifier: u64,
    /// Files that were copied.
    pub files: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Files that the destination had, with the same contents.
    pub present: u64,
    /// The last file, in the order of the archive, that the destination has after this run.
    pub last: Option<StoredName>,
    /// Files that were left out, or that were copied as they were archived and are damaged.
    pub findings: Findings,
    /// Files that another program is still writing, which a later run copies.
    pub unfinished: u64,
    /// What files had to do without at the destination, each once.
    pub without: Vec<Notice>,
    /// What ended the run early.
    pub stopped: Option<Stop>,
}

/// Copies what the source has and the destination lacks. `watch` is called in the calling thread, at least ten
/// times a second, with how far the run is; it ends the run by returning `false`. What `known` knows to be at the
/// destination is not looked at again.
///
/// On return, what [`Copied`] counts survives a power cut, and nothing that stood under a final name was changed.
///
/// # Errors
/// One of the archives cannot be reached or listed, the source is empty, or the destination is another cluster's or
/// may not be begun. What happens once files are looked at is in the value.
pub fn copy(
    way: &Way<'_>,
    known: &mut Known,
    watch: &mut dyn FnMut(&Step) -> bool,
) -> Result<Copied, CopyError> {
    let source = way.source.visit(way.progress)?;
    let mut newer = Vec::new();
    // A later version of the server may have invented a kind of file, which its digest shows.
    let listing =
        Listing::read(&*source, &mut |name, _| newer.extend(listing::archived(&*source, name)))?;
    newer.sort_unstable();
    let whose = ends::whose(&*source)?.ok_or(CopyError::Nothing)?;
    let files = Walk::as_archived(&*source).chain(newer.iter().cloned().map(Ok));
    let total = usize::try_from(listing.files).unwrap_or(usize::MAX).saturating_add(newer.len());
    let shown = ends::look(way, whose, known)?;
    let mut copied = Copied { system_identifier: whose, ..Copied::default() };
    let (bytes, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut running = Running {
        step: Step { files_total: total, ..Step::default() },
        threads: way.threads,
        in_memory: way.destination.holds_in_memory(),
        bytes: &bytes,
        stop: &stop,
        before: None,
        known,
        copied: &mut copied,
        watch,
    };
    let mut files = files.peekable();
    if files.peek().is_none() {
        running.known.completed(&*source);
        return Ok(copied);
    }
    if !shown {
        // It is begun with the first segment: history files say nothing of where its WAL begins.
        let first = Walk::as_archived(&*source).find_map(|file| match file {
            Ok(file) => file.name.segment().is_some().then_some(Ok(file.name)),
            Err(e) => Some(Err(e)),
        });
        ends::begin(way, whose, running.known, first.transpose()?)?;
    }
    let doubted = running.known.is_doubtful().then(|| way.destination.visit(way.progress));
    let doubted = doubted.transpose()?;
    let doubted = doubted.as_deref().map(There::new);
    let mut timelines = None;
    let result = loop {
        let batch = match running.next(&*source, doubted.as_ref(), &mut files) {
            Ok(batch) if batch.is_empty() => break Ok(()),
            Ok(batch) => batch,
            Err(e) => break Err(e.into()),
        };
        // Where nothing is new, no history file is read.
        let timelines = match &timelines {
            Some(timelines) => timelines,
            None => &*timelines.insert(ends::timelines(&*source)?),
        };
        if let Err(e) = one_batch(way, &*source, (whose, timelines), &batch, &mut running) {
            break Err(e);
        }
    };
    if result.is_ok() {
        running.known.completed(&*source);
    }
    copied.stopped = result.err();
    Ok(copied)
}

/// Handles some files, in the place to which the destination's path leads now.
fn one_batch(
    way: &Way<'_>,
    source: &dyn Visit,
    (system_identifier, timelines): (u64, &Timelines),
    batch: &[StoredName],
    running: &mut Running<'_>,
) -> Result<(), Stop> {
    let destination = way.destination.visit(way.progress)?;
    let destination = &*destination;
    ends::admit(destination, system_identifier, running.known)?;
    let (mode, bytes, stop) = (way.mode.bits(), running.bytes, running.stop);
    let there = &There::new(destination);
    let carrier =
        Carrier { source, destination, there, system_identifier, mode, timelines, bytes, stop };
    carrier.mark_like_source()?;
    let result = running.run(&carrier, batch);
    running.note_limits(destination);
    result
}

/// The first segment, for the identity file.
type First = Option<FileName>;
