//! What it means that no archive has a file: the end of the WAL, or a hole.

use super::archives::Archives;
use super::error::Begun;
use super::evidence::{self, Evidence, Later};
use super::survey::Survey;
use super::{Request, RestoreError, delivery, own};
use crate::encoding::codec::Codec;
use crate::prove::examine::{self, Expectation};
use crate::prove::verify::Start;
use crate::server::control::ControlFile;
use crate::server::lineage;
use crate::store::directory::Directory;
use crate::store::{Store, StoredName};
use crate::wal::history::Ancestor;
use crate::wal::name::{FileKind, SegmentName};

/// What a missing file means.
pub(super) enum Verdict {
    /// The end: nothing shows that the archive ever had it. The text says why, with the file's name as its
    /// subject: servers ask for such files in every recovery.
    End(String),
    /// A hole: something shows that it must exist.
    Hole(Evidence),
    /// The same, for the history file of this timeline, and what a later history file says that it holds.
    HistoryHole(Evidence, Option<String>, u32),
    /// A hole where it had to be: every archive was begun later.
    BegunLater(Vec<Begun>),
}

/// Decides what it means that the archives, those that could be asked, do not have the file.
///
/// One reading of the names at most, and of the history files those that can matter, each once.
///
/// # Errors
/// What would decide could not be read.
pub(super) fn judge(
    request: &Request<'_>,
    archives: &Archives<'_>,
) -> Result<Verdict, RestoreError> {
    let end = |reason: &str| Verdict::End(format!("{}{reason}", archives.nowhere()));
    match request.name.kind() {
        FileKind::Segment(_) | FileKind::History { .. }
            if lies_beside_target(request, &archives.expected()) =>
        {
            Ok(end(", but it is in pg_wal"))
        }
        FileKind::Segment(segment) => judge_segment(request, archives, segment),
        // The first timeline has no ancestors, so it has no history file.
        FileKind::History { timeline: 1 } => Ok(Verdict::End(own::CANNOT_EXIST.to_owned())),
        FileKind::History { timeline } => judge_history(request, archives, timeline),
        FileKind::Tail(_) => {
            Ok(Verdict::End("is a tail, which is not part of any recovery".to_owned()))
        }
        // If these are missing, no WAL is missing: a backup history file is for people, and recovery asks
        // for whole segments only.
        FileKind::Partial(_) | FileKind::BackupHistory(_) | FileKind::Other => {
            Ok(end(", and no recovery needs it"))
        }
    }
}

fn judge_segment(
    request: &Request<'_>,
    archives: &Archives<'_>,
    segment: SegmentName,
) -> Result<Verdict, RestoreError> {
    let survey = Survey::near(archives.visits(), request.name)?;
    // It was published between the look-up and this list, or is there and cannot be opened.
    if survey.appeared {
        let text = format!("{segment} is listed but cannot be opened");
        return Ok(Verdict::Hole(Evidence::new(text, Vec::new())));
    }
    let evidence = evidence::of_later_wal(archives, &survey, request.name, segment)?;
    let evidence = evidence.or_else(|| {
        let begun = archives.begun_behind(segment)?;
        let text = format!("\"{}\" was begun with {}", begun.archive.display(), begun.first);
        Some(Evidence::new(text, Vec::new()))
    });
    if let Some(mut evidence) = evidence {
        if let Some(begun) = archives.all_begun_behind(segment) {
            return Ok(Verdict::BegunLater(begun));
        }
        evidence.text.insert_str(0, &format!("{segment} is missing and "));
        return Ok(Verdict::Hole(evidence));
    }
    let (timeline, nowhere) = (segment.timeline, archives.nowhere());
    Ok(Verdict::End(match survey.newest_of(timeline) {
        Some((_, last)) => {
            format!("{nowhere}: the last file of timeline {timeline} there is {last}")
        }
        None if survey.is_whole => format!("{nowhere}, nor is any WAL of timeline {timeline}"),
        None => format!(
            "{nowhere}, nor is any WAL of timeline {timeline} shortly before it or behind it"
        ),
    }))
}

