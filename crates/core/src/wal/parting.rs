//! Where two versions of one segment part: at which record, if at all.

use super::check::SegmentChecker;
use super::edge::TailState;
use super::lsn::Lsn;
use super::record::{Record, Visit};
use super::report::{End, SegmentReport, SegmentSpec};

/// Bytes that are read of one version before the other's are: bounds the records held.
const STEP: usize = 64 << 10;

/// How two versions of a segment differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Both hold the same records. Bytes that differ lie after the last one, or are padding.
    SameRecords,
    /// They part at a record.
    AtRecord {
        /// Where the first record begins that only one of them holds, or that differs. For a record that
        /// begins in an earlier segment, this is the beginning of the segment.
        lsn: Lsn,
        /// The version whose WAL ends there, if any: it is an earlier state of the other.
        ends: Option<Side>,
    },
}

/// One of two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The version that is named first.
    Ours,
    /// The other version.
    Theirs,
}

/// Compares two versions of a segment record by record as their bytes come.
///
/// Bounded memory: the records of `STEP` bytes of each.
#[derive(Debug)]
pub struct SegmentComparison {
    ours: SegmentChecker<Vec<Record>>,
    theirs: SegmentChecker<Vec<Record>>,
    parted: Option<Lsn>,
}

impl Visit for Vec<Record> {
    fn record(&mut self, record: &Record) {
        self.push(*record);
    }
}

impl SegmentComparison {
    /// Begins with the first byte of both.
    #[must_use]
    pub fn new(spec: SegmentSpec) -> Self {
        let checker = || SegmentChecker::with_visitor(spec, None, Vec::new());
        Self { ours: checker(), theirs: checker(), parted: None }
    }

    /// Takes the next piece of both versions, from the same offset. Near its end, the shorter version's
    /// pieces are shorter or empty.
    pub fn feed(&mut self, mut ours: &[u8], mut theirs: &[u8]) {
        while !(ours.is_empty() && theirs.is_empty()) {
            let (a, b);
            (a, ours) = ours.split_at_checked(STEP).unwrap_or((ours, &[]));
            (b, theirs) = theirs.split_at_checked(STEP).unwrap_or((theirs, &[]));
            self.ours.feed(a);
            self.theirs.feed(b);
            self.compare();
        }
    }

    /// Compares the records that have ended since the last call. The same number of bytes was read of both,
    /// so a record that only one side has is a difference.
    fn compare(&mut self) {
        let (ours, theirs) = (self.ours.visitor_mut(), self.theirs.visitor_mut());
        if self.parted.is_none() {
            let mut pairs = ours.iter().zip(theirs.iter());
            let differs = pairs.find(|(a, b)| a != b).map(|(a, b)| a.lsn.min(b.lsn));
            let common = ours.len().min(theirs.len());
            let more = || ours.iter().chain(theirs.iter().skip(common)).nth(common);
            self.parted = differs.or_else(|| {
                (ours.len() != theirs.len()).then(|| more().map(|record| record.lsn)).flatten()
            });
        }
        ours.clear();
        theirs.clear();
    }

    /// Returns where they part; `None` if the pages are of a version whose format is not known here.
    #[must_use]
    pub fn finish(self) -> Option<Parting> {
        let (ours, theirs) = (self.ours.finish(), self.theirs.finish());
        if [ours.end, theirs.end].iter().any(|end| matches!(end, End::UnknownVersion(_))) {
            return None;
        }
        let Some(lsn) =
            first_fragment(&ours, &theirs).or(self.parted).or_else(|| last(&ours, &theirs))
        else {
            return Some(Parting::SameRecords);
        };
        let ends_there = |report: &SegmentReport| {
            report.is_sound() && matches!(report.end, End::EndsAt { lsn: end, .. } if end <= lsn)
        };
        let ends = match (ends_there(&ours), ends_there(&theirs)) {
            (true, false) => Some(Side::Ours),
            (false, true) => Some(Side::Theirs),
            _ => None,
        };
        Some(Parting::AtRecord { lsn, ends })
    }
}

/// Returns where they differ in the record that begins in the segment before: at the beginning of the
/// segment, because only a part of that record is here.
fn first_fragment(ours: &SegmentReport, theirs: &SegmentReport) -> Option<Lsn> {
    match (&ours.head, &theirs.head) {
        (Some(a), Some(b)) => (a.fragment != b.fragment).then_some(a.start),
        (a, b) => a.as_ref().or(b.as_ref()).map(|head| head.start),
    }
}

/// Returns where they differ in the record that continues in the next segment, or where the WAL breaks off.
fn last(ours: &SegmentReport, theirs: &SegmentReport) -> Option<Lsn> {
    let state = |report: &SegmentReport| report.tail.as_ref().map(|tail| tail.state.clone());
    let start = |state: &Option<TailState>| match state {
        Some(TailState::Open(open)) => Some(open.start),
        Some(TailState::Ended(damage)) => Some(damage.lsn),
        _ => None,
    };
    let (a, b) = (state(ours), state(theirs));
    let (at, bt) = (start(&a), start(&b));
    let both_ended = matches!((&a, &b), (Some(TailState::Ended(_)), Some(TailState::Ended(_))));
    if a == b || both_ended && at == bt {
        return None;
    }
    at.into_iter().chain(bt).min()
}
