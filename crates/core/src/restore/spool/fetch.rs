//! Fetching ahead, by threads of a process of its own or of a call.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::plan::{Job, Plan, next};
use super::{Spool, coming_name};
use crate::restore::{Origin, Outcome, Request, RestoreError, Round, restore};
use crate::server::control::ControlFile;
use crate::store::Progress;
use crate::store::directory::temporary::{self, Owner};
use crate::sys;
use crate::wal::SegmentSize;
use crate::wal::name::{FileKind, FileName, SegmentName};

/// What a spool takes at most, in bytes.
const MOST: u64 = 1 << 30;
/// How many segments are fetched at a time, at most.
const THREADS: u32 = 16;
/// Stack of a thread that fetches, in bytes.
const STACK: usize = 2 << 20;
/// How many segments are fetched before it is known that they are there.
const UNSEEN: usize = 2;
/// How many names one look tells of, at most.
const LISTED: usize = 256;

/// What is fetched from.
pub struct Source {
    /// As [`Request::archives`].
    pub archives: Vec<Origin>,
    /// As [`Request::data_directory`].
    pub data_directory: PathBuf,
    /// As [`Request::allow_unmarked`].
    pub allow_unmarked: bool,
    /// As [`Request::allow_unchecked`].
    pub allow_unchecked: bool,
    /// The server asks for one segment after the other up to the end of the archive. So the next ones are fetched
    /// before a look has told that they are there: a standby at the end would ask for them again and again.
    pub goes_to_end: bool,
    /// Returns which archives have failed lately, by their places; as [`Round::last`].
    pub failed: Box<dyn Fn() -> Vec<usize> + Send + Sync>,
}

/// Fetches what a server will ask for. Each segment is fetched, decoded and checked as by [`restore`], and left to
/// that wherever there is something to say about it: what ends early, what could not be checked, what an archive
/// before has not given.
pub struct Fetcher {
    source: Source,
    spool: Spool,
    size: SegmentSize,
    /// How many segments may be here or on their way.
    most: u32,
    plan: Mutex<Running>,
    changed: Condvar,
}

struct Running {
    plan: Plan,
    /// What is under way, to be given up, and its steps.
    rounds: Vec<Arc<(Round, Progress)>>,
    is_stopped: bool,
}

impl Fetcher {
    /// Prepares to fetch so many segments ahead, and `at_once` of them at the same time to begin with. What whoever has
    /// fetched before and was killed left half done is removed.
    ///
    /// # Errors
    /// The segment size of the server is not known.
    pub fn new(
        source: Source,
        spool: Spool,
        ahead: u32,
        at_once: u32,
    ) -> Result<Self, crate::error::Error> {
        let control = ControlFile::read(&source.data_directory)?;
        let size = control.segment_size.unwrap_or(SegmentSize::DEFAULT);
        let most = ahead.min(u32::try_from(MOST / u64::from(size.bytes())).unwrap_or(1)).max(1);
        spool.tidy();
        let unseen = if source.goes_to_end { UNSEEN } else { 0 };
        let running = Running {
            plan: Plan::new(size, most, at_once.clamp(1, most), unseen),
            rounds: Vec::new(),
            is_stopped: false,
        };
        Ok(Self { source, spool, size, most, plan: Mutex::new(running), changed: Condvar::new() })
    }

