//! `walsafe completions` and `walsafe man`: made from the same source as the help texts.

use clap::CommandFactory;

use super::{DONE, FAILED};
use crate::arguments::{Completions, Man, Program};
use crate::complaint::Complaint;
use crate::manual;
use crate::terminal::{self, Output};

/// Prints a completion script and returns the exit status.
pub(super) fn completions(arguments: &Completions) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Program::command(), "walsafe", &mut script);
    print(&script)
}

/// Prints a manual page and returns the exit status.
pub(super) fn man(arguments: &Man) -> u8 {
    match manual::page(Program::command(), arguments.command.as_deref()) {
        Ok(page) => print(page.as_bytes()),
        Err(e) => terminal::fail(&Complaint::new(format!("could not make the manual page: {e}"))),
    }
}

fn print(bytes: &[u8]) -> u8 {
    let mut output = Output::new();
    output.bytes(bytes);
    if output.finish() { DONE } else { FAILED }
}
