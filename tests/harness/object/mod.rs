//! Object storage: real servers on loopback, what breaks requests on their way there, and a look into a bucket
//! that does not depend on the code under test.
//!
//! `tools/get-object-server` gets the servers. A test begins with
//! `require!(ObjectServer::is_there(Kind::Ceph));`.
//!
//! | server | takes `If-None-Match: *` |
//! |---|---|
//! | Ceph RGW 16 | yes, but not in a bucket that keeps versions; what it acknowledges survives a kill |
//! | SeaweedFS | yes; starts in a few seconds, and speaks TLS too |
//! | JuiceFS's gateway | ignores it: has to be refused |
//! | s3rver | ignores it, and publishes a PUT that was cut short: has to be refused |

pub mod bucket;
mod ceph;
mod daemon;
pub mod http;
mod juicefs;
pub mod latency;
pub mod proxy;
mod s3rver;
mod seaweedfs;
pub mod server;
pub mod sign;
pub mod silence;
mod tls;

pub use bucket::Bucket;
pub use http::Answer;
pub use latency::Latency;
pub use proxy::{Broken, Fault, Proxy, Seen};
pub use server::{Kind, ObjectServer};
pub use sign::Keys;
pub use silence::Silence;
