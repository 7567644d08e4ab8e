//! What is said of a copy.

use std::time::Duration;

use walsafe_core::prove::finding::Finding;
use walsafe_core::transfer::{Conflict, Copied, Stop};
use walsafe_core::words::{count, either};

use super::Job;
use crate::commands::{
    DONE, FAILED, FOUND, finding_json, notice_json, notice_line, print_json, verify,
};
use crate::complaint::Complaint;
use crate::terminal::{self, Output, megabytes};

/// Says what came of it, and returns the exit status.
pub(super) fn report(job: &Job<'_>, copied: &Copied, time: Duration) -> u8 {
    for line in troubles(copied) {
        terminal::remark(&line);
    }
    let written = if job.arguments.common.json {
        print_json(&json(job, copied, time))
    } else {
        let mut output = Output::new();
        output.line(summary(job, copied, time));
        output.finish()
    };
    match (written, status(copied)) {
        (true, status) => status,
        (false, _) => FAILED,
    }
}

fn status(copied: &Copied) -> u8 {
    match copied.stopped {
        Some(Stop::Failed(_)) => FAILED,
        Some(Stop::Conflict(_)) => FOUND,
        None | Some(Stop::Cancelled) if copied.findings.is_empty() => DONE,
        None | Some(Stop::Cancelled) => FOUND,
    }
}

/// What is said on standard error.
pub(super) fn troubles(copied: &Copied) -> Vec<String> {
    let notices = copied.without.iter().map(notice_line);
    let findings = copied.findings.iter().map(|finding| found(&finding));
    let mut lines: Vec<String> = notices.chain(findings).collect();
    if let Some(Stop::Conflict(conflict)) = &copied.stopped {
        lines.push(differs(conflict).to_string());
    }
    lines
}

fn found(finding: &Finding) -> String {
    format!("{}. {}", verify::line(finding), finding.problem.advice())
}

fn differs(conflict: &Conflict) -> Complaint {
    Complaint::new(format!("could not copy \"{}\": {}", conflict.file, conflict.message()))
        .detail(format!("{} Nothing is copied from there on.", conflict.detail))
        .hint(conflict.hint())
}

pub(super) fn files(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number, "file"), either(number, one, many))
}

fn summary(job: &Job<'_>, copied: &Copied, time: Duration) -> String {
    let (_, destination) = job.named();
    let destination = destination.display();
    let last =
        copied.last.as_ref().map_or_else(String::new, |last| format!("; the last one is {last}"));
    let there = format!("{} there already", files(copied.present, "was", "were"));
    let mut line = match copied.files {
        0 => format!("copied nothing to \"{destination}\": {there}{last}"),
        some => format!(
            "copied {} ({}) to \"{destination}\" in {:.1} s; {there}{last}",
            count(some, "file"),
            megabytes(copied.bytes),
            time.as_secs_f64()
        ),
    };
    if copied.unfinished > 0 {
        line += &format!("; {} still being received", files(copied.unfinished, "is", "are"));
    }
    if !copied.findings.is_empty() {
        line += &format!("; {}", count(copied.findings.len(), "finding"));
    }
    line
}

fn json(job: &Job<'_>, copied: &Copied, time: Duration) -> serde_json::Value {
    let conflict = match &copied.stopped {
        Some(Stop::Conflict(conflict)) => serde_json::json!({
            "file": conflict.file.to_string(),
            "message": conflict.message(),
            "detail": conflict.detail,
            "hint": conflict.hint(),
        }),
        _ => serde_json::Value::Null,
    };
    let (source, destination) = job.named();
    serde_json::json!({
        "source": source.display().to_string(),
        "destination": destination.display().to_string(),
        "system_identifier": copied.system_identifier.to_string(),
        "copied": copied.files,
        "skipped": copied.present,
        "bytes": copied.bytes,
        "seconds": (time.as_secs_f64() * 1000.0).round() / 1000.0,
        "last_file": copied.last.as_ref().map(ToString::to_string),
        "being_received": copied.unfinished,
        "findings": copied.findings.iter().map(|finding| finding_json(&finding)).collect::<Vec<_>>(),
        "conflict": conflict,
        "notices": copied.without.iter().map(notice_json).collect::<Vec<_>>(),
    })
}
