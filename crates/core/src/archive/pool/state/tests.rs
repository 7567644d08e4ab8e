//! Whatever happens to a pool, in whatever order.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::archive::Outcome;
use crate::encoding::digest::Digest;

/// How many files there are.
const FILES: usize = 12;

/// Something that happens to a pool; the numbers choose a file.
#[derive(Debug, Clone)]
enum Event {
    /// The server asks for a file.
    Ask(usize),
    /// A look finds all files from here on.
    Offer(usize),
    Start,
    Move(usize),
    /// A thread has made a file ready, or could not.
    Prepared(usize, bool),
    /// A batch is published up to a file that is refused, or its flush fails.
    Published(usize, bool),
    Take,
    /// No thread can be had for the file that the server asks for.
    Refuse,
    Hold,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..FILES).prop_map(Event::Ask),
        2 => (0..FILES).prop_map(Event::Offer),
        6 => Just(Event::Start),
        1 => any::<usize>().prop_map(Event::Move),
        5 => any::<usize>().prop_map(|n| Event::Prepared(n, true)),
        1 => any::<usize>().prop_map(|n| Event::Prepared(n, false)),
        3 => (0..FILES, any::<bool>()).prop_map(|(n, flushed)| Event::Published(n, flushed)),
        1 => Just(Event::Published(FILES, true)),
        3 => Just(Event::Take),
        1 => Just(Event::Refuse),
        1 => Just(Event::Hold),
    ]
}

/// Two history files, and segments, in the server's order.
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
        begins_with: None,
        notices: Vec::new(),
    }
}

/// The pool, and what is true of its files, kept beside it in the simplest way.
struct Model {
    state: State<FileName>,
    preparing: BTreeSet<FileName>,
    batches: Vec<Batch<FileName>>,
    /// What the last look has found and is not archived. Trouble makes no look wrong.
    unarchived: BTreeSet<Turn>,
    /// Has not been asked for: for each file under way and each success, how much trouble there had been.
    ahead: HashMap<FileName, u64>,
    trouble: u64,
    /// For each batch, whether a hang was reported since it began.
    late: Vec<bool>,
}

impl Model {
    fn new() -> Self {
        let mut state = State::new();
        state.threads = 2;
        Self {
            state,
            preparing: BTreeSet::new(),
            batches: Vec::new(),
            unarchived: BTreeSet::new(),
            ahead: HashMap::new(),
            trouble: 0,
            late: Vec::new(),
        }
    }

    /// A thread takes what there is to do. Returns whether there was something.
    fn start(&mut self) -> Result<bool, TestCaseError> {
        let (asked, held) = (self.state.asked.clone(), self.state.held());
        let wanted = self.state.wanted.clone().map(|job| job.name);
        let Some(work) = self.state.start_next() else { return Ok(false) };
        prop_assert!(held.is_none(), "started while held");
        match work {
            Work::Discard(files) => prop_assert!(!files.is_empty()),
            Work::Prepare(job, _) => {
                if asked.as_ref() == Some(&job) {
                    self.ahead.remove(&job.name);
                } else {
                    self.ahead.insert(job.name.clone(), self.trouble);
                }
                prop_assert!(self.preparing.insert(job.name), "made ready twice at a time");
            }
            Work::Publish(batch) => {
                self.is_in_order(&batch, wanted.as_ref())?;
                for (name, _) in &batch.files {
                    if self.ahead.contains_key(name) {
                        self.ahead.insert(name.clone(), self.trouble);
                    }
                }
                self.batches.push(batch);
                self.late.push(false);
            }
        }
        Ok(true)
    }

    /// Nothing but the file that the server waits for passes an earlier one that waits (guarantee G13).
    fn is_in_order(
        &self,
        batch: &Batch<FileName>,
        wanted: Option<&FileName>,
    ) -> Result<(), TestCaseError> {
        let mut before: BTreeSet<Turn> = BTreeSet::new();
        for (name, _) in &batch.files {
            let turn = Turn::of(name);
            prop_assert!(before.iter().all(|other| *other < turn), "out of order in a batch");
            let passed =
                self.unarchived.iter().find(|other| **other < turn && !before.contains(other));
            if wanted != Some(name) {
                prop_assert!(passed.is_none(), "{name} passes {passed:?}");
            }
            before.insert(turn);
        }
        Ok(())
    }

