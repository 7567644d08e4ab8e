//! The last line of defence: a panic becomes one line, and the exit status of a command that failed.

use std::panic::{self, AssertUnwindSafe};

use crate::complaint::Complaint;
use crate::terminal;

/// The exit status for any trouble in `restore`: above 125, so that recovery stops.
pub(crate) const STOP: u8 = 126;

/// Has each panic from now on, in any thread, say itself.
pub(crate) fn watch() {
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("unknown cause");
        let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
        let complaint = Complaint::new(format!("internal error{place}: {message}"));
        terminal::fail(&complaint.hint("Please report this with the command line."));
    }));
}

/// Runs the program. A panic, in any thread that the program waits for, ends it with the status `trouble`.
pub(crate) fn run(trouble: u8, program: impl FnOnce() -> u8) -> u8 {
    catch(program).unwrap_or(trouble)
}

/// Runs a part of the program. `None` if it panicked, which it has said.
pub(crate) fn catch<T>(part: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(part)).ok()
}
