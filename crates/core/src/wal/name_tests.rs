#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn kind(name: &str) -> FileKind {
    FileName::new(name).unwrap().kind()
}

const THREE: SegmentName = SegmentName { timeline: 1, log: 0, segment: 3 };

#[test]
fn the_servers_own_names_are_recognised() {
    assert_eq!(kind("000000010000000000000003"), FileKind::Segment(THREE));
    assert_eq!(kind("000000010000000000000003.partial"), FileKind::Partial(THREE));
    assert_eq!(kind("0000000A.history"), FileKind::History { timeline: 10 });
    assert_eq!(kind("000000010000000000000003.00000028.backup"), FileKind::BackupHistory(THREE));
}

#[test]
fn near_misses_are_other_files_and_not_segments() {
    for name in [
        "00000001000000000000000a",
        "00000001000000000000000",
        "0000000100000000000000033",
        "0000000A.History",
        "000000010000000000000003.0000002.backup",
        "000000010000000000000003.backup",
        "000000010000000000000003.x.partial",
        "backup.label",
        "a",
    ] {
        assert_eq!(kind(name), FileKind::Other, "{name}");
    }
}

#[test]
fn names_that_could_leave_the_directory_or_hide_are_refused() {
    assert_eq!(FileName::new(""), Err(NameError::Empty));
    assert_eq!(FileName::new("."), Err(NameError::LeadingDot));
    assert_eq!(FileName::new(".walsafe.x.tmp"), Err(NameError::LeadingDot));
    assert_eq!(FileName::new("a/b"), Err(NameError::Character(b'/')));
    assert_eq!(FileName::new("a\0"), Err(NameError::Character(0)));
    assert_eq!(FileName::new("walsafe_archive.id"), Err(NameError::Character(b'_')));
    assert_eq!(FileName::new(&"a".repeat(65)), Err(NameError::TooLong(65)));
    assert!(FileName::new(&"a".repeat(64)).is_ok());
}

#[test]
fn a_name_that_looks_encoded_is_refused_and_read_back_from_an_archive() {
    assert_eq!(FileName::new("000000010000000000000003.zst"), Err(NameError::Encoded("zst")));
    let (name, codec) = FileName::from_stored("000000010000000000000003.zst").unwrap();
    assert_eq!((name.as_str(), codec), ("000000010000000000000003", Codec::Zstd));
    assert!(FileName::from_stored(".zst").is_err());
    assert!(FileName::from_stored("a.gz.zst").is_err());
}

/// They were files that nobody knows: `verify` found `unknown`, and `init` did not see whose they are.
#[test]
fn what_pg_receivewal_writes_is_a_partial_segment_in_an_encoding() {
    for (stored, codec) in [
        ("000000010000000000000003.gz.partial", Codec::Gzip),
        ("000000010000000000000003.lz4.partial", Codec::Lz4),
    ] {
        let (name, found) = FileName::from_stored(stored).unwrap();
        assert_eq!((name.kind(), found), (FileKind::Partial(THREE), codec));
        assert_eq!(name, FileName::receiving(THREE, codec));
        assert_eq!(name.stored(codec), stored);
        assert_eq!(name.received(), Some((THREE, codec)));
        assert!(FileName::from_stored(&format!("{stored}.zst")).is_err());
    }
    // A server's own, compressed by an archiver.
    let (name, codec) = FileName::from_stored("000000010000000000000003.partial.gz").unwrap();
    assert_eq!((name.received(), codec), (None, Codec::Gzip));
    for other in ["000000010000000000000003.zst.partial", "x.gz.partial"] {
        assert_eq!(kind(other), FileKind::Other, "{other}");
    }
}

