//! Names of temporary files: `.walsafe.<name>.<host>.<pid>.<n>.tmp`.
//!
//! Only where the file system has no unnamed files does the archiver use them. The name says who
//! made the file, so that what a killed archiver left can be told from what a live one is writing.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::error::{Action, Error};
use crate::sys::{self, Dir};

const PREFIX: &str = ".walsafe.";
const SUFFIX: &str = ".tmp";

/// The numbers in this process's names.
struct Numbers {
    /// They begin at a random number. Two containers may have the same host name and process id. Then
    /// neither mistakes the other's names for its own, nor publishes a file that the other has put under
    /// one of its names.
    next: u64,
    /// The numbers of the names in use.
    live: BTreeSet<u64>,
}

static NUMBERS: LazyLock<Mutex<Numbers>> = LazyLock::new(|| {
    let next = RandomState::new().hash_one(std::process::id()) >> 1;
    Mutex::new(Numbers { next, live: BTreeSet::new() })
});

fn numbers() -> MutexGuard<'static, Numbers> {
    NUMBERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that this process uses for a temporary file, and for no other. A file that is still there
/// under it when this value has been dropped is a stray one.
#[derive(Debug)]
pub struct TemporaryName {
    name: String,
    number: u64,
}

impl Deref for TemporaryName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for TemporaryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        numbers().live.remove(&self.number);
    }
}

/// Who makes temporary files: this host and this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Host name, without dots.
    pub host: String,
    /// Process id.
    pub pid: u32,
}

impl Owner {
    /// Returns this host and this process.
    #[must_use]
    pub fn this_process() -> Self {
        Self { host: sys::host_name(), pid: std::process::id() }
    }

    /// Returns a name that this process has not used before.
    #[must_use]
    pub fn temporary_name(&self, name: &str) -> TemporaryName {
        let mut numbers = numbers();
        let number = numbers.next;
        numbers.next += 1;
        numbers.live.insert(number);
        drop(numbers);
        let name = format!("{PREFIX}{name}.{}.{}.{number}{SUFFIX}", self.host, self.pid);
        TemporaryName { name, number }
    }

    /// Returns the maker of a temporary file, by its name; `None` for any other name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        parse(name).map(|(owner, _)| owner)
    }
}

/// Returns what the names of temporary files begin with that are named after this.
#[must_use]
pub fn begin_of(name: &str) -> String {
    format!("{PREFIX}{name}.")
}

/// Returns the maker of a temporary file, by its name, and its number; `None` for any other name.
fn parse(name: &str) -> Option<(Owner, &str)> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (rest, n) = rest.rsplit_once('.')?;
    let (rest, pid) = rest.rsplit_once('.')?;
    let (name, host) = rest.rsplit_once('.')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if name.is_empty() || host.is_empty() || !digits(n) || !digits(pid) || n.is_empty() {
        return None;
    }
    Some((Owner { host: host.to_owned(), pid: pid.parse().ok()? }, n))
}

/// Returns whether a name in an archive is that of a temporary file of ours, whoever made it.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    Owner::of(name).is_some()
}

/// Returns whether a name is that of a temporary file of this host that nobody writes any more: the process
/// that made it is dead, or has our own process id and the name is not in use. In the second case, the file
/// was made by an earlier process with the same number (containers reuse them), or this process could not
/// remove it, or it did and the disk has lost power since.
pub fn is_stray(name: &str, us: &Owner) -> bool {
    parse(name).is_some_and(|(owner, number)| {
        owner.host == us.host
            && if owner.pid == us.pid {
                !number.parse().is_ok_and(|number| numbers().live.contains(&number))
            } else {
                !sys::process_runs(owner.pid)
            }
    })
}

/// Removes from a directory the temporary files of this host that nobody writes any more: the processes
/// that made them are dead, or have our own process id and the name is not in use. Returns how many were
/// removed. If one cannot be removed, it stays, and the others are removed all the same.
///
/// # Errors
/// The directory could not be listed.
pub fn remove_stray(dir: &Dir, us: &Owner) -> Result<usize, Error> {
    remove_where(dir, us, |_| true, || ())
}

