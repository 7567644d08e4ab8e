//! One archived file, read to its end and checked in every way that it allows.
//!
//! `restore` and `verify` both read through [`examine`], so `restore` delivers what `verify` calls
//! sound.

use std::io;

use crate::encoding::codec::Codec;
use crate::encoding::digest::{Digest, Hasher};
use crate::prove::finding::{FindingKind, Problem};
use crate::store::Found;
use crate::sys::pipeline::overlap;
use crate::sys::zeroed;
use crate::wal::history::Ancestor;
use crate::wal::name::FileName;
use crate::wal::{LongPageHeader, Lsn, SegmentReport, SegmentSize, Visit};

mod contents;
mod decoding;
mod digests;
mod ending;
mod problems;
mod received;

use contents::{Contents, Stop};
use decoding::Decoding;
use digests::{Claims, Hashed};
use problems::unreadable;
use received::Received;

/// Bytes read at a time: few enough to stay in the processor's cache while they are read, hashed and
/// written.
const CHUNK: usize = 256 << 10;
/// How many chunks there are, where some are read and decoded while others are checked and handed over.
const OVERLAPPED: usize = 4;

/// What is known beforehand, and how much is to be checked.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    /// The cluster's system identifier, if it is known.
    pub system_identifier: Option<u64>,
    /// The cluster's segment size, if it is known; otherwise each segment's own header is believed.
    pub segment_size: Option<SegmentSize>,
    /// Check everything: the digest of the stored bytes even if that of the contents is enough.
    pub thorough: bool,
    /// Read from storage, past the page cache.
    pub past_cache: bool,
}

/// What reading a file has shown.
#[derive(Debug, Clone, Default)]
pub struct Examined {
    /// The first and most important thing that is wrong, if anything is.
    pub problem: Option<Problem>,
    /// Length of the WAL file itself, in bytes.
    pub len: u64,
    /// Digest of the WAL file's own bytes, if they could be read to the end.
    pub content: Option<Digest>,
    /// Digest of the bytes as they are stored, if it was asked for or is the same.
    pub stored: Option<Digest>,
    /// The file carries a digest, and its bytes were compared with it.
    pub had_digest: bool,
    /// A segment's first page header, if it is one.
    pub header: Option<LongPageHeader>,
    /// What a segment's records have shown, if they were read.
    pub records: Option<SegmentReport>,
    /// Where a segment's WAL ends although the segment goes on. This is correct for the last segment of a
    /// timeline only.
    pub ends_early: Option<Lsn>,
    /// Set if everything else is right, but the WAL is not in a format that is known here.
    pub unknown: Option<Unknown>,
    /// The ancestors that a history file names.
    pub history: Option<Vec<Ancestor>>,
}

/// WAL in a format that is not known here: a newer server's, or what another tool encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Why it is not known.
    pub reason: String,
    /// A digest agrees, and the file says that it was let in like this.
    pub vouched: bool,
}

impl Examined {
    fn fail(&mut self, problem: Problem) {
        self.problem.get_or_insert(problem);
    }
}

/// Reads an archived file to its end, checks it, and hands its contents to `each`, chunk by chunk.
///
/// Bytes handed over are good only if the value returned has no problem: most of the checks are
/// complete at the end.
///
/// # Errors
/// What `each` returned, or there is no memory; everything that is wrong with the file is in the value.
pub fn examine(
    archived: &dyn Found,
    name: &FileName,
    expected: &Expectation,
    each: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
) -> io::Result<Examined> {
    examine_with(archived, name, expected, 1, each, ())
}

/// Like [`examine`], but reads and decodes the next chunks while another thread checks those before and hands
/// them over. On return, that thread has ended.
///
/// # Errors
/// As [`examine`].
pub fn examine_overlapped(
    archived: &dyn Found,
    name: &FileName,
    expected: &Expectation,
    each: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
) -> io::Result<Examined> {
    // For a single chunk, a thread would cost more than it gains.
    let is_short = archived.codec() == Codec::None && archived.stored_len() < CHUNK as u64;
    examine_with(archived, name, expected, if is_short { 1 } else { OVERLAPPED }, each, ())
}

/// Like [`examine`], and shows every record whose checksum is right.
///
/// # Errors
/// None but what [`examine`] returns; there is nothing to hand over.
pub fn examine_records(
    archived: &dyn Found,
    name: &FileName,
    expected: &Expectation,
    visitor: impl Visit + Send,
) -> io::Result<Examined> {
    examine_with(archived, name, expected, 1, &mut |_| Ok(()), visitor)
}

fn examine_with<V: Visit + Send>(
    archived: &dyn Found,
    name: &FileName,
    expected: &Expectation,
    chunks: usize,
    each: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    visitor: V,
) -> io::Result<Examined> {
    let mut found = Examined::default();
    let claims = match Claims::read(archived) {
        Ok(claims) => claims,
        Err(problem) => {
            found.fail(problem);
            return Ok(found);
        }
    };
    let (mut raw, mut codec) = (archived.read(expected.past_cache), archived.codec());
    if name.received().is_some() {
        raw = raw.and_then(|inner| Ok(Box::new(Received::new(codec, inner)?) as _));
        codec = Codec::None;
    }
    // One digest is enough if stored bytes and contents are the same, or if the digest of the contents is
    // there.
    let encoded = codec != Codec::None;
    let hash_raw =
        encoded && (expected.thorough || (claims.stored.is_some() && claims.content.is_none()));
    let mut raw = match raw {
        Ok(inner) => Hashed { inner, hasher: hash_raw.then(Hasher::default), at_end: false },
        Err(e) => {
            found.fail(unreadable(&e));
            return Ok(found);
        }
    };
    let mut contents = Contents::new(name, expected, archived, visitor);
    let mut decoding = Decoding::new(&mut raw, codec);
    let mut memory = zeroed(CHUNK * chunks)?;
    let result = overlap(
        memory.chunks_exact_mut(CHUNK),
        |chunks| {
            chunks.iter().try_for_each(|chunk| {
                contents.take(chunk)?;
                Ok(each(chunk)?)
            })
        },
        |pipeline| decoding.run(pipeline),
    );
    let (ended, is_over) = match result {
        Ok(ended) => (ended, false),
        Err(Stop::Over) => (false, true),
        Err(Stop::Failed(e)) => return Err(e),
    };
    let content = decoding.digest();
    let (trouble, undecodable) = (decoding.trouble.take(), decoding.undecodable);
    found.header = contents.header;
    found.problem = contents.problem.take();
    if let Some(problem) = trouble.filter(|_| !is_over) {
        found.fail(problem);
        if undecodable
            && raw.at_end
            && let Some(problem) = &mut found.problem
        {
            // The decoder wanted more, so the file was cut short, whatever the decoder calls it.
            problem.kind = FindingKind::Truncated;
        }
    }
    if ended {
        contents.end();
        found.content = Some(content);
        found.stored = match raw.hasher {
            Some(hasher) => Some(hasher.digest()),
            None if encoded => None,
            None => found.content,
        };
    }
    found.len = contents.len();
    found.had_digest = claims.has_digest();
    contents.judge(&mut found, &claims, ended);
    Ok(found)
}
