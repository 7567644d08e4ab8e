//! What administrators do with a server that archives, also in trouble: the commands of docs/operations.md,
//! docs/emergencies.md, docs/point-in-time.md and docs/walsafe.md, word for word.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::document::Document;
use crate::support::recovery::{
    Origin, assert_clean, path, refuses, rows_after_recovery, walsafe_in,
};
use harness::command::run_within;
use harness::log::Mark;
use harness::scratch::{chmod, make_dir};
use harness::{Cluster, ClusterBuilder, Fs, Mount, Scratch, Server, Stop, TIMEOUT};
use harness::{privileged, require, scratch, tool};

const DATA: &str = "/var/lib/postgresql/15/main";
const IDENTITY: &str = "walsafe_archive.id";

fn operations() -> Document {
    Document::new("operations.md")
}

fn emergencies() -> Document {
    Document::new("emergencies.md")
}

fn with(builder: ClusterBuilder, settings: &[(String, String)]) -> ClusterBuilder {
    settings.iter().fold(builder, |builder, (name, value)| builder.set(name, value))
}

/// Makes a directory of the server's user as the document says, which takes root.
fn make_as_documented(document: &Document, cluster: &Cluster, name: &str, dir: &Path) {
    if privileged().is_ok() {
        document.run_as_root(cluster, name);
    } else {
        make_dir(dir);
    }
}

/// If one of the first steps in the documentation were wrong, an administrator's first hour with the module
/// would go wrong.
#[test]
fn a_cluster_is_configured_watched_and_verified_as_documented() {
    let place = Scratch::new("place");
    let archive = place.join("archive");
    let document =
        operations().with("/mnt/archive", &archive).with("/mnt/backups", place.join("backups"));
    let cluster = with(Cluster::builder(), &document.settings("configure")).create();
    let document = document.with(DATA, cluster.data());
    make_as_documented(&document, &cluster, "directory", &archive);
    cluster.start();
    // The page showed numbers of an archiver that had not begun yet.
    let works = document.psql(&cluster, "does-it-work");
    assert!(works.contains(" ok "), "{works}");
    let checked = document.psql(&cluster, "first-check");
    assert!(!checked.contains("| error"), "{checked}");
    make_as_documented(&document, &cluster, "backup-directory", &place.join("backups"));
    let verified = document.run(&cluster, "first-backup");
    assert!(verified.ends_with("no findings\n"), "{verified}");

    document.psql(&cluster, "counts");
    document.psql(&cluster, "waiting");
    // The manual shows a commit behind the backup.
    cluster.sql("CREATE TABLE orders (n int)");
    cluster.switch_wal();
    cluster.wait_all_archived();
    document.shows("view-shows", &document.psql(&cluster, "view"));
    let checks = document.psql(&cluster, "check-sql");
    let names = |table: &str| -> Vec<String> {
        let row = |line: &str| {
            let (_, name) = line.split_once(" | ok ")?.0.split_once(" | ")?;
            Some(name.trim().to_owned())
        };
        table.lines().filter_map(row).collect()
    };
    let rows = names(&checks);
    for name in names(&document.block("check-shows")) {
        assert!(rows.contains(&name), "{name} is no check:\n{checks}");
    }
    document.shows("verify-shows", &document.run(&cluster, "verify-from"));

    fs::remove_file(archive.join(IDENTITY)).expect("removed");
    document.shows("init-says", &document.run(&cluster, "init"));
    the_program(&cluster, &archive, &place);
    only_a_session_with_the_library_checks_values(&cluster);
    // docs/install.md: after that, the server no longer asks for the library.
    cluster.sql("ALTER SYSTEM SET archive_library = 'walsafe_archive'; SELECT pg_reload_conf()");
    Document::new("install.md").run(&cluster, "stop-using");
    let left = cluster.sql(
        "SELECT count(*) FROM pg_extension WHERE extname = 'walsafe_archive'
         UNION ALL SELECT count(*) FROM pg_file_settings
         WHERE name = 'archive_library' AND sourcefile LIKE '%auto.conf'",
    );
    assert_eq!(left, "0\n0");
}

