//! The two ends of a copy: whose archives they are, and that they are two.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use super::{CopyError, First, Known, Way};
use crate::error::{Action, Error};
use crate::server::url::{ObjectUrl, Relation};
use crate::store::identity::{self, Identity};
use crate::store::listing::Walk;
use crate::store::location;
use crate::store::{Visit, admission};
use crate::sys;
use crate::sys::buffer::CHUNK;
use crate::sys::read_full;
use crate::wal::history;
use crate::wal::timeline::Timelines;

/// Why two archives cannot be the ends of a copy.
#[derive(Debug, ThisError)]
pub enum Apart {
    /// One of them could not be looked up.
    #[error(transparent)]
    Failed(#[from] Error),
    /// Both lead to one place.
    #[error(
        "\"{}\" and \"{}\" are the same {}",
        source_path.display(),
        destination.display(),
        if location::is_url(source_path) { "place in a bucket" } else { "directory" }
    )]
    Same {
        /// The path or the URL of the source.
        source_path: PathBuf,
        /// The path or the URL of the destination.
        destination: PathBuf,
    },
    /// One lies inside the other.
    #[error("\"{}\" lies inside of \"{}\"", inner.display(), outer.display())]
    Inside {
        /// The inner one's.
        inner: PathBuf,
        /// The outer one's.
        outer: PathBuf,
    },
}

/// Makes sure that two archives are two, and that neither lies inside the other, by whatever path or URL.
///
/// # Errors
/// They are not, or both are directories and one of them is missing.
pub fn apart(source: &Path, destination: &Path) -> Result<(), Apart> {
    match (location::is_url(source), location::is_url(destination)) {
        (false, false) => directories_apart(source, destination),
        (true, true) => buckets_apart(source, destination),
        _ => Ok(()),
    }
}

fn buckets_apart(source: &Path, destination: &Path) -> Result<(), Apart> {
    let url = |location: &Path| location.to_string_lossy().parse::<ObjectUrl>();
    // What is no URL of a bucket is refused when it is opened.
    let (Ok(ours), Ok(theirs)) = (url(source), url(destination)) else { return Ok(()) };
    let [source, destination] = [source, destination].map(|at| location::shown(at).into_owned());
    Err(match ours.relation(&theirs) {
        Relation::Apart => return Ok(()),
        Relation::Same => Apart::Same { source_path: source, destination },
        Relation::Inside => Apart::Inside { inner: source, outer: destination },
        Relation::Outside => Apart::Inside { inner: destination, outer: source },
    })
}

fn directories_apart(source: &Path, destination: &Path) -> Result<(), Apart> {
    let real = |path: &Path| {
        let failed = |e: io::Error| Error::io(Action::OpenDestination, path, e);
        let real = path.canonicalize().map_err(failed)?;
        let there = fs::metadata(&real).map_err(failed)?;
        Ok::<_, Error>((real, (there.dev(), there.ino())))
    };
    let (real_source, source_id) = real(source)?;
    let (real_destination, destination_id) = real(destination)?;
    if source_id == destination_id {
        let (source_path, destination) = (source.to_owned(), destination.to_owned());
        return Err(Apart::Same { source_path, destination });
    }
    // A directory is known by its number: a bind mount shows it under another path.
    let lies_in = |inner: &Path, outer: (u64, u64)| {
        let above = inner.ancestors().skip(1).filter_map(|above| fs::metadata(above).ok());
        above.map(|above| (above.dev(), above.ino())).any(|above| above == outer)
    };
    let inside = |inner: &Path, outer: &Path| {
        Err(Apart::Inside { inner: inner.to_owned(), outer: outer.to_owned() })
    };
    if lies_in(&real_destination, source_id) {
        return inside(destination, source);
    }
    if lies_in(&real_source, destination_id) {
        return inside(source, destination);
    }
    Ok(())
}

/// Returns whose archive the source is: by its identity file, or else by a bounded sample of its segments; `None`
/// if it holds nothing.
///
/// # Errors
/// The archive could not be read, or nothing in it shows whose it is.
pub(super) fn whose(source: &dyn Visit) -> Result<Option<u64>, Error> {
    match Identity::at(source)? {
        Some(identity) => Ok(Some(identity.system_identifier)),
        None => admission::whose(source),
    }
}

/// Looks at the destination once, before a run: removes what dead processes have left, and returns whether it is
/// an archive of this cluster already.
///
/// # Errors
/// It is another cluster's, has lost its identity file, or has none and may not be begun.
pub(super) fn look(way: &Way<'_>, whose: u64, known: &mut Known) -> Result<bool, CopyError> {
    let visit = way.destination.visit(way.progress)?;
    if Identity::at(&*visit)?.is_none() && known.identity.is_none() {
        return if way.may_begin { Ok(false) } else { Err(CopyError::Unmarked) };
    }
    admit(&*visit, whose, known)?;
    visit.tidy()?;
    Ok(true)
}

/// Makes sure that the destination is this cluster's archive, and the one that it was before.
///
/// # Errors
/// It is not, or its identity file is gone.
pub(super) fn admit(visit: &dyn Visit, whose: u64, known: &mut Known) -> Result<(), Error> {
    let file = || visit.location().join(identity::FILE_NAME);
    let Some(there) = Identity::at(visit)? else {
        return Err(Error::IdentityLost { file: file() });
    };
    if there.system_identifier != whose {
        let theirs = there.system_identifier;
        return Err(Error::OtherCluster { path: file(), ours: whose, theirs });
    }
    if known.identity.as_ref() == Some(&there) {
        return Ok(());
    }
    // Whoever wrote it may have died before its flush, and what was read may be in the page cache only.
    if Identity::settle(visit)? != there {
        let reason = "storage holds an identity other than the one that was read before".to_owned();
        return Err(Error::ReadBackDiffers { path: file(), reason });
    }
    // Another archive has come to the path.
    known.forget();
    known.identity = Some(there);
    Ok(())
}

/// Begins the destination: its identity says with which file.
///
/// # Errors
/// It holds another cluster's WAL, or files and nothing that shows whose they are, or could not be written.
pub(super) fn begin(
    way: &Way<'_>,
    whose: u64,
    known: &mut Known,
    first: First,
) -> Result<(), CopyError> {
    let visit = way.destination.visit(way.progress)?;
    admission::begin(&*visit, whose, way.mode.bits(), || first)?;
    Ok(admit(&*visit, whose, known)?)
}

/// Reads the history files of an archive. One that cannot be read says nothing here: that is found when it is
/// copied.
///
/// # Errors
/// The names could not be read to their end.
pub(super) fn timelines(visit: &dyn Visit) -> Result<Timelines, Error> {
    let mut timelines = Timelines::default();
    for file in Walk::histories(visit) {
        let file = file?;
        let Some(timeline) = file.name.timeline() else { continue };
        let text = visit.find(&(&file).into()).ok().flatten().and_then(|found| {
            let mut text = sys::zeroed(CHUNK).ok()?;
            let len = read_full(&mut found.decode().ok()?, &mut text).ok()?;
            text.truncate(len);
            Some(text)
        });
        timelines.add(timeline, text.and_then(|text| history::parse(timeline, &text).ok()));
    }
    Ok(timelines)
}
