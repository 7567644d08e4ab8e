//! A request to object storage, and what may come of it: what all clouds have in common.

use std::io;

use super::payload::Payload;
use crate::error::ErrorKind;

/// What was asked for, as far as answers differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// An object, or a listing.
    Read,
    /// The first byte of an object.
    FirstByte,
    /// A PUT that must not replace.
    Publish,
    /// A DELETE, of a probe.
    Remove,
}

/// What is asked of the storage.
pub(super) struct Ask<'a> {
    pub(super) asked: Asked,
    pub(super) method: &'static str,
    /// `None` for the bucket itself.
    pub(super) key: Option<String>,
    /// Names and values, in the order of the names.
    pub(super) query: Vec<(&'static str, String)>,
    /// Names in lower case. All of them are signed.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Option<&'a Payload>,
    /// What its body holds beside the payload.
    pub(super) around: Around,
}

/// What stands before a payload and behind it.
#[derive(Default)]
pub(super) struct Around {
    pub(super) before: Vec<u8>,
    /// Shorter than the end that is held back of a body.
    pub(super) behind: Vec<u8>,
}

impl Ask<'_> {
    /// A request to the bucket itself, without more.
    pub(super) fn new(asked: Asked, method: &'static str) -> Self {
        let (query, headers, around) = (Vec::new(), Vec::new(), Around::default());
        Self { asked, method, key: None, query, headers, payload: None, around }
    }

    /// Returns how long its body is; `None` if it has none.
    pub(super) fn len(&self) -> Option<u64> {
        let Around { before, behind } = &self.around;
        self.payload.map(|payload| before.len() as u64 + payload.len() + behind.len() as u64)
    }

    /// Calls `each` with the body, but for its last bytes, piece by piece, until it returns `false`.
    ///
    /// # Errors
    /// What is in a file cannot be read.
    pub(super) fn begin(&self, end: u64, each: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
        let Some(payload) = self.payload else { return Ok(()) };
        if !self.around.before.is_empty() && !each(&self.around.before) {
            return Ok(());
        }
        payload.pieces(0, self.split(payload, end), each)
    }

    /// The same with its last bytes.
    ///
    /// # Errors
    /// The same.
    pub(super) fn end(&self, end: u64, each: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
        let Some(payload) = self.payload else { return Ok(()) };
        payload.pieces(self.split(payload, end), payload.len(), each)?;
        if !self.around.behind.is_empty() {
            each(&self.around.behind);
        }
        Ok(())
    }

    /// Returns at which byte of the payload the last bytes of the body begin.
    fn split(&self, payload: &Payload, end: u64) -> u64 {
        (payload.len() + self.around.behind.len() as u64).saturating_sub(end).min(payload.len())
    }
}

/// What an answer means to the request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It was done.
    Success,
    /// Nothing was done: the name is taken.
    Exists,
    /// There is no such object, and its bucket is there.
    Absent,
    /// Nothing was done, because another request was under way: to be tried again.
    TryAgain,
    /// It may have been done or not: to be tried again, and then looked at.
    Unknown,
    /// The credentials may have run out, or been replaced: to be tried again with new ones, once.
    Renew(ErrorKind),
    /// It was not done, and will not be.
    Trouble(ErrorKind),
}

/// Returns what of a server's word may be shown.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(100).collect()
}
