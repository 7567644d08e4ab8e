//! What a process does once in a destination, before its first file there, and once for each timeline.
//!
//! At the first visit the history files in `pg_wal` are archived that the destination lacks: the server
//! asks for each of them only once, at the promotion, and the archive may have begun later, or be another one.
//! Without them no recovery finds the timelines.
//!
//! Before the first file of a timeline, the archive is asked whether the timeline before it goes on past the
//! address where this one branched off: then this server is a drill, or a failover has lost WAL.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::attempt::archive_alone;
use super::notice::{Level, Notice};
use super::plan::{Job, Plan};
use super::seam::Seam;
use crate::encoding::codec::Codec;
use crate::error::{Action, Error};
use crate::server::lineage::{Lineage, history_name};
use crate::server::settings::FsyncPolicy;
use crate::store::beyond::beyond;
use crate::store::{Progress, Store, StoredName, Visit};
use crate::sys::buffer::Buffer;
use crate::wal::name::{FileKind, FileName};

/// First and longest pause between two tries to look, while another thread looks.
const WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

/// How often the archive is asked, a file at a time, where the timeline before ends there, if that fails.
const LOOKS: u32 = 3;

/// What this process has warned of: the destination and the timeline. A pool that follows another one,
/// because a setting changed, does not warn again.
static WARNED: Mutex<BTreeSet<(PathBuf, Subject)>> = Mutex::new(BTreeSet::new());

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// The history file of this timeline differs.
    Foreign(u32),
    /// This history file in `pg_wal` cannot be read.
    Unreadable(u32),
    /// The timeline before this one goes on in the archive.
    LeftBehind(u32),
    /// Whether it does could not be found out.
    Unclear(u32),
    /// The last WAL of the timelines before this one: the n-th of what there is to say.
    Before(u32, usize),
}

/// What has been looked at in one destination.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// Locked while a thread looks: the files of others wait until the history files are there.
    seen: Mutex<Seen>,
    /// The progress of the thread that looks.
    looks: Mutex<Option<Arc<Progress>>>,
    /// Raised by what may have led the path to another disk. The first visit is made again then.
    era: AtomicU64,
    /// What the administrator is to be told with the next success.
    notices: Mutex<Vec<(Subject, Notice)>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The era in which every history file was found or archived.
    histories_in: Option<u64>,
    /// Timelines whose beginning was compared with the archive, and how many more looks there are: none once
    /// one has succeeded.
    timelines: BTreeMap<u32, u32>,
}

impl Arrival {
    /// Does what is to be done before this file is published. Almost always there is nothing to do.
    ///
    /// On return every history file of `pg_wal` up to the server's own timeline is in the destination, as
    /// durable as the plan asks for, except those that come after `job` in the server's order, and those that
    /// the server is about to ask for itself. If the machine dies half-way, some are there; the next process
    /// archives the others.
    ///
    /// # Errors
    /// A history file could not be archived, or the archive holds a different one for the server's own
    /// timeline or one of its ancestors.
    pub(super) fn prepare(
        &self,
        plan: &Plan,
        store: &dyn Store,
        job: &Job,
        buffer: &mut Buffer,
        progress: &Arc<Progress>,
    ) -> Result<(), Error> {
        let mut seen = self.enter(progress);
        let era = self.era.load(Ordering::Relaxed);
        let looks = |timeline: &u32| seen.timelines.get(timeline).copied().unwrap_or(LOOKS);
        let new_timeline = job.name.timeline().filter(|timeline| looks(timeline) > 0);
        let left = new_timeline.as_ref().map_or(0, looks);
        if seen.histories_in == Some(era) && new_timeline.is_none() {
            return Ok(());
        }
        let own = Lineage::of(plan.known.data_directory())?;
        let visit = plan.visit(store, progress)?;
        if seen.histories_in != Some(era) {
            let round = Round { plan, store, visit: &*visit, own: &own, job, progress };
            let complete = round.archive_histories(buffer, |subject, notice| {
                lock(&self.notices).push((subject, notice))
            })?;
            seen.histories_in = complete.then_some(era);
        }
        if let Some(timeline) = new_timeline {
            let look = look_back(&own, timeline, plan, &*visit, progress);
            let left = if look.is_ok() { 0 } else { left.saturating_sub(1) };
            let (subject, notice) = match look {
                Ok(notice) => (Subject::LeftBehind(timeline), notice),
                Err(notice) => (Subject::Unclear(timeline), Some(notice)),
            };
            lock(&self.notices).extend(notice.map(|notice| (subject, notice)));
            seen.timelines.insert(timeline, left);
        }
        Ok(())
    }

