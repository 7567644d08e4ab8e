//! A copy of this process that does the work, so that this one can give up waiting for it.
//!
//! A thread would not do: a process of which the kernel holds one thread in a call that it does not end (a
//! dead disk, a network file system) stays as it is until that call returns, and so does whoever waits for
//! it. A copy that is held like that can be left behind.
//!
//! Nor may it be left behind to end by a signal. Whoever takes orphans may be a server (process 1 of a container):
//! it takes an orphan that a signal has ended for one of its own processes that has crashed, and restarts. So a
//! copy of which threads work, while another one watches, can leave by itself ([`WayOut`]), with status 0.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

use crate::sys::call::check;
use crate::sys::orphan;
use crate::sys::process::handle;

/// A standard stream that is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    const ALL: [Self; 2] = [Self::Output, Self::Error];

    const fn descriptor(self) -> RawFd {
        match self {
            Self::Output => libc::STDOUT_FILENO,
            Self::Error => libc::STDERR_FILENO,
        }
    }

    /// Returns whether the stream is a pipe or a socket: whoever reads it may wait until every process that
    /// holds it has ended.
    fn has_reader(self) -> bool {
        let path = format!("/proc/self/fd/{}", self.descriptor());
        // Where there is no /proc, in doubt it has.
        std::fs::metadata(path)
            .map_or(true, |stream| stream.file_type().is_fifo() || stream.file_type().is_socket())
    }
}

/// How the copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Killed(i32),
    /// It has left and said this, and the kernel may still hold a thread of it.
    Left(u8),
}

/// For the copy: the way to end although the kernel holds one of its threads.
#[derive(Debug)]
pub struct WayOut {
    life: ManuallyDrop<PipeWriter>,
    nowhere: File,
}

impl WayOut {
    /// Ends the copy, whatever its other threads do, and says this of what came of its work. To be called by the
    /// thread that the copy began with.
    ///
    /// Every thread ends at once but the one that the kernel holds. When that comes round, it runs nothing of
    /// the program any more.
    pub fn leave(mut self, result: u8) -> ! {
        // That one of these calls fails is no reason not to end.
        #[cfg(target_os = "linux")]
        // SAFETY: takes no memory of ours. From here on, no signal may be what ends this process, though the one
        // that has started it ends first.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, 0)
        };
        // A thread that is held keeps what is open here, and the working directory.
        let _ = std::env::set_current_dir("/");
        for stream in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            lead(stream, self.nowhere.as_raw_fd());
        }
        let _ = self.life.write_all(&[result]);
        // Who has started it waits for the end of that one.
        orphan::close_but(Some(self.life.as_raw_fd()));
        // SAFETY: takes a number, and runs nothing of the program, so no lock of another thread matters.
        unsafe { libc::_exit(0) }
    }
}

/// A copy of this process that is at work. If this process ends, the copy is killed; on systems other than
/// Linux, it is not.
///
/// It reads nothing from standard input, and what it writes to a stream that somebody reads comes to
/// [`Worker::wait`]: a copy that is left behind must not hold a pipe of somebody who waits for its end.
#[derive(Debug)]
pub struct Worker {
    pid: libc::pid_t,
    /// The copy alone holds the other end, as long as it runs. If it leaves, it writes a byte to it.
    life: PipeReader,
    relayed: Vec<(Stream, PipeReader)>,
}

impl Worker {
    /// Starts a copy of this process that runs `work` and then exits with the status that it returns.
    ///
    /// # Errors
    /// The copy could not be made, or this process has more than one thread: what the others hold (locks,
    /// memory that is being allocated) would be held in the copy for ever.
    pub fn start(work: impl FnOnce(WayOut) -> u8) -> io::Result<Self> {
        Self::start_as(work, false)
    }

