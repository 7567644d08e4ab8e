//! Opening an archive directory, and making sure that it is this cluster's.

use std::path::Path;

use crate::encoding::codec::Codec;
use crate::error::{Action, Error};
use crate::server::known::KnownDestinations;
use crate::store::directory::reading::{Archived, read_full};
use crate::store::directory::temporary::{self, Owner};
use crate::store::identity::{self, Identity};
use crate::sys::Dir;
use crate::wal::LongPageHeader;
use crate::wal::name::{FileName, SegmentName};
use crate::wal::segment::{Cluster, HEADER_LEN};

/// How many segments of an archive that another tool began are looked at before it is adopted.
const SAMPLE: usize = 16;

/// Opens an archive directory and checks through its handle that it belongs to this cluster.
///
/// A directory that has no identity file yet gets one, if it is empty or holds segments of this
/// cluster, and was never used before. On return the identity file is durable, and so is the data
/// directory's memory of it.
///
/// # Errors
/// The directory is missing, unreadable, another cluster's, has lost its identity file, or holds
/// other files.
pub fn open(
    path: &Path,
    cluster: &Cluster,
    memory: &KnownDestinations,
    owner: &Owner,
    mode: u32,
) -> Result<Dir, Error> {
    let dir = Dir::open(path).map_err(|e| Error::io(Action::OpenDestination, path, e))?;
    if memory.is_pg_wal(&dir) || dir.real_path().is_some_and(|real| memory.is_inside(&real)) {
        return Err(Error::InsideData { path: path.to_owned() });
    }
    let known = memory.contains(path)?;
    let identity = match Identity::read(&dir)? {
        Some(identity) => identity,
        None if known => return Err(Error::IdentityLost { file: path.join(identity::FILE_NAME) }),
        None => {
            check_adoptable(&dir, cluster)?;
            let ours = Identity::new(cluster.system_identifier);
            if ours.write(&dir, owner, mode)? {
                ours
            } else {
                // Another server was faster: its word counts.
                Identity::read(&dir)?
                    .ok_or_else(|| Error::Vanished { path: path.join(identity::FILE_NAME) })?
            }
        }
    };
    if identity.system_identifier != cluster.system_identifier {
        return Err(Error::OtherCluster {
            path: path.join(identity::FILE_NAME),
            ours: cluster.system_identifier,
            theirs: identity.system_identifier,
        });
    }
    if !known || !memory.is_durable(path) {
        // Whoever wrote the identity file, or the list, may have died before its flush; and what was
        // read above may be in the page cache only, after a flush that failed.
        let stored = Identity::flush(&dir)?;
        if stored != identity {
            let reason = "storage holds another identity than was read before".to_owned();
            return Err(Error::ReadBackDiffers { path: path.join(identity::FILE_NAME), reason });
        }
        memory.add(path)?;
    }
    Ok(dir)
}

/// Accepts a directory without an identity file if it is empty, or if a bounded sample of the
/// segments in it, the oldest and the newest among them, are of this cluster and of no other.
///
/// # Errors
/// The directory could not be read, holds segments of another cluster, or holds files and nothing
/// that shows whose they are.
pub fn check_adoptable(dir: &Dir, cluster: &Cluster) -> Result<(), Error> {
    let (mut segments, mut others) = (Vec::new(), 0_u64);
    dir.for_each_name(|stored| {
        let parsed = FileName::from_stored(stored).ok();
        let segment = parsed.and_then(|(name, codec)| Some((name.segment()?, name, codec)));
        match segment {
            Some(segment) => segments.push(segment),
            // Another server's identity file has come since the caller looked: it counts when ours
            // is to be put in its place.
            None if stored == "lost+found" || temporary::is_own_name(stored) => {}
            None => others += 1,
        }
    })
    .map_err(|e| Error::io(Action::ListDestination, dir.path(), e))?;
    if segments.is_empty() && others == 0 {
        return Ok(());
    }
    // By address first: the newest WAL is what another cluster would have added.
    segments.sort_by_key(|(SegmentName { timeline, log, segment }, name, _)| {
        (*log, *segment, *timeline, name.clone())
    });
    let mut ours = 0;
    for (_, name, codec) in sample(&segments) {
        let Some(theirs) = system_identifier(dir, name, *codec)? else { continue };
        if theirs != cluster.system_identifier {
            return Err(Error::OtherCluster {
                path: dir.path().join(name.stored(*codec)),
                ours: cluster.system_identifier,
                theirs,
            });
        }
        ours += 1;
    }
    if ours == 0 {
        return Err(Error::NotAdoptable {
            path: dir.path().to_owned(),
            reason: format!(
                "{} WAL segments and {others} other files are there, and none of the segments shows this cluster's system identifier",
                segments.len()
            ),
        });
    }
    Ok(())
}

/// Picks at most [`SAMPLE`] entries, evenly, the first and the last among them.
fn sample<T>(all: &[T]) -> impl Iterator<Item = &T> {
    let last = all.len().saturating_sub(1);
    let picks = all.len().min(SAMPLE);
    (0..picks).filter_map(move |i| all.get(if picks > 1 { i * last / (picks - 1) } else { 0 }))
}

/// Reads the system identifier out of an archived segment; `None` if it has no valid header (an
/// interrupted copy, say), which proves nothing about whose archive it is.
fn system_identifier(dir: &Dir, name: &FileName, codec: Codec) -> Result<Option<u64>, Error> {
    let stored = name.stored(codec);
    let path = dir.path().join(&stored);
    let file = match Archived::open(dir, stored, codec) {
        Ok(Some(file)) => file,
        Ok(None) | Err(Error::NotAFile { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut header = [0; HEADER_LEN];
    let read = file.decode().and_then(|mut stream| read_full(&mut stream, &mut header));
    match read {
        Ok(_) => Ok(LongPageHeader::parse(&header).ok().map(|header| header.system_identifier)),
        Err(e) if e.raw_os_error().is_none() => Ok(None),
        Err(e) => Err(Error::io(Action::ReadArchived, path, e)),
    }
}

/// Writes the identity file of a cluster into a directory, whatever else the directory holds, as
/// `walsafe init` does: the way out after a replaced disk or a moved archive.
///
/// Returns `false` when the directory has this cluster's identity file already; it is flushed then.
///
/// # Errors
/// The directory is missing, or has another cluster's identity file or WAL.
pub fn init(path: &Path, cluster: &Cluster, owner: &Owner, mode: u32) -> Result<bool, Error> {
    let dir = Dir::open(path).map_err(|e| Error::io(Action::OpenDestination, path, e))?;
    let other = |theirs| Error::OtherCluster {
        path: path.join(identity::FILE_NAME),
        ours: cluster.system_identifier,
        theirs,
    };
    if Identity::read(&dir)?.is_none() {
        match check_adoptable(&dir, cluster) {
            Ok(()) | Err(Error::NotAdoptable { .. }) => {}
            Err(e) => return Err(e),
        }
        if Identity::new(cluster.system_identifier).write(&dir, owner, mode)? {
            return Ok(true);
        }
    }
    match Identity::read(&dir)? {
        Some(there) if there.system_identifier == cluster.system_identifier => {
            Identity::flush(&dir)?;
            Ok(false)
        }
        Some(there) => Err(other(there.system_identifier)),
        None => Err(Error::Vanished { path: path.join(identity::FILE_NAME) }),
    }
}
