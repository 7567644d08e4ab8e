//! Where a proof begins: a base backup's label, or an address.

use thiserror::Error as ThisError;

use crate::wal::Lsn;

/// Where a recovery is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The address of the first record that is needed.
    pub lsn: Lsn,
    /// The timeline that the address is on; if it is not given, it is found from the newest timeline's
    /// history.
    pub timeline: Option<u32>,
    /// Where the backup's checkpoint record begins, if a backup is meant.
    pub checkpoint: Option<Lsn>,
    /// The address up to which a backup needs WAL to be consistent, if it is known.
    pub stop: Option<Lsn>,
    /// The timeline of that address, if it is known: the server wants both in the history it follows.
    pub stop_timeline: Option<u32>,
    /// The backup is consistent only behind the record that says so (`XLOG_BACKUP_END`): it was taken from a
    /// primary.
    pub end_record: bool,
}

/// Why a text is not a start.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum StartError {
    /// The line is missing or does not have its form.
    #[error("the line \"{0}\" is missing or cannot be understood")]
    Line(&'static str),
}

impl Start {
    /// Begins at an address.
    #[must_use]
    pub fn at(lsn: Lsn) -> Self {
        Self {
            lsn,
            timeline: None,
            checkpoint: None,
            stop: None,
            stop_timeline: None,
            end_record: false,
        }
    }

    /// Reads a `backup_label` or a backup history file (`build_backup_content` in
    /// `access/transam/xlogbackup.c`; `read_backup_label` in `xlogrecovery.c` says what the server makes of it).
    ///
    /// # Errors
    /// The start is missing from it.
    pub fn from_label(text: &str) -> Result<Self, StartError> {
        let value = |key| label_value(text, key);
        let address = |key| value(key).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let start = "START WAL LOCATION";
        let timeline = "START TIMELINE";
        Ok(Self {
            lsn: address(start).ok_or(StartError::Line(start))?,
            timeline: Some(
                value(timeline)
                    .and_then(|text| text.trim().parse().ok())
                    .ok_or(StartError::Line(timeline))?,
            ),
            checkpoint: address("CHECKPOINT LOCATION"),
            stop: address("STOP WAL LOCATION"),
            stop_timeline: None,
            end_record: value("BACKUP METHOD") == Some("streamed")
                && value("BACKUP FROM") != Some("standby"),
        })
    }
}

/// Returns what a label or a backup history file says in the first line that begins with this key.
pub(in crate::prove) fn label_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-21 07:00:00 UTC\nLABEL: weekly\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_tells_address_and_timeline() {
        let start = Start::from_label(LABEL).unwrap();
        let expected = Start {
            lsn: Lsn(0x200_0028),
            timeline: Some(1),
            checkpoint: Some(Lsn(0x200_0060)),
            stop: None,
            stop_timeline: None,
            end_record: true,
        };
        assert_eq!(start, expected);
        let standby = LABEL.replace("FROM: primary", "FROM: standby");
        assert!(!Start::from_label(&standby).unwrap().end_record);
        let history =
            format!("{LABEL}STOP WAL LOCATION: 0/2000138 (file 000000010000000000000002)\n");
        assert_eq!(Start::from_label(&history).unwrap().stop, Some(Lsn(0x200_0138)));
    }

    #[test]
    fn what_is_not_a_label_is_refused() {
        for text in ["", "START WAL LOCATION: x\nSTART TIMELINE: 1\n", "START WAL LOCATION: 0/1\n"]
        {
            assert!(Start::from_label(text).is_err(), "{text}");
        }
    }
}
