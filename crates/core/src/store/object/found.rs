//! An object that stands under a final name.

use std::cell::RefCell;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Shared;
use super::ask::Meaning;
use super::wire::{Body, Reply};
use crate::encoding::codec::Codec;
use crate::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, STORED_ATTRIBUTE};
use crate::error::{Error, ErrorKind, Refusal};
use crate::server::source::Source;
use crate::server::url::text;
use crate::store::{FinalName, Found, Progress};

/// An object, whose contents may be on their way already.
pub(super) struct Object<'v> {
    shared: &'v Shared,
    progress: &'v Progress,
    name: FinalName,
    /// For messages.
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
    /// What tells these contents from others under the same name.
    tag: Option<String>,
    carries: Vec<(&'static str, String)>,
    /// The contents that came with the look; the first reader takes them.
    body: RefCell<Option<Body>>,
}

impl<'v> Object<'v> {
    /// Takes the answer to a look.
    ///
    /// # Errors
    /// The answer does not say how long the object is.
    pub(super) fn new(
        shared: &'v Shared,
        name: FinalName,
        progress: &'v Progress,
        reply: Reply,
    ) -> Result<Self, Refusal> {
        let len = reply.body.len().ok_or_else(|| Refusal {
            kind: ErrorKind::RequestRefused,
            text: format!("{} gave an object without its length", reply.host),
            request_id: None,
        })?;
        let found = Self::of(shared, name, progress, len, &reply);
        found.body.replace(Some(reply.body));
        Ok(found)
    }

    /// Takes the answer to a look at a part: the contents are asked for once somebody reads them.
    ///
    /// # Errors
    /// The answer does not say how long the whole object is.
    pub(super) fn of_part(
        shared: &'v Shared,
        name: FinalName,
        progress: &'v Progress,
        mut reply: Reply,
    ) -> Result<Self, Refusal> {
        let len =
            reply.header("content-range").and_then(|range| range.rsplit('/').next()?.parse().ok());
        let len = len.ok_or_else(|| Refusal {
            kind: ErrorKind::RequestRefused,
            text: format!(
                "{} gave a part of an object without the length of the whole",
                reply.host
            ),
            request_id: None,
        })?;
        // Read to its end, it leaves the connection to the next request.
        let _ = reply.body.read_at_most(1);
        Ok(Self::of(shared, name, progress, len, &reply))
    }

    fn of(
        shared: &'v Shared,
        name: FinalName,
        progress: &'v Progress,
        len: u64,
        reply: &Reply,
    ) -> Self {
        let dialect = shared.client.dialect();
        let carries = [STORED_ATTRIBUTE, CONTENT_ATTRIBUTE, CHECKED_ATTRIBUTE];
        let carried =
            |name: &'static str| Some((name, reply.header(dialect.header(name))?.to_owned()));
        Self {
            path: shared.path_of(&name),
            shared,
            progress,
            name,
            len,
            modified: reply.header("last-modified").and_then(text::http_date),
            tag: dialect.tag(reply),
            carries: carries.into_iter().filter_map(carried).collect(),
            body: RefCell::new(None),
        }
    }

    /// Asks for the contents once more, of the same object.
    fn again(&self) -> Result<Body, Error> {
        let mut ask = self.shared.get(&self.name);
        if let Some(tag) = self.tag.clone() {
            self.shared.client.dialect().only_if(&mut ask, tag);
        }
        let action = crate::error::Action::ReadArchived;
        let answer = self.shared.client.send(&ask, &|| self.progress.tick());
        let (meaning, reply) =
            answer.map_err(|refusal| self.shared.failed(action, &self.path, refusal))?;
        match meaning {
            Meaning::Success => Ok(reply.body),
            _ => Err(Error::Vanished { path: self.path.clone() }),
        }
    }
}

impl Found for Object<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn codec(&self) -> Codec {
        self.name.codec()
    }

    fn stored_len(&self) -> u64 {
        self.len
    }

    fn stored_bytes(&self) -> u64 {
        self.len
    }

    fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    fn attribute(&self, name: &str) -> io::Result<Option<String>> {
        let carried = self.carries.iter().find(|(known, _)| *known == name);
        Ok(carried.map(|(_, value)| value.clone()))
    }

    fn version(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    fn is(&self, _: &Source) -> bool {
        false
    }

    /// What the storage gives is durable.
    fn flush(&self) -> Result<(), Error> {
        self.progress.tick();
        Ok(())
    }

    fn read(&self, _: bool) -> io::Result<Box<dyn Read + '_>> {
        let body = match self.body.take() {
            Some(body) => body,
            // With a number of the system's: what could not be read now may be whole.
            None => self.again().map_err(|_| io::Error::from_raw_os_error(libc::EIO))?,
        };
        Ok(Box::new(Contents { body, progress: self.progress }))
    }
}

/// The contents of an object. Its errors carry a number of the system's, which tells them from broken contents.
struct Contents<'v> {
    body: Body,
    progress: &'v Progress,
}

impl Read for Contents<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.body.read(into).map_err(|e| match e.raw_os_error() {
            Some(_) => e,
            None => io::Error::from_raw_os_error(libc::EIO),
        });
        self.progress.tick();
        got
    }
}
