//! Where a recovery is to end, and for which timeline it heads: the `recovery_target` settings.

use std::fmt;
use std::str::FromStr;

use crate::wal::Lsn;
use crate::wal::kinds::Kind;
use crate::wal::timestamp::Timestamp;

/// Where a recovery is to end: one of the server's `recovery_target_...` settings, inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// `recovery_target_time`: before the first transaction that ended later.
    Time(Timestamp),
    /// `recovery_target_lsn`: behind the first record at or after this address.
    Lsn(Lsn),
    /// `recovery_target_name`: at the first restore point of this name.
    Name(String),
    /// `recovery_target_xid`: behind the end of this transaction.
    Xid(u32),
}

/// For which timeline a recovery heads: the server's `recovery_target_timeline`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest one that the search for history files finds, which is the server's default.
    #[default]
    Latest,
    /// The backup's own.
    Current,
    /// This one.
    Number(u32),
}

impl FromStr for Until {
    type Err = String;

    /// Reads what `--until` takes. The prefixes `time:`, `lsn:`, `name:` and `xid:` decide; without one, a whole
    /// number is a transaction, an address is an address, and what begins like a date is a time.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time =
            |text: &str| text.parse().map(Self::Time).map_err(|e| format!("\"{text}\": {e}"));
        let bad = |what: &str| format!("\"{text}\" is not {what}");
        match text.split_once(':') {
            Some(("time", text)) => return time(text),
            Some(("lsn", lsn)) => {
                return lsn.parse().map(Self::Lsn).map_err(|_| bad("an LSN such as lsn:0/3000028"));
            }
            Some(("xid", xid)) => {
                return xid
                    .parse()
                    .map(Self::Xid)
                    .map_err(|_| bad("a transaction such as xid:738"));
            }
            Some(("name", name)) if !name.is_empty() => return Ok(Self::Name(name.to_owned())),
            _ => {}
        }
        if text.is_empty() {
            return Err("a target is empty".to_owned());
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Xid).map_err(|_| bad("a transaction's number"));
        }
        if let Ok(lsn) = text.parse() {
            return Ok(Self::Lsn(lsn));
        }
        let date = |at: usize, byte: u8| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        let begins_like_a_date =
            text.len() >= 10 && text.bytes().take(10).enumerate().all(|(at, byte)| date(at, byte));
        if begins_like_a_date { time(text) } else { Ok(Self::Name(text.to_owned())) }
    }
}

impl fmt::Display for Until {
    /// The setting, as it stands in `postgresql.conf`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "recovery_target_time = '{time}'"),
            Self::Lsn(lsn) => write!(f, "recovery_target_lsn = '{lsn}'"),
            Self::Name(name) => write!(f, "recovery_target_name = '{name}'"),
            Self::Xid(xid) => write!(f, "recovery_target_xid = '{xid}'"),
        }
    }
}

impl FromStr for TargetTimeline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Self::Latest),
            "current" => Ok(Self::Current),
            number => match number.parse() {
                Ok(number) if number > 0 => Ok(Self::Number(number)),
                _ => Err("it is \"latest\", \"current\" or the number of a timeline".to_owned()),
            },
        }
    }
}

impl fmt::Display for TargetTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Current => f.write_str("current"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl Until {
    /// Returns whether a recovery ends before this record (`recoveryStopsBefore`).
    pub(super) fn stops_before(&self, kind: &Kind) -> bool {
        match (self, kind) {
            (Self::Time(target), Kind::TransactionEnd { time, .. }) => time > target,
            _ => false,
        }
    }

    /// Returns whether a recovery ends behind this record (`recoveryStopsAfter`).
    pub(super) fn stops_after(&self, lsn: Lsn, kind: Option<&Kind>) -> bool {
        match (self, kind) {
            (Self::Lsn(target), _) => lsn >= *target,
            (Self::Name(target), Some(Kind::RestorePoint { name, .. })) => name == target,
            (Self::Xid(target), Some(Kind::TransactionEnd { xid, .. })) => *xid == Some(*target),
            _ => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_what_it_looks_like_unless_it_says_so() {
        for (text, shown) in [
            ("738", "recovery_target_xid = '738'"),
            ("0/3000028", "recovery_target_lsn = '0/3000028'"),
            ("2026-11-29 07:30:00+01", "recovery_target_time = '2026-11-29 06:30:00+00'"),
            ("before the release", "recovery_target_name = 'before the release'"),
            ("name:738", "recovery_target_name = '738'"),
            ("a:b", "recovery_target_name = 'a:b'"),
            ("time:2026-11-29T06:30Z", "recovery_target_time = '2026-11-29 06:30:00+00'"),
            ("xid:7", "recovery_target_xid = '7'"),
            ("lsn:1/2", "recovery_target_lsn = '1/2'"),
        ] {
            assert_eq!(text.parse::<Until>().unwrap().to_string(), shown, "{text}");
        }
        for text in ["", "2026-11-29 06:30:00", "2026-11-29", "xid:x", "lsn:7", "99999999999"] {
            assert!(text.parse::<Until>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_timeline_is_latest_current_or_a_number() {
        for text in ["latest", "current", "7"] {
            assert_eq!(text.parse::<TargetTimeline>().unwrap().to_string(), text);
        }
        for text in ["", "0", "x", "-1"] {
            assert!(text.parse::<TargetTimeline>().is_err(), "{text}");
        }
    }
}
