//! Proving that an archive is whole.
//!
//! [`verify`] reads every file through [`crate::prove::examine`], in parallel and by address, and compares the
//! files on the way: continuity of each timeline and over the switches between them, records that cross from
//! one segment to the next, encodings of one name. It writes nothing.

use std::path::PathBuf;
use std::time::Instant;

use thiserror::Error as ThisError;

use crate::error::Error;
use crate::prove::examine::Examined;
use crate::prove::finding::{Finding, FindingKind, Findings, Problem};
use crate::store;
use crate::store::identity::{self, Identity};
use crate::store::listing::{self, Listing, Walk};
use crate::store::{Store, StoredName, Visit};
use crate::wal::End;

mod accepted;
mod chain;
mod continuity;
mod coverage;
mod gaps;
mod histories;
mod missing;
mod names;
mod neighbours;
mod reading;
mod start;
mod sum;
mod timelines;
mod until;
mod usual;

use gaps::{BETWEEN_LOOKS, Looks};
use histories::Shelf;
use names::Strangers;
use reading::{Read, Reader};
use sum::Sum;
use timelines::Histories;

pub use accepted::Accepted;
pub(crate) use chain::notes;
pub use chain::{Chain, Commit, Stop};
pub use gaps::gaps;
pub use histories::Heading;
pub use missing::Missing;
pub(in crate::prove) use start::label_value;
pub use start::{Start, StartError};
pub use until::{TargetTimeline, Until};

/// What is to be verified.
#[derive(Debug, Clone, Default)]
pub struct Options<'a> {
    /// Files read at a time; 0 stands for one.
    pub threads: usize,
    /// Read and prove only what a recovery from here needs.
    pub from: Option<Start>,
    /// Counts the steps, for whoever watches over storage that hangs.
    pub steps: Option<&'a store::Progress>,
    /// Where that recovery is to end; without it, it goes on to the end of the WAL.
    pub until: Option<Until>,
    /// The timeline for which that recovery heads.
    pub target: TargetTimeline,
    /// Without `from`: accept a gap if a backup behind it can be recovered.
    pub accept_gaps: bool,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files read to their end.
    pub files: usize,
    /// Files there are to read.
    pub files_total: usize,
    /// Bytes of WAL read.
    pub bytes: u64,
}

/// How many files were checked, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files read.
    pub files: usize,
    /// Bytes of WAL in them.
    pub bytes: u64,
    /// Segments, partial ones included.
    pub segments: usize,
    /// Files whose digest was checked.
    pub by_digest: usize,
    /// Segments whose every page header and record was checked.
    pub by_records: usize,
    /// Files without a digest, for which headers, records or the file's own form were checked instead.
    pub without_digest: usize,
    /// Segments of an unknown, newer version without a digest: only the first header was checked.
    pub by_header_only: usize,
}

/// What a run has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, sorted by file.
    pub findings: Findings,
    /// What was checked, and how.
    pub checked: Checked,
    /// The system identifier that files were compared with: that of the identity file or, if there is none,
    /// that of most segments.
    pub system_identifier: Option<u64>,
    /// The archive has an identity file.
    pub marked: bool,
    /// What a recovery from the given start does, if one was given.
    pub chain: Option<Chain>,
    /// Gaps that are no findings any more, because a backup behind them can be recovered.
    pub accepted: Vec<Accepted>,
    /// Where a recovery from the oldest timeline's backups goes that sets no target timeline.
    pub heading: Option<Heading>,
}

