//! As many findings as there are.

use std::collections::TryReserveError;

use super::{Finding, FindingKind, Problem};
use crate::sys;

/// Findings, with nothing but their text in memory. There may be one for each file of a large archive, so a
/// lack of memory is an error here, and never the end of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Files and reasons, one behind the other.
    text: String,
    all: Vec<Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    kind: FindingKind,
    at: usize,
    file: usize,
    reason: usize,
    /// Where there is advice of its own, its length.
    advice: Option<usize>,
}

impl Findings {
    /// Adds one.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn push(&mut self, finding: &Finding) -> Result<(), TryReserveError> {
        let Finding { file, problem: Problem { kind, reason, advice } } = finding;
        let own = advice.as_deref().unwrap_or_default();
        sys::headroom()?;
        self.text.try_reserve(file.len() + reason.len() + own.len())?;
        self.all.try_reserve(1)?;
        let at = self.text.len();
        self.text.push_str(file);
        self.text.push_str(reason);
        self.text.push_str(own);
        let advice = advice.as_ref().map(String::len);
        self.all.push(Kept { kind: *kind, at, file: file.len(), reason: reason.len(), advice });
        Ok(())
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns them in order.
    pub fn iter(&self) -> impl Iterator<Item = Finding> {
        self.all.iter().map(|kept| self.finding(kept))
    }

    /// Returns one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Finding> {
        self.all.get(index).map(|kept| self.finding(kept))
    }

    /// Sorts them by file, and those of one file by kind.
    pub fn sort(&mut self) {
        let text = &self.text;
        self.all.sort_unstable_by(|a, b| {
            (file(text, a), a.kind, a.at).cmp(&(file(text, b), b.kind, b.at))
        });
    }

    /// Keeps those that `keep` chooses by their file and kind.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, FindingKind) -> bool) {
        let text = &self.text;
        self.all.retain(|kept| keep(file(text, kept), kept.kind));
    }

    fn finding(&self, kept: &Kept) -> Finding {
        let reason = slice(&self.text, kept.at + kept.file, kept.reason).to_owned();
        let own = kept.at + kept.file + kept.reason;
        let advice = kept.advice.map(|len| slice(&self.text, own, len).to_owned());
        let problem = Problem { kind: kept.kind, reason, advice };
        Finding { file: file(&self.text, kept).to_owned(), problem }
    }
}

fn file<'t>(text: &'t str, kept: &Kept) -> &'t str {
    slice(text, kept.at, kept.file)
}

fn slice(text: &str, at: usize, len: usize) -> &str {
    let slice = text.get(at..at + len);
    debug_assert!(slice.is_some(), "{len} bytes at {at} are not a text of its own");
    slice.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn findings_come_back_sorted_by_file_and_kind() {
        let finding = |file: &str, kind, reason: &str| Finding {
            file: file.to_owned(),
            problem: Problem::new(kind, reason),
        };
        let first = finding("a", FindingKind::Gap, "").with_advice("do");
        let second = finding("a\u{fffd}", FindingKind::Corrupt, "é");
        let third = finding("a\u{fffd}", FindingKind::Gap, "r");
        let mut findings = Findings::default();
        for finding in [&third, &second, &first] {
            findings.push(finding).unwrap();
        }
        findings.sort();
        assert_eq!(findings.iter().collect::<Vec<_>>(), [first.clone(), second, third]);
        findings.retain(|file, kind| file == "a" && kind == FindingKind::Gap);
        assert_eq!(findings.iter().collect::<Vec<_>>(), [first]);
        assert_eq!((findings.len(), findings.get(1)), (1, None));
    }
}
