//! From `cp`, rsync, basic_archive and pgBackRest to the module and back, on a running server under load:
//! the commands of docs/moving-over.md, word for word. No segment is lost on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::document::Document;
use crate::support::load::{
    assert_nothing_missing, assert_recovered, finish, keeps_wal, prepare, under_load,
};
use crate::support::recovery::{assert_clean, findings, path, refuses, walsafe};
use harness::command::{run, run_within};
use harness::server::as_server_user;
use harness::{Cluster, ClusterBuilder, Picture, Scratch, Server, Stop, TIMEOUT};
use harness::{archive, require, scratch, skip, tool};

const DOCUMENT: &str = "moving-over.md";
const IDENTITY: &str = "walsafe_archive.id";

fn with(builder: ClusterBuilder, settings: &[(String, String)]) -> ClusterBuilder {
    settings.iter().fold(builder, |builder, (name, value)| builder.set(name, value))
}

/// A cluster that archives as one of the document's blocks says.
fn archiving_as(document: &Document, block: &str) -> (Cluster, String) {
    let builder = keeps_wal(Cluster::builder().set("archive_mode", "on"));
    let cluster = with(builder, &document.settings(block)).start();
    let first = prepare(&cluster);
    (cluster, first)
}

/// Waits until the module has taken over, without load: connections make the server start the next
/// archiver, and it needs a file.
fn switch_until_taken_over(cluster: &Cluster, archive: &Path) {
    cluster.wait_until("the module to take over", || {
        cluster.switch_wal();
        archive.join(IDENTITY).exists().then_some(())
    });
}

/// Waits until the module has taken over and archived some files.
fn wait_taken_over(cluster: &Cluster, archive: &Path) {
    cluster.wait_until("the module to take over", || archive.join(IDENTITY).exists().then_some(()));
}

/// Moves over in the archive's own directory, under load, with the document's commands.
fn moves_over(old: &str, leftover: Option<&str>) {
    let archive = Scratch::new("archive");
    let document = Document::new(DOCUMENT).with("/mnt/archive", archive.path());
    let (cluster, first) = archiving_as(&document, old);
    let backup = cluster.base_backup_without_wal();
    if let Some(name) = leftover {
        scratch::write(&archive.join(name), "half a fi");
        let file = fs::File::options().write(true).open(archive.join(name)).expect("opened");
        file.set_modified(SystemTime::now() - Duration::from_secs(120)).expect("set");
    }
    let mut before = None;
    let acknowledged = under_load(&cluster, |load| {
        load.rows(&cluster, 20);
        // What the old tool is at may still change.
        let settled = cluster.done_files().into_iter().chain(leftover.map(str::to_owned));
        before = Some(Picture::of_files(archive.path(), settled));
        document.run(&cluster, "change");
        wait_taken_over(&cluster, archive.path());
        load.rows(&cluster, 20);
    });
    let last = finish(&cluster);
    assert_eq!(cluster.stat_archiver().failed_count, 0, "{}", cluster.log().text());
    let segments = assert_nothing_missing(&cluster, (&first, &last), |name| {
        archive::contents(archive.path(), name)
    });
    assert!(segments > 40, "{segments} segments are no load");
    let before = before.expect("taken");
    let after = Picture::of(archive.path()).only(|name| before.shows(name));
    assert_eq!(after, before, "a file of the old tool was changed");
    // The old tool's have no digest.
    let marked = |name: &str| {
        rustix::fs::getxattr(archive.join(name), "user.walsafe.content", &mut [0; 128][..]).is_ok()
    };
    assert!(!marked(&first) && marked(&last));

    let found = findings(archive.path());
    let kind = |name: &str| if name.starts_with('.') { "unknown" } else { "stray-temporary" };
    let expected: Vec<String> =
        leftover.iter().map(|name| format!("{name}: {}: ", kind(name))).collect();
    assert!(
        found.len() == expected.len()
            && found.iter().zip(&expected).all(|(line, begin)| line.starts_with(begin)),
        "{found:?}"
    );
    if let Some(name) = leftover {
        assert_eq!(archive.read(name), b"half a fi");
        fs::remove_file(archive.join(name)).expect("removed");
    }
    let checked = document.run(&cluster, "check");
    document.shows("moved-shows", &checked);
    assert!(checked.ends_with("no findings\n"), "{checked}");
    cluster.stop(Stop::Fast);

    let recovered = backup.restore_copy().recovery();
    let recovered = with(recovered, &document.settings("restore")).start();
    assert_recovered(&recovered, acknowledged);
}

/// If the change-over could lose a segment, administrators would stay with cp, or lose it.
#[test]
fn from_cp_no_segment_is_lost() {
    moves_over("cp", None);
}

