//! `walsafe copy` of the archive of a real server into a bucket and back.

use harness::object::{Kind, ObjectServer};
use harness::{Scratch, archive, require};

use crate::support::bucket::Objects;
use crate::support::recovery::{Origin, assert_clean, path, rows_after_recovery, walsafe};

/// The names in an archive, but for what says whose it is: each has its own.
fn files(names: Vec<String>) -> Vec<String> {
    names.into_iter().filter(|name| name != "walsafe_archive.id").collect()
}

#[test]
fn an_archive_that_was_in_a_bucket_is_enough_for_a_recovery() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let origin = Origin::new();
    origin.row(1);
    origin.row(2);
    origin.lose();
    let there = Objects::new(ObjectServer::shared(Kind::SeaweedFs).bucket());
    let keys = there.credentials();
    let copy = |source: &str, destination: &str, said: &str| {
        let run = walsafe(&["copy", "--credentials-file", path(&keys), source, destination]);
        assert_eq!((run.code, &*run.err), (Some(0), ""), "{run:?}");
        assert!(run.out.starts_with(said), "{run:?}");
    };
    let first = path(origin.archive.path());
    copy(first, there.url(), "copied ");
    copy(first, there.url(), "copied nothing to");
    let names = files(archive::names(origin.archive.path()));
    assert!(names.len() >= 4, "{names:?}");
    assert_eq!(files(there.names()), names);
    for name in &names {
        assert!(there.get(name).unwrap() == origin.archive.read(name), "{name}");
    }
    there.assert_clean();

    let second = Scratch::new("second");
    copy(there.url(), path(second.path()), "copied ");
    assert_eq!(files(archive::names(second.path())), names);
    for name in &names {
        assert!(second.read(name) == origin.archive.read(name), "{name}");
    }
    assert_clean(second.path());
    let recovered = origin.recovery_from(second.path()).start();
    assert_eq!(rows_after_recovery(&recovered), "1,2");
}
