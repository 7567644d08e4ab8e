//! Damage to a real archive, each way, with the files' digests and without: `walsafe verify` finds
//! it, and `walsafe restore` never delivers it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::recovery::{assert_clean, findings, path, walsafe, walsafe_in};
use harness::command::run;
use harness::{Cluster, Scratch, Stop, scratch};

/// An archive to be damaged: copies of it are made for each damage.
struct Sample {
    archive: Scratch,
    /// The name of a whole segment in the middle.
    victim: String,
    next: String,
    /// A segment of another cluster under the same name.
    foreign: Vec<u8>,
    extension: &'static str,
}

fn archive_of(compression: &str) -> Scratch {
    let archive = Scratch::new("archive");
    let cluster = Cluster::archiving_to(archive.path())
        .set("walsafe_archive.compression", compression)
        .start();
    let last = cluster.fill_whole_segments(6);
    cluster.wait_archived(&last[5]);
    cluster.stop(Stop::Fast);
    archive
}

impl Sample {
    fn new(compression: &str, extension: &'static str) -> Self {
        let archive = archive_of(compression);
        let other = archive_of(compression);
        let names: Vec<String> = archive
            .names()
            .into_iter()
            .filter_map(|name| Some(name.strip_suffix(extension)?.to_owned()))
            .filter(|name| name.len() == 24)
            .collect();
        let (victim, next) = (names[2].clone(), names[3].clone());
        let foreign = other.read(&format!("{victim}{extension}"));
        assert_clean(archive.path());
        Self { archive, victim, next, foreign, extension }
    }

    /// A copy, with the attributes or as most tools make it.
    fn copy(&self, attributes: bool) -> Scratch {
        let copy = Scratch::new("copy");
        let preserve = if attributes {
            "--preserve=mode,ownership,timestamps,xattr"
        } else {
            "--preserve=mode,ownership"
        };
        run(Command::new("cp")
            .args(["-r", preserve, "--sparse=always"])
            .arg(self.archive.join("."))
            .arg(copy.path()));
        copy
    }

    fn stored(&self, name: &str) -> String {
        format!("{name}{}", self.extension)
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("readable");
    change(&mut bytes);
    fs::write(path, bytes).expect("writable");
}

/// Asks for a file, which must not be delivered.
#[track_caller]
fn never_delivers(archive: &Path, name: &str, what: &str) {
    let data = Scratch::new("target");
    scratch::make_dir(&data.join("pg_wal"));
    let arguments = ["restore", "--from", path(archive), name, "pg_wal/RECOVERYXLOG"];
    let restored = walsafe_in(data.path(), &arguments);
    assert_eq!(restored.code, Some(126), "{what}: {restored:?}");
    assert_eq!(restored.err.lines().count(), 1, "{what}: {restored:?}");
    assert_eq!(scratch::names(&data.join("pg_wal")), Vec::<String>::new(), "{what}");
}

/// One way to damage an archive, and what `verify` calls it: first with digests, then without.
type Damage = (&'static str, fn(&Sample, &Path, usize), &'static [&'static str]);

const DAMAGES: &[Damage] = &[
    (
        "flip",
        |_, file, at| edit(file, |b| flip(b, at)),
        &["digest-mismatch", "corrupt", "truncated"],
    ),
    ("truncate", |_, file, at| edit(file, |b| b.truncate(at)), &["truncated"]),
    ("lengthen", |_, file, _| edit(file, |b| b.push(0)), &["corrupt"]),
    ("empty", |_, file, _| edit(file, Vec::clear), &["truncated"]),
    ("delete", |_, file, _| fs::remove_file(file).expect("removed"), &["gap"]),
    ("unreadable", |_, file, _| scratch::chmod(file, 0), &["unreadable"]),
    (
        "plant another cluster's",
        |sample, file, _| {
            fs::remove_file(file).expect("removed");
            scratch::write(file, &sample.foreign);
        },
        &["wrong-cluster"],
    ),
    (
        "overwrite with another cluster's",
        |sample, file, _| fs::write(file, &sample.foreign).expect("written"),
        &["digest-mismatch", "wrong-cluster"],
    ),
    (
        "rename another segment",
        |sample, file, _| {
            let next = file.with_file_name(sample.stored(&sample.next));
            fs::rename(next, file).expect("renamed");
        },
        &["wrong-name"],
    ),
    (
        "swap",
        |sample, file, _| {
            let next = file.with_file_name(sample.stored(&sample.next));
            let between = file.with_file_name("0");
            fs::rename(&next, &between).expect("renamed");
            fs::rename(file, &next).expect("renamed");
            fs::rename(&between, file).expect("renamed");
        },
        &["wrong-name"],
    ),
];

fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 0x20;
}

fn every_damage(compression: &str, extension: &'static str) {
    let mut rng = harness::rng();
    let sample = Sample::new(compression, extension);
    for (what, damage, kinds) in DAMAGES {
        for attributes in [true, false] {
            let copy = sample.copy(attributes);
            let file = copy.join(sample.stored(&sample.victim));
            // Within the message that fills the segment, and not in the padding of a page header.
            let len = usize::try_from(fs::metadata(&file).expect("there").len()).expect("small");
            let mut at = rng.usize(len / 10..len * 8 / 10);
            if at % 8192 < 64 {
                at += 64;
            }
            damage(&sample, &file, at);
            let what = format!("{what} at {at}, {compression}, attributes: {attributes}");
            let found = findings(copy.path());
            let of_victim = sample.victim.clone();
            let hit = found.iter().any(|finding| {
                finding.starts_with(&of_victim)
                    && kinds.iter().any(|kind| finding.contains(&format!(": {kind}: ")))
            });
            assert!(hit, "{what}: {found:#?}");
            never_delivers(copy.path(), &sample.victim, &what);
        }
    }
}

#[test]
fn each_damage_to_a_plain_archive_is_found_and_never_delivered() {
    every_damage("none", "");
}

#[test]
fn each_damage_to_a_zstd_archive_is_found_and_never_delivered() {
    every_damage("zstd", ".zst");
}

#[test]
fn each_damage_to_an_lz4_archive_is_found_and_never_delivered() {
    every_damage("lz4", ".lz4");
}

#[test]
fn each_damage_to_a_gzip_archive_is_found_and_never_delivered() {
    every_damage("gzip", ".gz");
}

#[test]
fn a_copy_without_attributes_is_whole_and_the_report_says_how_it_was_checked() {
    let sample = Sample::new("none", "");
    let copy = sample.copy(false);
    let verified = walsafe(&["verify", path(copy.path())]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.out.contains(": 0 by digest, "), "{verified:?}");
    let verified = walsafe(&["verify", path(sample.archive.path())]);
    assert!(verified.out.contains(", 0 without one"), "{verified:?}");
}

#[test]
fn random_flips_are_found_wherever_the_digest_or_a_record_covers_them() {
    let mut rng = harness::rng();
    let sample = Sample::new("none", "");
    let copy = sample.copy(true);
    let file = copy.join(&sample.victim);
    let good = fs::read(&file).expect("readable");
    for _ in 0..harness::dose(6, 20) {
        // With a digest every byte of the file is covered.
        let at = rng.usize(..good.len());
        let mut bad = good.clone();
        bad[at] ^= 1 << rng.usize(..8);
        fs::write(&file, &bad).expect("writable");
        assert_eq!(findings(copy.path()).len(), 1, "flipped at {at}");
        never_delivers(copy.path(), &sample.victim, &format!("flipped at {at}"));
    }
}
