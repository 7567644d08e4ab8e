//! WAL addresses and segment sizes.

use std::fmt;
use std::str::FromStr;

/// A position in the WAL stream, in bytes from its beginning (`XLogRecPtr`).
///
/// Shown and read as the server does: two hexadecimal halves, `0/3000028`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The address that is never valid: `InvalidXLogRecPtr`, shown as `0/0`.
    pub const INVALID: Self = Self(0);

    /// Returns whether this is `InvalidXLogRecPtr`.
    #[must_use]
    pub const fn is_invalid(self) -> bool {
        self.0 == 0
    }

    /// Returns the address `bytes` further on, or the last possible address if that is nearer.
    #[must_use]
    pub const fn advanced(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Returns how many bytes `self` lies behind `earlier`; 0 if it does not.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the address of the first byte of the segment that holds this one.
    #[must_use]
    pub const fn segment_start(self, size: SegmentSize) -> Self {
        Self(self.0 - self.segment_offset(size))
    }

    /// Returns the offset of this address in its segment's file.
    #[must_use]
    pub const fn segment_offset(self, size: SegmentSize) -> u64 {
        self.0 & (size.bytes() as u64 - 1)
    }

    /// Returns the start of segment `seg` of "log file" `log`, the second and third group of eight digits
    /// in a segment's file name.
    ///
    /// `None` when no segment of this size has that number: there are `4 GiB / size` of them in
    /// each `log` (`XLogFromFileName` in `xlog_internal.h`).
    #[must_use]
    pub const fn of_segment(log: u32, seg: u32, size: SegmentSize) -> Option<Self> {
        if seg >= size.per_log() {
            return None;
        }
        Some(Self(((log as u64) << 32) + seg as u64 * size.bytes() as u64))
    }

    /// Returns the two numbers in the file name of the segment that holds this address: `(log, seg)`.
    #[must_use]
    pub const fn segment_numbers(self, size: SegmentSize) -> (u32, u32) {
        let log = (self.0 >> 32) as u32;
        let seg = (self.0 & 0xFFFF_FFFF) as u32 / size.bytes();
        (log, seg)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not a WAL address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL address \"{0}\"")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    /// Reads what [`Display`](fmt::Display) writes; each half has one to eight hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len())
                && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB (`IsValidWalSegSize`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u32);

/// A number of bytes that no WAL segment can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid WAL segment size {0}: must be a power of two between 1 MB and 1 GB")]
pub struct InvalidSegmentSize(pub u64);

impl SegmentSize {
    /// What `initdb` chooses: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Accepts a valid segment size.
    ///
    /// # Errors
    /// The number is not a power of two, or out of range.
    pub const fn new(bytes: u64) -> Result<Self, InvalidSegmentSize> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            Ok(Self(bytes as u32))
        } else {
            Err(InvalidSegmentSize(bytes))
        }
    }

    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Returns how many segments of this size there are in 4 GiB of WAL, one "log file" of a name.
    #[must_use]
    pub const fn per_log(self) -> u32 {
        ((1_u64 << 32) / self.0 as u64) as u32
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_is_shown() {
        for (value, text) in [
            (0x0300_0028, "0/3000028"),
            (0, "0/0"),
            (0x16_B374_D848, "16/B374D848"),
            (u64::MAX, "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(Lsn(value).to_string(), text);
            assert_eq!(text.parse(), Ok(Lsn(value)));
        }
        assert_eq!("0/03000028".parse(), Ok(Lsn(0x0300_0028)));
    }

    #[test]
    fn a_text_that_is_not_an_address_is_refused() {
        for text in ["", "/", "0/", "/0", "0", "0/0/0", "+1/0", "0/123456789", "0/G", " 0/0", "0/é"]
        {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_powers_of_two_from_a_megabyte_to_a_gigabyte_are_segment_sizes() {
        for shift in 0..40 {
            assert_eq!(SegmentSize::new(1 << shift).is_ok(), (20..=30).contains(&shift));
        }
        assert!(SegmentSize::new(3 << 20).is_err());
        assert!(SegmentSize::new(0).is_err());
    }

    #[test]
    fn segment_names_and_addresses_agree() {
        let size = SegmentSize::DEFAULT;
        assert_eq!(Lsn::of_segment(0, 3, size), Some(Lsn(0x0300_0000)));
        assert_eq!(Lsn::of_segment(1, 0xFF, size), Some(Lsn(0x1_FF00_0000)));
        assert_eq!(Lsn::of_segment(1, 0x100, size), None);
        assert_eq!(Lsn(0x1_FF12_3456).segment_numbers(size), (1, 0xFF));
        assert_eq!(Lsn(0x1_FF12_3456).segment_start(size), Lsn(0x1_FF00_0000));
        assert_eq!(Lsn(0x1_FF12_3456).segment_offset(size), 0x12_3456);
        let small = SegmentSize::new(1 << 20).unwrap();
        assert_eq!(Lsn::of_segment(2, 0xFFF, small), Some(Lsn(0x2_FFF0_0000)));
        assert_eq!(Lsn::of_segment(2, 0x1000, small), None);
    }
}
