//! What verify, list and check make of a bucket.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::fake::{Break, Fake, Flaws};
use super::tests::{World, impatient, patient};
use crate::encoding::digest::Digest;
use crate::error::ErrorKind;
use crate::prove::check::{self, Check, Status};
use crate::prove::finding::FindingKind;
use crate::prove::overview::Overview;
use crate::prove::verify::{self, VerifyError};
use crate::store::identity::Identity;
use crate::store::{Digests, FinalName, Progress, Seal, Store, StoredName};

/// The text of a history file.
const HISTORY: &str = "1\t0/3000060\tno reason\n";

/// What a bucket says that keeps versions.
const VERSIONS: &str =
    "<VersioningConfiguration xmlns=\"x\"><Status>Enabled</Status></VersioningConfiguration>";

/// Publishes a file with its digests.
fn put(world: &World, name: FinalName, bytes: &[u8]) {
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let digest = Digest::of(bytes);
    let digests = Some(Digests { stored: digest, content: digest });
    let seal = Seal { digests, checked: None, mode: 0o600, flush: true, verify: false };
    let mut draft = visit.stage(name).unwrap();
    draft.put(bytes).unwrap();
    draft.seal(&seal).unwrap().publish(&progress).unwrap();
}

/// An archive with an identity, and the history files of the timelines 2 to `last`, each of the one before.
fn archive(fake: &Fake, last: u32) -> World {
    let world = patient(fake);
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    Identity::new(5).publish(&*visit, 0o600).unwrap();
    for timeline in 2..=last {
        let line = |parent| format!("{parent}\t0/{parent}000060\tno reason\n");
        let text: String = (1..timeline).map(line).collect();
        let name = StoredName::parse(&format!("{timeline:08X}.history")).unwrap();
        put(&world, name.into(), text.as_bytes());
    }
    drop(visit);
    world
}

/// What is found but for what the server says of its age, which is that of 1994.
fn verify(world: &World) -> Result<Vec<(String, FindingKind, String)>, VerifyError> {
    let report = verify::verify(&world.store, &verify::Options::default(), &mut |_| true)?;
    let found = report.findings.iter();
    let found = found.filter(|finding| finding.problem.kind != FindingKind::OrphanHistory);
    Ok(found.map(|f| (f.file, f.problem.kind, f.problem.reason)).collect())
}

/// `list` would ask a million times for what a thousand pages have said.
#[test]
fn sizes_and_times_come_with_the_listing() {
    let fake = Fake::new();
    let world = archive(&fake, 1);
    fake.page(3);
    for n in 1..=10 {
        fake.store(&format!("p/0000000100000000{n:08X}"), &[7; 100]);
    }
    fake.store("p/00000001000000000000000B.partial", &[7; 30]);
    fake.store("p/00000002.history", HISTORY.as_bytes());
    fake.store("p/strange", b"x");
    let overview = Overview::read(&world.store, &Progress::default()).unwrap();
    let at = humantime::parse_rfc3339("2026-11-29T10:11:12Z").unwrap();
    let [first, second] = overview.timelines.as_slice() else { panic!("{overview:?}") };
    assert_eq!((first.segments, first.partials, first.bytes, first.allocated), (10, 1, 1030, 1030));
    assert_eq!(first.times, Some((at, at)));
    assert_eq!(first.runs.iter().map(|run| run.count).collect::<Vec<_>>(), [10]);
    assert_eq!((second.history, second.bytes), (true, HISTORY.len() as u64));
    assert_eq!((overview.others, overview.unreadable.len()), (1, 0));
    // Headers of the newest alone are read, for the segment size; these have none.
    let looks = fake.count("GET", "/p/00000002.history") + fake.count("GET", "/p/strange");
    assert_eq!((looks, fake.count("HEAD", "")), (0, 0));
}

