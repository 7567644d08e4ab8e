//! Archives with very many names: they cost a bounded amount of memory, and what runs out of it is a query.

use std::fs::File;

use harness::{Cluster, Scratch, dose};

/// An archive of so many empty files, in which every thousandth segment is missing: only names count.
fn archive(names: u64) -> Scratch {
    let archive = Scratch::new("names");
    for number in (1..=names).filter(|number| number % 1000 != 0) {
        let name = format!("{:08X}{:08X}{:08X}", 1, number >> 8, number & 0xFF);
        File::create(archive.join(name)).unwrap();
    }
    harness::scratch::write(&archive.join("notes.txt"), "x");
    archive
}

/// Runs SQL in a session whose address space can grow by so many megabytes only.
fn within(cluster: &Cluster, megabytes: u32, sql: &str) -> Result<String, String> {
    cluster.psql(&format!(
        "LOAD 'walsafe_archive';
        SELECT pg_backend_pid() AS pid \\gset
        \\setenv SERVER_PID :pid
        \\! prlimit --pid $SERVER_PID --as=$(($(awk '/^VmSize/ {{ print $2 }}' /proc/$SERVER_PID/status) * 1024 + ({megabytes} << 20)))
        {sql};"
    ))
}

/// `memory allocation failed`, SIGABRT, and every session of the cluster was gone.
#[test]
fn a_session_without_memory_gets_an_error_and_the_cluster_lives() {
    // What kept each of their names took 4 MB for these alone.
    let names = dose(30_000, 60_000);
    let archive = archive(names);
    let cluster = Cluster::builder().start();
    cluster.sql("CREATE EXTENSION walsafe_archive");
    let path = archive.path().display();
    let (before, mark) = (cluster.sql("SELECT pg_postmaster_start_time()"), cluster.mark());
    let gaps = format!("SELECT count(*) FROM walsafe_archive_gaps('{path}')");
    let missing = (names / 1000 - 1).to_string();
    assert_eq!(cluster.sql(&gaps), missing);
    // A finding for each file: rows are made one by one.
    let verify = format!(
        "SELECT count(*) FILTER (WHERE finding = 'truncated') >= {names} * 0.99,
            count(*) FILTER (WHERE finding = 'gap') = {missing} FROM walsafe_archive_verify('{path}')"
    );
    let few: &[u32] = &[2, 6, 16, 80, 400];
    for (sql, right, steps) in
        [(&gaps, &*missing, &[1_u32, 2, 4, 8, 16, 80][..]), (&verify, "t|t", few)]
    {
        let (mut answered, mut refused) = (0, Vec::new());
        for &megabytes in steps {
            match within(&cluster, megabytes, sql) {
                Ok(answer) => {
                    assert_eq!(answer, right, "{megabytes} MB");
                    answered += 1;
                }
                // Out of memory, or there is none for a thread.
                Err(error) => {
                    assert!(error.contains("ERROR:  53"), "{sql} with {megabytes} MB: {error}");
                    refused.push(error);
                }
            }
        }
        assert!(answered > 0, "{sql}: {refused:?}");
    }
    assert_eq!(cluster.sql("SELECT pg_postmaster_start_time()"), before);
    let log = cluster.log().since(mark);
    assert!(!log.contains("terminated by signal"), "{log}");
}
