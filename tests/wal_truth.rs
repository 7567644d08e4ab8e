//! The record reader compared with the truth: what real servers write, and what `pg_waldump` reads in it.

#[path = "../crates/core/tests/wal_support/mod.rs"]
mod wal_support;

use std::path::Path;
use std::time::Duration;

use harness::{Cluster, ClusterBuilder, Scratch, Server, Stop, command, dose, scratch};
use wal_support::{Random, covered, flip_is_found};
use walsafe_core::wal::kinds::{Kind, WANTED};
use walsafe_core::wal::timestamp::Timestamp;
use walsafe_core::wal::{
    Edges, End, Lsn, PageHeader, Record, RecordHeader, SegmentReport, SegmentSize, SegmentSpec,
    Visit, check_segment, read_segment,
};

/// The resource managers of 15 to 18, in the order of their numbers (`rmgrlist.h`).
const RMGRS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// What `pg_waldump` prints for a record, except the description.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    rmgr: String,
    length: u32,
    xid: u32,
    lsn: Lsn,
    prev: Lsn,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("rmgr: ")?;
        let (rmgr, rest) = rest.split_once(" len (rec/tot): ")?;
        let (lengths, rest) = rest.split_once(", tx: ")?;
        let (xid, rest) = rest.split_once(", lsn: ")?;
        let (lsn, rest) = rest.split_once(", prev ")?;
        let (prev, _) = rest.split_once(", desc: ")?;
        Some(Self {
            rmgr: rmgr.trim().to_owned(),
            length: lengths.split_once('/')?.1.trim().parse().ok()?,
            xid: xid.trim().parse().ok()?,
            lsn: lsn.parse().ok()?,
            prev: prev.parse().ok()?,
        })
    }

    fn of(record: &Record) -> Self {
        let header = record.header;
        Self {
            rmgr: RMGRS[usize::from(header.rmgr)].to_owned(),
            length: header.length,
            xid: header.xid,
            lsn: record.lsn,
            prev: header.prev,
        }
    }
}

/// A WAL file and where it belongs.
struct Segment {
    name: String,
    spec: SegmentSpec,
    bytes: Vec<u8>,
}

/// The segments in a directory whose names begin so, in order.
fn segments(dir: &Path, prefix: &str, system_identifier: u64) -> Vec<Segment> {
    let is_segment = |name: &String| {
        name.len() == 24 && name.starts_with(prefix) && name.bytes().all(|c| c.is_ascii_hexdigit())
    };
    let names = scratch::names(dir).into_iter().filter(is_segment);
    names
        .map(|name| {
            let bytes = scratch::read(&dir.join(&name));
            let size = SegmentSize::new(bytes.len() as u64).unwrap();
            let number = |at: usize| u32::from_str_radix(&name[at..at + 8], 16).unwrap();
            let spec = SegmentSpec {
                timeline: number(0),
                start: Lsn::of_segment(number(8), number(16), size).unwrap(),
                segment_size: size,
                system_identifier: Some(system_identifier),
            };
            Segment { name, spec, bytes }
        })
        .collect()
}

/// Reads the segments in order.
fn read(segments: &[Segment]) -> (Vec<Record>, Vec<SegmentReport>) {
    let (mut records, mut reports, mut carry) = (Vec::new(), Vec::<SegmentReport>::new(), None);
    for segment in segments {
        let list = |record: &Record| records.push(*record);
        let report = read_segment(segment.spec, &segment.bytes, carry, list);
        carry = report.tail.clone();
        reports.push(report);
    }
    (records, reports)
}

/// What `pg_waldump` prints of the WAL from one segment to another, or as far as it goes.
fn waldump(server: &Server, dir: &Path, segments: &[Segment]) -> Vec<Line> {
    let mut command = server.command("pg_waldump");
    command.arg("-p").arg(dir).arg(&segments[0].name);
    command.arg(&segments.last().unwrap().name);
    // It fails where the WAL ends before the last segment does.
    let output = command::run_within(&mut command, "", Duration::from_secs(300));
    let lines = output.stdout.lines().map(|line| Line::parse(line).ok_or(line).unwrap());
    lines.collect()
}

