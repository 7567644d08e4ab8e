//! Bringing into an archive what a stopped server or a standby holds in `pg_wal` and the archive lacks: after
//! a failover, and from a lost server.
//!
//! History files go first, then segments by their addresses, then backup history files. Each file goes the
//! archiver's own way: copied, flushed, published without replacing. So whatever is there already is compared
//! and stays, and a run that was interrupted is run again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use super::attempt::archive_alone;
use super::notice::Notice;
use super::plan::{Job, Outcome, Plan, Receipt};
use super::seam::Seam;
use super::without;
use crate::encoding::codec::Compression;
use crate::error::{Action, Error, ErrorKind};
use crate::server::held::{Held, HeldSegment};
use crate::server::known::KnownDestinations;
use crate::server::lineage;
use crate::server::settings::{CheckWal, Destination, DestinationError, FileMode, FsyncPolicy};
use crate::store::directory::Staging;
use crate::store::directory::temporary::Owner;
use crate::store::identity::{self, Identity};
use crate::store::lag::{Archived, Judge, Refusal};
use crate::store::location::{self, Access};
use crate::store::{Progress, Store, mode};
use crate::sys::buffer::Buffer;
use crate::wal::Lsn;
use crate::wal::name::FileName;
use crate::wal::segment::Cluster;
use crate::wal::timeline::Run;

