//! The last WAL of the timeline before: what goes into the archive ahead of a new history file.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;
mod wal_support;

use std::fs;

use common::{World, segment_name};
use wal_support::{SIZE, SYSID, Writer, data};
use walsafe_core::archive::{Job, Level, Notice};
use walsafe_core::server::settings::CheckWal;
use walsafe_core::wal::name::FileName;

/// A promoted standby that has segments 1 to 4 of timeline 1, marked as done, and branched off in segment 5.
struct Promoted {
    world: World,
    segments: Vec<Vec<u8>>,
    history: Job,
}

impl Promoted {
    fn new() -> Self {
        let mut writer = Writer::new(8192, SIZE.into());
        while writer.bytes.len() < 5 * SIZE as usize {
            writer.record(0, 0x20, &data(4000 + writer.bytes.len() % 977));
        }
        let segments: Vec<Vec<u8>> = writer.segments().iter().map(|s| s.to_vec()).collect();
        let mut world = World::new();
        world.plan.cluster.system_identifier = SYSID;
        world.init();
        let history = world.wal("00000002.history", b"1\t0/500028\tno recovery target specified\n");
        fs::create_dir(world.pg_wal.join("archive_status")).unwrap();
        let this = Self { world, segments, history };
        for number in 1..=5 {
            this.hold(number);
        }
        this
    }

    fn hold(&self, number: u32) -> Job {
        let name = segment_name(1, number);
        let status = self.world.pg_wal.join(format!("archive_status/{name}.done"));
        fs::write(status, "").unwrap();
        self.world.wal(&name, &self.segments[number as usize - 1])
    }

    fn archive(&self, number: u32) {
        self.world.run(&self.hold(number)).unwrap();
    }

    /// Archives the history file, which succeeds whatever else happens.
    fn promote(&self) -> Vec<Notice> {
        self.world.run(&self.history).unwrap().notices
    }

    /// The marks of segments 1 to 5: what is ready is kept by the server, and archived when it asks.
    fn marks(&self) -> Vec<String> {
        let names = common::names(&self.world.pg_wal.join("archive_status"));
        names.iter().filter_map(|name| Some(name.split_once('.')?.1.to_owned())).collect()
    }

    /// The numbers of the archived segments.
    fn archived(&self) -> Vec<u32> {
        let names = self.world.names();
        let segments = names.iter().filter_map(|name| FileName::new(name).ok()?.segment());
        segments.map(|segment| segment.segment).collect()
    }
}

fn levels(notices: &[Notice]) -> Vec<Level> {
    notices.iter().map(|notice| notice.level).collect()
}

#[test]
fn what_is_later_than_the_archives_newest_and_ends_before_the_switch_is_archived() {
    let promoted = Promoted::new();
    promoted.archive(2);
    let notices = promoted.promote();
    // Not the first, which is before the newest, nor the one with the switch.
    assert_eq!(promoted.archived(), [2, 3, 4]);
    assert_eq!(levels(&notices), [Level::Log]);
    assert!(notices[0].message.contains("2 segments, 000000010000000000000003 to"), "{notices:?}");
    assert!(promoted.world.archive.join("00000002.history").exists());
    assert_eq!(promoted.marks(), ["done"; 5]);
}

/// What waits anyhow is the server's to mark.
#[test]
fn a_file_that_waits_goes_on_waiting() {
    let promoted = Promoted::new();
    promoted.archive(2);
    let status = promoted.world.pg_wal.join("archive_status");
    let name = segment_name(1, 3);
    fs::rename(status.join(format!("{name}.done")), status.join(format!("{name}.ready"))).unwrap();
    promoted.promote();
    assert_eq!(promoted.archived(), [2, 3, 4]);
    assert_eq!(promoted.marks(), ["done", "done", "ready", "done", "done"]);
}

/// The server's next checkpoint removed what is marked as done.
#[test]
fn while_the_archive_is_down_the_server_keeps_what_may_be_lacking() {
    let promoted = Promoted::new();
    promoted.archive(2);
    let away = promoted.world.root.path().join("away");
    fs::rename(&promoted.world.archive, &away).unwrap();
    promoted.world.run(&promoted.history).unwrap_err();
    // Not the one with the switch.
    assert_eq!(promoted.marks(), ["ready", "ready", "ready", "ready", "done"]);
    fs::rename(&away, &promoted.world.archive).unwrap();
    promoted.promote();
    assert_eq!(promoted.archived(), [2, 3, 4]);
}

#[test]
fn nothing_happens_once_the_history_file_is_there_or_where_the_archive_has_no_wal_of_that_timeline()
{
    let promoted = Promoted::new();
    assert_eq!(promoted.promote(), []);
    assert_eq!(promoted.archived(), [0_u32; 0]);
    promoted.archive(1);
    assert_eq!(promoted.promote(), []);
    assert_eq!(promoted.archived(), [1]);
}

/// Recycled files have the names of future segments, and no status file.
#[test]
fn what_is_not_complete_stays_out_and_is_told() {
    let promoted = Promoted::new();
    promoted.archive(2);
    let name = segment_name(1, 4);
    let status = promoted.world.pg_wal.join(format!("archive_status/{name}.done"));
    fs::remove_file(status).unwrap();
    let notices = promoted.promote();
    assert_eq!(promoted.archived(), [2, 3]);
    assert_eq!(levels(&notices), [Level::Log, Level::Warning]);
    assert!(notices[1].detail.contains(&format!("Not in the archive: {name}.")), "{notices:?}");
}

