//! Making sure that an archive is this cluster's.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::error::{Action, Error};
use crate::server::known::KnownDestinations;
use crate::server::ready;
use crate::store::directory::temporary;
use crate::store::identity::{self, Identity};
use crate::store::{StoredName, Visit, names};
use crate::sys::read_full;
use crate::wal::LongPageHeader;
use crate::wal::name::{FileName, SegmentName};
use crate::wal::segment::{Cluster, HEADER_LEN};
use crate::words;

/// How many segments of an archive that another tool began are looked at before it is adopted.
const SAMPLE: usize = 16;

/// Makes sure that an archive belongs to this cluster, through the handle that the visit holds.
///
/// An archive that has no identity file yet gets one, if it is empty or holds segments of this cluster, and
/// was never used before. On return the identity file, whose contents are returned, is durable, and so is the
/// data directory's list that names the archive.
///
/// # Errors
/// The archive is another cluster's, has lost its identity file, holds other files, or is one of the
/// server's own directories or of its other destinations.
pub fn admit(
    visit: &dyn Visit,
    cluster: &Cluster,
    destinations: &KnownDestinations,
    mode: u32,
) -> Result<Identity, Error> {
    let path = visit.location();
    if visit.is_within(destinations)? {
        return Err(Error::InsideData { path: path.to_owned() });
    }
    visit.check_apart(destinations)?;
    let name = visit.known_as();
    let known = destinations.contains(name)?;
    let identity = match Identity::at(visit)? {
        Some(identity) => identity,
        None if known => return Err(Error::IdentityLost { file: path.join(identity::FILE_NAME) }),
        None => begin(visit, cluster.system_identifier, mode, || first_file(destinations))?,
    };
    if identity.system_identifier != cluster.system_identifier {
        return Err(other_cluster(visit, &identity, cluster));
    }
    if !known || !destinations.is_durable(name) {
        // Whoever wrote the identity file, or the list, may have died before its flush; and what was
        // read above may be in the page cache only, after a flush that failed.
        let stored = Identity::settle(visit)?;
        if stored != identity {
            let reason =
                "storage holds an identity other than the one that was read before".to_owned();
            return Err(Error::ReadBackDiffers { path: path.join(identity::FILE_NAME), reason });
        }
        destinations.add(name)?;
    }
    Ok(identity)
}

/// Returns the file that the server wants archived first now: whatever comes into an empty archive comes in
/// that order. A segment if there is one: the history files that come first are archived in any case.
fn first_file(destinations: &KnownDestinations) -> Option<FileName> {
    let status = destinations.pg_wal().join("archive_status");
    let first = |passed_over: fn(&FileName) -> bool| {
        let waiting = ready::first_waiting(&status, 1, passed_over).unwrap_or_default();
        waiting.into_iter().next()
    };
    first(|name| name.segment().is_none()).or_else(|| first(|_| false))
}

/// Gives an archive that has no identity file one, if it is empty or holds segments of this cluster and of no
/// other. Returns the identity that it has on return: another process may have been faster. `first` is asked for
/// the first file of an archive that is empty.
///
/// On return, an identity that was published here survives a power cut. If the machine dies half-way, the whole
/// file is there or nothing is.
///
/// # Errors
/// The archive holds segments of another cluster, or files and nothing that shows whose they are; or the identity
/// could not be published.
pub fn begin(
    visit: &dyn Visit,
    system_identifier: u64,
    mode: u32,
    first: impl FnOnce() -> Option<FileName>,
) -> Result<Identity, Error> {
    let ours = Identity::new(system_identifier);
    let ours = match check_adoptable(visit, system_identifier)? {
        None => ours.beginning_with(first()),
        Some(_) => ours,
    };
    if ours.publish(visit, mode)? {
        return Ok(ours);
    }
    // Another server was faster: its identity counts.
    let file = visit.location().join(identity::FILE_NAME);
    Identity::at(visit)?.ok_or(Error::Vanished { path: file })
}

fn other_cluster(visit: &dyn Visit, identity: &Identity, cluster: &Cluster) -> Error {
    Error::OtherCluster {
        path: visit.location().join(identity::FILE_NAME),
        ours: cluster.system_identifier,
        theirs: identity.system_identifier,
    }
}

/// Accepts a directory without an identity file if it is empty, or if a bounded sample of the
/// segments in it, the oldest and the newest among them, are of this cluster and of no other. Returns `None` if it
/// holds nothing.
///
/// # Errors
/// The directory could not be read, holds segments of another cluster, or holds files and nothing
/// that shows whose they are.
fn check_adoptable(visit: &dyn Visit, ours: u64) -> Result<Option<u64>, Error> {
    sampled(visit, Some(ours))
}

/// Returns whose archive a directory without an identity file is, by the same sample; `None` if it holds nothing.
///
/// # Errors
/// As for a directory that is to be adopted. Segments of two clusters are nobody's archive.
pub fn whose(visit: &dyn Visit) -> Result<Option<u64>, Error> {
    sampled(visit, None)
}

