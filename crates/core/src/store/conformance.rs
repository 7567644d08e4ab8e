//! The promises of a store, as one test suite that every store passes. Each promise is tried on a new,
//! empty place; what lies there is looked at through the seam alone.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Read;
use std::path::Path;

use super::{Digests, FinalName, Publication, Seal, Sealed, Store, StoredName, Visit};
use crate::encoding::codec::Codec;
use crate::encoding::digest::Digest;
use crate::error::ErrorKind;
use crate::store::Progress;
use crate::sys::buffer::{Buffer, CHUNK};
use crate::wal::name::FileName;

/// Makes a store at a directory that is empty, or missing.
pub(super) type Make<'a> = &'a dyn Fn(&Path) -> Box<dyn Store>;

/// Tries every promise, in directories.
pub(super) fn conforms(make: Make<'_>) {
    let mut places = Vec::new();
    conforms_anew(&mut || {
        let temp = tempfile::tempdir_in(".").unwrap();
        let store = make(temp.path());
        places.push(temp);
        store
    });
    a_missing_place_cannot_be_visited(make);
}

/// Tries every promise, each on a place that is made anew and is empty.
pub(super) fn conforms_anew(make: &mut dyn FnMut() -> Box<dyn Store>) {
    for promise in [
        nothing_is_visible_before_it_is_published,
        what_is_dropped_before_it_is_published_leaves_nothing,
        a_name_that_is_taken_is_never_given_again,
        of_many_rivals_for_one_name_one_wins,
        any_contents_read_back_byte_for_byte,
        each_reader_begins_at_the_start,
        a_copy_that_storage_does_not_give_back_is_discarded,
        one_encoding_of_a_name_is_not_another,
        tidying_leaves_what_is_published_and_what_is_being_written,
        every_step_is_counted_as_progress,
        every_name_counts_as_progress_when_a_place_is_tidied,
    ] {
        promise(&*make());
    }
}

fn name(n: u32) -> FinalName {
    let name = FileName::new(&format!("0000000100000000{n:08X}")).unwrap();
    StoredName::new(name, Codec::None).into()
}

fn seal(content: &[u8], verify: bool) -> Seal {
    let digest = Digest::of(content);
    let digests = Some(Digests { stored: digest, content: digest });
    Seal { digests, checked: None, mode: 0o600, flush: true, verify }
}

fn sealed(visit: &dyn Visit, name: FinalName, content: &[u8]) -> Box<dyn Sealed> {
    let mut draft = visit.stage(name).unwrap();
    let mut buffer = Buffer::new().unwrap();
    for chunk in content.chunks(CHUNK) {
        draft.put(buffer.fill(chunk)).unwrap();
    }
    draft.seal(&seal(content, false)).unwrap()
}

fn contents(visit: &dyn Visit, name: &FinalName) -> Option<Vec<u8>> {
    let found = visit.find(name).unwrap()?;
    let mut contents = Vec::new();
    found.read(true).unwrap().read_to_end(&mut contents).unwrap();
    Some(contents)
}

/// The final names that are there.
fn published(visit: &dyn Visit) -> Vec<String> {
    let mut names = Vec::new();
    visit
        .list(&mut |name| {
            if StoredName::parse(name).is_ok() {
                names.push(name.to_owned());
            }
        })
        .unwrap();
    names.sort();
    names
}

fn everything(visit: &dyn Visit) -> usize {
    let mut count = 0;
    visit.list(&mut |_| count += 1).unwrap();
    count
}

fn nothing_is_visible_before_it_is_published(store: &dyn Store) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    let sealed = sealed(&*visit, name(1), b"contents");
    assert_eq!(published(&*visit), [""; 0]);
    assert!(visit.find(&name(1)).unwrap().is_none());

    let stored_bytes = sealed.stored_bytes();
    assert_eq!(sealed.publish(&progress).unwrap(), Publication::Published);
    visit.settle().unwrap();
    assert_eq!(published(&*visit), [name(1).to_string()]);
    assert_eq!(contents(&*visit, &name(1)).unwrap(), b"contents");
    let found = visit.find(&name(1)).unwrap().unwrap();
    assert_eq!(found.stored_bytes(), stored_bytes);
    found.flush().unwrap();
    assert_eq!(everything(&*visit), 1, "nothing is left beside it");
}

fn what_is_dropped_before_it_is_published_leaves_nothing(store: &dyn Store) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    drop(visit.stage(name(1)).unwrap());
    drop(sealed(&*visit, name(2), b"contents"));
    assert_eq!(everything(&*visit), 0);
}

fn a_name_that_is_taken_is_never_given_again(store: &dyn Store) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    let second = sealed(&*visit, name(1), b"second");
    assert_eq!(
        sealed(&*visit, name(1), b"first").publish(&progress).unwrap(),
        Publication::Published
    );
    assert_eq!(second.publish(&progress).unwrap(), Publication::NameTaken);
    assert_eq!(contents(&*visit, &name(1)).unwrap(), b"first");
    assert_eq!(everything(&*visit), 1);
}