/// Asserts that the reader lists what `pg_waldump` does, that it finds nothing wrong, and that
/// pieces of any size and segments in any order give the same. Returns the records.
fn assert_read_as_by_waldump(server: &Server, dir: &Path, segments: &[Segment]) -> Vec<Record> {
    let (records, reports) = read(segments);
    for (segment, report) in segments.iter().zip(&reports) {
        assert_eq!(report.damage, [], "{}", segment.name);
    }
    let theirs = waldump(server, dir, segments);
    // pg_waldump begins with the first record that begins in the first segment.
    let begins_here = |record: &&Record| record.lsn >= segments[0].spec.start;
    let ours: Vec<Line> = records.iter().filter(begins_here).map(Line::of).collect();
    let differs = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
    if let Some(at) = differs {
        panic!("record {at}: {:?} is {:?} for pg_waldump", ours[at], theirs[at]);
    }
    assert_eq!(ours.len(), theirs.len(), "{:?} {:?}", ours.last(), theirs.last());
    assert!(!ours.is_empty());
    println!("{}: {} records of {} segments", server.version, ours.len(), segments.len());

    let mut random = Random::from_environment();
    let mut edges = Edges::new(segments.len());
    let mut counted = 0;
    let mut order: Vec<&Segment> = segments.iter().collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at + 1));
    }
    for segment in order {
        let mut checker = walsafe_core::wal::SegmentChecker::new(segment.spec, None);
        let mut rest = &segment.bytes[..];
        while !rest.is_empty() {
            let piece = rest.len().min(1 + random.below(300_000));
            checker.feed(&rest[..piece]);
            rest = &rest[piece..];
        }
        let report = checker.finish();
        assert_eq!(report.damage, [], "{}", segment.name);
        let met = edges.add(&report);
        assert!(met.iter().all(|met| met.damage.is_none()), "{met:?}");
        counted += report.records + met.iter().filter(|met| met.record.is_some()).count() as u64;
    }
    assert_eq!(counted, records.len() as u64);
    records
}

/// A cluster that archives with `cp` and writes WAL of all kinds.
fn cluster(archive: &Scratch, segment_mb: u32) -> ClusterBuilder {
    let copy = format!("cp %p {}/%f", archive.path().display());
    Cluster::builder()
        .segment_mb(segment_mb)
        .archive_command(&copy)
        .set("wal_level", "logical")
        .set("max_prepared_transactions", "5")
        .set("track_commit_timestamp", "on")
        .set("allow_in_place_tablespaces", "on")
        .set("min_wal_size", "128MB")
        .set("max_wal_size", "1GB")
        .initdb_argument("--data-checksums")
}

const TABLES: &str = "
    CREATE TABLE mix (id serial PRIMARY KEY, n int, txt text, big text, arr int[], p point,
                      r int4range, j jsonb);
    ALTER TABLE mix ALTER big SET STORAGE external;
    CREATE INDEX ON mix USING hash (txt);
    CREATE INDEX ON mix USING gin (arr);
    CREATE INDEX ON mix USING gin (j);
    CREATE INDEX ON mix USING gist (p);
    CREATE INDEX ON mix USING gist (r);
    CREATE INDEX ON mix USING spgist (p);
    CREATE INDEX ON mix USING spgist (txt);
    CREATE INDEX ON mix USING brin (n) WITH (pages_per_range = 2, autosummarize = off);
    CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
    CREATE SEQUENCE seq;
    SELECT pg_replication_origin_create('elsewhere');
";

