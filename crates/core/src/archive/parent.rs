//! The last WAL of the timeline before, which a lost primary no longer archived.
//!
//! A standby that streams marks what it received as archived, and leaves that to its primary. If the primary
//! is lost while its archive lags, the promoted standby has the last segments of the old timeline, and its
//! checkpoint after the promotion removes them. So they go into the archive before its new history file does,
//! which is the first file that it archives. What the archive lacks is not known before it was listed, and it
//! may be down: until then, all that could be lacking is marked as waiting, so that the server keeps it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::notice::{Level, Notice};
use super::plan::{Job, Plan, Receipt};
use crate::encoding::codec::Codec;
use crate::error::{Action, Activity, Error, ErrorKind};
use crate::server::held::{self, Held, HeldSegment};
use crate::server::lineage;
use crate::store::lag::{self, Archived, Judge, Refusal};
use crate::store::{Progress, Store, StoredName};
use crate::sys::buffer::Buffer;
use crate::wal::Lsn;
use crate::wal::history::Ancestor;
use crate::wal::name::{FileKind, FileName};
use crate::wal::timeline::Run;
use crate::words;

const HINT: &str = "A recovery across the switch of timelines needs these segments. While they are in a \"pg_wal\", of this server, of the lost one or of another standby, \"walsafe push --pgdata DATA_DIRECTORY ARCHIVE_DIRECTORY\" brings them. If they are lost, take a new base backup now.";

/// The segments that the server is made to keep, although it has them marked as archived.
///
/// For one destination, each is released as soon as it is there, or need not be. For a group of them, all are
/// released once the history file is in every destination: one that is down or slow may lack what the others
/// have.
#[derive(Debug, Default)]
pub(super) struct Kept {
    of_a_group: bool,
    segments: Mutex<Vec<HeldSegment>>,
}

impl Kept {
    pub(super) fn for_a_group() -> Self {
        Self { of_a_group: true, segments: Mutex::default() }
    }

    fn list(&self) -> MutexGuard<'_, Vec<HeldSegment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the server keep what may have to be brought before this history file, whether the archive can be
    /// reached or not: the next checkpoint would remove it. Does nothing for any other file.
    pub(super) fn keep(&self, plan: &Plan, job: &Job) {
        if let Some((_, Ok(held))) = way(plan, job) {
            self.add(&held);
        }
    }

    fn add(&self, held: &Held) {
        let before = held.segments.range(..held.route.from).map(|(_, segment)| *segment);
        let marked = before.filter(|segment| held.keep(*segment));
        self.list().extend(marked);
    }

    /// Returns whether the server would not be asking for this file without us.
    pub(super) fn has(&self, name: &FileName) -> bool {
        let FileKind::Segment(name) = name.kind() else { return false };
        self.list().iter().any(|segment| segment.name == name)
    }

    fn has_at(&self, start: Lsn) -> bool {
        self.list().iter().any(|segment| segment.start == start)
    }

    /// One destination lacks none but these.
    fn release_unless(&self, held: &Held, lacks: impl Fn(&HeldSegment) -> bool) {
        if self.of_a_group {
            return;
        }
        self.list().retain(|segment| {
            let stays = lacks(segment);
            if !stays {
                held.release(*segment);
            }
            stays
        });
    }

    /// One destination has been brought what could be brought, or not. After a failure the server keeps them,
    /// and asks for each itself once the history file is archived.
    fn end(&self, held: &Held, good: bool) {
        if !good {
            self.list().clear();
        } else if !self.of_a_group {
            self.let_go(&held.pg_wal);
        }
    }

    /// The history file is in every destination.
    pub(super) fn let_go(&self, pg_wal: &Path) {
        let segments = std::mem::take(&mut *self.list());
        segments.into_iter().for_each(|segment| held::release(pg_wal, segment));
    }
}

/// Returns from where the timeline of a history file branched off, and what the server holds on the way there.
/// What is wrong with the file itself is for others to report.
fn way(plan: &Plan, job: &Job) -> Option<(Ancestor, Result<Held, Error>)> {
    let FileKind::History { timeline } = job.name.kind() else { return None };
    let pg_wal = job.source.parent()?;
    let ancestors = lineage::read_history(pg_wal, timeline).ok()??;
    let parent = *ancestors.last()?;
    Some((parent, Held::on_the_way_to(timeline, ancestors, pg_wal, plan.cluster)))
}

/// Archives what the archive lacks of the timelines before the one whose history file is about to be
/// archived for the first time, in order: segments in `pg_wal` that are later than the archive's newest of
/// those timelines, and end at or before the switch. Each is checked by its records, and against those that
/// it meets. Does nothing for any other file, and nothing where the archive has no WAL of those timelines.
///
/// `archive` archives one file. A failure does not fail the history file: it is one warning among what is
/// returned, and so is what is missing at the end.
pub(super) fn bring(
    plan: &Plan,
    store: &dyn Store,
    kept: &Kept,
    job: &Job,
    progress: &Progress,
    archive: &mut dyn FnMut(&Job) -> Result<Receipt, Error>,
) -> Vec<Notice> {
    let Some((parent, held)) = way(plan, job) else { return Vec::new() };
    let mut brought = Vec::new();
    let result = held.and_then(|held| {
        kept.add(&held);
        progress.tick();
        let leading = Leading { plan, held: &held, parent, progress };
        let result = leading.bring(store, &job.name, archive, (kept, &mut brought));
        kept.end(&held, result.is_ok());
        result
    });
    let warning = result.unwrap_or_else(|error| Some(failed(parent, &error)));
    let timeline = job.name.timeline().unwrap_or_default();
    told(timeline, &brought).into_iter().chain(warning).collect()
}

