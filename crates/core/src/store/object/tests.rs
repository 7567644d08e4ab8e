//! What object storage does to us, and what must come of it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use super::fake::{Break, Fake};
use super::{Credentials, ObjectStore, ObjectUrl, Patience};
use crate::encoding::codec::Codec;
use crate::encoding::digest::{CHECKED_ATTRIBUTE, Digest, STORED_ATTRIBUTE};
use crate::error::{Activity, Error, ErrorKind};
use crate::server::settings::CheckWal;
use crate::store::identity::Identity;
use crate::store::{
    Digests, FinalName, Progress, Publication, Seal, Sealed, Store, StoredName, Visit,
};
use crate::wal::name::FileName;

pub(super) const SECRET: &str = "hunter2hunter2";

/// A store, and the file with its keys.
pub(super) struct World {
    pub(super) store: ObjectStore,
    pub(super) keys: tempfile::TempDir,
}

pub(super) fn world(url: &str, tries: Duration) -> World {
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("keys");
    let text = format!("[s3://]\naws_access_key_id = id\naws_secret_access_key = {SECRET}\n");
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let from = Credentials { file: Some(file), data_directory: None };
    let held = Duration::from_secs(10);
    let patience = Patience { progress: Duration::from_secs(1), tries, held };
    let url: ObjectUrl = url.parse().unwrap();
    World { store: ObjectStore::new(url, from, patience).unwrap(), keys }
}

pub(super) fn patient(fake: &Fake) -> World {
    world(&fake.url("/p"), Duration::from_secs(10))
}

pub(super) fn impatient(fake: &Fake) -> World {
    world(&fake.url("/p"), Duration::ZERO)
}

pub(super) fn name(n: u32) -> FinalName {
    let name = FileName::new(&format!("0000000100000000{n:08X}")).unwrap();
    StoredName::new(name, Codec::None).into()
}

pub(super) const KEY: &str = "p/000000010000000000000001";

/// Long enough to be held.
pub(super) fn contents() -> Vec<u8> {
    (0..100_000_u32).map(|n| (n % 251) as u8).collect()
}

fn sealed(visit: &dyn Visit, bytes: &[u8], verify: bool) -> Box<dyn Sealed> {
    seal(visit, bytes, verify).unwrap()
}

fn seal(visit: &dyn Visit, bytes: &[u8], verify: bool) -> Result<Box<dyn Sealed>, Error> {
    let digest = Digest::of(bytes);
    let digests = Some(Digests { stored: digest, content: digest });
    let checked = Some(CheckWal::Header);
    let seal = Seal { digests, checked, mode: 0o600, flush: true, verify };
    let mut draft = visit.stage(name(1)).unwrap();
    draft.put(bytes).unwrap();
    draft.seal(&seal)
}

/// Publishes the contents.
pub(super) fn publish(world: &World) -> Result<Publication, Error> {
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    seal(&*visit, &contents(), false)?.publish(&progress)
}

pub(super) fn look(world: &World) -> Result<Option<Vec<u8>>, Error> {
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let Some(found) = visit.find(&name(1))? else { return Ok(None) };
    let mut bytes = Vec::new();
    found.read(true).unwrap().read_to_end(&mut bytes).unwrap();
    Ok(Some(bytes))
}

/// The end of a body is what makes an object. Were it sent before its turn, a server that has left the archive's
/// history could add to it.
#[test]
fn a_body_is_sent_but_for_its_end_and_dropped_it_leaves_nothing() {
    let fake = Fake::new();
    let world = patient(&fake);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let first = sealed(&*visit, &contents(), false);
    let second = sealed(&*visit, b"another server's".repeat(5000).as_slice(), false);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(fake.object(KEY), None);
    assert_eq!(fake.count("PUT", ""), 0, "no request has come to its end");
    drop(first);
    thread::sleep(Duration::from_millis(100));
    assert_eq!((fake.object(KEY), fake.count("PUT", "")), (None, 0));
    // The one whose turn comes first has the name, whichever was sent first.
    let third = sealed(&*visit, &contents(), false);
    assert_eq!(third.publish(&progress).unwrap(), Publication::Published);
    assert_eq!(second.publish(&progress).unwrap(), Publication::NameTaken);
    assert_eq!(fake.object(KEY).unwrap(), contents());
    assert_eq!(fake.count("PUT", ""), 2, "neither was sent twice");
}

