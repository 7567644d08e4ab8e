//! `walsafe copy`: brings the files of one archive into another, once or on and on.

use std::path::{Path, PathBuf};
use std::time::Instant;

use walsafe_core::error::{Activity, Error, ErrorKind};
use walsafe_core::server::settings::FileMode;
use walsafe_core::store::location::{self, is_url};
use walsafe_core::store::{Store, identity, mode};
use walsafe_core::sys;
use walsafe_core::transfer::{self, Apart, Copied, CopyError, Known, Step, Stop, Way};

use super::metrics::{self, Figures};
use super::owner::{self, work_as_owner_of};
use super::verify::jobs;
use super::{given_up, watched};
use crate::arguments::Copy;
use crate::complaint::Complaint;
use crate::terminal::{self, Bar};
use crate::watchdog::{self, Signs};

mod follow;
mod told;

/// Runs the command and returns its exit status.
pub(super) fn start(arguments: &Copy) -> u8 {
    // Which of the two hangs cannot be told: several threads are in both.
    let [source, destination] = [&arguments.source, &arguments.destination];
    let shown = |location: &Path| location::shown(location).display().to_string();
    let both = match is_url(source) || is_url(destination) {
        true => format!("one of {} and {}", shown(source), shown(destination)),
        false => format!("{}\" or \"{}", source.display(), destination.display()),
    };
    let both = PathBuf::from(both);
    let common = &arguments.common;
    if !arguments.follow {
        return watched(&both, common, |signs| once(arguments, signs));
    }
    let say = |hangs: Option<&Error>| match hangs {
        Some(error) => {
            let complaint = owner::complaint(error).and("The copy waits until it responds.");
            terminal::remark(&complaint.to_string());
        }
        None => terminal::remark("the archive responds again: copying goes on"),
    };
    let work = |signs: &Signs| follow::follow(arguments, signs);
    watchdog::watch_until_asked(&both, common.timeout(), &say, work).unwrap_or_else(given_up)
}

/// What does not change from one round to the next.
struct Job<'a> {
    arguments: &'a Copy,
    signs: &'a Signs,
    /// The path or the URL of the archive to read.
    source: PathBuf,
    /// The path or the URL of the archive to write.
    destination: PathBuf,
    /// Both archives.
    stores: [Box<dyn Store>; 2],
    known: Known,
    figures: Figures,
}

/// Why a round could not begin.
enum Refusal {
    /// The two cannot be the ends of a copy.
    Apart(Apart),
    /// One of the archives is in trouble.
    Copy(CopyError),
}

impl<'a> Job<'a> {
    fn new(arguments: &'a Copy, signs: &'a Signs) -> Result<Self, Complaint> {
        let absolute = |location: &Path| {
            location::absolute(location)
                .map_err(|e| Complaint::new(format!("could not find the working directory: {e}")))
        };
        let source = absolute(&arguments.source)?;
        let destination = absolute(&arguments.destination)?;
        let access = arguments.common.access(None);
        let open = |location: &Path| location::open(location, &access).map_err(|e| of_error(&e));
        let stores = [open(&source)?, open(&destination)?];
        let (known, figures) = (Known::default(), Figures::default());
        Ok(Self { arguments, signs, source, destination, stores, known, figures })
    }

    /// Works from now on as the user that the new files are to belong to. Before any thread is started.
    fn become_owner(&self) -> Result<(), Complaint> {
        // Objects belong to nobody.
        if is_url(&self.destination) {
            return Ok(());
        }
        let id = |archive: &Path| archive.join(identity::FILE_NAME);
        let theirs = id(&self.destination);
        if theirs.symlink_metadata().is_ok() {
            return work_as_owner_of(&theirs, &self.destination);
        }
        if !is_url(&self.source) {
            return work_as_owner_of(&id(&self.source), &self.source);
        }
        // Whoever the directory was made for.
        if sys::user() == 0 {
            work_as_owner_of(&self.destination, &self.destination)
        } else {
            Ok(())
        }
    }

