//! The write-ahead log's own file format, read without a server.
//!
//! - [`lsn`]: addresses, segment sizes and the arithmetic between them and file names.
//! - [`header`]: the page headers, and the check that a segment is what its name says.
//!
//! Everything here is computation on bytes the caller holds: no file is opened, nothing is logged.
//! The formats are those of PostgreSQL 15 to 18, from `src/include/access/xlog_internal.h`.

mod bytes;
pub mod header;
pub mod lsn;

pub use header::{
    BlockSize, Expected, HeaderError, LongPageHeader, PageFlags, PageHeader, WalVersion,
};
pub use lsn::{Lsn, SegmentSize};
