//! An archive in object storage, whose ever it is: what differs from cloud to cloud stands in `cloud`.
//!
//! A file is one object, made by one PUT that must not replace (`If-None-Match: *`): it uploads and publishes in
//! one act. To keep the server's order and to send in parallel all the same, a body is sent at once but for its
//! end, which follows when it is the file's turn (`draft`). An object counts only once the storage has said so,
//! and is durable then: there is nothing to flush. What an answer means stands in one table (`answer`).
//!
//! No thread is started, no redirect followed, and nothing repeated but by `client`, within a time limit.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::answer::Said;
use self::ask::{Ask, Meaning};
use self::client::Client;
use self::cloud::{Entry, Next, Page, Start};
use self::draft::ObjectDraft;
use self::found::Object;
use self::payload::Payload;
use self::trials::ObjectTrials;
use crate::encoding::codec::Codec;
use crate::error::{Action, Error, ErrorKind, Refusal};
use crate::server::known::KnownDestinations;
use crate::store::{
    Draft, Facts, FinalName, Found, Place, PlaceId, Progress, Requests, Store, StoredName, Trials,
    Visit,
};
use crate::sys::Space;
use crate::wal::name::FileName;

mod answer;
#[cfg(test)]
mod archive_tests;
mod ask;
mod client;
mod cloud;
#[cfg(test)]
mod copy_tests;
mod draft;
#[cfg(test)]
mod fake;
mod found;
mod keys;
mod payload;
#[cfg(test)]
mod prove_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
mod trials;
mod wire;
mod xml;

pub use crate::server::url::{Encryption, Endpoint, ObjectUrl, Proxy, UrlError};
pub use client::Patience;
pub use keys::Credentials;

/// An archive in object storage, by its URL.
#[derive(Debug)]
pub struct ObjectStore {
    shared: Arc<Shared>,
}

/// What visits, and what is kept of them, have in common.
#[derive(Debug)]
struct Shared {
    client: Client,
    location: PathBuf,
    /// The same with the server's, where that is not the cloud's own.
    name: PathBuf,
    /// When the storage has last shown that it does not replace.
    tested: Mutex<Option<Instant>>,
}

impl ObjectStore {
    /// Names an archive; asks for nothing yet.
    ///
    /// # Errors
    /// The URL does not say enough.
    pub fn new(
        url: ObjectUrl,
        credentials: Credentials,
        patience: Patience,
    ) -> Result<Self, UrlError> {
        let (location, name) = (url.to_string().into(), url.name().into());
        let client = Client::new(url, credentials, patience)?;
        Ok(Self { shared: Arc::new(Shared { client, location, name, tested: Mutex::default() }) })
    }
}

impl Store for ObjectStore {
    /// Nothing is asked for: the first look on the visit tells whether the bucket can be reached.
    fn visit<'s>(&'s self, progress: &'s Progress) -> Result<Box<dyn Visit + 's>, Error> {
        progress.tick();
        Ok(Here(Arc::clone(&self.shared)).resume(progress))
    }

    fn requests(&self) -> Option<Requests> {
        Some(self.shared.client.counts.now())
    }

    /// With a connection that waits.
    fn holds_in_memory(&self) -> bool {
        true
    }

    fn rest(&self) {
        self.shared.client.rest();
    }
}

/// How often a page of a listing is read that breaks off on its way.
const READS: u32 = 3;

/// How long it counts that the storage honours the condition: some stop when a bucket's versioning is switched
/// on.
const TESTED: Duration = Duration::from_secs(600);

impl Shared {
    fn path_of(&self, name: &FinalName) -> PathBuf {
        self.location.join(name.to_string())
    }

    fn failed(&self, action: Action, path: &Path, refusal: Refusal) -> Error {
        // What worked before may work no longer.
        *self.tested() = None;
        Error::Remote { action, path: path.to_owned(), refusal: Box::new(refusal) }
    }

