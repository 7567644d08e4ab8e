//! Azurite, Microsoft's own emulator of Azure Blob Storage: takes the condition; loses what it acknowledged when it is
//! killed.

use std::process::Command;

use super::daemon::{Daemon, Place};
use crate::scratch::make_dir;

pub(super) const PORT: u16 = 14_580;

/// The account, and its key in base64: unlike anything else, for whoever looks for it in logs.
pub(super) const ACCOUNT: &str = "walsafetest";
pub(super) const KEY: &str = "d2Fsc2FmZS90ZXN0K3NlY3JldC8wMTIzNDU2Nzg5YWJjZGVm";

pub(super) fn prepare(place: &Place) {
    make_dir(&place.home.join("data"));
}

pub(super) fn launch(place: &Place) -> Vec<Daemon> {
    let mut command = Command::new(place.programs.join("node_modules/.bin/azurite-blob"));
    command
        .args(["--blobHost", &place.host.to_string(), "--blobPort", &PORT.to_string()])
        .args(["--disableTelemetry", "--silent", "--location"])
        .arg(place.home.join("data"))
        .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
    let mut server = place.start("azurite", &mut command);
    server.wait_answering(place.address());
    vec![server]
}
