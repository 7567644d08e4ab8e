//! Reading, writing and flushing open files: calls that the standard library offers, announced and repeated
//! like those that it does not.

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

#[cfg(feature = "fault-injection")]
use crate::sys::buffer::Buffer;
use crate::sys::call::{again, c_string, openat};
use crate::sys::fault::{Op, Verdict, announce};
use crate::sys::memory::DIRECT_ALIGNMENT;

/// The unit of `st_blocks`, in bytes, whatever the file system's own blocks are.
pub(super) const BLOCK_UNIT: u64 = 512;

/// A constant of file types, of the type of [`Entry::mode`].
#[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
const fn mode_bits(bits: libc::mode_t) -> u32 {
    bits as u32
}

/// What `fstatat` says of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Device of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Number of hard links.
    pub links: u64,
    /// Length in bytes.
    pub len: u64,
    /// What the file takes on disk, in bytes: holes do not count, what is written but not allocated yet
    /// does.
    pub allocated: u64,
}

impl Entry {
    /// Returns whether two entries are the same file.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Returns whether the entry is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & mode_bits(libc::S_IFMT) == mode_bits(libc::S_IFREG)
    }

    /// Names the entry's type, for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        let types = [
            (libc::S_IFREG, "a regular file"),
            (libc::S_IFDIR, "a directory"),
            (libc::S_IFLNK, "a symbolic link"),
            (libc::S_IFIFO, "a named pipe"),
            (libc::S_IFSOCK, "a socket"),
        ];
        let ours = self.mode & mode_bits(libc::S_IFMT);
        let named = types.into_iter().find(|(bits, _)| mode_bits(*bits) == ours);
        named.map_or("a device", |(_, name)| name)
    }
}

/// Opens a file of the server by its path, for reading.
///
/// # Errors
/// What `open` reports.
pub fn open_source(path: &Path) -> io::Result<File> {
    let name = c_string(path.as_os_str().as_bytes())?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    Ok(File::from(openat(libc::AT_FDCWD, Op::Open, &name, flags, 0)?))
}

