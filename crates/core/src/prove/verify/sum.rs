//! What has been read so far, summed up.

use std::time::Duration;

use super::coverage::Coverage;
use super::gaps::BETWEEN_LOOKS;
use super::neighbours::{Encodings, Joints};
use super::reading::{Read, Reader};
use super::{Report, VerifyError, add_line, keep, usual};
use crate::prove::finding::{Finding, FindingKind, Problem};
use crate::store::{FinalName, StoredName, Visit, listing};
use crate::wal::SegmentSize;

/// A file with a problem to which something was written in this time before it was read may still be being
/// written, by a tool that gives it its name before it is whole. It is read again.
const JUST_WRITTEN: Duration = Duration::from_secs(10);

/// What the files read so far have shown. They come by address.
pub(super) struct Sum<'v> {
    visit: &'v dyn Visit,
    pub(super) report: Report,
    pub(super) coverage: Coverage,
    joints: Joints,
    encodings: Encodings,
    /// Files that may have been read while they were being written, one in each line.
    pub(super) written: String,
    /// Findings before this one are not about files that were read.
    of_names: usize,
}

impl<'v> Sum<'v> {
    /// Begins: finds out which cluster's archive it is, unless the identity file says so, and which size its
    /// segments have.
    pub(super) fn begin(reader: &mut Reader<'v>, mut report: Report) -> Result<Self, VerifyError> {
        let usual = usual::of(reader)?;
        report.system_identifier = report.system_identifier.or(usual.system_identifier);
        Ok(Self {
            visit: reader.visit,
            of_names: report.findings.len(),
            report,
            coverage: Coverage::new(usual.segment_size.unwrap_or(SegmentSize::DEFAULT)),
            joints: Joints::new(),
            encodings: Encodings::default(),
            written: String::new(),
        })
    }

    /// Takes the next file.
    pub(super) fn add(&mut self, mut file: Read) -> Result<(), VerifyError> {
        if file.vanished {
            return Ok(());
        }
        if let (Some(found), Some(expected)) =
            (file.system_identifier, self.report.system_identifier)
            && found != expected
            && file.problem.is_none()
        {
            let reason =
                format!("its system identifier is {found}, that of most segments is {expected}");
            file.problem = Some(Problem::new(FindingKind::WrongCluster, reason));
        }
        let sound = file.size.filter(|_| file.problem.is_none());
        let added = self.coverage.add(file.listed.name.kind(), sound);
        added.map_err(|_| listing::no_memory(self.visit))?;
        if may_be_unfinished(&file) {
            let kept = add_line(&mut self.written, &file.listed.to_string());
            return kept.then_some(()).ok_or_else(|| listing::no_memory(self.visit).into());
        }
        self.report.checked.count(&file);
        for finding in self.joints.add(&mut file) {
            if finding.file == file.listed.to_string() {
                file.problem.get_or_insert(finding.problem);
            } else {
                keep(self.visit, &mut self.report.findings, &finding)?;
            }
        }
        if let Some(problem) = self.encodings.add(&file) {
            file.problem = Some(problem);
        }
        self.tell(&file)
    }

    /// Takes a file that has been read once more. If something was written to it until now, it is still
    /// being written, and nothing is wrong with it yet.
    pub(super) fn add_again(&mut self, file: &Read) -> Result<(), VerifyError> {
        if file.vanished {
            return Ok(());
        }
        self.report.checked.count(file);
        if file.idle.is_some_and(|idle| idle < BETWEEN_LOOKS) {
            return Ok(());
        }
        self.tell(file)
    }

    fn tell(&mut self, file: &Read) -> Result<(), VerifyError> {
        let Some(problem) = &file.problem else { return Ok(()) };
        let finding = Finding { file: file.listed.to_string(), problem: problem.clone() };
        Ok(keep(self.visit, &mut self.report.findings, &finding)?)
    }

    /// Drops the findings of files that are gone by now.
    pub(super) fn without_removed(mut self) -> Self {
        let (visit, mut index) = (self.visit, 0);
        self.report.findings.retain(|file, _| {
            index += 1;
            index <= self.of_names
                || StoredName::parse(file).map_or(true, |file| visit.holds(&FinalName::from(file)))
        });
        self
    }
}

/// Returns whether a file may be one that is still being written. One that carries a digest was given it, or
/// its name, once it was whole.
fn may_be_unfinished(file: &Read) -> bool {
    let kind = file.problem.as_ref().map(|problem| problem.kind);
    matches!(kind, Some(FindingKind::Truncated | FindingKind::Corrupt))
        && !file.had_digest
        && file.idle.is_some_and(|idle| idle < JUST_WRITTEN)
}
