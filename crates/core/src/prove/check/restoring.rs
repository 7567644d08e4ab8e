//! What the server's settings for a recovery say: whether it would find its program, and its archives.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Check, Status, made};
use crate::store::access::shell_word;
use crate::store::location;

/// A server's `restore_command`, and what is known of where it would run.
#[derive(Debug, Clone, Copy)]
pub struct Restoring<'a> {
    /// The setting.
    pub command: &'a str,
    /// The `PATH` of the server's processes, which the shell that runs the command inherits.
    pub path: Option<&'a OsStr>,
    /// The directories and URLs to which the server archives.
    pub archives: &'a [&'a Path],
    /// The file with keys for object storage, if the server has one.
    pub credentials_file: Option<&'a Path>,
    /// The directory of the server's own programs, where `make install` puts `walsafe`.
    pub programs: Option<&'a Path>,
}

/// Where a shell looks that inherits no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the shell itself understands where a program's name may stand.
const OF_THE_SHELL: [&str; 19] = [
    "!", ".", ":", "[", "{", "case", "cd", "command", "eval", "exec", "export", "for", "if", "set",
    "test", "true", "umask", "until", "while",
];

/// Checks `restore_command`: it is set, the server finds its program, and it reads each archive.
#[must_use]
pub fn restore_command(restoring: &Restoring<'_>) -> Check {
    let name = "restore_command";
    let Restoring { command, archives, .. } = *restoring;
    let from = archives.iter().map(|archive| match location::is_url(archive) {
        // Options are separated by what a shell does not leave alone.
        true => format!("--from \"{}\"", archive.display()),
        false => format!("--from {}", archive.display()),
    });
    let keys =
        restoring.credentials_file.filter(|_| archives.iter().any(|at| location::is_url(at)));
    let keys =
        keys.map(|file| format!("--credentials-file {}", shell_word(&file.to_string_lossy())));
    let from = from.chain(keys).collect::<Vec<_>>().join(" ");
    let wanted = |program: &str| format!("restore_command = '{program} restore {from} %f \"%p\"'");
    if command.trim().is_empty() {
        let detail = format!(
            "\"restore_command\" is not set: a recovery of this server would not read the archive. Set it beforehand: {}",
            wanted("walsafe")
        );
        return made(name, Status::Warning, detail);
    }
    let found = format!("\"restore_command\" is \"{command}\"");
    let words = words(command);
    if let Some(program) = programs(&words).find(|program| !restoring.finds(program)) {
        let path = restoring.path.map_or(DEFAULT_PATH.into(), OsStr::to_string_lossy);
        let looked = if program.contains('/') {
            "which is no program".to_owned()
        } else {
            format!("which is not in the server's PATH ({path})")
        };
        let beside = restoring.programs.map(|dir| dir.join("walsafe")).filter(|at| runs(at));
        let hint = match beside {
            Some(at) if is_walsafe(program) => {
                format!("Write its whole path: {}", wanted(&at.display().to_string()))
            }
            _ => "Install it, or write its whole path.".to_owned(),
        };
        let detail = format!("{found}: it calls \"{program}\", {looked}. {hint}");
        return made(name, Status::Error, detail);
    }
    if !command.contains("%f") || !command.contains("%p") {
        let detail = format!("{found}: it must pass %f and \"%p\".");
        return made(name, Status::Error, detail);
    }
    let named = |archive: &&&Path| words.iter().any(|word| names(word, archive));
    let missing: Vec<String> = archives
        .iter()
        .filter(|archive| !named(archive))
        .map(|archive| format!("\"{}\"", archive.display()))
        .collect();
    if !missing.is_empty() {
        let needs = match archives.len() {
            1 => "A recovery needs that archive",
            _ => "What is missing or damaged in one archive, a recovery takes from another",
        };
        let detail = format!(
            "{found}: it does not name {}, to which this server archives. {needs}: {}",
            missing.join(" and "),
            wanted("walsafe")
        );
        return made(name, Status::Warning, detail);
    }
    made(name, Status::Ok, found)
}

/// Checks `archive_timeout`, in seconds as the server gives it.
#[must_use]
pub fn archive_timeout(value: &str) -> Check {
    let name = "archive_timeout";
    if value.parse::<u64>().is_ok_and(|seconds| seconds > 0) {
        return made(name, Status::Ok, format!("\"archive_timeout\" is {value} s"));
    }
    let detail = "\"archive_timeout\" is 0: what a quiet server has written may wait for days before it is archived. Set it to the time that you can afford to lose, such as 5min.";
    made(name, Status::Warning, detail)
}

impl Restoring<'_> {
    /// Returns whether the shell finds a program.
    fn finds(&self, program: &str) -> bool {
        if program.contains('/') {
            return runs(Path::new(program));
        }
        let path = self.path.unwrap_or(OsStr::new(DEFAULT_PATH));
        std::env::split_paths(path).any(|dir| runs(&dir.join(program)))
    }
}

