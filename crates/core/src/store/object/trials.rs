//! What a check tries with a bucket. What each trial promises stands with [`Trials`].

use std::cell::Cell;
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use super::ask::{Ask, Meaning};
use super::cloud::{Asking, Start};
use super::payload::Payload;
use super::wire::Reply;
use super::{ObjectVisit, Shared};
use crate::error::{Action, Error, ErrorKind, Refusal};
use crate::store::directory::temporary::{self, Owner};
use crate::store::trials::{Checksums, Put, Race, Rules, Wrong, fixed_name};
use crate::store::{FinalName, Found, PROBE, Trials};
use crate::sys;

/// How many PUTs race: on some servers, each of those that lose takes a second longer than the one before.
const RACERS: u8 = 3;

/// Long enough to be held.
const LONG: usize = 20_000;

/// How long the end of a body is kept back.
const HELD: Duration = Duration::from_secs(1);

/// When it is looked whether half a body has become an object: a server may notice late that it was cut.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(700)];

/// Stack of a thread that ends a PUT, in bytes.
const STACK: usize = 1 << 20;

/// Trials on a visit.
pub(super) struct ObjectTrials<'v> {
    visit: &'v ObjectVisit<'v>,
    owner: Owner,
    /// Objects can be removed, as far as is known.
    removes: Cell<bool>,
}

impl<'v> ObjectTrials<'v> {
    pub(super) fn new(visit: &'v ObjectVisit<'v>) -> Self {
        Self { visit, owner: Owner::this_process(), removes: Cell::new(false) }
    }

    fn shared(&self) -> &Shared {
        &self.visit.shared
    }

    fn moved(&self) {
        self.visit.progress.tick();
    }

    fn failed(&self, name: &FinalName, refusal: Refusal) -> Error {
        self.shared().failed(Action::WriteProbe, &self.shared().path_of(name), refusal)
    }

    fn payload(&self, name: &FinalName, bytes: &[u8]) -> Result<Payload, Error> {
        let mut payload = Payload::new();
        let path = || self.shared().path_of(name);
        payload.add(bytes).map_err(|e| Error::io(Action::ReserveMemory, path(), e))?;
        Ok(payload)
    }

    /// Tries something with a name for a probe, and removes what has that name then.
    ///
    /// Two checks at one time must not remove each other's probes while those are looked at, so names that are
    /// removed are never used twice. What a check that is killed leaves has a temporary name of this host.
    fn with_name<T>(
        &self,
        tried: &str,
        work: impl FnOnce(&FinalName) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if !self.removes.get() {
            return work(&fixed_name(tried));
        }
        let temporary = self.owner.temporary_name(PROBE);
        let name = FinalName::Probe(temporary.to_string());
        let result = work(&name);
        // If they may not be removed after all, the others are not to stay under names that nobody uses again.
        self.removes.set(self.remove(&name).is_ok());
        result
    }

    fn remove(&self, name: &FinalName) -> Result<(), Refusal> {
        let client = &self.shared().client;
        let ask = client.dialect().remove(client.url().key(&name.to_string()));
        client.send(&ask, &|| self.moved()).map(drop)
    }

    /// Removes the probes of checks of this host that were killed.
    fn remove_stray(&self) -> Result<(), Error> {
        let mut stray = Vec::new();
        self.visit.names(&temporary::begin_of(PROBE), "", &mut |name, _| {
            if temporary::is_stray(name, &self.owner) {
                stray.push(FinalName::Probe(name.to_owned()));
            }
        })?;
        for name in stray {
            let _ = self.remove(&name);
        }
        Ok(())
    }

    /// Puts a probe. Returns what the answer means, which is that it was stored or that the name is taken, and who
    /// gave it.
    fn offer(&self, name: &FinalName, payload: &Payload) -> Result<(Meaning, String), Refusal> {
        let shared = self.shared();
        let (meaning, reply) =
            shared.client.send(&shared.put(name, &[], payload), &|| self.moved())?;
        Ok((meaning, reply.host))
    }

