//! One file on its way through the pool, and its place in the order.

use std::sync::Arc;
use std::time::Instant;

use crate::archive::{Job, Receipt};
use crate::error::Error;
use crate::store::Progress;
use crate::wal::name::{FileKind, FileName};

/// A file's place in the order in which the server asks: history files first, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(bool, pub(super) FileName);

impl Turn {
    pub(super) fn of(name: &FileName) -> Self {
        Self(!matches!(name.kind(), FileKind::History { .. }), name.clone())
    }
}

pub(super) struct File<P> {
    pub(super) job: Job,
    /// The last look has named it, and nothing has failed since.
    pub(super) listed: bool,
    pub(super) stage: Stage<P>,
}

pub(super) enum Stage<P> {
    Waiting,
    /// A thread makes it ready, or publishes it.
    Running(Running),
    /// It waits for its turn. `ahead`: it was begun before the server asked for it.
    Ready {
        file: P,
        ahead: bool,
    },
    Done(Done),
}

pub(super) struct Running {
    pub(super) progress: Arc<Progress>,
    /// The step count at the moment when the pool was held, if the file stood still then.
    pub(super) held_at: Option<u64>,
    pub(super) ahead: bool,
    /// The generation and the epoch in which it was started.
    pub(super) generation: u64,
    pub(super) epoch: u64,
}

impl Running {
    pub(super) fn still_since(&self) -> Instant {
        self.progress.last_step()
    }

    /// Returns whether it stood still when the pool was held, and has not moved since.
    pub(super) fn is_stuck(&self) -> bool {
        self.held_at == Some(self.progress.steps())
    }
}

pub(super) struct Done {
    pub(super) result: Result<Receipt, Error>,
    /// It was done before the server asked for it. Then it is a success, from after the last failure.
    pub(super) ahead: bool,
}

impl<P> File<P> {
    pub(super) fn running(&self) -> Option<&Running> {
        if let Stage::Running(running) = &self.stage { Some(running) } else { None }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready { .. })
    }

    pub(super) fn is_archived(&self) -> bool {
        matches!(&self.stage, Stage::Done(Done { result: Ok(_), .. }))
    }
}

/// What a thread is to do.
pub(in crate::archive::pool) enum Work<P> {
    /// Drop these copies.
    Discard(Vec<P>),
    /// Make a file ready.
    Prepare(Job, Arc<Progress>),
    /// Give files their names, in this order, and flush once for all.
    Publish(Batch<P>),
}

/// Files that are published together.
pub(in crate::archive::pool) struct Batch<P> {
    pub(in crate::archive::pool) files: Vec<(FileName, P)>,
    pub(in crate::archive::pool) progress: Arc<Progress>,
    pub(in crate::archive::pool) epoch: u64,
}
