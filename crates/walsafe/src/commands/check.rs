//! `walsafe check`: can an archive be archived to, and recovered from?

use walsafe_core::prove::check::{self, Options, Status};
use walsafe_core::store::location;
use walsafe_core::words::count;

use super::print_json;
use crate::arguments::Check;
use crate::complaint::Complaint;
use crate::terminal::{self, Output};
use crate::watchdog::{self, Lost};

/// What monitoring programs understand as "unknown".
pub(crate) const UNKNOWN: u8 = 3;

/// Runs the command and returns its exit status, as Nagios and similar programs expect it.
pub(super) fn run(arguments: &Check) -> u8 {
    let (archive, timeout) = (&arguments.archive, arguments.common.timeout());
    let result = watchdog::watch(archive, timeout, |signs| {
        let options = Options {
            data_directory: arguments.pgdata.as_deref(),
            min_free: u64::from(arguments.min_free) << 20,
            read_only: arguments.read_only,
            remove_stray: arguments.remove_stray,
            steps: Some(&signs.steps),
            cancelled: None,
        };
        let access = arguments.common.access(arguments.pgdata.as_deref());
        let checks = match location::open(archive, &access) {
            Ok(store) => check::check(&*store, &options),
            Err(error) => vec![check::unusable(&error)],
        };
        signs.elsewhere(|| print(arguments, &checks))
    });
    match result {
        Ok(status) => status,
        Err(Lost::Stalled(error)) => print(arguments, &[check::unusable(&error)]),
        Err(Lost::Died(message)) => terminal::fail(&Complaint::new(message)),
        Err(Lost::Panicked) => UNKNOWN,
    }
}

fn print(arguments: &Check, checks: &[check::Check]) -> u8 {
    let archive = location::shown(&arguments.archive);
    let worst = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
    let (word, status) = match worst {
        Status::Ok => ("OK", 0),
        Status::Warning => ("WARNING", 1),
        Status::Error => ("CRITICAL", 2),
    };
    let written = if arguments.common.json {
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                serde_json::json!({
                    "check": check.name, "status": check.status.name(), "detail": check.detail,
                })
            })
            .collect();
        print_json(&serde_json::json!({
            "archive": archive.display().to_string(),
            "status": worst.name(),
            "checks": checks,
        }))
    } else {
        let mut output = Output::new();
        // Monitoring programs show the first line.
        let first = checks.iter().find(|check| check.status == worst && worst != Status::Ok);
        let what = first.map_or_else(
            || format!("{} of \"{}\"", count(checks.len(), "check"), archive.display()),
            |check| format!("{}: {}", check.name, check.detail),
        );
        output.line(format_args!("WALSAFE {word} - {what}"));
        for check in checks {
            output.line(format_args!("{:8} {}: {}", check.status.name(), check.name, check.detail));
        }
        output.finish()
    };
    if written { status } else { UNKNOWN }
}
