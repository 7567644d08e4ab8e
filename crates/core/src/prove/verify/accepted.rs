//! Gaps that do no harm any more, because a base backup was taken behind them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use super::{Options, Progress, Report, Start, VerifyError, verify};
use crate::prove::finding::{Finding, FindingKind};
use crate::store;
use crate::store::directory::Directory;
use crate::store::listing::{self, Listing};
use crate::store::{StoredName, Visit};
use crate::wal::name::{FileKind, FileName};
use crate::wal::{Lsn, SegmentSize};

/// No backup history file is longer.
const MAX_LEN: u64 = 64 << 10;

/// A gap that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What would be a finding without the backup.
    pub finding: Finding,
    /// The backup history file of the backup that lies behind the gap and can be recovered.
    pub backup: String,
}

/// Moves the gaps out of the findings behind which there is a backup that can be recovered. Of each timeline,
/// the newest backup is tried.
pub(super) fn judge(
    path: &Path,
    options: &Options,
    report: &mut Report,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<(), VerifyError> {
    if !report.findings.iter().any(|finding| finding.problem.kind == FindingKind::Gap) {
        return Ok(());
    }
    let (store, steps) = (Directory::at(path), store::Progress::default());
    let visit = store.open(&steps)?;
    let listing = Listing::read(&visit)?;
    let size = listing::segment_size(&visit, &listing.files).unwrap_or(SegmentSize::DEFAULT);
    let mut newest: BTreeMap<u32, (Lsn, &StoredName)> = BTreeMap::new();
    for file in &listing.files {
        if let FileKind::BackupHistory(segment) = file.name.kind()
            && let Some(start) = start_of(&visit, file)
        {
            let best = newest.entry(segment.timeline).or_insert((start.lsn, file));
            *best = (*best).max((start.lsn, file));
        }
    }
    for (timeline, (lsn, file)) in newest.into_iter().rev() {
        let behind = |finding: &Finding| is_before(finding, timeline, lsn, size);
        if !report.findings.iter().any(behind) {
            continue;
        }
        let start = Start { timeline: Some(timeline), ..Start::at(lsn) };
        let proof = Options { from: Some(start), threads: options.threads, ..Options::default() };
        if !verify(path, &proof, watch)?.findings.is_empty() {
            continue;
        }
        let (gone, left) = std::mem::take(&mut report.findings).into_iter().partition(behind);
        report.findings = left;
        let accept = |finding| Accepted { finding, backup: file.to_string() };
        report.accepted.extend(Vec::into_iter(gone).map(accept));
    }
    Ok(())
}

fn start_of(visit: &dyn Visit, file: &StoredName) -> Option<Start> {
    let found = visit.find(&file.into()).ok()??;
    let mut text = Vec::new();
    found.decode().ok()?.take(MAX_LEN).read_to_end(&mut text).ok()?;
    Start::from_label(&String::from_utf8_lossy(&text)).ok()
}

/// Returns whether a finding is a gap that begins before the backup does. If the backup began within the gap, it
/// could not be recovered.
fn is_before(finding: &Finding, timeline: u32, lsn: Lsn, size: SegmentSize) -> bool {
    if finding.problem.kind != FindingKind::Gap {
        return false;
    }
    match FileName::new(&finding.file).map(|name| name.kind()) {
        Ok(FileKind::Segment(first)) => first.start(size).is_some_and(|start| start < lsn),
        Ok(FileKind::History { timeline: missing }) => missing < timeline,
        _ => false,
    }
}
