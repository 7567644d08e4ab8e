//! Fetching ahead where the history takes a turn: other timelines, promotions, targets, damage, holes and the end of
//! the archive, several recoveries at once, and kills at any moment.

use std::thread;
use std::time::Duration;

use harness::object::{Kind, ObjectServer};
use harness::process;
use harness::{Cluster, Scratch, Stop, TIMEOUT, dose, require, rng, scratch, wait_until};
use rustix::process::Signal;

use crate::support::ahead::{
    ALL, Far, PROMPT, Stopped, fetched_ahead, held, next, restored, spool,
};
use crate::support::recovery::{refuses, rows, rows_after_recovery};

/// Segments behind the switch are fetched of both timelines, and one of them is delivered.
#[test]
fn a_recovery_follows_its_timeline_though_others_go_on() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost_with(6);
    let second = far.near.archiving(far.early("promote")).start();
    assert_eq!(rows_after_recovery(&second), "1,2");
    far.assert_over(&spool(&second));
    for n in 12..=15 {
        second.sql(&format!("INSERT INTO rows VALUES ({n})"));
        second.fill_whole_segments(2);
    }
    second.wait_all_archived();
    second.stop(Stop::Fast);
    for (timeline, expected) in [("latest", "1,2,12,13,14,15"), ("1", "1,2,3,4,5,6")] {
        let cluster = far.recovery("").set("recovery_target_timeline", timeline).start();
        assert_eq!(rows_after_recovery(&cluster), expected, "{timeline}");
        let ahead = fetched_ahead(&cluster.log().text());
        assert!(!ahead.is_empty(), "{timeline}");
        far.assert_over(&spool(&cluster));
    }
}

/// A standby that has only the archive follows another one that was promoted, and is promoted itself.
#[test]
fn a_standby_follows_a_promotion_and_is_promoted() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::new();
    let other = far.near.archiving(far.primary.streaming_standby()).start();
    let standby = far.standby("").start();
    far.row(1);
    far.row(2);
    standby.wait_replayed(&far.primary.sql("SELECT pg_switch_wal()"));
    far.row(3);
    other.wait_replayed(&far.primary.current_lsn());
    far.lose();
    other.promote();
    for n in 4..=6 {
        other.sql(&format!("INSERT INTO rows VALUES ({n})"));
        other.fill_whole_segments(2);
    }
    standby.wait_until("the rows", || (rows(&standby) == "1,2,3,4,5,6").then_some(()));
    standby.promote();
    assert_eq!(standby.current_segment()[..8], *"00000003");
    far.assert_over(&spool(&standby));
}

/// The server restores what the archive has before it is promoted.
#[test]
fn a_promotion_in_the_middle_loses_nothing() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let stopped = Stopped::new(|builder| builder);
    let Stopped { far, standby, .. } = &stopped;
    standby.sql("SELECT pg_promote(false)");
    stopped.go_on();
    assert_eq!(rows_after_recovery(standby), "1,2,3,4,5,6");
    far.assert_over(&spool(standby));
    standby.restart();
    assert_eq!(rows(standby), "1,2,3,4,5,6");
}

/// What was fetched behind the target is in nobody's way, whatever comes then.
#[test]
fn a_target_long_before_the_end_is_where_it_ends() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost();
    let cluster = far.early("shutdown").create();
    let own = spool(&cluster);
    cluster.launch();
    assert!(cluster.wait_exit(TIMEOUT).success());
    let log = cluster.log().text();
    assert!(log.contains("shutdown at recovery target"), "{log}");
    wait_until(PROMPT, "the process that fetches ahead to end", || {
        far.helpers().is_empty().then_some(())
    });
    assert_eq!(held(&own), [""; 0]);
    // Somebody wants to go on.
    cluster.set_conf("recovery_target_name", "");
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), ALL);
    far.assert_over(&own);
    // One that ends before anything was worth fetching ahead.
    let cluster = far.recovery("").set("recovery_target", "immediate");
    let cluster = cluster.set("recovery_target_action", "promote").start();
    cluster.wait_recovered();
    far.assert_over(&spool(&cluster));
}

#[test]
fn two_recoveries_on_one_host_do_not_disturb_each_other() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost();
    let home = Scratch::new("spool");
    let shared = format!("--spool {}", home.join("spool").display());
    for options in ["", &shared] {
        let [full, early] = [far.recovery(options), far.early("promote")].map(|builder| {
            let builder = builder.set("restore_command", &far.command(options));
            builder.create()
        });
        for cluster in [&full, &early] {
            cluster.launch();
        }
        for (cluster, expected) in [(&full, ALL), (&early, "1,2")] {
            assert_eq!(rows_after_recovery(cluster), expected, "{options}");
        }
        for cluster in [&full, &early] {
            far.assert_over(&spool(cluster));
        }
        let ahead = |cluster: &Cluster| fetched_ahead(&cluster.log().text());
        assert!(!ahead(&full).is_empty() || !ahead(&early).is_empty(), "{options}");
        assert_eq!(home.join("spool").exists(), !options.is_empty());
        assert_eq!(scratch::names(&home.join("spool")), [""; 0]);
    }
}

/// Starts a recovery that has to stop at this segment, and not before.
#[track_caller]
fn stops_at(cluster: &Cluster, name: &str, reason: &str) {
    let mark = cluster.mark();
    refuses(cluster, reason);
    let log = cluster.log().since(mark);
    assert!(log.contains(&format!("could not restore \"{name}\"")), "{log}");
    let names = restored(&log);
    assert_eq!(names.last().map(|last| next(last)).as_deref(), Some(name), "{log}");
}

