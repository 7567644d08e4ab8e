//! Segments that are checked in any order are matched at their edges as if they had come in order.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod wal_support;

use wal_support::*;
use walsafe_core::wal::*;

/// Adds the segments in the given order; returns the records and the damage in all.
fn add_all(writer: &Writer, segments: &[Vec<u8>], order: &[usize]) -> (u64, Vec<Damage>) {
    let mut edges = Edges::new(16);
    let (mut records, mut damage) = (0, Vec::new());
    for &index in order {
        let report = check_segment(writer.spec(index), &segments[index], None);
        records += report.records;
        for met in edges.add(&report) {
            records += u64::from(met.record.is_some());
            damage.extend(met.damage);
        }
        damage.extend(report.damage);
    }
    (records, damage)
}

fn shuffled(len: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for at in (1..len).rev() {
        order.swap(at, random.below(at + 1));
    }
    order
}

fn segments_of(writer: &Writer) -> Vec<Vec<u8>> {
    writer.segments().iter().map(|segment| segment.to_vec()).collect()
}

#[test]
fn in_any_order_every_record_is_checked_and_nothing_is_damage() {
    let mut random = Random::from_environment();
    let orders = dose::dose(10, 40);
    for block in [1024, 8192] {
        let mut writer = sample(block);
        writer.pad();
        let segments = segments_of(&writer);
        for _ in 0..orders {
            let order = shuffled(segments.len(), &mut random);
            let (records, damage) = add_all(&writer, &segments, &order);
            assert_eq!((records, damage), (writer.written.len() as u64, vec![]), "{order:?}");
        }
    }
}

#[test]
fn in_any_order_a_flip_at_an_edge_is_found() {
    let mut random = Random::from_environment();
    let mut writer = sample(8192);
    writer.switch();
    writer.record(10, 0, &data(100));
    writer.pad();
    let records: Vec<_> = writer.written.iter().map(|record| (record.0, record.1)).collect();
    let mask = covered(&records, writer.base, writer.bytes.len(), 8192, u64::from(SIZE));
    let mut segments = segments_of(&writer);
    let (mut tried, flips) = (0, dose::dose(50, 200));
    while tried < flips {
        let index = random.below(segments.len() - 1);
        let near = random.below(300);
        let at = if random.below(2) == 0 { near } else { SIZE as usize - 1 - near };
        let bit = 1 << random.below(8);
        if mask[index * SIZE as usize + at] & bit == 0 {
            continue;
        }
        tried += 1;
        segments[index][at] ^= bit;
        let order = shuffled(segments.len(), &mut random);
        let (_, damage) = add_all(&writer, &segments, &order);
        segments[index][at] ^= bit;
        assert!(!damage.is_empty(), "bit {bit:02X} at {at} of segment {index}, {order:?}");
    }
}

#[test]
fn a_switch_record_that_crosses_a_segments_end_ends_the_next_one_in_any_order() {
    let mut writer = Writer::new(8192, 0x300_0000);
    let room = |writer: &Writer| SIZE as usize - writer.bytes.len();
    while room(&writer) > 10_000 {
        writer.record(10, 0, &data(1000));
    }
    while room(&writer) > 200 {
        writer.record(10, 0, &data(16));
    }
    // One that leaves 8 bytes for the switch record.
    writer.record(10, 0, &data(room(&writer) - 24 - 8));
    let switch = writer.switch();
    assert_eq!(switch + 8, writer.base + u64::from(SIZE));
    writer.record(10, 0, &data(100));
    writer.pad();
    let (records, reports) = writer.read();
    assert_eq!((records, reports[1].end), (writer.written.clone(), End::SwitchAt(Lsn(switch))));
    let segments = segments_of(&writer);
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2], [2, 0, 1], [0, 2, 1]] {
        let (records, damage) = add_all(&writer, &segments, &order);
        assert_eq!((records, damage), (writer.written.len() as u64, vec![]), "{order:?}");
    }
}

#[test]
fn a_segment_that_ends_early_though_another_follows_is_damage_whichever_comes_first() {
    let mut writer = sample(8192);
    writer.pad();
    let mut segments = segments_of(&writer);
    segments[1][500_000..].fill(0);
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let (_, damage) = add_all(&writer, &segments, &order);
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!(damage[0].segment, writer.spec(1).start);
    }
    segments[1].fill(0);
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let (_, damage) = add_all(&writer, &segments, &order);
        assert_eq!(damage.len(), 1, "{damage:?}");
    }
}