/// Looks up what a path of the server leads to now, as [`open_source`] would; `None` when there is
/// nothing.
///
/// # Errors
/// What `stat` reports, but for `ENOENT`.
pub fn source_entry(path: &Path) -> io::Result<Option<Entry>> {
    match again(Op::Stat, |_| std::fs::metadata(path)) {
        Ok(metadata) => Ok(Some(entry_from(&metadata))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns what `fstat` says of an open file.
///
/// # Errors
/// What `fstat` reports.
pub fn entry(file: &File) -> io::Result<Entry> {
    announce(Op::Stat)?;
    Ok(entry_from(&file.metadata()?))
}

/// Returns what a file takes on disk, in bytes, as [`Entry::allocated`] has it.
#[must_use]
pub fn allocated(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks() * BLOCK_UNIT
}

pub(super) fn entry_from(metadata: &std::fs::Metadata) -> Entry {
    Entry {
        device: metadata.dev(),
        inode: metadata.ino(),
        mode: metadata.mode(),
        links: metadata.nlink(),
        len: metadata.len(),
        allocated: allocated(metadata),
    }
}

/// Reads at an offset until `buf` is full or the file ends, and returns how many bytes it got.
///
/// # Errors
/// What `pread` reports.
pub fn read_full_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match again(Op::Read, |_| file.read_at(rest, offset + filled as u64)) {
            Ok(0) => break,
            Ok(got) => filled += got,
            // A direct read ends unaligned only at the end of the file, and cannot continue there.
            Err(e)
                if e.raw_os_error() == Some(libc::EINVAL)
                    && !filled.is_multiple_of(DIRECT_ALIGNMENT) =>
            {
                break;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Reads until `buf` is full or the stream ends.
///
/// # Errors
/// What the stream reports.
pub fn read_full(stream: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Writes all bytes at an offset.
///
/// # Errors
/// What `pwrite` reports. `ENOSPC` when it writes nothing and gives no reason: PostgreSQL, too, assumes then
/// that the disk is full (`XLogWrite` in `access/transam/xlog.c`).
pub fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    write_rest(file, buf, offset, None)
}

/// Writes pieces of memory one behind the other at an offset, by one call if the system takes them all. The
/// file's own position changes.
///
/// # Errors
/// As [`write_all_at`].
pub fn write_pieces_at(file: &File, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
    // Each is announced: how many are written at once depends on the time, and a fault must not.
    let verdicts = pieces.iter().map(|_| again(Op::Write, Ok)).collect::<io::Result<Vec<_>>>()?;
    let mut done = 0;
    if verdicts.iter().all(|verdict| matches!(verdict, Verdict::Proceed)) {
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut stream = file;
        stream.seek(SeekFrom::Start(offset))?;
        done = match stream.write_vectored(&slices) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
    }
    let mut start = 0;
    for (piece, verdict) in pieces.iter().zip(verdicts) {
        let taken = done.saturating_sub(start).min(piece.len());
        let (rest, at) = (piece.get(taken..).unwrap_or_default(), offset + (start + taken) as u64);
        write_rest(file, rest, at, Some(verdict))?;
        start += piece.len();
    }
    Ok(())
}

/// Writes all bytes at an offset; with a verdict, the first call has been announced.
fn write_rest(file: &File, buf: &[u8], offset: u64, told: Option<Verdict>) -> io::Result<()> {
    let (mut done, mut told) = (0, told);
    while let Some(rest) = buf.get(done..).filter(|rest| !rest.is_empty()) {
        let write = |verdict| write_as_told(file, rest, offset + done as u64, verdict);
        let written = match told.take().map(write) {
            Some(Err(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
            Some(result) => result?,
            None => again(Op::Write, write)?,
        };
        if written == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        done += written;
    }
    Ok(())
}

fn write_as_told(file: &File, buf: &[u8], offset: u64, verdict: Verdict) -> io::Result<usize> {
    match verdict {
        Verdict::Proceed => file.write_at(buf, offset),
        Verdict::Short => {
            let half = buf.get(..buf.len().div_ceil(2)).unwrap_or(buf);
            file.write_at(half, offset)
        }
        #[cfg(feature = "fault-injection")]
        Verdict::Corrupt => write_corrupted(file, buf, offset),
    }
}

/// Writes with one byte in the middle changed.
#[cfg(feature = "fault-injection")]
fn write_corrupted(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    // Aligned, as the caller's bytes are.
    let mut wrong = Buffer::large()?;
    let len = bytes.len().min(wrong.bytes().len());
    if let (Some(to), Some(from)) = (wrong.bytes_mut().get_mut(..len), bytes.get(..len)) {
        to.copy_from_slice(from);
    }
    if let Some(byte) = wrong.bytes_mut().get_mut(len / 2) {
        *byte ^= 1;
    }
    file.write_at(wrong.filled(len), offset)
}

/// Sets a file's length. What is added reads as zeros and takes no space.
///
/// # Errors
/// What `ftruncate` reports.
pub fn set_len(file: &File, len: u64) -> io::Result<()> {
    again(Op::Truncate, |_| file.set_len(len))
}

/// Sets a file's permission, whatever the umask.
///
/// # Errors
/// What `fchmod` reports.
pub fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    announce(Op::SetMode)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// Gives a file to a user and a group.
///
/// # Errors
/// What `fchown` reports; `EPERM` unless root asks for it.
pub fn set_owner(file: &File, user: u32, group: u32) -> io::Result<()> {
    announce(Op::SetOwner)?;
    std::os::unix::fs::fchown(file, Some(user), Some(group))
}

/// Flushes a file: its bytes, its length, its attributes and its mode are then durable.
///
/// # Errors
/// What `fsync` reports. After a failure the kernel may have dropped the dirty pages, so another
/// flush proves nothing (see docs/design.md).
pub fn flush(file: &File) -> io::Result<()> {
    again(Op::Flush, |_| file.sync_all())
}
