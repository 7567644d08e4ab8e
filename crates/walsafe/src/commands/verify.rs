//! `walsafe verify`: proves that an archive is whole.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use walsafe_core::error::{Activity, ErrorKind};
use walsafe_core::prove::finding::Finding;
use walsafe_core::prove::verify::{self, Options, Progress, Report, Start, VerifyError};

use super::{DONE, FAILED, FOUND, megabytes, print_json, sentence};
use crate::arguments::Verify;
use crate::terminal::{self, Output};

/// No disk is faster with more files than this at a time.
const MOST_JOBS: usize = 8;

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Verify) -> u8 {
    let from = match arguments.from.as_deref().map(|from| start(from, arguments.timeline)) {
        None => None,
        Some(Ok(start)) => Some(start),
        Some(Err(message)) => {
            terminal::complain(&format!("{message}; see \"walsafe verify --help\""));
            return FAILED;
        }
    };
    let jobs = arguments.jobs.map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from).min(MOST_JOBS),
        usize::from,
    );
    let options = Options { threads: jobs, from };
    let bar = progress_bar(arguments);
    let result = verify::verify(&arguments.archive, &options, &mut |progress| {
        if let Some(bar) = &bar {
            show(bar, progress);
        }
        true
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            complain(arguments, &error);
            return FAILED;
        }
    };
    let written =
        if arguments.json { print_json(&json(arguments, &report)) } else { print(&report) };
    match (written, report.findings.is_empty()) {
        (false, _) => FAILED,
        (true, true) => DONE,
        (true, false) => FOUND,
    }
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
    Ok(Start { timeline: timeline.or(start.timeline), ..start })
}

fn complain(arguments: &Verify, error: &VerifyError) {
    let archive = arguments.archive.display();
    match error {
        VerifyError::Archive(error) => {
            terminal::complain(&sentence(error));
        }
        VerifyError::Nothing { .. } => {
            let hint = ErrorKind::NothingThere.hint(Activity::Checking);
            terminal::complain(&format!("{error}: \"{archive}\". {hint}"));
        }
        VerifyError::Cancelled => terminal::complain(&error.to_string()),
    }
}

fn progress_bar(arguments: &Verify) -> Option<ProgressBar> {
    if arguments.quiet || !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    let style = "{bar:30} {pos}/{len} files, {msg}, {elapsed_precise}, {eta} to go";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    Some(bar)
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.files_total as u64);
    bar.set_position(progress.files as u64);
    let seconds = bar.elapsed().as_secs_f64().max(0.001);
    let rate = (progress.bytes as f64 / seconds) as u64;
    bar.set_message(format!("{}, {}/s", megabytes(progress.bytes), megabytes(rate)));
}

fn print(report: &Report) -> bool {
    let mut output = Output::new();
    for Finding { file, problem } in report.findings.iter() {
        output.line(format_args!(
            "{}: {}: {}",
            file.escape_default(),
            problem.kind,
            problem.reason
        ));
        output.line(format_args!("    {}", problem.kind.advice()));
    }
    let checked = &report.checked;
    output.line(format_args!(
        "checked {} files with {} of WAL: {} by their digest, {} without one",
        checked.files,
        megabytes(checked.bytes),
        checked.by_digest,
        checked.without_digest
    ));
    output.line(format_args!(
        "every page header and record was checked in {} of {} segments",
        checked.by_records, checked.segments
    ));
    if checked.by_header_only > 0 {
        output.line(format_args!(
            "{} segments without a digest are of a PostgreSQL version that this program does not know: only their first headers were checked",
            checked.by_header_only
        ));
    }
    if !report.marked {
        output.line("the archive has no identity file (see \"walsafe init --help\")");
    }
    if let Some(chain) = &report.chain {
        let end = chain.end.map_or_else(|| "nowhere".to_owned(), |end| end.to_string());
        output.line(format_args!(
            "the archive has no gap from {} on timeline {} to {end} on timeline {} ({} segments)",
            chain.start, chain.start_timeline, chain.end_timeline, chain.segments
        ));
        match chain.stop {
            Some(stop) => output.line(format_args!("the backup is consistent at {stop}")),
            None => output.line("it is not known where the backup is consistent: its .backup file is not in the archive"),
        };
    }
    match report.findings.len() {
        0 => output.line("no findings"),
        1 => output.line("1 finding"),
        many => output.line(format_args!("{many} findings")),
    };
    output.finish()
}

fn json(arguments: &Verify, report: &Report) -> serde_json::Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|Finding { file, problem }| {
            serde_json::json!({
                "file": file,
                "kind": problem.kind.name(),
                "reason": problem.reason,
                "advice": problem.kind.advice(),
            })
        })
        .collect();
    let checked = &report.checked;
    let from = report.chain.as_ref().map(|chain| {
        serde_json::json!({
            "start": chain.start.to_string(),
            "start_timeline": chain.start_timeline,
            "end": chain.end.map(|end| end.to_string()),
            "end_timeline": chain.end_timeline,
            "consistent_at": chain.stop.map(|stop| stop.to_string()),
            "segments": chain.segments,
        })
    });
    serde_json::json!({
        "archive": arguments.archive.display().to_string(),
        "system_identifier": report.system_identifier.map(|identifier| identifier.to_string()),
        "identity_file": report.marked,
        "findings": findings,
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