/// A standby that received part of a segment hands it over under its full name; the next timeline
/// goes on without it.
#[test]
fn wal_that_ended_on_an_older_timeline_is_not_compared_with_a_newer_ones() {
    let mut old = Writer::new(8192, 0x300_0000);
    old.record(10, 0, &data(100_000));
    let switch_point = old.bytes.len();
    let mut new = Writer { bytes: old.bytes.clone(), written: old.written.clone(), ..old };
    old = Writer::new(8192, 0x300_0000);
    old.bytes = new.bytes.clone();
    old.prev = new.prev;
    old.record(10, 0, &data(5_000));
    old.pad();
    new.timeline = 2;
    assert_eq!(new.bytes.len(), switch_point);
    new.record(0, 0x90, &data(30));
    while new.bytes.len() < SIZE as usize + 500 {
        new.record(10, 0, &data(9_000));
    }
    new.pad();
    let mut edges = Edges::new(16);
    let ended = check_segment(old.spec(0), &old.bytes, None);
    assert!(matches!(ended.end, End::EndsAt { .. }));
    assert_eq!(edges.add(&ended), []);
    for index in [1, 0] {
        let report = check_segment(new.spec(index), new.segments()[index], None);
        assert_eq!(report.damage, []);
        let met = edges.add(&report);
        assert!(met.iter().all(|met| met.damage.is_none()), "{met:?}");
        assert_eq!(met.len(), usize::from(index == 0));
    }
}

/// The first beginning took the end away, and the segment of the other timeline stayed unchecked.
#[test]
fn an_end_meets_the_beginnings_of_both_timelines_that_go_on_behind_it() {
    let mut one = Writer::new(8192, 0x300_0000);
    while one.bytes.len() < SIZE as usize + 500 {
        one.record(10, 0, &data(9_000));
    }
    let mut two = Writer { bytes: one.bytes.clone(), written: one.written.clone(), ..one };
    two.timeline = 2;
    two.record(0, 0x90, &data(30));
    two.pad();
    one.record(10, 0, &data(5_000));
    one.pad();
    let reports = [(&one, 0), (&one, 1), (&two, 1)]
        .map(|(writer, index)| check_segment(writer.spec(index), writer.segments()[index], None));
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut edges = Edges::new(16);
        let met: Vec<_> = order.iter().flat_map(|index| edges.add(&reports[*index])).collect();
        assert_eq!(met.len(), 2, "{order:?}");
        assert!(met.iter().all(|met| met.damage.is_none() && met.record.is_some()), "{met:?}");
    }
}

#[test]
fn an_end_that_was_met_makes_room_for_one_that_was_not() {
    let mut writer = sample(8192);
    writer.pad();
    let tail = |writer: &Writer| check_segment(writer.spec(0), writer.segments()[0], None).tail;
    let head = |writer: &Writer| check_segment(writer.spec(1), writer.segments()[1], None).head;
    let mut edges = Edges::new(2);
    edges.add_edges(None, tail(&writer));
    for timeline in 2..6 {
        writer.timeline = timeline;
        edges.add_edges(None, tail(&writer));
        assert_eq!(edges.add_edges(head(&writer), None).len(), 1);
    }
    writer.timeline = 1;
    assert_eq!((edges.add_edges(head(&writer), None).len(), edges.dropped()), (1, 0));
}

#[test]
fn what_lies_before_an_address_is_forgotten_and_not_counted_as_dropped() {
    let mut writer = sample(8192);
    writer.pad();
    let report = |index: usize| check_segment(writer.spec(index), writer.segments()[index], None);
    let mut edges = Edges::new(16);
    edges.add(&report(0));
    edges.forget_before(writer.spec(1).start);
    assert_eq!(edges.add(&report(1)).len(), 1, "its end is of use there");
    let mut edges = Edges::new(16);
    edges.add(&report(0));
    edges.forget_before(writer.spec(2).start);
    assert_eq!((edges.add(&report(1)), edges.dropped()), (vec![], 0));
}

