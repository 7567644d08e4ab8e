//! An archive that is a directory: how a file gets into it, and how it is read past the page cache.

pub mod reading;
pub mod sink;
pub mod staged;
pub mod temporary;
