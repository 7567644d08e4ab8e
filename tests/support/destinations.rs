//! Clusters that archive into several directories.

use std::path::Path;

use harness::{Cluster, ClusterBuilder, archive};

pub const DESTINATION: &str = "walsafe_archive.destination";

/// The value of the setting that names these directories.
pub fn list(destinations: &[&Path]) -> String {
    let quoted = destinations.iter().map(|path| format!("\"{}\"", path.display()));
    quoted.collect::<Vec<_>>().join(", ")
}

/// A cluster to set up that archives into each of these directories.
pub fn archiving_to(destinations: &[&Path]) -> ClusterBuilder {
    Cluster::archiving_to(destinations[0]).set(DESTINATION, &list(destinations))
}

/// Checks that an archive has these files, byte for byte as `pg_wal` has them.
#[track_caller]
pub fn assert_holds(archive: &Path, cluster: &Cluster, names: &[String]) {
    for name in names {
        let there = archive::contents(archive, name);
        let there = there.unwrap_or_else(|| panic!("{} lacks {name}", archive.display()));
        assert!(there == cluster.read_wal(name), "{name} in {}", archive.display());
    }
}