    /// Waits until no other thread looks. As long as that one moves, so does whoever waits for it: a long look
    /// is no hang.
    fn enter(&self, progress: &Arc<Progress>) -> MutexGuard<'_, Seen> {
        let (mut steps, mut pause) = (None, WAIT);
        let seen = loop {
            match self.seen.try_lock() {
                Ok(seen) => break seen,
                Err(TryLockError::Poisoned(seen)) => break seen.into_inner(),
                Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
            }
            let now = lock(&self.looks).as_ref().map(|looks| looks.steps());
            if now != steps {
                progress.tick();
            }
            steps = now;
            pause = LONGEST_WAIT.min(pause * 2);
        };
        *lock(&self.looks) = Some(Arc::clone(progress));
        seen
    }

    /// A call failed or hung: the path may lead to another disk from here on.
    pub(super) fn look_again(&self) {
        self.era.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps what was said when the last WAL before a timeline was archived, until there is a success to report
    /// it with: it is not said again once the history file has its name. What an earlier try has said is old.
    pub(super) fn keep_notices(&self, timeline: u32, said: Vec<Notice>) {
        if said.is_empty() {
            return;
        }
        let mut notices = lock(&self.notices);
        notices
            .retain(|(subject, _)| !matches!(subject, Subject::Before(of, _) if *of == timeline));
        let numbered = said.into_iter().enumerate();
        notices.extend(numbered.map(|(n, notice)| (Subject::Before(timeline, n), notice)));
    }

    /// Takes what is to be reported with a success in this destination, each once in a process.
    pub(super) fn take_notices(&self, destination: &Path) -> Vec<Notice> {
        let notices = std::mem::take(&mut *lock(&self.notices));
        if notices.is_empty() {
            return Vec::new();
        }
        let mut warned = lock(&WARNED);
        notices
            .into_iter()
            .filter(|(subject, _)| warned.insert((destination.to_owned(), *subject)))
            .map(|(_, notice)| notice)
            .collect()
    }
}

/// Locks; what a thread that panicked has left is sound, because every change is a single insertion.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One look at the history files.
struct Round<'a> {
    plan: &'a Plan,
    store: &'a dyn Store,
    visit: &'a dyn Visit,
    own: &'a Lineage,
    job: &'a Job,
    progress: &'a Progress,
}

impl Round<'_> {
    /// Archives what is missing, in ascending order. Returns whether that was all: a history file that the
    /// server asks for itself, now or next, comes after those below it, and before those above it.
    fn archive_histories(
        &self,
        buffer: &mut Buffer,
        mut say: impl FnMut(Subject, Notice),
    ) -> Result<bool, Error> {
        let asked = match self.job.name.kind() {
            FileKind::History { timeline } => Some(timeline),
            _ => None,
        };
        // Where no control file says it, the file that the server asks for does.
        let newest = self.own.timeline.or_else(|| self.job.name.timeline()).unwrap_or(0);
        let mut found = false;
        for &timeline in self.own.histories.iter().filter(|timeline| **timeline <= newest) {
            // What waits is the server's to ask for, before any segment: the timeline before goes with it, and
            // what there is to say of that is said then. A file ahead, in another thread, must not be faster.
            if asked.is_some_and(|asked| timeline >= asked) || self.own.waits(timeline) {
                return Ok(false);
            }
            let Ok(name) = FileName::new(&history_name(timeline)) else { continue };
            let descends = timeline == newest || self.own.includes(timeline);
            match self.archive_history(&name, timeline, buffer) {
                Ok(there) => found |= there,
                Err(Error::Conflict { path, difference }) if descends => {
                    return Err(Error::HistoryConflict { name, path, difference });
                }
                Err(Error::Conflict { path, .. }) => {
                    let notice = foreign(&name, &path.display().to_string());
                    say(Subject::Foreign(timeline), notice);
                }
                Err(e) if !descends && e.kind().is_of_the_file() => {
                    say(Subject::Unreadable(timeline), unreadable(&name, &e));
                }
                Err(e) => return Err(e),
            }
        }
        if found && self.plan.fsync_policy == FsyncPolicy::Full {
            self.visit.settle()?;
        }
        Ok(true)
    }

    /// Archives one history file, unless the archive holds the same. Returns whether it does: then its name
    /// may not be durable.
    fn archive_history(
        &self,
        name: &FileName,
        timeline: u32,
        buffer: &mut Buffer,
    ) -> Result<bool, Error> {
        if self.holds(name, timeline)? {
            return Ok(true);
        }
        let history = Job { name: name.clone(), source: self.own.path(timeline) };
        let (plan, store, progress) = (self.plan, self.store, self.progress);
        archive_alone(plan, store, &Seam::default(), &history, buffer, progress).map(|_| false)
    }

    /// Returns whether the archive holds the same history file, in one encoding and in no other way in
    /// another. Whoever put it there may have died before its own flush.
    fn holds(&self, name: &FileName, timeline: u32) -> Result<bool, Error> {
        let ours = self.own.read(timeline)?;
        let mut same = false;
        for codec in Codec::ALL {
            let stored = StoredName::new(name.clone(), codec);
            let Some(found) = self.visit.find(&stored.into())? else { continue };
            let mut theirs = Vec::new();
            let fail = |e| Error::io(Action::ReadArchived, found.path(), e);
            let stream = found.decode().map_err(fail)?;
            match stream.take(ours.len() as u64 + 1).read_to_end(&mut theirs) {
                Ok(_) if theirs == ours => same = true,
                // What is different, or cannot be decoded, is compared and described in full.
                Ok(_) => return Ok(false),
                Err(e) if e.raw_os_error().is_none() => return Ok(false),
                Err(e) => return Err(fail(e)),
            }
            if self.plan.fsync_policy != FsyncPolicy::None {
                found.flush()?;
            }
        }
        Ok(same)
    }
}

