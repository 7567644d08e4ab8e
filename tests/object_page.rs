//! docs/object-storage.md: what it shows can be used as it stands there.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use harness::Scratch;
use walsafe_core::store::location::{self, Access};
use walsafe_core::store::{FinalName, Progress};

use crate::support::document::Document;

/// A URL in the documentation that the module would refuse costs its reader an evening.
#[test]
fn the_urls_of_the_page_are_accepted() {
    let page = Document::new("object-storage.md");
    for block in ["object-aws", "object-r2", "object-ceph", "object-azure", "object-google"] {
        let text = page.block(block);
        let destinations: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("walsafe_archive.destination = '"))
            .filter_map(|rest| rest.strip_suffix('\''))
            .collect();
        let [url] = destinations[..] else { panic!("{block}: {text}") };
        let opened = location::open(Path::new(url), &Access::default());
        assert!(opened.is_ok(), "{block}: {:?}", opened.err());
        let restore = text.lines().find(|line| line.starts_with("restore_command"));
        assert!(restore.is_none_or(|line| line.contains(&format!("--from \"{url}\""))), "{text}");
    }
}

/// The sections of the page are those that are looked for, and their keys are understood: what fails then is the
/// server, which is not there, or the file that the key names.
#[test]
fn the_sections_of_the_page_are_found() {
    let (page, place) = (Document::new("object-storage.md"), Scratch::new("keys"));
    for (url, block, fails_at) in [
        (
            "azure://exampleaccount/example-wal/main?endpoint=http://127.0.0.1:1",
            page.block("object-azure-credentials"),
            "127.0.0.1:1 cannot be reached",
        ),
        (
            "azure://exampleaccount/other/main?endpoint=http://127.0.0.1:1",
            page.block("object-azure-credentials"),
            "127.0.0.1:1 cannot be reached",
        ),
        (
            "gs://example-wal/main?endpoint=http://127.0.0.1:1",
            page.block("object-google-credentials"),
            "/etc/walsafe/wal-archiver.json",
        ),
    ] {
        // This process reads it, and not the server.
        let file = place.join("own-credentials");
        std::fs::write(&file, block).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let access = Access {
            credentials_file: Some(file.clone()),
            stall_timeout: Some(Duration::from_secs(1)),
            ..Access::default()
        };
        let store = location::open(Path::new(url), &access).unwrap();
        let progress = Progress::default();
        let visit = store.visit(&progress).unwrap();
        let error = visit.glance(&FinalName::Identity).err().unwrap().detail();
        assert!(error.contains(fails_at), "{url}: {error}");
    }
}

mod full {
    use harness::object::server::ANOTHER;
    use harness::object::{Kind, ObjectServer};
    use harness::{Cluster, require, scratch};

    use super::*;

    /// Rights that are too small stop the archive at its first file, and ones that are too large let whoever takes
    /// the server delete it.
    #[test]
    fn a_cluster_archives_to_ceph_with_the_settings_and_the_rights_of_the_page() {
        require!(ObjectServer::is_there(Kind::Ceph));
        let server = ObjectServer::shared(Kind::Ceph);
        let bucket = server.bucket();
        let keys = server.other_keys();
        let place = Scratch::new("keys");
        let file = place.join("credentials");
        let page = Document::new("object-storage.md")
            .with("https://rgw.example.com", format!("http://{}", bucket.address))
            .with("example-wal", &bucket.name)
            .with("user/postgres", format!("user/{ANOTHER}"))
            .with("/etc/walsafe/credentials", &file)
            .with("AKIAIOSFODNN7EXAMPLE", &keys.access)
            .with("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", &keys.secret);
        let policy = page.block("object-ceph-rights");
        let answer = bucket.request("PUT", "", &[("policy", "")], &[], policy.as_bytes()).unwrap();
        assert!([200, 204].contains(&answer.status), "{answer:?}");
        scratch::write(&file, page.block("object-credentials"));
        scratch::chmod(&file, 0o600);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        let settings = page.settings("object-ceph");
        let cluster = settings
            .iter()
            .fold(Cluster::builder(), |builder, (name, value)| builder.set(name, value))
            .set("archive_mode", "on")
            .set("archive_library", "walsafe_archive")
            .start();
        let segment = cluster.switch_wal();
        cluster.wait_all_archived();
        let names = bucket.names("main/");
        assert!(names.contains(&format!("main/{segment}")), "{names:?}");
        assert!(names.contains(&"main/walsafe_archive.id".to_owned()), "{names:?}");

        let denied = bucket.with(keys).request("DELETE", &names[0], &[], &[], b"").unwrap();
        assert_eq!(denied.status, 403, "{denied:?}");
        assert_eq!(bucket.names("main/"), names);
    }
}