/// Why nothing can be brought.
#[derive(Debug, ThisError)]
pub enum PushError {
    /// The path or the URL of the archive cannot be right.
    #[error("invalid archive: {0}")]
    Destination(DestinationError),
    /// The archive or the data directory is in trouble, or they are not of one cluster.
    #[error(transparent)]
    Failed(#[from] Error),
    /// Nothing says whose archive it is.
    #[error(
        "\"{}\" has no identity file \"{}\": is the archive mounted? For a new archive run \"walsafe init\" first",
        path.display(),
        identity::FILE_NAME
    )]
    Unmarked {
        /// The archive.
        path: PathBuf,
    },
    /// The data directory has no such history file, or it cannot be understood.
    #[error("there is no history file \"{}\" that names the ancestors of its timeline", path.display())]
    NoHistory {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// Makes the plan by which files are brought: everything is flushed, and files get the permission of the
/// archive's identity file. The data directory is not written to.
///
/// # Errors
/// The archive cannot be reached, has no identity file, or is another cluster's.
pub fn plan(
    data_directory: &Path,
    destination: &Path,
    cluster: Cluster,
    compression: Compression,
    access: Access,
    progress: &Progress,
) -> Result<Plan, PushError> {
    let location = location::absolute(destination)
        .map_err(|e| Error::io(Action::OpenDestination, destination, e))?;
    let destination = Destination::new(&location.to_string_lossy(), data_directory)
        .map_err(PushError::Destination)?;
    let path = destination.path().to_owned();
    let file_mode = match destination.is_url() {
        true => None,
        false => mode::like(&path.join(identity::FILE_NAME)),
    };
    let plan = Plan {
        destination,
        fsync_policy: FsyncPolicy::Full,
        file_mode: file_mode.unwrap_or(FileMode::PRIVATE),
        compression,
        check_wal: CheckWal::Header,
        verify: false,
        cluster,
        known: KnownDestinations::only_read(data_directory),
        owner: Owner::this_process(),
        staging: Staging::Unnamed,
        access,
    };
    let store = plan.store();
    let visit = store.visit(progress)?;
    let path = visit.location().to_owned();
    match Identity::at(&*visit)? {
        None => return Err(PushError::Unmarked { path }),
        Some(there) if there.system_identifier != cluster.system_identifier => {
            return Err(PushError::Failed(Error::OtherCluster {
                path: path.join(identity::FILE_NAME),
                ours: cluster.system_identifier,
                theirs: there.system_identifier,
            }));
        }
        Some(_) => {}
    }
    // What another process of this host left behind, such as a run that was killed.
    visit.tidy()?;
    drop(visit);
    Ok(plan)
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Files that are done.
    pub files: usize,
    /// Files to look at in all.
    pub files_total: usize,
    /// Bytes of WAL that were copied.
    pub bytes: u64,
}

/// What ended a run early, or kept one file out.
#[derive(Debug)]
pub enum Trouble {
    /// The file is not right for the archive.
    Refused(Refusal),
    /// The file could not be archived.
    Failed(Error),
}

impl Trouble {
    /// Returns whether it is the file, and not the archive or the machine, that is not right.
    #[must_use]
    pub fn is_the_files(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Failed(error) => {
                error.kind().is_conflict() || error.kind() == ErrorKind::WrongSegment
            }
        }
    }
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Pushed {
    /// The files that are now in the archive and were not before, durable, in the order in which they
    /// went there.
    pub files: Vec<FileName>,
    /// Bytes of WAL in them.
    pub bytes: u64,
    /// Files that were compared with what the archive holds, and are equal.
    pub present: usize,
    /// What the files had to do without, each once.
    pub without: Vec<Notice>,
    /// Files that were not brought, and why.
    pub left: Vec<(FileName, Trouble)>,
    /// The last of those ended the run: what comes after it was not looked at.
    pub stopped: bool,
    /// What is missing in the archive, between what it has and what the server holds.
    pub missing: Vec<Run>,
}

/// Brings everything that the archive lacks. `progress` moves with each step in the archive.
///
/// On return, what [`Pushed::files`] names survives a power cut, and nothing that stood under a final name was
/// changed. If the machine dies half-way, a beginning of it is there.
///
/// # Errors
/// The archive could not be listed, or there is no memory. Trouble with one file is in the value.
pub fn push(
    plan: &Plan,
    held: &Held,
    progress: &Progress,
    each: &mut dyn FnMut(Step),
) -> Result<Pushed, Error> {
    let store = plan.store();
    let visit = store.visit(progress)?;
    let archived = Archived::read(&*visit, held)?;
    let reserve = |e| Error::io(Action::ReserveMemory, plan.destination.path(), e);
    let mut run = Running {
        plan,
        held,
        store: &*store,
        seam: Seam::default(),
        progress,
        buffer: Buffer::large().map_err(reserve)?,
        pushed: Pushed::default(),
        step: Step::default(),
        each,
    };
    let lacking: BTreeMap<Lsn, HeldSegment> =
        archived.lacks(held).map(|segment| (segment.start, segment)).collect();
    let segments = to_look_at(held, &lacking);
    let histories = held.histories.iter().copied();
    let histories: Vec<u32> = histories
        .filter(|timeline| held.is_own(*timeline) || !archived.histories.contains(timeline))
        .collect();
    let backups = held.backups.iter().filter(|name| !archived.backups.contains(*name));
    let backups: Vec<&FileName> = backups.collect();
    run.step.files_total = histories.len() + segments.len() + backups.len();
    let mut archived = archived;
    run.histories(&histories);
    run.segments(&segments, &mut archived, &mut Judge::new(held, &*visit, progress))?;
    for name in backups {
        run.archive(name);
    }
    let mut pushed = run.pushed;
    pushed.missing = archived.missing(held, None);
    Ok(pushed)
}

/// Brings one history file, and nothing else.
///
/// # Errors
/// There is none in the data directory, or it cannot be understood. Trouble with the archive is in the value.
pub fn push_history(
    plan: &Plan,
    pg_wal: &Path,
    timeline: u32,
    progress: &Progress,
) -> Result<Pushed, PushError> {
    let name = format!("{timeline:08X}.history");
    let path = pg_wal.join(&name);
    let there = match lineage::read_history(pg_wal, timeline) {
        Err(e) if e.kind() != ErrorKind::SourceMissing => return Err(e.into()),
        there => matches!(there, Ok(Some(_))),
    };
    let Some(name) = FileName::new(&name).ok().filter(|_| there) else {
        return Err(PushError::NoHistory { path });
    };
    let store = plan.store();
    let reserve = |e| Error::io(Action::ReserveMemory, plan.destination.path(), e);
    let mut buffer = Buffer::new().map_err(reserve)?;
    let job = Job { name, source: path };
    let result = archive_alone(plan, &*store, &Seam::default(), &job, &mut buffer, progress);
    let mut pushed = Pushed::default();
    pushed.note(job.name, result);
    Ok(pushed)
}

/// Returns the segments to look at: what is lacking; what waits, although it is there; and what the
/// server holds beside each that is lacking: if the archive's differs from it, the server's history is another
/// one from there on.
fn to_look_at(held: &Held, lacking: &BTreeMap<Lsn, HeldSegment>) -> Vec<HeldSegment> {
    let size = u64::from(held.cluster.segment_size.bytes());
    let is_lacking = |at: Option<u64>| at.is_some_and(|at| lacking.contains_key(&Lsn(at)));
    let wanted = |segment: &&HeldSegment| {
        let at = segment.start.0;
        segment.waiting
            || is_lacking(Some(at))
            || is_lacking(at.checked_sub(size))
            || is_lacking(at.checked_add(size))
    };
    held.segments.values().filter(wanted).copied().collect()
}

impl Pushed {
    /// Notes what came of one file; returns whether it is in the archive.
    fn note(&mut self, name: FileName, result: Result<Receipt, Error>) -> bool {
        match result {
            Ok(receipt) => {
                for notice in receipt.notices.into_iter().filter(without::is_one) {
                    if self.without.iter().all(|said| said.message != notice.message) {
                        self.without.push(notice);
                    }
                }
                match receipt.outcome {
                    Outcome::Archived => {
                        self.bytes += receipt.wal_bytes;
                        self.files.push(name);
                    }
                    Outcome::AlreadyPresent => self.present += 1,
                }
                true
            }
            Err(error) => {
                self.left.push((name, Trouble::Failed(error)));
                false
            }
        }
    }
}

/// A run under way.
struct Running<'a> {
    plan: &'a Plan,
    held: &'a Held,
    store: &'a dyn Store,
    seam: Seam,
    progress: &'a Progress,
    buffer: Buffer,
    pushed: Pushed,
    step: Step,
    each: &'a mut dyn FnMut(Step),
}

