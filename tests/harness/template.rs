//! New clusters, as copies of one that initdb made. Tests make hundreds, and a copy takes a fifth of
//! initdb's time. Each copy gets a system identifier of its own, as from initdb itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::command::run;
use crate::scratch;
use crate::server::Server;

/// Makes a data directory with WAL segments of this many megabytes.
pub(crate) fn new_cluster(server: &Server, segment_mb: u32, data: &Path) {
    let Some(root) = server.root() else {
        return initdb(server, segment_mb, &[], data);
    };
    // Beside the server, where a copy of the server does not include them.
    let templates = PathBuf::from(format!("{}.templates", root.display()));
    let template = templates.join(format!("{segment_mb}MB"));
    if !template.exists() {
        make(server, segment_mb, &templates, &template);
    }
    run(Command::new("cp").arg("-a").arg(&template).arg(data));
    identify(data);
}

/// Runs initdb.
pub(crate) fn initdb(server: &Server, segment_mb: u32, arguments: &[String], data: &Path) {
    run(server
        .command("initdb")
        .args(["--no-sync", "--auth=trust", "--username=postgres", "--locale=C"])
        .args(["--encoding=UTF8", "--no-instructions"])
        .arg(format!("--wal-segsize={segment_mb}"))
        .args(arguments)
        .arg(data));
}

/// Tests that run side by side may make the same template: the first one stays.
fn make(server: &Server, segment_mb: u32, templates: &Path, template: &Path) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    fs::create_dir_all(templates).expect("a directory beside the test server");
    scratch::give_away(templates);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let new = templates.join(format!("new-{}-{number}", std::process::id()));
    initdb(server, segment_mb, &[], &new);
    if fs::rename(&new, template).is_err() {
        assert!(template.exists(), "could not rename {} to it", new.display());
        fs::remove_dir_all(&new).expect("removed");
    }
}

/// Writes a new system identifier into `pg_control` and the WAL. initdb uses the time, but processes that
/// start at the same moment must get different ones.
fn identify(data: &Path) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let identifier = (seconds << 32 | u64::from(fastrand::u32(..))).to_ne_bytes();

    let control = data.join("global/pg_control");
    let mut bytes = scratch::read(&control);
    // Where the checksum is depends on the version: where it fits what comes before.
    let crc_at = (100..bytes.len().min(1024) - 4)
        .step_by(4)
        .find(|&at| crc32c::crc32c(&bytes[..at]).to_ne_bytes() == bytes[at..at + 4])
        .expect("pg_control has a checksum");
    bytes[..8].copy_from_slice(&identifier);
    let crc = crc32c::crc32c(&bytes[..crc_at]).to_ne_bytes();
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc);
    scratch::write(&control, bytes);

    // The long page header at each segment's beginning, behind 24 bytes that all page headers have.
    for segment in segments(&data.join("pg_wal")) {
        let mut bytes = scratch::read(&segment);
        bytes[24..32].copy_from_slice(&identifier);
        scratch::write(&segment, bytes);
    }
}

fn segments(pg_wal: &Path) -> Vec<PathBuf> {
    let mut names = scratch::names(pg_wal);
    names.retain(|name| name.len() == 24);
    names.into_iter().map(|name| pg_wal.join(name)).collect()
}
