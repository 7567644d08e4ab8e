//! One file on its way through the pool, and its place in the order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::archive::{Job, Receipt};
use crate::error::Error;
use crate::store::Progress;
use crate::wal::name::{FileKind, FileName};

/// A file's place in the order in which the server asks: history files first, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::archive::pool) struct Turn(bool, FileName);

impl Turn {
    pub(in crate::archive::pool) fn of(name: &FileName) -> Self {
        Self(!matches!(name.kind(), FileKind::History { .. }), name.clone())
    }

    pub(in crate::archive::pool) fn name(&self) -> &FileName {
        &self.1
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

/// The answer for the file that the server waits for.
pub(super) enum Answered {
    /// The destination has it, by what is remembered.
    Had,
    Now(Result<Receipt, Error>),
}

impl<P> File<P> {
    pub(super) fn waiting(job: Job) -> Self {
        Self { job, listed: false, stage: Stage::Waiting }
    }

    pub(super) fn running(&self) -> Option<&Running> {
        if let Stage::Running(running) = &self.stage { Some(running) } else { None }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready { .. })
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
    /// Look for waiting files.
    Look(Look),
}

/// Files that are published together.
pub(in crate::archive::pool) struct Batch<P> {
    pub(in crate::archive::pool) files: Vec<(FileName, P)>,
    pub(in crate::archive::pool) progress: Arc<Progress>,
    pub(in crate::archive::pool) epoch: u64,
}

/// A look for waiting files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::archive::pool) struct Look {
    /// Where the server has its WAL.
    pub(in crate::archive::pool) pg_wal: PathBuf,
    /// The generation in which it began. What it passes over as known is known only in that one.
    pub(super) generation: u64,
}

/// What a look has found.
pub(in crate::archive::pool) struct Seen {
    /// The waiting files that the destination is not known to have, the first ones in the server's order;
    /// `None` if they could not be listed.
    pub(in crate::archive::pool) names: Option<Vec<FileName>>,
    /// How long it took.
    pub(in crate::archive::pool) took: Duration,
}

/// What other destinations do not allow (guarantee G13).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::archive::pool) struct Limit {
    /// Nothing ahead gets its name at or behind this file, which conflicts in another destination.
    pub(in crate::archive::pool) before: Option<Turn>,
    /// The file that the server asks for is that one.
    pub(in crate::archive::pool) wanted_is_it: bool,
    /// Nothing gets its name for the moment: another destination looks at its first file.
    pub(in crate::archive::pool) nothing_yet: bool,
}

impl Limit {
    pub(super) fn allows(&self, turn: &Turn) -> bool {
        self.before.as_ref().is_none_or(|before| turn < before)
    }
}