impl Running<'_> {
    /// Archives a file, and returns whether it is there. After a failure nothing more is done.
    fn archive(&mut self, name: &FileName) -> bool {
        if self.pushed.stopped {
            return false;
        }
        let job = Job { name: name.clone(), source: self.held.pg_wal.join(name.as_str()) };
        let result =
            archive_alone(self.plan, self.store, &self.seam, &job, &mut self.buffer, self.progress);
        let done = self.pushed.note(job.name, result);
        self.pushed.stopped = !done;
        self.tell();
        done
    }

    fn tell(&mut self) {
        self.step.files += 1;
        self.step.bytes = self.pushed.bytes;
        (self.each)(self.step);
    }

    /// Brings history files. One that the archive has with other contents ends the run if the server descends
    /// from it: then another server has used that timeline.
    fn histories(&mut self, histories: &[u32]) {
        for timeline in histories {
            let Ok(name) = FileName::new(&format!("{timeline:08X}.history")) else { continue };
            self.archive(&name);
            let last = self.pushed.left.last();
            let theirs = last.is_some_and(|(_, trouble)| trouble.is_the_files());
            if theirs && !self.held.is_own(*timeline) {
                self.pushed.stopped = false;
            }
        }
    }

    fn segments(
        &mut self,
        segments: &[HeldSegment],
        archived: &mut Archived,
        judge: &mut Judge<'_>,
    ) -> Result<(), Error> {
        let reserve = |e| Error::io(Action::ReserveMemory, self.plan.destination.path(), e);
        let mut chunk = Buffer::new().map_err(reserve)?;
        for segment in segments {
            if self.pushed.stopped {
                break;
            }
            let Ok(name) = FileName::new(&segment.name.to_string()) else { continue };
            if !archived.has(segment.start) {
                let refusal = match judge.judge(archived, *segment, &mut chunk) {
                    Ok(refusal) => refusal.map(Trouble::Refused),
                    Err(error) => Some(Trouble::Failed(error)),
                };
                if let Some(trouble) = refusal {
                    self.pushed.stopped = !matches!(trouble, Trouble::Refused(Refusal::Damaged(_)));
                    self.pushed.left.push((name, trouble));
                    self.tell();
                    continue;
                }
            }
            if self.archive(&name) {
                archived.note(self.held, *segment)?;
            }
        }
        Ok(())
    }
}
