//! What the archiver says about damaged WAL, under `check_wal = records`.

use std::collections::VecDeque;

use pgrx::PgSqlErrorCode;
use walsafe_core::wal::name::{FileKind, FileName, SegmentName};
use walsafe_core::wal::{Damage, Edges, Lsn, SegmentReport};
use walsafe_core::words;

use crate::report::Report;
use crate::settings;

/// How many ends of segments are kept for the segments behind them, and how many beginnings wait. The
/// server asks in order, except for history and partial files, so the next segment always comes soon
/// enough.
const EDGES: usize = 64;
/// How many files are remembered as reported.
const REMEMBERED: usize = 64;

/// Matches records across segments, and reports damage once for each file.
pub(crate) struct DamageWatch {
    edges: Edges,
    reported: VecDeque<(u32, Lsn)>,
}

impl DamageWatch {
    pub(crate) fn new() -> Self {
        Self { edges: Edges::new(EDGES), reported: VecDeque::new() }
    }

    /// Takes what the check of an archived file has shown, and reports what is wrong with it or, if a
    /// record crosses, with its neighbour. Returns the number of files reported.
    pub(crate) fn look(&mut self, name: &str, records: &SegmentReport) -> u64 {
        let mut files = 0;
        if let Some(first) = records.damage.first() {
            files += self.report(name, first, records.damage_count);
        }
        // A partial segment is no neighbour of the segments around it.
        let kind = FileName::new(name).map(|name| name.kind());
        if let Ok(FileKind::Segment(_)) = kind {
            for damage in self.edges.add(records).into_iter().filter_map(|met| met.damage) {
                let file =
                    SegmentName::holding(damage.timeline, damage.segment, settings::segment_size());
                files += self.report(&file.to_string(), &damage, 1);
            }
        }
        files
    }

    fn report(&mut self, file: &str, damage: &Damage, count: u64) -> u64 {
        let key = (damage.timeline, damage.segment);
        if self.reported.contains(&key) {
            return 0;
        }
        self.reported.push_back(key);
        if self.reported.len() > REMEMBERED {
            self.reported.pop_front();
        }
        let more = match count {
            0 | 1 => String::new(),
            places => {
                format!(" The file is damaged in {}.", words::count(places - 1, "more place"))
            }
        };
        Report {
            code: PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            message: format!("WAL file \"{file}\" is damaged"),
            detail: format!("\"{file}\": {damage}.{more} The file was archived nevertheless."),
            hint: "A recovery that needs this file will stop at the damage: take a new base backup, and check the storage of \"pg_wal\".".to_owned(),
        }
        .warn();
        1
    }
}
