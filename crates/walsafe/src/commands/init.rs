//! `walsafe init`: marks a directory, or a place in a bucket, as the archive of a cluster.

use std::os::unix::fs::MetadataExt;

use walsafe_core::error::{Action, Error};
use walsafe_core::server::control::ControlFile;
use walsafe_core::store::admission;
use walsafe_core::store::directory::Directory;
use walsafe_core::store::identity::Identity;
use walsafe_core::store::location;
use walsafe_core::wal::SegmentSize;
use walsafe_core::wal::segment::Cluster;

use super::{DONE, FAILED, failed};
use crate::arguments::Init;
use crate::terminal::Output;
use crate::watchdog::Signs;

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Init, signs: &Signs) -> u8 {
    let control = match ControlFile::read(&arguments.pgdata) {
        Ok(control) => control,
        Err(e) => return failed(&e),
    };
    let cluster = Cluster {
        system_identifier: control.system_identifier,
        // Unknown for a newer server version; the identity does not depend on it.
        segment_size: control.segment_size.unwrap_or(SegmentSize::DEFAULT),
    };
    let created = match mark(arguments, &cluster, signs) {
        Ok(created) => created,
        Err(e) => return failed(&e),
    };
    signs.elsewhere(|| print(arguments, &cluster, created))
}

fn print(arguments: &Init, cluster: &Cluster, created: bool) -> u8 {
    let named = location::shown(&arguments.destination);
    let (mut output, destination) = (Output::new(), named.display());
    let identifier = cluster.system_identifier;
    if arguments.common.json {
        output.line(serde_json::json!({
            "destination": destination.to_string(),
            // A number of 64 bits does not survive most readers of JSON.
            "system_identifier": identifier.to_string(),
            "created": created,
        }));
    } else if created {
        output.line(format_args!(
            "\"{destination}\" is now the archive of cluster {identifier} (from \"{}\")",
            arguments.pgdata.join(walsafe_core::server::control::PATH).display()
        ));
    } else {
        output
            .line(format_args!("\"{destination}\" is already the archive of cluster {identifier}"));
    }
    if output.finish() { DONE } else { FAILED }
}

/// Writes the identity file, if it is not there yet. In a directory it belongs to the data directory's owner before anybody
/// sees it: if root runs the command, the server could not read the file otherwise.
fn mark(arguments: &Init, cluster: &Cluster, signs: &Signs) -> Result<bool, Error> {
    let mode = arguments.file_mode.bits();
    if location::is_url(&arguments.destination) {
        let access = arguments.common.access(Some(&arguments.pgdata));
        let store = location::open(&arguments.destination, &access)?;
        let visit = store.visit(&signs.steps)?;
        return admission::init(&*visit, cluster, mode);
    }
    let data = std::fs::metadata(&arguments.pgdata)
        .map_err(|e| Error::io(Action::LookUpData, &arguments.pgdata, e))?;
    let (user, group) = (data.uid(), data.gid());
    // Which policy holds is the server's to say: it flushes the identity once more at its first file.
    let store =
        Directory::at(&arguments.destination).belonging_to(user, group).without_directory_flush();
    let visit = store.open(&signs.steps)?;
    let created = admission::init(&visit, cluster, mode)?;
    if !created {
        Identity::give_to(&visit, user, group)?;
    }
    Ok(created)
}
