//! s3rver: ignores the condition, and publishes a PUT that was cut short.

use std::process::Command;

use super::daemon::{Daemon, Place};
use crate::scratch::make_dir;

pub(super) const PORT: u16 = 14_568;

pub(super) fn prepare(place: &Place) {
    make_dir(&place.home.join("data"));
}

pub(super) fn launch(place: &Place) -> Vec<Daemon> {
    let mut command = Command::new(place.programs.join("node_modules/.bin/s3rver"));
    command
        .args(["--address", &place.host.to_string(), "--port", &PORT.to_string(), "--silent"])
        .arg("--directory")
        .arg(place.home.join("data"));
    let mut server = place.start("s3rver", &mut command);
    server.wait_answering(place.address());
    vec![server]
}