    fn run(&mut self, watch: &mut dyn FnMut(&Step) -> bool) -> Result<Copied, Refusal> {
        let like = |archive: &Path| match is_url(archive) {
            true => None,
            false => mode::like(&archive.join(identity::FILE_NAME)),
        };
        let mode = like(&self.destination).or_else(|| like(&self.source));
        let [source, destination] = &self.stores;
        let way = Way {
            source: &**source,
            destination: &**destination,
            mode: mode.unwrap_or(FileMode::PRIVATE),
            threads: jobs(self.arguments.jobs),
            may_begin: !self.arguments.no_begin,
            progress: &self.signs.steps,
        };
        let copied = match transfer::apart(&self.source, &self.destination) {
            Ok(()) => transfer::copy(&way, &mut self.known, watch).map_err(Refusal::Copy),
            Err(apart) => Err(Refusal::Apart(apart)),
        };
        if copied.as_ref().map_or(true, |copied| matches!(copied.stopped, Some(Stop::Failed(_)))) {
            self.known.doubt();
        }
        let conflict = |copied: &Copied| matches!(copied.stopped, Some(Stop::Conflict(_)));
        self.figures.findings =
            self.known.findings() + u64::from(copied.as_ref().is_ok_and(conflict));
        if self.arguments.metrics.is_some()
            && let Ok(Some(lag)) = transfer::lag(&way, &self.known)
        {
            self.figures.lag = Some(lag);
        }
        copied
    }

    /// Returns the two archives as messages name them.
    fn named(&self) -> (PathBuf, PathBuf) {
        let named = |location: &Path| location::shown(location).into_owned();
        (named(&self.source), named(&self.destination))
    }

    /// Writes the figures, where that is asked for. Returns what went wrong.
    fn write_figures(&self) -> Option<Complaint> {
        let file = self.arguments.metrics.as_ref()?;
        let (source, destination) = self.named();
        let write = || metrics::write(file, &source, &destination, &self.figures);
        self.signs.elsewhere(write).err().map(|e| {
            Complaint::new(format!("could not write \"{}\": {e}", file.display()))
                .hint("The user that owns DEST must be able to write into its directory.")
        })
    }

    fn refused(&self, refusal: &Refusal) -> Complaint {
        match refusal {
            Refusal::Apart(Apart::Failed(error)) | Refusal::Copy(CopyError::Failed(error)) => {
                of_error(error)
            }
            Refusal::Apart(apart) => Complaint::new(apart.to_string())
                .hint("Name two archives, neither of which lies inside the other."),
            Refusal::Copy(error @ CopyError::Nothing) => Complaint::new(error.to_string())
                .detail(format!("\"{}\".", self.named().0.display()))
                .hint(ErrorKind::NothingThere.hint(Activity::Checking)),
            Refusal::Copy(error @ CopyError::Unmarked) => Complaint::new(error.to_string())
                .detail(format!("\"{}\".", self.named().1.display()))
                .hint("Is this the archive, and is its file system mounted? To begin a new archive there, leave --no-begin out once."),
        }
    }
}

/// Says an error of the copy.
fn of_error(error: &Error) -> Complaint {
    let complaint = owner::complaint(error);
    match error.kind() {
        ErrorKind::OtherCluster => complaint.hint("Name two archives of one and the same cluster."),
        _ => complaint,
    }
}

fn once(arguments: &Copy, signs: &Signs) -> u8 {
    let mut job = match ready(arguments, signs) {
        Ok(job) => job,
        Err(complaint) => return terminal::fail(&complaint),
    };
    let (begun, bar) = (Instant::now(), Bar::start(arguments.quiet));
    let result = job.run(&mut |step| {
        bar.show(step.files, step.files_total, step.bytes);
        true
    });
    drop(bar);
    let copied = match result {
        Ok(copied) => copied,
        Err(refusal) => {
            let complaint = job.refused(&refusal);
            let _ = job.write_figures();
            return terminal::fail(&complaint);
        }
    };
    let failed = matches!(copied.stopped, Some(Stop::Failed(_)));
    job.figures.up = !failed;
    if let Some(complaint) = job.write_figures() {
        return terminal::fail(&complaint);
    }
    if let Some(Stop::Failed(error)) = &copied.stopped {
        let more = format!(
            "Then run the command again: it goes on where it stopped ({} copied).",
            told::files(copied.files, "was", "were")
        );
        return terminal::fail(&of_error(error).and(&more));
    }
    signs.elsewhere(|| told::report(&job, &copied, begun.elapsed()))
}

fn ready<'a>(arguments: &'a Copy, signs: &'a Signs) -> Result<Job<'a>, Complaint> {
    let job = Job::new(arguments, signs)?;
    job.become_owner()?;
    Ok(job)
}
