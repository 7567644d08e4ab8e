//! The seam through which a test fails any file-system operation.
//!
//! [`crate::sys`] announces every operation here before it makes it. In a build without the
//! feature `fault-injection` the announcement is an empty function; with it, the calling thread's
//! plan decides whether the operation fails, and with what.

use std::io;

/// A file-system operation of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the system calls' purposes")]
pub enum Op {
    OpenDirectory,
    Open,
    CreateUnnamed,
    CreateNamed,
    Read,
    Write,
    Truncate,
    SetAttribute,
    SetMode,
    Flush,
    Link,
    LinkUnnamed,
    Rename,
    Unlink,
    FlushDirectory,
    Stat,
    List,
    FileSystem,
}

impl Op {
    /// Every operation, for tests that fail each in turn.
    pub const ALL: [Self; 18] = [
        Self::OpenDirectory,
        Self::Open,
        Self::CreateUnnamed,
        Self::CreateNamed,
        Self::Read,
        Self::Write,
        Self::Truncate,
        Self::SetAttribute,
        Self::SetMode,
        Self::Flush,
        Self::Link,
        Self::LinkUnnamed,
        Self::Rename,
        Self::Unlink,
        Self::FlushDirectory,
        Self::Stat,
        Self::List,
        Self::FileSystem,
    ];
}

/// What the seam says to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The operation goes ahead.
    Proceed,
    /// A write goes ahead with only half of its bytes.
    #[cfg_attr(not(feature = "fault-injection"), allow(dead_code))]
    Short,
}

#[cfg(not(feature = "fault-injection"))]
#[inline]
pub(crate) fn announce(_: Op) -> io::Result<Verdict> {
    Ok(Verdict::Proceed)
}

#[cfg(feature = "fault-injection")]
pub(crate) use plan::announce;
#[cfg(feature = "fault-injection")]
pub use plan::{Effect, Fault, Plan};

#[cfg(feature = "fault-injection")]
mod plan {
    use std::cell::RefCell;

    use super::{Op, Verdict, io};

    /// What happens to an operation that a plan picks.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Effect {
        /// It fails with this `errno` and is not made.
        Fail(i32),
        /// A write takes half of its bytes; any other operation goes ahead.
        Short,
    }

    /// One fault: which operation, which of its calls (0 is the first), and for how many calls.
    #[derive(Debug, Clone, Copy)]
    pub struct Fault {
        /// The operation.
        pub op: Op,
        /// How many calls go ahead before the first that is hit.
        pub skip: usize,
        /// How many calls are hit.
        pub times: usize,
        /// What happens to them.
        pub effect: Effect,
    }

    #[derive(Default)]
    struct State {
        faults: Vec<Fault>,
        calls: Vec<Op>,
        hits: usize,
    }

    thread_local! {
        static STATE: RefCell<State> = RefCell::default();
    }

    /// The faults in force for the calling thread until the value is dropped.
    pub struct Plan(());

    impl Plan {
        /// Puts faults in force, and begins a new record of calls.
        #[must_use]
        pub fn new(faults: Vec<Fault>) -> Self {
            STATE.with_borrow_mut(|state| *state = State { faults, ..State::default() });
            Self(())
        }

        /// Returns the operations announced since the plan was made, in order.
        #[must_use]
        pub fn calls(&self) -> Vec<Op> {
            STATE.with_borrow(|state| state.calls.clone())
        }

        /// Returns how many operations were hit.
        #[must_use]
        pub fn hits(&self) -> usize {
            STATE.with_borrow(|state| state.hits)
        }
    }

    impl Drop for Plan {
        fn drop(&mut self) {
            STATE.with_borrow_mut(|state| *state = State::default());
        }
    }

    pub(crate) fn announce(op: Op) -> io::Result<Verdict> {
        STATE.with_borrow_mut(|state| {
            state.calls.push(op);
            for fault in state.faults.iter_mut().filter(|fault| fault.op == op) {
                if fault.skip > 0 {
                    fault.skip -= 1;
                } else if fault.times > 0 {
                    fault.times -= 1;
                    state.hits += 1;
                    return match fault.effect {
                        Effect::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
                        Effect::Short => Ok(Verdict::Short),
                    };
                }
            }
            Ok(Verdict::Proceed)
        })
    }
}
