//! The spool of fetching ahead: what is in it is delivered only if nobody else can have had a hand in it, it belongs
//! to one recovery, and no trouble with it is trouble for the recovery.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use harness::command::{run, run_within};
use harness::object::{Answer, Fault, Kind, ObjectServer};
use harness::server::as_server_user;
use harness::{Fs, Mount, Scratch, Server, privileged, process, require, scratch, wait_until};
use rustix::process::Signal;

use crate::support::ahead::{
    Far, PROMPT, Stopped, fetched_ahead, held, move_pg_wal, next, restored, spool,
};
use crate::support::asking::Asking;
use crate::support::recovery::{path, rows, rows_after_recovery};

#[test]
fn what_was_fetched_is_delivered_once_and_with_the_permissions_of_all_others() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost();
    let asking = Asking::with(&far, |builder| builder.umask_000(), |_| ());
    let names = asking.segments();
    let first = asking.ask(&names[0]);
    first.assert_from_archive(&far, &names[0]);
    // Which is asked for again if the server could not make use of it.
    let [third, _] = asking.fetch_behind(&names[0]);
    let asked = asking.ask(&third);
    asked.assert_from_spool(&far, &third);
    assert_eq!(asked.mode, first.mode, "{:o} and {:o}", asked.mode, first.mode);
    assert!(!held(&asking.spool()).contains(&third), "it stays after it was delivered");
    asking.ask(&third).assert_from_archive(&far, &third);
}

/// pg_rewind asks for files by other names, and no server is there. For a history file, the answer has to be of
/// this moment.
#[test]
fn nothing_is_fetched_for_others_than_a_recovery_that_asks_for_segments() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost();
    let asking = Asking::new(&far);
    let names = asking.segments();
    let nothing = || {
        assert_eq!(far.helpers(), [0; 0]);
        assert!(!asking.spool().exists());
    };
    let history = asking.ask_for("00000002.history", "pg_wal/RECOVERYHISTORY", &[]);
    assert_eq!(history.run.code, Some(1), "{history:?}");
    nothing();
    for name in &names[..3] {
        let full = format!("{}/pg_wal/{name}", asking.server.data().display());
        for target in [&format!("pg_wal/{name}"), &full] {
            asking.ask_for(name, target, &[]).assert_from_archive(&far, name);
            nothing();
        }
    }
    for name in &names[..3] {
        let asked = asking.ask_for(name, "pg_wal/RECOVERYXLOG", &["--ahead", "0"]);
        asked.assert_from_archive(&far, name);
        nothing();
    }
    // Without a signal file it is no recovery, and without a server nobody's.
    let signal = asking.server.data().join("standby.signal");
    fs::remove_file(&signal).expect("a standby");
    for name in &names[..2] {
        asking.ask(name).assert_from_archive(&far, name);
        nothing();
    }
    scratch::write(&signal, "");
    asking.fetch_behind(&names[0]);
    assert_eq!(far.helpers().len(), 1);
    asking.server.kill_all();
    far.assert_over(&asking.spool());
    for name in &names[..3] {
        asking.ask(name).assert_from_archive(&far, name);
        nothing();
    }
}

/// Does something to a file of this name in a spool.
type Meddle = fn(&Path, &str);

/// Puts something in the place of a spool; there is another directory to lead to.
type Make = fn(&Path, &Path);

/// Bytes of one that is there, with its permissions.
fn overwrite(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("a fetched file");
    change(&mut bytes);
    fs::write(file, bytes).expect("written");
}

