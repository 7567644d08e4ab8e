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
use std::sync::atomic::{AtomicBool, Ordering};
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
use crate::watchdog::IMPATIENCE;

/// The command that fetches. No user calls it.
pub(crate) const COMMAND: &str = "restore-ahead";

/// What that command finds in its environment.
const STARTED: &str = "WALSAFE_STARTED_BY_RESTORE";

/// The exit status of that command when it could not run. It returns no other but 0.
pub(crate) const NOT_RUN: u8 = 1;

/// How many segments are fetched ahead from object storage, unless --ahead says it.
const USUAL: u32 = 8;

/// How many of them a process fetches at the same time to begin with.
const AT_ONCE: u32 = 2;

/// The name under which a server in recovery wants a segment (`RestoreArchivedFile` in
/// `access/transam/xlogarchive.c`). Another one is somebody else's, such as `pg_rewind`'s.
const WANTED_AS: &str = "RECOVERYXLOG";

/// How many orphans may wait to be collected: a slow one leaves some for a second, and where nobody collects them they
/// stay for ever.
const MOST_LEFT: usize = 64;

/// How often the process that fetches looks what was delivered.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it looks whether the recovery goes on.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// How long nothing may be asked for before it ends.
const UNASKED: Duration = Duration::from_secs(60);
/// How long a call waits for whoever fetches to leave the room that it needs itself.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
/// How long the process that fetches waits for its threads at the end.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How long it waits for the lock, which calls hold for moments.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How long a call that fetches several waits for the others once its own is there, at least and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A recovery whose segments are fetched ahead.
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
        let there = data_directory.metadata().ok()?;
        let key = Key {
            server: format!("{} {}", server.pid, server.started),
            data_directory: format!("{}:{}", there.dev(), there.ino()),
            archives: digest_of(arguments).ok()?,
        };
        let spool = std::path::absolute(place(arguments)).ok()?;
        Some(Self { data_directory, server, key, spool })
    }

    fn open(&self) -> Result<Spool, SpoolError> {
        let pg_wal = self.data_directory.join("pg_wal");
        Spool::open(&self.spool, &pg_wal, &self.key, || way(&self.server))
    }

    fn goes_on(&self) -> bool {
        self.server.runs(&self.data_directory) && postmaster::recovers(&self.data_directory)
    }
}

/// Returns who may fetch. A server takes over orphans as process 1, or where it was made to; and one server may have
/// been started in the container of another. Where nobody collects them, no more are made than a few: a standby would
/// leave one for each time that it falls behind.
fn way(server: &Postmaster) -> Way {
    let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let is_server =
        |pid| pid == server.pid || name(pid).is_some_and(|it| name(server.pid) == Some(it));
    // Where process 1 is one, no orphan is made to find out.
    if is_server(1) {
        return Way::Calls;
    }
    match sys::adopter() {
        Ok(adopter) if !is_server(adopter) && sys::uncollected(adopter) < MOST_LEFT => Way::Process,
        _ => Way::Calls,
    }
}

/// Returns where the spool is.
fn place(arguments: &Restore) -> PathBuf {
    arguments.spool.clone().unwrap_or_else(|| Path::new("pg_wal").join(DIRECTORY))
}

/// Returns a digest of where segments come from, and how.
fn digest_of(arguments: &Restore) -> io::Result<Digest> {
    let mut text = Vec::new();
    for from in &arguments.from {
        text.extend_from_slice(location::absolute(from)?.as_os_str().as_bytes());
        text.push(0);
    }
    text.push(arguments.allow_unmarked.into());
    text.push(arguments.allow_unchecked.into());
    text.extend_from_slice(&count(arguments).to_ne_bytes());
    if let Some(file) = arguments.common.access(None).credentials_file {
        text.extend_from_slice(file.as_os_str().as_bytes());
    }
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
    /// What earlier calls have left. `None` for the first one in a standby that delivers.
    spool: Option<Spool>,
    /// The server asks for one segment after the other.
    goes_on: bool,
    /// It was looked for in the spool.
    is_looked_for: AtomicBool,
    /// The process that fetches was started by this call.
    is_started: AtomicBool,
    fetcher: OnceLock<Option<Arc<Fetcher>>>,
}