/// Why a run did not come to a report.
#[derive(Debug, ThisError)]
pub enum VerifyError {
    /// The archive could not be opened or listed.
    #[error("{0}")]
    Archive(#[from] Error),
    /// There is nothing to verify, as under an unmounted mount point.
    #[error("the archive holds neither WAL nor an identity file")]
    Nothing {
        /// The archive.
        path: PathBuf,
    },
    /// The watcher ended the run.
    #[error("the verification was cancelled")]
    Cancelled,
}

/// Reads an archive and reports everything that is wrong with it.
///
/// `watch` is called in the calling thread, at least ten times a second, with how far the run
/// has come; it ends the run by returning `false`, which takes effect at the next chunk of each file.
///
/// Memory is bounded whatever the archive's size, but for the findings and the gaps.
///
/// # Errors
/// The archive could not be opened or listed, there is nothing in it, there is no memory for what is wrong
/// with it, or the run was cancelled. An entry that could not be read is a finding.
pub fn verify(
    store: &dyn Store,
    options: &Options<'_>,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<Report, VerifyError> {
    let unwatched = store::Progress::default();
    let visit = store.visit(options.steps.unwrap_or(&unwatched))?;
    let visit = &*visit;
    let mut report = Report::default();
    let mut strangers = Strangers::new(visit);
    let listing = Listing::read(visit, &mut |name, what| {
        // A recovery has nothing to do with them.
        if options.from.is_none() {
            strangers.add(name, &what, &mut report.findings);
        }
    })?;
    let claimed = strangers.finish().ok_or_else(|| listing::no_memory(visit))?;
    match Identity::at(visit) {
        Ok(identity) => {
            report.system_identifier = identity.map(|identity| identity.system_identifier);
        }
        Err(error) => keep(visit, &mut report.findings, &identity_finding(&error))?,
    }
    report.marked = listing.marked;
    if listing.is_empty() && claimed.is_empty() {
        return Err(VerifyError::Nothing { path: visit.location().to_owned() });
    }
    let mut reader = Reader::new(visit, report.system_identifier, options.threads, watch);
    let mut sum = Sum::begin(&mut reader, report)?;
    let mut histories = Histories::default();
    reader.progress.files_total = usize::try_from(listing.files).unwrap_or(usize::MAX);
    histories.read(&mut reader, &mut |read| sum.add(read))?;
    if let Some(start) = options.from {
        return prove(start, options, reader, sum, histories);
    }
    let mut walk = Walk::files(visit);
    reader.read_all(walk.by_ref(), &mut |read| sum.add(read))?;
    let begun = walk.begun();
    reader.progress.files_total += claimed.lines().count();
    reader.read_all(names(&claimed), &mut |read| sum.add(read))?;
    let written = std::mem::take(&mut sum.written);
    if !written.is_empty() {
        // They do not count as read yet.
        reader.progress.files -= written.lines().count();
        reader.wait_until(Instant::now() + BETWEEN_LOOKS)?;
        reader.read_all(names(&written), &mut |read| sum.add_again(&read))?;
    }
    let Sum { mut report, coverage, .. } = sum.without_removed();
    let mut looks = Looks {
        size: coverage.size,
        reader: &mut reader,
        shows: &|coverage, histories, each| {
            continuity::gaps(coverage, visit, &histories.timelines, each)
        },
    };
    let agreed = looks.agree((coverage, begun), &mut histories, &mut report.findings)?;
    let shelf = Shelf { visit, timelines: &histories.timelines, coverage: &agreed };
    for finding in shelf.short_before_branches() {
        // If the timeline itself goes on too, that has shown it already.
        if !report.findings.iter().any(|known| known.file == finding.file) {
            keep(visit, &mut report.findings, &finding)?;
        }
    }
    report.findings.sort();
    report.heading = shelf.written().next().map(|oldest| shelf.heading(oldest));
    if options.accept_gaps {
        accepted::judge(store, options, &mut report, reader.watch)?;
    }
    Ok(report)
}

/// Proves what a recovery needs. Which segments are there is looked at a second time if one is missing.
fn prove(
    start: Start,
    options: &Options<'_>,
    mut reader: Reader<'_>,
    sum: Sum<'_>,
    mut histories: Histories,
) -> Result<Report, VerifyError> {
    let visit = reader.visit;
    let Sum { mut report, coverage, .. } = sum;
    let mut looks = Looks {
        size: coverage.size,
        reader: &mut reader,
        shows: &|coverage, histories, _| {
            let shelf = Shelf { visit, timelines: &histories.timelines, coverage };
            let gap = chain::shows_gap(&start, options.target, &shelf);
            if gap { Err(coverage::Stop::Found) } else { Ok(()) }
        },
    };
    let first = looks.look(&mut histories)?;
    let coverage = looks.settle(first, &mut histories)?;
    let task = chain::Task {
        start,
        goal: options.target,
        until: options.until.clone(),
        threads: options.threads,
        system_identifier: report.system_identifier,
        shelf: &Shelf { visit, timelines: &histories.timelines, coverage: &coverage },
    };
    let (chain, findings) = chain::prove(&task, &mut report.checked, reader.watch)?;
    findings.iter().try_for_each(|finding| keep(visit, &mut report.findings, finding))?;
    report.chain = Some(chain);
    report.findings.sort();
    Ok(report)
}

/// Returns the files of a list with one name in each line.
fn names(lines: &str) -> impl Iterator<Item = Result<StoredName, Error>> {
    lines.lines().filter_map(|name| StoredName::parse(name).ok()).map(Ok)
}

/// Adds a name to such a list. Returns `false` if there is no memory for it.
fn add_line(lines: &mut String, name: &str) -> bool {
    let room = lines.try_reserve(name.len() + 1).is_ok();
    if room {
        lines.push_str(name);
        lines.push('\n');
    }
    room
}

/// Adds a finding.
fn keep(visit: &dyn Visit, findings: &mut Findings, finding: &Finding) -> Result<(), Error> {
    findings.push(finding).map_err(|_| listing::no_memory(visit))
}

impl Checked {
    fn add(&mut self, file: &Examined, is_segment: bool) {
        self.files += 1;
        self.bytes += file.len;
        self.segments += usize::from(is_segment);
        self.by_digest += usize::from(file.had_digest);
        self.without_digest += usize::from(!file.had_digest);
        match file.records.as_ref().map(|records| records.end) {
            Some(End::UnknownVersion(_)) if !file.had_digest => self.by_header_only += 1,
            Some(End::UnknownVersion(_)) | None => {}
            Some(_) => self.by_records += 1,
        }
    }

    fn count(&mut self, file: &Read) {
        self.files += 1;
        self.bytes += file.len;
        self.segments += usize::from(file.segment.is_some());
        self.by_digest += usize::from(file.had_digest);
        self.without_digest += usize::from(!file.had_digest);
        match &file.end {
            Some(End::UnknownVersion(_)) if !file.had_digest => self.by_header_only += 1,
            Some(End::UnknownVersion(_)) | None => {}
            Some(_) => self.by_records += 1,
        }
    }
}

fn identity_finding(error: &Error) -> Finding {
    let kind = match error {
        Error::BadIdentity { .. } => FindingKind::Corrupt,
        _ => FindingKind::Unreadable,
    };
    let problem = Problem::new(kind, format!("{error}: {}", error.detail()));
    Finding { file: identity::FILE_NAME.to_owned(), problem }
}