/// Data definition, toast, indexes of all kinds, vacuum, prepared transactions, messages.
const WORK: &str = "
    INSERT INTO mix (n, txt, big, arr, p, r, j)
        SELECT i, md5(random()::text), repeat(md5(i::text), i % 300), array[i, i % 7, i % 100],
               point(random(), random()), int4range(i, i + 5), jsonb_build_object('k', i % 50)
        FROM generate_series(1, 1500) i;
    CHECKPOINT;
    UPDATE mix SET n = n + 1, p = point(random(), random()) WHERE id % 3 = 0;
    UPDATE mix SET txt = md5(txt), arr = arr || 1 WHERE id % 5 = 0;
    DELETE FROM mix WHERE id % 4 = 0;
    VACUUM (FREEZE) mix;
    SELECT brin_summarize_new_values('mix_n_idx'), gin_clean_pending_list('mix_arr_idx');
    CREATE INDEX again ON mix (txt, n);
    REINDEX TABLE mix;
    CLUSTER mix USING mix_pkey;
    VACUUM FULL mix;
    DROP INDEX again;
    VACUUM FULL pg_class;
    SELECT nextval('seq') FROM generate_series(1, 100);
    CREATE TABLE dropped AS SELECT * FROM mix LIMIT 200;
    ALTER TABLE dropped ADD COLUMN x text DEFAULT md5(random()::text);
    ALTER TABLE dropped ALTER n TYPE bigint;
    TRUNCATE dropped;
    DROP TABLE dropped;
    CREATE MATERIALIZED VIEW view AS SELECT n, count(*) FROM mix GROUP BY n;
    REFRESH MATERIALIZED VIEW view;
    DROP MATERIALIZED VIEW view;
    BEGIN;
    INSERT INTO mix (n) VALUES (1), (2);
    PREPARE TRANSACTION 'kept';
    BEGIN;
    INSERT INTO mix (n) VALUES (3);
    PREPARE TRANSACTION 'undone';
    COMMIT PREPARED 'kept';
    ROLLBACK PREPARED 'undone';
    DO $$ BEGIN
        FOR i IN 1..100 LOOP
            BEGIN
                INSERT INTO mix (n) VALUES (i);
                IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END LOOP;
    END $$;
    BEGIN;
    SELECT id FROM mix ORDER BY id LIMIT 5 FOR KEY SHARE;
    SAVEPOINT s;
    UPDATE mix SET n = 0 WHERE id < 10;
    ROLLBACK TO s;
    UPDATE mix SET n = 0 WHERE id < 20;
    COMMIT;
    SELECT pg_replication_origin_session_setup('elsewhere');
    BEGIN;
    SELECT pg_replication_origin_xact_setup('0/1234', now());
    INSERT INTO mix (n) VALUES (7);
    COMMIT;
    SELECT pg_replication_origin_session_reset();
    SELECT pg_replication_origin_advance('elsewhere', '0/99');
    CREATE TABLESPACE place LOCATION '';
    CREATE TABLE elsewhere (id int) TABLESPACE place;
    DROP TABLE elsewhere;
    DROP TABLESPACE place;
    CREATE DATABASE copied STRATEGY file_copy;
    DROP DATABASE copied;
    SELECT pg_logical_emit_message(true, 'test', 'in a transaction');
    SELECT count(pg_logical_emit_message(false, 'test', repeat('x', g * 97)))
        FROM generate_series(1, 200) g;
    SELECT pg_logical_emit_message(false, 'large', (SELECT string_agg(md5(i::text), '')
        FROM generate_series(1, 110000) i));
    CHECKPOINT;
    UPDATE mix SET n = n WHERE id % 10 = 0;
    SELECT pg_create_restore_point('here'), txid_current();
";

/// Runs the mix, and returns what was archived.
fn archive_mix(cluster: &Cluster, archive: &Scratch) -> Vec<Segment> {
    cluster.sql(TABLES);
    let methods = ["off", "pglz", "lz4", "zstd"];
    let valid =
        cluster.sql("SELECT unnest(enumvals) FROM pg_settings WHERE name = 'wal_compression'");
    for method in methods {
        // A server may be built without a method.
        if method == "off" || valid.lines().any(|valid| valid == method) {
            cluster.sql(&format!("SET wal_compression = {method}; {WORK}"));
        } else {
            println!("{}: no {method}", cluster.server().version);
        }
    }
    archived(cluster, archive)
}

