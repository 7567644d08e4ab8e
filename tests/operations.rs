//! What administrators do with an archive: drills, retention, taking files away. The tests run the commands
//! of docs/recovery-drill.md and docs/retention.md, word for word.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::document::{Block, Document, blocks};
use crate::support::recovery::{
    Origin, Run, assert_clean, findings, path, refuses, restore_command, rows_after_recovery,
    walsafe, walsafe_in,
};
use harness::command::run_within;
use harness::{ClusterBuilder, Picture, Scratch, Stop, TIMEOUT, scratch};

/// A document of an archive and a base backup.
fn document(file: &'static str, origin: &Origin) -> Document {
    Document::new(file)
        .with("/mnt/backups/base", origin.backup.data())
        .with("/mnt/archive", origin.archive.path())
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("text")
}

/// README.md and what is in docs/.
fn pages() -> Vec<(String, Vec<Block>)> {
    let docs = repository("docs");
    let names = scratch::names(&docs).into_iter().filter(|name| name.ends_with(".md"));
    let files = names.map(|name| format!("docs/{name}")).chain(["README.md".to_owned()]);
    files.map(|file| (file.clone(), blocks(&read(&repository(&file))))).collect()
}

/// The tests' statements, without comments. tools/test-packages-inside is one too.
fn statements() -> Vec<String> {
    let tests = repository("tests");
    let of_sql = scratch::names(&tests.join("sql")).into_iter().map(|name| format!("sql/{name}"));
    let programs = scratch::names(&tests).into_iter().filter(|name| name.ends_with(".rs"));
    let programs = programs.chain(of_sql);
    let code = |text: String| {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.map(|line| format!("{line} ")).collect::<String>()
    };
    let text: String = programs.map(|name| code(read(&tests.join(name)))).collect();
    let mut statements: Vec<String> = text.split([';', '}']).map(str::to_owned).collect();
    statements.extend(read(&repository("tools/test-packages-inside")).lines().map(str::to_owned));
    statements
}

/// What takes a block of the documentation, by its name.
const USES: [&str; 11] = [
    ".run(",
    ".run_as_root(",
    ".try_run(",
    ".psql(",
    ".shows(",
    ".settings(",
    ".block(",
    "for block in [",
    // Functions of tests/administration.rs, tests/moving_over.rs and tools/test-packages-inside.
    "make_as_documented(",
    "moves_over(",
    "documented ",
];

/// Without this look, a command in the documentation is no longer run when the test that ran it has gone. A
/// name on a single page is used by that page's test, because otherwise `Document` finds no such block.
#[test]
fn every_marked_block_of_the_documentation_is_used_by_a_test() {
    let statements = statements();
    let mut marked = BTreeSet::new();
    for (page, blocks) in pages() {
        for block in blocks {
            let mark = block.mark.unwrap_or_default();
            let Some(name) = mark.strip_prefix("test: ") else { continue };
            assert!(marked.insert(name.to_owned()), "{page}: {name} is there twice");
            let quoted = format!("\"{name}\"");
            let uses = |statement: &&String| {
                let Some((before, _)) = statement.split_once(&quoted) else {
                    return statement.contains(&format!("documented {name} "));
                };
                USES.iter().any(|call| before.contains(call))
            };
            assert!(statements.iter().any(|s| uses(&s)), "{page}: no test uses {name}");
        }
    }
    assert!(marked.len() > 60, "{}", marked.len());
}

/// First words of commands and of SQL.
const COMMANDS: &str = " ANALYZE ALTER CREATE DROP LOAD SELECT SHOW TABLE apt apt-get b3sum bench/run bash cat \
    cd chmod chown cp createdb dpkg find findmnt for grep initdb install journalctl kill ln ls make mkdir mount \
    mv nice postgres_exporter promtool psql rm rpmbuild rsync sed sh sudo sync systemctl tools/setup touch umount until \
    walsafe ";

