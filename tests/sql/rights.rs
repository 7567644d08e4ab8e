//! Who may call what.

use super::archiving;

/// Everything that the extension offers, each as a statement.
const CALLS: [(&str, &str); 7] = [
    ("view", "SELECT count(*) FROM walsafe_archive_status"),
    ("stat", "SELECT count(*) FROM walsafe_archive_stat()"),
    ("check", "SELECT count(*) FROM walsafe_archive_check()"),
    ("verify", "SELECT count(*) FROM walsafe_archive_verify()"),
    ("gaps", "SELECT count(*) FROM walsafe_archive_gaps()"),
    ("reset", "SELECT walsafe_archive_reset()"),
    ("test", "SELECT status FROM walsafe_archive_test()"),
];

#[test]
fn each_role_may_do_what_the_documentation_says_and_no_more() {
    let (archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    cluster.sql(
        "CREATE ROLE nobody;
         CREATE ROLE monitor IN ROLE pg_monitor;
         CREATE ROLE reader IN ROLE pg_read_server_files;
         CREATE ROLE granted;
         GRANT EXECUTE ON FUNCTION walsafe_archive_verify(text) TO granted;
         GRANT EXECUTE ON FUNCTION walsafe_archive_gaps(text) TO granted;
         CREATE ROLE resetter;
         GRANT EXECUTE ON FUNCTION walsafe_archive_reset() TO resetter;
         CREATE ROLE tester;
         GRANT EXECUTE ON FUNCTION walsafe_archive_test(double precision) TO tester;
         CREATE ROLE monitor_and_reader IN ROLE pg_monitor, pg_read_server_files",
    );
    let all = ["view", "stat", "check", "verify", "gaps", "reset", "test"];
    for (role, may) in [
        ("nobody", &[][..]),
        ("monitor", &all[..3]),
        ("reader", &all[3..5]),
        ("granted", &[]),
        ("resetter", &all[5..6]),
        ("tester", &all[6..]),
        ("monitor_and_reader", &all[..5]),
        ("postgres", &all),
    ] {
        for (name, sql) in CALLS {
            match cluster.psql(&format!("SET ROLE {role}; {sql}")) {
                Ok(_) => assert!(may.contains(&name), "{role} may call {name}"),
                Err(error) => {
                    assert!(error.contains("ERROR:  42501"), "{role}, {name}: {error}");
                    assert!(!may.contains(&name), "{role} may not call {name}: {error}");
                }
            }
        }
    }

    // A path is no way around it, whether the archive's own or another.
    for path in [archive.path().to_str().unwrap(), "/etc", "/nowhere"] {
        for function in ["verify", "gaps"] {
            let call = format!("SET ROLE granted; SELECT walsafe_archive_{function}('{path}')");
            let error = cluster.psql(&call).expect_err("a role without pg_read_server_files");
            assert!(error.contains("permission denied to read an archive"), "{error}");
        }
    }
}

/// Only superusers can put the library's functions into a database.
#[test]
fn only_a_superuser_creates_the_extension() {
    let (_archive, cluster) = archiving();
    cluster.sql("CREATE ROLE owner LOGIN CREATEDB");
    cluster.sql("CREATE DATABASE theirs OWNER owner");
    let mut psql = cluster.client("psql");
    psql.env("PGUSER", "owner")
        .env("PGDATABASE", "theirs")
        .args(["-XAtqc", "CREATE EXTENSION walsafe_archive"]);
    let output = harness::command::run_within(&mut psql, "", harness::TIMEOUT);
    assert!(!output.success() && output.stderr.contains("permission denied"), "{output:?}");
}
