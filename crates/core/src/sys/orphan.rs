//! A process that outlives the one that has started it.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::sys::call::check;
use crate::sys::process::{handle, stat_of};

/// How often a process that is to end looks whether its parent has ended, ten milliseconds apart.
const PARENT_LOOKS: u32 = 50;

/// Returns which process takes over the orphans of this one: process 1, or a nearer one that has asked for them
/// (`PR_SET_CHILD_SUBREAPER`). Only an orphan can tell, so one is made. It ends at once, with status 0: whoever
/// takes it over may be a server, which takes an orphan that ends badly for one of its own that has crashed.
///
/// # Errors
/// No process could be made, or it was not taken over within a second.
pub fn adopter() -> io::Result<u32> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: the copy calls nothing but what a copy of a process with threads may call.
    let child = check(unsafe { libc::fork() })?;
    if child == 0 {
        be_the_parent(writer.as_raw_fd());
    }
    drop(writer);
    let mut status = 0;
    // SAFETY: the status is ours, and outlives the call.
    while let Err(e) = check(unsafe { libc::waitpid(child, &raw mut status, 0) }) {
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    let mut told = [0; 4];
    reader.read_exact(&mut told)?;
    match u32::from_ne_bytes(told) {
        0 => Err(io::ErrorKind::TimedOut.into()),
        adopter => Ok(adopter),
    }
}

/// Returns how many orphans with the name of this process have ended, and were not collected by the process that has
/// taken them over. Some programs do not that were not made to be process 1 of a container: there, each stays in the
/// table of processes. Others look every second or so. 0 where there is no /proc.
#[must_use]
pub fn uncollected(adopter: u32) -> usize {
    let name = |process: &str| std::fs::read_to_string(format!("/proc/{process}/comm")).ok();
    let Some(own) = name("thread-self") else { return 0 };
    let is_left = |pid: u32| {
        stat_of(pid).is_some_and(|stat| {
            let mut fields = stat.split(' ');
            fields.next() == Some("Z")
                && fields.next().and_then(|parent| parent.parse().ok()) == Some(adopter)
        }) && name(&pid.to_string()).as_ref() == Some(&own)
    };
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_left(*pid)).count()
}

/// Makes an orphan by ending.
fn be_the_parent(writer: RawFd) -> ! {
    // SAFETY: takes no arguments.
    let parent = unsafe { libc::getpid() };
    // SAFETY: as for the first copy.
    if unsafe { libc::fork() } == 0 {
        be_the_orphan(parent, writer);
    }
    // SAFETY: takes a number, and runs nothing of the program.
    unsafe { libc::_exit(0) }
}

/// Says whose child it is once that is not `parent` any more; 0 if it stays one for a second.
fn be_the_orphan(parent: libc::pid_t, writer: RawFd) -> ! {
    let mut adopter = 0;
    for _ in 0..1000 {
        // SAFETY: takes no arguments.
        let now = unsafe { libc::getppid() };
        if now != parent {
            adopter = now;
            break;
        }
        // SAFETY: takes a number.
        unsafe { libc::usleep(1000) };
    }
    let told = adopter.to_ne_bytes();
    // SAFETY: the bytes are as many as are said, outlive the call and are only read.
    unsafe { libc::write(writer, told.as_ptr().cast(), told.len()) };
    // SAFETY: takes a number, and runs nothing of the program.
    unsafe { libc::_exit(0) }
}

/// Whose child this process was when [`end_after_parent`] was called.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// Has SIGTERM end this process by status 0 if the process that has started it ends too, and by the signal if not. A
/// server that is stopped sends the signal to all that its recovery has started, and whoever takes over this process
/// then may be that server: it takes an orphan that a signal has ended for one of its own that has crashed. But where
/// the server waits for this process, it must see the signal: any status would say something of the archive.
pub fn end_after_parent() {
    extern "C" fn end(signal: libc::c_int) {
        for _ in 0..PARENT_LOOKS {
            // SAFETY: takes no arguments, and may be called in a handler.
            if unsafe { libc::getppid() } != PARENT.load(Ordering::Relaxed) {
                // SAFETY: takes a number, and may be called in a handler.
                unsafe { libc::_exit(0) };
            }
            let pause = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            // SAFETY: the time outlives the call, which may be made in a handler; what is left is not asked for.
            unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
        }
        // SAFETY: both take numbers and may be called in a handler. The signal comes when the handler has returned.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: as above.
        unsafe { libc::raise(signal) };
    }
    // SAFETY: takes no arguments.
    PARENT.store(unsafe { libc::getppid() }, Ordering::Relaxed);
    // Without it, the signal ends the process as ever.
    let _ = handle(libc::SIGTERM, end);
}

/// Leaves what this process has inherited: the session and its terminal, the working directory, which may be on
/// a file system that somebody wants to unmount, and every descriptor. Standard streams lead to `/dev/null`. To be
/// called before anything is opened.
///
/// # Errors
/// What the calls report. `EPERM` for the leader of a process group: it cannot leave its session.
pub fn detach() -> io::Result<()> {
    // SAFETY: takes no arguments.
    check(unsafe { libc::setsid() })?;
    std::env::set_current_dir("/")?;
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both are open descriptors; nothing in this process owns the numbers of the standard streams.
        check(unsafe { libc::dup2(nowhere.as_raw_fd(), stream) })?;
    }
    drop(nowhere);
    close_all(open_descriptors()?, None);
    Ok(())
}

/// Ends this process with a status, whatever its other threads do. One that the kernel holds in a call keeps the
/// process, but nothing that was open: neither a lock nor a file system that somebody wants to unmount.
pub fn leave(status: i32) -> ! {
    close_but(None);
    // SAFETY: takes a number, and runs nothing of the program, so no lock of another thread matters.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor but the standard streams and one more, of a process that is about to end: no other
/// thread does anything more with what is open.
pub(super) fn close_but(kept: Option<RawFd>) {
    // Where they cannot be told, they stay open until the process has ended.
    close_all(open_descriptors().unwrap_or_default(), kept);
}

fn close_all(descriptors: Vec<RawFd>, kept: Option<RawFd>) {
    for fd in descriptors.into_iter().filter(|fd| Some(*fd) != kept) {
        // SAFETY: takes a number. Nothing that owns it is used any more, or owns it yet, as the callers make sure.
        unsafe { libc::close(fd) };
    }
}

/// Returns the descriptors that are open beside the standard streams; what this call itself opened is closed
/// again.
fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let mut open = Vec::new();
    match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => {
            for entry in entries {
                open.extend(
                    entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()),
                );
            }
        }
        // Where there is no /proc, no process has more of them than this, or hardly.
        Err(_) => open.extend(0..1024),
    }
    open.retain(|fd| *fd > libc::STDERR_FILENO);
    Ok(open)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::{Duration, Instant};

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn whoever_takes_orphans_over_is_found() {
        let ask = |on: libc::c_ulong| {
            // SAFETY: takes numbers.
            check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, on, 0, 0, 0) }).unwrap();
        };
        assert_ne!(adopter().unwrap(), std::process::id());
        ask(1);
        let before = uncollected(std::process::id());
        let found = adopter();
        ask(0);
        assert_eq!(found.unwrap(), std::process::id());
        // This process collects none but those of which it knows. The last one may not have ended yet.
        let until = Instant::now() + Duration::from_secs(10);
        while uncollected(std::process::id()) == before {
            assert!(Instant::now() < until, "it was collected");
            std::thread::yield_now();
        }
    }
}