#[test]
fn damage_and_holes_are_told_in_one_warning_and_what_follows_is_archived() {
    let promoted = Promoted::new();
    promoted.archive(1);
    fs::remove_file(promoted.world.pg_wal.join(segment_name(1, 2))).unwrap();
    let mut damaged = promoted.segments[2].clone();
    damaged[SIZE as usize / 2 + 1000] ^= 1;
    promoted.world.wal(&segment_name(1, 3), &damaged);
    let notices = promoted.promote();
    assert_eq!(promoted.archived(), [1, 4]);
    assert_eq!(levels(&notices), [Level::Log, Level::Warning]);
    let range = format!("{} to {}", segment_name(1, 2), segment_name(1, 3));
    assert!(notices[1].detail.contains(&range), "{notices:?}");
    assert!(notices[1].detail.contains("checksum"), "{notices:?}");
}

/// What the server hands over itself, whatever is wrong with it, comes before what follows it.
#[test]
fn nothing_passes_a_damaged_file_that_waits() {
    let promoted = Promoted::new();
    promoted.archive(2);
    let mut damaged = promoted.segments[2].clone();
    damaged[SIZE as usize / 2 + 1000] ^= 1;
    let name = segment_name(1, 3);
    promoted.world.wal(&name, &damaged);
    let status = promoted.world.pg_wal.join("archive_status");
    fs::rename(status.join(format!("{name}.done")), status.join(format!("{name}.ready"))).unwrap();
    let notices = promoted.promote();
    assert_eq!(promoted.archived(), [2]);
    assert_eq!(levels(&notices), [Level::Warning]);
    assert!(notices[0].detail.contains("checksum"), "{notices:?}");
}

/// Another server wrote the archive's newest: none of ours may come behind it.
#[test]
fn wal_that_does_not_continue_the_archives_newest_stays_out() {
    let promoted = Promoted::new();
    let mut writer = Writer::new(8192, SIZE.into());
    while writer.bytes.len() < 3 * SIZE as usize {
        writer.record(0, 0x20, &data(3000));
    }
    let theirs = writer.segments()[1].to_vec();
    let mine = promoted.hold(2);
    fs::write(&mine.source, theirs).unwrap();
    promoted.world.run(&mine).unwrap();
    let notices = promoted.promote();
    assert_eq!(promoted.archived(), [2]);
    assert_eq!(levels(&notices), [Level::Warning]);
    assert!(notices[0].detail.contains("does not continue"), "{notices:?}");
}

/// The history file must not wait for ever behind a file that cannot be read.
#[test]
fn a_failure_is_a_warning_and_the_history_file_is_archived() {
    let promoted = Promoted::new();
    promoted.archive(2);
    let path = promoted.world.pg_wal.join(segment_name(1, 3));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let notices = promoted.promote();
    assert_eq!(promoted.archived(), [2]);
    assert_eq!(levels(&notices), [Level::Warning]);
    assert!(notices[0].message.starts_with("could not archive the last WAL of timeline 1"));
    assert_eq!(promoted.marks(), ["done", "done", "ready", "ready", "done"]);
    assert!(promoted.world.archive.join("00000002.history").exists());
}

/// WAL of a server that was lost before, behind the switch of an earlier timeline, was taken for the newest
/// of the timeline before: nothing was archived, and nothing was said.
#[test]
fn what_an_earlier_timeline_has_behind_its_switch_says_nothing() {
    let mut promoted = Promoted::new();
    let archive = |number: u32| promoted.world.archive.join(segment_name(1, number));
    fs::write(archive(9), "").unwrap();
    for number in 1..=5 {
        let status = promoted.world.pg_wal.join("archive_status");
        fs::remove_file(status.join(format!("{}.done", segment_name(1, number)))).unwrap();
        let name = segment_name(2, number);
        fs::write(status.join(format!("{name}.done")), "").unwrap();
        promoted.world.wal(&name, &promoted.segments[number as usize - 1]);
    }
    let two = promoted.world.pg_wal.join(segment_name(2, 2));
    let name = FileName::new(&segment_name(2, 2)).unwrap();
    promoted.world.run(&Job { name, source: two }).unwrap();
    let text = b"1\t0/180000\treason\n2\t0/500028\treason\n";
    promoted.history = promoted.world.wal("00000003.history", text);
    let notices = promoted.promote();
    assert_eq!(levels(&notices), [Level::Log], "{notices:?}");
    assert_eq!(promoted.archived(), [9, 2, 3, 4]);
}

/// The records at the end of the archive's newest segment may be the same as in ours, and earlier ones not:
/// a copy of the server wrote as much as the server did. Its WAL came behind the server's.
#[test]
fn wal_of_the_same_lengths_does_not_come_behind_another_servers() {
    for check_wal in [CheckWal::Off, CheckWal::Header] {
        let mut promoted = Promoted::new();
        promoted.world.plan.check_wal = check_wal;
        let ours = promoted.segments[1].clone();
        let mut writer = Writer::new(8192, SIZE.into());
        while writer.bytes.len() < 3 * SIZE as usize {
            let mut record = data(4000 + writer.bytes.len() % 977);
            if (SIZE as usize..SIZE as usize + 20_000).contains(&writer.bytes.len()) {
                record[100] ^= 0x10;
            }
            writer.record(0, 0x20, &record);
        }
        let theirs = writer.segments()[1].to_vec();
        assert!(theirs != ours && theirs[50_000..] == ours[50_000..]);
        let mine = promoted.hold(2);
        fs::write(&mine.source, theirs).unwrap();
        promoted.world.run(&mine).unwrap();
        fs::write(&mine.source, ours).unwrap();
        let notices = promoted.promote();
        assert_eq!(promoted.archived(), [2], "{check_wal:?}");
        assert_eq!(levels(&notices), [Level::Warning]);
        assert!(notices[0].detail.contains("different file of that name"), "{notices:?}");
        assert_eq!(promoted.marks(), ["done"; 5]);
    }
}
