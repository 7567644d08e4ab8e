//! Writes WAL the way the server does, to be read back (`CopyXLogRecordToWAL` and
//! `AdvanceXLInsertBuffer` in `xlog.c`).
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]

use walsafe_core::wal::*;

pub const SYSID: u64 = 7_123_456_789_012_345_678;
pub const SIZE: u32 = 1 << 20;

/// What the writer knows of a record it wrote.
pub type Written = (u64, u32, u8, u64);

pub struct Writer {
    pub magic: u16,
    pub timeline: u32,
    pub block: usize,
    pub base: u64,
    /// From `base` on.
    pub bytes: Vec<u8>,
    pub prev: u64,
    pub written: Vec<Written>,
    /// Flags of the pages to come.
    pub flags: u16,
}

impl Writer {
    pub fn new(block: usize, base: u64) -> Self {
        Self {
            magic: 0xD110,
            timeline: 1,
            block,
            base,
            bytes: Vec::new(),
            prev: base - 8,
            written: Vec::new(),
            flags: PageFlags::BKP_REMOVABLE,
        }
    }

    pub fn lsn(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    fn page_header(&mut self, remaining: u32, flags: u16) {
        assert_eq!(self.bytes.len() % self.block, 0);
        let address = self.lsn();
        let long = address.is_multiple_of(u64::from(SIZE));
        let mut info = self.flags | flags;
        info |= if long { PageFlags::LONG_HEADER } else { 0 };
        info |= if remaining > 0 { PageFlags::FIRST_IS_CONTRECORD } else { 0 };
        self.bytes.extend(self.magic.to_ne_bytes());
        self.bytes.extend(info.to_ne_bytes());
        self.bytes.extend(self.timeline.to_ne_bytes());
        self.bytes.extend(address.to_ne_bytes());
        self.bytes.extend(remaining.to_ne_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSID.to_ne_bytes());
            self.bytes.extend(SIZE.to_ne_bytes());
            self.bytes.extend((self.block as u32).to_ne_bytes());
        }
    }

    pub fn encode(prev: u64, rmgr: u8, info: u8, data: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend((24 + data.len() as u32).to_ne_bytes());
        record.extend(771_u32.to_ne_bytes());
        record.extend(prev.to_ne_bytes());
        record.extend([info, rmgr, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(data), &record);
        record.extend(crc.to_ne_bytes());
        record.extend(data);
        record
    }

    /// Appends a record; returns where it begins.
    pub fn record(&mut self, rmgr: u8, info: u8, data: &[u8]) -> u64 {
        self.record_upto(rmgr, info, data, usize::MAX)
    }

    /// Appends the first `keep` bytes of a record, as a crash leaves it.
    pub fn record_upto(&mut self, rmgr: u8, info: u8, data: &[u8], keep: usize) -> u64 {
        if self.bytes.len().is_multiple_of(self.block) {
            self.page_header(0, 0);
        }
        let start = self.lsn();
        let record = Self::encode(self.prev, rmgr, info, data);
        let mut rest = &record[..];
        while !rest.is_empty() && record.len() - rest.len() < keep {
            if self.bytes.len().is_multiple_of(self.block) {
                self.page_header(rest.len() as u32, 0);
            }
            let space = self.block - self.bytes.len() % self.block;
            let (here, later) = rest.split_at(space.min(rest.len()));
            self.bytes.extend(here);
            rest = later;
        }
        if keep == usize::MAX {
            self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
            self.written.push((start, record.len() as u32, rmgr, self.prev));
            self.prev = start;
        }
        start
    }

    /// Ends the segment with a switch record.
    pub fn switch(&mut self) -> u64 {
        let start = self.record(0, 0x40, &[]);
        self.pad();
        start
    }

    /// Goes on after a crash that broke off the record at `aborted`: the rest of its page is lost.
    pub fn overwrite(&mut self, aborted: u64) {
        self.page_header(0, PageFlags::FIRST_IS_OVERWRITE_CONTRECORD);
        let mut data = vec![255, 16];
        data.extend(aborted.to_ne_bytes());
        data.extend([7; 8]);
        self.record(0, 0xD0, &data);
    }

    /// Fills the last segment with zeros.
    pub fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(SIZE as usize), 0);
    }

    pub fn segments(&self) -> Vec<&[u8]> {
        self.bytes.chunks(SIZE as usize).collect()
    }

    pub fn spec(&self, index: usize) -> SegmentSpec {
        SegmentSpec {
            timeline: self.timeline,
            start: Lsn(self.base + index as u64 * u64::from(SIZE)),
            segment_size: SegmentSize::new(u64::from(SIZE)).unwrap(),
            system_identifier: Some(SYSID),
        }
    }

    /// Reads all segments in order; panics on damage.
    pub fn read(&self) -> (Vec<Written>, Vec<SegmentReport>) {
        let (mut records, mut reports, mut carry) = (Vec::new(), Vec::new(), None);
        for (index, segment) in self.segments().iter().enumerate() {
            let report =
                read_segment(self.spec(index), segment, carry.take(), |record: &Record| {
                    records.push(written(record));
                });
            carry = report.tail.clone();
            reports.push(report);
        }
        (records, reports)
    }
}

