//! An archive directory, seen from outside: what is in it, and under which names.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use walsafe_core::encoding::codec::{Codec, Decoder};
use walsafe_core::store::directory::temporary;
use walsafe_core::wal::name::{FileKind, FileName};

use crate::scratch;

/// The bytes of a WAL file that an archive holds, in whatever encoding; `None` when nothing has its name.
///
/// # Panics
/// The file cannot be decoded to its end: it is torn.
#[must_use]
#[track_caller]
pub fn contents(archive: &Path, name: &str) -> Option<Vec<u8>> {
    let (path, codec) = stored(archive, name)?;
    match decode(&path, codec) {
        Ok(bytes) => Some(bytes),
        Err(error) => panic!("{} is torn: {error}", path.display()),
    }
}

/// Where an archive holds a WAL file, and how.
#[must_use]
pub fn stored(archive: &Path, name: &str) -> Option<(PathBuf, Codec)> {
    let parsed = FileName::new(name).expect("a name of ours");
    Codec::ALL
        .into_iter()
        .map(|codec| (archive.join(parsed.stored(codec)), codec))
        .find(|(path, _)| path.symlink_metadata().is_ok())
}

/// Decodes a file to its end.
pub fn decode(path: &Path, codec: Codec) -> std::io::Result<Vec<u8>> {
    let mut decoder = Decoder::new(codec, File::open(path)?)?;
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes)?;
    decoder.finish()?;
    Ok(bytes)
}

/// The WAL files under final names, without their encoding's extension, sorted. The identity file,
/// temporary files and `lost+found` are not among them.
#[must_use]
pub fn names(archive: &Path) -> Vec<String> {
    scratch::names(archive)
        .iter()
        .filter_map(|stored| FileName::from_stored(stored).ok())
        .filter(|(name, _)| name.kind() != FileKind::Other)
        .map(|(name, _)| name.as_str().to_owned())
        .collect()
}

/// The temporary files in it.
#[must_use]
pub fn temporaries(archive: &Path) -> Vec<String> {
    let mut names = scratch::names(archive);
    names.retain(|name| temporary::is_temporary(name) || name.ends_with(".tmp"));
    names
}

/// Asserts that every file under a final name can be decoded and, if it is a segment, has `len`
/// bytes. Returns how many were looked at.
#[track_caller]
pub fn assert_none_torn(archive: &Path, len: usize) -> usize {
    let names = names(archive);
    for name in &names {
        let bytes = contents(archive, name).unwrap_or_else(|| panic!("{name} went away"));
        let segment = FileName::new(name).is_ok_and(|name| name.segment().is_some());
        assert!(!segment || bytes.len() == len, "{name} has {} bytes, not {len}", bytes.len());
    }
    names.len()
}
