//! Several destinations: a file counts as archived once each of them has it, one that fails or hangs holds up no
//! other, and they come and go while the server runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::scratch::{self, make_dir};
use harness::{
    Cluster, ClusterBuilder, FuseMount, Mark, Mount, Picture, Report, Scratch, archive, privileged,
    require, tool, wait_until,
};

use crate::support::document::Document;

const IDENTITY: &str = "walsafe_archive.id";
const DESTINATION: &str = "walsafe_archive.destination";

/// The value of the setting that names these directories.
fn list(destinations: &[&Path]) -> String {
    let quoted = destinations.iter().map(|path| format!("\"{}\"", path.display()));
    quoted.collect::<Vec<_>>().join(", ")
}

fn archiving_to(destinations: &[&Path]) -> ClusterBuilder {
    Cluster::archiving_to(destinations[0]).set(DESTINATION, &list(destinations))
}

#[track_caller]
fn start(builder: ClusterBuilder) -> Cluster {
    let cluster = builder.start();
    cluster.sql("CREATE EXTENSION walsafe_archive");
    cluster
}

/// An expression over each row of the status view, in the view's order.
#[track_caller]
fn status(cluster: &Cluster, expression: &str) -> Vec<String> {
    let rows = cluster.sql(&format!("SELECT {expression} FROM walsafe_archive_status"));
    rows.lines().map(str::to_owned).collect()
}

#[track_caller]
fn wait_for_status(cluster: &Cluster, expression: &str, expected: &[String]) {
    let mut seen = Vec::new();
    let found = harness::wait::poll(harness::TIMEOUT, || {
        seen = status(cluster, expression);
        (seen == expected).then_some(())
    });
    assert!(found.is_some(), "{expression}: {seen:?} and not {expected:?}");
}

/// The archiver's WARNINGs of files that were not archived.
fn failures(cluster: &Cluster, mark: Mark) -> Vec<Report> {
    let mut reports = cluster.log().archiver_reports(mark);
    reports.retain(|report| report.message.contains("could not archive file"));
    reports
}

#[track_caller]
fn assert_holds(archive: &Path, cluster: &Cluster, names: &[String]) {
    for name in names {
        let there = archive::contents(archive, name);
        let there = there.unwrap_or_else(|| panic!("{} lacks {name}", archive.display()));
        assert!(there == cluster.read_wal(name), "{name} in {}", archive.display());
    }
}

#[track_caller]
fn forget_the_list(cluster: &Cluster) -> String {
    cluster.sql("SELECT count(DISTINCT destination) FROM walsafe_archive_check()")
}

/// The list was refused as a path with a comma.
#[test]
fn every_file_is_in_every_destination_before_it_counts_and_each_has_its_rows() {
    let home = Scratch::new("archives");
    let (first, second) = (home.dir("first"), home.dir("the second, and last"));
    let cluster =
        start(archiving_to(&[&first, &second]).set("walsafe_archive.compression", "zstd"));
    let names = cluster.fill_segments(6);
    for name in &names {
        cluster.wait_archived(name);
        assert_holds(&first, &cluster, std::slice::from_ref(name));
        assert_holds(&second, &cluster, std::slice::from_ref(name));
    }
    let shown = [first.display().to_string(), second.display().to_string()];
    for path in &shown {
        let line = format!("LOG:  archiving to \"{path}\" begins");
        assert_eq!(cluster.log().text().matches(&line).count(), 1, "{path}");
    }
    let begins = scratch::names(&first).iter().find(|name| name.len() > 24).cloned().unwrap();
    let begins = begins.trim_end_matches(".zst");
    let expected = shown.each_ref().map(|path| format!("{path}|ok|t|0|{begins}"));
    let row = "destination, state, archived_count >= 6, failed_count, complete_from";
    wait_for_status(&cluster, row, &expected);
    let identity = String::from_utf8(scratch::read(&second.join(IDENTITY))).unwrap();
    assert!(identity.contains(&format!("begins_with = {begins}\n")), "{identity}");

    // One more row than destinations: what is said of the server has none.
    assert_eq!(forget_the_list(&cluster), "2");
    let directories =
        "SELECT destination FROM walsafe_archive_check() WHERE check_name = 'identity'
        AND status = 'ok'";
    assert_eq!(cluster.sql(directories), shown.join("\n"));
    let tested = "SELECT destination, status FROM walsafe_archive_test()";
    assert_eq!(cluster.sql(tested), shown.each_ref().map(|path| format!("{path}|ok")).join("\n"));

    let (damaged, lost) = (format!("{}.zst", names[1]), format!("{}.zst", names[3]));
    scratch::write(&first.join(damaged), "damage");
    fs::remove_file(second.join(lost)).unwrap();
    let found = cluster.sql(
        "SELECT destination, file, finding = 'gap' FROM walsafe_archive_verify() ORDER BY 1, 2",
    );
    let expected = format!("{}|{}.zst|f\n{}|{}|t", shown[0], names[1], shown[1], names[3]);
    assert_eq!(found, expected);
    let gaps = format!("{}|{}", shown[1], names[3]);
    assert_eq!(cluster.sql("SELECT destination, file FROM walsafe_archive_gaps()"), gaps);
    let one = format!("SELECT count(*) FROM walsafe_archive_gaps('{}')", shown[0]);
    assert_eq!(cluster.sql(&one), "0");
    // One that cannot be read is a row, and what was found in the other counts.
    fs::rename(&first, home.join("away")).unwrap();
    let found = cluster.sql("SELECT destination, finding FROM walsafe_archive_gaps() ORDER BY 1");
    assert_eq!(found, format!("{}|unreadable\n{}|gap", shown[0], shown[1]));
}

