//! Fetching ahead: what a recovery will ask for next, while the server replays what it has.
//!
//! The server waits for a call, and a call can leave nothing behind that goes on but a process of its own. That
//! one (`walsafe restore-ahead`, with the arguments of the call) fetches into a spool, and later calls deliver out of
//! it. Where its parent would be the server, once the call has ended, there is none: the server takes an orphan
//! that ends badly for one of its own processes that has crashed, and restarts. There the calls themselves fetch
//! several segments at a time.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use walsafe_core::encoding::digest::Digest;
use walsafe_core::restore::spool::{
    DIRECTORY, Fetcher, Given, Key, Source, Spool, SpoolError, Way, follows,
};
use walsafe_core::restore::{Origin, Round};
use walsafe_core::server::control::ControlFile;
use walsafe_core::server::postmaster::{self, Postmaster};
use walsafe_core::store::{Progress, location};
use walsafe_core::sys;
use walsafe_core::wal::name::{FileKind, FileName, SegmentName};

use super::lately;
use crate::arguments::Restore;

/// The command that fetches. No user calls it.
pub(crate) const COMMAND: &str = "restore-ahead";

/// The exit status of that command when it could not run. It has no other but 0, whatever happens.
pub(crate) const NOT_RUN: u8 = 1;

/// How many segments are fetched ahead from object storage, unless it is said.
const USUAL: u32 = 8;

/// The name under which a server in recovery wants a segment (`RestoreArchivedFile` in
/// `access/transam/xlogarchive.c`). Another one is somebody else's, such as `pg_rewind`'s.
const WANTED_AS: &str = "RECOVERYXLOG";

/// How often the process that fetches looks what was delivered.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it looks whether the recovery goes on.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// How long nothing may be asked for before it ends.
const UNASKED: Duration = Duration::from_secs(60);
/// How long it waits for the lock, which calls hold for moments.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How long a call that fetches several waits for the others once its own is there, at least and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));

/// A recovery for which is fetched ahead.
struct Recovery {
    data_directory: PathBuf,
    server: Postmaster,
    key: Key,
    spool: PathBuf,
}

impl Recovery {
    /// Returns the recovery of the server in the working directory that a call is made for, if there is one.
    fn of(arguments: &Restore) -> Option<Self> {
        let data_directory = std::env::current_dir().ok()?;
        let server = Postmaster::of(&data_directory)?;
        if !postmaster::recovers(&data_directory) {
            return None;
        }
        let spool = arguments.spool.clone().unwrap_or_else(|| Path::new("pg_wal").join(DIRECTORY));
        let there = data_directory.metadata().ok()?;
        let key = Key {
            server: format!("{} {}", server.pid, server.started),
            data_directory: format!("{}:{}", there.dev(), there.ino()),
            archives: digest_of(arguments).ok()?,
        };
        let spool = std::path::absolute(spool).ok()?;
        Some(Self { data_directory, server, key, spool })
    }

    fn open(&self) -> Result<Spool, SpoolError> {
        let pg_wal = self.data_directory.join("pg_wal");
        Spool::open(&self.spool, &pg_wal, &self.key, || match self.server.pid {
            1 => Way::Calls,
            server => match sys::adopter() {
                Ok(adopter) if adopter != server => Way::Process,
                _ => Way::Calls,
            },
        })
    }

    fn goes_on(&self) -> bool {
        self.server.runs(&self.data_directory) && postmaster::recovers(&self.data_directory)
    }
}

/// Returns what the archives and what is accepted of them have to themselves.
fn digest_of(arguments: &Restore) -> io::Result<Digest> {
    let mut text = Vec::new();
    for from in &arguments.from {
        text.extend_from_slice(location::absolute(from)?.as_os_str().as_bytes());
        text.push(0);
    }
    text.push(arguments.allow_unmarked.into());
    text.push(arguments.allow_unchecked.into());
    Ok(Digest::of(&text))
}

/// Returns how many segments are to be fetched ahead.
fn count(arguments: &Restore) -> u32 {
    let usual = if arguments.from.iter().any(|from| location::is_url(from)) { USUAL } else { 0 };
    arguments.ahead.unwrap_or(usual)
}

/// Fetching ahead, as a call sees it that is asked for a segment.
pub(super) struct Ahead<'a> {
    arguments: &'a Restore,
    recovery: Recovery,
    segment: SegmentName,
    spool: Spool,
    /// The server asks for one segment after the other.
    goes_on: bool,
    fetcher: OnceLock<Option<Arc<Fetcher>>>,
}

