//! Object storage: real servers on loopback, what breaks requests on their way there, and a look into a bucket
//! that does not depend on the code under test.
//!
//! ```no_run
//! use harness::object::{Answer, Fault, Kind, ObjectServer, Proxy};
//! use harness::require;
//!
//! require!(ObjectServer::is_there(Kind::SeaweedFs));
//! let bucket = ObjectServer::shared(Kind::SeaweedFs).bucket();
//! let proxy = Proxy::in_front_of(bucket.address);
//! let error = Answer::error(503, "SlowDown");
//! let broken = proxy.break_next("PUT", "000000010000000000000001", Fault::CommitThenAnswer(error));
//! let url = bucket.through(proxy.address()).url("wal");
//! // What is tested does something with the URL.
//! assert_eq!(broken.done().served, Some(200));
//! assert_eq!(bucket.names("wal/"), ["wal/000000010000000000000001"]);
//! ```
//!
//! `tools/get-object-server` gets the servers. Tests that need others than SeaweedFS are in modules `full`, and
//! all of them in modules whose names begin with `object`: `tools/run-tests` goes by that.
//!
//! | server | takes `If-None-Match: *` |
//! |---|---|
//! | Ceph RGW 16 | yes, but not in a bucket that keeps versions; what it acknowledges survives a kill |
//! | SeaweedFS | yes; starts in a few seconds, and speaks TLS too |
//! | JuiceFS's gateway | ignores it: has to be refused |
//! | s3rver | ignores it, and publishes a PUT that was cut short: has to be refused |
//!
//! Azurite speaks Azure's language, and takes its condition (`If-None-Match: *` too); what it acknowledges does not
//! survive a kill. fake-gcs-server speaks Google's language, and takes its condition (`ifGenerationMatch=0`) of an upload.

mod azure;
mod azurite;
pub mod bucket;
mod ceph;
mod daemon;
mod fakegcs;
pub mod google;
pub mod http;
mod juicefs;
pub mod latency;
pub mod proxy;
mod s3rver;
pub(crate) mod seaweedfs;
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
