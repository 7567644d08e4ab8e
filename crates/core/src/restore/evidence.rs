//! What shows that a timeline continued after one of its segments.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::RestoreError;
use super::abandoned::{self, Question};
use super::archives::Archives;
use super::survey::Survey;
use crate::error::{Action, Error};
use crate::prove::examine::{self, Expectation};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::listing;
use crate::store::{StoredName, Visit};
use crate::wal::SegmentSize;
use crate::wal::history::Ancestor;
use crate::wal::name::{FileName, SegmentName};
use crate::wal::timeline::Timelines;

/// What shows that a file must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    /// What there is, in words.
    pub(super) text: String,
    /// The files that show it.
    files: Vec<StoredName>,
}

impl Evidence {
    pub(super) fn new(text: String, files: Vec<StoredName>) -> Self {
        Self { text, files }
    }

    /// Returns whether everything that shows it has been there for this long, wherever it is. In doubt, it has
    /// not.
    pub(super) fn is_older_than<'v, V: IntoIterator<Item = &'v dyn Visit>>(
        &self,
        age: Duration,
        visits: impl Fn() -> V,
    ) -> bool {
        let old = |visit: &dyn Visit, file: &StoredName| {
            let Some(found) = visit.glance(&file.into()).ok()? else { return Some(None) };
            Some(Some(SystemTime::now().duration_since(found.modified()?).ok()? > age))
        };
        let all_old = |file: &StoredName| {
            let found: Option<Vec<_>> =
                visits().into_iter().map(|visit| old(visit, file)).collect();
            let mut found = found.into_iter().flatten().flatten().peekable();
            found.peek().is_some() && found.all(|old| old)
        };
        !self.files.is_empty() && self.files.iter().all(all_old)
    }
}

/// Looks for WAL that was written after a segment: a later file of its timeline, or a history file that
/// says so.
pub(super) fn of_later_wal(
    archives: &Archives<'_>,
    survey: &Survey,
    asked: &FileName,
    segment: SegmentName,
) -> Result<Option<Evidence>, RestoreError> {
    let Some(nearest) = &survey.nearest else {
        return of_later_branch(archives, survey, asked, segment);
    };
    let text = match nearest.name.segment() {
        Some(there) => format!("{there} is there"),
        None => format!("{nearest} is there"),
    };
    let newest = survey.newest_of(segment.timeline).map(|(_, newest)| newest.clone());
    Ok(Some(Evidence::new(text, newest.into_iter().chain([nearest.clone()]).collect())))
}

/// Looks for a timeline whose way leaves the segment's own timeline after the segment. If there is one, the
/// segment was written, and recovery along that timeline needs it. Its history file is enough to show that.
///
/// What a history file says of its ancestors is what their own files say, so those are not read.
fn of_later_branch(
    archives: &Archives<'_>,
    near: &Survey,
    asked: &FileName,
    segment: SegmentName,
) -> Result<Option<Evidence>, RestoreError> {
    let (mut timelines, mut known) = (Timelines::default(), BTreeSet::new());
    let (mut known_size, mut read) = (archives.expected().segment_size, None);
    for (timeline, file) in near.histories_after(segment.timeline) {
        if known.contains(&timeline) {
            continue;
        }
        let Some(ancestors) = read_history(archives, file)? else { continue };
        known.extend(ancestors.iter().map(|ancestor| ancestor.timeline));
        timelines.add(timeline, Some(ancestors));
        let Some(switch) = timelines.left(segment.timeline, timeline) else { continue };
        let size = match known_size {
            Some(size) => size,
            None => {
                let survey = all(near, &mut read, archives, asked)?;
                *known_size.insert(size(archives, survey, file)?)
            }
        };
        // The switch's own segment is there as a copy under the new timeline's name.
        if segment >= SegmentName::holding(segment.timeline, switch, size) {
            continue;
        }
        let survey = all(near, &mut read, archives, asked)?;
        let question = Question { archives, survey, timelines: &timelines, size };
        if abandoned::before_it_was_written(&question, segment, timeline)? {
            continue;
        }
        let newest = survey.newest_of(timeline);
        let there = newest.map_or_else(|| file.to_string(), |(_, newest)| newest.to_string());
        let text =
            format!("timeline {timeline} branched off after it at {switch}, and {there} is there");
        let files = newest.map(|(_, newest)| newest.clone()).into_iter().chain([file.clone()]);
        return Ok(Some(Evidence::new(text, files.collect())));
    }
    Ok(None)
}