#[test]
fn a_fetched_file_that_somebody_changed_is_not_delivered() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost();
    let asking = Asking::new(&far);
    let names = asking.segments();
    let tamper: [(&str, Meddle); 7] = [
        ("a flipped bit", |spool, name| overwrite(&spool.join(name), |bytes| bytes[700_000] ^= 1)),
        ("cut short", |spool, name| overwrite(&spool.join(name), |bytes| bytes.truncate(8192))),
        ("longer", |spool, name| overwrite(&spool.join(name), |bytes| bytes.push(0))),
        ("replaced by the next one", |spool, name| {
            fs::copy(spool.join(next(name)), spool.join(name)).expect("the next one");
        }),
        ("replaced by the next one, and its note", |spool, name| {
            for end in ["", ".note"] {
                let from = spool.join(next(name) + end);
                fs::copy(from, spool.join(format!("{name}{end}"))).expect("the next one");
            }
        }),
        ("a link", |spool, name| {
            let away = spool.with_extension("away");
            fs::rename(spool.join(name), &away).expect("renamed");
            overwrite(&away, |bytes| bytes[700_000] ^= 1);
            symlink(&away, spool.join(name)).expect("a link");
        }),
        ("without its note", |spool, name| {
            fs::remove_file(spool.join(format!("{name}.note"))).expect("a note");
        }),
    ];
    let spool = asking.spool();
    asking.ask_sound(&names[0]);
    let mut name = names[1].clone();
    for (what, tamper) in tamper {
        let [other, behind] = asking.go_on_to(&name);
        tamper(&spool, &other);
        let asked = asking.ask(&other);
        eprintln!("{what}: {}", asked.run.err.trim_end());
        asked.assert_from_archive(&far, &other);
        name = behind;
    }
    drop(fs::remove_file(spool.with_extension("away")));
    // Those that nobody touched are still good.
    let [other, _] = asking.go_on_to(&name);
    asking.ask(&other).assert_from_spool(&far, &other);
}

/// A spool that another user could have written is none, and a link leads elsewhere.
#[test]
fn a_spool_that_somebody_else_can_write_is_not_used() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(privileged());
    let far = Far::lost();
    let elsewhere = Scratch::new("elsewhere");
    let make: [(&str, Make); 6] = [
        ("a link", |spool, elsewhere| symlink(elsewhere, spool).expect("a link")),
        ("a dangling link", |spool, elsewhere| {
            symlink(elsewhere.join("none"), spool).expect("a link")
        }),
        ("a file", |spool, _| scratch::write(spool, "")),
        ("another user's", |spool, _| {
            scratch::make_dir(spool);
            chown(spool, Some(0), Some(0)).expect("root");
            scratch::chmod(spool, 0o777);
        }),
        ("the group's", |spool, _| {
            scratch::make_dir(spool);
            scratch::chmod(spool, 0o770);
        }),
        ("everybody's", |spool, _| {
            scratch::make_dir(spool);
            scratch::chmod(spool, 0o777);
        }),
    ];
    for (what, make) in make {
        let asking = Asking::new(&far);
        let (names, spool) = (asking.segments(), asking.spool());
        make(&spool, elsewhere.path());
        let mut said = 0;
        for name in &names[..3] {
            let asked = asking.ask(name);
            eprintln!("{what}: {}", asked.run.err.trim_end());
            asked.assert_from_archive(&far, name);
            said += usize::from(asked.run.err.contains(".walsafe-spool"));
        }
        assert!(said >= 1, "{what}: nobody is told");
        assert_eq!(far.helpers(), [0; 0], "{what}");
        assert_eq!(elsewhere.names(), [""; 0], "{what}");
        assert_eq!(held(&spool), [""; 0], "{what}");
    }
}

/// The list of archives, the start of the server and the archive itself say whether what was fetched is still what
/// would be fetched.
#[test]
fn what_was_fetched_for_another_recovery_is_not_delivered() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost_with(8);
    let mut asking = Asking::new(&far);
    let names = asking.segments();
    let [other, behind] = asking.fetch_behind(&names[0]);
    for name in [&other, &behind] {
        let more = ["--from", "/nonexistent/archive"];
        let asked = asking.ask_for(name, "pg_wal/RECOVERYXLOG", &more);
        asked.assert_from_archive(&far, name);
    }
    // A server that is started again.
    asking.relaunch();
    let [other, _] = asking.fetch_behind(&names[4]);
    let spool = asking.spool();
    process::signal(far.helper(), Signal::KILL);
    assert!(held(&spool).contains(&other));
    asking.relaunch();
    asking.ask(&other).assert_from_archive(&far, &other);

    // An archive that was wiped and begun anew.
    asking.options = vec!["--ahead".to_owned(), "2".to_owned()];
    asking.relaunch();
    let [other, behind] = asking.fetch_behind(&names[8]);
    let key = "wal/walsafe_archive.id";
    let bucket = &far.near.bucket;
    let text = String::from_utf8(bucket.get(key).expect("an identity")).expect("text");
    let created = text.lines().find(|line| line.starts_with("created")).expect("when");
    let changed = created.replacen("202", "201", 1);
    assert_ne!(created, changed);
    bucket.put(key, text.replace(created, &changed).as_bytes());
    let asked = asking.ask(&other);
    assert!(asked.is(&far, &other), "{:?}", asked.run);
    asking.server.wait_until("what is behind it", || {
        (!held(&spool).contains(&behind) && held(&spool).contains(&next(&behind))).then_some(())
    });
    asking.ask(&behind).assert_from_archive(&far, &behind);
}

