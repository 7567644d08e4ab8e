//! Checks a segment that comes in pieces, or all at once.

use super::edge::Tail;
use super::header::{BlockSize, LongPageHeader};
use super::record::Visit;
use super::report::{SegmentReport, SegmentSpec};
use super::walk::Walk;

/// Reads a segment that is handed over in pieces of any size, in order.
///
/// Pieces of whole pages are read where they lie; others are copied page by page. Memory is one page,
/// whatever the records' lengths. Every record whose checksum is right is shown to `V`.
#[derive(Debug)]
pub struct SegmentChecker<V = ()> {
    spec: SegmentSpec,
    carry: Option<Tail>,
    visitor: V,
    /// A page whose rest is still to come.
    partial: Vec<u8>,
    fed: u64,
    walk: Option<(Walk, usize)>,
}

impl SegmentChecker {
    /// Begins a segment. `carry` is how the segment before ended, if it was checked: then the record that
    /// crosses is checked too. If it is not the end of the segment before, it is ignored.
    #[must_use]
    pub fn new(spec: SegmentSpec, carry: Option<Tail>) -> Self {
        Self::with_visitor(spec, carry, ())
    }
}

impl<V: Visit> SegmentChecker<V> {
    /// Like [`SegmentChecker::new`], and shows each record to `visitor`.
    #[must_use]
    pub fn with_visitor(spec: SegmentSpec, carry: Option<Tail>, visitor: V) -> Self {
        Self { spec, carry, visitor, partial: Vec::new(), fed: 0, walk: None }
    }

    /// Returns the visitor, to which records are shown.
    pub fn visitor_mut(&mut self) -> &mut V {
        &mut self.visitor
    }

    /// Takes the next piece. What goes beyond the segment's size is counted, but not read.
    pub fn feed(&mut self, piece: &[u8]) {
        let room = u64::from(self.spec.segment_size.bytes()).saturating_sub(self.fed);
        self.fed = self.fed.saturating_add(piece.len() as u64);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let mut piece = piece.get(..room).unwrap_or(piece);
        while !piece.is_empty() {
            if self.walk.as_ref().is_some_and(|(walk, _)| walk.is_over()) {
                return;
            }
            piece = self.step(piece);
        }
    }

    /// Reads as many whole pages as there are, or puts a part of one aside; returns the rest.
    fn step<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let wanted = self.walk.as_ref().map_or(LongPageHeader::SIZE, |(_, block)| *block);
        if !self.partial.is_empty() || piece.len() < wanted {
            let missing = wanted.saturating_sub(self.partial.len());
            let (taken, rest) = piece.split_at_checked(missing).unwrap_or((piece, &[]));
            self.partial.extend_from_slice(taken);
            if self.partial.len() == wanted {
                if let Some((walk, _)) = &mut self.walk {
                    walk.page(&self.partial, &mut self.visitor);
                    self.partial.clear();
                } else {
                    self.walk = Some(begin(self.spec, self.carry.take(), &self.partial));
                }
            }
            return rest;
        }
        let (walk, block) =
            self.walk.get_or_insert_with(|| begin(self.spec, self.carry.take(), piece));
        let pages = piece.chunks_exact(*block);
        let rest = pages.remainder();
        pages.for_each(|page| walk.page(page, &mut self.visitor));
        if rest.len() == piece.len() {
            // The block size came from this very piece, which is shorter.
            self.partial.extend_from_slice(rest);
            return &[];
        }
        rest
    }

    /// Sums up what was read. A segment that is not whole is reported as such.
    #[must_use]
    pub fn finish(self) -> SegmentReport {
        let (walk, _) = self.walk.unwrap_or_else(|| begin(self.spec, self.carry, &self.partial));
        walk.finish(self.fed)
    }
}

/// Learns the block size from the first page's header. An impossible value is reported by the walk, which
/// continues with the usual one.
fn begin(spec: SegmentSpec, carry: Option<Tail>, front: &[u8]) -> (Walk, usize) {
    let block = LongPageHeader::read(front)
        .and_then(|header| BlockSize::new(header.block_size).ok())
        .unwrap_or(BlockSize::DEFAULT);
    (Walk::new(spec, block, carry), block.bytes() as usize)
}

/// Checks a segment that is in memory as a whole.
///
/// `carry` is how the segment before ended ([`SegmentReport::tail`]), if it was checked.
#[must_use]
pub fn check_segment(spec: SegmentSpec, segment: &[u8], carry: Option<Tail>) -> SegmentReport {
    read_segment(spec, segment, carry, ())
}

/// Like [`check_segment`], and shows every record whose checksum is right to `visitor`.
pub fn read_segment<V: Visit>(
    spec: SegmentSpec,
    segment: &[u8],
    carry: Option<Tail>,
    visitor: V,
) -> SegmentReport {
    let mut checker = SegmentChecker::with_visitor(spec, carry, visitor);
    checker.feed(segment);
    checker.finish()
}
