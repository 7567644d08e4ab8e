//! Segments that a fuzzer writes: records with right checksums and wrong everything else, so that it gets
//! past the checksums, then raw changes. The reader must not panic, and give the same in pieces as in one.
#![no_main]

#[path = "../../crates/core/tests/wal_support/mod.rs"]
mod wal_support;

use libfuzzer_sys::fuzz_target;
use wal_support::{SIZE, Writer, data};
use walsafe_core::wal::{Edges, Record, SegmentChecker, SegmentComparison, read_segment};

/// Takes numbers off the fuzzer's bytes; zeros when there are none left.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) << 16 | usize::from(self.byte()) << 8 | usize::from(self.byte())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let block = 1024 << (input.byte() % 7);
    let mut writer = Writer::new(block, 0x1_0200_0000);
    while !input.0.is_empty() && writer.bytes.len() < 2 * SIZE as usize {
        let (op, info) = (input.byte(), input.byte());
        // Long records are slow to write; one kind of them is enough.
        let len = if info == 0xFF { SIZE as usize } else { input.number() >> (op >> 4) & 0x7FFF };
        match op % 8 {
            0..=2 => drop(writer.record(info & 1, info & 0xF0, &data(len))),
            3 => drop(writer.switch()),
            4 => {
                let aborted = writer.record_upto(10, 0, &data(len), len / 2);
                let pages = writer.bytes.len().next_multiple_of(block);
                writer.bytes.resize(pages, info);
                writer.overwrite(aborted + u64::from(info % 3));
            }
            5 => writer.timeline = u32::from(info % 5),
            6 => writer.prev = writer.prev.wrapping_add(u64::from(info % 4) * 8),
            _ => writer.flags = u16::from(info % 32),
        }
    }
    writer.timeline = 3;
    writer.pad();
    let mut edges = Edges::new(8);
    let mut carry = None;
    for (index, segment) in writer.segments().iter().enumerate() {
        let mut segment = segment.to_vec();
        for _ in 0..input.byte() % 4 {
            let at = input.number() % segment.len();
            segment[at] ^= input.byte();
        }
        let spec = writer.spec(index);
        let mut records = 0;
        let whole = read_segment(spec, &segment, carry.take(), |_: &Record| records += 1);
        assert_eq!(whole.records, records);
        let mut checker = SegmentChecker::new(spec, None);
        for piece in segment.chunks(1 + input.number() % 100_000) {
            checker.feed(piece);
        }
        let alone = checker.finish();
        let _ = edges.add(&alone);
        let mut comparison = SegmentComparison::new(spec);
        comparison.feed(&segment, writer.segments()[index]);
        let _ = comparison.finish();
        carry = whole.tail;
    }
});
