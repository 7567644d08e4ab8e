//! The tables of errors, of settings and of checks in docs/operations.md are those in the code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use walsafe_core::error::{ErrorKind, Standby};
use walsafe_core::server::settings::{Kind, Setting, TABLE, Unit};

const MANUAL: &str = include_str!("../../../docs/operations.md");
/// Where the words of messages and their details are.
const SOURCES: [&str; 5] = [
    include_str!("../src/error/mod.rs"),
    include_str!("../src/error/action.rs"),
    include_str!("../src/error/conflict.rs"),
    include_str!("../src/restore/error.rs"),
    include_str!("../src/store/directory/reading.rs"),
];
/// Where the rows of `walsafe_archive_check()` and of `walsafe check` get their names.
const CHECKS: [&str; 10] = [
    include_str!("../../../src/configuration.rs"),
    include_str!("../src/prove/check.rs"),
    include_str!("../src/prove/check/bucket.rs"),
    include_str!("../src/prove/check/contents.rs"),
    include_str!("../src/prove/check/directory.rs"),
    include_str!("../src/prove/check/following.rs"),
    include_str!("../src/prove/check/mode.rs"),
    include_str!("../src/prove/check/ownership.rs"),
    include_str!("../src/prove/check/restoring.rs"),
    include_str!("../src/prove/check/unarchived.rs"),
];
/// What a cell contains when there is nothing to say.
const NONE: &str = "–";

/// Returns the cells of the manual's table whose head begins so, row by row.
fn cells(head: &str) -> Vec<Vec<String>> {
    let lines = MANUAL
        .lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows: Vec<_> = lines.map(cells).collect();
    assert!(!rows.is_empty(), "no table begins with {head}");
    rows
}

/// Returns such a table by kind, which is its first cell. `N` cells follow it.
fn rows<const N: usize>(head: &str) -> BTreeMap<String, [String; N]> {
    let mut rows = BTreeMap::new();
    for mut row in cells(head) {
        let kind = row.remove(0).trim_matches('`').to_owned();
        let row = row.try_into().unwrap_or_else(|row| panic!("{kind}: not {N} cells: {row:?}"));
        assert!(rows.insert(kind.clone(), row).is_none(), "{kind} stands there twice");
    }
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
fn the_manual_has_every_setting_with_the_type_the_default_and_the_description_of_the_code() {
    let rows = cells("| Name | Type | Default |");
    assert_eq!(rows.len(), TABLE.len());
    for (setting, row) in TABLE.iter().zip(rows) {
        let [name, kind, default, meaning] = row.try_into().unwrap();
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

/// The page showed rows of the check, and did not say what was wrong if one of them was not "ok".
#[test]
fn the_manual_has_every_row_of_the_check() {
    let named = |source: &str, before: &str| -> Vec<String> {
        let rest =
            source.split(before).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
        rest.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
    };
    let ways = ["let name =", "const NAME: &str =", "checked(", "or_failed("];
    let expected: BTreeSet<String> = CHECKS
        .iter()
        .flat_map(|source| ways.iter().flat_map(|before| named(source, before)))
        .collect();
    assert!(expected.len() > 15, "{expected:?}");
    let row = |mut row: Vec<String>| row.remove(0).trim_matches('`').to_owned();
    let rows: BTreeSet<String> = cells("| Row | Warning | Error |").into_iter().map(row).collect();
    assert_eq!(rows, expected);
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
        assert!(sources.contains(&format!("fn {name}(")), "{name}");
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
