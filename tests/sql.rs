//! The extension in SQL: each column of the view, each check, verification and gaps, who may call what, and
//! whether the library and its SQL fit together.

use crate::support::extension::start;
use harness::{Cluster, Scratch};

mod check;
mod end_to_end;
mod extension;
mod hang;
mod raised;
mod rights;
mod status;
mod verify;

/// A cluster with the extension that archives to a directory of its own.
#[track_caller]
fn archiving() -> (Scratch, Cluster) {
    let archive = Scratch::new("archive");
    let cluster = start(Cluster::archiving_to(archive.path()));
    (archive, cluster)
}

/// An expression over the status view's row; NULL reads as nothing.
#[track_caller]
fn status(cluster: &Cluster, expression: &str) -> String {
    cluster.sql(&format!("SELECT {expression} FROM walsafe_archive_status"))
}

/// The same, as a number.
#[track_caller]
fn number(cluster: &Cluster, column: &str) -> f64 {
    let text = status(cluster, column);
    text.parse().unwrap_or_else(|_| panic!("{column} is \"{text}\", no number"))
}

/// Waits until an expression over the status view is true.
#[track_caller]
fn wait_for(cluster: &Cluster, expression: &str) {
    cluster.wait_until(&format!("{expression} in the status view"), || {
        (status(cluster, expression) == "t").then_some(())
    });
}
