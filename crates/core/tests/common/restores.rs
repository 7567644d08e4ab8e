//! A file asked for as a recovery does.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "part of each test program that uses it"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use walsafe_core::restore::{Origin, Request, Round};
use walsafe_core::store::Progress;
use walsafe_core::store::location::Access;
use walsafe_core::wal::name::FileName;

/// Names archives for a request.
pub fn origins(archives: &[PathBuf]) -> Vec<Origin> {
    archives.iter().map(|path| Origin::new(path, &Access::default()).unwrap()).collect()
}

/// A request that proves an absence, without patience.
pub fn request<'a>(
    archives: &'a [Origin],
    name: &'a FileName,
    (data_directory, target): (&'a Path, &'a Path),
    steps: &'a Progress,
    round: &'a Round,
) -> Request<'a> {
    Request {
        archives,
        name,
        target,
        data_directory,
        allow_unmarked: false,
        allow_unchecked: false,
        patience: Duration::ZERO,
        end_at_hole: None,
        prove_absence: true,
        steps,
        round,
    }
}
