//! The table of errors in docs/operations.md is the one in the code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use walsafe_core::error::ErrorKind;

const MANUAL: &str = include_str!("../../../docs/operations.md");
/// Where the words of messages and of their details stand.
const SOURCES: [&str; 4] = [
    include_str!("../src/error/mod.rs"),
    include_str!("../src/error/action.rs"),
    include_str!("../src/error/conflict.rs"),
    include_str!("../src/store/directory/reading.rs"),
];

struct Row {
    message: String,
    sqlstate: String,
    hint: String,
}

/// Returns the manual's table by kind.
fn rows() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    let table = MANUAL
        .lines()
        .skip_while(|line| !line.starts_with("| Kind |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    for line in table {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [kind, message, sqlstate, hint] = cells[..] else {
            panic!("not four cells: {line}");
        };
        let row = Row {
            message: message.to_owned(),
            sqlstate: sqlstate.to_owned(),
            hint: hint.to_owned(),
        };
        let kind = kind.trim_matches('`').to_owned();
        assert!(rows.insert(kind.clone(), row).is_none(), "{kind} stands there twice");
    }
    rows
}

#[test]
fn the_manual_has_every_kind_with_the_sqlstate_and_the_hint_of_the_code() {
    let mut rows = rows();
    for kind in ErrorKind::ALL {
        let name = format!("{kind:?}");
        let row = rows.remove(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(row.sqlstate, kind.advice().sqlstate, "{name}");
        assert_eq!(row.hint, kind.advice().hint, "{name}");
    }
    assert!(rows.is_empty(), "not in the code: {:?}", rows.keys());
}

#[test]
fn the_words_that_the_manual_quotes_first_are_those_of_the_code() {
    // The system's own words, as in "No space left on device", are not ours to check.
    let by_the_system =
        ["QuotaExceeded", "PermissionDenied", "StaleHandle", "TooManyOpenFiles", "IoError"];
    for (kind, row) in rows().iter().filter(|(kind, _)| !by_the_system.contains(&kind.as_str())) {
        let quoted =
            row.message.split('`').nth(1).unwrap_or_else(|| panic!("{kind} quotes nothing"));
        assert!(SOURCES.iter().any(|source| source.contains(quoted)), "{kind}: \"{quoted}\"");
    }
}

#[test]
fn the_tests_that_the_design_names_exist() {
    let design = include_str!("../../../docs/design.md");
    let table = design.lines().skip_while(|line| !line.starts_with("| | Without it fails |"));
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
        let sqlstate = kind.advice().sqlstate;
        // What stands for all others.
        let known = sqlstate == "XX000" || report.contains(&format!("\"{sqlstate}\" =>"));
        assert!(known, "{kind:?}: src/report.rs would report {sqlstate} as XX000");
    }
}
