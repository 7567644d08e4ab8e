//! SeaweedFS: all of it in one process.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::bucket::Bucket;
use super::daemon::{Daemon, Place};
use super::tls;
use crate::scratch::{make_dir, names};

/// The ports of one server, beginning with that of S3. Each part that speaks gRPC takes the one after its own.
const PORTS: u16 = 9;
const OURS: Range<u16> = 20_000..20_000 + 4000 * PORTS;
const HTTPS: u16 = 2;
const MASTER: u16 = 3;
const VOLUME: u16 = 5;
const FILER: u16 = 7;
const PARTS: [(&str, u16); 4] =
    [("s3", 0), ("master", MASTER), ("volume", VOLUME), ("filer", FILER)];

/// The first of some ports. The server's parts speak through sockets in `/tmp` whose names have nothing but a
/// port in them. So servers with addresses of their own still take each other's requests, unless their ports
/// differ.
pub(super) fn free_ports() -> u16 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    for _ in 0..100 {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let slot = (std::process::id().wrapping_mul(16).wrapping_add(number)) % 4000;
        let first = OURS.start + u16::try_from(slot).expect("below 4000") * PORTS;
        if PARTS.iter().all(|part| UnixStream::connect(socket(first, *part)).is_err()) {
            return first;
        }
    }
    panic!("no free ports")
}

fn socket(first: u16, (part, port): (&str, u16)) -> String {
    format!("/tmp/seaweedfs-{part}-grpc-{}.sock", first + port + 1)
}

/// What a killed server leaves in `/tmp`.
pub(super) fn remove_sockets(place: &Place) {
    for part in PARTS {
        drop(fs::remove_file(socket(place.port, part)));
    }
}

/// Removes what servers of killed test programs left in `/tmp`.
pub(crate) fn sweep() {
    for name in names(Path::new("/tmp")) {
        let path = Path::new("/tmp").join(&name);
        let is_socket = name.starts_with("seaweedfs-") && name.ends_with(".sock");
        let port = name.trim_end_matches(".sock").rsplit('-').next();
        let is_ours = port.and_then(|port| port.parse().ok()).is_some_and(|p| OURS.contains(&p));
        // Of one that runs, somebody listens.
        if is_socket && is_ours && UnixStream::connect(&path).is_err() {
            drop(fs::remove_file(path));
        }
    }
}

pub(super) fn https(place: &Place) -> SocketAddr {
    (place.host, place.port + HTTPS).into()
}

pub(super) fn prepare(place: &Place) {
    make_dir(&place.home.join("data"));
    let configuration = serde_json::json!({"identities": [{
        "name": "walsafe",
        "credentials": [{"accessKey": place.keys.access, "secretKey": place.keys.secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    fs::write(place.home.join("s3.json"), configuration.to_string()).expect("written");
    tls::certify(&place.home, place.host);
}

pub(super) fn launch(place: &Place) -> Vec<Daemon> {
    let home = |name: &str| place.home.join(name).display().to_string();
    let mut command = Command::new(place.programs.join("weed"));
    command
        .args(["-logtostderr=true", "server", "-master.telemetry=false"])
        .arg(format!("-dir={}", home("data")))
        .arg(format!("-ip={0}", place.host))
        .arg(format!("-ip.bind={0}", place.host))
        .args(["-master.volumeSizeLimitMB=128", "-volume.preStopSeconds=1"])
        // Each bucket takes about seven.
        .args(["-volume.max=400", "-filer", "-s3"])
        .arg(format!("-filer.localSocket={}", home("filer.sock")))
        .arg(format!("-s3.localSocket={}", home("s3.sock")))
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-s3.config={}", home("s3.json")))
        .arg(format!("-s3.port.https={}", place.port + HTTPS))
        .arg(format!("-s3.cert.file={}", home("server.pem")))
        .arg(format!("-s3.key.file={}", home("server.key")));
    for (part, port) in PARTS {
        command.arg(format!("-{part}.port={}", place.port + port));
        command.arg(format!("-{part}.port.grpc={}", place.port + port + 1));
    }
    let mut weed = place.start("weed", &mut command);
    weed.wait_listening(https(place));
    // It listens before it can store anything.
    let bucket = Bucket::new(place.address(), &place.keys, "ready", None);
    weed.wait("store an object", || {
        let answer = bucket.request("PUT", "", &[], &[], b"").and_then(|_| {
            std::thread::sleep(Duration::from_millis(50));
            bucket.request("PUT", "ready", &[], &[], b"ready")
        });
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    });
    vec![weed]
}
