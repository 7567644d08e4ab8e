//! What Azure's storage does to us, and what must come of it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::Duration;

use super::{Azure, VERSION};
use crate::encoding::digest::{CHECKED_ATTRIBUTE, Digest, STORED_ATTRIBUTE};
use crate::error::{Error, ErrorKind};
use crate::server::settings::CheckWal;
use crate::server::url::ObjectUrl;
use crate::store::identity::Identity;
use crate::store::object::ask::{Ask, Asked};
use crate::store::object::cloud::Dialect;
use crate::store::object::cloud::tests::{
    goes_on_to_its_end_and_begins_where_it_is_wanted, replacing_and_trusting_are_found_out,
};
use crate::store::object::fake::{Break, Fake};
use crate::store::object::payload::Payload;
use crate::store::object::server_tests::rivals_stop_at_the_first_name_that_is_taken;
use crate::store::object::tests::{KEY, SECRET, World, contents, look, name, publish};
use crate::store::object::{Credentials, ObjectStore, Patience};
use crate::store::trials::Wrong;
use crate::store::{Digests, Progress, Publication, Seal, Store, conformance};

fn world(fake: &Fake, prefix: &str, key: &str, tries: Duration) -> World {
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("keys");
    std::fs::write(&file, format!("[azure://walsafe1]\n{key}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let from = Credentials { file: Some(file), data_directory: None };
    let held = Duration::from_secs(10);
    let patience = Patience { progress: Duration::from_secs(1), tries, held };
    let url = fake.azure(prefix).parse().unwrap();
    World { store: ObjectStore::new(url, from, patience).unwrap(), keys }
}

fn url(text: &str) -> ObjectUrl {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn a_blob_has_its_place_in_the_path_and_in_the_servers_name() {
    let key = || Azure.read("pg/main/a b".to_owned());
    let own = url("azure://walsafe1/wal/pg/main");
    assert_eq!(own.server("").authority(), "walsafe1.blob.core.windows.net");
    assert_eq!(Azure.path(&own, &key()), "/wal/pg/main/a%20b");
    assert_eq!(Azure.path(&own, &Ask::new(Asked::Read, "GET")), "/wal");
    for (endpoint, server, path) in [
        ("http://127.0.0.1:10000", "127.0.0.1:10000", "/walsafe1/wal"),
        ("https://blob.core.usgovcloudapi.net", "walsafe1.blob.core.usgovcloudapi.net", "/wal"),
        (
            "https://walsafe1.blob.core.usgovcloudapi.net",
            "walsafe1.blob.core.usgovcloudapi.net",
            "/wal",
        ),
        ("https://store.test&style=path", "store.test", "/walsafe1/wal"),
    ] {
        let url = url(&format!("azure://walsafe1/wal?endpoint={endpoint}"));
        assert_eq!(url.server("").authority(), server);
        assert_eq!(Azure.path(&url, &Ask::new(Asked::Read, "GET")), path);
    }
}

#[test]
fn a_blob_is_put_with_its_condition_digests_and_tier() {
    let url = url("azure://walsafe1/wal?storage_class=Cool");
    let mut payload = Payload::new();
    payload.add(b"x").unwrap();
    let ask = Azure.publish(&url, "k".to_owned(), &[(STORED_ATTRIBUTE, "d".to_owned())], &payload);
    let headers: Vec<_> = Azure.headers(&url, &ask).into_iter().chain(ask.headers).collect();
    for expected in [
        ("if-none-match", "*"),
        ("x-ms-blob-type", "BlockBlob"),
        ("x-ms-meta-walsafe_stored", "d"),
        ("x-ms-access-tier", "Cool"),
        ("content-md5", "ndTkYSaMgDT1yFZOFVxnpg=="),
        ("x-ms-version", VERSION),
    ] {
        let found = headers.iter().any(|(name, value)| (*name, value.as_str()) == expected);
        assert!(found, "{expected:?}: {headers:?}");
    }
}

const ACCOUNT_KEY: &str = "azure_storage_key = aHVudGVyMmh1bnRlcjI=";

fn patient(fake: &Fake) -> World {
    world(fake, "/p", ACCOUNT_KEY, Duration::from_secs(10))
}

fn impatient(fake: &Fake) -> World {
    world(fake, "/p", ACCOUNT_KEY, Duration::ZERO)
}

#[test]
fn a_container_keeps_the_promises_of_a_store() {
    let fake = Fake::new();
    let (mut places, mut keys) = (0, Vec::new());
    conformance::conforms_anew(&mut || {
        places += 1;
        let prefix = format!("/place-{places}");
        let made = world(&fake, &prefix, ACCOUNT_KEY, Duration::from_secs(10));
        keys.push(made.keys);
        Box::new(made.store)
    });
    for round in 0..5 {
        let keys = Mutex::new(Vec::new());
        rivals_stop_at_the_first_name_that_is_taken(&|| {
            let prefix = format!("/round-{round}");
            let made = world(&fake, &prefix, ACCOUNT_KEY, Duration::from_secs(10));
            keys.lock().unwrap().push(made.keys);
            made.store
        });
    }
}

/// The end of the body is what makes a blob.
#[test]
fn a_blob_is_one_put_with_a_condition_whose_end_waits_for_its_turn() {
    let fake = Fake::new();
    let world = patient(&fake);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let digest = Digest::of(&contents());
    let seal = Seal {
        digests: Some(Digests { stored: digest, content: digest }),
        checked: Some(CheckWal::Header),
        mode: 0o600,
        flush: true,
        verify: true,
    };
    let mut draft = visit.stage(name(1)).unwrap();
    draft.put(&contents()).unwrap();
    let sealed = draft.seal(&seal).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((fake.object(KEY), fake.count("PUT", "")), (None, 0));
    assert_eq!(sealed.publish(&progress).unwrap(), Publication::Published);
    assert_eq!(fake.object(KEY).unwrap(), contents());
    assert_eq!(fake.count("PUT", "/walsafe1/bucket/p/"), 1, "sent once");
    let authorization = fake.header("PUT", "authorization").unwrap();
    assert!(authorization.starts_with("SharedKey walsafe1:"), "{authorization}");
    let found = visit.glance(&name(1)).unwrap().unwrap();
    assert_eq!(found.attribute(STORED_ATTRIBUTE).unwrap().unwrap(), digest.to_string());
    assert_eq!(found.attribute(CHECKED_ATTRIBUTE).unwrap().unwrap(), "header");
    assert_eq!(found.stored_len(), 100_000);
}

#[test]
fn an_answer_counts_by_its_code() {
    let fake = Fake::new();
    let calm = patient(&fake);
    // Done, without an answer that says so: the name is taken, by what we sent.
    for how in [
        Break::DoAndRefuse(503, "ServerBusy"),
        Break::DoAndRefuse(500, "OperationTimedOut"),
        Break::DoAndRefuse(201, "InternalError"),
        Break::Cut { done: true },
    ] {
        fake.remove(KEY);
        fake.break_next(("PUT", KEY, how.clone()));
        assert_eq!(publish(&calm).unwrap(), Publication::NameTaken, "{how:?}");
        assert_eq!(look(&calm).unwrap().unwrap(), contents(), "{how:?}");
        fake.all_broken();
    }
    // New keys may do.
    fake.remove(KEY);
    fake.break_next(("PUT", KEY, Break::Refuse(403, "AuthenticationFailed")));
    assert_eq!(publish(&calm).unwrap(), Publication::Published);
    let hasty = impatient(&fake);
    let refused = |error: Error, kind, says: &str| {
        assert_eq!(error.kind(), kind, "{}", error.detail());
        assert!(error.detail().contains(says), "{}", error.detail());
    };
    for (status, code, kind) in [
        (200, "", ErrorKind::RequestRefused),
        (409, "", ErrorKind::RequestRefused),
        (412, "ConditionNotMet", ErrorKind::RequestRefused),
        (404, "ContainerNotFound", ErrorKind::BucketMissing),
        (307, "", ErrorKind::WrongServer),
        (503, "ServerBusy", ErrorKind::StorageBusy),
    ] {
        fake.remove(KEY);
        fake.break_next(("PUT", KEY, Break::Refuse(status, code)));
        let code = if code.is_empty() { "without a code" } else { code };
        refused(publish(&hasty).unwrap_err(), kind, &format!("{status} {code}"));
        assert_eq!(fake.object(KEY), None);
    }
    for (status, code, kind) in [
        (404, "ContainerNotFound", ErrorKind::BucketMissing),
        (404, "ResourceNotFound", ErrorKind::RequestRefused),
        (404, "", ErrorKind::RequestRefused),
        (409, "BlobArchived", ErrorKind::ColdObject),
        (503, "", ErrorKind::StorageBusy),
    ] {
        fake.break_next(("GET", KEY, Break::Refuse(status, code)));
        refused(look(&hasty).unwrap_err(), kind, &status.to_string());
    }
    assert_eq!(look(&hasty).unwrap(), None);
    fake.all_broken();
}

/// Who may create blobs and not write them is told so in place of "the name is taken", and needs no new keys.
#[test]
fn who_may_only_create_blobs_is_told_that_one_is_there() {
    let fake = Fake::new();
    let sas = format!("azure_storage_sas_token = ?sv=2024-11-04&sp=rcl&sig={SECRET}%3D");
    let world = world(&fake, "/p", &sas, Duration::ZERO);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    Identity::new(5).publish(&*visit, 0o600).unwrap();
    fake.break_next(("PUT", "walsafe_archive.id", Break::Refuse(403, "UnauthorizedBlobOverwrite")));
    visit.test().unwrap();
    fake.all_broken();
    // And who finds a blob under a policy.
    fake.store(KEY, &contents());
    fake.break_next(("PUT", KEY, Break::Refuse(409, "BlobImmutableDueToPolicy")));
    assert_eq!(publish(&world).unwrap(), Publication::NameTaken);
    fake.all_broken();
    assert_eq!(fake.count("PUT", &format!("id?sv=2024-11-04&sp=rcl&sig={SECRET}%3D")), 2);
    // A refusal, with its address, shows nothing of it.
    fake.break_next(("GET", KEY, Break::Refuse(400, "InvalidUri")));
    let error = look(&world).unwrap_err();
    assert!(!format!("{error} {error:?} {}", error.detail()).contains(SECRET), "{error:?}");
}

#[test]
fn storage_that_replaces_or_trusts_what_is_sent_is_found_out() {
    let fake = Fake::new();
    let world = patient(&fake);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let trials = replacing_and_trusting_are_found_out(&fake, &*visit, Some(Wrong::Stored));

    let locks = trials.rules().locks.unwrap_err();
    assert!(locks.contains("403 AuthorizationPermissionMismatch"), "{locks}");
    fake.rule("container", "x-ms-has-legal-hold");
    assert_eq!(trials.rules().locks, Ok(true));
    fake.rule("container", "x-ms-lease-state");
    assert_eq!(trials.rules().locks, Ok(false));
}

/// A page may hold nothing and be followed by others all the same.
#[test]
fn a_listing_goes_on_to_its_end_and_begins_where_it_is_wanted() {
    let fake = Fake::new();
    goes_on_to_its_end_and_begins_where_it_is_wanted(
        &fake,
        &patient(&fake),
        "comp=list",
        "ContainerNotFound",
    );
}
