//! Another library under a running archiver, another minor and another major version of the server: the
//! commands of docs/upgrading.md, word for word.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::support::document::Document;
use crate::support::load::{
    assert_nothing_missing, assert_recovered, finish, keeps_wal, prepare, under_load,
};
use crate::support::recovery::{assert_clean, restore_command};
use harness::command::{run, run_within};
use harness::process::is_alive;
use harness::server::as_server_user;
use harness::{Backup, Cluster, ClusterBuilder, Picture, Scratch, Server, Stop, TIMEOUT};
use harness::{archive, privileged, require, skip};

const DOCUMENT: &str = "upgrading.md";

/// Installs the library that was built for the server under test with this tree's `make install`.
fn make_install(server: &Server) {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let to = |name: &str, dir: &Path| format!("{name}={}", dir.display());
    let mut make = Command::new("make");
    // The same build, so that nothing is compiled here; a copy is a file of its own.
    make.args([
        "--no-print-directory",
        "--assume-old=extension",
        "--assume-old=program",
        "install",
    ])
    .arg(to("PG_CONFIG", &server.bindir.join("pg_config")))
    .arg(to("pkglibdir", &server.pkglibdir))
    .arg(to("sharedir", &server.sharedir))
    .arg(to("bindir", &server.bindir))
    .current_dir(tree);
    let said = run(&mut make);
    // A server does not look there for programs, and its recovery ended with "command not found".
    let last = said.lines().last().unwrap_or_default();
    let program = format!("restore_command = '{}/walsafe restore ", server.bindir.display());
    assert!(last.starts_with("Left to do: ") && last.contains(&program), "{said}");
}

/// The inode of the library that a process has mapped, and whether that file has lost its name.
fn mapped(pid: i32) -> Option<(u64, bool)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let line = maps.lines().find(|line| line.contains("/walsafe_archive.so"))?;
    Some((line.split_whitespace().nth(4)?.parse().ok()?, line.ends_with(" (deleted)")))
}

/// An earlier release of PostgreSQL 15 with the extension, in a directory of its own.
fn earlier_15(home: &Scratch) -> Result<Server, String> {
    let later = Server::copy_of("15")?;
    if !later.has_library("walsafe_archive") {
        return Err("needs the extension for 15: tools/run-tests 15 installs it".to_owned());
    }
    let server = Server::copy_of("15-earlier")?.copy_to(home)?;
    server.install_from(&later);
    Ok(server)
}

fn assert_no_crash(cluster: &Cluster) {
    let log = cluster.log().text();
    for trouble in ["terminated by signal", "reinitializing", "PANIC", "could not archive"] {
        assert!(!log.contains(trouble), "{trouble} in the log:\n{log}");
    }
}

/// The server went on, every segment is in the archive, and a backup from before is recovered from it
/// with all that was acknowledged. Stops the server.
fn assert_nothing_lost(
    cluster: &Cluster,
    archive: &Scratch,
    (begin, last): (&str, &str),
    backup: &Backup,
    acknowledged: u32,
) {
    assert_no_crash(cluster);
    assert_nothing_missing(cluster, (begin, last), |name| archive::contents(archive.path(), name));
    assert_clean(archive.path());
    cluster.stop(Stop::Fast);
    let command = restore_command(archive.path());
    let recovered = backup.restore_copy().recovery().set("restore_command", &command).start();
    assert_recovered(&recovered, acknowledged);
}

/// If the steps were wrong, an installation under load would crash the server, or the old library would
/// stay in use for months.
#[test]
fn a_new_library_is_loaded_on_a_running_server_and_no_segment_is_lost() {
    let home = Scratch::new("server");
    let server = Server::under_test().copy_to(&home);
    require!(server.as_ref().map(|_| ()).map_err(Clone::clone));
    let server = server.expect("just looked at");
    make_install(&server);
    let library = server.pkglibdir.join("walsafe_archive.so");
    let inode = || fs::metadata(&library).expect("the library").ino();
    let archive = Scratch::new("archive");
    let cluster = keeps_wal(Cluster::archiving_to(archive.path()).server(&server)).start();
    let begin = prepare(&cluster);
    let backup = cluster.base_backup_without_wal();
    let document = Document::new(DOCUMENT);
    let first = inode();
    let archiver = cluster.wait_archiver();
    let acknowledged = under_load(&cluster, |load| {
        load.rows(&cluster, 5);
        assert_eq!(mapped(archiver), Some((first, false)));
        for block in ["reload", "reload-again"] {
            let (old, archiver) = (inode(), cluster.wait_archiver());
            make_install(&server);
            assert_ne!(inode(), old, "it was written in place");
            load.rows(&cluster, 10);
            // Until it is told, the archiver uses the library that has lost its name.
            assert_eq!(mapped(archiver), Some((old, true)));
            assert!(document.run(&cluster, "mapped").contains("(deleted)"));
            document.run(&cluster, block);
            let next = cluster.wait_until("another archiver", || {
                cluster.archiver_pid().filter(|pid| *pid != archiver && mapped(*pid).is_some())
            });
            assert_eq!(mapped(next), Some((inode(), false)));
            assert!(!document.run(&cluster, "mapped").contains("(deleted)"));
            assert!(!is_alive(archiver));
            load.rows(&cluster, 10);
        }
    });
    let last = finish(&cluster);
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    assert!(!cluster.log().text().contains("not configured"), "archiving was interrupted");
    assert_nothing_lost(&cluster, &archive, (&begin, &last), &backup, acknowledged);
}

