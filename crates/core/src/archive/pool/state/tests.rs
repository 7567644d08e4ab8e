//! Whatever happens to a pool, in whatever order.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::archive::Outcome;
use crate::encoding::digest::Digest;

mod looks;

/// How many files there are.
const FILES: usize = 12;

/// Something that happens to a pool; the numbers choose a file.
#[derive(Debug, Clone)]
enum Event {
    /// A file becomes ready, or is given up.
    Waits(usize, bool),
    /// The server asks for a file.
    Ask(usize),
    /// The server is told that it is archived, if that was the last answer.
    Tell,
    Start,
    Move(usize),
    /// A thread has made a file ready, or could not.
    Prepared(usize, bool),
    /// A thread has found that the server's file is not there.
    Missing(usize),
    /// A batch is published up to a file that is refused, or its flush fails.
    Published(usize, bool),
    /// A look that lists at most so many files ends, or cannot read.
    Looked(usize, bool),
    Take,
    /// No thread can be had for the file that the server asks for.
    Refuse,
    Hold,
    /// A file conflicts in another destination, or none does.
    Limit(Option<usize>),
    /// A file ahead that failed has been left alone for long enough.
    Patience,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..FILES, prop::bool::weighted(0.8)).prop_map(|(n, on)| Event::Waits(n, on)),
        2 => (0..FILES).prop_map(Event::Ask),
        2 => Just(Event::Tell),
        8 => Just(Event::Start),
        1 => any::<usize>().prop_map(Event::Move),
        5 => any::<usize>().prop_map(|n| Event::Prepared(n, true)),
        1 => any::<usize>().prop_map(|n| Event::Prepared(n, false)),
        1 => any::<usize>().prop_map(Event::Missing),
        3 => (0..FILES, any::<bool>()).prop_map(|(n, flushed)| Event::Published(n, flushed)),
        2 => Just(Event::Published(FILES, true)),
        3 => (1..=FILES, prop::bool::weighted(0.9)).prop_map(|(n, ok)| Event::Looked(n, ok)),
        3 => Just(Event::Take),
        1 => Just(Event::Refuse),
        1 => Just(Event::Hold),
        1 => prop::option::of(0..FILES).prop_map(Event::Limit),
        1 => Just(Event::Patience),
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
    batches: Vec<Running>,
    /// The look under way, and what waited when it began.
    look: Option<(Look, BTreeSet<Turn>)>,
    /// What the server has marked as waiting.
    waiting: BTreeSet<Turn>,
    /// What waited at the last look and is not archived. Trouble makes no look wrong.
    unarchived: BTreeSet<Turn>,
    /// What was archived since the last trouble, and not told to the server.
    has: BTreeSet<Turn>,
    /// The same, without what did not wait for a while.
    steady: BTreeSet<Turn>,
    /// The last answer, and what the server was told last: it may not have marked it yet.
    answered: Option<FileName>,
    told: Option<Turn>,
    /// What it was told, as long as the pool may take the name for the same file.
    settled: BTreeSet<Turn>,
    /// Has not been asked for: for each file under way and each success, how much trouble there had been.
    ahead: HashMap<FileName, u64>,
    trouble: u64,
    limit: Option<Turn>,
}

/// A batch under way.
struct Running {
    batch: Batch<FileName>,
    /// How much trouble there had been when it began.
    trouble: u64,
    /// A hang was reported since.
    late: bool,
    /// What comes of it is to be remembered.
    steady: bool,
}

impl Model {
    fn new(threads: usize, in_memory: bool) -> Self {
        let mut state = State::new(threads, in_memory);
        state.threads = threads;
        Self {
            state,
            preparing: BTreeSet::new(),
            batches: Vec::new(),
            look: None,
            waiting: BTreeSet::new(),
            unarchived: BTreeSet::new(),
            has: BTreeSet::new(),
            steady: BTreeSet::new(),
            answered: None,
            told: None,
            settled: BTreeSet::new(),
            ahead: HashMap::new(),
            trouble: 0,
            limit: None,
        }
    }

    fn trouble(&mut self) {
        self.trouble += 1;
        self.has.clear();
        self.steady.clear();
    }