#[test]
fn an_object_carries_digests_and_a_request_its_checksums() {
    let fake = Fake::new();
    let world = patient(&fake);
    assert_eq!(publish(&world).unwrap(), Publication::Published);
    for header in ["content-md5", "x-amz-content-sha256", "authorization"] {
        assert!(fake.header("PUT", header).is_some(), "{header}");
    }
    assert!(fake.header("PUT", "user-agent").unwrap().starts_with("walsafe/"));
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let found = visit.find(&name(1)).unwrap().unwrap();
    let digest = Digest::of(&contents()).to_string();
    assert_eq!(found.attribute(STORED_ATTRIBUTE).unwrap(), Some(digest));
    assert_eq!(found.attribute(CHECKED_ATTRIBUTE).unwrap().as_deref(), Some("header"));
    assert_eq!(found.stored_len(), 100_000);
    let age = found.modified().unwrap();
    assert_eq!(humantime::format_rfc3339(age).to_string(), "1994-11-06T08:49:37Z");
    assert_eq!(fake.header("GET", "cache-control").as_deref(), Some("no-cache"));
}

/// Whether a request whose answer was lost was done, only another look tells.
#[test]
fn a_lost_answer_is_settled_by_sending_again() {
    for (how, expected) in [
        (Break::DoAndRefuse(503, "SlowDown"), Publication::NameTaken),
        (Break::DoAndRefuse(500, "InternalError"), Publication::NameTaken),
        (Break::Cut { done: true }, Publication::NameTaken),
        (Break::Cut { done: false }, Publication::Published),
        (Break::Hang(Duration::from_secs(2)), Publication::Published),
        (Break::Drip, Publication::NameTaken),
        (Break::Refuse(503, "SlowDown"), Publication::Published),
        (Break::Refuse(429, ""), Publication::Published),
        (Break::Refuse(408, ""), Publication::Published),
        (Break::Refuse(400, "RequestTimeout"), Publication::Published),
        (Break::Refuse(409, "ConditionalRequestConflict"), Publication::Published),
        (Break::Refuse(200, "InternalError"), Publication::Published),
        (Break::Refuse(403, "RequestExpired"), Publication::Published),
    ] {
        let fake = Fake::new();
        let world = patient(&fake);
        fake.break_next(("PUT", KEY, how.clone()));
        assert_eq!(publish(&world).unwrap(), expected, "{how:?}");
        fake.all_broken();
        assert_eq!(fake.object(KEY).unwrap(), contents(), "{how:?}");
        assert_eq!(fake.count("PUT", KEY), 2, "{how:?}");
    }
}

#[test]
fn trouble_is_reported_as_what_it_is_and_never_as_success() {
    use ErrorKind as K;
    for (how, kind) in [
        (Break::Refuse(503, "SlowDown"), K::StorageBusy),
        (Break::Refuse(409, "ConditionalRequestConflict"), K::StorageBusy),
        (Break::Cut { done: false }, K::Unreachable),
        (Break::Refuse(307, "TemporaryRedirect"), K::WrongServer),
        (Break::Refuse(301, ""), K::WrongServer),
        (Break::Refuse(501, "NotImplemented"), K::ConditionIgnored),
        (Break::Refuse(404, "NoSuchBucket"), K::BucketMissing),
        (Break::Refuse(403, "RequestTimeTooSkewed"), K::ClockSkew),
        (Break::Refuse(412, ""), K::RequestRefused),
        (Break::Refuse(409, "Other"), K::RequestRefused),
        (Break::Refuse(200, "AccessDenied"), K::RequestRefused),
        (Break::Refuse(201, ""), K::RequestRefused),
    ] {
        let fake = Fake::new();
        let world = impatient(&fake);
        // A connection that was used before may have been closed since then, which says nothing.
        for _ in 0..if matches!(how, Break::Cut { .. }) { 2 } else { 1 } {
            fake.break_next(("PUT", KEY, how.clone()));
        }
        let error = publish(&world).unwrap_err();
        fake.all_broken();
        assert_eq!(error.kind(), kind, "{how:?}: {error} {}", error.detail());
        assert_eq!(error.to_string(), "could not upload the copy");
        assert!(
            error.detail().starts_with(&format!("\"s3://bucket/{KEY}\": ")),
            "{}",
            error.detail()
        );
        assert_eq!(fake.object(KEY), None, "{how:?}");
        let said = format!("{error} {error:?} {} {:?}", error.detail(), world.store);
        for never in [SECRET, "the body", "Signature"] {
            assert!(!said.contains(never), "{said}");
        }
        if !matches!(how, Break::Cut { .. }) {
            assert!(error.detail().contains("The request's number is 17."), "{}", error.detail());
            assert!(!error.gist().contains("17."), "{}", error.gist());
        }
        assert!(!error.kind().hint(Activity::Archiving).contains("Please report"), "{how:?}");
    }
}