/// docs/walsafe.md
fn the_program(cluster: &Cluster, archive: &Path, place: &Scratch) {
    let document = Document::new("walsafe.md")
        .with("/mnt/archive", archive)
        .with("/backup/2026-11-15", place.join("backups/base"))
        .with("/var/lib/postgresql/17/main", cluster.data())
        .with("/tmp/walsafe-verify", place.join("verified"));
    fs::remove_file(archive.join(IDENTITY)).expect("removed");
    document.run(cluster, "init-once");
    assert!(document.run(cluster, "verify-week").ends_with("no findings\n"));
    assert!(document.run(cluster, "verify-backup").ends_with("no findings\n"));
    assert!(document.run(cluster, "verify-accept").ends_with("no findings\n"));
    let checked = document.try_run(cluster, "check-before-promotion");
    assert!(matches!(checked.code(), Some(0 | 1)), "{checked:?}");
    // What cron runs; and docs/install.md.
    let line = document.block("cron-verify");
    let (_, command) = line.split_once("  postgres  ").expect("who, what");
    let mailed = run_within(&mut cluster.shell(command), "", TIMEOUT);
    assert!(mailed.success() && mailed.stdout.is_empty(), "{mailed:?}");
    let link = Document::new("install.md")
        .with("/usr/lib/postgresql/15/bin", &cluster.server().bindir)
        .with("/usr/local/bin", place.path());
    link.run(cluster, "link-program");
    assert!(place.join("walsafe").metadata().is_ok());
    let document = document.with("/mnt/backups", place.join("backups"));
    document.run(cluster, "manifest");
    let manifest = fs::read_to_string(place.join("backups/archive.b3")).expect("written");
    let names = scratch::names(archive);
    let listed = |line: &str| {
        line.split_once("  ").is_some_and(|(digest, name)| {
            digest.len() == 64 && names.iter().any(|there| there == name)
        })
    };
    assert!(!manifest.is_empty() && manifest.lines().all(listed), "{manifest}");
    require!(tool("b3sum"));
    let checked = document.run(cluster, "manifest-check");
    assert_eq!(checked.lines().count(), manifest.lines().count(), "{checked}");
}

/// ALTER SYSTEM with the library loaded and without.
fn only_a_session_with_the_library_checks_values(cluster: &Cluster) {
    let wrong = operations().with("'/mnt/archive'", "'archive'");
    let output = wrong.try_run(cluster, "alter-system");
    wrong.shows("refused", &output.stderr);
    let unknown = cluster.psql("ALTER SYSTEM SET walsafe_archive.workers = 'many'");
    if cluster.server().major <= 16 {
        assert!(unknown.unwrap_err().contains("unrecognized configuration parameter"));
    } else {
        unknown.expect("taken unchecked");
        cluster.sql("ALTER SYSTEM RESET ALL");
    }
    // The file has that one.
    let mark = cluster.mark();
    cluster
        .sql("ALTER SYSTEM SET walsafe_archive.destination = 'archive'; SELECT pg_reload_conf()");
    let refused = r#"invalid value for parameter "walsafe_archive.destination": "archive""#;
    cluster.wait_for_log(mark, refused);
    cluster.wait_archived(&cluster.switch_wal());
    let mark = cluster.mark();
    cluster.restart();
    cluster.switch_wal();
    cluster.wait_for_log(mark, "archiving is not configured");
    let quotes = cluster.log().since(mark).contains("\"archive_mode\" enabled, yet archiving");
    assert_eq!(quotes, cluster.server().major >= 17);
}

/// Without these steps, the last minutes before a loss are given up although they are there, or what is
/// recovered leaves a hole in the archive.
#[test]
fn what_the_lost_server_had_not_archived_is_recovered_and_archived() {
    let origin = Origin::with(|builder| builder.set("restore_command", "false"));
    let document = Document::new("point-in-time.md")
        .with("/mnt/archive", origin.archive.path())
        .with("/mnt/backups/base", origin.backup.data())
        .with(DATA, origin.primary.data());
    let restoring = operations().with("/mnt/archive", origin.archive.path());
    origin.row(1);
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    let between = origin.primary.sql("SELECT clock_timestamp()");
    chmod(origin.archive.path(), 0o500);
    origin.row(2);
    origin.row(3);
    origin.primary.sql("INSERT INTO rows VALUES (4)");
    origin.primary.kill_all();
    chmod(origin.archive.path(), 0o700);
    assert!(origin.primary.ready_files().len() > 3);

    document.run(&origin.primary, "old-aside");
    let verified = document.run(&origin.primary, "archive-by-hand");
    assert!(verified.ends_with("no findings\n"), "{verified}");
    document.run(&origin.primary, "put-in-place");
    document.run(&origin.primary, "last-wal-of-the-lost");
    for (name, value) in restoring.settings("restore-setting") {
        origin.primary.set_conf(&name, &value);
    }
    origin.primary.start();
    assert_eq!(rows_after_recovery(&origin.primary), "1,2,3,4");
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    assert_clean(origin.archive.path());

    // So the archive alone is enough now, to any point in time.
    let target = [
        ("recovery_target_time".to_owned(), between),
        ("recovery_target_action".to_owned(), "promote".to_owned()),
    ];
    let recovered = with(origin.recovery(), &target).start();
    assert_eq!(rows_after_recovery(&recovered), "1");
    let all = with(origin.recovery(), &restoring.settings("restore-stop")).start();
    assert_eq!(rows_after_recovery(&all), "1,2,3,4");
}

