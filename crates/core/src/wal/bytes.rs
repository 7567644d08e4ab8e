//! Reads integers off the front of a byte slice, in the byte order of this machine.
//!
//! WAL is written in the native byte order of the server (`xlog_internal.h` dumps C structs), and an
//! archiver runs where its server runs, so `from_ne_bytes` reads it correctly. WAL that was carried to a
//! machine of the other byte order is recognised by its magic number and refused.

/// Takes `N` bytes off the front of `rest`, or leaves it as it is when there are fewer.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Takes a 16-bit integer.
pub(super) fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    take(rest).map(u16::from_ne_bytes)
}

/// Takes a 32-bit integer.
pub(super) fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest).map(u32::from_ne_bytes)
}

/// Takes a 64-bit integer.
pub(super) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_ne_bytes)
}
