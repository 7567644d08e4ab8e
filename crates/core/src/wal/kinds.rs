//! Records that decide where a recovery goes and where it ends, and what they hold.
//!
//! Sources, compared for PostgreSQL 15 to 18: resource managers in `access/rmgrlist.h`; the order of the
//! headers in a record in `access/xlogrecord.h` and `DecodeXLogRecord` in `xlogreader.c`; the records of
//! `RM_XLOG_ID` and `CheckPoint` in `catalog/pg_control.h`; `xl_parameter_change`, `xl_restore_point` and
//! `xl_end_of_recovery` in `access/xlog_internal.h`; those of `RM_XACT_ID` in `access/xact.h` and
//! `ParseCommitRecord` in `rmgrdesc/xactdesc.c`. What a recovery does with each is in `xlogrecovery.c`
//! (`recoveryStopsBefore`, `recoveryStopsAfter`, `xlogrecovery_redo`, `checkTimeLineSwitch`) and in
//! `xlog_redo` of `xlog.c`.

use super::bytes::{take, take_u32, take_u64};
use super::lsn::Lsn;
use super::record::RecordHeader;
use super::timestamp::Timestamp;

/// `RM_XLOG_ID` and `RM_XACT_ID`, the resource managers whose records are read here.
const RMGR_XLOG: u8 = 0;
const RMGR_XACT: u8 = 1;

/// How many bytes of a record, its header included, [`Kind::read`] needs at most. Only a prepared
/// transaction with more than some hundred subtransactions, dropped relations or invalidations has its number
/// behind them.
pub const WANTED: usize = 4096;

/// `WAL_LEVEL_MINIMAL` in `access/xlog.h`.
const MINIMAL: u32 = 0;

/// What a record is, of those that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A checkpoint, `CheckPoint`.
    Checkpoint {
        /// Where a recovery from it begins to replay.
        redo: Lsn,
        /// Its timeline, and the one before if it begins one.
        timeline: u32,
        /// The same as `timeline` if it begins none.
        previous: u32,
        /// It was written at shutdown, and so may begin a timeline.
        shutdown: bool,
    },
    /// `XLOG_END_OF_RECOVERY`: a timeline begins.
    EndOfRecovery {
        /// The new timeline.
        timeline: u32,
        /// The one before.
        previous: u32,
    },
    /// `XLOG_BACKUP_END`: the base backup that began here is complete.
    BackupEnd {
        /// The backup's `START WAL LOCATION`.
        start: Lsn,
    },
    /// `XLOG_PARAMETER_CHANGE`.
    ParameterChange {
        /// From here on, `wal_level` is `minimal`: no archive recovery goes past it.
        minimal: bool,
    },
    /// `XLOG_RESTORE_POINT`, made by `pg_create_restore_point`.
    RestorePoint {
        /// When it was made.
        time: Timestamp,
        /// Its name.
        name: String,
    },
    /// A transaction ended, prepared or not.
    TransactionEnd {
        /// Its number; `None` if that lies behind the bytes at hand.
        xid: Option<u32>,
        /// When it ended.
        time: Timestamp,
        /// It was committed, and not aborted.
        commit: bool,
    },
}

impl Kind {
    /// Returns whether a record of this resource manager can be of any kind here.
    #[must_use]
    pub const fn is_of(rmgr: u8) -> bool {
        matches!(rmgr, RMGR_XLOG | RMGR_XACT)
    }

    /// Reads a record from the bytes behind its header, or the first of them ([`WANTED`]). `version` is the
    /// major version of the server that wrote it, if it is known.
    ///
    /// `None` if the record is of no kind that matters, or too short for its own.
    #[must_use]
    pub fn read(header: &RecordHeader, data: &[u8], version: Option<u8>) -> Option<Self> {
        match header.rmgr {
            RMGR_XLOG => of_xlog(header.info & 0xF0, main_data(data)?),
            RMGR_XACT => of_transaction(header, main_data(data)?, version),
            _ => None,
        }
    }
}

/// Returns a record's own data, as far as it is there. None of the records here refers to a block.
fn main_data(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let length = match take::<1>(&mut rest)? {
            // `XLR_BLOCK_ID_DATA_SHORT` and `_LONG`, `_ORIGIN`, `_TOPLEVEL_XID`.
            [255] => take::<1>(&mut rest).map(|[length]| u32::from(length))?,
            [254] => take_u32(&mut rest)?,
            [253] => {
                take::<2>(&mut rest)?;
                continue;
            }
            [252] => {
                take::<4>(&mut rest)?;
                continue;
            }
            _ => return None,
        };
        return Some(rest.get(..length as usize).unwrap_or(rest));
    }
}

