//! `walsafe verify`: proves that an archive is whole.

use std::path::Path;

use walsafe_core::prove::finding::Finding;
use walsafe_core::prove::verify::{
    self, Accepted, Chain, Checked, Heading, Options, Report, Start, TargetTimeline,
};
use walsafe_core::server::control::ControlFile;
use walsafe_core::store::location;
use walsafe_core::words::{count, either};

use super::{DONE, FAILED, FOUND, commit_json, failed, finding_json, print_json, unverified};
use crate::arguments::Verify;
use crate::complaint::Complaint;
use crate::terminal::{self, Bar, Output, megabytes};
use crate::time::rfc3339;
use crate::watchdog::Signs;

/// No disk is faster with more files than this at a time.
const MOST_JOBS: usize = 8;

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Verify, signs: &Signs) -> u8 {
    let from = match arguments.from.as_deref().map(|from| start(from, arguments.timeline)) {
        None => None,
        Some(Ok(start)) => Some(start),
        Some(Err(message)) => {
            return terminal::fail(&Complaint::new(message).hint("See \"walsafe verify --help\"."));
        }
    };
    let jobs = jobs(arguments.jobs);
    let options = Options {
        threads: jobs,
        from,
        until: arguments.until.clone(),
        target: arguments.target_timeline,
        accept_gaps: arguments.accept_gaps,
        steps: Some(&signs.steps),
    };
    let archive = match location::open(&arguments.archive, &arguments.common.access(None)) {
        Ok(archive) => archive,
        Err(error) => return failed(&error),
    };
    let bar = Bar::start(arguments.quiet);
    let result = verify::verify(&*archive, &options, &mut |progress| {
        bar.show(progress.files, progress.files_total, progress.bytes);
        true
    });
    drop(bar);
    let report = match result {
        Ok(report) => report,
        Err(error) => return terminal::fail(&unverified(&error)),
    };
    let written = signs.elsewhere(|| {
        if arguments.common.json { print_json(&json(arguments, &report)) } else { print(&report) }
    });
    match (written, report.findings.is_empty()) {
        (false, _) => FAILED,
        (true, true) => DONE,
        (true, false) => FOUND,
    }
}

/// Returns how many files to handle at a time.
pub(super) fn jobs(asked: Option<u32>) -> usize {
    asked.map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from).min(MOST_JOBS),
        |jobs| jobs as usize,
    )
}

fn start(text: &str, timeline: Option<u32>) -> Result<Start, String> {
    if let Ok(lsn) = text.parse() {
        return Ok(Start { timeline, ..Start::at(lsn) });
    }
    // The label's name may be in any encoding.
    let contents = std::fs::read(text).map_err(|e| {
        format!("--from names neither an LSN nor a readable backup_label: \"{text}\": {e}")
    })?;
    let start = Start::from_label(&String::from_utf8_lossy(&contents))
        .map_err(|e| format!("\"{text}\" is not a backup_label: {e}"))?;
    // The backup of a standby is consistent where its control file says, if that lies beside the label.
    let control = || {
        let control = ControlFile::read(Path::new(text).parent()?).ok()?;
        control.minimum.map(|minimum| (minimum, control.timeline))
    };
    let mut start = Start { timeline: timeline.or(start.timeline), ..start };
    if start.stop.is_none()
        && !start.end_record
        && let Some((minimum, on)) = control()
    {
        (start.stop, start.stop_timeline) = (Some(minimum), on);
    }
    Ok(start)
}

fn print(report: &Report) -> bool {
    let mut output = Output::new();
    for finding in report.findings.iter() {
        output.line(line(&finding));
        output.line(format_args!("    {}", finding.problem.advice()));
    }
    for Accepted { finding, backup } in &report.accepted {
        output.line(format_args!(
            "accepted: {}; the backup of {backup} lies behind it and can be recovered",
            line(finding)
        ));
    }
    for text in checked(&report.checked) {
        output.line(text);
    }
    if !report.marked {
        output.line("the archive has no identity file (see \"walsafe init --help\")");
    }
    if let Some(heading) = report.heading.as_ref().filter(|heading| heading.left.is_some()) {
        output.line(format_args!(
            "a recovery from timeline {} that sets no recovery_target_timeline goes to timeline {}{}",
            heading.from,
            heading.timeline,
            left(heading)
        ));
    }
    if let Some(chain) = &report.chain {
        print_chain(&mut output, chain);
    }
    match report.findings.len() {
        0 => output.line("no findings"),
        some => output.line(count(some, "finding")),
    };
    output.finish()
}

/// Says what was read, and how it was checked.
fn checked(checked: &Checked) -> Vec<String> {
    if checked.files == 0 {
        return vec!["no file was checked".to_owned()];
    }
    let mut lines = vec![format!(
        "checked {} with {} of WAL: {} by digest, {} without a digest",
        count(checked.files, "file"),
        megabytes(checked.bytes),
        checked.by_digest,
        checked.without_digest
    )];
    if checked.segments > 0 {
        lines.push(format!(
            "every page header and record was checked in {} of {}",
            checked.by_records,
            count(checked.segments, "segment")
        ));
    }
    if checked.by_header_only > 0 {
        lines.push(format!(
            "{} without a digest {} of a PostgreSQL version that this program does not know: only the first header was checked",
            count(checked.by_header_only, "segment"),
            either(checked.by_header_only, "is", "are")
        ));
    }
    lines
}

