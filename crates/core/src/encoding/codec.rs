//! Encodings of archived files: standard formats that the stock tools read.
//!
//! Sources: RFC 8878 (zstd), the LZ4 frame format 1.6, RFC 1952 (gzip). Every encoded file carries
//! its content size and a checksum of its content, so that damage shows without a digest.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::str::FromStr;

use thiserror::Error;
use zstd::zstd_safe::{CParameter, Strategy};

/// How an archived file is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// The WAL file's bytes as they are.
    None,
    /// LZ4 frame, extension `.lz4`.
    Lz4,
    /// Zstandard frame, extension `.zst`.
    Zstd,
    /// gzip member, extension `.gz`.
    Gzip,
}

impl Codec {
    /// Every encoding, the plain one first.
    pub const ALL: [Self; 4] = [Self::None, Self::Lz4, Self::Zstd, Self::Gzip];
    /// The encodings that add an extension to the file's name.
    pub const ENCODED: [Self; 3] = [Self::Lz4, Self::Zstd, Self::Gzip];

    /// The encodings that `pg_receivewal` has.
    pub const RECEIVED: [Self; 2] = [Self::Lz4, Self::Gzip];

    /// Returns the extension without its dot; empty for [`Codec::None`].
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Lz4 => "lz4",
            Self::Zstd => "zst",
            Self::Gzip => "gz",
        }
    }
}

/// The setting `compression`: an encoding and, where it has one, a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// The encoding.
    pub codec: Codec,
    /// Level of zstd (1 to 22, default 3) or gzip (1 to 9, default 6); 0 for the others.
    pub level: u8,
}

impl Compression {
    /// Files are stored as they are.
    pub const NONE: Self = Self { codec: Codec::None, level: 0 };
}

/// Level of zstd where none is given.
const ZSTD_DEFAULT: u8 = 3;

/// How the default level is tuned for WAL: files as small as with zstd's own level 3, in half the CPU time
/// (docs/performance.md has the figures). WAL repeats itself in short pieces, a few pages apart at most, so
/// a small table of five-byte matches finds what the second, longer search would find.
const ZSTD_FOR_WAL: [CParameter; 4] = [
    CParameter::WindowLog(21),
    CParameter::Strategy(Strategy::ZSTD_fast),
    CParameter::HashLog(15),
    CParameter::MinMatch(5),
];

/// Why a `compression` setting is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompressionError {
    /// There is no such encoding.
    #[error(
        "\"{0}\" is not a known compression; known are \"none\", \"lz4\", \"zstd\" and \"gzip\""
    )]
    UnknownCodec(String),
    /// The encoding has no levels.
    #[error("\"{0}\" takes no level")]
    NoLevel(&'static str),
    /// The level is not a number in the encoding's range.
    #[error("level \"{level}\" of \"{codec}\" is not a whole number from 1 to {max}")]
    Level {
        /// The encoding.
        codec: &'static str,
        /// What was given.
        level: String,
        /// The highest level.
        max: u8,
    },
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let leveled = |codec, name, default, max: u8| match level {
            None => Ok(Self { codec, level: default }),
            Some(given) => match given.parse::<u8>() {
                Ok(level) if (1..=max).contains(&level) => Ok(Self { codec, level }),
                _ => Err(CompressionError::Level { codec: name, level: given.to_owned(), max }),
            },
        };
        let plain = |codec, name| match level {
            None => Ok(Self { codec, level: 0 }),
            Some(_) => Err(CompressionError::NoLevel(name)),
        };
        match name {
            "none" => plain(Codec::None, "none"),
            "lz4" => plain(Codec::Lz4, "lz4"),
            "zstd" => leveled(Codec::Zstd, "zstd", ZSTD_DEFAULT, 22),
            "gzip" => leveled(Codec::Gzip, "gzip", 6, 9),
            _ => Err(CompressionError::UnknownCodec(name.to_owned())),
        }
    }
}