fn of_xlog(info: u8, mut data: &[u8]) -> Option<Kind> {
    let data = &mut data;
    Some(match info {
        0x00 | 0x10 => Kind::Checkpoint {
            redo: Lsn(take_u64(data)?),
            timeline: take_u32(data)?,
            previous: take_u32(data)?,
            shutdown: info == 0x00,
        },
        0x50 => Kind::BackupEnd { start: Lsn(take_u64(data)?) },
        0x60 => {
            // `wal_level` is the sixth number.
            take::<20>(data)?;
            Kind::ParameterChange { minimal: take_u32(data)? == MINIMAL }
        }
        0x70 => {
            let time = timestamp(data)?;
            let name = data.split(|byte| *byte == 0).next().unwrap_or_default();
            Kind::RestorePoint { time, name: String::from_utf8_lossy(name).into_owned() }
        }
        0x90 => {
            take::<8>(data)?;
            Kind::EndOfRecovery { timeline: take_u32(data)?, previous: take_u32(data)? }
        }
        _ => return None,
    })
}

fn timestamp(data: &mut &[u8]) -> Option<Timestamp> {
    take(data).map(|bytes| Timestamp(i64::from_ne_bytes(bytes)))
}

fn of_transaction(header: &RecordHeader, mut data: &[u8], version: Option<u8>) -> Option<Kind> {
    // `XLOG_XACT_OPMASK`: commit, abort, commit prepared, abort prepared.
    let (commit, prepared) = match header.info & 0x70 {
        0x00 => (true, false),
        0x20 => (false, false),
        0x30 => (true, true),
        0x40 => (false, true),
        _ => return None,
    };
    let time = timestamp(&mut data)?;
    let has_info = header.info & 0x80 != 0;
    let xid = if prepared { number_of_prepared(data, has_info, version) } else { Some(header.xid) };
    Some(Kind::TransactionEnd { xid, time, commit })
}

/// Finds the number of a prepared transaction, behind everything else that the record has.
fn number_of_prepared(mut data: &[u8], has_info: bool, version: Option<u8>) -> Option<u32> {
    // `XACT_XINFO_HAS_...`
    const DBINFO: u32 = 1;
    const SUBXACTS: u32 = 1 << 1;
    const RELATIONS: u32 = 1 << 2;
    const INVALS: u32 = 1 << 3;
    const TWOPHASE: u32 = 1 << 4;
    const STATS: u32 = 1 << 8;
    let data = &mut data;
    let xinfo = if has_info { take_u32(data)? } else { 0 };
    if xinfo & DBINFO != 0 {
        take::<8>(data)?;
    }
    // `xl_xact_stats_item` grew in 18.
    let stats = if version.is_some_and(|version| version < 18) { 12 } else { 16 };
    // A count, and so many items of so many bytes, in this order.
    for (flag, bytes) in [(SUBXACTS, 4), (RELATIONS, 12), (STATS, stats), (INVALS, 16)] {
        if xinfo & flag != 0 {
            let count = take_u32(data)? as usize;
            *data = data.get(count.checked_mul(bytes)?..)?;
        }
    }
    if xinfo & TWOPHASE != 0 { take_u32(data) } else { None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(rmgr: u8, info: u8) -> RecordHeader {
        RecordHeader { length: 0, xid: 7, prev: Lsn::INVALID, info, rmgr, crc: 0 }
    }

    fn short(data: &[u8]) -> Vec<u8> {
        [&[255, data.len() as u8], data].concat()
    }

    #[test]
    fn a_commit_is_read_behind_an_origin_and_a_top_level_transaction() {
        let commit = Kind::TransactionEnd { xid: Some(7), time: Timestamp(5), commit: true };
        let data = short(&5_i64.to_ne_bytes());
        assert_eq!(Kind::read(&header(1, 0), &data, None), Some(commit.clone()));
        let data = [&[253, 1, 0, 252, 9, 0, 0, 0][..], &data].concat();
        assert_eq!(Kind::read(&header(1, 0), &data, None), Some(commit));
    }

    #[test]
    fn the_number_of_a_prepared_transaction_lies_behind_everything_else() {
        for (version, stats) in [(15, 12), (17, 12), (18, 16)] {
            let mut data = 5_i64.to_ne_bytes().to_vec();
            data.extend(0x11F_u32.to_ne_bytes());
            data.extend([0; 8]);
            for (count, bytes) in [(3_u32, 4), (1, 12), (2, stats), (1, 16)] {
                data.extend(count.to_ne_bytes());
                data.resize(data.len() + count as usize * bytes, 1);
            }
            data.extend(42_u32.to_ne_bytes());
            let read = Kind::read(&header(1, 0xB0), &short(&data), Some(version));
            let expected = Kind::TransactionEnd { xid: Some(42), time: Timestamp(5), commit: true };
            assert_eq!(read, Some(expected), "{version}");
        }
        // Of a long one, only the beginning is at hand.
        let data = short(
            &[&5_i64.to_ne_bytes()[..], &0x12_u32.to_ne_bytes(), &900_u32.to_ne_bytes()].concat(),
        );
        let read = Kind::read(&header(1, 0xC0), &data, Some(15));
        let expected = Kind::TransactionEnd { xid: None, time: Timestamp(5), commit: false };
        assert_eq!(read, Some(expected));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(rmgr in 0_u8..3, info: u8, data: Vec<u8>, version in 14_u8..20) {
            let _ = Kind::read(&header(rmgr, info), &data, Some(version));
        }
    }
}
