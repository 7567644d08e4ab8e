//! An archive that `pg_receivewal` writes: its last file is not whole.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::Write;

use common::{MB, OURS, Place, Run, Wal, segment_name, walsafe};
use walsafe_core::encoding::codec::{Codec, Encoder};

/// The third segment as far as it was received, and its stream without an end.
fn begun(segment: &[u8], codec: Codec) -> Vec<u8> {
    let compression = match codec {
        Codec::Lz4 => "lz4",
        _ => "gzip",
    };
    let mut encoder = Encoder::new(compression.parse().unwrap(), MB as u64, Vec::new()).unwrap();
    encoder.write_all(segment).unwrap();
    encoder.flush().unwrap();
    match encoder {
        Encoder::Lz4(encoder) => encoder.get_ref().clone(),
        Encoder::Gzip(encoder) => encoder.get_ref().clone(),
        _ => unreachable!("one of the two"),
    }
}

/// The place, and what has arrived of its third segment: records up to somewhere in a page.
fn place(codec: Codec) -> (Place, Vec<u8>, String) {
    let place = Place::new();
    let segments = Wal::new(OURS, 1).segments(3);
    for number in [1, 2] {
        place.put(&segment_name(1, number), &segments[number as usize - 1]);
    }
    let arrived = segments[2][..300_000].to_vec();
    let name = format!("{}.{}.partial", segment_name(1, 3), codec.extension());
    place.put(&name, &begun(&arrived, codec));
    (place, arrived, name)
}

fn verify(place: &Place) -> Run {
    Run::of(walsafe().arg("verify").arg(place.path("archive")))
}

#[test]
fn a_stream_without_an_end_is_read_up_to_where_it_ends() {
    for codec in Codec::RECEIVED {
        let (place, arrived, name) = place(codec);
        let run = verify(&place);
        assert_eq!(run.status, Some(0), "{run:?}");
        assert!(run.out.contains("in 3 of 3 segments"), "{run:?}");
        let run = Run::of(walsafe().arg("list").arg(place.path("archive")));
        assert!(run.out.contains("2 segments, 1 partial"), "{run:?}");

        // By the name that it has, and by the one that it would have without compression.
        let plain = format!("{}.partial", segment_name(1, 3));
        for asked in [&name, &plain] {
            let run = place.restore(asked);
            assert_eq!(run.status, Some(0), "{run:?}");
            let restored = fs::read(place.target()).unwrap();
            assert_eq!(restored.len(), MB);
            let same = restored.iter().zip(&arrived).take_while(|(a, b)| a == b).count();
            // The encoder keeps the last bytes back even when it is flushed.
            assert!(same > 290_000, "{asked}: {same}");
            assert!(restored[same..].iter().all(|byte| *byte == 0), "{asked}: {same}");
            fs::remove_file(place.target()).unwrap();
        }
    }
}

#[test]
fn damage_in_it_is_damage() {
    for codec in Codec::RECEIVED {
        let (place, arrived, name) = place(codec);
        let mut arrived = arrived;
        arrived[100_000] ^= 1;
        place.put(&name, &begun(&arrived, codec));
        let run = verify(&place);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.out.contains(&format!("{name}: corrupt")), "{run:?}");
        let run = place.restore(&name);
        assert_eq!(run.status, Some(126), "{run:?}");
        assert!(!place.target().exists());
    }
}

/// There is nothing to be said about a file that was begun just now, and nothing to be had from it.
#[test]
fn a_file_without_wal_is_no_finding_and_is_not_delivered() {
    let plain = format!("{}.partial", segment_name(1, 4));
    for (name, bytes) in [
        (format!("{}.gz.partial", segment_name(1, 4)), vec![]),
        (format!("{}.gz.partial", segment_name(1, 4)), begun(&[], Codec::Gzip)),
        (format!("{}.lz4.partial", segment_name(1, 4)), begun(&[], Codec::Lz4)),
        (plain.clone(), vec![0; MB / 2]),
        (plain, vec![0; MB]),
    ] {
        let place = Place::new();
        for (number, segment) in (1..).zip(Wal::new(OURS, 1).segments(3)) {
            place.put(&segment_name(1, number), &segment);
        }
        place.put(&name, &bytes);
        let run = verify(&place);
        assert_eq!(run.status, Some(0), "{name}: {run:?}");
        let run = place.restore(&name);
        assert_eq!(run.status, Some(126), "{name}: {run:?}");
    }
}
