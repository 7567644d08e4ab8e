//! A call of the server that failed: in one destination or several, or before any was asked.

use std::path::Path;

use crate::error::{Activity, Error, ErrorKind};
use crate::server::settings::{Destination, Destinations};
use crate::store::access::shell_word;

/// Why a file was not archived. There is at least one cause.
#[derive(Debug)]
pub struct Failure {
    first: Box<Cause>,
    others: Vec<Cause>,
    /// How many destinations there are.
    of: usize,
}

/// Why a file is not in one destination.
#[derive(Debug)]
struct Cause {
    /// `None` if the cause has to do with none, or with the only one.
    destination: Option<Destination>,
    error: Error,
}

/// A cause that has to do with no destination, such as a name that is not accepted.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let first = Box::new(Cause { destination: None, error });
        Self { first, others: Vec::new(), of: 1 }
    }
}

impl Failure {
    /// Makes the failure of a call that some of `of` destinations have answered with an error; `None` without
    /// any.
    ///
    /// Where there is a single destination, or all have failed for the same cause in the same words, as when the
    /// server's own file cannot be read, no destination is named.
    pub fn of(failed: impl IntoIterator<Item = (Destination, Error)>, of: usize) -> Option<Self> {
        let cause = |(destination, error)| Cause { destination: Some(destination), error };
        let mut causes = failed.into_iter().map(cause);
        let first = causes.next()?;
        let others: Vec<_> = causes.collect();
        let same = |other: &Cause| {
            other.error.kind() == first.error.kind() && other.error.detail() == first.error.detail()
        };
        if others.len() + 1 == of && others.iter().all(same) {
            return Some(first.error.into());
        }
        Some(Self { first: Box::new(first), others, of })
    }

    fn causes(&self) -> impl Iterator<Item = &Cause> {
        std::iter::once(&*self.first).chain(&self.others)
    }

    /// Returns the kind that the report has its SQLSTATE from.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.first.error.kind()
    }

    /// Returns the report's message: which file, where to, and, if there is one cause, which.
    #[must_use]
    pub fn message(&self, file: &str) -> String {
        let error = &self.first.error;
        match &self.first.destination {
            None => format!("could not archive file \"{file}\": {error}"),
            Some(there) if self.others.is_empty() => {
                format!(
                    "could not archive file \"{file}\" to \"{}\": {error}",
                    there.path().display()
                )
            }
            Some(_) => format!(
                "could not archive file \"{file}\" to {} of {} destinations",
                1 + self.others.len(),
                self.of
            ),
        }
    }

    /// Returns the DETAIL; with several causes, a line for each.
    #[must_use]
    pub fn detail(&self) -> String {
        self.worded(Error::detail, |error, detail| format!("{error}: {detail}"))
    }

    /// Returns what does not change from one try to the next although nothing else has ([`Error::gist`]).
    #[must_use]
    pub fn gist(&self) -> String {
        self.worded(Error::gist, |error, gist| format!("{error}: {gist}"))
    }

    fn worded(
        &self,
        text: impl Fn(&Error) -> String,
        with_error: impl Fn(&Error, &str) -> String,
    ) -> String {
        if self.others.is_empty() {
            return text(&self.first.error);
        }
        let line = |cause: &Cause| {
            let said = with_error(&cause.error, &text(&cause.error));
            cause.named(&said)
        };
        self.causes().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Returns the HINT: what to do about each cause; and, where other destinations are left, how archiving goes
    /// on without those that fail, and what that gives up. `destinations` are those in use, if that is known.
    #[must_use]
    pub fn hint(&self, destinations: Option<&Destinations>) -> String {
        let hint = |cause: &Cause| cause.error.hint(Activity::Archiving).into_owned();
        let first = hint(&self.first);
        let mut hints = match self.others.iter().all(|cause| hint(cause) == first) {
            true => vec![first],
            false => self.causes().map(|cause| cause.named(&hint(cause))).collect(),
        };
        hints.extend(destinations.and_then(|destinations| self.way_on(destinations)));
        hints.join(if self.others.is_empty() { " " } else { "\n" })
    }

    /// Says how archiving goes on without the destinations that fail. Not where the server's own side fails, which
    /// that would not help; and not where a destination speaks against the server's file: what is wrong there
    /// may be the server.
    fn way_on(&self, destinations: &Destinations) -> Option<String> {
        if !self.causes().all(|cause| cause.error.kind().is_of_destination()) {
            return None;
        }
        let failed: Vec<&Destination> =
            self.causes().filter_map(|cause| cause.destination.as_ref()).collect();
        if failed.is_empty() {
            return None;
        }
        let paths: Vec<&Path> = failed.iter().map(|there| there.path()).collect();
        let sound = destinations.iter().find(|there| !paths.contains(&there.path()))?;
        let left = destinations.without(&paths)?.replace('\'', "''");
        let quoted: Vec<_> = paths.iter().map(|path| format!("\"{}\"", path.display())).collect();
        let (names, it) = match &*quoted {
            [one] => (one.clone(), "it"),
            _ => (quoted.join(" and "), "them"),
        };
        let copies: Vec<_> = failed
            .iter()
            .map(|there| {
                format!(
                    "\"walsafe copy {} {}\"",
                    shell_word(sound.given()),
                    shell_word(there.given())
                )
            })
            .collect();
        Some(format!(
            "To go on without {names}: ALTER SYSTEM SET walsafe_archive.destination = '{left}'; SELECT pg_reload_conf(); From then on there is one copy fewer of each file. Once {it} can be used again, set the whole list again, and run {} to catch up.",
            copies.join(" and ")
        ))
    }
}

