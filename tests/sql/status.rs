//! Every column of `walsafe_archive_status` means what its name says.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use harness::command::run;
use harness::scratch::{chmod, make_dir, write};
use harness::{Cluster, Mount, Scratch, Stop, privileged, require};

use super::{archiving, number, start, status, wait_for};

const SEGMENT: f64 = 1048576.0;

/// The server counts a moment after the call, so its numbers follow.
#[track_caller]
fn wait_for_the_servers_counts(cluster: &Cluster) {
    let same = "a.archived_count = s.archived_count AND a.failed_count = s.failed_count
        AND a.last_archived_wal IS NOT DISTINCT FROM s.last_archived_wal
        AND a.last_failed_wal IS NOT DISTINCT FROM s.last_failed_wal
        AND coalesce(abs(extract(epoch FROM a.last_archived_time - s.last_archived_time)), 0) < 5
        AND coalesce(abs(extract(epoch FROM a.last_failed_time - s.last_failed_time)), 0) < 5";
    let sql = format!("SELECT {same} FROM pg_stat_archiver a, walsafe_archive_status s");
    cluster.wait_until("the server's own counts", || (cluster.sql(&sql) == "t").then_some(()));
}

fn record(cluster: &Cluster) -> PathBuf {
    cluster.data().join("pg_stat_tmp").join("walsafe_archive.stat")
}

fn status_file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.pg_wal().join("archive_status").join(name)
}

#[test]
fn the_row_tells_what_was_archived_and_how_much_of_it() {
    require!(privileged());
    let storage = Mount::tmpfs(64);
    let cluster = start(Cluster::archiving_to(storage.path()));
    assert_eq!(cluster.sql("SHOW shared_preload_libraries"), "");
    let names = cluster.fill_whole_segments(4);
    cluster.wait_all_archived();
    wait_for_the_servers_counts(&cluster);

    let archived = number(&cluster, "archived_count");
    assert!(archived >= 4.0, "{archived}");
    assert_eq!(status(&cluster, "state"), "ok");
    assert_eq!(status(&cluster, "destination"), storage.path().to_str().unwrap());
    assert_eq!(status(&cluster, "last_archived_wal"), *names.last().unwrap());
    assert_eq!(number(&cluster, "wal_bytes"), archived * SEGMENT);
    let stored = number(&cluster, "stored_bytes");
    let taken = |name: &String| storage.path().join(name).metadata().unwrap().blocks() * 512;
    let of_wal = |name: &&String| !name.starts_with("walsafe_archive.");
    assert_eq!(
        stored,
        harness::scratch::names(storage.path()).iter().filter(of_wal).map(taken).sum::<u64>()
            as f64
    );
    assert!(stored > 3.0 * SEGMENT, "{stored} of {archived}");
    let (busy, last) = (number(&cluster, "busy_ms"), number(&cluster, "last_ms"));
    assert!(last > 0.0 && busy > last && busy < 60_000.0, "{busy} ms, the last {last} ms");
    assert_eq!(status(&cluster, "backlog_files, backlog_bytes, oldest_waiting_age"), "0|0|");
    let none = "already_present_count, failed_count, last_failed_wal, last_failed_time, last_error,
        damaged_count, stats_reset";
    assert_eq!(status(&cluster, none), "0|0||||0|");
    let known = number(&cluster, "free_bytes");
    let really = free(storage.path());
    assert!((known - really).abs() < 2.0 * SEGMENT, "{known}, not {really}");
    let pg_wal = number(&cluster, "pg_wal_free_bytes");
    let really = free(&cluster.pg_wal());
    assert!(pg_wal > really * 0.5 && pg_wal < really * 2.0, "{pg_wal}, not {really}");
}

fn free(path: &Path) -> f64 {
    let stat = rustix::fs::statvfs(path).expect("a file system");
    (stat.f_bavail * stat.f_frsize) as f64
}

