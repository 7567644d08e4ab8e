//! The files of an archive by address, in bounded memory.

use std::cmp::Ordering;
use std::time::Instant;

use super::packed::Packed;
use super::{Sorted, no_memory, sort};
use crate::error::Error;
use crate::store::{StoredName, Visit};
use crate::sys;
use crate::wal::name::FileKind;

/// How many names are kept at a time, of 24 bytes each. An archive with no more of them is listed once; for
/// a larger one, each further listing gives half as many at least.
pub const MOST_KEPT: usize = 1 << 19;

/// Which files, by what their names say.
type Of = fn(FileKind) -> bool;

/// Which of two comes first.
type Order = fn(&Packed, &Packed) -> Ordering;

/// The files of an archive by address; at one address, older timelines come first, and the encodings of one
/// file follow one another.
///
/// The names are read when the first one is asked for, and again when more of them are there than are kept. A
/// file that comes or goes meanwhile may be among them or not.
///
/// After an error nothing more comes.
pub struct Walk<'v> {
    visit: &'v dyn Visit,
    of: Of,
    order: Order,
    most: usize,
    /// In falling order: the next one is the last.
    kept: Vec<Packed>,
    last: Option<Packed>,
    /// There are more behind those that are kept.
    more: bool,
    begun: Instant,
}

impl<'v> Walk<'v> {
    /// Goes through the files of the kinds that `of` chooses.
    #[must_use]
    pub fn of(visit: &'v dyn Visit, of: Of) -> Self {
        Self::with(visit, of, MOST_KEPT)
    }

    fn with(visit: &'v dyn Visit, of: Of, most: usize) -> Self {
        let (kept, order) = (Vec::new(), Packed::cmp);
        Self { visit, of, order, most, kept, last: None, more: true, begun: Instant::now() }
    }

    /// Goes through all files in the order in which a server archives them: history files first, then the others
    /// by name, so one timeline after the other.
    #[must_use]
    pub fn as_archived(visit: &'v dyn Visit) -> Self {
        Self { order: Packed::cmp_as_archived, ..Self::all(visit) }
    }

    /// Goes through all files.
    #[must_use]
    pub fn all(visit: &'v dyn Visit) -> Self {
        Self::of(visit, |_| true)
    }

    /// Goes through all files but history files.
    #[must_use]
    pub fn files(visit: &'v dyn Visit) -> Self {
        Self::of(visit, |kind| !is_history(kind))
    }

    /// Goes through the history files, by timeline.
    #[must_use]
    pub fn histories(visit: &'v dyn Visit) -> Self {
        Self::of(visit, is_history)
    }

    /// Returns the last `count` segments, whole or partial, the newest last.
    ///
    /// # Errors
    /// The names could not be read to their end, or there is no memory for so many.
    pub(super) fn newest(visit: &dyn Visit, count: usize) -> Result<Vec<StoredName>, Error> {
        let of: Of = |kind| matches!(kind, FileKind::Segment(_) | FileKind::Partial(_));
        let mut newest = Window::new(count * 2, |a, b| b.cmp(a));
        list(visit, of, &mut |packed| newest.add(packed))?;
        newest.sort();
        newest.kept.truncate(count);
        Ok(newest.kept.into_iter().rev().filter_map(Packed::name).collect())
    }

    /// Returns when the last reading of the names began.
    #[must_use]
    pub fn begun(&self) -> Instant {
        self.begun
    }

    fn fill(&mut self) -> Result<(), Error> {
        self.begun = Instant::now();
        let (last, order) = (self.last, self.order);
        let mut window = Window::new(self.most, order);
        list(self.visit, self.of, &mut |packed| {
            last.is_some_and(|last| order(&packed, &last).is_le()) || window.add(packed)
        })?;
        window.sort();
        window.kept.dedup();
        self.more = window.bound.is_some();
        self.kept = window.kept;
        self.kept.reverse();
        Ok(())
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<StoredName, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.kept.is_empty() && self.more {
            self.more = false;
            if let Err(error) = self.fill() {
                return Some(Err(error));
            }
        }
        let next = self.kept.pop()?;
        self.last = Some(next);
        next.name().map(Ok)
    }
}

