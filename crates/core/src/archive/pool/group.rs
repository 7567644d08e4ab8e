//! What the pools of one archiver share: the handle that wakes it, and the conflicts that they have found.
//!
//! A conflict in one destination may mean that this server has left the history that it archived: a clone, or
//! a data directory that was put back to a snapshot. Then no other destination gets anything at or behind
//! that file either, also one that holds less and would see nothing wrong (guarantee G13). Right after a start,
//! no destination knows anything yet: then each gives the others a moment to look at their first file, before
//! it publishes its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::state::Turn;
use crate::archive::parent::Kept;
use crate::wal::name::FileName;

/// How long a destination that was asked for its first file may take to look at it before the others publish
/// theirs. Shorter than any `stall_timeout`: they must not be taken for destinations that hang.
const FIRST_LOOK: Duration = Duration::from_millis(500);

/// What the pools of one archiver share.
pub struct Group {
    wake: UnixStream,
    bond: Arc<Bond>,
}

impl Group {
    /// Makes a group without pools.
    ///
    /// # Errors
    /// The handle that wakes the caller could not be made (out of descriptors).
    pub fn new() -> std::io::Result<Self> {
        let (wake, notify) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        notify.set_nonblocking(true)?;
        let (conflicts, kept) = (Mutex::default(), Kept::for_a_group());
        Ok(Self { wake, bond: Arc::new(Bond { notify, conflicts, kept }) })
    }

    /// Returns a handle that is readable when a pool has had news since the last [`Group::clear_wake`].
    #[must_use]
    pub fn wake_handle(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the handle unreadable until there is other news. Called before a look at results, so that none
    /// is missed.
    pub fn clear_wake(&self) {
        let mut scratch = [0; 64];
        while matches!((&self.wake).read(&mut scratch), Ok(n) if n == scratch.len()) {}
    }

    pub(super) fn bond(&self) -> Arc<Bond> {
        Arc::clone(&self.bond)
    }
}

/// The side of a group that its pools' threads have.
pub(super) struct Bond {
    notify: UnixStream,
    conflicts: Mutex<Conflicts>,
    /// What the server keeps until every destination has it.
    kept: Kept,
}

/// What was found out of each pool's destination.
#[derive(Default)]
struct Conflicts {
    members: u64,
    /// The first file that conflicts there.
    found: BTreeMap<u64, Turn>,
    /// The first file that it was asked for, and when, as long as that was not looked at.
    asked: BTreeMap<u64, (FileName, Instant)>,
}

/// A pool's place in its group. Dropped, it takes the pool's conflict with it.
pub(super) struct Member {
    number: u64,
    bond: Arc<Bond>,
}

impl Member {
    pub(super) fn of(bond: Arc<Bond>) -> Self {
        let mut conflicts = bond.lock();
        conflicts.members += 1;
        let number = conflicts.members;
        drop(conflicts);
        Self { number, bond }
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.bond.kept
    }

    /// Wakes the caller.
    pub(super) fn wake_caller(&self) {
        // A full socket means that the caller has much to read already.
        let _ = (&self.bond.notify).write(&[1]);
    }

    /// A file is asked for, for the first time in this pool.
    pub(super) fn is_asked_first(&self, name: &FileName) {
        let asked = (name.clone(), Instant::now());
        self.bond.lock().asked.insert(self.number, asked);
    }

    /// A file was compared with what the destination holds, or could not be.
    pub(super) fn has_looked(&self, name: &FileName) {
        let mut conflicts = self.bond.lock();
        if conflicts.asked.get(&self.number).is_some_and(|(first, _)| first == name) {
            conflicts.asked.remove(&self.number);
        }
    }

    /// Returns whether another destination may be about to find that its first file conflicts.
    pub(super) fn others_look(&self) -> bool {
        let conflicts = self.bond.lock();
        let mut others = conflicts.asked.iter().filter(|(number, _)| **number != self.number);
        others.any(|(_, (_, since))| since.elapsed() < FIRST_LOOK)
    }

    /// A file conflicts in this pool's destination. The first of them in the server's order stands for all.
    pub(super) fn conflicts_at(&self, name: &FileName) {
        let turn = Turn::of(name);
        let mut conflicts = self.bond.lock();
        let first = conflicts.found.entry(self.number).or_insert_with(|| turn.clone());
        if turn < *first {
            *first = turn;
        }
    }

    /// The archive holds this file with the server's contents by now, or the file no longer waits.
    pub(super) fn is_settled(&self, name: &FileName) {
        let mut conflicts = self.bond.lock();
        if conflicts.found.get(&self.number).is_some_and(|turn| turn.name() == name) {
            conflicts.found.remove(&self.number);
        }
    }

    /// Forgets what conflicts here: the pool has ended.
    pub(super) fn leave(&self) {
        let mut conflicts = self.bond.lock();
        conflicts.found.remove(&self.number);
        conflicts.asked.remove(&self.number);
    }

    /// Returns the first file that conflicts in this pool's destination.
    pub(super) fn own_conflict(&self) -> Option<FileName> {
        self.bond.lock().found.get(&self.number).map(|turn| turn.name().clone())
    }

    /// Returns the first file that conflicts in the destination of another pool.
    pub(super) fn others_conflict(&self) -> Option<Turn> {
        let conflicts = self.bond.lock();
        let others = conflicts.found.iter().filter(|(number, _)| **number != self.number);
        others.map(|(_, turn)| turn).min().cloned()
    }

    /// Returns whether exactly this file conflicts in the destination of another pool, and not in this one's:
    /// then that pool is asked first, and nobody else gets the file meanwhile.
    pub(super) fn is_withheld(&self, name: &FileName) -> bool {
        let conflicts = self.bond.lock();
        let mut at = conflicts.found.iter().filter(|(_, turn)| turn.name() == name).peekable();
        at.peek().is_some() && at.all(|(number, _)| *number != self.number)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Bond {
    /// Locks; every change is a single insertion or removal.
    fn lock(&self) -> MutexGuard<'_, Conflicts> {
        self.conflicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
