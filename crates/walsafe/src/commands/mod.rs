//! From the command line to a command, and from its result to an exit status.

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use walsafe_core::error::{Access, Activity, Error};
use walsafe_core::prove::verify::Commit;
use walsafe_core::store::access::Asker;
use walsafe_core::wal::timeline::Run;

use crate::arguments::{Command, Program, Watch};
use crate::guard::STOP;
use crate::terminal::{self, Output};
use crate::watchdog::{self, Lost, Signs};

mod check;
mod generate;
mod init;
mod list;
mod manifest;
mod push;
mod restore;
mod said;
mod verify;

/// The exit status of success.
pub(crate) const DONE: u8 = 0;
/// The exit status of a command other than `restore` that has run and has found something.
pub(crate) const FOUND: u8 = 1;
/// The exit status of a command other than `restore` that could not run.
pub(crate) const FAILED: u8 = 2;

/// Runs the program and returns its exit status.
pub(crate) fn run(arguments: &[OsString]) -> u8 {
    #[cfg(debug_assertions)]
    if std::env::var_os("WALSAFE_TEST_PANIC").is_some() {
        #[allow(clippy::panic, reason = "a test asks for it; no release build has this")]
        {
            panic!("injected");
        }
    }
    match Program::try_parse_from(arguments) {
        Ok(program) => match program.command {
            Command::Restore(arguments) => restore::run(&arguments),
            Command::Init(arguments) => {
                watched(&arguments.destination, &arguments.watch, |s| init::run(&arguments, s))
            }
            Command::Verify(arguments) => {
                watched(&arguments.archive, &arguments.watch, |s| verify::run(&arguments, s))
            }
            Command::List(arguments) => {
                watched(&arguments.archive, &arguments.watch, |s| list::run(&arguments, s))
            }
            Command::Check(arguments) => check::run(&arguments),
            Command::Manifest(arguments) => {
                watched(&arguments.archive, &arguments.watch, |s| manifest::run(&arguments, s))
            }
            Command::Push(arguments) => {
                watched(&arguments.destination, &arguments.watch, |s| push::run(&arguments, s))
            }
            Command::Completions(arguments) => generate::completions(&arguments),
            Command::Man(arguments) => generate::man(&arguments),
        },
        Err(error) => refuse(arguments, &error),
    }
}

/// Runs a command that uses an archive, and gives up when nothing moves there any more.
fn watched(archive: &Path, watch: &Watch, command: impl FnOnce(&Signs) -> u8) -> u8 {
    match watchdog::watch(archive, watch.timeout(), command) {
        Ok(status) => status,
        Err(lost) => {
            terminal::complain(&match lost {
                Lost::Stalled(error) => sentence(&error),
                Lost::Died(message) => message,
            });
            FAILED
        }
    }
}

/// Returns the subcommand's name, if the command line begins with one.
fn first(arguments: &[OsString]) -> &str {
    arguments.get(1).and_then(|argument| argument.to_str()).unwrap_or_default()
}

/// Returns the exit status of a command line that did nothing, through no fault of the archive. Unless it
/// certainly is another command, it may stand in a `restore_command`, and recovery must stop.
pub(crate) fn trouble(arguments: &[OsString]) -> u8 {
    match first(arguments) {
        "check" => check::UNKNOWN,
        "restore" => STOP,
        other if Command::has_subcommand(other) => FAILED,
        _ => STOP,
    }
}

/// Answers a command line that is not a command: with help, if that was asked for, or with one line about
/// what is wrong.
fn refuse(arguments: &[OsString], error: &clap::Error) -> u8 {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let first = first(arguments);
    if asked {
        let mut output = Output::new();
        output.bytes(error.render().to_string().as_bytes());
        let _ = output.finish();
        // To a server, status 0 means "delivered": together with a file name, help is bad usage.
        return if first == "restore" && arguments.len() > 3 { STOP } else { DONE };
    }
    let rendered = error.render().to_string();
    let what = rendered.lines().next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let missing: Vec<&str> = match error.kind() {
        ErrorKind::MissingRequiredArgument => rendered
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with("  "))
            .map(str::trim)
            .collect(),
        _ => Vec::new(),
    };
    let help = if Command::has_subcommand(first) {
        format!("walsafe {first} --help")
    } else {
        "walsafe --help".to_owned()
    };
    let missing = missing.join(" ");
    terminal::complain(&format!(
        "{what}{}{missing}; see \"{help}\"",
        if missing.is_empty() { "" } else { " " }
    ));
    trouble(arguments)
}

/// Words an error of the core as one line, with what to do about it.
fn sentence(error: &Error) -> String {
    let detail = error.detail();
    match Asker::check(None).explain(error) {
        Some(Access { found, advice }) => format!("{error}: {detail} {found} {advice}"),
        None => format!("{error}: {detail} {}", error.hint(Activity::Checking)),
    }
}

/// Describes a commit.
fn commit_json(commit: &Commit) -> serde_json::Value {
    serde_json::json!({
        "time": commit.time.to_string(),
        "lsn": commit.lsn.to_string(),
        "xid": commit.xid,
    })
}

/// Describes a run of segments.
fn run_json(run: &Run) -> serde_json::Value {
    serde_json::json!({
        "first": run.first.to_string(),
        "last": run.last.to_string(),
        "segments": run.count,
    })
}

/// Writes one JSON document.
fn print_json(value: &serde_json::Value) -> bool {
    let mut output = Output::new();
    output.line(format_args!("{value:#}"));
    output.finish()
}

/// Writes a length for people to read.
fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} kB", bytes.div_ceil(1024)),
        1_048_576..10_737_418_240 => format!("{} MB", bytes >> 20),
        _ => format!("{:.1} GB", bytes as f64 / 1_073_741_824.0),
    }
}
