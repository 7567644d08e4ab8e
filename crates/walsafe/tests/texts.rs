//! What a user meets first: help, manual pages, the answers to mistakes, the progress bar.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::process::Command;

use common::{Place, Run, commands, segment_name, segments, walsafe};

/// It was one line that a subcommand is missing. A server that has only the program's name as its
/// `restore_command` must still stop.
#[test]
fn without_arguments_the_program_prints_its_help() {
    let run = Run::of(&mut walsafe());
    assert_eq!((run.status, &*run.err), (Some(126), ""), "{run:?}");
    assert_eq!(run.out, Run::of(walsafe().arg("-h")).out);
    assert!(run.out.contains("Usage: walsafe <COMMAND>"), "{run:?}");
}

/// It said what is wrong, and nothing of what was meant and what is possible.
#[test]
fn a_mistake_is_answered_in_one_line_with_what_was_meant() {
    let says = |status: i32, call: &str, texts: &[&str]| {
        let run = Run::of(walsafe().args(call.split(' ')));
        texts.iter().for_each(|text| run.says(status, text));
    };
    says(
        126,
        "restore --form a b c",
        &[
            "unexpected argument '--form' found. Did you mean '--from'? See \"walsafe restore --help\".",
        ],
    );
    says(126, "resotre --from a b c", &["Did you mean 'restore'? See \"walsafe --help\"."]);
    says(2, "verify --jsno a", &["Did you mean '--json'?", "\"walsafe verify --help\""]);
    says(3, "check --pgdta=a b", &["Did you mean '--pgdata'?"]);
    says(2, "man verfy", &["Did you mean 'verify'?", "possible values: restore, verify, list"]);
    says(
        126,
        "restore --on-error=stp --from a b c",
        &["(possible values: auto, stop, retry). Did you mean 'stop'?"],
    );
    says(2, "completions ksh", &["(possible values: bash, elvish, fish, powershell, zsh)"]);
    says(2, "init --file-mode=0777 --pgdata a b", &["values: 0600, 0640, 0400, 0440)"]);
    says(2, "push --compression=zip --pgdata a b", &["\"lz4\"", "\"walsafe push --help\""]);
    says(
        2,
        "verify --from=0/1 --target-timeline=new a",
        &["\"latest\", \"current\" or the number"],
    );
    says(2, "push", &["required arguments were not provided: --pgdata <DIR>, <DEST>."]);
    says(2, "verify --accept-gaps --from 0/1 a", &["'--accept-gaps' cannot be used with '--from"]);
    // Was "invalid digit found in string".
    for (status, call) in [
        (126, "restore --patience=1m --from a b c"),
        (126, "restore --stall-timeout=-1 --from a b c"),
        (2, "verify --jobs=65 a"),
        (2, "verify --from 0/1 --timeline=0 a"),
        (2, "push --history=1 --pgdata a b"),
        (3, "check --min-free=9GB a"),
    ] {
        says(status, call, &["it is a whole number from"]);
    }
}

/// Half of it was wrapped for a wide terminal in the source, and then once more by the library.
#[test]
fn help_is_wrapped_at_76_columns_on_every_terminal() {
    for command in commands().iter().map(Some).chain([None]) {
        for long in ["--help", "-h"] {
            let help = |columns: &str| {
                let mut walsafe = walsafe();
                let run = Run::of(walsafe.args(command).arg(long).env("COLUMNS", columns));
                assert_eq!((run.status, &*run.err), (Some(0), ""), "{run:?}");
                run.out
            };
            let text = help("80");
            assert_eq!((help("40"), help("200")), (text.clone(), text.clone()));
            let wide = text.lines().find(|line| line.chars().count() > 76);
            assert_eq!(wide, None, "{command:?}");
            assert!(!text.contains('`'), "{text}");
            assert!(
                text.contains("\nExit status:\n  ") && text.contains("\nExamples:\n  "),
                "{text}"
            );
            // A paragraph that was broken in the source too has short lines inside.
            let broken = text.lines().zip(text.lines().skip(1)).find(|(line, next)| {
                let indent = |line: &str| line.len() - line.trim_start().len();
                let word = next.split_whitespace().next().unwrap_or_default();
                let prose = line.starts_with(|c: char| c.is_ascii_uppercase())
                    && !line.ends_with(':')
                    && !next.is_empty();
                prose && indent(line) == indent(next) && line.len() + 1 + word.len() <= 76
            });
            assert_eq!(broken, None, "{command:?}");
        }
    }
}