fn is_history(kind: FileKind) -> bool {
    matches!(kind, FileKind::History { .. })
}

/// Calls `each` with the names of the files that are chosen, in no order; it returns `false` if it has no
/// memory for one.
fn list(visit: &dyn Visit, of: Of, each: &mut dyn FnMut(Packed) -> bool) -> Result<(), Error> {
    let mut room = true;
    visit.list(&mut |stored| {
        if let Sorted::File(file) = sort(stored)
            && of(file.name.kind())
            && let Some(packed) = Packed::of(&file)
        {
            room = room && each(packed);
        }
    })?;
    if room { Ok(()) } else { Err(no_memory(visit)) }
}

/// The first names of many, in an order: at most `most`, and at least half as many if there are so many.
struct Window<O> {
    most: usize,
    order: O,
    kept: Vec<Packed>,
    /// The last one of those kept when others were dropped: what comes behind it is dropped too.
    bound: Option<Packed>,
}

impl<O: Fn(&Packed, &Packed) -> Ordering> Window<O> {
    fn new(most: usize, order: O) -> Self {
        // With fewer, none could be dropped and one kept.
        Self { most: most.max(2), order, kept: Vec::new(), bound: None }
    }

    /// Adds a name. Returns `false` if there is no memory for it.
    fn add(&mut self, packed: Packed) -> bool {
        if self.bound.is_some_and(|bound| (self.order)(&packed, &bound).is_gt()) {
            return true;
        }
        if self.kept.len() >= self.most {
            let half = self.most / 2;
            self.kept.select_nth_unstable_by(half.saturating_sub(1), &self.order);
            self.kept.truncate(half);
            self.bound = self.kept.last().copied();
            return self.add(packed);
        }
        let full = self.kept.len() == self.kept.capacity();
        if full && (self.kept.try_reserve(1).is_err() || sys::headroom().is_err()) {
            return false;
        }
        self.kept.push(packed);
        true
    }

    fn sort(&mut self) {
        self.kept.sort_unstable_by(&self.order);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::Progress;
    use crate::store::directory::Directory;

    fn archive(count: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for number in 1..=count {
            let name = format!("{:08X}{number:016X}", 1 + number % 3);
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        for name in ["00000002.history", "00000003.history", "walsafe_archive.id", "x"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        dir
    }

    #[test]
    fn files_come_by_address_whatever_few_names_are_kept() {
        let dir = archive(100);
        let (store, steps) = (Directory::at(dir.path()), Progress::default());
        let visit = store.open(&steps).unwrap();
        let all: Vec<String> =
            (1..=100_u32).map(|number| format!("{:08X}{number:016X}", 1 + number % 3)).collect();
        for most in [1, 2, 3, 7, 64, 99, 100, 101, 1000] {
            let walk = Walk::with(&visit, |kind| !is_history(kind), most);
            let names: Vec<String> = walk.map(|file| file.unwrap().to_string()).collect();
            assert_eq!(names, all, "{most}");
        }
        let mut expected = all.clone();
        expected.sort();
        expected.splice(0..0, ["00000002.history", "00000003.history"].map(str::to_owned));
        for most in [1, 3, 64, 1000] {
            let walk = Walk { most, ..Walk::as_archived(&visit) };
            let names: Vec<String> = walk.map(|file| file.unwrap().to_string()).collect();
            assert_eq!(names, expected, "{most}");
        }
        let histories: Vec<String> =
            Walk::histories(&visit).map(|file| file.unwrap().to_string()).collect();
        assert_eq!(histories, ["00000002.history", "00000003.history"]);
        for count in [1, 2, 7, 100, 200] {
            let newest = Walk::newest(&visit, count).unwrap();
            let newest: Vec<String> = newest.iter().map(ToString::to_string).collect();
            assert_eq!(newest, all.get(100_usize.saturating_sub(count)..).unwrap(), "{count}");
        }
    }
}
