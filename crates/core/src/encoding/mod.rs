//! From bytes to stored bytes and back: compression and digests.

pub mod codec;
pub mod digest;