/// Ends the segment and returns what was archived so far.
fn archived(cluster: &Cluster, archive: &Scratch) -> Vec<Segment> {
    cluster.switch_wal();
    cluster.wait_all_archived();
    segments(archive.path(), "", cluster.system_identifier())
}

/// Flips single bits all over the segments but the last one, whose end only a further one would
/// show; each has to be found.
fn assert_flips_are_found(segments: &mut [Segment], records: &[Record], flips: usize) {
    let (_, reports) = read(segments);
    let size = segments[0].bytes.len();
    let base = segments[0].spec.start;
    let lengths: Vec<_> =
        records.iter().map(|record| (record.lsn.0, record.header.length)).collect();
    let mask = covered(&lengths, base.0, size * segments.len(), 8192, size as u64);
    let mut random = Random::from_environment();
    let (mut tried, mut uncovered) = (0, 0);
    while tried < flips {
        let (index, at) = (random.below(segments.len() - 1), random.below(size));
        let bit = 1 << random.below(8);
        if mask[index * size + at] & bit == 0 {
            uncovered += 1;
            continue;
        }
        tried += 1;
        let (front, back) = segments.split_at_mut(index + 1);
        let Some(segment) = front.last_mut() else { continue };
        let before = index.checked_sub(1).and_then(|before| reports[before].tail.as_ref());
        let after = back.iter().map(|next| (next.spec, &next.bytes[..]));
        let found = flip_is_found(segment.spec, &mut segment.bytes, (at, bit), before, after);
        assert!(found, "bit {bit:02X} at {at} of {}", segment.name);
    }
    println!("{tried} flips found, {uncovered} others hit nothing that a replay reads");
}

#[test]
fn wal_of_pgbench_in_16_mb_segments_is_read_as_pg_waldump_reads_it() {
    let archive = Scratch::new("archive");
    let cluster = cluster(&archive, 16).start();
    cluster.pgbench_init(3);
    cluster.pgbench(8000);
    let mut segments = archived(&cluster, &archive);
    let records = assert_read_as_by_waldump(cluster.server(), archive.path(), &segments);
    assert_flips_are_found(&mut segments, &records, dose(60, 300));
}

#[test]
fn wal_of_all_kinds_in_1_mb_segments_is_read_as_pg_waldump_reads_it_and_every_flip_is_found() {
    let archive = Scratch::new("archive");
    let cluster = cluster(&archive, 1).start();
    let mut segments = archive_mix(&cluster, &archive);
    let records = assert_read_as_by_waldump(cluster.server(), archive.path(), &segments);
    let seen = |rmgr: usize| records.iter().any(|record| usize::from(record.header.rmgr) == rmgr);
    // CLOG pages are too far apart, and Generic belongs to extensions.
    for (rmgr, name) in
        RMGRS.iter().enumerate().filter(|(_, name)| !["CLOG", "Generic"].contains(name))
    {
        assert!(seen(rmgr), "no record of {name}");
    }
    assert!(records.iter().any(|record| record.header.length > 3 << 20));
    assert_flips_are_found(&mut segments, &records, dose(2_000, 10_000));
}

#[test]
fn wal_of_all_kinds_in_64_mb_segments_is_read_as_pg_waldump_reads_it() {
    let archive = Scratch::new("archive");
    let cluster = cluster(&archive, 64).start();
    let segments = archive_mix(&cluster, &archive);
    assert_read_as_by_waldump(cluster.server(), archive.path(), &segments);
}

