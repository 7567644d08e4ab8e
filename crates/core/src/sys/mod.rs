//! The system calls of the core: the one file with `unsafe` code.
//!
//! Each function makes one call, on a handle that its caller owns, and turns the result into an
//! [`io::Result`]. A call that a signal interrupted is made again a bounded number of times.

#![allow(unsafe_code, reason = "system calls that the standard library does not offer")]

pub mod buffer;
pub mod fault;
#[forbid(unsafe_code)]
mod file;

use std::alloc::{Layout, alloc_zeroed};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

pub use self::file::{
    Entry, entry, flush, open_source, read_full_at, set_len, set_mode, source_entry, write_all_at,
};
use crate::sys::fault::{Op, Verdict, announce};

/// How often a call is made again after `EINTR`. Threads of the archiver block every signal, so
/// one is already rare.
const INTERRUPTED_TRIES: usize = 16;

/// Alignment of buffers, offsets and lengths for direct I/O: fits every block device in use.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// Size and alignment of a huge page of memory on most machines. Where it is another, or there are
/// none, nothing is lost but speed.
pub const HUGE_PAGE: usize = 2 << 20;

/// The smallest memory page there is.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

fn again<T>(op: Op, mut call: impl FnMut(Verdict) -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match announce(op).and_then(&mut call) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                tries += 1;
                if tries > INTERRUPTED_TRIES {
                    // Not `EINTR`: loops around readers and writers go on at that for ever.
                    return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                }
            }
            result => return result,
        }
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn proc_path(fd: RawFd) -> io::Result<CString> {
    c_string(&format!("/proc/self/fd/{fd}"))
}

/// Size and free space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size.
    pub total: u64,
    /// What an unprivileged process may still use.
    pub free: u64,
}

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
        let name = c_string(path.to_str().ok_or(io::ErrorKind::InvalidInput)?)?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let fd = openat(libc::AT_FDCWD, Op::OpenDirectory, &name, flags, 0)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Returns the path by which the directory was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory's path without symbolic links: by its handle, or where there is no
    /// `/proc`, as the path leads now.
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

    /// Creates a file that has no name yet: not to be had on this system.
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
        let from = proc_path(file.as_raw_fd())?;
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

    /// Renames without replacing: not to be had on this system.
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
    /// What `fstatat` reports, but for `ENOENT`.
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

    /// Calls `visit` with each name in the directory but `.` and `..`, in no order; a name that is
    /// not UTF-8 is given with replacement characters, which no accepted name has.
    ///
    /// # Errors
    /// What `fdopendir` and `readdir` report.
    pub fn for_each_name(&self, mut visit: impl FnMut(&str)) -> io::Result<()> {
        // A fresh description: `fdopendir` takes the descriptor over, and its position with it.
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let fd = openat(self.fd.as_raw_fd(), Op::List, c".", flags, 0)?;
        // SAFETY: the descriptor is an open directory; on success the stream owns it.
        let stream = unsafe { libc::fdopendir(fd.as_raw_fd()) };
        if stream.is_null() {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(fd);
        let result = loop {
            // `readdir` tells its end from an error by `errno` alone.
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

    /// Returns the size of the directory's file system and the space left on it.
    ///
    /// # Errors
    /// What `fstatvfs` reports.
    pub fn space(&self) -> io::Result<Space> {
        space_of(self.fd.as_raw_fd())
    }

    /// Returns what `fstat` says of the directory itself, and its owner.
    ///
    /// # Errors
    /// What `fstat` reports.
    pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
        File::from(self.fd.try_clone()?).metadata()
    }
}

#[cfg(target_os = "linux")]
const O_DIRECT: libc::c_int = libc::O_DIRECT;
#[cfg(not(target_os = "linux"))]
const O_DIRECT: libc::c_int = 0;

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
        allocated: stat.st_blocks as u64 * file::BLOCK_UNIT,
    }
}

