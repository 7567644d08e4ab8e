//! A process for somebody to wait for, in front of the one that works.
//!
//! A process of which the kernel holds a thread in a call cannot be waited for. It must not be killed and left to
//! whoever takes orphans either: where that is a server (process 1 of a container), it takes an orphan that a
//! signal has ended for one of its own processes that has crashed, and restarts. So the process that works ends
//! itself, with status 0. That ends every thread of it but the one that is held; when that comes round, it runs
//! nothing of the program any more.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::sys::call::check;
use crate::sys::worker::{self, End, lead};

/// How the process that works has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By itself.
    Ended(End),
    /// It gave up what it was doing.
    GivenUp {
        /// Its number, if the kernel still holds it.
        left: Option<i32>,
    },
}

/// For the process that works: the way to end although the kernel holds one of its threads.
#[derive(Debug)]
pub struct WayOut {
    result: PipeWriter,
    nowhere: File,
}

/// Runs `work` in a copy of this process that may start threads, and returns how it has ended: with the status
/// that `work` returns, unless it gave up.
///
/// If it gave up, this call waits for so long until its threads have ended too.
///
/// If this process ends before, the copy is killed; on systems other than Linux, it is not.
///
/// # Errors
/// The copy could not be made, or this process has more than one thread, or what `read`, `poll` and `waitpid`
/// report.
pub fn run(patience: Duration, work: impl FnOnce(WayOut) -> u8) -> io::Result<Outcome> {
    worker::refuse_threads()?;
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    let (mut result, result_end) = io::pipe()?;
    // SAFETY: takes no memory of ours. A caller that ignores this signal would never learn how the copy has
    // ended.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    // SAFETY: takes no arguments.
    let parent = unsafe { libc::getpid() };
    // SAFETY: there is one thread, as was made sure above, so the copy finds everything in order.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        drop(result);
        let way_out = WayOut { result: result_end, nowhere };
        let status = if worker::end_with(parent) { work(way_out) } else { u8::MAX };
        std::process::exit(i32::from(status));
    }
    drop(result_end);
    match result.read_exact(&mut [0]) {
        Ok(()) if ends_within(&result, patience)? => {
            worker::collect(pid)?;
            Ok(Outcome::GivenUp { left: None })
        }
        Ok(()) => Ok(Outcome::GivenUp { left: Some(pid) }),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            worker::collect(pid).map(Outcome::Ended)
        }
        Err(e) => Err(e),
    }
}

/// Waits until the last thread that holds the other end of the pipe has ended; returns whether it has.
fn ends_within(result: &PipeReader, patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut polled = libc::pollfd { fd: result.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = left.as_millis().try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: one structure is passed, and it outlives the call.
        match check(unsafe { libc::poll(&raw mut polled, 1, millis) }) {
            Ok(ready) => return Ok(ready > 0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

impl WayOut {
    /// Ends this process, whatever its other threads do. To be called by the thread that [`run`] has called.
    pub fn give_up(mut self) -> ! {
        // That each of these calls fails is no reason not to end.
        #[cfg(target_os = "linux")]
        // SAFETY: takes no memory of ours. From here on, no signal may be what ends this process, though the
        // one in front ends first.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, 0)
        };
        // A thread that is held keeps what this process has open, and its working directory.
        let _ = std::env::set_current_dir("/");
        for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            lead(stream, self.nowhere.as_raw_fd());
        }
        let _ = self.result.write_all(&[0]);
        // SAFETY: takes a number, and runs nothing of the program, so no lock that another thread holds matters.
        unsafe { libc::_exit(0) }
    }
}