    fn tested(&self) -> MutexGuard<'_, Option<Instant>> {
        self.tested.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put<'p>(
        &self,
        name: &FinalName,
        attributes: &[(&'static str, String)],
        payload: &'p Payload,
    ) -> Ask<'p> {
        self.client.dialect().publish(self.client.url(), self.key(name), attributes, payload)
    }

    fn get(&self, name: &FinalName) -> Ask<'static> {
        self.client.dialect().read(self.key(name))
    }

    fn key(&self, name: &FinalName) -> String {
        self.client.url().key(&name.to_string())
    }

    /// Looks an object up, and leaves its contents for the one who reads it.
    fn find<'v>(
        &'v self,
        name: &FinalName,
        progress: &'v Progress,
    ) -> Result<Option<Object<'v>>, Error> {
        let path = self.path_of(name);
        let moved = || progress.tick();
        let answer = self.client.send(&self.get(name), &moved);
        let (meaning, reply) =
            answer.map_err(|refusal| self.failed(Action::ReadArchived, &path, refusal))?;
        match meaning {
            Meaning::Absent => Ok(None),
            _ => Object::new(self, name.clone(), progress, reply)
                .map(Some)
                .map_err(|refusal| self.failed(Action::ReadArchived, &path, refusal)),
        }
    }

    /// Looks an object up by its first byte: with that comes all that is known of it but the rest of its contents.
    /// An answer to HEAD would not say why there is none.
    fn glance<'v>(
        &'v self,
        name: &FinalName,
        progress: &'v Progress,
    ) -> Result<Option<Object<'v>>, Error> {
        let path = self.path_of(name);
        let ask = self.client.dialect().first_byte(self.key(name));
        let answer = self.client.send(&ask, &|| progress.tick());
        let failed = |refusal| self.failed(Action::ReadArchived, &path, refusal);
        let (meaning, reply) = answer.map_err(failed)?;
        match (meaning, reply.status) {
            (Meaning::Absent, _) => Ok(None),
            (_, 206) => Object::of_part(self, name.clone(), progress, reply).map(Some),
            (_, 200) => Object::new(self, name.clone(), progress, reply).map(Some),
            // An empty object has no first byte.
            _ => {
                drop(reply);
                return self.find(name, progress);
            }
        }
        .map_err(failed)
    }

    /// Makes sure that the storage does not replace what is there, by putting the identity's own bytes once more:
    /// where it does, nothing is lost by that. Done before the first object after a start or a failure, and
    /// now and then. Without an identity there is nothing to lose yet, and nothing to try it with.
    ///
    /// # Errors
    /// It replaces, or it could not be found out.
    fn test_condition(&self, progress: &Progress) -> Result<(), Error> {
        if self.tested().is_some_and(|at| at.elapsed() < TESTED) {
            return Ok(());
        }
        let Some(identity) = self.find(&FinalName::Identity, progress)? else { return Ok(()) };
        let path = self.path_of(&FinalName::Identity);
        let fail = |e| Error::io(Action::ReadArchived, &path, e);
        let mut bytes = Vec::new();
        let stream = identity.read(true).map_err(fail)?;
        stream.take(64 << 10).read_to_end(&mut bytes).map_err(fail)?;
        let mut payload = Payload::new();
        payload.add(&bytes).map_err(|e| Error::io(Action::ReserveMemory, &path, e))?;
        let moved = || progress.tick();
        let answer = self.client.send(&self.put(&FinalName::Identity, &[], &payload), &moved);
        let refused = |refusal| self.failed(Action::TestCondition, &path, refusal);
        let (meaning, reply) = answer.map_err(refused)?;
        if meaning != Meaning::Exists {
            return Err(refused(Refusal {
                kind: ErrorKind::ConditionIgnored,
                text: format!("{} took a PUT of an object that is there", reply.host),
                request_id: None,
            }));
        }
        *self.tested() = Some(Instant::now());
        Ok(())
    }
}

/// The storage is the same at any time: nothing is open between two requests but connections.
struct Here(Arc<Shared>);

