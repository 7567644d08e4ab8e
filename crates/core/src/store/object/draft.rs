//! A file on its way into object storage.
//!
//! [`Draft::put_all`] takes the bytes into memory, because a request shows their digests before them.
//! [`Draft::seal`] sends all but their end, and [`Sealed::publish`] the end: only then can the object come to be.
//! Dropped before, the connection is closed, and the storage keeps nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::ask::{Ask, Meaning};
use super::client::Held;
use super::payload::Payload;
use crate::encoding::digest::{
    CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, Digest, Hasher, STORED_ATTRIBUTE,
};
use crate::error::{Action, Error};
use crate::store::{Digests, Draft, FinalName, Found, Progress, Publication, Seal, Sealed};
use crate::sys::buffer::Buffer;
use crate::sys::read_full;

/// A file being written.
pub(super) struct ObjectDraft<'p> {
    shared: Arc<Shared>,
    progress: &'p Progress,
    name: FinalName,
    payload: Payload,
}

/// A file all of whose bytes are there, and sent but for their end.
struct ObjectSealed {
    shared: Arc<Shared>,
    name: FinalName,
    payload: Payload,
    /// The attributes that the object carries beside its contents.
    carries: Vec<(&'static str, String)>,
    seal: Seal,
    held: Option<Held>,
}

impl<'p> ObjectDraft<'p> {
    pub(super) fn new(shared: Arc<Shared>, progress: &'p Progress, name: FinalName) -> Self {
        Self { shared, progress, name, payload: Payload::new() }
    }
}

impl Draft for ObjectDraft<'_> {
    fn put_all(&mut self, chunks: &[&[u8]]) -> Result<(), Error> {
        let path = || self.shared.path_of(&self.name);
        for chunk in chunks {
            self.payload.add(chunk).map_err(|e| Error::io(Action::ReserveMemory, path(), e))?;
            self.progress.tick();
        }
        Ok(())
    }

    fn seal(self: Box<Self>, seal: &Seal) -> Result<Box<dyn Sealed>, Error> {
        let Self { shared, progress, name, payload } = *self;
        let mut carries = Vec::new();
        if let Some(Digests { stored, content }) = seal.digests {
            carries.push((STORED_ATTRIBUTE, stored.to_string()));
            carries.push((CONTENT_ATTRIBUTE, content.to_string()));
        }
        if let Some(checked) = seal.checked {
            carries.push((CHECKED_ATTRIBUTE, checked.as_str().to_owned()));
        }
        let mut sealed = ObjectSealed { shared, name, payload, carries, seal: *seal, held: None };
        if seal.verify {
            sealed.compare(sealed.digest()?, "what is to be sent")?;
        }
        // Before any of it is sent: some that replace objects keep what they got of a body that is taken back.
        sealed.test_condition(progress)?;
        sealed.held = sealed.shared.client.hold(&sealed.ask(), &|| progress.tick());
        progress.tick();
        Ok(Box::new(sealed))
    }
}

impl ObjectSealed {
    fn path(&self) -> PathBuf {
        self.shared.path_of(&self.name)
    }

    fn ask(&self) -> Ask<'_> {
        self.shared.put(&self.name, &self.carries, &self.payload)
    }

    fn test_condition(&self, progress: &Progress) -> Result<(), Error> {
        match self.name {
            FinalName::File(_) => self.shared.test_condition(progress),
            _ => Ok(()),
        }
    }

    fn digest(&self) -> Result<Digest, Error> {
        let mut hasher = Hasher::default();
        let mut each = |piece: &[u8]| {
            hasher.update(piece);
            true
        };
        let read = self.payload.pieces(0, self.payload.len(), &mut each);
        read.map_err(|e| Error::io(Action::ReadBack, self.path(), e))?;
        Ok(hasher.digest())
    }

    fn compare(&self, found: Digest, what: &str) -> Result<(), Error> {
        match self.seal.digests {
            Some(Digests { stored, .. }) if stored != found => {
                let reason = format!("BLAKE3 of what was written is {stored}, of {what} {found}");
                Err(Error::ReadBackDiffers { path: self.path(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Reads the object back and compares it with what was sent.
    fn read_back(&self, progress: &Progress) -> Result<(), Error> {
        let found = self.shared.find(&self.name, progress)?;
        let found = found.ok_or_else(|| Error::Vanished { path: self.path() })?;
        let fail = |e| Error::io(Action::ReadBack, self.path(), e);
        let mut stream = found.read(true).map_err(fail)?;
        let mut buffer =
            Buffer::new().map_err(|e| Error::io(Action::ReserveMemory, self.path(), e))?;
        let mut hasher = Hasher::default();
        loop {
            let len = read_full(&mut stream, buffer.bytes_mut()).map_err(fail)?;
            hasher.update(buffer.filled(len));
            if len < buffer.bytes().len() {
                break;
            }
        }
        self.compare(hasher.digest(), "what the object holds")
    }
}

impl Sealed for ObjectSealed {
    fn stored_bytes(&self) -> u64 {
        self.payload.len()
    }

    fn carries_attributes(&self) -> bool {
        true
    }

    /// Dropped, a held request closes its connection.
    fn let_go(&mut self) -> Option<Duration> {
        let left = self.shared.client.may_hold(self.held.as_ref()?);
        if left.is_none() {
            self.held = None;
        }
        left
    }

    /// A request without an answer is sent again: if the first one was done, the name is taken, by what we sent.
    fn publish(mut self: Box<Self>, progress: &Progress) -> Result<Publication, Error> {
        self.test_condition(progress)?;
        let held = self.held.take();
        let answer = self.shared.client.release(held, &self.ask(), &|| progress.tick());
        let (meaning, _) =
            answer.map_err(|refusal| self.shared.failed(Action::Upload, &self.path(), refusal))?;
        if meaning == Meaning::Exists {
            return Ok(Publication::NameTaken);
        }
        if self.seal.verify {
            self.read_back(progress)?;
        }
        Ok(Publication::Published)
    }
}
