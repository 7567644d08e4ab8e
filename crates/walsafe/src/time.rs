//! Times as text.

use std::time::{SystemTime, UNIX_EPOCH};

use walsafe_core::wal::timestamp::date;

const SECONDS_A_DAY: i128 = 24 * 60 * 60;

/// Returns a time in the form of RFC 3339: UTC, fractions of a second cut off.
///
/// A year that this form has no room for, before 0 or after 9999, gets a sign, and the digits it
/// needs (ISO 8601, expanded representation). Never fails: file systems keep such times, and a
/// broken clock or a tool that copies files sets them.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let seconds = match at.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::from(after.as_secs()),
        Err(before) => {
            let before = before.duration();
            -i128::from(before.as_secs()) - i128::from(before.subsec_nanos() > 0)
        }
    };
    let (days, second) = (seconds.div_euclid(SECONDS_A_DAY), seconds.rem_euclid(SECONDS_A_DAY));
    let (year, month, day) = date(days);
    let year =
        if (0..=9999).contains(&year) { format!("{year:04}") } else { format!("{year:+05}") };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(seconds: i64) -> String {
        let span = Duration::from_secs(seconds.unsigned_abs());
        rfc3339(if seconds < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span })
    }

    /// As `date -u -d @SECONDS` shows them.
    #[test]
    fn times_are_shown_as_the_system_shows_them() {
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(shown(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(shown(1_709_164_800), "2024-02-29T00:00:00Z");
        assert_eq!(shown(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(shown(1_795_903_629), "2026-11-28T22:07:09Z");
        assert_eq!(shown(253_402_300_799), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn times_before_1970_and_after_9999_are_shown_too() {
        assert_eq!(shown(-1), "1969-12-31T23:59:59Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_nanos(1)), "1969-12-31T23:59:59Z");
        assert_eq!(shown(-2_208_988_800), "1900-01-01T00:00:00Z");
        assert_eq!(shown(253_402_300_800), "+10000-01-01T00:00:00Z");
        assert_eq!(shown(-62_167_219_201), "-0001-12-31T23:59:59Z");
        assert!(shown(i64::MAX).starts_with("+292277026596-12-04T"));
        assert!(shown(i64::MIN).starts_with("-292277022657-01-27T"));
    }
}
