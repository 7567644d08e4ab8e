//! `walsafe completions` and `walsafe man`: made from the same source as the help texts.

use clap::CommandFactory;

use super::{DONE, FAILED};
use crate::arguments::{Completions, Man, Program};
use crate::terminal::{self, Output};

/// Prints a completion script and returns the exit status.
pub(super) fn completions(arguments: &Completions) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Program::command(), "walsafe", &mut script);
    print(&script)
}

/// Prints a manual page and returns the exit status.
pub(super) fn man(arguments: &Man) -> u8 {
    let mut program = Program::command();
    program.build();
    let command = match &arguments.command {
        None => Some(program),
        Some(name) => program.find_subcommand(name).cloned(),
    };
    let Some(command) = command else {
        terminal::complain("there is no such command; see \"walsafe --help\"");
        return FAILED;
    };
    let mut page = Vec::new();
    match clap_mangen::Man::new(command).render(&mut page) {
        Ok(()) => print(&page),
        Err(e) => {
            terminal::complain(&format!("could not make the manual page: {e}"));
            FAILED
        }
    }
}

fn print(bytes: &[u8]) -> u8 {
    let mut output = Output::new();
    output.bytes(bytes);
    if output.finish() { DONE } else { FAILED }
}
