//! How much a run of the tests does of what is random, or is too much for each run: cases, kills, power cuts,
//! flipped bits, seconds of a soak.
//!
//! `WALSAFE_DOSE` decides for all tests alike: `small`, the default, for a run during the work, or `full`,
//! as `make test-all` sets it.

use std::io::Write;

/// The number for this run. The test itself calls this, and is noted for `tools/run-tests`: a run with a
/// larger dose repeats only those tests.
///
/// # Panics `WALSAFE_DOSE` has another value.
#[must_use]
pub fn dose<T>(small: T, full: T) -> T {
    if let Some(list) = std::env::var_os("WALSAFE_DOSED") {
        let test = std::thread::current().name().expect("a test's own thread").to_owned();
        // One write, so that programs running side by side do not mix their lines.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&list)
            .and_then(|mut file| file.write_all(format!("{test}\n").as_bytes()))
            .unwrap_or_else(|error| panic!("could not write to {}: {error}", list.display()));
    }
    match std::env::var("WALSAFE_DOSE").as_deref() {
        Ok("small") | Err(_) => small,
        Ok("full") => full,
        Ok(other) => panic!("WALSAFE_DOSE is small or full, not \"{other}\""),
    }
}