/// A missing key and a forbidden one, a broken connection and a missing bucket were all "not there" to tools
/// that look at the number.
#[test]
fn only_a_missing_key_is_absent() {
    let fake = Fake::new();
    let world = impatient(&fake);
    assert_eq!(look(&world).unwrap(), None);
    for (how, kind) in [
        (Break::Refuse(404, ""), ErrorKind::RequestRefused),
        (Break::Refuse(404, "NoSuchBucket"), ErrorKind::BucketMissing),
        (Break::Refuse(403, "InvalidObjectState"), ErrorKind::ColdObject),
        (Break::Refuse(503, ""), ErrorKind::StorageBusy),
        (Break::Cut { done: false }, ErrorKind::Unreachable),
        (Break::Hang(Duration::from_secs(2)), ErrorKind::Unreachable),
    ] {
        let fake = Fake::new();
        let world = impatient(&fake);
        fake.break_next(("GET", KEY, how.clone()));
        let error = look(&world).unwrap_err();
        fake.all_broken();
        assert_eq!(error.kind(), kind, "{how:?}");
    }
    // New keys are looked for once, and then it is what it is.
    fake.break_next(("GET", KEY, Break::Refuse(403, "AccessDenied")));
    assert_eq!(look(&world).unwrap(), None);
    for _ in 0..2 {
        fake.break_next(("GET", KEY, Break::Refuse(403, "AccessDenied")));
    }
    assert_eq!(look(&world).unwrap_err().kind(), ErrorKind::RequestForbidden);
    fake.all_broken();
}

#[test]
fn nobody_there_and_no_such_name_say_so() {
    for (endpoint, says) in [
        ("http://127.0.0.1:1", "Connection refused"),
        ("https://name.invalid", "cannot be looked up"),
    ] {
        let world = world(&format!("s3://bucket?endpoint={endpoint}"), Duration::ZERO);
        let error = look(&world).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.detail().contains(says), "{}", error.detail());
    }
}

/// What is cut short would be taken for a damaged archive, and a damaged archive is moved aside.
#[test]
fn a_broken_transfer_is_not_broken_contents() {
    let fake = Fake::new();
    let world = patient(&fake);
    fake.store(KEY, &contents());
    fake.break_next(("GET", KEY, Break::Short(70_000)));
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let found = visit.find(&name(1)).unwrap().unwrap();
    let mut bytes = Vec::new();
    let mut stream = found.read(true).unwrap();
    for _ in 0..2 {
        let error = stream.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET), "also when it is read on");
    }
    fake.all_broken();
    assert_eq!(bytes.len(), 70_000);
}

#[test]
fn a_copy_that_reads_back_differently_is_no_success() {
    let fake = Fake::new();
    let world = patient(&fake);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    fake.break_next(("GET", KEY, Break::Flip));
    let error = sealed(&*visit, &contents(), true).publish(&progress).unwrap_err();
    fake.all_broken();
    assert_eq!(error.kind(), ErrorKind::StorageLied);
}