    fn prepared(&mut self, n: usize, ok: bool) {
        let Some(at) = n.checked_rem(self.preparing.len()) else { return };
        let name = self.preparing.iter().nth(at).unwrap().clone();
        self.preparing.remove(&name);
        self.trouble += u64::from(!ok);
        let result = if ok { Ok(name.clone()) } else { Err(Error::NotConfigured) };
        self.state.finish_prepare(&name, result);
    }

    fn published(&mut self, named: usize, flushed: bool) {
        let Some(batch) = self.batches.pop() else { return };
        let late = self.late.pop().unwrap();
        let all = named >= batch.files.len();
        let mut results = Vec::new();
        for (at, (name, _)) in batch.files.into_iter().enumerate() {
            let result = if !flushed {
                (at == 0).then_some(Err(Error::NotConfigured))
            } else if at < named {
                if !late {
                    self.unarchived.remove(&Turn::of(&name));
                }
                // What was published while the server waited for it, with no trouble since, could be taken at
                // once: trouble with another file afterwards changes nothing.
                let waited = self.state.wanted.as_ref().is_some_and(|job| job.name == name);
                if waited && self.ahead.get(&name) == Some(&self.trouble) {
                    self.ahead.remove(&name);
                }
                Some(Ok(receipt()))
            } else {
                (at == named).then_some(Err(Error::NotConfigured))
            };
            results.push((name, result));
        }
        self.trouble += u64::from(!flushed || !all);
        self.state.finish_batch(results);
    }

    fn take(&mut self) -> Result<(), TestCaseError> {
        let Some(wanted) = self.state.wanted.clone() else { return Ok(()) };
        let went_ahead = self.state.goes_ahead();
        let Some(result) = self.state.take_result(&wanted.name) else { return Ok(()) };
        self.trouble += u64::from(went_ahead && result.is_err());
        if let (Some(then), Ok(_)) = (self.ahead.get(&wanted.name), &result) {
            prop_assert_eq!(*then, self.trouble, "a success ahead from before trouble");
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Ask(n) => {
                self.state.release_if_moved();
                self.state.ask(&job(n));
                // The server has done with the files before it that are archived, and only with those.
            }
            Event::Offer(n) => {
                self.state.offer((n..FILES).map(job));
                let archived =
                    |turn: &Turn| self.state.order.get(turn).is_some_and(File::is_archived);
                let turns = (n..FILES).map(|n| Turn::of(&job(n).name));
                self.unarchived = turns.filter(|turn| !archived(turn)).collect();
            }
            Event::Start => drop(self.start()?),
            Event::Move(n) => {
                let running: Vec<_> = self.state.running().collect();
                if let Some(at) = n.checked_rem(running.len()) {
                    running[at].progress.tick();
                }
            }
            Event::Prepared(n, ok) => self.prepared(n, ok),
            Event::Published(named, flushed) => self.published(named, flushed),
            Event::Take => self.take()?,
            Event::Refuse => {
                if let Some(job) = self.state.asked.clone() {
                    self.state.refuse(&job, Error::NotConfigured);
                    self.trouble += 1;
                }
            }
            Event::Hold => {
                self.state.hold(Duration::ZERO);
                self.trouble += 1;
                self.late.iter_mut().for_each(|late| *late = true);
                prop_assert!(self.state.wanted.is_none());
            }
        }
        Ok(())
    }