    /// Starts the threads that fetch. They run until [`Fetcher::stop`].
    ///
    /// # Errors
    /// None could be started.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut started = Ok(());
        for number in 0..self.most.min(THREADS) {
            let fetcher = Arc::clone(self);
            let thread = sys::start_thread(STACK, move || fetcher.work());
            // One is enough.
            if number == 0 {
                started = thread;
            }
        }
        started
    }

    /// Goes on behind a segment that was delivered.
    pub fn delivered(&self, segment: SegmentName) {
        let mut running = self.running();
        running.plan.delivered(segment);
        self.spool.keep_only(|segment| running.plan.is_wanted(segment));
        drop(running);
        self.changed.notify_all();
    }

    /// Waits until all is here that may be, but no longer than this.
    pub fn wait(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut running = self.running();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // A thread that is just about to take a job is not seen at work.
            if left.is_zero() || running.plan.is_done() {
                return;
            }
            running =
                self.changed.wait_timeout(running, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has the threads end. What is under way is not put in its place any more.
    pub fn stop(&self) {
        let mut running = self.running();
        running.is_stopped = true;
        for begun in running.rounds.drain(..) {
            let _ = begun.0.give_up();
        }
        drop(running);
        self.changed.notify_all();
    }

    /// Returns the place of an archive at which nothing has moved for so long, if something is being fetched there.
    #[must_use]
    pub fn stands_still(&self, limit: Duration) -> Option<usize> {
        let running = self.running();
        let still = running.rounds.iter().find(|begun| begun.1.last_step().elapsed() >= limit);
        still.map(|begun| begun.0.at())
    }

    /// Returns whether something is still being fetched or looked up, given up or not.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.running().plan.is_idle()
    }

    /// A thread that panicked while it held the lock left the plan as it was.
    fn running(&self) -> MutexGuard<'_, Running> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next_job() {
            let done = catch_unwind(AssertUnwindSafe(|| match job {
                Job::List(behind) => match self.list(behind) {
                    Ok(listed) => self.running().plan.listed(behind, listed),
                    Err(e) => {
                        self.complain("list", &format!("the segments behind \"{behind}\""), &e);
                        self.running().plan.list_failed();
                    }
                },
                Job::Fetch(segment) => {
                    let is_here = self.fetch(segment);
                    self.running().plan.fetched(segment, is_here);
                }
            }));
            if done.is_err() {
                self.spool.complain("could not fetch ahead: internal error");
                match job {
                    Job::List(_) => self.running().plan.list_failed(),
                    Job::Fetch(segment) => self.running().plan.fetched(segment, false),
                }
            }
            self.changed.notify_all();
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut running = self.running();
        loop {
            if running.is_stopped {
                return None;
            }
            if let Some(job) = running.plan.take() {
                return Some(job);
            }
            running = self.changed.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Fetches a segment. Returns whether it is here now.
    fn fetch(&self, segment: SegmentName) -> bool {
        if self.spool.has(segment) {
            return true;
        }
        let size = u64::from(self.size.bytes());
        let most = size * u64::from(self.most);
        // What is under way, this one included, has not taken all of its room yet.
        let begun = size * self.running().plan.under_way() as u64;
        if !self.spool.has_room(most + begun) {
            // The same each time, so that it is said once a minute.
            self.spool.complain(&format!(
                "nothing is fetched ahead for lack of room: {} MB must stay free in \"{}\"",
                most >> 20,
                self.spool.path().display()
            ));
            return false;
        }
        let coming = coming_name(segment);
        let _ = self.spool.dir.create_named(&coming);
        let is_here = self.bring(segment);
        let _ = self.spool.dir.unlink(&coming);
        is_here
    }

    fn bring(&self, segment: SegmentName) -> bool {
        let name = FileName::from(segment);
        let round = Round::new((self.source.failed)(), Vec::new());
        let begun = Arc::new((round, Progress::default()));
        let mut running = self.running();
        if running.is_stopped {
            return false;
        }
        running.rounds.push(Arc::clone(&begun));
        drop(running);
        let fetched = restore(&Request {
            archives: &self.source.archives,
            name: &name,
            target: &self.spool.path().join(name.as_str()),
            data_directory: &self.source.data_directory,
            allow_unmarked: self.source.allow_unmarked,
            allow_unchecked: self.source.allow_unchecked,
            patience: Duration::ZERO,
            end_at_hole: None,
            prove_absence: false,
            steps: &begun.1,
            round: &begun.0,
        });
        self.running().rounds.retain(|other| !Arc::ptr_eq(other, &begun));
        match fetched {
            Ok(Outcome::Delivered { given, remark: None, passed_over })
                if passed_over.is_empty() && !given.ends_early =>
            {
                self.spool.forget_before(&given);
                match self.spool.admit(segment, &given) {
                    Ok(()) => return true,
                    Err(e) => self.complain("fetch", &format!("\"{segment}\" ahead"), &e),
                }
            }
            Ok(_) => {}
            // The server is told when it asks for the segment; by then this may have passed.
            Err(e) => self.complain("fetch", &format!("\"{segment}\" ahead"), &e.explained()),
        }
        self.spool.remove(segment);
        false
    }

    fn complain(&self, act: &str, what: &str, error: &dyn std::fmt::Display) {
        if !self.running().is_stopped {
            self.spool.complain(&format!("could not {act} {what}: {error}"));
        }
    }

    /// Looks which segments there are behind one on its timeline. `None` where one look does not tell: in a
    /// directory, a look at each name costs nothing.
    fn list(&self, behind: SegmentName) -> Result<Option<BTreeSet<SegmentName>>, RestoreError> {
        let mut names = BTreeSet::new();
        let Some(first) = next(behind, self.size) else { return Ok(Some(names)) };
        let (steps, mut failed, mut any) = (Progress::default(), None, false);
        for archive in &self.source.archives {
            if !archive.is_remote() {
                return Ok(None);
            }
            let mut seen = 0;
            let mut each = |stored: &str| {
                let Ok((file, _)) = FileName::from_stored(stored) else { return true };
                match file.kind() {
                    FileKind::Segment(segment) if segment.timeline == behind.timeline => {
                        names.insert(segment);
                        seen += 1;
                        seen < LISTED
                    }
                    _ => file.timeline() == Some(behind.timeline),
                }
            };
            let looked = archive.store.visit(&steps);
            match looked.and_then(|visit| visit.list_from(&first.to_string(), &mut each)) {
                Ok(true) => any = true,
                Ok(false) => return Ok(None),
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if !any => Err(e.into()),
            _ => Ok(Some(names)),
        }
    }
}

impl Spool {
    /// Removes what was half done when whoever fetched was killed, and the segments that have no note.
    fn tidy(&self) {
        let mut names = Vec::new();
        let _ = self.dir.for_each_name(|name| names.push(name.to_owned()));
        let coming = names.iter().filter(|name| name.ends_with(".coming"));
        coming.for_each(|name| drop(self.dir.unlink(name)));
        // A call may just be writing one, which stays.
        let _ = temporary::remove_stray(&self.dir, &Owner::this_process());
        self.segments().into_iter().filter(|segment| !self.has(*segment)).for_each(|segment| {
            self.remove(segment);
        });
    }
}
