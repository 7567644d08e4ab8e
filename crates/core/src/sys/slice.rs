//! Parts of slices that the code around them has already made sure of.

use std::slice::SliceIndex;

/// Returns a part of some bytes that must be there.
///
/// A range that is not is a mistake in this program, and an empty slice in its place would go on as a
/// wrong digest or a short file. So this panics: in a thread of the archiver, and at the boundary to the
/// server's code, a panic is caught and reported as an internal error, and the file is tried again.
///
/// # Panics
/// The range does not lie in the bytes.
#[must_use]
#[track_caller]
pub fn part<R: SliceIndex<[u8], Output = [u8]>>(bytes: &[u8], range: R) -> &[u8] {
    let len = bytes.len();
    bytes.get(range).unwrap_or_else(|| outside(len))
}

/// The same, to be filled.
///
/// # Panics
/// The range does not lie in the bytes.
#[must_use]
#[track_caller]
pub fn part_mut<R: SliceIndex<[u8], Output = [u8]>>(bytes: &mut [u8], range: R) -> &mut [u8] {
    let len = bytes.len();
    bytes.get_mut(range).unwrap_or_else(|| outside(len))
}

#[track_caller]
#[allow(
    clippy::panic,
    reason = "only a mistake in this program leads here, and a guard catches it"
)]
fn outside(len: usize) -> ! {
    panic!("a range lies outside of a slice of {len} bytes")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_part_is_what_was_asked_for() {
        let mut bytes = *b"wal";
        assert_eq!(part(&bytes, ..2), b"wa");
        assert_eq!(part(&bytes, 3..), b"");
        part_mut(&mut bytes, 1..).fill(b'x');
        assert_eq!(&bytes, b"wxx");
    }

    /// With `unwrap_or_default` it was no byte at all, and the digest that of nothing.
    #[test]
    fn a_part_that_is_not_there_is_a_panic_and_never_an_empty_one() {
        let panic = std::panic::catch_unwind(|| part(b"wal", 2..5).len()).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert_eq!(message, "a range lies outside of a slice of 3 bytes");
    }
}
