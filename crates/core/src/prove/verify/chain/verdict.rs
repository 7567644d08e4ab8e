//! What it all comes to: where the recovery ends, and what the server would refuse at its start and its end.

use super::plan::{finding, history_name};
use super::walk::Walk;
use super::{Chain, Task};
use crate::prove::finding::{Finding, FindingKind};
use crate::prove::verify::{TargetTimeline, Until};

/// What to do about a label that does not go with the archive.
const LABEL: &str = "The label does not go with this archive: was it changed, or is it another cluster's? Use the backup_label of the backup as it was taken.";

impl Walk<'_> {
    /// Sums up, with what was found before any segment was read.
    pub(super) fn finish(
        mut self,
        task: &Task<'_>,
        mut findings: Vec<Finding>,
    ) -> (Chain, Vec<Finding>) {
        let blocked = self.over && self.total.stop.is_none();
        let mut notes = Vec::new();
        if let Some(stop) = self.total.stop {
            self.end = Some(stop.lsn);
        }
        if self.consistent.is_none()
            && !self.start.end_record
            && let (Some(stop), Some(end)) = (self.start.stop, self.end)
            && stop <= end
        {
            self.consistent = Some(stop);
        }
        if !blocked {
            self.judge_start();
            self.judge_end(task);
        }
        let way = self.plan.target;
        if task.goal == TargetTimeline::Latest {
            findings.extend(self.shelf.orphan(way));
            self.note_numbers(&mut notes);
        }
        if !self.over
            && let Some(timeline) = self.shelf.partial_at(self.plan.end)
        {
            let name = self.name(timeline, self.plan.end);
            notes.push(format!(
                "{name}.partial is there, but no recovery asks for a file of that name: its WAL is not reached"
            ));
        }
        if let (Some(Until::Xid(_)), None, Some(lsn)) =
            (&task.until, self.total.stop, self.total.unknown_xid)
        {
            notes.push(format!(
                "a prepared transaction ended at {lsn} whose number could not be read: it may be the target"
            ));
        }
        let own = self.plan.start_timeline;
        if own > 1 && !self.shelf.timelines.has_history(own) {
            notes.push(format!(
                "{} is not there: this recovery does without it, and one from a backup on an older timeline does not get there",
                history_name(own)
            ));
        }
        findings.append(&mut self.findings);
        let chain = Chain {
            start: self.start.lsn,
            start_timeline: self.plan.start_timeline,
            end_timeline: way,
            goal: task.goal,
            heading: self.shelf.towards(self.plan.start_timeline, way),
            end: self.end,
            consistent: self.consistent,
            segments: self.segments,
            first_commit: self.total.first_commit,
            last_commit: self.total.last_commit,
            until: task.until.clone(),
            stop: self.total.stop,
            notes,
        };
        (chain, findings)
    }

    /// Checks what the server looks for before it replays anything.
    fn judge_start(&mut self) {
        let own = self.plan.start_timeline;
        if let Some(at) = self.start.checkpoint
            && self.total.checkpoint != Some(true)
            // What lies behind the target was not read. Such a target is before the end of the backup too.
            && self.total.stop.is_none_or(|stop| stop.lsn > at)
        {
            let found = match self.total.checkpoint {
                Some(_) => "the record at the backup's CHECKPOINT LOCATION is not a checkpoint",
                None => "no record begins at the backup's CHECKPOINT LOCATION",
            };
            let reason = format!("could not locate required checkpoint record: {found}, {at}");
            let file = self.name(own, at);
            self.findings
                .push(finding(file, FindingKind::Unrecoverable, reason).with_advice(LABEL));
        }
        if self.start.checkpoint.is_some() && !self.total.begins {
            let at = self.start.lsn;
            let reason = format!(
                "could not find redo location referenced by checkpoint record: no record begins at the backup's START WAL LOCATION, {at}"
            );
            let file = self.name(own, at);
            self.findings
                .push(finding(file, FindingKind::Unrecoverable, reason).with_advice(LABEL));
        }
    }

    /// Checks what the server looks for when it has replayed the last record.
    fn judge_end(&mut self, task: &Task<'_>) {
        let end = self.end.unwrap_or(self.start.lsn);
        let at = end.max(self.start.stop.unwrap_or_default());
        let stop =
            self.start.stop.map_or_else(String::new, |stop| format!(", which ended at {stop}"));
        let needs = self.start.end_record || self.start.stop.is_some();
        let file = self.name(self.plan.target, at);
        if needs && self.consistent.is_none() {
            let (kind, reason) = if self.total.stop.is_some() {
                let reason = format!(
                    "requested recovery stop point is before consistent recovery point: the target is reached at {end}, before the end of the backup{stop}"
                );
                (FindingKind::Unrecoverable, reason)
            } else {
                let reason = format!(
                    "WAL ends before end of online backup: it ends at {end}, and the backup's end{stop} is not reached"
                );
                (FindingKind::Gap, reason)
            };
            let mut found = finding(file.clone(), kind, reason);
            if kind == FindingKind::Unrecoverable {
                found =
                    found.with_advice("Choose a later target, or recover from an earlier backup.");
            }
            self.findings.push(found);
        }
        if let (Some(until), None) = (&task.until, self.total.stop) {
            let last = self.total.last_commit.map_or_else(String::new, |commit| {
                format!("; the last commit is at {}, {}", commit.lsn, commit.time)
            });
            let reason = format!(
                "recovery ended before configured recovery target was reached: {until} is not reached, and the WAL ends at {end} on timeline {}{last}",
                self.plan.target
            );
            let advice = "Choose an earlier target, or another timeline (--target-timeline); or archive the WAL that is missing at the end, from the server's or a standby's pg_wal.";
            self.findings
                .push(finding(file, FindingKind::Unrecoverable, reason).with_advice(advice));
        }
    }

    /// Tells of later timelines that the search for the latest one does not find.
    fn note_numbers(&self, notes: &mut Vec<String>) {
        let timelines = self.shelf.timelines;
        let at = self.start.checkpoint.unwrap_or(self.start.lsn);
        let own = self.plan.start_timeline;
        let beyond = timelines.with_history().filter(|t| *t > self.plan.target);
        if let Some(newest) = beyond.filter(|t| timelines.owner(at, *t) == Some(own)).max()
            && let Some(missing) =
                (self.plan.target + 1..newest).find(|t| !timelines.has_history(*t))
        {
            notes.push(format!(
                "timeline {newest} is not found, because the search for the latest timeline ends where {} is missing: to recover it, set recovery_target_timeline = '{newest}'",
                history_name(missing)
            ));
        }
    }
}
