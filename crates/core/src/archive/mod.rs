//! One file from `pg_wal` into an archive: durable, atomic, never overwriting.
//!
//! [`archive_file`] is the whole algorithm, in two halves: a file is made ready out of sight (`attempt`), and
//! gets its name (`publish`). docs/design.md has a table of what is on disk, what the server believes and
//! what the next try does, if the machine dies after each of its steps. [`pool`] has the threads that run
//! it, for the file that the server asks for and for the next ones: they make files ready side by side, and
//! publish them in the server's order (guarantee G13). [`pools`] has one such pool for each destination.

mod arrival;
mod attempt;
mod compare;
mod copy;
mod failure;
mod notice;
mod pair;
mod parent;
mod place;
mod plan;
pub mod pool;
pub mod pools;
mod present;
mod publish;
pub mod push;
mod repeats;
mod seam;
mod tail;
mod without;

pub use attempt::archive_file;
pub use failure::Failure;
pub use notice::{Level, Notice};
pub use plan::{Job, Outcome, Plan, Receipt};
pub use repeats::{Repeats, Telling};
pub use seam::Seam;
pub(crate) use without::notice as without_notice;
