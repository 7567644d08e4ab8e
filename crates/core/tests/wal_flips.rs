//! Every single-bit flip in bytes that a replay uses is found.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod wal_support;

use wal_support::*;
use walsafe_core::wal::*;

/// A few segments that begin and end with whole records, so that each has its neighbours.
fn wal(block: usize) -> (Writer, Vec<SegmentReport>) {
    let mut writer = sample(block);
    // The last segment's own end shows only in a segment after it.
    writer.switch();
    writer.record(10, 0, &data(100));
    writer.pad();
    let (records, reports) = writer.read();
    assert_eq!(records, writer.written);
    (writer, reports)
}

#[test]
fn ten_thousand_random_flips_in_covered_bits_are_all_found() {
    let mut random = Random::from_environment();
    let flips = dose::dose(700, 3400);
    for block in [1024, 8192, 65536] {
        let (writer, reports) = wal(block);
        let records: Vec<_> = writer.written.iter().map(|record| (record.0, record.1)).collect();
        let mask = covered(&records, writer.base, writer.bytes.len(), block, u64::from(SIZE));
        let mut segments: Vec<Vec<u8>> =
            writer.segments().iter().map(|segment| segment.to_vec()).collect();
        let mut tried = 0;
        while tried < flips {
            // The last segment has no successor.
            let index = random.below(segments.len() - 1);
            let at = random.below(SIZE as usize);
            let bit = 1 << random.below(8);
            if mask[index * SIZE as usize + at] & bit == 0 {
                continue;
            }
            tried += 1;
            let (front, back) = segments.split_at_mut(index + 1);
            let before = index.checked_sub(1).and_then(|before| reports[before].tail.as_ref());
            let after =
                (index + 1..).map(|later| writer.spec(later)).zip(back.iter().map(|b| &b[..]));
            assert!(
                flip_is_found(writer.spec(index), &mut front[index], (at, bit), before, after),
                "bit {bit:02X} at {at} of segment {index}, block size {block}"
            );
        }
    }
}

/// The flips most likely to be overlooked: headers of pages and records, on the first pages and
/// the last ones, where evidence is scarce.
#[test]
fn every_flip_on_the_first_and_the_last_page_of_a_segment_is_found() {
    let (writer, reports) = wal(1024);
    let records: Vec<_> = writer.written.iter().map(|record| (record.0, record.1)).collect();
    let mask = covered(&records, writer.base, writer.bytes.len(), 1024, u64::from(SIZE));
    let mut random = Random::from_environment();
    let segments: Vec<Vec<u8>> = writer.segments().iter().map(|segment| segment.to_vec()).collect();
    for (index, segment) in segments.iter().enumerate().take(2) {
        let mut segment = segment.clone();
        let before = index.checked_sub(1).and_then(|before| reports[before].tail.as_ref());
        let after = [(writer.spec(index + 1), &segments[index + 1][..])];
        for at in (0..1024).chain(SIZE as usize - 1024..SIZE as usize) {
            let bit = 1 << random.below(8);
            if mask[index * SIZE as usize + at] & bit != 0 {
                let found =
                    flip_is_found(writer.spec(index), &mut segment, (at, bit), before, after);
                assert!(found, "bit {bit:02X} at {at} of segment {index}");
            }
        }
    }
}

#[test]
fn flips_in_bits_that_nothing_covers_change_no_record() {
    let (writer, _) = wal(8192);
    let records: Vec<_> = writer.written.iter().map(|record| (record.0, record.1)).collect();
    let mask = covered(&records, writer.base, writer.bytes.len(), 8192, u64::from(SIZE));
    let mut flipped = Writer { bytes: writer.bytes.clone(), ..sample(8192) };
    for (byte, mask) in flipped.bytes.iter_mut().zip(&mask) {
        *byte ^= !mask;
    }
    // Behind the very last record there must be something that is no record.
    let (records, reports) = flipped.read();
    assert_eq!(records, writer.written);
    assert!(reports.iter().all(SegmentReport::is_sound));
    let uncovered: u32 = mask.iter().map(|mask| mask.count_zeros()).sum();
    assert!(uncovered > 0);
}