impl Place for Here {
    fn resume<'s>(&self, progress: &'s Progress) -> Box<dyn Visit + 's> {
        Box::new(ObjectVisit { shared: Arc::clone(&self.0), progress })
    }

    fn id(&self) -> Result<PlaceId, Error> {
        let mut hasher = DefaultHasher::new();
        self.0.client.url().place().hash(&mut hasher);
        // No device has this number.
        Ok(PlaceId(u64::MAX, hasher.finish()))
    }
}

struct ObjectVisit<'s> {
    shared: Arc<Shared>,
    progress: &'s Progress,
}

impl ObjectVisit<'_> {
    /// Returns a page of the listing of what begins so.
    fn page(&self, prefix: &str, start: &Start) -> Result<Page, Refusal> {
        let client = &self.shared.client;
        let dialect = client.dialect();
        let ask = dialect.list(prefix, start);
        // A thousand names, each of them encoded.
        const LONGEST: usize = 16 << 20;
        let mut reads = 1;
        loop {
            let (meaning, mut reply) = client.send(&ask, &|| self.progress.tick())?;
            let wrong = |what: &str| Refusal {
                kind: ErrorKind::RequestRefused,
                text: format!("{} gave {what}", reply.host),
                request_id: None,
            };
            if meaning != Meaning::Success {
                return Err(wrong("no listing"));
            }
            match reply.body.read_at_most(LONGEST) {
                Ok(text) => match Said::instead_of_a_listing(dialect, &reply.host, &text) {
                    None => return dialect.page(&text).map_err(wrong),
                    // It was too much to do at that moment.
                    Some(Refusal { kind: ErrorKind::StorageBusy, .. }) if reads < READS => {
                        reads += 1;
                    }
                    Some(refusal) => return Err(refusal),
                },
                // A connection breaks now and then.
                Err(_) if reads < READS => reads += 1,
                Err(source) => {
                    return Err(Refusal {
                        kind: ErrorKind::Unreachable,
                        text: format!("the listing of {} broke off: {source}", reply.host),
                        request_id: None,
                    });
                }
            }
        }
    }

    /// Calls `each` with every name that begins so and comes behind a text.
    fn names(
        &self,
        begin: &str,
        behind: &str,
        each: &mut dyn FnMut(&str, Facts),
    ) -> Result<(), Error> {
        self.names_while(begin, behind, &mut |name, facts| {
            each(name, facts);
            true
        })
    }

    /// The same, until `each` returns `false`.
    fn names_while(
        &self,
        begin: &str,
        behind: &str,
        each: &mut dyn FnMut(&str, Facts) -> bool,
    ) -> Result<(), Error> {
        let failed =
            |refusal| self.shared.failed(Action::ListObjects, &self.shared.location, refusal);
        let directory = self.shared.client.url().directory();
        let prefix = format!("{directory}{begin}");
        let behind = (!behind.is_empty()).then(|| format!("{directory}{behind}"));
        let mut start = Start { after: behind.clone(), token: None };
        loop {
            let page = self.page(&prefix, &start).map_err(failed)?;
            let mut last = start.after.clone();
            // Some servers give what they gave before once more. Where they say themselves how to go on, the order
            // may be another than ours, and nothing is left out but what nobody wants.
            let known = if start.token.is_none() { &start.after } else { &behind };
            for Entry { key, len, modified } in page.entries {
                if known.as_ref().is_some_and(|known| *known >= key) {
                    continue;
                }
                self.progress.tick();
                if let Some(name) = key.strip_prefix(&directory)
                    && !name.is_empty()
                    && !name.ends_with("_$folder$")
                    && !each(name, Facts { len, allocated: len, modified })
                {
                    return Ok(());
                }
                // What stands for all keys under it ends behind the last of these. The directory's own key
                // stands for itself.
                let is_many = key.ends_with('/') && key.len() > prefix.len();
                let end = if is_many { format!("{key}\u{10FFFF}") } else { key };
                last = last.max(Some(end));
            }
            let next = match page.next {
                Next::Nowhere => {
                    self.progress.tick();
                    return Ok(());
                }
                Next::Behind => Start { after: last, token: None },
                Next::At(token) => Start { after: start.after.clone(), token: Some(token) },
            };
            if next == start {
                return Err(failed(Refusal {
                    kind: ErrorKind::RequestRefused,
                    text: "the listing does not go on behind its first page".to_owned(),
                    request_id: None,
                }));
            }
            start = next;
        }
    }
}