/// Returns whose segments a directory holds, which must be `ours` if that is given.
fn sampled(visit: &dyn Visit, mut ours: Option<u64>) -> Result<Option<u64>, Error> {
    let (mut sample, mut segments, mut others) = (Sample::default(), 0_u64, Others::default());
    visit.list(&mut |stored| {
        let parsed = StoredName::parse(stored).ok();
        let segment = parsed.and_then(|parsed| Some((parsed.name.segment()?, parsed)));
        match segment {
            Some((segment, stored)) => {
                segments += 1;
                sample.add(segment, stored);
            }
            // Another server's identity file has appeared since the caller looked. It is judged when ours
            // is about to be published.
            None if names::is_of_storage(stored) || temporary::is_own_name(stored) => {}
            None => others.add(stored),
        }
    })?;
    if segments == 0 && others.count == 0 {
        return Ok(None);
    }
    let mut found = None;
    for stored in sample.all() {
        let Some(theirs) = system_identifier(visit, stored)? else { continue };
        let ours = *ours.get_or_insert(theirs);
        if theirs != ours {
            let path = visit.location().join(stored.to_string());
            return Err(Error::OtherCluster { path, ours, theirs });
        }
        found = Some(ours);
    }
    match found {
        Some(_) => Ok(found),
        None => Err(Error::NotAdoptable {
            path: visit.location().to_owned(),
            reason: others.reason(segments),
        }),
    }
}

/// What lies in a directory beside segments: how many entries, and the first of their names.
#[derive(Default)]
struct Others {
    count: u64,
    first: BTreeSet<String>,
}

impl Others {
    /// How many are named.
    const NAMED: usize = 3;

    fn add(&mut self, stored: &str) {
        self.count += 1;
        self.first.insert(stored.escape_default().to_string());
        if self.first.len() > Self::NAMED {
            self.first.pop_last();
        }
    }

    /// Says why a directory with these and so many segments is not taken for this cluster's archive.
    fn reason(&self, segments: u64) -> String {
        let segments = (segments > 0).then(|| {
            let are = words::either(segments, "is", "are");
            (words::count(segments, "WAL segment"), are)
        });
        let others = (self.count > 0).then(|| {
            let named: Vec<_> = self.first.iter().map(|name| format!("\"{name}\"")).collect();
            let begin = if self.count > named.len() as u64 { "such as " } else { "" };
            format!("{} ({begin}{})", words::count(self.count, "other file"), named.join(", "))
        });
        match (segments, others) {
            (Some((segments, are)), None) => {
                format!("{segments} {are} there, and none shows this cluster's system identifier")
            }
            (Some((segments, _)), Some(others)) => format!(
                "{segments} and {others} are there, and no segment shows this cluster's system identifier"
            ),
            (None, others) => format!(
                "{} {} there, and no WAL segment that shows this cluster's system identifier",
                others.unwrap_or_default(),
                words::either(self.count, "is", "are")
            ),
        }
    }
}

/// At most [`SAMPLE`] of the segments of an archive, however many there are: the first and the last by
/// address (the newest WAL is what another cluster would have added), and others spread over all of them.
#[derive(Default)]
struct Sample {
    first: Option<(Address, StoredName)>,
    last: Option<(Address, StoredName)>,
    /// Those whose names have the smallest hashes.
    spread: BTreeMap<u64, StoredName>,
}

/// Where a segment lies in the WAL, and on which timeline.
type Address = (u32, u32, u32);

impl Sample {
    fn add(&mut self, SegmentName { timeline, log, segment }: SegmentName, stored: StoredName) {
        let at = (log, segment, timeline);
        if self.first.as_ref().is_none_or(|(first, _)| at < *first) {
            self.first = Some((at, stored.clone()));
        }
        if self.last.as_ref().is_none_or(|(last, _)| at > *last) {
            self.last = Some((at, stored.clone()));
        }
        let mut hasher = DefaultHasher::new();
        stored.hash(&mut hasher);
        self.spread.insert(hasher.finish(), stored);
        if self.spread.len() > SAMPLE - 2 {
            self.spread.pop_last();
        }
    }

    fn all(&self) -> impl Iterator<Item = &StoredName> {
        let ends = [&self.first, &self.last].into_iter().flatten().map(|(_, stored)| stored);
        ends.chain(self.spread.values())
    }
}

/// Reads the system identifier out of an archived segment; `None` if it has no valid header (after an
/// interrupted copy, for example), which proves nothing about whose archive it is.
fn system_identifier(visit: &dyn Visit, stored: &StoredName) -> Result<Option<u64>, Error> {
    let found = match visit.find(&stored.clone().into()) {
        Ok(Some(found)) => found,
        Ok(None) | Err(Error::NotAFile { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut header = [0; HEADER_LEN];
    let read = found.decode().and_then(|mut stream| read_full(&mut stream, &mut header));
    match read {
        Ok(_) => Ok(LongPageHeader::parse(&header).ok().map(|header| header.system_identifier)),
        Err(e) if e.raw_os_error().is_none() => Ok(None),
        Err(e) => Err(Error::io(Action::ReadArchived, found.path(), e)),
    }
}

/// Publishes the identity of a cluster in an archive, whatever else the archive holds, as `walsafe init`
/// does: the way out after a replaced disk or a moved archive.
///
/// Returns `false` when the archive has this cluster's identity already; it is made durable then.
///
/// # Errors
/// The archive has another cluster's identity file or WAL, the identity could not be published, or the place is one
/// that replaces files.
pub fn init(visit: &dyn Visit, cluster: &Cluster, mode: u32) -> Result<bool, Error> {
    if Identity::at(visit)?.is_none() {
        match check_adoptable(visit, cluster.system_identifier) {
            Ok(_) | Err(Error::NotAdoptable { .. }) => {}
            Err(e) => return Err(e),
        }
        if Identity::new(cluster.system_identifier).publish(visit, mode)? {
            visit.test()?;
            return Ok(true);
        }
    }
    match Identity::at(visit)? {
        Some(there) if there.system_identifier == cluster.system_identifier => {
            Identity::settle(visit)?;
            visit.test()?;
            Ok(false)
        }
        Some(there) => Err(other_cluster(visit, &there, cluster)),
        None => Err(Error::Vanished { path: visit.location().join(identity::FILE_NAME) }),
    }
}
