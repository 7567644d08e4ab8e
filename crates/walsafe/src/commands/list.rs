//! `walsafe list`: what an archive holds.

use walsafe_core::encoding::codec::Codec;
use walsafe_core::prove::backups::BaseBackup;
use walsafe_core::prove::overview::{Overview, Timeline};
use walsafe_core::prove::verify::{Missing, VerifyError};
use walsafe_core::store::location;
use walsafe_core::wal::Lsn;
use walsafe_core::wal::name::SegmentName;
use walsafe_core::wal::timeline::Run;
use walsafe_core::words::{count, either};

use super::{DONE, FAILED, FOUND, commit_json, print_json, run_json, unverified};
use crate::arguments::List;
use crate::terminal::{self, Output, megabytes};
use crate::time::rfc3339;
use crate::watchdog::Signs;

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &List, signs: &Signs) -> u8 {
    let read = if arguments.times { Overview::read_with_commits } else { Overview::read };
    let look = || {
        let archive = location::open(&arguments.archive, &arguments.common.access(None))?;
        let overview = read(&*archive, &signs.steps)?;
        let visit = archive.visit(&signs.steps)?;
        let missing = Missing::read(&*visit, &mut |_| true)?;
        // As under an unmounted mount point.
        if overview.identity.is_none() && overview.is_empty() {
            return Err(VerifyError::Nothing { path: visit.location().to_owned() });
        }
        Ok((overview, missing))
    };
    let (overview, missing) = match look() {
        Ok(found) => found,
        Err(error) => return terminal::fail(&unverified(&error)),
    };
    signs.elsewhere(|| report(arguments, &overview, &missing))
}

fn report(arguments: &List, overview: &Overview, missing: &Missing) -> u8 {
    for (name, error) in &overview.unreadable {
        terminal::remark(&format!("could not read \"{}\": {error}", name.escape_default()));
    }
    let written = if arguments.common.json {
        print_json(&json(arguments, overview, missing))
    } else {
        print(overview, missing, arguments.times)
    };
    match (written, overview.unreadable.is_empty()) {
        (false, _) => FAILED,
        (true, true) => DONE,
        (true, false) => FOUND,
    }
}

/// The key of a compression in JSON.
const fn encoding(codec: Codec) -> &'static str {
    match codec {
        Codec::None => "plain",
        Codec::Lz4 => "lz4",
        Codec::Zstd => "zstd",
        Codec::Gzip => "gzip",
    }
}

const fn compression(codec: Codec) -> &'static str {
    match codec {
        Codec::None => "without compression",
        Codec::Lz4 => "with lz4 compression",
        Codec::Zstd => "with zstd compression",
        Codec::Gzip => "with gzip compression",
    }
}

fn print(overview: &Overview, missing: &Missing, times: bool) -> bool {
    let mut output = Output::new();
    match &overview.identity {
        Some(identity) => output.line(format_args!(
            "cluster {}, archived since {}",
            identity.system_identifier, identity.created
        )),
        None => output.line("no identity file (see \"walsafe init --help\")"),
    };
    if let Some(size) = overview.segment_size {
        output.line(format_args!("segments of {}", megabytes(size.bytes().into())));
    }
    for timeline in &overview.timelines {
        output.line("");
        let history = if timeline.history { ", with history file" } else { "" };
        let tails = match timeline.tails {
            0 => String::new(),
            some => format!(", {}", count(some, "tail")),
        };
        output.line(format_args!(
            "timeline {}: {}, {} partial{tails}, {}{history}",
            timeline.timeline,
            count(timeline.segments, "segment"),
            timeline.partials,
            count(timeline.backups, "backup")
        ));
        let there = timeline.runs.iter().map(|run| (run, ""));
        let gaps = missing.runs.iter().filter(|run| run.first.timeline == timeline.timeline);
        let mut runs: Vec<_> = there.chain(gaps.map(|run| (run, "  gap"))).collect();
        runs.sort_by_key(|(run, _)| run.first);
        for (run, gap) in runs {
            output.line(format_args!("  {} to {}  {:>8}{gap}", run.first, run.last, run.count));
        }
        for backup in &timeline.base_backups {
            print_backup(&mut output, backup);
        }
        output.line(format_args!(
            "  {} in files, {} on disk",
            megabytes(timeline.bytes),
            megabytes(timeline.allocated)
        ));
        if let Some((first, last)) = timeline.times {
            output.line(format_args!("  archived from {} to {}", rfc3339(first), rfc3339(last)));
        }
        match (times, timeline.commits.first, timeline.commits.last) {
            (true, Some(first), Some(last)) => {
                output.line(format_args!("  commits from {} to {}", first.time, last.time));
            }
            (true, ..) => {
                output.line("  no commits");
            }
            (false, ..) => {}
        }
    }
    let elsewhere: Vec<_> = missing.runs.iter().filter(|run| !has(overview, run)).collect();
    if !elsewhere.is_empty() || !missing.histories.is_empty() {
        output.line("");
    }
    for run in elsewhere {
        output.line(format_args!("  {} to {}  {:>8}  gap", run.first, run.last, run.count));
    }
    for history in &missing.histories {
        output.line(format_args!("  {history}  gap"));
    }
    if overview.is_empty() && missing.is_nothing() {
        output.line("it holds no WAL yet");
    } else {
        output.line("");
    }
    for (codec, files) in &overview.encodings {
        output.line(format_args!("{} {}", count(*files, "file"), compression(*codec)));
    }
    if overview.others > 0 {
        let are = either(overview.others, "that is", "that are");
        output.line(format_args!("{} {are} not WAL", count(overview.others, "file")));
    }
    output.finish()
}

