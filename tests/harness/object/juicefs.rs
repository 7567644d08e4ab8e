//! JuiceFS's gateway: a good server that ignores the condition of a conditional PUT.

use std::process::Command;

use super::daemon::{Daemon, Place};
use crate::command::run;
use crate::scratch::make_dir;

pub(super) const PORT: u16 = 19_000;

pub(super) fn prepare(place: &Place) {
    make_dir(&place.home.join("objects"));
    make_dir(&place.home.join("cache"));
    run(Command::new(place.programs.join("juicefs"))
        .args(["format", "--storage", "file", "--trash-days", "0", "--bucket"])
        .arg(place.home.join("objects/"))
        .arg(metadata(place))
        .arg("wal")
        .env("HOME", place.home.path()));
}

fn metadata(place: &Place) -> String {
    format!("sqlite3://{}", place.home.join("metadata.db").display())
}

pub(super) fn launch(place: &Place) -> Vec<Daemon> {
    let address = place.address();
    let mut command = Command::new(place.programs.join("juicefs"));
    command
        .args(["gateway", "--no-usage-report", "--multi-buckets", "--keep-etag"])
        .args(["--access-log", "/dev/null", "--cache-dir"])
        .arg(place.home.join("cache"))
        .arg(format!("--metrics={}:19567", place.host))
        .arg(metadata(place))
        .arg(address.to_string())
        .env("MINIO_ROOT_USER", &place.keys.access)
        .env("MINIO_ROOT_PASSWORD", &place.keys.secret)
        .env("HOME", place.home.path());
    let mut gateway = place.start("juicefs", &mut command);
    gateway.wait_answering(address);
    vec![gateway]
}
