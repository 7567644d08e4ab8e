//! Bytes to stored bytes and back.

pub mod codec;
pub mod digest;