/// The pool of a sound destination stopped four files a worker past what the server had asked for.
#[test]
fn one_that_is_not_there_is_named_and_the_other_gets_the_whole_backlog() {
    let home = Scratch::new("archives");
    let (sound, away) = (home.dir("sound"), home.join("away"));
    scratch::write(&away, "not a directory");
    let cluster = start(archiving_to(&[&sound, &away]));
    let mark = cluster.mark();
    let first = cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "58P01");
    let (good, bad) = (sound.display(), away.display());
    let waiting = &cluster.ready_files()[0];
    let message = format!("could not archive file \"{waiting}\" to \"{bad}\": could not open");
    assert!(report.message.starts_with(&message), "{report:?}");
    assert!(report.detail.contains(&format!("\"{bad}\": Not a directory")), "{report:?}");
    for says in [
        format!(
            "To go on without \"{bad}\": ALTER SYSTEM SET {DESTINATION} = '{good}'; SELECT pg_reload_conf();"
        ),
        "one copy fewer of each file".to_owned(),
        format!("\"walsafe copy {good} {bad}\" to catch up"),
    ] {
        assert!(report.hint.contains(&says), "{report:?}");
    }
    // More than the threads would have gone ahead, in a minute in which the server asks for nothing.
    let mut names = cluster.fill_segments(24);
    names.insert(0, first);
    wait_until(harness::TIMEOUT, "the whole backlog in the sound one", || {
        names.iter().all(|name| sound.join(name).exists()).then_some(())
    });
    assert!(names.iter().all(|name| !cluster.is_archived(name)));
    let again = |report: &Report| report.message.contains(&format!("to \"{bad}\":"));
    assert!(failures(&cluster, mark).iter().all(again));
    cluster.wake_archiver();
    let row = "destination, state, failed_count > 0, backlog_files = 0, oldest_waiting_age IS NULL";
    let expected = [format!("{good}|ok|f|t|t"), format!("{bad}|waiting|t|f|f")];
    wait_for_status(&cluster, row, &expected);
    let counted = format!("{}", cluster.ready_files().len());
    assert_eq!(status(&cluster, "backlog_files")[1], counted);

    // It comes back: all is there, and the sound one is not written again.
    let before = Picture::of(&sound).only(|name| names.iter().any(|known| known == name));
    fs::remove_file(&away).unwrap();
    make_dir(&away);
    cluster.switch_wal();
    cluster.wake_archiver();
    cluster.wait_all_archived();
    assert_holds(&away, &cluster, &names);
    let after = Picture::of(&sound).only(|name| names.iter().any(|known| known == name));
    assert_eq!(before, after);
    wait_for_status(&cluster, "state, backlog_files", &["ok|0".to_owned(), "ok|0".to_owned()]);
    let counts = status(&cluster, "archived_count");
    assert_eq!(counts[0], counts[1], "a file counts once");
}

