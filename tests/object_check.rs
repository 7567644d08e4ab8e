//! `walsafe check`, `verify`, `list` and `manifest` and their SQL functions with an archive in object storage, and
//! which storage is refused with which sentence.

use harness::object::{Bucket, Kind, ObjectServer};
use harness::{Cluster, require};

use crate::support::bucket::Objects;
use crate::support::extension;

/// An archive that another cluster has.
fn archive(bucket: Bucket) -> Objects {
    let text = "format = 1\nsystem_identifier = 5\ncreated = 2026-11-29T00:00:00Z\n";
    bucket.put("wal/walsafe_archive.id", text.as_bytes());
    Objects::new(bucket)
}

/// What `walsafe check` says: for each row, its name, its status and its detail.
fn check(objects: &Objects, arguments: &[&str]) -> Rows {
    let run = objects.walsafe("check", &[&["--json"], arguments].concat());
    let report: serde_json::Value =
        serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run:?}"));
    let rows = report["checks"].as_array().unwrap_or_else(|| panic!("{run:?}"));
    let text = |row: &serde_json::Value, key: &str| {
        row[key].as_str().unwrap_or_else(|| panic!("{row}")).to_owned()
    };
    let row = |row| ["check", "status", "detail"].map(|key| text(row, key));
    Rows(rows.iter().map(row).collect())
}

#[derive(Debug)]
struct Rows(Vec<[String; 3]>);

impl Rows {
    /// Checks that a row has a status, and that its detail says something.
    #[track_caller]
    fn says(&self, name: &str, status: &str, what: &str) {
        let row = self.0.iter().find(|[check, ..]| check == name);
        let [_, is, detail] = row.unwrap_or_else(|| panic!("no {name} in {self:?}"));
        assert!(is == status && detail.contains(what), "{name}: {is}: {detail}");
    }

    #[track_caller]
    fn are_ok(&self) {
        let wrong: Vec<_> = self.0.iter().filter(|[_, status, _]| status != "ok").collect();
        assert!(self.0.len() > 4 && wrong.is_empty(), "{wrong:?} of {self:?}");
    }
}

/// An archive of a cluster, and what `walsafe check` says of it: all is well, and nothing stays of what it tried.
struct Checked {
    place: Objects,
    cluster: Cluster,
    names: Vec<String>,
    rows: Rows,
}

impl Checked {
    #[track_caller]
    fn new(kind: Kind) -> Self {
        let place = Objects::new(ObjectServer::shared(kind).bucket());
        let cluster = extension::start(place.archiving(Cluster::builder()));
        let names = cluster.fill_whole_segments(3);
        cluster.wait_archived(&names[2]);
        let rows = check(&place, &[]);
        rows.are_ok();
        rows.says("no-replace publish", "ok", "one was accepted");
        rows.says("checksums", "ok", "wrong Content-MD5");
        let probes = place.bucket.names("wal/.");
        assert!(probes.is_empty(), "{probes:?}");
        Self { place, cluster, names, rows }
    }
}