/// What is wrong with a segment is found ahead, and stops the recovery when it comes there.
#[test]
fn damage_and_a_hole_stop_a_recovery_where_they_are() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost_with(6);
    let names = far.near.segments();
    let name = &names[names.len() / 2];
    let key = format!("wal/{name}");
    let good = far.near.get(name).expect("a segment");
    let cluster = far.recovery("--patience 0").create();
    let mut bad = good.clone();
    bad[400_000] ^= 1;
    far.near.bucket.put(&key, &bad);
    stops_at(&cluster, name, "the archived file is damaged or the wrong one");
    far.near.bucket.delete(&key);
    stops_at(&cluster, name, "the file is missing from the archive, and later WAL is there");
    far.near.bucket.put(&key, &good);
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3,4,5,6");
    assert!(!fetched_ahead(&cluster.log().text()).is_empty());
    far.assert_over(&spool(&cluster));
}

/// The segment that a request names.
fn segment(target: &str) -> Option<String> {
    let name = target.split_once("/wal/")?.1.get(..24)?;
    name.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| name.to_owned())
}

/// An idle standby asks for the next segment again and again. Eight names more, each time, would be eight times the
/// bill.
#[test]
fn a_standby_at_the_end_of_the_archive_takes_what_comes_and_costs_little() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::new();
    for n in 1..=3 {
        far.row(n);
    }
    far.primary.switch_wal();
    far.primary.wait_all_archived();
    let requests = |options: &str| {
        let standby = far.standby(options).start();
        standby.wait_until("the rows", || {
            (rows(&standby)
                == far.primary.sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM rows"))
            .then_some(())
        });
        standby.wait_replayed(&far.primary.sql("SELECT pg_switch_wal()"));
        // In all, for so many about the one segment that is not there.
        let before = far.proxy.seen().len();
        thread::sleep(Duration::from_secs(2));
        let seen = far.proxy.seen().split_off(before);
        let wanted = far.near.segments().last().map(|last| next(last));
        let about_it = seen.iter().filter(|seen| segment(&seen.target) == wanted).count();
        (standby, seen.len(), about_it)
    };
    let (plain, without, of_those) = requests("--ahead 0");
    drop(plain);
    let (standby, with, of_these) = requests("");
    eprintln!("{without} requests without, {of_those} about it; {with} with, {of_these} about it");
    assert!(of_those > 1 && of_these > 1, "nothing was asked for");
    let as_many = 4 * with * of_those <= 5 * without * of_these;
    assert!(as_many, "{without} for {of_those} without, {with} for {of_these} with");
    // One look tells what there is: nobody has asked for a name behind the next one.
    let mut asked: Vec<_> =
        far.proxy.seen().iter().filter_map(|seen| segment(&seen.target)).collect();
    asked.sort();
    let last = far.near.segments().pop().expect("some");
    assert_eq!(asked.pop(), Some(next(&last)), "{asked:?}");

    for n in 4..=6 {
        far.primary.sql(&format!("INSERT INTO rows VALUES ({n})"));
        let last = far.primary.switch_wal();
        standby.wait_until(&format!("row {n} of {last}"), || {
            rows(&standby).ends_with(&n.to_string()).then_some(())
        });
    }
    standby.stop(Stop::Fast);
    far.assert_over(&spool(&standby));
}

/// A kill of the helper, of calls and the server, or of the postmaster alone, at some moment of a recovery.
fn kills(far: &Far, rounds: usize) {
    let mut rng = rng();
    let new = || far.recovery("").create();
    let mut cluster = new();
    let (mut helpers, mut ended) = (0, 0);
    for _ in 0..rounds {
        let mark = cluster.mark();
        cluster.launch();
        thread::sleep(Duration::from_millis(rng.u64(100..1500)));
        match rng.u32(0..4) {
            0 => {
                for pid in far.helpers() {
                    helpers += 1;
                    process::signal(pid, Signal::KILL);
                }
                cluster.wait_recovered();
            }
            1 => {
                for pid in far.processes() {
                    helpers += 1;
                    process::signal(pid, Signal::KILL);
                }
                // Without a call under way the recovery goes on.
                wait_until(TIMEOUT, "its end", || {
                    let is_over = cluster.psql("SELECT pg_is_in_recovery()").as_deref() == Ok("f");
                    (is_over || !cluster.is_running()).then_some(())
                });
                if cluster.is_running() {
                    cluster.stop(Stop::Fast);
                } else {
                    cluster.wait_exit(PROMPT);
                }
            }
            2 => cluster.kill_all(),
            _ => {
                cluster.kill_postmaster();
                process::kill_all_in(cluster.data());
            }
        }
        let log = cluster.log().since(mark);
        assert!(!log.contains("missing from the archive") && !log.contains("damaged"), "{log}");
        if log.contains("archive recovery complete") {
            ended += 1;
            if !cluster.is_running() {
                cluster.start();
            }
            assert_eq!(rows_after_recovery(&cluster), ALL);
            far.assert_over(&spool(&cluster));
            cluster = new();
        }
    }
    if !cluster.is_running() {
        cluster.start();
    }
    assert_eq!(rows_after_recovery(&cluster), ALL);
    far.assert_over(&spool(&cluster));
    let left = scratch::names(&cluster.pg_wal());
    assert!(!left.iter().any(|name| name.contains("walsafe")), "{left:?}");
    eprintln!(
        "{rounds} kills, {helpers} of processes of walsafe, after {ended} the recovery had ended"
    );
}

#[test]
fn kills_at_any_moment_leave_a_recovery_that_ends_right() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    kills(&Far::lost(), dose(6, 60));
}
