//! The library and its SQL belong together, and every released version can be updated.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{Cluster, Scratch};

use super::{archiving, start, status};

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The versions in the names of the scripts in `sql/`: those that can be installed, and all.
fn versions() -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut installed, mut all) = (BTreeSet::new(), BTreeSet::new());
    for name in harness::scratch::names(&tree().join("sql")) {
        let Some(name) = name.strip_suffix(".sql") else { continue };
        let parts: Vec<&str> = name.split("--").collect();
        assert_eq!(parts[0], "walsafe_archive", "{name}");
        match parts[1..] {
            [version] => drop(installed.insert(version.to_owned())),
            [_, _] => {}
            _ => panic!("sql/{name}.sql is no install and no upgrade script"),
        }
        all.extend(parts[1..].iter().map(|&version| version.to_owned()));
    }
    (installed, all)
}

/// Everything that the extension has made, down to privileges and comments.
fn objects(cluster: &Cluster) -> String {
    cluster.sql(
        "SELECT pg_describe_object(classid, objid, 0),
             pg_get_functiondef(p.oid), p.proacl, pg_get_viewdef(c.oid), c.relacl,
             (SELECT array_agg(attname || ' ' || format_type(atttypid, atttypmod)
                     || ' ' || coalesce(col_description(attrelid, attnum), '') ORDER BY attnum)
              FROM pg_attribute WHERE attrelid = c.oid),
             obj_description(objid, classid::regclass::text::name)
         FROM pg_depend
             LEFT JOIN pg_proc p ON classid = 'pg_proc'::regclass AND p.oid = objid
             LEFT JOIN pg_class c ON classid = 'pg_class'::regclass AND c.oid = objid
         WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
             AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'walsafe_archive')
         ORDER BY 1",
    )
}