/// Encodes a stream of known length.
pub enum Encoder<W: Write> {
    /// No encoding.
    Plain(W),
    /// LZ4.
    Lz4(Box<lz4_flex::frame::FrameEncoder<W>>),
    /// Zstandard.
    Zstd(zstd::stream::write::Encoder<'static, W>),
    /// gzip.
    Gzip(flate2::write::GzEncoder<W>),
}

impl<W: Write> Encoder<W> {
    /// Starts an encoded stream of `content_size` bytes on `out`.
    ///
    /// # Errors
    /// The encoder could not be set up (out of memory).
    pub fn new(compression: Compression, content_size: u64, out: W) -> io::Result<Self> {
        Ok(match compression.codec {
            Codec::None => Self::Plain(out),
            Codec::Lz4 => {
                let mut info = lz4_flex::frame::FrameInfo::new();
                info.content_size = Some(content_size);
                info.content_checksum = true;
                info.block_size = lz4_flex::frame::BlockSize::Max1MB;
                Self::Lz4(Box::new(lz4_flex::frame::FrameEncoder::with_frame_info(info, out)))
            }
            Codec::Zstd => {
                let mut encoder =
                    zstd::stream::write::Encoder::new(out, i32::from(compression.level))?;
                encoder.include_checksum(true)?;
                encoder.include_contentsize(true)?;
                encoder.set_pledged_src_size(Some(content_size))?;
                if compression.level == ZSTD_DEFAULT {
                    for parameter in ZSTD_FOR_WAL {
                        encoder.set_parameter(parameter)?;
                    }
                }
                Self::Zstd(encoder)
            }
            Codec::Gzip => {
                let level = flate2::Compression::new(u32::from(compression.level));
                Self::Gzip(flate2::write::GzEncoder::new(out, level))
            }
        })
    }

    /// Writes the end of the stream (its content checksum) and returns the output.
    ///
    /// # Errors
    /// The output could not be written, or the stream does not have the length that was announced.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(buf),
            Self::Lz4(encoder) => encoder.write(buf),
            Self::Zstd(encoder) => encoder.write(buf),
            Self::Gzip(encoder) => encoder.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Lz4(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }
}

/// Decodes one file. A stream that is cut short, that fails its checksum or that has bytes after its
/// end is an error, never a short file.
pub enum Decoder<R: Read> {
    /// No encoding.
    Plain(R),
    /// An encoding, of a file without a single byte.
    Empty,
    /// LZ4.
    Lz4(Box<Lz4Frame<BufReader<R>>>),
    /// Zstandard.
    Zstd(zstd::stream::read::Decoder<'static, BufReader<R>>),
    /// gzip.
    Gzip(Box<flate2::bufread::GzDecoder<BufReader<R>>>),
}

/// Decodes one LZ4 frame, and no further one.
pub struct Lz4Frame<R: Read> {
    decoder: lz4_flex::frame::FrameDecoder<Unending<R>>,
    ended: bool,
}

impl<R: Read> Lz4Frame<R> {
    fn new(input: R) -> Self {
        Self { decoder: lz4_flex::frame::FrameDecoder::new(Unending(input)), ended: false }
    }
}

impl<R: Read> Read for Lz4Frame<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ended || buf.is_empty() {
            return Ok(0);
        }
        let n = self.decoder.read(buf)?;
        self.ended = n == 0;
        Ok(n)
    }
}

/// A reader for which the end of the file is an error. The frame decoder accepts as whole a file that ends
/// between two blocks, or within its first bytes; it reads nothing after a frame's end mark.
struct Unending<R>(R);

impl<R: Read> Read for Unending<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf)? {
            0 if !buf.is_empty() => {
                let text = "the file ends within the compressed data";
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            n => Ok(n),
        }
    }
}

/// Size of the reads from an encoded file.
const READ_BUFFER: usize = 256 * 1024;

impl<R: Read> Decoder<R> {
    /// Starts to decode `input`.
    ///
    /// # Errors
    /// The input could not be read, or the decoder could not be set up (out of memory).
    pub fn new(codec: Codec, input: R) -> io::Result<Self> {
        if codec == Codec::None {
            return Ok(Self::Plain(input));
        }
        let mut input = BufReader::with_capacity(READ_BUFFER, input);
        if input.fill_buf()?.is_empty() {
            return Ok(Self::Empty);
        }
        Ok(match codec {
            Codec::None => Self::Empty, // returned above
            Codec::Lz4 => Self::Lz4(Box::new(Lz4Frame::new(input))),
            Codec::Zstd => {
                Self::Zstd(zstd::stream::read::Decoder::with_buffer(input)?.single_frame())
            }
            Codec::Gzip => Self::Gzip(Box::new(flate2::bufread::GzDecoder::new(input))),
        })
    }

    /// Checks, after the last byte was read, that the file ends where its encoded stream does.
    ///
    /// # Errors
    /// Bytes follow the end of the encoded stream, or the file could not be read.
    pub fn finish(self) -> io::Result<()> {
        let mut rest = match self {
            Self::Plain(_) | Self::Empty => return Ok(()),
            Self::Lz4(decoder) => decoder.decoder.into_inner().0,
            Self::Zstd(decoder) => decoder.finish(),
            Self::Gzip(decoder) => decoder.into_inner(),
        };
        if rest.fill_buf()?.is_empty() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "bytes follow the end of the compressed data",
        ))
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buf),
            Self::Empty => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
            Self::Lz4(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
        }
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