/// If the documentation did not say so, an administrator who preloads the module would believe that the new
/// one is in use.
#[test]
fn a_library_that_is_preloaded_is_replaced_by_a_restart_alone() {
    let home = Scratch::new("server");
    let server = Server::under_test().copy_to(&home);
    require!(server.as_ref().map(|_| ()).map_err(Clone::clone));
    let server = server.expect("just looked at");
    let library = server.pkglibdir.join("walsafe_archive.so");
    let inode = || fs::metadata(&library).expect("the library").ino();
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).server(&server);
    let cluster = cluster.set("shared_preload_libraries", "walsafe_archive").start();
    let (old, archiver) = (inode(), cluster.wait_archiver());
    make_install(&server);
    assert_ne!(inode(), old);
    Document::new(DOCUMENT).run(&cluster, "reload");
    let next = cluster.wait_until("another archiver", || {
        // A connection wakes the server's main process, which starts the next one.
        cluster.sql("SELECT 1");
        cluster.archiver_pid().filter(|pid| *pid != archiver)
    });
    cluster.wait_archived(&cluster.switch_wal());
    assert_eq!(mapped(next), Some((old, true)));
    cluster.restart();
    assert_eq!(mapped(cluster.wait_archiver()), Some((inode(), false)));
}

/// Shows that a security update of the server needs nothing of the archive.
#[test]
fn another_minor_version_goes_on_with_the_archive_as_it_is() {
    let (home, place) = (Scratch::new("server"), Scratch::new("update"));
    let new = Server::under_test().copy_to(&place);
    require!(new.as_ref().map(|_| ()).map_err(Clone::clone));
    // An earlier release where there is one; else the same one, in other files.
    let earlier = if Server::under_test().major == 15 { earlier_15(&home).ok() } else { None };
    let (server, files) = match &earlier {
        Some(earlier) => (earlier.clone(), home.join("server/usr")),
        None => (Server::under_test().copy_to(&home).expect("as above"), home.join("server")),
    };
    let archive = Scratch::new("archive");
    let cluster = keeps_wal(Cluster::archiving_to(archive.path()).server(&server)).start();
    let version = cluster.sql("SHOW server_version");
    let begin = prepare(&cluster);
    let backup = cluster.base_backup_without_wal();
    let document = Document::new(DOCUMENT).with("/var/lib/postgresql/15/main", cluster.data());
    let acknowledged = under_load(&cluster, |load| {
        load.rows(&cluster, 10);
        document.run(&cluster, "stop");
        cluster.wait_exit(TIMEOUT);
        // As a package does it: every file is another one.
        fs::remove_dir_all(&files).expect("removed");
        run(Command::new("cp").arg("-a").arg(place.join("server")).arg(&files));
        cluster.start();
        load.rows(&cluster, 10);
    });
    let now = cluster.sql("SHOW server_version");
    assert_eq!(earlier.is_some(), now != version, "{version} to {now}");
    let last = finish(&cluster);
    assert_nothing_lost(&cluster, &archive, (&begin, &last), &backup, acknowledged);
    if earlier.is_none() {
        skip("no earlier release of this version is at hand; the same one in other files passed");
    }
}

