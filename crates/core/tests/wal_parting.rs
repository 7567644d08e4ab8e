//! Two versions of a segment, and the record at which they part.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod wal_support;

use wal_support::*;
use walsafe_core::wal::*;

fn parting(spec: SegmentSpec, ours: &[u8], theirs: &[u8]) -> Option<Parting> {
    let mut comparison = SegmentComparison::new(spec);
    let piece = |bytes: &[u8], at: usize| {
        bytes[at.min(bytes.len())..(at + 100_000).min(bytes.len())].to_vec()
    };
    for at in (0..ours.len().max(theirs.len())).step_by(100_000) {
        comparison.feed(&piece(ours, at), &piece(theirs, at));
    }
    comparison.finish()
}

/// The same beginning, then records of the given lengths.
fn version(lengths: &[usize]) -> Writer {
    let mut writer = Writer::new(8192, 0x300_0000);
    for len in [100, 20_000, 50] {
        writer.record(10, 0, &data(len));
    }
    for len in lengths {
        writer.record(10, 0, &data(*len));
    }
    writer
}

fn padded(mut writer: Writer) -> Vec<u8> {
    writer.pad();
    writer.bytes
}

#[test]
fn the_record_at_which_two_versions_part_is_named() {
    let spec = version(&[]).spec(0);
    let fork = version(&[]).lsn();
    let (a, b) = (padded(version(&[500, 30])), padded(version(&[400, 600])));
    let at = |lsn, ends| Some(Parting::AtRecord { lsn: Lsn(lsn), ends });
    assert_eq!(parting(spec, &a, &b), at(fork, None));
    // A record that only one has: the other's WAL ends before it.
    let (a, b) = (padded(version(&[])), padded(version(&[40_000, 30])));
    assert_eq!(parting(spec, &a, &b), at(fork, Some(Side::Ours)));
    assert_eq!(parting(spec, &b, &a), at(fork, Some(Side::Theirs)));
    // The first 64 kB agree and the record that differs began in them.
    let mut long = version(&[300_000, 30]);
    long.pad();
    let mut other = long.bytes.clone();
    other[200_000] ^= 1;
    assert_eq!(parting(spec, &long.bytes, &other), at(fork, None));
}

#[test]
fn versions_that_differ_only_behind_the_last_record_hold_the_same_records() {
    let spec = version(&[]).spec(0);
    let a = padded(version(&[500]));
    let mut b = a.clone();
    let end = version(&[500]).bytes.len();
    b[end + 7..end + 9000].fill(0x55);
    assert_eq!(parting(spec, &a, &b), Some(Parting::SameRecords));
    assert_eq!(parting(spec, &b, &a), Some(Parting::SameRecords));
    // The same behind a switch record.
    let mut switched = version(&[500]);
    switched.switch();
    let mut b = switched.bytes.clone();
    b[900_000] = 1;
    assert_eq!(parting(spec, &switched.bytes, &b), Some(Parting::SameRecords));
}

#[test]
fn a_record_cut_short_in_both_is_not_a_difference_in_the_records() {
    let spec = version(&[]).spec(0);
    let cut = version(&[500]);
    let whole = version(&[500, 3_000]);
    let half = |at: usize| {
        let mut bytes = whole.bytes[..at].to_vec();
        bytes.resize(SIZE as usize, 0);
        bytes
    };
    let (a, b) = (half(cut.bytes.len() + 700), half(cut.bytes.len() + 1_000));
    assert_eq!(parting(spec, &a, &b), Some(Parting::SameRecords));
    let b = padded(version(&[500, 3_000]));
    let at = Parting::AtRecord { lsn: Lsn(cut.lsn()), ends: Some(Side::Ours) };
    assert_eq!(parting(spec, &a, &b), Some(at));
}

#[test]
fn records_that_cross_the_segments_edges_are_compared_as_far_as_they_are_here() {
    let writer = sample(8192);
    let spec = writer.spec(1);
    let a = writer.segments()[1].to_vec();
    let mut b = a.clone();
    b[44] ^= 1;
    let start = Parting::AtRecord { lsn: spec.start, ends: None };
    assert_eq!(parting(spec, &a, &b), Some(start));
    let mut b = a.clone();
    b[SIZE as usize - 1] ^= 1;
    let last = check_segment(spec, &a, None).end;
    let End::ContinuesInNext(Some(lsn)) = last else { panic!("{last:?}") };
    assert_eq!(parting(spec, &a, &b), Some(Parting::AtRecord { lsn, ends: None }));
    assert_eq!(parting(spec, &a, &a), Some(Parting::SameRecords));
}

#[test]
fn versions_of_different_lengths_part_where_the_shorter_ends() {
    let spec = version(&[]).spec(0);
    let a = padded(version(&[400_000, 500_000]));
    let report = parting(spec, &a[..700_000], &a);
    let at = version(&[400_000]).lsn();
    let Some(Parting::AtRecord { lsn, .. }) = report else { panic!("{report:?}") };
    assert_eq!(lsn, Lsn(at));
}

#[test]
fn versions_of_an_unknown_format_are_not_explained() {
    let mut writer = version(&[300_000]);
    writer.magic = 0xD1FE;
    let mut writer = Writer { bytes: Vec::new(), ..writer };
    writer.record(10, 0, &data(400_000));
    let bytes = padded(writer);
    assert_eq!(parting(version(&[]).spec(0), &bytes, &bytes), None);
}
