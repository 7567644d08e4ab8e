//! Looks, and what is remembered, one after the other.

use super::*;
use crate::archive::pool::REMEMBERED;

/// Has a look find these files.
fn look(state: &mut State<FileName>, files: std::ops::Range<usize>) {
    state.look_now();
    let Some(Work::Look(look)) = state.start_next(&Limit::default()) else { panic!("no look") };
    let names = files.map(|n| job(n).name).filter(|name| !state.sees(name)).collect();
    state.finish_look(&look, Seen { names: Some(names), took: Duration::ZERO }, &Limit::default());
}

fn start(state: &mut State<FileName>) -> Option<Work<FileName>> {
    state.start_next(&Limit::default())
}

fn prepare(state: &mut State<FileName>) -> FileName {
    let Some(Work::Prepare(job, _)) = start(state) else { panic!("nothing to prepare") };
    job.name
}

/// Makes ready and publishes the file that comes next.
fn archive_next(state: &mut State<FileName>) -> FileName {
    let name = prepare(state);
    state.finish_prepare(&name, Ok(name.clone()));
    let Some(Work::Publish(batch)) = start(state) else { panic!("nothing to publish") };
    let names: Vec<_> = batch.files.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, std::slice::from_ref(&name));
    state.finish_batch([(name.clone(), Some(Ok(receipt())))]);
    name
}

/// A history file of the server's own is the first in the order, whenever it appears.
#[test]
fn a_file_that_appears_late_and_low_goes_before_what_is_ready() {
    let mut state: State<FileName> = State::new(2, false);
    state.threads = 2;
    state.ask(&job(2));
    assert_eq!(prepare(&mut state), job(2).name);
    look(&mut state, 2..5);
    for n in 3..5 {
        assert_eq!(prepare(&mut state), job(n).name);
        state.finish_prepare(&job(n).name, Ok(job(n).name));
    }
    look(&mut state, 0..5);
    state.finish_prepare(&job(2).name, Ok(job(2).name));
    let Some(Work::Publish(batch)) = start(&mut state) else { panic!("nothing to publish") };
    let names: Vec<_> = batch.files.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, [job(2).name], "what the server waits for, and nothing behind what is lower");
}

/// Files are made ready, which the server has asked for one after the other without waiting for an answer.
fn make_ready(state: &mut State<FileName>, files: std::ops::Range<usize>) {
    for n in files {
        state.ask(&job(n));
        assert_eq!(prepare(state), job(n).name);
        state.finish_prepare(&job(n).name, Ok(job(n).name));
    }
}

/// What is ready waits for it, and had all the room: while the server was held up by another destination, nothing
/// more was archived here.
#[test]
fn a_file_that_appears_late_and_low_gets_the_room_of_what_is_ready_behind_it() {
    let mut state: State<FileName> = State::new(2, true);
    state.threads = 2;
    make_ready(&mut state, 1..3);
    state.ask(&job(3));
    assert_eq!(prepare(&mut state), job(3).name);
    look(&mut state, 0..4);
    // The server gets its file, and asks for nothing more.
    state.finish_prepare(&job(3).name, Ok(job(3).name));
    assert!(matches!(start(&mut state), Some(Work::Publish(_))));
    state.finish_batch([(job(3).name, Some(Ok(receipt())))]);
    let Some(Work::Discard(files)) = start(&mut state) else { panic!("no room is made") };
    assert_eq!(files, [job(2).name], "the last one, which is to be brought anew");
    for n in 0..3 {
        if n != 1 {
            assert_eq!(prepare(&mut state), job(n).name);
            state.finish_prepare(&job(n).name, Ok(job(n).name));
        }
        let Some(Work::Publish(batch)) = start(&mut state) else { panic!("{n} is not published") };
        assert_eq!(batch.files.first().map(|(name, _)| name), Some(&job(n).name));
        state.finish_batch([(job(n).name, Some(Ok(receipt())))]);
    }
}

/// Nothing passes it before the next look; and where what is ready behind it had all the room, others still waited
/// for a thread, and no look was made.
#[test]
fn a_look_is_made_where_a_file_that_was_given_up_is_in_the_way_and_there_is_no_room() {
    let mut state: State<FileName> = State::new(2, true);
    state.threads = 2;
    state.ask(&job(2));
    assert_eq!(prepare(&mut state), job(2).name);
    look(&mut state, 2..6);
    assert_eq!(prepare(&mut state), job(3).name);
    // It comes before these, and is given up: the server asks for another one at once.
    state.ask(&job(1));
    state.ask(&job(2));
    for n in 2..4 {
        state.finish_prepare(&job(n).name, Ok(job(n).name));
    }
    let Some(Work::Publish(_)) = start(&mut state) else { panic!("it waits for another") };
    state.finish_batch([(job(2).name, Some(Ok(receipt())))]);
    assert_eq!(prepare(&mut state), job(4).name);
    state.finish_prepare(&job(4).name, Ok(job(4).name));
    look(&mut state, 3..6);
    let Some(Work::Publish(batch)) = start(&mut state) else { panic!("they wait for ever") };
    assert_eq!(batch.files.first().map(|(name, _)| name), Some(&job(3).name));
}

