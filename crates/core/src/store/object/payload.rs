//! The bytes of an object before they are sent: whole, with the digests that a request shows before its body.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use ring::digest::{self, SHA256};

use crate::sys::slice::{part, part_mut};
use crate::sys::{self, Dir};

/// The bytes of an object. They are in memory, piece by piece; those behind the first [`Payload::IN_MEMORY`]
/// are in a file without a name.
pub(super) struct Payload {
    pieces: Vec<Box<[u8]>>,
    file: Option<File>,
    len: u64,
    sha256: digest::Context,
    md5: Md5,
}

impl Payload {
    const IN_MEMORY: u64 = 64 << 20;
    const PIECE: usize = 1 << 20;

    pub(super) fn new() -> Self {
        let sha256 = digest::Context::new(&SHA256);
        Self { pieces: Vec::new(), file: None, len: 0, sha256, md5: Md5::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Adds bytes to the end.
    ///
    /// # Errors
    /// There is no memory, or no room for the file.
    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.md5.update(bytes);
        if self.len + bytes.len() as u64 > Self::IN_MEMORY {
            let file = match self.file.take() {
                Some(file) => file,
                None => unnamed()?,
            };
            let at = self.len - self.in_memory();
            sys::write_all_at(&file, bytes, at)?;
            self.file = Some(file);
        } else {
            let mut piece = Vec::new();
            let no_memory = |_| io::Error::from_raw_os_error(libc::ENOMEM);
            piece.try_reserve_exact(bytes.len()).map_err(no_memory)?;
            piece.extend_from_slice(bytes);
            self.pieces.push(piece.into_boxed_slice());
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn in_memory(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Claims another MD5, that of `other`: for a check, which wants to be refused.
    pub(super) fn with_md5_of(self, other: &[u8]) -> Self {
        Self { md5: Md5::new_with_prefix(other), ..self }
    }

    /// Claims another SHA-256, likewise.
    pub(super) fn with_sha256_of(mut self, other: &[u8]) -> Self {
        self.sha256 = digest::Context::new(&SHA256);
        self.sha256.update(other);
        self
    }

    /// Returns the SHA-256, as requests show it.
    pub(super) fn sha256(&self) -> String {
        let digest = self.sha256.clone().finish();
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the MD5, as requests show it.
    pub(super) fn md5(&self) -> String {
        BASE64_STANDARD.encode(self.md5.clone().finalize())
    }

    /// Calls `each` with the bytes from one place to another, piece by piece, until it returns `false`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn pieces(
        &self,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> io::Result<()> {
        let mut at = 0;
        for piece in &self.pieces {
            let len = piece.len() as u64;
            let within = |place: u64| usize::try_from(place.clamp(at, at + len) - at).unwrap_or(0);
            let bytes = part(piece, within(from)..within(to).max(within(from)));
            if !bytes.is_empty() && !each(bytes) {
                return Ok(());
            }
            at += len;
        }
        let Some(file) = &self.file else { return Ok(()) };
        let (begin, mut from) = (at, from.max(at));
        let mut buffer = vec![0; Self::PIECE];
        while from < to {
            let most = usize::try_from(to - from).unwrap_or(usize::MAX).min(Self::PIECE);
            let bytes = part_mut(&mut buffer, ..most);
            file.read_exact_at(bytes, from - begin)?;
            if !each(bytes) {
                return Ok(());
            }
            from += most as u64;
        }
        Ok(())
    }
}

/// Makes a file without a name, for what is too much for memory: where the environment says, or where large
/// temporary files belong. What is under `/tmp` often lies in memory itself.
fn unnamed() -> io::Result<File> {
    let named = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let mut failed = None;
    for dir in named.into_iter().chain(["/var/tmp".into(), "/tmp".into()]) {
        match Dir::open(&dir).and_then(|dir| dir.create_unnamed().or_else(|_| unlinked(&dir))) {
            Ok(file) => return Ok(file),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOENT)))
}

/// The same where every file has a name at first, as in most containers of some years ago.
fn unlinked(dir: &Dir) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("walsafe.{}.{number}.tmp", std::process::id());
    let file = dir.create_named(&name)?;
    dir.unlink(&name)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn what_was_added_is_given_again_from_any_place() {
        let bytes: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
        let mut payload = Payload::new();
        for chunk in bytes.chunks(300) {
            payload.add(chunk).unwrap();
        }
        for (from, to) in [(0, 1000), (0, 996), (996, 1000), (299, 301), (600, 600), (0, 0)] {
            let mut given = Vec::new();
            let mut each = |piece: &[u8]| {
                given.extend_from_slice(piece);
                true
            };
            payload.pieces(from, to, &mut each).unwrap();
            assert_eq!(given, bytes[from as usize..to as usize]);
        }
        assert_eq!(Payload::new().md5(), "1B2M2Y8AsgTpgAmY7PhCfg==");
        assert!(Payload::new().sha256().starts_with("e3b0c44298fc1c14"));
    }

    /// A container whose file system knows no unnamed files could not archive a large segment.
    #[test]
    fn a_file_that_had_a_name_is_as_good() {
        let temp = tempfile::tempdir_in(".").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let [one, two] = [unlinked(&dir).unwrap(), unlinked(&dir).unwrap()];
        sys::write_all_at(&one, b"one", 0).unwrap();
        sys::write_all_at(&two, b"two", 0).unwrap();
        let mut read = [0; 3];
        one.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"one");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    /// A segment of a gigabyte would take a gigabyte of memory for each worker.
    #[test]
    fn what_is_too_much_for_memory_lies_in_a_file() {
        let mut payload = Payload::new();
        let chunk = vec![7; 1 << 20];
        for _ in 0..66 {
            payload.add(&chunk).unwrap();
        }
        assert_eq!((payload.in_memory(), payload.len()), (Payload::IN_MEMORY, 66 << 20));
        let mut count = 0;
        let mut each = |piece: &[u8]| {
            assert!(piece.iter().all(|byte| *byte == 7));
            count += piece.len() as u64;
            true
        };
        payload.pieces((64 << 20) - 3, 66 << 20, &mut each).unwrap();
        assert_eq!(count, (2 << 20) + 3);
    }
}