/// What could not be fetched may be there when it is asked for.
#[test]
fn neither_a_failure_nor_an_absence_is_remembered() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost_with(3);
    let asking = Asking::new(&far);
    let names = asking.segments();
    let [.., before, last] = &names[..] else { panic!("{names:?}") };
    let (key, away) = (format!("wal/{last}"), far.near.get(last).expect("the last one"));
    far.near.bucket.delete(&key);
    let forbidden = Fault::Answer(Answer::error(403, "AccessDenied"));
    let broken = far.proxy.break_each("GET", &format!("/wal/{}", names[4]), forbidden);
    let [other, _] = asking.fetch_behind(&names[0]);
    broken.done();
    assert_eq!(other, names[2]);
    assert_eq!(asking.ask(&names[4]).run.code, Some(1), "it was not broken");
    far.proxy.mend();
    for name in [&names[4], before] {
        let asked = asking.ask(name);
        assert!(asked.is(&far, name), "{:?}", asked.run);
    }
    assert_eq!(asking.ask(last).run.code, Some(1), "it is not there");
    far.near.bucket.put(&key, &away);
    let asked = asking.ask(last);
    assert!(asked.is(&far, last), "{:?}", asked.run);
}

/// A full disk is no trouble: the recovery goes on one by one, and one line says so.
#[test]
fn a_recovery_without_room_to_fetch_ahead_is_told_once_and_ends_right() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(privileged());
    let far = Far::lost_with(4);
    let mount = Mount::new(Fs::Ext4, 64);
    let cluster = far.recovery("--ahead 32").create();
    move_pg_wal(&cluster, &mount);
    // Enough for the recovery, and less than what is to stay free.
    mount.fill_but(28 << 20);
    cluster.start();
    assert_eq!(rows_after_recovery(&cluster), "1,2,3,4");
    let log = cluster.log().text();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("lack of room")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(fetched_ahead(&log), [""; 0]);
    far.assert_over(&spool(&cluster));
}

/// A server whose pg_wal lies on a disk of its own.
fn asking_on<'a>(mount: &Mount, far: &'a Far) -> Asking<'a> {
    Asking::with(far, |builder| builder, |cluster| move_pg_wal(cluster, mount))
}

/// What is ahead gives way to what is asked for.
#[test]
fn a_disk_that_is_full_of_what_was_fetched_has_room_for_what_is_asked_for() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(privileged());
    let (far, mount) = (Far::lost(), Mount::new(Fs::Ext4, 64));
    let asking = asking_on(&mount, &far);
    let names = asking.segments();
    asking.fetch_behind(&names[0]);
    let spool = asking.spool();
    asking.server.wait_until("all that may be", || (held(&spool).len() == 8).then_some(()));
    mount.fill_but(200_000);
    asking.ask(&names[15]).assert_from_archive(&far, &names[15]);
    assert_eq!(held(&spool), [""; 0]);
}

