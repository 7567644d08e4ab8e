//! The rooms of the core use each other in one direction, and so do the files in them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rooms from the ground up. Each may use those in the lines above its own.
const ORDER: [&[&str]; 9] = [
    &["words"],
    &["sys"],
    &["encoding"],
    &["wal"],
    &["error"],
    &["server"],
    &["store"],
    &["archive", "prove"],
    &["restore", "transfer"],
];

/// What each module uses of the others, by their paths in the crate.
type Arrows = BTreeMap<String, BTreeSet<String>>;

fn floor(module: &str) -> usize {
    let room = module.split("::").next().unwrap();
    ORDER.iter().position(|rooms| rooms.contains(&room)).unwrap_or_else(|| panic!("{room}?"))
}

/// Reads the text of every module, without what its tests use.
fn modules(dir: &Path, path: &str, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap().path();
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        let here = if path.is_empty() { name.clone() } else { format!("{path}::{name}") };
        if entry.is_dir() {
            modules(&entry, &here, into);
        } else if name != "lib" && !name.ends_with("tests") && name != "conformance" {
            let module = if name == "mod" { path.to_owned() } else { here };
            let text = fs::read_to_string(&entry).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines: Vec<_> = code.lines().map(|line| line.split("//").next().unwrap()).collect();
            into.insert(module, lines.join("\n"));
        }
    }
}

/// Returns the paths that a text names behind `prefix`, groups in braces taken apart.
fn paths<'t>(text: &'t str, prefix: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut paths = Vec::new();
    for (at, _) in text.match_indices(prefix) {
        let rest: &'t str = &text[at + prefix.len()..];
        let path = rest.split(|c| !is_path(c)).next().unwrap();
        let behind = &rest[path.len()..];
        match behind.strip_prefix('{').and_then(|group| group.split('}').next()) {
            Some(group) => {
                paths.extend(group.split(',').map(|name| format!("{path}{}", name.trim())))
            }
            None => paths.push(path.to_owned()),
        }
    }
    paths
}

fn arrows() -> Arrows {
    let mut modules_read = BTreeMap::new();
    modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut modules_read);
    let module_of = |path: &str| {
        let mut parts: Vec<&str> = path.split("::").collect();
        while !parts.is_empty() && !modules_read.contains_key(&parts.join("::")) {
            parts.pop();
        }
        parts.join("::")
    };
    let mut arrows = Arrows::new();
    for (module, text) in &modules_read {
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let mut named = paths(text, "crate::");
        named.extend(paths(text, "super::").into_iter().map(|path| format!("{parent}::{path}")));
        named.extend(paths(text, "self::").into_iter().map(|path| format!("{module}::{path}")));
        let used = named.iter().map(|path| module_of(path));
        let used = used.filter(|used| !used.is_empty() && used != module).collect();
        arrows.insert(module.clone(), used);
    }
    assert!(arrows.len() > 60, "the sources were not found: {arrows:?}");
    arrows
}

#[test]
fn no_room_uses_one_above_it_or_beside_it() {
    let mut wrong = Vec::new();
    for (module, used) in arrows() {
        for other in used {
            let room = |module: &str| module.split("::").next().unwrap().to_owned();
            if room(&module) != room(&other) && floor(&other) >= floor(&module) {
                wrong.push(format!("{module} uses {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A module and what lies inside it are one: each may name the other.
#[test]
fn no_modules_use_each_other_in_a_circle() {
    let arrows = arrows();
    let inside = |a: &str, b: &str| a.starts_with(&format!("{b}::"));
    let mut left: BTreeMap<&str, BTreeSet<&str>> = arrows
        .iter()
        .map(|(module, used)| {
            let apart =
                used.iter().filter(|other| !inside(module, other) && !inside(other, module));
            (module.as_str(), apart.map(String::as_str).collect())
        })
        .collect();
    // What uses nothing of the rest is in no circle.
    loop {
        let free: Vec<&str> =
            left.iter().filter(|(_, used)| used.is_empty()).map(|(module, _)| *module).collect();
        if free.is_empty() {
            break;
        }
        for module in free {
            left.remove(module);
            for used in left.values_mut() {
                used.remove(module);
            }
        }
    }
    assert!(left.is_empty(), "these use each other, or what does: {left:#?}");
}
