//! What the status view says of each destination as a whole.

use walsafe_core::server::stats::{self, Stats};

use crate::watch::{FAILING, WAITING};
use crate::{configuration, reload, settings};

/// What a row of the view says of the whole.
pub(crate) struct State {
    pub(crate) name: &'static str,
    /// The destination in use, as far as it is known.
    pub(crate) destination: Option<String>,
    /// With `misconfigured`, which value was refused, and why.
    pub(crate) refused: Option<String>,
}

/// Returns the state of each destination; a single one, without a destination, where none is known.
pub(crate) fn states(known: &[(Stats, u64)]) -> Vec<State> {
    let unconfigured = || vec![State { name: "unconfigured", destination: None, refused: None }];
    if !configuration::archives_with_this_module() {
        return unconfigured();
    }
    let in_force = settings::current().ok();
    let refused = reload::refused_in_files();
    let destinations: Vec<String> = match &in_force {
        Some(settings) => {
            settings.destinations.iter().map(|there| there.path().display().to_string()).collect()
        }
        // This session may have begun after the reload that brought the refused value, and have none. The
        // archiver continues with what it had before, if it is still the same archiver.
        None if refused.is_some() && is_of_this_archiver() => {
            known.iter().map(|(stats, _)| stats.destination.clone()).collect()
        }
        None => Vec::new(),
    };
    match &refused {
        None if destinations.is_empty() => unconfigured(),
        Some(_) if destinations.is_empty() => {
            vec![state(None, refused, known)]
        }
        _ => {
            let state = |destination| state(Some(destination), refused.clone(), known);
            destinations.into_iter().map(state).collect()
        }
    }
}

/// Returns whether the archiver that runs now has written its file.
fn is_of_this_archiver() -> bool {
    let written = stats::written_at(settings::data_directory());
    written.is_some_and(|at| configuration::archiver_start().is_some_and(|start| at >= start))
}

fn state(destination: Option<String>, refused: Option<String>, known: &[(Stats, u64)]) -> State {
    let named = |name, destination| State { name, destination, refused: None };
    if configuration::is_idle_standby() {
        return State { name: "standby", destination, refused };
    }
    // What was counted for another destination says nothing about this one.
    let mut known = known.iter().map(|(stats, _)| stats);
    let same = known.find(|stats| destination.as_ref() == Some(&stats.destination));
    match same.map(|stats| stats.failing) {
        Some(WAITING) => named("waiting", destination),
        Some(FAILING) => named("failing", destination),
        _ if refused.is_some() => State { name: "misconfigured", destination, refused },
        Some(0) => named("ok", destination),
        _ => named("starting", destination),
    }
}