    /// A file that the server waits for is answered, or a thread has it or is about to take it.
    fn is_not_forgotten(&self) -> Result<(), TestCaseError> {
        let Some(wanted) = &self.state.wanted else { return Ok(()) };
        let file = self.state.order.get(&Turn::of(&wanted.name)).unwrap();
        let next = self.state.asked.as_ref() == Some(wanted);
        prop_assert!(!file.is_waiting() || next, "{} is forgotten", wanted.name);
        prop_assert!(file.is_waiting() || !next, "{} is started twice", wanted.name);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(dose::dose(512, 8192)))]

    /// Whatever came before: a file that the server waits for is never forgotten, and waits for no other
    /// file; a success ahead is from after the last failure and hang; nothing is published before an earlier
    /// waiting file; and threads that go on come to an end.
    #[test]
    fn files_are_answered_and_published_in_order(events in prop::collection::vec(event(), 0..120)) {
        let mut model = Model::new();
        for event in events {
            model.happen(event)?;
            model.is_not_forgotten()?;
        }
        // Everything under way ends: then there is an answer.
        if let Some(wanted) = model.state.wanted.clone() {
            let end = |model: &mut Model| {
                while !model.preparing.is_empty() {
                    model.prepared(0, true);
                }
                while !model.batches.is_empty() {
                    model.published(FILES, true);
                }
            };
            end(&mut model);
            model.state.release_if_moved();
            model.state.ask(&wanted);
            for _ in 0..4 {
                while model.start()? {}
                end(&mut model);
            }
            prop_assert!(model.state.take_result(&wanted.name).is_some(), "{} is not answered", wanted.name);
        }
    }

    /// All files are archived ahead, whatever the order in which they become ready, and in batches.
    #[test]
    fn what_is_ready_in_any_order_is_published_in_the_servers(picks in prop::collection::vec(any::<usize>(), 60)) {
        let mut model = Model::new();
        model.state.threads = FILES;
        model.state.ask(&job(0));
        model.state.offer((0..FILES).map(job));
        model.unarchived = (0..FILES).map(|n| Turn::of(&job(n).name)).collect();
        for pick in picks {
            while model.start()? {}
            model.prepared(pick, true);
            if pick % 3 == 0 {
                model.published(FILES, true);
            }
        }
        while !model.preparing.is_empty() || !model.batches.is_empty() || model.start()? {
            model.prepared(0, true);
            while model.start()? {}
            model.published(FILES, true);
        }
        prop_assert!(model.unarchived.is_empty(), "{:?}", model.unarchived);
        for n in 0..FILES {
            model.state.ask(&job(n));
            prop_assert!(matches!(model.state.take_result(&job(n).name), Some(Ok(_))), "{n}");
        }
    }
}

/// A history file of the server's own is the first in the order, whenever it appears.
#[test]
fn a_file_that_appears_late_and_low_goes_before_what_is_ready() {
    let mut state: State<FileName> = State::new();
    state.threads = 2;
    state.ask(&job(2));
    state.offer((2..5).map(job));
    while let Some(Work::Prepare(job, _)) = state.start_next() {
        if job.name != self::job(2).name {
            state.finish_prepare(&job.name, Ok(job.name.clone()));
        }
    }
    state.offer((0..5).map(job));
    state.finish_prepare(&job(2).name, Ok(job(2).name));
    let Some(Work::Publish(batch)) = state.start_next() else { panic!("nothing to publish") };
    let names: Vec<_> = batch.files.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, [job(2).name], "what the server waits for, and nothing behind what is lower");
}

/// A look that finds a lower file while a failure is tried once more counts for nothing; so what an earlier
/// look had found must not go ahead of that file after the next success.
#[test]
fn what_was_ready_before_a_failure_is_tried_again_waits_for_the_next_look() {
    let mut state: State<FileName> = State::new();
    state.threads = 4;
    state.offer((5..8).map(job));
    let mut started = Vec::new();
    while let Some(Work::Prepare(job, _)) = state.start_next() {
        started.push(job.name);
    }
    assert_eq!(started, [job(5).name, job(6).name, job(7).name]);
    state.finish_prepare(&job(7).name, Err(Error::NotConfigured));
    state.finish_prepare(&job(5).name, Ok(job(5).name));
    // The server comes to the file that failed, and then to one that has become ready late.
    state.ask(&job(7));
    state.offer((0..8).map(job));
    assert!(matches!(state.start_next(), Some(Work::Discard(_) | Work::Prepare(..))));
    state.ask(&job(6));
    state.finish_prepare(&job(6).name, Ok(job(6).name));
    while let Some(work) = state.start_next() {
        match work {
            Work::Prepare(job, _) => state.finish_prepare(&job.name, Ok(job.name.clone())),
            Work::Discard(_) => {}
            Work::Publish(batch) => {
                let names = batch.files.into_iter().map(|(name, _)| name);
                assert_eq!(names.clone().collect::<Vec<_>>(), [job(6).name]);
                state.finish_batch(names.map(|name| (name, Some(Ok(receipt())))));
            }
        }
        if state.take_result(&job(6).name).is_some() {
            break;
        }
    }
    let next = state.start_next();
    assert!(!matches!(next, Some(Work::Publish(_))), "the look before the failure counted");
}
