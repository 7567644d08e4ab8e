//! What most segments of an archive say: whose they are, and how large.

use std::collections::BTreeMap;
use std::time::Instant;

use super::VerifyError;
use super::reading::Reader;
use crate::store::listing::{self, Walk};
use crate::wal::{LongPageHeader, SegmentSize};

/// How many different answers are counted: of one archive there is one, or few.
const MOST_ANSWERS: usize = 1024;

/// What most segments say, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usual {
    pub(super) system_identifier: Option<u64>,
    pub(super) segment_size: Option<SegmentSize>,
}

/// Finds out what most segments say. If the identity file says whose archive it is, a few of the newest are
/// asked for their size only; otherwise all of them are asked first, because one that is another cluster's
/// must not be compared with its neighbours.
///
/// # Errors
/// The names could not be read to their end, or the run was cancelled.
pub(super) fn of(reader: &mut Reader<'_>) -> Result<Usual, VerifyError> {
    let (visit, known) = (reader.visit, reader.system_identifier);
    let mut answers = Answers::default();
    if known.is_some() {
        for header in listing::newest_headers(visit)? {
            answers.add(&header);
        }
    } else {
        for file in Walk::files(visit) {
            let file = file?;
            if file.name.segment().is_some()
                && let Some(header) = listing::header(visit, &file)
            {
                answers.add(&header);
            }
            reader.wait_until(Instant::now())?;
        }
    }
    let theirs = known.or_else(|| answers.most(|(identifier, _)| Some(*identifier)));
    let of_them = |(identifier, size): &Answer| (Some(*identifier) == theirs).then_some(*size);
    let segment_size = answers.most(of_them).or_else(|| answers.most(|(_, size)| Some(*size)));
    Ok(Usual { system_identifier: theirs, segment_size })
}

/// A system identifier and a segment size.
type Answer = (u64, SegmentSize);

#[derive(Default)]
struct Answers(BTreeMap<Answer, u64>);

impl Answers {
    fn add(&mut self, header: &LongPageHeader) {
        let Ok(size) = SegmentSize::new(header.segment_size.into()) else { return };
        let answer = (header.system_identifier, size);
        if self.0.len() < MOST_ANSWERS || self.0.contains_key(&answer) {
            *self.0.entry(answer).or_default() += 1;
        }
    }

    /// Returns the most frequent part of the answers; of two, the smaller one.
    fn most<T: Ord>(&self, part: impl Fn(&Answer) -> Option<T>) -> Option<T> {
        let mut counts: BTreeMap<T, u64> = BTreeMap::new();
        for (answer, count) in &self.0 {
            if let Some(part) = part(answer) {
                *counts.entry(part).or_default() += count;
            }
        }
        let first = |(part, count): (T, u64)| (std::cmp::Reverse(count), part);
        counts.into_iter().map(first).min().map(|(_, part)| part)
    }
}
