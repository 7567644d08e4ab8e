//! Writing the restored file: under a temporary name beside its target, then renamed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::RestoreError;
use crate::prove::examine::Examined;
use crate::server::permission;
use crate::store::directory::temporary::{self, Owner, TemporaryName};
use crate::sys::{self, Dir};
use crate::wal::name::FileName;

/// A file on its way to its target; dropping it discards it.
pub(super) struct Delivery {
    dir: Dir,
    target: PathBuf,
    target_name: String,
    temporary: TemporaryName,
    file: File,
    written: u64,
    done: bool,
}

/// A delivery whose bytes are complete, and what reading them has shown.
pub(super) struct Copied {
    pub(super) examined: Examined,
    pub(super) delivery: Delivery,
}

/// Writes the next bytes of a file.
type Write<'w> = dyn FnMut(&[u8]) -> io::Result<()> + Send + 'w;

impl Delivery {
    /// Removes what earlier calls that were killed left in the target's directory.
    pub(super) fn sweep(target: &Path, owner: &Owner) -> Result<(), RestoreError> {
        let parent = parent(target);
        let dir = Dir::open(parent).map_err(|e| failed(parent, None, e))?;
        // A leftover that cannot be removed does no harm to this file.
        let _ = temporary::remove_stray(&dir, owner);
        Ok(())
    }

    /// Creates an empty file under a temporary name in the target's directory, with the mode that the
    /// server gives its own files. Outside a data directory, where somebody restores a file by hand, it is
    /// 0600.
    pub(super) fn begin(
        target: &Path,
        name: &FileName,
        owner: &Owner,
        data_directory: &Path,
    ) -> Result<Self, RestoreError> {
        let no_name = || RestoreError::BadTarget { path: target.to_owned() };
        let target_name = target.file_name().and_then(|name| name.to_str()).ok_or_else(no_name)?;
        let parent = parent(target);
        let dir = Dir::open(parent).map_err(|e| failed(parent, None, e))?;
        let temporary = owner.temporary_name(name.as_str());
        let file = dir.create_named(&temporary).map_err(|e| failed(parent, None, e))?;
        let delivery = Self {
            dir,
            target: target.to_owned(),
            target_name: target_name.to_owned(),
            temporary,
            file,
            written: 0,
            done: false,
        };
        // The mode 0750 of some other directory, such as a home, says nothing about WAL.
        if data_directory.join("PG_VERSION").exists() {
            permission::share(&delivery.file, data_directory)
                .map_err(|e| failed(parent, None, e))?;
        }
        Ok(delivery)
    }

    /// Writes every byte that `read` hands over, zeros too: the server may recycle the file, so it
    /// must not have holes. Plain writes share no extents with the archive.
    pub(super) fn copy(
        mut self,
        read: impl FnOnce(&mut Write<'_>) -> io::Result<Examined>,
    ) -> Result<Copied, RestoreError> {
        let examined = read(&mut |chunk| {
            sys::write_all_at(&self.file, chunk, self.written)?;
            // The server flushes the file before it reads it (`durable_rename` in
            // `KeepFileRestoredFromArchive`, `access/transam/xlogarchive.c`). Storage writes meanwhile.
            sys::begin_write_out(&self.file, self.written, chunk.len() as u64);
            self.written += chunk.len() as u64;
            Ok(())
        });
        match examined {
            Ok(examined) => Ok(Copied { examined, delivery: self }),
            Err(e) => Err(failed(&self.target, Some(&self.dir), e)),
        }
    }

    /// Puts the file in its place, unless a write was refused at last: the server's own flush comes through
    /// another descriptor, and would not hear of it.
    pub(super) fn finish(mut self) -> Result<(), RestoreError> {
        sys::close_second(&self.file)
            .and_then(|()| self.dir.replace(&self.temporary, &self.target_name))
            .map_err(|e| failed(&self.target, Some(&self.dir), e))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.done {
            // If it cannot be removed now, the next call removes it.
            let _ = self.dir.unlink(&self.temporary);
        }
    }
}

/// Returns the directory of a target; for a mere name, the working directory.
pub(super) fn parent(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn failed(path: &Path, dir: Option<&Dir>, source: io::Error) -> RestoreError {
    let space = dir.and_then(|dir| dir.space_for(&source));
    RestoreError::Deliver { path: path.to_owned(), space, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// One process may deliver two files into a directory.
    #[test]
    fn a_file_on_its_way_survives_the_sweep_before_another() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("RECOVERYXLOG");
        let name = FileName::new("000000010000000000000003").unwrap();
        let owner = Owner::this_process();
        let delivery = Delivery::begin(&target, &name, &owner, temp.path()).unwrap();
        Delivery::sweep(&target, &owner).unwrap();
        delivery.finish().unwrap();
        assert!(target.exists());
    }

    /// It was always 0600, and a backup of the data directory by its group stopped at the file.
    #[test]
    fn a_file_can_be_read_by_whoever_can_read_the_data_directory() {
        let name = FileName::new("000000010000000000000003").unwrap();
        let owner = Owner::this_process();
        for (directory, is_data, expected) in
            [(0o700, true, 0o600), (0o750, true, 0o640), (0o750, false, 0o600)]
        {
            let temp = tempfile::tempdir().unwrap();
            if is_data {
                std::fs::write(temp.path().join("PG_VERSION"), "15\n").unwrap();
            }
            std::fs::set_permissions(temp.path(), Permissions::from_mode(directory)).unwrap();
            let target = temp.path().join("RECOVERYXLOG");
            let delivery = Delivery::begin(&target, &name, &owner, temp.path()).unwrap();
            delivery.finish().unwrap();
            let mode = target.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, expected, "{directory:o}");
        }
    }

    /// NFS and FUSE tell at `close` that a write was refused; the server, which opens the file anew, heard of
    /// nothing.
    #[cfg(feature = "fault-injection")]
    #[test]
    fn a_write_that_is_refused_at_close_delivers_nothing() {
        use crate::sys::fault::{Effect, Fault, Op, Plan};

        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("RECOVERYXLOG");
        let name = FileName::new("000000010000000000000003").unwrap();
        let delivery =
            Delivery::begin(&target, &name, &Owner::this_process(), temp.path()).unwrap();
        let effect = Effect::Fail(libc::ENOSPC);
        let plan = Plan::new(vec![Fault { op: Op::Close, skip: 0, times: 1, effect }]);
        let error = delivery.finish().unwrap_err();
        drop(plan);
        assert!(matches!(error, RestoreError::Deliver { .. }), "{error:?}");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
