//! What lies beside an archived file: the timeline history files of the archive, and how far it goes.

use std::io;

use crate::encoding::digest::{Digest, Hasher};
use crate::error::Error;
use crate::server::known::KnownDestinations;
use crate::server::last::LastArchived;
use crate::server::source::Source;
use crate::store::{Found, Progress, StoredName, Visit};
use crate::sys;
use crate::sys::buffer::{Buffer, CHUNK};
use crate::sys::read_full;
use crate::wal::history;
use crate::wal::name::{FileKind, FileName, SegmentName};
use crate::wal::timeline::{Branch, Timelines};
use crate::wal::{Lsn, SegmentSize};

/// Where to look for the explanation of a difference.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The file's name.
    pub(super) name: &'a FileName,
    /// The cluster's segment size.
    pub(super) segment_size: SegmentSize,
    /// The archive: its history files say where timelines branched off, if not on this server.
    pub(super) archive: &'a dyn Visit,
    /// The data directory: the server's own history, and the note of what it has archived.
    pub(super) known: &'a KnownDestinations,
}

/// What an archive shows of timelines.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// What its history files say. One that cannot be read says nothing.
    pub(super) timelines: Timelines,
    /// The newest segment of the timeline that was asked for.
    pub(super) newest: Option<StoredName>,
}

impl Place {
    /// Reads the names in a place, and its history files. Only those and the newest segment are kept in
    /// memory: an archive may hold millions of others.
    ///
    /// # Errors
    /// The names could not be read to their end.
    pub(super) fn look(place: &dyn Visit, timeline: u32) -> Result<Self, Error> {
        let (mut histories, mut newest) = (Vec::new(), None::<(SegmentName, StoredName)>);
        place.list(&mut |stored| {
            let Ok(stored) = StoredName::parse(stored) else { return };
            match stored.name.kind() {
                FileKind::History { timeline } => histories.push((timeline, stored)),
                FileKind::Segment(segment)
                    if segment.timeline == timeline
                        && newest.as_ref().is_none_or(|(there, _)| *there < segment) =>
                {
                    newest = Some((segment, stored));
                }
                _ => {}
            }
        })?;
        let mut timelines = Timelines::default();
        for (timeline, stored) in histories {
            let found = place.find(&stored.into()).ok().flatten();
            let text = found.and_then(|found| read_small(&*found).ok());
            timelines.add(timeline, text.and_then(|text| history::parse(timeline, &text).ok()));
        }
        Ok(Self { timelines, newest: newest.map(|(_, stored)| stored) })
    }

    /// Returns the timeline that branched off within a segment, between its start and another address; of
    /// several, the one that branched off last.
    pub(super) fn branch(
        &self,
        segment: SegmentName,
        (start, until): (Lsn, Lsn),
        size: SegmentSize,
    ) -> Option<Branch> {
        let end = start.advanced(size.bytes().into());
        self.timelines
            .branches_of(segment.timeline)
            .filter(|branch| (start..end).contains(&branch.switch) && branch.switch <= until)
            .max_by_key(|branch| branch.switch)
    }
}

/// Returns the newest segment of this timeline in the archive, if that is WAL which the server has not
/// archived: neither the note says so, nor has `pg_wal` the same file. `ours` conflicts with the archive.
///
/// What cannot be read is taken for the server's own: these are only words.
pub(super) fn ahead(
    source: &Source,
    context: Context<'_>,
    ours: SegmentName,
    newest: Option<StoredName>,
    note: Option<LastArchived>,
    progress: &Progress,
) -> Option<SegmentName> {
    let stored = newest?;
    let newest = stored.name.segment()?;
    let noted = note.map(|note| note.segment).filter(|noted| noted.timeline <= ours.timeline);
    if noted.is_some_and(|noted| noted.timeline == ours.timeline && noted >= newest) {
        return None;
    }
    if newest == ours {
        // Without a note, nothing shows that this server has not archived the file before.
        return noted.map(|_| newest);
    }
    if newest < ours {
        return None;
    }
    let own = Source::open(&source.path().with_file_name(stored.name.as_str()));
    let same = own.is_ok_and(|own| {
        let found = context.archive.find(&stored.into()).ok().flatten();
        found.is_none_or(|found| {
            let theirs = content_of(&*found, progress);
            theirs.is_none() || theirs == content_of_source(&own, progress)
        })
    });
    (!same).then_some(newest)
}

/// Reads an archived file to its end; `None` if that fails.
fn content_of(found: &dyn Found, progress: &Progress) -> Option<Digest> {
    let (mut stream, mut buffer, mut hasher) =
        (found.decode().ok()?, Buffer::new().ok()?, Hasher::default());
    loop {
        let got = read_full(&mut stream, buffer.bytes_mut()).ok()?;
        hasher.update(buffer.filled(got));
        progress.tick();
        if got < CHUNK {
            return Some(hasher.digest());
        }
    }
}

/// The same of a file of the server.
fn content_of_source(source: &Source, progress: &Progress) -> Option<Digest> {
    let (mut buffer, mut hasher, mut offset) = (Buffer::new().ok()?, Hasher::default(), 0);
    loop {
        let got = source.read_at(buffer.bytes_mut(), offset).ok()?;
        hasher.update(buffer.filled(got));
        progress.tick();
        offset += got as u64;
        if got < CHUNK {
            return Some(hasher.digest());
        }
    }
}

/// Reads and decodes a small file, of at most one chunk.
fn read_small(file: &dyn Found) -> io::Result<Vec<u8>> {
    let mut contents = sys::zeroed(CHUNK)?;
    let len = read_full(&mut file.decode()?, &mut contents)?;
    contents.truncate(len);
    Ok(contents)
}