#[test]
fn from_rsync_no_segment_is_lost_whatever_a_killed_one_left() {
    require!(tool("rsync"));
    moves_over("rsync", Some(".000000010000000000000009.Xy12ab"));
}

#[test]
fn from_basic_archive_no_segment_is_lost_whatever_a_killed_one_left() {
    if !Server::under_test().has_library("basic_archive") {
        skip("this server has no basic_archive");
        return;
    }
    moves_over("basic_archive", Some("archtemp.000000010000000000000009.42.1700000000000"));
}

/// Shows what happens to a move in two steps, or to one that was left half done.
#[test]
fn both_ways_set_at_once_delay_the_archiving_at_worst() {
    let archive = Scratch::new("archive");
    let document = Document::new(DOCUMENT).with("/mnt/archive", archive.path());
    let (cluster, first) = archiving_as(&document, "cp");
    under_load(&cluster, |load| {
        load.rows(&cluster, 5);
        cluster.set_conf("walsafe_archive.destination", path(archive.path()));
        let mark = cluster.mark();
        cluster.reconfigure("archive_library", "walsafe_archive");
        if cluster.server().major == 15 {
            wait_taken_over(&cluster, archive.path());
        } else {
            let line = cluster.wait_for_log(mark, "both ");
            assert!(line.contains("archive_command") && line.contains("archive_library"), "{line}");
            load.rows(&cluster, 20);
            assert!(!archive.join(IDENTITY).exists() && cluster.ready_files().len() > 10);
        }
        cluster.reconfigure("archive_command", "");
        wait_taken_over(&cluster, archive.path());
        load.rows(&cluster, 5);
    });
    let last = finish(&cluster);
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    assert_nothing_missing(&cluster, (&first, &last), |name| {
        archive::contents(archive.path(), name)
    });
    assert_clean(archive.path());
}

/// Without a way back, a move could not be undone on a server that must not stop.
#[test]
fn the_way_back_to_cp_loses_no_segment_either() {
    let archive = Scratch::new("archive");
    let document = Document::new(DOCUMENT).with("/mnt/archive", archive.path());
    let (cluster, first) = archiving_as(&document, "cp");
    document.run(&cluster, "change");
    switch_until_taken_over(&cluster, archive.path());
    under_load(&cluster, |load| {
        load.rows(&cluster, 10);
        document.run(&cluster, "back");
        // The old tool leaves no attributes.
        cluster.wait_until("cp to be back", || {
            let status = cluster.pg_wal().join("archive_status");
            let done = scratch::names(&status);
            let newest = done.iter().rev().find_map(|name| name.strip_suffix(".done"));
            let newest = newest.filter(|name| name.len() == 24).map(|name| archive.join(name));
            let ours = |path: &PathBuf| {
                rustix::fs::getxattr(path, "user.walsafe.content", &mut [0; 128][..]).is_ok()
            };
            newest.filter(|path| path.exists() && !ours(path))
        });
        load.rows(&cluster, 10);
    });
    let last = finish(&cluster);
    assert_eq!(cluster.stat_archiver().failed_count, 0, "{}", cluster.log().text());
    assert_nothing_missing(&cluster, (&first, &last), |name| {
        archive::contents(archive.path(), name)
    });
    assert_clean(archive.path());
}

/// A pgBackRest repository of a cluster.
struct Repository {
    dir: Scratch,
}

impl Repository {
    fn new() -> Self {
        let dir = Scratch::new("pgbackrest");
        for name in ["repo", "work"] {
            drop(dir.dir(name));
        }
        Self { dir }
    }

    /// Writes the configuration for a cluster and returns how pgBackRest is called with it.
    fn command(&self, data: &Path, sockets: &Path) -> String {
        let work = self.dir.join("work");
        let (repo, work) = (self.dir.join("repo"), path(&work));
        let conf = self.dir.join("pgbackrest.conf");
        let text = format!(
            "[global]\nrepo1-path={}\nspool-path={work}\nlock-path={work}\nlog-level-file=off\n\
             log-level-console=warn\ncompress-type=none\nrepo1-retention-full=9\nstart-fast=y\n\
             [main]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\n",
            path(&repo),
            path(data),
            path(sockets)
        );
        scratch::write(&conf, text);
        format!("pgbackrest --config={} --stanza=main", path(&conf))
    }