/// Both are named in one message.
#[test]
fn if_all_fail_each_is_named_and_none_is_to_be_taken_out() {
    let home = Scratch::new("archives");
    let (first, second) = (home.join("first"), home.join("second"));
    let cluster = archiving_to(&[&first, &second]).start();
    let mark = cluster.mark();
    cluster.switch_wal();
    let report = cluster.wait_for_report(mark, "58P01");
    assert!(report.message.ends_with(" to 2 of 2 destinations"), "{report:?}");
    let lines: Vec<_> = report.detail.lines().collect();
    for (line, path) in lines.iter().zip([&first, &second]) {
        let says = format!("\"{}\": could not open the archive directory: ", path.display());
        assert!(line.starts_with(&says), "{report:?}");
    }
    assert_eq!(lines.len(), 2, "{report:?}");
    assert!(!report.hint.contains("ALTER SYSTEM"), "{report:?}");
    cluster.wait_for_log(mark, "Same as above, for the 2nd time");
    make_dir(&first);
    make_dir(&second);
    cluster.switch_wal();
    cluster.wake_archiver();
    cluster.wait_all_archived();
}

/// A reload waited for the call that hung. The server stopped when `pg_wal` was full.
#[test]
fn one_that_hangs_is_taken_out_by_a_reload_while_the_call_hangs_and_pg_wal_is_nearly_full() {
    require!(privileged());
    require!(tool("bindfs"));
    let (disk, sound, hung) = (Mount::tmpfs(110), Scratch::new("sound"), FuseMount::new());
    let document = Document::new("operations.md")
        .with("/mnt/archive", sound.path())
        .with("/mnt/second", hung.path());
    let settings = document.settings("two-destinations");
    let [(_, both)] = &settings[..] else { panic!("{settings:?}") };
    let builder = archiving_to(&[sound.path()]).set(DESTINATION, both).home_in(disk.path());
    let cluster = start(builder.set("walsafe_archive.stall_timeout", "10min"));
    cluster.wait_archived(&cluster.switch_wal());
    let archiver = cluster.wait_archiver();
    let before = cluster.stat_archiver().failed_count;
    let (mark, hang) = (cluster.mark(), hung.stall());
    let names = cluster.fill_segments(5);
    wait_until(harness::TIMEOUT, "the sound one to go on", || {
        names.iter().all(|name| sound.join(name).exists()).then_some(())
    });
    assert!(names.iter().all(|name| !cluster.is_archived(name)), "it does not hang");
    let ballast = disk.fill_but(3 << 20);
    let began = Instant::now();
    document.run(&cluster, "take-out");
    names.iter().for_each(|name| cluster.wait_archived(name));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(failures(&cluster, mark), []);
    let line = cluster.wait_for_log(mark, "waits while the configuration is read again");
    assert!(line.contains("LOG:"), "{line}");
    assert!(cluster.log().since(mark).contains(&format!("moved at \"{}\"", hung.path().display())));
    // Once for each look of the server, and not more often.
    assert!(cluster.stat_archiver().failed_count <= before + 2);
    fs::remove_file(ballast).unwrap();
    assert_eq!(status(&cluster, "destination, state"), [format!("{}|ok", sound.path().display())]);
    cluster.wait_archived(&cluster.switch_wal());
    assert_eq!(cluster.archiver_pid(), Some(archiver), "the archiver was restarted");

    // It is put back, and begins with the next file.
    drop(hang);
    let mark = cluster.mark();
    cluster.alter_system(DESTINATION, both);
    let next = cluster.wait_until("a file in both", || {
        let next = cluster.switch_wal();
        cluster.wait_archived(&next);
        archive::contents(hung.path(), &next).map(|_| next)
    });
    assert_holds(sound.path(), &cluster, &[next]);
    assert_eq!(failures(&cluster, mark), []);
}

/// A reload that leaves a destination alone fails no call that moves, and hides no failure.
#[test]
fn a_reload_without_a_hang_ends_no_call() {
    require!(privileged());
    // Where no flush takes as long as a hang.
    let storage = Mount::tmpfs(64);
    let (first, second) = (storage.dir("first"), storage.dir("second"));
    let cluster = archiving_to(&[&first, &second]).start();
    cluster.wait_archived(&cluster.switch_wal());
    let mark = cluster.mark();
    for _ in 0..10 {
        cluster.reload();
        cluster.wait_archived(&cluster.switch_wal());
    }
    assert_eq!(cluster.stat_archiver().failed_count, 0);
    assert_eq!(cluster.log().archiver_reports(mark), []);
    assert!(!cluster.log().since(mark).contains("configuration is read again"));
}

