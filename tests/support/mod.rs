//! What several of the tests share.

pub mod document;
pub mod load;
pub mod recovery;