/// Returns what all the names show, and reads them where that was not done yet. Few questions need what lies before
/// the asked file.
fn all<'s>(
    near: &'s Survey,
    read: &'s mut Option<Survey>,
    archives: &Archives<'_>,
    asked: &FileName,
) -> Result<&'s Survey, Error> {
    if !near.is_whole && read.is_none() {
        *read = Some(Survey::whole(archives.visits(), asked)?);
    }
    Ok(read.as_ref().unwrap_or(near))
}

/// Looks for a history file that names a timeline as an ancestor. Returns that file, what it says of the
/// timeline's own ancestors, and otherwise the newest later history file there is.
pub(super) fn of_later_history(
    archives: &Archives<'_>,
    survey: &Survey,
    timeline: u32,
) -> Result<Later, RestoreError> {
    let (mut known, mut newest) = (BTreeSet::new(), None);
    for (later, file) in survey.histories_after(timeline) {
        newest.get_or_insert_with(|| file.clone());
        if known.contains(&later) {
            continue;
        }
        let Some(ancestors) = read_history(archives, file)? else { continue };
        if let Some(place) = ancestors.iter().position(|there| there.timeline == timeline) {
            let before = ancestors.into_iter().take(place).collect();
            return Ok(Later::Names { file: file.clone(), before });
        }
        known.extend(ancestors.iter().map(|ancestor| ancestor.timeline));
    }
    Ok(newest.map_or(Later::None, Later::Others))
}

/// What later history files say of a timeline.
pub(super) enum Later {
    /// This one names it as an ancestor, behind these.
    Names { file: StoredName, before: Vec<Ancestor> },
    /// There are some, of which this is the newest, and none names it.
    Others(StoredName),
    /// There is none.
    None,
}

/// Reads a history file where there is a sound one; `None` if it is gone by now.
fn read_history(
    archives: &Archives<'_>,
    file: &StoredName,
) -> Result<Option<Vec<Ancestor>>, RestoreError> {
    let mut damaged = None;
    for visit in archives.visits() {
        let Some(found) = visit.find(&file.into())? else { continue };
        let path = || found.path().to_owned();
        let read = examine::examine(&*found, &file.name, &Expectation::default(), &mut |_| Ok(()))
            .map_err(|e| Error::io(Action::ReadArchived, path(), e))?;
        let problem = match (read.problem, read.history) {
            (None, Some(ancestors)) => return Ok(Some(ancestors)),
            (Some(problem), _) => problem,
            (None, None) => Problem::new(FindingKind::Unreadable, "it was not read to its end"),
        };
        damaged.get_or_insert(RestoreError::Damaged { path: path(), problem });
    }
    damaged.map_or(Ok(None), Err)
}

/// Returns the cluster's segment size. Without the size, nobody knows whether a branch lies behind the
/// segment, and this must not count as the end of the WAL.
fn size(
    archives: &Archives<'_>,
    survey: &Survey,
    history: &StoredName,
) -> Result<SegmentSize, RestoreError> {
    let of = |file: &StoredName| {
        let header = archives.visits().find_map(|visit| listing::header(visit, file))?;
        SegmentSize::new(header.segment_size.into()).ok()
    };
    let sample = || survey.samples().iter().find_map(of);
    let known = archives.expected().segment_size.or_else(sample);
    known.ok_or_else(|| {
        let reason = "no segment that is there shows the segment size, without which nobody can tell where it branched off";
        let problem = Problem::new(FindingKind::Unreadable, reason);
        let there = |visit: &&dyn Visit| visit.holds(&history.into());
        let path = archives.visits().find(there).map(|visit| visit.location().join(history.to_string()));
        RestoreError::Damaged { path: path.unwrap_or_default(), problem }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::directory::Directory;
    use crate::store::{Progress, Store};

    /// A file that was published between the look-up and the list shows itself, and is looked at again.
    #[test]
    fn evidence_is_old_only_if_every_file_of_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let file = |name: &str, seconds| {
            let file = std::fs::File::create(temp.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
            StoredName::parse(name).unwrap()
        };
        let (old, new) = (file("00000002.history", 700), file("00000003.history", 5));
        let gone = StoredName::parse("00000004.history").unwrap();
        let (store, steps) = (Directory::at(temp.path()), Progress::default());
        let visit = store.visit(&steps).unwrap();
        let is_old = |files: &[&StoredName]| {
            let files = files.iter().map(|file| (*file).clone()).collect();
            Evidence::new(String::new(), files)
                .is_older_than(Duration::from_secs(600), || [&*visit])
        };
        assert!(is_old(&[&old]));
        assert!(!is_old(&[&old, &new]) && !is_old(&[&old, &gone]) && !is_old(&[]));
    }
}