/// A crash that breaks off a record of many pages: the server continues with a page that says so.
#[test]
fn records_that_a_crash_broke_off_are_passed_over_as_pg_waldump_does() {
    let archive = Scratch::new("archive");
    let cluster = cluster(&archive, 1).set("wal_buffers", "128kB").start();
    let mut random = Random::from_environment();
    let mut abandoned = 0;
    // What an earlier round has compared, and the last one compares once more, is passed over.
    let mut from = String::new();
    for round in 1.. {
        assert!(round <= 40, "no crash broke off a record");
        let mut session = cluster.client("psql");
        session.args([
            "-XAtqc",
            // Of some pages, and of some segments. Slowly, as pg_waldump prints each byte as three.
            "SELECT count(pg_logical_emit_message(false, 'huge', repeat('0123456789abcdef',
                 CASE WHEN g % 4 = 0 THEN 200000 ELSE 30000 END))), count(pg_sleep(0.02))
             FROM generate_series(1, 100) g",
        ]);
        let mut session = session.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(150 + random.below(250) as u64));
        cluster.kill_all();
        drop(session.wait());

        // What a crash leaves ends somewhere, in files that may hold older contents behind it.
        let pg_wal = cluster.pg_wal();
        let mut left = segments(&pg_wal, "", cluster.system_identifier());
        left.retain(|segment| segment.name > from);
        let (records, reports) = read(&left);
        // It may be the very end of a segment, before there is another.
        let ends = |report: &SegmentReport| matches!(report.end, End::EndsAt { .. });
        let last = reports.iter().position(ends).unwrap_or(left.len() - 1);
        for (segment, report) in left.iter().zip(&reports).take(last + 1) {
            assert_eq!(report.damage, [], "{}", segment.name);
        }
        let theirs = waldump(cluster.server(), &pg_wal, &left);
        let begins_here = |record: &&Record| record.lsn >= left[0].spec.start;
        let ours: Vec<Line> = records.iter().filter(begins_here).map(Line::of).collect();
        assert_eq!((ours.len(), ours.last()), (theirs.len(), theirs.last()));

        cluster.start();
        cluster.sql("CHECKPOINT");
        let archived = archived(&cluster, &archive);
        abandoned = read(&archived).1.iter().map(|report| report.abandoned).sum();
        if abandoned > 0 && round >= 3 {
            assert_read_as_by_waldump(cluster.server(), archive.path(), &archived);
            println!(
                "{}: {abandoned} records abandoned in round {round}",
                cluster.server().version
            );
            break;
        }
        from = archived.last().unwrap().name.clone();
    }
    assert!(abandoned > 0);
}

