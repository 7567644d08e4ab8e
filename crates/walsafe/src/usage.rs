//! What is said about a command line that is not a command.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::complaint::Complaint;

/// Says what is wrong, what was probably meant, and where the help is.
pub(crate) fn complaint(error: &clap::Error, help: &str) -> Complaint {
    let mut hint = format!("See \"{help}\".");
    let meant =
        [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    let meant = meant.into_iter().flat_map(|kind| strings(error, kind)).map(quoted);
    // The nearest one comes last.
    if let Some(meant) = meant.rev().reduce(|all, one| format!("{all} or {one}")) {
        hint = format!("Did you mean {meant}? {hint}");
    }
    Complaint::new(without_urls(&message(error))).hint(without_urls(&hint))
}

/// Leaves out all of a URL but how it begins: it may hold a secret.
fn without_urls(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((before, url)) = rest.split_once("://") {
        shown.push_str(&format!("{before}://..."));
        let end = url.find(|c: char| c == '\'' || c.is_whitespace());
        rest = end.and_then(|end| url.get(end..)).unwrap_or_default();
    }
    shown.push_str(rest);
    shown
}

/// The first line of what the library says, with what it says about that on further ones.
fn message(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let mut lines = rendered.lines();
    let first = lines.next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    if matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict) {
        let named: Vec<_> =
            lines.take_while(|line| line.starts_with("  ")).map(str::trim).collect();
        if !named.is_empty() {
            message = format!("{message} {}", named.join(", "));
        }
    }
    let possible = strings(error, ContextKind::ValidValue);
    if !possible.is_empty() {
        message = format!("{message} (possible values: {})", possible.join(", "));
    }
    message
}

fn strings(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(all)) => all.clone(),
        _ => Vec::new(),
    }
}

fn quoted(text: String) -> String {
    format!("'{text}'")
}