fn unreadable(name: &FileName, error: &Error) -> Notice {
    Notice {
        level: Level::Warning,
        sqlstate: error.kind().sqlstate(),
        message: format!("could not archive \"{name}\", which lies in \"pg_wal\": {error}"),
        detail: format!(
            "{} The timeline is not an ancestor of this server's own, so archiving goes on.",
            error.detail()
        ),
        hint: "This server does not need the file. Make it readable for the server's user, or move it out of \"pg_wal\"."
            .to_owned(),
    }
}

fn foreign(name: &FileName, path: &str) -> Notice {
    Notice {
        level: Level::Warning,
        sqlstate: "01000",
        message: format!("the archive holds a different \"{name}\" than this server's \"pg_wal\""),
        detail: format!(
            "\"{path}\" is another server's. The timeline is not an ancestor of this server's own, so archiving goes on."
        ),
        hint: "Two servers have used one timeline number. Find out which of them went on in this archive. A recovery to that timeline follows the archived file."
            .to_owned(),
    }
}

/// Looks whether the archive has WAL of the timeline before this one that this server does not have.
///
/// # Errors
/// That could not be found out: the line for the log.
fn look_back(
    own: &Lineage,
    timeline: u32,
    plan: &Plan,
    visit: &dyn Visit,
    progress: &Progress,
) -> Result<Option<Notice>, Notice> {
    let Some(parent) = own.timelines.parent(timeline) else { return Ok(None) };
    let size = plan.cluster.segment_size;
    match beyond(visit, parent.timeline, parent.switch, size, progress) {
        Ok(segment) => Ok(segment.map(|segment| Notice {
            level: Level::Warning,
            sqlstate: "01000",
            message: format!(
                "WAL after {} on timeline {} is not part of this server: a drill, or a failover that lost it",
                parent.switch, parent.timeline
            ),
            detail: format!(
                "Timeline {timeline} branched off there, and the archive \"{}\" holds \"{segment}\" of timeline {}. From now on a recovery with default settings from this archive, and every standby that reads it, follows timeline {timeline}.",
                visit.location().display(),
                parent.timeline
            ),
            hint: DRILL_HINT.to_owned(),
        })),
        // The server's own file is what matters, and it shows what is wrong with the archive.
        Err(e) => Err(Notice {
            level: Level::Log,
            sqlstate: "00000",
            message: format!(
                "could not find out whether timeline {} goes on in the archive after {}: {e}: {}",
                parent.timeline,
                parent.switch,
                e.detail()
            ),
            detail: String::new(),
            hint: String::new(),
        }),
    }
}

/// What to do about a server that archives beside the one that it was made from.
const DRILL_HINT: &str = "In a drill, set \"archive_mode\" to \"off\" or give this server an archive of its own, and move what it has archived on its own timeline out of this archive. After a failover, keep the WAL of the old timeline until nobody misses anything in it.";

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that the server asked for was reported as hanging while it waited for a long listing that
    /// another file's thread had begun.
    #[test]
    fn whoever_waits_for_another_threads_look_moves_with_it_and_stands_still_with_it() {
        let arrival = Arrival::default();
        let (looks, waits) = (Arc::new(Progress::default()), Arc::new(Progress::default()));
        let seen = arrival.enter(&looks);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(arrival.enter(&waits)));
            std::thread::sleep(20 * WAIT);
            let before = waits.steps();
            std::thread::sleep(20 * WAIT);
            assert_eq!(waits.steps(), before);
            for _ in 0..2000 {
                looks.tick();
                std::thread::sleep(WAIT);
                if waits.steps() >= before + 3 {
                    break;
                }
            }
            assert!(waits.steps() >= before + 3);
            drop(seen);
        });
    }
}
