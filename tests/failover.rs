//! A failover while the archive lags. The tests run the commands of docs/failover.md, word for word.

use std::path::Path;

use crate::support::document::Document;
use crate::support::recovery::{Origin, Run, assert_clean, path, rows_after_recovery, walsafe};
use harness::process;
use harness::scratch::chmod;
use harness::{Cluster, Mark, Scratch, Stop};
use rustix::process::Signal;

/// A primary whose archive lags, and a standby that has received all of its WAL.
struct Lagging {
    origin: Origin,
    standby: Cluster,
    /// The primary's segments that the archive lacks.
    lacking: Vec<String>,
}

impl Lagging {
    fn new() -> Self {
        let origin = Origin::new();
        let standby = origin.primary.streaming_standby().archive_to(origin.archive.path()).start();
        origin.row(1);
        origin.primary.switch_wal();
        origin.primary.wait_all_archived();
        // Storage that refuses, for the primary alone.
        origin.primary.reconfigure("walsafe_archive.destination", "/nonexistent/archive");
        origin.primary.switch_wal();
        origin.primary.wait_failures(1);
        origin.row(2);
        origin.row(3);
        origin.primary.switch_wal();
        origin.primary.sql("INSERT INTO rows VALUES (4)");
        standby.wait_replayed(&origin.primary.current_lsn());
        let lacking = origin.primary.ready_files();
        assert!(lacking.len() > 4, "{lacking:?}");
        Self { origin, standby, lacking }
    }

    fn document(&self) -> Document {
        Document::new("failover.md")
            .with("/var/lib/postgresql/15/standby", self.standby.data())
            .with("/var/lib/postgresql/15/main", self.origin.primary.data())
            .with("/mnt/archive", self.origin.archive.path())
            .with("/mnt/backups/base", self.origin.backup.data())
    }

    fn check(&self) -> Run {
        let data = path(self.standby.data());
        walsafe(&["check", "--read-only", "--pgdata", data, path(self.origin.archive.path())])
    }

    /// Everything that was committed is in the archive, on both sides of the switch.
    fn recovers(&self, rows: &str) {
        self.standby.sql("INSERT INTO rows VALUES (5)");
        self.standby.switch_wal();
        self.standby.wait_all_archived();
        assert_clean(self.origin.archive.path());
        // Nothing is left that could help, beside the archive.
        self.standby.stop(Stop::Immediate);
        assert_eq!(rows_after_recovery(&self.origin.recovery().start()), rows);
    }

    /// Promotes the standby while its checkpointer stands still: the checkpoint after a promotion removes what
    /// is marked as archived, and in a server as small as this one it may come before the archiver.
    fn promote(&self) -> Checkpointer {
        let checkpointer = Checkpointer::of(&self.standby);
        self.standby.promote();
        checkpointer
    }

    fn lines(&self, mark: Mark, text: &str) -> usize {
        self.standby.log().since(mark).lines().filter(|line| line.contains(text)).count()
    }
}

/// A checkpointer that stands still until this is dropped.
struct Checkpointer(i32);

impl Checkpointer {
    fn of(cluster: &Cluster) -> Self {
        let mut children = process::children(cluster.pid()).into_iter();
        let pid = children.find(|pid| process::title(*pid).contains("checkpointer"));
        let pid = pid.expect("a checkpointer");
        process::signal(pid, Signal::STOP);
        Self(pid)
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        process::signal(self.0, Signal::CONT);
    }
}

fn archived(archive: &Path, names: &[String]) -> bool {
    names.iter().all(|name| archive.join(name).exists())
}

const BROUGHT: &str = "archived WAL from before timeline 2 branched off, which the archive lacked";

/// The promoted standby had the last segments, marked as done, and removed them at its next checkpoint:
/// every backup from before ended there.
#[test]
fn a_promoted_standby_archives_what_the_lost_primary_had_not() {
    let lagging = Lagging::new();
    let archive = lagging.origin.archive.path();
    lagging.origin.primary.kill_all();
    let check = lagging.check();
    assert_eq!(check.code, Some(1), "{check:?}");
    let (first, last) = (&lagging.lacking[0], lagging.lacking.last().unwrap());
    let range = format!("{} complete segments: {first} to {last}", lagging.lacking.len());
    assert!(check.out.lines().next().unwrap().contains(&range), "{check:?}");
    assert!(!archived(archive, &lagging.lacking[..1]));

    let mark = lagging.standby.mark();
    let checkpointer = lagging.promote();
    lagging.standby.wait_archived("00000002.history");
    drop(checkpointer);
    assert!(archived(archive, &lagging.lacking));
    assert_eq!(lagging.lines(mark, BROUGHT), 1);
    assert_eq!(lagging.standby.stat_archiver().failed_count, 0);
    for name in &lagging.lacking {
        let there = lagging.origin.archive.read(name);
        assert!(there == lagging.origin.primary.read_wal(name), "{name}");
    }
    // The segment with the switch is the new timeline's.
    let current = lagging.origin.primary.pg_wal();
    let behind: Vec<String> = harness::scratch::names(&current)
        .into_iter()
        .filter(|name| name.len() == 24 && name > last)
        .collect();
    assert!(!behind.is_empty() && behind.iter().all(|name| !archive.join(name).exists()));
    lagging.standby.sql("CHECKPOINT");
    lagging.recovers("1,2,3,4,5");
}