    /// The same, of a copy that may become an orphan of a server's, to which no signal may be what has ended it: it
    /// ends with status 0 when this process does, and when it is asked to by SIGTERM, SIGINT, SIGHUP or SIGQUIT. A
    /// server sends the first of them to all that its recovery has started.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn start_quiet(work: impl FnOnce(WayOut) -> u8) -> io::Result<Self> {
        Self::start_as(work, true)
    }

    fn start_as(work: impl FnOnce(WayOut) -> u8, is_quiet: bool) -> io::Result<Self> {
        refuse_threads()?;
        let nowhere = File::options().read(true).write(true).open("/dev/null")?;
        let (life, life_end) = io::pipe()?;
        let (mut relayed, mut ends) = (Vec::new(), Vec::new());
        for stream in Stream::ALL.into_iter().filter(|stream| stream.has_reader()) {
            let (reader, writer) = io::pipe()?;
            relayed.push((stream, reader));
            ends.push((stream, writer));
        }
        // SAFETY: takes no memory of ours. A caller that ignores this signal would never learn how the copy
        // has ended.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        // SAFETY: takes no arguments.
        let parent = unsafe { libc::getpid() };
        // SAFETY: there is one thread, as was made sure above, so the copy finds everything in order.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            drop((life, relayed));
            let way_out = WayOut { life: ManuallyDrop::new(life_end), nowhere };
            let status = be_the_copy(parent, is_quiet, way_out, ends, work);
            std::process::exit(i32::from(status));
        }
        Ok(Self { pid, life, relayed })
    }

    /// Returns the copy's number.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid
    }

    /// Waits for at most this long, and hands what the copy has written to `relay`, which returns `false` if
    /// nobody reads it any more. Returns how the copy has ended, `None` if it has not.
    ///
    /// # Errors
    /// What `poll`, `read` or `waitpid` report.
    pub fn wait(
        &mut self,
        timeout: Duration,
        relay: &mut dyn FnMut(Stream, &[u8]) -> bool,
    ) -> io::Result<Option<End>> {
        let millis = timeout.as_millis().try_into().unwrap_or(libc::c_int::MAX);
        let watched = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polled: Vec<_> = std::iter::once(self.life.as_raw_fd())
            .chain(self.relayed.iter().map(|(_, reader)| reader.as_raw_fd()))
            .map(watched)
            .collect();
        let count = polled.len() as libc::nfds_t;
        // SAFETY: as many structures are passed as there are, and they outlive the call.
        match check(unsafe { libc::poll(polled.as_mut_ptr(), count, millis) }) {
            Ok(0) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(None),
            result => result?,
        };
        let is_ready = |polled: &libc::pollfd| polled.revents != 0;
        let ended = polled.first().is_some_and(is_ready);
        let mut ready = polled.iter().skip(1).map(is_ready);
        let mut kept = Vec::new();
        for (stream, mut reader) in std::mem::take(&mut self.relayed) {
            // What an ended copy has left in the pipe comes first, to its end.
            if !(ready.next() == Some(true) || ended) || pass_on(stream, &mut reader, ended, relay)?
            {
                kept.push((stream, reader));
            }
        }
        self.relayed = kept;
        if !ended {
            return Ok(None);
        }
        let mut said = [0];
        match (self.life.read(&mut said)?, said) {
            (0, _) => collect(self.pid).map(Some),
            (_, [result]) => Ok(Some(End::Left(result))),
        }
    }

    /// Asks the copy to end, by the signal that asks this process: see [`crate::sys::note_requests_to_end`].
    pub fn ask_to_end(&self) {
        // SAFETY: takes no memory of ours. The number is the copy's: it has not been collected.
        unsafe { libc::kill(self.pid, libc::SIGTERM) };
    }

    /// Waits for a copy that has given up. Returns `false` if it has not ended after this time.
    pub fn ends_within(mut self, patience: Duration) -> bool {
        self.relayed.clear();
        matches!(self.wait(patience, &mut |_, _| true), Ok(Some(_)))
    }

    /// Kills the copy. Returns `false` if it has not ended after this time: the kernel holds it in a call.
    /// It runs nothing of the program any more, and ends when that call returns.
    pub fn kill(mut self, patience: Duration) -> bool {
        self.relayed.clear();
        // SAFETY: takes no memory of ours. The number is the copy's: it has not been collected.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.wait(left, &mut |_, _| true) {
                Ok(None) if !left.is_zero() => {}
                Ok(None) => return false,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }
}

/// Makes sure that this process has one thread, so that a copy of it finds everything in order.
fn refuse_threads() -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() != 1) {
        return Err(io::Error::other("the process has more than one thread"));
    }
    Ok(())
}

/// Waits for a child, and returns how it has ended.
fn collect(pid: libc::pid_t) -> io::Result<End> {
    let mut status = 0;
    loop {
        // SAFETY: the status is ours, and outlives the call.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => {
                result?;
                break;
            }
        }
    }
    Ok(if libc::WIFEXITED(status) {
        End::Exited(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    } else {
        End::Killed(libc::WTERMSIG(status))
    })
}

/// Hands on what is in a pipe: one piece of it, or all of it up to its end. Returns whether more can come.
fn pass_on(
    stream: Stream,
    reader: &mut PipeReader,
    to_its_end: bool,
    relay: &mut dyn FnMut(Stream, &[u8]) -> bool,
) -> io::Result<bool> {
    let mut buffer = [0; 16384];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(got) if !relay(stream, buffer.get(..got).unwrap_or_default()) => return Ok(false),
            Ok(_) if !to_its_end => return Ok(true),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The copy's life, up to its exit status. Its end of the pipe stays open until the process ends.
fn be_the_copy(
    parent: libc::pid_t,
    is_quiet: bool,
    way_out: WayOut,
    ends: Vec<(Stream, PipeWriter)>,
    work: impl FnOnce(WayOut) -> u8,
) -> u8 {
    let signal = if is_quiet { libc::SIGTERM } else { libc::SIGKILL };
    if is_quiet {
        end_quietly();
    }
    if !end_with(parent, signal) {
        return if is_quiet { 0 } else { u8::MAX };
    }
    lead(libc::STDIN_FILENO, way_out.nowhere.as_raw_fd());
    for (stream, end) in ends {
        lead(stream.descriptor(), end.as_raw_fd());
    }
    work(way_out)
}

/// Has the signals that ask a process to end do so with status 0.
fn end_quietly() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: takes a number, and may be called in a handler.
        unsafe { libc::_exit(0) }
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // That it fails is no reason not to work.
        let _ = handle(signal, end);
    }
}

/// Has this process sent a signal when its parent ends. Returns `false` if that has ended already.
fn end_with(parent: libc::pid_t, signal: libc::c_int) -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: takes no memory of ours.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, signal)
    };
    // SAFETY: takes no arguments.
    unsafe { libc::getppid() == parent }
}

/// Makes a standard stream lead to where a descriptor leads. If that fails, it stays as it was: the work is
/// the same.
fn lead(stream: RawFd, to: RawFd) {
    // SAFETY: both numbers are open descriptors, or the call fails; nothing in this process owns the standard
    // streams' numbers.
    unsafe { libc::dup2(to, stream) };
}