/// And so does what is on its way, whose room is free only when whoever fetches it has gone.
#[test]
fn a_disk_that_is_full_of_what_is_on_its_way_has_room_for_what_is_asked_for() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(privileged());
    let (far, mount) = (Far::lost(), Mount::new(Fs::Ext4, 64));
    let asking = asking_on(&mount, &far);
    let names = asking.segments();
    let len = far.near.get(&names[15]).expect("a segment").len() as u64;
    let slow = Fault::DripAnswer { bytes_a_second: len / 8 };
    let slow = names[2..4]
        .iter()
        .map(|name| far.proxy.break_each("GET", &format!("/wal/{name}"), slow.clone()));
    let _slow: Vec<_> = slow.collect();
    asking.ask_sound(&names[0]);
    asking.ask_sound(&names[1]);
    let spool = asking.spool();
    asking.server.wait_until("half a segment", || {
        let len_of = |name: String| fs::metadata(spool.join(name)).map_or(0, |file| file.len());
        let temporary = scratch::names(&spool).into_iter().filter(|name| name.starts_with('.'));
        (temporary.map(len_of).sum::<u64>() >= len / 2).then_some(())
    });
    // It gives way only when it is told to, and not because it finds no room either.
    let helper = far.helper();
    process::signal(helper, Signal::STOP);
    mount.fill_but(len - len / 8);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(1));
            process::signal(helper, Signal::CONT);
        });
        asking.ask(&names[15]).assert_from_archive(&far, &names[15]);
    });
    assert_eq!(held(&spool), [""; 0]);
}

/// The last one that a recovery starts may come when the recovery has ended, and its spool is gone.
#[test]
fn a_helper_that_comes_too_late_leaves_nothing() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let far = Far::lost();
    let asking = Asking::new(&far);
    let mut command = Command::new(Server::under_test().walsafe());
    let command =
        as_server_user(&mut command).arg("restore-ahead").args(["--from", far.objects.url()]);
    let command = command.arg("--credentials-file").arg(far.objects.credentials());
    let command = command.args(["%f", "%p"]).env("WALSAFE_STARTED_BY_RESTORE", "1");
    let output = run_within(command.current_dir(asking.server.data()), "", PROMPT);
    assert!(output.success(), "{output:?}");
    assert!(!asking.spool().exists());
}

/// To be renamed from there, it lies on the file system of pg_wal; a place of its own may be named.
#[test]
fn a_spool_has_its_place_beside_pg_wal() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    require!(privileged());
    let far = Far::lost();
    let mount = Mount::new(Fs::Ext4, 64);
    let mut asking = Asking::new(&far);
    let names = asking.segments();
    let away = mount.join("spool");
    asking.options = vec!["--spool".to_owned(), path(&away).to_owned()];
    let mut said = 0;
    for name in &names[..3] {
        let asked = asking.ask(name);
        asked.assert_from_archive(&far, name);
        said += usize::from(asked.run.err.contains("file system of pg_wal"));
    }
    assert!(said >= 1, "nobody is told");
    assert_eq!(far.helpers(), [0; 0]);

    let beside = asking.server.data().with_file_name("spool");
    asking.options = vec!["--spool".to_owned(), path(&beside).to_owned()];
    for name in &names[..2] {
        asking.ask(name).assert_from_archive(&far, name);
    }
    asking.server.wait_until("the next one", || held(&beside).contains(&names[2]).then_some(()));
    asking.ask(&names[2]).assert_from_spool(&far, &names[2]);
    assert!(!asking.spool().exists());
    asking.server.kill_all();
    far.assert_over(&beside);
}

/// A backup of a standby holds what a server needs, and no more. A copy of all its files holds more, and does not
/// use it.
#[test]
fn a_base_backup_of_a_standby_has_no_spool() {
    require!(ObjectServer::is_there(Kind::SeaweedFs));
    let stopped = Stopped::new(|builder| builder);
    let Stopped { far, standby, .. } = &stopped;
    let backup = standby.base_backup_without_wal();
    let names = scratch::names(&backup.data().join("pg_wal"));
    assert!(!names.iter().any(|name| name.contains("walsafe")), "{names:?}");

    let other = far.standby("").create();
    run(Command::new("cp").arg("-a").arg(spool(standby)).arg(other.pg_wal()));
    let copied = held(&spool(&other));
    for name in &copied {
        fs::write(spool(&other).join(name), "").expect("a fetched file");
    }
    other.start();
    other.wait_until("the rows", || (rows(&other) == "1,2,3,4,5,6").then_some(()));
    assert!(!copied.is_empty() && restored(&other.log().text()).contains(&copied[0]));
    other.promote();
    wait_until(PROMPT, "the spool to go", || (!spool(&other).exists()).then_some(()));
}
