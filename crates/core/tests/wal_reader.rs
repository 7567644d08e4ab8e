//! The record reader against WAL written here, byte for byte known.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod wal_support;

use wal_support::*;
use walsafe_core::wal::*;

fn sound(reports: &[SegmentReport]) {
    for report in reports {
        assert_eq!(report.damage, []);
    }
}

#[test]
fn every_record_is_listed_as_it_was_written_for_every_block_size() {
    for shift in 10..=16 {
        let mut writer = sample(1 << shift);
        writer.pad();
        let (records, reports) = writer.read();
        sound(&reports);
        assert_eq!(records, writer.written, "block size {}", 1 << shift);
        let counted: u64 = reports.iter().map(|report| report.records).sum();
        assert_eq!(counted, writer.written.len() as u64);
    }
}

#[test]
fn the_end_of_each_segment_is_reported() {
    let mut writer = sample(8192);
    writer.pad();
    let (_, reports) = writer.read();
    let (last, before) = (reports.last().unwrap(), reports.iter().rev().nth(1).unwrap());
    let switch = writer.written.iter().rev().nth(1).unwrap().0;
    assert_eq!(before.end, End::SwitchAt(Lsn(switch)));
    let end = writer.written.last().unwrap();
    let end = (end.0 + u64::from(end.1)).next_multiple_of(8);
    assert_eq!(last.end, End::EndsAt { lsn: Lsn(end), leftovers: false });
    assert!(matches!(reports[0].end, End::ContinuesInNext(Some(_))));
}

#[test]
fn a_segment_read_alone_counts_its_edges_as_unchecked() {
    let mut writer = sample(8192);
    writer.pad();
    let segments = writer.segments();
    let report = check_segment(writer.spec(1), segments[1], None);
    assert_eq!((report.unchecked_edges, report.damage_count), (2, 0));
    let first = check_segment(writer.spec(0), segments[0], None);
    assert_eq!((first.unchecked_edges, first.damage_count), (1, 0));
    let report = check_segment(writer.spec(1), segments[1], first.tail);
    assert_eq!((report.unchecked_edges, report.damage_count), (1, 0));
    assert_eq!(report.head, None);
}

#[test]
fn segments_read_alone_and_joined_give_what_reading_in_order_gives() {
    for block in [1024, 8192, 65536] {
        let mut writer = sample(block);
        writer.pad();
        let (_, in_order) = writer.read();
        let alone: Vec<_> = writer
            .segments()
            .iter()
            .enumerate()
            .map(|(index, segment)| check_segment(writer.spec(index), segment, None))
            .collect();
        let mut records: u64 = alone.iter().map(|report| report.records).sum();
        let mut tail = alone[0].tail.clone().unwrap();
        for report in &alone[1..] {
            let joined = join(&tail, report.head.as_ref().unwrap(), report.tail.as_ref()).unwrap();
            assert_eq!(joined.damage, None);
            records += u64::from(joined.record.is_some());
            tail = joined.tail.unwrap();
        }
        assert_eq!(records, in_order.iter().map(|report| report.records).sum::<u64>());
        assert_eq!(Some(tail), in_order.last().unwrap().tail, "block size {block}");
    }
}

#[test]
fn a_record_broken_off_by_a_crash_is_passed_over_and_counted() {
    let mut writer = Writer::new(8192, 0x300_0000);
    writer.record(10, 0, &data(500));
    let aborted = writer.record_upto(21, 0, &data(50_000), 20_000);
    writer.overwrite(aborted);
    writer.record(10, 0, &data(77));
    writer.pad();
    let (records, reports) = writer.read();
    sound(&reports);
    assert_eq!(reports[0].abandoned, 1);
    assert_eq!(records, writer.written);
}

#[test]
fn a_record_broken_off_at_a_segment_edge_is_passed_over_in_order_and_joined() {
    let mut writer = Writer::new(8192, 0x300_0000);
    writer.record(10, 0, &data(500));
    let aborted = writer.record_upto(21, 0, &data(2_000_000), (SIZE - 8192) as usize);
    assert_eq!(writer.bytes.len(), SIZE as usize);
    writer.overwrite(aborted);
    writer.record(10, 0, &data(77));
    writer.pad();
    let (records, reports) = writer.read();
    sound(&reports);
    assert_eq!((reports[0].abandoned, reports[1].abandoned), (0, 1));
    assert_eq!(records, writer.written);
    let second = check_segment(writer.spec(1), writer.segments()[1], None);
    assert_eq!(second.damage, []);
    let joined = join(reports[0].tail.as_ref().unwrap(), &second.head.unwrap(), None).unwrap();
    assert_eq!((joined.damage, joined.record), (None, None));
}

