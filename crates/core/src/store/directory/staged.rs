//! A file on its way into an archive: staged, sealed, published.
//!
//! Each step consumes the one before, so none can be left out or made twice. Until it is
//! published a file is invisible, or has a temporary name; dropping it discards it.

use std::fs::File;
use std::io;

use crate::encoding::digest::{CONTENT_ATTRIBUTE, Digest, STORED_ATTRIBUTE};
use crate::error::{Action, Error};
use crate::store::directory::temporary::{Owner, TemporaryName};
use crate::sys::{self, Dir};

/// How a file is kept out of sight until it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staging {
    /// A file without a name where the file system has such, else a temporary name.
    Unnamed,
    /// Always a temporary name: the portable path.
    Named,
}

/// A file being written.
///
/// It is closed before its temporary name is removed, which the order of the fields sees to: NFS
/// keeps a file that is removed while it is open, under a name that it makes up, and after a crash
/// for ever.
#[derive(Debug)]
pub struct Staged<'a> {
    dir: &'a Dir,
    file: File,
    /// The temporary name; removed on drop.
    name: Option<Named<'a>>,
}

/// A file whose bytes, attributes and mode are complete, and flushed where that was asked for.
#[derive(Debug)]
pub struct Sealed<'a>(Staged<'a>);

/// The digests of a file, for its extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// Of the bytes as they are stored.
    pub stored: Digest,
    /// Of the WAL file's own bytes.
    pub content: Digest,
}

/// What came of publishing.
#[derive(Debug)]
pub enum Publication {
    /// The file has its name. The name is durable once the directory was flushed.
    Published,
    /// Another file had the name already, and stays as it is.
    NameTaken,
    /// The unnamed file cannot be linked here (no `/proc`, or a file system that refuses):
    /// stage again with [`Staging::Named`].
    NeedsName,
}

#[derive(Debug)]
struct Named<'a> {
    dir: &'a Dir,
    name: TemporaryName,
    /// The name was renamed away: there is nothing to remove.
    gone: bool,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if !self.gone {
            // A file that cannot be removed now goes when an archiver begins here again.
            let _ = self.dir.unlink(&self.name);
        }
    }
}

impl<'a> Staged<'a> {
    /// Creates an empty file, out of sight.
    ///
    /// Dies the machine here, an unnamed file is gone; a temporary name stays until the next
    /// archiver on this host starts.
    ///
    /// # Errors
    /// The file could not be created.
    pub fn create(
        dir: &'a Dir,
        final_name: &str,
        owner: &Owner,
        staging: Staging,
    ) -> Result<Self, Error> {
        if staging == Staging::Unnamed {
            match dir.create_unnamed() {
                Ok(file) => return Ok(Self { dir, file, name: None }),
                Err(e) if lacks_unnamed_files(&e) => {}
                Err(e) => return Err(failed(dir, final_name, Action::CreateTemporary, e)),
            }
        }
        let name = owner.temporary_name(final_name);
        let file = dir
            .create_named(&name)
            .map_err(|e| failed(dir, final_name, Action::CreateTemporary, e))?;
        Ok(Self { dir, file, name: Some(Named { dir, name, gone: false }) })
    }