/// The same, but only those of one file.
///
/// # Errors
/// The directory could not be listed.
pub fn remove_stray_of(dir: &Dir, us: &Owner, name: &str) -> Result<usize, Error> {
    let begin = format!("{PREFIX}{name}.");
    remove_where(dir, us, |name| name.starts_with(&begin), || ())
}

/// How many names are kept at a time; for more stray files the directory is read again.
const AT_A_TIME: usize = 1024;

/// The same, but only those that `of` chooses. `step` is called for each name that is looked at, and for each
/// that is removed.
pub(super) fn remove_where(
    dir: &Dir,
    us: &Owner,
    of: impl Fn(&str) -> bool,
    step: impl Fn(),
) -> Result<usize, Error> {
    let mut all = 0;
    loop {
        let mut stray = Vec::new();
        dir.for_each_name(|name| {
            step();
            if stray.len() < AT_A_TIME && of(name) && is_stray(name, us) {
                stray.push(name.to_owned());
            }
        })
        .map_err(|e| Error::io(Action::ListDestination, dir.path(), e))?;
        let removed = |name: &&String| {
            step();
            dir.unlink(name).is_ok()
        };
        let removed = stray.iter().filter(removed).count();
        all += removed;
        if stray.len() < AT_A_TIME || removed == 0 {
            return Ok(all);
        }
    }
}

/// How long a temporary file must not have been written to before it may go although nobody can tell whether
/// the process that made it, on another host, still runs.
pub const FORSAKEN_AFTER: Duration = Duration::from_secs(86400);

/// Temporary files that nobody will ever ask for: their host does not come back, as with pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forsaken {
    /// How many there are, or how many were removed.
    pub count: u64,
    /// One of their names.
    pub example: Option<String>,
    /// How many could not be looked at or removed, and why the first one could not.
    pub failed: u64,
    /// The reason of the first failure.
    pub reason: Option<String>,
}

/// Returns whether a file is a forsaken one: a regular file (no link is followed) with a name of ours, not
/// written to for [`FORSAKEN_AFTER`], and made on another host or by a process of this host that is dead.
///
/// # Errors
/// The file could not be looked at.
pub fn is_forsaken(dir: &Dir, name: &str, us: &Owner) -> std::io::Result<bool> {
    let Some(owner) = Owner::of(name) else { return Ok(false) };
    if owner.host == us.host && !is_stray(name, us) {
        return Ok(false);
    }
    let metadata = match std::fs::symlink_metadata(dir.path().join(name)) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    // A change in the future comes from another clock, and says nothing of how long ago it was.
    let idle = SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default();
    Ok(metadata.is_file() && idle >= FORSAKEN_AFTER)
}

/// Counts the forsaken temporary files of a directory, and removes them if `remove` says so.
///
/// # Errors
/// The directory could not be listed.
pub fn forsaken(dir: &Dir, us: &Owner, remove: bool) -> Result<Forsaken, Error> {
    let mut all = Forsaken::default();
    loop {
        let (mut found, mut more) = (Vec::new(), false);
        let mut look = Forsaken::default();
        dir.for_each_name(|name| match is_forsaken(dir, name, us) {
            Ok(false) => {}
            Ok(true) if remove && found.len() == AT_A_TIME => more = true,
            Ok(true) if remove => found.push(name.to_owned()),
            Ok(true) => look.add(name),
            Err(e) => look.fail(&e),
        })
        .map_err(|e| Error::io(Action::ListDestination, dir.path(), e))?;
        let before = all.count;
        for name in &found {
            match dir.unlink(name) {
                Ok(()) => look.add(name),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => look.fail(&e),
            }
        }
        all.count += look.count;
        all.example = all.example.or(look.example);
        (all.failed, all.reason) = (look.failed, look.reason);
        if !more || all.count == before {
            return Ok(all);
        }
    }
}

impl Forsaken {
    fn add(&mut self, name: &str) {
        self.count += 1;
        self.example.get_or_insert_with(|| name.to_owned());
    }

