//! A copy of this process that does the work, so that this one can give up waiting for it.
//!
//! A thread would not do: a process of which the kernel holds one thread in a call that it does not end (a
//! dead disk, a network file system) stays as it is until that call returns, and so does whoever waits for
//! it. A copy that is held like that can be left behind.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::sys::call::check;

/// Where the copy's standard streams lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// To where ours lead.
    Inherited,
    /// Standard error comes to [`Worker::wait`]; the other two lead nowhere. A copy that is left behind then
    /// holds no pipe of somebody who waits for its end.
    Relayed,
}

/// How the copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Exited(u8),
    /// By this signal.
    Killed(i32),
}

/// A copy of this process that is at work. If this process ends, the copy is killed; on systems other than
/// Linux, it is not.
#[derive(Debug)]
pub struct Worker {
    pid: libc::pid_t,
    pipe: PipeReader,
}

impl Worker {
    /// Starts a copy of this process that runs `work` and then exits with the status that it returns.
    ///
    /// # Errors
    /// The copy could not be made, or this process has more than one thread: what the others hold (locks,
    /// memory that is being allocated) would be held in the copy for ever.
    pub fn start(streams: Streams, work: impl FnOnce() -> u8) -> io::Result<Self> {
        if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() != 1) {
            return Err(io::Error::other("the process has more than one thread"));
        }
        let nowhere = match streams {
            Streams::Inherited => None,
            Streams::Relayed => Some(File::options().read(true).write(true).open("/dev/null")?),
        };
        let (pipe, writer) = io::pipe()?;
        // SAFETY: takes no memory of ours. A caller that ignores this signal would never learn how the copy
        // has ended.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        // SAFETY: takes no arguments.
        let parent = unsafe { libc::getpid() };
        // SAFETY: there is one thread, as was made sure above, so the copy finds everything in order.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            drop(pipe);
            std::process::exit(i32::from(be_the_copy(parent, nowhere.as_ref(), writer, work)));
        }
        Ok(Self { pid, pipe })
    }

    /// Returns the copy's number.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid
    }

    /// Waits for at most this long, and hands what the copy has written to `relay`. Returns how the copy has
    /// ended, `None` if it has not.
    ///
    /// # Errors
    /// What `poll`, `read` or `waitpid` report.
    pub fn wait(
        &mut self,
        timeout: Duration,
        relay: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<End>> {
        let millis = timeout.as_millis().try_into().unwrap_or(libc::c_int::MAX);
        let mut poll = libc::pollfd { fd: self.pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure is passed, and it outlives the call.
        match check(unsafe { libc::poll(&raw mut poll, 1, millis) }) {
            Ok(0) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(None),
            result => result?,
        };
        let mut buffer = [0; 4096];
        match self.pipe.read(&mut buffer) {
            // The copy alone holds the other end, so it has ended.
            Ok(0) => self.collect().map(Some),
            Ok(got) => {
                relay(buffer.get(..got).unwrap_or_default());
                Ok(None)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Kills the copy. Returns `false` if it has not ended after this time: the kernel holds it in a call.
    /// It runs nothing of the program any more, and ends when that call returns.
    pub fn kill(mut self, patience: Duration) -> bool {
        // SAFETY: takes no memory of ours. The number is the copy's: it has not been collected.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        let until = std::time::Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            match self.wait(left, &mut |_| {}) {
                Ok(None) if !left.is_zero() => {}
                Ok(None) => return false,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }

    fn collect(&self) -> io::Result<End> {
        let mut status = 0;
        loop {
            // SAFETY: the status is ours, and outlives the call.
            match check(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }) {
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
}

/// The copy's life, up to its exit status. The pipe's end stays open until the process ends.
fn be_the_copy(
    parent: libc::pid_t,
    nowhere: Option<&File>,
    writer: PipeWriter,
    work: impl FnOnce() -> u8,
) -> u8 {
    let writer = ManuallyDrop::new(writer);
    #[cfg(target_os = "linux")]
    // SAFETY: takes no memory of ours.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
    };
    // SAFETY: takes no arguments.
    if unsafe { libc::getppid() } != parent {
        return u8::MAX; // it ended before it was watched
    }
    if let Some(nowhere) = nowhere {
        lead(libc::STDIN_FILENO, nowhere.as_raw_fd());
        lead(libc::STDOUT_FILENO, nowhere.as_raw_fd());
        lead(libc::STDERR_FILENO, writer.as_raw_fd());
    }
    work()
}

/// Makes a standard stream lead to where a descriptor leads. If that fails, it stays as it was: the work is
/// the same.
fn lead(stream: RawFd, to: RawFd) {
    // SAFETY: both numbers are open descriptors, or the call fails; nothing in this process owns the standard
    // streams' numbers.
    unsafe { libc::dup2(to, stream) };
}
