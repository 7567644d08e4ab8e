//! Archiving one file: durable, atomic, never overwriting.
//!
//! [`archive_file`] is the whole algorithm, top to bottom. docs/design.md has the table of what is
//! on disk, what the server believes and what the next try does, should the machine die after
//! each of its steps.

pub mod compare;
pub mod pool;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::compare::{Comparison, Context};
use crate::encoding::codec::{Codec, Compression, Encoder};
use crate::encoding::digest::{Digest, Hasher};
use crate::error::{Action, Error};
use crate::server::known::Memory;
pub use crate::server::settings::CheckWal;
use crate::server::settings::{Destination, FileMode, FsyncPolicy};
use crate::server::source::Source;
use crate::store::admission;
use crate::store::directory::reading::{Archived, PastCache, read_full};
use crate::store::directory::sink::{Gather, Sink};
use crate::store::directory::staged::{Digests, Publication, Sealed, Staged, Staging, failed};
use crate::store::directory::temporary::Owner;
use crate::sys::buffer::Buffer;
use crate::sys::{self, Dir, Space};
use crate::wal::name::FileName;
use crate::wal::segment::{self, Cluster, HEADER_LEN};
use crate::wal::{SegmentChecker, SegmentReport, SegmentSpec};

/// Everything that decides how files are archived; the same for all files until a setting changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The archive directory.
    pub destination: Destination,
    /// What is flushed before success.
    pub fsync_policy: FsyncPolicy,
    /// Permission of archived files.
    pub file_mode: FileMode,
    /// Encoding of archived files.
    pub compression: Compression,
    /// What is checked of a segment.
    pub check_wal: CheckWal,
    /// Read each new copy back from storage before it is published.
    pub verify: bool,
    /// The cluster whose files they are.
    pub cluster: Cluster,
    /// The data directory's memory of initialised destinations.
    pub memory: Memory,
    /// Who makes temporary files.
    pub owner: Owner,
    /// How files are kept out of sight.
    pub staging: Staging,
}

/// One file to be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The file's name.
    pub name: FileName,
    /// Where the server has it.
    pub source: PathBuf,
}

/// What was done with a file that is now in the archive, as durable as the policy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The archive held the same contents already; they were flushed again.
    pub already_present: bool,
    /// Length of the WAL file, in bytes.
    pub wal_bytes: u64,
    /// Bytes stored in the archive; holes do not count.
    pub stored_bytes: u64,
    /// Digest of the WAL file's own bytes.
    pub content: Digest,
    /// Size and free space of the archive's file system afterwards, where it tells.
    pub space: Option<Space>,
    /// What the check of its records has shown, under [`CheckWal::Records`].
    pub records: Option<Box<SegmentReport>>,
}

/// Counts the steps that a copy has made, for a watcher in another thread: a copy whose count
/// stands still hangs.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    steps: AtomicU64,
    /// When the last step was made, in microseconds since the beginning.
    last: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begun: Instant::now(), steps: AtomicU64::new(0), last: AtomicU64::new(0) }
    }
}

