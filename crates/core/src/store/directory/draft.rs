//! A file on its way into a directory: written, sealed, published.
//!
//! Each step consumes the one before, so none can be left out or made twice. Until it is published, a
//! file has no name, or a temporary one; dropping it discards it.

use std::fs::File;
use std::io;

use super::reading::PastCache;
use super::sink::Sink;
use super::temporary::TemporaryName;
use super::{DirectoryVisit, Staging};
use crate::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, Hasher, STORED_ATTRIBUTE};
use crate::error::{Action, Error};
use crate::store::{Digests, Draft, FinalName, Publication, Seal, Sealed};
use crate::sys::buffer::Buffer;
use crate::sys::read_full;
use crate::sys::{self, Dir};

/// A file being written.
///
/// It is closed before its temporary name is removed, which the order of the fields ensures. NFS keeps a
/// file that is removed while it is open, under a name that it makes up, and after a crash it keeps it for
/// ever.
pub(super) struct DirectoryDraft<'v> {
    visit: &'v DirectoryVisit<'v>,
    final_name: FinalName,
    sink: Sink,
    /// `None` for a file without a name.
    temporary: Option<Named<'v>>,
}

/// A file whose bytes, attributes and mode are complete, and flushed where that was asked for.
struct DirectorySealed<'v> {
    visit: &'v DirectoryVisit<'v>,
    final_name: FinalName,
    file: File,
    temporary: Option<Named<'v>>,
    seal: Seal,
    stored_bytes: u64,
    carries_attributes: bool,
}

/// A temporary name, which goes when this is dropped.
struct Named<'v> {
    dir: &'v Dir,
    name: TemporaryName,
    /// The name was renamed away: there is nothing to remove.
    gone: bool,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if !self.gone {
            // A file that cannot be removed now is removed when an archiver next starts here.
            let _ = self.dir.unlink(&self.name);
        }
    }
}

impl<'v> DirectoryDraft<'v> {
    /// Creates an empty file: without a name if the file system has such files, otherwise under a temporary
    /// name.
    pub(super) fn create(
        visit: &'v DirectoryVisit<'v>,
        final_name: FinalName,
    ) -> Result<Self, Error> {
        if visit.staging() == Staging::Unnamed {
            match visit.dir.create_unnamed() {
                Ok(file) => {
                    return Ok(Self { visit, final_name, sink: Sink::new(file), temporary: None });
                }
                Err(e) if lacks_unnamed_files(&e) => {
                    let draft = Self::create_named(visit, final_name)?;
                    visit.remember(Staging::Named);
                    return Ok(draft);
                }
                Err(e) => return Err(failed(visit, &final_name, Action::CreateTemporary, e)),
            }
        }
        Self::create_named(visit, final_name)
    }

    fn create_named(visit: &'v DirectoryVisit<'v>, final_name: FinalName) -> Result<Self, Error> {
        let name = visit.owner().temporary_name(&final_name.stem());
        let file = visit
            .dir
            .create_named(&name)
            .map_err(|e| failed(visit, &final_name, Action::CreateTemporary, e))?;
        let temporary = Some(Named { dir: &visit.dir, name, gone: false });
        Ok(Self { visit, final_name, sink: Sink::new(file), temporary })
    }

    fn failed(&self, action: Action, source: io::Error) -> Error {
        failed(self.visit, &self.final_name, action, source)
    }

    /// Attributes come before the mode: a file of mode 0400 takes none from its owner.
    fn sealed(self, seal: &Seal) -> Result<DirectorySealed<'v>, Error> {
        self.sink.finish().map_err(|e| self.failed(Action::WriteCopy, e))?;
        let file = self.sink.file();
        let mut attributes = Vec::new();
        if let Some(Digests { stored, content }) = seal.digests {
            attributes.push((STORED_ATTRIBUTE, stored.to_string()));
            attributes.push((CONTENT_ATTRIBUTE, content.to_string()));
        }
        attributes.extend(seal.checked.map(|how| (CHECKED_ATTRIBUTE, how.as_str().to_owned())));
        let mut carries_attributes = true;
        for (attribute, value) in attributes {
            carries_attributes = sys::set_attribute(file, attribute, &value)
                .map_err(|e| self.failed(Action::SealCopy, e))?;
            if !carries_attributes {
                break;
            }
        }
        sys::set_mode(file, seal.mode).map_err(|e| self.failed(Action::SealCopy, e))?;
        if seal.flush {
            sys::flush(file).map_err(|e| self.failed(Action::FlushCopy, e))?;
            // Without direct I/O, the copy went through the page cache, which belongs to the database.
            sys::drop_cached(file, 0, 0);
        }
        self.visit.progress.tick();
        let stored_bytes =
            sys::entry(file).map_err(|e| self.failed(Action::SealCopy, e))?.allocated;
        let Self { visit, final_name, sink, temporary } = self;
        let file = sink.into_file();
        let seal = *seal;
        let sealed = DirectorySealed {
            visit,
            final_name,
            file,
            temporary,
            seal,
            stored_bytes,
            carries_attributes,
        };
        if seal.verify {
            sealed.read_back(&mut |_| Ok(()))?;
        }
        Ok(sealed)
    }
}

