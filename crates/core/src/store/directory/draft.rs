//! A file on its way into a directory: written, sealed, published.
//!
//! Each step consumes the one before, so none can be left out or made twice. Until it is published, a
//! file has no name, or a temporary one; dropping it discards it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::reading::PastCache;
use super::sink::Sink;
use super::temporary::TemporaryName;
use super::{Here, Staging};
use crate::encoding::digest::{CHECKED_ATTRIBUTE, CONTENT_ATTRIBUTE, Hasher, STORED_ATTRIBUTE};
use crate::error::{Action, Error};
use crate::store::limit::{Limit, number};
use crate::store::mode;
use crate::store::{Digests, Draft, FinalName, Progress, Publication, Seal, Sealed};
use crate::sys;
use crate::sys::buffer::Buffer;
use crate::sys::read_full;

/// A file being written.
///
/// It is closed before its temporary name is removed, which the order of the fields ensures. NFS keeps a
/// file that is removed while it is open, under a name that it makes up, and after a crash it keeps it for
/// ever.
pub(super) struct DirectoryDraft<'p> {
    here: Here,
    progress: &'p Progress,
    final_name: FinalName,
    sink: Sink,
    /// `None` for a file without a name.
    temporary: Option<Named>,
}

/// A file whose bytes, attributes and mode are complete, and flushed where that was asked for.
struct DirectorySealed {
    here: Here,
    final_name: FinalName,
    file: File,
    temporary: Option<Named>,
    seal: Seal,
    stored_bytes: u64,
    carries_attributes: bool,
}

/// A temporary name, which goes when this is dropped.
struct Named {
    here: Here,
    name: TemporaryName,
    /// The name was renamed away: there is nothing to remove.
    gone: bool,
}

impl Drop for Named {
    fn drop(&mut self) {
        if !self.gone {
            // A file that cannot be removed now is removed when an archiver next starts here; in a directory
            // that only takes names in (`chattr +a`), never.
            let removed = self.here.dir.unlink(&self.name);
            if let Err(e) = removed.as_ref()
                && e.raw_os_error() == Some(libc::EPERM)
            {
                self.here.ways.limits.note(Limit::Removal { refused: number(e) });
            }
        }
    }
}

impl<'p> DirectoryDraft<'p> {
    /// Creates an empty file: without a name if the file system has such files, otherwise under a temporary
    /// name.
    pub(super) fn create(
        here: &Here,
        progress: &'p Progress,
        final_name: FinalName,
    ) -> Result<Self, Error> {
        if here.staging() == Staging::Unnamed {
            match here.dir.create_unnamed() {
                Ok(file) => {
                    own(here, &final_name, &file)?;
                    let (here, sink) = (here.clone(), Sink::new(file));
                    return Ok(Self { here, progress, final_name, sink, temporary: None });
                }
                Err(e) if lacks_unnamed_files(&e) => {
                    let draft = Self::create_named(here, progress, final_name)?;
                    here.remember(Staging::Named);
                    return Ok(draft);
                }
                Err(e) => return Err(failed(here, &final_name, Action::CreateTemporary, e)),
            }
        }
        Self::create_named(here, progress, final_name)
    }

    fn create_named(
        here: &Here,
        progress: &'p Progress,
        final_name: FinalName,
    ) -> Result<Self, Error> {
        let name = here.owner().temporary_name(&final_name.stem());
        let file = here
            .dir
            .create_named(&name)
            .map_err(|e| failed(here, &final_name, Action::CreateTemporary, e))?;
        let temporary = Some(Named { here: here.clone(), name, gone: false });
        own(here, &final_name, &file)?;
        let (here, sink) = (here.clone(), Sink::new(file));
        Ok(Self { here, progress, final_name, sink, temporary })
    }

    fn failed(&self, action: Action, source: io::Error) -> Error {
        failed(&self.here, &self.final_name, action, source)
    }

    /// Attributes come before the mode: a file of mode 0400 takes none from its owner.
    fn sealed(self, seal: &Seal) -> Result<DirectorySealed, Error> {
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
            let refused = sys::offer_attribute(file, attribute, &value)
                .map_err(|e| self.failed(Action::SealCopy, e))?;
            if let Some(refused) = refused {
                let refused = number(&refused);
                self.here.ways.limits.note(Limit::Attributes { refused });
                carries_attributes = false;
                break;
            }
        }
        mode::ask(file, seal.mode).map_err(|e| self.failed(Action::SealCopy, e))?;
        if seal.flush {
            sys::flush(file).map_err(|e| self.failed(Action::FlushCopy, e))?;
            // Without direct I/O, the copy went through the page cache, which belongs to the database.
            sys::drop_cached(file, 0, 0);
        } else if self.temporary.is_some() {
            // NFS and FUSE, which have no files without names, may tell of a refused write only there.
            sys::close_second(file).map_err(|e| self.failed(Action::WriteCopy, e))?;
        }
        self.progress.tick();
        let entry = sys::entry(file).map_err(|e| self.failed(Action::SealCopy, e))?;
        if let Some(given) = mode::other(entry.mode, seal.mode) {
            self.here.ways.limits.note(Limit::Mode { asked: seal.mode, given });
        }
        let stored_bytes = entry.allocated;
        let Self { here, progress, final_name, sink, temporary } = self;
        let file = sink.into_file();
        let seal = *seal;
        let sealed = DirectorySealed {
            here,
            final_name,
            file,
            temporary,
            seal,
            stored_bytes,
            carries_attributes,
        };
        if seal.verify {
            sealed.read_back(progress, &mut |_| Ok(()))?;
        }
        Ok(sealed)
    }
}