impl Progress {
    /// Counts one step.
    pub fn tick(&self) {
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Returns when the last step was made; at first, when the copy began.
    #[must_use]
    pub fn last_step(&self) -> Instant {
        self.begun + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }
}

/// Archives one file. `buffer` is what it is copied through, best a [`Buffer::large`] that serves
/// many files.
///
/// On return, under [`FsyncPolicy::Full`], the file's bytes and its name survive a power cut, and
/// nothing that stood under a final name was changed. Dies the machine half-way, the archive holds
/// the whole file under its name or nothing under it.
///
/// # Errors
/// The file is not in the archive, or not durably, or other contents are. Nothing under a final
/// name was changed; a temporary file was removed where that was possible.
pub fn archive_file(
    plan: &Plan,
    job: &Job,
    buffer: &mut Buffer,
    progress: &Progress,
) -> Result<Outcome, Error> {
    let source = Source::open(&job.source)?;
    check_segment(plan, job, &source)?;
    source.spare_page_cache();
    let dir = admission::open(
        plan.destination.path(),
        &plan.cluster,
        &plan.memory,
        &plan.owner,
        plan.file_mode.bits(),
    )?;
    progress.tick();

    if let Some(outcome) = find_present(plan, job, &dir, &source, buffer, progress)? {
        return Ok(outcome);
    }
    let mut staging = plan.staging;
    let copied = loop {
        let staged = Staged::create(&dir, &stored_name(plan, job), &plan.owner, staging)?;
        let (sealed, copied) = copy(plan, job, &dir, &source, staged, buffer, progress)?;
        if plan.verify {
            read_back(plan, job, &dir, &sealed, copied.digests.stored, progress)?;
        }
        // While the copy hung the settings may have changed, another archive have taken the file,
        // and the server have reused it.
        source.check_not_moved()?;
        match sealed.publish(&stored_name(plan, job))? {
            Publication::Published => break copied,
            Publication::NeedsName => staging = Staging::Named,
            Publication::NameTaken => {
                // Another server published this name while we copied. What counts is whether it
                // holds the same.
                return find_present(plan, job, &dir, &source, buffer, progress)?
                    .ok_or_else(|| vanished(&dir, &stored_name(plan, job)));
            }
        }
    };
    progress.tick();
    if plan.fsync_policy == FsyncPolicy::Full {
        flush_directory(&dir)?;
        progress.tick();
    }
    // Another server may have published the same name in another encoding meanwhile.
    for codec in Codec::ALL.into_iter().filter(|codec| *codec != plan.compression.codec) {
        compare_with(job, plan, &dir, &source, codec, progress)?;
    }
    Ok(Outcome {
        already_present: false,
        wal_bytes: source.len(),
        stored_bytes: copied.stored_bytes,
        content: copied.digests.content,
        space: dir.space().ok(),
        records: copied.records,
    })
}

fn stored_name(plan: &Plan, job: &Job) -> String {
    job.name.stored(plan.compression.codec)
}

fn check_segment(plan: &Plan, job: &Job, source: &Source) -> Result<(), Error> {
    let Some(name) = job.name.segment().filter(|_| plan.check_wal != CheckWal::Off) else {
        return Ok(());
    };
    let mut header = [0; HEADER_LEN];
    let len = source.read_at(&mut header, 0)?;
    let header = header.get(..len).unwrap_or_default();
    segment::check(name, source.len(), header, &plan.cluster)
        .map_err(|e| Error::Segment { path: source.path().to_owned(), source: e })
}

/// Looks for the file in the archive, in any encoding. Where it is there with the same contents,
/// it is flushed again, and so is the directory: whoever put it there may have died before its
/// own flush.
fn find_present(
    plan: &Plan,
    job: &Job,
    dir: &Dir,
    source: &Source,
    buffer: &mut Buffer,
    progress: &Progress,
) -> Result<Option<Outcome>, Error> {
    let mut present = None;
    for codec in Codec::ALL {
        present = compare_with(job, plan, dir, source, codec, progress)?.or(present);
    }
    let Some((content, stored_bytes)) = present else { return Ok(None) };
    if plan.fsync_policy == FsyncPolicy::Full {
        flush_directory(dir)?;
        progress.tick();
    }
    let wal_bytes = source.len();
    let space = dir.space().ok();
    let records = match plan.check_wal {
        CheckWal::Records => {
            read_source(plan, job, source, buffer.bytes_mut(), progress, |_| Ok(()))?.records
        }
        CheckWal::Off | CheckWal::Header => None,
    };
    Ok(Some(Outcome { already_present: true, wal_bytes, stored_bytes, content, space, records }))
}

/// Compares the file with the one that the archive holds in one encoding, if any: flushed first,
/// then read from storage past the page cache. A flush that succeeds after an earlier one failed
/// proves nothing, for the kernel may have dropped the dirty pages; what is read back does.
fn compare_with(
    job: &Job,
    plan: &Plan,
    dir: &Dir,
    source: &Source,
    codec: Codec,
    progress: &Progress,
) -> Result<Option<(Digest, u64)>, Error> {
    let stored = job.name.stored(codec);
    let Some(archived) = Archived::open(dir, stored, codec)? else { return Ok(None) };
    let path = dir.path().join(&archived.stored_name);
    if plan.fsync_policy != FsyncPolicy::None {
        sys::flush(&archived.file).map_err(|e| Error::io(Action::FlushArchived, &path, e))?;
        progress.tick();
    }
    let segment_size = plan.cluster.segment_size;
    let context = Context { name: &job.name, segment_size, archive: dir };
    match compare::compare(source, &archived, context, progress)? {
        Comparison::Same { content } => Ok(Some((content, archived.entry.len))),
        Comparison::Different(difference) => {
            source.check_not_moved()?;
            Err(Error::Conflict { path, difference })
        }
    }
}

/// What a copy came to.
struct Copied {
    digests: Digests,
    stored_bytes: u64,
    records: Option<Box<SegmentReport>>,
}

/// Copies and hashes in one pass, then seals: attributes, mode, flush.
fn copy<'d>(
    plan: &Plan,
    job: &Job,
    dir: &Dir,
    source: &Source,
    staged: Staged<'d>,
    buffer: &mut Buffer,
    progress: &Progress,
) -> Result<(Sealed<'d>, Copied), Error> {
    let name = stored_name(plan, job);
    let write_failed = |e| failed(dir, &name, Action::WriteCopy, e);
    let copied = if plan.compression.codec == Codec::None {
        let mut sink = Sink::new(staged.file());
        let read = read_source(plan, job, source, buffer.bytes_mut(), progress, |chunk| {
            sink.put(chunk).map_err(write_failed)
        })?;
        let stored_bytes = sink.finish().map_err(write_failed)?;
        let content = read.content;
        let digests = Digests { stored: content, content };
        Copied { digests, stored_bytes, records: read.records }
    } else {
        let (chunk, output) = buffer.halves();
        let gather = Gather::new(staged.file(), output);
        let mut encoder =
            Encoder::new(plan.compression, source.len(), gather).map_err(write_failed)?;
        let read = read_source(plan, job, source, chunk, progress, |chunk| {
            encoder.write_all(chunk).map_err(write_failed)
        })?;
        let gather = encoder.finish().map_err(write_failed)?;
        let (stored, stored_bytes) = gather.finish().map_err(write_failed)?;
        let digests = Digests { stored, content: read.content };
        Copied { digests, stored_bytes, records: read.records }
    };
    progress.tick();
    let flush = plan.fsync_policy != FsyncPolicy::None;
    let sealed = staged.seal(&name, Some(copied.digests), plan.file_mode.bits(), flush)?;
    progress.tick();
    Ok((sealed, copied))
}

