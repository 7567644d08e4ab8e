//! The server's log, read as an administrator reads it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait::poll;

/// Puts time, process, kind of process and SQLSTATE before each line; [`Report`] reads that back.
pub(crate) const LINE_PREFIX: &str = "%m [%p] <%b> %e ";

/// A place in the log, to look at what comes after it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark(u64);

/// One message in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub pid: i32,
    /// Such as `archiver`, `startup`, `client backend`.
    pub process: String,
    pub sqlstate: String,
    /// Such as `WARNING`, `ERROR`, `LOG`.
    pub level: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl Report {
    /// Checks that this is the report of a file that was not archived, with all that an administrator
    /// needs: what could not be done, to which file, and what to do about it.
    #[track_caller]
    pub fn assert_explains(&self, file: &str) {
        assert_eq!(self.level, "WARNING", "{self:?}");
        let begin = format!("could not archive file \"{file}\": ");
        assert!(self.message.starts_with(&begin) && !self.message.ends_with('.'), "{self:?}");
        for part in [&self.detail, &self.hint] {
            assert!(part.len() > 20 && part.ends_with('.'), "{self:?}");
        }
        assert!(!self.sqlstate.starts_with("00") && self.sqlstate != "01000", "{self:?}");
    }

    /// Returns whether this only says that the report before it is true again.
    #[must_use]
    pub fn is_again(&self) -> bool {
        self.hint.is_empty() && self.detail.starts_with("Same as above, for the ")
    }
}

/// The file that a cluster writes its log to.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the log, now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.path.metadata().map_or(0, |metadata| metadata.len()))
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> String {
        self.since(Mark::default())
    }

    /// What was written after the mark.
    #[must_use]
    pub fn since(&self, mark: Mark) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(mark.0)).is_ok()
        {
            drop(file.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines, for a test that has to give up.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Waits for a line after the mark that contains the text, and returns it.
    #[track_caller]
    pub fn wait_for(&self, mark: Mark, text: &str, timeout: Duration) -> String {
        let found = poll(timeout, || {
            let log = self.since(mark);
            log.lines().find(|line| line.contains(text)).map(str::to_owned)
        });
        match found {
            Some(line) => line,
            None => panic!("no \"{text}\" in the log within {timeout:?}"),
        }
    }

    /// The messages after the mark, each with its DETAIL and HINT.
    #[must_use]
    pub fn reports(&self, mark: Mark) -> Vec<Report> {
        parse(&self.since(mark))
    }

    /// The warnings and errors of the archiver after the mark.
    #[must_use]
    pub fn archiver_reports(&self, mark: Mark) -> Vec<Report> {
        let mut reports = self.reports(mark);
        reports.retain(|report| {
            report.process == "archiver"
                && !matches!(&*report.level, "LOG" | "DEBUG1" | "DEBUG2" | "INFO")
        });
        reports
    }

    /// Waits for a message of the archiver with this SQLSTATE after the mark, whole with DETAIL
    /// and HINT. For one that only says that an earlier one is true again, that one is returned.
    #[track_caller]
    pub fn wait_for_archiver_report(
        &self,
        mark: Mark,
        sqlstate: &str,
        timeout: Duration,
    ) -> Report {
        let find = || {
            let mut reports = self.archiver_reports(mark).into_iter();
            let report = reports.find(|report| report.sqlstate == sqlstate)?;
            let is_first = |first: &Report| first.message == report.message && !first.is_again();
            match report.is_again() {
                true => self.archiver_reports(Mark::default()).into_iter().rfind(is_first),
                false => Some(report),
            }
        };
        match poll(timeout, find) {
            Some(report) => report,
            None => panic!("no report with SQLSTATE {sqlstate} by the archiver within {timeout:?}"),
        }
    }
}

fn parse(text: &str) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for line in text.lines() {
        // A message of several lines goes on after a tab.
        if let Some(more) = line.strip_prefix('\t') {
            if let Some(last) = reports.last_mut() {
                let part = [&mut last.hint, &mut last.detail, &mut last.message]
                    .into_iter()
                    .find(|part| !part.is_empty());
                if let Some(part) = part {
                    part.push('\n');
                    part.push_str(more);
                }
            }
            continue;
        }
        let Some(report) = parse_line(line) else {
            continue;
        };
        // The server writes a whole message at once, so the parts follow each other.
        let open = reports.last_mut().filter(|last| last.pid == report.pid);
        match (&*report.level, open) {
            ("DETAIL", Some(last)) => last.detail = report.message,
            ("HINT", Some(last)) => last.hint = report.message,
            ("STATEMENT" | "CONTEXT" | "QUERY" | "LOCATION" | "BACKTRACE", _) => {}
            _ => reports.push(report),
        }
    }
    reports
}

fn parse_line(line: &str) -> Option<Report> {
    let (_, rest) = line.split_once(" [")?;
    let (pid, rest) = rest.split_once("] <")?;
    let (process, rest) = rest.split_once("> ")?;
    let (sqlstate, rest) = rest.split_once(' ')?;
    let (level, message) = rest.split_once(":  ")?;
    Some(Report {
        pid: pid.parse().ok()?,
        process: process.to_owned(),
        sqlstate: sqlstate.to_owned(),
        level: level.to_owned(),
        message: message.to_owned(),
        ..Report::default()
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_message_is_read_with_its_detail_and_hint() {
        let reports = parse(
            "2026-11-21 06:47:57.557 UTC [50] <archiver> 53100 WARNING:  could not write \"a: b\"\n\
             \tand more\n\
             2026-11-21 06:47:57.557 UTC [50] <archiver> 53100 DETAIL:  0 bytes are free.\n\
             \tNone at all.\n\
             2026-11-21 06:47:57.557 UTC [50] <archiver> 53100 HINT:  Make room.\n\
             2026-11-21 06:47:57.560 UTC [51] <postmaster> 00000 LOG:  ready\n",
        );
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[0].sqlstate, "53100");
        assert_eq!(reports[0].level, "WARNING");
        assert_eq!(reports[0].message, "could not write \"a: b\"\nand more");
        assert_eq!(reports[0].detail, "0 bytes are free.\nNone at all.");
        assert_eq!(reports[0].hint, "Make room.");
        assert_eq!(reports[1].process, "postmaster");
    }
}
