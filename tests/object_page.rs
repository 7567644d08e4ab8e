//! docs/object-storage.md: what it shows can be used as it stands there.

use std::path::Path;

use walsafe_core::store::location::{self, Access};

use crate::support::document::Document;

/// A URL in the documentation that the module would refuse costs its reader an evening.
#[test]
fn the_urls_of_the_page_are_accepted() {
    let page = Document::new("object-storage.md");
    for block in ["object-aws", "object-r2", "object-ceph"] {
        let text = page.block(block);
        let destinations: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("walsafe_archive.destination = '"))
            .filter_map(|rest| rest.strip_suffix('\''))
            .collect();
        let [url] = destinations[..] else { panic!("{block}: {text}") };
        let opened = location::open(Path::new(url), &Access::default());
        assert!(opened.is_ok(), "{block}: {:?}", opened.err());
        let restore = text.lines().find(|line| line.starts_with("restore_command"));
        assert!(restore.is_none_or(|line| line.contains(&format!("--from \"{url}\""))), "{text}");
    }
}
