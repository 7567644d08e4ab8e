//! The tables of errors and of settings in docs/operations.md are those in the code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use walsafe_core::error::ErrorKind;
use walsafe_core::server::settings::{Kind, Setting, TABLE, Unit};

const MANUAL: &str = include_str!("../../../docs/operations.md");
/// Where the words of messages and of their details stand.
const SOURCES: [&str; 3] = [
    include_str!("../src/error/mod.rs"),
    include_str!("../src/archive/compare.rs"),
    include_str!("../src/store/directory/reading.rs"),
];

struct Row {
    message: String,
    sqlstate: String,
    hint: String,
}

/// Returns the rows of the table whose head begins so. Each has four cells.
fn table(head: &str) -> Vec<[&'static str; 4]> {
    let lines = MANUAL
        .lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = |line: &'static str| -> Vec<&str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    };
    lines
        .map(|line| cells(line).try_into().unwrap_or_else(|_| panic!("not four cells: {line}")))
        .collect()
}

/// Returns the manual's table of errors by kind.
fn rows() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for [kind, message, sqlstate, hint] in table("| Kind |") {
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
fn the_manual_has_every_setting_with_the_type_the_default_and_the_description_of_the_code() {
    let rows = table("| Name | Type | Default |");
    assert_eq!(rows.len(), TABLE.len());
    for (setting, [name, kind, default, meaning]) in TABLE.iter().zip(rows) {
        let text = |text: &std::ffi::CStr| text.to_str().unwrap().to_owned();
        assert_eq!(name, format!("`{}`", text(setting.name)), "in the order of the code");
        let (expected, value) = type_and_default(setting);
        assert_eq!(kind, expected, "{name}");
        let value = if value.is_empty() { "empty".to_owned() } else { format!("`{value}`") };
        assert_eq!(default, value, "{name}");
        assert!(meaning.starts_with(&text(setting.short)), "{name} is described as: {meaning}");
    }
}

/// Returns the second and the third cell of a setting's row, the third without marks.
fn type_and_default(setting: &Setting) -> (String, String) {
    match setting.kind {
        Kind::Text { default, .. } => ("string".to_owned(), default.to_str().unwrap().to_owned()),
        Kind::Integer { default, min, max, unit } => {
            let unit = match unit {
                Unit::None => "",
                Unit::Seconds => " s",
                Unit::Megabytes => " MB",
            };
            (format!("integer: {min} to {max}{unit}"), default.to_string())
        }
        Kind::Boolean { default } => {
            ("boolean".to_owned(), if default { "on" } else { "off" }.to_owned())
        }
        Kind::Choice { default, names } => {
            let names: Vec<_> =
                names().iter().map(|name| format!("`{}`", name.to_str().unwrap())).collect();
            (format!("enum: {}", names.join(", ")), default.to_str().unwrap().to_owned())
        }
    }
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
