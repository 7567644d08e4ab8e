//! Where archived files lie: their names, whose archive it is, and what may be in it.

pub mod admission;
pub mod directory;
pub mod identity;
pub mod listing;