/// What stood before a failure was known as archived, and a look under way passed over it. If that look counted
/// after the failure, which may have been another disk's, files would be published before those.
#[test]
fn a_look_from_before_a_failure_counts_for_nothing() {
    let mut state: State<FileName> = State::new(4, false);
    state.threads = 4;
    state.ask(&job(2));
    assert_eq!(archive_next(&mut state), job(2).name);
    assert!(matches!(state.take_result(&job(2).name), Some(Ok((_, false)))));
    look(&mut state, 2..5);
    let started = [prepare(&mut state), prepare(&mut state)];
    assert_eq!(started, [job(3).name, job(4).name]);
    state.look_now();
    let Some(Work::Look(old)) = start(&mut state) else { panic!("no look") };
    let new: Vec<_> = (2..8).map(|n| job(n).name).filter(|name| !state.sees(name)).collect();
    assert_eq!(new[0], job(3).name, "the first one is known");
    state.finish_prepare(&job(4).name, Err(Error::NotConfigured));
    state.finish_look(&old, Seen { names: Some(new), took: Duration::ZERO }, &Limit::default());
    state.finish_prepare(&job(3).name, Ok(job(3).name));
    assert!(matches!(start(&mut state), Some(Work::Discard(_))));
    assert!(state.order.is_empty(), "nothing is listed");
    look(&mut state, 2..8);
    assert_eq!(prepare(&mut state), job(2).name);
}

/// A file that was answered is marked a moment later. A look that had read it as waiting listed it, and it was
/// read once more, or was missing by then, which counted as a failure.
#[test]
fn what_was_answered_is_not_listed_by_a_look_that_has_read_it_as_waiting() {
    for n in 2..6 {
        let mut state: State<FileName> = State::new(2, false);
        state.threads = 2;
        state.ask(&job(n));
        assert_eq!(archive_next(&mut state), job(n).name);
        assert!(state.take_result(&job(n).name).is_some());
        let before = n % 2 == 0;
        if before {
            state.look_now();
        } else {
            state.answered(&job(n).name);
            state.look_now();
        }
        let Some(Work::Look(old)) = start(&mut state) else { panic!("no look") };
        let names: Vec<_> = [n, 9].map(|n| job(n).name).into();
        if before {
            state.answered(&job(n).name);
            state.ask(&job(8));
            assert_eq!(archive_next(&mut state), job(8).name);
            assert!(state.take_result(&job(8).name).is_some());
        }
        state.finish_look(
            &old,
            Seen { names: Some(names), took: Duration::ZERO },
            &Limit::default(),
        );
        let listed: Vec<_> = state.order.keys().map(|turn| turn.name().clone()).collect();
        assert_eq!(listed, [job(9).name], "{n}");
        // Under the same name, another file.
        state.ask(&job(n));
        assert!(state.answer.is_none());
        assert_eq!(archive_next(&mut state), job(n).name);
    }
}

/// The only look was made while the file that was asked for was under way, and found no other. The file was then
/// held up by another destination, for as long as that hung, and nobody looked for what came after it.
#[test]
fn a_file_that_another_destination_holds_up_has_a_look_made_later() {
    let mut state: State<FileName> = State::new(2, false);
    state.threads = 2;
    state.ask(&job(2));
    assert_eq!(prepare(&mut state), job(2).name);
    look(&mut state, 2..3);
    assert_eq!(state.next_look(), None);
    state.finish_prepare(&job(2).name, Ok(job(2).name));
    let Some(Work::Publish(_)) = start(&mut state) else { panic!("nothing to publish") };
    state.finish_batch([(job(2).name, Some(Ok(receipt())))]);
    assert!(state.take_result(&job(2).name).is_some());
    assert!(state.next_look().is_some(), "nobody looks for the next file");
    // The server comes on by itself, once it is told.
    state.answered(&job(2).name);
    assert_eq!(state.next_look(), None);
}

/// What does not wait any more was archived elsewhere, or given up. If it stayed in the memory, that would fill
/// up for good.
#[test]
fn what_no_longer_waits_is_not_remembered() {
    let mut state: State<FileName> = State::new(2, false);
    state.threads = 2;
    state.ask(&job(2));
    assert_eq!(archive_next(&mut state), job(2).name);
    assert!(state.take_result(&job(2).name).is_some());
    look(&mut state, 2..5);
    assert_eq!(archive_next(&mut state), job(3).name);
    assert_eq!(archive_next(&mut state), job(4).name);
    assert_eq!(state.memory.len(), 3);
    look(&mut state, 4..5);
    assert_eq!(state.memory.len(), 1);
    assert!(state.memory.has(&job(4).name));
}

/// Without a bound, the memory would grow as long as another destination is down.
#[test]
fn look_ahead_stops_where_the_memory_is_full_and_the_file_that_is_asked_for_does_not() {
    let mut state: State<FileName> = State::new(2, false);
    state.threads = 2;
    state.ask(&job(2));
    assert_eq!(archive_next(&mut state), job(2).name);
    for n in 0..REMEMBERED {
        let name = FileName::new(&format!("0000000200000000{n:08X}")).unwrap();
        state.memory.keep(&name, receipt());
    }
    look_is_none(&mut state);
    let (full, another) = (state.memory.len(), job(3));
    state.ask(&another);
    assert_eq!(archive_next(&mut state), another.name);
    assert!(state.take_result(&another.name).is_some());
    assert_eq!(state.memory.len(), full + 1);
    for n in 0..2 {
        state.answered(&FileName::new(&format!("0000000200000000{n:08X}")).unwrap());
    }
    look_is_none(&mut state);
    state.answered(&another.name);
    state.answered(&job(2).name);
    assert!(matches!(start(&mut state), Some(Work::Look(_))));
}

fn look_is_none(state: &mut State<FileName>) {
    state.look_now();
    assert!(start(state).is_none(), "goes on although the memory is full");
}
