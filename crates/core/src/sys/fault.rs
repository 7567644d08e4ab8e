//! The seam through which a test fails any file-system operation.
//!
//! [`crate::sys`] announces every operation here before it makes it. In a build without the
//! feature `fault-injection` the announcement is an empty function. With it, a plan for the calling
//! thread, or for all threads, decides whether the operation fails, and with what.

use std::io;

/// An operation of the core on a file system, or one for which the system may lack the means.
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
    /// Made to look at what is archived, never to archive: not one of [`Op::ALL`].
    ReadAttribute,
    SetMode,
    SetOwner,
    Flush,
    Close,
    Link,
    LinkUnnamed,
    Rename,
    Unlink,
    FlushDirectory,
    Stat,
    List,
    FileSystem,
    Allocate,
    StartThread,
}

impl Op {
    /// Every operation of archiving, for tests that fail each in turn.
    pub const ALL: [Self; 22] = [
        Self::OpenDirectory,
        Self::Open,
        Self::CreateUnnamed,
        Self::CreateNamed,
        Self::Read,
        Self::Write,
        Self::Truncate,
        Self::SetAttribute,
        Self::SetMode,
        Self::SetOwner,
        Self::Flush,
        Self::Close,
        Self::Link,
        Self::LinkUnnamed,
        Self::Rename,
        Self::Unlink,
        Self::FlushDirectory,
        Self::Stat,
        Self::List,
        Self::FileSystem,
        Self::Allocate,
        Self::StartThread,
    ];
}

/// What the seam answers to an operation that goes ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code))]
pub(crate) enum Verdict {
    /// As it is.
    Proceed,
    /// A write: with only half of its bytes.
    Short,
    /// A write: with one byte changed.
    #[cfg(feature = "fault-injection")]
    Corrupt,
}

#[cfg(not(feature = "fault-injection"))]
#[inline]
pub(crate) fn announce(_: Op) -> io::Result<Verdict> {
    Ok(Verdict::Proceed)
}

/// A thread's plan: there is none.
#[cfg(not(feature = "fault-injection"))]
pub(crate) struct Mine;

/// Returns the calling thread's plan, for a thread that works for it.
#[cfg(not(feature = "fault-injection"))]
pub(crate) fn mine() -> Mine {
    Mine
}

/// Puts another thread's plan in force for this one too.
#[cfg(not(feature = "fault-injection"))]
pub(crate) fn adopt(_: Mine) {}

#[cfg(feature = "fault-injection")]
pub use plan::{Effect, Fault, Plan};
#[cfg(feature = "fault-injection")]
pub(crate) use plan::{adopt, announce, mine};

#[cfg(feature = "fault-injection")]
mod plan {
    use std::cell::RefCell;
    use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

    use super::{Op, Verdict, io};

    /// What happens to an operation that a plan picks.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Effect {
        /// It fails with this `errno` and is not made.
        Fail(i32),
        /// A write takes half of its bytes; any other operation goes ahead.
        Short,
        /// A write changes one byte on its way; any other operation goes ahead.
        Corrupt,
        /// It goes ahead once the plan is dropped or [`Plan::release`] is called. For
        /// [`Plan::everywhere`] only.
        Hang,
        /// The thread panics.
        Panic,
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
    pub(crate) struct State {
        faults: Vec<Fault>,
        calls: Vec<Op>,
        hits: usize,
    }

    impl State {
        /// Records a call, and returns what happens to it.
        fn meet(&mut self, op: Op) -> Option<Effect> {
            self.calls.push(op);
            for fault in self.faults.iter_mut().filter(|fault| fault.op == op) {
                if fault.skip > 0 {
                    fault.skip -= 1;
                } else if fault.times > 0 {
                    fault.times -= 1;
                    self.hits += 1;
                    return Some(fault.effect);
                }
            }
            None
        }
    }

    /// A plan of one thread, and of those that work for it.
    pub(crate) type Mine = Arc<Mutex<State>>;

    thread_local! {
        static MINE: RefCell<Option<Mine>> = const { RefCell::new(None) };
    }

    /// The plan for threads that have none of their own, and how often hanging calls were released.
    static EVERYWHERE: Mutex<(Option<State>, usize)> = Mutex::new((None, 0));
    static RELEASED: Condvar = Condvar::new();
    /// Locked by the one plan for the whole process.
    static ONE: Mutex<()> = Mutex::new(());

    fn everywhere() -> MutexGuard<'static, (Option<State>, usize)> {
        EVERYWHERE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Faults in force until the value is dropped: for the thread that made it, or for all.
    pub struct Plan(Option<MutexGuard<'static, ()>>);

    impl Plan {
        /// Puts faults in force for the calling thread, and begins a new record of its calls.
        #[must_use]
        pub fn new(faults: Vec<Fault>) -> Self {
            MINE.set(Some(Arc::new(Mutex::new(State { faults, ..State::default() }))));
            Self(None)
        }

        /// Puts faults in force for every thread of the process, and begins a new record of all
        /// their calls. Waits until no other such plan is in force.
        #[must_use]
        pub fn everywhere(faults: Vec<Fault>) -> Self {
            let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
            everywhere().0 = Some(State { faults, ..State::default() });
            Self(Some(one))
        }

        /// Lets every operation go ahead that hangs now, and forgets the faults to come.
        pub fn release(&self) {
            let mut all = everywhere();
            if let Some(state) = &mut all.0 {
                state.faults.clear();
            }
            all.1 += 1;
            RELEASED.notify_all();
        }

        /// Lets every operation go ahead that hangs now; the faults to come stay in force.
        pub fn thaw(&self) {
            everywhere().1 += 1;
            RELEASED.notify_all();
        }

        /// Returns the operations announced since the plan was made, in order.
        #[must_use]
        pub fn calls(&self) -> Vec<Op> {
            self.read(|state| state.calls.clone())
        }

        /// Returns how many operations were hit.
        #[must_use]
        pub fn hits(&self) -> usize {
            self.read(|state| state.hits)
        }

        fn read<T: Default>(&self, read: impl FnOnce(&State) -> T) -> T {
            match self.0 {
                None => mine().map(|state| read(&lock(&state))),
                Some(_) => everywhere().0.as_ref().map(read),
            }
            .unwrap_or_default()
        }
    }

    impl Drop for Plan {
        fn drop(&mut self) {
            match self.0 {
                None => MINE.set(None),
                Some(_) => {
                    self.release();
                    everywhere().0 = None;
                }
            }
        }
    }

    fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mine() -> Option<Mine> {
        MINE.with_borrow(Clone::clone)
    }

    pub(crate) fn adopt(mine: Option<Mine>) {
        MINE.set(mine);
    }

    pub(crate) fn announce(op: Op) -> io::Result<Verdict> {
        let mine = mine().and_then(|state| lock(&state).meet(op));
        let mut all = everywhere();
        let effect = mine.or_else(|| all.0.as_mut().and_then(|state| state.meet(op)));
        match effect {
            None => Ok(Verdict::Proceed),
            Some(Effect::Fail(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Effect::Short) => Ok(Verdict::Short),
            Some(Effect::Corrupt) => Ok(Verdict::Corrupt),
            Some(Effect::Hang) => {
                let before = all.1;
                while all.1 == before {
                    all = RELEASED.wait(all).unwrap_or_else(PoisonError::into_inner);
                }
                Ok(Verdict::Proceed)
            }
            #[allow(clippy::panic, reason = "it is what a test asks for")]
            Some(Effect::Panic) => panic!("{op:?} was planned to panic"),
        }
    }
}