    fn try_condition(&self, name: &FinalName) -> Result<Option<Duration>, Error> {
        let payload = self.payload(name, b"This is a probe of walsafe check.\n")?;
        let began = Instant::now();
        let (first, _) = self.offer(name, &payload).map_err(|r| self.failed(name, r))?;
        let took = (first == Meaning::Success).then(|| began.elapsed());
        let (second, host) = self.offer(name, &payload).map_err(|r| self.failed(name, r))?;
        if second != Meaning::Exists {
            let refusal = Refusal {
                kind: ErrorKind::ConditionIgnored,
                text: format!("{host} took a PUT of an object that is there"),
                request_id: None,
            };
            let path = self.shared().path_of(name);
            return Err(self.shared().failed(Action::TestCondition, &path, refusal));
        }
        *self.shared().tested() = None;
        self.shared().test_condition(self.visit.progress)?;
        Ok(took)
    }

    fn try_race(&self, name: &FinalName) -> Result<Race, Error> {
        let (client, shared) = (&self.shared().client, self.shared());
        let moved = || self.visit.progress.tick();
        let payloads: Vec<Payload> = (0..RACERS)
            .map(|racer| self.payload(name, &[racer; LONG]))
            .collect::<Result<_, Error>>()?;
        let asks: Vec<Ask<'_>> =
            payloads.iter().map(|payload| shared.put(name, &[], payload)).collect();
        // All of each but its end, so that the ends meet.
        let held: Vec<_> = asks.iter().map(|ask| client.hold(ask, &moved)).collect();
        let failed = |e| Error::io(Action::StartReader, &shared.location, e);
        let answers = thread::scope(|scope| {
            let started = sys::with_signals_blocked(|| {
                let racers = held.into_iter().zip(&asks);
                let racers = racers.map(|(held, ask)| {
                    sys::headroom().map_err(|_| std::io::ErrorKind::OutOfMemory)?;
                    let work =
                        move || client.release(held, ask, &moved).map(|(meaning, _)| meaning);
                    thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work)
                });
                racers.collect::<Vec<std::io::Result<_>>>()
            });
            let ended = started.into_iter().map(|racer| {
                let panicked = |_| std::io::Error::other("a thread panicked");
                racer.and_then(|racer| racer.join().map_err(panicked))
            });
            ended.collect::<std::io::Result<Vec<_>>>()
        });
        let answers = answers.map_err(failed)?;
        let mut stored = Vec::new();
        for (racer, answer) in (0_u8..).zip(answers) {
            if answer.map_err(|r| self.failed(name, r))? == Meaning::Success {
                stored.push(racer);
            }
        }
        let there = self.contents(name)?;
        let agrees = match stored.as_slice() {
            // The answer of the one that was stored may have been lost, or an earlier race was won.
            [] => (0..RACERS).any(|racer| there == [racer; LONG]),
            [one] => there == [*one; LONG],
            _ => false,
        };
        Ok(Race { puts: asks.len(), stored: stored.len(), agrees })
    }

    /// Reads a probe; nothing if there is none.
    fn contents(&self, name: &FinalName) -> Result<Vec<u8>, Error> {
        let Some(found) = self.shared().find(name, self.visit.progress)? else {
            return Ok(Vec::new());
        };
        let path = self.shared().path_of(name);
        let fail = |e| Error::io(Action::ReadArchived, &path, e);
        let mut bytes = Vec::new();
        let stream = found.read(true).map_err(fail)?;
        stream.take(2 * LONG as u64).read_to_end(&mut bytes).map_err(fail)?;
        Ok(bytes)
    }

    fn try_wrong(&self, name: &FinalName, payload: &Payload) -> Result<Wrong, Error> {
        use ErrorKind::{CredentialsRefused, RequestForbidden, RequestRefused};

        let refused = match self.offer(name, payload) {
            // A later check finds the name taken, by what an earlier one was not refused.
            Ok(_) => false,
            // The digest is a part of what is signed, too.
            Err(Refusal {
                kind: RequestRefused | CredentialsRefused | RequestForbidden, ..
            }) => true,
            Err(refusal) => return Err(self.failed(name, refusal)),
        };
        let there = self.shared().glance(name, self.visit.progress)?.is_some();
        Ok(match (refused, there) {
            (true, false) => Wrong::Refused,
            (true, true) => Wrong::RefusedAndStored,
            (false, _) => Wrong::Stored,
        })
    }

    /// Asks the bucket for something; `None` if there is no such thing.
    fn answer(&self, ask: &Ask<'_>) -> Result<Option<Reply>, String> {
        let client = &self.shared().client;
        let (meaning, reply) = client.send(ask, &|| self.moved()).map_err(|r| r.text)?;
        Ok((meaning != Meaning::Absent).then_some(reply))
    }
}

