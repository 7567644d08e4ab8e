//! The tests inside the server, in pg_test/: `sql/NAME.sql` is run as pg_regress would, and has to
//! print `expected/NAME.out` (or `NAME_1.out`, where versions of the server differ).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Cluster, Scratch, command, scratch};

/// Without the expected outputs, what a session sees of the extension could change unnoticed.
#[test]
fn each_script_prints_what_it_is_expected_to() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pg_test");
    let archive = Scratch::new("archive");
    let results = Scratch::new("results");
    let cluster = Cluster::archiving_to(archive.path()).start();
    let mut failed = String::new();
    let scripts = scratch::names(&tests.join("sql"));
    let scripts: Vec<_> = scripts.iter().filter_map(|file| file.strip_suffix(".sql")).collect();
    assert!(!scripts.is_empty());
    for script in scripts {
        let printed = run(&cluster, &tests.join(format!("sql/{script}.sql")), &results)
            .replace(cluster.data().to_str().unwrap(), "DATA_DIRECTORY")
            .replace(archive.path().to_str().unwrap(), "ARCHIVE_DIRECTORY");
        let expected = |suffix| tests.join(format!("expected/{script}{suffix}.out"));
        let matches =
            |suffix| fs::read_to_string(expected(suffix)).is_ok_and(|text| text == printed);
        if !matches("") && !matches("_1") {
            // The results go to WALSAFE_RESULTS, if it is set, to be looked at and copied.
            let kept = std::env::var_os("WALSAFE_RESULTS");
            let kept = kept.map_or(results.path().to_owned(), PathBuf::from);
            let path = kept.join(format!("{script}.out"));
            scratch::write(&path, &printed);
            let mut diff = Command::new("diff");
            let diff = diff.arg("-u").arg(expected("")).arg(&path);
            let diff = command::run_within(diff, "", harness::TIMEOUT);
            failed.push_str(&format!("{script}:\n{}{}", diff.stdout, diff.stderr));
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

/// Runs a script with pg_regress's arguments; returns both outputs as one, in their order.
fn run(cluster: &Cluster, script: &Path, results: &Scratch) -> String {
    let path = results.join("printed");
    let printed = File::create(&path).expect("a file");
    // Its exit status says nothing about the statements in it.
    cluster
        .client("psql")
        .args(["-X", "-a", "-q", "-v", "HIDE_TABLEAM=on"])
        .env("PGOPTIONS", "-c statement_timeout=60s -c intervalstyle=postgres_verbose")
        .stdin(File::open(script).expect("the script"))
        .stdout(printed.try_clone().expect("a handle"))
        .stderr(printed)
        .status()
        .expect("psql runs");
    String::from_utf8(scratch::read(&path)).expect("text")
}
