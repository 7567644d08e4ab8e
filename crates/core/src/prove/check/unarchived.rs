//! Before a promotion, or beside a lost server: what its `pg_wal` holds and the archive lacks.

use std::path::Path;

use super::{Check, Status, failed, made};
use crate::error::{Action, Error};
use crate::server::held::{self, Held};
use crate::store::lag::{self, Archived, Judge, Refusal};
use crate::store::{Progress, Visit, listing};
use crate::sys::buffer::Buffer;
use crate::wal::timeline::{Stretch, Stretches};
use crate::words;

const NAME: &str = "unarchived WAL";

/// Compares what a standby, or a server that does not run, holds with what the archive has. `None` for a
/// primary that runs: its archiver is at work on the same files.
pub(super) fn unarchived(visit: &dyn Visit, data_directory: &Path) -> Option<Check> {
    match held::nobody_archives(data_directory) {
        Ok(false) => None,
        // The check of the identity says so already.
        Err(_) => None,
        Ok(true) => Some(compare(visit, data_directory).unwrap_or_else(|e| failed(NAME, &e))),
    }
}

fn compare(visit: &dyn Visit, data_directory: &Path) -> Result<Check, Error> {
    // The server's side first: what is archived meanwhile is then seen in the archive.
    let held = Held::read(data_directory)?;
    let mut archived = Archived::read(visit, &held)?;
    let progress = Progress::default();
    let mut buffer =
        Buffer::new().map_err(|e| Error::io(Action::ReserveMemory, visit.location(), e))?;
    let (mut lacking, mut count, mut refused) = (Stretches::new(), 0_u64, Vec::new());
    let segments: Vec<_> = archived.lacks(&held).collect();
    let mut judge = Judge::new(&held, visit, &progress);
    for segment in segments {
        match judge.judge(&archived, segment, &mut buffer)? {
            None => {
                let stretch = Stretch { from: segment.start, to: held.behind(segment.start) };
                lacking.insert(stretch).map_err(|_| listing::no_memory(visit))?;
                archived.note(&held, segment)?;
                count += 1;
            }
            Some(refusal) => {
                let foreign = matches!(refusal, Refusal::Foreign(_));
                refused.push((segment.name, refusal));
                if foreign {
                    break;
                }
            }
        }
    }
    let histories = held.histories.iter().filter(|there| held.is_own(**there));
    let histories: Vec<String> = histories
        .filter(|there| !archived.histories.contains(there))
        .map(|there| format!("{there:08X}.history"))
        .collect();
    let runs = lacking.iter().flat_map(|stretch| lag::runs(&held, stretch));
    let names: Vec<String> =
        histories.into_iter().chain(runs.map(|run| lag::range(&run))).collect();
    let mut sentences = Vec::new();
    if !names.is_empty() {
        let data = data_directory.display();
        let archive = visit.location().display();
        let segments = match count {
            0 => String::new(),
            some => format!(", {}", words::count(some, "complete segment")),
        };
        sentences.push(format!(
            "\"pg_wal\" holds what the archive lacks{segments}: {}. Run \"walsafe push --pgdata {data} {archive}\", before a promotion or a checkpoint removes it",
            names.join(", ")
        ));
    }
    for (name, refusal) in &refused {
        sentences.push(match refusal {
            Refusal::Damaged(reason) => format!("{name} is not archived and not whole: {reason}"),
            Refusal::Foreign(reason) => format!(
                "{name} is not of the history that is in the archive: {reason}. Two servers wrote from one point on: give one of them an archive of its own"
            ),
        });
    }
    let missing = archived.missing(&held, None);
    let missing: Vec<String> = missing.iter().map(lag::range).collect();
    if !missing.is_empty() {
        sentences.push(format!(
            "the archive lacks {}, and \"pg_wal\" has no sound copy of that either: look for it in the \"pg_wal\" of other servers, or take a new base backup",
            missing.join(", ")
        ));
    }
    let foreign = refused.iter().any(|(_, refusal)| matches!(refusal, Refusal::Foreign(_)));
    Ok(if foreign {
        made(NAME, Status::Error, joined(&sentences))
    } else if sentences.is_empty() {
        made(NAME, Status::Ok, nothing_lacks(held.segments.len(), held.timeline))
    } else {
        made(NAME, Status::Warning, joined(&sentences))
    })
}

/// Puts sentences together. One stands alone, without a full stop.
fn joined(sentences: &[String]) -> String {
    match sentences {
        [one] => one.clone(),
        many => many.iter().map(|text| words::sentence(text)).collect::<Vec<_>>().join(" "),
    }
}

/// Says that the archive has whatever there is.
fn nothing_lacks(segments: usize, timeline: u32) -> String {
    let of = format!("of timeline {timeline} and its ancestors");
    match segments {
        0 => format!("\"pg_wal\" holds no complete segment {of}"),
        1 => format!("the archive has the one complete segment {of} in \"pg_wal\""),
        many => format!("the archive has all {many} complete segments {of} in \"pg_wal\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "the archive has all 0 complete segments", of an archive in which nothing lay.
    #[test]
    fn no_segment_is_not_all_of_them() {
        for (segments, begin) in [
            (0, "\"pg_wal\" holds no complete segment of timeline 1 "),
            (1, "the archive has the one complete segment of timeline 1 "),
            (2, "the archive has all 2 complete segments of timeline 1 "),
        ] {
            let said = nothing_lacks(segments, 1);
            assert!(said.starts_with(begin), "{said}");
        }
    }
}