impl<'a> Ahead<'a> {
    /// Prepares it. `None` if nothing is to be fetched ahead.
    ///
    /// # Errors
    /// It was to be, and the spool cannot be used.
    pub(super) fn of(arguments: &'a Restore, name: &FileName) -> Result<Option<Self>, SpoolError> {
        let segment = match name.kind() {
            FileKind::Segment(segment) => segment,
            FileKind::History { .. } => {
                forget_at_the_end(arguments);
                return Ok(None);
            }
            _ => return Ok(None),
        };
        if count(arguments) == 0 || !is_for_recovery(&arguments.target) {
            return Ok(None);
        }
        let Some(recovery) = Recovery::of(arguments) else { return Ok(None) };
        // A recovery asks for one segment after the other. A standby may stream meanwhile, and ask for one now and then.
        let is_standby = postmaster::is_standby(Path::new("."));
        let spool = if is_standby && recovery.spool.symlink_metadata().is_err() {
            None
        } else {
            match recovery.open() {
                Err(SpoolError::BeingLeft { .. }) => return Ok(None),
                opened => Some(opened?),
            }
        };
        let goes_on = !is_standby || goes_on(&recovery, spool.as_ref(), segment);
        Ok(Some(Self {
            arguments,
            recovery,
            segment,
            spool,
            goes_on,
            is_looked_for: AtomicBool::new(false),
            is_started: AtomicBool::new(false),
            fetcher: OnceLock::new(),
        }))
    }

    /// Returns what the process that fetches has left to be said.
    pub(super) fn complaint(&self) -> Option<String> {
        self.spool.as_ref().and_then(Spool::take_complaint)
    }

    /// Puts the segment in its place if it was fetched, and waits for it if it is on its way. A second round does not
    /// wait again.
    pub(super) fn take(&self, steps: &Progress, round: &Round) -> Option<Given> {
        let spool = self.spool.as_ref()?;
        if self.is_looked_for.swap(true, Ordering::Relaxed) {
            return None;
        }
        let taken = spool.take(self.segment, &self.arguments.target, steps, round);
        taken.unwrap_or_else(|e| {
            spool.complain(&e.to_string());
            None
        })
    }

    /// Has a process fetch what comes next, if that is how it is done and this is the first call of a recovery: while
    /// this one fetches its own segment. Later calls find that process.
    pub(super) fn begin_recovery(&self) {
        let is_first = |spool: &&Spool| spool.way() == Way::Process && spool.asked().is_none();
        if let Some(spool) = self.spool.as_ref().filter(is_first).filter(|_| self.goes_on) {
            self.ask_process(spool);
        }
    }

    /// Begins to fetch what comes next in threads of this process, if that is how it is done.
    pub(super) fn begin(&self) {
        if let Some(spool) = self.spool.as_ref().filter(|_| self.goes_on)
            && spool.way() == Way::Calls
        {
            let begun = || self.fetcher(spool).inspect_err(|e| spool.complain(e)).ok();
            let _ = self.fetcher.get_or_init(begun);
        }
    }

    fn fetcher(&self, spool: &Spool) -> Result<Arc<Fetcher>, String> {
        if !spool.lock().map_err(|e| e.to_string())? {
            return Err(SpoolError::InUse { path: self.recovery.spool.clone() }.to_string());
        }
        let spool = spool.again().map_err(|e| e.to_string())?;
        fetch_into(spool, self.arguments, &self.recovery, self.segment)
    }

    /// Ends what is fetched here: nothing of this process goes on when the call has ended. If its own segment was
    /// delivered, it waits for the others, within limits.
    pub(super) fn finish(&self, begun: Instant, is_delivered: bool) {
        if let Some(Some(fetcher)) = self.fetcher.get() {
            if is_delivered {
                // At the same pace, the others are here about as soon as this one was.
                fetcher.wait(begun.elapsed().clamp(WAIT.0, WAIT.1));
            }
            fetcher.stop();
        }
    }