/// From PostgreSQL 15 to the version under test; on 15 to itself, which makes a new cluster all the same.
/// From an earlier release: `pg_upgrade` wants a target that is no older than the source, and 15 may
/// be newer here than the others.
fn upgrades(link: bool) {
    let new = Server::under_test();
    let programs = Scratch::new("server");
    let old = match earlier_15(&programs) {
        Err(_) if new.major == 15 => Ok(new.clone()),
        earlier => earlier,
    };
    require!(old.as_ref().map(|_| ()).map_err(Clone::clone));
    let old = old.expect("just looked at");
    let (archive, new_archive) = (Scratch::new("archive"), Scratch::new("archive"));
    let (home, backups) = (Scratch::new("upgraded"), Scratch::new("backups"));
    let before = Cluster::archiving_to(archive.path()).server(&old).start();
    prepare(&before);
    before.sql("CREATE EXTENSION walsafe_archive");
    let identifier = before.system_identifier();
    let backup = before.base_backup_without_wal();
    let acknowledged = under_load(&before, |load| load.rows(&before, 10));

    let data = home.join("data");
    let program = |name: &str| format!("/usr/lib/postgresql/17/bin/{name}");
    // What the old cluster was made with, and 18's other default.
    let checksums = if new.major >= 18 { "--no-data-checksums" } else { "" };
    let as_before = format!(
        "{} --wal-segsize=1 --encoding=UTF8 --locale=C {checksums}",
        new.bindir.join("initdb").display()
    );
    let in_place = if link { " --link" } else { "" };
    let pg_upgrade = format!(
        "cd {} && {}{in_place}",
        home.path().display(),
        new.bindir.join("pg_upgrade").display()
    );
    let document = Document::new(DOCUMENT)
        .with(&program("initdb"), as_before)
        .with(&program("pg_upgrade"), pg_upgrade)
        .with("/usr/lib/postgresql/15/bin", &old.bindir)
        .with("/usr/lib/postgresql/17/bin", &new.bindir)
        .with("/var/lib/postgresql/15/main", before.data())
        .with("/var/lib/postgresql/17/main", &data)
        .with("/var/lib/postgresql/17/log", home.join("start.log"))
        .with("/mnt/archive-17", new_archive.path())
        .with("/mnt/archive", archive.path())
        .with("/mnt/backups/17", backups.join("17"));
    if privileged().is_ok() {
        document.run_as_root(&before, "next-directory");
    }
    document.run(&before, "initdb");
    let stopped = document.run(&before, "last-wal");
    before.wait_exit(TIMEOUT);
    assert!(stopped.ends_with("all is archived\n"), "{stopped}");
    let upgraded = run_within(&mut before.shell(&document.block("pg_upgrade")), "", 3 * TIMEOUT);
    assert!(upgraded.success(), "{upgraded:?}");
    let last = archive::names(archive.path()).pop().expect("segments");

    // The note of known archives stays behind, and the configuration is new. With the old one's:
    assert!(before.data().join("walsafe_archive.destinations").exists());
    assert!(!data.join("walsafe_archive.destinations").exists());
    let whole = Picture::of(archive.path());
    let after = ClusterBuilder::existing(home).server(new).archive_to(archive.path()).start();
    assert!(after.current_segment() > last, "the names do not go on");
    let mark = after.mark();
    let name = after.switch_wal();
    let report = after.wait_for_report(mark, "55000");
    report.assert_explains(&after.stat_archiver().last_failed_wal.unwrap_or(name));
    assert!(report.message.ends_with("the archive belongs to another cluster"), "{report:?}");
    assert!(
        report.hint.contains("After pg_upgrade") && report.hint.contains("new base backup"),
        "{report:?}"
    );
    let harness::Report { level, message, detail, hint, .. } = &report;
    let shown = format!("{level}:  {message}\nDETAIL:  {detail}\nHINT:  {hint}");
    document.shows("refused-shows", &shown);
    for identifier in [identifier, after.system_identifier()] {
        assert!(report.detail.contains(&identifier.to_string()), "{report:?}");
    }
    assert_eq!(Picture::of(archive.path()), whole);

    // With the document's.
    for (name, value) in document.settings("settings") {
        after.set_conf(&name, &value);
    }
    after.stop(Stop::Fast);
    document.run(&after, "start");
    run(after.shell(&format!("pg_ctl -D {} -m fast stop", data.display())).env("PATH", new.path()));
    after.start();
    after.wait_until("the new archive to be used", || {
        after.switch_wal();
        after.ready_files().is_empty().then_some(())
    });
    assert_eq!(after.sql("SELECT state FROM walsafe_archive_status"), "ok");
    let verified = document.run(&after, "base-backup");
    document.shows("base-backup-shows", &verified);
    assert!(verified.ends_with("no findings\n"), "{verified}");
    assert_recovered(&after, acknowledged);
    let more = under_load(&after, |load| load.rows(&after, 5));
    finish(&after);
    assert_clean(new_archive.path());
    after.stop(Stop::Fast);

    // Both can be recovered: the new one from its own, the old one with the old programs.
    let copy = Scratch::new("restored");
    let mut cp = Command::new("cp");
    run(as_server_user(&mut cp).arg("-a").arg(backups.join("17")).arg(copy.join("data")));
    let recovered =
        ClusterBuilder::existing(copy).server(new).recovery().set("archive_mode", "off").start();
    assert_recovered(&recovered, more);
    assert_clean(archive.path());
    let command = restore_command(archive.path());
    let recovered = backup.restore_copy().server(&old).recovery();
    let recovered = recovered.set("restore_command", &command).start();
    assert_recovered(&recovered, acknowledged);
    assert_eq!(Picture::of(archive.path()), whole);
}

/// Without the refusal, the new cluster's WAL goes into the old archive, where its names look like the
/// continuation of the old cluster's, and neither cluster can be recovered.
#[test]
fn after_pg_upgrade_the_old_archive_is_refused_and_still_recovers_the_old_cluster() {
    upgrades(false);
}

#[test]
fn after_pg_upgrade_with_links_it_does_so_too() {
    upgrades(true);
}
