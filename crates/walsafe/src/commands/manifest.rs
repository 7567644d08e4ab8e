//! `walsafe manifest`: digests of the stored files, for `b3sum --check`.

use walsafe_core::prove::manifest::{self, Origin};
use walsafe_core::store::directory::Directory;
use walsafe_core::store::listing::Listing;
use walsafe_core::store::{FinalName, Store};

use super::{DONE, FAILED, FOUND, print_json, sentence};
use crate::arguments::Manifest;
use crate::terminal::{self, Output};
use crate::watchdog::Signs;

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Manifest, signs: &Signs) -> u8 {
    let path = &arguments.archive;
    let store = Directory::at(path);
    let listed = store
        .visit(&signs.steps)
        .and_then(|visit| Listing::read(&*visit).map(|listing| (visit, listing)));
    let (visit, mut listing) = match listed {
        Ok(listed) => listed,
        Err(e) => {
            terminal::complain(&sentence(&e));
            return FAILED;
        }
    };
    listing.claim_archived(&*visit);
    let marked = listing.marked.then_some(FinalName::Identity);
    let names = listing.files.into_iter().map(FinalName::from).chain(marked);
    let (mut output, mut entries, mut complete) = (Output::new(), Vec::new(), true);
    for name in names {
        match manifest::stored_digest(&*visit, &name, arguments.read) {
            Ok(None) => {}
            Ok(Some((digest, origin))) if arguments.json => {
                let attribute = origin == Origin::Attribute;
                let source = if attribute { "attribute" } else { "read" };
                entries.push(serde_json::json!({
                    "file": name.to_string(), "blake3": digest.to_string(), "source": source,
                }));
            }
            Ok(Some((digest, _))) => {
                if !signs.elsewhere(|| output.line(format_args!("{digest}  {name}"))) {
                    break;
                }
            }
            Err(e) => {
                terminal::complain(&format!("{} It is not in the manifest.", sentence(&e)));
                complete = false;
            }
        }
    }
    let written = signs.elsewhere(|| {
        let mut written = output.finish();
        if arguments.json {
            written &= print_json(&serde_json::json!({
                "archive": path.display().to_string(), "files": entries,
            }));
        }
        written
    });
    match (written, complete) {
        (false, _) => FAILED,
        (true, true) => DONE,
        (true, false) => FOUND,
    }
}
