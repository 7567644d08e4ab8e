//! Manual pages, made from what the help is made from.

use std::io::{self, Write};

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// Keeps an option and its value on one line: a character that no text has, and what it is in a page. The
/// character itself is not known to `man` in every locale.
const NO_BREAK: (&str, &str) = ("\u{a0}", "\\ ");

/// Returns the page of the program, or of one of its commands.
pub(crate) fn page(program: Command, command: Option<&str>) -> io::Result<String> {
    let version = format!("walsafe {}", program.get_version().unwrap_or_default());
    let mut program = program.disable_help_subcommand(true).subcommand_help_heading("COMMANDS");
    program.build();
    let described = match command {
        None => &program,
        Some(name) => program.find_subcommand(name).ok_or(io::ErrorKind::NotFound)?,
    };
    let man = Man::new(described.clone()).source(version).manual("walsafe_archive");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    // An option that is broken with a hyphen reads as another one.
    write(&mut page, |roff| {
        roff.control("nh", []).control("ad", ["l"]);
    })?;
    man.render_name_section(&mut page)?;
    write(&mut page, |roff| synopsis(roff, described))?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if described.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let after = described.get_after_help().map(ToString::to_string).unwrap_or_default();
    write(&mut page, |roff| after_options(roff, &after))?;
    if command.is_some() {
        write(&mut page, |roff| see_also(roff, &program, described))?;
    }
    // Each section brings its own definition of the apostrophe; one is enough.
    let definition = Roff::default().render();
    let sections = String::from_utf8_lossy(&page).replace(&definition, "");
    Ok(format!("{definition}{}", sections.replace(NO_BREAK.0, NO_BREAK.1)))
}

fn write(page: &mut dyn Write, section: impl FnOnce(&mut Roff)) -> io::Result<()> {
    let mut roff = Roff::default();
    section(&mut roff);
    roff.to_writer(page)
}

/// The library's own one leaves out what the options take.
fn synopsis(roff: &mut Roff, command: &Command) {
    let mut line = vec![bold(command.get_bin_name().unwrap_or_else(|| command.get_name()))];
    let shown =
        |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let (values, options): (Vec<_>, Vec<_>) =
        command.get_arguments().filter(shown).partition(|arg| arg.is_positional());
    for arg in options.into_iter().chain(values) {
        let (before, after) = if arg.is_required_set() { (" ", "") } else { (" [", "]") };
        line.push(roman(before));
        if let Some(short) = arg.get_short() {
            line.extend([bold(format!("-{short}")), roman("|")]);
        }
        if let Some(long) = arg.get_long() {
            line.push(bold(format!("--{long}")));
        }
        if !arg.is_positional() && arg.get_action().takes_values() {
            line.push(roman(NO_BREAK.0));
        }
        line.extend(value(arg));
        line.push(roman(after));
    }
    if command.has_subcommands() {
        line.extend([
            roman(" "),
            italic("COMMAND"),
            roman(" ["),
            italic("ARGUMENT"),
            roman(" ...]"),
        ]);
    }
    roff.control("SH", ["SYNOPSIS"]);
    roff.text(line);
}

/// What an argument takes: one of these words, where they are few, or something of this name.
fn value(arg: &Arg) -> Vec<Inline> {
    const FEW: usize = 5;
    let possible = arg.get_possible_values();
    if arg.get_action().takes_values() && (1..=FEW).contains(&possible.len()) {
        let names: Vec<_> = possible.iter().map(clap::builder::PossibleValue::get_name).collect();
        return vec![roman(names.join("|"))];
    }
    match arg.get_value_names() {
        Some(names) if arg.get_action().takes_values() => vec![italic(names.join(" "))],
        _ => Vec::new(),
    }
}

/// Makes a section of each heading that stands behind the options.
fn after_options(roff: &mut Roff, text: &str) {
    let mut verbatim = false;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let heading = line.strip_suffix(':').filter(|heading| !heading.starts_with(' '));
        if let Some(heading) = heading {
            end(roff, &mut verbatim);
            roff.control("SH", [&*heading.to_uppercase()]);
            verbatim = heading == "Examples";
            if verbatim {
                roff.control("nf", []);
            }
            continue;
        }
        let line = line.strip_prefix("  ").unwrap_or(line);
        match line.split_once("  ") {
            _ if verbatim => {
                roff.text([roman(line)]);
            }
            Some((status, meaning)) if status.bytes().all(|b| b.is_ascii_digit()) => {
                roff.control("TP", ["5"]);
                roff.text([bold(status)]);
                roff.text([roman(meaning.trim_start())]);
            }
            _ if line.is_empty() => {
                if lines.peek().is_some_and(|next| next.starts_with(' ')) {
                    roff.control("PP", []);
                }
            }
            _ => {
                roff.text([roman(line)]);
            }
        }
    }
    end(roff, &mut verbatim);
}

fn end(roff: &mut Roff, verbatim: &mut bool) {
    if std::mem::take(verbatim) {
        roff.control("fi", []);
    }
}

/// Names the pages of the program and of its other commands.
fn see_also(roff: &mut Roff, program: &Command, described: &Command) {
    let others = program.get_subcommands().map(Command::get_name);
    let others = others.filter(|name| *name != described.get_name());
    let mut line = vec![bold("walsafe"), roman("(1)")];
    for other in others {
        line.extend([roman(", "), bold(format!("walsafe-{other}")), roman("(1)")]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text(line);
}