#[test]
fn with_compression_less_is_stored() {
    let archive = Scratch::new("archive");
    let cluster =
        start(Cluster::archiving_to(archive.path()).set("walsafe_archive.compression", "zstd"));
    cluster.fill_whole_segments(3);
    cluster.wait_all_archived();
    let taken: u64 = archive
        .names()
        .iter()
        .filter(|name| name.ends_with(".zst"))
        .map(|name| archive.join(name).metadata().unwrap().blocks() * 512)
        .sum();
    assert_eq!(number(&cluster, "stored_bytes"), taken as f64);
    assert!(taken < 2 * SEGMENT as u64, "{taken} bytes of three segments");
    assert_eq!(number(&cluster, "wal_bytes"), number(&cluster, "archived_count") * SEGMENT);
}

#[test]
fn failures_say_why_and_what_waits_piles_up_until_they_end() {
    let (archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    chmod(archive.path(), 0o500);
    let names = cluster.fill_segments(4);
    cluster.wait_failures(1);
    wait_for_the_servers_counts(&cluster);
    assert_eq!(status(&cluster, "state, last_failed_wal"), format!("failing|{}", names[0]));
    let error = status(&cluster, "last_error");
    assert!(error.contains("Permission denied"), "{error}");
    assert!(error.contains(archive.path().to_str().unwrap()), "{error}");
    let backlog = status(&cluster, "backlog_files, backlog_bytes");
    assert_eq!(backlog, format!("4|{}", 4 << 20));

    // The age is that of the oldest, and grows.
    let file = File::open(status_file(&cluster, &format!("{}.ready", names[2]))).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    let age = "extract(epoch FROM oldest_waiting_age)";
    let before = number(&cluster, age);
    assert!((7199.0..7300.0).contains(&before), "{before}");
    wait_for(&cluster, &format!("{age} > {before} + 0.5"));

    chmod(archive.path(), 0o700);
    cluster.switch_wal();
    cluster.wait_all_archived();
    wait_for_the_servers_counts(&cluster);
    assert_eq!(status(&cluster, "state, backlog_files, oldest_waiting_age"), "ok|0|");
    assert_eq!(status(&cluster, "last_error"), error, "the last failure stays to be read");
}

#[test]
fn a_missing_destination_is_waited_for() {
    let home = Scratch::new("archive");
    let destination = home.join("later");
    let cluster = start(Cluster::archiving_to(&destination));
    cluster.switch_wal();
    wait_for(&cluster, "state = 'waiting'");
    let error = status(&cluster, "last_error");
    assert!(error.contains("No such file or directory"), "{error}");
    make_dir(&destination);
    cluster.switch_wal();
    cluster.wait_all_archived();
    wait_for(&cluster, "state = 'ok'");
}

#[test]
fn a_server_that_does_not_archive_with_this_module_is_unconfigured() {
    let (archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    cluster.reconfigure("walsafe_archive.destination", "");
    wait_for(&cluster, "state = 'unconfigured' AND destination IS NULL");
    cluster.reconfigure("walsafe_archive.destination", archive.path().to_str().unwrap());
    wait_for(&cluster, "state = 'ok'");
    cluster.reconfigure("archive_library", "");
    wait_for(&cluster, "state = 'unconfigured'");
    cluster.set_conf("archive_library", "walsafe_archive");
    cluster.set_conf("archive_mode", "off");
    cluster.restart();
    assert_eq!(status(&cluster, "state"), "unconfigured");
    // What was counted stays to be read.
    assert!(number(&cluster, "archived_count") >= 1.0);
}

/// "ok" was shown while 16 and later refuse to archive, with two settings that say how.
#[test]
fn with_archive_command_set_too_the_state_is_what_the_server_makes_of_it() {
    let (_archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    wait_for(&cluster, "state = 'ok'");
    cluster.reconfigure("archive_command", "cp %p /x/%f");
    wait_until_set(&cluster, "archive_command", "cp %p /x/%f");
    let state = if cluster.server().major == 15 { "ok" } else { "unconfigured" };
    assert_eq!(status(&cluster, "state"), state);
}

/// The library's path is the documented way to have a new one loaded.
#[test]
fn the_module_is_known_by_the_last_part_of_its_path() {
    let (_archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    for (library, state) in [
        ("$libdir/walsafe_archive", "ok"),
        ("/srv/lib/walsafe_archive.so", "ok"),
        ("walsafe_archive_of_old", "unconfigured"),
        ("/srv/walsafe_archive/another", "unconfigured"),
    ] {
        cluster.reconfigure("archive_library", library);
        wait_until_set(&cluster, "archive_library", library);
        assert_eq!(status(&cluster, "state"), state, "{library}");
    }
}

fn wait_until_set(cluster: &Cluster, name: &str, value: &str) {
    let sql = format!("SHOW {name}");
    cluster.wait_until("the reload", || (cluster.sql(&sql) == value).then_some(()));
}

/// What was counted for one destination says nothing about the state of another.
#[test]
fn a_new_destination_is_starting_until_something_was_tried() {
    let (_archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    let home = Scratch::new("other");
    cluster.reconfigure("walsafe_archive.destination", home.path().to_str().unwrap());
    wait_for(&cluster, "state = 'starting' AND destination LIKE '%other'");
    cluster.wait_archived(&cluster.switch_wal());
    wait_for(&cluster, "state = 'ok'");
}

/// A fresh install showed no state at all.
#[test]
fn before_the_first_file_the_state_is_starting_and_the_log_says_when_archiving_begins_and_resumes()
{
    let (_used, cluster) = archiving();
    // Of the first one, the WAL of `CREATE EXTENSION` may have filled a segment by now.
    let archive = Scratch::new("fresh");
    let path = archive.path().display().to_string();
    cluster.reconfigure("walsafe_archive.destination", &path);
    wait_for(&cluster, &format!("state = 'starting' AND destination = '{path}'"));
    let lines = |word: &str| {
        let line = format!("LOG:  archiving to \"{path}\" {word}");
        cluster.log().text().matches(&line).count()
    };
    assert_eq!((lines("begins"), lines("resumes")), (0, 0));
    cluster.wait_archived(&cluster.switch_wal());
    cluster.wait_archived(&cluster.switch_wal());
    wait_for(&cluster, "state = 'ok'");
    assert_eq!((lines("begins"), lines("resumes")), (1, 0));
    let identifier = cluster.sql("SELECT system_identifier FROM pg_control_system()");
    let detail = format!("Cluster {identifier}, flush policy \"full\", compression \"none\".");
    assert!(cluster.log().text().contains(&detail), "{detail}");
    chmod(archive.path(), 0o500);
    cluster.switch_wal();
    cluster.wait_failures(1);
    chmod(archive.path(), 0o700);
    cluster.switch_wal();
    cluster.wait_all_archived();
    assert_eq!((lines("begins"), lines("resumes")), (1, 1));
}

/// The view said "unconfigured", and no destination, while the archiver went on with the one it had.
#[test]
fn a_refused_value_is_misconfigured_and_the_destination_is_the_one_in_use() {
    let (archive, cluster) = archiving();
    let path = archive.path().to_str().unwrap();
    cluster.wait_archived(&cluster.switch_wal());
    wait_for(&cluster, "state = 'ok'");
    let refused = |name: &str, value: &str, says: &str| {
        cluster.reconfigure(name, value);
        wait_for(&cluster, "state = 'misconfigured'");
        assert_eq!(status(&cluster, "destination"), path);
        let error = status(&cluster, "last_error");
        assert!(error.contains(says), "{error}");
        cluster.wait_archived(&cluster.switch_wal());
    };
    refused("walsafe_archive.destination", "archive", "is set to \"archive\", which is refused: ");
    cluster.reconfigure("walsafe_archive.destination", path);
    wait_for(&cluster, "state = 'ok' AND last_error IS NULL");
    // The server itself refuses the first two, before any check of ours.
    for (name, value, before) in
        [("workers", "many", "2"), ("fsync_policy", "some", "full"), ("compression", "rar", "none")]
    {
        let name = format!("walsafe_archive.{name}");
        refused(&name, value, &format!("\"{name}\" is set to \"{value}\", which is refused"));
        cluster.reconfigure(&name, before);
        wait_for(&cluster, "state = 'ok'");
    }
    // An archiver that starts with a refused destination has none.
    cluster.set_conf("walsafe_archive.destination", "archive");
    cluster.restart();
    assert_eq!(status(&cluster, "state, destination"), "misconfigured|");
}

/// The view showed no destination, or the one before.
#[test]
fn a_refused_destination_leaves_the_one_in_use_to_be_seen_before_anything_was_archived_there() {
    let (_used, cluster) = archiving();
    let archive = Scratch::new("fresh");
    let path = archive.path().to_str().unwrap();
    // The warning of the policy shows that the archiver has read the files.
    let mark = cluster.mark();
    cluster.set_conf("walsafe_archive.fsync_policy", "file");
    cluster.reconfigure("walsafe_archive.destination", path);
    cluster.wait_for_log(mark, "\"walsafe_archive.fsync_policy\" is \"file\"");
    wait_for(&cluster, &format!("state = 'starting' AND destination = '{path}'"));
    cluster.reconfigure("walsafe_archive.destination", "archive");
    wait_for(&cluster, &format!("state = 'misconfigured' AND destination = '{path}'"));
    let error = status(&cluster, "last_error");
    assert!(error.contains("is set to \"archive\", which is refused: "), "{error}");
    cluster.sql("SELECT walsafe_archive_reset()");
    assert_eq!(status(&cluster, "state, destination"), format!("misconfigured|{path}"));
    cluster.reconfigure("walsafe_archive.destination", path);
    wait_for(&cluster, &format!("state = 'starting' AND destination = '{path}'"));
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    assert!(archive.join(&name).exists());
    wait_for(&cluster, "state = 'ok'");
}

/// The view said "waiting" with a growing age, and somebody was paged for files that nobody will ask for.
#[test]
fn a_primary_that_became_a_standby_waits_for_nothing() {
    let home = Scratch::new("archive");
    let cluster = start(Cluster::archiving_to(&home.join("missing")));
    cluster.switch_wal();
    wait_for(&cluster, "state = 'waiting' AND oldest_waiting_age > '0'");
    cluster.stop(Stop::Fast);
    write(&cluster.data().join("standby.signal"), "");
    cluster.start();
    let shown = status(&cluster, "state, oldest_waiting_age IS NULL, backlog_files > 0");
    assert_eq!(shown, "standby|t|t");
    let mode =
        "SELECT status, detail FROM walsafe_archive_check() WHERE check_name = 'archive_mode'";
    let mode = cluster.sql(mode);
    assert!(mode.starts_with("ok|") && mode.contains("this server is a standby"), "{mode}");
    cluster.set_conf("archive_mode", "always");
    cluster.restart();
    wait_for(&cluster, "state = 'waiting' AND oldest_waiting_age > '0'");
}

/// In EUC_JP the view failed with "invalid byte sequence", and in LATIN1 the path was garbled.
#[test]
fn texts_can_be_read_in_databases_of_any_encoding() {
    let home = Scratch::new("archive");
    let archive = home.join("Büro 事務");
    make_dir(&archive);
    let cluster = start(Cluster::archiving_to(&archive));
    cluster.wait_archived(&cluster.switch_wal());
    wait_for(&cluster, "state = 'ok'");
    write(&archive.join("nötes.txt"), "x");
    let utf8 = "SET client_encoding TO 'UTF8';";
    let escaped = "B\\u00FCro \\u4E8B\\u52D9";
    for (encoding, path) in [
        ("UTF8", "Büro 事務"),
        ("SQL_ASCII", "Büro 事務"),
        ("LATIN1", escaped),
        ("EUC_JP", escaped),
    ] {
        cluster.sql(&format!(
            "CREATE DATABASE {encoding} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
        ));
        let ask = |sql: &str| {
            cluster.sql(&format!("\\connect {}\n{utf8} {sql}", encoding.to_lowercase()))
        };
        ask("CREATE EXTENSION walsafe_archive");
        let shown = ask("SELECT destination FROM walsafe_archive_status");
        assert!(shown.ends_with(path), "{encoding}: {shown}");
        let details = ask("SELECT detail FROM walsafe_archive_check()");
        assert!(details.contains(path), "{encoding}: {details}");
        let found = ask("SELECT file FROM walsafe_archive_verify() WHERE finding = 'unknown'");
        let name = if path == escaped { "n\\u00F6tes.txt" } else { "nötes.txt" };
        assert!(found.contains(name), "{encoding}: {found}");
    }
    // Messages too.
    std::fs::rename(&archive, home.join("elsewhere")).unwrap();
    for encoding in ["latin1", "euc_jp"] {
        let sql = format!("\\connect {encoding}\n{utf8} SELECT * FROM walsafe_archive_gaps()");
        let error = cluster.psql(&sql).unwrap_err();
        assert!(error.contains(escaped), "{encoding}: {error}");
    }
}

#[test]
fn a_file_that_the_archive_held_already_is_counted_as_such() {
    let (_archive, cluster) = archiving();
    let name = cluster.switch_wal();
    cluster.wait_archived(&name);
    let before = number(&cluster, "archived_count");
    let (done, ready) = (
        status_file(&cluster, &format!("{name}.done")),
        status_file(&cluster, &format!("{name}.ready")),
    );
    fs::rename(done, ready).unwrap();
    cluster.switch_wal();
    cluster.wait_all_archived();
    assert_eq!(number(&cluster, "archived_count"), before + 2.0);
    assert_eq!(number(&cluster, "already_present_count"), 1.0);
    wait_for_the_servers_counts(&cluster);
}

#[test]
fn damage_found_before_archiving_is_counted_and_the_file_archived() {
    let home = Scratch::new("archive");
    let destination = home.join("later");
    let cluster =
        start(Cluster::archiving_to(&destination).set("walsafe_archive.check_wal", "records"));
    let good = cluster.switch_wal();
    let name = cluster.fill_whole_segments(1).remove(0);
    let file = File::options().read(true).write(true).open(cluster.pg_wal().join(&name)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 400_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 400_000).unwrap();
    make_dir(&destination);
    cluster.switch_wal();
    cluster.wait_archived(&good);
    cluster.wait_archived(&name);
    wait_for(&cluster, "damaged_count = 1");
    assert_eq!(status(&cluster, "state"), "ok");
    assert!(destination.join(&name).exists());
}

#[test]
fn counts_continue_over_restarts_and_crashes() {
    let (_archive, cluster) = archiving();
    cluster.fill_segments(3);
    cluster.wait_all_archived();
    let before = number(&cluster, "archived_count");
    cluster.restart();
    assert!(number(&cluster, "archived_count") >= before);
    cluster.switch_wal();
    cluster.wait_all_archived();
    let later = number(&cluster, "archived_count");
    assert!(later > before, "{later} after {before}");
    cluster.kill_all();
    cluster.start();
    cluster.wait_all_archived();
    cluster.wait_archived(&cluster.switch_wal());
    let last = number(&cluster, "archived_count");
    assert!(last > later && number(&cluster, "wal_bytes") == last * SEGMENT, "{last}");
}

#[test]
fn a_torn_or_foreign_record_reads_as_unknown() {
    let (_archive, cluster) = archiving();
    cluster.fill_segments(2);
    cluster.wait_all_archived();
    let whole = fs::read(record(&cluster)).unwrap();
    let archived = number(&cluster, "archived_count");
    let mut flipped = whole.clone();
    flipped[20] ^= 4;
    let unknown = "state, num_nulls(last_archived_wal, last_archived_time, last_failed_wal,
        last_failed_time, last_error, archived_count, already_present_count, failed_count, wal_bytes,
        stored_bytes, busy_ms, last_ms, free_bytes, damaged_count, stats_reset)";
    for contents in [&whole[..whole.len() / 2], b"", b"another program's", &flipped] {
        write(&record(&cluster), contents);
        assert_eq!(status(&cluster, unknown), "starting|15", "{} bytes", contents.len());
        assert_eq!(status(&cluster, "destination IS NULL, backlog_files"), "f|0");
        cluster.sql("SELECT walsafe_archive_reset()");
    }
    fs::remove_file(record(&cluster)).unwrap();
    assert_eq!(status(&cluster, unknown), "starting|15");

    // A new archiver counts anew.
    write(&record(&cluster), &flipped);
    cluster.stop(Stop::Fast);
    write(&record(&cluster), &flipped);
    cluster.start();
    cluster.wait_archived(&cluster.switch_wal());
    let anew = number(&cluster, "archived_count");
    assert!(anew >= 1.0 && anew < archived, "{anew}, and {archived} before");
}

#[test]
fn a_reset_sets_the_counts_to_zero_and_nothing_else() {
    let (archive, cluster) = archiving();
    cluster.fill_segments(2);
    cluster.wait_all_archived();
    chmod(archive.path(), 0o500);
    cluster.switch_wal();
    wait_for(&cluster, "failed_count >= 3");
    cluster.sql("SELECT walsafe_archive_reset()");
    let zero = "archived_count, already_present_count, wal_bytes, stored_bytes, damaged_count";
    assert_eq!(status(&cluster, zero), "0|0|0|0|0");
    assert_eq!(status(&cluster, "last_archived_wal, last_archived_time"), "|");
    wait_for(&cluster, "stats_reset BETWEEN now() - interval '1 min' AND now()");
    assert_eq!(status(&cluster, "state, backlog_files"), "failing|1", "a reset repairs nothing");
    chmod(archive.path(), 0o700);
    cluster.switch_wal();
    cluster.wait_all_archived();
    assert_eq!(status(&cluster, "archived_count"), "2");
    cluster.restart();
    assert!(number(&cluster, "archived_count") < 6.0, "the reset is forgotten by a restart");
    assert_eq!(status(&cluster, "stats_reset IS NULL"), "f");
}

/// Other sessions know the settings as placeholders until the library is loaded: what a user has put
/// there must not become the destination.
#[test]
fn a_users_own_setting_does_not_change_the_destination() {
    let (archive, cluster) = archiving();
    cluster.wait_archived(&cluster.switch_wal());
    cluster.sql("CREATE ROLE mon LOGIN IN ROLE pg_monitor");
    let row = cluster.sql(
        "SET SESSION AUTHORIZATION mon;
         SET walsafe_archive.destination = '/var/tmp/evil';
         SELECT destination FROM walsafe_archive_status",
    );
    assert_eq!(row, archive.path().to_str().unwrap());
    let mut psql = cluster.client("psql");
    psql.env("PGUSER", "mon")
        .env("PGOPTIONS", "-c walsafe_archive.destination=/var/tmp/evil")
        .args(["-XAtqc", "SELECT destination FROM walsafe_archive_status"]);
    let row = run(&mut psql);
    assert!(!row.contains("evil"), "{row}");
}

/// How long it takes depends on what others do.
mod alone {
    use super::*;

    #[test]
    fn ten_thousand_waiting_files_are_counted_at_once() {
        let home = Scratch::new("archive");
        let cluster = start(Cluster::archiving_to(&home.join("missing")));
        // The server tries the first, and fails, before it would look at the others.
        let first = cluster.switch_wal();
        // The initdb of some versions fills a segment already.
        let own = cluster.ready_files().len();
        for n in 0..10_000 - own {
            write(
                &status_file(
                    &cluster,
                    &format!("00000001{:08X}{:08X}.ready", 1 + n / 256, n % 256),
                ),
                "",
            );
        }
        let began = Instant::now();
        let row = status(&cluster, "backlog_files, backlog_bytes, oldest_waiting_age IS NOT NULL");
        let took = began.elapsed();
        eprintln!("10,000 waiting files: the view took {took:?}, a new session included");
        assert_eq!(row, format!("10000|{}|t", 10_000_u64 << 20), "{first}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}
