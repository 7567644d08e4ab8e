//! This process and others: the host, threads, signals.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use crate::sys::fault::{self, Op, announce};

/// Returns the machine's host name, with other characters than letters, digits and `-` replaced.
#[must_use]
pub fn host_name() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: the kernel writes at most the length given, which leaves room for a zero byte.
    let result = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    let name = if result == 0 { buffer.split(|b| *b == 0).next().unwrap_or_default() } else { b"" };
    let clean: String = name
        .iter()
        .take(64)
        .map(|b| if b.is_ascii_alphanumeric() || *b == b'-' { char::from(*b) } else { '-' })
        .collect();
    if clean.is_empty() { "localhost".to_owned() } else { clean }
}

/// Returns whether a process with this number runs in our process namespace. One that has ended, but that
/// its parent (an idle init, for example) has not collected yet, does not run: a call in which the kernel
/// still holds one of its threads may take effect, but nothing after that.
#[must_use]
pub fn process_runs(pid: u32) -> bool {
    if let Some('Z' | 'X') = stat_of(pid).and_then(|stat| stat.chars().next()) {
        return false;
    }
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    if pid <= 0 {
        return false;
    }
    // SAFETY: signal 0 is never delivered; the call only checks that the process is there.
    let result = unsafe { libc::kill(pid, 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Returns what `/proc` tells of a process behind its name, which may contain anything: the fields from the third on
/// (`proc(5)`). `None` if there is no such process, or no `/proc`.
pub(super) fn stat_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}

/// Returns when a process was started, in the kernel's own units since the machine was; `None` if there is none
/// with this number, or that is not told here. Of two processes that have had one number it tells which it is.
#[must_use]
pub fn process_started(pid: u32) -> Option<u64> {
    stat_of(pid)?.split(' ').nth(22 - 3)?.parse().ok()
}

/// What is done when a signal comes.
pub(super) type Handler = extern "C" fn(libc::c_int);

/// Has a signal handled from now on, and calls that it interrupts go on. A copy of this process that is made later
/// does the same. The handler may call what a handler may call at any moment, and nothing else.
///
/// # Errors
/// What `sigaction` reports.
pub(super) fn handle(signal: libc::c_int, handler: Handler) -> io::Result<()> {
    // SAFETY: all zeros is a valid value of the structure: no flags, an empty mask and the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the structure is whole and outlives the call, and no old action is asked for. What the handler does is
    // allowed at any moment, as the callers make sure.
    done(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) })
}

/// Returns the user that this process works as.
#[must_use]
pub fn user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Returns what a call reports that answers 0 if it succeeds.
fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes this process, which root has started, work as another user from here on, without root's groups. For
/// a process with one thread: there is no way back.
///
/// # Errors
/// What the calls report: `EPERM` for anybody but root.
pub fn become_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: no groups are read, as there are none. The user goes last: nobody else may change groups.
    done(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: takes two numbers.
    done(unsafe { libc::setgid(group) })?;
    // SAFETY: takes a number.
    done(unsafe { libc::setuid(user) })
}

/// Set once this process has been asked to end.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);

extern "C" fn note_request(_: libc::c_int) {
    ASKED_TO_END.store(true, Ordering::Relaxed);
}

/// Has SIGTERM and SIGINT noted from now on, instead of ending this process: see [`is_asked_to_end`]. Calls that
/// they interrupt go on. A copy of this process that is made later does the same.
///
/// # Errors
/// What `sigaction` reports.
pub fn note_requests_to_end() -> io::Result<()> {
    // The handler does nothing but store to an atomic.
    [libc::SIGTERM, libc::SIGINT].into_iter().try_for_each(|signal| handle(signal, note_request))
}

/// Returns whether this process was asked to end, once [`note_requests_to_end`] was called.
#[must_use]
pub fn is_asked_to_end() -> bool {
    ASKED_TO_END.load(Ordering::Relaxed)
}

/// Starts a thread that never receives a signal.
///
/// # Errors
/// `EAGAIN` when a limit on processes or threads is reached, or there is no memory for its stack.
pub fn start_thread(stack: usize, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    announce(Op::StartThread)?;
    let thread = std::thread::Builder::new().name("walsafe".to_owned()).stack_size(stack);
    with_signals_blocked(|| thread.spawn(run)).map(drop)
}

/// Starts a thread that never receives a signal and ends within a scope.
///
/// # Errors
/// As [`start_thread`].
pub(crate) fn start_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    stack: usize,
    run: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    announce(Op::StartThread)?;
    let faults = fault::mine();
    let thread = std::thread::Builder::new().name("walsafe-writer".to_owned()).stack_size(stack);
    let run = move || {
        fault::adopt(faults);
        run()
    };
    with_signals_blocked(|| thread.spawn_scoped(scope, run))
}

/// Runs `f` with every signal blocked in the calling thread, so that threads started by it never
/// receive one: the signals of a server process are for its main thread.
pub fn with_signals_blocked<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(libc::sigset_t);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the set was filled in by the kernel, and no old mask is asked for.
            unsafe {
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
            };
        }
    }
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `all` is large enough for the set, which the call fills in.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was filled in above, and `before` is large enough for the old mask. The call
    // fails only for a wrong first argument.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: the call above has filled `before` in.
    let _restore = Restore(unsafe { before.assume_init() });
    f()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_process_is_told_from_one_that_had_its_number_before() {
        let own = process_started(std::process::id()).unwrap();
        assert_eq!(process_started(std::process::id()), Some(own));
        let mut later = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(process_started(later.id()).unwrap() >= own);
        later.kill().unwrap();
        later.wait().unwrap();
        assert_eq!(process_started(later.id()), None);
    }
}
