//! Small texts of the protocol: percent encoding, dates, hosts.

use std::net::IpAddr;
use std::time::SystemTime;

/// Encodes all but letters, digits and `-._~`, as signatures want it; slashes stay if they are `kept`.
pub(crate) fn percent_encode(text: &str, kept: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            b'/' if kept => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Decodes `%XX`; `None` if that is not text.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
            decoded.push(u8::try_from(value).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

/// Returns whether a host is this machine, by its name alone.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Returns a date as it stands in headers.
pub(crate) fn http_date_of(time: SystemTime) -> String {
    // The first day of all was a Thursday.
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let days =
        time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |past| past.as_secs() / 86_400);
    let name = |names: &[&'static str], at: Option<usize>| {
        at.and_then(|at| names.get(at)).copied().unwrap_or_default()
    };
    let weekday = name(&DAYS, usize::try_from(days % 7).ok());
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let (date, clock) = text.trim_end_matches('Z').split_once('T').unwrap_or_default();
    let mut parts = date.split('-');
    let mut part = || parts.next().unwrap_or_default();
    let (year, month, day) = (part(), part(), part());
    let month = name(&MONTHS, month.parse::<usize>().ok().and_then(|month| month.checked_sub(1)));
    format!("{weekday}, {day} {month} {year} {clock} GMT")
}

/// Reads a date as it stands in headers: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
pub(crate) fn http_date(text: &str) -> Option<SystemTime> {
    let mut parts = text.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        assert_eq!(percent_encode("a/b +ä~", true), "a/b%20%2B%C3%A4~");
        assert_eq!(percent_encode("a/b", false), "a%2Fb");
        assert_eq!(percent_decode("a%2Fb%C3%A4").as_deref(), Some("a/bä"));
        assert_eq!(
            (percent_decode("%4"), percent_decode("%zz"), percent_decode("%ff")),
            (None, None, None)
        );
    }

    #[test]
    fn a_date_in_a_header_is_read() {
        let at = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(humantime::format_rfc3339(at).to_string(), "1994-11-06T08:49:37Z");
        assert_eq!(http_date_of(at), "Sun, 06 Nov 1994 08:49:37 GMT");
        let text = http_date_of(SystemTime::UNIX_EPOCH);
        assert_eq!(text, "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date("yesterday"), None);
    }
}