    /// A segment in the repository: `NAME-SHA1` below a directory for each version and 4 GB.
    fn stored(&self, name: &str) -> Option<PathBuf> {
        let stanza = self.dir.join("repo/archive/main");
        let versions = scratch::names(&stanza).into_iter().filter(|name| name.ends_with("-1"));
        let dirs: Vec<PathBuf> =
            versions.map(|version| stanza.join(version).join(&name[..16])).collect();
        let begin = format!("{name}-");
        dirs.iter().find_map(|dir| {
            let found = scratch::names(dir).into_iter().find(|file| file.starts_with(&begin))?;
            Some(dir.join(found))
        })
    }

    fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.stored(name).map(|path| scratch::read(&path))
    }
}

/// A cluster with a full backup that archives with pgBackRest, as the document says.
struct WithPgBackRest {
    repository: Repository,
    archive: Scratch,
    cluster: Cluster,
    document: Document,
    program: String,
    /// The first segment that is archived.
    first: String,
}

impl WithPgBackRest {
    /// `None`, and a skipped test, where pgBackRest does not know the version.
    fn new() -> Option<Self> {
        let (repository, archive) = (Repository::new(), Scratch::new("archive"));
        let builder = keeps_wal(Cluster::builder().set("archive_mode", "on"));
        let cluster = builder.set("archive_command", "").create();
        let program = repository.command(cluster.data(), cluster.socket_dir());
        let document = Document::new(DOCUMENT)
            .with("pgbackrest --stanza=main", &program)
            .with("/mnt/archive", archive.path())
            .with("/mnt/backups/base", archive.path().with_extension("base"));
        for (name, value) in document.settings("pgbackrest") {
            cluster.set_conf(&name, &value);
        }
        cluster.start();
        let create = format!("{program} stanza-create");
        let created = run_within(&mut cluster.shell(&create), "", TIMEOUT);
        if !created.success() && created.stderr.contains("unexpected control version") {
            skip(&format!("this pgBackRest does not know PostgreSQL {}", cluster.server().major));
            return None;
        }
        assert!(created.success(), "{created:?}");
        let first = prepare(&cluster);
        run(&mut cluster.shell(&format!("{program} --type=full backup")));
        Some(Self { repository, archive, cluster, document, program, first })
    }

    /// The document, for a data directory elsewhere.
    fn document_at(&self, home: &Scratch) -> Document {
        let program = self.repository.command(&home.join("data"), home.path());
        Document::new(DOCUMENT)
            .with("pgbackrest --stanza=main", &program)
            .with("/mnt/archive", self.archive.path())
    }

    /// The old tool's backup, by the old tool's restore.
    fn restored(&self) -> (Scratch, Document) {
        let home = Scratch::new("restored");
        drop(home.dir("data"));
        let document = self.document_at(&home);
        document.run(&self.cluster, "pgbackrest-restore");
        (home, document)
    }

    /// The backup that `new-backup` makes, with settings of the document.
    fn recovery(&self, base: &Scratch, restore: &str) -> ClusterBuilder {
        let home = Scratch::new("restored");
        let mut copy = Command::new("cp");
        run(as_server_user(&mut copy).arg("-a").arg(base.path()).arg(home.join("data")));
        scratch::write(&home.join("data/recovery.signal"), "");
        let settings = self.document_at(&home).settings(restore);
        with(ClusterBuilder::existing(home).set("archive_mode", "off"), &settings)
    }

    /// Puts the repository out of reach.
    fn lose_repository(&self) {
        let dir = &self.repository.dir;
        fs::rename(dir.join("repo"), dir.join("away")).expect("renamed");
    }

    /// A segment, wherever it is. What both have was archived by both, and is the same.
    fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let new = archive::contents(self.archive.path(), name);
        let old = self.repository.contents(name);
        assert!(old.is_none() || new.is_none() || old == new, "{name}");
        new.or(old)
    }
}

