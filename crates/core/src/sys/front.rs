//! A process for somebody to wait for, in front of the one that works.
//!
//! A child of the working process that the kernel holds in a call cannot be waited for, and must not be left
//! to whoever takes orphans: where that is a server (process 1 of a container), it takes an orphan that a
//! signal has ended for one of its own processes that has crashed, and restarts. So the working process stays
//! behind with that child until it ends, while the process in front returns the result. What stays ends with
//! status 0.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use crate::sys::call::check;
use crate::sys::worker::{self, End, lead};

/// Runs `work` in a copy of this process, and returns the status that it returns, or how the copy has ended
/// otherwise. If a child of the copy is left then, the copy stays until that has ended, in a session of its
/// own and without the standard streams and the working directory.
///
/// If this process ends before, the copy is killed; on systems other than Linux, it is not.
///
/// # Errors
/// The copy could not be made, or this process has more than one thread, or what `read` and `waitpid` report.
pub fn run(work: impl FnOnce() -> u8) -> io::Result<End> {
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
        let status = if worker::end_with(parent) { work() } else { u8::MAX };
        if child_is_left() {
            stay(status, &nowhere, result_end);
        }
        std::process::exit(i32::from(status));
    }
    drop(result_end);
    let mut status = [0];
    match result.read_exact(&mut status) {
        Ok(()) => Ok(End::Exited(status[0])),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => worker::collect(pid),
        Err(e) => Err(e),
    }
}

/// Returns whether a child of this process has not ended yet.
fn child_is_left() -> bool {
    loop {
        // SAFETY: no status is asked for.
        match check(unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) }) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Tells the result, and ends when every child has ended.
fn stay(status: u8, nowhere: &File, mut result: PipeWriter) -> ! {
    // What is signalled to the caller's group of processes is not for this one any more. That each of these
    // calls fails is no reason not to return the result.
    // SAFETY: takes no arguments.
    unsafe { libc::setsid() };
    #[cfg(target_os = "linux")]
    // SAFETY: takes no memory of ours.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, 0)
    };
    let _ = std::env::set_current_dir("/");
    for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        lead(stream, nowhere.as_raw_fd());
    }
    let _ = result.write_all(&[status]);
    drop(result);
    loop {
        // SAFETY: no status is asked for.
        match check(unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) }) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => std::process::exit(0),
        }
    }
}