#[test]
fn what_is_kept_is_bounded_and_what_is_dropped_is_counted() {
    let mut edges = Edges::new(4);
    let mut writer = sample(8192);
    writer.pad();
    for copy in 0..10_u64 {
        writer.timeline = 2 + copy as u32;
        let report = check_segment(writer.spec(0), writer.segments()[0], None);
        edges.add(&report);
    }
    // Six ends and six beginnings.
    assert_eq!(edges.dropped(), 12);
}

#[test]
fn a_checker_carries_on_with_an_end_that_was_kept() {
    let mut writer = sample(8192);
    writer.pad();
    let mut edges = Edges::new(4);
    let mut records = 0;
    for (index, segment) in writer.segments().iter().enumerate() {
        let spec = writer.spec(index);
        let report = check_segment(spec, segment, edges.take(spec.timeline, spec.start));
        assert_eq!((edges.add(&report), report.damage_count), (vec![], 0));
        records += report.records;
    }
    assert_eq!(records, writer.written.len() as u64);
}

/// Fills a segment to its last byte, the last record being `last` bytes long, and begins another.
fn full_segment(last: usize) -> Writer {
    let mut writer = Writer::new(8192, 0x300_0000);
    let room = |writer: &Writer| SIZE as usize - writer.bytes.len();
    while room(&writer) > 8192 {
        writer.record(10, 0, &data(1000));
    }
    while room(&writer) > 2200 {
        writer.record(10, 0, &data(16));
    }
    writer.record(10, 0, &data(room(&writer) - last - 24));
    writer.record(10, 0, &data(last - 24));
    assert_eq!(writer.bytes.len(), SIZE as usize);
    writer.record(10, 0, &data(100));
    writer.pad();
    writer
}

#[test]
fn segments_of_two_histories_do_not_fit_together() {
    let (ours, theirs) = (full_segment(400), full_segment(600));
    let first = check_segment(ours.spec(0), ours.segments()[0], None);
    assert_eq!((first.end, first.damage_count), (End::Full, 0));
    for (writer, fits) in [(&ours, true), (&theirs, false)] {
        let segment = writer.segments()[1];
        let alone = check_segment(writer.spec(1), segment, None);
        assert_eq!(alone.damage, []);
        let tail = first.tail.clone().unwrap();
        let joined = join(&tail, alone.head.as_ref().unwrap(), alone.tail.as_ref()).unwrap();
        let carried = check_segment(writer.spec(1), segment, Some(tail));
        assert_eq!((joined.damage.is_none(), carried.is_sound()), (fits, fits));
        if let Some(damage) = joined.damage {
            let (found, expected) =
                (Lsn(theirs.written.last().unwrap().3), Lsn(ours.written.last().unwrap().3));
            assert_eq!(damage.kind, DamageKind::PrevLink { found, expected });
        }
    }
}

#[test]
fn a_remaining_length_that_disagrees_with_the_record_is_named_as_such() {
    let mut writer = sample(8192);
    writer.pad();
    let mut segments = segments_of(&writer);
    // xlp_rem_len, by a bit that leaves the next record where it is.
    segments[1][16] ^= 1;
    let (_, damage) = add_all(&writer, &segments[..2], &[0, 1]);
    assert!(
        damage.iter().any(|damage| matches!(damage.kind, DamageKind::ContinuationLength { .. })),
        "{damage:?}"
    );
}

#[test]
fn a_timeline_lower_than_the_page_before_is_damage_on_every_page() {
    let mut writer = Writer { timeline: 3, ..Writer::new(8192, 0x300_0000) };
    while writer.bytes.len() < 2 * SIZE as usize {
        writer.record(10, 0, &data(700));
    }
    writer.pad();
    let mut segments = segments_of(&writer);
    let first = check_segment(writer.spec(0), &segments[0], None);
    for page in [0, 8192, 81920, SIZE as usize - 8192] {
        for flip in [1, 2] {
            segments[1][page + 4] ^= flip;
            let report = check_segment(writer.spec(1), &segments[1], first.tail.clone());
            segments[1][page + 4] ^= flip;
            let (found, after) = (3 ^ u32::from(flip), 3);
            let kind = DamageKind::TimelineSequence { found, after };
            assert_eq!(report.damage.first().map(|damage| &damage.kind), Some(&kind));
            assert_eq!(report.damage_count, 1, "{:?}", report.damage);
        }
    }
}