/// Returns whether the timeline of missing segments has files, and so a paragraph of its own.
fn has(overview: &Overview, run: &Run) -> bool {
    overview.timelines.iter().any(|timeline| timeline.timeline == run.first.timeline)
}

/// Three lines of at most 80 columns: the label, where the backup begins, and where it ends.
fn print_backup(output: &mut Output, backup: &BaseBackup) {
    const SHOWN: usize = 40;
    let more = if backup.label.chars().count() > SHOWN { "..." } else { "" };
    let label: String = backup.label.chars().take(SHOWN).collect();
    let from = match backup.taken_from.as_deref() {
        Some("standby") => " of a standby",
        Some("primary") => " of the primary",
        _ => "",
    };
    output.line(format_args!("  base backup \"{}{more}\"{from}", label.escape_debug()));
    let point = |lsn: Lsn, segment: Option<SegmentName>, time: &Option<String>| {
        let segment = segment.map(|segment| format!(" in {segment}")).unwrap_or_default();
        let time = time.as_ref().map(|time| format!(", {}", time.escape_debug()));
        format!("{lsn}{segment}{}", time.unwrap_or_default())
    };
    let start = &backup.start;
    output.line(format_args!("    from {}", point(start.lsn, Some(backup.first), &backup.started)));
    if let Some(stop) = start.stop {
        output.line(format_args!("    to   {}", point(stop, backup.last, &backup.stopped)));
    }
}

fn backup_json(backup: &BaseBackup) -> serde_json::Value {
    serde_json::json!({
        "file": backup.file,
        "label": backup.label,
        "from": backup.taken_from,
        "start_lsn": backup.start.lsn.to_string(),
        "start_segment": backup.first.to_string(),
        "start_time": backup.started,
        "stop_lsn": backup.start.stop.map(|stop| stop.to_string()),
        "stop_segment": backup.last.map(|segment| segment.to_string()),
        "stop_time": backup.stopped,
    })
}

fn timeline_json(timeline: &Timeline) -> serde_json::Value {
    let ranges: Vec<_> = timeline.runs.iter().map(run_json).collect();
    serde_json::json!({
        "timeline": timeline.timeline,
        "ranges": ranges,
        "segments": timeline.segments,
        "partials": timeline.partials,
        "tails": timeline.tails,
        "backups": timeline.backups,
        "base_backups": timeline.base_backups.iter().map(backup_json).collect::<Vec<_>>(),
        "history": timeline.history,
        "bytes": timeline.bytes,
        "allocated_bytes": timeline.allocated,
        "first_archived": timeline.times.map(|(first, _)| rfc3339(first)),
        "last_archived": timeline.times.map(|(_, last)| rfc3339(last)),
        "first_commit": timeline.commits.first.as_ref().map(commit_json),
        "last_commit": timeline.commits.last.as_ref().map(commit_json),
    })
}

fn json(arguments: &List, overview: &Overview, missing: &Missing) -> serde_json::Value {
    let encodings: serde_json::Map<_, _> = overview
        .encodings
        .iter()
        .map(|(codec, count)| (encoding(*codec).to_owned(), (*count).into()))
        .collect();
    let identity = overview.identity.as_ref();
    let unreadable = overview.unreadable.iter();
    let unreadable: Vec<_> = unreadable
        .map(|(file, reason)| serde_json::json!({ "file": file, "reason": reason }))
        .collect();
    serde_json::json!({
        "archive": location::shown(&arguments.archive).display().to_string(),
        "system_identifier": identity.map(|identity| identity.system_identifier.to_string()),
        "created": identity.map(|identity| identity.created.clone()),
        "segment_size": overview.segment_size.map(|size| size.bytes()),
        "timelines": overview.timelines.iter().map(timeline_json).collect::<Vec<_>>(),
        "gaps": missing.runs.iter().map(run_json).collect::<Vec<_>>(),
        "missing_histories": missing.histories,
        "encodings": encodings,
        "others": overview.others,
        "unreadable": unreadable,
    })
}
