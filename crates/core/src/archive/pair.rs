//! An archived segment read record by record, beside the server's own file of that name if there is one.

use std::path::Path;

use crate::encoding::digest::{Digest, Hasher};
use crate::error::{Action, Error};
use crate::server::source::Source;
use crate::store::{Found, Progress};
use crate::sys::buffer::{Buffer, CHUNK};
use crate::sys::read_full;
use crate::wal::{Parting, SegmentChecker, SegmentComparison, SegmentReport, SegmentSpec};

/// What reading both has shown.
pub(super) struct Pair {
    /// The archived file's records.
    pub(super) theirs: SegmentReport,
    /// Digest of the archived file's content.
    pub(super) content: Digest,
    /// The records of the server's own file, and where the two part; `None` for that where the pages are of
    /// a version that is not known.
    pub(super) ours: Option<(SegmentReport, Option<Parting>)>,
}

impl Pair {
    /// Reads both from their first byte, the archived one from storage past the page cache, and no further
    /// than a segment is long.
    ///
    /// # Errors
    /// One of the files could not be read, or the archived one cannot be decoded to its end.
    pub(super) fn read(
        theirs: &dyn Found,
        ours: Option<&Source>,
        spec: SegmentSpec,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let fail = |e| Error::io(Action::ReadArchived, theirs.path(), e);
        let mut stream = theirs.decode().map_err(fail)?;
        let (mut our_buffer, mut their_buffer) = buffers(theirs.path())?;
        let mut comparison = SegmentComparison::new(spec);
        let checker = || SegmentChecker::new(spec, None);
        let (mut our_checker, mut their_checker) = (checker(), checker());
        let (mut hasher, mut offset) = (Hasher::default(), 0);
        loop {
            let m = read_full(&mut stream, their_buffer.bytes_mut()).map_err(fail)?;
            let n = match ours {
                Some(ours) => ours.read_at(our_buffer.bytes_mut(), offset)?,
                None => 0,
            };
            let (a, b) = (our_buffer.filled(n), their_buffer.filled(m));
            if ours.is_some() {
                comparison.feed(a, b);
                our_checker.feed(a);
            }
            their_checker.feed(b);
            hasher.update(b);
            progress.tick();
            offset += CHUNK as u64;
            if n < CHUNK && m < CHUNK {
                stream.finish().map_err(fail)?;
                break;
            }
            // A stream that does not end is damage: the checker has counted more than a segment.
            if offset > spec.segment_size.bytes().into() {
                break;
            }
        }
        Ok(Self {
            theirs: their_checker.finish(),
            content: hasher.digest(),
            ours: ours.map(|_| (our_checker.finish(), comparison.finish())),
        })
    }
}

/// Returns a buffer for each of the two files.
pub(super) fn buffers(path: &Path) -> Result<(Buffer, Buffer), Error> {
    let fail = |e| Error::io(Action::ReserveMemory, path, e);
    Ok((Buffer::new().map_err(fail)?, Buffer::new().map_err(fail)?))
}
