//! Restores from archives in object storage, whichever cloud's.

use std::fs;
use std::process::Command;

use super::{Bucket, Language, Place, Run, segment_name, segments, walsafe};

/// The call that a server makes, without patience with what may pass.
pub fn command(place: &Place, from: &str, file: &str) -> Command {
    let mut command = walsafe();
    command.args(["restore", "--stall-timeout=4", "--from", from, file, "pg_wal/RECOVERYXLOG"]);
    command.current_dir(place.path("data"));
    command
}

/// Makes sure that a recovery stops, that a standby does not, and that both say why.
#[track_caller]
pub fn is_trouble(place: &Place, from: &str, file: &str, texts: &[&str]) {
    let run = Run::of(&mut command(place, from, file));
    println!("{}", run.err.trim());
    texts.iter().for_each(|text| run.says(126, text));
    fs::write(place.path("data/standby.signal"), "").unwrap();
    let run = Run::of(&mut command(place, from, file));
    texts.iter().for_each(|text| run.says(1, text));
    fs::remove_file(place.path("data/standby.signal")).unwrap();
    let _ = fs::remove_file(place.path("data/pg_stat_tmp/walsafe_restore.said"));
    assert_eq!(place.pg_wal(), Vec::<String>::new());
}

/// An archive with segments 1 to 3 of timeline 1.
pub fn three_segments(language: Language) -> Place {
    let place = Place::in_bucket_of(language);
    for (number, segment) in (1..).zip(segments().iter().take(3)) {
        place.put_with_digest(&segment_name(1, number), segment);
    }
    place
}

pub fn bucket(place: &Place) -> &Bucket {
    place.bucket.as_ref().unwrap()
}