impl Draft for DirectoryDraft<'_> {
    fn put_all(&mut self, chunks: &[&[u8]]) -> Result<(), Error> {
        self.sink.put_all(chunks).map_err(|e| self.failed(Action::WriteCopy, e))?;
        self.progress.tick();
        Ok(())
    }

    fn seal(self: Box<Self>, seal: &Seal) -> Result<Box<dyn Sealed>, Error> {
        Ok(Box::new(self.sealed(seal)?))
    }
}

impl Sealed for DirectorySealed {
    fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    fn carries_attributes(&self) -> bool {
        self.carries_attributes
    }

    fn publish(mut self: Box<Self>, progress: &Progress) -> Result<Publication, Error> {
        if let Some(temporary) = self.temporary.take() {
            return self.publish_named(temporary);
        }
        let here = &self.here;
        match here.dir.link_unnamed(&self.file, &self.final_name.to_string()) {
            Ok(()) => {
                // Where the flush before the name was passed over. Should it fail now, guarantee G8 holds for the
                // published file.
                if self.seal.flush && !sys::keeps_flush_of_unnamed(&self.file) {
                    sys::flush(&self.file)
                        .map_err(|e| failed(here, &self.final_name, Action::FlushCopy, e))?;
                    progress.tick();
                }
                Ok(Publication::Published)
            }
            Err(e) if exists(&e) => Ok(Publication::NameTaken),
            // ENOENT: there is no /proc here. Or the directory is gone; creating a name then says so.
            Err(e) if cannot_link(&e) || e.raw_os_error() == Some(libc::ENOENT) => {
                // Before the second copy, which stands beside the first: where there is no room for
                // both, the next try needs only one.
                here.remember(Staging::Named);
                Box::new(self.with_a_name(progress)?).publish(progress)
            }
            Err(e) => Err(failed(here, &self.final_name, Action::Publish, e)),
        }
    }
}

impl DirectorySealed {
    /// Publishes a file that has a temporary name: in the way that worked last, and where that is
    /// refused, in the other one. Another file system may have come to the path.
    fn publish_named(self, mut temporary: Named) -> Result<Publication, Error> {
        // Closed on the way out, before the temporary name is removed: parameters are dropped last.
        let sealed = self;
        let here = &sealed.here;
        let mut by = |rename: bool| {
            if rename { sealed.rename(&mut temporary) } else { sealed.link(&temporary) }
        };
        let rename = here.staging() == Staging::Renamed;
        let mut published = by(rename);
        if published.as_ref().is_err_and(cannot_link) {
            published = by(!rename);
        }
        published.map_err(|source| {
            if cannot_link(&source) {
                Error::NoReplaceUnsupported { path: here.dir.path().to_owned(), source }
            } else {
                failed(here, &sealed.final_name, Action::Publish, source)
            }
        })
    }

    /// Links the temporary name to the final one.
    fn link(&self, temporary: &Named) -> io::Result<Publication> {
        let (dir, final_name) = (&self.here.dir, self.final_name.to_string());
        match dir.link(&temporary.name, &final_name) {
            Ok(()) => {
                self.here.remember_links();
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
    fn rename(&self, temporary: &mut Named) -> io::Result<Publication> {
        match self.here.dir.rename_noreplace(&temporary.name, &self.final_name.to_string()) {
            Ok(()) => {
                temporary.gone = true;
                self.here.remember(Staging::Renamed);
                Ok(Publication::Published)
            }
            Err(e) if exists(&e) => Ok(Publication::NameTaken),
            Err(e) => Err(e),
        }
    }

    /// Makes the same file once more, under a temporary name, from what storage has of this one.
    fn with_a_name(&self, progress: &Progress) -> Result<Self, Error> {
        let name = self.final_name.clone();
        let mut draft = DirectoryDraft::create_named(&self.here, progress, name)?;
        self.read_back(progress, &mut |chunk| draft.put(chunk))?;
        draft.sealed(&self.seal)
    }

    /// Reads the file back from storage, past the page cache, and compares its digest with what was
    /// written, where that is known.
    fn read_back(
        &self,
        progress: &Progress,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let fail = |e| failed(&self.here, &self.final_name, Action::ReadBack, e);
        let mut stream = PastCache::new(self.file.try_clone().map_err(fail)?);
        let path = self.here.path_of(&self.final_name);
        let reserved = Buffer::new().map_err(|e| Error::io(Action::ReserveMemory, &path, e));
        let (mut buffer, mut hasher) = (reserved?, Hasher::default());
        loop {
            let len = read_full(&mut stream, buffer.bytes_mut()).map_err(fail)?;
            hasher.update(buffer.filled(len));
            each(buffer.filled(len))?;
            progress.tick();
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

/// Gives a new file to whom the store's files belong.
fn own(here: &Here, name: &FinalName, file: &File) -> Result<(), Error> {
    let Some((user, group)) = here.ways.belonging_to else { return Ok(()) };
    let there = file.metadata().map_err(|e| failed(here, name, Action::CreateTemporary, e))?;
    if (there.uid(), there.gid()) == (user, group) {
        return Ok(());
    }
    sys::set_owner(file, user, group).map_err(|e| failed(here, name, Action::OwnIdentity, e))
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
fn failed(here: &Here, name: &FinalName, action: Action, source: io::Error) -> Error {
    let space = here.dir.space_for(&source);
    Error::Io { action, path: here.path_of(name), space, access: None, source }
}