impl Visit for ObjectVisit<'_> {
    fn location(&self) -> &Path {
        &self.shared.location
    }

    fn known_as(&self) -> &Path {
        &self.shared.name
    }

    fn progress(&self) -> &Progress {
        self.progress
    }

    fn keep(&self) -> Box<dyn Place> {
        Box::new(Here(Arc::clone(&self.shared)))
    }

    fn is_still_there(&self) -> Result<bool, Error> {
        Ok(true)
    }

    fn find(&self, name: &FinalName) -> Result<Option<Box<dyn Found + '_>>, Error> {
        let found = self.shared.find(name, self.progress)?;
        self.progress.tick();
        Ok(found.map(|found| Box::new(found) as _))
    }

    fn glance(&self, name: &FinalName) -> Result<Option<Box<dyn Found + '_>>, Error> {
        let found = self.shared.glance(name, self.progress)?;
        self.progress.tick();
        Ok(found.map(|found| Box::new(found) as _))
    }

    fn holds(&self, name: &FinalName) -> bool {
        !matches!(self.shared.glance(name, self.progress), Ok(None))
    }

    fn list(&self, each: &mut dyn FnMut(&str)) -> Result<(), Error> {
        self.names("", "", &mut |name, _| each(name))
    }

    fn list_facts(&self, each: &mut dyn FnMut(&str, Facts)) -> Result<bool, Error> {
        self.names("", "", each).map(|()| true)
    }

    fn facts(&self, name: &str) -> io::Result<Option<Facts>> {
        // Any key can be asked for so.
        let found = self.shared.glance(&FinalName::Probe(name.to_owned()), self.progress);
        let found = found.map_err(|e| io::Error::other(format!("{e}: {}", e.detail())))?;
        Ok(found.map(|found| Facts {
            len: found.stored_len(),
            allocated: found.stored_bytes(),
            modified: found.modified(),
        }))
    }

    fn trials(&self) -> Option<Box<dyn Trials + '_>> {
        Some(Box::new(ObjectTrials::new(self)))
    }

    fn list_from(&self, from: &str, each: &mut dyn FnMut(&str) -> bool) -> Result<bool, Error> {
        // A listing begins behind a name: this one comes before all that begin with the same characters.
        let mut chars = from.chars();
        chars.next_back();
        self.names_while("", chars.as_str(), &mut |name, _| name < from || each(name))?;
        Ok(true)
    }

    /// By one listing, which costs a round trip where four looks would cost four.
    fn encodings(&self, name: &FileName) -> Result<Vec<Codec>, Error> {
        let mut there = Vec::new();
        self.names(&name.to_string(), "", &mut |stored, _| {
            let parsed = StoredName::parse(stored).ok().filter(|stored| stored.name == *name);
            there.extend(parsed.map(|stored| stored.codec));
        })?;
        Ok(there)
    }

    fn stage(&self, name: FinalName) -> Result<Box<dyn Draft + '_>, Error> {
        Ok(Box::new(ObjectDraft::new(Arc::clone(&self.shared), self.progress, name)))
    }

    fn test(&self) -> Result<(), Error> {
        self.shared.test_condition(self.progress)
    }

    /// What the storage has said is there is durable.
    fn settle(&self) -> Result<(), Error> {
        self.progress.tick();
        Ok(())
    }

    /// A PUT leaves nothing behind unless it is done.
    fn tidy(&self) -> Result<(), Error> {
        self.progress.tick();
        Ok(())
    }

    fn space(&self) -> Option<Space> {
        None
    }

    fn is_within(&self, _: &KnownDestinations) -> Result<bool, Error> {
        Ok(false)
    }
}