/// The server asks for the history files of the numbers that follow its own until one is missing, and takes
/// the one before for the newest timeline.
fn judge_history(
    request: &Request<'_>,
    archives: &Archives<'_>,
    timeline: u32,
) -> Result<Verdict, RestoreError> {
    let nowhere = archives.nowhere();
    if let Some(start) = start_timeline(request).filter(|start| *start >= timeline) {
        return Ok(Verdict::End(format!(
            "{nowhere}, and a recovery that begins on timeline {start} does not need it"
        )));
    }
    if let Some(followed) = followed_timeline(request, timeline) {
        return Ok(Verdict::End(format!(
            "{nowhere}, and the server follows timeline {followed} already, whose history it has"
        )));
    }
    let survey = Survey::near(archives.visits(), request.name)?;
    let missing = format!("the history of timeline {timeline} is missing and");
    let segment = survey.newest_of(timeline).map(|(_, newest)| newest.clone());
    match (evidence::of_later_history(archives, &survey, timeline)?, segment) {
        (Later::Names { file, before }, segment) => {
            let text = format!("{missing} \"{file}\" names that timeline as an ancestor");
            let contents = contents(&before, &file);
            let files = segment.into_iter().chain([file]).collect();
            Ok(Verdict::HistoryHole(Evidence::new(text, files), contents, timeline))
        }
        (_, Some(segment)) => {
            let text = format!("{missing} {segment} is there");
            Ok(Verdict::HistoryHole(Evidence::new(text, vec![segment]), None, timeline))
        }
        (Later::Others(newest), None) => Ok(Verdict::End(format!(
            "{nowhere}, nor is any WAL of timeline {timeline}; \"{newest}\" is there, and a recovery that looks for the newest timeline does not get that far, because number {timeline} is missing"
        ))),
        (Later::None, None) => {
            Ok(Verdict::End(format!("{nowhere}, nor is any WAL of timeline {timeline}")))
        }
    }
}

/// Returns the lines of a history file with these ancestors, as `printf` takes them.
fn contents(ancestors: &[Ancestor], source: &StoredName) -> Option<String> {
    let line = |Ancestor { timeline, switch }: &Ancestor| {
        format!("{timeline}\\t{switch}\\taccording to {source}\\n")
    };
    let lines: String = ancestors.iter().map(line).collect();
    (!lines.is_empty()).then_some(lines)
}

/// Returns the timeline on which the recovery begins, if that is known: as the server does, by the label of
/// the base backup, and without one by the control file.
fn start_timeline(request: &Request<'_>) -> Option<u32> {
    match std::fs::read_to_string(request.data_directory.join("backup_label")) {
        Ok(label) => Start::from_label(&label).ok()?.timeline,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            ControlFile::read(request.data_directory).ok()?.timeline
        }
        Err(_) => None,
    }
}

/// Returns the later timeline that the server has chosen already, if there is one: with
/// `recovery_target_timeline` set to a number, the server reads that history first, keeps it in `pg_wal`, and
/// only then asks for the histories of all the numbers before it, ancestors or not, which it can do without.
/// One that looks for the newest timeline keeps none before it has found that.
///
/// A file that an earlier start has kept does not count: it is older than `postmaster.pid`, which the server
/// writes before its recovery begins.
fn followed_timeline(request: &Request<'_>, timeline: u32) -> Option<u32> {
    let pg_wal = delivery::parent(request.target);
    let pid_file = std::fs::metadata(request.data_directory.join("postmaster.pid")).ok()?;
    let started = pid_file.modified().ok()?;
    let later = lineage::histories(pg_wal).ok()?.into_iter().filter(|later| *later > timeline);
    later.rev().find(|later| {
        let file = std::fs::metadata(pg_wal.join(lineage::history_name(*later)));
        let written = file.and_then(|file| file.modified());
        written.is_ok_and(|written| written > started)
            && matches!(lineage::read_history(pg_wal, *later), Ok(Some(_)))
    })
}

/// Returns whether the file lies beside the target, in `pg_wal`, where the server looks next. A recycled
/// segment, with the name of a future one and old contents, does not count. Neither does one that was only
/// half received and ends early: the server would take that for the end of the WAL.
fn lies_beside_target(request: &Request<'_>, expected: &Expectation) -> bool {
    let store = Directory::at(delivery::parent(request.target));
    let Ok(pg_wal) = store.visit(request.steps) else { return false };
    let name = StoredName::new(request.name.clone(), Codec::None);
    let Ok(Some(found)) = pg_wal.find(&name.into()) else { return false };
    examine::examine(&*found, request.name, expected, &mut |_| Ok(())).is_ok_and(|found| {
        found.problem.is_none() && found.ends_early.is_none() && found.unknown.is_none()
    })
}
