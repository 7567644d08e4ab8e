//! With `--json`, what went wrong is JSON too, whatever went wrong: one object on standard output, and nothing
//! on standard error. It was a line of prose on standard error, for all commands but `restore`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use common::{Place, Run, commands, segment_name, segments, walsafe};

/// The commands that take `--json`, each with the exit status of a failure.
fn with_json() -> Vec<(String, i32)> {
    let takes = |command: &String| {
        Run::of(walsafe().args([command, "--help"])).out.contains("\n      --json\n")
    };
    let found: Vec<_> = commands().into_iter().filter(takes).collect();
    assert!(found.len() >= 7, "{found:?}");
    let status = |command: &str| match command {
        "restore" => 126,
        "check" => 3,
        _ => 2,
    };
    found.into_iter().map(|command| (command.clone(), status(&command))).collect()
}

/// A whole command line for an archive. A command that is added gets its own here.
fn call(command: &str, place: &Place, archive: &str) -> Command {
    let (data, archive) = (place.path("data"), place.path(archive));
    let mut call = walsafe();
    call.args([command, "--json"]).current_dir(&data);
    match command {
        "restore" => call.arg("--from").arg(archive).args([&segment_name(1, 1), "pg_wal/X"]),
        "verify" | "list" | "check" | "manifest" => call.arg(archive),
        "copy" => call.arg(archive).arg(place.path("second")),
        "push" | "init" => call.arg("--pgdata").arg(&data).arg(archive),
        other => panic!("which arguments does {other} take?"),
    };
    call
}

fn place() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("second")).unwrap();
    for (number, segment) in (1..).zip(segments().iter().take(2)) {
        place.put_with_digest(&segment_name(1, number), segment);
    }
    place
}

#[test]
fn bad_usage_is_an_object() {
    for (command, status) in with_json() {
        let error = Run::of(walsafe().args([&command, "--json", "--jsom"])).fails_in_json(status);
        assert_eq!(error["message"], "unexpected argument '--jsom' found");
        assert!(error["hint"].as_str().unwrap().starts_with("Did you mean '--json'? See "));
        let error = Run::of(walsafe().args([&command, "--json"])).fails_in_json(status);
        assert!(error["message"].as_str().unwrap().contains("not provided"), "{error}");
    }
    let error = Run::of(walsafe().args(["resotre", "--json"])).fails_in_json(126);
    assert!(error["hint"].as_str().unwrap().contains("'restore'"), "{error}");
    // What stands behind "--" is no option.
    Run::of(walsafe().args(["verify", "--", "--json", "more"])).says(2, "unexpected argument");
}

/// `check` has a result then: that it found an error.
#[test]
fn a_missing_archive_and_one_that_is_none_are_objects() {
    let place = place();
    for (command, status) in with_json() {
        for archive in ["missing", "archive/walsafe_archive.id"] {
            let run = Run::of(&mut call(&command, &place, archive));
            if command == "check" {
                let said: serde_json::Value = serde_json::from_str(&run.out).unwrap();
                assert_eq!((run.status, &*run.err), (Some(2), ""), "{run:?}");
                assert_eq!(said["status"], "error");
                continue;
            }
            let error = run.fails_in_json(status);
            assert!(!error["message"].as_str().unwrap().ends_with('.'), "{error}");
            let whole = format!("{error}");
            assert!(whole.contains(archive), "{command}: {whole}");
        }
    }
}

#[test]
fn a_data_directory_that_is_none_is_an_object() {
    let place = place();
    fs::remove_file(place.path("data/global/pg_control")).unwrap();
    for command in ["init", "push"] {
        let error = Run::of(&mut call(command, &place, "archive")).fails_in_json(2);
        assert!(error["message"].as_str().unwrap().contains("pg_control"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("data directory"), "{error}");
    }
}

/// Standard error named them, and the JSON did not.
#[test]
fn entries_that_cannot_be_read_are_in_the_object() {
    let place = place();
    let backup = format!("{}.00000028.backup", segment_name(1, 2));
    fs::create_dir(place.path("archive").join(&backup)).unwrap();
    for command in ["list", "manifest"] {
        let run = Run::of(&mut call(command, &place, "archive"));
        assert_eq!((run.status, &*run.err), (Some(1), ""), "{run:?}");
        let said: serde_json::Value = serde_json::from_str(&run.out).unwrap();
        let unreadable = said["unreadable"].as_array().unwrap();
        assert_eq!(unreadable.len(), 1, "{said}");
        assert_eq!(unreadable[0]["file"], *backup);
        assert!(unreadable[0]["reason"].is_string(), "{said}");
    }
}

#[test]
fn a_panic_is_an_object() {
    for (command, status) in with_json() {
        let run = Run::of(walsafe().args([&command, "--json"]).env("WALSAFE_TEST_PANIC", "1"));
        let error = run.fails_in_json(status);
        assert!(error["message"].as_str().unwrap().starts_with("internal error at"), "{error}");
    }
}

/// A closed pipe is no error, and there is nobody to tell. Elsewhere the words come to standard error, as JSON.
#[test]
fn what_standard_output_does_not_take_goes_to_standard_error() {
    let place = place();
    for (command, status) in with_json() {
        for archive in ["archive", "missing"] {
            let expected = Run::of(&mut call(&command, &place, archive)).status;
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let output = call(&command, &place, archive).stdout(writer).output().unwrap();
            assert_eq!(output.status.code(), expected, "{command} {archive}");
            assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{command} {archive}");
            let full = File::options().write(true).open("/dev/full").unwrap();
            let output =
                call(&command, &place, archive).stdout(Stdio::from(full)).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            // "restore" has nothing to say where it delivers.
            if (&*command, archive) == ("restore", "archive") {
                assert_eq!((output.status.code(), &*text), (Some(0), ""));
                continue;
            }
            assert_eq!(output.status.code(), Some(status), "{command} {archive}: {text}");
            let said: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(said["error"]["exit_status"], status, "{command} {archive}: {text}");
        }
    }
}
