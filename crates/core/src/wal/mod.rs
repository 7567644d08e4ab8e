//! The write-ahead log's own file format, read and checked without a server.
//!
//! - [`lsn`]: addresses, segment sizes and the arithmetic between them and file names.
//! - [`header`]: the page headers, and the check that a segment is what its name says.
//! - [`record`]: record headers, checksums, and what a visitor is shown.
//! - [`kinds`]: what the records hold that decide where a recovery goes and where it ends; [`timestamp`]: the
//!   times in them.
//! - [`check`]: a segment read from its first page to its last, in one piece or in many.
//! - [`report`], [`damage`]: what came out.
//! - [`edge`]: the records that cross from one segment to the next; [`edges`]: the same for segments that
//!   come in any order; [`fit`]: whether one segment continues another, as far as they prove it.
//! - [`parting`]: where two versions of one segment begin to differ.
//! - [`history`]: what a timeline history file says; [`timeline`]: which timeline branched off which,
//!   what a recovery needs of each, and what is missing.
//!
//! A segment that is checked after the one before it is handed that one's [`Tail`]:
//!
//! ```
//! # use walsafe_core::wal::*;
//! # fn f(spec: SegmentSpec, blocks: &[&[u8]], before: Option<Tail>) -> Option<Tail> {
//! let mut checker = SegmentChecker::new(spec, before);
//! for block in blocks {
//!     checker.feed(block);
//! }
//! let report = checker.finish();
//! for damage in &report.damage {
//!     println!("{damage}");
//! }
//! report.tail // for the segment that follows
//! # }
//! ```
//!
//! If segments are checked out of order, each report has a [`Head`] and a [`Tail`]. [`join`] compares the
//! tail of one with the head of the next once both are there, and [`Edges`] keeps them until then.
//!
//! Everything here is computation on bytes that the caller holds. No file is opened, and nothing is logged.
//! The formats are those of PostgreSQL 15 to 18, from `src/include/access/xlog_internal.h` and
//! `xlogrecord.h`; the rules are those of `xlogreader.c`. `docs/wal-check.md` says what is checked, what is
//! not, and how the end of the WAL is distinguished from damage.

mod bytes;
pub mod check;
pub mod damage;
pub mod edge;
pub mod edges;
pub mod fit;
pub mod header;
pub mod history;
pub mod kinds;
pub mod lsn;
pub mod name;
pub mod parting;
pub mod record;
pub mod report;
pub mod segment;
pub mod timeline;
pub mod timestamp;
mod walk;

pub use check::{SegmentChecker, check_segment, read_segment};
pub use damage::{Damage, DamageKind};
pub use edge::{Head, Joined, Tail, continues, join, join_on_way};
pub use edges::{Edges, Met};
pub use fit::{Doubt, Fit};
pub use header::{
    BlockSize, Expected, HeaderError, LongPageHeader, PageFlags, PageHeader, WalVersion,
};
pub use lsn::{Lsn, SegmentSize};
pub use parting::{Parting, SegmentComparison, Side};
pub use record::{Record, RecordHeader, Visit};
pub use report::{End, SegmentReport, SegmentSpec};
