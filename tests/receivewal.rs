//! An archive that `pg_receivewal` writes, with the encodings that it has.

use std::process::{Child, Stdio};

use crate::support::document::Document;
use crate::support::recovery::{assert_clean, path, restore_command, rows_after_recovery, walsafe};
use harness::{Cluster, Scratch};

/// `pg_receivewal`, killed when it is dropped.
struct Receiver(Child);

impl Receiver {
    fn start(primary: &Cluster, archive: &Scratch, compress: &str) -> Self {
        let mut command = primary.client("pg_receivewal");
        command.arg("-D").arg(archive.path()).args([
            "--synchronous",
            "--slot=archive",
            "--compress",
            compress,
        ]);
        Self(command.stderr(Stdio::null()).spawn().expect("pg_receivewal runs"))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The file that it writes to was unknown with compression, and whatever was in it was lost to a recovery.
#[test]
fn its_directory_is_an_archive_up_to_the_last_record_received() {
    for (compress, extension) in [("none", ""), ("gzip", ".gz"), ("lz4", ".lz4")] {
        let (primary, archive) = (Cluster::builder().start(), Scratch::new("archive"));
        primary.sql("CREATE TABLE rows (n int)");
        // Only with a slot does it tell the server what it has flushed.
        primary.sql("SELECT pg_create_physical_replication_slot('archive', true)");
        let receiver = Receiver::start(&primary, &archive, compress);
        let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        primary
            .wait_until("pg_receivewal to stream", || (primary.sql(streams) == "1").then_some(()));
        let backup = primary.base_backup_without_wal();
        primary.sql("INSERT INTO rows VALUES (1)");
        primary.fill_whole_segments(2);
        let init = ["init", "--pgdata", path(primary.data()), path(archive.path())];
        let run = walsafe(&init);
        assert_eq!(run.code, Some(0), "{run:?}");
        primary.sql("INSERT INTO rows VALUES (2)");
        let lsn = primary.current_lsn();
        let flushed = format!("SELECT flush_lsn >= '{lsn}' FROM pg_stat_replication");
        primary
            .wait_until("the row to be received", || (primary.sql(&flushed) == "t").then_some(()));
        assert_clean(archive.path());

        drop(receiver);
        primary.kill_all();
        assert_clean(archive.path());
        let suffix = format!("{extension}.partial");
        let last = archive.names().into_iter().find(|name| name.ends_with(&suffix));
        let last = last.expect("a segment that is not complete").replace(&suffix, "");
        let list = walsafe(&["list", path(archive.path())]);
        assert!(list.out.contains(" 1 partial,"), "{compress}: {list:?}");

        // As the manual says: the last file by hand, the others by restore_command.
        let command = restore_command(archive.path());
        let cluster = backup.restore_copy().recovery().set("restore_command", &command).create();
        Document::new("walsafe.md")
            .with("/var/lib/postgresql/17/main", cluster.data())
            .with("/mnt/archive", archive.path())
            .with("00000001000000000000000B", &last)
            .run(&cluster, "receivewal-last");
        cluster.start();
        assert_eq!(rows_after_recovery(&cluster), "1,2", "{compress}");
    }
}
