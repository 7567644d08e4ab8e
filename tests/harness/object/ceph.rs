//! Ceph's object gateway on one monitor and one disk of its own, without a manager, without authentication
//! inside, and without an installation: its packages are unpacked in a directory.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::{Daemon, Place};
use super::sign::Keys;
use super::tls;
use crate::command::{run, run_within};
use crate::scratch::{make_dir, names};
use crate::wait::TIMEOUT;

pub(super) const PORT: u16 = 17_480;
const HTTPS: u16 = 17_481;
pub(super) const ANOTHER: &str = "another";
const MONITOR: u16 = 17_300;
const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";
const DISK: &str = "11111111-2222-3333-4444-666666666666";

/// The cluster's configuration. `$name` is Ceph's own.
fn configuration(place: &Place) -> String {
    let (host, home, libraries) = (place.host, place.home.path().display(), libraries(place));
    let (monitor, old_monitor) = (MONITOR, MONITOR + 1);
    let libraries = libraries.display();
    format!(
        "[global]
fsid = {CLUSTER}
mon host = [v2:{host}:{monitor},v1:{host}:{old_monitor}]
public addr = {host}
cluster addr = {host}
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
osd objectstore = bluestore
bluestore block size = 8589934592
bluestore block create = true
osd memory target = 1073741824
osd max object name len = 256
osd max object namespace len = 64
plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
osd class dir = {libraries}/rados-classes
run dir = {home}/run
log file = {home}/log/$name.log
pid file = {home}/run/$name.pid
admin socket = {home}/run/$name.asok
mon data = {home}/mon
osd data = {home}/osd
keyring = {home}/keyring
mon osd min in ratio = 0
mon osd full ratio = .96
mon data avail warn = 1
# One hundredth of a large disk is room enough for a test.
mon data avail crit = 0
[client.rgw]
# Without authentication it would hang otherwise.
ms mon client mode = crc
rgw frontends = beast endpoint={host}:{PORT} ssl_endpoint={host}:{HTTPS} \
            ssl_certificate={home}/server.pem ssl_private_key={home}/server.key
rgw dynamic resharding = false
rgw override bucket index max shards = 1
"
    )
}

fn libraries(place: &Place) -> PathBuf {
    let lib = place.programs.join("usr/lib");
    let machine = names(&lib).into_iter().find(|name| name.ends_with("-linux-gnu"));
    lib.join(machine.expect("libraries for this machine"))
}

/// One of its programs.
fn program(place: &Place, name: &str) -> Command {
    let libraries = libraries(place);
    let mut path = OsString::from(place.programs.join("usr/bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut library_path = libraries.clone().into_os_string();
    library_path.push(":");
    library_path.push(libraries.join("ceph"));
    let file = place.programs.join("usr/bin").join(name);
    // The administrator's program is in Python, whose modules are the packages' too.
    let mut command = if name == "ceph" {
        let mut python = Command::new("/usr/bin/python3");
        python.arg(file);
        python
    } else {
        Command::new(file)
    };
    command
        .env("PATH", path)
        .env("LD_LIBRARY_PATH", library_path)
        .env("PYTHONPATH", place.programs.join("usr/lib/python3/dist-packages"))
        .env("CEPH_CONF", place.home.join("ceph.conf"))
        .current_dir(place.home.path());
    command
}

pub(super) fn https(place: &Place) -> SocketAddr {
    (place.host, HTTPS).into()
}

pub(super) fn prepare(place: &Place) {
    tls::certify(&place.home, place.host);
    for dir in ["mon", "osd", "run", "log"] {
        make_dir(&place.home.join(dir));
    }
    fs::write(place.home.join("ceph.conf"), configuration(place)).expect("written");
    let (map, keyring) = (place.home.join("monmap"), place.home.join("keyring"));
    let addresses = format!("[v2:{0}:{MONITOR},v1:{0}:{1}]", place.host, MONITOR + 1);
    run(program(place, "monmaptool")
        .args(["--create", "--fsid", CLUSTER, "--addv", "a", &addresses])
        .arg(&map));
    // Not used, but wanted.
    for name in ["mon.", "client.admin"] {
        let caps = ["--cap", "mon", "allow *", "--cap", "osd", "allow *"];
        let create = if Path::new(&keyring).exists() { None } else { Some("--create-keyring") };
        run(program(place, "ceph-authtool")
            .arg(&keyring)
            .args(create)
            .args(["--gen-key", "-n", name])
            .args(caps));
    }
    run(program(place, "ceph-mon")
        .args(["--mkfs", "-i", "a", "--monmap"])
        .arg(&map)
        .arg("--keyring")
        .arg(&keyring));
}

fn administrate(place: &Place, arguments: &[&str]) {
    run(program(place, "ceph").args(arguments));
}

/// A daemon. Its command line names its directory, by which those of a killed test program are found.
fn daemon(place: &Place, name: &str, arguments: &[&str]) -> Daemon {
    let mut command = program(place, name);
    command.arg("-c").arg(place.home.join("ceph.conf")).arg("-f").args(arguments);
    place.start(name, &mut command)
}

pub(super) fn launch(place: &Place) -> Vec<Daemon> {
    let mut monitor = daemon(place, "ceph-mon", &["-i", "a"]);
    monitor.wait_listening(SocketAddr::from((place.host, MONITOR)));
    // Which mkfs writes last.
    if !place.home.join("osd/ready").exists() {
        administrate(place, &["osd", "new", DISK]);
        let output = run_within(
            program(place, "ceph-osd").args(["-i", "0", "--mkfs", "--osd-uuid", DISK]),
            "",
            TIMEOUT,
        );
        assert!(output.success(), "{output:?}");
        administrate(place, &["osd", "crush", "add", "osd.0", "1.0", "host=localhost"]);
    }
    let disk = daemon(place, "ceph-osd", &["-i", "0"]);
    let mut gateway = daemon(place, "radosgw", &["-n", "client.rgw", "--no-mon-config"]);
    gateway.wait_answering(place.address());
    vec![monitor, disk, gateway]
}

pub(super) fn other_keys(keys: &Keys) -> Keys {
    Keys {
        access: "WALSAFEOTHERKEY".to_owned(),
        secret: format!("other/{}", keys.secret),
        ..keys.clone()
    }
}

/// Makes the users of [`super::ObjectServer::keys`] and [`super::ObjectServer::other_keys`].
pub(super) fn make_users(place: &Place) {
    for (name, keys) in [("walsafe", place.keys.clone()), (ANOTHER, other_keys(&place.keys))] {
        run(program(place, "radosgw-admin").args(["-n", "client.rgw", "user", "create"]).args([
            format!("--uid={name}"),
            format!("--display-name={name}"),
            format!("--access-key={}", keys.access),
            format!("--secret={}", keys.secret),
        ]));
    }
}
