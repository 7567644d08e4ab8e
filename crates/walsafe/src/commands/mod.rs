//! From the command line to a command, and from its result to an exit status.

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use walsafe_core::archive::Notice;
use walsafe_core::error::{Access, Activity, Error};
use walsafe_core::prove::finding::Finding;
use walsafe_core::prove::verify::{Commit, VerifyError};
use walsafe_core::store::access::Asker;
use walsafe_core::wal::timeline::Run;

use crate::arguments::{Command, Common, Program};
use crate::complaint::Complaint;
use crate::guard::STOP;
use crate::terminal::{self, Output};
use crate::usage;
use crate::watchdog::{self, Lost, Signs};

mod ahead;
mod check;
mod copy;
mod generate;
mod init;
mod lately;
mod list;
mod manifest;
mod metrics;
mod owner;
mod push;
mod restore;
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
    if first(arguments) == ahead::COMMAND && ahead::is_started() {
        return fetch_ahead(arguments);
    }
    match Program::try_parse_from(arguments) {
        Ok(program) => match program.command {
            Command::Restore(arguments) => restore::run(&arguments),
            Command::Init(arguments) => {
                watched(&arguments.destination, &arguments.common, |s| init::run(&arguments, s))
            }
            Command::Verify(arguments) => {
                watched(&arguments.archive, &arguments.common, |s| verify::run(&arguments, s))
            }
            Command::List(arguments) => {
                watched(&arguments.archive, &arguments.common, |s| list::run(&arguments, s))
            }
            Command::Check(arguments) => check::run(&arguments),
            Command::Manifest(arguments) => {
                watched(&arguments.archive, &arguments.common, |s| manifest::run(&arguments, s))
            }
            Command::Push(arguments) => {
                watched(&arguments.destination, &arguments.common, |s| push::run(&arguments, s))
            }
            Command::Copy(arguments) => copy::start(&arguments),
            Command::Completions(arguments) => generate::completions(&arguments),
            Command::Man(arguments) => generate::man(&arguments),
        },
        Err(error) => refuse(arguments, &error),
    }
}

/// Runs what calls of `restore` start, with the arguments of such a call.
fn fetch_ahead(arguments: &[OsString]) -> u8 {
    let command = [OsString::from("walsafe"), OsString::from("restore")];
    let arguments = command.into_iter().chain(arguments.iter().skip(2).cloned());
    match Program::try_parse_from(arguments) {
        Ok(Program { command: Command::Restore(arguments) }) => ahead::run(&arguments),
        _ => ahead::NOT_RUN,
    }
}

/// Runs a command that uses an archive, and gives up when nothing moves there any more.
fn watched(archive: &Path, common: &Common, command: impl FnOnce(&Signs) -> u8) -> u8 {
    match watchdog::watch(archive, common.timeout(), command) {
        Ok(status) => status,
        Err(lost) => given_up(lost),
    }
}

/// Says why watched work has no result, and returns the exit status.
fn given_up(lost: Lost) -> u8 {
    match lost {
        Lost::Stalled(error) => failed(&error),
        Lost::Died(message) => terminal::fail(&Complaint::new(message)),
        Lost::Panicked => FAILED,
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
        ahead::COMMAND if ahead::is_started() => ahead::NOT_RUN,
        other if Command::has_subcommand(other) => FAILED,
        _ => STOP,
    }
}

/// Returns whether a command line asks for JSON, be the rest of it right or wrong.
pub(crate) fn wants_json(arguments: &[OsString]) -> bool {
    let given = |argument: &str| argument == "--json" || argument.starts_with("--json=");
    let options = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    options.filter_map(|argument| argument.to_str()).any(given)
}

/// Answers a command line that is not a command: with help, if that was asked for or nothing was, or with
/// what is wrong.
fn refuse(arguments: &[OsString], error: &clap::Error) -> u8 {
    let first = first(arguments);
    let done = match error.kind() {
        // To a server, status 0 means "delivered": together with a file name, help is bad usage.
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            if trouble(arguments) == STOP && arguments.len() > 3 { STOP } else { DONE }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => trouble(arguments),
        _ => {
            let command = if Command::has_subcommand(first) { first } else { "" };
            let help = ["walsafe", command, "--help"].into_iter().filter(|word| !word.is_empty());
            let help = help.collect::<Vec<_>>().join(" ");
            return terminal::fail(&usage::complaint(error, &help));
        }
    };
    let mut output = Output::new();
    output.bytes(error.render().to_string().as_bytes());
    let _ = output.finish();
    done
}

/// Says an error of the core, with what to do about it.
fn complaint(error: &Error) -> Complaint {
    denied(error).unwrap_or_else(|| Complaint::of(error, Activity::Checking))
}

/// Says who may do what was refused, if the error is a matter of permission.
fn denied(error: &Error) -> Option<Complaint> {
    let Access { found, advice } = Asker::check(None).explain(error)?;
    let detail = format!("{} {found}", error.detail());
    Some(Complaint::new(error.to_string()).detail(detail).hint(advice))
}

/// Says why the command has failed, and returns its exit status.
fn failed(error: &Error) -> u8 {
    terminal::fail(&complaint(error))
}

/// Says why an archive could not be looked at.
fn unverified(error: &VerifyError) -> Complaint {
    match error {
        VerifyError::Archive(error) => complaint(error),
        VerifyError::Nothing { path } => Complaint::new(error.to_string())
            .detail(format!("\"{}\".", path.display()))
            .hint(walsafe_core::error::ErrorKind::NothingThere.hint(Activity::Checking)),
        VerifyError::Cancelled => Complaint::new(error.to_string()),
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

/// Describes a finding.
fn finding_json(Finding { file, problem }: &Finding) -> serde_json::Value {
    serde_json::json!({
        "file": file,
        "kind": problem.kind.name(),
        "reason": problem.reason,
        "advice": problem.advice(),
    })
}

/// Describes what is told beside a success.
fn notice_json(Notice { message, detail, hint, .. }: &Notice) -> serde_json::Value {
    serde_json::json!({ "message": message, "detail": detail, "hint": hint })
}

/// The same, as a line.
fn notice_line(Notice { message, detail, hint, .. }: &Notice) -> String {
    format!("{message}: {detail} {hint}")
}

/// Writes one JSON document.
fn print_json(value: &serde_json::Value) -> bool {
    let mut output = Output::new();
    output.line(format_args!("{value:#}"));
    output.finish()
}
