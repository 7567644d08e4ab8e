//! An archive, or one file of it, examined.

pub mod backups;
pub mod check;
pub mod examine;
pub mod finding;
pub mod manifest;
pub mod overview;
pub mod read_back;
pub mod times;
pub mod verify;
