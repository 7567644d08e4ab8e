//! What storage of every cloud is to do, and what is to be found out of one that does not.

#![allow(clippy::unwrap_used)]

use crate::error::ErrorKind;
use crate::store::identity::Identity;
use crate::store::object::fake::{Break, Fake, Flaws};
use crate::store::object::tests::World;
use crate::store::trials::Wrong;
use crate::store::{Progress, Store, Trials, Visit};

/// A listing by pages of two names, whose requests are told by this part, and the code of a bucket that is missing.
pub(super) fn goes_on_to_its_end_and_begins_where_it_is_wanted(
    fake: &Fake,
    world: &World,
    listing: &'static str,
    missing: &'static str,
) {
    fake.page(2);
    for name in ["p/a", "p/b", "p/c/1", "p/c/2", "p/d", "p/e+ /f", "p/e", "q/a", "p/x y&z"] {
        fake.store(name, b"xy");
    }
    let progress = Progress::default();
    let visit = world.store.visit(&progress).unwrap();
    let (mut names, mut lens) = (Vec::new(), 0);
    visit
        .list_facts(&mut |name, facts| {
            names.push(name.to_owned());
            lens += facts.len;
        })
        .unwrap();
    assert_eq!(names, ["a", "b", "c/", "d", "e", "e+ /", "x y&z"]);
    assert_eq!(lens, 10);
    let mut from = Vec::new();
    visit
        .list_from("c", &mut |name| {
            from.push(name.to_owned());
            from.len() < 3
        })
        .unwrap();
    assert_eq!(from, ["c/", "d", "e"]);
    // Half a page is no end, and what breaks off is read again.
    fake.break_next(("GET", listing, Break::Short(30)));
    let mut again = 0;
    visit.list(&mut |_| again += 1).unwrap();
    assert_eq!(again, 7);
    fake.break_next(("GET", listing, Break::Refuse(404, missing)));
    let error = visit.list(&mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BucketMissing, "{}", error.detail());
}

/// What a check tries, of storage that is good and then is not. Returns the trials, for what each cloud has beside.
pub(super) fn replacing_and_trusting_are_found_out<'v>(
    fake: &Fake,
    visit: &'v dyn Visit,
    sha256: Option<Wrong>,
) -> Box<dyn Trials + 'v> {
    Identity::new(5).publish(visit, 0o600).unwrap();
    let trials = visit.trials().unwrap();
    trials.can_be_listed().unwrap();
    assert!(trials.put().unwrap().removes);
    let race = trials.race().unwrap();
    assert!((race.stored, race.agrees) == (1, true), "{race:?}");
    let checksums = trials.checksums().unwrap();
    assert_eq!(checksums.md5, Wrong::Refused);
    assert!(sha256.is_none_or(|expected| checksums.sha256 == expected), "{checksums:?}");
    assert!(!trials.shows_half().unwrap() && trials.takes_held().unwrap());
    let names = fake.names();
    assert!(!names.iter().any(|name| name.contains("check")), "{names:?}");
    fake.flaws(Flaws { trusts_md5: true, ..Flaws::default() });
    assert_eq!(trials.checksums().unwrap().md5, Wrong::Stored);
    fake.replace(true);
    assert_eq!(trials.put().unwrap_err().kind(), ErrorKind::ConditionIgnored);
    trials
}