pub fn written(record: &Record) -> Written {
    (record.lsn.0, record.header.length, record.header.rmgr, record.header.prev.0)
}

/// `len` bytes that look like neither zeros nor the bytes of another `len`.
pub fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + len) as u8 | 1).collect()
}

/// A WAL of a few segments with records of all kinds of lengths.
pub fn sample(block: usize) -> Writer {
    let mut writer = Writer::new(block, 0x1_0200_0000);
    for (index, len) in (0..).zip([0, 3, 30, 60, 100, 8168, 200, 30_000, 1].iter().cycle()) {
        writer.record(10, 0, &data(len + index % 13));
        if writer.bytes.len() > 3 * SIZE as usize {
            break;
        }
    }
    writer.record(21, 0, &data(2_500_000));
    writer.record(10, 0, &data(17));
    writer.switch();
    writer.record(10, 0, &data(100));
    writer
}

/// Which bits of the WAL at `base` a flip must be noticed in, as a mask for each byte: those of
/// the given records, `(lsn, xl_tot_len)`, and of the headers of the pages they lie on.
///
/// What is left over: padding between records; the last 4 bytes of a header's first 24, which are
/// padding in the C struct; the flag `XLP_BKP_REMOVABLE`, which no reader looks at; whatever follows the
/// last record.
pub fn covered(
    records: &[(u64, u32)],
    base: u64,
    len: usize,
    block: usize,
    segment_size: u64,
) -> Vec<u8> {
    let mut mask = vec![0; len];
    let mut mark = |lsn: u64, bits: u8| {
        if let Some(slot) = lsn.checked_sub(base).and_then(|at| mask.get_mut(at as usize)) {
            *slot = bits;
        }
    };
    for &(lsn, length) in records {
        let (mut at, mut left) = (lsn, length);
        mark_header(&mut mark, lsn - lsn % block as u64, segment_size);
        while left > 0 {
            if at.is_multiple_of(block as u64) {
                at += mark_header(&mut mark, at, segment_size);
            }
            mark(at, 0xFF);
            at += 1;
            left -= 1;
        }
    }
    mask
}

fn mark_header(mark: &mut impl FnMut(u64, u8), page: u64, segment_size: u64) -> u64 {
    let size = if page.is_multiple_of(segment_size) { 40 } else { 24 };
    for at in (0..20).chain(24..size) {
        mark(page + at, 0xFF);
    }
    // The low byte of xlp_info has the flags.
    let low = if cfg!(target_endian = "little") { 2 } else { 3 };
    mark(page + low, !(PageFlags::BKP_REMOVABLE as u8));
    size
}

/// Flips one bit, and says whether reading the segment, and those after it as far as a record that
/// crosses reaches, finds it.
pub fn flip_is_found<'a>(
    spec: SegmentSpec,
    segment: &mut [u8],
    bit: (usize, u8),
    before: Option<&Tail>,
    after: impl IntoIterator<Item = (SegmentSpec, &'a [u8])>,
) -> bool {
    segment[bit.0] ^= bit.1;
    let mut report = check_segment(spec, segment, before.cloned());
    segment[bit.0] ^= bit.1;
    for (next, bytes) in after {
        if !report.is_sound() {
            break;
        }
        report = check_segment(next, bytes, report.tail);
        let crosses = |start: Lsn| start < next.start;
        if !matches!(report.end, End::ContinuesInNext(Some(start)) if crosses(start)) {
            break;
        }
    }
    !report.is_sound()
}

/// A random generator that can be replayed: splitmix64.
pub struct Random(pub u64);

impl Random {
    /// Seeded by `WALSAFE_SEED`, or by the clock; prints the seed.
    pub fn from_environment() -> Self {
        let seed = std::env::var("WALSAFE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as u64)
        });
        println!("WALSAFE_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
