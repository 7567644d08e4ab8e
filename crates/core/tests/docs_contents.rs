//! The contents list of each long page of docs/ is the page's headings, and every link of the documentation
//! leads to a file and a heading that are there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A page with more lines than this has a contents list before its first section.
const LONG: usize = 150;
/// This page begins with a table of what an administrator sees, which leads to every section.
const BY_SYMPTOM: &str = "docs/emergencies.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pages of docs/ and those beside README.md, by their path from the root.
fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    for dir in ["", "docs/"] {
        for entry in fs::read_dir(root().join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                let path = format!("{dir}{name}");
                let text = fs::read_to_string(root().join(&path)).unwrap();
                assert!(pages.insert(path, text).is_none());
            }
        }
    }
    assert!(pages.len() > 15, "{:?}", pages.keys());
    pages
}

/// The lines of a page that are not between fences.
fn prose(page: &str) -> Vec<&str> {
    let mut fenced = false;
    let outside = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    };
    page.lines().filter(outside).collect()
}

/// How deep a heading is, and its text.
fn heading(line: &str) -> Option<(usize, &str)> {
    let text = line.trim_start_matches('#');
    let depth = line.len() - text.len();
    (depth > 0).then_some(()).and_then(|()| text.strip_prefix(' ')).map(|text| (depth, text.trim()))
}

/// The anchor that GitHub gives to a heading, the first of its text on a page.
fn anchor(heading: &str) -> String {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        _ => (c.is_alphanumeric() || "-_".contains(c)).then(|| c.to_ascii_lowercase()),
    };
    heading.chars().filter_map(kept).collect()
}

/// The anchors of a page.
fn anchors(page: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, text) in prose(page).into_iter().filter_map(heading) {
        let anchor = anchor(text);
        let same = anchors.iter().filter(|there| **there == anchor).count();
        anchors.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
    }
    anchors
}

/// The list that the page should have.
fn contents(page: &str) -> Vec<String> {
    let sections = prose(page).into_iter().filter_map(heading);
    let item = |(depth, text): (usize, &str)| match depth {
        2 => Some(format!("- [{text}](#{})", anchor(text))),
        3 => Some(format!("  - [{text}](#{})", anchor(text))),
        _ => None,
    };
    sections.filter_map(item).collect()
}

/// On a page without a list, or with one that lacks a section, nobody finds the section in a hurry.
#[test]
fn a_long_page_begins_with_a_list_of_its_sections() {
    let mut lists = 0;
    for (path, page) in pages() {
        let before = prose(&page).into_iter().take_while(|line| !line.starts_with("## "));
        let is_item = |line: &&str| line.trim_start().starts_with("- [") && line.contains("](#");
        let before: Vec<&str> = before.collect();
        if path == BY_SYMPTOM {
            for (_, text) in prose(&page).into_iter().filter_map(heading).filter(|h| h.0 == 2) {
                let link = format!("](#{})", anchor(text));
                assert!(before.iter().any(|line| line.contains(&link)), "{path}: {text}");
            }
            continue;
        }
        let list: Vec<&str> = before.into_iter().filter(is_item).collect();
        let long = path.starts_with("docs/") && page.lines().count() > LONG;
        if list.is_empty() && !long {
            continue;
        }
        lists += 1;
        let expected = contents(&page);
        assert!(list == expected, "{path} should list:\n{}", expected.join("\n"));
    }
    assert!(lists > 8, "{lists}");
}

/// A heading was renamed, and the links to it led to the top of the page.
#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let pages = pages();
    let mut count = 0;
    for (path, page) in &pages {
        let here = Path::new(path).parent().unwrap();
        let text = prose(page).join("\n");
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            count += 1;
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let mut target = if file.is_empty() { path.clone() } else { String::new() };
            if target.is_empty() {
                let joined = here.join(file);
                let shorter = joined.strip_prefix("docs/..").unwrap_or(&joined);
                target = shorter.to_str().unwrap().to_owned();
            }
            assert!(root().join(&target).exists(), "{path}: {link} leads to no file");
            if !section.is_empty() {
                let there = pages.get(&target).unwrap_or_else(|| panic!("{path}: {link}"));
                assert!(
                    anchors(there).iter().any(|anchor| anchor == section),
                    "{path}: {link} leads to no heading of {target}"
                );
            }
        }
    }
    assert!(count > 200, "{count}");
}