/// Without `begins_with`, what a destination lacks from before it was added would be a hole.
#[test]
fn a_destination_that_is_added_begins_with_the_next_file() {
    let home = Scratch::new("archives");
    let (first, added) = (home.dir("first"), home.dir("added"));
    let cluster = start(archiving_to(&[&first]));
    let before = cluster.fill_segments(3);
    before.iter().for_each(|name| cluster.wait_archived(name));
    let mark = cluster.mark();
    cluster.alter_system(DESTINATION, &list(&[&first, &added]));
    wait_for_status(
        &cluster,
        "destination, state",
        &[format!("{}|ok", first.display()), format!("{}|starting", added.display())],
    );
    let next = cluster.switch_wal();
    cluster.wait_archived(&next);
    // The archiver may have taken this file before it read its configuration.
    let last = cluster.switch_wal();
    cluster.wait_archived(&last);
    let there = archive::names(&added);
    assert!(there.contains(&last), "{there:?}");
    assert!(before.iter().all(|name| !there.contains(name)), "{there:?}");
    let begins = there.iter().find(|name| name.len() == 24).unwrap();
    wait_for_status(
        &cluster,
        "destination, state, complete_from",
        &[
            format!(
                "{}|ok|{}",
                first.display(),
                archive::names(&first).iter().find(|name| name.len() == 24).unwrap()
            ),
            format!("{}|ok|{begins}", added.display()),
        ],
    );
    assert_eq!(cluster.sql("SELECT * FROM walsafe_archive_gaps()"), "");
    assert_eq!(failures(&cluster, mark), []);
    // Another archiver, and the server after it, go on with both.
    cluster.restart();
    cluster.wait_archived(&cluster.switch_wal());
    assert_eq!(status(&cluster, "state"), ["ok", "ok"]);
    assert!(status(&cluster, "complete_from")[1] == *begins);
}

/// One copy would have counted as two.
#[test]
fn one_directory_by_two_paths_is_refused() {
    let home = Scratch::new("archives");
    let (real, link) = (home.dir("real"), home.join("link"));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let other = home.dir("other");
    let cluster = start(archiving_to(&[&real, &other]));
    cluster.wait_archived(&cluster.switch_wal());
    let both = list(&[&real, &link]);
    let refused = cluster
        .psql(&format!("LOAD 'walsafe_archive';\nALTER SYSTEM SET {DESTINATION} = '{both}'"))
        .expect_err("one directory");
    assert!(refused.contains("22023") && refused.contains("are one directory"), "{refused}");
    // What nobody has looked at, the first file finds out.
    cluster.reconfigure(DESTINATION, &both);
    let mark = cluster.mark();
    let name = cluster.wait_until("a failure", || {
        let name = cluster.switch_wal();
        (!failures(&cluster, mark).is_empty()).then_some(name)
    });
    let report = cluster.wait_for_report(mark, "22023");
    // Nothing is to be said of one of them that is not true of the other.
    assert!(report.message.contains("a setting cannot be used"), "{report:?}");
    let (first, second) = (real.display(), link.display());
    assert!(
        report.detail.contains(&format!("\"{first}\""))
            && report.detail.contains(&format!("\"{second}\"")),
        "{report:?}"
    );
    assert!(report.detail.contains("are one directory"), "{report:?}");
    let check =
        "SELECT status, detail FROM walsafe_archive_check() WHERE check_name = 'destination'";
    let check = cluster.sql(check);
    assert!(check.starts_with("error|") && check.contains("are one directory"), "{check}");
    cluster.wait_failures(2);
    assert!(!cluster.is_archived(&name));
    fs::remove_file(&link).unwrap();
    make_dir(&link);
    cluster.switch_wal();
    cluster.wake_archiver();
    cluster.wait_all_archived();
    assert_holds(&real, &cluster, std::slice::from_ref(&name));
    assert_holds(&link, &cluster, std::slice::from_ref(&name));
}
