#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::Duration;

use crate::encoding::digest::{CHECKED_ATTRIBUTE, Digest, STORED_ATTRIBUTE};
use crate::error::{Error, ErrorKind};
use crate::server::settings::CheckWal;
use crate::store::identity::Identity;
use crate::store::object::cloud::tests::{
    goes_on_to_its_end_and_begins_where_it_is_wanted, replacing_and_trusting_are_found_out,
};
use crate::store::object::fake::{Break, Fake};
use crate::store::object::keys::google_key;
use crate::store::object::server_tests::rivals_stop_at_the_first_name_that_is_taken;
use crate::store::object::tests::{KEY, contents, look, name, publish};
use crate::store::object::{Credentials, ObjectStore, Patience, tests};
use crate::store::{Digests, FinalName, Progress, Publication, Seal, Store, conformance};

/// A store, and the files with its keys.
fn world(fake: &Fake, prefix: &str, options: &str, tries: Duration) -> tests::World {
    let (url, tokens) = fake.google(prefix);
    let keys = tempfile::tempdir().unwrap();
    let (json, file) = (keys.path().join("key.json"), keys.path().join("keys"));
    std::fs::write(&json, google_key(&tokens)).unwrap();
    let section = format!("[gs://]\ngoogle_application_credentials = {}\n", json.display());
    std::fs::write(&file, section).unwrap();
    for path in [&json, &file] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    let from = Credentials { file: Some(file), data_directory: None };
    let held = Duration::from_secs(10);
    let patience = Patience { progress: Duration::from_secs(1), tries, held };
    let url = format!("{url}{options}").parse().unwrap();
    tests::World { store: ObjectStore::new(url, from, patience).unwrap(), keys }
}

fn patient(fake: &Fake) -> tests::World {
    world(fake, "/p", "", Duration::from_secs(10))
}

fn impatient(fake: &Fake) -> tests::World {
    world(fake, "/p", "", Duration::ZERO)
}

const UPLOAD: &str = "/upload/storage/v1/b/bucket/o";

#[test]
fn a_bucket_of_googles_keeps_the_promises_of_a_store() {
    let fake = Fake::new();
    let (mut places, mut keys) = (0, Vec::new());
    conformance::conforms_anew(&mut || {
        places += 1;
        let prefix = format!("/place-{places}");
        let tests::World { store, keys: kept } = world(&fake, &prefix, "", Duration::from_secs(10));
        keys.push(kept);
        Box::new(store)
    });
    for round in 0..5 {
        let keys = Mutex::new(Vec::new());
        rivals_stop_at_the_first_name_that_is_taken(&|| {
            let prefix = format!("/round-{round}");
            let tests::World { store, keys: kept } =
                world(&fake, &prefix, "", Duration::from_secs(10));
            keys.lock().unwrap().push(kept);
            store
        });
    }
}

/// The end of the body is what makes an object, and the frame around the contents is a part of it.
#[test]
fn an_upload_is_one_request_with_a_condition_whose_end_waits_for_its_turn() {
    let fake = Fake::new();
    let options = "&storage_class=NEARLINE&kms_key=projects/p/locations/l/keyRings/r/cryptoKeys/k";
    let world = world(&fake, "/p", options, Duration::from_secs(10));
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
    assert_eq!((fake.object(KEY), fake.count("POST", UPLOAD)), (None, 0));
    assert_eq!(sealed.publish(&progress).unwrap(), Publication::Published);
    assert_eq!(fake.object(KEY).unwrap(), contents());
    let kms = "kmsKeyName=projects%2Fp%2Flocations%2Fl%2FkeyRings%2Fr%2FcryptoKeys%2Fk";
    assert_eq!(fake.count("POST", kms), 1, "sent once");
    assert_eq!(fake.count("POST", "ifGenerationMatch=0"), 1);
    assert_eq!(fake.count("POST", "/token"), 1, "one token is enough");
    let found = visit.glance(&name(1)).unwrap().unwrap();
    assert_eq!(found.attribute(STORED_ATTRIBUTE).unwrap().unwrap(), digest.to_string());
    assert_eq!(found.attribute(CHECKED_ATTRIBUTE).unwrap().unwrap(), "header");
    assert_eq!(found.stored_len(), 100_000);
    // What is read later is the same object, or nothing.
    let mut bytes = Vec::new();
    found.read(true).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == contents());
    assert_eq!(fake.header("GET", "x-goog-if-generation-match").as_deref(), Some("17"));
}