    /// Removes all that was fetched ahead: there is no room for what is asked for. What is on its way holds its room
    /// until whoever fetches it has left, and that is waited for.
    pub(super) fn make_room(&self, steps: &Progress) {
        let Some(spool) = &self.spool else { return };
        if let Some(Some(fetcher)) = self.fetcher.get() {
            fetcher.stop();
        }
        // A process that fetches leaves when its key is gone. A call of this way has the lock itself.
        let is_held = || self.is_busy() || spool.way() == Way::Process && spool.is_locked();
        let until = Instant::now() + ROOM_PATIENCE;
        loop {
            spool.empty();
            if !is_held() || Instant::now() >= until {
                return;
            }
            // No archive is asked meanwhile, and none is to blame.
            steps.tick();
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Removes what came from an archive that was begun anew since.
    pub(super) fn forget_before(&self, given: &Given) {
        let (Some(spool), Ok(from)) = (&self.spool, location::absolute(&given.from)) else {
            return;
        };
        spool.forget_before(&Given { from, ..given.clone() });
    }

    /// Returns whether something is still fetched here, given up or not.
    pub(super) fn is_busy(&self) -> bool {
        self.fetcher.get().is_some_and(|fetcher| fetcher.as_ref().is_some_and(|f| f.is_busy()))
    }

    /// Has what comes next fetched, now that the segment was delivered. What is wrong with that is for the next call
    /// to say.
    pub(super) fn delivered(&self) {
        let opened;
        let spool = match &self.spool {
            Some(spool) => spool,
            // It may not be made, and that is said when the next call cannot either.
            None => match self.recovery.open() {
                Ok(spool) => {
                    opened = spool;
                    &opened
                }
                Err(_) => return,
            },
        };
        self.ask_process(spool);
    }

    /// Tells the process that fetches where the recovery is, and starts it if there is none.
    fn ask_process(&self, spool: &Spool) {
        if let Err(e) = spool.note_asked(self.segment) {
            spool.complain(&e.to_string());
            return;
        }
        // One that was just started may not have the lock yet.
        let is_started = || self.is_started.load(Ordering::Relaxed) || spool.is_locked();
        if spool.way() == Way::Process && self.goes_on && !is_started() {
            match start(self.arguments) {
                Ok(()) => self.is_started.store(true, Ordering::Relaxed),
                Err(e) => {
                    spool.complain(&format!("could not start the process that fetches ahead: {e}"));
                }
            }
        }
    }
}

/// Removes a spool that nobody uses. No call comes after those for history files at the end of a recovery; a standby
/// that comes to the end of the archive asks for them too, and has nothing there.
fn forget_at_the_end(arguments: &Restore) {
    if Postmaster::of(Path::new(".")).is_some() {
        Spool::discard(&place(arguments), Path::new("pg_wal"));
    }
}

/// Returns whether a standby asks for one segment after the other.
fn goes_on(recovery: &Recovery, spool: Option<&Spool>, segment: SegmentName) -> bool {
    let control = ControlFile::read(&recovery.data_directory).ok();
    let size = control.and_then(|control| control.segment_size);
    size.is_some_and(|size| follows(spool.and_then(Spool::asked), segment, size))
}

/// Returns whether a server in recovery asks for the target.
fn is_for_recovery(target: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|there| (there.dev(), there.ino())).ok();
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    target.file_name().is_some_and(|name| name == WANTED_AS)
        && parent.and_then(place).is_some_and(|there| place(Path::new("pg_wal")) == Some(there))
}

/// Starts the process that fetches, with the arguments of this one. What the server asked for now is no business
/// of it.
fn start(arguments: &Restore) -> io::Result<()> {
    let general = |argument: OsString| {
        if *argument == *arguments.file {
            "%f".into()
        } else if *argument == *arguments.target {
            "%p".into()
        } else {
            argument
        }
    };
    let given = std::env::args_os().skip(2).map(general);
    let (input, output, error) = (Stdio::null(), Stdio::null(), Stdio::null());
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(COMMAND).args(given).env(STARTED, "1");
    // It is not waited for: this process ends first.
    command.stdin(input).stdout(output).stderr(error).spawn().map(drop)
}

/// Returns whether this process was started by [`start`]. As a `restore_command`, the command would tell a server
/// that there is no more WAL.
pub(super) fn is_started() -> bool {
    std::env::var_os(STARTED).is_some()
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
        goes_to_end: !postmaster::is_standby(&recovery.data_directory),
        failed: Box::new(failed),
    };
    // A call waits for all that it fetches, and the server waits for the first that a process fetches.
    let at_once = if spool.way() == Way::Calls { u32::MAX } else { AT_ONCE };
    let fetcher =
        Fetcher::new(source, spool, count(arguments), at_once).map_err(|e| e.to_string())?;
    let fetcher = Arc::new(fetcher);
    fetcher.delivered(segment);
    fetcher.start().map_err(|e| format!("could not start a thread: {e}"))?;
    Ok(fetcher)
}

