//! skeleton

pub mod wal;