#[test]
fn it_can_be_dropped_and_made_again_and_lives_in_any_schema() {
    let (_archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    let before = objects(&cluster);
    let counted = status(&cluster, "archived_count");
    cluster.sql("DROP EXTENSION walsafe_archive");
    assert_eq!(cluster.sql("SELECT count(*) FROM pg_proc WHERE proname LIKE 'walsafe%'"), "0");
    cluster.sql("CREATE EXTENSION walsafe_archive");
    assert_eq!(objects(&cluster), before);
    assert_eq!(status(&cluster, "archived_count"), counted);
    cluster.sql("DROP EXTENSION walsafe_archive; CREATE SCHEMA elsewhere");
    cluster.sql("CREATE EXTENSION walsafe_archive SCHEMA elsewhere");
    assert_eq!(cluster.sql("SELECT state FROM elsewhere.walsafe_archive_status"), "ok");
    assert_eq!(cluster.sql("SELECT count(*) FROM elsewhere.walsafe_archive_gaps()"), "0");
}

/// Whoever looked at the view in psql had to open the manual for what its columns mean.
#[test]
fn every_column_of_the_view_says_what_it_is() {
    let (_archive, cluster) = archiving();
    let silent = cluster.sql(
        "SELECT count(*), string_agg(attname, ' ') FILTER (WHERE col_description(attrelid, attnum) IS NULL)
         FROM pg_attribute WHERE attrelid = 'walsafe_archive_status'::regclass AND attnum > 0",
    );
    assert_eq!(silent, "25|");
}

/// Nothing needs preloading, but nothing breaks with it.
#[test]
fn preloading_the_library_does_no_harm() {
    let archive = Scratch::new("archive");
    let cluster = start(
        Cluster::archiving_to(archive.path()).set("shared_preload_libraries", "walsafe_archive"),
    );
    cluster.wait_archived(&cluster.switch_wal());
    assert_eq!(status(&cluster, "state"), "ok");
}

/// The functions that the library exports for SQL, by the names in its symbol table.
fn exported(library: &Path) -> BTreeSet<String> {
    let bytes = harness::scratch::read(library);
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok()?.strip_prefix("pg_finfo_"))
        .filter(|name| name.ends_with("_wrapper"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_function_of_the_library_is_declared_and_the_other_way_round() {
    let (_archive, cluster) = archiving();
    let library = cluster.server().pkglibdir.join("walsafe_archive.so");
    let declared = cluster.sql("SELECT prosrc FROM pg_proc WHERE probin LIKE '%walsafe_archive'");
    let declared: BTreeSet<String> = declared.lines().map(str::to_owned).collect();
    assert!(!declared.is_empty());
    assert_eq!(exported(&library), declared);
}

/// One function of src/sql.rs.
#[derive(Debug)]
struct Declared {
    name: String,
    arguments: String,
    columns: Vec<String>,
}

/// Reads the row types that the Rust code returns: `name!(column, Type)`.
fn declared_in_rust() -> Vec<Declared> {
    let source = fs::read_to_string(tree().join("src/sql.rs")).unwrap();
    source
        .split("#[pg_extern(sql = false)]")
        .skip(1)
        .map(|text| {
            let text = &text[text.find("fn ").unwrap() + 3..];
            let (head, _) = text.split_once("{\n").unwrap();
            let (name, rest) = head.split_once('(').unwrap();
            let (arguments, row) = rest.split_once(')').unwrap();
            let columns = row.split("name!(").skip(1).map(|column| {
                let (column, rest) = column.split_once(',').unwrap();
                let rust = rest.split_once(')').unwrap().0.trim();
                let rust = rust.trim_start_matches("Option<").trim_end_matches('>');
                let sql = match rust {
                    "String" => "text",
                    "i64" => "bigint",
                    "f64" => "double precision",
                    "bool" => "boolean",
                    other => panic!("{name}: which SQL type is {other}?"),
                };
                format!("{column} {sql}")
            });
            Declared {
                name: name.to_owned(),
                arguments: arguments.trim().to_owned(),
                columns: columns.collect(),
            }
        })
        .collect()
}

#[test]
fn the_rows_of_the_library_are_those_that_the_sql_declares() {
    let (_archive, cluster) = archiving();
    let functions = declared_in_rust();
    assert_eq!(functions.len(), 6, "{functions:?}");
    for Declared { name, arguments, columns } in functions {
        let declared = cluster.sql(&format!(
            "SELECT string_agg(proargnames[n] || ' ' || format_type(proallargtypes[n], NULL), ',' ORDER BY n)
             FROM pg_proc, generate_subscripts(proallargtypes, 1) n
             WHERE proname = '{name}' AND proargmodes[n] = 'o'"
        ));
        assert_eq!(declared, columns.join(","), "{name}");
        let strict =
            cluster.sql(&format!("SELECT proisstrict FROM pg_proc WHERE proname = '{name}'"));
        assert_eq!(strict == "f", arguments.contains("Option<"), "{name}({arguments})");
    }
    // SPEC names the view's columns.
    let view = cluster.sql(
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = 'walsafe_archive_status'::regclass AND attnum > 0",
    );
    assert_eq!(
        view,
        "destination, state, last_archived_wal, last_archived_time, last_failed_wal, last_failed_time, \
         last_error, archived_count, already_present_count, failed_count, wal_bytes, stored_bytes, \
         busy_ms, last_ms, backlog_files, backlog_bytes, oldest_waiting_age, free_bytes, \
         pg_wal_free_bytes, damaged_count, complete_from, requests, retries, throttled, \
         stats_reset"
    );
}

#[test]
fn the_versions_of_the_project_agree() {
    let control = fs::read_to_string(tree().join("walsafe_archive.control")).unwrap();
    let default = control.lines().find_map(|l| l.strip_prefix("default_version = ")).unwrap();
    let default = default.trim_matches('\'');
    assert_eq!(default, env!("CARGO_PKG_VERSION"), "walsafe_archive.control and Cargo.toml");
    let meta = fs::read_to_string(tree().join("META.json")).unwrap();
    assert_eq!(meta.matches(&format!("\"version\": \"{default}\"")).count(), 2, "META.json");
    let script = format!("walsafe_archive--{default}.sql");
    assert!(meta.contains(&format!("\"file\": \"sql/{script}\"")), "META.json");
    assert!(versions().0.contains(default), "there is no sql/{script}");
    let rpm = fs::read_to_string(tree().join("packaging/rpm/walsafe_archive.spec")).unwrap();
    let tag = |name| rpm.lines().find_map(|line: &str| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(tag("Version:"), default, "the RPM spec and Cargo.toml");
    // A version is either still to come, and then sorts before itself, or released, and then nothing is
    // added to it.
    let changes = fs::read_to_string(tree().join("CHANGELOG.md")).unwrap();
    let (_, unreleased) = changes.split_once("## [Unreleased]").unwrap();
    let unreleased = unreleased.split("\n## [").next().unwrap();
    let released = changes.contains(&format!("\n## [{default}]"));
    assert_eq!(released, unreleased.trim().is_empty(), "the changelog of {default}");
    assert_eq!(released, !tag("Release:").starts_with("0."), "the RPM's release");
    let manual = fs::read_to_string(tree().join("docs/install.md")).unwrap();
    assert!(manual.contains(&script), "docs/install.md");
}

#[test]
fn every_older_version_can_be_updated_and_ends_like_a_new_one() {
    let (_archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    let default = cluster
        .sql("SELECT default_version FROM pg_available_extensions WHERE name = 'walsafe_archive'");
    let new = objects(&cluster);
    let (installable, all) = versions();
    for version in &all {
        let path = cluster.sql(&format!(
            "SELECT '{version}' = '{default}' OR EXISTS (
                 SELECT FROM pg_extension_update_paths('walsafe_archive')
                 WHERE source = '{version}' AND target = '{default}' AND path IS NOT NULL)"
        ));
        assert_eq!(path, "t", "no upgrade scripts lead from {version} to {default}");
    }
    for version in &installable {
        cluster.sql("DROP EXTENSION walsafe_archive");
        cluster.sql(&format!("CREATE EXTENSION walsafe_archive VERSION '{version}'"));
        cluster.sql("ALTER EXTENSION walsafe_archive UPDATE");
        assert_eq!(objects(&cluster), new, "{version} updated to {default}");
        assert_eq!(status(&cluster, "state"), "ok");
    }
}

/// A released script is on users' disks. If it were changed afterwards, it would be another version under
/// the same name. sql/RELEASED has their digests, as `sha256sum` prints them.
#[test]
fn released_scripts_stay_as_they_were() {
    let cluster = Cluster::builder().start();
    let released = fs::read_to_string(tree().join("sql/RELEASED")).unwrap();
    let mut known = BTreeSet::new();
    for line in released.lines().filter(|line| !line.starts_with('#')) {
        let (digest, name) = line.split_once("  ").expect("lines of sha256sum");
        let bytes = fs::read(tree().join("sql").join(name))
            .unwrap_or_else(|error| panic!("sql/{name} was released, and is gone: {error}"));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = cluster.sql(&format!("SELECT encode(sha256('\\x{hex}'), 'hex')"));
        assert_eq!(now, digest, "sql/{name} was released, and has changed");
        known.insert(name.to_owned());
    }
    // A release is a heading of the changelog.
    let changes = fs::read_to_string(tree().join("CHANGELOG.md")).unwrap();
    for heading in changes.lines().filter_map(|line| line.strip_prefix("## [")) {
        let version = heading.split(']').next().unwrap();
        let name = format!("walsafe_archive--{version}.sql");
        assert!(
            version == "Unreleased" || known.contains(&name),
            "{version} is released, and sql/RELEASED has no line for {name}"
        );
    }
}
