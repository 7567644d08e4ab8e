#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;

fn encode(setting: &str, content: &[u8]) -> Vec<u8> {
    let compression = setting.parse().unwrap();
    let mut encoder = Encoder::new(compression, content.len() as u64, Vec::new()).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn decode(codec: Codec, stored: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::new(codec, stored)?;
    let mut content = Vec::new();
    decoder.read_to_end(&mut content)?;
    decoder.finish()?;
    Ok(content)
}

fn sample() -> Vec<u8> {
    (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
}

const SETTINGS: [(&str, Codec); 3] =
    [("lz4", Codec::Lz4), ("zstd:1", Codec::Zstd), ("gzip:1", Codec::Gzip)];

#[test]
fn what_is_encoded_decodes_to_the_same_bytes() {
    for (setting, codec) in SETTINGS {
        for content in [Vec::new(), vec![7], sample()] {
            assert_eq!(decode(codec, &encode(setting, &content)).unwrap(), content, "{setting}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_an_error_and_never_a_short_file() {
    for (setting, codec) in SETTINGS {
        let stored = encode(setting, &sample());
        for len in (0..stored.len()).step_by(stored.len() / 200 + 1).chain([stored.len() - 1]) {
            assert!(decode(codec, &stored[..len]).is_err(), "{setting} cut to {len} bytes");
        }
    }
}

/// Fails without `Unending`: a file cut between two blocks was taken for a whole file, and one without its
/// end mark for a file with a correct checksum.
#[test]
fn an_lz4_file_that_ends_between_two_blocks_is_an_error() {
    let content = sample();
    let stored = encode("lz4", &content);
    // The frame's header (15 bytes, content size included), then blocks: a length, then the bytes.
    let mut at = 15;
    while at < stored.len() {
        for len in at..(at + 4).min(stored.len()) {
            assert!(decode(Codec::Lz4, &stored[..len]).is_err(), "cut to {len} bytes");
        }
        let len = u32::from_le_bytes(stored[at..at + 4].try_into().unwrap()) & 0x7FFF_FFFF;
        at += 4 + len as usize + if len == 0 { 4 } else { 0 };
    }
    assert_eq!(at, stored.len(), "the test follows the blocks to the end");
    assert!(decode(Codec::Lz4, &stored[..4]).is_err());
    assert!(decode(Codec::Lz4, b"text").is_err());
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for (setting, codec) in SETTINGS {
        let mut stored = encode(setting, &sample());
        stored.push(0);
        assert!(decode(codec, &stored).is_err(), "{setting}");
        let twice = encode(setting, &sample()).repeat(2);
        assert!(decode(codec, &twice).is_err(), "{setting}");
    }
}

#[test]
fn a_flipped_bit_never_yields_other_bytes() {
    for (setting, codec) in SETTINGS {
        let content = sample();
        let stored = encode(setting, &content);
        for at in (0..stored.len()).step_by(stored.len() / 500 + 1) {
            let mut damaged = stored.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(read) = decode(codec, &damaged) {
                assert_eq!(read, content, "{setting}, byte {at}");
            }
        }
    }
}

#[test]
fn settings_that_cannot_be_right_are_refused() {
    for wrong in
        ["", "brotli", "none:1", "lz4:1", "zstd:", "zstd:0", "zstd:23", "gzip:10", "gzip:x"]
    {
        assert!(wrong.parse::<Compression>().is_err(), "{wrong}");
    }
    assert_eq!("zstd".parse(), Ok(Compression { codec: Codec::Zstd, level: 3 }));
    assert_eq!("gzip:9".parse(), Ok(Compression { codec: Codec::Gzip, level: 9 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(dose::dose(64, 256)))]

    #[test]
    fn arbitrary_bytes_never_make_a_decoder_panic(stored in proptest::collection::vec(any::<u8>(), 0..600)) {
        for codec in Codec::ENCODED {
            let _ = decode(codec, &stored);
        }
    }
}