impl<'a> Ahead<'a> {
    /// Prepares it. `None` if nothing is to be fetched ahead.
    ///
    /// # Errors
    /// It was to be, and the spool cannot be used.
    pub(super) fn of(arguments: &'a Restore, name: &FileName) -> Result<Option<Self>, SpoolError> {
        if count(arguments) == 0 {
            return Ok(None);
        }
        match name.kind() {
            FileKind::Segment(segment) if is_for_recovery(&arguments.target) => {
                let Some(recovery) = Recovery::of(arguments) else { return Ok(None) };
                let spool = match recovery.open() {
                    Err(SpoolError::BeingLeft { .. }) => return Ok(None),
                    opened => opened?,
                };
                let control = ControlFile::read(&recovery.data_directory).ok();
                let size = control.and_then(|control| control.segment_size);
                let goes_on = size.is_some_and(|size| follows(spool.asked(), segment, size));
                let fetcher = OnceLock::new();
                Ok(Some(Self { arguments, recovery, segment, spool, goes_on, fetcher }))
            }
            FileKind::History { .. } => {
                forget_at_the_end(arguments);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Returns what the process that fetches has left to be said.
    pub(super) fn complaint(&self) -> Option<String> {
        self.spool.take_complaint()
    }

    /// Puts the segment in its place if it was fetched, and waits for it if it is on its way.
    pub(super) fn take(&self, steps: &Progress, round: &Round) -> Option<Given> {
        let target = &self.arguments.target;
        self.spool.take(self.segment, target, steps, round).unwrap_or_else(|e| {
            self.spool.complain(&e.to_string());
            None
        })
    }

    /// Begins to fetch what comes next in threads of this process, if that is how it is done.
    pub(super) fn begin(&self) {
        if self.spool.way() == Way::Calls && self.goes_on {
            let _ = self
                .fetcher
                .get_or_init(|| self.fetcher().inspect_err(|e| self.spool.complain(e)).ok());
        }
    }

    fn fetcher(&self) -> Result<Arc<Fetcher>, String> {
        if !self.spool.lock().map_err(|e| e.to_string())? {
            return Err(SpoolError::InUse { path: self.recovery.spool.clone() }.to_string());
        }
        let spool = self.recovery.open().map_err(|e| e.to_string())?;
        fetch_into(spool, self.arguments, &self.recovery, self.segment)
    }

    /// Ends what is fetched here: nothing of this process goes on when the call has ended. If its own segment was
    /// delivered, it waits for the others, within limits.
    pub(super) fn finish(&self, begun: Instant, is_delivered: bool) {
        if let Some(Some(fetcher)) = self.fetcher.get() {
            if is_delivered {
                // What is on its way at the same pace comes about as soon as this one.
                fetcher.wait(begun.elapsed().clamp(WAIT.0, WAIT.1));
            }
            fetcher.stop();
        }
    }

    /// Returns whether something is still fetched here, given up or not.
    pub(super) fn is_busy(&self) -> bool {
        self.fetcher.get().is_some_and(|fetcher| fetcher.as_ref().is_some_and(|f| f.is_busy()))
    }

    /// Has what comes next fetched, now that the segment was delivered.
    pub(super) fn delivered(&self) {
        if let Err(e) = self.spool.note_asked(self.segment) {
            self.spool.complain(&e.to_string());
            return;
        }
        if self.spool.way() == Way::Process
            && self.goes_on
            && !self.spool.is_locked()
            && let Err(e) = start()
        {
            self.spool.complain(&format!("could not start the process that fetches ahead: {e}"));
        }
    }
}

/// Returns whether a server in recovery asks for the target.
fn is_for_recovery(target: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|there| (there.dev(), there.ino())).ok();
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    target.file_name().is_some_and(|name| name == WANTED_AS)
        && parent.and_then(place).is_some_and(|there| place(Path::new("pg_wal")) == Some(there))
}

/// Removes what calls have fetched and no recovery has asked for. At its end the server asks for history files,
/// and no call comes later; a standby that comes to the end of the archive asks for them too.
fn forget_at_the_end(arguments: &Restore) {
    let Some(recovery) = Recovery::of(arguments) else { return };
    if recovery.spool.is_dir()
        && let Ok(spool) = recovery.open()
        && spool.way() == Way::Calls
    {
        spool.remove_all();
    }
}

/// Starts the process that fetches, with the arguments of this one.
fn start() -> io::Result<()> {
    let arguments: Vec<OsString> = std::env::args_os().skip(2).collect();
    let program = std::env::current_exe()?;
    let (input, output, error) = (Stdio::null(), Stdio::null(), Stdio::null());
    let mut command = Command::new(program);
    command.arg(COMMAND).args(arguments).stdin(input).stdout(output).stderr(error);
    // It is not waited for: this process ends first.
    command.spawn().map(drop)
}

/// Starts threads that fetch what comes behind a segment.
fn fetch_into(
    spool: Spool,
    arguments: &Restore,
    recovery: &Recovery,
    segment: SegmentName,
) -> Result<Arc<Fetcher>, String> {
    let mut access = arguments.common.access(Some(&recovery.data_directory));
    access.credentials_file =
        access.credentials_file.map(|file| recovery.data_directory.join(file));
    let archive = |from: &PathBuf| {
        // The process that fetches works elsewhere.
        let from =
            if location::is_url(from) { from.clone() } else { recovery.data_directory.join(from) };
        Origin::new(&from, &access).map_err(|e| e.to_string())
    };
    let archives = arguments.from.iter().map(archive).collect::<Result<Vec<_>, _>>()?;
    let (from, data_directory) = (arguments.from.clone(), recovery.data_directory.clone());
    let failed = move || {
        if from.len() > 1 { lately::failed(&from, &data_directory) } else { Vec::new() }
    };
    let source = Source {
        archives,
        data_directory: recovery.data_directory.clone(),
        allow_unmarked: arguments.allow_unmarked,
        allow_unchecked: arguments.allow_unchecked,
        failed: Box::new(failed),
    };
    let fetcher = Fetcher::new(source, spool, count(arguments)).map_err(|e| e.to_string())?;
    let fetcher = Arc::new(fetcher);
    fetcher.delivered(segment);
    fetcher.start().map_err(|e| format!("could not start a thread: {e}"))?;
    Ok(fetcher)
}

/// Runs the process that fetches, until the recovery ends or nothing is asked for any more. Returns its exit
/// status.
pub(super) fn run(arguments: &Restore) -> u8 {
    let Some(recovery) = Recovery::of(arguments) else { return super::DONE };
    if sys::detach().is_err() {
        return NOT_RUN;
    }
    let Ok(spool) = recovery.open() else { return NOT_RUN };
    if spool.way() == Way::Calls || !lock(&spool) {
        return super::DONE;
    }
    let fetch = || {
        let asked = spool.asked().ok_or("nothing was asked for")?;
        let fetched = recovery.open().map_err(|e| e.to_string())?;
        Ok((fetch_into(fetched, arguments, &recovery, asked.0)?, asked))
    };
    match fetch() {
        Ok((fetcher, asked)) => {
            follow(&recovery, &spool, &fetcher, asked);
            fetcher.stop();
            if spool.is_of(&recovery.key) {
                spool.remove_all();
            }
            super::DONE
        }
        Err(e) => {
            let e: String = e;
            spool.complain(&format!("nothing is fetched ahead: {e}"));
            NOT_RUN
        }
    }
}

/// Becomes the one who fetches, if nobody else does.
fn lock(spool: &Spool) -> bool {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match spool.lock() {
            Ok(true) => return true,
            Ok(false) if Instant::now() < until => thread::sleep(LOOK_EVERY),
            _ => return false,
        }
    }
}

/// Hands on what was delivered, until there is nobody to fetch for.
fn follow(
    recovery: &Recovery,
    spool: &Spool,
    fetcher: &Fetcher,
    mut asked: (SegmentName, SystemTime),
) {
    let (mut since, mut checked) = (Instant::now(), Instant::now());
    while since.elapsed() < UNASKED {
        thread::sleep(LOOK_EVERY);
        if let Some(now) = spool.asked().filter(|now| *now != asked) {
            (asked, since) = (now, Instant::now());
            fetcher.delivered(asked.0);
        }
        if checked.elapsed() >= CHECK_EVERY {
            if !recovery.goes_on() || !spool.is_of(&recovery.key) {
                return;
            }
            checked = Instant::now();
        }
    }
}
