//! Destinations that are used together: no two of them may be one directory, and none may lie in another.
//!
//! The setting compares their paths. Here it is seen where these lead: symbolic links and bind mounts may bring
//! two of them to one place, and a mount may come at any time. Then one copy would count as two. So every visit
//! notes where the destination lies, and compares that with what the visits of the others have noted. A visit
//! never waits for another destination, which may hang.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use crate::error::{Action, Error};
use crate::server::settings::Destinations;
use crate::sys::{self, Dir};

/// Stack of the thread that looks, in bytes.
const STACK: usize = 1 << 18;

/// For each data directory, the destinations in use, in their order, and where each was last seen.
static PLACES: Mutex<Places> = Mutex::new(BTreeMap::new());

type Places = BTreeMap<PathBuf, Vec<(PathBuf, Option<Place>)>>;

/// Locks; every change is a single assignment.
fn lock() -> MutexGuard<'static, Places> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a directory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
    /// Its path without symbolic links, where that is known.
    real: Option<PathBuf>,
}

/// How one place lies to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Same,
    Inside,
    Around,
}

impl Relation {
    fn worded(self, ours: &Path, theirs: &Path) -> String {
        // The same words, whichever of the two finds it out.
        let (first, second) = (ours.min(theirs).display(), ours.max(theirs).display());
        let (ours, theirs) = (ours.display(), theirs.display());
        match self {
            Self::Same => format!("\"{first}\" and \"{second}\" are one directory"),
            Self::Inside => format!("\"{ours}\" lies in \"{theirs}\""),
            Self::Around => format!("\"{theirs}\" lies in \"{ours}\""),
        }
    }
}

impl Place {
    fn of(dir: &Dir) -> std::io::Result<Self> {
        let there = dir.metadata()?;
        Ok(Self { device: there.dev(), inode: there.ino(), real: dir.real_path() })
    }

    fn relation(&self, other: &Self) -> Option<Relation> {
        if (self.device, self.inode) == (other.device, other.inode) {
            return Some(Relation::Same);
        }
        let (ours, theirs) = (self.real.as_ref()?, other.real.as_ref()?);
        if ours.starts_with(theirs) {
            Some(Relation::Inside)
        } else {
            theirs.starts_with(ours).then_some(Relation::Around)
        }
    }
}

/// Says which destinations a server uses from now on.
pub fn use_together(data_directory: &Path, destinations: &Destinations) {
    let mut places = lock();
    let before = places.remove(data_directory).unwrap_or_default();
    let seen = |path: &Path| before.iter().find(|(there, _)| there == path)?.1.clone();
    let now = destinations.iter().map(|there| (there.path().to_owned(), seen(there.path())));
    places.insert(data_directory.to_owned(), now.collect());
}

/// Makes sure that a destination, which is open, lies apart from the others that the server uses.
///
/// # Errors
/// It is one of the others, or lies in one, or one in it.
pub fn check_apart(data_directory: &Path, dir: &Dir) -> Result<(), Error> {
    let here = Place::of(dir).map_err(|e| Error::io(Action::LookUpDestination, dir.path(), e))?;
    for path in note(data_directory, dir.path(), &here) {
        // What another visit has seen may be old: a file system that is mounted now can have the numbers of one
        // that was unmounted. If the other path leads here, it hangs only if this one does.
        let there = Dir::open(&path).ok().and_then(|other| Place::of(&other).ok());
        let relation = there.as_ref().and_then(|there| here.relation(there));
        if let Some(there) = there {
            note(data_directory, &path, &there);
        }
        if let Some(relation) = relation {
            let reason = relation.worded(dir.path(), &path);
            let reason = format!("in \"walsafe_archive.destination\", {reason}");
            return Err(Error::BadSetting { reason });
        }
    }
    Ok(())
}

/// Looks where the destinations lead now. Returns what is wrong, as it stands in the middle of a sentence. This may
/// hang where one of them does.
#[must_use]
pub fn look(destinations: &Destinations) -> Option<String> {
    let place = |path: &Path| Dir::open(path).ok().and_then(|dir| Place::of(&dir).ok());
    let places: Vec<_> =
        destinations.iter().map(|there| (there.path(), place(there.path()))).collect();
    places.iter().enumerate().find_map(|(n, (path, here))| {
        let here = here.as_ref()?;
        places.iter().take(n).find_map(|(other, there)| {
            let relation = here.relation(there.as_ref()?)?;
            Some(relation.worded(path, other))
        })
    })
}