/// Without a second archive, `pg_wal` fills up during an outage of the first. Without the right
/// `restore_command`, a recovery from both ends early.
#[test]
fn another_archive_meanwhile_and_a_recovery_that_reads_both() {
    let origin = Origin::new();
    let place = Scratch::new("place");
    let (first, second) = (origin.archive.path().to_owned(), place.join("archive-2"));
    let document = emergencies().with("/mnt/archive-2", &second).with("/mnt/archive", &first);
    make_as_documented(&document, &origin.primary, "second-directory", &second);
    let away = Scratch::new("away");
    let hide = |archive: &Path| fs::rename(archive, away.join("archive")).expect("renamed");
    let show = |archive: &Path| fs::rename(away.join("archive"), archive).expect("renamed");
    origin.row(1);
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    hide(&first);
    origin.row(2);
    origin.primary.wait_failures(1);
    document.run(&origin.primary, "meanwhile");
    origin.lose();
    show(&first);

    let both = document.settings("restore-both-archives");
    assert_eq!(rows_after_recovery(&with(origin.recovery(), &both).start()), "1,2");
    hide(&first);
    refuses(&with(origin.recovery(), &both).create(), "Could not open the archive directory");
    show(&first);
    hide(&second);
    refuses(&with(origin.recovery(), &both).create(), "Could not open the archive directory");
    show(&second);
    // Nothing in the second archive shows that there is more.
    let begun = Scratch::new("begun");
    scratch::write(&begun.join(IDENTITY), scratch::read(&second.join(IDENTITY)));
    let nearly = emergencies().with("/mnt/archive-2", begun.path()).with("/mnt/archive", &first);
    hide(&first);
    let nearly = nearly.settings("restore-both-archives");
    let stopped = with(origin.recovery(), &nearly).create();
    refuses(&stopped, "Could not open the archive directory");
    show(&first);
    let filled = document.run(&origin.primary, "fill-up");
    assert!(filled.ends_with("no findings\n") && filled.contains(" 0 without"), "{filled}");
    assert_eq!(rows_after_recovery(&origin.recovery().start()), "1,2");
}

/// Without these steps, somebody deletes WAL that exists nowhere else.
#[test]
fn a_full_pg_wal_is_moved_and_nothing_is_lost() {
    require!(privileged());
    let (disk, roomy, archive) = (Mount::tmpfs(90), Scratch::new("roomy"), Scratch::new("archive"));
    let cluster = Cluster::archiving_to(archive.path()).home_in(disk.path()).start();
    cluster.sql("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)");
    chmod(archive.path(), 0o500);
    let mark = cluster.mark();
    let write = "SELECT pg_logical_emit_message(false, 'x', repeat('y', 900000)) FROM generate_series(1, 200)";
    cluster.psql(write).expect_err("no space");
    cluster.wait_for_log(mark, "PANIC:");
    emergencies().shows("full", &full(&cluster.log().since(mark)));
    if cluster.try_wait_exit(Duration::from_secs(2)).is_none() {
        cluster.stop(Stop::Immediate);
    }
    let document = emergencies().with(DATA, cluster.data()).with("/mnt/roomy", roomy.path());
    document.run(&cluster, "move-pg-wal");
    cluster.start();
    chmod(archive.path(), 0o700);
    cluster.switch_wal();
    cluster.wake_archiver();
    cluster.wait_all_archived();
    assert_eq!(cluster.sql("SELECT n FROM rows"), "1");
    assert_clean(archive.path());
    cluster.stop(Stop::Fast);
}

/// The PANIC in a log, as the documentation shows it: without what stands before, and the number.
fn full(log: &str) -> String {
    let line = log.lines().find_map(|line| Some(&line[line.find("PANIC:")?..])).expect("a PANIC");
    let number: String =
        line.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    line.replace(&number, "4711")
}

/// Without this page, a server that lost its library is believed to archive, or to need a restart.
#[test]
fn a_library_that_is_missing_is_reported_and_archiving_resumes_when_it_is_back() {
    let home = Scratch::new("server");
    let server = Server::under_test().copy_to(&home);
    require!(server.as_ref().map(|_| ()).map_err(Clone::clone));
    let server = server.expect("just looked at");
    let library = server.pkglibdir.join("walsafe_archive.so");
    fs::rename(&library, home.join("library")).expect("renamed");
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).server(&server).start();
    let log = cluster.wait_for_log(Mark::default(), "could not access file");
    emergencies().shows("no-library", &log);
    fs::rename(home.join("library"), &library).expect("renamed");
    let name = cluster.switch_wal();
    cluster.wait_until("the next archiver", || {
        // A connection wakes the server's main process, which starts it; or its clock, once a minute.
        cluster.sql("SELECT 1");
        cluster.is_archived(&name).then_some(())
    });
}