/// All that reads an archive took paths alone, and called a URL a directory that is missing.
#[test]
fn an_archive_in_a_bucket_is_checked_verified_and_listed() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let Checked { place, cluster, names, .. } = Checked::new(Kind::SeaweedFs);
    let sql = "SELECT check_name, status, detail FROM walsafe_archive_check()
        WHERE destination IS NOT NULL AND status <> 'ok'";
    assert_eq!(cluster.sql(sql), "");
    let name = format!("s3://{}/wal?endpoint=http://{}", place.bucket.name, place.bucket.address);
    let sql = "SELECT DISTINCT destination FROM walsafe_archive_check()
        WHERE destination IS NOT NULL";
    assert_eq!(cluster.sql(sql), name);

    let run = place.walsafe("verify", &["--quiet"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let run = place.walsafe("manifest", &[]);
    assert!(run.code == Some(0) && run.out.contains(&names[1]), "{run:?}");
    let run = place.walsafe("list", &["--json"]);
    let listed: serde_json::Value =
        serde_json::from_str(&run.out).unwrap_or_else(|e| panic!("{e}: {run:?}"));
    let timeline = &listed["timelines"][0];
    let segments = timeline["segments"].as_u64();
    assert!(segments >= Some(3), "{listed}");
    let stored = place.bucket.names("wal/").len() as u64;
    assert!(stored >= 4 && timeline["bytes"].as_u64() >= Some(3 << 20), "{listed}");

    for function in ["walsafe_archive_verify()", "walsafe_archive_gaps()"] {
        assert_eq!(cluster.sql(&format!("SELECT file, finding FROM {function}")), "");
    }
    place.bucket.delete(&format!("wal/{}", names[1]));
    let gap = format!("{}|gap", names[1]);
    let url = place.url();
    for function in ["verify", "gaps"] {
        let of = format!("SELECT file, finding FROM walsafe_archive_{function}('{url}')");
        assert_eq!(cluster.sql(&of), gap);
    }
    let run = place.walsafe("verify", &["--quiet"]);
    assert!(run.code == Some(1) && run.out.contains(&format!("{}: gap", names[1])), "{run:?}");
}

/// It takes what was damaged on its way: a server for developers, and no storage.
#[test]
fn storage_that_looks_at_no_checksum_is_refused() {
    require!(ObjectServer::is_there(Kind::FakeGcs));
    let place = archive(ObjectServer::shared(Kind::FakeGcs).bucket());
    let rows = check(&place, &[]);
    rows.says("no-replace publish", "ok", "one was accepted");
    rows.says("checksums", "error", "looks at neither");
    rows.says("broken uploads", "ok", "leaves nothing");
    rows.says("held uploads", "ok", "may wait");
    rows.says("bucket rules", "ok", "versions are kept: no; object lock: no; no rule removes");
    assert_eq!(place.bucket.names("wal/"), ["wal/walsafe_archive.id"]);
    assert_eq!(place.walsafe("check", &[]).code, Some(2));
}

/// What only `make test-all` does, with the servers that it gets.
mod full {
    use harness::object::server::ANOTHER;

    /// What Azure does not show to who archives is told as that, and is no failure.
    #[test]
    fn a_container_of_azure_is_checked_verified_and_listed() {
        require!(ObjectServer::is_there(Kind::Azurite));
        let Checked { place, cluster, names, rows } = Checked::new(Kind::Azurite);
        rows.says("checksums", "ok", "wrong Content-MD5 is refused");
        rows.says("broken uploads", "ok", "leaves nothing");
        rows.says("held uploads", "ok", "may wait");
        rows.says("bucket rules", "ok", "object lock: no; lifecycle rules may not be read (Azure");
        let name = format!(
            "azure://{}/{}/wal?endpoint=http://{}",
            place.bucket.keys.access, place.bucket.name, place.bucket.address
        );
        let sql = "SELECT DISTINCT destination FROM walsafe_archive_check()
            WHERE destination IS NOT NULL";
        assert_eq!(cluster.sql(sql), name);
        place.assert_clean();
        place.bucket.delete(&format!("wal/{}", names[1]));
        let run = place.walsafe("verify", &["--quiet"]);
        let gap = format!("{}: gap", names[1]);
        assert!(run.code == Some(1) && run.out.contains(&gap), "{run:?}");
        // In no log, and in nothing that is shown.
        let secret = &place.bucket.keys.secret;
        let log = cluster.log().text();
        assert!(!log.contains(secret.as_str()) && !run.out.contains(secret.as_str()));
    }

    use super::*;

    const REPLACES: &str = "The object storage ignores \"If-None-Match: *\"";

    #[test]
    fn storage_that_ignores_the_condition_is_refused() {
        require!(ObjectServer::is_there(Kind::JuiceFs));
        let place = archive(ObjectServer::shared(Kind::JuiceFs).bucket());
        let rows = check(&place, &[]);
        rows.says("no-replace publish", "error", REPLACES);
        assert_eq!(place.walsafe("check", &[]).code, Some(2));
    }

    #[test]
    fn storage_that_shows_half_a_body_is_refused() {
        require!(ObjectServer::is_there(Kind::S3rver));
        let place = archive(ObjectServer::shared(Kind::S3rver).bucket());
        let rows = check(&place, &[]);
        rows.says("no-replace publish", "error", REPLACES);
        rows.says("broken uploads", "error", "broke before the end of its body");
    }

    /// Ceph is good storage, without versions, and for keys that may do no more than they need.
    #[test]
    fn ceph_is_accepted_until_the_bucket_keeps_versions() {
        require!(ObjectServer::is_there(Kind::Ceph));
        let server = ObjectServer::shared(Kind::Ceph);
        let place = archive(server.bucket());
        check(&place, &[]).are_ok();
        assert_eq!(place.bucket.names("wal/"), ["wal/walsafe_archive.id"]);

        let actions = ["s3:GetObject", "s3:PutObject", "s3:ListBucket"];
        place.bucket.allow(ANOTHER, &actions);
        let archiver = Objects::new(place.bucket.with(server.other_keys()));
        check(&archiver, &[]).are_ok();
        let left = place.bucket.names("wal/");
        assert!(left.len() > 1 && left.len() <= 7, "{left:?}");
        check(&archiver, &[]).are_ok();
        assert_eq!(place.bucket.names("wal/"), left);
        check(&archiver, &["--read-only"]).are_ok();

        place.bucket.keep_versions();
        let rows = check(&place, &[]);
        rows.says("no-replace publish", "error", REPLACES);
        rows.says("bucket rules", "ok", "versions are kept: yes");
    }
}
