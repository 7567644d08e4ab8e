//! Directories, and the names in them.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys::call::{again, c_string, check, openat};
use crate::sys::fault::{Op, announce};
use crate::sys::file::{BLOCK_UNIT, Entry, entry_from};
use crate::sys::space::{Space, space_of};

/// An open directory. Names given to its methods are single components, and symbolic links at
/// them are never followed.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory by its path.
    ///
    /// # Errors
    /// What `open` reports; `ENOTDIR` for anything but a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = c_string(path.as_os_str().as_bytes())?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let fd = openat(libc::AT_FDCWD, Op::OpenDirectory, &name, flags, 0)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Returns the path by which the directory was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory's path without symbolic links: by its handle, or, where there is no
    /// `/proc`, by where its path leads now.
    #[must_use]
    pub fn real_path(&self) -> Option<PathBuf> {
        let by_handle = std::fs::read_link(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        by_handle.or_else(|_| self.path.canonicalize()).ok()
    }

    /// Opens an existing file for reading. A named pipe does not block.
    ///
    /// # Errors
    /// What `openat` reports; `ELOOP` for a symbolic link.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        let name = c_string(name)?;
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        Ok(File::from(openat(self.fd.as_raw_fd(), Op::Open, &name, flags, 0)?))
    }

    /// Creates a file that has no name yet (`O_TMPFILE`), mode 0600.
    ///
    /// # Errors
    /// What `openat` reports; `EOPNOTSUPP`, `EISDIR` or `EINVAL` where the file system has no
    /// such files.
    #[cfg(target_os = "linux")]
    pub fn create_unnamed(&self) -> io::Result<File> {
        let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
        Ok(File::from(openat(self.fd.as_raw_fd(), Op::CreateUnnamed, c".", flags, 0o600)?))
    }

    /// Creates a file that has no name yet: not available on this system.
    ///
    /// # Errors
    /// Always `EOPNOTSUPP`.
    #[cfg(not(target_os = "linux"))]
    pub fn create_unnamed(&self) -> io::Result<File> {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }

    /// Creates a file under a name that must be free, mode 0600.
    ///
    /// # Errors
    /// What `openat` reports; `EEXIST` when the name is taken.
    pub fn create_named(&self, name: &str) -> io::Result<File> {
        let name = c_string(name)?;
        let flags =
            libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        Ok(File::from(openat(self.fd.as_raw_fd(), Op::CreateNamed, &name, flags, 0o600)?))
    }

    /// Gives an unnamed file its name, unless the name is taken.
    ///
    /// # Errors
    /// What `linkat` reports; `EEXIST` when the name is taken.
    pub fn link_unnamed(&self, file: &File, name: &str) -> io::Result<()> {
        let from = c_string(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let name = c_string(name)?;
        announce(Op::LinkUnnamed)?;
        // SAFETY: both strings end in a zero byte and outlive the call; the descriptor is open
        // because `self` owns it. The kernel only reads the strings.
        check(unsafe {
            libc::linkat(
                libc::AT_FDCWD,
                from.as_ptr(),
                self.fd.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        })
        .map(drop)
    }

    /// Gives a file of this directory a second name, unless that name is taken.
    ///
    /// # Errors
    /// What `linkat` reports; `EEXIST` when the name is taken.
    pub fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (c_string(from)?, c_string(to)?);
        let fd = self.fd.as_raw_fd();
        announce(Op::Link)?;
        // SAFETY: both strings end in a zero byte and outlive the call, which only reads them;
        // the descriptor is open because `self` owns it.
        check(unsafe { libc::linkat(fd, from.as_ptr(), fd, to.as_ptr(), 0) }).map(drop)
    }

    /// Renames a file of this directory, unless the new name is taken.
    ///
    /// # Errors
    /// What `renameat2` reports; `EEXIST` when the name is taken, `EINVAL` or `ENOSYS` where the
    /// file system or the kernel cannot promise that.
    #[cfg(target_os = "linux")]
    pub fn rename_noreplace(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (c_string(from)?, c_string(to)?);
        let fd = self.fd.as_raw_fd();
        announce(Op::Rename)?;
        // SAFETY: both strings end in a zero byte and outlive the call, which only reads them;
        // the descriptor is open because `self` owns it.
        check(unsafe {
            libc::renameat2(fd, from.as_ptr(), fd, to.as_ptr(), libc::RENAME_NOREPLACE)
        })
        .map(drop)
    }

    /// Renames without replacing: not available on this system.
    ///
    /// # Errors
    /// Always `ENOSYS`.
    #[cfg(not(target_os = "linux"))]
    pub fn rename_noreplace(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }

    /// Renames a file of this directory over another. For the module's own files in the data
    /// directory only: nothing in an archive is ever replaced.
    ///
    /// # Errors
    /// What `renameat` reports.
    pub fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (c_string(from)?, c_string(to)?);
        let fd = self.fd.as_raw_fd();
        announce(Op::Rename)?;
        // SAFETY: both strings end in a zero byte and outlive the call, which only reads them;
        // the descriptor is open because `self` owns it.
        check(unsafe { libc::renameat(fd, from.as_ptr(), fd, to.as_ptr()) }).map(drop)
    }

    /// Renames a file of this directory into another one, over what has the name there. For files of the server
    /// alone, as [`Dir::replace`].
    ///
    /// # Errors
    /// What `renameat` reports; `EXDEV` where the other directory is on another file system.
    pub fn move_into(&self, name: &str, other: &Self, new_name: &str) -> io::Result<()> {
        announce(Op::Rename)?;
        let (old, new) = (c_string(name)?, c_string(new_name)?);
        let (from, to) = (self.fd.as_raw_fd(), other.fd.as_raw_fd());
        // SAFETY: both strings end in a zero byte, outlive the call and are only read.
        check(unsafe { libc::renameat(from, old.as_ptr(), to, new.as_ptr()) })?;
        Ok(())
    }

    /// Takes the lock of the directory (`flock`), unless another handle has it. It is kept as long as this handle
    /// is open, and ends with the process. Returns `false` if it is taken.
    ///
    /// # Errors
    /// What `flock` reports; `ENOLCK` or `EOPNOTSUPP` where the file system has no locks.
    pub fn try_lock(&self) -> io::Result<bool> {
        // SAFETY: takes numbers; the descriptor is open as long as this value.
        match check(unsafe { libc::flock(self.fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// Removes a name.
    ///
    /// # Errors
    /// What `unlinkat` reports.
    pub fn unlink(&self, name: &str) -> io::Result<()> {
        let name = c_string(name)?;
        announce(Op::Unlink)?;
        // SAFETY: the string ends in a zero byte and outlives the call, which only reads it; the
        // descriptor is open because `self` owns it.
        check(unsafe { libc::unlinkat(self.fd.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
    }

    /// Looks a name up without following a symbolic link; `None` when nothing has it.
    ///
    /// # Errors
    /// What `fstatat` reports, except `ENOENT`.
    pub fn entry(&self, name: &str) -> io::Result<Option<Entry>> {
        let name = c_string(name)?;
        let result = again(Op::Stat, |_| {
            let mut stat = MaybeUninit::<libc::stat>::uninit();
            // SAFETY: the string ends in a zero byte, `stat` is large enough for the result, and
            // the descriptor is open because `self` owns it.
            check(unsafe {
                libc::fstatat(
                    self.fd.as_raw_fd(),
                    name.as_ptr(),
                    stat.as_mut_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                )
            })?;
            // SAFETY: the call succeeded, so the kernel has filled in the whole structure.
            Ok(entry_of(&unsafe { stat.assume_init() }))
        });
        match result {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Calls `visit` with each name in the directory except `.` and `..`, in no order. A name that is
    /// not UTF-8 comes with replacement characters, which no accepted name has.
    ///
    /// # Errors
    /// What `fdopendir` and `readdir` report.
    pub fn for_each_name(&self, mut visit: impl FnMut(&str)) -> io::Result<()> {
        // Opened anew: `fdopendir` takes the descriptor over, and its position with it.
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let fd = openat(self.fd.as_raw_fd(), Op::List, c".", flags, 0)?;
        // SAFETY: the descriptor is an open directory; on success the stream owns it.
        let stream = unsafe { libc::fdopendir(fd.as_raw_fd()) };
        if stream.is_null() {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(fd);
        let result = loop {
            // Only `errno` distinguishes the end of the directory from an error.
            clear_errno();
            // SAFETY: the stream is open and used by this thread alone.
            let entry = unsafe { libc::readdir(stream) };
            if entry.is_null() {
                let error = io::Error::last_os_error();
                break if error.raw_os_error() == Some(0) { Ok(()) } else { Err(error) };
            }
            // SAFETY: the entry is valid until the next `readdir`; only the address of its name is
            // taken, for the entry may be shorter than its type.
            let name = unsafe { &raw const (*entry).d_name };
            // SAFETY: the name ends in a zero byte, within the entry.
            let name = unsafe { CStr::from_ptr(name.cast()) };
            let name = name.to_string_lossy();
            if name != "." && name != ".." {
                visit(&name);
            }
        };
        // SAFETY: the stream is open, and nothing uses it after this.
        unsafe { libc::closedir(stream) };
        result
    }

    /// Flushes the directory: names created, linked, renamed or removed in it are then durable.
    ///
    /// # Errors
    /// What `fsync` reports. After a failure nothing may be taken as durable.
    pub fn flush(&self) -> io::Result<()> {
        again(Op::FlushDirectory, |_| {
            // SAFETY: the descriptor is open because `self` owns it.
            check(unsafe { libc::fsync(self.fd.as_raw_fd()) }).map(drop)
        })
    }

    /// Returns whether names can be added to the directory and none removed (`chattr +a`), where the file
    /// system tells.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn is_append_only(&self) -> bool {
        let mut stat = MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: the path is an empty string that ends in a zero byte, `stat` is large enough for the
        // result, and the descriptor is open because `self` owns it.
        let result = check(unsafe {
            let (fd, flags) = (self.fd.as_raw_fd(), libc::AT_EMPTY_PATH);
            libc::statx(fd, c"".as_ptr(), flags, 0, stat.as_mut_ptr())
        });
        // SAFETY: the structure consists of integers, for which zero is a value.
        let stat = unsafe { stat.assume_init() };
        result.is_ok() && stat.stx_attributes & libc::STATX_ATTR_APPEND as u64 != 0
    }

    /// Returns whether names can be added to the directory and none removed: not known on this system.
    #[cfg(not(target_os = "linux"))]
    #[must_use]
    pub fn is_append_only(&self) -> bool {
        false
    }

    /// Returns the size of the directory's file system and the space left on it.
    ///
    /// # Errors
    /// What `fstatvfs` reports.
    pub fn space(&self) -> io::Result<Space> {
        space_of(self.fd.as_raw_fd())
    }

    /// Returns the space that is left, where an error says that there is not enough of it.
    #[must_use]
    pub fn space_for(&self, error: &io::Error) -> Option<Space> {
        let short = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
        if short { self.space().ok() } else { None }
    }

    /// Returns what `fstat` says of the directory itself.
    ///
    /// # Errors
    /// What `fstat` reports.
    pub fn own_entry(&self) -> io::Result<Entry> {
        again(Op::Stat, |_| {
            let mut stat = MaybeUninit::<libc::stat>::uninit();
            // SAFETY: `stat` is large enough for the result, and the descriptor is open because `self`
            // owns it.
            check(unsafe { libc::fstat(self.fd.as_raw_fd(), stat.as_mut_ptr()) })?;
            // SAFETY: the call succeeded, so the kernel has filled in the whole structure.
            Ok(entry_of(&unsafe { stat.assume_init() }))
        })
    }

    /// Returns whether the path by which the directory was opened still leads to it. While it is open,
    /// no other directory can have its device and inode.
    ///
    /// # Errors
    /// What `stat` reports, also if the path leads nowhere.
    pub fn is_at_its_path(&self) -> io::Result<bool> {
        let there = again(Op::Stat, |_| std::fs::metadata(&self.path))?;
        Ok(self.own_entry()?.is_same_file(&entry_from(&there)))
    }

    /// Returns the directory's permission bits, only to be told of: nothing depends on it, as with
    /// [`Dir::space`].
    ///
    /// # Errors
    /// What `fstat` reports.
    pub fn mode(&self) -> io::Result<u32> {
        announce(Op::FileSystem)?;
        Ok(File::from(self.fd.try_clone()?).metadata()?.mode())
    }

    /// Returns what `fstat` says of the directory itself, and its owner.
    ///
    /// # Errors
    /// What `fstat` reports.
    pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
        announce(Op::Stat)?;
        File::from(self.fd.try_clone()?).metadata()
    }
}

fn clear_errno() {
    #[cfg(any(target_os = "illumos", target_os = "solaris"))]
    use libc::___errno as location;
    #[cfg(any(target_os = "netbsd", target_os = "openbsd", target_os = "android"))]
    use libc::__errno as location;
    #[cfg(any(target_os = "linux", target_os = "dragonfly", target_os = "hurd"))]
    use libc::__errno_location as location;
    #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
    use libc::__error as location;
    // SAFETY: returns the address of this thread's `errno`, valid as long as the thread.
    let errno = unsafe { location() };
    // SAFETY: the address is valid, and nothing but this thread uses it.
    unsafe { *errno = 0 };
}

fn entry_of(stat: &libc::stat) -> Entry {
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    Entry {
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        mode: stat.st_mode as u32,
        links: stat.st_nlink as u64,
        len: stat.st_size as u64,
        allocated: stat.st_blocks as u64 * BLOCK_UNIT,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ffi::OsStr;

    use super::*;

    /// It was an "invalid input parameter", though the system takes it.
    #[test]
    fn a_directory_whose_path_is_not_utf_8_can_be_opened() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(OsStr::from_bytes(b"arch\xffive"));
        assert_eq!(Dir::open(&path).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("a"), "x").unwrap();
        assert!(Dir::open(&path).unwrap().entry("a").unwrap().is_some());
        assert!(crate::sys::open_source(&path.join("a")).is_ok());
    }
}
