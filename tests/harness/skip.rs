//! Tests that this machine cannot run. They are announced and counted as skipped, never as passed.

use std::io::Write;
use std::path::PathBuf;

/// Returns from a test, recorded as skipped, when something it needs is missing:
/// `require!(privileged());`, `require!(tool("bindfs"));`.
#[macro_export]
macro_rules! require {
    ($condition:expr) => {
        if let Err(reason) = $condition {
            $crate::skip(&reason);
            return;
        }
    };
}

/// Records the running test as skipped, on standard error and for `tools/run-tests`.
pub fn skip(reason: &str) {
    let program = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .unwrap_or_default();
    // cargo adds a hash to the program's name.
    let program = program.rsplit_once('-').map_or(&*program, |(name, _)| name);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a thread of its own");
    eprintln!("SKIPPED: {program} {test}: {reason}");
    if let Some(list) = std::env::var_os("WALSAFE_SKIPS") {
        // One write, so that programs running side by side do not mix their lines.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&list)
            .and_then(|mut file| file.write_all(format!("{program} {test}\t{reason}\n").as_bytes()))
            .unwrap_or_else(|error| panic!("could not write to {}: {error}", list.display()));
    }
}

/// Whether file systems can be mounted here: root, and loop devices.
pub fn privileged() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root, to mount file systems".to_owned());
    }
    if !std::path::Path::new("/dev/loop-control").exists() {
        return Err("needs loop devices".to_owned());
    }
    Ok(())
}

/// Whether a program is in the `PATH`.
pub fn tool(name: &str) -> Result<(), String> {
    find_tool(name).map(|_| ()).ok_or_else(|| format!("needs the program {name}"))
}

/// Where a program is, also in the administrator's directories.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