/// If a segment is damaged or gone, the promotion goes on, the history file is archived, and one warning says
/// what a recovery will lack. Later segments are archived all the same: another standby may have the rest.
#[test]
fn what_the_promoted_standby_cannot_bring_is_one_warning() {
    let lagging = Lagging::new();
    lagging.origin.primary.kill_all();
    // It was replayed before.
    let damaged = lagging.standby.pg_wal().join(&lagging.lacking[1]);
    let mut contents = harness::scratch::read(&damaged);
    let middle = contents.len() / 2 + 1000;
    contents[middle] ^= 1;
    harness::scratch::write(&damaged, contents);
    let mark = lagging.standby.mark();
    let checkpointer = lagging.promote();
    lagging.standby.wait_archived("00000002.history");
    drop(checkpointer);
    let report = lagging.standby.wait_for_report(mark, "58P01");
    assert!(
        report.message.contains("lacks WAL of timeline 1 from before timeline 2"),
        "{report:?}"
    );
    assert!(report.detail.contains(&lagging.lacking[1]), "{report:?}");
    assert!(report.hint.contains("walsafe push --pgdata"), "{report:?}");
    lagging.standby.wait_all_archived();
    assert_eq!(lagging.standby.log().archiver_reports(mark).len(), 1);
    assert_eq!(lagging.standby.stat_archiver().failed_count, 0);
    let mut others = lagging.lacking.clone();
    let missing = others.remove(1);
    let archive = lagging.origin.archive.path();
    assert!(archived(archive, &others) && !archive.join(&missing).exists());
    // The way out of the HINT.
    lagging.document().run(&lagging.standby, "push-lost");
    lagging.recovers("1,2,3,4,5");
}

/// An archive that is down is why it lags. The checkpoint after the promotion removed the segments before the
/// archive was back.
#[test]
fn while_the_archive_is_down_the_promoted_standby_keeps_what_it_has_to_bring() {
    let lagging = Lagging::new();
    lagging.origin.primary.kill_all();
    let archive = lagging.origin.archive.path();
    chmod(archive, 0o000);
    let mark = lagging.standby.mark();
    let checkpointer = lagging.promote();
    lagging.standby.wait_for_report(mark, "42501");
    drop(checkpointer);
    lagging
        .standby
        .sql("INSERT INTO rows VALUES (5); SELECT pg_switch_wal(); CHECKPOINT; CHECKPOINT");
    chmod(archive, 0o700);
    lagging.standby.wake_archiver();
    lagging.standby.wait_archived("00000002.history");
    assert!(archived(archive, &lagging.lacking));
    lagging.standby.sql("DELETE FROM rows WHERE n = 5");
    lagging.recovers("1,2,3,4,5");
}

/// The page's way: look, push, promote, look again.
#[test]
fn the_documented_failover() {
    let lagging = Lagging::new();
    let after = Scratch::new("after");
    let document = lagging.document().with("/mnt/backups/after-failover", after.join("base"));
    for (name, value) in document.settings("failover-settings") {
        lagging.standby.set_conf(&name, &value);
    }
    lagging.origin.primary.kill_all();
    let checked = document.try_run(&lagging.standby, "check-standby");
    assert_eq!(checked.code(), Some(1), "{checked:?}");
    document.shows("check-standby-shows", &checked.stdout);
    let pushed = document.run(&lagging.standby, "push-standby");
    document.shows("push-standby-shows", &pushed);
    assert!(archived(lagging.origin.archive.path(), &lagging.lacking));
    let checked = lagging.check();
    assert!(checked.out.contains("ok       unarchived WAL: the archive has all "), "{checked:?}");

    let mark = lagging.standby.mark();
    document.run(&lagging.standby, "promote");
    lagging.standby.wait_recovered();
    lagging.standby.wait_archived("00000002.history");
    assert_eq!(lagging.lines(mark, BROUGHT), 0);
    // The lost primary's own last segment is behind the switch, and not complete.
    document.run(&lagging.standby, "push-lost");
    lagging.standby.sql("CREATE EXTENSION walsafe_archive");
    lagging.standby.switch_wal();
    lagging.standby.wait_all_archived();
    let proved = document.run(&lagging.standby, "prove-failover");
    assert!(proved.starts_with("ok|\n") && proved.ends_with("no findings\n"), "{proved}");
    let proved = document.run(&lagging.standby, "backup-after-failover");
    assert!(proved.ends_with("no findings\n"), "{proved}");
    lagging.recovers("1,2,3,4,5");
}

/// A shutdown while the archive is down leaves segments behind, and so does the promotion.
#[test]
fn the_documented_switchover() {
    let lagging = Lagging::new();
    let document = lagging.document();
    let ended = document.run(&lagging.origin.primary, "switchover-stop");
    assert!(ended.contains("pushed "), "{ended}");
    let checked = document.try_run(&lagging.standby, "check-standby");
    assert!(checked.stdout.contains("ok       unarchived WAL: "), "{checked:?}");
    let mark = lagging.standby.mark();
    document.run(&lagging.standby, "promote");
    lagging.standby.wait_recovered();
    lagging.standby.wait_archived("00000002.history");
    assert_eq!(lagging.standby.log().archiver_reports(mark), []);
    lagging.recovers("1,2,3,4,5");
}
