//! Whatever the bytes, the reader neither panics nor loops nor reads beyond them, and it does not
//! matter in which pieces they come.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod wal_support;

use std::sync::LazyLock;

use proptest::prelude::*;
use wal_support::*;
use walsafe_core::wal::*;

static SAMPLES: LazyLock<Vec<Writer>> = LazyLock::new(|| {
    let padded = |block| {
        let mut writer = sample(block);
        writer.pad();
        writer
    };
    vec![padded(1024), padded(8192), padded(65536)]
});

/// Something done to a segment.
#[derive(Clone, Debug)]
enum Edit {
    Flip { at: usize, bit: u8 },
    Fill { at: usize, len: usize, byte: u8 },
    Copy { from: usize, to: usize, len: usize },
    Write { at: usize, bytes: Vec<u8> },
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = || prop_oneof![0..SIZE as usize, (0..1024_usize).prop_map(|page| page * 1024)];
    let len = || prop_oneof![1..64_usize, 1..40_000_usize];
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip { at, bit }),
        (at(), len(), any::<u8>()).prop_map(|(at, len, byte)| Edit::Fill { at, len, byte }),
        (at(), at(), len()).prop_map(|(from, to, len)| Edit::Copy { from, to, len }),
        (at(), prop::collection::vec(any::<u8>(), 1..48))
            .prop_map(|(at, bytes)| Edit::Write { at, bytes }),
    ]
}

fn apply(segment: &mut [u8], edit: &Edit) {
    let end = |at: usize, len: usize| (at + len).min(SIZE as usize);
    match edit {
        Edit::Flip { at, bit } => segment[*at] ^= 1 << bit,
        Edit::Fill { at, len, byte } => segment[*at..end(*at, *len)].fill(*byte),
        Edit::Copy { from, to, len } => {
            let len = (end(*from, *len) - from).min(end(*to, *len) - to);
            segment.copy_within(*from..from + len, *to);
        }
        Edit::Write { at, bytes } => {
            let len = end(*at, bytes.len()) - at;
            segment[*at..at + len].copy_from_slice(&bytes[..len]);
        }
    }
}

fn whole(spec: SegmentSpec, bytes: &[u8], carry: Option<Tail>) -> (SegmentReport, Vec<Record>) {
    let mut records = Vec::new();
    let report = read_segment(spec, bytes, carry, |record: &Record| records.push(*record));
    (report, records)
}

fn in_pieces(
    spec: SegmentSpec,
    mut bytes: &[u8],
    carry: Option<Tail>,
    pieces: &[usize],
) -> (SegmentReport, Vec<Record>) {
    let mut records = Vec::new();
    let collect = |record: &Record| records.push(*record);
    let mut checker = SegmentChecker::with_visitor(spec, carry, collect);
    for len in pieces.iter().cycle() {
        let (piece, rest) = bytes.split_at((*len).min(bytes.len()));
        checker.feed(piece);
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    (checker.finish(), records)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(dose::dose(60, 300))
    })]

    #[test]
    fn damaged_wal_is_read_alike_in_any_pieces(
        sample in 0..3_usize,
        index in 0..4_usize,
        edits in prop::collection::vec(edit(), 0..6),
        pieces in prop::collection::vec(prop_oneof![1..100_usize, 1..200_000_usize], 1..9),
        carried in any::<bool>(),
    ) {
        // Pieces of a byte or two only would take long and show nothing more.
        let mut pieces = pieces;
        pieces.push(65_536);
        let writer = &SAMPLES[sample];
        let segments = writer.segments();
        let carry = index.checked_sub(1).filter(|_| carried).and_then(|before| {
            check_segment(writer.spec(before), segments[before], None).tail
        });
        let mut segment = segments[index].to_vec();
        for edit in &edits {
            apply(&mut segment, edit);
        }
        let spec = writer.spec(index);
        let (report, records) = whole(spec, &segment, carry.clone());
        let other = in_pieces(spec, &segment, carry, &pieces);
        prop_assert_eq!(&(report.clone(), records.clone()), &other);
        prop_assert_eq!(report.records, records.len() as u64);
        prop_assert!(report.damage.len() as u64 <= report.damage_count);
        for record in &records {
            prop_assert!(record.end > record.lsn && record.end <= Lsn(spec.start.0 + u64::from(SIZE)));
        }
        // Untouched segments are sound, and whatever is listed of an edited one is in the original.
        if edits.is_empty() {
            prop_assert!(report.is_sound());
        }
        if let (Some(head), Some(tail)) = (&report.head, &report.tail) {
            let _ = join(tail, head, Some(tail));
        }
        // Every neighbour must survive what it is handed.
        if let Some(next) = segments.get(index + 1) {
            let _ = check_segment(writer.spec(index + 1), next, report.tail);
        }
    }

    /// What is shown up to the first damage is what was written, none left out; and nothing is
    /// ever left out without damage or an end being reported.
    #[test]
    fn up_to_the_first_damage_the_list_is_what_was_written(
        sample in 0..3_usize,
        edits in prop::collection::vec(edit(), 1..6),
    ) {
        let writer = &SAMPLES[sample];
        let mut segment = writer.segments()[0].to_vec();
        for edit in &edits {
            apply(&mut segment, edit);
        }
        let (report, records) = whole(writer.spec(0), &segment, None);
        let end = match report.end {
            End::EndsAt { lsn, .. } | End::ContinuesInNext(Some(lsn)) => lsn.0,
            _ => u64::MAX,
        };
        // A page in the middle of a record is found damaged before the record is.
        let good = report.damage.iter().map(|damage| damage.lsn.0).fold(end, u64::min);
        let before = |record: &&Written| record.0 < good;
        let listed: Vec<_> = records.iter().map(written).collect();
        let listed: Vec<_> = listed.iter().filter(before).collect();
        let wrote: Vec<_> = writer.written.iter().filter(before).collect();
        let differs = listed.iter().zip(&wrote).position(|(listed, wrote)| listed != wrote);
        prop_assert_eq!((differs, listed.len()), (None, wrote.len()), "{:?}", report.damage);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        mut bytes in prop::collection::vec(any::<u8>(), 0..70_000),
        pieces in prop::collection::vec(1..9_000_usize, 1..9),
        start in any::<u64>(),
        headed in any::<bool>(),
        timeline in any::<u32>(),
    ) {
        if headed && bytes.len() > 100 {
            bytes[..40].copy_from_slice(&SAMPLES[1].bytes[..40]);
        }
        let spec = SegmentSpec {
            timeline,
            start: if headed { Lsn(SAMPLES[1].base) } else { Lsn(start) },
            ..SAMPLES[1].spec(0)
        };
        let report = whole(spec, &bytes, None);
        prop_assert_eq!(&report, &in_pieces(spec, &bytes, None, &pieces));
        prop_assert!(report.0.damage_count > 0);
    }

    #[test]
    fn no_page_header_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = LongPageHeader::parse(&bytes);
        let _ = PageHeader::parse(&bytes);
    }
}
