//! The cluster tests, in one program: it is linked once, and tests of different files run side by side.
//!
//! `tools/run-tests` builds what they need, chooses what runs on which version of the server
//! (`tests/each-version`), and runs the modules `alone` after all others, one test at a time: those that
//! measure, or take what others need, such as the memory that the machine's caches lie in. The modules `full`
//! are for a run with the full dose.

mod administration;
mod archiving;
mod clones;
mod conflicts;
mod copying;
mod evidence;
mod failover;
mod harness_works;
mod hung_restores;
mod hung_storage;
mod identity;
mod kills;
mod lineage;
mod messages;
mod monitoring;
mod mount_modes;
mod mounts;
mod moving_over;
mod object_ahead;
mod object_ahead_adopted;
mod object_ahead_histories;
mod object_ahead_spool;
mod object_archive;
mod object_check;
mod object_copy;
mod object_faults;
mod object_harm;
mod object_page;
mod object_servers;
mod odd_storage;
mod one_history;
mod operations;
mod pg_test;
mod point_in_time;
mod power_cuts;
mod promotion;
mod proof;
mod races;
mod receivewal;
mod recovery;
mod repeated;
mod restore;
mod scale;
mod settings;
mod several_destinations;
mod soak;
mod sql;
mod storage_faults;
mod support;
mod throughput;
mod two_archives;
mod two_destinations_faults;
mod upgrades;
mod verify;
mod verify_setting;
mod wal_truth;

use std::fs;
use std::path::Path;

use harness::scratch::names;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files in a directory, without their extension.
fn modules(dir: &Path) -> Vec<String> {
    names(dir).iter().filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned())).collect()
}

/// Without its `mod` line, a new file's tests never run, and nobody notices.
#[test]
fn each_file_is_part_of_this_program() {
    let mut looked_at = 0;
    for (parent, dir) in [("main.rs", "."), ("sql.rs", "sql"), ("support/mod.rs", "support")] {
        let text = fs::read_to_string(here().join(parent)).expect("a source file");
        for module in modules(&here().join(dir)) {
            looked_at += 1;
            let named = text
                .lines()
                .any(|line| line.trim_start_matches("pub ") == format!("mod {module};"));
            assert!(
                named || parent.ends_with(&format!("{module}.rs")),
                "{parent} has no line \"mod {module};\""
            );
        }
    }
    assert!(looked_at > 30, "{looked_at}");
    // The others are packages, or parts of one.
    let dirs = names(here()).into_iter().filter(|name| here().join(name).is_dir());
    assert_eq!(dirs.collect::<Vec<_>>(), ["dose", "harness", "sql", "support"]);
}

/// If a line kept the old name of a test, the test would no longer run on the versions that it is about.
#[test]
fn each_line_of_the_list_for_all_versions_names_tests() {
    let list = fs::read_to_string(here().join("each-version")).expect("the list");
    let mut count = 0;
    for line in list.lines() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        count += 1;
        let parts: Vec<&str> = entry.split("::").collect();
        let (test, modules) = parts.split_last().expect("at least one part");
        let (is_alone, modules): (Vec<&str>, Vec<&str>) =
            modules.iter().copied().partition(|module| *module == "alone");
        let file = here().join(format!("{}.rs", modules.join("/")));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{entry}: {error}"));
        // A test that moves to those alone has another name from then on.
        let (beside_others, alone) = text.split_once("\nmod alone {").unwrap_or((&text, ""));
        let text = if is_alone.is_empty() { beside_others } else { alone };
        // `module::` is all of it; else the beginning of a name.
        let named = |line: &str| line.trim_start().starts_with(&format!("fn {test}"));
        assert!(test.is_empty() || text.lines().any(named), "{entry}: no such test");
    }
    assert!(count > 20, "{count}");
}
