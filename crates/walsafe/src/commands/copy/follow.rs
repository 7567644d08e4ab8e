//! `walsafe copy --follow`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use walsafe_core::archive::Notice;
use walsafe_core::error::ErrorKind;
use walsafe_core::prove::finding::Findings;
use walsafe_core::sys;
use walsafe_core::transfer::{Apart, Copied, CopyError, Stop};

use super::told::{differs, found, report};
use super::{Refusal, of_error, ready};
use crate::arguments::Copy;
use crate::commands::DONE;
use crate::complaint::Complaint;
use crate::terminal::{self, Bar};
use crate::watchdog::Signs;

/// For how long one round goes on before it looks for new files and writes its figures.
const ROUND: Duration = Duration::from_secs(30);
/// The longest pause between two tries while an archive is in trouble.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How many lines are remembered that need not be said again.
const SAID: usize = 4096;

/// Copies on and on, until this process is asked to end.
pub(super) fn follow(arguments: &Copy, signs: &Signs) -> u8 {
    let mut job = match ready(arguments, signs) {
        Ok(job) => job,
        Err(complaint) => return terminal::fail(&complaint),
    };
    let begun = Instant::now();
    let mut all = Copied::default();
    let mut teller = Teller::default();
    let interval = Duration::from_secs(arguments.interval.into());
    let mut pause = interval;
    let mut bar = Some(Bar::start(arguments.quiet));
    while !sys::is_asked_to_end() {
        let since = Instant::now();
        let result = job.run(&mut |step| {
            if let Some(bar) = &bar {
                bar.show(step.files, step.files_total, step.bytes);
            }
            !sys::is_asked_to_end() && since.elapsed() < ROUND
        });
        let trouble = match &result {
            Err(refusal) if teller.is_new() && is_for_good(refusal) => {
                drop(bar);
                return terminal::fail(&job.refused(refusal));
            }
            Err(refusal) => Some((job.refused(refusal), gist(refusal))),
            Ok(Copied { stopped: Some(Stop::Failed(error)), .. }) => {
                Some((of_error(error), error.gist()))
            }
            Ok(_) => None,
        };
        job.figures.up = trouble.is_none();
        let (mut ended, mut slow) = (true, trouble.is_some());
        if let Ok(copied) = result {
            slow |= matches!(copied.stopped, Some(Stop::Conflict(_)));
            ended = !matches!(copied.stopped, Some(Stop::Cancelled));
            teller.tell_findings(&copied);
            add(&mut all, copied);
        }
        if ended {
            bar = None;
        }
        if let Some(complaint) = job.write_figures() {
            teller.tell_once(complaint.to_string());
        }
        pause = if slow { LONGEST_PAUSE.min(pause * 2).max(interval) } else { interval };
        teller.tell_trouble(trouble);
        if ended {
            wait(signs, pause);
        }
    }
    drop(bar);
    all.findings = Findings::default();
    all.without.clear();
    signs.elsewhere(|| report(&job, &all, begun.elapsed()));
    DONE
}

/// Returns whether a refusal is one that waiting does not mend.
fn is_for_good(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Apart(Apart::Failed(_)) => false,
        Refusal::Apart(_) => true,
        Refusal::Copy(CopyError::Failed(error)) => {
            matches!(error.kind(), ErrorKind::OtherCluster | ErrorKind::NotAdoptable)
        }
        Refusal::Copy(_) => false,
    }
}

/// What makes a refusal the same as an earlier one.
fn gist(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Apart(Apart::Failed(error)) | Refusal::Copy(CopyError::Failed(error)) => {
            error.gist()
        }
        Refusal::Apart(apart) => apart.to_string(),
        Refusal::Copy(error) => error.to_string(),
    }
}

fn add(all: &mut Copied, copied: Copied) {
    all.system_identifier = copied.system_identifier;
    all.files += copied.files;
    all.bytes += copied.bytes;
    all.present += copied.present;
    all.last = copied.last.or(all.last.take());
    all.unfinished = copied.unfinished;
}

/// Waits, and is no hang.
fn wait(signs: &Signs, pause: Duration) {
    const SLICE: Duration = Duration::from_millis(100);
    let until = Instant::now() + pause;
    while !sys::is_asked_to_end() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(SLICE));
        signs.steps.tick();
    }
}

/// Says things once.
#[derive(Default)]
struct Teller {
    said: BTreeSet<String>,
    trouble: Option<String>,
    /// A round went well.
    worked: bool,
}

impl Teller {
    /// Returns whether no round has gone well yet.
    fn is_new(&self) -> bool {
        !self.worked
    }

    /// Says a line, unless it was said.
    fn tell_once(&mut self, line: String) {
        if self.said.contains(&line) {
            return;
        }
        terminal::remark(&line);
        if self.said.len() < SAID {
            self.said.insert(line);
        }
    }

    /// Says what was found.
    fn tell_findings(&mut self, copied: &Copied) {
        for notice in &copied.without {
            let Notice { message, detail, hint, .. } = notice;
            self.tell_once(format!("{message}: {detail} {hint}"));
        }
        for finding in copied.findings.iter() {
            self.tell_once(found(&finding));
        }
        if let Some(Stop::Conflict(conflict)) = &copied.stopped {
            self.tell_once(differs(conflict).to_string());
        }
    }

    /// Says that an archive is in trouble, and that it no longer is.
    fn tell_trouble(&mut self, trouble: Option<(Complaint, String)>) {
        match trouble {
            Some((complaint, gist)) => {
                if self.trouble.as_ref() != Some(&gist) {
                    let complaint =
                        complaint.and("Copying goes on by itself once this has passed.");
                    terminal::remark(&complaint.to_string());
                }
                self.trouble = Some(gist);
            }
            None => {
                self.worked = true;
                if self.trouble.take().is_some() {
                    terminal::remark("copying goes on");
                }
            }
        }
    }
}
