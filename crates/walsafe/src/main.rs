//! `walsafe`: gives a WAL archive back to a server in recovery, and proves that it is whole.

use std::process::ExitCode;

mod arguments;
mod commands;
mod guard;
mod terminal;
mod time;
mod watchdog;

fn main() -> ExitCode {
    let arguments = std::env::args_os().collect::<Vec<_>>();
    let trouble = commands::trouble(&arguments);
    ExitCode::from(guard::run(trouble, || commands::run(&arguments)))
}