#[test]
fn timelines_are_followed_and_flips_in_their_numbers_are_found() {
    let archive = Scratch::new("archive");
    let cluster = cluster(&archive, 1)
        .set("restore_command", &format!("cp {}/%f %p", archive.path().display()))
        .start();
    cluster.pgbench_init(1);
    for timeline in 2..=5 {
        cluster.sql("SELECT pg_logical_emit_message(false, 'test', repeat('x', 30000))");
        cluster.stop(Stop::Fast);
        scratch::write(&cluster.data().join("recovery.signal"), "");
        cluster.start();
        cluster.wait_recovered();
        cluster
            .sql(&format!("CREATE TABLE t{timeline} AS SELECT g FROM generate_series(1, 30000) g"));
        cluster.switch_wal();
    }
    cluster.wait_all_archived();
    let all = segments(archive.path(), "", cluster.system_identifier());
    assert_eq!(all.last().unwrap().spec.timeline, 5);
    // Each timeline alone, then the way that a recovery to the newest one goes.
    let mut edges = Edges::new(64);
    for segment in &all {
        let report = check_segment(segment.spec, &segment.bytes, None);
        assert_eq!(report.damage, [], "{}", segment.name);
        let met = edges.add(&report);
        assert!(met.iter().all(|met| met.damage.is_none()), "{}: {met:?}", segment.name);
    }
    let newest: Vec<Segment> = segments(archive.path(), "00000005", cluster.system_identifier());
    assert_read_as_by_waldump(cluster.server(), archive.path(), &newest);
    let mut way = all;
    way.sort_by_key(|segment| (segment.spec.start, segment.spec.timeline));
    way.reverse();
    way.dedup_by_key(|segment| segment.spec.start);
    way.reverse();
    let (records, reports) = read(&way);
    for (segment, report) in way.iter().zip(&reports) {
        assert_eq!(report.damage, [], "{}", segment.name);
    }
    assert_flips_are_found(&mut way, &records, dose(200, 1000));
    // A bit of every page's timeline number, and all of them on the first pages.
    let timeline_of = |segment: &Segment, page: usize| {
        let header = segment.bytes.get(page..).and_then(PageHeader::parse);
        header.map_or(0, |header| header.timeline)
    };
    let mut random = Random::from_environment();
    let (mut found, mut harmless, mut ambiguous) = (0, 0, 0);
    for index in 1..way.len() - 1 {
        let before = reports[index - 1].tail.clone();
        let mut last_page = timeline_of(&way[index - 1], way[index - 1].bytes.len() - 8192);
        for page in (0..way[index].bytes.len()).step_by(8192) {
            let used = match reports[index].end {
                End::SwitchAt(lsn) => lsn.distance_from(way[index].spec.start) as usize,
                _ => usize::MAX,
            };
            if page > used {
                break;
            }
            let (this, next) =
                (timeline_of(&way[index], page), timeline_of(&way[index], page + 8192));
            let one = random.below(32);
            for bit in if page < 3 * 8192 { 0..32 } else { one..one + 1 } {
                let segment = &mut way[index];
                let at = (page + 4 + bit / 8, 1 << (bit % 8));
                if flip_is_found(segment.spec, &mut segment.bytes, at, before.as_ref(), []) {
                    found += 1;
                } else if page == 0 && this < segment.spec.timeline {
                    // The first segment of a timeline: which one it branched off, only the
                    // history file knows.
                    assert!((1..=segment.spec.timeline).contains(&(this ^ 1 << bit)));
                    ambiguous += 1;
                } else {
                    // The page that the switch falls on, given the new timeline: no reader can
                    // tell, as the numbers rise all the same.
                    let flipped = this ^ 1 << bit;
                    assert!(
                        last_page <= flipped && this < flipped && flipped <= next,
                        "bit {bit} of the timeline at {page} of {}",
                        segment.name
                    );
                    harmless += 1;
                }
            }
            last_page = this;
        }
    }
    println!("{found} flips in timelines found, {harmless} harmless, {ambiguous} ambiguous");
}

/// A segment that a standby's connection broke off in, over a recycled file's old contents.
#[test]
fn a_partial_segment_ends_where_the_server_stopped_sending() {
    let archive = Scratch::new("archive");
    let cluster = cluster(&archive, 1).start();
    let received = Scratch::new("received");
    let mut receiver = cluster.client("pg_receivewal");
    receiver.arg("-D").arg(received.path()).args(["--no-sync", "--no-loop"]);
    let mut receiver = receiver.spawn().unwrap();
    cluster.fill_whole_segments(3);
    cluster.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 3000) g");
    let end: Lsn = cluster.current_lsn().parse().unwrap();
    let size = SegmentSize::new(1 << 20).unwrap();
    let (log, seg) = end.segment_numbers(size);
    let name = format!("00000001{log:08X}{seg:08X}");
    let partial = received.join(format!("{name}.partial"));
    let spec = SegmentSpec {
        timeline: 1,
        start: end.segment_start(size),
        segment_size: size,
        system_identifier: Some(cluster.system_identifier()),
    };
    let ends_there = || {
        let bytes = std::fs::read(&partial).ok()?;
        let report = check_segment(spec, &bytes, None);
        assert_eq!(report.damage, []);
        matches!(report.end, End::EndsAt { lsn, .. } if lsn == end).then_some(())
    };
    cluster.wait_until("the partial segment", ends_there);
    drop(receiver.kill());
    drop(receiver.wait());
    // The last complete one goes on in it.
    let whole = segments(received.path(), "", cluster.system_identifier());
    assert!(!whole.is_empty());
    let (_, reports) = read(&whole);
    let bytes = scratch::read(&partial);
    let report = check_segment(spec, &bytes, reports.last().unwrap().tail.clone());
    assert_eq!(report.damage, []);
    assert!(report.head.is_none());
}

