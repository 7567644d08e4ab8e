//! Gaps that do no harm any more, because a base backup was taken behind them.

use std::collections::BTreeMap;

use super::{Options, Progress, Report, Start, VerifyError, verify};
use crate::prove::backups;
use crate::prove::finding::{Finding, FindingKind};
use crate::store;
use crate::store::listing::{self, Walk};
use crate::store::{Store, StoredName, Visit};
use crate::wal::name::{FileKind, FileName};
use crate::wal::{Lsn, SegmentSize};

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
    store: &dyn Store,
    options: &Options<'_>,
    report: &mut Report,
    watch: &mut dyn FnMut(&Progress) -> bool,
) -> Result<(), VerifyError> {
    if !report.findings.iter().any(|finding| finding.problem.kind == FindingKind::Gap) {
        return Ok(());
    }
    let steps = store::Progress::default();
    let visit = store.visit(options.steps.unwrap_or(&steps))?;
    let visit = &*visit;
    let size = listing::segment_size(visit)?.unwrap_or(SegmentSize::DEFAULT);
    let mut newest: BTreeMap<u32, (Lsn, StoredName)> = BTreeMap::new();
    for file in Walk::of(visit, |kind| matches!(kind, FileKind::BackupHistory(_))) {
        let file = file?;
        if let FileKind::BackupHistory(segment) = file.name.kind()
            && let Some(start) = start_of(visit, &file)
        {
            let this = (start.lsn, file);
            if newest.get(&segment.timeline).is_none_or(|best| *best < this) {
                newest.insert(segment.timeline, this);
            }
        }
    }
    for (timeline, (lsn, file)) in newest.into_iter().rev() {
        let behind = |finding: &Finding| {
            is_gap_before(&finding.file, finding.problem.kind, timeline, lsn, size)
        };
        if !report.findings.iter().any(|finding| behind(&finding)) {
            continue;
        }
        let start = Start { timeline: Some(timeline), ..Start::at(lsn) };
        let (threads, steps) = (options.threads, options.steps);
        let proof = Options { from: Some(start), threads, steps, ..Options::default() };
        if !verify(store, &proof, watch)?.findings.is_empty() {
            continue;
        }
        let backup = file.to_string();
        let gone = report.findings.iter().filter(behind);
        report.accepted.extend(gone.map(|finding| Accepted { finding, backup: backup.clone() }));
        let gap = |file: &str, kind| is_gap_before(file, kind, timeline, lsn, size);
        report.findings.retain(|file, kind| !gap(file, kind));
    }
    Ok(())
}

fn start_of(visit: &dyn Visit, file: &StoredName) -> Option<Start> {
    Start::from_label(&backups::text_of(visit, file).ok()??).ok()
}

/// Returns whether a finding is a gap that begins before the backup does. If the backup began within the gap, it
/// could not be recovered.
fn is_gap_before(
    file: &str,
    kind: FindingKind,
    timeline: u32,
    lsn: Lsn,
    size: SegmentSize,
) -> bool {
    if kind != FindingKind::Gap {
        return false;
    }
    match FileName::new(file).map(|name| name.kind()) {
        Ok(FileKind::Segment(first)) => first.start(size).is_some_and(|start| start < lsn),
        Ok(FileKind::History { timeline: missing }) => missing < timeline,
        _ => false,
    }
}