/// They had options without their values, what follows the options as "EXTRA", and backticks.
#[test]
fn a_manual_page_has_the_sections_that_such_pages_have() {
    let page = |command: Option<&String>| {
        let run = Run::of(walsafe().arg("man").args(command));
        assert_eq!((run.status, &*run.err), (Some(0), ""), "{run:?}");
        run.out
    };
    let main = page(None);
    let commands = commands();
    assert!(commands.len() >= 9, "{commands:?}");
    for command in commands.iter().map(Some).chain([None]) {
        let page = page(command);
        let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        let expected: &[&str] = match command.map(String::as_str) {
            None => &["COMMANDS", "\"EXIT STATUS\"", "ENVIRONMENT", "EXAMPLES"],
            Some("verify") => {
                &["\"EXIT STATUS\"", "FINDINGS", "\"RECOVERY TARGETS\"", "EXAMPLES", "\"SEE ALSO\""]
            }
            Some("init") => &["\"EXIT STATUS\"", "FILES", "EXAMPLES", "\"SEE ALSO\""],
            Some(_) => &["\"EXIT STATUS\"", "EXAMPLES", "\"SEE ALSO\""],
        };
        let first = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"];
        assert_eq!(sections, [&first, expected].concat(), "{command:?}");
        assert!(!page.contains('`') && page.is_ascii(), "{page}");
        let name = command.map_or("walsafe".to_owned(), |command| format!("walsafe-{command}"));
        assert!(page.contains(&format!(".TH {name} 1")), "{page}");
        // "make install-manual" finds the pages by these lines.
        if let Some(command) = command {
            assert!(main.contains(&format!("\nwalsafe\\-{command}(1)\n")), "{main}");
        }
        // What is not filled is indented by 7 columns.
        let examples = page.split("\n.nf\n").nth(1).unwrap().split("\n.fi\n").next().unwrap();
        let shown = examples.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\\\", "\\");
        assert_eq!(shown.lines().find(|line| line.len() > 73), None);
    }
    assert!(!main.contains("walsafe\\-help(1)"), "{main}");
    let synopsis = |command: &str| {
        let page = page(Some(&command.to_owned()));
        let line = page.lines().skip_while(|line| *line != ".SH SYNOPSIS").nth(1).unwrap();
        line.replace("\\-", "-").replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
    };
    let restore = synopsis("restore");
    assert!(restore.contains("walsafe restore --from\\ ARCHIVE ["), "{restore}");
    assert!(restore.contains("[--on-error\\ auto|stop|retry]"), "{restore}");
    assert!(restore.ends_with("[--json] FILE TARGET"), "{restore}");
    assert!(synopsis("init").contains("[--file-mode\\ 0600|0640|0400|0440]"));
    assert!(synopsis("verify").contains("[-j|--jobs\\ NUMBER]"));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let run = Run::of(walsafe().args(["completions", shell]));
        assert!(commands().iter().all(|command| run.out.contains(command)), "{shell}");
    }
}

/// Runs a command on a terminal, and returns what it shows.
fn on_a_terminal(call: &str) -> String {
    let call = format!("'{}' {call}", env!("CARGO_BIN_EXE_walsafe"));
    let shown = Run::of(Command::new("script").args(["-qefc", &call, "/dev/null"]));
    assert_eq!(shown.status, Some(0), "{shown:?}");
    shown.out
}

/// It began with "0/0 files, , 00:00:00, 0s to go".
#[test]
fn the_progress_bar_says_what_is_known() {
    let place = Place::new();
    for (number, segment) in (1..).zip(segments().iter().take(3)) {
        place.put_with_digest(&segment_name(1, number), segment);
    }
    let archive = place.path("archive");
    let call = format!("verify '{}'", archive.display());
    let shown = on_a_terminal(&call);
    assert!(shown.contains("reading the names of the files, 00:00:0"), "{shown}");
    assert!(!shown.contains("0/0") && !shown.contains(", ,"), "{shown}");
    assert!(shown.contains("no findings"), "{shown}");
    assert!(!on_a_terminal(&format!("{call} --quiet")).contains("00:00:0"));
    // Standard output has none, and where standard error is no terminal there is none at all.
    let redirected = on_a_terminal(&format!("{call} 2>/dev/null"));
    assert!(!redirected.contains("00:00:0"), "{redirected}");
    let run = Run::of(walsafe().arg("verify").arg(&archive));
    assert_eq!(run.err, "", "{run:?}");
}