/// Keeps what the records hold that decide where a recovery goes and where it ends.
#[derive(Default)]
struct Deciding {
    version: u8,
    bytes: Vec<u8>,
    found: Vec<(Lsn, Kind)>,
}

impl Visit for &mut Deciding {
    fn begins(&mut self, _: Lsn, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend(bytes);
    }

    fn goes_on(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn record(&mut self, record: &Record) {
        let data = self.bytes.get(RecordHeader::SIZE..).unwrap_or_default();
        let data = &data[..data.len().min(WANTED)];
        let kind = Kind::read(&record.header, data, Some(self.version));
        self.found.extend(kind.map(|kind| (record.lsn, kind)));
    }
}

/// What `pg_waldump` prints of such a record: its beginning.
fn described(kind: &Kind) -> String {
    let time = |time: &Timestamp| {
        let text = time.to_string();
        let (text, fraction) =
            text.trim_end_matches("+00").split_once('.').unwrap_or((&text[..19], ""));
        format!("{text}.{fraction:0<6} UTC")
    };
    match kind {
        Kind::Checkpoint { redo, timeline, previous, shutdown } => {
            let when = if *shutdown { "SHUTDOWN" } else { "ONLINE" };
            format!("CHECKPOINT_{when} redo {redo}; tli {timeline}; prev tli {previous}; ")
        }
        Kind::EndOfRecovery { timeline, previous } => {
            format!("END_OF_RECOVERY tli {timeline}; prev tli {previous}; ")
        }
        Kind::BackupEnd { start } => format!("BACKUP_END {start}"),
        Kind::ParameterChange { minimal } => {
            format!("PARAMETER_CHANGE {}", if *minimal { "minimal" } else { "more" })
        }
        Kind::RestorePoint { name, .. } => format!("RESTORE_POINT {name}"),
        Kind::TransactionEnd { xid, time: at, commit } => {
            format!("{} {xid:?} {}", if *commit { "COMMIT" } else { "ABORT" }, time(at))
        }
    }
}

/// The same of a line of `pg_waldump`; `None` for a record of no kind that matters.
fn described_there(line: &str) -> Option<(Lsn, String)> {
    let (_, lsn) = line.split_once(", lsn: ")?;
    let (_, xid) = line.split_once(", tx: ")?;
    let xid = xid.split(',').next()?.trim();
    let (_, what) = line.split_once(", desc: ")?;
    let lsn = lsn.split(',').next()?.parse().ok()?;
    let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
    let until_zone = |text: &str| text.split_once(" UTC").map(|(time, _)| format!("{time} UTC"));
    let text = match word {
        "CHECKPOINT_SHUTDOWN" | "CHECKPOINT_ONLINE" | "END_OF_RECOVERY" => {
            let end =
                rest.match_indices("; ").nth(if word == "END_OF_RECOVERY" { 1 } else { 2 })?.0;
            format!("{word} {}; ", &rest[..end])
        }
        "BACKUP_END" => what.to_owned(),
        "RESTORE_POINT" => what.to_owned(),
        "PARAMETER_CHANGE" => {
            let minimal = rest.contains("wal_level=minimal");
            format!("{word} {}", if minimal { "minimal" } else { "more" })
        }
        "COMMIT" | "ABORT" => {
            format!("{word} {:?} {}", Some(xid.parse::<u32>().ok()?), until_zone(rest)?)
        }
        "COMMIT_PREPARED" | "ABORT_PREPARED" => {
            let (xid, time) = rest.split_once(": ")?;
            let word = word.trim_end_matches("_PREPARED");
            format!("{word} {:?} {}", Some(xid.parse::<u32>().ok()?), until_zone(time)?)
        }
        _ => return None,
    };
    Some((lsn, text))
}

#[test]
fn records_that_decide_a_recovery_are_read_as_by_pg_waldump() {
    let archive = Scratch::new("archive");
    let cluster = cluster(&archive, 1)
        .set("restore_command", &format!("cp {}/%f %p", archive.path().display()))
        .start();
    cluster.sql("CREATE TABLE gone (n int); CREATE TABLE t (n int); SELECT pg_create_restore_point('here it is')");
    // A prepared transaction with everything that can stand before its number, and one with more of it than is
    // kept.
    for (name, count, end) in
        [("small", 5, "COMMIT"), ("undone", 5, "ROLLBACK"), ("large", 300, "COMMIT")]
    {
        let parts: String = (0..count)
            .map(|n| format!("SAVEPOINT s{n}; CREATE TABLE {name}{n} (n int); RELEASE s{n};"))
            .collect();
        let drop = if name == "small" { "DROP TABLE gone;" } else { "" };
        cluster.sql(&format!(
            "BEGIN; {parts} {drop} PREPARE TRANSACTION '{name}'; {end} PREPARED '{name}'"
        ));
    }
    cluster.sql("BEGIN; INSERT INTO t VALUES (1); ROLLBACK");
    let _backup = cluster.base_backup();
    cluster.set_conf("max_connections", "30");
    cluster.restart();
    cluster.pgbench_init(1);
    cluster.pgbench(300);
    cluster.stop(Stop::Fast);
    scratch::write(&cluster.data().join("recovery.signal"), "");
    cluster.start();
    cluster.wait_recovered();
    let all = archived(&cluster, &archive);
    let server = cluster.server();
    let (mut kinds, mut prepared, mut unknown) = (std::collections::BTreeSet::new(), 0, 0);
    for timeline in [1, 2] {
        let segments: Vec<&Segment> =
            all.iter().filter(|segment| segment.spec.timeline == timeline).collect();
        let mut deciding =
            Deciding { version: u8::try_from(server.major).unwrap(), ..Deciding::default() };
        let mut carry = None;
        for segment in &segments {
            let report = read_segment(segment.spec, &segment.bytes, carry, &mut deciding);
            carry = report.tail;
        }
        let mut command = server.command("pg_waldump");
        command.env("TZ", "UTC").arg("-p").arg(archive.path()).arg(&segments[0].name);
        command.arg(&segments.last().unwrap().name);
        let output = command::run_within(&mut command, "", Duration::from_secs(300));
        let theirs: Vec<(Lsn, String)> =
            output.stdout.lines().filter_map(described_there).collect();
        prepared += output.stdout.matches("_PREPARED ").count();
        let first = segments[0].spec.start;
        let ours: Vec<(Lsn, String)> = deciding
            .found
            .iter()
            .filter(|(lsn, _)| *lsn >= first)
            .map(|(lsn, kind)| (*lsn, described(kind)))
            .collect();
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            if ours.1.contains("None") {
                unknown += 1;
                continue;
            }
            assert_eq!(ours, theirs);
            kinds.insert(ours.1.split(' ').next().unwrap().to_owned());
        }
    }
    println!("{}: {kinds:?}, {prepared} prepared, {unknown} not known", server.version);
    assert_eq!((prepared, unknown), (3, 1));
    for kind in
        ["CHECKPOINT_ONLINE", "BACKUP_END", "PARAMETER_CHANGE", "RESTORE_POINT", "COMMIT", "ABORT"]
    {
        assert!(kinds.contains(kind), "{kind}: {kinds:?}");
    }
    assert!(
        kinds.contains("END_OF_RECOVERY") || kinds.contains("CHECKPOINT_SHUTDOWN"),
        "{kinds:?}"
    );
}