impl Asking for ObjectTrials<'_> {
    fn ask(&self, ask: &Ask<'_>) -> Result<Option<Vec<u8>>, String> {
        const LONGEST: usize = 4 << 20;
        let Some(mut reply) = self.answer(ask)? else { return Ok(None) };
        let body = reply.body.read_at_most(LONGEST);
        body.map(Some).map_err(|e| format!("the answer of {} broke off: {e}", reply.host))
    }

    fn header(&self, ask: &Ask<'_>, name: &str) -> Result<Option<String>, String> {
        let reply = self.answer(ask)?;
        Ok(reply.map(|reply| reply.header(name).unwrap_or_default().to_owned()))
    }
}

impl Trials for ObjectTrials<'_> {
    fn can_be_listed(&self) -> Result<(), Error> {
        let shared = self.shared();
        let page = self.visit.page(&shared.client.url().directory(), &Start::default());
        page.map(drop).map_err(|r| shared.failed(Action::ListObjects, &shared.location, r))
    }

    fn put(&self) -> Result<Put, Error> {
        // Where versions are kept, what is removed stays all the same, and more of it with each check.
        let dialect = self.shared().client.dialect();
        let keeps_versions = dialect.keeps_versions(self).unwrap_or(false);
        // Where objects may be removed, one that is not there may be too.
        let temporary = self.owner.temporary_name(PROBE);
        let name = FinalName::Probe(temporary.to_string());
        self.removes.set(!keeps_versions && self.remove(&name).is_ok());
        if self.removes.get() {
            self.remove_stray()?;
        }
        let took = self.with_name("put", |name| self.try_condition(name))?;
        Ok(Put { took, removes: self.removes.get() })
    }

    fn race(&self) -> Result<Race, Error> {
        self.with_name("race", |name| self.try_race(name))
    }

    fn checksums(&self) -> Result<Checksums, Error> {
        let (body, other) = (b"This is a probe of walsafe check.\n", b"what was meant");
        let md5 = self.with_name("md5", |name| {
            self.try_wrong(name, &self.payload(name, body)?.with_md5_of(other))
        })?;
        // A request that shows none is not refused for it.
        if !self.shared().client.dialect().shows_sha256() {
            return Ok(Checksums { md5, sha256: Wrong::Stored });
        }
        let sha256 = self.with_name("sha256", |name| {
            self.try_wrong(name, &self.payload(name, body)?.with_sha256_of(other))
        })?;
        Ok(Checksums { md5, sha256 })
    }

    fn shows_half(&self) -> Result<bool, Error> {
        self.with_name("cut", |name| {
            let payload = self.payload(name, &[7; LONG])?;
            let shared = self.shared();
            let held = shared.client.hold(&shared.put(name, &[], &payload), &|| self.moved());
            let began = held.is_some();
            // Closes the connection.
            drop(held);
            for pause in LOOKS {
                thread::sleep(pause);
                if shared.glance(name, self.visit.progress)?.is_some() {
                    return Ok(true);
                }
            }
            if began {
                return Ok(false);
            }
            Err(self.failed(
                name,
                Refusal {
                    kind: ErrorKind::Unreachable,
                    text: "a PUT could not be begun".to_owned(),
                    request_id: None,
                },
            ))
        })
    }

    fn takes_held(&self) -> Result<bool, Error> {
        self.with_name("held", |name| {
            let payload = self.payload(name, &[7; LONG])?;
            let (shared, moved) = (self.shared(), || self.moved());
            let client = &shared.client;
            let before = client.counts.now().sent;
            let ask = shared.put(name, &[], &payload);
            let held = client.hold(&ask, &moved);
            thread::sleep(HELD);
            self.moved();
            client.release(held, &ask, &moved).map_err(|r| self.failed(name, r))?;
            Ok(client.counts.now().sent == before + 1)
        })
    }

    fn rules(&self) -> Rules {
        let directory = self.shared().client.url().directory();
        self.shared().client.dialect().rules(self, &directory)
    }
}