#[test]
fn a_tail_is_named_after_its_segment_and_its_contents_and_is_no_segment() {
    let tail = FileName::tail(THREE, Digest::of(b"x"));
    let digest = Digest::of(b"x").to_string();
    assert_eq!(tail.as_str(), format!("000000010000000000000003.tail.{}", &digest[..16]));
    assert_eq!(tail.kind(), FileKind::Tail(THREE));
    assert_eq!((tail.segment(), tail.wal_of(), tail.timeline()), (None, Some(THREE), Some(1)));
    assert!(FileName::new(tail.as_str()).is_ok());
    for codec in Codec::ALL {
        let stored = tail.stored(codec);
        assert!(stored.len() <= MAX_NAME_LEN, "{stored}");
        assert_eq!(FileName::from_stored(&stored).unwrap(), (tail.clone(), codec));
    }
    for other in [
        "000000010000000000000003.tail.0123456789ABCDEF",
        "000000010000000000000003.tail.0123456789abcde",
        "000000010000000000000003.tail.0123456789abcdefa",
        "000000010000000000000003.tale.0123456789abcdef",
        "00000001000000000000003.tail.0123456789abcdef",
        "000000010000000000000003.0123456789abcdef",
    ] {
        assert_eq!(kind(other), FileKind::Other, "{other}");
    }
}

#[test]
fn a_segments_address_follows_from_its_name_and_the_segment_size() {
    let size = SegmentSize::DEFAULT;
    assert_eq!(THREE.start(size), Some(Lsn(0x300_0000)));
    let high = SegmentName { timeline: 1, log: 2, segment: 255 };
    assert_eq!(high.start(size), Some(Lsn(0x2_FF00_0000)));
    assert_eq!(SegmentName { segment: 256, ..high }.start(size), None);
    assert_eq!(SegmentName::holding(1, Lsn(0x2_FF00_0028), size), high);
}

/// With 1 GB there are 4 of them before the high half counts on, with 64 MB there are 64. If names were taken
/// to count to FF, as with 16 MB, the segments up to there would seem to be missing.
#[test]
fn the_name_after_the_last_one_before_4_gb_follows_from_the_segment_size() {
    for (megabytes, last) in [(1, 0xFFF), (16, 0xFF), (64, 0x3F), (1024, 3)] {
        let size = SegmentSize::new(megabytes << 20).unwrap();
        let before = SegmentName { timeline: 1, log: 0, segment: last };
        let behind = SegmentName { timeline: 1, log: 1, segment: 0 };
        let start = before.start(size).unwrap();
        assert_eq!(start.advanced(u64::from(size.bytes())), Lsn(1 << 32), "{megabytes} MB");
        assert_eq!(behind.start(size), Some(Lsn(1 << 32)), "{megabytes} MB");
        assert_eq!(SegmentName::holding(1, Lsn(u64::from(u32::MAX)), size), before);
        assert_eq!(SegmentName::holding(1, Lsn(1 << 32), size), behind);
        let no_such_segment = SegmentName { segment: last + 1, ..before };
        assert_eq!(no_such_segment.start(size), None, "{megabytes} MB");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(dose::dose(64, 256)))]

    #[test]
    fn arbitrary_text_never_panics_and_an_accepted_name_is_a_plain_component(text in any::<String>()) {
        if let Ok(name) = FileName::new(&text) {
            prop_assert!(!name.as_str().contains('/') && !name.as_str().starts_with('.'));
            prop_assert!((1..=MAX_NAME_LEN).contains(&name.as_str().len()));
            let _ = name.kind();
        }
        let _ = FileName::from_stored(&text);
    }

    #[test]
    fn plausible_names_keep_their_text_and_only_the_servers_form_is_a_segment(text in "[0-9A-Fa-f]{22,26}(\\.[a-z]{0,8})?") {
        if let Ok(FileKind::Segment(segment)) = FileName::new(&text).map(|name| name.kind()) {
            prop_assert_eq!(segment.to_string(), text);
        }
    }

    #[test]
    fn every_segment_name_reads_back(timeline: u32, log: u32, segment: u32) {
        let name = SegmentName { timeline, log, segment };
        prop_assert_eq!(kind(&name.to_string()), FileKind::Segment(name));
    }

    #[test]
    fn stored_names_read_back_in_every_encoding(text in "[0-9A-Za-z]{1,24}") {
        let name = FileName::new(&text).unwrap();
        for codec in Codec::ALL {
            prop_assert_eq!(FileName::from_stored(&name.stored(codec)).unwrap(), (name.clone(), codec));
        }
    }
}
