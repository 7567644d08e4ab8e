//! Whatever happens to a pool, in whatever order.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::archive::Outcome;
use crate::encoding::digest::Digest;

/// Something that happens to a pool; the numbers choose a file.
#[derive(Debug, Clone)]
enum Event {
    Ask(usize),
    Offer(usize),
    Start,
    Move(usize),
    Finish(usize, bool),
    Take,
    Hold,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_usize..12).prop_map(Event::Ask),
        (0_usize..12).prop_map(Event::Offer),
        Just(Event::Start),
        Just(Event::Start),
        any::<usize>().prop_map(Event::Move),
        any::<(usize, bool)>().prop_map(|(n, ok)| Event::Finish(n, ok)),
        any::<(usize, bool)>().prop_map(|(n, ok)| Event::Finish(n, ok)),
        Just(Event::Take),
        Just(Event::Hold),
    ]
}

/// Two history files, and segments.
fn job(n: usize) -> Job {
    let name = match n {
        0 | 1 => format!("{:08X}.history", n + 2),
        n => format!("0000000100000000{n:08X}"),
    };
    Job { name: FileName::new(&name).unwrap(), source: name.into() }
}

fn receipt() -> Receipt {
    Receipt {
        outcome: Outcome::Archived,
        wal_bytes: 0,
        stored_bytes: 0,
        content: Digest::of(b""),
        space: None,
        records: None,
        notices: Vec::new(),
    }
}

fn running(state: &State, n: usize) -> Option<FileName> {
    let mut names: Vec<_> = state.running.keys().cloned().collect();
    names.sort();
    let at = n.checked_rem(names.len())?;
    names.get(at).cloned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(dose::dose(256, 4096)))]

    /// Whatever came before, a file that the server waits for is answered, or a thread has it or is
    /// about to take it; and a success that was started ahead is from after the last failure and hang.
    #[test]
    fn a_file_that_was_asked_for_is_never_forgotten(events in prop::collection::vec(event(), 0..80)) {
        let mut state = State::new();
        state.threads = 2;
        // What each file under way was started as, and how much trouble there had been.
        let mut begun: HashMap<FileName, (bool, u64)> = HashMap::new();
        let mut trouble = 0;
        for event in events {
            match event {
                Event::Ask(n) => {
                    state.release_if_moved();
                    state.ask(&job(n));
                }
                Event::Offer(n) => drop(state.offer((n..12).map(job))),
                Event::Start => {
                    let (asked, held) = (state.asked.clone(), state.held());
                    let started = state.start_next();
                    prop_assert!(held.is_none() || started.is_none(), "started while held");
                    if let Some((job, _)) = started {
                        begun.insert(job.name.clone(), (asked != Some(job), trouble));
                    }
                }
                Event::Move(n) => {
                    if let Some(name) = running(&state, n) {
                        state.running[&name].progress.tick();
                    }
                }
                Event::Finish(n, ok) => {
                    if let Some(name) = running(&state, n) {
                        trouble += u64::from(!ok);
                        state.finish(name, if ok { Ok(receipt()) } else { Err(Error::NotConfigured) });
                    }
                }
                Event::Take => {
                    if let Some(wanted) = state.wanted.clone()
                        && let Some(result) = state.take_result(&wanted.name)
                    {
                        let (ahead, then) = begun[&wanted.name];
                        prop_assert!(!ahead || (result.is_ok() && then == trouble), "a stale result");
                    }
                }
                Event::Hold => {
                    state.hold(Duration::ZERO);
                    trouble += 1;
                    prop_assert!(state.wanted.is_none());
                }
            }
            if let Some(wanted) = &state.wanted {
                let answered = state.done.get(&wanted.name).is_some_and(|done| done.counts(state.generation));
                let under_way = state.running.contains_key(&wanted.name);
                let next = state.asked.as_ref().is_some_and(|asked| asked.name == wanted.name);
                prop_assert!(answered || under_way || next, "{} is forgotten", wanted.name);
            }
        }
        // Everything under way ends: then there is an answer.
        if let Some(wanted) = state.wanted.clone() {
            while let Some(name) = running(&state, 0) {
                state.finish(name, Ok(receipt()));
            }
            state.release_if_moved();
            state.ask(&wanted);
            for _ in 0..2 {
                while state.start_next().is_some() {}
                while let Some(name) = running(&state, 0) {
                    state.finish(name, Ok(receipt()));
                }
            }
            prop_assert!(state.take_result(&wanted.name).is_some(), "{} is not answered", wanted.name);
        }
    }
}