    fn fail(&mut self, error: &std::io::Error) {
        self.failed += 1;
        self.reason.get_or_insert_with(|| error.to_string());
    }
}

/// Returns whether a name in an archive is one that this project gives to its own files, so that it is
/// neither WAL nor foreign.
#[must_use]
pub fn is_own_name(name: &str) -> bool {
    [crate::store::identity::FILE_NAME, crate::store::unchecked::FILE_NAME].contains(&name)
        || is_temporary(name)
        || crate::store::trials::is_fixed_name(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Stdio;

    use super::*;
    use crate::store::directory::{Directory, Staging};
    use crate::store::{FinalName, Progress, Publication, Seal, Store};

    fn us() -> Owner {
        Owner::this_process()
    }

    /// A name that an earlier process with our number gave.
    fn of_another_life(name: &str, n: u64) -> String {
        let Owner { host, pid } = us();
        format!("{PREFIX}{name}.{host}.{pid}.{n}{SUFFIX}")
    }

    /// When the numbers began at zero, two containers with the same host name and process id had the same
    /// names: one removed the other's file, made its own, and the other published it.
    #[test]
    fn the_numbers_of_a_run_begin_anywhere() {
        let name = us().temporary_name("a");
        let (_, n) = parse(&name).unwrap();
        assert!(n.parse::<u64>().unwrap() > u64::from(u32::MAX), "{n}");
    }

    /// A look before every file took away what other threads were writing. One that spared every name
    /// of this run left those that a disk without power brought back.
    #[test]
    fn what_is_being_written_stays_and_one_that_cannot_be_removed_does_not_keep_the_others() {
        let temp = tempfile::tempdir().unwrap();
        let live = us().temporary_name("a");
        let came_back = us().temporary_name("a").to_string();
        std::fs::create_dir(temp.path().join(of_another_life("a", 1))).unwrap();
        for name in [&*live, &came_back, &of_another_life("a", 2), &of_another_life("b", 3)] {
            std::fs::write(temp.path().join(name), "x").unwrap();
        }
        let dir = Dir::open(temp.path()).unwrap();
        assert_eq!(remove_stray(&dir, &us()).unwrap(), 3);
        assert!(temp.path().join(&*live).exists());
        drop(live);
        assert_eq!(remove_stray(&dir, &us()).unwrap(), 1);
    }

    /// The copies of one pool continue while the next one, with other settings, cleans up.
    #[test]
    fn a_copy_that_is_under_way_is_never_a_stray_one() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let removed = || remove_stray(&dir, &us()).unwrap();
        let (store, progress) =
            (Directory::new(temp.path(), us(), Staging::Named), Progress::default());
        let visit = store.visit(&progress).unwrap();
        let draft = visit.stage(FinalName::Identity).unwrap();
        assert_eq!(removed(), 0);
        let seal = Seal { digests: None, checked: None, mode: 0o600, flush: true, verify: false };
        let sealed = draft.seal(&seal).unwrap();
        assert_eq!(removed(), 0);
        assert_eq!(sealed.publish(&progress).unwrap(), Publication::Published);
        assert!(temp.path().join(FinalName::Identity.to_string()).exists());
    }

    #[test]
    fn a_temporary_name_tells_its_maker_and_is_never_used_twice() {
        let first = us().temporary_name("000000010000000000000003.partial");
        assert_eq!(Owner::of(&first), Some(us()));
        assert_ne!(*first, *us().temporary_name("000000010000000000000003.partial"));
        assert!(first.len() <= 255);
    }

    #[test]
    fn only_names_of_the_whole_form_are_temporary() {
        for name in [
            ".walsafe.tmp",
            ".walsafe.a.h.1.tmp",
            ".walsafe.a.h.x.1.tmp",
            "a.h.1.1.tmp",
            ".walsafe.a.h.1.1.tmp.zst",
        ] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn a_process_that_has_ended_but_was_not_collected_is_dead() {
        // Its files used to stay until init had collected the killed archiver.
        let temp = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        // The end of its output comes before it is a zombie.
        std::io::copy(&mut child.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
        let zombie = Owner { pid: child.id(), ..us() };
        std::fs::write(temp.path().join(&*zombie.temporary_name("a")), "x").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let removed = (0..1000).find_map(|_| match remove_stray(&dir, &us()).unwrap() {
            0 => {
                std::thread::sleep(Duration::from_millis(2));
                None
            }
            n => Some(n),
        });
        assert_eq!(removed, Some(1));
        child.wait().unwrap();
    }

    /// Nothing ever removed what a pod left that does not come back.
    #[test]
    fn files_of_a_host_that_is_gone_may_go_after_a_day_and_only_those() {
        let temp = tempfile::tempdir().unwrap();
        let elsewhere = Owner { host: "pod-1".to_owned(), pid: us().pid };
        let parent = Owner { pid: std::os::unix::process::parent_id(), ..us() };
        let live = us().temporary_name("live");
        let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
        let make = |name: &str, hours: u64| {
            let file = std::fs::File::create(temp.path().join(name)).unwrap();
            file.set_modified(hours_ago(hours)).unwrap();
            name.to_owned()
        };
        let gone = [
            make(&elsewhere.temporary_name("old"), 25),
            make(&elsewhere.temporary_name("older"), 900),
            make(&of_another_life("dead", 7), 25),
        ];
        let target = make("target", 25);
        let link = elsewhere.temporary_name("link").to_string();
        std::os::unix::fs::symlink(temp.path().join(&target), temp.path().join(&link)).unwrap();
        let directory = elsewhere.temporary_name("directory").to_string();
        std::fs::create_dir(temp.path().join(&directory)).unwrap();
        let old = std::fs::File::open(temp.path().join(&directory)).unwrap();
        old.set_modified(hours_ago(25)).unwrap();
        // By a clock that is ahead.
        let ahead = make(&elsewhere.temporary_name("ahead"), 0);
        let file = std::fs::File::options().write(true).open(temp.path().join(&ahead)).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(900 * 3600)).unwrap();
        let mut keep = vec![
            make(&elsewhere.temporary_name("young"), 23),
            make(&parent.temporary_name("ours"), 900),
            make(&live, 900),
            make(".walsafe.tmp", 900),
            make("archtemp.000000010000000000000001.7.8", 900),
            target,
            link,
            directory,
            ahead,
        ];
        let dir = Dir::open(temp.path()).unwrap();
        assert_eq!(forsaken(&dir, &us(), false).unwrap().count, 3);
        let removed = forsaken(&dir, &us(), true).unwrap();
        assert_eq!((removed.count, removed.failed), (3, 0));
        assert!(gone.contains(&removed.example.unwrap()));
        let mut left: Vec<String> = Vec::new();
        dir.for_each_name(|name| left.push(name.to_owned())).unwrap();
        left.sort();
        keep.sort();
        assert_eq!(left, keep);
        assert_eq!(forsaken(&dir, &us(), true).unwrap(), Forsaken::default());
    }

    #[test]
    fn files_of_dead_processes_of_this_host_go_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = Owner { pid: child.id(), ..us() };
        child.wait().unwrap();
        let live = Owner { pid: std::os::unix::process::parent_id(), ..us() };
        let elsewhere = Owner { host: "elsewhere".to_owned(), ..dead.clone() };
        let keep = [
            live.temporary_name("a").to_string(),
            elsewhere.temporary_name("a").to_string(),
            "000000010000000000000001".to_owned(),
            ".hidden".to_owned(),
        ];
        for name in
            keep.iter().chain(&[dead.temporary_name("a").to_string(), of_another_life("b", 7)])
        {
            std::fs::write(temp.path().join(name), "x").unwrap();
        }
        let dir = Dir::open(temp.path()).unwrap();
        assert_eq!(remove_stray(&dir, &us()).unwrap(), 2);
        let mut left: Vec<String> = Vec::new();
        dir.for_each_name(|name| left.push(name.to_owned())).unwrap();
        left.sort();
        let mut keep = keep.to_vec();
        keep.sort();
        assert_eq!(left, keep);
    }
}
