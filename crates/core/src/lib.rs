//! The heart of walsafe_archive, without PostgreSQL: how a WAL file becomes an archived file that
//! survives a power cut, and how it is read back and checked.
//!
//! The rooms, each of which uses only those above it:
//!
//! - [`words`]: numbers in sentences.
//! - [`sys`]: system calls, and the only `unsafe` code.
//! - [`encoding`]: bytes to stored bytes and back: compression and digests.
//! - [`wal`]: what PostgreSQL writes: records, file names, timeline histories. No file is opened.
//! - [`error`]: one error type, and the one table of what users are told about each kind.
//! - [`server`]: the cluster's side: control file, waiting files, the file to be archived, settings.
//! - [`store`]: where archived files lie, and whose archive it is.
//! - [`archive`]: one file from `pg_wal` into an archive, and the threads that do it.
//! - [`prove`]: an archive, or one file of it, examined.
//! - [`restore`]: one file back to a server in recovery.
//! - [`transfer`]: the files of one archive into another.
//!
//! Nothing here prints, logs, retries or reads settings.

pub mod archive;
pub mod encoding;
pub mod error;
pub mod prove;
pub mod restore;
pub mod server;
pub mod store;
pub mod sys;
pub mod transfer;
pub mod wal;
pub mod words;