/// What one pass over the server's file has shown.
struct Read {
    content: Digest,
    records: Option<Box<SegmentReport>>,
}

/// Reads the server's file chunk by chunk: hashes each, checks its records where that is asked
/// for, and passes it on.
fn read_source(
    plan: &Plan,
    job: &Job,
    source: &Source,
    buffer: &mut [u8],
    progress: &Progress,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<Read, Error> {
    let mut checker = record_checker(plan, job);
    let (mut hasher, mut read) = (Hasher::default(), 0);
    loop {
        let len = source.read_at(buffer, read)?;
        let chunk = buffer.get(..len).unwrap_or_default();
        hasher.update(chunk);
        if let Some(checker) = &mut checker {
            checker.feed(chunk);
        }
        take(chunk)?;
        read += len as u64;
        progress.tick();
        if len < buffer.len() {
            break;
        }
    }
    if read != source.len() {
        return Err(source.changed(read));
    }
    let records = checker.map(|checker| Box::new(checker.finish()));
    Ok(Read { content: hasher.digest(), records })
}

/// Returns a checker for the segment's records, where they are to be checked.
fn record_checker(plan: &Plan, job: &Job) -> Option<SegmentChecker> {
    let segment = job.name.segment().filter(|_| plan.check_wal == CheckWal::Records)?;
    let segment_size = plan.cluster.segment_size;
    let spec = SegmentSpec {
        timeline: segment.timeline,
        start: segment.start(segment_size)?,
        segment_size,
        system_identifier: Some(plan.cluster.system_identifier),
    };
    Some(SegmentChecker::new(spec, None))
}

/// Reads a sealed copy back from storage, past the page cache, and compares its digest.
fn read_back(
    plan: &Plan,
    job: &Job,
    dir: &Dir,
    sealed: &Sealed<'_>,
    expected: Digest,
    progress: &Progress,
) -> Result<(), Error> {
    let path = dir.path().join(stored_name(plan, job));
    let fail = |e| Error::io(Action::ReadBack, &path, e);
    let mut stream = PastCache::new(sealed.file().try_clone().map_err(fail)?);
    let (mut buffer, mut hasher) = (Buffer::new().map_err(fail)?, Hasher::default());
    loop {
        let len = read_full(&mut stream, buffer.bytes_mut()).map_err(fail)?;
        hasher.update(buffer.filled(len));
        progress.tick();
        if len < buffer.bytes().len() {
            break;
        }
    }
    let found = hasher.digest();
    if found == expected {
        return Ok(());
    }
    let reason = format!("BLAKE3 of what was written is {expected}, of what was read back {found}");
    Err(Error::ReadBackDiffers { path, reason })
}

fn flush_directory(dir: &Dir) -> Result<(), Error> {
    dir.flush().map_err(|e| Error::io(Action::FlushDirectory, dir.path(), e))
}

/// The error for a name that was taken a moment ago and is free now.
fn vanished(dir: &Dir, name: &str) -> Error {
    let gone = io::Error::from_raw_os_error(libc::ENOENT);
    Error::io(Action::ReadArchived, dir.path().join(name), gone)
}
