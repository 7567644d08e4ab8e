//! What a directory holds, to see that nothing in it was changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::scratch;

/// Everything in a directory: two pictures are equal when nothing was written, replaced, renamed,
/// linked or given another mode in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture(BTreeMap<String, Entry>);

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    inode: u64,
    mode: u32,
    links: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// The bytes of a regular file, or what a symbolic link names.
    contents: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { inode, mode, links, len, modified, changed, .. } = self;
        write!(f, "inode {inode} mode {mode:o} links {links} bytes {len} {modified:?} {changed:?}")
    }
}

impl Picture {
    /// Looks at a directory.
    #[must_use]
    #[track_caller]
    pub fn of(dir: &Path) -> Self {
        Self::of_files(dir, scratch::names(dir))
    }

    /// Looks at some files of a directory where others come and go.
    #[must_use]
    #[track_caller]
    pub fn of_files(dir: &Path, names: impl IntoIterator<Item = String>) -> Self {
        let entries = names.into_iter().map(|name| {
            let entry = Entry::of(&dir.join(&name));
            (name, entry)
        });
        Self(entries.collect())
    }

    /// What it shows about some names.
    #[must_use]
    pub fn only(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|name, _| wanted(name));
        self
    }

    /// Whether a name is in it.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl Entry {
    #[track_caller]
    fn of(path: &Path) -> Self {
        let found = fs::symlink_metadata(path)
            .unwrap_or_else(|error| panic!("could not look at {}: {error}", path.display()));
        let kind = found.file_type();
        let contents = if kind.is_file() {
            scratch::read(path)
        } else if kind.is_symlink() {
            fs::read_link(path).expect("a link").into_os_string().into_encoded_bytes()
        } else {
            assert!(kind.is_dir() || kind.is_fifo(), "{} is something else", path.display());
            Vec::new()
        };
        Self {
            inode: found.ino(),
            mode: found.mode(),
            links: found.nlink(),
            len: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            contents,
        }
    }
}
