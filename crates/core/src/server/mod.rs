//! The cluster's side: what its data directory says, and what the archiver writes there.

pub mod control;
pub mod held;
pub mod known;
pub mod last;
pub mod lineage;
pub mod permission;
pub mod position;
pub mod postmaster;
pub mod ready;
pub mod settings;
pub mod source;
pub mod stats;
pub mod together;
#[cfg_attr(not(feature = "azure"), allow(dead_code, reason = "only requests need all of it"))]
pub mod url;
pub mod users;
