//! What several of the tests share.

pub mod ahead;
pub mod asking;
pub mod bucket;
pub mod destinations;
pub mod document;
pub mod extension;
pub mod load;
pub mod recovery;
