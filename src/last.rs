//! The archiver's note of the last segment it archived (see `walsafe_core::server::last`).

use walsafe_core::archive::Receipt;
use walsafe_core::server::last::{LastArchived, LastFile};
use walsafe_core::wal::name::{FileKind, FileName};

use crate::settings;

/// Keeps the note. What cannot be written is not noted: archiving goes on.
#[derive(Default)]
pub(crate) struct LastNote(Option<LastFile>);

impl LastNote {
    /// Notes a segment that is in the archive. Other files say nothing of how far the WAL goes.
    pub(crate) fn note(&mut self, name: &str, receipt: &Receipt) {
        let Ok(FileKind::Segment(segment)) = FileName::new(name).map(|name| name.kind()) else {
            return;
        };
        if self.0.is_none() {
            self.0 = LastFile::open(settings::data_directory()).ok();
        }
        let last = LastArchived { segment, content: receipt.content };
        if self.0.as_ref().is_some_and(|file| file.write(&last).is_err()) {
            self.0 = None;
        }
    }
}
