//! `walsafe`: gives a WAL archive back to a server in recovery, and proves that it is whole.

use std::process::ExitCode;

mod arguments;
mod commands;
mod guard;
mod terminal;

fn main() -> ExitCode {
    ExitCode::from(guard::run(|| commands::run(std::env::args_os().collect())))
}