impl<'v> Draft<'v> for DirectoryDraft<'v> {
    fn put(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.sink.put(chunk).map_err(|e| self.failed(Action::WriteCopy, e))?;
        self.visit.progress.tick();
        Ok(())
    }

    fn seal(self: Box<Self>, seal: &Seal) -> Result<Box<dyn Sealed + 'v>, Error> {
        Ok(Box::new(self.sealed(seal)?))
    }
}

impl Sealed for DirectorySealed<'_> {
    fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    fn carries_attributes(&self) -> bool {
        self.carries_attributes
    }

    fn publish(mut self: Box<Self>) -> Result<Publication, Error> {
        if let Some(temporary) = self.temporary.take() {
            return self.publish_named(temporary);
        }
        let visit = self.visit;
        match visit.dir.link_unnamed(&self.file, &self.final_name.to_string()) {
            Ok(()) => Ok(Publication::Published),
            Err(e) if exists(&e) => Ok(Publication::NameTaken),
            // ENOENT: there is no /proc here. Or the directory is gone; creating a name then says so.
            Err(e) if cannot_link(&e) || e.raw_os_error() == Some(libc::ENOENT) => {
                // Before the second copy, which stands beside the first: where there is no room for
                // both, the next try needs only one.
                visit.remember(Staging::Named);
                Box::new(self.with_a_name()?).publish()
            }
            Err(e) => Err(failed(visit, &self.final_name, Action::Publish, e)),
        }
    }
}

impl<'v> DirectorySealed<'v> {
    /// Publishes a file that has a temporary name: in the way that worked last, and where that is
    /// refused, in the other one. Another file system may have come to the path.
    fn publish_named(self, mut temporary: Named<'v>) -> Result<Publication, Error> {
        // Closed on the way out, before the temporary name is removed: parameters are dropped last.
        let sealed = self;
        let visit = sealed.visit;
        let mut by = |rename: bool| {
            if rename { sealed.rename(&mut temporary) } else { sealed.link(&temporary) }
        };
        let rename = visit.staging() == Staging::Renamed;
        let mut published = by(rename);
        if published.as_ref().is_err_and(cannot_link) {
            published = by(!rename);
        }
        published.map_err(|source| {
            if cannot_link(&source) {
                Error::NoReplaceUnsupported { path: visit.dir.path().to_owned(), source }
            } else {
                failed(visit, &sealed.final_name, Action::Publish, source)
            }
        })
    }

    /// Links the temporary name to the final one.
    fn link(&self, temporary: &Named<'v>) -> io::Result<Publication> {
        let (dir, final_name) = (&self.visit.dir, self.final_name.to_string());
        match dir.link(&temporary.name, &final_name) {
            Ok(()) => {
                self.visit.remember_links();
                Ok(Publication::Published)
            }
            Err(e) if exists(&e) => {
                // A network file system may have made the link and lost its answer: then the name
                // is the very file that we hold.
                let ours = sys::entry(&self.file)?;
                let there = dir.entry(&final_name)?;
                let same = there.is_some_and(|there| there.is_same_file(&ours));
                Ok(if same { Publication::Published } else { Publication::NameTaken })
            }
            Err(e) => Err(e),
        }
    }

    /// Renames the temporary name to the final one, which never replaces another file.
    fn rename(&self, temporary: &mut Named<'v>) -> io::Result<Publication> {
        match self.visit.dir.rename_noreplace(&temporary.name, &self.final_name.to_string()) {
            Ok(()) => {
                temporary.gone = true;
                self.visit.remember(Staging::Renamed);
                Ok(Publication::Published)
            }
            Err(e) if exists(&e) => Ok(Publication::NameTaken),
            Err(e) => Err(e),
        }
    }

    /// Makes the same file once more, under a temporary name, from what storage has of this one.
    fn with_a_name(&self) -> Result<Self, Error> {
        let mut draft = DirectoryDraft::create_named(self.visit, self.final_name.clone())?;
        self.read_back(&mut |chunk| draft.put(chunk))?;
        draft.sealed(&self.seal)
    }

    /// Reads the file back from storage, past the page cache, and compares its digest with what was
    /// written, where that is known.
    fn read_back(&self, each: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let fail = |e| failed(self.visit, &self.final_name, Action::ReadBack, e);
        let mut stream = PastCache::new(self.file.try_clone().map_err(fail)?);
        let path = self.visit.path_of(&self.final_name);
        let reserved = Buffer::new().map_err(|e| Error::io(Action::ReserveMemory, &path, e));
        let (mut buffer, mut hasher) = (reserved?, Hasher::default());
        loop {
            let len = read_full(&mut stream, buffer.bytes_mut()).map_err(fail)?;
            hasher.update(buffer.filled(len));
            each(buffer.filled(len))?;
            self.visit.progress.tick();
            if len < buffer.bytes().len() {
                break;
            }
        }
        let found = hasher.digest();
        match self.seal.digests {
            Some(Digests { stored, .. }) if stored != found => {
                let reason = format!(
                    "BLAKE3 of what was written is {stored}, of what was read back {found}"
                );
                Err(Error::ReadBackDiffers { path, reason })
            }
            _ => Ok(()),
        }
    }
}

fn exists(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EEXIST)
}

/// Returns whether an error says that the file system has no unnamed files.
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
fn failed(
    visit: &DirectoryVisit<'_>,
    name: &FinalName,
    action: Action,
    source: io::Error,
) -> Error {
    let short = matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    let space = if short { visit.dir.space().ok() } else { None };
    Error::Io { action, path: visit.path_of(name), space, source }
}