/// If the documentation had one version's words only, the messages of the others could not be found in it.
#[test]
fn a_command_beside_the_library_is_reported_as_documented() {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path()).start();
    let mark = cluster.mark();
    cluster.reconfigure("archive_command", "false");
    if cluster.server().major == 15 {
        // It uses the library.
        for name in cluster.fill_segments(3) {
            cluster.wait_archived(&name);
        }
        assert_eq!(cluster.stat_archiver().failed_count, 0);
        return;
    }
    let quote = if cluster.server().major >= 17 { "\"" } else { "" };
    let log = cluster.wait_for_log(
        mark,
        &format!("both {quote}archive_command{quote} and {quote}archive_library{quote} set"),
    );
    assert!(log.contains("FATAL"), "{log}");
}

/// Without the read-only mount point, the disk below it becomes the archive, unnoticed.
#[test]
fn an_archive_that_was_never_mounted_is_not_begun_on_the_disk_below() {
    require!(privileged());
    let disk = Mount::new(Fs::Ext4, 32);
    let document = operations().with("/mnt/archive", disk.path());
    disk.unmount();
    let cluster = Cluster::archiving_to(disk.path()).create();
    document.run_as_root(&cluster, "bare-mount-point");
    cluster.start();
    let mark = cluster.mark();
    cluster.switch_wal();
    cluster.wait_for_report(mark, "42501");
    assert!(scratch::names(disk.path()).is_empty());
    disk.mount();
    assert!(document.run_as_root(&cluster, "mounted").contains(path(disk.path())));
    cluster.wake_archiver();
    cluster.wait_all_archived();
    assert!(disk.join(IDENTITY).exists());
    cluster.stop(Stop::Fast);
    disk.unmount();
    let findmnt = document.block("mounted");
    let findmnt = findmnt.lines().next().expect("a line");
    assert_eq!(run_within(&mut cluster.shell(findmnt), "", TIMEOUT).code(), Some(1));
    disk.mount();
}

/// If the documentation did not quote the message, somebody whose recovery has stopped would not find it.
#[test]
fn what_stops_a_recovery_is_in_the_documentation() {
    let origin = Origin::new();
    origin.row(1);
    origin.lose();
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/emergencies.md"))
            .expect("the page");
    let page = page.split_once("## Recovery stops\n").expect("a section").1;
    let place = Scratch::new("place");
    let archive = origin.archive.path();
    let name = scratch::names(archive).into_iter().find(|name| name.len() == 24).expect("one");
    let says = |archive: &Path, name: &str, target: &Path, message: &str| {
        let run =
            walsafe_in(place.path(), &["restore", "--from", path(archive), name, path(target)]);
        assert!(run.code == Some(126) && run.err.contains(message), "{run:?}");
        assert!(page.contains(&format!("`{message}`")), "{message} is not documented");
    };
    let target = place.join("target");
    let empty = Scratch::new("empty");
    says(empty.path(), &name, &target, "the archive has no identity file");
    says(&place.join("none"), &name, &target, "could not open the archive directory");
    says(&place.join("none"), &name, &target, "No such file or directory");
    chmod(empty.path(), 0o000);
    says(empty.path(), &name, &target, "Permission denied");
    chmod(empty.path(), 0o700);
    let identity = String::from_utf8(origin.archive.read(IDENTITY)).expect("text");
    let id = origin.primary.system_identifier();
    let other = identity.replace(&id.to_string(), &(id + 1).to_string());
    scratch::write(&empty.join(IDENTITY), other);
    scratch::write(&empty.join(&name), origin.archive.read(&name));
    says(empty.path(), &name, &target, "the archived file is damaged or the wrong one");
    says(archive, &name, &place.join("none/target"), "could not write the restored file");
    // As a sentence that continues.
    let run = walsafe_in(place.path(), &["restore", "--from", path(archive), "a/b", path(&target)]);
    assert!(run.err.contains("file name \"a/b\" is not accepted"), "{run:?}");
    fs::create_dir_all(place.join("global")).expect("made");
    fs::copy(origin.primary.data().join("global/pg_control"), place.join("global/pg_control"))
        .expect("copied");
    scratch::give_away(&place.join("global"));
    scratch::give_away(&place.join("global/pg_control"));
    says(empty.path(), &name, &target, "the archive belongs to another cluster");

    // The server's own words.
    let command = format!("{}/nowhere/walsafe restore --from x %f \"%p\"", place.path().display());
    let stopped = origin.recovery().set("restore_command", &command).create();
    refuses(&stopped, "from archive: command not found");
    let stopped = origin.recovery().set("recovery_target_name", "never").create();
    refuses(&stopped, "recovery ended before configured recovery target was reached");
}
