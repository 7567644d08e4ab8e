//! Who may read the files that we create in a data directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::sys;

/// `PG_DIR_MODE_GROUP` in `common/file_perm.h`: the group may read a data directory of this mode, for backups
/// say, and all files in it (`initdb --allow-group-access`).
const GROUP_ACCESS: u32 = 0o750;
/// `PG_FILE_MODE_GROUP` there.
const SHARED_FILE: u32 = 0o640;

/// Gives a file in a data directory, which was created with mode 0600, the mode that the server gives its
/// own: 0640 where the data directory has group access. Follows `GetDataDirectoryCreatePerm` of
/// `common/file_perm.c`, whatever the umask.
///
/// # Errors
/// The data directory could not be looked up, or the mode could not be set.
pub fn share(file: &File, data_directory: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(data_directory)?.permissions().mode();
    if mode & GROUP_ACCESS == GROUP_ACCESS { sys::set_mode(file, SHARED_FILE) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::Permissions;

    use super::*;

    #[test]
    fn a_file_is_shared_where_the_data_directory_is() {
        let temp = tempfile::tempdir().unwrap();
        for (directory, expected) in
            [(0o700, 0o600), (0o710, 0o600), (0o740, 0o600), (0o750, 0o640)]
        {
            std::fs::set_permissions(temp.path(), Permissions::from_mode(directory)).unwrap();
            let file = tempfile::tempfile_in(temp.path()).unwrap();
            file.set_permissions(Permissions::from_mode(0o600)).unwrap();
            share(&file, temp.path()).unwrap();
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, expected, "{directory:o}");
        }
    }

    #[test]
    fn a_data_directory_that_is_not_there_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile_in(temp.path()).unwrap();
        assert!(share(&file, &temp.path().join("gone")).is_err());
    }
}
