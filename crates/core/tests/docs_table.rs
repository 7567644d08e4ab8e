//! The table of errors in docs/operations.md is the one in the code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use walsafe_core::error::{ErrorKind, Standby};

const MANUAL: &str = include_str!("../../../docs/operations.md");
/// Where the words of messages and of their details stand.
const SOURCES: [&str; 5] = [
    include_str!("../src/error/mod.rs"),
    include_str!("../src/error/action.rs"),
    include_str!("../src/error/conflict.rs"),
    include_str!("../src/restore/error.rs"),
    include_str!("../src/store/directory/reading.rs"),
];
/// What stands in a cell where there is nothing to say.
const NONE: &str = "–";

/// Returns a table of the manual by kind: the one whose head is `head`, and has `N` cells after the kind.
fn rows<const N: usize>(head: &str) -> BTreeMap<String, [String; N]> {
    let mut rows = BTreeMap::new();
    let table = MANUAL
        .lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    for line in table {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        let kind = cells.next().unwrap().trim_matches('`').to_owned();
        let cells: Vec<String> = cells.collect();
        let cells = cells.try_into().unwrap_or_else(|_| panic!("not {N} cells: {line}"));
        assert!(rows.insert(kind.clone(), cells).is_none(), "{kind} stands there twice");
    }
    assert!(!rows.is_empty(), "no table begins with {head}");
    rows
}

/// What the server's log says: message, SQLSTATE, HINT.
fn of_archiving() -> BTreeMap<String, [String; 3]> {
    rows("| Kind | The log says |")
}

/// What `walsafe` says: message, what to do in `restore`, its exit status, what to do in the others.
fn of_walsafe() -> BTreeMap<String, [String; 4]> {
    rows("| Kind | It says |")
}

#[test]
fn the_manual_has_every_kind_with_the_sqlstate_and_the_hint_of_the_code() {
    let mut rows = of_archiving();
    for kind in ErrorKind::ALL {
        let name = format!("{kind:?}");
        let Some(expected) = kind.advice().archiving else { continue };
        let [_, sqlstate, hint] = rows.remove(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(sqlstate, kind.sqlstate(), "{name}");
        assert_eq!(hint, expected, "{name}");
    }
    assert!(rows.is_empty(), "not in the code: {:?}", rows.keys());
}

#[test]
fn the_manual_has_what_restore_and_the_other_commands_say_to_do_as_the_code_has_it() {
    let mut rows = of_walsafe();
    for kind in ErrorKind::ALL {
        let name = format!("{kind:?}");
        let advice = kind.advice();
        if (advice.restoring, advice.checking) == (None, None) {
            continue;
        }
        let [_, restoring, status, checking] =
            rows.remove(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(restoring, advice.restoring.unwrap_or(NONE), "{name}");
        assert_eq!(checking, advice.checking.unwrap_or(NONE), "{name}");
        let expected = match (advice.restoring, advice.standby) {
            (None, _) => NONE,
            (Some(_), Standby::Retries) => "126, in a standby 1",
            (Some(_), Standby::Stops) => "126",
        };
        assert_eq!(status, expected, "{name}");
    }
    assert!(rows.is_empty(), "not in the code: {:?}", rows.keys());
}

#[test]
fn the_words_that_the_manual_quotes_first_are_those_of_the_code() {
    // The system's own words, as in "No space left on device", are not ours to check.
    let by_the_system =
        ["QuotaExceeded", "PermissionDenied", "StaleHandle", "TooManyOpenFiles", "IoError"];
    let archiving = of_archiving();
    let walsafe = of_walsafe();
    let sources = SOURCES.map(|source| source.replace("\\\"", "\""));
    let messages = archiving.iter().map(|(kind, [message, ..])| (kind, message)).chain(
        // For a message that the first table has, the second says so.
        walsafe
            .iter()
            .map(|(kind, [message, ..])| (kind, message))
            .filter(|(kind, message)| !(*message == "as above" && archiving.contains_key(*kind))),
    );
    for (kind, message) in messages.filter(|(kind, _)| !by_the_system.contains(&kind.as_str())) {
        let quoted = message.split('`').nth(1).unwrap_or_else(|| panic!("{kind} quotes nothing"));
        assert!(sources.iter().any(|source| source.contains(quoted)), "{kind}: \"{quoted}\"");
    }
}

#[test]
fn the_tests_that_the_design_names_exist() {
    let design = include_str!("../../../docs/design.md");
    let table = design
        .lines()
        .skip_while(|line| !line.starts_with("| | Tests that fail when it is broken |"));
    let named: Vec<&str> = table
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|word| word.contains('_') && !word.contains(['.', '/']))
        .collect();
    assert!(named.len() > 30, "{named:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let sources: String = ["tests", "crates/core/tests", "crates/walsafe/tests"]
        .iter()
        .flat_map(|dir| fs::read_dir(root.join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for name in named {
        assert!(sources.contains(&format!("fn {name}()")), "{name}");
    }
}

#[test]
fn the_extension_knows_every_sqlstate_of_the_table() {
    let report = include_str!("../../../src/report.rs");
    for kind in ErrorKind::ALL {
        let sqlstate = kind.sqlstate();
        // What stands for all others.
        let known = sqlstate == "XX000" || report.contains(&format!("\"{sqlstate}\" =>"));
        assert!(known, "{kind:?}: src/report.rs would report {sqlstate} as XX000");
    }
}
