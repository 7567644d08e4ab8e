//! Clusters with the extension.

use harness::{Cluster, ClusterBuilder};

/// Starts a cluster and creates the extension in it.
#[track_caller]
pub fn start(builder: ClusterBuilder) -> Cluster {
    let cluster = builder.start();
    cluster.sql("CREATE EXTENSION walsafe_archive");
    cluster
}
