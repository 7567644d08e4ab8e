//! A file's name in 24 bytes.

use std::cmp::Ordering;

use crate::encoding::codec::Codec;
use crate::store::StoredName;
use crate::wal::name::{FileKind, FileName, SegmentName};

/// A file's name, as numbers. The order is that of the addresses; at one address, older timelines come first,
/// and the encodings of one file follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Packed {
    log: u32,
    segment: u32,
    timeline: u32,
    kind: Kind,
    /// What follows the segment's name in that of a backup history file or a tail, as a number in two parts.
    rest: [u32; 2],
    codec: Codec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    History,
    Segment,
    Partial,
    /// A partial segment whose name itself says how it is compressed.
    Received,
    Backup,
    Tail,
}

impl Packed {
    /// Compares by the order in which a server archives files.
    pub(super) fn cmp_as_archived(&self, other: &Self) -> Ordering {
        let key = |packed: &Self| (packed.kind != Kind::History, packed.timeline);
        key(self).cmp(&key(other)).then_with(|| self.cmp(other))
    }

    /// Packs the name of a file of a known kind.
    pub(super) fn of(file: &StoredName) -> Option<Self> {
        let (kind, SegmentName { timeline, log, segment }) = match file.name.kind() {
            FileKind::History { timeline } => {
                (Kind::History, SegmentName { timeline, log: 0, segment: 0 })
            }
            FileKind::Segment(segment) => (Kind::Segment, segment),
            FileKind::Partial(segment) if file.name.received().is_some() => {
                (Kind::Received, segment)
            }
            FileKind::Partial(segment) => (Kind::Partial, segment),
            FileKind::BackupHistory(segment) => (Kind::Backup, segment),
            FileKind::Tail(segment) => (Kind::Tail, segment),
            FileKind::Other => return None,
        };
        let mut parts = file.name.as_str().split('.').skip(1);
        let rest = match kind {
            Kind::Backup => u64::from_str_radix(parts.next()?, 16).ok()?,
            Kind::Tail => u64::from_str_radix(parts.nth(1)?, 16).ok()?,
            _ => 0,
        };
        let rest = [(rest >> 32) as u32, rest as u32];
        Some(Self { log, segment, timeline, kind, rest, codec: file.codec })
    }

    /// Returns the name.
    pub(super) fn name(self) -> Option<StoredName> {
        let Self { log, segment, timeline, kind, rest: [high, low], codec } = self;
        let segment = SegmentName { timeline, log, segment };
        let name = match kind {
            Kind::History => format!("{timeline:08X}.history"),
            Kind::Segment => segment.to_string(),
            Kind::Partial => format!("{segment}.partial"),
            Kind::Received => {
                return Some(StoredName::new(FileName::receiving(segment, codec), codec));
            }
            Kind::Backup => format!("{segment}.{low:08X}.backup"),
            Kind::Tail => format!("{segment}.tail.{high:08x}{low:08x}"),
        };
        Some(StoredName::new(FileName::new(&name).ok()?, codec))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_of_any_kind_in_any_encoding_comes_back() {
        for name in [
            "0000000A.history",
            "FFFFFFFF00000000000000FF",
            "000000010000000200000003.partial",
            "000000010000000200000003.0A0000F8.backup",
            "000000010000000200000003.tail.00c0ffee12345678",
        ] {
            for codec in Codec::ALL {
                let file = StoredName::new(FileName::new(name).unwrap(), codec);
                assert_eq!(Packed::of(&file).unwrap().name(), Some(file));
            }
        }
        for name in ["000000010000000200000003.gz.partial", "000000010000000200000003.lz4.partial"]
        {
            let file = StoredName::parse(name).unwrap();
            let back = Packed::of(&file).unwrap().name().unwrap();
            assert_eq!((back.to_string().as_str(), &back), (name, &file));
        }
        let other = StoredName::parse("000000010000000200000003.new").unwrap();
        assert_eq!(Packed::of(&other), None);
        assert_eq!(size_of::<Packed>(), 24, "the bound of a walk counts on it");
    }

    #[test]
    fn the_order_is_that_of_addresses() {
        let packed = |name| Packed::of(&StoredName::parse(name).unwrap()).unwrap();
        let names = [
            "00000003.history",
            "000000010000000100000001",
            "000000010000000100000001.gz",
            "000000020000000100000001",
            "000000010000000100000002",
            "000000010000000100000002.partial",
            "000000010000000200000000",
        ];
        assert!(names.map(packed).is_sorted());
    }
}