fn is_command(line: &str) -> bool {
    let word = line.split_whitespace().next().unwrap_or_default();
    let program = word.rsplit('/').next().unwrap_or_default();
    let setting = line.split_once(" = ").is_some_and(|(name, _)| {
        name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')
    });
    let assigned = word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    });
    let crontab = word.starts_with(|c: char| c.is_ascii_digit()) && line.contains(" * ");
    let known = |word: &str| !word.is_empty() && COMMANDS.contains(&format!(" {word} "));
    known(word) || known(program) || program.starts_with("pg_") || setting || assigned || crontab
}

/// Without this look, a command that nobody has ever run gets into the documentation.
#[test]
fn every_command_of_the_documentation_is_run_by_a_test_or_says_who_ran_it() {
    let mut by_hand = 0;
    for (page, blocks) in pages() {
        for block in blocks {
            let mark = block.mark.as_deref().unwrap_or_default();
            if mark.starts_with("by hand: ") {
                by_hand += 1;
                continue;
            }
            let command = block.text.lines().find(|line| is_command(line));
            assert!(
                mark.starts_with("test: ") || command.is_none(),
                "{page}, line {}: {command:?} has no mark \"test: NAME\" or \"by hand: WHAT, WHEN\"",
                block.line
            );
        }
    }
    assert!(by_hand > 0);
}

/// Without this comparison, two copies of a command drift apart, and no test runs one of them.
#[test]
fn what_stands_on_two_pages_is_the_same() {
    let [readme, operations] = ["../README.md", "operations.md"].map(Document::new);
    assert_eq!(readme.block("readme-directory"), operations.block("directory"));
    assert_eq!(readme.block("readme-configure"), operations.block("configure"));
    assert_eq!(readme.block("readme-works"), operations.block("does-it-work"));
    let moving = Document::new("moving-over.md");
    assert_eq!(readme.block("readme-change"), moving.block("change"));
    assert_eq!(moving.block("archive-directory"), operations.block("directory"));
    assert_eq!(operations.block("another-name"), Document::new("upgrading.md").block("reload"));
    let [restore, program] = ["operations.md", "walsafe.md"].map(Document::new);
    assert_eq!(restore.block("restore-setting"), program.block("restore-command"));
}

/// Without the settings of the drill, it takes the timeline that the real server needs, or proves nothing
/// because it read from somewhere other than the archive.
#[test]
fn a_drill_recovers_from_the_archive_and_changes_nothing_in_it() {
    let place = Scratch::new("drill");
    let trace = |name: &str| format!("touch {}", place.join(name).display());
    // What a recovery of this cluster does beside replaying; often enough for restartpoints.
    let origin = Origin::with(|builder| {
        builder
            .set("archive_cleanup_command", &trace("cleaned-up"))
            .set("recovery_end_command", &trace("ended"))
            .set("max_wal_size", "2MB")
    });
    let spaces = Scratch::new("tablespaces");
    let (live, copied) = (spaces.dir("live"), spaces.join("copied"));
    origin.primary.sql(&format!("CREATE TABLESPACE aside LOCATION '{}'", path(&live)));
    origin.primary.sql("ALTER TABLE rows SET TABLESPACE aside");
    let base = origin.primary.base_backup_moving(&live, &copied);
    let base = base.data();
    // As other tools make it: the server would set the link to the live one.
    let oid = origin.primary.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'aside'");
    scratch::write(&base.join("tablespace_map"), format!("{oid} {}\n", path(&live)));
    for _ in 0..4 {
        origin.primary.fill_whole_segments(2);
        origin.primary.sql("CHECKPOINT");
    }
    origin.row(1);
    origin.primary.sql("SELECT pg_create_restore_point('before_the_mistake')");
    origin.row(2);
    origin.primary.wait_all_archived();
    let document = Document::new("recovery-drill.md")
        .with("/mnt/backups/base", &base)
        .with("/mnt/archive", origin.archive.path())
        .with("/var/lib/postgresql/15/drill", place.join("drill"))
        .with("/var/lib/postgresql/drill.log", place.join("log"))
        .with("/var/lib/postgresql/drill-archive", place.join("archive"))
        .with("orders", "rows");
    let before = Picture::of(origin.archive.path());
    let backup = || [Picture::of(&base), Picture::of(&copied)];
    let untouched = backup();
    document.run(&origin.primary, "drill-copy");
    let copy = place.join("drill");
    let link = fs::read_link(copy.join("pg_tblspc").join(&oid)).expect("a link");
    assert!(link.starts_with(&copy), "{link:?}");
    assert!(!copy.join("tablespace_map").exists());
    let shown = document.run(&origin.primary, "drill");
    assert!(shown.contains("\n   1\n(1 row)"), "{shown}");
    let log = fs::read_to_string(place.join("log")).expect("a log");
    // It stopped to be looked at, and went on only then.
    let order =
        ["pausing at the end of recovery", "selected new timeline ID: 2", "recovery complete"];
    let places = order.map(|line| log.find(line).unwrap_or_else(|| panic!("{line}: {log}")));
    assert!(places.is_sorted(), "{log}");
    assert_eq!(Picture::of(origin.archive.path()), before);
    let listed = document.run(&origin.primary, "unchanged");
    document.shows("unchanged-shows", &listed);
    assert!(!listed.contains("timeline 2"), "{listed}");

    // With an archive of its own it archives there, and nowhere else.
    fs::remove_file(place.join("log")).expect("removed");
    document.run(&origin.primary, "drill-copy");
    let listed = document.run(&origin.primary, "drill-archive");
    document.shows("drill-archive-shows", &listed);
    assert!(listed.contains("timeline 2: ") && listed.contains("with history file"), "{listed}");
    assert_eq!(Picture::of(origin.archive.path()), before);
    assert_eq!(backup(), untouched, "a drill wrote into the backup");
    // The real server's commands, which a recovery runs, did not run.
    assert_eq!(place.names(), ["log"]);
    origin.row(3);
    origin.lose();
    assert_clean(origin.archive.path());
    assert_eq!(rows_after_recovery(&origin.recovery().start()), "1,2,3");
}