/// The WAL that leads to a new timeline.
struct Leading<'a> {
    plan: &'a Plan,
    held: &'a Held,
    parent: Ancestor,
    progress: &'a Progress,
}

impl Leading<'_> {
    /// Archives it, and returns a warning if something is still missing. Releases what is not lacking.
    fn bring(
        &self,
        store: &dyn Store,
        history: &FileName,
        archive: &mut dyn FnMut(&Job) -> Result<Receipt, Error>,
        (kept, brought): (&Kept, &mut Vec<HeldSegment>),
    ) -> Result<Option<Notice>, Error> {
        let held = self.held;
        let visit = self.plan.visit(store, self.progress)?;
        let stored = |codec| StoredName::new(history.clone(), codec);
        if Codec::ALL.into_iter().any(|codec| visit.holds(&stored(codec).into())) {
            return Ok(None);
        }
        let mut archived = Archived::read(&*visit, held)?;
        let Some(newest) = archived.newest_of_ancestors else { return Ok(None) };
        // From there on the way is under the new timeline's own name, and the server hands over each file.
        let until = held.route.from;
        let wanted = |segment: &HeldSegment| segment.start > newest && segment.start < until;
        let lacking: Vec<HeldSegment> = archived.lacks(held).filter(wanted).collect();
        kept.release_unless(held, |segment| {
            lacking.iter().any(|lacking| lacking.start == segment.start)
        });
        let (mut judge, mut refused) = (Judge::new(held, &*visit, self.progress), String::new());
        let mut buffer = Buffer::new()
            .map_err(|e| Error::io(Action::ReserveMemory, visit.location().to_owned(), e))?;
        for segment in self.beside(&archived, &lacking).into_iter().chain(lacking) {
            let Ok(name) = FileName::new(&segment.name.to_string()) else { continue };
            let there = archived.has(segment.start);
            let mut refusal = match there {
                true => None,
                false => judge.judge(&archived, segment, &mut buffer)?,
            };
            if refusal.is_none() {
                let source = held.pg_wal.join(name.as_str());
                match archive(&Job { name, source }) {
                    Err(e) if there && says_nothing(e.kind()) => {}
                    Err(e) if e.kind().is_conflict() => {
                        refusal = Some(Refusal::Foreign(format!("{e}: {}", e.detail())));
                    }
                    Err(e) => return Err(e),
                    Ok(_) if !there => {
                        archived.note(held, segment)?;
                        brought.push(segment);
                    }
                    Ok(_) => {}
                }
            }
            if let Some(refusal) = refusal {
                refused.push_str(&format!(" {}: {}.", segment.name, refusal.reason()));
                let ours = kept.has_at(segment.start);
                match refusal {
                    Refusal::Damaged(_) if !segment.waiting || ours => continue,
                    // Nothing passes what the server is about to ask for (guarantee G13).
                    Refusal::Damaged(_) | Refusal::Foreign(_) => break,
                }
            }
        }
        let size = held.cluster.segment_size;
        let later = |run: &&Run| run.first.start(size).is_some_and(|start| start > newest);
        let missing = archived.missing(held, Some(until));
        let missing: Vec<String> = missing.iter().filter(later).map(lag::range).collect();
        Ok((!missing.is_empty()).then(|| self.lacks(&missing.join(", "), &refused)))
    }

    /// Returns the segment that stands before those that the archive lacks, if both sides have it. The records
    /// at its end do not show every difference: if it is another one, so is what comes after it.
    fn beside(&self, archived: &Archived, lacking: &[HeldSegment]) -> Option<HeldSegment> {
        let size = u64::from(self.held.cluster.segment_size.bytes());
        let before = Lsn(lacking.first()?.start.0.checked_sub(size)?);
        self.held.segments.get(&before).copied().filter(|_| archived.has(before))
    }

    fn lacks(&self, missing: &str, refused: &str) -> Notice {
        let (timeline, Ancestor { timeline: parent, switch }) = (self.held.timeline, self.parent);
        Notice {
            level: Level::Warning,
            sqlstate: "58P01",
            message: format!(
                "the archive lacks WAL of timeline {parent} from before timeline {timeline} branched off"
            ),
            detail: format!(
                "Timeline {timeline} branched off at {switch}. Not in the archive: {missing}.{refused}"
            ),
            hint: HINT.to_owned(),
        }
    }
}

/// Returns whether a difference from an archived segment, or trouble with the server's own, says nothing of
/// the WAL behind it.
fn says_nothing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConflictPadding
            | ErrorKind::ConflictTruncated
            | ErrorKind::ConflictUnreadable
            | ErrorKind::SourceMissing
            | ErrorKind::SourceMoved
    )
}

/// Tells what was brought.
fn told(timeline: u32, brought: &[HeldSegment]) -> Option<Notice> {
    let (first, last) = (brought.first()?.name, brought.last()?.name);
    let what = match brought.len() {
        1 => first.to_string(),
        number => format!("{}, {first} to {last}", words::count(number, "segment")),
    };
    Some(Notice {
        level: Level::Log,
        sqlstate: "00000",
        message: format!(
            "archived WAL from before timeline {timeline} branched off, which the archive lacked: {what}"
        ),
        detail: String::new(),
        hint: String::new(),
    })
}

fn failed(parent: Ancestor, error: &Error) -> Notice {
    let kind = error.kind();
    Notice {
        level: Level::Warning,
        sqlstate: kind.sqlstate(),
        message: format!(
            "could not archive the last WAL of timeline {}, which ends at {}: {error}",
            parent.timeline, parent.switch
        ),
        detail: error.detail(),
        hint: format!("{} {HINT}", error.hint(Activity::Archiving)),
    }
}
