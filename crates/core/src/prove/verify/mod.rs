//! Proving that an archive is whole.
//!
//! [`verify`] reads every file through [`crate::prove::examine`], in parallel, and then compares the
//! files: continuity of each timeline and over the switches between them, records that cross from
//! one segment to the next, encodings of one name. It writes nothing.

use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use crate::error::Error;
use crate::prove::examine::Examined;
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store;
use crate::store::Visit;
use crate::store::directory::Directory;
use crate::store::identity::{self, Identity};
use crate::store::listing::{self, Listing};
use crate::wal::{End, SegmentSize};

mod accepted;
mod chain;
mod continuity;
mod histories;
mod names;
mod neighbours;
mod reading;
mod start;
mod until;

use continuity::Coverage;
use histories::Shelf;
use reading::{Read, keep_present, read_all, take_histories, timelines_of};

pub use accepted::Accepted;
pub(crate) use chain::notes;
pub use chain::{Chain, Commit, Stop};
pub use continuity::gaps;
pub use histories::Heading;
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
    pub findings: Vec<Finding>,
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
    #[error("the directory holds neither WAL nor an identity file")]
    Nothing {
        /// The directory.
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
/// # Errors
/// The directory could not be opened or listed, there is nothing in it, or the run was cancelled.
/// An entry that could not be read is a finding.
pub fn verify(
    path: &Path,
    options: &Options<'_>,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<Report, VerifyError> {
    let (store, unwatched) = (Directory::at(path), store::Progress::default());
    let visit = store.open(options.steps.unwrap_or(&unwatched))?;
    let mut listing = Listing::read(&visit)?;
    let mut report = Report { marked: listing.marked, ..Report::default() };
    match Identity::at(&visit) {
        Ok(identity) => {
            report.system_identifier = identity.map(|identity| identity.system_identifier);
        }
        Err(error) => report.findings.push(identity_finding(&error)),
    }
    if listing.files.is_empty() && !listing.marked {
        return Err(VerifyError::Nothing { path: path.to_owned() });
    }
    if let Some(start) = options.from {
        // Histories first: they say which segments are needed.
        let mut files = listing.files.clone();
        let histories = take_histories(&mut files);
        let read = read_all(&visit, histories, report.system_identifier, options.threads, watch)?;
        let timelines = timelines_of(&read);
        let size = listing::segment_size(&visit, &listing.files).unwrap_or(SegmentSize::DEFAULT);
        let shelf = Shelf::new(&visit, &timelines, size, listing.files.iter());
        for file in &read {
            report.checked.count(file);
            report.findings.extend(file.finding());
        }
        let task = chain::Task {
            start,
            goal: options.target,
            until: options.until.clone(),
            threads: options.threads,
            system_identifier: report.system_identifier,
            shelf: &shelf,
        };
        let (chain, findings) = chain::prove(&task, &mut report.checked, watch)?;
        report.findings.extend(findings);
        report.chain = Some(chain);
        report.sort();
        return Ok(report);
    }
    listing.claim_archived(&visit);
    report.findings.extend(names::strays(visit.dir(), &listing));
    report.findings.extend(names::unknown(visit.dir(), &listing));
    let mut read =
        read_all(&visit, listing.files, report.system_identifier, options.threads, watch)?;
    keep_present(&visit, &mut read);
    report.absorb(read, &visit);
    if options.accept_gaps {
        accepted::judge(path, options, &mut report, watch)?;
    }
    Ok(report)
}

impl Report {
    /// Sums up what was read, and compares the files.
    fn absorb(&mut self, mut read: Vec<Read>, visit: &dyn Visit) {
        read.sort_by_cached_key(|file| file.listed.to_string());
        if self.system_identifier.is_none() {
            self.system_identifier =
                continuity::most(read.iter().filter_map(|r| r.system_identifier));
        }
        for file in &mut read {
            if let (Some(found), Some(expected)) = (file.system_identifier, self.system_identifier)
                && found != expected
                && file.problem.is_none()
            {
                let reason =
                    format!("system identifier is {found}, that of most segments {expected}");
                file.problem = Some(Problem::new(FindingKind::WrongCluster, reason));
            }
            self.checked.count(file);
        }
        neighbours::join_edges(&mut read);
        neighbours::compare_encodings(&mut read);
        self.findings.extend(read.iter().filter_map(Read::finding));
        let coverage = Coverage::of(&read, SegmentSize::DEFAULT);
        let timelines = timelines_of(&read);
        let files = read.iter().map(|file| &file.listed);
        let shelf = Shelf::new(visit, &timelines, coverage.size, files);
        self.findings.extend(coverage.gaps(&shelf));
        self.heading = shelf.written().next().map(|oldest| shelf.heading(oldest));
        self.sort();
    }

    fn sort(&mut self) {
        self.findings.sort_by(|a, b| (&a.file, a.problem.kind).cmp(&(&b.file, b.problem.kind)));
    }
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
