//! SeaweedFS: all of it in one process.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::bucket::Bucket;
use super::daemon::{Daemon, Place};
use super::tls;
use crate::scratch::make_dir;

pub(super) const PORT: u16 = 18_333;
pub(super) const TLS_PORT: u16 = 18_443;

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
        .args(["-master.port=19333", "-master.volumeSizeLimitMB=128"])
        // Each bucket takes about seven.
        .args(["-volume.port=18080", "-volume.max=400", "-volume.preStopSeconds=1"])
        .args(["-filer", "-filer.port=18888"])
        .arg(format!("-filer.localSocket={}", home("filer.sock")))
        .arg("-s3")
        .arg(format!("-s3.port={PORT}"))
        .arg(format!("-s3.localSocket={}", home("s3.sock")))
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-s3.config={}", home("s3.json")))
        .arg(format!("-s3.port.https={TLS_PORT}"))
        .arg(format!("-s3.cert.file={}", home("server.pem")))
        .arg(format!("-s3.key.file={}", home("server.key")));
    let mut weed = place.start("weed", &mut command);
    weed.wait_listening(place.address(TLS_PORT));
    // It listens before it can store anything.
    let keys = place.keys.clone();
    let bucket = Bucket { address: place.address(PORT), keys, name: "ready".to_owned() };
    weed.wait("store an object", || {
        let answer = bucket.request("PUT", "", &[], &[], b"").and_then(|_| {
            std::thread::sleep(Duration::from_millis(50));
            bucket.request("PUT", "ready", &[], &[], b"ready")
        });
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    });
    vec![weed]
}
