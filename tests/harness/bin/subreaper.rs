//! Runs a command as a process to which the orphans among its descendants are given:
//! `walsafe-subreaper postgres -D ...`

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{getpid, set_child_subreaper};

fn main() {
    // The attribute outlives exec.
    set_child_subreaper(Some(getpid())).expect("a subreaper");
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("a command");
    let error = Command::new(&program).args(arguments).exec();
    panic!("could not run {}: {error}", program.display());
}
