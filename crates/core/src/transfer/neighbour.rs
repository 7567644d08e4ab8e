//! A segment that the destination lacks, matched with those that it has on either side.
//!
//! Two archives of one cluster may hold two histories without a name in common: the archive of a clone, or of a
//! snapshot that was put back, goes on where the other one ends. Segments that were copied or compared are the
//! source's own, and stand behind each other; any other neighbour at the destination is read once.

use super::Conflict;
use super::carry::Carrier;
use crate::error::{Error, ErrorKind};
use crate::store::StoredName;
use crate::wal::name::{FileKind, SegmentName};
use crate::wal::{Fit, SegmentReport, SegmentSize};

/// A segment that is about to be published.
pub(super) struct Newcomer<'a> {
    pub(super) file: &'a StoredName,
    pub(super) report: &'a SegmentReport,
    pub(super) size: SegmentSize,
}

impl Newcomer<'_> {
    /// Makes sure that it may stand where it is to stand. Refused is only what is proved: both segments are sound,
    /// and the one was not written behind the other. `is_ours` knows the segments that are the source's own.
    ///
    /// # Errors
    /// A neighbour could not be looked up or read.
    pub(super) fn check(
        &self,
        carrier: &Carrier<'_>,
        is_ours: &dyn Fn(&StoredName) -> bool,
    ) -> Result<Option<Conflict>, Error> {
        let FileKind::Segment(segment) = self.file.name.kind() else { return Ok(None) };
        let (size, timeline) = (u64::from(self.size.bytes()), segment.timeline);
        let Some(start) = segment.start(self.size) else { return Ok(None) };
        let at = |address: Option<u64>| {
            let address = address.filter(|address| *address > 0)?;
            Some(SegmentName::holding(timeline, crate::wal::Lsn(address), self.size))
        };
        if let Some(before) = at(start.0.checked_sub(size))
            && let Some((path, report)) = read(carrier, before, is_ours)?
            && let Fit::Breaks(damage) = Fit::of(&report, self.report)
        {
            let detail =
                format!("\"{path}\": the WAL of \"{segment}\" does not continue it: {damage}.");
            return Ok(Some(self.conflict(detail)));
        }
        if let Some(behind) = at(start.0.checked_add(size))
            && let Some((path, report)) = read(carrier, behind, is_ours)?
            && let Fit::Breaks(damage) = Fit::of(self.report, &report)
        {
            let detail = format!("\"{path}\" does not continue \"{segment}\": {damage}.");
            return Ok(Some(self.conflict(detail)));
        }
        Ok(None)
    }

    fn conflict(&self, detail: String) -> Conflict {
        Conflict { file: self.file.clone(), kind: ErrorKind::NotContinued, detail }
    }
}

/// Reads a segment of the destination, if it has it and it is not known to be the source's own.
fn read(
    carrier: &Carrier<'_>,
    segment: SegmentName,
    is_ours: &dyn Fn(&StoredName) -> bool,
) -> Result<Option<(String, SegmentReport)>, Error> {
    let segment = segment.into();
    if StoredName::all(&segment).iter().any(is_ours) {
        return Ok(None);
    }
    for name in carrier.there.names(&segment)? {
        let Some(found) = carrier.destination.find(&(&name).into())? else { continue };
        // What is damaged proves nothing.
        let examined = carrier.examine(&*found, &name)?;
        let report = examined.records.filter(|_| examined.problem.is_none());
        return Ok(report.map(|report| (found.path().display().to_string(), report)));
    }
    Ok(None)
}