fn openat(dir: RawFd, op: Op, name: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    again(op, |_| {
        // SAFETY: the string ends in a zero byte and outlives the call, which only reads it.
        let fd = check(unsafe { libc::openat(dir, name.as_ptr(), flags, mode) })?;
        // SAFETY: the call has just returned this descriptor, and nothing else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

fn space_of(fd: RawFd) -> io::Result<Space> {
    announce(Op::FileSystem)?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `stat` is large enough for the result, and the caller holds the descriptor open.
    check(unsafe { libc::fstatvfs(fd, stat.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the kernel has filled in the whole structure.
    let stat = unsafe { stat.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    Ok(Space {
        total: stat.f_blocks as u64 * stat.f_frsize as u64,
        free: stat.f_bavail as u64 * stat.f_frsize as u64,
    })
}

/// Sets an extended attribute. Returns `false` where the file system has none.
///
/// # Errors
/// What `fsetxattr` reports, but for "not supported" and "does not fit".
#[cfg(target_os = "linux")]
pub fn set_attribute(file: &File, name: &str, value: &str) -> io::Result<bool> {
    let name = c_string(name)?;
    announce(Op::SetAttribute)?;
    // SAFETY: the name ends in a zero byte, value and length belong together, and the kernel
    // reads both only during the call; the descriptor is open because `file` owns it.
    let result = check(unsafe {
        libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    });
    match result {
        Ok(_) => Ok(true),
        // Too many or too large attributes for this file system is the same as none: what counts
        // is the file. A full disk (`ENOSPC`) is reported, since ext4 says that for both.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::E2BIG | libc::ERANGE)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Sets an extended attribute: not to be had on this system.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn set_attribute(_: &File, _: &str, _: &str) -> io::Result<bool> {
    Ok(false)
}

/// Reads an extended attribute of at most 256 bytes; `None` where there is none.
///
/// # Errors
/// What `fgetxattr` reports, but for "no such attribute" and "not supported".
#[cfg(target_os = "linux")]
pub fn attribute(file: &File, name: &str) -> io::Result<Option<String>> {
    let name = c_string(name)?;
    let mut value = [0_u8; 256];
    // SAFETY: the name ends in a zero byte, the kernel writes at most the length given into
    // `value`, and the descriptor is open because `file` owns it.
    let len = unsafe {
        libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let Ok(len) = usize::try_from(len) else {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(None),
            _ => Err(error),
        };
    };
    Ok(Some(String::from_utf8_lossy(value.get(..len).unwrap_or_default()).into_owned()))
}

/// Reads an extended attribute: not to be had on this system.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn attribute(_: &File, _: &str) -> io::Result<Option<String>> {
    Ok(None)
}

/// Asks the kernel to drop a file's clean pages from the page cache. Dirty pages stay, so after
/// a flush this drops all. Advice: a failure means nothing.
pub fn drop_cached(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) {
        // SAFETY: takes numbers only; the descriptor is open because `file` owns it.
        unsafe {
            libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED);
        }
    }
}

/// Allocates zeroed memory that is not touched yet, so that it takes none until it is used. The
/// standard library's own ways either touch it or end the process when there is none.
///
/// # Errors
/// `ENOMEM` when it is not to be had.
pub fn zeroed(len: usize) -> io::Result<Vec<u8>> {
    let no_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
    announce(Op::Allocate)?;
    if len == 0 {
        return Ok(Vec::new());
    }
    let layout = Layout::array::<u8>(len).map_err(|_| no_memory())?;
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(no_memory());
    }
    // SAFETY: the global allocator has just given this memory out, for bytes and of this length;
    // all of it is set, and nothing else knows it.
    Ok(unsafe { Vec::from_raw_parts(memory, len, len) })
}

/// Starts a thread that never takes a signal.
///
/// # Errors
/// `EAGAIN` when a limit of processes or threads is reached, or there is no memory for its stack.
pub fn start_thread(stack: usize, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    announce(Op::StartThread)?;
    let thread = std::thread::Builder::new().name("walsafe".to_owned()).stack_size(stack);
    with_signals_blocked(|| thread.spawn(run)).map(drop)
}

/// Asks the kernel to lay memory into huge pages. Advice: a failure means nothing.
pub fn prefer_huge_pages(memory: &mut [u8]) {
    #[cfg(target_os = "linux")]
    // SAFETY: the memory is the caller's alone for the time of the call, and this advice changes
    // nothing of its contents.
    unsafe {
        libc::madvise(memory.as_mut_ptr().cast(), memory.len(), libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// Gives memory that was freed back to the system. The allocator would keep what threads that have
/// ended had, for each of them a share.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time, from any thread; it locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns how many bytes of a file's first `len` are in the page cache; `None` where that cannot
/// be told. Reads nothing.
#[cfg(target_os = "linux")]
#[must_use]
pub fn cached_bytes(file: &File, len: u64) -> Option<u64> {
    let len = usize::try_from(len).ok().filter(|len| *len > 0)?;
    // SAFETY: a new mapping where the kernel likes, of a file that `file` holds open. Its pages
    // are never touched, so that a file that shrinks does no harm.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return None;
    }
    let mut resident = vec![0_u8; len.div_ceil(PAGE)];
    // SAFETY: the mapping is of this length, and the vector has a byte for each of its pages: no
    // system has smaller pages.
    let result = unsafe { libc::mincore(map, len, resident.as_mut_ptr().cast()) };
    // SAFETY: the mapping made above, which nothing refers to.
    unsafe { libc::munmap(map, len) };
    // SAFETY: takes a number and returns one.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let pages = resident.iter().filter(|page| **page & 1 != 0).count();
    (result == 0).then_some(pages as u64 * page)
}

/// Returns how many bytes of a file are in the page cache: cannot be told on this system.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn cached_bytes(_: &File, _: u64) -> Option<u64> {
    None
}

/// Turns direct I/O of an open file on or off. Returns `false` where it is not to be had.
#[cfg(target_os = "linux")]
#[must_use]
pub fn set_direct(file: &File, on: bool) -> bool {
    // SAFETY: takes numbers only; the descriptor is open because `file` owns it.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags == -1 {
        return false;
    }
    let flags = if on { flags | O_DIRECT } else { flags & !O_DIRECT };
    // SAFETY: as above.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) == 0 }
}

/// Turns direct I/O of an open file on or off: not to be had on this system.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn set_direct(_: &File, _: bool) -> bool {
    false
}

/// Returns the machine's host name, reduced to characters that a file name may have.
#[must_use]
pub fn host_name() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: the kernel writes at most the length given, which leaves room for a zero byte.
    let result = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    let name = if result == 0 { buffer.split(|b| *b == 0).next().unwrap_or_default() } else { b"" };
    let clean: String = name
        .iter()
        .take(64)
        .map(|b| if b.is_ascii_alphanumeric() || *b == b'-' { char::from(*b) } else { '-' })
        .collect();
    if clean.is_empty() { "localhost".to_owned() } else { clean }
}

/// Tells whether a process of this number runs in our process namespace. One that has ended and
/// that its parent, an idle init for one, has not collected yet does not run: what a thread of it is
/// held in by the kernel may still happen, but nothing after that.
#[must_use]
pub fn process_runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // The name before it, in parentheses, may hold anything.
    let state = stat.as_ref().ok().and_then(|stat| stat.rsplit_once(") ")?.1.chars().next());
    if let Some('Z' | 'X') = state {
        return false;
    }
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    if pid <= 0 {
        return false;
    }
    // SAFETY: signal 0 is never delivered; the call only looks whether the process is there.
    let result = unsafe { libc::kill(pid, 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Runs `f` with every signal blocked in the calling thread, so that threads it starts never
/// take one: signals of a server process are for its main thread.
pub fn with_signals_blocked<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(libc::sigset_t);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the set was filled in by the kernel, and no old mask is asked for.
            unsafe {
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
            };
        }
    }
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `all` is large enough for the set, which the call fills in.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was filled in above, and `before` is large enough for the old mask. The call
    // fails only for a wrong first argument.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: the call above has filled `before` in.
    let _restore = Restore(unsafe { before.assume_init() });
    f()
}