/// Looks where the destinations lead now, as [`look`] does, in a thread of its own, and waits for that as long as is
/// said. What is not found out by then stays open: one of them may hang. While such a thread hangs, there is no
/// other.
#[must_use]
pub fn look_within(destinations: &Destinations, limit: Duration) -> Option<String> {
    /// A thread looks.
    static LOOKING: AtomicBool = AtomicBool::new(false);
    if destinations.len() < 2 || LOOKING.swap(true, Ordering::Relaxed) {
        return None;
    }
    let (send, found) = mpsc::channel();
    let destinations = destinations.clone();
    let started = sys::start_thread(STACK, move || {
        let found = look(&destinations);
        LOOKING.store(false, Ordering::Relaxed);
        // Nobody may wait for it any more.
        let _ = send.send(found);
    });
    if started.is_err() {
        LOOKING.store(false, Ordering::Relaxed);
        return None;
    }
    found.recv_timeout(limit).ok().flatten()
}

/// Notes where a destination lies. Returns the others that seem to have to do with it.
fn note(data_directory: &Path, path: &Path, here: &Place) -> Vec<PathBuf> {
    let mut places = lock();
    let Some(together) = places.get_mut(data_directory) else { return Vec::new() };
    // A thread that still works for earlier settings has no say.
    let Some((_, place)) = together.iter_mut().find(|(there, _)| there == path) else {
        return Vec::new();
    };
    *place = Some(here.clone());
    let meets =
        |place: &Option<Place>| place.as_ref().is_some_and(|there| here.relation(there).is_some());
    let others = together.iter().filter(|(there, place)| there != path && meets(place));
    others.map(|(there, _)| there.clone()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A list of directories below one of their own, that are visited one after the other.
    fn visit(home: &Path, names: &[&str]) -> Vec<Option<String>> {
        let paths = names.iter().map(|name| home.join(name).display().to_string());
        let list = paths.collect::<Vec<_>>().join(",");
        // Another server each time: what one has seen of a destination, it keeps.
        let data = home.join(names.join("-"));
        use_together(&data, &Destinations::new(&list, &data).unwrap());
        let check = |name: &&str| {
            let dir = Dir::open(&home.join(name)).unwrap();
            check_apart(&data, &dir).err().map(|error| error.detail())
        };
        names.iter().map(check).collect()
    }

    /// One copy counted as two.
    #[test]
    fn a_directory_that_is_another_or_lies_in_another_by_a_link_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().canonicalize().unwrap();
        for name in ["a/inner", "b"] {
            fs::create_dir_all(home.join(name)).unwrap();
        }
        symlink(home.join("a"), home.join("again")).unwrap();
        symlink(home.join("a/inner"), home.join("within")).unwrap();
        let at = |name: &str| home.join(name).display().to_string();
        let said = |what: String| Some(format!("In \"walsafe_archive.destination\", {what}."));
        assert_eq!(visit(&home, &["a", "b"]), [None, None]);
        let same = format!("\"{}\" and \"{}\" are one directory", at("a"), at("again"));
        assert_eq!(visit(&home, &["a", "b", "again"]), [None, None, said(same)]);
        let inside = format!("\"{}\" lies in \"{}\"", at("within"), at("a"));
        assert_eq!(visit(&home, &["a", "within"]), [None, said(inside.clone())]);
        assert_eq!(visit(&home, &["within", "a"]), [None, said(inside)]);
        assert_eq!(visit(&home, &["again", "b"]), [None, None]);
        // Before anything is visited, as far as it is there.
        let looked = |names: &str| {
            let names = names.split(' ').map(at).collect::<Vec<_>>().join(",");
            look_within(&Destinations::new(&names, &home.join("data")).unwrap(), LONG)
        };
        assert_eq!(looked("a b missing"), None);
        assert_eq!(looked("a"), None);
        assert!(looked("b a missing again").is_some_and(|said| said.ends_with("one directory")));
        assert!(looked("within a").is_some_and(|said| said.contains("lies in")));
    }

    /// What was seen of a destination that was unmounted, or taken out, stood in another one's way.
    #[test]
    fn what_was_seen_earlier_is_looked_at_again() {
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().canonicalize().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(home.join(name)).unwrap();
        }
        symlink(home.join("a"), home.join("link")).unwrap();
        visit(&home, &["link", "b"]);
        let data = home.join("link-b");
        let both = format!("{0}/link,{0}/a", home.display());
        use_together(&data, &Destinations::new(&both, &data).unwrap());
        let check = || check_apart(&data, &Dir::open(&home.join("a")).unwrap());
        assert!(check().is_err(), "what was seen before the list changed counts");
        fs::remove_file(home.join("link")).unwrap();
        symlink(home.join("b"), home.join("link")).unwrap();
        check().unwrap();
        // One that is not in use has no say.
        check_apart(&data, &Dir::open(&home.join("b")).unwrap()).unwrap();
    }
}