/// Without a `restore_command` that reads both, a move leaves a gap in what pgBackRest's backups can be
/// recovered to.
#[test]
fn from_pgbackrest_no_segment_is_lost_and_its_backups_are_recovered_across_the_move() {
    require!(tool("pgbackrest"));
    let Some(moved) = WithPgBackRest::new() else { return };
    let WithPgBackRest { archive, cluster, document, first, .. } = &moved;
    let mut acknowledged = under_load(cluster, |load| {
        load.rows(cluster, 10);
        document.run(cluster, "change");
        wait_taken_over(cluster, archive.path());
        load.rows(cluster, 10);
    });
    let base = Scratch::adopt(&archive.path().with_extension("base"));
    let verified = document.run(cluster, "new-backup");
    assert!(verified.ends_with("no findings\n"), "{verified}");
    cluster.sql(&format!("INSERT INTO rows VALUES ({})", acknowledged + 1));
    acknowledged += 1;
    let last = finish(cluster);
    assert_eq!(cluster.stat_archiver().failed_count, 0, "{}", cluster.log().text());
    assert_clean(archive.path());
    assert!(archive::names(archive.path())[0] > *first, "the old way archived nothing");
    assert_nothing_missing(cluster, (first, &last), |name| moved.contents(name));
    cluster.stop(Stop::Fast);

    let (home, document) = moved.restored();
    let auto = fs::read_to_string(home.join("data/postgresql.auto.conf")).expect("written");
    let (_, command) = document.settings("restore-both").remove(0);
    assert!(auto.contains(&command), "not what the document says: {auto}");
    let recovered = ClusterBuilder::existing(home).set("archive_mode", "off").start();
    assert_recovered(&recovered, acknowledged);
    drop(recovered);

    // It stops where the repository has lost a segment, and while all of it is out of reach.
    let stops = |reason: &str, lose: &dyn Fn()| {
        let (home, _) = moved.restored();
        lose();
        let stopped = ClusterBuilder::existing(home).set("archive_mode", "off").create();
        refuses(&stopped, reason);
    };
    let begins = &archive::names(archive.path())[0];
    let number = u32::from_str_radix(&begins[16..24], 16).expect("a segment's name");
    let before = format!("{}{:08X}", &begins[..16], number - 1);
    stops("the archive was begun later, and does not have the file", &|| {
        fs::remove_file(moved.repository.stored(&before).expect("the old way's last"))
            .expect("gone");
    });
    stops("could not restore file", &|| moved.lose_repository());

    // A backup of after the move needs the new archive alone.
    assert_recovered(&moved.recovery(&base, "restore").start(), acknowledged);
    assert_eq!(walsafe(&["list", path(archive.path())]).code, Some(0));
}

/// Without a `restore_command` that reads both, somebody who goes back to pgBackRest learns in a recovery
/// that neither archive has all of the WAL.
#[test]
fn back_to_pgbackrest_both_are_read_and_a_recovery_ends_only_where_both_do() {
    require!(tool("pgbackrest"));
    let Some(moved) = WithPgBackRest::new() else { return };
    let WithPgBackRest { archive, cluster, document, program, first, .. } = &moved;
    document.run(cluster, "change");
    switch_until_taken_over(cluster, archive.path());
    let base = Scratch::adopt(&archive.path().with_extension("base"));
    document.run(cluster, "new-backup");
    let acknowledged = under_load(cluster, |load| {
        load.rows(cluster, 5);
        document.run(cluster, "back");
        let newest = archive::names(archive.path()).pop().expect("some are there");
        cluster.wait_until("pgBackRest to be back", || {
            let last = cluster.stat_archiver().last_archived_wal?;
            (last > newest && moved.repository.contents(&last).is_some()).then_some(())
        });
        load.rows(cluster, 5);
    });
    run(&mut cluster.shell(&format!("{program} --type=full backup")));
    let last = finish(cluster);
    assert_eq!(cluster.stat_archiver().failed_count, 0, "{}", cluster.log().text());
    assert_nothing_missing(cluster, (first, &last), |name| moved.contents(name));
    cluster.stop(Stop::Fast);

    assert_recovered(&moved.recovery(&base, "restore-both").start(), acknowledged);
    // The new archive is at its end then: a mere `||` would end the recovery there.
    moved.lose_repository();
    let stopped = moved.recovery(&base, "restore-both").create();
    refuses(&stopped, "could not restore file");
}

/// Without the history files, neither `verify` nor a recovery from the new archive reaches the timeline's
/// segments. If they were copied before the first segment, they would look like another server's, and
/// archiving would stop.
#[test]
fn the_history_files_of_a_promoted_cluster_come_into_its_new_archive() {
    let (old, archive) = (Scratch::new("old"), Scratch::new("archive"));
    let (cluster, _) =
        archiving_as(&Document::new(DOCUMENT).with("/mnt/archive", old.path()), "cp");
    cluster.stop(Stop::Fast);
    scratch::write(&cluster.data().join("recovery.signal"), "");
    cluster.set_conf("restore_command", "false");
    cluster.start();
    cluster.wait_recovered();
    let document = Document::new(DOCUMENT)
        .with("/mnt/archive", archive.path())
        .with("/var/lib/postgresql/15/main", cluster.data());
    document.run(&cluster, "change");
    switch_until_taken_over(&cluster, archive.path());
    document.run(&cluster, "history");
    finish(&cluster);
    assert_eq!(cluster.stat_archiver().failed_count, 0, "{}", cluster.log().text());
    assert_clean(archive.path());
    let listed = walsafe(&["list", path(archive.path())]);
    assert!(listed.out.contains("timeline 2: ") && listed.out.contains("with history file"));
}
