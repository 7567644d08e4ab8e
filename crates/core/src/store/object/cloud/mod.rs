//! What differs from cloud to cloud: how requests look, and what answers mean. All else is the same for all.

use std::fmt;
use std::time::SystemTime;

use super::ask::{Ask, Asked, Meaning};
use super::keys::{Credentials, Sign, Way};
use super::payload::Payload;
use super::wire::{Failure, Reply};
use crate::server::url::{Cloud, ObjectUrl};
use crate::store::trials::Rules;

#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "gcs")]
mod google;
#[cfg(feature = "s3")]
mod s3;
#[cfg(all(test, any(feature = "azure", feature = "gcs")))]
mod tests;

/// The language of a cloud.
pub(super) trait Dialect: fmt::Debug + Send + Sync {
    /// Returns whose language it is, for messages.
    fn name(&self) -> &'static str;

    /// Returns how requests are signed, for an archive and the region of its bucket, with credentials that are
    /// fetched this way.
    fn signer(&self, from: Credentials, url: &ObjectUrl, region: &str, way: Way) -> Box<dyn Sign>;

    /// Returns the header in which an answer gives an attribute of an object.
    fn header(&self, attribute: &str) -> &'static str;

    /// Makes the request that stores an object with its attributes and must not replace one.
    fn publish<'p>(
        &self,
        url: &ObjectUrl,
        key: String,
        attributes: &[(&'static str, String)],
        payload: &'p Payload,
    ) -> Ask<'p>;

    /// Makes the request for an object.
    fn read(&self, key: String) -> Ask<'static> {
        Ask { key: Some(key), ..Ask::new(Asked::Read, "GET") }
    }

    /// Makes the request for the first byte of an object.
    fn first_byte(&self, key: String) -> Ask<'static> {
        let headers = vec![("range", "bytes=0-0".to_owned())];
        Ask { asked: Asked::FirstByte, headers, ..self.read(key) }
    }

    /// Makes the request that removes an object.
    fn remove(&self, key: String) -> Ask<'static> {
        Ask { key: Some(key), ..Ask::new(Asked::Remove, "DELETE") }
    }

    /// Makes the request for a page of the listing of all keys that begin so.
    fn list(&self, prefix: &str, from: &Start) -> Ask<'static>;

    /// Reads a page.
    ///
    /// # Errors
    /// It is not a whole one; the reason says what came in its place.
    fn page(&self, text: &[u8]) -> Result<Page, &'static str>;

    /// Returns what tells these contents from others of the same key.
    fn tag(&self, reply: &Reply) -> Option<String> {
        reply.header("etag").map(str::to_owned)
    }

    /// Has a request for an object refused if its contents are others by now.
    fn only_if(&self, ask: &mut Ask<'_>, tag: String) {
        ask.headers.push(("if-match", tag));
    }

    /// Returns where a request goes: the path, encoded, without its query.
    fn path(&self, url: &ObjectUrl, ask: &Ask<'_>) -> String;

    /// Returns the headers that follow from the URL and the body. They are signed.
    fn headers(&self, url: &ObjectUrl, ask: &Ask<'_>) -> Vec<(&'static str, String)>;

    /// Returns the code of an answer that is not an object; empty if it has none.
    fn code(&self, reply: &Reply, body: &[u8]) -> String;

    /// Returns the code of an error that stands where a page was to stand; empty if there is none.
    fn code_in_page(&self, _body: &[u8]) -> String {
        String::new()
    }

    /// Returns the header in which an answer says which request it was.
    fn request_id(&self) -> &'static str;

    /// Returns the region that a bucket is in, if an answer says it.
    fn region<'r>(&self, _reply: &'r Reply) -> Option<&'r str> {
        None
    }

    /// Returns what an answer means, by its number and its code, which is empty if it has none.
    fn meaning(&self, asked: Asked, status: u16, code: &str) -> Meaning;

    /// Returns whether an answer of success says what it has stored, and that this is what was sent, where the storage
    /// says so at all.
    fn confirms(&self, _ask: &Ask<'_>, _body: &[u8]) -> bool {
        true
    }

    /// Returns whether an answer says that there were too many requests.
    fn is_throttling(&self, status: u16, code: &str) -> bool;

    /// Returns whether a code that stands for wrong keys may stand for a wrong clock just as well.
    fn may_be_the_clock(&self, _code: &str) -> bool {
        false
    }

    /// Returns what to add to the words for the lack of an answer, so that they name a likely mistake in the URL.
    fn advice(&self, _url: &ObjectUrl, _failure: &Failure) -> Option<&'static str> {
        None
    }

    /// Returns whether a request shows a SHA-256 of its body, which the storage may compare.
    fn shows_sha256(&self) -> bool {
        false
    }

    /// Returns whether the bucket keeps versions, so that what is removed stays all the same.
    ///
    /// # Errors
    /// Why it was not told.
    fn keeps_versions(&self, bucket: &dyn Asking) -> Result<bool, String>;

    /// Reads what the bucket says of its rules, as far as the archive's directory is concerned.
    fn rules(&self, bucket: &dyn Asking, directory: &str) -> Rules;
}

/// Asks the bucket, for [`Dialect::rules`].
pub(super) trait Asking {
    /// Returns the body of the answer; `None` if there is no such thing.
    ///
    /// # Errors
    /// Why it was not told.
    fn ask(&self, ask: &Ask<'_>) -> Result<Option<Vec<u8>>, String>;

    /// Returns a header of the answer, empty if it is not there; `None` if there is no such thing.
    ///
    /// # Errors
    /// Why it was not told.
    fn header(&self, ask: &Ask<'_>, name: &str) -> Result<Option<String>, String>;
}

/// Where a page of a listing begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// Behind this key. A dialect that cannot begin there gives what comes before, too.
    pub(super) after: Option<String>,
    /// The storage's own word for it, from the page before.
    pub(super) token: Option<String>,
}

/// An object in a listing, or what stands for all keys with a slash behind the prefix.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) len: u64,
    pub(super) modified: Option<SystemTime>,
}

/// A page of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// What there is, in the server's order.
    pub(super) entries: Vec<Entry>,
    pub(super) next: Next,
}

/// Where a listing goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// That was all.
    Nowhere,
    /// Behind the last entry.
    Behind,
    /// Where this word of the storage's says.
    At(String),
}

/// Returns the language of a cloud; `None` if this program was built without it.
pub(super) fn dialect(cloud: Cloud) -> Option<&'static dyn Dialect> {
    match cloud {
        #[cfg(feature = "s3")]
        Cloud::S3 => Some(&s3::S3),
        #[cfg(feature = "gcs")]
        Cloud::Google => Some(&google::Google),
        #[cfg(feature = "azure")]
        Cloud::Azure => Some(&azure::Azure),
        #[allow(unreachable_patterns, reason = "with all of them there is no other")]
        _ => None,
    }
}