    /// Returns the open file, to be written.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its attributes and its mode, in this order (a file of mode 0400 takes no
    /// attributes from its owner), and flushes it where `flush` says so.
    ///
    /// On return with `flush`, bytes, attributes and mode survive a power cut; no name does yet.
    ///
    /// # Errors
    /// One of the steps failed. The copy is discarded, so that no later flush can be mistaken
    /// for a success of this one (guarantee G8).
    pub fn seal(
        self,
        final_name: &str,
        digests: Option<Digests>,
        mode: u32,
        flush: bool,
    ) -> Result<Sealed<'a>, Error> {
        let fail = |action| move |e| failed(self.dir, final_name, action, e);
        if let Some(Digests { stored, content }) = digests {
            let pairs = [(STORED_ATTRIBUTE, stored), (CONTENT_ATTRIBUTE, content)];
            for (attribute, digest) in pairs {
                let set = sys::set_attribute(&self.file, attribute, &digest.to_string())
                    .map_err(fail(Action::SealCopy))?;
                if !set {
                    break;
                }
            }
        }
        sys::set_mode(&self.file, mode).map_err(fail(Action::SealCopy))?;
        if flush {
            sys::flush(&self.file).map_err(fail(Action::FlushCopy))?;
            // Where there is no direct I/O the copy went through the page cache, which belongs to
            // the database.
            sys::drop_cached(&self.file, 0, 0);
        }
        Ok(Sealed(self))
    }
}

impl Sealed<'_> {
    /// Returns the open file, to be read back.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// Gives the file its final name, unless that is taken: the kernel decides, not an earlier
    /// look. The caller flushes the directory afterwards.
    ///
    /// Dies the machine here, the name is there or not; if it is, so are the bytes.
    ///
    /// # Errors
    /// The file system reported an error, or can do neither `link` nor a rename that does not
    /// replace.
    pub fn publish(self, final_name: &str) -> Result<Publication, Error> {
        let mut staged = self.0;
        let (dir, file) = (staged.dir, &staged.file);
        let fail = |e| failed(dir, final_name, Action::Publish, e);
        let Some(temporary) = &mut staged.name else {
            return match dir.link_unnamed(file, final_name) {
                Ok(()) => Ok(Publication::Published),
                Err(e) if exists(&e) => Ok(Publication::NameTaken),
                // ENOENT: there is no /proc here. Or the directory is gone; a name then tells so.
                Err(e) if cannot_link(&e) || e.raw_os_error() == Some(libc::ENOENT) => {
                    Ok(Publication::NeedsName)
                }
                Err(e) => Err(fail(e)),
            };
        };
        match dir.link(&temporary.name, final_name) {
            Ok(()) => return Ok(Publication::Published),
            Err(e) if exists(&e) => {
                // A network file system may have made the link and lost its answer: then the name
                // is the very file that we hold.
                let ours = sys::entry(file).map_err(fail)?;
                let there = dir.entry(final_name).map_err(fail)?;
                let same = there
                    .is_some_and(|there| (there.device, there.inode) == (ours.device, ours.inode));
                return Ok(if same { Publication::Published } else { Publication::NameTaken });
            }
            Err(e) if cannot_link(&e) => {}
            Err(e) => return Err(fail(e)),
        }
        match dir.rename_noreplace(&temporary.name, final_name) {
            Ok(()) => {
                temporary.gone = true;
                Ok(Publication::Published)
            }
            Err(e) if exists(&e) => Ok(Publication::NameTaken),
            Err(e) if cannot_link(&e) => {
                Err(Error::NoReplaceUnsupported { path: dir.path().to_owned(), source: e })
            }
            Err(e) => Err(fail(e)),
        }
    }
}

fn exists(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EEXIST)
}

/// Returns whether the file system has no unnamed files, by what it said when one was to be created.
pub(crate) fn lacks_unnamed_files(error: &io::Error) -> bool {
    // EISDIR and ENOENT: kernels and file systems that take the flag for O_DIRECTORY | O_RDWR.
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL | libc::ENOSYS | libc::ENOENT)
    )
}

fn cannot_link(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EPERM
                | libc::EOPNOTSUPP
                | libc::ENOSYS
                | libc::EINVAL
                | libc::EXDEV
                | libc::EMLINK
        )
    )
}

/// Makes an error of a failed call on the copy; where space may be short, says how much there is.
pub(crate) fn failed(dir: &Dir, name: &str, action: Action, source: io::Error) -> Error {
    let short = matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    let space = if short { dir.space().ok() } else { None };
    Error::Io { action, path: dir.path().join(name), space, source }
}