/// Some storage takes the condition and replaces all the same.
#[test]
fn storage_that_replaces_is_refused_before_the_first_file() {
    let fake = Fake::new();
    let world = patient(&fake);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    assert!(Identity::new(7).publish(&*visit, 0o600).unwrap());
    fake.replace(true);
    let error = publish(&world).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConditionIgnored, "{}", error.detail());
    assert_eq!(fake.object(KEY), None, "nothing was sent to its end");
    fake.replace(false);
    assert_eq!(publish(&world).unwrap(), Publication::Published);
    assert_eq!(publish(&world).unwrap(), Publication::NameTaken);
    assert_eq!(fake.count("PUT", "walsafe_archive.id"), 3, "once refused, once passed");
}

#[test]
fn a_listing_goes_through_all_pages_and_leaves_out_what_is_no_name() {
    let fake = Fake::new();
    let world = patient(&fake);
    for key in ["p/", "p/a_$folder$", "p/s/1", "p/s/2", "p/s/3", "p/t", "p2", "q/x"] {
        fake.store(key, b"");
    }
    let mut expected = vec!["s/".to_owned(), "t".to_owned()];
    for n in 0..7 {
        fake.store(&format!("p/{}", name(n)), b"");
        expected.push(name(n).to_string());
    }
    expected.sort();
    for page in [1, 2, 3, 1000] {
        fake.page(page);
        let progress = Progress::default();
        let visit = world.store.visit(&progress).unwrap();
        let mut names = Vec::new();
        visit.list(&mut |name| names.push(name.to_owned())).unwrap();
        names.sort();
        assert_eq!(names, expected, "{page} names a page");
    }
}

/// A listing that is cut short would hide the newest WAL.
#[test]
fn half_a_listing_is_an_error() {
    let fake = Fake::new();
    let world = impatient(&fake);
    fake.store(KEY, b"");
    for _ in 0..3 {
        fake.break_next(("GET", "list-type=2", Break::Short(120)));
    }
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let error = visit.list(&mut |_| ()).unwrap_err();
    fake.all_broken();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", error.detail());
    assert_eq!(error.to_string(), "could not list the objects of the archive");
}

/// What is wrong may show after the number was sent. It was taken for a listing that is not whole.
#[test]
fn an_error_in_place_of_a_listing_is_told_as_what_it_is() {
    for (code, kind) in [
        ("SlowDown", ErrorKind::StorageBusy),
        ("InternalError", ErrorKind::StorageBusy),
        ("AccessDenied", ErrorKind::RequestRefused),
        ("NoSuchBucket", ErrorKind::BucketMissing),
    ] {
        let fake = Fake::new();
        let world = impatient(&fake);
        // What may pass is asked for three times.
        for _ in 0..if kind == ErrorKind::StorageBusy { 3 } else { 1 } {
            fake.break_next(("GET", "list-type=2", Break::Refuse(200, code)));
        }
        let progress = Progress::default();
        let visit = world.store.visit(&progress).unwrap();
        let error = visit.list(&mut |_| ()).unwrap_err();
        fake.all_broken();
        assert_eq!(error.kind(), kind, "{code}");
        assert!(error.detail().contains(&format!("answered 200 {code}")), "{}", error.detail());
    }
}

/// A server that hangs held up the archiver for as long as it pleased.
#[test]
fn a_request_that_hangs_ends_by_itself() {
    let fake = Fake::new();
    let world = impatient(&fake);
    fake.break_next(("PUT", KEY, Break::Hang(Duration::from_secs(5))));
    let begun = Instant::now();
    let error = publish(&world).unwrap_err();
    fake.all_broken();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(error.detail().contains("timed out"), "{}", error.detail());
}

/// A connection that the server has closed meanwhile was an error of the next request.
#[test]
fn connections_are_used_again_while_they_are_good() {
    let fake = Fake::new();
    let world = impatient(&fake);
    assert_eq!(publish(&world).unwrap(), Publication::Published);
    fake.break_next(("GET", KEY, Break::Cut { done: false }));
    // The connection was used before, so that the request is sent again, at once.
    assert_eq!(look(&world).unwrap().unwrap(), contents());
    fake.all_broken();
}
