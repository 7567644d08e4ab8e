//! The history files of an archive.

use super::VerifyError;
use super::reading::{BATCH, Read, Reader};
use crate::store::StoredName;
use crate::store::listing::{self, Walk};
use crate::wal::name::FileKind;
use crate::wal::timeline::Timelines;

/// How many ancestors all history files together may name. 1400 timelines, each branched off the one before,
/// have as many; it bounds what is kept of them to some 20 MB.
const MOST_ANCESTORS: usize = 1 << 20;

/// What the history files say.
#[derive(Default)]
pub(super) struct Histories {
    pub(super) timelines: Timelines,
    /// How many ancestors they name, and how many files there are.
    kept: usize,
    /// They have been read once.
    read: bool,
}

impl Histories {
    /// Reads the history files, all of them at first and later those that have come since, and calls `each`
    /// with each one.
    ///
    /// # Errors
    /// The names could not be read to their end, the files name too many timelines, or the run was cancelled.
    pub(super) fn read(
        &mut self,
        reader: &mut Reader<'_>,
        each: &mut dyn FnMut(Read) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        let again = std::mem::replace(&mut self.read, true);
        let visit = reader.visit;
        let mut walk = Walk::histories(visit);
        loop {
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some(file) = walk.next().transpose()?
            {
                if !(again && self.has(&file)) {
                    batch.push(Ok(file));
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            reader.read_all(batch.into_iter(), &mut |read| {
                if !self.add(&read) {
                    return Err(listing::no_memory(visit).into());
                }
                each(read)
            })?;
        }
    }

    fn has(&self, file: &StoredName) -> bool {
        match file.name.kind() {
            FileKind::History { timeline } => self.timelines.has_history(timeline),
            _ => false,
        }
    }

    /// Keeps what a file says. Returns `false` if that is too much.
    fn add(&mut self, file: &Read) -> bool {
        let FileKind::History { timeline } = file.listed.name.kind() else { return true };
        if file.vanished {
            return true;
        }
        self.kept += 1 + file.history.as_ref().map_or(0, Vec::len);
        if self.kept > MOST_ANCESTORS {
            return false;
        }
        self.timelines.add(timeline, file.history.clone());
        true
    }
}