/// What cannot be read at once is no damage, and what is damaged is none of the storage class.
#[test]
fn each_object_that_cannot_be_read_is_a_finding() {
    let fake = Fake::new();
    let world = archive(&fake, 3);
    assert_eq!(verify(&world).unwrap(), []);
    for (code, kind, says) in [
        ("InvalidObjectState", FindingKind::Cold, "InvalidObjectState"),
        ("AccessDenied", FindingKind::Unreadable, "403 AccessDenied"),
    ] {
        for _ in 0..2 {
            fake.break_next(("GET", "/p/00000002.history", Break::Refuse(403, code)));
        }
        let found = verify(&world).unwrap();
        let (file, found, reason) = &found[0];
        assert_eq!((file.as_str(), *found), ("00000002.history", kind), "{reason}");
        assert!(reason.contains(says), "{reason}");
    }
    fake.break_next(("GET", "/p/00000003.history", Break::Flip));
    let found = verify(&world).unwrap();
    assert_eq!(
        (found[0].0.as_str(), found[0].1),
        ("00000003.history", FindingKind::DigestMismatch)
    );
    // A connection that breaks is no damage.
    fake.break_next(("GET", "/p/00000003.history", Break::Short(5)));
    assert_eq!(verify(&world).unwrap(), []);
    fake.all_broken();
    // What lies below, and what is no file of an archive.
    fake.store("p/below/x", b"x");
    fake.store("p/what", b"x");
    let found = verify(&world).unwrap();
    let found: Vec<_> = found.iter().map(|(file, kind, _)| (file.as_str(), *kind)).collect();
    assert_eq!(found, [("below/", FindingKind::Unknown), ("what", FindingKind::Unknown)]);
}

/// Every file would be a finding, and each after all the time that requests are tried again.
#[test]
fn storage_that_goes_away_ends_a_verification() {
    let fake = Fake::new();
    archive(&fake, 4);
    let world = impatient(&fake);
    // On a connection that was used before, and then on a new one.
    for _ in 0..2 {
        fake.break_next(("GET", "/p/00000003.history", Break::Cut { done: false }));
    }
    match verify(&world) {
        Err(VerifyError::Archive(error)) => assert_eq!(error.kind(), ErrorKind::Unreachable),
        other => panic!("{other:?}"),
    }
    for _ in 0..2 {
        fake.break_next(("GET", "list-type", Break::Cut { done: false }));
    }
    let gaps = verify::gaps(&world.store, &mut |_| true);
    assert!(matches!(gaps, Err(VerifyError::Archive(_))), "{gaps:?}");
    fake.all_broken();
}

fn checks(world: &World, read_only: bool) -> Vec<Check> {
    check::check(&world.store, &check::Options { read_only, ..check::Options::default() })
}

fn row(checks: &[Check], name: &str) -> (Status, String) {
    let row = checks.iter().find(|check| check.name == name);
    let row = row.unwrap_or_else(|| panic!("no {name} in {checks:?}"));
    (row.status, row.detail.clone())
}

#[test]
fn a_check_of_a_good_bucket_leaves_it_as_it_was() {
    let fake = Fake::new();
    let world = archive(&fake, 2);
    // What a check of this host left that was killed.
    let stray = format!("p/.walsafe.check.{}.4194304.1.tmp", crate::sys::host_name());
    fake.store(&stray, b"x");
    let before = ["p/00000002.history", "p/walsafe_archive.id"];
    let found = checks(&world, false);
    assert_eq!(fake.names(), before);
    let names: Vec<_> = found.iter().map(|check| check.name).collect();
    assert_eq!(
        names,
        [
            "bucket",
            "identity",
            "no-replace publish",
            "checksums",
            "broken uploads",
            "held uploads",
            "PUT latency",
            "bucket rules",
            "contents",
            "timelines",
        ]
    );
    for check in &found {
        assert_eq!(check.status, Status::Ok, "{check:?}");
    }
    assert!(row(&found, "no-replace publish").1.contains("one was accepted"), "{found:?}");
    let (puts, removals) = (fake.count("PUT", ""), fake.count("DELETE", ""));
    let found = checks(&world, true);
    assert!(found.iter().all(|check| check.status == Status::Ok), "{found:?}");
    assert_eq!((fake.count("PUT", ""), fake.count("DELETE", "")), (puts, removals));
}

