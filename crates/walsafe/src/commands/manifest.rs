//! `walsafe manifest`: digests of the stored files, for `b3sum --check`.

use walsafe_core::prove::manifest::{self, Origin};
use walsafe_core::prove::verify::VerifyError;
use walsafe_core::store::listing::{self, Listing, Stranger, Walk};
use walsafe_core::store::{FinalName, location};

use super::{DONE, FAILED, FOUND, complaint, failed, print_json, unverified};
use crate::arguments::Manifest;
use crate::terminal::{self, Output};
use crate::watchdog::Signs;

/// Runs the command and returns its exit status.
pub(super) fn run(arguments: &Manifest, signs: &Signs) -> u8 {
    let store = match location::open(&arguments.archive, &arguments.common.access(None)) {
        Ok(store) => store,
        Err(e) => return failed(&e),
    };
    let visit = match store.visit(&signs.steps) {
        Ok(visit) => visit,
        Err(e) => return failed(&e),
    };
    let mut archived = Vec::new();
    let read = Listing::read(&*visit, &mut |name, what| {
        if what == Stranger::Unknown {
            archived.extend(listing::archived(&*visit, name));
        }
    });
    let listing = match read {
        Ok(listing) => listing,
        Err(e) => return failed(&e),
    };
    if listing.is_empty() && archived.is_empty() {
        return terminal::fail(&unverified(&VerifyError::Nothing {
            path: visit.location().to_owned(),
        }));
    }
    archived.sort();
    let marked = listing.marked.then_some(FinalName::Identity);
    let files = Walk::all(&*visit).chain(archived.into_iter().map(Ok));
    let names = files.map(|file| file.map(FinalName::from)).chain(marked.map(Ok));
    let (mut output, mut entries, mut unreadable) = (Output::new(), Vec::new(), Vec::new());
    for name in names {
        let name = match name {
            Ok(name) => name,
            Err(e) => return failed(&e),
        };
        match manifest::stored_digest(&*visit, &name, arguments.read) {
            Ok(None) => {}
            Ok(Some((digest, origin))) if arguments.common.json => {
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
                let complaint = complaint(&e);
                terminal::remark(&format!("{complaint} It is not in the manifest."));
                unreadable.push(serde_json::json!({
                    "file": name.to_string(), "reason": complaint.to_string(),
                }));
            }
        }
    }
    let complete = unreadable.is_empty();
    let written = signs.elsewhere(|| {
        let mut written = output.finish();
        if arguments.common.json {
            written &= print_json(&serde_json::json!({
                "archive": visit.location().display().to_string(), "files": entries, "unreadable": unreadable,
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
