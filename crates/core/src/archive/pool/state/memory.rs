//! What the destination has, as far as the server was not told of it.
//!
//! Everything in it was archived since the destination last failed or hung. After that the path may lead to
//! another disk, and nothing is remembered.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::Notice;
use crate::archive::pool::REMEMBERED;
use crate::archive::{Outcome, Receipt};
use crate::encoding::digest::Digest;
use crate::sys::Space;
use crate::wal::SegmentReport;
use crate::wal::name::{FileKind, FileName, SegmentName};

/// A file's name, in the space that it needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Segment(SegmentName),
    Other(FileName),
}

impl Key {
    fn of(name: &FileName) -> Self {
        match name.kind() {
            FileKind::Segment(segment) => Self::Segment(segment),
            _ => Self::Other(name.clone()),
        }
    }
}

/// A file that the destination has.
struct Entry {
    outcome: Outcome,
    wal_bytes: u64,
    stored_bytes: u64,
    content: Digest,
    /// What is reported with the first answer, and only then.
    once: Option<Box<Once>>,
    /// An answer was given already.
    told: bool,
    /// The last look that has found the file to wait; the one under way, if the file came in during it.
    seen: u64,
}

#[derive(Default, PartialEq)]
struct Once {
    space: Option<Space>,
    records: Option<Box<SegmentReport>>,
    begins_with: Option<FileName>,
    notices: Vec<Notice>,
}

/// The files that the destination has.
#[derive(Default)]
pub(super) struct Memory {
    files: BTreeMap<Key, Entry>,
    /// The number of the last look.
    look: u64,
    /// The file that the server was told of last. It may still be marked as waiting.
    answered: Option<Key>,
    /// Files that it was told of before that, since the look under way has begun: that may have read them as
    /// waiting.
    gone: BTreeSet<Key>,
    looking: bool,
}

impl Memory {
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.files.len() >= REMEMBERED
    }

    /// Keeps what was archived.
    pub(super) fn keep(&mut self, name: &FileName, receipt: Receipt) {
        let Receipt { outcome, wal_bytes, stored_bytes, content, .. } = receipt;
        let Receipt { space, records, begins_with, notices, .. } = receipt;
        let once = Once { space, records, begins_with, notices };
        let once = (once != Once::default()).then(|| Box::new(once));
        let seen = self.look;
        let entry = Entry { outcome, wal_bytes, stored_bytes, content, once, told: false, seen };
        self.files.insert(Key::of(name), entry);
    }

    /// Returns the last segment.
    pub(super) fn last(&self) -> Option<SegmentName> {
        let segment = |key: &Key| if let Key::Segment(name) = key { Some(*name) } else { None };
        self.files.keys().rev().find_map(segment)
    }

    pub(super) fn has(&self, name: &FileName) -> bool {
        self.files.contains_key(&Key::of(name))
    }

    pub(super) fn was_told(&self, name: &FileName) -> bool {
        self.files.get(&Key::of(name)).is_some_and(|entry| entry.told)
    }

    /// Returns the receipt of a file, and whether it was returned before.
    pub(super) fn tell(&mut self, name: &FileName) -> Option<(Receipt, bool)> {
        let entry = self.files.get_mut(&Key::of(name))?;
        let again = std::mem::replace(&mut entry.told, true);
        let Once { space, records, begins_with, notices } =
            entry.once.take().map(|once| *once).unwrap_or_default();
        let Entry { outcome, wal_bytes, stored_bytes, content, .. } = *entry;
        let receipt = Receipt {
            outcome,
            wal_bytes,
            stored_bytes,
            content,
            space,
            records,
            begins_with,
            notices,
        };
        Some((receipt, again))
    }

    /// The server was told that this file is archived, and is about to mark it so.
    pub(super) fn answered(&mut self, name: &FileName) {
        let key = Key::of(name);
        self.files.remove(&key);
        self.answered = Some(key);
    }

    /// The server asks for this file, so what it was told of before is marked by now.
    pub(super) fn is_asked_for(&mut self, name: &FileName) {
        if let Some(key) = self.answered.take()
            && self.looking
        {
            self.gone.insert(key);
        }
        self.gone.remove(&Key::of(name));
    }

    pub(super) fn begin_look(&mut self) {
        self.look += 1;
        self.looking = true;
        self.gone.clear();
    }

    /// A look has found this file to wait. Returns whether that is no news: the destination has it.
    pub(super) fn sees(&mut self, name: &FileName) -> bool {
        let key = Key::of(name);
        if let Some(entry) = self.files.get_mut(&key) {
            entry.seen = self.look;
            return true;
        }
        self.is_done(&key)
    }

    /// Returns whether the destination has the file, or the server was told so before it could mark it.
    pub(super) fn is_done_with(&self, name: &FileName) -> bool {
        let key = Key::of(name);
        self.files.contains_key(&key) || self.is_done(&key)
    }

    fn is_done(&self, key: &Key) -> bool {
        self.answered.as_ref() == Some(key) || self.gone.contains(key)
    }

    /// A look has ended. What no longer waits according to it was archived elsewhere, or given up: nobody asks
    /// for it any more, but for the file that the server waits for. A look that does not count changes nothing.
    pub(super) fn end_look(&mut self, counts: bool, wanted: Option<&FileName>) {
        self.looking = false;
        if counts {
            let (look, wanted) = (self.look, wanted.map(Key::of));
            self.files.retain(|key, entry| entry.seen == look || wanted.as_ref() == Some(key));
        }
    }

    /// Forgets everything, but not what the server was told.
    pub(super) fn clear(&mut self) {
        self.files.clear();
    }
}
