//! What the measuring programs share.

/// Returns the processor time of this process (`RUSAGE_SELF`), or of its children that have ended
/// (`RUSAGE_CHILDREN`).
pub(crate) fn cpu_seconds(of: libc::c_int) -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is large enough for the result.
    unsafe { libc::getrusage(of, usage.as_mut_ptr()) };
    // SAFETY: zeroed at first, and filled in by the call: all its fields are numbers.
    let usage = unsafe { usage.assume_init() };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Returns the middle one of some values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
