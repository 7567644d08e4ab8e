//! The times in WAL records.
//!
//! Source: `TimestampTz` in PostgreSQL's `src/include/datatype/timestamp.h`, the same in 15 to 18:
//! microseconds since 2000-01-01 00:00:00 UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MICROS: i128 = 1_000_000;
const SECONDS_A_DAY: i128 = 24 * 60 * 60;
/// From 1970-01-01 to 2000-01-01, in seconds.
const EPOCH: i128 = 10_957 * SECONDS_A_DAY;
/// From 1 March of the year 0 to 1 January 1970. Years are counted from March, so that the day that
/// leap years have is the last one of its year.
const DAYS_TO_1970: i128 = 719_468;
/// In 400 years, after which the Gregorian calendar repeats itself.
const DAYS_A_CYCLE: i128 = 146_097;

/// A time in a WAL record, in microseconds since the year 2000, UTC.
///
/// Shown as the server shows it with `TimeZone = UTC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Why a text is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// It does not have the form of one.
    #[error("it is not a time such as \"2026-11-29 07:30:00+01\"")]
    Form,
    /// It lacks the offset from UTC.
    #[error("the time needs its offset from UTC, such as \"+01\" or \"Z\" at its end")]
    Zone,
}

/// Returns year, month and day of a day counted from 1 January 1970.
#[must_use]
pub fn date(days: i128) -> (i128, i128, i128) {
    let days = days + DAYS_TO_1970;
    let (cycle, day) = (days.div_euclid(DAYS_A_CYCLE), days.rem_euclid(DAYS_A_CYCLE));
    // Less the leap days: one in 4 years, none in 100, one in 400.
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months from March on have 153 days, and so have the next five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * cycle + year + next, month, day)
}

/// Returns the day's number, counted from 1 January 1970; `None` if there is no such day.
fn day_number(year: i128, month: i128, day: i128) -> Option<i128> {
    if !(1..=12).contains(&month) {
        return None;
    }
    let (from_march, year_) = if month > 2 { (month - 3, year) } else { (month + 9, year - 1) };
    let (cycle, of_cycle) = (year_.div_euclid(400), year_.rem_euclid(400));
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let of_cycle = of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year;
    let number = cycle * DAYS_A_CYCLE + of_cycle - DAYS_TO_1970;
    (date(number) == (year, month, day)).then_some(number)
}

impl Timestamp {
    /// Returns the same as a time of the system; `None` if the system has none such.
    #[must_use]
    pub fn system_time(self) -> Option<SystemTime> {
        let micros = i128::from(self.0) + EPOCH * MICROS;
        let span = Duration::from_micros(u64::try_from(micros.unsigned_abs()).ok()?);
        if micros < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = i128::from(self.0) + EPOCH * MICROS;
        let (seconds, fraction) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS));
        let (days, second) = (seconds.div_euclid(SECONDS_A_DAY), seconds.rem_euclid(SECONDS_A_DAY));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")?;
        if fraction != 0 {
            let digits = format!("{fraction:06}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("+00")
    }
}

/// Reads a whole number of up to `most` digits off the front.
fn number(text: &mut &str, most: usize) -> Option<i128> {
    let digits = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    *text = rest;
    number.parse().ok()
}

fn skip(text: &mut &str, what: &[char]) -> Option<()> {
    *text = text.strip_prefix(what)?;
    Some(())
}

/// Reads date, time of the day and, in microseconds, fraction off the front, without regard to the offset.
fn local(text: &mut &str) -> Option<i128> {
    let year = number(text, 4)?;
    skip(text, &['-'])?;
    let month = number(text, 2)?;
    skip(text, &['-'])?;
    let day = number(text, 2)?;
    skip(text, &[' ', 'T', 't'])?;
    let hour = number(text, 2)?;
    skip(text, &[':'])?;
    let minute = number(text, 2)?;
    let (mut second, mut fraction) = (0, 0);
    if skip(text, &[':']).is_some() {
        second = number(text, 2)?;
        if skip(text, &['.']).is_some() {
            let before = text.len();
            fraction = number(text, 6)?;
            for _ in before - text.len()..6 {
                fraction *= 10;
            }
            *text = text.trim_start_matches(|c: char| c.is_ascii_digit());
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = day_number(year, month, day)?;
    Some(((days * SECONDS_A_DAY + hour * 3600 + minute * 60 + second) * MICROS) + fraction)
}

/// Reads an offset from UTC, in seconds: `Z`, `UTC`, `+01`, `-0330`, `+05:30`.
fn offset(text: &str) -> Option<i128> {
    let mut text = text.trim();
    if ["z", "utc", "gmt"].contains(&&*text.to_ascii_lowercase()) {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    skip(&mut text, &['+', '-'])?;
    let hours = number(&mut text, 2)?;
    let _ = skip(&mut text, &[':']);
    let minutes = if text.is_empty() { 0 } else { number(&mut text, 2)? };
    (text.is_empty() && hours < 16 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Reads what the server prints and what RFC 3339 prescribes. The offset from UTC is not optional: the
    /// server would take that of its own setting, which nobody here knows.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let mut rest = text.trim();
        let local = local(&mut rest).ok_or(TimestampError::Form)?;
        if rest.trim().is_empty() {
            return Err(TimestampError::Zone);
        }
        let offset = offset(rest).ok_or(TimestampError::Form)?;
        let micros = local - (offset + EPOCH) * MICROS;
        i64::try_from(micros).map(Self).map_err(|_| TimestampError::Form)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Numbers as `SELECT extract(epoch FROM ...) - 946684800` gives them.
    #[test]
    fn a_time_is_read_and_shown_as_the_server_does() {
        for (text, micros, shown) in [
            ("2000-01-01 00:00:00+00", 0, "2000-01-01 00:00:00+00"),
            ("2026-11-29T07:30:00.5+01:00", 849_249_000_500_000, "2026-11-29 06:30:00.5+00"),
            ("2026-11-29 06:30Z", 849_249_000_000_000, "2026-11-29 06:30:00+00"),
            (
                "2024-02-29 23:59:59.123456-0330",
                762_578_999_123_456,
                "2024-03-01 03:29:59.123456+00",
            ),
            ("1999-12-31 23:59:59 UTC", -1_000_000, "1999-12-31 23:59:59+00"),
        ] {
            let time: Timestamp = text.parse().unwrap();
            assert_eq!(time.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(time), "{text}");
            assert_eq!(time, Timestamp(micros), "{text}");
        }
        assert_eq!(
            Timestamp(0).system_time().unwrap(),
            UNIX_EPOCH + Duration::from_secs(946_684_800)
        );
    }

    #[test]
    fn a_time_without_its_offset_and_what_is_not_a_time_are_refused() {
        assert_eq!("2026-11-29 06:30:00".parse::<Timestamp>(), Err(TimestampError::Zone));
        for text in [
            "",
            "2026-11-29",
            "2026-02-30 06:30Z",
            "2026-13-01 06:30Z",
            "2026-11-29 24:00Z",
            "2026-11-29 06:30X",
            "yesterday",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(TimestampError::Form), "{text}");
        }
    }

    #[test]
    fn times_at_the_edge_have_a_form() {
        for micros in [i64::MIN, i64::MAX] {
            assert!(!Timestamp(micros).to_string().is_empty());
            let _ = Timestamp(micros).system_time();
        }
    }
}