fn runs(program: &Path) -> bool {
    program.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn is_walsafe(word: &str) -> bool {
    Path::new(word).file_name().is_some_and(|name| name == "walsafe")
}

/// Returns the programs of a command, as far as that can be told without a shell: each `walsafe`, or else the
/// first word.
fn programs(words: &[String]) -> impl Iterator<Item = &str> {
    let ours = words.iter().any(|word| is_walsafe(word));
    let first = words.iter().take(1).filter(move |word| {
        !ours && !OF_THE_SHELL.contains(&word.as_str()) && !word.contains(['=', '$', '`'])
    });
    words.iter().filter(|word| is_walsafe(word)).chain(first).map(String::as_str)
}

/// Returns whether a word is the path of a directory, or of a file in it, or a URL of the same place.
fn names(word: &str, archive: &Path) -> bool {
    if location::is_url(archive) {
        let word = Path::new(word.strip_prefix("--from=").unwrap_or(word));
        return location::is_url(word) && location::shown(word) == location::shown(archive);
    }
    let word = word.rsplit_once('=').map_or(word, |(_, value)| value);
    let word = Path::new(word.split("%f").next().unwrap_or(word));
    if !word.is_absolute() {
        return false;
    }
    let real = |path: &Path| {
        path.canonicalize().unwrap_or_else(|_| path.components().collect::<PathBuf>())
    };
    real(word) == real(archive)
}

/// Splits a command into words as a shell does, and at what separates commands.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_with(String::new);
            }
            (None | Some('"'), '\\') => {
                word.get_or_insert_with(String::new).extend(characters.next());
            }
            (None, ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>') => {
                words.extend(word.take());
            }
            _ => word.get_or_insert_with(String::new).push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Nothing looked at the command until the day of the recovery, which ended with "command not found".
    #[test]
    fn a_program_that_the_server_does_not_find_and_another_archive_are_told() {
        let temp = tempfile::tempdir().unwrap();
        let (bin, archive) = (temp.path().join("bin"), temp.path().join("archive 1"));
        std::fs::create_dir(&bin).unwrap();
        std::fs::create_dir(&archive).unwrap();
        std::fs::write(bin.join("walsafe"), "").unwrap();
        let check = |command: &str, path: &Path| {
            let check = restore_command(&Restoring {
                command: &command.replace("ARCHIVE", &archive.display().to_string()),
                path: Some(path.as_os_str()),
                archives: &[&archive],
                credentials_file: Some(Path::new("/etc/walsafe/keys")),
                programs: Some(&bin),
            });
            (check.status, check.detail)
        };
        let usual = r#"walsafe restore --from "ARCHIVE" %f "%p""#;
        let (status, detail) = check(usual, &bin);
        assert!(
            status == Status::Error && detail.contains("is not in the server's PATH"),
            "{detail}"
        );
        assert!(detail.contains("Install it"), "{detail}");
        std::fs::set_permissions(bin.join("walsafe"), PermissionsExt::from_mode(0o755)).unwrap();
        let (status, detail) = check(usual, Path::new("/nowhere"));
        let whole = format!("Write its whole path: restore_command = '{}/walsafe ", bin.display());
        assert!(status == Status::Error && detail.contains(&whole), "{detail}");
        for good in [
            usual,
            r#"walsafe restore --from=ARCHIVE/ %f "%p""#.replace("--from=ARCHIVE/", "'--from=ARCHIVE/'").as_str(),
            r#"walsafe restore --from "ARCHIVE" %f "%p" || { a=$?; walsafe restore --from /b %f "%p" || exit $(( a > $? ? a : $? )); }"#,
            r#"if test -e /x; then walsafe restore --from "ARCHIVE" %f "%p"; fi"#,
        ] {
            assert_eq!(check(good, &bin).0, Status::Ok, "{:?}", check(good, &bin));
        }
        let (status, detail) = check(r#"walsafe restore --from /other %f "%p""#, &bin);
        assert!(status == Status::Warning && detail.contains("it does not name"), "{detail}");
        assert_eq!(check("", &bin).0, Status::Warning);
        assert_eq!(check(r#"/bin/cp "ARCHIVE/%f" "%p""#, &bin).0, Status::Ok);
        assert_eq!(check(r#"/no/cp "ARCHIVE/%f" "%p""#, &bin).0, Status::Error);
        assert_eq!(check(r#"walsafe restore --from "ARCHIVE" %f"#, &bin).0, Status::Error);
        let both = [archive.as_path(), Path::new("/b")];
        let command = |from: &str| {
            let command = format!(r#"walsafe restore {from} %f "%p""#);
            let command = command.replace("ARCHIVE", &format!("\"{}\"", archive.display()));
            let path = Some(bin.as_os_str());
            restore_command(&Restoring {
                command: &command,
                path,
                archives: &both,
                credentials_file: None,
                programs: None,
            })
        };
        assert_eq!(command("--from ARCHIVE --from /b").status, Status::Ok);
        let missing = command("--from ARCHIVE");
        assert_eq!(missing.status, Status::Warning);
        assert!(missing.detail.contains("does not name \"/b\", to which"), "{}", missing.detail);
        assert!(missing.detail.contains(" --from /b %f"), "{}", missing.detail);
        #[cfg(feature = "s3")]
        {
            let url = Path::new("s3://wal/main?endpoint=https://store.test&region=r");
            let command = |from: &str| {
                let command = format!(r#"walsafe restore {from} %f "%p""#);
                let path = Some(bin.as_os_str());
                let (command, archives) = (command.as_str(), &[url][..]);
                let credentials_file = Some(Path::new("/etc/walsafe/keys"));
                let programs = None;
                restore_command(&Restoring { command, path, archives, credentials_file, programs })
            };
            for from in [
                r#"--from "s3://wal/main?endpoint=https://store.test&region=r""#,
                r#"--from="s3://wal/main/?region=r&endpoint=https://store.test""#,
            ] {
                assert_eq!(command(from).status, Status::Ok, "{}", command(from).detail);
            }
            let missing = command("--from s3://wal/other?region=r");
            assert_eq!(missing.status, Status::Warning);
            let advice = r#" --from "s3://wal/main?endpoint=https://store.test&region=r" --credentials-file /etc/walsafe/keys %f"#;
            assert!(missing.detail.contains(advice), "{}", missing.detail);
        }
        assert_eq!(archive_timeout("0").status, Status::Warning);
        assert_eq!(archive_timeout("300").status, Status::Ok);
    }
}