/// Has the archiver use another codec, and a few segments archived with it.
fn archive_some_as(origin: &Origin, codec: &str, extension: &str) {
    origin.primary.reconfigure("walsafe_archive.compression", codec);
    origin.primary.wait_until(codec, || {
        let name = origin.primary.switch_wal();
        origin.primary.wait_archived(&name);
        origin.stored(&format!("{name}{extension}")).exists().then_some(())
    });
    origin.primary.fill_segments(3);
    origin.primary.wait_all_archived();
}

/// The segments and partial segments in an archive before that one, whatever their timeline.
fn before(archive: &Scratch, start: &str, extensions: &[&str]) -> BTreeSet<String> {
    let old = |stored: &String| {
        let Some(extension) = extensions.iter().rev().find(|e| stored.ends_with(**e)) else {
            return false;
        };
        let name = &stored[..stored.len() - extension.len()];
        let segment = name.strip_suffix(".partial").unwrap_or(name);
        segment.len() == 24 && segment[8..] < start[8..]
    };
    archive.names().into_iter().filter(old).collect()
}

/// If the commands were wrong, a clean-up would remove what a recovery needs, or leave a codec's files for
/// ever.
#[test]
fn pg_archivecleanup_removes_what_is_before_the_oldest_backup_and_nothing_else() {
    let mut origin = Origin::new();
    for (codec, extension) in [("gzip:1", ".gz"), ("lz4", ".lz4"), ("zstd", ".zst")] {
        archive_some_as(&origin, codec, extension);
    }
    let partial = origin.primary.switch_wal();
    origin.primary.put_ready(&format!("{partial}.partial"), origin.primary.read_wal(&partial));
    // A second timeline: its history file has to stay.
    let primary = &origin.primary;
    primary.stop(Stop::Fast);
    primary.set_conf("restore_command", &restore_command(origin.archive.path()));
    scratch::write(&primary.data().join("recovery.signal"), "");
    primary.start();
    rows_after_recovery(primary);
    archive_some_as(&origin, "none", "");
    origin.backup = origin.primary.base_backup_without_wal();
    origin.row(1);
    origin.primary.wait_all_archived();
    let archive = &origin.archive;
    assert_clean(archive.path());

    let label = document("retention.md", &origin);
    let start = label.run(&origin.primary, "oldest").trim().to_owned();
    assert_eq!((start.len(), &start[..8]), (24, "00000002"));
    let document = document("retention.md", &origin).with("00000001000000000000002A", &start);
    let plain = before(archive, &start, &[""]);
    let zst = before(archive, &start, &["", ".zst"]);
    let all = before(archive, &start, &["", ".zst", ".lz4", ".gz"]);
    assert!(all.contains(&format!("{partial}.partial.zst")), "{all:?}");
    assert!(plain.len() > 3 && zst.len() > plain.len() + 3 && all.len() > zst.len() + 6, "{all:?}");
    let whole: BTreeSet<String> = archive.names().into_iter().collect();
    let left =
        |gone: &BTreeSet<String>| -> Vec<String> { whole.difference(gone).cloned().collect() };

    let listed = document.run(&origin.primary, "dry-run");
    assert_eq!(listed.lines().count(), plain.len());
    assert_eq!(archive.names(), left(&BTreeSet::new()), "a dry run removed something");
    document.run(&origin.primary, "clean");
    assert_eq!(archive.names(), left(&plain));
    document.run(&origin.primary, "clean-each");
    assert_eq!(archive.names(), left(&all));
    for kind in ["00000002.history", "walsafe_archive.id"] {
        assert!(archive.names().iter().any(|name| name.starts_with(kind)), "{kind}");
    }
    let backups = archive.names().iter().filter(|name| name.contains(".backup")).count();
    assert_eq!(backups, 2, "{:?}", archive.names());
    assert_clean(archive.path());
    let proof = document.run(&origin.primary, "prove");
    assert!(proof.ends_with("no findings\n"), "{proof}");
    origin.lose();
    assert_eq!(rows_after_recovery(&origin.recovery().start()), "1");
}

