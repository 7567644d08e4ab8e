//! `walsafe`: gives a WAL archive back to a server in recovery, and proves that it is whole.

use std::process::ExitCode;

mod arguments;
mod commands;
mod complaint;
mod guard;
mod manual;
mod terminal;
mod time;
mod usage;
mod watchdog;

fn main() -> ExitCode {
    let arguments = std::env::args_os().collect::<Vec<_>>();
    let trouble = commands::trouble(&arguments);
    terminal::begin(commands::wants_json(&arguments), trouble);
    guard::watch();
    ExitCode::from(guard::run(trouble, || commands::run(&arguments)))
}
