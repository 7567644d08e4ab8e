//! How far a server has come, by its control file, and whether it runs.
//!
//! Source of the format: `ControlFileData` and `DBState` in PostgreSQL's `catalog/pg_control.h`. What is read
//! here lies at the same place in the layouts of 15 to 18, and was compared with what `pg_controldata` says
//! on clusters of each.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::control::{self, ControlFile};
use super::postmaster;
use crate::error::Error;
use crate::sys;
use crate::wal::Lsn;
use crate::wal::segment::Cluster;

const STATE_AT: usize = 16;
const CHECKPOINT_AT: usize = 32;
const REDO_AT: usize = 40;

/// `DB_SHUTDOWNED_IN_RECOVERY`.
const SHUT_DOWN_IN_RECOVERY: u32 = 2;
/// `DB_IN_ARCHIVE_RECOVERY`.
const IN_ARCHIVE_RECOVERY: u32 = 5;

/// What a data directory says of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which cluster it is.
    pub cluster: Cluster,
    /// The newest timeline that the control file names: of the last checkpoint, or reached in recovery.
    pub timeline: u32,
    /// WAL before this address was whole and flushed when the control file was written.
    pub flushed: Lsn,
    /// It is a standby, or in any other recovery from an archive; or it was when it stopped.
    pub in_recovery: bool,
}

impl Position {
    /// Reads the control file of a data directory, also of a running server.
    ///
    /// # Errors
    /// The file could not be read, is not sound, or has a layout that this version does not know.
    pub fn read(data_directory: &Path) -> Result<Self, Error> {
        let (control, contents) = ControlFile::with_contents(data_directory)?;
        Self::parse(&control, &contents, data_directory).ok_or_else(|| Error::BadControlFile {
            path: data_directory.join(control::PATH),
            reason: format!("its layout {} is not known to this version", control.version),
        })
    }

    /// Reads the contents of a control file; `None` for a layout that this version does not know.
    pub(super) fn parse(
        control: &ControlFile,
        contents: &[u8],
        data_directory: &Path,
    ) -> Option<Self> {
        let segment_size = control.segment_size?;
        let number = |at: usize| {
            contents.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_ne_bytes)
        };
        let address = |at: usize| {
            let bytes = contents.get(at..).and_then(|rest| rest.first_chunk()).copied();
            bytes.map(|bytes| Lsn(u64::from_ne_bytes(bytes)))
        };
        let state = number(STATE_AT)?;
        Some(Self {
            cluster: Cluster { system_identifier: control.system_identifier, segment_size },
            timeline: control.timeline.unwrap_or(1),
            flushed: address(CHECKPOINT_AT)?
                .max(address(REDO_AT)?)
                .max(control.minimum.unwrap_or_default()),
            in_recovery: matches!(state, SHUT_DOWN_IN_RECOVERY | IN_ARCHIVE_RECOVERY)
                || postmaster::recovers(data_directory),
        })
    }
}

/// Returns whether a server seems to run in a data directory. A number in `postmaster.pid` that belongs to
/// another process by now does not count: a postmaster works in its data directory.
#[must_use]
pub fn seems_to_run(data_directory: &Path) -> bool {
    let number = postmaster::number(data_directory);
    let Some(pid) = number.and_then(|number| u32::try_from(number.unsigned_abs()).ok()) else {
        return false;
    };
    let place = |path: &Path| std::fs::metadata(path).map(|there| (there.dev(), there.ino())).ok();
    let working = place(Path::new(&format!("/proc/{pid}/cwd")));
    // Where that cannot be told, as for another user's process, it counts.
    sys::process_runs(pid) && working.is_none_or(|working| place(data_directory) == Some(working))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn data_directory(state: u32) -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 8192];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&1300_u32.to_ne_bytes());
        bytes[228..232].copy_from_slice(&(1_u32 << 20).to_ne_bytes());
        bytes[STATE_AT..][..4].copy_from_slice(&state.to_ne_bytes());
        for (at, lsn) in [(CHECKPOINT_AT, 0x30_0028_u64), (REDO_AT, 0x30_0000)] {
            bytes[at..][..8].copy_from_slice(&lsn.to_ne_bytes());
        }
        bytes[control::CHECKPOINT_TIMELINE_AT..][..4].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[control::MINIMUM_AT..][..8].copy_from_slice(&0x50_0000_u64.to_ne_bytes());
        bytes[control::RECOVERY_TIMELINE_AT..][..4].copy_from_slice(&2_u32.to_ne_bytes());
        let crc = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.to_ne_bytes());
        std::fs::create_dir(temp.path().join("global")).unwrap();
        std::fs::write(temp.path().join(control::PATH), bytes).unwrap();
        temp
    }

    #[test]
    fn the_farthest_of_what_the_control_file_names_counts() {
        let temp = data_directory(6);
        let position = Position::read(temp.path()).unwrap();
        assert_eq!((position.timeline, position.flushed), (2, Lsn(0x50_0000)));
        assert!(!position.in_recovery);
        std::fs::write(temp.path().join("standby.signal"), "").unwrap();
        assert!(Position::read(temp.path()).unwrap().in_recovery);
        assert!(Position::read(data_directory(5).path()).unwrap().in_recovery);
        assert!(Position::read(data_directory(2).path()).unwrap().in_recovery);
    }

    /// A server that was killed leaves its number, and another process gets it.
    #[test]
    fn a_process_that_works_elsewhere_is_not_this_server() {
        let temp = tempfile::tempdir().unwrap();
        assert!(!seems_to_run(temp.path()));
        let write = |pid| std::fs::write(temp.path().join("postmaster.pid"), pid).unwrap();
        write(format!("{}\n/data\n", std::process::id()));
        assert!(!seems_to_run(temp.path()));
        let here = std::env::current_dir().unwrap();
        let ours = here.join("postmaster.pid");
        assert!(!ours.exists());
        write("99999999\n".to_owned());
        assert!(!seems_to_run(temp.path()));
    }
}