    /// What other destinations allow now.
    fn limit(&self) -> Limit {
        let before = self.limit.clone();
        let wanted_is_it =
            before.as_ref().map(Turn::name) == self.state.wanted() && before.is_some();
        Limit { before, wanted_is_it, nothing_yet: false }
    }

    /// A thread takes what there is to do. Returns whether there was something.
    fn start(&mut self) -> Result<bool, TestCaseError> {
        let (asked, held) = (self.state.asked.clone(), self.state.held());
        let wanted = self.state.wanted().cloned();
        let limit = self.limit();
        let Some(work) = self.state.start_next(&limit) else { return Ok(false) };
        prop_assert!(held.is_none(), "started while held");
        match work {
            Work::Discard(files) => prop_assert!(!files.is_empty()),
            Work::Prepare(job, _) => {
                if asked.as_ref() == Some(&job) {
                    self.ahead.remove(&job.name);
                } else {
                    self.ahead.insert(job.name.clone(), self.trouble);
                    let again = self.steady.contains(&Turn::of(&job.name));
                    prop_assert!(!again, "{} is read once more", job.name);
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
                let trouble = self.trouble;
                self.batches.push(Running { batch, trouble, late: false, steady: true });
            }
            Work::Look(look) => {
                prop_assert!(self.look.is_none(), "two looks at a time");
                self.look = Some((look, self.waiting.clone()));
            }
        }
        Ok(true)
    }

    /// Nothing but the file that the server waits for passes an earlier one that waits, or gets to one that
    /// conflicts in another destination (guarantee G13).
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
                let limit = self.limit.as_ref();
                prop_assert!(
                    limit.is_none_or(|limit| turn < *limit),
                    "{name} is behind a conflict"
                );
            } else {
                prop_assert!(self.limit.as_ref() != Some(&turn), "{name} conflicts elsewhere");
            }
            before.insert(turn);
        }
        Ok(())
    }

    fn prepared(&mut self, n: usize, ok: bool) {
        let Some(at) = n.checked_rem(self.preparing.len()) else { return };
        let name = self.preparing.iter().nth(at).unwrap().clone();
        self.preparing.remove(&name);
        if !ok {
            self.trouble();
        }
        let result = if ok { Ok(name.clone()) } else { Err(Error::NotConfigured) };
        self.state.finish_prepare(&name, result);
    }

    /// If the server waits for it, that is trouble like any other; if not, it says nothing of the destination.
    fn missing(&mut self, n: usize) {
        let Some(at) = n.checked_rem(self.preparing.len()) else { return };
        let name = self.preparing.iter().nth(at).unwrap().clone();
        self.preparing.remove(&name);
        if self.state.wanted() == Some(&name) || !self.state.goes_ahead() {
            self.trouble();
        }
        let path = "pg_wal/x".into();
        self.state.finish_prepare(&name, Err(Error::SourceMoved { path }));
    }

    fn published(&mut self, named: usize, flushed: bool) {
        let Some(Running { batch, trouble, late, steady }) = self.batches.pop() else { return };
        let all = named >= batch.files.len();
        let mut results = Vec::new();
        for (at, (name, _)) in batch.files.into_iter().enumerate() {
            let turn = Turn::of(&name);
            let result = if !flushed {
                (at == 0).then_some(Err(Error::NotConfigured))
            } else if at < named {
                if !late {
                    self.unarchived.remove(&turn);
                    if trouble == self.trouble {
                        let steady = steady && self.waiting.contains(&turn);
                        self.steady.extend(steady.then(|| turn.clone()));
                        self.has.insert(turn);
                    }
                }
                // What was published while the server waited for it, with no trouble since, could be taken at
                // once: trouble with another file afterwards changes nothing.
                let waited = self.state.wanted() == Some(&name);
                if waited && self.ahead.get(&name) == Some(&self.trouble) {
                    self.ahead.remove(&name);
                }
                Some(Ok(receipt()))
            } else {
                (at == named).then_some(Err(Error::NotConfigured))
            };
            results.push((name, result));
        }
        if !flushed || !all {
            self.trouble();
        }
        self.state.finish_batch(results);
    }

    /// A look ends that has read what waits either when it began or now.
    fn looked(&mut self, most: usize, ok: bool) {
        let Some((look, then)) = self.look.take() else { return };
        let waits = if most.is_multiple_of(2) { then } else { self.waiting.clone() };
        let listed: Vec<_> = waits.iter().map(Turn::name).cloned().collect();
        let mut listed: Vec<_> = listed.into_iter().filter(|name| !self.state.sees(name)).collect();
        listed.truncate(most);
        if ok {
            let last = listed.last().map(Turn::of).filter(|_| listed.len() == most);
            let within = |turn: &&Turn| last.as_ref().is_none_or(|last| *turn <= last);
            let open = |turn: &&Turn| !self.has.contains(turn) && !self.settled.contains(turn);
            self.unarchived = waits.iter().filter(within).filter(open).cloned().collect();
        }
        let names = ok.then_some(listed);
        let limit = self.limit();
        self.state.finish_look(&look, Seen { names, took: Duration::ZERO }, &limit);
    }

    fn ask(&mut self, n: usize) -> Result<(), TestCaseError> {
        // What the server was told, it has marked before it asks for another file.
        if let Some(turn) = self.told.take() {
            self.waiting.remove(&turn);
            self.steady.remove(&turn);
        }
        let job = job(n);
        let turn = Turn::of(&job.name);
        self.settled.remove(&turn);
        self.waiting.insert(turn.clone());
        self.answered = None;
        if self.state.barrier.as_ref().is_some_and(|barrier| barrier.turn <= turn) {
            // It was given another try by then: what is ahead begins anew.
            self.steady.clear();
            self.batches.iter_mut().for_each(|batch| batch.steady = false);
        }
        self.state.release_if_moved();
        self.state.ask(&job);
        if matches!(self.state.answer, Some(Answered::Had)) {
            prop_assert!(self.has.contains(&turn), "{} is remembered from before", job.name);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<(), TestCaseError> {
        let Some(wanted) = self.state.wanted().cloned() else { return Ok(()) };
        let had = matches!(self.state.answer, Some(Answered::Had));
        let Some(result) = self.state.take_result(&wanted) else { return Ok(()) };
        if let Ok((_, again)) = &result {
            prop_assert!(!again || had);
            if had {
                prop_assert!(
                    self.has.contains(&Turn::of(&wanted)),
                    "a success from before trouble"
                );
            } else if let Some(then) = self.ahead.get(&wanted) {
                prop_assert_eq!(*then, self.trouble, "a success ahead from before trouble");
            }
            self.answered = Some(wanted);
        }
        Ok(())
    }

    fn tell(&mut self) {
        let Some(name) = self.answered.take() else { return };
        let turn = Turn::of(&name);
        self.state.answered(&name);
        self.has.remove(&turn);
        self.steady.remove(&turn);
        self.unarchived.remove(&turn);
        self.settled.insert(turn.clone());
        self.told = Some(turn);
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Waits(n, true) => {
                let turn = Turn::of(&job(n).name);
                // Not the same name again while the pool may know it as answered.
                if !self.settled.contains(&turn) {
                    self.waiting.insert(turn);
                }
            }
            Event::Waits(n, false) => {
                let turn = Turn::of(&job(n).name);
                self.waiting.remove(&turn);
                self.steady.remove(&turn);
            }
            Event::Ask(n) => self.ask(n)?,
            Event::Tell => self.tell(),
            Event::Start => drop(self.start()?),
            Event::Move(n) => {
                let running: Vec<_> = self.state.running().collect();
                if let Some(at) = n.checked_rem(running.len()) {
                    running[at].progress.tick();
                }
            }
            Event::Prepared(n, ok) => self.prepared(n, ok),
            Event::Missing(n) => self.missing(n),
            Event::Published(named, flushed) => self.published(named, flushed),
            Event::Looked(most, ok) => self.looked(most, ok),
            Event::Take => self.take()?,
            Event::Refuse => {
                if let Some(job) = self.state.asked.clone() {
                    self.trouble();
                    self.state.refuse(&job, Error::NotConfigured);
                }
            }
            Event::Hold => {
                self.trouble();
                self.state.hold(Duration::ZERO);
                self.batches.iter_mut().for_each(|batch| batch.late = true);
                prop_assert!(self.state.wanted.is_none());
            }
            Event::Limit(n) => self.limit = n.map(|n| Turn::of(&job(n).name)),
            Event::Patience => {
                if let Some(barrier) = &mut self.state.barrier {
                    barrier.be_patient();
                }
            }
        }
        Ok(())
    }

    /// A file that the server waits for is answered, or a thread has it or is about to take it.
    fn is_not_forgotten(&self) -> Result<(), TestCaseError> {
        let Some(wanted) = &self.state.wanted else { return Ok(()) };
        let next = self.state.asked.as_ref() == Some(wanted);
        if self.state.answer.is_some() {
            prop_assert!(!next, "{} is tried although there is an answer", wanted.name);
            return Ok(());
        }
        let file = self.state.order.get(&Turn::of(&wanted.name)).unwrap();
        prop_assert!(!file.is_waiting() || next, "{} is forgotten", wanted.name);
        prop_assert!(file.is_waiting() || !next, "{} is started twice", wanted.name);
        Ok(())
    }

    /// Everything under way ends well.
    fn end(&mut self) {
        while !self.preparing.is_empty() {
            self.prepared(0, true);
        }
        while !self.batches.is_empty() {
            self.published(FILES, true);
        }
        self.looked(FILES + 1, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(dose::dose(512, 8192)))]

    /// Whatever came before: a file that the server waits for is never forgotten, and waits for no other
    /// file; a success ahead, or one that is remembered, is from after the last failure and hang; nothing is
    /// published before an earlier waiting file, or behind another destination's conflict; and threads that
    /// go on come to an end.
    #[test]
    fn files_are_answered_and_published_in_order(
        events in prop::collection::vec(event(), 0..160),
        in_memory: bool,
    ) {
        let mut model = Model::new(2, in_memory);
        for event in events {
            model.happen(event)?;
            model.is_not_forgotten()?;
        }
        // Everything under way ends: then there is an answer.
        model.limit = None;
        if let Some(wanted) = model.state.wanted.clone() {
            model.end();
            model.state.release_if_moved();
            model.state.ask(&wanted);
            for _ in 0..4 {
                while model.start()? {}
                model.end();
            }
            let answer = model.state.take_result(&wanted.name);
            prop_assert!(answer.is_some(), "{} is not answered", wanted.name);
        }
    }

    /// Whatever came before, once trouble is over: all that waits is archived although the server asks for one
    /// file alone, again and again; and then it is neither read nor written, and remembered.
    #[test]
    fn the_whole_backlog_is_archived_while_the_server_asks_for_one_file(
        events in prop::collection::vec(event(), 0..120),
        one in 0..FILES,
        in_memory: bool,
    ) {
        let mut model = Model::new(2, in_memory);
        for event in events {
            model.happen(event)?;
        }
        model.limit = None;
        model.end();
        for _ in 0..6 {
            model.happen(Event::Patience)?;
            model.ask(one)?;
            for _ in 0..2 * FILES {
                while model.start()? {}
                model.end();
            }
            model.take()?;
        }
        prop_assert!(model.waiting.iter().all(|turn| model.has.contains(turn)));
        prop_assert!(model.waiting.iter().all(|turn| model.state.memory.has(turn.name())));
        model.ask(one)?;
        let looks = |work: Work<FileName>| matches!(work, Work::Look(_));
        prop_assert!(model.state.start_next(&Limit::default()).is_none_or(looks));
        prop_assert!(matches!(model.state.take_result(&job(one).name), Some(Ok((_, true)))));
    }

    /// All files are archived ahead, whatever the order in which they become ready, and in batches.
    #[test]
    fn what_is_ready_in_any_order_is_published_in_the_servers(
        picks in prop::collection::vec(any::<usize>(), 60),
        in_memory: bool,
    ) {
        let mut model = Model::new(FILES, in_memory);
        model.waiting = (0..FILES).map(|n| Turn::of(&job(n).name)).collect();
        model.ask(0)?;
        model.start()?;
        model.start()?;
        model.looked(FILES + 1, true);
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
            model.looked(FILES + 1, true);
        }
        prop_assert!(model.unarchived.is_empty(), "{:?}", model.unarchived);
        for n in 0..FILES {
            model.ask(n)?;
            let answer = model.state.take_result(&job(n).name);
            prop_assert!(matches!(answer, Some(Ok((_, false)))), "{n}");
        }
    }
}