/// The page told how to clean up, and not for how long nor with which script; one with a mistake in it removes
/// what a backup needs, or never removes anything.
#[test]
fn the_script_that_keeps_two_backups_leaves_both_recoverable_and_removes_older_wal() {
    let origin = Origin::new();
    let backups = Scratch::new("backups");
    let document = document("retention.md", &origin).with("/mnt/backups", backups.path());
    let taken =
        || -> Vec<String> { backups.names().into_iter().filter(|name| name != ".lock").collect() };
    assert!(document.block("keep-two-cron").ends_with(" postgres keep-two-backups"));
    let mut all = BTreeSet::new();
    for n in 1..=3 {
        origin.row(n);
        document.run(&origin.primary, "keep-two");
        all.extend(taken());
        // The names are of whole seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    let kept: Vec<String> = all.iter().skip(1).cloned().collect();
    assert_eq!((all.len(), taken()), (3, kept.clone()));
    let listed = walsafe(&["list", "--json", path(origin.archive.path())]);
    let listed: serde_json::Value = serde_json::from_str(&listed.out).expect("JSON");
    let known = listed["timelines"][0]["base_backups"].as_array().expect("backups").clone();
    assert_eq!(known.last().expect("a backup")["label"], "pg_basebackup base backup");
    let begin = read(&backups.join(&kept[0]).join("backup_label"));
    let start = known[known.len() - 2]["start_segment"].as_str().expect("a segment");
    assert!(begin.contains(&format!("(file {start})")), "{begin}");
    let first = segments(&origin.archive).first().cloned();
    assert_eq!(first.as_deref(), Some(start), "older WAL stayed, or WAL of a backup went");
    assert_clean(origin.archive.path());

    // A finding: nothing is removed, and the script fails.
    let needed = known.last().expect("a backup")["start_segment"].as_str().expect("a segment");
    let away = take_away(&origin, &[needed.to_owned()]);
    let before = origin.archive.names();
    assert!(!document.try_run(&origin.primary, "keep-two").success());
    assert_eq!(taken().len(), 3);
    let names = origin.archive.names();
    assert!(before.iter().all(|name| names.contains(name)), "{before:?}\n{names:?}");
    put_back(&origin, &away);

    origin.row(4);
    origin.lose();
    for backup in kept {
        let label = backups.join(&backup).join("backup_label");
        let proof = walsafe(&["verify", "--from", path(&label), path(origin.archive.path())]);
        assert_eq!(proof.code, Some(0), "{proof:?}");
        let home = Scratch::new("restored");
        fs::rename(backups.join(&backup), home.join("data")).expect("moved");
        let restored = ClusterBuilder::existing(home)
            .set("archive_mode", "off")
            .recovery()
            .set("restore_command", &restore_command(origin.archive.path()))
            .start();
        assert_eq!(rows_after_recovery(&restored), "1,2,3,4");
    }
}

/// If one codec is left out, its files stay, with gaps between them.
#[test]
fn cleaning_one_codec_alone_leaves_the_others_files_and_verify_says_so() {
    let mut origin = Origin::new();
    for (codec, extension) in [("lz4", ".lz4"), ("zstd", ".zst")] {
        archive_some_as(&origin, codec, extension);
    }
    origin.backup = origin.primary.base_backup_without_wal();
    origin.row(1);
    origin.primary.wait_all_archived();
    let start = document("retention.md", &origin).run(&origin.primary, "oldest");
    let start = start.trim();
    let cleanup = |options: &str| {
        let command =
            format!("pg_archivecleanup -d {options} {} {start}", origin.archive.path().display());
        assert!(run_within(&mut origin.primary.shell(&command), "", TIMEOUT).success());
    };
    cleanup("-x .zst");
    assert!(!before(&origin.archive, start, &[".lz4"]).is_empty());
    let found = findings(origin.archive.path());
    assert!(found.len() == 1 && found[0].contains(": gap: "), "{found:?}");
    cleanup("-x .lz4");
    assert_clean(origin.archive.path());
    // Backup history files go where they are asked to.
    if origin.primary.server().major >= 17 {
        let backups = || origin.archive.names().iter().filter(|n| n.contains(".backup")).count();
        assert_eq!(backups(), 2);
        cleanup("-b -x .zst");
        assert_eq!(backups(), 1);
        assert_clean(origin.archive.path());
    }
}

/// What `walsafe restore` says about a file, outside a data directory.
fn restore(origin: &Origin, name: &str) -> Run {
    let place = Scratch::new("place");
    let target = place.join("segment");
    walsafe_in(
        place.path(),
        &["restore", "--from", path(origin.archive.path()), name, path(&target)],
    )
}

fn segments(archive: &Scratch) -> Vec<String> {
    archive.names().into_iter().filter(|name| name.len() == 24).collect()
}

/// Moves files out of the archive, as a job does that does not copy.
fn take_away(origin: &Origin, names: &[String]) -> Scratch {
    let away = Scratch::new("away");
    for name in names {
        fs::rename(origin.stored(name), away.join(name)).expect("renamed");
    }
    away
}

fn put_back(origin: &Origin, away: &Scratch) {
    for name in away.names() {
        fs::rename(away.join(&name), origin.stored(&name)).expect("renamed");
    }
}

/// Without this table, an administrator finds out during a recovery what a job must not take.
#[test]
fn what_a_job_has_taken_away_is_seen_unless_it_takes_the_newest_too() {
    let origin = Origin::new();
    origin.row(1);
    origin.row(2);
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    let (archive, names) = (origin.archive.path(), segments(&origin.archive));
    let count = names.len();

    let away = take_away(&origin, &names[..3]);
    assert_clean(archive);
    let listed = walsafe(&["list", path(archive)]);
    assert!(listed.out.contains(&names[3]) && !listed.out.contains(&names[0]), "{listed:?}");
    assert_eq!(restore(&origin, &names[1]).code, Some(126));
    put_back(&origin, &away);

    let away = take_away(&origin, &names[2..4]);
    let found = findings(archive);
    assert!(found.len() == 1 && found[0].starts_with(&format!("{}: gap: ", names[2])), "{found:?}");
    assert_eq!(restore(&origin, &names[3]).code, Some(126));
    put_back(&origin, &away);

    let others: Vec<String> =
        origin.archive.names().into_iter().filter(|name| name != "walsafe_archive.id").collect();
    let away = take_away(&origin, &others);
    let verified = walsafe(&["verify", path(archive)]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert_eq!(restore(&origin, &names[1]).code, Some(1));
    let check = walsafe(&["check", "--read-only", path(archive)]);
    assert!(check.out.contains("contents: 0 segments"), "{check:?}");
    put_back(&origin, &away);

    let away = take_away(&origin, &["walsafe_archive.id".to_owned()]);
    assert_eq!(restore(&origin, &names[1]).code, Some(126));
    assert_eq!(walsafe(&["verify", path(archive)]).code, Some(0));
    put_back(&origin, &away);

    assert_eq!(segments(&origin.archive).len(), count);
    assert_clean(archive);
}

/// Without these rules, copied WAL is replaced by another server's, or cannot be brought back.
#[test]
fn a_copy_at_another_place_keeps_conflicts_visible_and_brings_everything_back() {
    let origin = Origin::with(|builder| builder.set("wal_keep_size", "1GB"));
    origin.row(1);
    origin.row(2);
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    let objects = Scratch::new("objects");
    let document = document("retention.md", &origin).with("/mnt/objects", objects.path());
    let ship = || document.run(&origin.primary, "ship");
    let same = || {
        let again = document.run(&origin.primary, "ship");
        assert!(again.starts_with("copied nothing to "), "{again}");
    };
    scratch::write(&origin.stored(".walsafe.000000010000000000000009.elsewhere.1.0.tmp"), "x");
    ship();
    fs::remove_file(origin.stored(".walsafe.000000010000000000000009.elsewhere.1.0.tmp"))
        .expect("removed");
    assert_eq!(objects.names(), origin.archive.names(), "without the temporary file");
    same();
    let names = segments(&origin.archive);

    // Other contents under a name: refused while the first is here, ...
    let (conflict, gone) = (&names[1], &names[0]);
    let genuine = origin.archive.read(conflict);
    let mut other = genuine.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    scratch::write(&origin.primary.pg_wal().join(conflict), &other);
    let mark = origin.primary.mark();
    origin.primary.mark_ready_again(conflict);
    origin.primary.switch_wal();
    origin.primary.wait_for_report(mark, "58P02");
    assert_eq!(origin.archive.read(conflict), genuine);
    // ... and taken as new when the first was moved away. The copy does not replace the first with it.
    let away = take_away(&origin, std::slice::from_ref(conflict));
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    assert!(origin.archive.read(conflict) == other);
    let differs = document.try_run(&origin.primary, "ship");
    assert_eq!(differs.code(), Some(1), "{differs:?}");
    let says = format!("could not copy \"{conflict}\": the archive holds a different file");
    assert!(differs.stderr.contains(&says), "{differs:?}");
    assert!(objects.read(conflict) == genuine, "a file was replaced");
    fs::remove_file(origin.stored(conflict)).expect("removed");
    put_back(&origin, &away);
    scratch::write(&origin.primary.pg_wal().join(conflict), &genuine);
    ship();
    same();

    // A file that was taken away with its neighbours and is archived again stands alone, and is the same.
    let away = take_away(&origin, &names[..3]);
    origin.primary.mark_ready_again(gone);
    origin.primary.switch_wal();
    origin.primary.wait_all_archived();
    assert!(origin.archive.read(gone) == objects.read(gone));
    let found = findings(origin.archive.path());
    assert!(found.len() == 1 && found[0].starts_with(&format!("{}: gap: ", names[1])), "{found:?}");
    ship();
    same();
    drop(away);

    // The recovery stops at what is missing, and continues once that is brought back.
    origin.lose();
    ship();
    let newest = segments(&origin.archive).pop().expect("a segment");
    for name in segments(&origin.archive) {
        if name != newest {
            fs::remove_file(origin.stored(&name)).expect("removed");
        }
    }
    let recovery = origin.recovery().create();
    refuses(&recovery, "later WAL is there");
    let proof = document.run(&origin.primary, "bring-back");
    assert!(proof.ends_with("no findings\n"), "{proof}");
    recovery.start();
    assert_eq!(rows_after_recovery(&recovery), "1,2");
}