#[test]
fn an_overwrite_flag_without_a_broken_off_record_is_damage() {
    let mut writer = Writer::new(8192, 0x300_0000);
    while !writer.bytes.len().is_multiple_of(8192) || writer.bytes.is_empty() {
        writer.record(10, 0, &data(8192 - 40 - 24));
    }
    writer.overwrite(writer.prev);
    writer.record(10, 0, &data(77));
    writer.pad();
    let (_, reports) = writer.read();
    assert_eq!(reports[0].damage_count, 1);
    assert_eq!(reports[0].damage[0].kind, DamageKind::UnexpectedOverwrite);
}

#[test]
fn an_overwrite_record_that_names_another_record_is_damage() {
    let mut writer = Writer::new(8192, 0x300_0000);
    let aborted = writer.record_upto(21, 0, &data(50_000), 20_000);
    writer.overwrite(aborted + 8);
    writer.record(10, 0, &data(77));
    writer.pad();
    let (_, reports) = writer.read();
    assert_eq!(reports[0].damage[0].kind, DamageKind::OverwriteRecord);
}

/// Old contents behind the end: what a standby writes into a recycled file.
#[test]
fn old_contents_after_the_end_are_not_damage() {
    let mut old = sample(8192);
    old.pad();
    let mut new = Writer::new(8192, old.base + 16 * u64::from(SIZE));
    for len in [300, 20_000, 7, 90_000] {
        new.record(10, 0, &data(len));
    }
    for cut in [new.bytes.len(), new.bytes.len() - 5, new.bytes.len() - 60_000, 8192, 4096] {
        let mut segment = old.bytes[..SIZE as usize].to_vec();
        segment[..cut].copy_from_slice(&new.bytes[..cut]);
        let report = check_segment(new.spec(0), &segment, None);
        assert_eq!(report.damage, [], "cut at {cut}");
        let first_missing = new
            .written
            .iter()
            .map(|record| (record.0, (record.0 - new.base) as usize + record.1 as usize))
            .find(|(_, end)| end + 24 * (end / 8192) > cut + 24);
        match report.end {
            End::EndsAt { lsn, leftovers: true } => {
                if let Some((start, _)) = first_missing {
                    assert!(lsn.0 <= start.max(new.lsn()), "{lsn} for cut {cut}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn zeros_in_the_middle_are_damage_and_zeros_to_the_end_are_the_end() {
    let mut writer = sample(8192);
    writer.pad();
    let mut segment = writer.segments()[0].to_vec();
    segment[40_960..49_152].fill(0);
    let report = check_segment(writer.spec(0), &segment, None);
    assert_eq!(report.damage_count, 1);
    assert!(report.damage[0].offset <= 40_960, "{}", report.damage[0]);
    segment[40_960..].fill(0);
    let report = check_segment(writer.spec(0), &segment, None);
    assert_eq!(report.damage, []);
    assert!(matches!(report.end, End::EndsAt { .. }));
    // But the next segment shows that there was more.
    let next = check_segment(writer.spec(1), writer.segments()[1], report.tail.clone());
    assert_eq!(next.damage_count, 1);
    assert_eq!(next.damage[0].segment, writer.spec(0).start);
    let alone = check_segment(writer.spec(1), writer.segments()[1], None);
    let joined = join(&report.tail.unwrap(), &alone.head.unwrap(), None).unwrap();
    assert_eq!(joined.damage.as_ref(), next.damage.first());
}

#[test]
fn a_sector_lost_on_the_last_page_is_seen_by_the_records_behind_it() {
    let mut writer = Writer::new(8192, 0x300_0000);
    while writer.bytes.len() <= SIZE as usize {
        writer.record(10, 0, &data(100));
    }
    let mut segment = writer.bytes[..SIZE as usize].to_vec();
    segment[SIZE as usize - 4096..SIZE as usize - 3584].fill(0);
    let report = check_segment(writer.spec(0), &segment, None);
    assert_eq!(report.damage_count, 1);
}

#[test]
fn a_version_that_is_not_known_is_left_alone() {
    let mut writer = Writer::new(8192, 0x300_0000);
    writer.magic = 0xD1FF;
    writer.record(10, 0, &data(50_000));
    writer.pad();
    let report = check_segment(writer.spec(0), &writer.bytes, None);
    assert_eq!((report.end, report.damage_count), (End::UnknownVersion(0xD1FF), 0));
    // The same number on the first page alone is damage.
    let mut writer = sample(8192);
    writer.pad();
    let mut segment = writer.segments()[0].to_vec();
    for magic in [0xD1FF_u16, 0xD118, 0xD113, 0] {
        segment[..2].copy_from_slice(&magic.to_ne_bytes());
        let report = check_segment(writer.spec(0), &segment, None);
        assert_eq!(report.damage_count, 1, "{magic:04X}: {:?}", report.damage);
        assert_eq!(report.damage[0].lsn, writer.spec(0).start);
    }
}

#[test]
fn a_segment_that_is_cut_short_or_too_long_says_so() {
    let mut writer = sample(8192);
    writer.pad();
    let segment = writer.segments()[0];
    for len in [0, 1, 39, 40, 8191, 8192, 500_000, SIZE as usize - 1] {
        let report = check_segment(writer.spec(0), &segment[..len], None);
        let kind = DamageKind::Length { found: len as u64, expected: u64::from(SIZE) };
        assert_eq!(report.damage.last().unwrap().kind, kind);
        assert_eq!(report.tail, None);
    }
    let mut long = segment.to_vec();
    long.push(0);
    let report = check_segment(writer.spec(0), &long, None);
    assert_eq!(report.damage_count, 1);
}

#[test]
fn a_timeline_rises_only_where_a_record_begins_it() {
    for begins in [true, false] {
        let mut writer = Writer::new(8192, 0x300_0000);
        writer.record(10, 0, &data(20_000));
        writer.timeline = 3;
        writer.record(if begins { 0 } else { 10 }, 0x90, &data(30));
        writer.record(10, 0, &data(60_000));
        writer.pad();
        let report = check_segment(writer.spec(0), &writer.bytes, None);
        assert_eq!(report.is_sound(), begins, "{:?}", report.damage);
    }
}

#[test]
fn what_is_damaged_is_described_in_the_servers_words() {
    let mut writer = sample(8192);
    writer.pad();
    let mut segment = writer.segments()[0].to_vec();
    segment[300] ^= 1;
    let report = check_segment(writer.spec(0), &segment, None);
    let text = report.damage[0].to_string();
    let lsn = report.damage[0].lsn;
    assert!(text.starts_with("incorrect resource manager data checksum in record ("), "{text}");
    assert!(
        text.ends_with(&format!(") at {lsn}, timeline 1, offset {}", lsn.0 & 0xF_FFFF)),
        "{text}"
    );
}

/// If the segment before a chain is not known, only the record that crosses from it is not checked.
#[test]
fn records_are_checked_as_soon_as_one_begins_though_none_ended_before() {
    let mut writer = Writer::new(8192, 0x300_0000);
    for len in [2_500_000, 1_500_000, 1_500_000, 10] {
        writer.record(10, 0, &data(len));
    }
    writer.pad();
    let (mut records, mut carry) = (0, None);
    for (index, segment) in writer.segments().iter().enumerate().skip(1) {
        let report = check_segment(writer.spec(index), segment, carry.take());
        assert_eq!(report.damage, []);
        records += report.records;
        carry = report.tail;
    }
    assert_eq!(records, 3);
}

#[test]
fn a_page_that_continues_a_record_by_no_bytes_is_damage() {
    let mut writer = Writer::new(8192, 0x300_0000);
    while writer.bytes.len() < SIZE as usize {
        writer.record(10, 0, &data(8192 - 24 - 24));
        writer.bytes.resize(writer.bytes.len().next_multiple_of(8192), 0);
    }
    let mut segment = writer.segments()[0].to_vec();
    let low = if cfg!(target_endian = "little") { 2 } else { 3 };
    segment[low] |= PageFlags::FIRST_IS_CONTRECORD as u8;
    let report = check_segment(writer.spec(0), &segment, None);
    assert_eq!(report.damage[0].kind, DamageKind::UnexpectedContinuation { found: 0 });
    assert_eq!(report.damage[0].offset, 0);
}

#[test]
fn more_damage_than_is_listed_is_counted() {
    let mut writer = Writer::new(8192, 0x300_0000);
    while writer.bytes.len() < SIZE as usize {
        writer.record(10, 0, &data(500));
    }
    let mut segment = writer.segments()[0].to_vec();
    for page in 0..50 {
        segment[page * 8192 + 4000] ^= 0x10;
    }
    let report = check_segment(writer.spec(0), &segment, None);
    assert_eq!((report.damage.len(), report.damage_count), (SegmentReport::DAMAGE_LISTED, 50));
}
