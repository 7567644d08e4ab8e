//! `walsafe push`: brings into an archive what a server has and the archive lacks.

use walsafe_core::archive::push::{self, PushError, Pushed, Trouble};
use walsafe_core::server::held::Held;
use walsafe_core::store::location;
use walsafe_core::store::{identity, lag};
use walsafe_core::wal::name::FileName;
use walsafe_core::words::count;

use super::owner::{complaint, work_as_owner_of};
use super::{DONE, FAILED, FOUND, notice_json, notice_line, print_json, run_json};
use crate::arguments::Push;
use crate::complaint::Complaint;
use crate::terminal::{self, Bar, Output, megabytes};
use crate::watchdog::Signs;

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Push, signs: &Signs) -> u8 {
    match attempt(arguments, signs) {
        Ok((held, pushed)) => signs.elsewhere(|| {
            for notice in &pushed.without {
                terminal::remark(&notice_line(notice));
            }
            for line in troubles(&pushed) {
                terminal::remark(&line);
            }
            let written = if arguments.common.json {
                print_json(&json(arguments, &held, &pushed))
            } else {
                let mut output = Output::new();
                output.line(summary(arguments, &held, &pushed));
                output.finish()
            };
            if written { status(&pushed) } else { FAILED }
        }),
        Err(complaint) => terminal::fail(&complaint),
    }
}

fn attempt(arguments: &Push, signs: &Signs) -> Result<(Held, Pushed), Complaint> {
    // Before a thread starts: the progress bar has one.
    let destination = &arguments.destination;
    // Objects belong to nobody.
    if !location::is_url(destination) {
        work_as_owner_of(&destination.join(identity::FILE_NAME), destination)?;
    }
    let steps = &signs.steps;
    let held = Held::read(&arguments.pgdata).map_err(|e| complaint(&e))?;
    let access = arguments.common.access(Some(&arguments.pgdata));
    let (cluster, compression) = (held.cluster, arguments.compression);
    let plan = push::plan(&arguments.pgdata, destination, cluster, compression, access, steps)
        .map_err(|e| refusal(&e))?;
    if let Some(timeline) = arguments.history {
        let pushed =
            push::push_history(&plan, &held.pg_wal, timeline, steps).map_err(|e| refusal(&e))?;
        return Ok((held, pushed));
    }
    let bar = Bar::start(arguments.quiet);
    let pushed = push::push(&plan, &held, steps, &mut |step| {
        bar.show(step.files, step.files_total, step.bytes);
    });
    drop(bar);
    Ok((held, pushed.map_err(|e| complaint(&e))?))
}

fn refusal(error: &PushError) -> Complaint {
    match error {
        PushError::Failed(error) => complaint(error),
        error => Complaint::new(error.to_string()),
    }
}

fn reason(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Refused(refusal) => refusal.reason().to_owned(),
        Trouble::Failed(error) => complaint(error).to_string(),
    }
}

fn missing(pushed: &Pushed) -> String {
    pushed.missing.iter().map(lag::range).collect::<Vec<_>>().join(", ")
}

/// What is said on standard error.
fn troubles(pushed: &Pushed) -> Vec<String> {
    let mut lines: Vec<String> = pushed
        .left
        .iter()
        .map(|(name, trouble)| format!("\"{name}\" was not pushed: {}", reason(trouble)))
        .collect();
    if !pushed.missing.is_empty() {
        lines.push(format!(
            "the archive still lacks {}: a recovery cannot pass there. Look for these segments in the pg_wal of other servers and push from there; if they are lost, take a new base backup now",
            missing(pushed)
        ));
    }
    lines
}

fn summary(arguments: &Push, held: &Held, pushed: &Pushed) -> String {
    let destination = location::shown(&arguments.destination);
    let destination = destination.display();
    let pieces = ranges(&pushed.files).join(", ");
    match (pushed.files.len(), status(pushed)) {
        (0, DONE) if arguments.history.is_some() => {
            format!("nothing to push: \"{destination}\" has the history file")
        }
        (0, DONE) => format!(
            "nothing to push: \"{destination}\" has all complete WAL of \"{}\", timeline {}",
            arguments.pgdata.display(),
            held.timeline
        ),
        (0, _) => format!("pushed nothing to \"{destination}\""),
        (some, _) => format!(
            "pushed {} ({}) to \"{destination}\": {pieces}",
            count(some, "file"),
            megabytes(pushed.bytes)
        ),
    }
}

/// Names files, segments that follow one another as one piece.
fn ranges(files: &[FileName]) -> Vec<String> {
    let follows = |a: &FileName, b: &FileName| match (a.segment(), b.segment()) {
        (Some(a), Some(b)) => a.timeline == b.timeline,
        _ => false,
    };
    files
        .chunk_by(follows)
        .filter_map(|piece| match piece {
            [] => None,
            [one] => Some(one.to_string()),
            [first, .., last] => Some(format!("{first} to {last}")),
        })
        .collect()
}

fn status(pushed: &Pushed) -> u8 {
    if pushed.left.iter().any(|(_, trouble)| !trouble.is_the_files()) {
        FAILED
    } else if pushed.left.is_empty() && pushed.missing.is_empty() {
        DONE
    } else {
        FOUND
    }
}

fn json(arguments: &Push, held: &Held, pushed: &Pushed) -> serde_json::Value {
    let left: Vec<_> = pushed
        .left
        .iter()
        .map(|(name, trouble)| {
            serde_json::json!({ "file": name.as_str(), "reason": reason(trouble) })
        })
        .collect();
    let missing: Vec<_> = pushed.missing.iter().map(run_json).collect();
    serde_json::json!({
        "destination": location::shown(&arguments.destination).display().to_string(),
        "data_directory": arguments.pgdata.display().to_string(),
        "system_identifier": held.cluster.system_identifier.to_string(),
        "timeline": held.timeline,
        "pushed": pushed.files.iter().map(FileName::as_str).collect::<Vec<_>>(),
        "wal_bytes": pushed.bytes,
        "already_present": pushed.present,
        "not_pushed": left,
        "stopped": pushed.stopped,
        "missing": missing,
        "notices": pushed.without.iter().map(notice_json).collect::<Vec<_>>(),
    })
}