#[test]
fn an_answer_counts_by_its_code() {
    let fake = Fake::new();
    let calm = patient(&fake);
    // Done, without an answer that says so: the name is taken, by what we sent.
    for how in [
        Break::DoAndRefuse(503, "backendError"),
        Break::DoAndRefuse(429, "rateLimitExceeded"),
        Break::DoAndRefuse(200, "internalError"),
        // It may be anybody's.
        Break::DoAndRefuse(200, ""),
        Break::Cut { done: true },
    ] {
        fake.remove(KEY);
        fake.break_next(("POST", UPLOAD, how.clone()));
        assert_eq!(publish(&calm).unwrap(), Publication::NameTaken, "{how:?}");
        assert_eq!(look(&calm).unwrap().unwrap(), contents(), "{how:?}");
        fake.all_broken();
    }
    for how in [
        Break::Refuse(403, "rateLimitExceeded"),
        Break::Refuse(401, "authError"),
        Break::Refuse(200, ""),
    ] {
        fake.remove(KEY);
        fake.break_next(("POST", UPLOAD, how.clone()));
        assert_eq!(publish(&calm).unwrap(), Publication::Published, "{how:?}");
        fake.all_broken();
    }
    let hasty = impatient(&fake);
    let refused = |error: Error, kind, says: &str| {
        assert_eq!(error.kind(), kind, "{}", error.detail());
        assert!(error.detail().contains(says), "{}", error.detail());
    };
    for (status, code, kind, says) in [
        (412, "orgPolicyConstraintFailed", ErrorKind::RequestRefused, "412 orgPolicyConstraint"),
        (404, "notFound", ErrorKind::BucketMissing, "404 notFound"),
        (412, "", ErrorKind::RequestRefused, "412 without a code"),
        (503, "", ErrorKind::StorageBusy, "503 without a code"),
        (200, "", ErrorKind::StorageBusy, "200 without what was stored"),
        (308, "", ErrorKind::RequestRefused, "308 without a code"),
    ] {
        fake.remove(KEY);
        fake.break_next(("POST", UPLOAD, Break::Refuse(status, code)));
        refused(publish(&hasty).unwrap_err(), kind, says);
        assert_eq!(fake.object(KEY), None);
    }
    for (status, code, kind) in [
        (404, "NoSuchBucket", ErrorKind::BucketMissing),
        (404, "", ErrorKind::RequestRefused),
        (503, "", ErrorKind::StorageBusy),
    ] {
        fake.break_next(("GET", KEY, Break::Refuse(status, code)));
        refused(look(&hasty).unwrap_err(), kind, &status.to_string());
    }
    assert_eq!(look(&hasty).unwrap(), None);
    fake.all_broken();
}

/// An account that may not remove objects is told that right is missing in place of "the name is taken".
#[test]
fn who_may_not_remove_an_object_is_told_that_it_is_there() {
    let fake = Fake::new();
    let world = patient(&fake);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    Identity::new(5).publish(&*visit, 0o600).unwrap();
    fake.break_next(("POST", UPLOAD, Break::Refuse(403, "storage.objects.delete")));
    visit.test().unwrap();
    fake.all_broken();
    // And what is under a retention policy, or a hold.
    for code in ["retentionPolicyNotMet", "objectUnderActiveHold"] {
        fake.store(KEY, &contents());
        fake.break_next(("POST", UPLOAD, Break::Refuse(403, code)));
        assert_eq!(publish(&world).unwrap(), Publication::NameTaken, "{code}");
        fake.all_broken();
    }
    assert_eq!(fake.count("POST", "/token"), 1, "the token is good");
}

/// One busy moment of the server of tokens ended a recovery.
#[test]
fn a_token_that_is_not_given_now_is_asked_for_again() {
    let cut = Break::Cut { done: false };
    for how in [Break::Refuse(503, ""), Break::Refuse(429, ""), Break::Refuse(410, ""), cut] {
        let fake = Fake::new();
        for _ in 0..2 {
            fake.break_next(("POST", "/token", how.clone()));
        }
        assert_eq!(publish(&patient(&fake)).unwrap(), Publication::Published, "{how:?}");
        fake.all_broken();
        assert_eq!(fake.count("POST", "/token"), 3, "{how:?}");
    }
    for (how, kind, says) in [
        (Break::Refuse(503, ""), ErrorKind::StorageBusy, "127.0.0.1 answered 503 without a code"),
        (Break::Cut { done: false }, ErrorKind::Unreachable, "a token could not be asked for: the"),
        (Break::Refuse(400, ""), ErrorKind::CredentialsRefused, "answered 400 without a code"),
    ] {
        let fake = Fake::new();
        fake.break_next(("POST", "/token", how.clone()));
        let is_for_good = kind == ErrorKind::CredentialsRefused;
        let world = if is_for_good { patient(&fake) } else { impatient(&fake) };
        let error = look(&world).unwrap_err();
        fake.all_broken();
        assert_eq!((error.kind(), fake.count("POST", "/token")), (kind, 1), "{}", error.detail());
        assert!(error.detail().contains(says), "{}", error.detail());
    }
}

#[test]
fn storage_that_replaces_or_trusts_what_is_sent_is_found_out() {
    let fake = Fake::new();
    let world = patient(&fake);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let trials = replacing_and_trusting_are_found_out(&fake, &*visit, None);

    assert!(trials.rules().by_age.unwrap_err().contains("403 forbidden"));
    fake.rule("bucket", r#"{"kind": "storage#bucket", "versioning": {"enabled": true}}"#);
    assert_eq!(trials.rules().keeps_versions, Ok(true));
}

#[test]
fn a_listing_goes_on_to_its_end_and_begins_where_it_is_wanted() {
    let fake = Fake::new();
    goes_on_to_its_end_and_begins_where_it_is_wanted(
        &fake,
        &patient(&fake),
        "/storage/v1/b/bucket/o",
        "notFound",
    );
    assert!(matches!(name(1), FinalName::File(_)));
}