/// The smallest rights have none to remove: each check would leave more and more.
#[test]
fn without_the_right_to_remove_a_few_probes_stay_and_count_as_nothing() {
    let fake = Fake::new();
    let world = archive(&fake, 2);
    fake.flaws(Flaws { no_removal: true, ..Flaws::default() });
    let first = checks(&world, false);
    let left = fake.names();
    assert!(left.len() <= 2 + 6 && left.contains(&"p/.walsafe.check.put".to_owned()), "{left:?}");
    let again = checks(&world, false);
    assert_eq!(fake.names(), left);
    for check in first.iter().chain(&again) {
        assert_eq!(check.status, Status::Ok, "{check:?}");
    }
    assert!(row(&first, "no-replace publish").1.contains("one was accepted"), "{first:?}");
    assert!(row(&again, "no-replace publish").1.contains("was taken none was"), "{again:?}");
    assert!(row(&again, "PUT latency").1.contains("not measured"), "{again:?}");
    assert_eq!(verify(&world).unwrap(), []);
    let overview = Overview::read(&world.store, &Progress::default()).unwrap();
    assert_eq!(overview.others, 0);
    // Where versions are kept, what is removed stays too.
    let fake = Fake::new();
    let world = archive(&fake, 2);
    fake.rule("versioning", VERSIONS);
    let found = checks(&world, false);
    assert!(found.iter().all(|check| check.status == Status::Ok), "{found:?}");
    assert_eq!((fake.names(), fake.count("DELETE", "")), (left, 0));
}

#[test]
fn what_storage_does_wrong_is_told_with_the_way_out() {
    type Wrong = (Flaws, &'static str, Status, &'static str);
    let none = Flaws::default();
    let cases: [Wrong; 5] = [
        (Flaws { trusts_sha256: true, ..none }, "checksums", Status::Ok, "wrong Content-MD5 is"),
        (Flaws { trusts_md5: true, ..none }, "checksums", Status::Ok, "wrong SHA-256 is refused"),
        (
            Flaws { trusts_md5: true, trusts_sha256: true, ..none },
            "checksums",
            Status::Error,
            "looks at neither",
        ),
        (
            Flaws { stores_refused: true, ..none },
            "checksums",
            Status::Error,
            "wrong Content-MD5 or SHA-256, and shows it",
        ),
        (Flaws { stores_half: true, ..none }, "broken uploads", Status::Error, "Use other storage"),
    ];
    let tell = |(flaws, name, status, says): Wrong| {
        let fake = Fake::new();
        let world = archive(&fake, 1);
        fake.flaws(flaws);
        let found = checks(&world, false);
        let (is, detail) = row(&found, name);
        assert!(is == status && detail.contains(says), "{name}: {detail}");
        assert_eq!(fake.names(), ["p/walsafe_archive.id"]);
    };
    // Each waits for most of its time.
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || tell(case));
        }
    });
    // It replaces: the rest is told all the same.
    let fake = Fake::new();
    let world = archive(&fake, 1);
    fake.replace(true);
    let found = checks(&world, false);
    let (status, detail) = row(&found, "no-replace publish");
    assert!(status == Status::Error && detail.contains("ignores \"If-None-Match: *\""), "{detail}");
    assert_eq!(row(&found, "broken uploads").0, Status::Ok);
    // The keys may read alone.
    let fake = Fake::new();
    let world = archive(&fake, 1);
    for _ in 0..2 {
        fake.break_next(("PUT", "", Break::Refuse(403, "AccessDenied")));
    }
    let found = checks(&world, false);
    let (status, detail) = row(&found, "no-replace publish");
    assert!(status == Status::Error && detail.contains("right to put and get"), "{detail}");
    assert!(!found.iter().any(|check| check.name == "checksums"), "{found:?}");
    fake.all_broken();
    // Nothing answers.
    let world = impatient(&fake);
    drop(fake);
    let found = checks(&world, false);
    assert_eq!(found.len(), 1);
    assert!(row(&found, "bucket").1.contains("Check the network"), "{found:?}");
}

#[test]
fn the_rules_of_the_bucket_are_told_as_far_as_they_may_be_read() {
    let fake = Fake::new();
    let world = archive(&fake, 1);
    let (status, detail) = row(&checks(&world, true), "bucket rules");
    assert!(
        status == Status::Ok && detail.contains("versions are kept: may not be read"),
        "{detail}"
    );
    fake.rule("versioning", VERSIONS);
    fake.rule(
        "lifecycle",
        "<LifecycleConfiguration><Rule><ID>wal</ID><Filter><Prefix>p/0000000100</Prefix></Filter><Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>",
    );
    let (status, detail) = row(&checks(&world, true), "bucket rules");
    assert!(status == Status::Ok && detail.contains("versions are kept: yes"), "{detail}");
    fake.rule(
        "lifecycle",
        "<LifecycleConfiguration><Rule><ID>all</ID><Filter/><Status>Enabled</Status><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>",
    );
    let (status, detail) = row(&checks(&world, true), "bucket rules");
    let says = "the lifecycle rule \"all\" deletes objects after 30 days, the identity";
    assert!(status == Status::Warning && detail.contains(says), "{detail}");
}