/// Runs the process that fetches, until the recovery ends or nothing is asked for any more. Returns its exit
/// status.
pub(super) fn run(arguments: &Restore) -> u8 {
    let Some(recovery) = Recovery::of(arguments) else {
        // It has ended meanwhile.
        Spool::discard(&place(arguments), Path::new("pg_wal"));
        return super::DONE;
    };
    if sys::detach().is_err() {
        return NOT_RUN;
    }
    let Ok(spool) = recovery.open() else { return NOT_RUN };
    if spool.way() == Way::Calls || !lock(&spool) {
        return super::DONE;
    }
    let Some(asked) = spool.asked() else {
        // The spool was removed since that was noted, because the recovery has come to its end.
        spool.remove_all();
        return super::DONE;
    };
    let fetch = || {
        let fetched = spool.again().map_err(|e| e.to_string())?;
        fetch_into(fetched, arguments, &recovery, asked.0)
    };
    match fetch() {
        Ok(fetcher) => {
            let why = follow(arguments, &recovery, &spool, &fetcher, asked);
            fetcher.stop();
            // What a thread is just writing would stay. One that hangs is not waited for.
            let until = Instant::now() + END_PATIENCE;
            while fetcher.is_busy() && Instant::now() < until {
                thread::sleep(LOOK_EVERY);
            }
            // What is there is good where the archive hangs, or the recovery is slow.
            if why == Why::Over && spool.is_of(&recovery.key) {
                spool.remove_all();
            }
            sys::leave(super::DONE.into())
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

/// Why nothing more is fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// There is nobody to fetch for.
    Over,
    /// Nothing was asked for in a while. A recovery asks again when it has replayed what it has; a standby may stream.
    Idle,
    /// An archive hangs.
    Hung,
}

/// Hands on what was delivered, until there is nobody to fetch for, or an archive hangs.
fn follow(
    arguments: &Restore,
    recovery: &Recovery,
    spool: &Spool,
    fetcher: &Fetcher,
    mut asked: (SegmentName, SystemTime),
) -> Why {
    let (mut since, mut checked) = (Instant::now(), Instant::now());
    while since.elapsed() < UNASKED {
        thread::sleep(LOOK_EVERY);
        if let Some(now) = spool.asked().filter(|now| *now != asked) {
            (asked, since) = (now, Instant::now());
            fetcher.delivered(asked.0);
        }
        if checked.elapsed() >= CHECK_EVERY {
            if !recovery.goes_on() || !spool.is_of(&recovery.key) {
                return Why::Over;
            }
            if let Some(archive) = limit(arguments).and_then(|limit| fetcher.stands_still(limit)) {
                say_hung(arguments, recovery, spool, archive);
                return Why::Hung;
            }
            checked = Instant::now();
        }
    }
    if postmaster::is_standby(&recovery.data_directory) { Why::Over } else { Why::Idle }
}

/// Returns for how long nothing may move in an archive.
fn limit(arguments: &Restore) -> Option<Duration> {
    let timeout = arguments.common.timeout()?;
    Some(if arguments.from.len() > 1 { timeout.min(IMPATIENCE) } else { timeout })
}

/// Says that an archive hangs. The threads there are lost: the next call starts another process, which asks that
/// archive last.
fn say_hung(arguments: &Restore, recovery: &Recovery, spool: &Spool, archive: usize) {
    let Some(from) = arguments.from.get(archive) else { return };
    if arguments.from.len() > 1 {
        lately::note_failed(std::iter::once(&**from), &recovery.data_directory);
    }
    let shown = location::shown(from);
    spool.complain(&format!("nothing has moved in \"{}\" while fetching ahead", shown.display()));
}
