//! The digests that a file carries, and the stream that computes one.

use std::io::{self, Read};

use super::Examined;
use super::problems::unreadable;
use crate::encoding::digest::{
    CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, Digest, Hasher, STORED_ATTRIBUTE,
};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::Found;

/// What a file carries about itself: its digests, and how it was checked before it was let in.
pub(super) struct Claims {
    pub(super) stored: Option<Digest>,
    pub(super) content: Option<Digest>,
    pub(super) checked: Option<String>,
}

impl Claims {
    pub(super) fn read(archived: &dyn Found) -> Result<Self, Problem> {
        let one = |attribute| match archived.attribute(attribute) {
            Ok(None) => Ok(None),
            Ok(Some(text)) => text.parse().map(Some).map_err(|e| {
                let reason = format!("its attribute {attribute} is not a digest: {e}");
                Problem::new(FindingKind::DigestMismatch, reason)
            }),
            Err(e) => Err(unreadable(&e)),
        };
        let checked = archived.attribute(CHECKED_ATTRIBUTE).map_err(|e| unreadable(&e))?;
        Ok(Self { stored: one(STORED_ATTRIBUTE)?, content: one(CONTENT_ATTRIBUTE)?, checked })
    }

    /// Returns whether the file carries a digest.
    pub(super) fn has_digest(&self) -> bool {
        self.stored.is_some() || self.content.is_some()
    }

    /// Compares the claims with what was computed.
    pub(super) fn check(&self, found: &Examined) -> Option<Problem> {
        let pairs = [
            ("stored bytes", self.stored, found.stored),
            ("contents", self.content, found.content),
        ];
        pairs.into_iter().find_map(|(what, claimed, computed)| match (claimed, computed) {
            (Some(claimed), Some(computed)) if claimed != computed => Some(Problem::new(
                FindingKind::DigestMismatch,
                format!(
                    "the BLAKE3 digest of its {what} is {computed}, and {claimed} was recorded when it was archived"
                ),
            )),
            _ => None,
        })
    }
}

/// A stream of stored bytes that is hashed as it is read, if that is asked for.
pub(super) struct Hashed<'a> {
    pub(super) inner: Box<dyn Read + 'a>,
    pub(super) hasher: Option<Hasher>,
    /// More was asked for than there is.
    pub(super) at_end: bool,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.at_end |= got == 0 && !buf.is_empty();
        let bytes = buf.get(..got).ok_or_else(|| beyond(got))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(got)
    }
}

/// Makes the error of a reader that claims to have put more into a buffer than fits. No reader does this.
/// If it were passed over, a file that nobody looked at would be called sound.
pub(super) fn beyond(got: usize) -> io::Error {
    debug_assert!(false, "{got} bytes were read, more than were asked for");
    io::Error::other(format!("{got} bytes were read, more than were asked for"))
}
