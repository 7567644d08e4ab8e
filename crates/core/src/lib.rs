//! The heart of walsafe_archive, without PostgreSQL: how a WAL file becomes an archived file that
//! survives a power cut, and how it is read back and checked.
//!
//! A file's way: [`name`] → [`archive::archive_file`]: [`destination`] → [`compare`] if it is there
//! already, else [`staged`] → [`sink`] → published. Errors are of one type, [`error::Error`].
//! Nothing here prints, logs, retries or reads settings.

pub mod archive;
pub mod buffer;
pub mod check;
pub mod codec;
pub mod compare;
pub mod control;
pub mod destination;
pub mod digest;
pub mod error;
pub mod examine;
pub mod fault;
pub mod finding;
pub mod history;
pub mod identity;
pub mod listing;
pub mod manifest;
pub mod memory;
pub mod name;
pub mod overview;
pub mod pool;
pub mod reading;
pub mod ready;
pub mod restore;
pub mod segment;
pub mod settings;
pub mod sink;
pub mod staged;
pub mod stats;
pub mod sys;
pub mod temporary;
pub mod verify;
pub mod wal;