pub(super) fn line(Finding { file, problem }: &Finding) -> String {
    format!("{}: {}: {}", file.escape_default(), problem.kind, problem.reason)
}

/// Says which timeline another one left, where, since when, and what is not part of it.
fn left(heading: &Heading) -> String {
    let Some((parent, switch)) = heading.left else { return String::new() };
    let since = heading.since.map_or_else(String::new, |since| {
        format!("; its history file was archived at {}", rfc3339(since))
    });
    let aside = heading.aside.map_or_else(String::new, |end| {
        format!("; WAL of timeline {parent} behind that, up to {end}, is not part of it")
    });
    format!(", which left timeline {parent} at {switch}{since}{aside}")
}

fn print_chain(output: &mut Output, chain: &Chain) {
    let (goal, timeline) = (chain.goal, chain.end_timeline);
    output.line(match goal {
        TargetTimeline::Number(number) if number != timeline => format!(
            "recovery_target_timeline = '{goal}' cannot be used; what follows is about timeline {timeline}{}",
            left(&chain.heading)
        ),
        _ => format!(
            "with recovery_target_timeline = '{goal}', the recovery goes to timeline {timeline}{}",
            left(&chain.heading)
        ),
    });
    let start = format!("{} on timeline {}", chain.start, chain.start_timeline);
    let Some(end) = chain.end else {
        output.line(format_args!("it cannot begin: no record at its start, {start}, can be read"));
        for note in &chain.notes {
            output.line(note);
        }
        return;
    };
    output.line(format_args!(
        "it replays every record from {start} to {end} ({})",
        count(chain.segments, "segment")
    ));
    match chain.consistent {
        Some(at) => output.line(format_args!("the backup is consistent at {at}")),
        None => {
            output.line("it is not known where the backup is consistent, or that is not reached")
        }
    };
    if let (Some(until), Some(stop)) = (&chain.until, chain.stop) {
        let side = if stop.after { "after" } else { "before" };
        output.line(format_args!("{until} is reached: recovery stops {side} {}", stop.lsn));
    }
    match &chain.last_commit {
        Some(commit) => {
            let xid = commit.xid.map_or_else(String::new, |xid| format!(" of transaction {xid}"));
            output.line(format_args!("the last commit{xid} is at {}, {}", commit.lsn, commit.time))
        }
        None => output.line("no transaction is committed in it"),
    };
    for note in &chain.notes {
        output.line(note);
    }
}

fn json(arguments: &Verify, report: &Report) -> serde_json::Value {
    let accepted = |accepted: &Accepted| {
        let mut value = finding_json(&accepted.finding);
        if let Some(fields) = value.as_object_mut() {
            fields.remove("advice");
            fields.insert("backup".to_owned(), accepted.backup.clone().into());
        }
        value
    };
    let heading = |heading: &Heading| {
        serde_json::json!({
            "from": heading.from,
            "timeline": heading.timeline,
            "left_timeline": heading.left.map(|(parent, _)| parent),
            "left_at": heading.left.map(|(_, switch)| switch.to_string()),
            "since": heading.since.map(rfc3339),
            "not_part_of_it_up_to": heading.aside.map(|end| end.to_string()),
        })
    };
    let checked = &report.checked;
    let from = report.chain.as_ref().map(|chain| {
        serde_json::json!({
            "start": chain.start.to_string(),
            "start_timeline": chain.start_timeline,
            "end": chain.end.map(|end| end.to_string()),
            "end_timeline": chain.end_timeline,
            "target_timeline": chain.goal.to_string(),
            "heading": heading(&chain.heading),
            "consistent_at": chain.consistent.map(|at| at.to_string()),
            "segments": chain.segments,
            "until": chain.until.as_ref().map(ToString::to_string),
            "reached": chain.stop.is_some(),
            "stops_at": chain.stop.map(|stop| stop.lsn.to_string()),
            "stops_after": chain.stop.map(|stop| stop.after),
            "first_commit": chain.first_commit.as_ref().map(commit_json),
            "last_commit": chain.last_commit.as_ref().map(commit_json),
            "notes": chain.notes,
        })
    });
    serde_json::json!({
        "archive": location::shown(&arguments.archive).display().to_string(),
        "system_identifier": report.system_identifier.map(|identifier| identifier.to_string()),
        "identity_file": report.marked,
        "findings": report.findings.iter().map(|found| finding_json(&found)).collect::<Vec<_>>(),
        "accepted": report.accepted.iter().map(accepted).collect::<Vec<_>>(),
        "default_recovery": report.heading.as_ref().map(heading),
        "checked": {
            "files": checked.files,
            "wal_bytes": checked.bytes,
            "segments": checked.segments,
            "by_digest": checked.by_digest,
            "by_records": checked.by_records,
            "without_digest": checked.without_digest,
            "by_header_only": checked.by_header_only,
        },
        "from": from,
    })
}