impl Cause {
    /// Puts the destination before a text.
    fn named(&self, text: &str) -> String {
        match &self.destination {
            Some(there) => format!("\"{}\": {text}", there.path().display()),
            None => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;

    use super::*;
    use crate::error::{Action, ErrorKind, Refusal};

    const FILE: &str = "000000010000000000000007";

    fn destinations(list: &str) -> Destinations {
        Destinations::new(list, Path::new("/data")).unwrap()
    }

    fn missing(path: &str) -> Error {
        Error::io(Action::OpenDestination, path, io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn hangs(path: &str) -> Error {
        Error::Stalled { path: path.into(), seconds: 60 }
    }

    /// Those of the list whose error is given.
    fn failure(list: &Destinations, errors: impl IntoIterator<Item = Option<Error>>) -> Failure {
        let failed = list.iter().cloned().zip(errors);
        let failed = failed.filter_map(|(there, error)| Some((there, error?)));
        Failure::of(failed, list.len()).unwrap()
    }

    #[test]
    fn a_single_destination_is_told_of_as_ever() {
        let list = destinations("/a");
        let (error, failure) = (missing("/a"), failure(&list, [Some(missing("/a"))]));
        assert_eq!(failure.message(FILE), format!("could not archive file \"{FILE}\": {error}"));
        assert_eq!(failure.detail(), error.detail());
        assert_eq!(failure.hint(Some(&list)), error.hint(Activity::Archiving));
    }

    #[test]
    fn one_of_several_is_named_and_the_way_on_without_it() {
        let list = destinations("/it's, \"/b, c\", /d");
        let failure = failure(&list, [None, Some(hangs("/b, c"))]);
        let said = format!("could not archive file \"{FILE}\" to \"/b, c\": {}", hangs("/b, c"));
        assert_eq!(failure.message(FILE), said);
        assert_eq!(failure.detail(), hangs("/b, c").detail());
        let hint = failure.hint(Some(&list));
        assert!(hint.starts_with(&*hangs("/b, c").hint(Activity::Archiving)), "{hint}");
        for says in [
            "To go on without \"/b, c\": ALTER SYSTEM SET walsafe_archive.destination = '/it''s, /d'; SELECT pg_reload_conf();",
            "one copy fewer",
            "run \"walsafe copy '/it'\\''s' '/b, c'\" to catch up",
        ] {
            assert!(hint.contains(says), "{hint}");
        }
        assert!(!failure.hint(None).contains("ALTER SYSTEM"));
    }

    /// The shell takes the `&` between the options of a URL for its own.
    #[test]
    fn a_url_is_written_for_the_shell_with_all_its_options() {
        let url = "s3://wal/main?endpoint=https://store.example&region=r";
        let list = destinations(&format!("/a, {url}"));
        let failure = failure(&list, [Some(missing("/a")), None]);
        let hint = failure.hint(Some(&list));
        assert!(hint.contains(&format!("destination = '{url}';")), "{hint}");
        assert!(hint.contains(&format!("\"walsafe copy '{url}' /a\"")), "{hint}");
    }

    /// Object storage that does not answer was no destination that could be taken out.
    #[test]
    fn a_bucket_that_is_in_trouble_may_be_taken_out() {
        let list = destinations("/a, s3://wal/main?region=r");
        let refusal =
            Refusal { kind: ErrorKind::Unreachable, text: String::new(), request_id: None };
        let away = Error::Remote {
            action: Action::Upload,
            path: "s3://wal/main".into(),
            refusal: Box::new(refusal),
        };
        let hint = failure(&list, [None, Some(away)]).hint(Some(&list));
        assert!(hint.contains("destination = '/a';"), "{hint}");
        assert!(hint.contains("\"walsafe copy /a 's3://wal/main?region=r'\""), "{hint}");
    }

    #[test]
    fn several_are_each_named_with_their_cause() {
        let list = destinations("/a, /b, /c");
        let failure = failure(&list, [Some(missing("/a")), None, Some(hangs("/c"))]);
        assert_eq!(
            failure.message(FILE),
            format!("could not archive file \"{FILE}\" to 2 of 3 destinations")
        );
        let lines = format!(
            "\"/a\": {}: {}\n\"/c\": {}: {}",
            missing("/a"),
            missing("/a").detail(),
            hangs("/c"),
            hangs("/c").detail()
        );
        assert_eq!(failure.detail(), lines);
        let hint = failure.hint(Some(&list));
        assert!(hint.starts_with("\"/a\": Create or mount"), "{hint}");
        assert!(hint.contains("\n\"/c\": Check the storage"), "{hint}");
        assert!(
            hint.contains(
                "without \"/a\" and \"/c\": ALTER SYSTEM SET walsafe_archive.destination = '/b';"
            ),
            "{hint}"
        );
        assert!(hint.contains("\"walsafe copy /b /a\" and \"walsafe copy /b /c\""), "{hint}");
    }

    /// There is nothing to go on with, and nothing in a destination is to blame.
    #[test]
    fn no_destination_is_to_be_taken_out_where_that_would_not_help() {
        let list = destinations("/a, /b");
        let all = failure(&list, [Some(missing("/a")), Some(missing("/b"))]);
        assert!(all.message(FILE).ends_with("to 2 of 2 destinations"));
        assert!(!all.hint(Some(&list)).contains("ALTER SYSTEM"));
        let source = || {
            let gone = io::Error::from_raw_os_error(libc::ENOENT);
            Error::io(Action::ReadSource, "pg_wal/x", gone)
        };
        let own = failure(&list, [Some(source()), Some(source())]);
        assert_eq!(own.message(FILE), format!("could not archive file \"{FILE}\": {}", source()));
        let one = failure(&list, [None, Some(source())]);
        assert!(!one.hint(Some(&list)).contains("ALTER SYSTEM"));
        let conflict =
            || Error::NotContinued { path: "/b/x".into(), reason: "it breaks".to_owned() };
        let conflict = failure(&list, [None, Some(conflict())]);
        assert!(!conflict.hint(Some(&list)).contains("ALTER SYSTEM"));
    }
}
