use super::*;

/// A long page header laid out by hand from the C struct, little-endian, for the segment
/// 000000010000000000000003.
#[cfg(target_endian = "little")]
const LAID_OUT: [u8; 40] = [
    0x10, 0xD1, 0x07, 0x00, 0x01, 0x00, 0x00, 0x00, // magic, info, timeline
    0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, // address
    0x2A, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // remaining, padding
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, // system identifier
    0x00, 0x00, 0x00, 0x01, 0x00, 0x20, 0x00, 0x00, // segment and block size
];

fn encode(header: &LongPageHeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(header.page.magic.to_ne_bytes());
    bytes.extend(header.page.info.0.to_ne_bytes());
    bytes.extend(header.page.timeline.to_ne_bytes());
    bytes.extend(header.page.address.0.to_ne_bytes());
    bytes.extend(header.page.remaining.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(header.system_identifier.to_ne_bytes());
    bytes.extend(header.segment_size.to_ne_bytes());
    bytes.extend(header.block_size.to_ne_bytes());
    bytes
}

fn good() -> LongPageHeader {
    LongPageHeader {
        page: PageHeader {
            magic: 0xD110,
            info: PageFlags(PageFlags::LONG_HEADER),
            timeline: 2,
            address: Lsn(0x0300_0000),
            remaining: 0,
        },
        system_identifier: 7_000_000_000_000_000_001,
        segment_size: 16 << 20,
        block_size: 8192,
    }
}

fn expected() -> Expected {
    Expected {
        system_identifier: Some(7_000_000_000_000_000_001),
        segment_size: SegmentSize::DEFAULT,
        timeline: 2,
        start: Lsn(0x0300_0000),
    }
}

#[test]
#[cfg(target_endian = "little")]
fn a_header_reads_as_the_struct_it_was_written_from() {
    let header = LongPageHeader::parse(&LAID_OUT).unwrap();
    assert_eq!(header.page.version(), WalVersion::Known(15));
    assert!(header.page.info.is_contrecord() && header.page.info.is_bkp_removable());
    assert!(!header.page.info.is_overwrite_contrecord());
    assert_eq!(header.page.timeline, 1);
    assert_eq!(header.page.address, Lsn(0x0300_0000));
    assert_eq!(header.page.remaining, 42);
    assert_eq!(header.system_identifier, 0x0102_0304_0506_0708);
    assert_eq!(header.segment_size, 16 << 20);
    assert_eq!(header.block_size, 8192);
    assert_eq!(encode(&header), LAID_OUT);
}

#[test]
fn the_magic_numbers_of_15_to_18_are_known_and_others_are_kept() {
    let known = [(0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];
    for magic in 0..=u16::MAX {
        let version = known.iter().find(|(known, _)| *known == magic).map(|(_, v)| *v);
        assert_eq!(
            WalVersion::from_magic(magic),
            version.map_or(WalVersion::Unknown(magic), WalVersion::Known)
        );
    }
}

#[test]
fn a_newer_version_is_read_with_its_own_flags() {
    let mut header = good();
    header.page.magic = 0xD121;
    header.page.info.0 |= 0x0010;
    let read = LongPageHeader::parse(&encode(&header)).unwrap();
    assert_eq!(read.page.version(), WalVersion::Unknown(0xD121));
    assert_eq!(read.check(&expected()), Ok(()));
}

#[test]
fn what_is_not_wal_is_refused() {
    assert_eq!(LongPageHeader::parse(&[0xD1; 39]), Err(HeaderError::TooShort { found: 39 }));
    assert_eq!(LongPageHeader::parse(&[0; 40]), Err(HeaderError::Magic { found: 0 }));
    let mut header = good();
    header.page.magic = 0xD110_u16.swap_bytes();
    let found = header.page.magic;
    assert_eq!(LongPageHeader::parse(&encode(&header)), Err(HeaderError::ByteOrder { found }));
    let mut header = good();
    header.page.info.0 = 0;
    assert_eq!(LongPageHeader::parse(&encode(&header)), Err(HeaderError::Info { found: 0 }));
    header.page.info.0 = 0x12;
    assert_eq!(LongPageHeader::parse(&encode(&header)), Err(HeaderError::Info { found: 0x12 }));
}

#[test]
fn each_field_that_does_not_belong_is_named() {
    let mut cases: Vec<(LongPageHeader, &str)> = Vec::new();
    let mut case = |change: fn(&mut LongPageHeader), message| {
        let mut header = good();
        change(&mut header);
        cases.push((header, message));
    };
    case(
        |h| h.system_identifier += 1,
        "system identifier is 7000000000000000002 (xlp_sysid), expected 7000000000000000001",
    );
    case(|h| h.segment_size = 1 << 20, "segment size is 1048576 (xlp_seg_size), expected 16777216");
    case(
        |h| h.block_size = 512,
        "WAL block size is 512 (xlp_xlog_blcksz), expected a power of two from 1024 to 65536",
    );
    case(
        |h| h.page.address = Lsn(0x1_0300_0000),
        "page address is 1/3000000 (xlp_pageaddr), expected 0/3000000",
    );
    case(|h| h.page.timeline = 3, "timeline is 3 (xlp_tli), expected at most 2");
    case(|h| h.page.timeline = 0, "timeline is 0 (xlp_tli), expected at most 2");
    for (header, message) in cases {
        let read = LongPageHeader::parse(&encode(&header)).unwrap();
        assert_eq!(read.check(&expected()).unwrap_err().to_string(), message);
    }
    assert_eq!(good().check(&expected()), Ok(()));
}

#[test]
fn an_older_timeline_and_an_unknown_cluster_are_accepted() {
    let mut header = good();
    header.page.timeline = 1;
    header.system_identifier = 0;
    let any = Expected { system_identifier: None, ..expected() };
    assert_eq!(header.check(&any), Ok(()));
}