fn of_many_rivals_for_one_name_one_wins(store: &dyn Store) {
    for round in 0..10 {
        let rival = |n: u8| {
            let progress = Progress::default();
            let visit = store.visit(&progress).unwrap();
            sealed(&*visit, name(round), &[n; 5000]).publish(&progress).unwrap()
        };
        let wins: Vec<u8> = std::thread::scope(|scope| {
            let rivals: Vec<_> = (0..8).map(|n| scope.spawn(move || (n, rival(n)))).collect();
            let ended = rivals.into_iter().map(|rival| rival.join().unwrap());
            ended.filter(|(_, came)| *came == Publication::Published).map(|(n, _)| n).collect()
        });
        let [winner] = wins[..] else { panic!("{wins:?} won") };
        let progress = Progress::default();
        let visit = store.visit(&progress).unwrap();
        assert_eq!(contents(&*visit, &name(round)).unwrap(), [winner; 5000]);
    }
}

fn any_contents_read_back_byte_for_byte(store: &dyn Store) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    let lengths = [0, 1, 4095, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5];
    for (n, len) in (0..).zip(lengths) {
        // Data, zeros, data: what is a hole reads as zeros.
        let mut content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        content.iter_mut().skip(len / 3).take(len / 2).for_each(|byte| *byte = 0);
        sealed(&*visit, name(n), &content).publish(&progress).unwrap();
        assert!(contents(&*visit, &name(n)).unwrap() == content, "{len} bytes");
    }
}

/// Through the caches, a second reader went on where the first had ended, and found an empty file.
fn each_reader_begins_at_the_start(store: &dyn Store) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    sealed(&*visit, name(1), b"contents").publish(&progress).unwrap();
    let found = visit.find(&name(1)).unwrap().unwrap();
    for past_cache in [false, true, false] {
        let mut contents = Vec::new();
        found.read(past_cache).unwrap().read_to_end(&mut contents).unwrap();
        assert_eq!(contents, b"contents", "past the cache: {past_cache}");
    }
}

fn a_copy_that_storage_does_not_give_back_is_discarded(store: &dyn Store) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    let mut buffer = Buffer::new().unwrap();
    let mut draft = visit.stage(name(1)).unwrap();
    draft.put(buffer.fill(b"written")).unwrap();
    let error = draft.seal(&seal(b"meant", true)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageLied);
    assert_eq!(everything(&*visit), 0);
    let mut draft = visit.stage(name(1)).unwrap();
    draft.put(buffer.fill(b"meant")).unwrap();
    draft.seal(&seal(b"meant", true)).unwrap().publish(&progress).unwrap();
    assert_eq!(contents(&*visit, &name(1)).unwrap(), b"meant");
}

fn one_encoding_of_a_name_is_not_another(store: &dyn Store) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    let FinalName::File(plain) = name(1) else { panic!("not a file's name") };
    for codec in Codec::ALL {
        let other = StoredName { codec, ..plain.clone() };
        assert!(visit.find(&other.clone().into()).unwrap().is_none(), "{other}");
        sealed(&*visit, other.clone().into(), other.to_string().as_bytes())
            .publish(&progress)
            .unwrap();
    }
    for codec in Codec::ALL {
        let other = StoredName { codec, ..plain.clone() };
        assert_eq!(visit.find(&other.clone().into()).unwrap().unwrap().codec(), codec);
        let text = other.to_string();
        assert_eq!(contents(&*visit, &other.into()).unwrap(), text.as_bytes());
    }
}

fn tidying_leaves_what_is_published_and_what_is_being_written(store: &dyn Store) {
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    sealed(&*visit, name(1), b"one").publish(&progress).unwrap();
    let two = sealed(&*visit, name(2), b"two");
    visit.tidy().unwrap();
    two.publish(&progress).unwrap();
    assert_eq!(published(&*visit), [name(1).to_string(), name(2).to_string()]);
}

fn every_step_is_counted_as_progress(store: &dyn Store) {
    let progress = Progress::default();
    let mut before = 0;
    let mut moved = |what: &str| {
        let now = progress.steps();
        assert!(now > before, "{what} is no progress");
        before = now;
    };
    let visit = store.visit(&progress).unwrap();
    moved("a visit");
    let mut draft = visit.stage(name(1)).unwrap();
    let mut buffer = Buffer::new().unwrap();
    draft.put(buffer.fill(b"contents")).unwrap();
    moved("a chunk");
    let sealed = draft.seal(&seal(b"contents", true)).unwrap();
    moved("a seal");
    sealed.publish(&progress).unwrap();
    visit.settle().unwrap();
    moved("a flush");
    visit.list(&mut |_| ()).unwrap();
    moved("a listing");
    visit.find(&name(2)).unwrap();
    moved("a look for a file");
}

/// A long look for what dead processes left was reported as a hang of the storage.
fn every_name_counts_as_progress_when_a_place_is_tidied(store: &dyn Store) {
    const NAMES: u32 = 5;
    let progress = Progress::default();
    let visit = store.visit(&progress).unwrap();
    for n in 0..NAMES {
        sealed(&*visit, name(n), b"contents").publish(&progress).unwrap();
    }
    let before = progress.steps();
    visit.tidy().unwrap();
    let steps = progress.steps() - before;
    // Or it has nothing to look for, and looks at none.
    assert!(steps == 1 || steps >= NAMES.into(), "{steps} steps for {NAMES} names");
}

fn a_missing_place_cannot_be_visited(make: Make<'_>) {
    let temp = tempfile::tempdir_in(".").unwrap();
    let store = make(&temp.path().join("missing"));
    let progress = Progress::default();
    let Err(error) = store.visit(&progress) else { panic!("it was visited") };
    assert_eq!(error.kind(), ErrorKind::DestinationMissing);
}
