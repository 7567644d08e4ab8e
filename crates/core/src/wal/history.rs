//! Timeline history files.
//!
//! Source of the format: PostgreSQL's `readTimeLineHistory` in `access/transam/timeline.c`. Each line is an
//! ancestor: its timeline, the address where the next timeline branched off, and a reason.

use thiserror::Error;

use crate::wal::Lsn;

/// One ancestor of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: u32,
    /// Where the next timeline branched off: WAL of the ancestor counts up to here.
    pub switch: Lsn,
}

/// Why a history file cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryError {
    /// The file holds zero bytes.
    #[error("the file is not text")]
    NotText,
    /// A line lacks a timeline or an address.
    #[error("line {line} is not a timeline and an address: \"{text}\"")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// Timelines do not rise.
    #[error("line {line}: timeline {timeline} does not follow {before}")]
    Order {
        /// Number of the line, from 1.
        line: usize,
        /// The line's timeline.
        timeline: u32,
        /// What it should be above or, for the file's own timeline, below.
        before: u32,
    },
}

/// Reads a history file: the ancestors of `timeline`, oldest first.
///
/// # Errors
/// The first line that cannot be understood, or that the server would refuse.
pub fn parse(timeline: u32, contents: &[u8]) -> Result<Vec<Ancestor>, HistoryError> {
    // The reason is in the encoding of the server's messages, whatever that was, and the server ignores it.
    let text = String::from_utf8_lossy(contents);
    if text.contains('\0') {
        return Err(HistoryError::NotText);
    }
    let mut ancestors = Vec::new();
    let mut before = 0;
    for (line, text) in (1..).zip(text.lines()) {
        let content = text.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let mut fields = content.split_whitespace();
        let parsed = fields
            .next()
            .and_then(|tli| tli.parse().ok())
            .zip(fields.next().and_then(|lsn| lsn.parse().ok()));
        let Some((ancestor, switch)) = parsed else {
            return Err(HistoryError::Line { line, text: text.escape_default().to_string() });
        };
        if ancestor <= before || ancestor >= timeline {
            let limit = if ancestor <= before { before } else { timeline };
            return Err(HistoryError::Order { line, timeline: ancestor, before: limit });
        }
        before = ancestor;
        ancestors.push(Ancestor { timeline: ancestor, switch });
    }
    Ok(ancestors)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_history_of_the_servers_form_is_read() {
        let text = b"1\t0/3000158\tno recovery target specified\n\n# a comment\n2\t1/A000000\tbefore 2026-11-21\n";
        assert_eq!(
            parse(3, text).unwrap(),
            [
                Ancestor { timeline: 1, switch: Lsn(0x300_0158) },
                Ancestor { timeline: 2, switch: Lsn(0x1_0A00_0000) },
            ]
        );
    }

    #[test]
    fn damage_is_an_error() {
        for text in ["1", "x\t0/1", "1\t0-1", "2\t0/1\n1\t0/2", "3\t0/1", "0\t0/1"] {
            assert!(parse(3, text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(parse(3, &[0]), Err(HistoryError::NotText));
        assert!(parse(3, &[0xff]).is_err());
    }

    #[test]
    fn a_reason_in_another_encoding_is_passed_over() {
        // A restore point's name in Latin 1 made a whole history file corrupt.
        let ancestors = parse(2, b"1\t0/3000158\tat restore point \"\xfcber\"\n").unwrap();
        assert_eq!(ancestors, [Ancestor { timeline: 1, switch: Lsn(0x300_0158) }]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(dose::dose(64, 256)))]
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text in "[0-9\t/#\n A-F]{0,60}") {
            let _ = parse(3, &bytes);
            let _ = parse(u32::MAX, text.as_bytes());
        }
    }
}
