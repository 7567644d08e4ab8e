//! The server's user and its groups, by what the system's files say.
//!
//! Read from files and not asked of the C library: what it loads for that does not belong into the server.
//! Users and groups of a directory service are numbers then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::postmaster;

/// Returns the user that runs the server with this data directory; `None` if that is not known.
#[must_use]
pub fn of_server(data_directory: Option<&Path>) -> Option<u32> {
    // The server refuses to start with a data directory of somebody else's. Who is not its user may at least
    // look the directory up.
    let owner = |path: &Path| fs::metadata(path).map(|there| there.uid()).ok();
    let data = data_directory?;
    owner(&data.join("PG_VERSION")).or_else(|| owner(data))
}

/// Names a user: by name where `/etc/passwd` has it, by number otherwise.
#[must_use]
pub fn name_of_user(user: u32) -> String {
    name_in(&read("/etc/passwd"), user)
}

/// Names a group: by name where `/etc/group` has it, by number otherwise.
#[must_use]
pub fn name_of_group(group: u32) -> String {
    name_in(&read("/etc/group"), group)
}

/// Returns whether a group is one of the server's; `None` if that cannot be found out.
///
/// A running server is asked first: it may have been given groups that no file names (Kubernetes' `fsGroup`).
/// Otherwise this process counts, if it is the server's user.
#[must_use]
pub fn is_group_of_server(group: u32, server: Option<u32>, data: Option<&Path>) -> Option<bool> {
    let running = data.and_then(|data| {
        let pid = u32::try_from(postmaster::number(data)?).ok()?;
        groups_in(&read(&format!("/proc/{pid}/status")), server?)
    });
    let own = || groups_in(&read("/proc/self/status"), server?);
    running.or_else(own).map(|groups| groups.contains(&group))
}

fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The name of a number in a file like `/etc/passwd`.
fn name_in(file: &str, number: u32) -> String {
    let named = file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| number.to_string())
}

/// The groups in a `/proc/.../status`, if the process is of that user.
fn groups_in(status: &str, user: u32) -> Option<Vec<u32>> {
    let numbers = |key: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().map(|number| number.parse().ok()).collect()
    };
    // Real, effective, saved and file system's.
    if numbers("Uid:")?.get(1) != Some(&user) {
        return None;
    }
    let mut groups = numbers("Groups:")?;
    groups.extend(numbers("Gid:")?);
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_without_a_name_are_numbers() {
        let file = "root:x:0:0:root:/root:/bin/sh\npostgres:x:26:26::/var/lib/pgsql:/bin/sh\n";
        assert_eq!(name_in(file, 26), "postgres");
        assert_eq!(name_in(file, 27), "27");
        assert_eq!(name_in("", 0), "0");
    }

    #[test]
    fn groups_are_those_of_a_process_of_the_server() {
        let status =
            "Name:\tpostgres\nUid:\t26\t26\t26\t26\nGid:\t26\t26\t26\t26\nGroups:\t26 2000 \n";
        assert_eq!(groups_in(status, 26), Some(vec![26, 2000, 26, 26, 26, 26]));
        assert_eq!(groups_in(status, 27), None);
        assert_eq!(groups_in("", 26), None);
    }
}
