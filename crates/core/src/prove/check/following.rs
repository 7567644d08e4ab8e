//! Which timeline a recovery with default settings follows, and what WAL it leaves behind.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use crate::error::{Action, Error};
use crate::store::beyond::beyond;
use crate::store::listing::{self, Walk};
use crate::store::{Progress, StoredName, Visit};
use crate::wal::name::{FileKind, SegmentName};
use crate::wal::timeline::Timelines;
use crate::wal::{Lsn, SegmentSize, history};

/// No history file is longer than this.
const MAX_LEN: u64 = 1 << 20;

/// What a recovery from an archive follows, if nothing tells it otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Following {
    /// The newest timeline of which there is a history file or a segment; `None` in an empty archive.
    pub(super) timeline: Option<u32>,
    /// WAL of its ancestors past the address where they were left.
    pub(super) left: Vec<Left>,
}

/// WAL of a timeline past the address where the way to another one leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// The timeline.
    pub(super) timeline: u32,
    /// The address of the switch.
    pub(super) switch: Lsn,
    /// The last segment past it that is known to be there.
    pub(super) last: SegmentName,
}

impl Following {
    /// Looks at the names in an archive, at its history files, and at one segment for each switch.
    ///
    /// # Errors
    /// One of them could not be read.
    pub(super) fn of(visit: &dyn Visit, steps: &Progress) -> Result<Self, Error> {
        let mut timelines = Timelines::default();
        for file in Walk::histories(visit) {
            let file = file?;
            if let FileKind::History { timeline } = file.name.kind() {
                let ancestors =
                    read(visit, &file)?.and_then(|text| history::parse(timeline, &text).ok());
                timelines.add(timeline, ancestors);
            }
        }
        // The last whole segment of each timeline.
        let mut there: BTreeMap<u32, SegmentName> = BTreeMap::new();
        for file in Walk::files(visit) {
            if let FileKind::Segment(segment) = file?.name.kind() {
                let last = there.entry(segment.timeline).or_insert(segment);
                *last = segment.max(*last);
            }
        }
        let Some(newest) = timelines.newest(there.keys().copied(), None, Lsn::INVALID) else {
            return Ok(Self::default());
        };
        let size = listing::segment_size(visit)?.unwrap_or(SegmentSize::DEFAULT);
        let mut left = Vec::new();
        for ancestor in timelines.ancestors(newest) {
            let (timeline, switch) = (ancestor.timeline, ancestor.switch);
            let behind = SegmentName::holding(timeline, switch, size);
            let last = match there.get(&timeline).copied().filter(|last| *last > behind) {
                None => beyond(visit, timeline, switch, size, steps)?,
                last => last,
            };
            left.extend(last.map(|last| Left { timeline, switch, last }));
        }
        Ok(Self { timeline: Some(newest), left })
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeline, switch, last } = self;
        write!(f, "WAL after {switch} on timeline {timeline} (up to \"{last}\")")
    }
}

/// Reads and decodes a small file; `None` if it is gone, or cannot be decoded.
fn read(visit: &dyn Visit, file: &StoredName) -> Result<Option<Vec<u8>>, Error> {
    let Some(found) = visit.find(&file.into())? else { return Ok(None) };
    let mut text = Vec::new();
    let result = found.decode().and_then(|stream| stream.take(MAX_LEN).read_to_end(&mut text));
    match result {
        Ok(_) => Ok(Some(text)),
        Err(e) if e.raw_os_error().is_none() => Ok(None),
        Err(e) => Err(Error::io(Action::ReadArchived, found.path(), e)),
    }
}
