//! What the cluster tests are written with: throw-away clusters of the server under test, file
//! systems that fill up, freeze or lose power, kernels without a system call, traced archivers.
//!
//! Everything cleans up behind itself when it is dropped, also while a failed test unwinds; what a
//! killed test program left is removed by the next one ([`scratch`]). Helpers panic when the test
//! cannot go on; a cluster then shows the end of its log.
//!
//! ```no_run
//! use harness::{Cluster, Scratch};
//!
//! let archive = Scratch::new("archive");
//! let cluster = Cluster::archiving_to(archive.path()).start();
//! for name in cluster.fill_segments(3) {
//!     cluster.wait_archived(&name);
//!     assert_eq!(archive.read(&name), cluster.read_wal(&name));
//! }
//! ```

pub mod archive;
pub mod backup;
pub mod builder;
pub mod cluster;
pub mod command;
pub mod fuse;
pub mod log;
pub mod mount;
pub mod object;
pub mod picture;
pub mod power_cut;
pub mod process;
pub mod sandbox;
pub mod scratch;
pub mod server;
pub mod skip;
mod template;
pub mod trace;
pub mod wait;
pub mod wal;

pub use backup::Backup;
pub use builder::ClusterBuilder;
pub use cluster::{Cluster, Stop};
pub use dose::dose;
pub use fuse::FuseMount;
pub use log::{Mark, Report};
pub use mount::{Fs, Mount};
pub use picture::Picture;
pub use power_cut::{Dark, PowerCut};
pub use scratch::Scratch;
pub use server::Server;
pub use skip::{privileged, skip, tool};
pub use trace::{Call, Trace};
pub use wait::{StopOnDrop, TIMEOUT, wait_until};

/// A generator of random numbers whose seed is printed, for a test to be repeated with
/// `WALSAFE_SEED`.
#[must_use]
pub fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(seed())
}

/// The seed of this test: `WALSAFE_SEED` where it is set, else a new one. Printed, and shown by
/// the test runner when the test fails.
#[must_use]
pub fn seed() -> u64 {
    let seed = match std::env::var("WALSAFE_SEED") {
        Ok(text) => text.parse().expect("WALSAFE_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    eprintln!("random seed: repeat with WALSAFE_SEED={seed}");
    seed
}
